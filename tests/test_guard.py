"""Trainings with a planted fault: the guard says what it was, and where the last good state is, to the bit."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import nn
from minigan.data import batches
from minigan.gan import (
    EMA,
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    LinearDecay,
    NotFiniteError,
    Objective,
    clip_gradients,
    gradient_penalty,
    restore,
    train,
    training_state,
    two_player,
)
from minigan.gan.guard import Blame, blame, not_finite
from minigan.optim import SGD, Adam, RMSprop
from minigan.random import Generator

STEPS = 5
BROKEN = 255
"""A pixel that occurs in one image only."""


class Training:
    """A tiny training of `variant`, with hooks that remember things: 5 images a batch of 20 of 4x4 pixels."""

    def __init__(
        self,
        variant: str,
        plant: Callable[["Training"], None] = lambda training: None,
        seed: int = 0,
        lr: float = 1e-3,
        optimizer: Any = None,
        objective: Objective | None = None,
        device: str = "cpu",
    ) -> None:
        mg.manual_seed(seed)
        G = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 16), nn.Tanh(), nn.Unflatten(4, 4, 1)
        ).to(device)
        D = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)).to(device)
        self.generators = {name: Generator(seed, name) for name in ("latent", "penalty")}
        made = partial(optimizer or (RMSprop if variant == "wgan-clip" else Adam), lr=lr)
        self.players = two_player(
            *(G, D, objective or (NON_SATURATING if variant == "gan" else WASSERSTEIN)),
            *(made(G.parameters()), made(D.parameters())),
            penalty=partial(gradient_penalty, generator=self.generators["penalty"]) if variant == "wgan-gp" else None,
            clip=0.05 if variant == "wgan-clip" else None,
            d_updates=lambda step: 1 if variant == "gan" else 2,
        )
        self.d, self.g = self.players
        self.g.after = [LinearDecay(self.g.optimizer, 2 * STEPS), EMA(G)]
        self.d.before = [lambda: clip_gradients(self.d.optimizer.params, 1e6)]
        data = np.random.default_rng(0).integers(0, BROKEN, (20, 4, 4), np.uint8)
        data[7] = BROKEN
        self.real = batches(data, 5, Generator(seed, "data"))
        self.game = Game(self.real, self.generators["latent"], 3, 5, device)
        self.nets: dict[str, Any] = {"G": G, "D": D}
        plant(self)

    def state(self) -> Any:
        return training_state(self.nets, self.players, self.generators, self.real, {})

    def restore(self, state: Any) -> None:
        restore(*state, self.nets, self.players, self.generators, self.real)

    def train(self, good: int = 0) -> tuple[int, dict[int, Any]]:
        """Until something is seen: (that step, the states after the steps before it that are finite)."""
        states = {good: self.state()}

        def keep(step: int, logs: Any) -> None:
            states[step] = self.state()
            if fault := not_finite(states[step][0]):
                del states[step]
                raise NotFiniteError(f"step {step}: {fault}")

        with np.errstate(all="ignore"), pytest.raises(NotFiniteError, match="^step ") as error:
            train(self.game, self.players, 100, [keep], first=good + 1)
        return int(str(error.value).split()[1].rstrip(":")), states

    def blame(self, good: int, seen: int) -> Blame:
        return blame(self.game, self.players, self.nets, self.state, good, seen)


def assert_same_bits(found: Any, expected: Any) -> None:
    """Of two training states."""
    assert found[0].keys() == expected[0].keys()
    for name, array in expected[0].items():
        assert (found[0][name].dtype, found[0][name].shape) == (array.dtype, array.shape), name
        assert found[0][name].tobytes() == array.tobytes(), name
    assert found[1] == expected[1]


def found(make: Callable[..., Training]) -> Blame:
    """What is blamed, by a replay of the whole training, and of the last step only."""
    seen, states = make(seed=0).train()
    first = make(seed=0).blame(0, seen)
    good = max(states)
    assert (first.good, first.step) == (good, good + 1)
    assert_same_bits(first.state, states[good])
    again = make(seed=99)
    again.restore(first.state)
    second = again.blame(good, seen)
    assert second[::3] == first[::3], "the same step and text"
    assert_same_bits(second.state, first.state)
    third = make(seed=99)
    third.restore(first.state)
    assert third.train(good)[0] == seen, "what is resumed meets the same trouble"
    return first


# ---- planted faults -------------------------------------------------------------------------------------------------


def extra(player: str, term: Callable[[Training], Any], training: Training) -> None:
    """From the player's third update on, its loss has one term more."""
    chosen = getattr(training, player)
    loss = chosen.loss

    def due() -> bool:
        return chosen.optimizer.steps >= 2

    def spoilt(game: Game) -> Any:
        value, logs = loss(game)
        return (value + term(training) if mg.branch(due) else value), logs

    chosen.loss = spoilt


def log_of_zero(training: Training) -> None:
    extra("g", lambda t: -mg.log(0 * t.nets["G"][0].weight).mean(), training)  # log's line


def root_of_zero(training: Training) -> None:
    extra("d", lambda t: mg.sqrt((0 * t.nets["D"][1].weight) ** 2).sum(), training)  # sqrt's line


def huge_gradient(training: Training) -> None:
    extra("g", lambda t: 1e25 * t.nets["G"][0].weight.sum(), training)


def infinite_buffer(training: Training) -> None:
    def term(t: Training) -> float:
        with t.nets["G"][1].running_var.writing() as array:
            array[0] = np.inf
        return 0.0

    extra("d", term, training)


def broken_image(training: Training) -> None:
    """The batch that has it, of whichever step, becomes NaN."""
    one = np.float32(1)
    training.game.real = (np.where((x == one).any(), np.float32(np.nan), x) for x in training.real)


def hook_that_spoils(when: str, training: Training) -> None:
    def spoil() -> None:
        weight = training.nets["G"][3].weight
        if when == "before":
            weight.grad[1] = np.inf
        else:
            with weight.writing() as array:
                array[2] = np.nan

    def hook() -> None:
        if training.g.optimizer.steps == (2 if when == "before" else 3):
            spoil()

    setattr(training.g, when, [*getattr(training.g, when), hook])


class Forgetful:
    """A hook of which only what it remembers becomes infinite."""

    def __init__(self, training: Training) -> None:
        self.training, self.sum = training, np.zeros(1, np.float32)
        training.g.after = [*training.g.after, self]

    def __call__(self) -> None:
        self.sum = self.sum + np.float32(3e38 if self.training.g.optimizer.steps > 1 else 0)

    def state_dict(self) -> dict[str, Any]:
        return {"total": {"sum": self.sum.copy()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum = state["total"]["sum"]


VARIANTS = ["gan", "wgan-clip", "wgan-gp"]
FAULTS: dict[str, tuple[Callable[[Training], object], str]] = {
    "log of 0": (
        log_of_zero,
        r"step 3, player g: log's forward pass produced an infinity \(shape \(3, 8\)\) at .*test_guard\.py:\d+: "
        r"extra\(.*# log's line, and so the loss is inf; train again with a lower lr=, now 0\.0008, or with clip_norm=",
    ),
    "sqrt at 0": (
        root_of_zero,
        r"step \d, player d: sqrt's backward pass produced (NaN|an infinity) \(shape \(16, 8\)\) at .*: "
        r"extra\(.*# sqrt's line, and so nets\.D\.1\.weight holds NaN; train again with a lower lr=, now 0\.001, "
        r"or with clip_norm=",
    ),
    "gradient whose square overflows": (
        huge_gradient,
        r"step 3, player g: optimizers\.g\.0\.(v|square) holds an infinity after the update by (Adam|RMSprop) at "
        r"lr=0\.0008; train again with a lower lr=, now 0\.0008, or with clip_norm=",
    ),
    "buffer": (
        infinite_buffer,
        r"step \d, player d: nets\.G\.1\.running_var holds an infinity after the forward pass; "
        r"train again with a lower lr=, now 0\.001, or with clip_norm=",
    ),
    "image": (
        broken_image,
        r"step \d, player d: the batch of real images holds NaN, and so the loss is nan; look for it in the data",
    ),
    "hook on gradients": (
        partial(hook_that_spoils, "before"),
        r"step 3, player g: the gradient of nets\.G\.3\.weight holds an infinity after the hook "
        r"hook_that_spoils\.<locals>\.hook, and so nets\.G\.3\.weight holds NaN; look for it in that hook",
    ),
    "hook on weights": (
        partial(hook_that_spoils, "after"),
        r"step 3, player g: nets\.G\.3\.weight holds NaN after the hook hook_that_spoils\.<locals>\.hook; "
        r"look for it in that hook",
    ),
    "hook's own array": (
        Forgetful,
        r"step 3, player g: hooks\.g\.after\.2\.total\.sum holds an infinity; "
        r"train again with a lower lr=, now 0\.0008, or with clip_norm=",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_planted_fault_is_named(variant: str, fault: str) -> None:
    plant, text = FAULTS[fault]
    assert re.fullmatch(text, found(partial(Training, variant, plant)).text)


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        (
            "gan",
            r"step 1, player g: matmul's forward pass produced (NaN|an infinity) \(shape \(5, 1\)\) at "
            r"minigan/gan/train\.py:\d+: fake = D\(fakes\), and so the loss is nan",
        ),
        (
            "wgan-clip",  # where D's weights are clipped, and G's last layer is a tanh
            r"step 2, player d: matmul's forward pass produced (NaN|an infinity) \(shape \(5, 16\)\) at "
            r"minigan/gan/train\.py:\d+: fakes = G\(game\.z\(\)\), and so nets\.G\.1\.running_var holds an infinity",
        ),
        (
            "wgan-gp",
            r"step 1, player d: matmul's forward pass produced (NaN|an infinity) \(shape \(10, 1\)\) at "
            r"minigan/gan/train\.py:\d+: both = D\(.*\), and so the loss is nan",
        ),
    ],
)
def test_a_learning_rate_beyond_all_numbers(variant: str, text: str) -> None:
    blamed = found(partial(Training, variant, lr=1e30))
    assert re.fullmatch(rf"{text}; train again with a lower lr=, now 1e\+30, or with clip_norm=", blamed.text)


def test_an_update_that_overflows_by_itself() -> None:
    def plant(training: Training) -> None:
        training.d.optimizer.lr = 1e39

    assert found(partial(Training, "wgan-gp", plant)).text == (
        "step 1, player d: nets.D.1.weight holds an infinity after the update by Adam at lr=1e+39; "
        "train again with a lower lr=, now 1e+39, or with clip_norm="
    )


def test_a_critic_that_nothing_holds_explodes() -> None:
    def unclipped(training: Training) -> None:
        training.d.before = []

    blamed = found(partial(Training, "critic", unclipped, lr=300.0, optimizer=SGD))
    assert blamed.good > 1
    assert re.fullmatch(
        r"step \d+, player [dg]: \w+'s (forward|backward) pass produced (NaN|an infinity) \(shape .*\) at "
        r"minigan/gan/\w+\.py:\d+: .*, and so .*; train again with a lower lr=, now [0-9.]+, or with clip_norm=",
        blamed.text,
    )


def test_infinities_that_do_no_harm_are_not_blamed() -> None:
    """Masked ones that every update has, before the one that matters, and infinite weights that are clipped."""

    def plant(training: Training) -> None:
        loss = training.d.loss

        def masked(game: Game) -> Any:
            value, logs = loss(game)
            nothing = mg.where(np.zeros(2, bool), mg.log(mg.zeros(2)), 0.0).sum()
            return value + nothing, logs

        training.d.loss = masked
        root_of_zero(training)

        def overflow() -> None:
            with training.nets["D"][1].weight.writing() as array:
                array[0, 0] = np.inf

        training.d.after = [overflow, *training.d.after]  # clipped next

    seen, _ = Training("wgan-clip", plant).train()
    text = Training("wgan-clip", plant).blame(0, seen).text
    assert text.startswith("step 2, player d: sqrt's backward pass produced ")


def test_a_loss_may_be_infinite_by_itself() -> None:
    """What earlier updates did not mind has nothing to do with it."""

    def d(real: Any, fake: Any) -> Any:
        mg.log(mg.zeros(2))
        return real.mean()

    objective = Objective("constant", d, lambda fake: fake.mean())

    def plant(training: Training) -> None:
        training.g.loss = lambda game: (mg.Tensor(np.array(np.inf), requires_grad=True), {})

    assert found(partial(Training, "gan", plant, objective=objective)).text == (
        "step 1, player g: the loss is inf; train again with a lower lr=, now 0.001, or with clip_norm="
    )


# ---- nothing found, nothing to go back to, interrupted --------------------------------------------------------------


def test_a_trouble_that_does_not_come_again() -> None:
    straight, training = Training("wgan-gp"), Training("wgan-gp")
    train(straight.game, straight.players, STEPS)
    found = training.blame(0, STEPS)
    assert found[:2] == (None, STEPS)
    assert_same_bits(found.state, straight.state())
    assert found.text == (
        "steps 1 to 5 gave finite numbers when they were run again, so cpu does not compute the same twice, or the "
        "trouble lies outside of them; resume the run"
    )


def test_a_state_that_is_not_finite_is_no_good_state() -> None:
    training = Training("gan")
    with training.nets["D"][3].bias.writing() as array:
        array[...] = np.nan
    text = (
        "nets.D.3.bias holds NaN before step 3, so there is no good state to go back to; begin anew, from finite "
        "weights"
    )
    with pytest.raises(NotFiniteError, match=f"^{re.escape(text)}$"):
        training.blame(2, 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_other_errors_pass_through(error: type[BaseException]) -> None:
    def stop() -> None:
        raise error

    training = Training("gan")
    training.g.after = [stop]
    players, real = [*training.players], training.game.real
    with pytest.raises(error):
        training.blame(0, 1)
    assert training.game.real is real
    assert training.players == players
    assert training.g.after == [stop]
    with pytest.warns(RuntimeWarning, match="invalid value encountered in log"):  # the search is over
        mg.log(mg.Tensor([-1.0]))


# ---- the search -----------------------------------------------------------------------------------------------------


def test_the_first_array_that_is_not_finite() -> None:
    good = {"a": np.ones((2, 3), np.float32), "b": np.array(1e300), "n": np.array([1, 2]), "none": np.empty((0, 2))}
    assert not_finite({}) is None
    assert not_finite(good) is None
    big = np.full(1000, np.finfo(np.float32).max)
    assert not_finite({"a sum of which overflows": big}) is None
    assert not_finite(good | {"x": np.array([1, -np.inf], np.float32), "y": np.array(np.nan)}) == "x holds an infinity"
    assert not_finite(good | {"y": np.array([np.inf, np.nan, 0])}) == "y holds NaN"


def test_anomaly_mode_leaves_infinities_alone() -> None:
    with mg.detect_anomaly(), np.errstate(all="ignore"):
        assert mg.log(mg.Tensor([0.0])).item() == -np.inf


def test_the_lines_of_the_losses_are_named() -> None:
    """Not the line that calls `train`, which says nothing."""
    D = nn.Linear(2, 1)

    def real() -> Iterator[Any]:
        while True:
            yield np.full((3, 2), -1e30, np.float32)

    G = nn.Linear(1, 2)
    players = two_player(G, D, NON_SATURATING, SGD(G.parameters(), 0.1), SGD(D.parameters(), 0.1))
    with D.weight.writing() as array:
        array[...] = [[1e30], [-1e30]]
    with (
        mg.detect_anomaly(),
        np.errstate(all="ignore"),
        pytest.raises(
            FloatingPointError, match=r"^matmul: .* called at minigan/gan/train\.py:\d+: (both|return) .*D\("
        ),
    ):
        train(Game(real(), Generator(0, "latent"), 1, 3), players, 1)


@needs_device
def test_a_fault_on_a_device() -> None:
    blamed = found(partial(Training, "wgan-clip", root_of_zero, device=DEVICE))
    assert blamed.text.startswith("step 2, player d: sqrt's backward pass produced ")
    assert {type(array) for array in blamed.state[0].values()} == {np.ndarray}
