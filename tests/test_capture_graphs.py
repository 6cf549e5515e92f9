"""On a GPU a player's update is one CUDA graph: what a graph would refuse or freeze, on the emulated device.

A graph repeats launches. So while one of its calls runs here, nothing may pass between host and device, and a number
of the host is what it was when the graph was made.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, needs_device, only_emulated
from test_capture_training import DATA, Rows, assert_same_state, count_losses

import minigan as mg
from minigan import kernels, nn
from minigan.gan import (
    EMA,
    NON_SATURATING,
    Game,
    GradientNorm,
    LinearDecay,
    NotFiniteError,
    Player,
    train,
    two_player,
)
from minigan.gan.hooks import ClipGradients, ClipWeights
from minigan.gan.recipes import RECIPES
from minigan.gan.recipes.began import Balance
from minigan.gan.run import Training
from minigan.gan.train import Logs, Turns
from minigan.kernels import cuda
from minigan.kernels.device import Device
from minigan.kernels.emulator import arrays as emulated
from minigan.optim import SGD, Adam, Optimizer, RMSprop
from minigan.random import Generator
from minigan.tensor import Array

pytestmark = [needs_device, only_emulated]

STEPS = 6  # one plain, one recorded, one rehearsed, three replayed
TINY = ("width=2", "batch_size=2", "latent=3", f"steps={STEPS}", f"device={DEVICE}")


class Graphs:
    """What `Device.graph` was given: the names of each group's calls. `open`: whether one of them is running. `sent`:
    the bytes of each copy of what was given ahead."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.open = False
        self.sent: list[int] = []

    def graph(self, device: Device, runs: list[partial[Any]]) -> Callable[[], None]:
        """Of the host's numbers, those of today."""
        frozen = [
            partial(
                run.func, *[np.array(a) if isinstance(a, np.ndarray) else a for a in run.args], **run.keywords
            )
            for run in runs
        ]
        self.groups.append([getattr(run.func, "name", "?") for run in runs])

        def launch() -> None:
            self.open = True
            try:
                for run in frozen:
                    run()
            finally:
                self.open = False

        return launch

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Refused inside of a graph, unless all that it is given lies on the device."""

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            assert not self.open, f"a graph cannot wait for {function.__name__}"
            return function(*args, **options)

        return call


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    found = Graphs()
    monkeypatch.setattr(Device, "graph", lambda device, runs: found.graph(device, runs))
    for name in ("get", "item", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(emulated.ndarray, name, found.guarded(getattr(emulated.ndarray, name)))
    sent = emulated.array

    def array(values: Any, *args: Any, **options: Any) -> Any:
        assert not (found.open and not isinstance(values, emulated.ndarray)), "a graph cannot be sent numbers"
        return sent(values, *args, **options)

    monkeypatch.setattr(emulated, "array", array)
    send = Device.send

    def noted(device: Device, host: Array, block: Any) -> None:
        assert not found.open, "a graph cannot be sent numbers"
        found.sent.append(host.nbytes)
        send(device, host, block)

    monkeypatch.setattr(Device, "send", noted)
    return found


def training(*words: str) -> Training:
    name, *more = words
    return Training(RECIPES[name], RECIPES[name].parse([*TINY, *more], "test"), DATA)


WORDS = {
    **{name: (name,) for name in RECIPES},
    "gan, all hooks": ("gan", "clip_norm=0.5", "ema=0.9", "lr_schedule=linear"),
    "wgan-clip": ("wgan-clip", "n_critic=1", "ema=0.9"),
    "wgan-gp": ("wgan-gp", "n_critic=1", "clip_norm=0.01"),
    "acgan, all labels": ("acgan", "learn_from_fakes=true"),
    "matching, two nets": ("matching", "split=true"),
    "a pool that fills up": ("improved", "replay=5"),
}


@pytest.mark.parametrize("name", WORDS)
def test_an_update_is_one_graph(name: str, graphs: Graphs) -> None:
    """Between its kernels the host does nothing, and before them it sends one copy. Logs, weights, optimizers, hooks,
    generators are those of Python."""
    plain, captured = training(*WORDS[name]), training(*WORDS[name])
    expected: Rows = []
    found: Rows = []
    train(plain.game, plain.parts.players, STEPS, [lambda _, logs: expected.append(logs)], capture=False)
    in_python = count_losses(captured.parts.players)
    turns = Turns(captured.game, captured.parts.players)
    found = [turns.step(step) for step in range(1, STEPS + 1)]
    players = captured.parts.players
    assert found == expected
    assert_same_state(captured.state(), plain.state())
    assert len(in_python) == len(players) * 3
    assert len(graphs.groups) == len(players)
    for step, group in zip(turns.captured, graphs.groups, strict=True):
        (plan,) = step.plans
        kinds = [call.kind for call in plan.replayed if call.kind != "ahead"]
        assert kinds == ["kernel"] * len(group) + ["live"]
    graphs.sent.clear()
    turns.step(STEPS)
    assert len(graphs.sent) == len(players)


@pytest.mark.parametrize("name", ["gan, all hooks", "wgan-gp", "began", "acgan", "a pool that fills up"])
def test_a_run_that_is_resumed_is_the_run(name: str, graphs: Graphs) -> None:
    """From its fourth step, which was a replay."""
    straight, stopped, resumed = (training(*WORDS[name]) for _ in range(3))
    train(straight.game, straight.parts.players, 8)
    train(stopped.game, stopped.parts.players, 4)
    resumed.restore(*stopped.state())
    train(resumed.game, resumed.parts.players, 8, first=5)
    assert_same_state(resumed.state(), straight.state())


def test_labels_are_checked_ahead_of_a_graph(graphs: Graphs) -> None:
    """As without one, and before it is launched."""
    run = training("acgan")
    turns = Turns(run.game, run.parts.players)
    for step in range(1, 5):
        turns.step(step)
    before = run.parts.nets["D"].state_dict()
    run.game.labels_of_batch = lambda: np.array([3, 10])
    with pytest.raises(ValueError, match=r"^cross_entropy: labels go from 3 to 10, for 10 classes$"):
        turns.step(5)
    assert_same_state((run.parts.nets["D"].state_dict(), 0), (before, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_a_balance_does_not_move_behind_a_loss_that_is_not_finite(value: float) -> None:
    balances = [Balance(0.5, 0.1), Balance(0.5, 0.1).to(DEVICE)]
    for balance in balances:
        balance.load_state_dict({"k": np.array([0.25])})
    here, there = balances
    here.update(0.75, 0.5)
    found = [np.float32(0.75), np.float32(value)]
    there.update(*[kernels.move(np.asarray(x), DEVICE) for x in found], kernels.move(np.array([found[1]]), DEVICE))
    wanted = here.state_dict()["k"] if np.isfinite(value) else np.float32([0.25])
    assert there.state_dict()["k"].tobytes() == wanted.tobytes()


def small(**options: Any) -> tuple[Game, list[Player]]:
    """A GAN of points (6, 2) on the device. options: of two_player."""
    mg.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).to(DEVICE)
    D = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)).to(DEVICE)
    data = Generator(0, "data")
    game = Game((data.normal((6, 2)) + np.float32(1) for _ in count()), Generator(0, "latent"), 3, 6, DEVICE)
    return game, two_player(G, D, NON_SATURATING, Adam(G.parameters()), Adam(D.parameters()), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("capture", [False, True])
def test_a_loss_that_is_not_finite_changes_nothing(capture: bool, value: float, graphs: Graphs) -> None:
    """Nor does it count: the state after the error is that before the update."""
    game, players = small(clip=0.01)
    d = players[0]
    net, real = d.nets[0], game.real
    average, norm = EMA(net, 0.5), GradientNorm(d.optimizer.params)
    d.before = [norm, ClipGradients(d.optimizer.params, 0.1)]
    d.after = [*d.after, average, LinearDecay(d.optimizer, 20)]
    spoiled = np.full((6, 2), value, np.float32)
    game.real = iter([*[next(real) for _ in range(4)], spoiled, *[next(real) for _ in range(3)]])
    turns = Turns(game, players, capture)
    for step in range(1, 5):
        turns.step(step)
    with d.optimizer.params[0].writing() as weight:
        weight *= 3  # which would be clipped

    def state() -> list[Any]:
        weights = [p.to("cpu").numpy().tobytes() for net in (net, average.net) for p in net.parameters()]
        moments = [{k: a.tobytes() for k, a in of.items()} for of in d.optimizer.state_dict()["state"]]
        return [weights, moments, d.optimizer.steps, d.optimizer.lr, average.calls, norm.value]

    before = state()
    shown = r"nan" if np.isnan(value) else r"(nan|inf|-inf)"
    with pytest.raises(NotFiniteError, match=rf"^step 5: the loss of d is {shown}; lower the learning rate, or run "):
        turns.step(5)
    assert state() == before
    turns.step(6)
    assert d.optimizer.steps == 5
    assert bool(graphs.groups) == capture


class Broken(Exception):
    """Of a live function."""


def test_an_error_of_a_live_call_leaves_what_python_would(graphs: Graphs) -> None:
    """Steps, averages, the learning rate and draws are counted as far as the update came."""
    states = []
    for capture in (False, True):
        game, players = small()
        d, calls = players[0], count(1)
        average = EMA(d.nets[0], 0.9)
        d.after = [average, LinearDecay(d.optimizer, 20)]

        def check(loss: Array, calls: Iterator[int] = calls) -> None:
            if next(calls) == 5:
                raise Broken

        def loss(game: Game, inner: Any = d.loss, check: Any = check) -> Any:
            found = inner(game)
            kernels.live(check, found[0].array)
            return found

        d.loss = loss
        with pytest.raises(Broken):
            train(game, players, 8, capture=capture)
        steps = [int(state["step"]) for state in d.optimizer.state]
        states.append((d.optimizer.steps, steps, d.optimizer.lr, average.calls, game.latent.counter))
    assert states[0] == states[1]
    assert states[0][0] == 4
    assert graphs.groups


def test_a_kernel_that_fails_takes_back_what_was_counted(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is interrupted before an update's graph is launched has not made it."""
    game, players = small()
    d = players[0]
    average = EMA(d.nets[0], 0.9)
    d.after = [average, LinearDecay(d.optimizer, 20)]
    turns = Turns(game, players)
    for step in range(1, 5):
        turns.step(step)

    def state() -> list[Any]:
        steps = [int(state["step"]) for state in d.optimizer.state]
        return [d.optimizer.steps, steps, d.optimizer.lr, average.calls]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(cuda.Source, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            turns.step(5)
    assert state() == before
    turns.step(5)
    assert d.optimizer.steps == before[0] + 1


class Clipping(Adam):
    """With a step of its own, or what that calls."""

    def __init__(self, params: list[mg.Tensor]) -> None:
        super().__init__(params, 0.01)
        self.mine = 0

    def count_and_clip(self) -> None:
        self.mine += 1
        for p in self.params:
            assert p.grad is not None
            p.grad = kernels.clip(p.grad, -0.01, 0.01)


class OwnStep(Clipping):
    def step(self) -> None:
        self.count_and_clip()
        super().step()


class OwnInnerStep(Clipping):
    def _step(self, gradients: list[Array | None]) -> None:
        self.mine += 1
        super()._step([None if g is None else kernels.clip(g, -0.01, 0.01) for g in gradients])


def patched(params: list[mg.Tensor]) -> Clipping:
    """This one only."""
    optimizer = Clipping(params)

    def step() -> None:
        optimizer.count_and_clip()
        Adam.step(optimizer)

    optimizer.step = step  # type: ignore[method-assign]
    return optimizer


@pytest.mark.parametrize("make", [OwnStep, OwnInnerStep, patched])
def test_a_step_of_ones_own_is_called(make: Callable[[list[mg.Tensor]], Clipping], graphs: Graphs) -> None:
    runs = []
    for capture in (False, True):
        game, players = small()
        d = players[0]
        d.optimizer = optimizer = make(d.optimizer.params)
        rows: Rows = []
        train(game, players, STEPS, [lambda _, logs, rows=rows: rows.append(logs)], capture=capture)  # type: ignore[misc]
        runs.append((rows, optimizer.mine, optimizer.steps, [p.to("cpu").numpy().tobytes() for p in optimizer.params]))
    assert runs[0] == runs[1]
    assert runs[0][1:3] == (STEPS, STEPS)


def test_a_step_that_is_patched_later_is_called(graphs: Graphs) -> None:
    game, players = small()
    d, seen = players[0], list[int]()

    def patch(step: int, logs: Logs) -> None:
        if step == 4:
            d.optimizer.step = lambda: seen.append(step)  # type: ignore[method-assign]

    train(game, players, STEPS, [patch])
    assert len(seen) == STEPS - 4


HOOKS: dict[str, Callable[[Player], Any]] = {
    "decay": lambda d: LinearDecay(d.optimizer, 8),
    "average": lambda d: EMA(d.nets[0], 0.9),
    "norm": lambda d: GradientNorm(d.optimizer.params),
    "clipped gradients": lambda d: ClipGradients(d.optimizer.params, 0.01),
    "clipped weights": lambda d: ClipWeights(d.optimizer.params, 0.2),
}


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_hook_means_the_same_wherever_it_stands(place: str, name: str, graphs: Graphs) -> None:
    """Two of each kind; and with a loss that ends as NaN."""
    runs = []
    for capture in (False, True):
        game, players = small()
        d, data = players[0], game.real
        game.real = iter([*[next(data) for _ in range(6)], np.full((6, 2), np.nan, np.float32)])
        hooks = [HOOKS[name](d), HOOKS[name](d)]
        setattr(d, place, hooks)
        rows: list[Any] = []

        def look(step: int, logs: Logs, rows: list[Any] = rows, d: Player = d, hooks: list[Any] = hooks) -> None:
            nets = [d.nets[0], *[hook.net for hook in hooks if isinstance(hook, EMA)]]
            rows.append([p.to("cpu").numpy().tobytes() for net in nets for p in net.parameters()])
            rows.append([logs, d.optimizer.lr, d.optimizer.steps, [getattr(hook, "value", None) for hook in hooks]])

        with pytest.raises(NotFiniteError):
            train(game, players, 8, [look], capture=capture)
        look(7, {})
        runs.append(rows)
    assert runs[0] == runs[1]
    assert ["adam" in group for group in graphs.groups] == [True, True]


def test_batches_on_the_device_stay_there(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """In replays, too; others, of the same shape, still come from the host."""
    batches = [np.random.default_rng(i).random((6, 2), np.float32) for i in range(9)]
    runs = []
    for place in ("cpu", DEVICE):
        game, players = small()
        game.real = iter([kernels.move(b, place if i < 7 else "cpu") for i, b in enumerate(batches)])
        turns, fetched = Turns(game, players), list[int]()
        rows = [turns.step(step) for step in range(1, 6)]
        get = emulated.ndarray.get

        def noted(array: Any, *args: Any, fetched: list[int] = fetched, get: Any = get) -> Any:
            fetched.append(array.nbytes)
            return get(array, *args)

        with monkeypatch.context() as patch:
            patch.setattr(emulated.ndarray, "get", noted)
            rows.append(turns.step(6))
        assert not [n for n in fetched if n == batches[0].nbytes]
        rows += [turns.step(step) for step in range(7, 10)]
        runs.append(rows)
    assert runs[0] == runs[1]


class Noted(LinearDecay):
    """With a call of its own."""

    def __call__(self) -> None:
        super().__call__()
        self.seen.append(self.optimizer.lr)

    seen: list[float]


@pytest.mark.parametrize("own", [False, True])
def test_other_hooks_end_the_graph_and_are_called(own: bool, graphs: Graphs) -> None:
    """One graph for the loss and its gradients; what follows is the host's."""
    runs = []
    for capture in (False, True):
        game, players = small()
        seen: list[float] = []
        d = players[0]
        if own:
            d.after = [Noted(d.optimizer, 12)]
            d.after[0].seen = seen
        else:
            d.before = [lambda d=d, seen=seen: seen.append(float(kernels.to_host(d.optimizer.params[0].grad).sum()))]  # type: ignore[misc]
        rows: Rows = []
        train(game, players, STEPS, [lambda _, logs, rows=rows: rows.append(logs)], capture=capture)  # type: ignore[misc]
        runs.append((rows, seen))
    assert runs[0] == runs[1]
    assert len(runs[0][1]) == STEPS
    assert ["adam" in group for group in graphs.groups] == [False, True]


def test_hooks_that_change_are_seen(graphs: Graphs) -> None:
    """A hook that is added, and numbers of those that are recorded."""

    def change(game: Game, players: list[Player], step: int, logs: Logs) -> None:
        d, g = players
        if step == 4:
            d.after = [*d.after, LinearDecay(d.optimizer, 12)]
        if step == 7:
            g.before = [ClipGradients(g.optimizer.params, 0.01)]
        if step == 9:
            next(hook for hook in d.after if isinstance(hook, ClipWeights)).c = 0.05

    runs = []
    for capture in (False, True):
        game, players = small(clip=0.2)
        rows: Rows = []
        look = [lambda _, logs, rows=rows: rows.append(logs), partial(change, game, players)]  # type: ignore[misc]
        train(game, players, 12, look, capture=capture)
        runs.append(([p.to("cpu").numpy().tobytes() for player in players for p in player.optimizer.params], rows))
    assert runs[0] == runs[1]


# ---- optimizers in a step of one's own ----------------------------------------------------------------------------


class Half(Adam):
    """With an update of its own."""

    def update(self, p: list[Array], g: list[Array], states: list[dict[str, Array]]) -> None:
        super().update(p, [kernels.multiply(array, 0.5) for array in g], states)


OPTIMIZERS: dict[str, Callable[[list[mg.Tensor]], Optimizer]] = {
    "sgd": lambda params: SGD(params, 0.1, weight_decay=0.01),
    "momentum": lambda params: SGD(params, 0.1, momentum=0.9),
    "rmsprop": lambda params: RMSprop(params, 0.01),
    "adam": lambda params: Adam(params, 0.01, betas=(0.5, 0.99), weight_decay=0.01),
    "of one's own": lambda params: Half(params, 0.01),
}


def set_lr(optimizer: Optimizer) -> None:
    optimizer.lr *= 0.5


def set_decay(optimizer: Optimizer) -> None:
    optimizer.weight_decay += 0.1


def set_numbers(optimizer: Optimizer) -> None:
    """Of NumPy's, and a list."""
    optimizer.lr = np.float32(0.03)
    optimizer.weight_decay = np.float32(0.3)
    if isinstance(optimizer, Adam):
        optimizer.betas = [0.25, 0.5]  # type: ignore[assignment]


def load(optimizer: Optimizer) -> None:
    state = optimizer.state_dict()
    state["lr"] /= 3
    state["state"] = [{k: a if k == "step" else 2 * a for k, a in of.items()} for of in state["state"]]
    optimizer.load_state_dict(state)


def forget(optimizer: Optimizer) -> None:
    optimizer.load_state_dict({"lr": 0.05, "steps": 0, "state": [{} for _ in optimizer.params]})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("change", [set_lr, set_decay, set_numbers, load, forget])
def test_an_optimizer_in_a_graph(name: str, change: Callable[[Optimizer], None], graphs: Graphs) -> None:
    """Weights, states and counts are those of the eager step, to the bit; one parameter has no gradient."""

    def run(captured: bool) -> list[Any]:
        noise = Generator(0, "noise")
        params = [mg.Tensor(np.linspace(-1, 1, n, dtype=np.float32), requires_grad=True) for n in (5, 3, 4)]
        params = [p.to(DEVICE).detach() for p in params]
        for p in params:
            p.requires_grad = True
        optimizer = OPTIMIZERS[name](params)

        def step(x: mg.Tensor) -> mg.Tensor:
            random = mg.Tensor.of(noise.normal(5, device=DEVICE))
            loss = ((params[0] * random + x) ** 2).sum() + mg.exp(params[2]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        call, found = mg.capture(step, warmup=1) if captured else step, list[Any]()
        for i in range(10):
            if i == 6:
                change(optimizer)
            found.append(call(mg.Tensor([0.5]).to(DEVICE)).item())
            found += [p.to("cpu").numpy().tobytes() for p in params]
            states = optimizer.state_dict()
            found += [states["lr"], states["steps"], *[a.tobytes() for of in states["state"] for a in of.values()]]
        if captured:
            assert "step" not in states["state"][1]
            recordings = call.recordings  # type: ignore[attr-defined]
            whole = name != "of one's own"
            assert [call.kind for call in recordings[0].plan.replayed].count("live") == (not whole)
            again = whole and (change in (set_decay, set_numbers) or (change is forget and name != "sgd"))
            assert len(recordings) == 1 + again
            assert len(graphs.groups) == len(recordings)
        return found

    assert run(False) == run(True)


class Scaled(SGD):
    """Its rule goes by an attribute of any kind."""

    scale: Any = None

    def rule(self, p: list[Array], g: list[Array], states: Any, lr: Any, step: Any, gate: Array | None) -> None:
        scale = self.scale() if callable(self.scale) else self.scale[0]
        super().rule(p, [kernels.multiply(array, float(scale)) for array in g], states, lr, step, gate)


SCALES: list[tuple[Any, Any]] = [
    ([1.0], [2.0]),
    ({0: 1.0}, {0: 2.0}),
    (np.array([1.0]), np.array([2.0])),
    (lambda: 1.0, lambda: 2.0),
]


@pytest.mark.parametrize(("then", "now"), SCALES)
@pytest.mark.parametrize("in_place", [False, True])
def test_any_attribute_of_an_optimizer_is_looked_at(then: Any, now: Any, in_place: bool, graphs: Graphs) -> None:
    p = mg.Tensor(np.zeros(2, np.float32)).to(DEVICE)
    p.requires_grad = True
    optimizer = Scaled([p], 1.0)
    optimizer.scale = copy.copy(then)

    @mg.capture
    def step() -> None:
        p.sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(4):
        step()
    if in_place and not callable(now):
        optimizer.scale[0] = now[0]
    else:
        optimizer.scale = now
    step()
    assert p.to("cpu").numpy().tolist() == [-6.0, -6.0]
    (first, second) = step.recordings
    assert first.tape.holds() is False
    assert second.tape.holds()


def test_a_rate_that_a_live_call_sets_is_this_steps(graphs: Graphs) -> None:
    p = mg.Tensor(np.zeros(1, np.float32)).to(DEVICE)
    p.requires_grad = True
    optimizer, rates = SGD([p], 1.0), count(1)

    def schedule() -> None:
        optimizer.lr = float(next(rates))

    @mg.capture
    def step() -> mg.Tensor:
        p.sum().backward()
        mg.live(schedule)
        optimizer.step()
        optimizer.zero_grad()
        return p * 1

    assert [step().item() for _ in range(6)] == [-1, -3, -6, -10, -15, -21]


def test_an_optimizer_of_two_dtypes_is_called_live(graphs: Graphs) -> None:
    params = [mg.Tensor(np.ones(3, dtype)).to(DEVICE) for dtype in (np.float32, np.float64)]
    for p in params:
        p.requires_grad = True
    optimizer = Adam(params)
    assert not optimizer.launches()

    @mg.capture
    def step() -> None:
        optimizer.zero_grad()
        for p in params:
            (p * p).sum().backward()
        optimizer.step()

    for _ in range(4):
        step()
    assert optimizer.steps == 4
    (plan,) = step.plans
    assert "live" in [call.kind for call in plan.replayed]
