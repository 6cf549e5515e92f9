"""How far apart samples are from each other, whatever they show."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 500
"""Points of a block: 500 x 500 distances at a time."""


def mean_pairwise_distance(points: Array) -> float:
    """The mean Euclidean distance over all pairs of `points` (N, ...), in their own unit; 0 if all are one.

    In float64, as |a|^2 + |b|^2 - 2 ab of points from which the mean is subtracted; where that is no more than its
    rounding error, the two count as one point. ValueError for fewer than 2 points, or numbers that are not finite, or
    beyond 1e150.
    """
    N = len(points)
    if N < 2 or not points.size:
        raise ValueError(f"mean_pairwise_distance: takes points (N, ...) of N > 1, not {points.shape}")
    if not float(np.abs(points).max()) < 1e150:
        raise ValueError(f"mean_pairwise_distance: points {points.shape} hold NaN, infinity or numbers beyond 1e150")
    mean = points.mean(0, dtype=np.float64)
    blocks = [slice(start, start + CHUNK) for start in range(0, N, CHUNK)]
    total = 0.0
    for i, rows in enumerate(blocks):
        a = (points[rows] - mean).reshape(-1, mean.size)
        a_squares = np.einsum("nd,nd->n", a, a)
        for j, columns in enumerate(blocks[: i + 1]):
            b = (points[columns] - mean).reshape(-1, mean.size)
            sums = a_squares[:, None] + np.einsum("nd,nd->n", b, b)
            squares = sums - 2 * (a @ b.T)
            squares[squares <= (mean.size + 4) * np.finfo(np.float64).eps * sums] = 0  # a point's own, too
            total += float(np.sqrt(squares).sum()) * (1 if i == j else 2)
    return total / (N * (N - 1))
