"""f-GAN: every row of the table against the definitions, and the bound against divergences by quadrature."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigan as mg
from minigan.gan.fgan import DIVERGENCES, Divergence, f_gan
from minigan.gan.objectives import MINIMAX, NON_SATURATING

Array = np.ndarray[Any, Any]
ROWS = pytest.mark.parametrize("row", DIVERGENCES.values(), ids=list(DIVERGENCES))

BEST: dict[str, Callable[[Array], Array]] = {
    "kl": lambda r: 1 + r,
    "reverse-kl": lambda r: r,
    "pearson": lambda r: 2 * np.expm1(r),
    "neyman": lambda r: 2 * r,
    "hellinger": lambda r: r / 2,
    "js": lambda r: r,
    "gan": lambda r: r,
    "tv": lambda r: 40 * np.sign(r),
}
"""The best V for a log density ratio r, solved by hand from g_f(V) = f'(e^r). For tv the best is infinite."""


def tensor(values: Any) -> mg.Tensor:
    return mg.Tensor(np.asarray(values, np.float64), requires_grad=True)


def T(row: Divergence, v: Array) -> Array:  # noqa: N802
    return row.activation(tensor(v)).array


# ---- the table -------------------------------------------------------------------------------------------------------


@ROWS
def test_the_conjugate_is_a_supremum(row: Divergence) -> None:
    """sup_u (u t - f(u)) on a grid of u, for t that are reached."""
    u = np.exp(np.linspace(-14, 14, 60_001))
    t = T(row, np.linspace(-0.95 if row.name == "pearson" else -3, 3, 25))  # pearson below t = -2: see the table
    supremum = np.array([(u * one - row.f(u)).max() for one in t])
    np.testing.assert_allclose(supremum, row.conjugate(t), rtol=1e-6, atol=2e-6)


@ROWS
def test_the_activation_rises_within_the_domain(row: Divergence) -> None:
    low, high = row.domain
    t = T(row, np.linspace(-600, 600, 2001))
    assert (t >= low).all()
    assert (t <= high).all()
    assert (np.diff(t) >= 0).all()
    middle = T(row, np.linspace(-5, 5, 2001))
    assert (np.diff(middle) > 0).all()
    if math.isfinite(high):
        assert middle.max() > high - 0.01  # it gets anywhere near the end
    if math.isfinite(low):
        assert middle.min() < low + 0.01


@ROWS
def test_the_simplified_conjugate(row: Divergence) -> None:
    v = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(row.conjugate_of_activation(tensor(v)).array, row.conjugate(T(row, v)), atol=1e-11)


@ROWS
def test_the_threshold_is_the_slope_of_f_at_1(row: Divergence) -> None:
    h = 1e-6
    slope = (row.f(np.array(1 + h)) - row.f(np.array(1 - h))) / (2 * h)
    assert row.threshold == pytest.approx(slope, abs=1e-8)
    assert T(row, BEST[row.name](np.array(0.0))) == pytest.approx(row.threshold)
    assert row.f(np.array(1.0)) == pytest.approx(-math.log(4) if row.name == "gan" else 0)


@ROWS
def test_the_best_v_is_where_t_is_the_slope_of_f(row: Divergence) -> None:
    r = np.array([-2.0, -0.5, 0.7, 2.0])
    u, h = np.exp(r), 1e-6
    np.testing.assert_allclose(T(row, BEST[row.name](r)), (row.f(u + h) - row.f(u - h)) / (2 * h), rtol=1e-6, atol=1e-7)


# ---- the bound -------------------------------------------------------------------------------------------------------

GRID = np.linspace(-14, 14, 200_001)
STEP = GRID[1] - GRID[0]
MEAN, SIGMA = 0.5, 1.1  # of fakes; reals have 0, 1. Neyman's divergence is finite while SIGMA^2 < 2, Pearson's > 1/2


def log_density(x: Array, mean: float, sigma: float) -> Array:
    return -(((x - mean) / sigma) ** 2) / 2 - math.log(sigma * math.sqrt(2 * math.pi))


def ratio(x: Array) -> Array:
    """log p / q."""
    return log_density(x, 0, 1) - log_density(x, MEAN, SIGMA)


def bound(row: Divergence, v: Array, x: Array = GRID) -> float:
    """E_P g(V) - E_Q f*(g(V)) by the trapezoidal rule."""
    p, q = np.exp(log_density(x, 0, 1)), np.exp(log_density(x, MEAN, SIGMA))
    return float((p * T(row, v) - q * row.conjugate_of_activation(tensor(v)).array).sum() * (x[1] - x[0]))


def divergence(row: Divergence, x: Array = GRID) -> float:
    return float((np.exp(log_density(x, MEAN, SIGMA)) * row.f(np.exp(ratio(x)))).sum() * (x[1] - x[0]))


@ROWS
def test_the_bound_at_the_best_v_is_the_divergence(row: Divergence) -> None:
    assert bound(row, BEST[row.name](ratio(GRID))) == pytest.approx(divergence(row), abs=1e-6)


def test_divergences_of_gaussians_in_closed_form() -> None:
    """Those that have one: the quadrature, and the names of the rows, are right."""
    forward = math.log(SIGMA) + (1 + MEAN**2) / (2 * SIGMA**2) - 1 / 2
    backward = -math.log(SIGMA) + (SIGMA**2 + MEAN**2) / 2 - 1 / 2
    affinity = math.sqrt(2 * SIGMA / (1 + SIGMA**2)) * math.exp(-(MEAN**2) / (4 * (1 + SIGMA**2)))
    p, q = np.exp(log_density(GRID, 0, 1)), np.exp(log_density(GRID, MEAN, SIGMA))
    wanted = {
        "kl": forward, "reverse-kl": backward, "hellinger": 2 - 2 * affinity,
        "pearson": (p**2 / q).sum() * STEP - 1, "neyman": (q**2 / p).sum() * STEP - 1,
        "tv": abs(p - q).sum() * STEP / 2,
        "js": sum((d * np.log(2 * d / (p + q))).sum() * STEP for d in (p, q)),
    }  # fmt: skip
    wanted["gan"] = wanted["js"] - math.log(4)
    assert wanted.keys() == DIVERGENCES.keys()
    for name, value in wanted.items():
        assert divergence(DIVERGENCES[name]) == pytest.approx(value, abs=1e-8), name


@ROWS
@settings(max_examples=25)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.floats(0, 1))
def test_no_v_gives_more(row: Divergence, waves: list[float], share: float) -> None:
    """Wild functions, and the best one, a little disturbed. It holds at every x, so a coarse grid will do."""
    x = GRID[::1000]
    wild = np.sum([a * np.sin((k + 1) * x / 2 + k) for k, a in enumerate(waves)], axis=0)
    best = BEST[row.name](ratio(x))
    for v in (wild, best + share * wild, (1 - share / 10) * best):
        assert bound(row, v, x) <= divergence(row, x) + 1e-12


# ---- the objective ---------------------------------------------------------------------------------------------------


@ROWS
def test_the_losses(row: Divergence) -> None:
    real, fake = np.array([[0.3], [-1.0], [2.0]]), np.array([[-0.7], [0.1]])
    o = f_gan(row.name)
    assert o.output == "score"
    assert not o.needs_real
    assert o.d(tensor(real), tensor(fake)).item() == pytest.approx(
        row.conjugate(T(row, fake)).mean() - T(row, real).mean()
    )
    assert o.g(tensor(fake)).item() == pytest.approx(-T(row, fake).mean())
    saturating = f_gan(row.name, saturating=True)
    assert saturating.g(tensor(fake)).item() == pytest.approx(-row.conjugate(T(row, fake)).mean())
    assert saturating.d(tensor(real), tensor(fake)).item() == o.d(tensor(real), tensor(fake)).item()
    assert (o.name, saturating.name) == (f"f-gan {row.name}", f"f-gan {row.name}, saturating")


def test_the_gan_among_them() -> None:
    real, fake = tensor([1.0, -2.0]), tensor([0.3, 5.0])
    assert f_gan("gan").d(real, fake).item() == pytest.approx(NON_SATURATING.d(real, fake).item())
    assert f_gan("gan").g(fake).item() == pytest.approx(NON_SATURATING.g(fake).item())
    assert f_gan("gan", saturating=True).g(fake).item() == pytest.approx(MINIMAX.g(fake).item())


@ROWS
@pytest.mark.parametrize("saturating", [False, True])
def test_who_pulls_where(row: Divergence, saturating: bool) -> None:
    """D raises real outputs above the threshold and lowers fakes; G raises fakes."""
    o = f_gan(row.name, saturating)
    equal = BEST[row.name](np.array([0.0]))
    real, fake = tensor(equal), tensor(equal)
    o.d(real, fake).backward()
    assert real.grad < 0 < fake.grad
    fake = tensor(equal)
    o.g(fake).backward()
    assert fake.grad < 0


@ROWS
def test_sure_outputs_in_float32(row: Divergence) -> None:
    """No logarithm of a probability that was rounded to 0; as of softplus, gradients of 1 where D is wrong."""
    sure = 200.0 if row.name in ("js", "gan", "tv") else 80.0  # the others grow like e^v
    for value in (sure, -sure):
        real, fake = (mg.Tensor(np.full((4, 1), v, np.float32), requires_grad=True) for v in (value, -value))
        loss = f_gan(row.name).d(real, fake)
        loss.backward()
        assert np.isfinite(loss.item())
        assert np.isfinite(real.grad).all()
        assert np.isfinite(fake.grad).all()
        if value < 0 and row.name in ("js", "gan"):
            np.testing.assert_allclose(real.grad, -1 / 4, rtol=1e-6)
            np.testing.assert_allclose(fake.grad, 1 / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "rest"), [("kll", "did you mean 'kl'? There are kl"), ("Wasserstein distance", "there are kl")]
)
def test_an_unknown_divergence(name: str, rest: str) -> None:
    with pytest.raises(ValueError, match="f_gan") as caught:
        f_gan(name)
    wanted = f"f_gan: there is no divergence {name!r}; {rest}, reverse-kl, pearson, neyman, hellinger, js, gan, tv"
    assert str(caught.value) == wanted
