"""Batch normalisation: one pass over memory for the statistics, one to apply them, two for the gradient.

The statistics are those of d = x - x[first row]. The shift makes one pass as good as two: a sample lies within
sqrt(n) standard deviations of the mean, so the subtraction in var = (sum d^2 - (sum d)^2 / n) / n magnifies the
rounding of the float64 sums by n + 1 at worst, and hardly ever by more than 10 (Chan, Golub, LeVeque, "Algorithms
for computing the sample variance", 1983). Sums are taken over blocks of ROWS rows, which are then added in order, so
that the result does not depend on the number of threads.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import prange
from ..loops import check, flat, loop, result

Array = NDArray[Any]

ROWS = 128


def batch_norm_statistics(x: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """x (..., C) -> mean (C,), biased variance (C,); `out` is such a pair."""
    op, C = "batch_norm_statistics", x.shape[-1:]
    check(op, x)
    if x.size == 0:
        raise ValueError(f"{op}: x {x.shape} is empty and has no mean")
    mean, var = (result(op, array, C, x.dtype) for array in out or (None, None))
    _statistics(flat(x, -1, *C), mean, var)
    return mean, var


def batch_norm_apply(
    x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, out: Array | None = None
) -> Array:
    """x (..., C) and four times (C,) -> gamma (x - mean) rstd + beta (..., C)."""
    op, C = "batch_norm_apply", x.shape[-1:]
    check(op, x)
    y = result(op, out, x.shape, x.dtype)
    mean, rstd, gamma, beta = _channels(op, x, mean, rstd, gamma, beta)
    _apply(flat(x, -1, *C), mean, flat(gamma * rstd), beta, y.reshape(-1, *C))
    return y


def batch_norm_backward(
    gy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array,
    out: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    """gy, x (..., C), the batch's own mean and rstd, gamma (C,) -> gx (..., C), ggamma (C,), gbeta (C,)."""
    op, C = "batch_norm_backward", x.shape[-1:]
    check(op, gy, x)
    shapes = zip(out or (None, None, None), (x.shape, C, C), strict=True)
    gx, ggamma, gbeta = (result(op, array, shape, x.dtype) for array, shape in shapes)
    mean, rstd, gamma = _channels(op, x, mean, rstd, gamma)
    _backward(flat(gy, -1, *C), flat(x, -1, *C), mean, rstd, gamma, gx.reshape(-1, *C), ggamma, gbeta)
    return gx, ggamma, gbeta


def _channels(op: str, x: Array, *arrays: Array) -> list[Array]:
    """Each (C,) and of x's dtype, as the compiled loops want it."""
    for array in arrays:
        if array.shape != x.shape[-1:] or array.dtype != x.dtype:
            raise ValueError(
                f"{op}: x is {x.dtype} {x.shape}, so each parameter must be {x.dtype} {x.shape[-1:]}, "
                f"not {array.dtype} {array.shape}"
            )
    return [flat(array) for array in arrays]


@loop
def _statistics(x: Array, mean: Array, var: Array) -> None:
    n, C = x.shape
    blocks = (n + ROWS - 1) // ROWS
    sums, squares = np.zeros((blocks, C)), np.zeros((blocks, C))
    for b in prange(blocks):
        start = np.int64(b) * ROWS
        for r in range(start, min(n, start + ROWS)):
            for c in range(C):
                d = np.float64(x[r, c]) - np.float64(x[0, c])
                sums[b, c] += d
                squares[b, c] += d * d
    for c in range(C):
        for b in range(1, blocks):
            sums[0, c] += sums[b, c]
            squares[0, c] += squares[b, c]
        shift = sums[0, c] / n
        mean[c] = x[0, c] + shift
        var[c] = (squares[0, c] - sums[0, c] * shift) / n


@loop
def _apply(x: Array, mean: Array, scale: Array, beta: Array, y: Array) -> None:
    n, C = x.shape
    for r in prange(n):
        for c in range(C):
            y[r, c] = (x[r, c] - mean[c]) * scale[c] + beta[c]


@loop
def _backward(
    gy: Array, x: Array, mean: Array, rstd: Array, gamma: Array, gx: Array, ggamma: Array, gbeta: Array
) -> None:
    n, C = x.shape
    blocks = (n + ROWS - 1) // ROWS
    scaled, plain = np.zeros((blocks, C)), np.zeros((blocks, C))
    for b in prange(blocks):
        start = np.int64(b) * ROWS
        for r in range(start, min(n, start + ROWS)):
            for c in range(C):
                scaled[b, c] += np.float64(gy[r, c]) * np.float64((x[r, c] - mean[c]) * rstd[c])
                plain[b, c] += np.float64(gy[r, c])
    offset, slope = np.empty(C, x.dtype), np.empty(C, x.dtype)
    for c in range(C):
        for b in range(1, blocks):
            scaled[0, c] += scaled[b, c]
            plain[0, c] += plain[b, c]
        ggamma[c], gbeta[c] = scaled[0, c], plain[0, c]
        offset[c], slope[c] = plain[0, c] / n, scaled[0, c] / n * rstd[c]
    for r in prange(n):
        for c in range(C):
            gx[r, c] = gamma[c] * rstd[c] * (gy[r, c] - offset[c] - (x[r, c] - mean[c]) * slope[c])
