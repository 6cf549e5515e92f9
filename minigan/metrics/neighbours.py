"""The nearest neighbour in pixel space: what a generated image resembles most among the real ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 250
"""Queries at a time. 60,000 references then take 60 MB for their squared distances."""


def nearest(queries: Array, references: Array) -> tuple[Array, Array]:
    """The index (N,) among `references` (M, ...) of the nearest to each of `queries` (N, ...), and its distance (N,).

    Euclidean and exact. |b|^2 - 2 a b in float32 (|a|^2 moves all references alike) leaves few that can be the
    nearest: those within its rounding error of the least. Their distances are computed anew, as |a - b| in float64,
    so that a copy is at exactly 0; the first of a tie wins.
    ValueError if there is no reference, if shapes differ, or if numbers are not finite.
    """
    if not len(references) or queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"nearest: takes queries (N, ...) and references (M, ...) of one shape, M > 0, "
            f"but they are {queries.shape} and {references.shape}"
        )
    b = references.reshape(len(references), -1).astype(np.float32, copy=False)
    b_squares = np.einsum("md,md->m", b, b)
    b_length = np.sqrt(b_squares.max())
    index, distance = np.zeros(len(queries), np.int64), np.zeros(len(queries))
    for start in range(0, len(queries), CHUNK):
        a = queries[start : start + CHUNK].reshape(-1, b.shape[1]).astype(np.float32, copy=False)
        a_lengths = np.sqrt(np.einsum("nd,nd->n", a, a))
        # A sum of D rounded products errs by at most D eps/2 of the lengths' product; 4 more for the other roundings.
        error = (b.shape[1] + 4) * np.finfo(np.float32).eps * (a_lengths + b_length) ** 2
        if not np.isfinite(error).all():
            raise ValueError("nearest: the queries or the references hold NaN, infinity or numbers beyond 1e15")
        estimate = b_squares - 2 * (a @ b.T)
        candidates = estimate <= (estimate.min(1) + error)[:, None]
        for n in range(len(a)):
            rows = np.flatnonzero(candidates[n])
            difference = references[rows].astype(np.float64) - queries[start + n]
            distances = np.sqrt((difference.reshape(len(rows), -1) ** 2).sum(1))
            best = distances.argmin()
            index[start + n], distance[start + n] = rows[best], distances[best]
    return index, distance
