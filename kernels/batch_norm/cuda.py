"""Batch normalisation on a GPU: two kernels for the statistics, one to apply them, three for the gradient."""

import numpy as np

from .. import cuda
from ..activation.cuda import check
from ..cuda import Array
from ..reduce.cuda import LANES, THREADS, Tiling, lanes, macros

SOURCE = cuda.Source(
    "batch_norm/batch_norm.cu",
    variants=LANES,
    registers={  # at 64 four blocks of 256 threads are on a multiprocessor at once
        "strip_moments": 64,
        "combine_moments": 64,
        "reciprocal_deviation": 32,
        "running_moments": 32,
        "apply": 56,
        "strip_gradients": 64,
        "add_gradients": 56,
        "input_gradient": 64,
    },
)


def batch_norm_statistics(x: Array, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """x (..., C) -> mean (C,), biased variance (C,); `out` is such a pair."""
    op, C = "batch_norm_statistics", x.shape[-1:]
    check(op, x)
    if x.size == 0:
        raise ValueError(f"{op}: x {x.shape} is empty and has no mean")
    mean, var = (cuda.result(op, array, x, C) for array in out or (None, None))
    n, x = x.size // C[0], cuda.contiguous(x)
    vector = lanes(*C, x)
    tiling = Tiling.of(1, n, *C, lanes=vector)
    means, squares = cuda.device_of(x).xp.empty((2, tiling.strips, *C), np.float64)
    args = x, means, squares, n, *C, tiling.rows
    SOURCE.launch("strip_moments", tiling.grid, tiling.block, args, macros(x.dtype, vector))
    combine(means, squares, tiling.rows, n, mean, var)
    return mean, var


def combine(means: Array, squares: Array, rows: int, per_group: int, mean: Array, var: Array) -> None:
    """Moments of pieces -> mean, var (C,), of all of them together.

    means, squares (strips, C) float64: of each strip the mean and the sum of squared deviations from it. Strips come
    in groups, one behind the other; each group is of `per_group` rows, cut into strips of `rows`, the last of what is
    left. ValueError unless the strips are those of whole groups.
    """
    strips, C = means.shape
    strips_per_group = cuda.ceil_div(per_group, rows)
    groups, over = divmod(strips, strips_per_group)
    if over or not groups or squares.shape != means.shape:
        raise ValueError(
            f"combine: {per_group} rows a group in strips of {rows} are {strips_per_group} strips a group, but means "
            f"are {means.shape} and squares {squares.shape}"
        )
    tiling = Tiling.of_strips(1, strips, C)
    args = means, squares, mean, var, strips, strips_per_group, groups * per_group, C, rows
    SOURCE.launch("combine_moments", tiling.grid, tiling.block, args, macros(mean.dtype, 1))


def batch_norm_rstd(var: Array, eps: float, out: Array | None = None) -> Array:
    """var (C,) -> 1 / sqrt(var + eps) (C,)."""
    op, C = "batch_norm_rstd", var.size
    check(op, var)
    y = cuda.result(op, out, var, var.shape)
    args = cuda.contiguous(var), var.dtype.type(eps), y, C
    SOURCE.launch("reciprocal_deviation", (cuda.ceil_div(C, THREADS),), (THREADS,), args, macros(var.dtype, 1))
    return y


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
    op, C, dtype = "batch_norm_running", mean.size, mean.dtype.type
    check(op, mean, var, of_mean, of_var)
    new_mean, new_var = (cuda.result(op, array, mean, mean.shape) for array in out or (None, None))
    given = map(cuda.contiguous, (mean, var, of_mean, of_var))
    args = *given, dtype(momentum), dtype(unbiased), new_mean, new_var, C
    SOURCE.launch("running_moments", (cuda.ceil_div(C, THREADS),), (THREADS,), args, macros(mean.dtype, 1))
    return new_mean, new_var


def batch_norm_apply(
    x: Array, mean: Array, rstd: Array, gamma: Array, beta: Array, slope: float = 1.0, out: Array | None = None
) -> Array:
    """x (..., C) and four times (C,) -> z = gamma (x - mean) rstd + beta (..., C), times slope where z <= 0."""
    op, C = "batch_norm_apply", x.shape[-1:]
    check(op, x)
    y = cuda.result(op, out, x, x.shape)
    channels = _channels(op, x, mean, rstd, gamma, beta)
    if x.size:
        n, x = x.size // C[0], cuda.contiguous(x)
        vector = lanes(*C, x, y, *channels)
        tiling = Tiling.of(1, n, *C, lanes=vector)
        args = x, *channels, x.dtype.type(slope), y, n, *C, tiling.rows
        SOURCE.launch("apply", tiling.grid, tiling.block, args, macros(x.dtype, vector))
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
    n, vector = x.size // C[0], lanes(*C, gy, x, gx, ggamma, gbeta, *channels)
    tiling = Tiling.of(1, n, *C, lanes=vector)
    scaled, plain = cuda.device_of(x).xp.empty((2, tiling.strips, *C), np.float64)
    args = gy, x, *channels, slope, scaled, plain, n, *C, tiling.rows
    SOURCE.launch("strip_gradients", tiling.grid, tiling.block, args, macros(x.dtype, vector))
    over = Tiling.of_strips(1, tiling.strips, *C)
    args = scaled, plain, ggamma, gbeta, tiling.strips, *C
    SOURCE.launch("add_gradients", over.grid, over.block, args, macros(x.dtype, 1))
    args = gy, x, *channels, ggamma, gbeta, slope, x.dtype.type(1 / n), gx, n, *C, tiling.rows
    SOURCE.launch("input_gradient", tiling.grid, tiling.block, args, macros(x.dtype, vector))
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
    rstd = batch_norm_rstd(var, 1e-5)
    batch_norm_running(mean, var, mean, var, 0.1, 1.01)
    batch_norm_apply(x, mean, rstd, gamma, beta, 0.2)
    batch_norm_backward(gy, x, mean, rstd, gamma, beta, 0.2)
