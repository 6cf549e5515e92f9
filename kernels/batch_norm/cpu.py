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

from ..activation.cpu import leak, leak_backward
from ..jit import njit, prange
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
    rows = flat(x, -1, *C)
    sums = _sums(len(rows), *C)
    _moments(rows, sums)
    _statistics(sums, rows, mean, var)
    return mean, var


def batch_norm_apply(
    x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, slope: float = 1.0, out: Array | None = None
) -> Array:
    """x (..., C) and four times (C,) -> z = gamma (x - mean) rstd + beta (..., C), times slope where z <= 0."""
    op, C = "batch_norm_apply", x.shape[-1:]
    check(op, x)
    y = result(op, out, x.shape, x.dtype)
    mean, rstd, gamma, beta = _channels(op, x, mean, rstd, gamma, beta)
    _apply(flat(x, -1, *C), mean, flat(gamma * rstd), beta, x.dtype.type(slope), y.reshape(-1, *C))
    return y


def batch_norm_backward(
    gy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array,
    beta: Array,
    slope: float = 1.0,
    out: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    """gy, x (..., C), the batch's own mean and rstd, gamma, beta (C,) -> gx (..., C), ggamma (C,), gbeta (C,)."""
    op, C = "batch_norm_backward", x.shape[-1:]
    check(op, gy, x)
    shapes = zip(out or (None, None, None), (x.shape, C, C), strict=True)
    gx, ggamma, gbeta = (result(op, array, shape, x.dtype) for array, shape in shapes)
    mean, rstd, gamma, beta = _channels(op, x, mean, rstd, gamma, beta)
    gy, x, scale, slope = flat(gy, -1, *C), flat(x, -1, *C), flat(gamma * rstd), x.dtype.type(slope)
    sums, offset, tilt = _sums(len(x), *C), np.empty_like(mean), np.empty_like(mean)
    _products(gy, x, mean, rstd, scale, beta, slope, sums)
    _parameters(sums, len(x), rstd, ggamma, gbeta, offset, tilt)
    _gradient(gy, x, mean, scale, beta, slope, flat(offset), flat(tilt), gx.reshape(-1, *C))
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


def _sums(n: int, C: int) -> Array:
    """Room for two float64 sums a block and channel, (2, blocks, C)."""
    return np.zeros((2, -(-n // ROWS), C))


@loop
def _moments(x: Array, sums: Array) -> None:
    """Of each block of rows: sum d, sum d^2."""
    n, C = x.shape
    for b in prange(sums.shape[1]):
        start = np.int64(b) * ROWS
        for r in range(start, min(n, start + ROWS)):
            for c in range(C):
                d = np.float64(x[r, c]) - np.float64(x[0, c])
                sums[0, b, c] += d
                sums[1, b, c] += d * d


@njit(cache=True)
def _statistics(sums: Array, x: Array, mean: Array, var: Array) -> None:
    blocks, n = sums.shape[1], len(x)
    for c in range(len(mean)):
        s = squares = 0.0
        for b in range(blocks):
            s += sums[0, b, c]
            squares += sums[1, b, c]
        mean[c] = x[0, c] + s / n
        var[c] = (squares - s * s / n) / n


@loop
def _apply(x: Array, mean: Array, scale: Array, beta: Array, slope: Any, y: Array) -> None:
    n, C = x.shape
    for r in prange(n):
        for c in range(C):
            y[r, c] = leak((x[r, c] - mean[c]) * scale[c] + beta[c], slope)


@loop
def _products(
    gy: Array, x: Array, mean: Array, rstd: Array, scale: Array, beta: Array, slope: Any, sums: Array
) -> None:
    """Of each block of rows: sum gy xhat, sum gy."""
    n, C = x.shape
    for b in prange(sums.shape[1]):
        start = np.int64(b) * ROWS
        for r in range(start, min(n, start + ROWS)):
            for c in range(C):
                d = x[r, c] - mean[c]
                g = np.float64(leak_backward(gy[r, c], d * scale[c] + beta[c], slope))
                sums[0, b, c] += g * np.float64(d * rstd[c])
                sums[1, b, c] += g


@njit(cache=True)
def _parameters(sums: Array, n: int, rstd: Array, ggamma: Array, gbeta: Array, offset: Array, tilt: Array) -> None:
    """ggamma and gbeta, and what _gradient needs of them: gbeta / n and ggamma rstd / n."""
    blocks = sums.shape[1]
    for c in range(len(rstd)):
        scaled = plain = 0.0
        for b in range(blocks):
            scaled += sums[0, b, c]
            plain += sums[1, b, c]
        ggamma[c], gbeta[c] = scaled, plain
        offset[c], tilt[c] = plain / n, scaled / n * rstd[c]


@loop
def _gradient(
    gy: Array,
    x: Array,
    mean: Array,
    scale: Array,
    beta: Array,
    slope: Any,
    offset: Array,
    tilt: Array,
    gx: Array,
) -> None:
    n, C = x.shape
    for r in prange(n):
        for c in range(C):
            d = x[r, c] - mean[c]
            g = leak_backward(gy[r, c], d * scale[c] + beta[c], slope)
            gx[r, c] = scale[c] * (g - offset[c] - d * tilt[c])
