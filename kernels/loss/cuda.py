"""Losses and penalties on a GPU: one launch each, or two for a loss of more numbers than a batch has scores."""

import numpy as np

from .. import cuda
from ..activation.cuda import check
from ..cuda import Array
from ..reduce.cuda import LANES, THREADS, Tiling, column_sums, lanes, macros

SOURCE = cuda.Source(
    "loss/loss.cu",
    variants=LANES,
    registers={
        "cross_entropy_all": 64,
        "cross_entropy_strips": 64,
        "cross_entropy_backward": 32,
        "mean_difference": 32,
        "mean_difference_backward": 32,
        "row_squares": 40,
        "row_squares_backward": 32,
        "interpolate": 48,
        "slope_penalty": 32,
        "slope_penalty_backward": 32,
    },
)


def sigmoid_cross_entropy(l: Array, t: Array | float, out: Array | None = None) -> Array:
    """l any shape, t of the same or a number -> () mean(t softplus(-l) + (1 - t) softplus(l))."""
    op, n = "sigmoid_cross_entropy", l.size
    y, (l, *target) = cuda.result(op, out, l, ()), _targets(op, l, t)
    tiling, scalars = Tiling.of(1, n, 1), macros(l.dtype, 1)
    if tiling.strips == 1:
        args = l, *target, np.float64(1 / n), y, n, tiling.rows
        SOURCE.launch("cross_entropy_all", tiling.grid, tiling.block, args, scalars)
        return y
    partial = cuda.device_of(l).xp.empty((1, tiling.strips, 1), np.float64)
    args = l, *target, np.float64(1 / n), partial, n, tiling.rows
    SOURCE.launch("cross_entropy_strips", tiling.grid, tiling.block, args, scalars)
    return column_sums(partial, y)


def sigmoid_cross_entropy_backward(g: Array, l: Array, t: Array | float, out: Array | None = None) -> Array:
    """g (), l, t as above -> gl of l's shape: g / n (sigmoid(l) - t)."""
    op, n = "sigmoid_cross_entropy_backward", l.size
    gl, (l, *target) = cuda.result(op, out, l, l.shape), _targets(op, l, t)
    args = _number(op, g, l), l, *target, l.dtype.type(1 / n), gl, n
    SOURCE.launch("cross_entropy_backward", (cuda.ceil_div(n, THREADS),), (THREADS,), args, macros(l.dtype, 1))
    return gl


def mean_difference(a: Array, b: Array, out: Array | None = None) -> Array:
    """a, b any shapes -> () mean(a) - mean(b)."""
    op, n, m = "mean_difference", a.size, b.size
    check(op, a.reshape(-1)[:0], b.reshape(-1)[:0])  # their dtypes
    y = cuda.result(op, out, a, ())
    args = cuda.contiguous(a), cuda.contiguous(b), np.float64(1 / n), np.float64(1 / m), y, n, m
    SOURCE.launch(op, (1,), (1, _height(max(n, m))), args, macros(a.dtype, 1))
    return y


def mean_difference_backward(
    g: Array, a_shape: tuple[int, ...], b_shape: tuple[int, ...], out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """g () -> ga, gb of these shapes: g / n and -g / m everywhere."""
    op, dtype = "mean_difference_backward", g.dtype.type
    shapes = zip(out or (None, None), (a_shape, b_shape), strict=True)
    ga, gb = (cuda.result(op, array, g, shape) for array, shape in shapes)
    n, m = ga.size, gb.size
    args = _number(op, g, g), dtype(1 / n), dtype(1 / m), ga, gb, n, m
    SOURCE.launch(op, (cuda.ceil_div(max(n, m), THREADS),), (THREADS,), args, macros(g.dtype, 1))
    return ga, gb


def row_squares(x: Array, out: Array | None = None) -> Array:
    """x (N, ...) -> (N,): of each row the sum of its squares."""
    check("row_squares", x)
    y = cuda.result("row_squares", out, x, x.shape[:1])
    if not x.size:
        y.fill(0)
        return y
    x, N, M = cuda.contiguous(x), len(x), x.size // len(x)
    vector = lanes(M, x)
    tiling = Tiling.of(N, M // vector, 1, most=1)
    SOURCE.launch("row_squares", tiling.grid, tiling.block, (x, y, N, M), macros(x.dtype, vector))
    return y


def row_squares_backward(g: Array, x: Array, out: Array | None = None) -> Array:
    """g (N,), x (N, ...) -> 2 g x, of x's shape."""
    return _by_rows("row_squares_backward", g, (x,), out)


def interpolate(e: Array, a: Array, b: Array, out: Array | None = None) -> Array:
    """e (N,), a, b (N, ...) -> e a + (1 - e) b."""
    return _by_rows("interpolate", e, (a, b), out)


def slope_penalty(
    squares: Array, eps: float, weight: float, one_sided: bool, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """squares (N,) -> weight mean((r - 1)^2) and mean r, (): r = sqrt(squares + eps)."""
    op, N = "slope_penalty", squares.size
    check(op, squares)
    penalty, mean = (cuda.result(op, array, squares, ()) for array in out or (None, None))
    scalars = squares.dtype.type(eps), int(one_sided), np.float64(weight / N), np.float64(1 / N)
    args = cuda.contiguous(squares), *scalars, penalty, mean, N
    SOURCE.launch(op, (1,), (1, _height(N)), args, macros(squares.dtype, 1))
    return penalty, mean


def slope_penalty_backward(
    g: Array, squares: Array, eps: float, weight: float, one_sided: bool, out: Array | None = None
) -> Array:
    """g () of the penalty, squares (N,) -> (N,): g weight / N (r - 1) / r."""
    op, N, dtype = "slope_penalty_backward", squares.size, squares.dtype.type
    check(op, squares)
    y = cuda.result(op, out, squares, squares.shape)
    args = _number(op, g, squares), cuda.contiguous(squares), dtype(eps), int(one_sided), dtype(weight / N), y, N
    SOURCE.launch(op, (cuda.ceil_div(N, THREADS),), (THREADS,), args, macros(squares.dtype, 1))
    return y


def _targets(op: str, l: Array, t: Array | float) -> tuple[Array, Array, int, np.generic]:
    """l, and how the kernels want targets: an array, whether it counts, and the number that counts if not."""
    l = cuda.contiguous(l)
    if isinstance(t, (int, float, np.generic)):
        check(op, l)
        return l, l, 0, l.dtype.type(t)
    check(op, l, t)
    return l, cuda.contiguous(t), 1, l.dtype.type(0)


def _number(op: str, g: Array, x: Array) -> Array:
    """g on x's device; ValueError unless it is one number of x's dtype."""
    if g.size != 1 or g.dtype != x.dtype:
        raise ValueError(f"{op}: the gradient of a {x.dtype} number must be one, not {g.dtype} {g.shape}")
    return cuda.contiguous(g)


def _height(n: int) -> int:
    """Threads of a block that sums n numbers: a power of two."""
    return Tiling.of(1, max(n, 1), 1, most=1).block[1]


def _by_rows(op: str, numbers: Array, arrays: tuple[Array, ...], out: Array | None) -> Array:
    """numbers (N,) and arrays (N, ...) -> a result of their shape."""
    check(op, *arrays)
    x = arrays[0]
    y = cuda.result(op, out, x, x.shape)
    if numbers.shape != x.shape[:1] or numbers.dtype != x.dtype:
        raise ValueError(
            f"{op}: arrays are {x.dtype} {x.shape}, so there must be {x.dtype} {x.shape[:1]} numbers, one a row, "
            f"not {numbers.dtype} {numbers.shape}"
        )
    if x.size:
        N, M, arrays = len(x), x.size // len(x), tuple(map(cuda.contiguous, arrays))
        vector = lanes(M, *arrays, y)
        tiling = Tiling.of(N, M // vector, 1)
        args = cuda.contiguous(numbers), *arrays, y, N, M, tiling.rows
        SOURCE.launch(op, tiling.grid, tiling.block, args, macros(x.dtype, vector))
    return y


@SOURCE.example(*SOURCE.registers)
def _scores_and_rows(device: cuda.Device) -> None:
    rng = np.random.default_rng(0)
    scores, x, long = (device.array(rng.standard_normal(n).astype(np.float32)) for n in (300, (5, 6000), 9001))
    g = sigmoid_cross_entropy(scores, 1.0)
    sigmoid_cross_entropy_backward(g, scores, scores)
    sigmoid_cross_entropy(long, long)
    mean_difference_backward(mean_difference(scores, long), (300,), (9001,))
    squares = row_squares(x)
    row_squares_backward(squares, x)
    interpolate(squares, x, x)
    slope_penalty(squares, 1e-12, 10.0, True)
    slope_penalty_backward(g, squares, 1e-12, 10.0, False)
