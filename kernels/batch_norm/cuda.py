"""Batch normalisation on a GPU: two kernels for the statistics, one to apply them, three for the gradient."""

import numpy as np

from .. import cuda
from ..activation.cuda import check
from ..cuda import Array
from ..reduce.cuda import VARIANTS, Tiling

SOURCE = cuda.Source(
    "batch_norm/batch_norm.cu",
    variants=VARIANTS,
    registers={
        "strip_moments": 64,
        "combine_moments": 72,
        "apply": 48,
        "strip_gradients": 72,
        "add_gradients": 64,
        "input_gradient": 56,
    },
)


def batch_norm_statistics(x: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """x (..., C) -> mean (C,), biased variance (C,); `out` is such a pair."""
    op, C = "batch_norm_statistics", x.shape[-1:]
    check(op, x)
    if x.size == 0:
        raise ValueError(f"{op}: x {x.shape} is empty and has no mean")
    mean, var = (cuda.result(op, array, x, C) for array in out or (None, None))
    n, macros = x.size // C[0], {"REAL": cuda.real(x.dtype)}
    tiling = Tiling.of(1, n, *C)
    means, squares = cuda.device_of(x).xp.empty((2, tiling.strips, *C), np.float64)
    args = cuda.contiguous(x), means, squares, n, *C, tiling.rows
    SOURCE.launch("strip_moments", tiling.grid, tiling.block, args, macros)
    over = Tiling.of_strips(1, tiling.strips, *C)
    args = means, squares, mean, var, tiling.strips, n, *C, tiling.rows
    SOURCE.launch("combine_moments", over.grid, over.block, args, macros)
    return mean, var


def batch_norm_apply(
    x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, slope: float = 1.0, out: Array | None = None
) -> Array:
    """x (..., C) and four times (C,) -> z = gamma (x - mean) rstd + beta (..., C), times slope where z <= 0."""
    op, C = "batch_norm_apply", x.shape[-1:]
    check(op, x)
    y = cuda.result(op, out, x, x.shape)
    channels = _channels(op, x, mean, rstd, gamma, beta)
    if x.size:
        n = x.size // C[0]
        tiling = Tiling.of(1, n, *C)
        args = cuda.contiguous(x), *channels, x.dtype.type(slope), y, n, *C, tiling.rows
        SOURCE.launch("apply", tiling.grid, tiling.block, args, {"REAL": cuda.real(x.dtype)})
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
    gx, ggamma, gbeta = (cuda.result(op, array, x, shape) for array, shape in shapes)
    channels = _channels(op, x, mean, rstd, gamma, beta)
    if not x.size:
        ggamma.fill(0)
        gbeta.fill(0)
        return gx, ggamma, gbeta
    gy, x, slope = cuda.contiguous(gy), cuda.contiguous(x), x.dtype.type(slope)
    n, macros = x.size // C[0], {"REAL": cuda.real(x.dtype)}
    tiling = Tiling.of(1, n, *C)
    scaled, plain = cuda.device_of(x).xp.empty((2, tiling.strips, *C), np.float64)
    args = gy, x, *channels, slope, scaled, plain, n, *C, tiling.rows
    SOURCE.launch("strip_gradients", tiling.grid, tiling.block, args, macros)
    over = Tiling.of_strips(1, tiling.strips, *C)
    SOURCE.launch("add_gradients", over.grid, over.block, (scaled, plain, ggamma, gbeta, tiling.strips, *C), macros)
    args = gy, x, *channels, ggamma, gbeta, slope, x.dtype.type(1 / n), gx, n, *C, tiling.rows
    SOURCE.launch("input_gradient", tiling.grid, tiling.block, args, macros)
    return gx, ggamma, gbeta


def _channels(op: str, x: Array, *arrays: Array) -> list[Array]:
    """Each (C,) and of x's dtype, C-contiguous."""
    for array in arrays:
        if array.shape != x.shape[-1:] or array.dtype != x.dtype:
            raise ValueError(
                f"{op}: x is {x.dtype} {x.shape}, so each parameter must be {x.dtype} {x.shape[-1:]}, "
                f"not {array.dtype} {array.shape}"
            )
    return [cuda.contiguous(array) for array in arrays]


@SOURCE.example(*SOURCE.registers)
def _two_strips(device: cuda.Device) -> None:
    rng = np.random.default_rng(0)
    x, gy = (device.array(rng.standard_normal((150, 36)).astype(np.float32)) for _ in range(2))
    gamma, beta = (device.array(np.ones(36, np.float32)) for _ in range(2))
    mean, var = batch_norm_statistics(x)
    rstd = 1 / np.sqrt(var)
    batch_norm_apply(x, mean, rstd, gamma, beta, 0.2)
    batch_norm_backward(gy, x, mean, rstd, gamma, beta, 0.2)
