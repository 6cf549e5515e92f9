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
    RELATIVISTIC,
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


# ---- what callbacks may change ---------------------------------------------------------------------------------------


def set_batch_size(game: Game, players: list[Player]) -> None:
    game.batch_size = 4


def set_latent(game: Game, players: list[Player]) -> None:
    game.latent = Generator(9, "another")


def set_prior(game: Game, players: list[Player]) -> None:
    game.prior = Latent(1, (2,))


def set_data(game: Game, players: list[Player]) -> None:
    game.real = (np.full((6, 2), i, np.float32) for i in count())


def set_loss(game: Game, players: list[Player]) -> None:
    before = players[1].loss
    players[1].loss = lambda game: (before(game)[0] * 0.5, {})


def set_optimizer(game: Game, players: list[Player]) -> None:
    players[0].optimizer = Adam(players[0].optimizer.params[::-1], 1e-2)


def freeze(game: Game, players: list[Player]) -> None:
    for p in players[0].optimizer.params[:2]:
        p.requires_grad = False


def thaw(game: Game, players: list[Player]) -> None:
    for p in players[0].optimizer.params:
        p.requires_grad = True


def evaluate(game: Game, players: list[Player]) -> None:
    players[1].nets[0].eval()


def learn(game: Game, players: list[Player]) -> None:
    players[1].nets[0].train()


@pytest.mark.parametrize(
    "changes",
    [
        {5: set_batch_size},
        {5: set_latent},
        {5: set_prior},
        {5: set_data},
        {5: set_loss},
        {5: set_optimizer},
        {5: freeze, 9: thaw},
        {5: evaluate, 9: learn},
        {4: freeze, 5: set_loss, 9: set_batch_size},
    ],
    ids=lambda changes: ", ".join(change.__name__ for change in changes.values()),
)
def test_what_a_callback_changes_is_seen(changes: dict[int, Callable[..., None]]) -> None:
    """After each change one update is recorded, and one rehearsed: all others are replays."""
    runs, steps = [], 12

    def look(game: Game, players: list[Player], rows: Rows, step: int, logs: Logs) -> None:
        rows.append(logs)
        if step in changes:
            changes[step](game, players)

    for capture in (False, True):
        game, players = small()
        rows: Rows = []
        train(game, players, steps, [partial(look, game, players, rows)], capture=capture)
        runs.append((rows, weights(players)))
    (rows, moved), (found, captured) = runs
    assert found == rows
    assert all(np.array_equal(a, b) for a, b in zip(moved, captured, strict=True))


def test_what_was_met_before_is_not_recorded_again() -> None:
    game, players = small()
    in_python = count_losses(players)

    def turn(step: int, logs: Logs) -> None:
        (thaw if step % 2 else freeze)(game, players)

    train(game, players, 12, [turn])
    assert (in_python.count("d"), in_python.count("g")) == (5, 3)


# ---- batches of several shapes ---------------------------------------------------------------------------------------

SIZES = (6, 6, 4)


class Ragged:
    """Batches of other sizes in turn, the first rows of those of an iterator; `size`: of the last one."""

    def __init__(self, whole: Any, sizes: tuple[int, ...] = SIZES) -> None:
        self.whole, self.sizes, self.fetched = whole, sizes, 0

    def __iter__(self) -> "Ragged":
        return self

    def __next__(self) -> Array:
        rows: Array = next(self.whole)[: self.sizes[self.fetched % len(self.sizes)]]
        self.fetched, self.size = self.fetched + 1, len(rows)
        return rows


def make_ragged(game: Game) -> Ragged:
    ragged = Ragged(game.real)
    game.real = ragged
    return ragged


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": WASSERSTEIN, "penalty": two_penalties, "d_updates": lambda: lambda step: 2},
        {"objective": RELATIVISTIC},
        {"objective": RELATIVISTIC, "d_updates": lambda: lambda step: step % 3},
        {"objective": RELATIVISTIC, "d_updates": lambda: lambda step: 4 if step == 2 else 1},
    ],
    ids=["gan", "critic", "needs_real", "needs_real of D's last update", "needs_real, phases"],
)
def test_batches_of_two_sizes(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the end of an epoch gives. Nothing is fetched beyond what the updates take."""
    monkeypatch.setitem(globals(), "STEPS", 15)
    runs = both_ways(lambda game, players: make_ragged(game), **options)
    (_, _, plain), (_, _, captured) = runs
    assert captured.fetched == plain.fetched


@pytest.mark.parametrize("name", ["gan", "vae-gan", "acgan", "ragan", "autoencoder", "cgan", "matching"])
def test_recipes_with_batches_of_two_sizes(name: str) -> None:
    """Labels, too. An update of each size runs in Python twice, and the first one."""
    runs = []
    for capture in (False, True):
        t = training(name)
        ragged, labels = Ragged(t.game.real, (4, 4, 3)), t.game.labels_of_batch
        t.game.real = ragged
        if labels is not None:
            t.game.labels_of_batch = lambda ragged=ragged, labels=labels: labels()[: ragged.size]
        rows, in_python = list[Logs](), count_losses(t.parts.players)
        train(t.game, t.parts.players, 9, [lambda _, logs, rows=rows: rows.append(logs)], capture=capture)  # type: ignore[misc]
        assert in_python.count(t.parts.players[0].name) == (5 if capture else 9)
        runs.append((rows, t.state(), ragged.fetched))
    (rows, plain, n), (found, captured, m) = runs
    assert (found, m) == (rows, n)
    assert_same_state(captured, plain)


def test_what_is_asked_before_and_after_a_batch_is_taken() -> None:
    """`current` and labels are those of the last batch that was taken, though the next one has been looked at."""
    runs = []
    for capture in (False, True):
        game, players = small()
        ragged, rows = make_ragged(game), list[Logs]()
        game.labels_of_batch = lambda ragged=ragged: np.arange(ragged.size) + ragged.fetched
        D = players[0].nets[0]

        def loss(game: Game, D: Any = D) -> tuple[mg.Tensor, Found]:
            old = mg.Tensor(game.current)  # a copy: the next batch may be written there
            before = {"old": old.mean(), "old_labels": mg.Tensor.of(game.labels()).sum()}
            x = mg.Tensor.of(game.images())
            new = mg.Tensor.of(game.current)
            after = {"new": new.mean(), "labels": mg.Tensor.of(game.labels()).sum(), "x": x.mean()}
            return D(x).mean() + D(old).mean() * 2 + D(new).mean() * 3, {**before, **after}

        players[0].loss = loss
        game.images()
        train(game, players[:1], 24, [lambda _, logs, rows=rows: rows.append(logs)], capture=capture)  # type: ignore[misc]
        assert all(row["new"] == row["x"] for row in rows)
        assert [row["old"] for row in rows[1:]] == [row["new"] for row in rows[:-1]]
        assert [row["old_labels"] for row in rows[1:]] == [row["labels"] for row in rows[:-1]]
        runs.append(rows)
    assert runs[0] == runs[1]


def test_current_of_an_update_that_takes_a_batch_needs_no_other_recording() -> None:
    game, players = small()
    make_ragged(game)
    D = players[0].nets[0]
    players[0].loss = lambda game: (D(mg.Tensor.of(game.images())).mean() + D(mg.Tensor.of(game.current)).mean(), {})
    in_python = count_losses(players)
    train(game, players[:1], 15)
    assert len(in_python) == 1 + 2 * 2


class Epochs:
    """Three batches, then the end, then three others: as a loader that is asked again."""

    def __init__(self, error: type[Exception]) -> None:
        self.data, self.asked, self.error = Generator(0, "epochs"), 0, error

    def __iter__(self) -> "Epochs":
        return self

    def __next__(self) -> Array:
        self.asked += 1
        if self.asked % 4 == 0:
            raise self.error(self.asked)
        return self.data.normal((6 - self.asked // 8, 2))


@pytest.mark.parametrize("error", [StopIteration, OSError])
@pytest.mark.parametrize("d_updates", [1, 2])
def test_the_data_end_or_fail(error: type[Exception], d_updates: int) -> None:
    """It is raised as it is, at the same update, and the next step goes on with what comes then."""
    runs = []
    for capture in (False, True):
        game, players = small(d_updates=lambda step: d_updates)
        game.real, noted = Epochs(error), list[Any]()
        turns = Turns(game, players, capture)
        for step in range(1, 16):
            try:
                noted.append(turns.step(step))
            except error as raised:
                noted.append(str(raised))
        runs.append((noted, [w.tobytes() for w in weights(players)]))
    assert runs[0] == runs[1]
    assert "4" in runs[1][0]


def test_a_batch_that_was_only_looked_at_is_forgotten() -> None:
    """When a training begins anew, after an error between the two, and its data may have been restored."""
    game, players = small()
    game.real = (np.full((6, 2), i, np.float32) for i in count())
    assert game._coming() == ((6, 2), "float32", "cpu")
    assert game._coming() == game._coming()
    Turns(game, players)
    assert game.images()[0, 0] == 1
    assert game.images()[0, 0] == 2


def test_current_before_the_first_batch() -> None:
    game, players = small(objective=RELATIVISTIC)
    with pytest.raises(ValueError, match=r"^there is no current batch yet; a player that calls game\.images\(\) "):
        train(game, players[::-1], 1)


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
