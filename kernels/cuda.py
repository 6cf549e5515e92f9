"""CUDA kernels, seen from the host: how the text of a .cu file becomes a function, and how that is launched.

A .cu file is a `Source`: its kernels are `extern "C"`, include nothing but the project's own .cuh files, and take their
element type and tile sizes from -D macros, so that a kernel is compiled once for each set of macros that is used.
"""

import functools
import importlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .device import DEVICES, Array, Device, connect, device_of

__all__ = [
    "DEVICES",
    "SOURCES",
    "Array",
    "Device",
    "Source",
    "addresses",
    "aligned",
    "ceil_div",
    "connect",
    "contiguous",
    "device_of",
    "options",
    "real",
    "realigned",
    "recording_a_graph",
    "result",
    "sources",
    "table",
]

KERNELS_FOLDER = Path(__file__).resolve().parent


def contiguous(array: Array) -> Array:
    """The array, or a C-contiguous copy of it: kernels index memory by hand."""
    return device_of(array).xp.ascontiguousarray(array)


def result(op: str, out: Any, x: Any, shape: tuple[int, ...]) -> Array:
    """A new array beside x, of its dtype, or `out`; ValueError unless that is C-contiguous and of shape and dtype."""
    device = device_of(x)
    if out is None:
        made: Array = device.xp.empty(shape, x.dtype)
        return made
    if device_of(out) is not device or (out.shape, out.dtype) != (shape, x.dtype) or not out.flags.c_contiguous:
        kind = "a" if out.flags.c_contiguous else "a non-contiguous"
        raise ValueError(f"{op}: writes into a C-contiguous {x.dtype} {shape}, not {kind} {out.dtype} {out.shape}")
    checked: Array = out
    return checked


def aligned(*arrays: Any) -> bool:
    """Whether arrays begin at multiples of 16 bytes, as loads of 4 floats must."""
    return all(a.data.ptr % 16 == 0 for a in arrays)


def realigned(array: Array) -> Array:
    """The array, or a copy of it that begins where loads of 4 floats can."""
    return array if aligned(array) else array.copy()


def ceil_div(n: int, by: int) -> int:
    """How many pieces of `by` cover n."""
    return -(-n // by)


C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def real(dtype: DTypeLike) -> str:
    """The C name of float32 or float64, for the macro REAL. TypeError for other dtypes."""
    try:
        return C_TYPES[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"CUDA kernels compute in float32 or float64, not in {np.dtype(dtype)}") from None


Macros = Mapping[str, Any]

SOURCES: list["Source"] = []
"""Every .cu file of the engine; tests compile and run each."""


class Source:
    """One .cu file beside the module that declares it.

    file: the path, relative to the folder kernels/.
    variants: the sets of macros that the host code uses; each is compiled, run and checked by the tests.
    registers: the most registers a thread of each kernel may use, on any architecture and in any variant.
    minimum: the oldest architecture (compute capability times 10) that the text compiles for.
    examples: by kernel name, a function that makes the host code launch that kernel on small arrays of a device.
    """

    def __init__(
        self, file: str, *, variants: Sequence[Macros], registers: Mapping[str, int], minimum: int = 75
    ) -> None:
        self.file, self.variants, self.registers, self.minimum = KERNELS_FOLDER / file, variants, registers, minimum
        self.examples: dict[str, Callable[[Device], None]] = {}
        SOURCES.append(self)

    @functools.cached_property
    def text(self) -> str:
        """What is compiled: the file, with other files' text in place of each #include, and #line marks for messages.

        CuPy's cache of compiled kernels does not look into files that are included: an edit would go unnoticed.
        """
        return _inlined(self.file)

    @property
    def kernels(self) -> list[str]:
        """The names of its kernels, in order."""
        return re.findall(r'extern "C" __global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\s*\(', self.text)

    def example(self, *names: str) -> Callable[[Callable[[Device], None]], Callable[[Device], None]]:
        """Marks a function as one that launches these kernels on small arrays: for reports, not for results."""

        def mark(function: Callable[[Device], None]) -> Callable[[Device], None]:
            self.examples |= dict.fromkeys(names, function)
            return function

        return mark

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        macros: Macros,
        *,
        shared: int = 0,
        reaches: Sequence[Array] = (),
    ) -> None:
        """Runs `kernel` on the device of the arrays in `args`.

        args: device arrays, which must be C-contiguous; ints, passed as C int; NumPy scalars, passed as they are; None,
        a null pointer. A Python float is refused: its C type is float or double, and only the caller knows which.
        macros: the -D macros of the compilation. shared: bytes of dynamic shared memory.
        reaches: arrays that the kernel finds by addresses stored in an argument.

        OverflowError for a size beyond 2^31 - 1 or a grid beyond CUDA's, TypeError for a Python float, ValueError for a
        strided array.
        """
        device = device_of(*[a for a in args if type(a) in DEVICES])
        values = tuple([a if type(a) in DEVICES else _scalar(kernel, a) for a in args])
        for i, a in enumerate(args):
            if type(a) in DEVICES and not a.flags.c_contiguous:
                raise ValueError(f"{kernel}: argument {i} of shape {a.shape} is not C-contiguous; pass contiguous(...)")
        if max(grid[1:], default=1) > 65_535 or grid[0] >= 1 << 31:
            raise OverflowError(f"{kernel}: CUDA launches no grid of {tuple(grid)} blocks; use smaller batches")
        function = self._function(device, kernel, tuple(sorted(macros.items())), shared)
        if _recording.kept is not None:
            _recording.kept.append((values, reaches))
        if device.name == "emulator":
            function(tuple(grid), tuple(block), values, shared_mem=shared, touches=tuple(reaches))
        else:
            values = tuple([NULL if value is None else value for value in values])
            function(tuple(grid), tuple(block), values, shared_mem=shared)

    @functools.cache  # noqa: B019 - sources live as long as the program
    def _function(self, device: Device, kernel: str, macros: tuple[tuple[str, Any], ...], shared: int) -> Any:
        function = self._module(device, macros).get_function(kernel)
        if shared:  # a block has 48 KB without asking, static arrays included
            function.max_dynamic_shared_size_bytes = max(shared, function.max_dynamic_shared_size_bytes)
        return function

    @functools.cache  # noqa: B019
    def _module(self, device: Device, macros: tuple[tuple[str, Any], ...]) -> Any:
        return device.load(code=self.text, options=options(dict(macros)))


NULL = np.uint64(0)
"""For CuPy, of whose None kernels get the address -1 (github.com/cupy/cupy/issues/9046)."""


def _inlined(file: Path) -> str:
    name = file.relative_to(KERNELS_FOLDER).as_posix()
    pieces = [f'#line 1 "{name}"']
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if found := re.fullmatch(r'#include "(.*)"', line):
            pieces += [_inlined((file.parent / found[1]).resolve()), f'#line {number + 1} "{name}"']
        else:
            pieces.append(line)
    return "\n".join(pieces)


def options(macros: Macros) -> tuple[str, ...]:
    """The compiler's options for a set of macros."""
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in sorted(macros.items())))


def _scalar(kernel: str, value: Any) -> Any:
    if value is None or isinstance(value, (np.generic, np.ndarray)):
        return value
    if isinstance(value, int):
        if not -(1 << 31) <= value < 1 << 31:
            raise OverflowError(f"{kernel}: {value} does not fit the kernel's 32-bit indices; use smaller batches")
        return np.int32(value)
    raise TypeError(f"{kernel}: pass {value!r} as a NumPy scalar or an int: its C type cannot be guessed")


def addresses(arrays: Sequence[Any]) -> Array:
    """A device array with the address of each array, uint64: how one launch reaches all parameters.

    Parameters keep their place from step to step, so the last table of the same addresses is used again; it was
    written on the stream of the first call, so switch streams only when they have waited for each other.
    """
    device = device_of(*arrays)
    return _address_table(device, tuple([int(a.data.ptr) for a in arrays]))


@functools.lru_cache(maxsize=256)
def _address_table(device: Device, pointers: tuple[int, ...]) -> Array:
    return table(device, np.array(pointers, np.uint64))


class _Recording(threading.local):
    kept: list[Any] | None = None


_recording = _Recording()
"""While this thread records a CUDA graph: what its launches are given, which has to live as long as the graph."""


@contextmanager
def recording_a_graph(kept: list[Any]) -> Iterator[None]:
    """Inside, what launches are given is kept in the list."""
    before, _recording.kept = _recording.kept, kept
    try:
        yield
    finally:
        _recording.kept = before


def table(device: Device, values: Array) -> Array:
    """A copy on the device, for its caller to keep and use again.

    RuntimeError while a graph is recorded: the copy would become a part of it, and nothing be there before its launch.
    """
    if _recording.kept is not None:
        raise RuntimeError("a table would have to be sent to the device meanwhile")
    return device.array(values)


def sources() -> list[Source]:
    """Every .cu file of the engine: the modules that declare them, kernels/*/cuda*.py, are imported now."""
    for module in sorted(KERNELS_FOLDER.glob("*/cuda*.py")):
        importlib.import_module(f"{__package__}.{module.parent.name}.{module.stem}")
    return SOURCES
