"""Indexing on a device: the array module moves elements; two kernels are written here (indexing.cu)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from .. import cuda
from ..cuda import Array, Device

Pair = tuple[int, int]

THREADS = 256

LOOKED_AT = 1 << 24
"""Rows of a table, by 32 columns each, times indices: up to that, each row looks at all indices to find its own. At 32
a load these are half a million loads of a warp, a thousand for each scheduler of a large GPU."""

SOURCE = cuda.Source(
    "indexing/indexing.cu",
    variants=[{"REAL": "float"}, {"REAL": "double"}],
    registers={"scatter_add": 24, "scatter_rows": 24, "max_pool2d_index": 56},
)


def copy(x: Array, out: Array | None = None) -> Array:
    """A C-contiguous copy."""
    if out is None:
        return cuda.device_of(x).xp.array(x, order="C")
    np.copyto(out, x)
    return out


def reshape(x: Array, shape: tuple[int, ...], out: Array | None = None) -> Array:
    """x in another shape; a view where NumPy gives one and no `out` was passed."""
    if out is None:
        return x.reshape(shape)
    copy(x, out.reshape(x.shape))
    return out


def take(x: Array, index: Any, out: Array | None = None) -> Array:
    """x[index]; a view where NumPy gives one and no `out` was passed."""
    if not _is_basic(index) and not _on_device(index):
        # A device does not look at an index before it uses it: NumPy looks, on an array that takes no memory.
        np.broadcast_to(np.zeros((), bool), x.shape)[index]
    return x[index] if out is None else copy(x[index], out)


def scatter_add(g: Array, index: Any, shape: tuple[int, ...], out: Array | None = None) -> Array:
    """The adjoint of `take`: zeros of `shape` with g added at `index`, repeated indices adding up.

    Equal bits in every run, and those of the reference: equal places are brought together by a stable sort. An index
    on the host is sorted there, one on the device (pooling's) is sorted there and never seen by the host. Where table
    and index are small, rows that lie on the device are found without a sort, which no CUDA graph can record.
    """
    device = cuda.device_of(g)
    x = device.xp.empty(shape, g.dtype) if out is None else out
    if _are_rows(index) and 0 < index.size * shape[0] * cuda.ceil_div(prod(shape[1:]), 32) <= LOOKED_AT:
        return _scatter_rows(cuda.contiguous(np.broadcast_to(g, (*index.shape, *shape[1:]))), index, x)
    x.fill(0)
    if _is_basic(index):  # reaches no place twice
        x[index] = g
        return x
    xp = device.xp if _on_device(index) else np
    places = xp.arange(prod(shape), dtype=np.int64).reshape(shape)[index]
    if places.size:
        g = cuda.contiguous(np.broadcast_to(g, places.shape))
        places = places.reshape(-1)
        order = xp.argsort(places) if xp is device.xp else np.argsort(places, kind="stable")
        targets = places[order]
        if xp is np:
            targets, order = device.xp.array(targets), device.xp.array(order)
        grid = (cuda.ceil_div(g.size, THREADS),)
        SOURCE.launch("scatter_add", grid, (THREADS,), (g, targets, order, g.size, x), {"REAL": cuda.real(g.dtype)})
    return x


def _scatter_rows(g: Array, rows: Array, x: Array) -> Array:
    """Zeros like x (V, ...) with row j of g (rows.shape, ...) added to row rows[j]: x, written whole."""
    V, D = len(x), prod(x.shape[1:])
    grid = (cuda.ceil_div(V * cuda.ceil_div(D, 32), THREADS // 32),)
    args = g, cuda.contiguous(rows), rows.size, V, D, x
    SOURCE.launch("scatter_rows", grid, (THREADS,), args, {"REAL": cuda.real(g.dtype)})
    return x


def concatenate(arrays: Sequence[Array], axis: int, out: Array | None = None) -> Array:
    """The arrays one behind the other along an axis that they already have."""
    return np.concatenate(arrays, axis=axis, out=out)


def pad(x: Array, widths: Sequence[Pair], value: float = 0.0, out: Array | None = None) -> Array:
    """x with `widths[axis] = (before, after)` elements of `value` around it."""
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, widths, strict=True))
    y = cuda.device_of(x).xp.empty(shape, x.dtype) if out is None else out
    y.fill(value)
    y[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))] = x
    return y


def max_pool2d_index(x: Array, window: Pair, stride: Pair, padding: Pair, out: Array | None = None) -> Array:
    """For each pooling window of x (N, H, W, C) the flat index into x of its largest element: (N, OH, OW, C) int64.

    The first one wins at ties, in row order, and a NaN wins over everything.
    """
    N, H, W, C = x.shape
    OH, OW = ((x.shape[1 + i] + 2 * padding[i] - window[i]) // stride[i] + 1 for i in (0, 1))
    index = cuda.device_of(x).xp.empty((N, OH, OW, C), np.int64) if out is None else out
    if index.size:
        args = cuda.contiguous(x), H, W, C, OH, OW, *window, *stride, *padding, index.size, index
        grid = (cuda.ceil_div(index.size, THREADS),)
        SOURCE.launch("max_pool2d_index", grid, (THREADS,), args, {"REAL": cuda.real(x.dtype)})
    return index


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_basic(index: Any) -> bool:
    """Whether x[index] is a view: nothing but whole numbers, slices, None and Ellipsis. True and False are masks."""
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, (slice, np.integer))
        or (isinstance(part, int) and not isinstance(part, bool))
        for part in _parts(index)
    )


def _are_rows(index: Any) -> bool:
    return type(index) in cuda.DEVICES and index.dtype == np.int64


def _on_device(index: Any) -> bool:
    return any(type(part) in cuda.DEVICES for part in _parts(index))


@SOURCE.example("scatter_add", "scatter_rows", "max_pool2d_index")
def _example(device: Device) -> None:
    rng = np.random.default_rng(0)
    scatter_add(device.xp.array(rng.random((40, 9), np.float32)), rng.integers(0, 12, 40), (12, 9))
    scatter_add(device.xp.array(rng.random((40, 35), np.float32)), device.xp.array(rng.integers(-7, 7, 40)), (7, 35))
    max_pool2d_index(device.xp.array(rng.random((2, 9, 8, 5), np.float32)), (3, 2), (2, 2), (1, 0))
