"""The reductions on a GPU: which axis, which threads, how many strips; then reduce.cu.

`Tiling` and `column_sums` also serve batch norm and the gradients of biases, whose sums run over all axes but the last.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import DTypeLike

from .. import cuda
from ..cuda import Array

Axis = int | tuple[int, ...] | None

THREADS = 256
BLOCKS = 1024  # that are enough to keep a large GPU busy (132 multiprocessors, 8 blocks each)
EACH = 16  # elements that a thread should have to itself before an axis is cut into strips

VARIANTS: list[cuda.Macros] = [{"REAL": "float"}, {"REAL": "double"}]
LANES: list[cuda.Macros] = [*VARIANTS, {"REAL": "float", "VECTOR": 4}]  # where a thread may have four columns
SOURCE = cuda.Source(
    "reduce/reduce.cu",
    variants=VARIANTS,
    registers={"sum_all": 48, "sum_strips": 48, "add_strips": 48, "logsumexp": 80},
)


class Tiling(NamedTuple):
    """Threads over (outer, n, inner): reduce.cu draws it.

    `strips` pieces of n, each of `rows` elements (the last may be shorter), are what blockIdx.y counts.
    """

    grid: tuple[int, int]
    block: tuple[int, int, int]
    strips: int
    rows: int

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def of(cls, outer: int, n: int, inner: int, *, width: int = 32, most: int = BLOCKS, lanes: int = 1) -> "Tiling":
        """For sizes of 1 at least; `width` threads to a row of a block, each of `lanes` columns; `most` strips.

        A thread with 4 columns has four times as much under way, and half as many blocks keep a GPU busy: at 64
        registers 512 are on 128 multiprocessors all at once, and fewer strips are left to be added up.
        Nothing here asks which GPU it is: sums are the same, bit by bit, on each.
        """
        inner //= lanes
        width = min(width, _power_of_two(inner))
        height = min(THREADS // width, _power_of_two(n))
        depth = min(THREADS // (width * height), _power_of_two(outer), 64)  # a block is at most 64 deep
        columns = cuda.ceil_div(inner, width) * cuda.ceil_div(outer, depth)
        blocks = BLOCKS if lanes == 1 else BLOCKS // 2
        strips = min(cuda.ceil_div(n, EACH // lanes * height), cuda.ceil_div(blocks, columns), most)
        rows = cuda.ceil_div(n, strips * height) * height
        strips = cuda.ceil_div(n, rows)
        return cls((columns, strips), (width, height, depth), strips, rows)

    @classmethod
    def of_strips(cls, outer: int, strips: int, inner: int) -> "Tiling":
        """For adding up what strips left, in float64: 4 columns are a sector of 32 bytes, and there are more blocks."""
        return cls.of(outer, strips, inner, width=4, most=1)


def lanes(C: int, *arrays: Array) -> int:
    """How many of C channels a thread may move at once: 4 floats where every line of every array is at a multiple of
    16 bytes, else 1."""
    return 4 if C % 4 == 0 and arrays[0].dtype == np.float32 and cuda.aligned(*arrays) else 1


def macros(dtype: DTypeLike, lanes: int) -> dict[str, Any]:
    """Those of LANES."""
    return {"REAL": cuda.real(dtype)} | ({"VECTOR": lanes} if lanes > 1 else {})


def _power_of_two(n: int) -> int:
    """The smallest that is n or more."""
    return 1 << (n - 1).bit_length()


def sum(x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """The sum over the axes. Integers and bool are counted by the array module: in int64, and on no hot path."""
    if x.dtype not in cuda.C_TYPES:
        return np.sum(x, axis=axis, keepdims=keepdims, out=out)
    axes = _axes(x, axis)
    y = cuda.result("sum", out, x, _shape_without(x, axes, keepdims))
    if x.size == 0:
        y.fill(0)
        return y
    x, outer, n, inner = _merged(x, axes)
    tiling = Tiling.of(outer, n, inner)
    macros = {"REAL": cuda.real(x.dtype)}
    if tiling.strips == 1:
        SOURCE.launch("sum_all", tiling.grid, tiling.block, (x, y, outer, n, inner, tiling.rows), macros)
        return y
    partial = cuda.device_of(x).xp.empty((outer, tiling.strips, inner), np.float64)
    SOURCE.launch("sum_strips", tiling.grid, tiling.block, (x, partial, outer, n, inner, tiling.rows), macros)
    return column_sums(partial, y)


def column_sums(partial: Array, y: Array) -> Array:
    """partial (outer, strips, inner) float64 -> y, whose outer * inner elements become the sums over the strips."""
    outer, strips, inner = partial.shape
    tiling = Tiling.of_strips(outer, strips, inner)
    args = partial, y, outer, strips, inner, tiling.rows
    SOURCE.launch("add_strips", tiling.grid, tiling.block, args, {"REAL": cuda.real(y.dtype)})
    return y


def amax(x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """The largest element over the axes, by the array module."""
    return np.amax(x, axis=axis, keepdims=keepdims, out=out)


def amax_share(x: Array, largest: Array, axis: Axis = None, out: Array | None = None) -> Array:
    """Each element's share of the gradient of amax: 1 / (number of ties) where x equals the largest, else 0.

    `largest` is amax(x, axis, keepdims=True). By the array module.
    """
    ties = x == largest
    return np.divide(ties.astype(x.dtype), np.sum(ties, axis=axis, keepdims=True).astype(x.dtype), out=out)


def logsumexp(x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """log(sum(exp(x))) without overflow: the largest element is taken out first.

    One block a column, or for short ones a part of a block: made for classes, not for one sum over millions.
    """
    axes = _axes(x, axis)
    macros = {"REAL": cuda.real(x.dtype)}
    if math.prod(x.shape[a] for a in axes) == 0:
        raise ValueError(f"logsumexp: there is no largest element over axis {axis} of shape {x.shape}")
    y = cuda.result("logsumexp", out, x, _shape_without(x, axes, keepdims))
    if y.size:
        x, outer, n, inner = _merged(x, axes)
        tiling = Tiling.of(outer, n, inner, most=1)
        SOURCE.launch("logsumexp", tiling.grid, tiling.block, (x, y, outer, n, inner, tiling.rows), macros)
    return y


def _axes(x: Array, axis: Axis) -> tuple[int, ...]:
    """In order, counted from the front. AxisError, ValueError: as NumPy."""
    return tuple(range(x.ndim)) if axis is None else tuple(sorted(normalize_axis_tuple(axis, x.ndim)))


def _shape_without(x: Array, axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    return tuple(1 if a in axes else n for a, n in enumerate(x.shape) if keepdims or a not in axes)


def _merged(x: Array, axes: tuple[int, ...]) -> tuple[Array, int, int, int]:
    """x C-contiguous, and outer, n, inner. Axes with others between them are first brought together, in a copy."""
    axes = tuple(a for a in axes if x.shape[a] != 1)
    kept = tuple(a for a in range(x.ndim) if a not in axes)
    if any(x.shape[a] != 1 and axes and axes[0] < a < axes[-1] for a in kept):
        x, axes = x.transpose(*kept, *axes), tuple(range(len(kept), x.ndim))
    n = math.prod(x.shape[a] for a in axes)
    inner = math.prod(x.shape[axes[-1] + 1 :]) if axes else 1
    return cuda.contiguous(x), x.size // (n * inner), n, inner


@SOURCE.example("sum_all", "logsumexp")
def _rows_and_columns(device: cuda.Device) -> None:
    values = np.arange(40 * 70, dtype=np.float32).reshape(40, 70) / 100
    for axis in (0, 1):
        sum(device.array(values), axis)
        logsumexp(device.array(values), axis)


@SOURCE.example("sum_strips", "add_strips")
def _strips(device: cuda.Device) -> None:
    sum(device.array(np.ones((300, 40), np.float32)), 0)
    sum(device.array(np.ones(9001, np.float32)))
