"""Convolutions on a GPU that do more with a result than store it: a bias with an activation, or a batch norm's moments.

A kernel of its own would read all of the result back from memory for that.
"""

from .. import cuda
from ..batch_norm.cuda import batch_norm_statistics, combine
from ..cuda import Array
from .cuda import compute_x, compute_y, room_for_x, room_for_y
from .cuda_tensor import Epilogue, Moments
from .geometry import Geometry


def conv2d_bias_act(
    x: Array, w: Array, b: Array, slope: float, g: Geometry, out: Array | None = None, prepared: object = None
) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O), b (O,) -> leaky_relu(conv2d(x, w) + b, slope); slope 1: a bias."""
    op = "conv2d_bias_act"
    y = room_for_y(op, x, w, g, out)
    compute_y(x, w, y, g, Epilogue(_checked_bias(op, y, b), slope))
    return y


def conv_transpose2d_bias_act(
    y: Array, w: Array, b: Array, slope: float, g: Geometry, out: Array | None = None, prepared: object = None
) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O), b (C,) -> leaky_relu(conv_transpose2d(y, w) + b, slope) (N, H, W, C)."""
    op = "conv_transpose2d_bias_act"
    x = room_for_x(op, y, w, g, out)
    compute_x(y, w, x, g, Epilogue(_checked_bias(op, x, b), slope))
    return x


def conv2d_statistics(
    x: Array, w: Array, g: Geometry, out: tuple[Array, Array, Array] | None = None, prepared: object = None
) -> tuple[Array, Array, Array]:
    """x, w -> y = conv2d(x, w), its mean (O,), its biased variance (O,); `out` is such a triple."""
    op = "conv2d_statistics"
    y = room_for_y(op, x, w, g, out[0] if out else None)
    _check_not_empty(op, "y", y)
    return y, *_statistics(op, y, compute_y(x, w, y, g, Epilogue(moments=True)), out)


def conv_transpose2d_statistics(
    y: Array, w: Array, g: Geometry, out: tuple[Array, Array, Array] | None = None, prepared: object = None
) -> tuple[Array, Array, Array]:
    """y, w -> x = conv_transpose2d(y, w), its mean (C,), its biased variance (C,); `out` is such a triple."""
    op = "conv_transpose2d_statistics"
    x = room_for_x(op, y, w, g, out[0] if out else None)
    _check_not_empty(op, "x", x)
    return x, *_statistics(op, x, compute_x(y, w, x, g, Epilogue(moments=True)), out)


def _statistics(
    op: str, result: Array, moments: Moments | None, out: tuple[Array, Array, Array] | None
) -> tuple[Array, Array]:
    """Mean and biased variance of a convolution's result: of the moments, if it gave them, else from memory."""
    if moments is None:
        return batch_norm_statistics(result, out[1:] if out else None)
    mean, var = (cuda.result(op, array, result, result.shape[-1:]) for array in (out[1:] if out else (None, None)))
    combine(*moments, mean, var)
    return mean, var


def _checked_bias(op: str, result: Array, b: Array) -> Array:
    """b, C-contiguous, from a multiple of 16 bytes on; ValueError unless it is (channels of the result,) and of its
    dtype."""
    C = result.shape[-1:]
    if b.shape != C or b.dtype != result.dtype:
        raise ValueError(
            f"{op}: the result is {result.dtype} {result.shape}, so b must be {result.dtype} {C}, "
            f"not {b.dtype} {b.shape}"
        )
    return b if b.flags.c_contiguous and cuda.aligned(b) else b.copy()


def _check_not_empty(op: str, letter: str, result: Array) -> None:
    """ValueError if there is nothing to take the mean of."""
    if result.size == 0:
        raise ValueError(f"{op}: {letter} {result.shape} is empty and has no mean")
