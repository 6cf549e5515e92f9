"""Whether samples lie where real ones do, and everywhere there: by the distances to nearest neighbours.

All take real and fake points (N, D): features, or flattened pixels. Distances are Euclidean, and compare as the exact
|a - b| in float64 do, so that ties are ties: a copy is at distance 0 and as far from others as what it copies. No point
is its own neighbour. The surface of a ball belongs to it, which other programs leave out: copies then count less.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .neighbours import nearest

Array = NDArray[Any]

CHUNK = 250
"""Points at a time. 10,000 others then take 20 MB for their squared distances."""

K = 5
"""The most neighbours of a point that any of the usual measures looks at."""

LARGEST = 1e15
"""What `nearest`, in float32, can still square and add up."""


class PrecisionRecall(NamedTuple):
    """precision: the share of fakes that lie among the real ones. recall: the share of real ones among the fakes."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """density: among how many real ones a fake lies, where 1 is what real ones get; it may be more.

    coverage: the share of real ones that have a fake nearby.
    """

    density: float
    coverage: float


class TwoSampleAccuracy(NamedTuple):
    """The shares of all points, of the real and of the fake ones, whose nearest neighbour is of their own kind."""

    overall: float
    real: float
    fake: float


def precision_recall(real: Array, fake: Array, k: int = 3) -> PrecisionRecall:
    """A point lies among others if it is in the ball of any: as far around it as its k-th nearest of its own kind.

    T. Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", 2019. Both grow
    with N, so only equal N and k compare; and one outlier has a large ball, which density and coverage mind less.
    ValueError if the sets are not (N, D) of one D, finite, with more than k points each.
    """
    _check("precision_recall", real, fake, k)
    return _precision_recall(real, fake, radii(real, k)[:, -1], radii(fake, k)[:, -1])


def _precision_recall(real: Array, fake: Array, real_radii: Array, fake_radii: Array) -> PrecisionRecall:
    among_real, _ = balls(fake, real, real_radii)
    among_fake, _ = balls(real, fake, fake_radii)
    return PrecisionRecall(float((among_real > 0).mean()), float((among_fake > 0).mean()))


def density_coverage(real: Array, fake: Array, k: int = 5) -> DensityCoverage:
    """M fakes and the balls around N real points, to the k-th nearest real one: density is the number of pairs of a
    fake and a ball that it is in, by k M; coverage is the share of balls with a fake in them.

    M. F. Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020. For fakes of the real
    distribution density is 1 in expectation, coverage 1 - product over i = 1 .. k of (N - i) / (N + M - i), near
    1 - 2^-k if M = N. ValueError as `precision_recall`, but there may be any number of fakes above 0.
    """
    _check("density_coverage", real, fake, k, fakes=1)
    return _density_coverage(real, fake, radii(real, k)[:, -1], k)


def _density_coverage(real: Array, fake: Array, real_radii: Array, k: int) -> DensityCoverage:
    inside, covered = balls(fake, real, real_radii)
    return DensityCoverage(float(inside.mean()) / k, float(covered.mean()))


def two_sample_accuracy(real: Array, fake: Array) -> TwoSampleAccuracy:
    """How often the nearest other point tells what a point is: 1/2 is ideal, 1 is two clouds far apart.

    D. Lopez-Paz & M. Oquab, "Revisiting classifier two-sample tests", 2017; Q. Xu et al., "An empirical study on
    evaluation metrics of generative adversarial networks", 2018. Below 1/2 fakes are nearer to real ones than these
    are to each other: copies of these very points get 0. Both kinds high: they differ, or modes are lost. Fakes high
    and real ones low: fakes huddle in the middles of modes; the reverse: they sit on a few real ones. A point that is
    equally far from both kinds counts half. ValueError if the sets are not (N, D) of one shape, finite, with N > 1.
    """
    _check("two_sample_accuracy", real, fake, 1)
    if len(real) != len(fake):
        raise ValueError(
            f"two_sample_accuracy: takes as many fakes as real points, but they are {len(fake)} and {len(real)}: "
            "the more frequent kind would be nearest too often; leave some out"
        )
    return _two_sample_accuracy(real, fake, radii(real, 1)[:, 0], radii(fake, 1)[:, 0])


def _two_sample_accuracy(real: Array, fake: Array, real_radii: Array, fake_radii: Array) -> TwoSampleAccuracy:
    shares = []
    for own, other, own_radii in ((real, fake, real_radii), (fake, real, fake_radii)):
        to_own, to_other = np.sqrt(own_radii), nearest(own, other)[1]
        shares.append(float(((to_own < to_other) + 0.5 * (to_own == to_other)).mean()))
    return TwoSampleAccuracy(sum(shares) / 2, *shares)


def manifold_scores(real: Array, fake: Array, real_radii: Array | None = None) -> dict[str, float]:
    """All of the above with their usual k, in a third of the time; `real_radii` are radii(real, 5), if known.

    ValueError unless both are finite (N, D) of one shape, N > 5.
    """
    _check("manifold_scores", real, fake, K)
    if len(real) != len(fake):
        raise ValueError(f"manifold_scores: takes as many fakes as real points, not {len(fake)} and {len(real)}")
    r = radii(real, K) if real_radii is None else real_radii
    f = radii(fake, K)
    precision, recall = _precision_recall(real, fake, r[:, 2], f[:, 2])
    density, coverage = _density_coverage(real, fake, r[:, 4], K)
    overall, of_real, of_fake = _two_sample_accuracy(real, fake, r[:, 0], f[:, 0])
    return {
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "two_sample_accuracy": overall,
        "two_sample_accuracy_real": of_real,
        "two_sample_accuracy_fake": of_fake,
    }


def radii(points: Array, k: int) -> Array:
    """The squared distances (N, k) of each of `points` (N, D), N > k, from the k nearest of the others, rising."""
    found = np.empty((len(points), k))
    for start, estimate, error in _estimates(points, points):
        rows = np.arange(len(estimate))
        estimate[rows, start + rows] = np.inf
        bound = np.partition(estimate, k - 1, axis=1)[:, k - 1] + error
        near = estimate <= bound[:, None]
        for n in rows:
            found[start + n] = np.sort(_squares(points[start + n], points[near[n]]))[:k]
    return found


def balls(points: Array, centres: Array, squared_radii: Array) -> tuple[Array, Array]:
    """In how many of the balls around `centres` (M, D) each of `points` (N, D) lies, whole numbers (N,); which balls
    hold a point, booleans (M,). The surface of a ball belongs to it."""
    counts, filled = np.empty(len(points), np.int64), np.zeros(len(centres), bool)
    for start, estimate, error in _estimates(points, centres):
        estimate -= squared_radii
        inside = estimate < 0
        unsure = np.abs(estimate, out=estimate) <= error[:, None]
        for n in np.flatnonzero(unsure.any(1)):
            columns = np.flatnonzero(unsure[n])
            inside[n, columns] = _squares(points[start + n], centres[columns]) <= squared_radii[columns]
        counts[start : start + len(inside)] = inside.sum(1)
        filled |= inside.any(0)
    return counts, filled


def _estimates(a: Array, b: Array) -> Any:
    """(start, |a|^2 + |b|^2 - 2 ab (n, M) of the next n rows of a, how far off each row may be (n,)).

    The errors add up those of an estimate and of the exact sum that it stands for.
    """
    b = b.astype(np.float64, copy=False)
    b_squares, columns = np.einsum("md,md->m", b, b), -2 * b.T
    for start in range(0, len(a), CHUNK):
        rows = a[start : start + CHUNK].astype(np.float64, copy=False)
        squares = np.einsum("nd,nd->n", rows, rows)
        estimate = rows @ columns
        estimate += squares[:, None]
        estimate += b_squares
        yield start, estimate, 4 * (b.shape[1] + 4) * np.finfo(np.float64).eps * (squares + b_squares.max())


def _squares(point: Array, others: Array) -> Array:
    """The squared distances (M,) of a point (D,) from others (M, D): the same either way round."""
    squares: Array = ((others.astype(np.float64) - point) ** 2).sum(1)
    return squares


def _check(op: str, real: Array, fake: Array, k: int, fakes: int | None = None) -> None:
    """ValueError unless both are finite (N, D), of more than k points; of the fakes, `fakes` suffice."""
    if real.ndim != 2 or real.shape[1:] != fake.shape[1:] or not real.shape[1]:
        raise ValueError(f"{op}: takes real and fake points (N, D) of one D, but they are {real.shape}, {fake.shape}")
    if k < 1:
        raise ValueError(f"{op}: k must be 1 or more, not {k}")
    for kind, points, least in (("real", real, k + 1), ("fake", fake, fakes or k + 1)):
        if len(points) < least:
            raise ValueError(
                f"{op}: the neighbour number {k} needs {least} or more {kind} points, but there are {len(points)}"
            )
        if not float(np.abs(points).max()) < LARGEST:
            raise ValueError(f"{op}: the {kind} points hold NaN, infinity or numbers beyond {LARGEST:g}")
