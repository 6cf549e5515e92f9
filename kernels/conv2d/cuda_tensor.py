"""The trio on tensor cores: tensor.cu, in tf32 or bf16, with what is done to sums before they are stored."""

import functools
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..activation.cuda import bias_act
from ..cuda import Array, Device, ceil_div, device_of
from ..linear.cuda import add_splits
from ..linear.cuda_tensor import (
    LARGE,
    MINIMUM,
    NARROW,
    NARROW_BY_ONES,
    SMALL,
    SMALL_BY_ONES,
    available,
    choose_tile,
    split,
    variants,
)
from .geometry import Geometry
from .precision import conv_precision

SIZES = np.dtype(
    [(name, np.int32) for name in ("N", "H", "W", "C", "OH", "OW", "O", "KH", "KW", "SH", "SW", "PH", "PW")]
)


@functools.lru_cache(maxsize=1024)
def sizes_of(N: int, C: int, O: int, g: Geometry) -> Any:
    """The kernels' struct Sizes."""
    return np.array((N, *g.x_size, C, *g.y_size, O, *g.window, *g.stride, *g.padding), SIZES)


SOURCE = cuda.Source(
    "conv2d/tensor.cu",
    variants=variants(LARGE, SMALL, NARROW, SMALL_BY_ONES, NARROW_BY_ONES),
    registers={"conv2d_mma": 248, "conv_transpose2d_mma": 240, "conv2d_weight_mma": 255},
    minimum=MINIMUM,
)


class Product(NamedTuple):
    """A convolution as `phases` matrix products, each of at most (rows, terms) by (terms, channels of the result)."""

    rows: int
    terms: int
    phases: int = 1


class Moments(NamedTuple):
    """Of each strip of `rows` rows, and each channel: mean and sum of squared deviations, float64 (strips, channels).

    The rows are in groups of `per_group`; each begins a new strip.
    """

    means: Array
    squares: Array
    rows: int
    per_group: int


class Epilogue(NamedTuple):
    """What is done to the sums before they are stored.

    bias: is added, (channels,), from a multiple of 16 bytes on; then comes a leaky ReLU of this slope. moments: are
    wanted, of the sums without a bias.
    """

    bias: Array | None = None
    slope: float = 1.0
    moments: bool = False


NO_EPILOGUE = Epilogue()


def fits(device: Device) -> bool:
    """Whether convolutions in float32 are to be computed here, on this device."""
    return conv_precision() != "fp32" and available(device)


def run(
    op: str, first: Array, second: Array, out: Array, sizes: Any, product: Product, epilogue: Epilogue = NO_EPILOGUE
) -> Moments | None:
    """Writes the convolution of two contiguous float32 arrays into `out`, with the bias. The moments, if wanted.

    There are none where sums are split among blocks, or where the phases of conv_transpose2d are not of one size.
    """
    inner, columns = first.shape[3], out.shape[3]  # the channels of the image that is gathered, and of the result
    vectors = inner % 4 == 0 and columns % 4 == 0
    if vectors and not cuda.aligned(out):
        room = device_of(out).xp.empty(out.shape, out.dtype)
        moments = run(op, first, second, room, sizes, product, epilogue)
        out[...] = room
        return moments
    if vectors:
        first, second = cuda.realigned(first), cuda.realigned(second)
    tile = choose_tile(product.rows, columns, product.terms, product.phases, vectors)
    grid = ceil_div(product.rows, tile.BM), ceil_div(columns, tile.BN)
    splits, chunk = split(grid[0] * grid[1] * product.phases, product.terms, tile)
    whole = splits == 1  # whether a block has all of its sums
    bias, slope = epilogue.bias, epilogue.slope
    moments = _room_for_moments(out, product, grid[0], tile.BM) if epilogue.moments and whole else None
    parts = out if whole else device_of(out).xp.empty((splits, *out.shape), out.dtype)
    args = [first, second, parts, sizes, chunk]
    if op != "conv2d_weight":
        args += [bias if whole else None, np.float32(slope), *(moments[:2] if moments else (None, None))]
    launch = (*grid, product.phases * splits), (tile.threads,), args, tile.macros(conv_precision())
    SOURCE.launch(f"{op}_mma", *launch, shared=tile.shared)
    if not whole:
        add_splits(parts, out)
        if bias is not None:
            bias_act(out, bias, slope, out)
    return moments


def _room_for_moments(out: Array, product: Product, strips: int, rows: int) -> Moments | None:
    """For `strips` strips in each phase; None where the phases have not all as many pixels."""
    pixels = out.size // out.shape[3]
    if pixels != product.rows * product.phases:
        return None
    shape = 2, product.phases * strips, out.shape[3]
    means, squares = device_of(out).xp.empty(shape, np.float64)
    return Moments(means, squares, rows, product.rows)


@SOURCE.example("conv2d_mma", "conv_transpose2d_mma", "conv2d_weight_mma")
def _example(device: Device) -> None:
    """Pixels, channels and terms beyond the last whole tile, taps beyond the image, a bias, and moments."""
    g = Geometry((2, 2), (1, 1), (4, 4), (10, 14))
    N, C, O = 3, 20, 68
    x, w, y = (device.xp.zeros(s, np.float32) for s in ((N, 10, 14, C), (4, 4, C, O), (N, 5, 7, O)))
    sizes = sizes_of(N, C, O, g)
    run("conv2d", x, w, y, sizes, Product(N * 35, 16 * C), Epilogue(device.xp.zeros(O, np.float32), 0.2))
    run("conv_transpose2d", y, w, x, sizes, Product(N * 35, 4 * O, 4), Epilogue(moments=True))
    run("conv2d_weight", x, y, w, sizes, Product(16 * C, N * 35))
