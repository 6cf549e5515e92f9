"""The specification of the convolution trio: one matrix product for each tap (u, v) of the window.

In NHWC the pixels that tap (u, v) reads are a strided slice of the padded input, and its weight w[u, v] is a (C, O)
matrix, so a convolution is KH * KW products of (N OH OW, C) by (C, O). What a convolution may do with its result before
it is stored, a bias with an activation or a batch norm's statistics, is specified as the kernels that it replaces.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..activation.reference import bias_act
from ..batch_norm.reference import batch_norm_statistics
from .geometry import Geometry

Array = NDArray[Any]


def taps(g: Geometry) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """(u, v, index): padded_x[index] has shape (N, OH, OW, C) and is what tap (u, v) meets."""
    (sh, sw), (oh, ow) = g.stride, g.y_size
    for u in range(g.window[0]):
        for v in range(g.window[1]):
            rows = slice(u, u + sh * (oh - 1) + 1, sh)
            columns = slice(v, v + sw * (ow - 1) + 1, sw)
            yield u, v, (slice(None), rows, columns)


def conv2d(x: Array, w: Array, g: Geometry, out: Array | None = None, prepared: object = None) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O) -> y (N, OH, OW, O). Prepares nothing."""
    (ph, pw), shape = g.padding, (len(x), *g.y_size, w.shape[3])
    y = np.empty(shape, x.dtype) if out is None else out
    y[...] = 0
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    for u, v, window in taps(g):
        y += padded[window] @ w[u, v]
    return y


def conv_transpose2d(y: Array, w: Array, g: Geometry, out: Array | None = None, prepared: object = None) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O) -> x (N, H, W, C). Prepares nothing."""
    (ph, pw), (h, w_) = g.padding, g.x_size
    padded = np.zeros((len(y), h + 2 * ph, w_ + 2 * pw, w.shape[2]), y.dtype)
    for u, v, window in taps(g):
        padded[window] += y @ w[u, v].T
    x = np.empty((len(y), h, w_, w.shape[2]), y.dtype) if out is None else out
    x[...] = padded[:, ph : ph + h, pw : pw + w_]
    return x


def conv2d_weight(x: Array, y: Array, g: Geometry, out: Array | None = None) -> Array:
    """x (N, H, W, C), y (N, OH, OW, O) -> w (KH, KW, C, O)."""
    (ph, pw), (C, O) = g.padding, (x.shape[3], y.shape[3])
    w = np.empty((*g.window, C, O), x.dtype) if out is None else out
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    for u, v, window in taps(g):
        w[u, v] = np.tensordot(padded[window], y, ((0, 1, 2), (0, 1, 2)))
    return w


def conv2d_bias_act(
    x: Array, w: Array, b: Array, slope: float, g: Geometry, out: Array | None = None, prepared: object = None
) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O), b (O,) -> leaky_relu(conv2d(x, w) + b, slope); slope 1: a bias."""
    y = conv2d(x, w, g, out)
    return bias_act(y, b, slope, y)


def conv_transpose2d_bias_act(
    y: Array, w: Array, b: Array, slope: float, g: Geometry, out: Array | None = None, prepared: object = None
) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O), b (C,) -> leaky_relu(conv_transpose2d(y, w) + b, slope) (N, H, W, C)."""
    x = conv_transpose2d(y, w, g, out)
    return bias_act(x, b, slope, x)


def conv2d_statistics(
    x: Array, w: Array, g: Geometry, out: tuple[Array, Array, Array] | None = None, prepared: object = None
) -> tuple[Array, Array, Array]:
    """x, w -> y = conv2d(x, w), its mean (O,), its biased variance (O,); `out` is such a triple."""
    y = conv2d(x, w, g, out[0] if out else None)
    return y, *batch_norm_statistics(y, out[1:] if out else None)


def conv_transpose2d_statistics(
    y: Array, w: Array, g: Geometry, out: tuple[Array, Array, Array] | None = None, prepared: object = None
) -> tuple[Array, Array, Array]:
    """y, w -> x = conv_transpose2d(y, w), its mean (C,), its biased variance (C,); `out` is such a triple."""
    x = conv_transpose2d(y, w, g, out[0] if out else None)
    return x, *batch_norm_statistics(x, out[1:] if out else None)
