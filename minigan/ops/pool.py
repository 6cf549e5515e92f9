"""Pooling and upsampling, made of the ops that move and add elements, so that every derivative comes for free."""

from typing import Any

from .. import kernels
from ..mixing import as_tensors
from ..tensor import Tensor
from .conv import Pair, pair
from .shape import broadcast_to, getitem, pad, reshape


def _pooling(
    name: str, x: Any, window: Pair, stride: Pair | None, padding: Pair
) -> tuple[Tensor, tuple[int, int], tuple[int, int], tuple[int, int]]:
    (x,) = as_tensors(name, [x])
    size, pads = pair(name, "window", window, 1), pair(name, "padding", padding, 0)
    steps = size if stride is None else pair(name, "stride", stride, 1)
    if x.ndim != 4:
        raise ValueError(f"{name}: x must be (N, H, W, C), but is {x.shape}")
    if 2 * pads[0] > size[0] or 2 * pads[1] > size[1]:
        raise ValueError(f"{name}: padding {pads} must be at most half of the window {size}")
    if any(x.shape[1 + i] + 2 * pads[i] < size[i] for i in (0, 1)):
        raise ValueError(f"{name}: the window {size} is larger than x {x.shape} with padding {pads}")
    return x, size, steps, pads


def avg_pool2d(x: Any, window: Pair, stride: Pair | None = None, padding: Pair = 0) -> Tensor:
    """The mean of each window of x (N, H, W, C); the zeros of the padding count. Stride: the window's size."""
    x, (kh, kw), (sh, sw), (ph, pw) = _pooling("avg_pool2d", x, window, stride, padding)
    if ph or pw:
        x = pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    oh, ow = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    total: Tensor | None = None
    for u in range(kh):
        for v in range(kw):
            rows, columns = slice(u, u + sh * (oh - 1) + 1, sh), slice(v, v + sw * (ow - 1) + 1, sw)
            part = x[:, rows, columns]
            total = part if total is None else total + part
    assert total is not None
    return total * (1 / (kh * kw))


def max_pool2d(x: Any, window: Pair, stride: Pair | None = None, padding: Pair = 0) -> Tensor:
    """The largest element of each window of x (N, H, W, C). At ties the first one, in row order, gets the gradient."""
    x, size, steps, pads = _pooling("max_pool2d", x, window, stride, padding)
    return getitem(reshape(x, (-1,)), kernels.max_pool2d_index(x.array, size, steps, pads))


def upsample_nearest(x: Any, scale: Pair = 2) -> Tensor:
    """x (N, H, W, C) -> (N, H * scale, W * scale, C), each pixel repeated."""
    (x,) = as_tensors("upsample_nearest", [x])
    sh, sw = pair("upsample_nearest", "scale", scale, 1)
    if x.ndim != 4:
        raise ValueError(f"upsample_nearest: x must be (N, H, W, C), but is {x.shape}")
    N, H, W, C = x.shape
    return reshape(broadcast_to(reshape(x, (N, H, 1, W, 1, C)), (N, H, sh, W, sw, C)), (N, H * sh, W * sw, C))
