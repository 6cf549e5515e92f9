"""Objectives in closed form, and the training loop: turns, freezing, failures, memory, convergence."""

import copy
import gc
import math
import re
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan import kernels, nn
from minigan.data import batches
from minigan.gan import (
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    NotFiniteError,
    Objective,
    Player,
    dcgan_discriminator,
    dcgan_generator,
    gradient_penalty,
    train,
    two_player,
)
from minigan.gan.latent import Latent
from minigan.gan.train import SAMPLEWISE, frozen, judge, of_others, probability
from minigan.optim import SGD, Adam
from minigan.random import Generator

Array = Any


# ---- objectives -----------------------------------------------------------------------------------------------------


def logit(p: Any) -> Any:
    p = np.asarray(p, np.float64)
    return mg.Tensor(np.log(p / (1 - p)), requires_grad=True)


def test_non_saturating_objective_is_minus_the_log_likelihood() -> None:
    real, fake = [0.9, 0.6, 0.2], [0.3, 0.8]
    d = NON_SATURATING.d(logit(real), logit(fake))
    assert d.shape == ()
    assert float(d) == pytest.approx(-np.mean(np.log(real)) - np.mean(np.log1p(-np.array(fake))))
    assert float(NON_SATURATING.g(logit(fake))) == pytest.approx(-np.mean(np.log(fake)))
    assert NON_SATURATING.name == "non-saturating"


def test_undecided_players() -> None:
    even = mg.Tensor([[0.0], [0.0]])
    assert float(NON_SATURATING.d(even, even)) == pytest.approx(2 * math.log(2))
    assert float(NON_SATURATING.g(even)) == pytest.approx(math.log(2))


def test_who_wants_what() -> None:
    real, fake = logit([0.7]), logit([0.7])
    NON_SATURATING.d(real, fake).backward()
    np.testing.assert_allclose(real.grad, [-0.3])  # D wants reals up: p - 1
    np.testing.assert_allclose(fake.grad, [0.7])  # and fakes down: p
    fake.grad = None
    NON_SATURATING.g(fake).backward()
    np.testing.assert_allclose(fake.grad, [-0.3])  # G wants fakes up


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_objectives_do_not_overflow(dtype: Any) -> None:
    sure: Any = mg.Tensor(np.array([1000, -1000], dtype), requires_grad=True)
    for loss in (NON_SATURATING.d(sure, sure), NON_SATURATING.g(sure)):
        assert loss.dtype == dtype
        sure.grad = None
        loss.backward()
        assert np.isfinite(sure.grad).all()
    assert float(NON_SATURATING.d(sure, sure)) == 1000
    assert float(NON_SATURATING.g(sure)) == 500
    np.testing.assert_array_equal(sure.grad, [0, -0.5])  # G still learns from a sure D


def test_probability() -> None:
    x = logit([0.25, 0.5])
    assert probability(x).item() == pytest.approx(0.375)
    assert not probability(x).requires_grad


# ---- the loop -------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A net that remembers whether its results required gradients, and whether it was training."""

    def __init__(self, *layers: Any) -> None:
        self.net: Any = nn.Sequential(*layers)
        self.recorded: list[bool] = []

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        y: mg.Tensor = self.net(x)
        self.recorded.append(y.requires_grad)
        return y


def small_gan(seed: int = 0) -> tuple[Game, Recorder, Recorder, list[Player]]:
    mg.manual_seed(seed)
    G = Recorder(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    D = Recorder(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    game = Game(reals(Generator(seed, "data"), 4), Generator(seed, "latent"), 3, 4)
    return game, G, D, two_player(G, D, NON_SATURATING, Adam(G.parameters()), Adam(D.parameters()))


def reals(generator: Generator, n: int) -> Iterator[Array]:
    while True:
        yield generator.normal((n, 2)) + np.float32(1)


def states(*nets: nn.Module) -> dict[str, Array]:
    return {f"{i}.{name}": array for i, net in enumerate(nets) for name, array in net.state_dict().items()}


def remember(rows: list[dict[str, float]], step: int, logs: dict[str, float]) -> None:
    rows.append(logs)


def assert_same(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_logs_and_callbacks() -> None:
    game, _, _, players = small_gan()
    calls: list[tuple[str, int]] = []
    seen: list[dict[str, float]] = []

    def first(step: int, logs: dict[str, float]) -> None:
        calls.append(("first", step))
        seen.append(logs)

    train(game, players, 3, [first, lambda step, logs: calls.append(("second", step))])
    assert calls == [(name, step) for step in (1, 2, 3) for name in ("first", "second")]
    assert [player.name for player in players] == ["d", "g"]
    for logs in seen:
        assert list(logs) == ["d_loss", "d_real", "d_fake_before", "g_loss", "d_fake_after"]
        assert all(type(value) is float for value in logs.values())
        assert all(0 < logs[key] < 1 for key in ("d_real", "d_fake_before", "d_fake_after"))
    assert len({logs["d_loss"] for logs in seen}) == 3


def test_callbacks_may_come_from_an_iterator() -> None:
    game, _, _, players = small_gan()
    steps: list[int] = []
    train(game, players, 3, iter([lambda step, logs: steps.append(step)]))
    assert steps == [1, 2, 3]


def test_every_parameter_moves() -> None:
    game, G, D, players = small_gan()
    before = states(G, D)
    train(game, players, 1)
    after = states(G, D)
    still = {name for name in before if (before[name] == after[name]).all()}
    assert not still - {"0.net.0.bias"}  # a bias in front of batch norm has no gradient


def test_each_step_trains_one_player_and_freezes_the_other() -> None:
    game, G, D, players = small_gan()
    nets = {"d": D, "g": G}
    turns: list[str] = []

    def check_and_forget(mine: str, other: str) -> Any:
        def after() -> None:
            assert all(p.grad is not None for p in nets[mine].parameters())
            assert all(p.grad is None for p in nets[other].parameters())
            assert all(p.requires_grad for net in nets.values() for p in net.parameters())
            nets[mine].zero_grad()
            turns.append(mine)

        return after

    players[0].after, players[1].after = [check_and_forget("d", "g")], [check_and_forget("g", "d")]
    train(game, players, 3)
    assert turns == ["d", "g"] * 3


def test_the_step_of_d_builds_no_graph_for_g() -> None:
    game, G, D, players = small_gan()
    train(game, players, 2)
    assert G.recorded == [False, True] * 2  # D's step, G's step
    assert D.recorded == [True, True, True] * 2  # reals, fakes, and G's fakes, through frozen weights
    assert D.net[0].weight.version == 1 + 2  # one update a step after the start


def test_g_makes_fakes_for_d_in_training_mode_and_both_steps_draw_anew() -> None:
    game, G, _, players = small_gan()
    train(game, players, 1)
    assert game.latent.counter == 2 * 3  # two batches of 4 x 3 numbers
    running = G.net[1].running_mean.array
    assert running.any()


def test_a_player_may_update_several_times_or_not_at_all() -> None:
    game, _, _, players = small_gan()
    players[0].updates = lambda step: 3
    players[1].updates = lambda step: step % 2
    hooks: list[str] = []
    players[0].after = [lambda: hooks.append("first"), lambda: hooks.append("second")]
    logs: list[dict[str, float]] = []
    train(game, players, 2, [partial(remember, logs)])
    assert (players[0].optimizer.steps, players[1].optimizer.steps) == (6, 1)
    assert hooks == ["first", "second"] * 6
    assert ["g_loss" in found for found in logs] == [True, False]


def test_frozen_nets_are_thawed_after_an_exception() -> None:
    game, G, D, players = small_gan()

    def fails(_: Game) -> Any:
        assert not any(p.requires_grad for p in G.parameters())
        assert all(p.requires_grad for p in D.parameters())
        raise KeyboardInterrupt

    players[0].loss = fails
    with pytest.raises(KeyboardInterrupt):
        train(game, players, 1)
    assert all(p.requires_grad for net in (G, D) for p in net.parameters())


def test_what_the_user_froze_stays_frozen() -> None:
    game, G, _, players = small_gan()
    first = G.net[0].requires_grad_(False)
    before = states(first)
    train(game, players, 2)
    assert not any(p.requires_grad for p in first.parameters())
    assert_same(states(first), before)


def test_a_net_of_two_players_is_not_frozen_for_either() -> None:
    """As in InfoGAN, where the recogniser shares D's layers."""
    shared, head = nn.Linear(2, 2), nn.Linear(2, 1)
    first = Player("first", [shared], SGD(shared.parameters(), 0.1), lambda game: (mg.ones(()), {}))
    second = Player("second", [shared, head], SGD(head.parameters(), 0.1), lambda game: (mg.ones(()), {}))
    with frozen(of_others([first, second])[0]):
        assert all(p.requires_grad for p in shared.parameters())
        assert not any(p.requires_grad for p in head.parameters())
    assert all(p.requires_grad for net in (shared, head) for p in net.parameters())


def test_real_and_fake_are_one_batch_only_where_samples_are_judged_one_by_one() -> None:
    class Statistics(nn.Module):
        """Minibatch statistics: a module that no list of known ones has."""

        def forward(self, x: mg.Tensor) -> mg.Tensor:
            return x - x.mean(axis=0, keepdims=True)

    real, fake = (mg.random.stream(name).normal((5, 8, 8, 1)) for name in ("real", "fake"))
    plain = [nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1)]
    for extra, passes in ([], 1), ([nn.BatchNorm1d(64)], 2), ([Statistics()], 2), ([nn.Dropout(0.5)], 2):
        D, seen = nn.Sequential(*plain[:3], *extra, plain[3]), []
        forward = plain[0].forward
        plain[0].forward = lambda x, slope=1.0, forward=forward, seen=seen: seen.append(len(x)) or forward(x, slope)  # type: ignore[func-returns-value]
        judged = judge(D, real, fake)
        plain[0].forward = forward
        assert seen == ([10] if passes == 1 else [5, 5])
        if not isinstance((extra or [None])[0], nn.Dropout):
            for scores, x in zip(judged, (real, fake), strict=True):
                np.testing.assert_allclose(scores.array, D(mg.Tensor(x)).array, rtol=1e-5, atol=1e-6)
    assert [len(scores) for scores in judge(nn.Sequential(*plain), real, fake[:3])] == [5, 3]


IMAGES, ROWS = (3, 4, 4, 2), (3, 4)
ONE_BY_ONE: dict[Any, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    nn.Sequential: (lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), ROWS),
    nn.Linear: (lambda: nn.Linear(4, 3), ROWS),
    nn.Conv2d: (lambda: nn.Conv2d(2, 3, 3, 2, 1), IMAGES),
    nn.ConvTranspose2d: (lambda: nn.ConvTranspose2d(2, 3, 4, 2, 1), IMAGES),
    nn.LayerNorm: (lambda: nn.LayerNorm(2), IMAGES),
    nn.InstanceNorm2d: (lambda: nn.InstanceNorm2d(2), IMAGES),
    nn.AvgPool2d: (lambda: nn.AvgPool2d(2), IMAGES),
    nn.MaxPool2d: (lambda: nn.MaxPool2d(2), IMAGES),
    nn.Upsample: (lambda: nn.Upsample(2), IMAGES),
    nn.Flatten: (nn.Flatten, IMAGES),
    nn.Unflatten: (lambda: nn.Unflatten(2, 2, 1), ROWS),
    **{
        kind: (kind, IMAGES) for kind in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.PixelNorm)
    },
    nn.SpectralNorm: (lambda: nn.SpectralNorm(nn.Conv2d(2, 3, 3)), IMAGES),
    nn.EqualizedLR: (lambda: nn.EqualizedLR(nn.Conv2d(2, 3, 3)), IMAGES),
    nn.SelfAttention: (lambda: attentive(2), IMAGES),
    nn.GaussianNoise: (lambda: nn.GaussianNoise(0.5, Generator(0, "noise")), IMAGES),
    nn.VirtualBatch: (lambda: nn.VirtualBatch(nn.Conv2d(2, 1, 3), reference(IMAGES)), IMAGES),
    nn.VirtualBatchNorm1d: (lambda: nn.VirtualBatch(nn.VirtualBatchNorm1d(4), reference(ROWS)), ROWS),
    nn.VirtualBatchNorm2d: (lambda: nn.VirtualBatch(nn.VirtualBatchNorm2d(2), reference(IMAGES)), IMAGES),
}


def attentive(channels: int) -> nn.SelfAttention:
    layer = nn.SelfAttention(channels)
    nn.init.constant_(layer.strength, 0.7)
    return layer


def reference(shape: tuple[int, ...]) -> Array:
    return Generator(0, "reference").normal(shape)


def depends_on_others(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a sample's output, in training mode, is another if the others of its batch are."""
    x, others = (Generator(0, name).normal(shape) for name in ("x", "others"))
    others[1] = x[1]
    a, b = (copy.deepcopy(module)(mg.Tensor(batch)).array for batch in (x, others))
    assert not np.array_equal(a[0], b[0])
    return bool(abs(a[1] - b[1]).max() > 1e-5)


@pytest.mark.parametrize("kind", sorted(SAMPLEWISE, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_module_that_is_known_to_treat_samples_one_by_one_does(kind: Any) -> None:
    assert kind in ONE_BY_ONE, f"give ONE_BY_ONE an example of {kind.__name__}"
    make, shape = ONE_BY_ONE[kind]
    module = make()
    assert kind in map(type, module.modules())
    assert not depends_on_others(module, shape)


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(2), nn.MinibatchStdDev(None), nn.Sequential(nn.Flatten(), nn.MinibatchDiscrimination(32, 3, 2))],
    ids=["BatchNorm2d", "MinibatchStdDev", "MinibatchDiscrimination"],
)
def test_a_module_that_compares_samples_is_found_out(module: nn.Module) -> None:
    assert not SAMPLEWISE.issuperset(map(type, module.modules()))
    assert depends_on_others(module, IMAGES)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["d", "g"])
@pytest.mark.parametrize(("capture", "step"), [(False, 3), (True, 1), (True, 2), (True, 3), (True, 4)])
def test_a_loss_that_is_not_finite_updates_nothing(name: str, value: float, capture: bool, step: int) -> None:
    """Whether its update is run, recorded, rehearsed or replayed."""
    game, G, D, players = small_gan()
    player, net = (players[0], D) if name == "d" else (players[1], G)
    loss, before = player.loss, {}

    def poison() -> Array:
        before.update(states(*net.modules()) | {"steps": player.optimizer.steps})
        return np.float32([value if player.optimizer.steps == step - 1 else 1]).reshape(())

    def poisoned(game: Game) -> Any:
        found, logs = loss(game)
        return found * mg.Tensor.of(kernels.live(poison)), logs

    player.loss = poisoned
    text = f"step {step}: the loss of {name} is {value}; lower the learning rate, or run inside minigan.detect_anom"
    with pytest.raises(NotFiniteError, match=re.escape(text)):
        train(game, players, 5, capture=capture)
    assert issubclass(NotFiniteError, FloatingPointError)
    assert_same(before, states(*net.modules()) | {"steps": player.optimizer.steps})
    assert all(p.requires_grad for both in (G, D) for p in both.parameters())


def test_anomaly_mode_names_the_op_of_a_failing_run() -> None:
    game, _, D, players = small_gan()
    with D.net[0].weight.writing() as array:
        array[...] = np.nan
    with mg.detect_anomaly(), pytest.raises(FloatingPointError, match=r"^matmul: the forward pass produced a NaN"):
        train(game, players, 1)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for seed in (3, 3, 4):
        game, G, D, players = small_gan(seed)
        logs: list[dict[str, float]] = []
        train(game, players, 10, [partial(remember, logs)])
        runs.append((logs, states(G, D)))
    assert runs[0][0] == runs[1][0]
    assert_same(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_another_objective_is_two_functions() -> None:
    game, G, D, _ = small_gan()
    wgan = Objective("wgan", lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean())
    logs: list[dict[str, float]] = []
    players = two_player(G, D, wgan, SGD(G.parameters(), 0.01), SGD(D.parameters(), 0.01))
    train(game, players, 30, [partial(remember, logs)])
    assert logs[-1]["d_loss"] < logs[0]["d_loss"]


def test_a_gan_learns_a_gaussian() -> None:
    """At equilibrium D cannot tell: its loss is 2 log 2, and the fakes have the mean and spread of the reals."""
    mg.manual_seed(0)
    G, D = nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    data = Generator(0, "data")
    game = Game((2 + data.normal((128, 1)) / 2 for _ in repeat(None)), Generator(0, "latent"), 1, 128)
    players = two_player(
        G, D, NON_SATURATING, Adam(G.parameters(), 5e-3, (0.5, 0.9)), Adam(D.parameters(), 1e-2, (0.5, 0.9))
    )
    losses: list[float] = []
    train(game, players, 1200, [lambda step, logs: losses.append(logs["d_loss"])])
    assert np.mean(losses[-200:]) == pytest.approx(2 * math.log(2), abs=0.05)
    assert abs(np.mean(losses[:20]) - 2 * math.log(2)) > 0.1  # it was not there from the start
    with mg.no_grad():
        fakes = G(mg.Tensor(Generator(1, "latent").normal((1000, 1)))).array
    assert fakes.mean() == pytest.approx(2, abs=0.25)
    assert fakes.std() == pytest.approx(0.5, abs=0.25)


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def batch_norm_steps() -> Callable[[], None]:
    """Steps of a critic with batch norm and a gradient penalty: the gradient of a gradient, by definition."""
    D = nn.Sequential(
        nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ELU(), nn.Flatten(),
        nn.Linear(144, 1),
    )  # fmt: skip
    optimizer, x = Adam(D.parameters()), Generator(0, "data").normal((8, 16, 16, 1))

    def step() -> None:
        images = mg.Tensor(x, requires_grad=True)
        scores = D(images)
        gradient = mg.grad(scores.sum(), images, create_graph=True)
        penalty = ((gradient * gradient).sum(axis=(1, 2, 3)) - 1.0) ** 2
        optimizer.zero_grad()
        (scores.mean() + penalty.mean()).backward()
        optimizer.step()

    return step


def wgan_gp_steps() -> Callable[[], None]:
    """Updates of WGAN-GP's critic, with the one of G that goes with each."""
    G, D, data = dcgan_generator(28, 1, 2, 8), dcgan_discriminator(28, 1, 2, batch_norm=False), Generator(0, "data")
    game = Game((data.normal((4, 28, 28, 1)) for _ in repeat(None)), Generator(0, "latent"), 8, 4)
    penalty = partial(gradient_penalty, generator=Generator(0, "penalty"))
    players = two_player(G, D, WASSERSTEIN, Adam(G.parameters()), Adam(D.parameters()), penalty=penalty)
    return lambda: train(game, players, 1)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", [batch_norm_steps, wgan_gp_steps])
def test_200_penalty_steps_in_flat_memory(kind: Callable[[], Callable[[], None]]) -> None:
    step = kind()

    def measure(steps: int) -> tuple[int, int]:
        for _ in range(steps):
            step()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    measure(5)  # caches fill
    tracemalloc.start()
    try:
        objects, size = measure(20)
        more_objects, more_size = measure(200)
    finally:
        tracemalloc.stop()
    assert more_objects - objects < 20
    assert more_size - size < 400_000  # the graph of one step holds more; Python's and NumPy's free lists hold less


@pytest.mark.usefixtures("no_collector")
def test_training_steps_need_no_collector() -> None:
    game, _, _, players = small_gan()
    train(game, players, 5)
    counts: list[int] = []
    train(game, players, 50, [lambda step, logs: counts.append(len(gc.get_objects()))])
    assert counts[-1] - counts[10] < 100  # the recorders' lists grow, graphs do not


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_graph_dies_with_its_result(create_graph: bool) -> None:
    _, G, D, _ = small_gan()
    loss = NON_SATURATING.g(D(G(mg.Tensor(np.ones((4, 3), np.float32)))))
    gradients = mg.grad(loss, list(G.parameters()), create_graph=create_graph)
    nodes, stack, kinds = [], [loss.node, *(g.node for g in gradients)], list[str]()
    while stack:
        node = stack.pop()
        if isinstance(node, mg.Function):
            nodes.append(weakref.ref(node))
            kinds.append(type(node).__name__)
            stack += node.parents
    whole = {"SigmoidCrossEntropy": 1, "Matmul": 4, "BatchNorm": 1}  # the loss and both nets
    assert all(kinds.count(kind) >= n for kind, n in whole.items())
    assert ("LeakyReluBackward" in kinds) == create_graph
    del node, loss, gradients
    assert not [ref() for ref in nodes if ref() is not None]


# ---- what D is shown, what G compares with ---------------------------------------------------------------------------


def test_replay_decides_which_fakes_d_is_shown() -> None:
    """And not which ones G is judged by."""
    game, _, D, _ = small_gan()
    G = nn.Linear(3, 2)
    shown, seen = np.full((4, 2), 7, np.float32), list[Array]()

    def replay(fakes: Array) -> Array:
        seen.append(fakes)
        return shown

    d, g = two_player(G, D, NON_SATURATING, Adam(G.parameters()), Adam(D.parameters()), replay=replay)
    loss, logs = d.loss(game)
    real = D(mg.Tensor(game.current))
    expected = NON_SATURATING.d(real, D(mg.Tensor(shown)))
    assert loss.item() == pytest.approx(expected.item())
    assert logs["d_fake_before"] == pytest.approx(float(mg.sigmoid(D(mg.Tensor(shown))).mean()))
    assert [fakes.shape for fakes in seen] == [(4, 2)]
    g.loss(game)
    assert len(seen) == 1


def test_an_objective_that_compares_is_given_the_images_of_the_last_update() -> None:
    game, G, D, _ = small_gan()
    given = list[Array]()

    def compare(fake: mg.Tensor, real: mg.Tensor) -> mg.Tensor:
        given.append(real.array)
        return (fake - real).mean()

    objective = Objective("difference", lambda real, fake: (fake - real).mean(), compare, "score", needs_real=True)
    d, g = two_player(G, D, objective, Adam(G.parameters()), Adam(D.parameters()))
    _, logs = d.loss(game)
    last = game.current
    _, g_logs = g.loss(game)
    assert game.current is last
    np.testing.assert_array_equal(given[0], D(mg.Tensor(last)).array)
    assert logs.keys() == {"score_real", "score_fake"}
    assert g_logs == {}
    assert logs["score_real"] == pytest.approx(float(given[0].mean()))


def test_labels_are_those_of_the_last_batch() -> None:
    images = Generator(0, "images").integers(256, (9, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(9)
    real = batches(images, 3, Generator(0, "data"))
    game = Game(real, Generator(0, "latent"), 2, 3, labels_of_batch=lambda: labels[real.picked])
    for _ in range(4):
        x = game.images()
        np.testing.assert_array_equal(x, (images[game.labels()] / np.float32(127.5) - np.float32(1)))
    with pytest.raises(ValueError, match=r"^these images have no labels, which a conditional GAN needs; train on"):
        Game(real, Generator(0, "latent"), 2, 3).labels()


def test_codes_are_drawn_from_the_prior() -> None:
    prior = Latent(2, (3,), 1)
    game = Game(iter(()), Generator(0, "latent"), prior, 5)
    np.testing.assert_array_equal(game.z().array, prior.draw(Generator(0, "latent"), 5))
