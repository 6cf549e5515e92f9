"""What each objective is said to find, found: the best D and its loss, by hand, by quadrature, and by training."""

import math
from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigan as mg
from minigan import nn
from minigan.gan.fgan import f_gan
from minigan.gan.objectives import (
    HINGE,
    LEAST_SQUARES,
    MINIMAX,
    NON_SATURATING,
    RELATIVISTIC,
    WASSERSTEIN,
    Objective,
    drifting,
    smoothed,
)
from minigan.gan.penalties import gradient_penalty
from minigan.optim import Adam
from minigan.random import Generator

Array = np.ndarray[Any, Any]


def tensor(values: Any) -> mg.Tensor:
    return mg.Tensor(np.asarray(values, np.float64), requires_grad=True)


def logit(p: Array) -> Array:
    return np.log(p) - np.log1p(-p)


# ---- a few places: D is any vector, every expectation a finite sum ---------------------------------------------------


class Places:
    """Two distributions over K places, as batches that visit place k counts[k] times."""

    def __init__(self, reals: list[int], fakes: list[int]) -> None:
        self.p, self.q = (np.array(counts) / sum(counts) for counts in (reals, fakes))
        self.real, self.fake = (np.repeat(np.arange(len(counts)), counts) for counts in (reals, fakes))

    def loss(self, objective: Objective, v: Array) -> tuple[float, Array]:
        """D's loss if it answers v[k] at place k, and its gradient by v."""
        answers = tensor(v)
        loss = objective.d(answers[self.real], answers[self.fake])
        loss.backward()
        return loss.item(), answers.grad

    def entropy_of_telling(self) -> float:
        """log 4 - 2 JSD."""
        p, q = self.p, self.q
        return float(-(p * np.log(p / (p + q)) + q * np.log(q / (p + q))).sum())


counts = st.lists(st.integers(1, 9), min_size=4, max_size=4)
places = st.builds(Places, counts, counts)

BEST: dict[str, tuple[Objective, Callable[[Array, Array], Array]]] = {
    "minimax": (MINIMAX, lambda p, q: np.log(p / q)),
    "non-saturating": (NON_SATURATING, lambda p, q: np.log(p / q)),
    "smoothed": (smoothed(NON_SATURATING, 0.9), lambda p, q: logit(0.9 * p / (p + q))),
    "least-squares": (LEAST_SQUARES, lambda p, q: p / (p + q)),
    "drifting critic": (drifting(WASSERSTEIN, 0.1), lambda p, q: (p - q) / (0.2 * p)),
    "kl": (f_gan("kl"), lambda p, q: 1 + np.log(p / q)),
    "reverse-kl": (f_gan("reverse-kl"), lambda p, q: np.log(p / q)),
    "pearson": (f_gan("pearson"), lambda p, q: 2 * (p / q - 1)),
    "neyman": (f_gan("neyman"), lambda p, q: 2 * np.log(p / q)),
    "hellinger": (f_gan("hellinger"), lambda p, q: np.log(p / q) / 2),
    "js": (f_gan("js"), lambda p, q: np.log(p / q)),
    "gan": (f_gan("gan"), lambda p, q: np.log(p / q)),
}


@pytest.mark.parametrize("name", BEST)
@settings(max_examples=20)
@given(places, st.integers(0, 99))
def test_the_best_d(name: str, at: Places, seed: int) -> None:
    """The loss is stationary there, and higher elsewhere."""
    objective, best = BEST[name]
    v = best(at.p, at.q)
    loss, gradient = at.loss(objective, v)
    np.testing.assert_allclose(gradient, 0, atol=1e-13)
    step = np.random.default_rng(seed).standard_normal(v.shape)
    for size in (0.1, -0.1, 1.0):
        assert at.loss(objective, v + size * step)[0] > loss


@settings(max_examples=20)
@given(places, st.integers(0, 99))
def test_the_best_d_of_the_hinge_is_a_sign(at: Places, seed: int) -> None:
    """Its loss is 2 - 2 TV. It is best, but not stationary: it lies on the hinge."""
    v = np.sign(at.p - at.q)
    loss, _ = at.loss(HINGE, v)
    assert loss == pytest.approx(2 - abs(at.p - at.q).sum())
    for change in np.random.default_rng(seed).standard_normal((20, len(v))):
        assert at.loss(HINGE, v + change)[0] >= loss - 1e-12


@settings(max_examples=20)
@given(places)
def test_losses_of_the_best_d(at: Places) -> None:
    p, q = at.p, at.q
    assert at.loss(NON_SATURATING, np.log(p / q))[0] == pytest.approx(at.entropy_of_telling())
    assert at.loss(LEAST_SQUARES, p / (p + q))[0] == pytest.approx((p * q / (p + q)).sum() / 2)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.floats(0.5, 1.0))
def test_where_fakes_are_perfect(same: list[int], target: float) -> None:
    """p = q: D answers 1/2; smoothed, target / 2, 0.45 by default;"""
    at = Places(same, same)
    ones = np.ones(len(same))
    for objective, answer in (
        (NON_SATURATING, 0.0),
        (smoothed(NON_SATURATING), math.log(0.45 / 0.55)),
        (smoothed(MINIMAX, target), math.log(target / (2 - target))),
        (LEAST_SQUARES, 0.5),
        (RELATIVISTIC, 3.0),  # any constant
        (f_gan("kl"), 1.0),
    ):
        np.testing.assert_allclose(at.loss(objective, answer * ones)[1], 0, atol=1e-14)
    assert at.loss(RELATIVISTIC, 3 * ones)[0] == pytest.approx(math.log(4))
    assert at.loss(f_gan("kl"), ones)[0] == pytest.approx(0)  # minus the divergence


@pytest.mark.parametrize("share", [1, 3, 7, 9])
def test_the_best_relativistic_d(share: int) -> None:
    """Two places, p = (a, 1 - a), q = (1 - a, a): by symmetry D = (c, -c), and c solves one equation."""
    a = share / 10

    def slope(c: float) -> float:
        """Of the loss by c / 2, by hand."""
        s = lambda l: 1 / (1 + math.exp(-l))  # noqa: E731
        m = c * (2 * a - 1)  # E D(x) = m, E D(G(z)) = -m
        wrong = a * s(-m - c) + (1 - a) * s(-m + c)
        return (1 - a) * (s(c - m) + wrong) - a * (s(-m - c) + wrong)

    low, high = -30.0, 30.0
    for _ in range(100):
        c = (low + high) / 2
        low, high = (low, c) if slope(c) > 0 else (c, high)
    assert np.sign(c) == np.sign(a - 0.5)
    at = Places([share, 10 - share], [10 - share, share])
    for shift in (0.0, -4.0):  # a constant changes nothing
        loss, gradient = at.loss(RELATIVISTIC, np.array([c, -c]) + shift)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
        assert loss < math.log(4)
        assert at.loss(RELATIVISTIC, np.array([c + 0.1, -c]) + shift)[0] > loss


# ---- trained ---------------------------------------------------------------------------------------------------------

P, Q = NormalDist(0, 1), NormalDist(1, 1.2)


def densities(x: Array) -> list[Array]:
    return [np.array([d.pdf(float(one)) for one in x]) for d in (P, Q)]


def trained(objective: Objective, steps: int = 250) -> tuple[Callable[[Array], Array], float]:
    """A small D, and minus its last loss, on 256 equally likely points of P and of Q."""
    points = (np.arange(256) + 0.5) / 256
    x = mg.Tensor(np.array([[d.inv_cdf(float(u))] for d in (P, Q) for u in points]))
    D = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)).astype(np.float64)
    optimizer = Adam(D.parameters(), betas=(0.5, 0.99))
    for step in range(steps):
        optimizer.lr = 0.1 * (1 - step / steps)
        optimizer.zero_grad()
        v = D(x)
        loss = objective.d(v[:256], v[256:])
        loss.backward()
        optimizer.step()
    return lambda x: D(mg.Tensor(x[:, None])).array[:, 0], -loss.item()


def test_a_trained_d_comes_near_the_density_ratio_and_jensen_shannon() -> None:
    D, value = trained(NON_SATURATING)
    x = np.linspace(-2, 3, 101)
    p, q = densities(x)
    assert abs(1 / (1 + np.exp(-D(x))) - p / (p + q)).max() < 0.03
    grid = np.linspace(-9, 9, 2001)
    p, q = densities(grid)
    jsd = sum((d * np.log(2 * d / (p + q))).sum() for d in (p, q)) * (grid[1] - grid[0]) / 2
    assert (value + math.log(4)) / 2 == pytest.approx(jsd, abs=0.003)


@pytest.mark.parametrize(
    ("objective", "best", "tolerance"),
    [
        (LEAST_SQUARES, lambda p, q: p / (p + q), 0.03),
        (smoothed(NON_SATURATING), lambda p, q: logit(0.9 * p / (p + q)), 0.15),
        (f_gan("kl"), lambda p, q: 1 + np.log(p / q), 0.15),
    ],
    ids=["least-squares", "smoothed", "kl"],
)
def test_other_trained_ds(objective: Objective, best: Any, tolerance: float) -> None:
    D, value = trained(objective)
    x = np.linspace(-1.5, 2.5, 101)
    assert abs(D(x) - best(*densities(x))).max() < tolerance
    if objective.name == "f-gan kl":
        kl = math.log(Q.stdev) + (1 + Q.mean**2) / (2 * Q.variance) - 1 / 2
        assert value == pytest.approx(kl, abs=0.01)


# ---- parallel lines (Arjovsky et al. 2017, example 1) ---------------------------------------------------------------


def lines(theta: float) -> tuple[Array, Array]:
    """Reals (theta, y), fakes (0, y), y on a grid of [0, 1)."""
    y = (np.arange(64) + 0.5) / 64
    return np.stack([np.full(64, theta), y], axis=1), np.stack([np.zeros(64), y], axis=1)


@pytest.mark.parametrize("theta", [-2.0, -0.01, 0.0, 0.01, 0.5, 2.0])
def test_jensen_shannon_of_parallel_lines(theta: float) -> None:
    """log 2 at any distance but 0: a D that is steep enough tells all apart. It says not where G should go."""
    steepness = 1e4 * np.sign(theta)
    real, fake = (steepness * (points[:, 0] - theta / 2) for points in lines(theta))
    loss = NON_SATURATING.d(tensor(real), tensor(fake))
    assert (math.log(4) - loss.item()) / 2 == pytest.approx(math.log(2) if theta else 0.0, abs=1e-12)
    if theta:
        logits = tensor(fake)
        MINIMAX.g(logits).backward()
        assert abs(logits.grad).max() < 1e-20


@pytest.mark.parametrize("theta", [-2.0, 0.0, 0.01, 0.5])
def test_wasserstein_of_parallel_lines(theta: float) -> None:
    pytest.importorskip("scipy")
    from minigan.metrics import exact_w1

    assert exact_w1(*lines(theta)) == pytest.approx(abs(theta), abs=1e-12)


@pytest.mark.parametrize("one_sided", [False, True], ids=["wgan-gp", "wgan-lp"])
def test_a_penalized_critic_of_parallel_lines(one_sided: bool) -> None:
    """A linear critic c x of lines 2 apart loses -2 c + weight (c - 1)^2: c = 1 + 1 / weight, and it estimates 2 c."""
    theta, weight = 2.0, 10.0
    real, fake = lines(theta)
    critic = nn.Linear(2, 1).astype(np.float64)
    optimizer = Adam(critic.parameters())
    penalty = partial(gradient_penalty, generator=Generator(0, "e"), weight=weight, one_sided=one_sided)
    for step in range(120):
        optimizer.lr = 0.1 * (1 - step / 120)
        optimizer.zero_grad()
        loss = WASSERSTEIN.d(critic(mg.Tensor(real)), critic(mg.Tensor(fake)))
        term, logs = penalty(critic, real, fake)
        (loss + term).backward()
        optimizer.step()
    assert logs["grad_norm"] == pytest.approx(1 + 1 / weight, abs=1e-3)
    assert -loss.item() == pytest.approx(theta * (1 + 1 / weight), abs=2e-3)


def test_a_small_net_under_the_penalty_reaches_slope_1() -> None:
    theta = 0.5
    real, fake = lines(theta)
    critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).astype(np.float64)
    optimizer = Adam(critic.parameters())
    penalty = partial(gradient_penalty, generator=Generator(0, "e"))
    for step in range(120):
        optimizer.lr = 0.04 * (1 - step / 120)
        optimizer.zero_grad()
        loss = WASSERSTEIN.d(critic(mg.Tensor(real)), critic(mg.Tensor(fake)))
        term, logs = penalty(critic, real, fake)
        (loss + term).backward()
        optimizer.step()
    assert logs["grad_norm"] == pytest.approx(1, abs=0.1)
    assert -loss.item() == pytest.approx(theta, abs=0.05)
