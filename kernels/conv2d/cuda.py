"""The trio on a GPU: naive.cu is the definition, and computes in float64; conv2d.cu is fast, in float32."""

import math
from typing import Any

import numpy as np

from .. import cuda
from ..activation.cuda import bias_act
from ..cuda import Array, Device, ceil_div, contiguous, device_of
from ..linear import cuda_tensor as linear_tensor
from ..linear.cuda import TILES, add_splits, check_sizes, choose_tile, matmul, split
from . import cuda_few, cuda_tensor
from .cuda_tensor import NO_EPILOGUE, Epilogue, Moments, Product, sizes_of
from .geometry import Geometry
from .precision import conv_precision

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


def conv2d(x: Array, w: Array, g: Geometry, out: Array | None = None, prepared: object = None) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O) -> y (N, OH, OW, O). Prepares nothing."""
    y = room_for_y("conv2d", x, w, g, out)
    compute_y(x, w, y, g)
    return y


def conv_transpose2d(y: Array, w: Array, g: Geometry, out: Array | None = None, prepared: object = None) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O) -> x (N, H, W, C). Prepares nothing."""
    x = room_for_x("conv_transpose2d", y, w, g, out)
    compute_x(y, w, x, g)
    return x


def conv2d_weight(x: Array, y: Array, g: Geometry, out: Array | None = None) -> Array:
    """x (N, H, W, C), y (N, OH, OW, O) -> w (KH, KW, C, O)."""
    N, C, O = len(x), x.shape[3], y.shape[3]
    pixels, K = N * math.prod(g.y_size), math.prod(g.window) * C
    expected = ("x", x, (N, *g.x_size, C)), ("y", y, (N, *g.y_size, O))
    w = _result("conv2d_weight", *expected, (*g.window, C, O), out)
    if _is_linear(g):
        _multiply("matmul_mma_left_transposed", x.reshape(N, K), y.reshape(N, O), w.reshape(K, O))
    else:
        _run("conv2d_weight", x, y, w, sizes_of(N, C, O, g), Product(K, pixels))
    return w


def room_for_y(op: str, x: Array, w: Array, g: Geometry, out: Array | None) -> Array:
    """(N, OH, OW, O): `out` or a new array, after a check of the arguments."""
    N, C, O = len(x), x.shape[3], w.shape[3]
    return _result(op, ("x", x, (N, *g.x_size, C)), ("w", w, (*g.window, C, O)), (N, *g.y_size, O), out)


def room_for_x(op: str, y: Array, w: Array, g: Geometry, out: Array | None) -> Array:
    """(N, H, W, C): `out` or a new array, after a check of the arguments."""
    N, C, O = len(y), w.shape[2], w.shape[3]
    return _result(op, ("y", y, (N, *g.y_size, O)), ("w", w, (*g.window, C, O)), (N, *g.x_size, C), out)


def compute_y(x: Array, w: Array, y: Array, g: Geometry, epilogue: Epilogue = NO_EPILOGUE) -> Moments | None:
    """y = conv2d(x, w), with the epilogue's bias; and its moments, where they cost nothing."""
    N, C, O = len(x), x.shape[3], w.shape[3]
    pixels, K = N * math.prod(g.y_size), math.prod(g.window) * C
    if not _is_linear(g):
        return _run("conv2d", x, w, y, sizes_of(N, C, O, g), Product(pixels, K), epilogue)
    _multiply("matmul_mma", x.reshape(N, K), w.reshape(K, O), y.reshape(N, O))
    _add_bias(y, epilogue)
    return None


def compute_x(y: Array, w: Array, x: Array, g: Geometry, epilogue: Epilogue = NO_EPILOGUE) -> Moments | None:
    """x = conv_transpose2d(y, w), with the epilogue's bias; and its moments, where they cost nothing."""
    N, C, O = len(y), w.shape[2], w.shape[3]
    if not _is_linear(g):  # of the phases the first has the most pixels, and one has the most taps
        pixels, taps = (math.prod(map(ceil_div, sizes, g.stride)) for sizes in (g.x_size, g.window))
        product = Product(N * pixels, taps * O, math.prod(g.stride))
        return _run("conv_transpose2d", y, w, x, sizes_of(N, C, O, g), product, epilogue)
    K = math.prod(g.window) * C
    _multiply("matmul_mma_right_transposed", y.reshape(N, O), w.reshape(K, O), x.reshape(N, K))
    _add_bias(x, epilogue)
    return None


def _is_linear(g: Geometry) -> bool:
    """Whether the window is the whole image: then an image is a vector, and the trio is that of a linear layer."""
    return g.window == g.x_size and g.padding == (0, 0)


def _multiply(kernel: str, a: Array, b: Array, out: Array) -> None:
    """The product of two matrices that `kernel` of linear/tensor.cu computes, by it or by those of fp32."""
    tensor_cores = out.dtype == np.float32 and cuda_tensor.fits(device_of(out))
    if tensor_cores and linear_tensor.matmul(kernel, a, b, out, conv_precision()):
        return
    a, b = contiguous(a), contiguous(b)  # not what is transposed, which would be added up in another order
    matmul(a.T if "left" in kernel else a, b.T if "right" in kernel else b, out=out)


def _add_bias(out: Array, epilogue: Epilogue) -> None:
    """The epilogue's bias and slope, after all, where there is one."""
    if epilogue.bias is not None:
        bias_act(out, epilogue.bias, epilogue.slope, out)


def _run(
    op: str, first: Array, second: Array, out: Array, sizes: Any, product: Product, epilogue: Epilogue = NO_EPILOGUE
) -> Moments | None:
    """Writes the convolution of two arrays into `out`, with the epilogue's bias; moments, where they are free."""
    check_sizes(op, (first, second, out))
    if first.size == 0 or second.size == 0:
        out.fill(0)
    elif out.size:
        first, second = contiguous(first), contiguous(second)
        if out.dtype == np.float32 and cuda_few.fits(op, sizes):
            cuda_few.run(op, first, second, out, sizes, epilogue.bias, epilogue.slope)
            return None
        if out.dtype == np.float32 and cuda_tensor.fits(device_of(out)):
            return cuda_tensor.run(op, first, second, out, sizes, product, epilogue)
        run = _naive if out.dtype == np.float64 else _tiled
        run(op, first, second, out, sizes, product)
    _add_bias(out, epilogue)
    return None


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
        add_splits(parts, out)


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


# Last, because they are made of what is above. The table finds its rows here.
from .cuda_fused import (  # noqa: E402, F401
    conv2d_bias_act,
    conv2d_statistics,
    conv_transpose2d_bias_act,
    conv_transpose2d_statistics,
)
