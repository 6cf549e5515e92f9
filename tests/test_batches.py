"""Batches: every image once an epoch, in an order of the seed alone; the thread that resizes them ahead; streams that
are taken up again.

Resizing, against SciPy, PyTorch and itself.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from minigan.data import batches, resize
from minigan.data.prefetch import prefetch
from minigan.random import Generator

Array = Any
batches_module = importlib.import_module("minigan.data.batches")  # minigan.data.batches is the function


def pictures(n: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def numbered(n: int) -> Array:
    """Images that can be recognised: image i is i everywhere."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, 2, 3)).copy()


def numbers(batch: Array) -> list[int]:
    return [round((float(image[0, 0, 0]) + 1) * 127.5) for image in batch]


def test_an_epoch_shows_every_image_once() -> None:
    stream = batches(numbered(12), 4, Generator(0, "data"))
    epochs = [[n for batch in islice(stream, 3) for n in numbers(batch)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    order = Generator(0, "data").permutation(12)
    assert epochs[0] == order.tolist()


def test_the_last_partial_batch_is_left_out() -> None:
    generator = Generator(0, "data")
    stream = batches(numbered(11), 4, generator)
    for _ in range(3):
        epoch = [n for batch in islice(stream, 2) for n in numbers(batch)]
        assert len(epoch) == len(set(epoch)) == 8
    next(stream)
    assert generator.counter == 4 * 6  # one permutation of 11 an epoch: 22 words


@pytest.mark.parametrize(("shape", "channels"), [((5, 4), 1), ((5, 4, 1), 1), ((5, 4, 3), 3)])
def test_batches_are_nhwc_float32_within_one(shape: Any, channels: int) -> None:
    images = pictures(6, *shape)
    images[0], images[1] = 0, 255
    batch = next(batches(images, 6, Generator(0, "data")))
    assert batch.shape == (6, 5, 4, channels)
    assert batch.dtype == np.float32
    assert (batch.min(), batch.max()) == (-1, 1)
    order = Generator(0, "data").permutation(6)
    np.testing.assert_allclose((batch + 1) * 127.5, images[order].reshape(batch.shape), atol=1e-4)


def test_batches_leave_the_images_alone() -> None:
    images = pictures(4, 5, 5)
    before = images.copy()
    for batch in islice(batches(images, 2, Generator(0, "data"), 8), 4):
        batch[...] = 9
    np.testing.assert_array_equal(images, before)


def test_the_same_seed_gives_the_same_batches() -> None:
    images = pictures(12, 6, 6)
    first, again, other = (list(islice(batches(images, 4, Generator(seed, "data"), 4), 6)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("size", [16, 27, 32, 64])
def test_batches_are_resized_both_ways(size: int) -> None:
    images = pictures(4, 28, 28)
    images[0], images[1] = 0, 255
    batch = next(batches(images, 4, Generator(0, "data"), size))
    assert batch.shape == (4, size, size, 1)
    assert batch.dtype == np.float32
    assert abs(batch).max() <= 1 + 1e-6
    order = Generator(0, "data").permutation(4)
    expected = resize(images[order].astype(np.float64), size) / 127.5 - 1
    np.testing.assert_allclose(batch, expected, atol=1e-5)


def test_images_of_the_size_pass_as_they_are() -> None:
    images = pictures(4, 28, 28, 3)
    as_they_are, same_size = (next(batches(images, 4, Generator(0, "data"), size)) for size in (None, 28))
    np.testing.assert_array_equal(as_they_are, same_size)


@pytest.mark.parametrize("shape", [(28, 20), (20, 28, 3)])
def test_batches_refuse_to_distort(shape: tuple[int, ...]) -> None:
    sentence = (
        f"^batches: images of {shape[0]} x {shape[1]} pixels cannot become 28 x 28 undistorted; crop them to squares$"
    )
    with pytest.raises(ValueError, match=sentence):
        batches(pictures(2, *shape), 2, Generator(0, "data"), 28)


@pytest.mark.parametrize("size", [0, -1])
def test_batches_refuse_an_image_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"^batches: the image size must be 1 or more pixels, not {size}$"):
        batches(pictures(2, 4, 4), 2, Generator(0, "data"), size)


@pytest.mark.parametrize("size", [0, -1, 5])
def test_batches_refuse_a_batch_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"^batches: batch size {size} must be in 1 .. 4, the number of images$"):
        batches(pictures(4, 5, 5), size, Generator(0, "data"))


def test_batches_refuse_other_numbers_than_bytes() -> None:
    """Images in [0, 1] would come out as almost -1, and the run would learn black."""
    with pytest.raises(TypeError, match="float64"):
        batches(np.zeros((4, 5, 5)), 2, Generator(0, "data"))


# ---- in the background ----------------------------------------------------------------------------------------------


def test_resized_batches_are_those_of_the_seed() -> None:
    images, generator, order = pictures(11, 6, 6), Generator(0, "data"), Generator(0, "data")
    stream = batches(images, 4, generator, 9)
    for _ in range(3):
        assert generator.counter == order.counter  # an epoch is drawn when its first batch is asked for
        epoch = order.permutation(11)
        for i in (0, 4):
            expected = resize(images[epoch[i : i + 4]], 9) / np.float32(127.5) - np.float32(1)
            np.testing.assert_array_equal(next(stream), expected)
            assert generator.counter == order.counter


def in_background() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_only_the_function_runs_in_the_thread() -> None:
    """Which is NumPy alone. Kernels, as the one that draws an epoch, run in the consumer's."""
    items = (threading.current_thread() for _ in range(4))
    for here, there in prefetch(lambda item: (item, threading.current_thread()), items):
        assert here is threading.current_thread() is not there


def test_the_next_result_is_computed_meanwhile() -> None:
    started = [threading.Event() for _ in range(4)]
    stream = prefetch(lambda i: started[i].set() or i, range(4))  # type: ignore[func-returns-value]
    for i in stream:
        assert i == 3 or started[i + 1].wait(10)
        assert not any(event.is_set() for event in started[i + 2 :])
    assert list(prefetch(abs, [])) == []


def test_exceptions_are_raised_where_the_result_is_due() -> None:
    stream = prefetch(lambda x: 1 // x, [1, 1, 0, 1])
    assert [next(stream), next(stream)] == [1, 1]
    with pytest.raises(ZeroDivisionError, match="^integer division or modulo by zero$"):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("end", ["exhausted", "closed", "dropped", "failed"])
def test_the_thread_ends_with_the_iterator(end: str) -> None:
    of_others = in_background()
    stream: Any = prefetch(lambda x: 1 // x, [1, 1, 0 if end == "failed" else 1])
    next(stream)
    (thread,) = [thread for thread in in_background() if thread not in of_others]
    if end == "closed":
        stream.close()
    elif end == "dropped":
        del stream
    else:
        with suppress(ZeroDivisionError):
            list(stream)
    thread.join(10)
    assert not thread.is_alive()


ENDS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent's setting
from minigan.data.prefetch import prefetch
stream = prefetch(abs, range(-9, 0))
print(next(stream), flush=True)
if sys.argv[1] == "interrupt":
    os.kill(os.getpid(), signal.SIGINT)
if sys.argv[1] == "fork":
    if os.fork() == 0:
        next(stream)
    print(os.wait()[1] >> 8, next(stream))
"""


@pytest.mark.parametrize(
    ("end", "code", "output", "error"),
    [
        ("exit", 0, "9\n", None),
        ("interrupt", -signal.SIGINT, "9\n", "KeyboardInterrupt"),
        (
            *("fork", 0, "9\n1 8\n"),
            "RuntimeError: prefetch: this iterator was begun before a fork; make a new one in this process",
        ),
    ],
)
def test_a_process_ends_with_its_iterator_unfinished(end: str, code: int, output: str, error: str | None) -> None:
    if os.name == "nt" and end != "exit":
        pytest.skip("Windows has neither signals nor forks")
    command = [sys.executable, "-W", "ignore", "-c", ENDS, end]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, output), done.stderr
    assert done.stderr.splitlines()[-1:] == ([error] if error else [])
    assert done.stderr.count("Traceback") == bool(error)


# ---- taken up again --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    batch_size=st.integers(1, 9),
    size=st.sampled_from([4, 5]),
    taken=st.integers(0, 12),
    more=st.integers(1, 12),
    other_taken=st.integers(0, 4),
)
def test_after_loading_come_the_batches_that_were_due(
    n: int, batch_size: int, size: int, taken: int, more: int, other_taken: int
) -> None:
    """Resized or not, within an epoch or between two; whatever the one that loads has delivered before."""
    images, batch_size = pictures(n, 4, 4), min(n, batch_size)
    generator, other = Generator(0, "data"), Generator(1, "data")
    stream, again = batches(images, batch_size, generator, size), batches(images, batch_size, other, size)
    for each, count in ((stream, taken), (again, other_taken)):
        assert len(list(islice(each, count))) == count
    state = json.loads(json.dumps(stream.state_dict()))
    again.load_state_dict(state)
    assert again.state_dict() == stream.state_dict() == state
    assert other.state_dict() == generator.state_dict()
    for _ in range(more):
        np.testing.assert_array_equal(next(again), next(stream))
        assert again.state_dict() == stream.state_dict()
        assert other.state_dict() == generator.state_dict()


def test_the_state_says_where_it_is() -> None:
    generator = Generator(0, "data")
    stream = batches(numbered(11), 4, generator)
    found = []
    for _ in range(5):
        state = stream.state_dict()
        found.append((state["epoch_counter"], state["position"], state["generator"]["counter"]))
        next(stream)
    assert found == [(0, 0, 0), (0, 1, 6), (6, 0, 6), (6, 1, 12), (12, 0, 12)]
    assert (state["images"], state["batch_size"]) == (11, 4)


def test_what_a_thread_prepares_ahead_is_not_taken() -> None:
    stream = batches(pictures(12, 4, 4), 2, Generator(0, "data"), 5)
    next(stream)
    assert stream.state_dict()["position"] == 1


def test_a_generator_that_draws_for_others_too_is_where_it_was() -> None:
    generator, other = Generator(0, "data"), Generator(0, "data")
    images = numbered(12)
    stream, again = batches(images, 4, generator), batches(images, 4, other)
    next(stream)
    generator.uniform(5)
    again.load_state_dict(stream.state_dict())
    assert other.counter == generator.counter
    assert [numbers(next(again)) for _ in range(6)] == [numbers(next(stream)) for _ in range(6)]


@pytest.mark.parametrize("size", [4, 5])
def test_an_interrupted_batch_is_still_due(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(12, 4, 4)
    expected = list(islice(batches(images, 4, Generator(0, "data"), size), 6))
    generator = Generator(0, "data")
    stream = batches(images, 4, generator, size)
    found, prepared, interrupts = [next(stream)], batches_module._prepared, iter([True])

    def interrupted(*args: Any) -> Array:
        if next(interrupts, False):
            raise KeyboardInterrupt
        return prepared(*args)

    monkeypatch.setattr(batches_module, "_prepared", interrupted)
    while len(found) < 6:
        state = stream.state_dict()
        with suppress(KeyboardInterrupt):
            found.append(next(stream))
            continue
        assert stream.state_dict() == state
    assert next(interrupts, None) is None
    np.testing.assert_array_equal(found, expected)


def test_a_dropped_stream_ends_its_thread() -> None:
    of_others = in_background()
    stream = batches(pictures(12, 4, 4), 4, Generator(0, "data"), 5)
    next(stream)
    (thread,) = [thread for thread in in_background() if thread not in of_others]
    stream.load_state_dict(stream.state_dict())
    thread.join(10)
    assert not thread.is_alive()
    next(stream)
    (thread,) = [thread for thread in in_background() if thread not in of_others]
    del stream
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"images": 60},
            "batches: the state is of 60 images in batches of 4, not of 12 in batches of 4; "
            "take the same data and batch size",
        ),
        (
            {"batch_size": 3},
            "batches: the state is of 12 images in batches of 3, not of 12 in batches of 4; "
            "take the same data and batch size",
        ),
        (
            {"position": 3},
            "batches: the state is at batch 3 of an epoch from counter 0, "
            "but an epoch is batches 0 .. 2 from a counter of 0 or more",
        ),
        (
            {"position": -1, "epoch_counter": -6},
            "batches: the state is at batch -1 of an epoch from counter -6, "
            "but an epoch is batches 0 .. 2 from a counter of 0 or more",
        ),
        (
            {"generator": {"name": "latent", "key": 1, "counter": 0}},
            "Generator: the state of stream 'latent' does not fit stream 'data'",
        ),
    ],
)
def test_the_state_of_other_data_is_refused(change: dict[str, Any], sentence: str) -> None:
    stream = batches(numbered(12), 4, Generator(0, "data"))
    next(stream)
    state = stream.state_dict()
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        stream.load_state_dict({**state, **change})
    assert stream.state_dict() == state


# ---- resize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(28, 32), (28, 64), (3, 7), (1, 4), (2, 4)])
def test_growing_is_bilinear_interpolation(n: int, size: int) -> None:
    images = np.random.default_rng(0).random((2, n, n, 3))
    expected = ndimage.zoom(images, (1, size / n, size / n, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(resize(images, size), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("n", "size"), [(64, 28), (32, 28), (28, 27), (28, 7), (100, 33), (7, 5), (5, 1), (28, 64)])
def test_resize_against_torch(n: int, size: int) -> None:
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).random((2, n, n, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(resize(images, size), expected.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-12)


def test_a_ramp_stays_a_ramp() -> None:
    ramp = np.broadcast_to(np.arange(28.0)[:, None, None], (1, 28, 28, 1))
    column = resize(ramp, 64)[0, :, 5, 0]
    np.testing.assert_allclose(column, np.clip((np.arange(64) + 0.5) * 28 / 64 - 0.5, 0, 27), rtol=1e-12)


def test_shrinking_to_half_weighs_one_three_three_one() -> None:
    row = np.zeros((1, 8, 8))
    row[0, :, 2] = 8
    np.testing.assert_allclose(resize(row, 4)[0, 1, :, 0], [8 / 7, 3, 0, 0], rtol=1e-12)


@pytest.mark.parametrize("size", [14, 7, 4])
def test_fine_stripes_become_grey(size: int) -> None:
    """Without antialiasing they would stay stripes, or vanish."""
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 28, 14))
    inner = resize(stripes, size)[0, :, 1:-1, 0]
    np.testing.assert_allclose(inner, 127.5, atol=0.1 * 255 * size / 28)


def test_there_and_back_keeps_the_mean() -> None:
    y, x = np.mgrid[:28, :28] / 27
    image = (np.sin(3 * x) * np.cos(2 * y))[None]
    back = resize(resize(image, 64), 28)
    assert back.mean() == pytest.approx(image.mean(), abs=1e-3)
    np.testing.assert_allclose(back[..., 0], image, atol=0.03)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 50),
    channels=st.sampled_from([None, 1, 3]),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64]),
)
def test_resize_of_any_shape(height: int, width: int, size: int, channels: int | None, dtype: Any) -> None:
    images = pictures(2, height, width, *([] if channels is None else [channels])).astype(dtype)
    resized = resize(images, size)
    assert resized.shape == (2, size, size, channels or 1)
    assert resized.dtype == (np.float32 if dtype == np.uint8 else dtype)
    assert images.min() - 1e-3 <= resized.min() <= resized.max() <= images.max() + 1e-3
    np.testing.assert_allclose(resize(np.full_like(images, 200), size), 200, rtol=1e-6)
    mirrored = resize(images[:, ::-1, ::-1], size)
    np.testing.assert_allclose(mirrored[:, ::-1, ::-1], resized, atol=1e-3)


def test_resize_of_many_is_that_of_each() -> None:
    """It takes a few at a time."""
    images = pictures(21, 28, 30, 3)
    each = [resize(image[None], 64)[0] for image in images]
    np.testing.assert_array_equal(resize(images, 64), each)
    assert resize(images[:0], 64).shape == (0, 64, 64, 3)


@pytest.mark.parametrize(("shape", "size"), [((5, 5), 4), ((2, 0, 3), 4), ((2, 5, 5), 0), ((1, 2, 5, 5, 3), 4)])
def test_resize_refuses(shape: tuple[int, ...], size: int) -> None:
    with pytest.raises(ValueError, match=r"^resize: takes images \(N, H, W, C\) to a size of 1 or more, not \("):
        resize(np.zeros(shape), size)


@pytest.mark.parametrize("size", [4, 5])
def test_an_interrupted_first_batch_draws_no_other_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(12, 4, 4)
    expected, *_ = islice(
        batches(images, 4, Generator(0, "data"), size), 3
    )  # a whole epoch: its thread has no more to do
    prepared, interrupts = batches_module._prepared, iter([True])

    def interrupted(*args: Any) -> Array:
        if next(interrupts, False):
            raise KeyboardInterrupt
        return prepared(*args)

    monkeypatch.setattr(batches_module, "_prepared", interrupted)
    generator = Generator(0, "data")
    stream = batches(images, 4, generator, size)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert generator.counter == 0
    np.testing.assert_array_equal(next(stream), expected)


@pytest.mark.parametrize("size", [4, 5])
def test_a_batch_says_which_images_it_is_made_of(size: int) -> None:
    images = pictures(11, 4, 4)
    stream = batches(images, 4, Generator(0, "data"), size)
    for _ in range(5):
        batch, picked = next(stream), stream.picked
        again = next(batches(images[picked], 4, Ordered(0, "data"), size))
        np.testing.assert_array_equal(batch, again)
    state = stream.state_dict()
    expected = [next(stream) is not None and stream.picked for _ in range(3)]
    resumed = batches(images, 4, Generator(0, "data"), size)
    resumed.load_state_dict(state)
    for picked in expected:
        next(resumed)
        np.testing.assert_array_equal(resumed.picked, picked)


class Ordered(Generator):
    """Leaves everything as it is."""

    def permutation(self, n: int) -> Array:
        return np.arange(n)
