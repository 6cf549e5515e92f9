"""What the loop kernels share: compilation for small and for large arrays, and arrays made ready for compiled code.

A wrapper checks shapes and dtypes here, because compiled loops check nothing, and passes C-contiguous views, of
inputs always read-only ones: so Numba compiles a loop once a dtype, whatever arrays come.
"""

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import njit

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Up to so many elements a loop stays on one core. A second core that is awake gains nothing here, and one on which
# BLAS's idle threads still spin, as they do for a while after a matrix product, comes milliseconds late.
SERIAL = 1 << 16


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compiles `function(array, ...)`, a loop over `prange`, twice and lazily: `array.size` chooses.

    Division by zero gives inf as in NumPy, since a test for it would prevent vector code.
    """
    small = njit(cache=True, error_model="numpy")(function)
    # Numba names its cache entry after the function, and the two versions need two entries.
    twin = FunctionType(function.__code__, function.__globals__, f"{function.__name__}_parallel")
    twin.__qualname__ = twin.__name__
    large = njit(cache=True, error_model="numpy", parallel=True)(twin)

    def run(array: Array, *rest: Any) -> None:
        (small if array.size <= SERIAL else large)(array, *rest)

    run.versions = small, large  # type: ignore[attr-defined]  # for tests
    return run


def flat(x: Array, *shape: int) -> Array:
    """x as a C-contiguous read-only view of `shape`, by default one axis; a copy only where there is no such view.

    Aligned, too: compiled code counts in elements, from one array to another.
    """
    if not (x.flags.c_contiguous and x.flags.aligned):
        x = np.require(x, requirements=("C", "A"))
    view = x.reshape(shape or -1)
    view.flags.writeable = False
    return view


def aligned(size: int, dtype: np.dtype[Any], make: Callable[..., Array] = np.zeros) -> Array:
    """An array of zeros, or of whatever `make` makes, that begins at a cache line."""
    raw = make(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype)


@njit(cache=True)
def up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return (count + step - 1) // step * step


def check(op: str, *arrays: Array) -> None:
    """TypeError unless all are float32 or all float64; ValueError unless all have one shape."""
    dtype, shape = arrays[0].dtype, arrays[0].shape
    for array in arrays:
        if array.dtype not in FLOATS or array.dtype != dtype:
            raise TypeError(f"{op}: wants all float32 or all float64, not {_listed(a.dtype for a in arrays)}")
        if array.shape != shape:
            raise ValueError(f"{op}: wants arrays of one shape, not {_listed(a.shape for a in arrays)}")


def result(op: str, out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array, or `out`; ValueError unless `out` is C-contiguous, aligned, of that shape and dtype."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.carray:
        kind = "a " if out.flags.c_contiguous else "a non-contiguous "
        kind += "" if out.flags.writeable else "read-only "
        kind = kind if out.flags.aligned else "an unaligned "
        raise ValueError(f"{op}: writes into a C-contiguous {dtype} {shape}, not {kind}{out.dtype} {out.shape}")
    return out


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
