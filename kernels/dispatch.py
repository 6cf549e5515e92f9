"""How a kernel is found: by name, among the implementations that its row of the table lists.

Every kernel has a `reference.py`: NumPy, short, the specification. Some have a `cpu.py` beside it: Numba,
parallel; some a `cuda.py`, the host code of the CUDA kernels in the .cu file next to it. All equal the reference up
to rounding (tests/test_kernels.py and tests/test_cuda_kernels.py enumerate the table and check it). Where the arrays
live decides between CPU and CUDA (device.py). "auto" takes the fastest one that can run; `use("reference")` goes back
to the specification, to see whether a kernel is to blame; `use("cpu")` insists on the Numba kernels and raises where
they cannot run. Both run on copies of a device's arrays.
"""

import functools
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import recording
from .device import DEVICES, Device, operand, to_host
from .device import own as device_own

Array = NDArray[Any]

BACKENDS = ("auto", "reference", "cpu")

KERNELS: dict[str, "Kernel"] = {}
"""The table itself, in the order of kernels/__init__.py. Tests enumerate it."""

_backend = "auto"


class Kernel:
    """One row of the table. Calling it runs the implementation that the backend in force selects.

    `folder` holds `reference.py` and one module for each name in `compiled`, and each of these modules has a
    function of the kernel's name. A row without "cpu" says that NumPy's own loop is the CPU kernel, one without "cuda"
    that CuPy's own is the GPU's: NumPy's functions hand over to those of the arrays they are given.
    """

    def __init__(self, name: str, folder: str, *compiled: str) -> None:
        self.name, self.folder, self.compiled = name, folder, compiled
        self.in_place = folder == "optimizer"
        self._chosen: Callable[..., Any] | None = None
        self._cuda: Callable[..., Any] | None = None
        KERNELS[name] = self
        # Now: an import later on would put the folder where the table has a kernel of the same name.
        importlib.import_module(f"{__package__}.{folder}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recording.current is not None and recording.listening():
            return recording.current.call(self, args, kwargs)
        if DEVICES and (device := _device(args) or _device(kwargs.values())) is not None:
            return self._on(device, args, kwargs)
        return (self._chosen or self._choose())(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Kernel({self.name}: {', '.join(('reference', *self.compiled))})"

    def implementation(self, backend: str) -> Callable[..., Any]:
        """The function that `backend` ("reference", "cpu" or "cuda") runs for this kernel.

        ImportError without Numba; RuntimeError in a process that was forked from one with kernels' threads.
        """
        module = backend if backend in self.compiled else "reference"
        if module == "cpu" and _refusal:
            raise RuntimeError(f"{self.name}: {_refusal}")
        imported = importlib.import_module(f"{__package__}.{self.folder}.{module}")
        function: Callable[..., Any] = getattr(imported, self.name)
        return function

    def runner(self, args: Iterable[Any]) -> Callable[..., Any]:
        """What a call with such arguments runs, for a recorded step to call directly."""
        return self if DEVICES and _device(args) is not None else self._chosen or self._choose()

    def _choose(self) -> Callable[..., Any]:
        backend = ("cpu" if numba_available() else "reference") if _backend == "auto" else _backend
        chosen = self.implementation(backend)
        if backend in self.compiled and not importlib.import_module(f"{__package__}.jit").shared_safely():
            chosen = _one_at_a_time(chosen)
        self._chosen = chosen
        return chosen

    def _on(self, device: Device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs on the arrays of a device. Host arrays of a single number pass as NumPy scalars."""
        if _backend != "auto":
            return _on_copies(self._chosen or self._choose(), device, args, kwargs)
        if self._cuda is None:
            self._cuda = self.implementation("cuda")
        try:
            return self._cuda(*map(operand, args), **kwargs)
        except MemoryError as error:  # CuPy's is one
            raise MemoryError(f"{self.name}: {device.name} has no room left: {error}; use smaller batches") from error


def own(values: Any, dtype: DTypeLike | None = None) -> Array:
    """A new C-contiguous array of the values, on the device where they are."""
    if recording.listening() and recording.is_device_array(values):
        same = dtype is None or values.dtype == dtype
        ordered: Array = KERNELS["copy"](values) if same or not values.flags.c_contiguous else values
        return ordered if same else KERNELS["cast"](ordered, np.dtype(dtype))  # which keeps the order of the axes
    return device_own(values, dtype)


def _device(values: Iterable[Any]) -> Device | None:
    """The device of the first array among the values, those of lists and tuples included, that is on one."""
    for value in values:
        if (found := DEVICES.get(type(value))) is not None:
            return found
        if type(value) in (list, tuple) and (found := _device(value)) is not None:
            return found
    return None


def _on_copies(function: Callable[..., Any], device: Device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """function(*args, **kwargs) on copies of a device's arrays, and back again: results, and what was written to."""
    copies: dict[int, tuple[Any, Any, bytes]] = {}  # by the original's id: it, its copy on the host, what that held

    def fetch(value: Any) -> Any:
        if type(value) in DEVICES:
            if id(value) not in copies:
                host = to_host(value)
                copies[id(value)] = value, host, host.tobytes()
            return copies[id(value)][1]
        return type(value)(map(fetch, value)) if type(value) in (list, tuple) else value

    def send(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(send, value))
        given = [original for original, host, _ in copies.values() if host is value]
        return given[0] if given else device.array(np.asarray(value))

    fetched, options = [fetch(value) for value in args], {key: fetch(value) for key, value in kwargs.items()}
    result = function(*fetched, **options)
    for original, host, before in copies.values():
        if host.tobytes() != before:
            original[...] = device.array(host)
    return send(result)


def backend() -> str:
    """The name that is in force: "auto", "reference" or "cpu"."""
    return _backend


@contextmanager
def use(name: str) -> Iterator[None]:
    """`with use("reference"):` runs every kernel from its specification. Process-wide, not per thread.

    Raises ValueError for an unknown name, ImportError for "cpu" on a machine without Numba.
    """
    if name not in BACKENDS:
        raise ValueError(f"use: there is no backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "cpu":
        importlib.import_module(f"{__package__}.jit")
    previous = _backend
    _select(name)
    try:
        yield
    finally:
        _select(previous)


_layout = 0


def layout() -> int:
    """Another number each time that tensors have got other memory, or kernels other implementations."""
    return _layout


def changed_layout() -> None:
    """Says that they have: recorded steps hold on to both."""
    global _layout
    _layout += 1


def _select(name: str) -> None:
    global _backend
    _backend = name
    changed_layout()
    for kernel in KERNELS.values():
        kernel._chosen = None


_refusal = ""


def refuse(reason: str) -> None:
    """From now on compiled kernels raise RuntimeError, with this reason."""
    global _refusal
    _refusal = reason
    _select(_backend)


_lock = threading.RLock()


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under a lock that all compiled kernels share."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            return function(*args, **kwargs)

    return run


def first_run() -> bool:
    """Whether kernels are about to be compiled: there is a Numba, and its cache is empty."""
    return numba_available() and not any(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbi"))


def threads() -> int:
    """On how many threads kernels of the CPU run: NUMBA_NUM_THREADS, or one for each core."""
    return int(importlib.import_module(f"{__package__}.jit").get_num_threads()) if numba_available() else 1


_numba: bool | None = None


def numba_available() -> bool:
    """Whether Numba can be imported. Says so once if not: the reference kernels are right, but slow."""
    global _numba
    if _numba is None:
        try:
            importlib.import_module(f"{__package__}.jit")
            _numba = True
        except ImportError as error:
            _numba = False
            warnings.warn(
                f"numba cannot be imported ({error}): minigan runs on its NumPy reference kernels, which are "
                "right but many times slower; install it with: pip install 'numba>=0.68,<0.69'",
                RuntimeWarning,
                stacklevel=2,
            )
    return _numba
