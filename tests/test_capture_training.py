"""Training replays what it records: every recipe, its tricks, toys and hooks, to the same bits as without."""

import re
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan import CaptureError, nn
from minigan.data import RING8, DataSet
from minigan.gan import (
    EMA,
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    Latent,
    clip_gradients,
    gradient_penalty,
    r1,
    r2,
    sum_of,
    toys,
    train,
    two_player,
)
from minigan.gan.recipes import RECIPES
from minigan.gan.recipes.recipe import FREE
from minigan.gan.run import Run, Training
from minigan.gan.toys import TOYS, play
from minigan.gan.train import Found, Logs, Player, Turns
from minigan.optim import Adam
from minigan.random import Generator
from minigan.tensor import Array

STEPS = 6  # one plain, one recorded, one rehearsed, three replayed
TINY = ("width=2", "batch_size=4", "latent=3", f"steps={STEPS}")
HOOKS = ("clip_norm=0.5", "ema=0.9", "lr_schedule=linear")

rng = np.random.default_rng(0)
DATA = DataSet("noise", rng.integers(0, 256, (30, 28, 28, 1)).astype(np.uint8), np.arange(30) % 10, None, None)

WORDS = {
    **{name: (name,) for name in RECIPES},
    "wgan-clip": ("wgan-clip", "n_critic=2"),
    "wgan-gp": ("wgan-gp", "n_critic=2"),
    "one-sided": ("wgan-gp", "n_critic=1", "one_sided=true", "drift=1e-3"),
    "both penalties": ("gan-r1", "r2_lambda=1"),
    "virtual": ("improved", "d_norm=virtual", "g_norm=virtual", "attention=true"),
    "a noise that ends": ("improved", "noise=0.5", "noise_steps=5"),
    "a pool that fills up": ("improved", "replay=14"),
    "spectral": (
        "improved", "d_norm=spectral", "g_norm=self-modulated", "minibatch=discrimination", "feature_matching=true",
    ),
    "pixel": ("improved", "d_norm=layer", "g_norm=pixel", "minibatch=std", "equalized=true", "smoothing=0.9"),
}  # fmt: skip
IN_PYTHON = {("a noise that ends", "d"): 4, ("a noise that ends", "g"): 5}  # with it and without; of all others 3
RESUMED = ("gan", "wgan-gp", "began", "a noise that ends", "a pool that fills up")  # test_recipes.py resumes all

Rows = list[Logs]


def training(*words: str) -> Training:
    name, *more = words
    return Training(RECIPES[name], RECIPES[name].parse([*TINY, *more], "test"), DATA)


def assert_same_state(a: Any, b: Any) -> None:
    """Of two training states: to the bit."""
    assert a[0].keys() == b[0].keys()
    assert [key for key in a[0] if a[0][key].tobytes() != b[0][key].tobytes()] == []
    assert a[1] == b[1]


def count_losses(players: list[Player]) -> list[str]:
    """A list to which each loss that Python computes will add its player's name."""
    seen: list[str] = []

    def counted(name: str, loss: Callable[[Game], Any], game: Game) -> Any:
        seen.append(name)
        return loss(game)

    for player in players:
        player.loss = partial(counted, player.name, player.loss)
    return seen


@pytest.mark.parametrize("name", WORDS)
def test_a_recipe_captured_is_the_recipe(name: str) -> None:
    """Logs, weights, buffers, optimizers, hooks, generators; and some that are resumed in the middle."""
    words, saved = (*WORDS[name], *HOOKS), list[Any]()
    plain, captured = training(*words), training(*words)
    expected: Rows = []
    found: Rows = []
    train(plain.game, plain.parts.players, STEPS, [lambda _, logs: expected.append(logs)], capture=False)
    in_python = count_losses(captured.parts.players)

    def look(step: int, logs: Logs) -> None:
        found.append(logs)
        if step == 2 and name in RESUMED:
            saved.append(captured.state())

    train(captured.game, captured.parts.players, STEPS, [look])
    assert found == expected
    assert_same_state(captured.state(), plain.state())
    for player in captured.parts.players:
        assert in_python.count(player.name) == IN_PYTHON.get((name, player.name), 3)
    for state in saved:
        resumed = training(*words)
        resumed.restore(*state)
        train(resumed.game, resumed.parts.players, STEPS, [look], first=3)
        assert found[STEPS:] == expected[2:]
        assert_same_state(resumed.state(), plain.state())


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_captured_is_the_toy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys, "BATCH", 16)
    monkeypatch.setattr(toys, "WIDTH", 8)
    runs = []
    for capture in (False, True):
        rows: Rows = []
        nets = play(name, RING8, 0, 5, lambda step, logs, G, D, rows=rows: rows.append(logs), capture)
        runs.append((rows, [net.state_dict() for net in nets]))
    (expected, plain), (found, captured) = runs
    assert found == expected
    for a, b in zip(plain, captured, strict=True):
        assert [key for key in a if a[key].tobytes() != b[key].tobytes()] == []


# ---- small nets of the plane ----------------------------------------------------------------------------------------


def small(seed: int = 0, **options: Any) -> tuple[Game, list[Player]]:
    """A GAN of points (6, 2). options: of two_player; objective, prior."""
    mg.manual_seed(seed)
    prior = options.pop("prior", 3)
    size = prior if isinstance(prior, int) else prior.size
    G = nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    D = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    data = Generator(seed, "data")
    game = Game((data.normal((6, 2)) + np.float32(1) for _ in count()), Generator(seed, "latent"), prior, 6)
    objective = options.pop("objective", NON_SATURATING)
    return game, two_player(G, D, objective, Adam(G.parameters()), Adam(D.parameters()), **options)


def weights(players: list[Player]) -> list[Array]:
    return [p.array.copy() for player in players for p in player.optimizer.params]


def both_ways(change: Callable[[Game, list[Player]], Any] = lambda game, players: None, **options: Any) -> list[Any]:
    """Logs and weights of six steps, as they are and captured, and what `change` returned, which prepares each."""
    runs = []
    for capture in (False, True):
        game, players = small(**{key: value() if callable(value) else value for key, value in options.items()})
        noted, rows = change(game, players), list[Logs]()
        train(game, players, STEPS, [lambda _, logs, rows=rows: rows.append(logs)], capture=capture)  # type: ignore[misc]
        runs.append((rows, weights(players), noted))
    (rows, moved, _), (found, captured, _) = runs
    assert found == rows
    assert all(np.array_equal(a, b) for a, b in zip(moved, captured, strict=True))
    return runs


def two_penalties() -> Any:
    return lambda D, real, fake: sum_of(partial(r1, weight=0.1), partial(r2, weight=0.2))(D, real, fake)


@pytest.mark.parametrize(
    "options",
    [
        {"prior": Latent(2, (3, 2), 2)},
        {"objective": WASSERSTEIN, "penalty": two_penalties},
        {"objective": WASSERSTEIN, "clip": 0.1, "d_updates": lambda: lambda step: 4 if step % 3 == 1 else 2},
        {"d_updates": lambda: lambda step: step % 2},
    ],
    ids=["codes of all kinds", "two penalties", "phases", "every other step"],
)
def test_options_of_two_player(options: dict[str, Any]) -> None:
    both_ways(**options)


def test_hooks_are_called_and_see_the_gradients() -> None:
    """Whatever they do: in place, with arrays of their own, or by Python alone; after the update, too."""

    def add(game: Game, players: list[Player]) -> Any:
        d, g = players
        weight, seen = d.optimizer.params[0], list[Any]()

        def double() -> None:
            weight.grad = 2 * weight.grad  # type: ignore[operator]

        d.before = [double, lambda: clip_gradients(d.optimizer.params, 0.05)]
        d.after = [lambda: seen.append((float(abs(weight.grad).sum()), d.optimizer.steps))]  # type: ignore[arg-type]
        g.after = [EMA(g.nets[0], 0.5), lambda: seen.append(all(p.grad is not None for p in g.optimizer.params))]
        g.after += [lambda: setattr(g.optimizer, "lr", 0.9 * g.optimizer.lr)]
        return seen, g.after[0]

    (_, _, (seen, average)), (_, _, (found, captured)) = both_ways(add)
    assert found == seen
    assert len(seen) == 2 * STEPS
    a, b = (ema.net.state_dict() for ema in (average, captured))
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_callbacks_may_look_at_everything_and_write_weights() -> None:
    """Samples drawn from the stream of the codes, evaluations, weights that are loaded: seen by the next step."""
    runs = []

    def look(game: Game, players: list[Player], seen: list[Array], step: int, logs: Logs) -> None:
        G, D = players[1].nets[0], players[0].nets[0]
        with mg.no_grad():
            seen.append(G.eval()(game.z()).array.copy())
        G.train()
        if step == 4:
            D.load_state_dict({key: value / 2 for key, value in D.state_dict().items()})

    for capture in (False, True):
        game, players = small()
        seen: list[Array] = []
        train(game, players, STEPS, [partial(look, game, players, seen)], capture=capture)
        runs.append((*seen, *weights(players)))
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_last_batch_is_what_the_players_share() -> None:
    game, players = small()
    turns, seen = Turns(game, players), set()
    for step in range(1, 6):
        turns.step(step)
        seen.add(game.current.tobytes())
        assert game.current is turns.turns[0].game.current
    assert len(seen) == 5


def test_inside_detect_anomaly_nothing_is_replayed() -> None:
    game, players = small()
    in_python = count_losses(players)
    with mg.detect_anomaly():
        train(game, players, STEPS)
    assert in_python == ["d", "g"] * STEPS


def test_a_replayed_step_makes_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    game, players = small(objective=WASSERSTEIN, penalty=partial(gradient_penalty, generator=Generator(0, "penalty")))
    turns = Turns(game, players)
    for step in range(1, 4):
        turns.step(step)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a tensor was made")

    monkeypatch.setattr(mg.Tensor, "__init__", refuse)
    monkeypatch.setattr(mg.Tensor, "of", refuse)
    monkeypatch.setattr(mg.Function, "__call__", refuse)
    assert turns.step(4).keys() == {"d_loss", "w_estimate", "penalty", "grad_norm", "g_loss"}


# ---- what cannot be replayed ----------------------------------------------------------------------------------------


def read_back(D: Any, x: Array, step: list[int]) -> Any:
    scores = D(mg.Tensor.of(x)).mean()
    return scores * (1 / max(1.0, abs(scores.item())))


def raw_numpy(D: Any, x: Array, step: list[int]) -> Any:
    return D(mg.Tensor.of(x + np.float32(1))).mean()


def another_way(D: Any, x: Array, step: list[int]) -> Any:
    step[0] += 1
    scores = D(mg.Tensor.of(x))
    return scores.mean() if step[0] < 3 else scores.sum()


def another_number(D: Any, x: Array, step: list[int]) -> Any:
    step[0] += 1
    return D(mg.Tensor.of(x)).mean() * (0.5 ** step[0])


def logged_by_python(D: Any, x: Array, step: list[int]) -> Any:
    return D(mg.Tensor.of(x)).mean()


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (read_back, "a value is read back in the middle of the step, at "),
        (raw_numpy, "float32 (6, 2) that no kernel of this step made, and that had other values in the step before"),
        (another_way, "a step did not do what the one before did: "),
        (another_number, "float32 () that no kernel of this step made, and that had other values in the step before"),
        (logged_by_python, "the step returned 2 and then 3, which Python made"),
    ],
)
def test_a_player_that_cannot_be_captured(loss: Callable[..., Any], text: str) -> None:
    """The error names the line and the way out, which works."""
    for capture in (True, False):
        game, players = small()
        D, step, number = players[0].nets[0], [0], count(1)

        def unsuited(game: Game, D: Any = D, step: Any = step, number: Any = number) -> tuple[mg.Tensor, Found]:
            logs = {"number": next(number)} if loss is logged_by_python else {}
            return loss(D, game.images(), step), logs

        players[0].loss = unsuited
        if not capture:
            train(game, players, 4, capture=False)
            continue
        with pytest.raises(CaptureError, match=re.escape(text)) as error:
            train(game, players, 4)
        assert str(error.value).endswith(
            ". This is in the update of player d; as it is, it runs with train(..., capture=False), or the setting "
            "capture=false"
        )
        assert Path(__file__).name in str(error.value) or loss is logged_by_python
        assert all(p.requires_grad for player in players for p in player.optimizer.params)


def test_a_loss_of_several_numbers_is_refused() -> None:
    game, players = small()
    D = players[0].nets[0]
    players[0].loss = lambda game: (D(mg.Tensor.of(game.images())), {})
    with pytest.raises(ValueError, match=r"^the loss of d is \(6, 1\), not one number; take its mean or its sum$"):
        train(game, players, 1)


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_the_setting(tmp_path: Path) -> None:
    """It is no part of a training's identity: runs with and without it are equal, and it may change."""
    assert "capture" in FREE
    states, counts = [], []
    for name, word in (("replayed", "capture=true"), ("plain", "capture=false")):
        run = Run.start(training("gan", word, f"out={tmp_path / name}", "metrics=false"))
        seen = count_losses(run.training.parts.players)
        run.train()
        states.append(run.training.state())
        counts.append(len(seen))
        run.folder.close()
    assert_same_state(*states)
    assert counts == [2 * 3, 2 * STEPS]
    assert training("gan", "capture=false").identity == training("gan").identity
