"""What maximum likelihood makes of points and of pixels, without a game."""

from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan.data import GRID25, RING8, Mixture
from minigan.gan.baselines import FLOOR, GaussianMixture, em_gaussian_mixture, naive_bayes_pixels
from minigan.metrics import mixture_score
from minigan.random import Generator

MIXTURE = GaussianMixture(
    np.array([[0.0, 0.0], [3.0, -1.0]]),
    np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.2, 0.0], [0.0, 2.0]]]),
    np.array([0.25, 0.75]),
)


# ---- expectation maximisation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [RING8, GRID25], ids=lambda mixture: mixture.name)
def test_em_recovers_separated_modes(mixture: Mixture) -> None:
    K = len(mixture.means)
    fit = em_gaussian_mixture(mixture.sample(2000, Generator(0, "data")), K, Generator(0, "em"))
    distance = np.linalg.norm(mixture.means[:, None] - fit.means, axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(K))
    assert distance.min(axis=1).max() < mixture.sigma / 2
    np.testing.assert_allclose(fit.weights, 1 / K, atol=4 * np.sqrt(1 / K / 2000))
    np.testing.assert_allclose(fit.covariances, [mixture.sigma**2 * np.eye(2)] * K, atol=0.7 * mixture.sigma**2)
    found = mixture_score(fit.sample(5000, Generator(0, "fakes")), mixture)
    assert found["modes_filled"] == K
    assert found["high_quality"] > 0.97


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 3), st.sampled_from([1e-4, 1.0, 1e5]))
def test_the_likelihood_never_falls(seed: int, K: int, D: int, scale: float) -> None:
    """Not even where the floor holds a Gaussian open: half of the points are copies of five."""
    g = Generator(seed, "points")
    x = g.normal((60, D), np.float64)
    x[30:] = x[g.integers(5, 30)]
    fit = em_gaussian_mixture(scale * x, K, g, iterations=30, restarts=1)
    history = np.array(fit.log_likelihood)
    assert (np.diff(history) > -1e-9 * (1 + abs(history[1:]))).all()
    assert 1 <= len(history) <= 31
    assert np.linalg.eigvalsh(fit.covariances).min() > 0.99 * FLOOR * (scale * x).var(axis=0).mean()
    assert fit.weights.sum() == pytest.approx(1)


def test_one_gaussian_is_the_mean_and_the_covariance() -> None:
    x = Generator(0, "x").normal((50, 3), np.float64) @ np.array([[1, 2, 0], [0, 1, 0], [0, 0, 0.1]])
    fit = em_gaussian_mixture(x, 1, Generator(0, "em"))
    np.testing.assert_allclose(fit.means, [x.mean(axis=0)])
    np.testing.assert_allclose(fit.covariances, [np.cov(x.T, bias=True)])
    assert fit.log_likelihood[-1] == pytest.approx(fit.log_density(x).mean())


def test_more_restarts_are_never_worse() -> None:
    x = GRID25.sample(500, Generator(0, "data"))
    ends = [em_gaussian_mixture(x, 25, Generator(3, "em"), restarts=n).log_likelihood[-1] for n in (1, 3, 6)]
    assert ends == sorted(ends)
    again = em_gaussian_mixture(x, 25, Generator(3, "em"), restarts=6)
    assert again.log_likelihood[-1] == ends[-1]


def test_a_gaussian_that_has_lost_all_points_does_no_harm() -> None:
    x = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 20, axis=0) + 1e-3 * Generator(0, "x").normal((60, 2))
    fit = em_gaussian_mixture(x, 30, Generator(0, "em"), iterations=50)
    assert np.isfinite(fit.log_likelihood).all()
    assert np.isfinite(fit.sample(100, Generator(0, "s"))).all()


@pytest.mark.parametrize("scale", [1e-130, 1e130])
def test_small_and_large_units_are_no_other_points(scale: float) -> None:
    x = Generator(0, "x").normal((40, 2), np.float64)
    one, other = (em_gaussian_mixture(points, 3, Generator(0, "em"), 20) for points in (x, scale * x))
    np.testing.assert_allclose(other.means / scale, one.means, rtol=1e-6)
    np.testing.assert_allclose(other.covariances / scale / scale, one.covariances, rtol=1e-6)


def test_density_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    x = 3 * Generator(0, "x").normal((40, 2), np.float64)
    parts = [
        log(w) + stats.multivariate_normal(m, c).logpdf(x)
        for m, c, w in zip(MIXTURE.means, MIXTURE.covariances, MIXTURE.weights, strict=True)
    ]
    np.testing.assert_allclose(MIXTURE.log_density(x), np.logaddexp(*parts))


def test_density_far_away_is_no_infinity() -> None:
    assert np.isfinite(MIXTURE.log_density(np.full((1, 2), 1e6))).all()


def test_samples_have_the_mixtures_moments() -> None:
    x = MIXTURE.sample(100_000, Generator(1, "samples"))
    assert (x.dtype, x.shape) == (np.float32, (100_000, 2))
    np.testing.assert_array_equal(x[:9], MIXTURE.sample(100_000, Generator(1, "samples"))[:9])
    mean = MIXTURE.weights @ MIXTURE.means
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.02)
    offset = MIXTURE.means - mean
    within = np.einsum("k,kij->ij", MIXTURE.weights, MIXTURE.covariances)
    between = np.einsum("k,ki,kj->ij", MIXTURE.weights, offset, offset)
    np.testing.assert_allclose(np.cov(x.T), within + between, atol=0.03)


def test_em_refuses() -> None:
    g, x = Generator(0, "em"), Generator(0, "x").normal((10, 2))
    same = np.ones((10, 2))
    broken = x.copy()
    broken[[1, 4]] = np.nan, np.inf
    for points, K, message in (
        (x[0], 1, r"points must be \(N, D\), N and D at least 1, but are \(2,\)"),
        (x[:0], 1, r"points must be \(N, D\), N and D at least 1, but are \(0, 2\)"),
        (broken, 2, "2 of 10 points are not finite; leave them out"),
        (x, 0, "K must be at least 1, not 0"),
        (
            x, 11,
            "K = 11 needs at least 11 different points, but of 10 points 10 are different; ask for fewer "
            "Gaussians, or give more points",
        ),
        (same, 1, "K = 1 needs at least 2 different points, but of 10 points 1 are different; .*"),
        (
            1e-170 * same * [[i] for i in range(10)], 1,
            "the points span 9e-170, and float64 cannot hold the squares of such distances; scale the points first, "
            "so that they span about 1",
        ),
        (1e200 * x.astype(float), 2, r"the points span \d\.\d+e\+200, and float64 cannot hold .*"),
        (1e308 * np.array([[1.0], [-1.0]]), 1, "the points span inf, and float64 cannot hold .*"),
        (
            np.array([[0.0], [1e-170], [1.0]]), 3,
            "K = 3, but the other points are so near to 2 of them that the squares of the distances are 0 in float64; "
            "ask for fewer Gaussians",
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^em_gaussian_mixture: {message}$"):
            em_gaussian_mixture(points, K, g)
    for option in ("iterations", "restarts"):
        with pytest.raises(ValueError, match=f"^em_gaussian_mixture: {option} must be at least 1, not 0$"):
            em_gaussian_mixture(x, 2, g, **{option: 0})
    with pytest.raises(ValueError, match=r"^log_density: points must be \(N, 2\), as the mixture's, not \(4, 3\)$"):
        MIXTURE.log_density(np.zeros((4, 3)))


# ---- naive Bayes ----------------------------------------------------------------------------------------------------


def drawn(n: int, shape: tuple[int, ...] = (3, 4, 1), values: int = 256) -> Any:
    return Generator(0, "images").integers(values, (n, *shape)).astype(np.uint8)


def test_each_pixel_has_its_own_histogram_of_its_class() -> None:
    images, labels = drawn(300, values=4) * np.uint8(85), np.repeat([3, 3, 7], 100)
    images[labels == 7, 0, 0] = 255
    fakes, found = naive_bayes_pixels(images, labels).sample(30_000, Generator(0, "fakes"))
    assert (fakes.dtype, fakes.shape, found.dtype) == (np.float32, (30_000, 3, 4, 1), np.int64)
    assert set(np.unique(fakes)) == set(np.float32([0, 85, 170, 255]) / np.float32(127.5) - 1)
    assert (found == 3).mean() == pytest.approx(2 / 3, abs=0.01)
    for label in (3, 7):
        for value in (0, 85, 170, 255):
            due = (images[labels == label] == value).mean(axis=0)
            share = (np.rint((fakes[found == label] + 1) * 127.5) == value).mean(axis=0)
            np.testing.assert_allclose(share, due, atol=0.02)


def test_pixels_are_independent_given_the_class_and_colours_are_not() -> None:
    value = drawn(500, (1, 1, 1), 2) * np.uint8(255)
    images = np.tile(value, (1, 1, 2, 3))  # both pixels and all three colours are equal
    fakes, labels = naive_bayes_pixels(images, None).sample(20_000, Generator(0, "fakes"))
    np.testing.assert_array_equal(labels, 0)
    np.testing.assert_array_equal(fakes[..., 0], fakes[..., 2])
    assert abs(np.corrcoef(fakes[:, 0, 0, 0], fakes[:, 0, 1, 0])[0, 1]) < 0.03


def test_naive_bayes_is_repeatable_and_keeps_bytes_exact() -> None:
    model = naive_bayes_pixels(drawn(1), np.array([5], np.uint8))
    fakes, labels = model.sample(2, Generator(0, "fakes"))
    np.testing.assert_array_equal(np.rint((fakes + 1) * 127.5), np.repeat(drawn(1), 2, axis=0))
    np.testing.assert_array_equal(labels, 5)
    model = naive_bayes_pixels(drawn(50), None)
    np.testing.assert_array_equal(model.sample(4, Generator(1, "f"))[0], model.sample(4, Generator(1, "f"))[0])


def test_naive_bayes_refuses() -> None:
    for images in (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 3, 1)), np.zeros((0, 3, 3, 1), np.uint8)):
        with pytest.raises(ValueError, match=r"^naive_bayes_pixels: images must be uint8 \(N, H, W, C\) without an "):
            naive_bayes_pixels(images, None)
    message = r"^naive_bayes_pixels: labels must be integers \(4,\), one an image, but are "
    for labels, shown in (
        (np.zeros(3, int), r"int64 \(3,\)"),
        (np.zeros(4), r"float64 \(4,\)"),
        (np.zeros((4, 1), int), r"int64 \(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=f"{message}{shown}$"):
            naive_bayes_pixels(drawn(4), labels)
