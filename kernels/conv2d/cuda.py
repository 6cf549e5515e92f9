"""The trio on a GPU: naive.cu is the definition, and computes in float64; conv2d.cu is fast, in float32."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .. import cuda
from ..cuda import Array, Device, ceil_div, contiguous, device_of
from ..linear.cuda import TILES, add_splits, check_sizes, choose_tile, matmul, split
from .geometry import Geometry

SOURCE = cuda.Source(
    "conv2d/conv2d.cu",
    variants=[t.macros for t in TILES],
    registers={"conv2d_tiled": 128, "conv_transpose2d_tiled": 128, "conv2d_weight_tiled": 128},
)
NAIVE = cuda.Source(
    "conv2d/naive.cu",
    variants=[{"REAL": "float"}, {"REAL": "double"}],
    registers={"conv2d_naive": 72, "conv_transpose2d_naive": 72, "conv2d_weight_naive": 72},
)

SIZES = np.dtype(
    [(name, np.int32) for name in ("N", "H", "W", "C", "OH", "OW", "O", "KH", "KW", "SH", "SW", "PH", "PW")]
)
"""The kernels' struct Sizes."""


def conv2d(x: Array, w: Array, g: Geometry, out: Array | None = None, prepared: object = None) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O) -> y (N, OH, OW, O). Prepares nothing."""
    N, C, O = len(x), x.shape[3], w.shape[3]
    pixels, K = N * math.prod(g.y_size), math.prod(g.window) * C
    expected = ("x", x, (N, *g.x_size, C)), ("w", w, (*g.window, C, O))
    y = _result("conv2d", *expected, (N, *g.y_size, O), out)
    if _is_linear(g):
        matmul(x.reshape(N, K), w.reshape(K, O), out=y.reshape(N, O))
    else:
        _run("conv2d", x, w, y, _sizes(N, C, O, g), Product(pixels, K))
    return y


def conv_transpose2d(y: Array, w: Array, g: Geometry, out: Array | None = None, prepared: object = None) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O) -> x (N, H, W, C). Prepares nothing."""
    N, C, O = len(y), w.shape[2], w.shape[3]
    expected = ("y", y, (N, *g.y_size, O)), ("w", w, (*g.window, C, O))
    x = _result("conv_transpose2d", *expected, (N, *g.x_size, C), out)
    if _is_linear(g):
        K = math.prod(g.window) * C
        matmul(y.reshape(N, O), w.reshape(K, O).T, out=x.reshape(N, K))
    else:  # of the phases the first has the most pixels, and one has the most taps
        pixels, taps = (math.prod(map(ceil_div, sizes, g.stride)) for sizes in (g.x_size, g.window))
        _run("conv_transpose2d", y, w, x, _sizes(N, C, O, g), Product(N * pixels, taps * O, math.prod(g.stride)))
    return x


def conv2d_weight(x: Array, y: Array, g: Geometry, out: Array | None = None) -> Array:
    """x (N, H, W, C), y (N, OH, OW, O) -> w (KH, KW, C, O)."""
    N, C, O = len(x), x.shape[3], y.shape[3]
    pixels, K = N * math.prod(g.y_size), math.prod(g.window) * C
    expected = ("x", x, (N, *g.x_size, C)), ("y", y, (N, *g.y_size, O))
    w = _result("conv2d_weight", *expected, (*g.window, C, O), out)
    if _is_linear(g):
        matmul(x.reshape(N, K).T, y.reshape(N, O), out=w.reshape(K, O))
    else:
        _run("conv2d_weight", x, y, w, _sizes(N, C, O, g), Product(K, pixels))
    return w


def _is_linear(g: Geometry) -> bool:
    """Whether the window is the whole image: then an image is a vector, and the trio is that of a linear layer."""
    return g.window == g.x_size and g.padding == (0, 0)


@functools.lru_cache(maxsize=1024)
def _sizes(N: int, C: int, O: int, g: Geometry) -> Any:
    """The struct that the kernels take."""
    return np.array((N, *g.x_size, C, *g.y_size, O, *g.window, *g.stride, *g.padding), SIZES)


class Product(NamedTuple):
    """A convolution as `phases` matrix products, each of at most (rows, terms) by (terms, channels of the result)."""

    rows: int
    terms: int
    phases: int = 1


def _run(op: str, first: Array, second: Array, out: Array, sizes: Any, product: Product) -> None:
    """Writes the convolution of two arrays into `out`."""
    check_sizes(op, (first, second, out))
    if first.size == 0 or second.size == 0:
        out.fill(0)
    elif out.size:
        run = _naive if out.dtype == np.float64 else _tiled
        run(op, contiguous(first), contiguous(second), out, sizes, product)


def _naive(op: str, first: Array, second: Array, out: Array, sizes: Any, product: Product) -> None:
    macros = {"REAL": cuda.real(out.dtype)}
    NAIVE.launch(f"{op}_naive", (ceil_div(out.size, 256),), (256,), [first, second, out, sizes], macros)


def _tiled(op: str, first: Array, second: Array, out: Array, sizes: Any, product: Product) -> None:
    inner, columns = first.shape[3], out.shape[3]  # the channels of the image that is gathered, and of the result
    tile = choose_tile(columns, inner % 4 == 0 and columns % 4 == 0 and cuda.aligned(first, second, out))
    grid = ceil_div(product.rows, tile.BM), ceil_div(columns, tile.BN)
    splits, chunk = split(grid[0] * grid[1] * product.phases, product.terms, tile)
    parts = out if splits == 1 else device_of(out).xp.empty((splits, *out.shape), out.dtype)
    args = [first, second, parts, sizes, chunk]
    SOURCE.launch(f"{op}_tiled", (*grid, product.phases * splits), (tile.threads,), args, tile.macros)
    if splits > 1:
        add_splits(parts, out, tile)


def _result(
    op: str,
    first: tuple[str, Array, tuple[int, ...]],
    second: tuple[str, Array, tuple[int, ...]],
    shape: tuple[int, ...],
    out: Array | None,
) -> Array:
    """`out` or a new array, after a check of both (letter, array, shape that the geometry asks for): the kernels check
    no index."""
    dtypes = first[1].dtype, second[1].dtype
    if dtypes[0] != dtypes[1] or np.dtype(dtypes[0]) not in cuda.C_TYPES:
        raise TypeError(
            f"{op}: {first[0]} is {dtypes[0]} and {second[0]} is {dtypes[1]}, but both must be float32 or both "
            "float64; convert with astype"
        )
    for letter, array, expected in (first, second):
        if array.shape != expected:
            raise ValueError(f"{op}: {letter} has shape {array.shape} but the geometry expects {expected}")
    device_of(first[1], second[1])
    return cuda.result(op, out, first[1], shape)


@NAIVE.example("conv2d_naive", "conv_transpose2d_naive", "conv2d_weight_naive")
def _example_naive(device: Device) -> None:
    _each_of_the_trio(device, np.float64, 2, 3, 5)


@SOURCE.example("conv2d_tiled", "conv_transpose2d_tiled", "conv2d_weight_tiled")
def _example(device: Device) -> None:
    """Pixels, channels and terms beyond the last whole tile, taps beyond the image, two splits of a sum, and a
    window smaller than the stride."""
    _each_of_the_trio(device, np.float32, 3, 20, 68)
    y, w = device.xp.zeros((1, 2, 3, 4), np.float32), device.xp.zeros((2, 2, 20, 4), np.float32)
    conv_transpose2d(y, w, Geometry((3, 4), (0, 0), (2, 2), (7, 11)))


def _each_of_the_trio(device: Device, dtype: Any, N: int, C: int, O: int) -> None:
    g = Geometry((2, 2), (1, 1), (4, 4), (10, 14))
    x, w, y = (device.xp.zeros(shape, dtype) for shape in ((N, *g.x_size, C), (*g.window, C, O), (N, *g.y_size, O)))
    conv2d(x, w, g), conv_transpose2d(y, w, g), conv2d_weight(x, y, g)
