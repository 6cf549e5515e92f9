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

from ..activation.cpu import DEEP, leak, leak_backward
from ..jit import njit
from ..loops import check, flat, loop, part, result
from ..scratch import scratch

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
    _moments(x.size, rows, sums)
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
    _apply(x.size, flat(x, -1, *C), mean, _scale(gamma, rstd), beta, x.dtype.type(slope), y.reshape(-1, *C))
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
    size, gy, x, scale, slope = x.size, flat(gy, -1, *C), flat(x, -1, *C), _scale(gamma, rstd), x.dtype.type(slope)
    sums, offset, tilt = _sums(len(x), *C), scratch("offset", C, x.dtype), scratch("tilt", C, x.dtype)
    _products(size, gy, x, mean, rstd, scale, beta, slope, sums)
    _parameters(sums, len(x), rstd, ggamma, gbeta, offset, tilt)
    _gradient(size, gy, x, mean, scale, beta, slope, flat(offset), flat(tilt), gx.reshape(-1, *C))
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
    return scratch("sums", (2, -(-n // ROWS), C), np.float64)


def _scale(gamma: Array, rstd: Array) -> Array:
    return flat(np.multiply(gamma, rstd, out=scratch("scale", len(gamma), gamma.dtype)))


@loop
def _moments(x: Array, sums: Array, thread: int, threads: int) -> None:
    """Of each block of rows: sum d, sum d^2."""
    first, last = part(sums.shape[1], thread, threads)
    start = x[0]
    for b in range(first, last):
        block, plain, squares = x[b * ROWS : min(len(x), (b + 1) * ROWS)], sums[0, b], sums[1, b]
        plain[:] = 0
        squares[:] = 0
        whole = len(block) // DEEP
        for i in range(whole):
            rows = block[DEEP * i : DEEP * (i + 1)]
            for c in range(start.size):
                s, s2 = plain[c], squares[c]
                for r in range(DEEP):
                    d = np.float64(rows[r, c]) - np.float64(start[c])
                    s += d
                    s2 += d * d
                plain[c], squares[c] = s, s2
        rows = block[DEEP * whole :]
        for r in range(len(rows)):
            for c in range(start.size):
                d = np.float64(rows[r, c]) - np.float64(start[c])
                plain[c] += d
                squares[c] += d * d


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
def _apply(
    x: Array, mean: Array, scale: Array, beta: Array, slope: Any, y: Array, thread: int, threads: int
) -> None:
    r, end = part(len(x), thread, threads)
    x, y = x[r:end], y[r:end]
    n, C = x.shape
    for r in range(n):
        for c in range(C):
            y[r, c] = leak((x[r, c] - mean[c]) * scale[c] + beta[c], slope)


@loop
def _products(
    gy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    scale: Array,
    beta: Array,
    slope: Any,
    sums: Array,
    thread: int,
    threads: int,
) -> None:
    """Of each block of rows: sum gy xhat, sum gy."""
    first, last = part(sums.shape[1], thread, threads)
    for b in range(first, last):
        block, scaled, plain = slice(b * ROWS, min(len(x), (b + 1) * ROWS)), sums[0, b], sums[1, b]
        gs, xs = gy[block], x[block]
        scaled[:] = 0
        plain[:] = 0
        for r in range(len(xs)):
            for c in range(mean.size):
                d = xs[r, c] - mean[c]
                g = np.float64(leak_backward(gs[r, c], d * scale[c] + beta[c], slope))
                scaled[c] += g * np.float64(d * rstd[c])
                plain[c] += g


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
    thread: int,
    threads: int,
) -> None:
    r, end = part(len(x), thread, threads)
    gy, x, gx = gy[r:end], x[r:end], gx[r:end]
    n, C = x.shape
    for r in range(n):
        for c in range(C):
            d = x[r, c] - mean[c]
            g = leak_backward(gy[r, c], d * scale[c] + beta[c], slope)
            gx[r, c] = scale[c] * (g - offset[c] - d * tilt[c])
