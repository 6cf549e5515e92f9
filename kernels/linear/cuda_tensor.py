"""Matrix products on tensor cores: tensor.cu, in tf32 or bf16. Also what conv2d/cuda_tensor.py shares: the tiles."""

import functools
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..cuda import Array, Device, ceil_div, contiguous, device_of
from .cuda import add_splits, check_sizes

MINIMUM = 80
"""The oldest architecture that can do tf32, bf16 and cp.async: Ampere, 2020."""

BK = 32  # terms of a tile: 8 pieces of 16 bytes in a line
STAGES = 3  # tiles in shared memory: one that is multiplied, and two that are on their way
PROCESSORS = 128  # of a large GPU. The shapes decide and not the GPU at hand, nor where arrays begin
LEAST = 8 * BK  # terms of a sum that are worth a block of their own


class Tile(NamedTuple):
    """A block's part of a product: BM rows and BN columns; WM by WN of them for each warp.

    VEC: how many neighbours in memory a copy brings, 4 (16 bytes) or 1. BLOCKS: how many may share a multiprocessor, by
    their registers; on Hopper they do, while GPUs with less shared memory have room for fewer.
    """

    BM: int
    BN: int
    WM: int
    WN: int
    VEC: int
    BLOCKS: int

    @property
    def threads(self) -> int:
        return 32 * (self.BM // self.WM) * (self.BN // self.WN)

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory."""
        return STAGES * (self.BM + self.BN) * BK * 4

    def macros(self, precision: str) -> dict[str, Any]:
        fixed = {"REAL": "float", "BK": BK, "STAGES": STAGES, "THREADS": self.threads}
        return {**fixed, "BF16": int(precision == "bf16"), **self._asdict()}


# A warp of LARGE reads 128 bytes of shared memory for each mma, one of SMALL 256: but there must be enough blocks.
LARGE = Tile(128, 128, 64, 64, 4, 2)
SMALL, SMALL_BY_ONES = Tile(64, 64, 32, 32, 4, 3), Tile(64, 64, 32, 32, 1, 3)
NARROW, NARROW_BY_ONES = Tile(128, 16, 32, 16, 4, 3), Tile(128, 16, 32, 16, 1, 3)


def variants(*tiles: Tile) -> list[dict[str, Any]]:
    """The macros of each in both precisions."""
    return [tile.macros(precision) for tile in tiles for precision in ("tf32", "bf16")]


SOURCE = cuda.Source(
    "linear/tensor.cu",
    variants=variants(LARGE, SMALL),
    registers=dict.fromkeys(("matmul_mma", "matmul_mma_right_transposed", "matmul_mma_left_transposed"), 255),
    minimum=MINIMUM,
)


@functools.cache
def available(device: Device) -> bool:
    """Whether the device has such tensor cores; the emulator has."""
    return device.name == "emulator" or int(device.xp.cuda.Device().compute_capability) >= MINIMUM


def choose_tile(rows: int, columns: int, terms: int, layers: int, vectors: bool) -> Tile:
    """For so many products of that size; vectors: whether every copy and store may be of 4 neighbours."""
    if columns <= NARROW.BN:
        return NARROW if vectors else NARROW_BY_ONES
    if not vectors:
        return SMALL_BY_ONES
    large = layers * ceil_div(rows, LARGE.BM) * ceil_div(columns, LARGE.BN)
    if columns > SMALL.BN and large * max(1, terms // LEAST) >= PROCESSORS // 2:
        return LARGE
    return SMALL


def split(blocks: int, terms: int, tile: Tile) -> tuple[int, int]:
    """(splits, chunk): how many blocks share the sum of each tile, and how many of the terms each has.

    Sums are split only where there are fewer blocks than multiprocessors: it costs a pass over memory, and an epilogue.
    """
    splits = 1 if blocks >= PROCESSORS else max(1, min(PROCESSORS * tile.BLOCKS // blocks, terms // LEAST))
    chunk = ceil_div(ceil_div(terms, splits), BK) * BK
    return max(1, ceil_div(terms, chunk)), chunk


def matmul(kernel: str, a: Array, b: Array, y: Array, precision: str) -> bool:
    """y (I, J) = the product of two matrices as `kernel` has them, float32 and C-contiguous. False: not computed.

    That is where a line is no multiple of 16 bytes, or a matrix so small that most of a tile would be empty.
    """
    (I, J), terms = y.shape, a.size // max(y.shape[0], 1)
    if any(n % 4 for n in (a.shape[1], b.shape[1], J)) or min(I, J, terms) < 16:
        return False
    if not cuda.aligned(y):
        room = device_of(y).xp.empty(y.shape, y.dtype)
        matmul(kernel, a, b, room, precision)
        y[...] = room
        return True
    a, b = (cuda.realigned(contiguous(array)) for array in (a, b))
    check_sizes("matmul", (a, b, y))
    tile = LARGE if choose_tile(I, J, terms, 1, vectors=True) is LARGE else SMALL
    grid = ceil_div(I, tile.BM), ceil_div(J, tile.BN)
    splits, chunk = split(grid[0] * grid[1], terms, tile)
    parts = y if splits == 1 else device_of(y).xp.empty((splits, I, J), y.dtype)
    args, macros = [a, b, parts, I, J, terms, chunk], tile.macros(precision)
    SOURCE.launch(kernel, (*grid, splits), (tile.threads,), args, macros, shared=tile.shared)
    if splits > 1:
        add_splits(parts, y)
    return True


@SOURCE.example("matmul_mma", "matmul_mma_right_transposed", "matmul_mma_left_transposed")
def _example(device: Device) -> None:
    """Rows, columns and terms beyond the last whole tile, and two splits."""
    a, b, y = (device.xp.zeros(shape, np.float32) for shape in ((72, 520), (520, 68), (72, 68)))
    matmul("matmul_mma", a, b, y, "tf32")
    matmul("matmul_mma_right_transposed", a, device.xp.zeros((68, 520), np.float32), y, "tf32")
    matmul("matmul_mma_left_transposed", device.xp.zeros((520, 72), np.float32), b, y, "bf16")
