"""`RawModule`: a .cu text whose kernels can be launched, with CuPy's names and argument lists.

What a GPU would do without a word, or could not say, is an error here: arguments that do not fit the parameters, too
much shared memory, and all that the checker finds in check mode.
"""

import ctypes
import functools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import build
from .arguments import Arguments, CParameter, check_arguments, opened
from .build import EmulatorError
from .checks import CReport, Lines, Memory, Report, describe, static_arrays

MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_SHARED = 227 << 10
MAX_SHUFFLED = 1 << 26
"""Blocks. Random order keeps a list of them; the others go through any grid."""

LOG_CAPACITY = 4_000_000

Order = Literal["forward", "reverse", "random"]
ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")

ACCESS = np.dtype([("code", "u4"), ("thread", "u2"), ("bytes", "u1"), ("kind", "u1"), ("address", "u8")])
"""EmulatorAccess of checker.cpp. kind: 0 read, 1 write, 2 atomic; plus 16 in shared memory."""


@dataclass(frozen=True)
class Launch:
    """The memory accesses of one block of a launch, an array of ACCESS in program order of each thread.

    left_out: how many there were beyond LOG_CAPACITY.
    """

    kernel: str
    module: "RawModule"
    grid: tuple[int, ...]
    block: tuple[int, ...]
    lines: Lines
    accesses: np.ndarray
    left_out: int


@dataclass
class Run:
    """How launches go, and what they left behind: `reports` of the checker, `launches` if a block is logged."""

    order: Order = "forward"
    seed: int = 0
    check: bool = False
    log_block: int | None = None
    reports: list[Report] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)


_run = Run()
_lock = threading.Lock()  # the runtime runs one launch at a time


def _after_fork() -> None:
    """In a child process: the thread that may have held the lock has stayed behind."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def running(
    order: Order = "forward", seed: int = 0, check: bool = False, log_block: int | None = None
) -> Iterator[Run]:
    """`with running(order="reverse", check=True) as run:` says how launches go. Process-wide, not per thread.

    order: of the threads of a block between barriers, and of the blocks; "random" follows `seed`.
    check: races, indices, alignment and uninitialised shared memory are checked: about ten times slower.
    log_block: the number of the block whose accesses are recorded in `run.launches`; it takes check mode.

    Outside, launches go forward and unchecked.
    """
    global _run
    if order not in ORDERS:
        raise ValueError(f"running: there is no order {order!r}; choose one of {', '.join(ORDERS)}")
    if log_block is not None and not check:
        raise ValueError("running: log_block= records what the checker sees; it needs check=True")
    previous, _run = _run, Run(order, seed, check, log_block)
    try:
        yield _run
    finally:
        _run = previous


class RawModule:
    """The kernels of one .cu text. As cupy.RawModule, it compiles when the first function is asked for.

    code: CUDA C++; of headers, those that an "-I" option leads to. "#line" directives are honoured in messages.
    path: a file to read it from.
    options: NVRTC's. name_expressions: templates to instantiate, to be asked for under the same spelling.
    """

    def __init__(
        self,
        code: str | None = None,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
        path: str | Path | None = None,
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("RawModule: give code= or path=, one of the two")
        if backend != "nvrtc":
            raise ValueError(f"RawModule: backend is {backend!r}, but the emulator stands in for 'nvrtc' alone")
        self.name = "kernel.cu" if path is None else str(path)
        self.code = Path(self.name).read_text() if code is None else code
        self.options, self.name_expressions = tuple(options), tuple(name_expressions or ())

    def get_function(self, name: str) -> "Kernel":
        """The kernel `name`. EmulatorError if the text cannot be compiled or has no such kernel."""
        return Kernel(self, name)

    @property
    def kernels(self) -> list[str]:
        """Names of its kernels with C names, in order."""
        return self._library(_run.check).kernels

    @functools.cache  # noqa: B019 - one entry for each mode
    def _library(self, checked: bool) -> "Library":
        return Library(self._file(checked))

    def _file(self, checked: bool) -> Path:
        return build.library_file(self.code, self.name, self.options, self.name_expressions, checked)


class Library:
    """A compiled text, loaded."""

    def __init__(self, path: Path) -> None:
        build.runtime()  # before it is looked for by name
        self.path, self.dll, self.lines = path, ctypes.CDLL(str(path)), Lines(path)
        self.dll.emulator_kernels.restype = ctypes.c_char_p
        self.kernels = self.dll.emulator_kernels().decode().split()
        ends = [ctypes.c_uint64() for _ in range(3)]
        self.dll.emulator_image(*map(ctypes.byref, ends))
        self.first, self.shared, self.end = (end.value for end in ends)

    @functools.cache  # noqa: B019 - libraries live as long as the program
    def static_shared(self, kernel: str) -> int:
        """Bytes of a kernel's __shared__ arrays, and of those in functions that it may call."""
        found = [(name.rpartition("::")[0].partition("(")[0], size) for _, size, kind, name in build.symbols(self.path)
                 if kind in "bBuV" and "::" in name]  # fmt: skip
        return sum(size for function, size in found if function == kernel or function not in self.kernels)


class CLaunch(ctypes.Structure):
    """EmulatorLaunch of runtime.cpp."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_shared", ctypes.c_uint),
        ("shared_first", ctypes.c_uint64),
        ("shared_end", ctypes.c_uint64),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("checked", ctypes.c_int),
        ("interruptible", ctypes.c_int),
    )


class CRange(ctypes.Structure):
    """EmulatorRange of checker.cpp."""

    _fields_ = (("first", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("shared", ctypes.c_int32))


class Kernel:
    """A function of a module: `kernel(grid, block, args)` launches it and returns when it has run."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name = module, name
        self._static = self._compiled(_run.check)[0].static_shared(name)
        self.max_dynamic_shared_size_bytes = build.STATIC_SHARED - self._static
        """To be raised for more shared memory than 48 KB, static arrays included, as on a GPU."""

    def __call__(
        self,
        grid: Sequence[int] | int,
        block: Sequence[int] | int,
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        touches: Sequence[Any] = (),
    ) -> None:
        """Runs the kernel.

        grid, block: one to three ints. args: C-contiguous arrays of NumPy or of the emulated device; NumPy scalars and
        structured values, passed by value; None, a null pointer. shared_mem: bytes of dynamic shared memory.
        touches: arrays that the kernel reaches through addresses inside other arguments.

        TypeError for arguments that do not fit the parameters, ValueError for strided arrays and for sizes that no
        GPU takes, EmulatorError for everything that goes wrong inside. Ctrl-C stops it at the next barrier or block.
        """
        grid, block = self._size("grid", grid, MAX_GRID), self._size("block", block, MAX_BLOCK)
        threads = block[0] * block[1] * block[2]
        if threads > MAX_THREADS:
            raise ValueError(f"{self.name}: block {block} has {threads} threads; at most {MAX_THREADS} are possible")
        most_shared = MAX_SHARED - self._static
        if not 0 <= shared_mem <= self.max_dynamic_shared_size_bytes <= most_shared:
            raise ValueError(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory, but max_dynamic_shared_size_bytes is "
                f"{self.max_dynamic_shared_size_bytes}; it can be set to {most_shared} at most"
            )
        run = _run
        if run.order == "random" and math.prod(grid) > MAX_SHUFFLED:
            raise ValueError(
                f"{self.name}: random order is for {MAX_SHUFFLED} blocks at most, but grid {grid} has "
                f"{math.prod(grid)}; choose forward or reverse"
            )
        library, address, parameters, most = self._compiled(run.check)
        if threads > most:
            raise ValueError(f"{self.name}: {threads} threads, but its __launch_bounds__ promise {most} at most")
        values = [opened(a) for a in args]
        check_arguments(self.name, values, parameters)
        with _lock:
            memory = Arguments(values, [opened(a) for a in touches], apart=run.check)
            if run.check:
                self._watch(run, library, memory.pieces, shared_mem)
            message = self._launch(run, library, address, grid, block, memory.pointers, shared_mem)
            memory.write_back()
            if run.check:
                self._conclude(run, library, memory.pieces, grid, block, shared_mem, message)
            elif message:
                raise EmulatorError(f"{self.name}: {message}")

    def _size(self, what: str, size: Sequence[int] | int, most: tuple[int, ...]) -> tuple[int, int, int]:
        given = tuple(size) if isinstance(size, (tuple, list)) else (size,)
        fits = [isinstance(n, (int, np.integer)) and 1 <= n <= m for n, m in zip(given, most, strict=False)]
        if not 1 <= len(given) <= 3 or not all(fits):
            raise ValueError(f"{self.name}: {what} is {given}; it takes one to three whole numbers from 1 to {most}")
        x, y, z = (int(n) for n in (*given, 1, 1)[:3])
        return x, y, z

    @functools.cache  # noqa: B019 - one entry for each mode
    def _compiled(self, checked: bool) -> tuple[Library, int, list[Any], int]:
        """The library, the address of the function that runs the kernel, its parameters and its launch bound."""
        library = self.module._library(checked)
        template = self.name in self.module.name_expressions
        symbol = build.symbol_of(self.name) if template else self.name
        if not template and self.name not in library.kernels:
            raise EmulatorError(
                f"there is no kernel {self.name!r} in {self.module.name}; "
                f'its extern "C" kernels are: {", ".join(library.kernels) or "none"}'
            )
        table = ctypes.POINTER(CParameter)()
        count = library.dll[f"emulator_signature_{symbol}"](ctypes.byref(table))
        address = ctypes.cast(library.dll[f"emulator_run_{symbol}"], ctypes.c_void_p).value
        assert address is not None
        return library, address, table[:count], library.dll[f"emulator_threads_{symbol}"]()

    def _watch(self, run: Run, library: Library, memory: list[Memory], dynamic: int) -> None:
        pieces = [*_shared(library, dynamic), *memory]
        ranges = (CRange * len(pieces))(*[CRange(m.first, m.bytes, m.shared) for m in pieces])
        build.runtime().emulator_watch(
            ranges,
            len(pieces),
            ctypes.c_uint64(library.first),
            ctypes.c_uint64(library.end),
            ctypes.c_int64(-1 if run.log_block is None else run.log_block),
            ctypes.c_uint64(LOG_CAPACITY),
        )

    def _launch(
        self,
        run: Run,
        library: Library,
        address: int,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        pointers: ctypes.Array[ctypes.c_void_p],
        shared_mem: int,
    ) -> str:
        launch = CLaunch(
            address,
            ctypes.addressof(pointers),
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            shared_mem,
            library.shared,
            library.end,
            ORDERS.index(run.order),
            run.seed,
            run.check,
            threading.current_thread() is threading.main_thread(),
        )
        message = build.runtime().emulator_launch(ctypes.byref(launch))
        if message == b"interrupted":
            raise KeyboardInterrupt
        return (message or b"").decode()

    def _conclude(
        self,
        run: Run,
        library: Library,
        memory: list[Memory],
        grid: tuple[int, ...],
        block: tuple[int, ...],
        dynamic: int,
        message: str,
    ) -> None:
        """Collects what the checker found and recorded. EmulatorError if it found something."""
        first = ctypes.POINTER(CReport)()
        count = build.runtime().emulator_reports(ctypes.byref(first))
        if count or run.log_block is not None:
            self.module._file(True)  # its lines are looked up there: built again if the cache was emptied
        places = [*_named_shared(library, dynamic), *memory]
        found = [describe(r, self.name, library.lines, places, grid, block) for r in first[:count]]
        if message and message != "out of bounds":
            kind, *rows = message.split("\n")
            lines = tuple(row.split()[0] for row in rows if ":" in row.split()[0])
            found.append(Report(self.name, kind, lines, f"{self.name}: {message}"))
        run.reports += found
        if run.log_block is not None:
            accesses, left_out = _accesses()
            for piece in memory:
                inside = accesses["address"] - np.uint64(piece.first) < piece.bytes
                accesses["address"][inside] -= np.uint64(piece.displaced)
            run.launches.append(Launch(self.name, self.module, grid, block, library.lines, accesses, left_out))
        if found:
            raise EmulatorError("\n".join(report.text for report in found))


def _accesses() -> tuple[np.ndarray, int]:
    """What the checker recorded in the last launch, an array of ACCESS, and how much it could not record."""
    data, left_out = ctypes.c_void_p(), ctypes.c_uint64()
    count = build.runtime().emulator_accesses(ctypes.byref(data), ctypes.byref(left_out))
    found = np.empty(count, ACCESS)
    ctypes.memmove(found.ctypes.data, data, found.nbytes)
    return found, left_out.value


def _shared(library: Library, dynamic: int) -> list[Memory]:
    address = ctypes.addressof(ctypes.c_char.in_dll(build.runtime(), "emulator_dynamic_shared"))
    return [
        Memory("static shared memory", library.shared, library.end - library.shared, True),
        Memory("dynamic shared memory", address, dynamic, True),
    ]


def _named_shared(library: Library, dynamic: int) -> list[Memory]:
    """Static shared memory array by array, in front of the rest."""
    arrays = static_arrays(library.path)
    named = [Memory(f"shared array {name}", library.first + at, size, True) for at, size, name in arrays]
    return [*named, *_shared(library, dynamic)]
