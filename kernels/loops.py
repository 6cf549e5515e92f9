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
    """x as a C-contiguous read-only view of `shape`, by default one axis; a copy only where there is no such view."""
    view = np.ascontiguousarray(x).reshape(shape or -1)
    view.flags.writeable = False
    return view


def check(op: str, *arrays: Array) -> None:
    """TypeError unless all are float32 or all float64; ValueError unless all have one shape."""
    first = arrays[0]
    for array in arrays:
        if array.dtype not in FLOATS or array.dtype != first.dtype:
            raise TypeError(f"{op}: wants all float32 or all float64, not {_listed(a.dtype for a in arrays)}")
        if array.shape != first.shape:
            raise ValueError(f"{op}: wants arrays of one shape, not {_listed(a.shape for a in arrays)}")


def result(op: str, out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array, or `out`; ValueError unless `out` is C-contiguous, of that shape and dtype."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        kind = "" if out.flags.c_contiguous else "non-contiguous "
        kind += "" if out.flags.writeable else "read-only "
        raise ValueError(f"{op}: writes into a C-contiguous {dtype} {shape}, not a {kind}{out.dtype} {out.shape}")
    return out


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
