"""Matrix products on a GPU: naive.cu is the definition, and computes in float64; linear.cu is fast, in float32.

Also what conv2d/cuda.py shares: the shape of a block's tile, and how long sums are split among blocks.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..cuda import Array, Device, ceil_div, contiguous, device_of
from . import cuda_vector
from .cuda_vector import FULL


class Tile(NamedTuple):
    """A block's part of a product: BM rows and BN columns, BK terms at a time; TM by TN of them for each thread.

    VEC: how many neighbours in memory a load brings, 4 (16 bytes) or 1.
    """

    BM: int
    BN: int
    TM: int
    TN: int
    VEC: int
    BK: int = 16

    @property
    def threads(self) -> int:
        return self.BM // self.TM * (self.BN // self.TN)

    @property
    def macros(self) -> dict[str, Any]:
        return {"REAL": "float", "THREADS": self.threads, **self._asdict()}


# A thread that multiplies 8 rows by 4 columns reads 12 numbers of shared memory for 32 multiplications. Blocks of 128
# threads are small, but layers of GANs are, too: there must be enough blocks for all multiprocessors.
WIDE, WIDE_BY_ONES, NARROW = Tile(64, 64, 8, 4, 4), Tile(64, 64, 8, 4, 1), Tile(128, 16, 4, 4, 1)
TILES = (WIDE, WIDE_BY_ONES, NARROW)

LEAST = 128  # terms of a sum that are worth a block of their own

SOURCE = cuda.Source(
    "linear/linear.cu", variants=[t.macros for t in TILES], registers={"matmul_tiled": 128, "add_splits": 48}
)
NAIVE = cuda.Source("linear/naive.cu", variants=[{"REAL": "float"}, {"REAL": "double"}], registers={"matmul_naive": 72})


def choose_tile(columns: int, vectors: bool) -> Tile:
    """For a result of so many columns; vectors: whether every load and store may be of 4 neighbours."""
    if columns <= NARROW.BN:
        return NARROW
    return WIDE if vectors else WIDE_BY_ONES


def split(blocks: int, terms: int, tile: Tile) -> tuple[int, int]:
    """(splits, chunk): how many blocks share the sum of each tile, and how many of the terms each has.

    A product with few blocks gets more, as long as each has a sum that is worth it. The shapes decide and not the GPU
    at hand, so that the order of additions, and with it every bit, is the same on all.
    """
    splits = max(1, min(FULL // blocks, terms // LEAST))
    chunk = ceil_div(ceil_div(terms, splits), tile.BK) * tile.BK
    return max(1, ceil_div(terms, chunk)), chunk


def add_splits(parts: Array, out: Array) -> None:
    """out[...] = the sum of parts (splits, ...), in order."""
    grid = (ceil_div(out.size, 256),)
    SOURCE.launch("add_splits", grid, (256,), [parts, out, len(parts), out.size], WIDE.macros)


def check_sizes(op: str, arrays: Sequence[Array]) -> None:
    """OverflowError for an array whose elements 32-bit indices cannot count."""
    for a in arrays:
        if a.size >= 1 << 31:
            raise OverflowError(f"{op}: an array of shape {a.shape} has 2^31 numbers or more; use smaller batches")


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a (..., I, K), b (..., K, J) -> (..., I, J), both float32 or both float64. TypeError else: CuPy wants cuBLAS."""
    if a.dtype != b.dtype or np.dtype(a.dtype) not in cuda.C_TYPES:
        raise TypeError(f"matmul: on a device both must be float32 or both float64, not {a.dtype} and {b.dtype}")
    left, right = (a[None, :] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    if left.ndim < 2 or right.ndim < 2 or left.shape[-1] != right.shape[-2]:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}: the inner dimensions do not match")
    batch, I, J = np.broadcast_shapes(left.shape[:-2], right.shape[:-2]), left.shape[-2], right.shape[-1]
    shape = (*batch, *((I,) if a.ndim > 1 else ()), *((J,) if b.ndim > 1 else ()))
    device_of(a, b)
    y = cuda.result("matmul", out, a, shape)
    if out is not None and (np.may_share_memory(out, a) or np.may_share_memory(out, b)):
        y[...] = matmul(a, b)
    elif left.shape[-1] == 0:
        y.fill(0)
    elif y.size:
        if left.ndim > 2 and right.ndim == 2:  # the rows of all batches are rows of one product
            left, batch, I = left.reshape(-1, left.shape[-1]), (), math.prod(batch) * I
        (_naive if a.dtype == np.float64 else _tiled)(left, right, y.reshape(-1, I, J), batch)
    return y


class _Matrices(NamedTuple):
    """A batch of matrices as the kernels see it: memory, and the steps through it along each axis."""

    memory: Array
    batch: int
    row: int
    column: int

    @property
    def vectors(self) -> bool:
        """Whether lines of neighbours begin at multiples of 16 bytes. Of the two steps one is 1, the other a line."""
        return self.row * self.column % 4 == 0 and cuda.aligned(self.memory)


def _matrices(x: Array, batch: tuple[int, ...]) -> _Matrices:
    """x (..., rows, columns), without a copy if it is contiguous, if each of its matrices is transposed, and if all
    batches share one; with one if only some do."""
    if x.size == x.shape[-2] * x.shape[-1]:
        x = x.reshape(x.shape[-2:]) if x.ndim > 2 else x
    elif x.shape[:-2] != batch:
        x = np.broadcast_to(x, (*batch, *x.shape[-2:]))
    rows, columns = x.shape[-2:]
    step = rows * columns if x.ndim > 2 else 0
    transposed = x.transpose(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    if transposed.flags.c_contiguous and not x.flags.c_contiguous:
        return _Matrices(transposed, step, 1, rows)
    return _Matrices(contiguous(x), step, columns, 1)


def _naive(a: Array, b: Array, y: Array, batch: tuple[int, ...]) -> None:
    """y (batches, I, J) = a b by naive.cu."""
    left, right, K = _matrices(a, batch), _matrices(b, batch), a.shape[-1]
    check_sizes("matmul", (a, b, y))
    args = [left.memory, right.memory, y, *y.shape, K, *left[1:], *right[1:]]
    NAIVE.launch("matmul_naive", (ceil_div(y.size, 256),), (256,), args, {"REAL": cuda.real(y.dtype)})


def _tiled(a: Array, b: Array, y: Array, batch: tuple[int, ...]) -> None:
    """y (batches, I, J) = a b by linear.cu."""
    left, right, K = _matrices(a, batch), _matrices(b, batch), a.shape[-1]
    check_sizes("matmul", (a, b, y))
    batches, I, J = y.shape
    if batches == 1 and 1 in (I, J, K):
        cuda_vector.matmul(left.memory, left.column, right.memory, right.row, y, K)
        return
    tile = choose_tile(J, left.vectors and right.vectors and J % 4 == 0 and cuda.aligned(y))
    grid = batches * ceil_div(I, tile.BM), ceil_div(J, tile.BN)
    splits, chunk = split(grid[0] * grid[1], K, tile)
    parts = y if splits == 1 else device_of(y).xp.empty((splits, *y.shape), y.dtype)
    args = [left.memory, right.memory, parts, *y.shape, K, *left[1:], *right[1:], chunk]
    SOURCE.launch("matmul_tiled", (*grid, splits), (tile.threads,), args, tile.macros)
    if splits > 1:
        add_splits(parts, y)


@NAIVE.example("matmul_naive")
def _example_naive(device: Device) -> None:
    a, b = device.xp.zeros((2, 5, 9), np.float64), device.xp.zeros((9, 33), np.float64)
    matmul(a, b)


@SOURCE.example("matmul_tiled", "add_splits")
def _example(device: Device) -> None:
    """Rows, columns and terms beyond the last whole tile, and two splits; a as it lies and b transposed."""
    a, b = device.xp.zeros((70, 260), np.float32), device.xp.zeros((68, 260), np.float32)
    matmul(a, b.T)
