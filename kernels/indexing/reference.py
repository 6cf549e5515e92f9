"""Copies, gathers and scatters. `index` is anything that NumPy takes between brackets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..scratch import scratch

Array = NDArray[Any]
Pair = tuple[int, int]


def copy(x: Array, out: Array | None = None) -> Array:
    """A C-contiguous copy."""
    if out is None:
        return np.array(x, order="C")
    np.copyto(out, x)
    return out


def reshape(x: Array, shape: tuple[int, ...], out: Array | None = None) -> Array:
    """x in another shape; a view where NumPy gives one and no `out` was passed."""
    if out is None:
        return x.reshape(shape)
    np.copyto(out.reshape(x.shape), x)
    return out


def take(x: Array, index: Any, out: Array | None = None) -> Array:
    """x[index]; a view where NumPy gives one and no `out` was passed."""
    if out is None:
        return np.asarray(x[index])
    whole = isinstance(index, np.ndarray) and index.dtype == np.intp and index.size and x.ndim
    if whole and -len(x) <= index.min() and index.max() < len(x):
        return np.take(x, index, 0, out=out, mode="wrap")  # the default mode makes a copy of `out`
    return copy(x[index], out)


def scatter_add(g: Array, index: Any, shape: tuple[int, ...], out: Array | None = None) -> Array:
    """The adjoint of `take`: zeros of `shape` with g added at `index`, repeated indices adding up."""
    x = np.empty(shape, g.dtype) if out is None else out
    x[...] = 0
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is ... or type(part) in (int, slice) for part in parts):  # nothing twice
        place = x[index if ... in parts else (*parts, ...)]
        np.add(place, g, out=place)
    else:
        np.add.at(x, index, g)
    return x


def concatenate(arrays: Sequence[Array], axis: int, out: Array | None = None) -> Array:
    """The arrays one behind the other along an axis that they already have."""
    joined = np.concatenate(arrays, axis=axis, out=out)
    return np.ascontiguousarray(joined) if out is None else joined  # its axes may be in any order that arrays have


def pad(x: Array, widths: Sequence[Pair], value: float = 0.0, out: Array | None = None) -> Array:
    """x with `widths[axis] = (before, after)` elements of `value` around it."""
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, widths, strict=True))
    y = np.empty(shape, x.dtype) if out is None else out
    y[...] = value
    y[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))] = x
    return y


def max_pool2d_index(x: Array, window: Pair, stride: Pair, padding: Pair, out: Array | None = None) -> Array:
    """For each pooling window of x (N, H, W, C) the flat index into x of its largest element: (N, OH, OW, C) int64.

    The first one wins at ties, in row order, and a NaN wins over everything.
    """
    N, H, W, C = x.shape
    OH, OW = ((x.shape[1 + i] + 2 * padding[i] - window[i]) // stride[i] + 1 for i in (0, 1))
    shape = N, OH, OW, C
    index = np.empty(shape, np.int64) if out is None else out
    best, value = scratch("best", shape, x.dtype), scratch("value", shape, x.dtype)
    better, number = scratch("better", shape, np.bool_), scratch("number", shape, np.bool_)
    place = scratch("place", shape, np.int64)
    for u, v in np.ndindex(*window):
        rows = np.clip(np.arange(OH) * stride[0] - padding[0] + u, 0, H - 1)  # for padding its neighbour in the window
        columns = np.clip(np.arange(OW) * stride[1] - padding[1] + v, 0, W - 1)
        place[...] = np.arange(N)[:, None, None, None] * (H * W * C)
        place += rows[:, None, None] * (W * C)
        place += columns[:, None] * C
        place += np.arange(C)
        np.take(x.reshape(-1), place, out=value, mode="wrap")
        if u == v == 0:
            best[...], index[...] = value, place
            continue
        np.logical_not(np.less_equal(value, best, out=better), out=better)  # also where one is NaN
        better &= np.equal(best, best, out=number)
        np.copyto(best, value, where=better)
        np.copyto(index, place, where=better)
    return index
