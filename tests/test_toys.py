"""Small GANs in the plane: every system trains, looking changes nothing, and the field points where fakes go."""

from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan.data import GRID25, RING8
from minigan.gan import MINIMAX, NON_SATURATING, WASSERSTEIN, Objective, toys
from minigan.gan.fgan import DIVERGENCES
from minigan.gan.objectives import LEAST_SQUARES, RELATIVISTIC
from minigan.gan.toys import LATENT, TOYS, Toy, compute, evaluate, field, mlp, play
from minigan.gan.train import two_player
from minigan.nn import Linear, Module, Sequential, SpectralNorm, wrap_layers
from minigan.random import Generator


def weights(*nets: Module) -> list[Any]:
    return [array for net in nets for array in net.state_dict().values()]


def test_the_table_has_every_objective_and_penalty() -> None:
    divergences = [f"fgan-{name}" for name in DIVERGENCES]
    assert list(TOYS) == [
        "minimax", "gan", "lsgan", "hinge", "ragan", *divergences, "wgan-clip", "wgan-gp", "wgan-gp-one-sided",
        "dragan", "gan-r1", "gan-smoothed",
    ]  # fmt: skip
    assert [name for name, toy in TOYS.items() if toy.spectral] == ["hinge"]
    assert [name for name, toy in TOYS.items() if toy.clip] == ["wgan-clip"]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys, "BATCH", 16)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("name", TOYS)
def test_three_steps(name: str) -> None:
    """The same for the same seed, whether looked at or not."""
    seen: list[tuple[int, dict[str, float]]] = []

    def look(step: int, logs: dict[str, float], G: Module, D: Module) -> None:
        seen.append((step, logs))
        evaluate(RING8, compute(G, np.zeros((9, LATENT), np.float32)), RING8.sample(5, Generator(0, "x")), D)
        field(TOYS[name].objective, D, RING8.means, RING8.means, RING8.means)
        assert G.training
        assert D.training

    watched, alone = play(name, RING8, 1, 3, look), play(name, RING8, 1, 3)
    assert [step for step, _ in seen] == [1, 2, 3]
    assert all(np.isfinite(list(logs.values())).all() for _, logs in seen)
    assert seen[0][1].keys() >= {"d_loss", "g_loss"}
    assert ("penalty" in seen[0][1]) == (TOYS[name].penalty is not None)
    for a, b in zip(weights(*watched), weights(*alone), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (max(abs(array).max() for array in weights(watched[1])) <= 0.1001) == (name == "wgan-clip")
    start = Generator(1, "init")
    assert not np.array_equal(weights(mlp(2, start))[0], weights(watched[0])[0])


@pytest.mark.usefixtures("small_batches")
def test_seeds_and_toys_differ() -> None:
    ends = [weights(*play(name, GRID25, seed, 2))[0] for name, seed in (("gan", 0), ("gan", 1), ("minimax", 0))]
    assert not np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


@pytest.mark.usefixtures("small_batches")
def test_all_toys_start_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: dict[str, list[Any]] = {}

    def players(G: Module, D: Module, *others: Any, **options: Any) -> Any:
        starts[name] = [p.array.copy() for net in (G, D) for p in net.parameters()]
        return two_player(G, D, *others, **options)

    monkeypatch.setattr(toys, "two_player", players)
    for name in TOYS:
        play(name, RING8, 0, 1)
    assert list(starts) == list(TOYS)
    for name, start in starts.items():
        for a, b in zip(start, starts["gan"], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.usefixtures("small_batches")
def test_the_step_size_falls_to_0(monkeypatch: pytest.MonkeyPatch) -> None:
    gan, made = TOYS["gan"], []

    def optimizer(net: Module) -> Any:
        made.append(gan.optimizer(net))
        return made[-1]

    monkeypatch.setitem(TOYS, "gan", gan._replace(optimizer=optimizer, steps=4))
    rates = []
    play("gan", RING8, 0, look=lambda *_: rates.append([o.lr for o in made]))
    np.testing.assert_allclose(rates, [[0.75e-3] * 2, [0.5e-3] * 2, [0.25e-3] * 2, [0, 0]])


@pytest.mark.usefixtures("small_batches")
def test_the_f_gan_of_the_gans_divergence_is_the_gan() -> None:
    """Nowozin et al. 2016, section 3.2: with G's loss not saturating it is Goodfellow's, to the last step."""
    for a, b in zip(weights(*play("gan", RING8, 0, 3)), weights(*play("fgan-gan", RING8, 0, 3)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_short_training_moves_samples_to_the_data() -> None:
    x, z = RING8.sample(200, Generator(0, "x")), Generator(0, "z").normal((200, LATENT))
    pytest.importorskip("scipy")
    before = evaluate(RING8, compute(mlp(2, Generator(0, "init")), z), x)["w1"]
    G, D = play("wgan-gp", RING8, 0, 25)
    after = evaluate(RING8, compute(G, z), x, D)
    assert after["w1"] < 0.7 * before
    assert 0 < after["bound"] <= after["w1"]


@pytest.mark.usefixtures("small_batches")
def test_spectral_norm_holds_the_hinges_critic_to_slope_1() -> None:
    _, D = play("hinge", RING8, 0, 5)
    assert sum(isinstance(module, SpectralNorm) for module in D.modules()) == 4
    a, b = Generator(0, "pairs").normal((2, 500, 2))
    rise = np.abs(compute(D, a) - compute(D, b))[:, 0]
    assert (rise <= 1.05 * np.linalg.norm(a - b, axis=1)).all()


def linear(slope: Any, bias: float = 0.0) -> Sequential:
    layer = Linear(2, 1)
    layer.load_state_dict({"weight": np.reshape(slope, (2, 1)), "bias": [bias]})
    return Sequential(layer)


@pytest.mark.parametrize(
    ("objective", "push"),
    [
        (WASSERSTEIN, lambda logit: 1),
        (NON_SATURATING, lambda logit: 1 / (1 + np.exp(logit))),
        (MINIMAX, lambda logit: 1 / (1 + np.exp(-logit))),
        (LEAST_SQUARES, lambda logit: 1 - logit),  # back, where D's output is above 1
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_the_field_is_minus_the_gradient_of_each_samples_loss(objective: Objective, push: Any) -> None:
    slope, x = np.array([0.6, -2.0]), Generator(0, "x").normal((7, 2))
    D = linear(slope, 0.3)
    due = push(x @ slope + 0.3) * np.ones(7)
    for points in (x, x[:1]):  # as strong alone as among others
        found = field(objective, D, points, points, points)
        np.testing.assert_allclose(found, due[: len(points), None] * slope, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in D.parameters())
    assert D.training


def test_the_relativistic_field_is_what_a_fake_gets_in_training() -> None:
    """Among G's fakes and alone, and at any other point: each is compared with the means for real points and fakes."""
    g = Generator(0, "x")
    D, x, real, fakes = mlp(1, Generator(0, "init")), g.normal((6, 2)), g.normal((9, 2)), 1 + g.normal((7, 2))
    leaf = mg.Tensor(fakes, requires_grad=True)
    due = -7 * mg.grad(RELATIVISTIC.g(D(leaf), D(mg.Tensor(real))), leaf).array
    for points, pushes in ((fakes, due), (fakes[2:3], due[2:3]), (np.concatenate([fakes[4:], 5 * x]), due[4:])):
        found = field(RELATIVISTIC, D, points, real, fakes)
        np.testing.assert_allclose(found[: len(pushes)], pushes, rtol=1e-4, atol=1e-6)

    slope = np.array([0.6, -2.0])
    D = linear(slope, 0.3)
    a, b, c = (points @ slope + 0.3 for points in (x, real, fakes))
    strength = 1 / (1 + np.exp(a - b.mean())) + (1 / (1 + np.exp(c.mean() - b))).mean()
    np.testing.assert_allclose(field(RELATIVISTIC, D, x, real, fakes), strength[:, None] * slope, rtol=1e-4)


def test_looking_at_a_net_does_not_change_it() -> None:
    D = wrap_layers(mlp(1, Generator(0, "init")), SpectralNorm)
    before = weights(D)
    x = Generator(0, "x").normal((40, 2))
    first, again = compute(D, x), compute(D, x)
    field(WASSERSTEIN, D, x, x, x)
    field(RELATIVISTIC, D, x, x, x)
    np.testing.assert_array_equal(first, again)
    for a, b in zip(before, weights(D), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="linear"):
        compute(D, np.zeros((3, 5), np.float32))
    assert D.training


def test_a_toy_that_explodes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bold = Toy(TOYS["fgan-kl"].objective, lambda net: mg.optim.SGD(net.parameters(), 1e9), 5)
    monkeypatch.setitem(TOYS, "fgan-kl", bold)
    message = r"^step \d: the loss of [dg] is (-?inf|nan); lower the learning"
    with np.errstate(all="ignore"), pytest.raises(mg.gan.NotFiniteError, match=message):
        play("fgan-kl", RING8, 0)


def test_play_refuses() -> None:
    with pytest.raises(ValueError, match=r"^play: there is no toy 'lsgam'; did you mean 'lsgan'\?$"):
        play("lsgam", RING8, 0)
    with pytest.raises(ValueError, match=r"^play: there is no toy 'xyz'; there are minimax, gan, .*, gan-smoothed$"):
        play("xyz", RING8, 0)
    with pytest.raises(ValueError, match=r"^play: steps must be at least 1, not 0$"):
        play("gan", RING8, 0, 0)
