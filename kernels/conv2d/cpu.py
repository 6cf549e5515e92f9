"""The compiled trio: checks its arguments, and hands them to the algorithm that algorithm.py chooses.

direct.py          a matrix product over patches, for every geometry
few_channels.py    the same without copying patches together, where x has so few channels that this costs most
winograd.py        fewer multiplications, where the geometry allows it

What else may become of a result, a bias with an activation or a batch norm's statistics, is a pass of its own here, in
place. A GPU does it before the result is stored (cuda_fused.py).
"""

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..activation.cpu import bias_act
from ..batch_norm.cpu import batch_norm_statistics
from ..dispatch import backend
from ..loops import result
from ..prepared import Prepared
from . import direct, few_channels, reference, winograd
from .algorithm import TILES, conv_algorithm
from .geometry import Geometry

Array = NDArray[Any]

_compiles = True
_one_at_a_time = threading.RLock()  # compiled code lets other Python threads run, and all calls share their scratch


def _or_reference(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function`; once Numba has failed to compile it here, its specification, after one warning."""
    specification = getattr(reference, function.__name__)

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Array:
        global _compiles
        if _compiles:
            try:
                with _one_at_a_time:
                    return function(*args, **options)
            except (TypeError, ValueError, MemoryError):  # about the arguments; Numba has its own classes for its own
                raise
            except Exception as error:
                if backend() == "cpu":  # asked for by name: no falling back
                    raise
                _compiles = False
                warnings.warn(
                    f"the convolution kernels do not compile here ({type(error).__name__}: {error}): minigan runs on "
                    "the NumPy reference, which is right but many times slower; try another numba within >=0.68,<0.69",
                    RuntimeWarning,
                    stacklevel=2,
                )
        answer: Array = specification(*args, **options)
        return answer

    return run


@_or_reference
def conv2d(x: Array, w: Array, g: Geometry, out: Array | None = None, prepared: Prepared | None = None) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O) -> y (N, OH, OW, O). prepared: the slot of w's owner."""
    N, C, O = len(x), x.shape[3], w.shape[3]
    y = _result("conv2d", ("x", x, (N, *g.x_size, C)), ("w", w, (*g.window, C, O)), (N, *g.y_size, O), out)
    algorithm = conv_algorithm("conv2d", N, C, O, g)
    if x.size == 0 or w.size == 0:
        y[...] = 0
    elif algorithm in TILES:
        winograd.conv2d(x, w, g, TILES[algorithm], y, prepared)
    elif few_channels.fits(g, C, O):
        few_channels.conv2d(x, w, g, y)
    else:
        direct.conv2d(x, w, g, y)
    return y


@_or_reference
def conv_transpose2d(
    y: Array, w: Array, g: Geometry, out: Array | None = None, prepared: Prepared | None = None
) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O) -> x (N, H, W, C). prepared: the slot of w's owner."""
    N, C, O = len(y), w.shape[2], w.shape[3]
    x = _result("conv_transpose2d", ("y", y, (N, *g.y_size, O)), ("w", w, (*g.window, C, O)), (N, *g.x_size, C), out)
    algorithm = conv_algorithm("conv_transpose2d", N, C, O, g)
    if y.size == 0 or w.size == 0:
        x[...] = 0
    elif algorithm in TILES:
        winograd.conv_transpose2d(y, w, g, TILES[algorithm], x, prepared)
    elif O == 1 and g.y_size == (1, 1) and g.padding == (0, 0) and g.window == g.x_size:  # D's last layer, backwards
        np.multiply(y.reshape(N, 1), w.reshape(1, -1), out=x.reshape(N, -1))
    elif few_channels.fits_transposed(g, C, O):
        few_channels.conv_transpose2d(y, w, g, x)
    else:
        direct.conv_transpose2d(y, w, g, x)
    return x


@_or_reference
def conv2d_weight(x: Array, y: Array, g: Geometry, out: Array | None = None) -> Array:
    """x (N, H, W, C), y (N, OH, OW, O) -> w (KH, KW, C, O)."""
    N, C, O = len(x), x.shape[3], y.shape[3]
    w = _result("conv2d_weight", ("x", x, (N, *g.x_size, C)), ("y", y, (N, *g.y_size, O)), (*g.window, C, O), out)
    algorithm = conv_algorithm("conv2d_weight", N, C, O, g)
    if x.size == 0 or y.size == 0:
        w[...] = 0
    elif algorithm in TILES:
        winograd.conv2d_weight(x, y, g, TILES[algorithm], w)
    elif few_channels.fits(g, C, O):
        few_channels.conv2d_weight(x, y, g, w)
    else:
        direct.conv2d_weight(x, y, g, w)
    return w


def conv2d_bias_act(
    x: Array,
    w: Array,
    b: Array,
    slope: float,
    g: Geometry,
    out: Array | None = None,
    prepared: Prepared | None = None,
) -> Array:
    """x (N, H, W, C), w (KH, KW, C, O), b (O,) -> leaky_relu(conv2d(x, w) + b, slope); slope 1: a bias."""
    y = conv2d(x, w, g, out, prepared)
    return bias_act(y, b, slope, y)


def conv_transpose2d_bias_act(
    y: Array,
    w: Array,
    b: Array,
    slope: float,
    g: Geometry,
    out: Array | None = None,
    prepared: Prepared | None = None,
) -> Array:
    """y (N, OH, OW, O), w (KH, KW, C, O), b (C,) -> leaky_relu(conv_transpose2d(y, w) + b, slope) (N, H, W, C)."""
    x = conv_transpose2d(y, w, g, out, prepared)
    return bias_act(x, b, slope, x)


def conv2d_statistics(
    x: Array, w: Array, g: Geometry, out: tuple[Array, Array, Array] | None = None, prepared: Prepared | None = None
) -> tuple[Array, Array, Array]:
    """x, w -> y = conv2d(x, w), its mean (O,), its biased variance (O,); `out` is such a triple."""
    y = conv2d(x, w, g, out[0] if out else None, prepared)
    return y, *batch_norm_statistics(y, out[1:] if out else None)


def conv_transpose2d_statistics(
    y: Array, w: Array, g: Geometry, out: tuple[Array, Array, Array] | None = None, prepared: Prepared | None = None
) -> tuple[Array, Array, Array]:
    """y, w -> x = conv_transpose2d(y, w), its mean (C,), its biased variance (C,); `out` is such a triple."""
    x = conv_transpose2d(y, w, g, out[0] if out else None, prepared)
    return x, *batch_norm_statistics(x, out[1:] if out else None)


def _result(
    name: str,
    first: tuple[str, Array, tuple[int, ...]],
    second: tuple[str, Array, tuple[int, ...]],
    shape: tuple[int, ...],
    out: Array | None,
) -> Array:
    """`out` or a new array, after a check of both (letter, array, shape that the geometry asks for): the kernels check
    no index."""
    dtypes = first[1].dtype, second[1].dtype
    if dtypes[0] != dtypes[1] or dtypes[0] not in (np.float32, np.float64):
        raise TypeError(
            f"{name}: {first[0]} is {dtypes[0]} and {second[0]} is {dtypes[1]}, but both must be float32 or both "
            "float64; convert with astype"
        )
    for letter, array, expected in (first, second):
        if array.shape != expected:
            raise ValueError(f"{name}: {letter} has shape {array.shape} but the geometry expects {expected}")
    return result(name, out, shape, dtypes[0])
