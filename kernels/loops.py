"""What the loop kernels share: compilation for small and for large arrays, and arrays made ready for compiled code.

A wrapper checks shapes and dtypes here, because compiled loops check nothing, and passes C-contiguous views, of
inputs always read-only ones: so Numba compiles a loop once a dtype, whatever arrays come.
"""

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import get_num_threads, inner, njit
from .scratch import scratch

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# Up to so many elements a loop stays on one core. A second core that is awake gains nothing here, and one on which
# BLAS's idle threads still spin, as they do for a while after a matrix product, comes milliseconds late.
SERIAL = 1 << 16


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compiles `function(..., thread, threads)`, a thread's share of a loop; the result is called as run(size, ...).

    Up to SERIAL elements in `size` one thread does it all. `part` says which share is whose. Inner loops run over
    slices, from 0 to their length: an index that may be negative is tested for wrap-around, which prevents vector code.
    Division by zero gives inf as in NumPy, since a test for it would prevent vector code, too.
    """
    share = njit(cache=True, error_model="numpy")(function)
    versions = [share]

    def run(size: int, *args: Any) -> None:
        if size <= SERIAL:
            share(*args, 0, 1)
            return
        if len(versions) == 1:
            versions.append(_on_threads(function, share))
        versions[1](get_num_threads(), args)

    run.versions = versions  # type: ignore[attr-defined]  # for tests
    return run


def _on_threads(function: Callable[..., None], share: Any) -> Any:
    """What runs `share` on so many threads: (threads, args)."""
    # Not imported before: it starts the threads, after which the process cannot fork.
    from .parallel import run as start
    from .parallel import task

    # Numba names its cache entry after the function and keeps it by the file of its code, which is this one for all.
    name = f"{function.__module__}.{function.__name__}_on_threads".replace(".", "_")
    twin = FunctionType(_start.__code__, {"__name__": __name__, "start": start, "task": task, "share": share}, name)
    twin.__qualname__ = name
    return njit(cache=True)(twin)


def _start(threads: int, args: Any) -> None:
    start(threads, task(share, args))  # type: ignore[name-defined]  # noqa: F821  # globals of each twin


@inner(cache=True)
def part(n: int, thread: int, threads: int) -> tuple[int, int]:
    """The thread's share of n elements: from, to."""
    return n * thread // threads, n * (thread + 1) // threads


def flat(x: Array, *shape: int, room: str = "") -> Array:
    """x as a C-contiguous read-only view of `shape`, by default one axis; a copy only where there is no such view.

    Aligned, too: compiled code counts in elements, from one array to another. room: names the scratch memory for such
    a copy of what is often a part of a larger array, as the gradients of what was concatenated are.
    """
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned):
        copy = scratch(room, x.shape, x.dtype) if room else np.empty(x.shape, x.dtype)
        copy[...] = x
        x = copy
    view = x.reshape(shape or -1)
    view.setflags(write=False)
    return view


@njit(cache=True)
def up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return (count + step - 1) // step * step


def check(op: str, *arrays: Array) -> None:
    """TypeError unless all are float32 or all float64; ValueError unless all have one shape."""
    dtype, shape = arrays[0].dtype, arrays[0].shape
    if dtype not in FLOATS:
        raise TypeError(f"{op}: wants all float32 or all float64, not {_listed(a.dtype for a in arrays)}")
    for array in arrays[1:]:
        if array.dtype != dtype:
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
