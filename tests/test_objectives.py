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
from minigan.gan.train import share_at
from minigan.optim import SGD
from minigan.random import Generator

OBJECTIVES = [MINIMAX, NON_SATURATING, WASSERSTEIN]
Array = np.ndarray[Any, Any]


def tensor(values: Any) -> mg.Tensor:
    return mg.Tensor(np.asarray(values, np.float64), requires_grad=True)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_who_pulls_where(objective: Objective) -> None:
    """Reals around 2, fakes G(z) = z + shift around 0, D(x) = slope x.

    D must want a greater slope, which scores reals higher than fakes. G must want to move its fakes to where D scores
    high: right, if the slope is positive, left, if it is negative.
    """
    z = np.linspace(-1, 1, 9)
    for value, sign in ((0.1, 1), (-0.5, -1), (0.5, 1)):
        slope, shift = tensor(value), tensor(0.0)
        mg.backward(objective.d(slope * (2 + z), slope * z))
        assert slope.grad < 0  # descent makes it greater
        mg.backward(objective.g(mg.Tensor(np.array(value)) * (shift + z)))
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
    for o in OBJECTIVES:
        twice = mg.ops.concatenate([real, real]), mg.ops.concatenate([fake, fake])
        assert o.d(*twice).item() == pytest.approx(o.d(real, fake).item())
        assert o.g(twice[1]).item() == pytest.approx(o.g(fake).item())


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
    train(game, players, 4, [lambda step, logs: rows.append(logs)])
    assert D.largest[0] > 0.05  # as it was drawn: two forward passes
    assert max(D.largest[2:]) == np.float32(0.05)
    assert len(D.largest) == 4 * (3 * 2 + 1)
    assert rows[-1]["clip_share"] == share_at(D.parameters(), 0.05) > 0
    assert all(row["w_estimate"] > 0 for row in rows)  # the critic is right
    assert rows[0]["w_estimate"] == pytest.approx(-rows[0]["d_loss"], rel=1e-6)
    weights = D.linear.weight.array
    assert rows[-1]["grad_norm"] == pytest.approx(float(np.sqrt((weights**2).sum())), rel=1e-6)


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
