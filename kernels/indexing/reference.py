"""Copies, gathers and scatters. `index` is anything that NumPy takes between brackets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    return np.concatenate(arrays, axis=axis, out=out)


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
    (kh, kw), (ph, pw) = window, padding
    flat = np.pad(np.arange(x.size).reshape(x.shape), ((0, 0), (ph, ph), (pw, pw), (0, 0)), mode="edge")
    padded = pad(x, ((0, 0), (ph, ph), (pw, pw), (0, 0)), -np.inf)
    steps = (slice(None), slice(None, None, stride[0]), slice(None, None, stride[1]))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (1, 2))[steps]
    places = np.lib.stride_tricks.sliding_window_view(flat, (kh, kw), (1, 2))[steps]
    best = windows.reshape(*windows.shape[:4], kh * kw).argmax(-1)[..., None]  # (N, OH, OW, C, 1)
    index = np.take_along_axis(places.reshape(*places.shape[:4], kh * kw), best, -1)[..., 0]
    return index if out is None else copy(index, out)
