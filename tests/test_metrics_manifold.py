"""Neighbourhoods of real and generated points: against brute force, closed forms, and where all is tied."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan.metrics import density_coverage, manifold, precision_recall, two_sample_accuracy
from minigan.metrics.manifold import manifold_scores, radii

Array = np.typing.NDArray[Any]
Scores = tuple[float, ...]


def normal(n: int, D: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def distances(a: Array, b: Array) -> Array:
    """Exact squared distances (N, M) of small whole numbers."""
    return ((a[:, None].astype(np.float64) - b) ** 2).sum(2)


def by_definition(real: Array, fake: Array, k: int) -> Scores:
    """All seven numbers, word for word as the papers have them."""
    real_radii, fake_radii = (np.sort(distances(x, x) + np.diag([-1.0] * len(x)), axis=1)[:, k] for x in (real, fake))
    across = distances(real, fake)
    in_real, in_fake = across <= real_radii[:, None], across <= fake_radii
    return (
        *(in_real.any(0).mean(), in_fake.any(1).mean()),
        *(in_real.sum() / (k * len(fake)), in_real.any(1).mean()),
    )


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Array, Array, int]:
    """Real and fake points of few whole coordinates, so that many are tied and many are copies."""
    k, D = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    counts = [k + draw(st.integers(1, 12)) for _ in range(2)]
    values = np.random.default_rng(draw(st.integers(0, 10**6)))
    high = draw(st.sampled_from([1, 3, 20]))
    real, fake = (values.integers(0, high, (n, D)) * values.choice([1.0, 0.1]) for n in counts)
    return real, fake, k


@given(clouds())
def test_against_the_definitions(drawn: tuple[Array, Array, int]) -> None:
    real, fake, k = drawn
    expected = by_definition(real, fake, k)
    found = (*precision_recall(real, fake, k), *density_coverage(real, fake, k))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(clouds())
def test_two_sample_accuracy_against_the_definition(drawn: tuple[Array, Array, int]) -> None:
    real, fake = (x[: min(map(len, drawn[:2]))] for x in drawn[:2])
    n = len(real)
    every = distances(both := np.concatenate([real, fake]), both)
    np.fill_diagonal(every, np.inf)
    own = np.concatenate([every[:n, :n].min(1), every[n:, n:].min(1)])
    other = np.concatenate([every[:n, n:].min(1), every[n:, :n].min(1)])
    shares = (own < other) + 0.5 * (own == other)
    expected = (shares.mean(), shares[:n].mean(), shares[n:].mean())
    np.testing.assert_allclose(two_sample_accuracy(real, fake), expected, rtol=1e-12)


@pytest.mark.parametrize("offset", [0, 100, 1e6])
def test_in_chunks_and_far_from_the_origin(monkeypatch: pytest.MonkeyPatch, offset: float) -> None:
    """There |a|^2 + |b|^2 - 2 ab is all rounding, and each pair is looked at."""
    draw = np.random.default_rng(0)
    real, fake = draw.integers(0, 30, (40, 3)) / 8, draw.integers(0, 30, (40, 3)) / 8
    expected = (*precision_recall(real, fake), *density_coverage(real, fake), *two_sample_accuracy(real, fake))
    monkeypatch.setattr(manifold, "CHUNK", 7)
    real, fake = real + offset, fake + offset
    found = (*precision_recall(real, fake), *density_coverage(real, fake), *two_sample_accuracy(real, fake))
    assert found == expected


def test_radii_where_estimates_are_all_rounding() -> None:
    """At 1e7 |a|^2 + |b|^2 - 2 ab is off by 0.02, and the distances are below 1."""
    x = np.random.default_rng(0).uniform(0, 0.3, (60, 3)) + 1e7
    expected = np.sort(distances(x, x), axis=1)[:, 1:4]
    np.testing.assert_allclose(radii(x, 3), expected, rtol=1e-12)


def test_one_outlier_takes_no_digits_from_the_others() -> None:
    real, fake = normal(60, 4, 0), normal(60, 4, 1)
    near = density_coverage(real, fake)
    far = np.concatenate([fake, np.full((1, 4), 1e9, np.float32)])
    found = density_coverage(real, far)
    assert found.density == pytest.approx(near.density * 60 / 61)
    assert found.coverage == near.coverage
    assert precision_recall(real, far).precision == pytest.approx(precision_recall(real, fake).precision * 60 / 61)


# ---- what must come out --------------------------------------------------------------------------------------------


def test_copies() -> None:
    x = normal(50, 8, 0)
    assert precision_recall(x, x) == (1, 1)
    density, coverage = density_coverage(x, x)
    assert density > 1
    assert coverage == 1
    assert two_sample_accuracy(x, x) == (0, 0, 0)


def test_copies_of_few() -> None:
    """A collapsed G: nothing it makes is wrong, but most of the real ones are missing."""
    x = normal(64, 8, 0)
    fake = np.repeat(x[:4], 16, 0)
    precision, recall = precision_recall(x, fake)
    assert (precision, recall) == (1, 4 / 64)
    assert density_coverage(x, fake).coverage < 0.5
    overall, of_real, of_fake = two_sample_accuracy(x, fake)
    assert of_fake == 0.5  # as near to the other copies as to the original
    assert 0.5 < of_real <= 60 / 64
    assert overall == (of_real + of_fake) / 2


def test_far_apart() -> None:
    real, fake = normal(50, 4, 0), normal(50, 4, 1) + 100
    assert precision_recall(real, fake) == (0, 0)
    assert density_coverage(real, fake) == (0, 0)
    assert two_sample_accuracy(real, fake) == (1, 1, 1)


def test_on_a_line_by_hand() -> None:
    """The balls of 0, 1, 3, 7 by their nearest: radii 1, 1, 2, 4; those of the fakes 0.5, 4, 20: 3.5, 3.5, 16."""
    real, fake = np.array([[0.0], [1], [3], [7]]), np.array([[0.5], [4], [20]])
    np.testing.assert_array_equal(radii(real, 1)[:, 0], [1, 1, 4, 16])
    assert precision_recall(real, fake, 1) == (2 / 3, 1)
    # 0.5 is in the balls of 0 and 1, 4 in those of 3 and 7
    assert density_coverage(real, fake, 1) == (4 / 3, 1)


def test_all_points_are_one() -> None:
    x = np.ones((9, 3))
    assert precision_recall(x, x) == (1, 1)
    assert density_coverage(x, x, 4) == (9 / 4, 1)
    assert two_sample_accuracy(x, x) == (0.5, 0.5, 0.5)


def test_two_points() -> None:
    real, fake = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]])
    assert precision_recall(real, fake, 1) == (0.5, 1)
    # The nearest of 0 and of 0 are each other, that of the fake 3 is 1, and 1 lies between both zeros' kinds: a half.
    assert two_sample_accuracy(real, fake) == (1 / 8, 1 / 4, 0)


@pytest.mark.parametrize(("N", "M", "k"), [(60, 60, 5), (40, 80, 3), (80, 20, 1)])
def test_expectations_where_the_fakes_are_real(N: int, M: int, k: int) -> None:
    """Over 150 draws: whatever the distribution, density 1 and coverage 1 - product of (N - i) / (N + M - i)."""
    found = np.array([density_coverage(normal(N, 2, s), normal(M, 2, 1000 + s), k) for s in range(150)])
    i = np.arange(1, k + 1)
    expected = [1, 1 - np.prod((N - i) / (N + M - i))]
    error = found.std(0) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - expected) < 4 * error).all()
    assert (error < 0.02).all()


def test_two_sample_accuracy_is_a_half_where_the_fakes_are_real() -> None:
    found = np.array([two_sample_accuracy(normal(60, 2, s), normal(60, 2, 1000 + s)) for s in range(150)])
    # Leaving a point out makes its own kind the rarer: (N - 1) / (2 N - 1).
    assert found.mean(0) == pytest.approx([59 / 119] * 3, abs=0.015)


# ---- what must not matter ------------------------------------------------------------------------------------------


MEASURES: list[Callable[[Array, Array], Scores]] = [precision_recall, density_coverage, two_sample_accuracy]


@pytest.mark.parametrize("measure", MEASURES)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([2.0**-30, 0.25, 2.0**20]))
def test_blind_to_order_scale_and_turns(measure: Callable[[Array, Array], Scores], seed: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    real, fake = normal(30, 3, seed), normal(30, 3, seed + 1) * 1.3
    expected = measure(real, fake)
    assert measure(draw.permutation(real), draw.permutation(fake)) == pytest.approx(expected, rel=1e-12)
    assert measure(real * scale, fake * scale) == expected
    turn, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    assert measure(real @ turn + 2, fake @ turn + 2) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_trade_places() -> None:
    real, fake = normal(40, 3, 0), normal(50, 3, 1) * 0.5
    precision, recall = precision_recall(real, fake)
    assert precision_recall(fake, real) == (recall, precision)
    assert precision > recall


def test_all_at_once_are_the_same() -> None:
    real, fake = normal(40, 6, 0), normal(40, 6, 1) * 1.1
    found = manifold_scores(real, fake)
    expected = (*precision_recall(real, fake), *density_coverage(real, fake), *two_sample_accuracy(real, fake))
    assert tuple(found.values()) == expected
    assert 0 < found["precision"] < 1
    assert 0 < found["recall"] < 1
    assert manifold_scores(real, fake, radii(real, 5)) == found
    assert all(type(value) is float for value in found.values())


# ---- oracles -------------------------------------------------------------------------------------------------------


def test_against_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.neighbors")
    real, fake = normal(120, 6, 0).astype(np.float64), normal(120, 6, 1) * 1.2
    model = sklearn.NearestNeighbors(n_neighbors=4).fit(real)
    np.testing.assert_allclose(np.sqrt(radii(real, 3)), model.kneighbors(real)[0][:, 1:], rtol=1e-10)
    ball = np.array([len(sklearn.NearestNeighbors().fit(fake).radius_neighbors([x], r)[1][0]) for x, r in zip(
        real, np.sqrt(radii(real, 5)[:, 4]), strict=True
    )])  # fmt: skip
    found = density_coverage(real, fake)
    assert found == pytest.approx((ball.sum() / (5 * 120), (ball > 0).mean()))
    both, labels = np.concatenate([real, fake]), np.repeat([0, 1], 120)
    nearest_two = sklearn.NearestNeighbors(n_neighbors=2).fit(both).kneighbors(both)[1]
    right = labels[nearest_two[:, 1]] == labels
    assert two_sample_accuracy(real, fake) == pytest.approx((right.mean(), right[:120].mean(), right[120:].mean()))


def test_against_scipy() -> None:
    cdist = pytest.importorskip("scipy.spatial.distance").cdist
    real, fake = normal(70, 5, 0), normal(60, 5, 1) * 1.2
    spread = np.sort(cdist(real, real), axis=1)[:, 3]
    assert precision_recall(real, fake).precision == pytest.approx((cdist(fake, real) <= spread).any(1).mean())


# ---- what is refused -----------------------------------------------------------------------------------------------

X = np.zeros((9, 2))


@pytest.mark.parametrize(
    ("measure", "arguments", "text"),
    [
        (precision_recall, (X, np.zeros((9, 3))), "points (N, D) of one D, but they are (9, 2), (9, 3)"),
        (precision_recall, (np.zeros(9), np.zeros(9)), "points (N, D) of one D, but they are (9,), (9,)"),
        (precision_recall, (X[:, :0], X[:, :0]), "of one D, but they are (9, 0), (9, 0)"),
        (precision_recall, (X[:3], X), "the neighbour number 3 needs 4 or more real points, but there are 3"),
        (precision_recall, (X, X[:3]), "the neighbour number 3 needs 4 or more fake points, but there are 3"),
        (precision_recall, (X, X, 0), "k must be 1 or more, not 0"),
        (density_coverage, (X[:5], X), "the neighbour number 5 needs 6 or more real points, but there are 5"),
        (density_coverage, (X, X[:0]), "the neighbour number 5 needs 1 or more fake points, but there are 0"),
        (two_sample_accuracy, (X[:1], X[:1]), "the neighbour number 1 needs 2 or more real points, but there are 1"),
        (two_sample_accuracy, (X, X[:8]), "takes as many fakes as real points, but they are 8 and 9: the more"),
        (manifold_scores, (X, X[:8]), "takes as many fakes as real points, not 8 and 9"),
        (precision_recall, (np.full_like(X, np.nan), X), "the real points hold NaN, infinity or numbers beyond 1e+15"),
        (density_coverage, (X, np.full_like(X, -np.inf)), "the fake points hold NaN, infinity or numbers beyond 1e+15"),
        (two_sample_accuracy, (X, np.full_like(X, 1e200)), "fake points hold NaN, infinity or numbers beyond 1e+15"),
    ],
)  # fmt: skip
def test_faults(measure: Callable[..., Any], arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{measure.__name__}: .*{re.escape(text)}"):
        measure(*arguments)


def test_as_many_points_as_neighbours_and_one() -> None:
    x = normal(4, 2, 0)
    assert precision_recall(x, x + 1e3) == (0, 0)
    assert density_coverage(x, x[:1], 3) == (4 / 3, 1)  # each ball reaches to the farthest other point


def test_huge_values() -> None:
    real, fake = normal(20, 3, 0) * 1e13, normal(20, 3, 1) * 1e13
    small = (*precision_recall(real / 1e13, fake / 1e13), *two_sample_accuracy(real / 1e13, fake / 1e13))
    assert (*precision_recall(real, fake), *two_sample_accuracy(real, fake)) == pytest.approx(small)
