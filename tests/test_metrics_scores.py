"""The kernel distance, the inception score, distances between samples, labels and copies, by hand and by oracles."""

import re
from math import comb, isnan, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan.data import GRID25, RING8
from minigan.metrics import (
    diversity,
    inception_score,
    kid,
    mean_pairwise_distance,
    memorisation,
    mixture_score,
    nearest_image,
    nearest_label_error,
    neighbours,
    perfect_score,
)
from minigan.metrics.mixtures import PERFECT_SHARE

Array = np.typing.NDArray[Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# ---- the kernel distance -------------------------------------------------------------------------------------------


def test_kid_by_hand() -> None:
    """D = 1: the kernels of 0 and 1 are 1, of 1 and 2 they are 27, of 0 and 2 they are 1, of 1 and 1, 8."""
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    value, error = kid(a, b)
    assert value == 1 + 27 - 2 * (1 + 1 + 8 + 27) / 4
    assert isnan(error)
    assert kid(np.array([[1.0, 1], [1, 1]]), np.array([[-1.0, -1], [-1, -1]])).value == 8 + 8 - 0
    assert kid(np.zeros((3, 2)), np.ones((3, 2))).value == 1 + 8 - 2


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 5))
def test_kid_against_its_definition(seed: int, n: int, D: int) -> None:
    a, b = normal(n, D, seed=seed), normal(n, D, seed=seed + 1) + 0.5

    def k(x: Array, y: Array) -> float:
        return float((x @ y / D + 1) ** 3)

    pairs = [(i, j) for i in range(n) for j in range(n)]
    within = sum(k(x[i], x[j]) for x in (a, b) for i, j in pairs if i != j) / (n * (n - 1))
    expected = within - 2 * sum(k(a[i], b[j]) for i, j in pairs) / n**2
    value, _ = kid(a.astype(np.float32), b.astype(np.float32))
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert kid(b, a).value == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_kid_against_scikit_learn() -> None:
    kernel = pytest.importorskip("sklearn.metrics.pairwise").polynomial_kernel
    a, b = normal(30, 7), normal(30, 7, seed=1)
    within = sum((k := kernel(x, x, degree=3, coef0=1)).sum() - k.trace() for x in (a, b)) / (30 * 29)
    assert kid(a, b).value == pytest.approx(within - 2 * kernel(a, b, degree=3, coef0=1).mean())


def test_kid_has_no_bias_and_knows_its_error() -> None:
    """Of one distribution: mean 0 over many draws, whose deviation is the mean standard error."""
    found = np.array([kid(normal(80, 4, seed=s), normal(80, 4, seed=s + 10**4), 10) for s in range(200)])
    values, errors = found.T
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(200)
    assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.2)
    assert (values < 0).mean() == pytest.approx(0.5, abs=0.2)


def test_kid_of_a_shift_is_its_expectation() -> None:
    """Of N(m, 1) and N(0, 1) in one dimension E k = sum of binomials times products of moments."""

    def moments(m: float) -> list[float]:
        return [1, m, m * m + 1, m**3 + 3 * m]

    def expected(m: float, n: float) -> float:
        return sum(comb(3, p) * x * y for p, (x, y) in enumerate(zip(moments(m), moments(n), strict=True)))

    a, b = normal(20_000, 1) + 0.7, normal(20_000, 1, seed=1)
    value, error = kid(a, b)
    assert abs(value - (expected(0.7, 0.7) + expected(0, 0) - 2 * expected(0.7, 0))) < 4 * error
    assert error < 0.05 * value


def test_kid_uses_all_of_the_smaller_set_and_as_many_of_the_other() -> None:
    a, b = normal(47, 3), normal(60, 3, seed=1)
    parts = [kid(x, y).value for x, y in zip(np.array_split(a, 4), np.array_split(b[:47], 4), strict=True)]
    value, error = kid(a, b, 10)
    assert value == pytest.approx(np.mean(parts))
    assert error == pytest.approx(np.std(parts, ddof=1) / 2)
    assert kid(a, b, 10) == kid(a, b[:47], 10)
    assert kid(b, a, 10).value == pytest.approx(value)
    assert kid(a[:7], b, 10).value == kid(a[:7], b[:7]).value
    assert kid(a[::-1], b[:47][::-1]).value == pytest.approx(kid(a, b).value)


def test_kid_is_blind_to_turns_and_to_constant_features() -> None:
    a, b = normal(20, 4), normal(20, 4, seed=1)
    turn, _ = np.linalg.qr(normal(4, 4, seed=2))
    assert kid(a @ turn, b @ turn).value == pytest.approx(kid(a, b).value)
    assert kid(np.full((9, 3), 2.5), np.full((9, 3), 2.5)).value == pytest.approx(0, abs=1e-10)


BAD_FEATURES = [
    (normal(1, 3), normal(9, 3), "features must be (N, D) of N > 1 samples, but are (1, 3)"),
    (normal(9, 3), normal(9), "features must be (N, D) of N > 1 samples, but are (9,)"),
    (normal(9, 0), normal(9, 0), "features must be (N, D) of N > 1 samples, but are (9, 0)"),
    (normal(9, 3), normal(9, 4), "must be of one length, but are (9, 3) and (9, 4); compute both by the same net"),
    (normal(9, 3), np.full((9, 3), np.nan), "features (9, 3) hold NaN or infinity; look at the images they are of"),
    (normal(9, 3), np.full((9, 3), 1e60), "features of up to 1e+60 are too large for their sixth powers; scale them"),
]


@pytest.mark.parametrize(("a", "b", "text"), BAD_FEATURES)
def test_kid_faults(a: Array, b: Array, text: str) -> None:
    with pytest.raises(ValueError, match=f"^kid: .*{re.escape(text)}"):
        kid(a, b)


def test_kid_refuses_subsets_of_one() -> None:
    with pytest.raises(ValueError, match="^kid: a subset must have 2 or more samples, not 1$"):
        kid(normal(9, 3), normal(9, 3), 1)


# ---- the inception score -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [2, 10])
def test_inception_score_of_each_class_once(K: int) -> None:
    score, marginal, conditional = inception_score(np.tile(np.eye(K), (7, 1)))
    assert (score, marginal) == (pytest.approx(K), pytest.approx(log(K)))
    assert conditional == 0
    assert type(score) is type(marginal) is type(conditional) is float


@pytest.mark.parametrize("row", [[1, 0, 0], [0.2, 0.3, 0.5], [1 / 3] * 3])
def test_inception_score_of_equals_is_1(row: list[float]) -> None:
    assert inception_score(np.array([row] * 6)).score == pytest.approx(1)


def test_inception_score_by_hand() -> None:
    """Half in one of two classes, half torn between them: H(3/4, 1/4) - log 2 / 2."""
    score, marginal, conditional = inception_score(np.array([[1, 0], [0.5, 0.5]], np.float32))
    assert marginal == pytest.approx(log(4) - 3 / 4 * log(3))
    assert conditional == pytest.approx(log(2) / 2)
    assert score == pytest.approx(np.exp(marginal - conditional))


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 6))
def test_inception_score_is_the_mean_divergence(seed: int, N: int, K: int) -> None:
    """exp E KL(p(y|x), p(y)): from 1 to K and to N, blind to the order of samples and classes."""
    draw = np.random.default_rng(seed)
    p = draw.dirichlet(np.full(K, 0.3), N).clip(1e-12)
    p /= p.sum(1, keepdims=True)
    score, marginal, conditional = inception_score(p)
    divergence = (p * np.log(p / p.mean(0))).sum(1).mean()
    assert score == pytest.approx(np.exp(divergence), rel=1e-9)
    assert 1 - 1e-12 <= score <= min(N, K) * (1 + 1e-12)
    assert -1e-12 <= conditional <= marginal + 1e-12 <= log(K) + 1e-9
    assert inception_score(draw.permutation(draw.permutation(p, axis=1))).score == pytest.approx(score)


def test_inception_score_of_rounded_rows_is_that_of_their_shares() -> None:
    p = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert inception_score(p * [[1.0009], [0.9995]]) == pytest.approx(inception_score(p), rel=1e-12)


def test_inception_score_against_scipy() -> None:
    entropy = pytest.importorskip("scipy.stats").entropy
    p = np.random.default_rng(0).dirichlet(np.ones(5), 30)
    found = inception_score(p)
    assert found.marginal == pytest.approx(entropy(p.mean(0)))
    assert found.conditional == pytest.approx(entropy(p, axis=1).mean())


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (np.ones(3), "probabilities must be (N, K), N and K above 0, not (3,)"),
        (np.ones((0, 3)), "probabilities must be (N, K), N and K above 0, not (0, 3)"),
        (np.ones((2, 0)), "probabilities must be (N, K), N and K above 0, not (2, 0)"),
        (np.array([[1, 0], [3, 4]]), "row 1 of the probabilities has a least of 3 and a sum of 7; take a softmax of"),
        (np.array([[1.5, -0.5]]), "row 0 of the probabilities has a least of -0.5 and a sum of 1; take a softmax"),
        (np.array([[0.5, 0.5], [np.nan, 1]]), "row 1 of the probabilities has a least of nan and a sum of nan; take"),
    ],
)  # fmt: skip
def test_inception_score_faults(p: Array, text: str) -> None:
    with pytest.raises(ValueError, match=f"^inception_score: {re.escape(text)}"):
        inception_score(p)


# ---- distances between samples -------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 30), st.sampled_from([np.uint8, np.float32, np.float64]))
def test_mean_pairwise_distance_against_its_definition(seed: int, N: int, dtype: Any) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (N, 3, 2)).astype(dtype)
    wide = x.reshape(N, -1).astype(np.float64)
    expected = np.mean([np.linalg.norm(wide[i] - wide[j]) for i in range(N) for j in range(i)])
    assert mean_pairwise_distance(x) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_mean_pairwise_distance_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(23, 4)
    whole = mean_pairwise_distance(x)
    monkeypatch.setattr(diversity, "CHUNK", 5)
    assert mean_pairwise_distance(x) == pytest.approx(whole, rel=1e-13)
    assert mean_pairwise_distance(x[::-1] + 7) == pytest.approx(whole, rel=1e-13)
    assert mean_pairwise_distance(x * -3) == pytest.approx(3 * whole, rel=1e-13)


def test_mean_pairwise_distance_against_scipy() -> None:
    pdist = pytest.importorskip("scipy.spatial.distance").pdist
    assert mean_pairwise_distance(normal(40, 9)) == pytest.approx(pdist(normal(40, 9)).mean(), rel=1e-12)


def test_mean_pairwise_distance_of_a_collapsed_generator() -> None:
    one = normal(1, 28, 28, 1).astype(np.float32)
    assert mean_pairwise_distance(np.repeat(one, 64, 0)) == 0
    two = np.concatenate([np.repeat(one, 32, 0), np.repeat(-one, 32, 0)])
    assert mean_pairwise_distance(two) == pytest.approx(2 * np.linalg.norm(one) * 32 / 63)
    assert type(mean_pairwise_distance(two)) is float
    close = one + normal(64, 28, 28, 1, seed=1).astype(np.float32) * np.float32(1e-4)
    assert mean_pairwise_distance(close) == pytest.approx(1e-4 * np.sqrt(2 * 784), rel=0.02)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (np.zeros((1, 4)), "takes points (N, ...) of N > 1, not (1, 4)"),
        (np.zeros((3, 0)), "takes points (N, ...) of N > 1, not (3, 0)"),
        (np.array([[0.0], [np.nan]]), "points (2, 1) hold NaN, infinity or numbers beyond 1e150"),
        (np.array([[0.0], [-np.inf]]), "points (2, 1) hold NaN, infinity or numbers beyond 1e150"),
        (np.array([[0.0], [1e200]]), "points (2, 1) hold NaN, infinity or numbers beyond 1e150"),
    ],
)
def test_mean_pairwise_distance_faults(x: Array, text: str) -> None:
    with pytest.raises(ValueError, match=f"^mean_pairwise_distance: {re.escape(text)}$"):
        mean_pairwise_distance(x)


# ---- labels and copies ---------------------------------------------------------------------------------------------


def test_nearest_image_takes_bytes_and_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "IMAGES", 4)
    images = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 1)).astype(np.uint8)
    index, distance = nearest_image(images[[9, 2]].astype(np.float32) / 127.5 - 1, images)
    assert index.tolist() == [9, 2]
    np.testing.assert_allclose(distance, 0, atol=1e-6)
    twice = np.repeat(np.repeat(images, 2, 1), 2, 2)
    index, _ = nearest_image(images[[9, 2]] / 127.5 - 1, twice)
    assert index.tolist() == [9, 2]


def test_nearest_label_error_by_hand() -> None:
    """One pixel: the fakes -1 (class 4), 0 (5), 1 (6). -0.9 and 0.9 find theirs; 0.4 finds 5, and is a 6."""
    fakes, images = (np.array(x).reshape(-1, 1, 1, 1) for x in ([-1.0, 0, 1], [-0.9, 0.9, 0.4]))
    assert nearest_label_error(fakes, np.array([4, 5, 6]), images, np.array([4, 6, 6])) == pytest.approx(1 / 3)
    as_bytes = np.rint((images + 1) * 127.5).astype(np.uint8)
    assert nearest_label_error(fakes, np.array([4, 5, 6]), as_bytes, np.array([4, 6, 5])) == 0


def test_nearest_label_error_against_scikit_learn() -> None:
    model = pytest.importorskip("sklearn.neighbors").KNeighborsClassifier(1)
    draw = np.random.default_rng(0)
    fakes, images = draw.uniform(-1, 1, (80, 3, 3, 1)), draw.uniform(-1, 1, (50, 3, 3, 1))
    fake_labels, labels = draw.integers(0, 3, 80), draw.integers(0, 3, 50)
    model.fit(fakes.reshape(80, -1), fake_labels)
    expected = 1 - model.score(images.reshape(50, -1), labels)
    assert nearest_label_error(fakes, fake_labels, images, labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fake_labels", "labels", "text"),
    [
        (np.zeros(2, "b"), np.zeros(3, int), "fakes (3, 2, 2, 1) need as many whole numbers for labels, not int8 (2,)"),
        (np.zeros(3, int), np.zeros(3), "images (3, 2, 2, 1) need as many whole numbers for labels, not float64 (3,)"),
    ],
)  # fmt: skip
def test_nearest_label_error_faults(fake_labels: Array, labels: Array, text: str) -> None:
    images = np.zeros((3, 2, 2, 1), np.uint8)
    with pytest.raises(ValueError, match=f"^nearest_label_error: {re.escape(text)}$"):
        nearest_label_error(images, fake_labels, images, labels)


def test_memorisation() -> None:
    found = memorisation(np.array([1.0, 2, 30]), np.array([4.0, 4, 4, 100]))
    assert found == {"nearest_train": 2, "nearest_train_of_test": 4, "nearest_ratio": 0.5}
    assert memorisation(np.array([1.0]), np.array([0.0]))["nearest_ratio"] is None


# ---- a perfect sampler ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixture", "modes"), [(RING8, 8), (GRID25, 25)])
def test_perfect_score(mixture: Any, modes: int) -> None:
    found = perfect_score(mixture, 20_000)
    assert found["modes"] == found["modes_filled"] == modes
    assert found["high_quality"] == pytest.approx(PERFECT_SHARE, abs=0.003)
    assert found["kl"] == pytest.approx((modes - 1) / 40_000, abs=5e-4)
    assert found["std_ratio"] == pytest.approx(1, abs=0.02)
    assert found.keys() == mixture_score(np.zeros((1, 2)), mixture).keys()
    assert perfect_score(mixture, 500) == perfect_score(mixture, 500, 0) != perfect_score(mixture, 500, 1)


def test_perfect_score_needs_samples() -> None:
    with pytest.raises(ValueError, match="^perfect_score: takes 1 or more samples, not 0$"):
        perfect_score(RING8, 0)
