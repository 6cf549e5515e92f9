"""The specification of batch normalisation. Sums over 10^5 pixels need float64, whatever the dtype of x."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def batch_norm_statistics(x: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """x (..., C) -> mean (C,), biased variance (C,); `out` is such a pair."""
    exact = x.astype(np.float64).reshape(-1, x.shape[-1])
    mean, var = np.empty((2, x.shape[-1]), x.dtype) if out is None else out
    mean[...] = exact.mean(0)
    var[...] = np.square(exact - exact.mean(0)).mean(0)
    return mean, var


def batch_norm_apply(x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, out: Array | None = None) -> Array:
    """x (..., C) and four times (C,) -> gamma (x - mean) rstd + beta (..., C)."""
    y: Array = np.add(gamma * (x - mean) * rstd, beta, out=out)
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
    C = x.shape[-1]
    gx, ggamma, gbeta = out or (np.empty(x.shape, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype))
    xhat, axes, n = (x - mean) * rstd, tuple(range(x.ndim - 1)), x.size // C
    ggamma[...] = (gy * xhat).sum(axes, dtype=np.float64)
    gbeta[...] = gy.sum(axes, dtype=np.float64)
    gx[...] = gamma * rstd * (gy - gbeta / n - xhat * (ggamma / n))
    return gx, ggamma, gbeta
