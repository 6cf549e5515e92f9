"""Objectives: what they are worth where the answer is known, and which way they pull."""

import math
from itertools import repeat
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.gan import MINIMAX, NON_SATURATING, WASSERSTEIN, Game, Objective, critic_updates, train, two_player
from minigan.gan.fgan import f_gan
from minigan.gan.objectives import HINGE, LEAST_SQUARES, RELATIVISTIC, drifting, smoothed
from minigan.gan.train import share_at
from minigan.optim import SGD
from minigan.random import Generator

OBJECTIVES = [MINIMAX, NON_SATURATING, WASSERSTEIN]
SCORES = [LEAST_SQUARES, HINGE, RELATIVISTIC]
WRAPPED = [smoothed(NON_SATURATING), drifting(WASSERSTEIN), drifting(smoothed(MINIMAX))]
Array = np.ndarray[Any, Any]


def tensor(values: Any) -> mg.Tensor:
    return mg.Tensor(np.asarray(values, np.float64), requires_grad=True)


def g_loss(objective: Objective, fake: mg.Tensor, real: mg.Tensor) -> mg.Tensor:
    return objective.g(fake, real) if objective.needs_real else objective.g(fake)


@pytest.mark.parametrize("objective", [*OBJECTIVES, *SCORES, *WRAPPED], ids=lambda o: o.name)
def test_who_pulls_where(objective: Objective) -> None:
    """Reals around 2, fakes G(z) = z + shift around 0, D(x) = slope x.

    D must want a greater slope, which scores reals higher than fakes. G must want to move its fakes to where D scores
    high: right, if the slope is positive, left, if it is negative.
    """
    z = np.linspace(-1, 1, 9)
    for value, sign in ((0.1, 1), (-0.5, -1), (0.4, 1)):
        slope, shift = tensor(value), tensor(0.0)
        mg.backward(objective.d(slope * (2 + z), slope * z))
        assert slope.grad < 0  # descent makes it greater
        D = mg.Tensor(np.array(value))
        mg.backward(g_loss(objective, D * (shift + z), D * (2 + z)))
        assert np.sign(-shift.grad) == sign


@pytest.mark.parametrize("l", [-40.0, -2.0, 0.0, 2.0, 40.0])
def test_the_gradients_that_g_gets(l: float) -> None:
    """By a fake's logit: -s(l) of minimax, vanishing where D is sure of a fake; s(l) - 1 of non-saturating; -1."""
    s = 1 / (1 + math.exp(-l))
    for objective, wanted in zip(OBJECTIVES, (-s, -1 / (1 + math.exp(l)), -1.0), strict=True):
        logit = tensor([[l]])
        objective.g(logit).backward()
        np.testing.assert_allclose(logit.grad, [[wanted]], rtol=1e-12)


def test_minimax_is_a_zero_sum_game() -> None:
    """What D gains by a fake's logit, G loses."""
    real, fake = tensor([1.0, -2.0]), tensor([0.3, 5.0])
    (MINIMAX.d(real, fake) + MINIMAX.g(fake)).backward()
    np.testing.assert_allclose(fake.grad, 0, atol=1e-15)


def test_losses_are_means() -> None:
    """A batch twice as large has the same loss: the learning rate does not depend on the batch size."""
    real, fake = tensor([[1.0], [-2.0]]), tensor([[0.3], [5.0]])
    for o in [*OBJECTIVES, *SCORES, *WRAPPED]:
        twice = mg.ops.concatenate([real, real]), mg.ops.concatenate([fake, fake])
        assert o.d(*twice).item() == pytest.approx(o.d(real, fake).item())
        assert g_loss(o, twice[1], twice[0]).item() == pytest.approx(g_loss(o, fake, real).item())


def test_what_outputs_mean() -> None:
    assert [o.output for o in [*OBJECTIVES, *SCORES]] == ["logit", "logit", "critic", "score", "score", "score"]
    assert [o.critic for o in [*OBJECTIVES, *SCORES]] == [False, False, True, False, False, False]
    assert [o.needs_real for o in [*OBJECTIVES, *SCORES]] == [False] * 5 + [True]
    assert [(o.output, o.needs_real) for o in (smoothed(MINIMAX), drifting(RELATIVISTIC), drifting(WASSERSTEIN))] == [
        ("logit", False),
        ("score", True),
        ("critic", False),
    ]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_by_hand() -> None:
    """Two reals, 2 and -0.5, two fakes, 0.3 and -3."""
    real, fake = tensor([[2.0], [-0.5]]), tensor([[0.3], [-3.0]])
    wanted = {
        LEAST_SQUARES: ((1 + 1.5**2 + 0.3**2 + 3**2) / 4, (0.7**2 + 4**2) / 4),
        HINGE: ((0 + 1.5 + 1.3 + 0) / 2, (-0.3 + 3) / 2),
        RELATIVISTIC: (  # the means are 0.75 and -1.35
            (softplus(-3.35) + softplus(-0.85) + softplus(-0.45) + softplus(-3.75)) / 2,
            (softplus(0.45) + softplus(3.75) + softplus(3.35) + softplus(0.85)) / 2,
        ),
        smoothed(NON_SATURATING, 0.75): (
            (0.75 * (softplus(-2) + softplus(0.5)) + 0.25 * (softplus(2) + softplus(-0.5))) / 2
            + (softplus(0.3) + softplus(-3)) / 2,
            (softplus(-0.3) + softplus(3)) / 2,
        ),
        drifting(WASSERSTEIN, 0.1): (-1.35 - 0.75 + 0.1 * (4 + 0.25) / 2, 1.35),
    }
    for o, (d, g) in wanted.items():
        assert o.d(real, fake).item() == pytest.approx(d), o.name
        assert g_loss(o, fake, real).item() == pytest.approx(g), o.name


@pytest.mark.parametrize("objective", [*SCORES, *WRAPPED], ids=lambda o: o.name)
def test_gradients_by_differences(objective: Objective) -> None:
    """Of both losses, by both batches, which need not be equally large."""
    real, fake = np.array([[2.1], [-0.4], [0.7]]), np.array([[0.3], [-3.1]])
    mg.gradcheck(objective.d, [real, fake])
    mg.gradcheck(lambda x, y: g_loss(objective, y, x), [real, fake])


def test_outputs_of_both_shapes() -> None:
    """(N, 1) and (N,) are the same: nothing is broadcast to (N, N)."""
    real, fake = np.array([2.1, -0.4, 0.7]), np.array([0.3, -3.1])
    for o in [*OBJECTIVES, *SCORES, *WRAPPED]:
        flat, column = (tensor(real), tensor(fake)), (tensor(real[:, None]), tensor(fake[:, None]))
        assert o.d(*flat).item() == o.d(*column).item()
        assert g_loss(o, flat[1], flat[0]).item() == g_loss(o, column[1], column[0]).item()


def test_the_roles_of_a_relativistic_game_are_swapped() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=5), 1 + rng.normal(size=3)
    real_wins, fake_wins = real - fake.mean(), fake - real.mean()
    d = np.log(1 + np.exp(-real_wins)).mean() + np.log(1 + np.exp(fake_wins)).mean()
    g = np.log(1 + np.exp(real_wins)).mean() + np.log(1 + np.exp(-fake_wins)).mean()
    assert RELATIVISTIC.d(tensor(real), tensor(fake)).item() == pytest.approx(d)
    assert RELATIVISTIC.g(tensor(fake), tensor(real)).item() == pytest.approx(g)


def test_smoothing_changes_nothing_but_the_target_of_reals() -> None:
    real, fake = tensor([1.0, -2.0]), tensor([0.3, 5.0])
    assert smoothed(NON_SATURATING, 1.0).d(real, fake).item() == NON_SATURATING.d(real, fake).item()
    assert smoothed(NON_SATURATING).g is NON_SATURATING.g
    gradients = []
    for o in (NON_SATURATING, smoothed(NON_SATURATING)):
        logits = tensor([0.3, 5.0])
        o.d(real, logits).backward()
        gradients.append(logits.grad)
    np.testing.assert_array_equal(*gradients)


def test_smoothing_in_float32_where_d_is_sure() -> None:
    for value in (90.0, -90.0):
        real = mg.Tensor(np.full((4, 1), value, np.float32), requires_grad=True)
        smoothed(NON_SATURATING).d(real, real.detach()).backward()
        np.testing.assert_allclose(real.grad, 0.1 / 4 if value > 0 else -0.9 / 4, rtol=1e-5)


@pytest.mark.parametrize("objective", [WASSERSTEIN, HINGE, RELATIVISTIC, f_gan("gan")], ids=lambda o: o.name)
def test_what_cannot_be_smoothed(objective: Objective) -> None:
    message = (
        rf"^smoothed: D's output in {objective.name} is a {objective.output}, not a logit, so that D has no target "
        r"that is a probability; smooth MINIMAX or NON_SATURATING$"
    )
    with pytest.raises(ValueError, match=message):
        smoothed(objective)


@pytest.mark.parametrize("objective", [drifting(NON_SATURATING), smoothed(NON_SATURATING)], ids=lambda o: o.name)
def test_smoothing_comes_first(objective: Objective) -> None:
    message = (
        rf"^smoothed: D's loss in {objective.name} is not discriminator_loss, the only one that it knows how to "
        r"change; smooth first, then add other terms$"
    )
    with pytest.raises(ValueError, match=message):
        smoothed(objective)


def test_numbers_that_make_no_sense() -> None:
    for target in (0.0, -0.1, 1.1, math.nan):
        message = rf"^smoothed: real_target is a probability, above 0 and at most 1, not {target}$"
        with pytest.raises(ValueError, match=message):
            smoothed(NON_SATURATING, target)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"^drifting: weight must be finite and at least 0, not {weight}$"):
            drifting(WASSERSTEIN, weight)


def test_the_optimal_discriminator_measures_jensen_shannon() -> None:
    """At D* = p / (p + q) the loss is log 4 - 2 JSD(p, q) (Goodfellow et al. 2014, theorem 1), and no D is better."""
    p, q = NormalDist(0, 1), NormalDist(1.5, 0.7)
    at = (np.arange(20_000) + 0.5) / 20_000
    x, y = (np.array([d.inv_cdf(float(u)) for u in at]) for d in (p, q))  # equally likely points

    def log_density(d: NormalDist, x: Array) -> Array:
        return -((x - d.mean) ** 2) / (2 * d.variance) - math.log(d.stdev)

    def logit(x: Array) -> Array:
        return log_density(p, x) - log_density(q, x)

    grid = np.linspace(-9, 9, 200_001)
    a, b = (np.exp(log_density(d, grid)) / math.sqrt(2 * math.pi) for d in (p, q))
    middle = (a + b) / 2
    tiny = 1e-300
    kl = [(d * np.log((d + tiny) / (middle + tiny))).sum() * (grid[1] - grid[0]) for d in (a, b)]
    jsd = (kl[0] + kl[1]) / 2
    best = NON_SATURATING.d(tensor(logit(x)), tensor(logit(y))).item()
    assert best == pytest.approx(math.log(4) - 2 * jsd, abs=1e-4)
    for change in (0.9, 1.1):
        assert NON_SATURATING.d(tensor(change * logit(x)), tensor(change * logit(y))).item() > best
    assert NON_SATURATING.d(tensor(logit(x) + 0.1), tensor(logit(y) + 0.1)).item() > best


def test_parallel_lines() -> None:
    """Two lines at distance theta (Arjovsky et al. 2017, example 1): the best critic of slope 1 measures theta."""
    lines = np.random.default_rng(0).uniform(size=(100, 2)) * [0, 1]
    for theta in (-2.0, -0.1, 0.0, 0.5, 3.0):
        real, fake = lines + np.array([theta, 0]), lines
        critic = np.array([[np.sign(theta)], [0.0]])
        assert -WASSERSTEIN.d(tensor(real @ critic), tensor(fake @ critic)).item() == pytest.approx(abs(theta))


# ---- in the loop ---------------------------------------------------------------------------------------------------


class Watched(nn.Module):
    """A linear critic that remembers the largest weight of every forward pass."""

    def __init__(self) -> None:
        self.linear = nn.Linear(2, 1)
        self.largest: list[float] = []

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        self.largest.append(float(max(abs(p.array).max() for p in self.parameters())))
        return self.linear(x)


def test_weights_are_clipped_after_the_critic_s_step() -> None:
    """G, and the critic's next step, meet clipped weights."""
    mg.manual_seed(0)
    G, D, data = nn.Linear(2, 2), Watched(), Generator(0, "data")
    game = Game((data.normal((8, 2)) + np.float32(3) for _ in repeat(None)), Generator(0, "latent"), 2, 8)
    optimizers = SGD(G.parameters(), 0.1), SGD(D.parameters(), 0.1)
    players = two_player(G, D, WASSERSTEIN, *optimizers, clip=0.05, d_updates=critic_updates(3))
    rows: list[dict[str, float]] = []
    train(game, players, 4, [lambda step, logs: rows.append(logs)], capture=False)
    assert D.largest[0] > 0.05  # as it was drawn: two forward passes
    assert max(D.largest[2:]) == np.float32(0.05)
    assert len(D.largest) == 4 * (3 * 2 + 1)
    assert rows[-1]["clip_share"] == share_at(D.parameters(), 0.05) > 0
    assert all(row["w_estimate"] > 0 for row in rows)  # the critic is right
    assert rows[0]["w_estimate"] == pytest.approx(-rows[0]["d_loss"], rel=1e-6)
    weights = D.linear.weight.array
    assert rows[-1]["grad_norm"] == pytest.approx(float(np.sqrt((weights**2).sum())), rel=1e-6)


@pytest.mark.parametrize("objective", [*SCORES, f_gan("pearson")], ids=lambda o: o.name)
def test_scores_in_the_loop(objective: Objective) -> None:
    """A G that can only shift its points follows the reals, from 0 to 1; what is logged are means of scores."""
    mg.manual_seed(0)
    G, D, data = nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), Generator(0, "data")
    nn.init.constant_(G.weight, 1.0).requires_grad = False
    nn.init.constant_(G.bias, 0.0)
    game = Game((data.normal((64, 1)) + np.float32(1) for _ in repeat(None)), Generator(0, "latent"), 1, 64)
    players = two_player(G, D, objective, SGD([G.bias], 0.2), SGD(D.parameters(), 0.2))
    rows: list[dict[str, float]] = []
    train(game, players, 60, [lambda step, logs: rows.append(logs)])
    assert set(rows[-1]) == {"d_loss", "g_loss", "score_real", "score_fake"}
    assert float(G.bias.array[0]) == pytest.approx(1, abs=0.35)


def test_share_at_the_clip() -> None:
    assert share_at([mg.Tensor([0.01, -0.01, 0.0]), mg.Tensor([0.005])], 0.01) == 0.5


def test_critic_updates() -> None:
    assert [critic_updates(5)(step) for step in (1, 25, 26, 500)] == [5, 5, 5, 5]
    assert [critic_updates(5, long_phases=True)(step) for step in (1, 25, 26, 499, 500, 501)] == [
        100,
        100,
        5,
        5,
        100,
        5,
    ]


def test_the_wasserstein_estimate_finds_the_distance() -> None:
    """1-D, reals and fakes 2 apart, a critic clipped to slope 1: the estimate becomes 2, though G stands still."""
    mg.manual_seed(0)
    G, D, data = nn.Linear(1, 1, bias=False), nn.Linear(1, 1), Generator(0, "data")
    for p in G.parameters():
        nn.init.constant_(p, 1.0)
    game = Game((data.normal((256, 1)) - np.float32(2) for _ in repeat(None)), Generator(0, "latent"), 1, 256)
    players = two_player(
        G, D, WASSERSTEIN, SGD(G.parameters(), 0.0), SGD(D.parameters(), 0.1), clip=1.0, d_updates=critic_updates(5)
    )
    estimates: list[float] = []
    train(game, players, 40, [lambda step, logs: estimates.append(logs["w_estimate"])])
    assert np.mean(estimates[-20:]) == pytest.approx(2, abs=0.05)
