"""The trio for images of few channels on a GPU: few_channels.cu, in float32 whatever the precision of convolutions."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..cuda import Array, Device, ceil_div, device_of
from ..linear.cuda_vector import FULL, add_parts
from .cuda_tensor import sizes_of
from .geometry import Geometry

CHANNELS = 4  # more are worth a matrix product
BATCH = 128  # pixels of y that a block has at a time
LEAST = 2 * BATCH  # pixels that are worth a block of their own
SHARE = 1 / 4  # of the pixels of y that blocks read, those that are new


class Shape(NamedTuple):
    """TAPS: terms of a block. QUADS: groups of 4 channels of a thread, 8 threads side by side. VEC: numbers a load."""

    TAPS: int
    QUADS: int
    VEC: int

    @property
    def region(self) -> int:
        """Pixels of y that a block of conv_transpose2d_few has."""
        return 256 if self.TAPS == 16 else 128

    def tiles(self, channels: int, terms: int) -> tuple[int, int]:
        """Of channels of y, and of terms."""
        return ceil_div(channels, 32 * self.QUADS), ceil_div(terms, self.TAPS)

    @property
    def macros(self) -> dict[str, Any]:
        return {"REAL": "float", **self._asdict()}


WIDE, NARROW, LONG, BY_ONES = Shape(16, 2, 4), Shape(16, 1, 4), Shape(48, 2, 4), Shape(16, 1, 1)

SOURCE = cuda.Source(
    "conv2d/few_channels.cu",
    variants=[shape.macros for shape in (WIDE, NARROW, LONG, BY_ONES)],
    registers={"conv2d_few": 128, "conv_transpose2d_few": 128, "conv2d_weight_few": 136},
)


def choose_shape(terms: int, channels: int, vectors: bool) -> Shape:
    """For so many terms of a patch and channels of y; vectors: whether every access of y may be of 4 numbers."""
    if not vectors:
        return BY_ONES
    if terms > WIDE.TAPS:
        return LONG
    return WIDE if channels > 32 else NARROW


class Sizes(NamedTuple):
    """The struct of the same name, in Python's numbers."""

    N: int
    H: int
    W: int
    C: int
    OH: int
    OW: int
    O: int
    KH: int
    KW: int
    SH: int
    SW: int
    PH: int
    PW: int

    @property
    def terms(self) -> int:
        return self.KH * self.KW * self.C


@functools.lru_cache(maxsize=1024)
def tiles_of_x(s: Sizes, region: int) -> tuple[int, int, int]:
    """(blocks, rows, columns): tiles of so many rows and columns of x, as few as no more than `region` pixels of y
    each allow. blocks: of one image; 0 if a window alone reaches more pixels than that.
    """
    tiles = []
    for across in range(1, s.W + 1):
        columns = ceil_div(s.W, across)
        high = region // min(s.OW, ceil_div(columns + s.KW - 1, s.SW))
        rows = s.H if high >= s.OH else high * s.SH - s.KH + 1
        if rows > 0:
            down = ceil_div(s.H, rows)
            tiles.append((across * down, ceil_div(s.H, down), columns))
    return min(tiles, default=(0, 0, 0))


def fits(op: str, sizes: Any) -> bool:
    """Whether a convolution in float32 is to be computed here.

    The image has few channels; and windows are not so large that blocks of conv_transpose2d would read mostly the same.
    """
    s = Sizes(*sizes.tolist())
    if s.C > CHANNELS:
        return False
    region = choose_shape(s.terms, s.O, vectors=True).region
    blocks = tiles_of_x(s, region)[0]
    return op != "conv_transpose2d" or blocks == 1 or 0 < SHARE * blocks * region <= s.OH * s.OW


def run(
    op: str, first: Array, second: Array, out: Array, sizes: Any, bias: Array | None = None, slope: float = 1.0
) -> None:
    """Writes the convolution of two contiguous float32 arrays into `out`.

    bias: (channels of `out`,), added before a leaky ReLU of this slope; not for conv2d_weight.
    """
    s = Sizes(*sizes.tolist())
    pixels = s.N * s.OH * s.OW
    wide = (first, second) if op == "conv_transpose2d" else (second, out)  # y and w, whose lines are O long
    biased = (bias,) if op == "conv2d" and bias is not None else ()
    shape = choose_shape(s.terms, s.O, s.O % 4 == 0 and cuda.aligned(*wide, *biased))
    tiles = shape.tiles(s.O, s.terms)
    if op == "conv2d":
        grid = ceil_div(pixels, BATCH), tiles[0]
        SOURCE.launch("conv2d_few", grid, (BATCH,), [first, second, out, sizes, bias, np.float32(slope)], shape.macros)
    elif op == "conv_transpose2d":
        _, rows, columns = tiles_of_x(s, shape.region)
        blocks = s.N * ceil_div(s.H, rows) * ceil_div(s.W, columns)
        args = [first, second, out, sizes, bias, np.float32(slope), rows, columns]
        SOURCE.launch("conv_transpose2d_few", (blocks,), (4 * shape.TAPS,), args, shape.macros)
    else:
        usual = math.prod(choose_shape(s.terms, s.O, vectors=True).tiles(s.O, s.terms))
        splits = max(1, min(FULL // usual, pixels // LEAST))  # wherever the arrays begin
        chunk = ceil_div(ceil_div(pixels, splits), BATCH) * BATCH
        splits = ceil_div(pixels, chunk)
        parts = out if splits == 1 else device_of(out).xp.empty((splits, *out.shape), out.dtype)
        args = [first, second, parts, sizes, chunk]
        SOURCE.launch("conv2d_weight_few", (splits, *tiles), (4 * shape.TAPS,), args, shape.macros)
        if splits > 1:
            add_parts(parts, out)


@SOURCE.example("conv2d_few", "conv_transpose2d_few", "conv2d_weight_few")
def _example(device: Device) -> None:
    """Pixels, channels and terms beyond the last whole tile, taps beyond the image, a tile's edge within the image."""
    for g, C, O in (
        (Geometry((2, 2), (1, 1), (4, 4), (41, 35)), 1, 68),
        (Geometry((1, 1), (2, 2), (5, 5), (13, 17)), 3, 20),
        (Geometry((3, 2), (0, 2), (2, 5), (9, 8)), 2, 5),
    ):
        N, bias = 2, device.xp.zeros(max(C, O), np.float32)
        x, w, y = (device.xp.zeros(s, np.float32) for s in ((N, *g.x_size, C), (*g.window, C, O), (N, *g.y_size, O)))
        sizes = sizes_of(N, C, O, g)
        run("conv2d", x, w, y, sizes, bias[:O], 0.2)
        run("conv_transpose2d", y, w, x, sizes, bias[:C], 0.2)
        run("conv2d_weight", x, y, w, sizes)
