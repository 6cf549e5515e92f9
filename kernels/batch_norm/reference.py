"""The specification of batch normalisation. Sums over 10^5 pixels need float64, whatever the dtype of x."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..activation.reference import leaky_relu, leaky_relu_backward
from ..elementwise.reference import power

Array = NDArray[Any]


def batch_norm_statistics(x: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """x (..., C) -> mean (C,), biased variance (C,); `out` is such a pair."""
    exact = x.astype(np.float64).reshape(-1, x.shape[-1])
    mean, var = np.empty((2, x.shape[-1]), x.dtype) if out is None else out
    mean[...] = exact.mean(0)
    var[...] = np.square(exact - exact.mean(0)).mean(0)
    return mean, var


def batch_norm_rstd(var: Array, eps: float, out: Array | None = None) -> Array:
    """var (C,) -> 1 / sqrt(var + eps) (C,)."""
    return power(var + var.dtype.type(eps), -0.5, out=out)


def batch_norm_running(
    mean: Array,
    var: Array,
    of_mean: Array,
    of_var: Array,
    momentum: float,
    unbiased: float,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Running mean and var (C,), moved by a share towards those of a batch, of_mean and unbiased * of_var (C,).

    `out` may be the running ones.
    """
    new_mean, new_var = out or (np.empty_like(mean), np.empty_like(var))
    for new, old, target in ((new_mean, mean, of_mean), (new_var, var, of_var * unbiased)):
        np.add(old, (target - old) * momentum, out=new)
    return new_mean, new_var


def batch_norm_apply(
    x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, slope: float = 1.0, out: Array | None = None
) -> Array:
    """x (..., C) and four times (C,) -> z = gamma (x - mean) rstd + beta (..., C), times slope where z <= 0."""
    return leaky_relu(gamma * (x - mean) * rstd + beta, slope, out)


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
    C = x.shape[-1]
    gy = leaky_relu_backward(gy, gamma * (x - mean) * rstd + beta, slope)
    gx, ggamma, gbeta = out or (np.empty(x.shape, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype))
    xhat, axes, n = (x - mean) * rstd, tuple(range(x.ndim - 1)), x.size // C
    ggamma[...] = (gy * xhat).sum(axes, dtype=np.float64)
    gbeta[...] = gy.sum(axes, dtype=np.float64)
    gx[...] = gamma * rstd * (gy - gbeta / n - xhat * (ggamma / n))
    return gx, ggamma, gbeta
