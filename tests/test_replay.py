"""The pool of old fakes: what goes in, what comes out, that nothing is lost, and that it goes on exactly."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import kernels, nn
from minigan.gan import NON_SATURATING, Game, train, two_player
from minigan.gan.replay import Replay
from minigan.optim import SGD
from minigan.random import Generator

Array = Any


def batches(N: int, shape: tuple[int, ...] = ()) -> Any:
    """Batches (N, *shape) of which no two images are equal: each is full of its own number, from 1."""
    number = 1
    while True:
        rows = np.arange(number, number + N, dtype=np.float32).reshape(N, *[1] * len(shape))
        yield np.broadcast_to(rows, (N, *shape)).copy()
        number += N


def replay(size: int, shape: tuple[int, ...] = (), seed: int = 0) -> Replay:
    return Replay(size, shape, Generator(seed, "replay"))


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 7), st.sampled_from([(), (1,), (2, 2, 3)]))
def test_half_of_each_batch_changes_places_with_the_pool(size: int, N: int, shape: tuple[int, ...]) -> None:
    pool, fakes, seen = replay(size, shape), batches(N, shape), set()
    for step in range(8):
        new = next(fakes)
        given_, before = new.copy(), pool.images.numpy().copy()
        shown, after = pool(new), pool.images.numpy()
        full = step * N >= size
        assert shown.shape == new.shape
        assert shown.dtype == new.dtype
        np.testing.assert_array_equal(new, given_)  # what was passed in stays as it was
        kept = (shown.reshape(N, -1) == new.reshape(N, -1)).all(1)
        assert (~kept).sum() == (min(N // 2, size) if full else 0)
        if full:  # nothing is lost or doubled
            inside = np.concatenate([before.reshape(size, -1), new.reshape(N, -1)])
            outside = np.concatenate([after.reshape(size, -1), shown.reshape(N, -1)])
            np.testing.assert_array_equal(np.unique(outside, axis=0), np.unique(inside, axis=0))
            numbers = set(shown.reshape(N, -1)[~kept, 0])
            assert not numbers & seen, "an image left the pool twice"
            seen |= numbers
        else:
            filled = min((step + 1) * N, size)
            np.testing.assert_array_equal(after.reshape(size, -1)[:filled, 0], np.arange(1, filled + 1))
            assert not after[filled:].any()
        assert pool.seen.item() == (step + 1) * N


def test_every_place_takes_part() -> None:
    pool, fakes = replay(6), batches(4)
    ages, rows = [], np.zeros(4)
    for step in range(300):
        shown = pool(next(fakes))
        if step >= 2:
            age = step - (shown - 1) // 4
            rows += age > 0
            ages += age[age > 0].tolist()
    assert rows.min() > 0.4 * 298  # half of them, in any place of the batch
    assert np.mean(ages) == pytest.approx(3, rel=0.1)  # 2 of 6 leave a step: an image waits 3 steps
    assert max(ages) > 8


def test_the_same_generator_replays_the_same() -> None:
    def run(seed: int) -> Array:
        pool, fakes = replay(10, (2,), seed), batches(6, (2,))
        return np.stack([pool(next(fakes)) for _ in range(6)])

    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()


@pytest.mark.parametrize("steps", [1, 5])
def test_it_goes_on_to_the_bit(steps: int) -> None:
    """After 1 step the pool is not full yet."""
    pool, fakes = replay(10, (2,)), batches(6, (2,))
    for _ in range(steps):
        pool(next(fakes))
    state = {key: value.copy() for key, value in pool.state_dict().items()}
    assert {key: (value.dtype, value.shape) for key, value in state.items()} == {
        "images": (np.float32, (10, 2)),
        "seen": (np.int64, ()),
    }
    other = replay(10, (2,), seed=7)
    other.load_state_dict(state)
    other.generator = Generator(0, "replay")
    other.generator.load_state_dict(pool.generator.state_dict())
    for _ in range(4):
        new = next(fakes)
        np.testing.assert_array_equal(pool(new), other(new))
    assert all((value == other.state_dict()[key]).all() for key, value in pool.state_dict().items())


@needs_device
def test_the_pool_lives_beside_the_fakes() -> None:
    pool, twin, fakes = replay(5, (2,)), replay(5, (2,)), batches(4, (2,))
    for _ in range(4):
        new = next(fakes)
        found = twin(kernels.move(new, DEVICE))
        assert kernels.name_of(found) == DEVICE
        np.testing.assert_array_equal(kernels.to_host(found), pool(new))
    assert twin.images.device == DEVICE
    np.testing.assert_array_equal(twin.state_dict()["images"], pool.state_dict()["images"])
    assert twin.state_dict()["seen"] == 16


def test_d_is_shown_old_fakes_and_g_new_ones() -> None:
    class Seen(nn.Linear):
        def forward(self, x: Any, slope: float = 1.0, weight: Any = None) -> mg.Tensor:
            looked_at.append(x.numpy().copy())
            return super().forward(x, slope, weight)

    looked_at: list[Array] = []
    G, D, pool = nn.Linear(2, 3), Seen(3, 1), replay(4, (3,))
    game = Game(batches(4, (3,)), Generator(0, "latent"), 2, 4)
    players = two_player(G, D, NON_SATURATING, SGD(G.parameters(), 0.1), SGD(D.parameters(), 0.1), replay=pool)
    train(game, players, 3, capture=False)
    fakes_for_d, fakes_for_g = looked_at[1::3], looked_at[2::3]
    assert pool.seen.item() == 12
    first = {tuple(row) for row in fakes_for_d[0]}
    assert len([row for row in fakes_for_d[1] if tuple(row) in first]) == 2
    assert not [row for fakes in fakes_for_g for row in fakes if tuple(row) in first]


def test_refusals() -> None:
    pool = replay(4, (2, 2, 1))
    for fakes in (np.ones((3, 2, 2, 3), np.float32), np.ones((0, 2, 2, 1), np.float32), np.ones((3, 2, 2, 1))):
        text = f"Replay: fakes must be float32 (N, 2, 2, 1), but are {fakes.dtype} {fakes.shape}"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            pool(fakes)
    assert pool.seen.item() == 0
    for size, shape in ((0, (2,)), (3, (2, 0))):
        text = f"Replay: needs size >= 1 and images that are not empty, but they are {size} and {shape}"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            replay(size, shape)
