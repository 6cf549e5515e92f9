"""What the checker found, in words: which kernel, which lines, which threads, which array."""

import ctypes
import functools
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import build

CONTEXT = 1 << 16
"""An address that is this close to an array, in bytes, was meant to be inside."""


@dataclass(frozen=True)
class Report:
    """One violation. kind: the first words of its text. lines: the "file:line" that take part. text: all of it."""

    kernel: str
    kind: str
    lines: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Memory:
    """A piece of memory that a launch may touch.

    title: how messages call it. array: of the shape and dtype that is there, if it is an array. displaced: on a GPU its
    address would be a multiple of 256, or of as much as its place in its root allows; how many bytes it is off.
    """

    title: str
    first: int
    bytes: int
    shared: bool
    array: np.ndarray | None = None
    displaced: int = 0


class CReport(ctypes.Structure):
    """EmulatorReport of checker.cpp."""

    _fields_ = (
        ("what", ctypes.c_int32),
        ("code", ctypes.c_uint32),
        ("thread", ctypes.c_uint32),
        ("other_code", ctypes.c_uint32),
        ("other_thread", ctypes.c_uint32),
        ("block", ctypes.c_uint64),
        ("other_block", ctypes.c_uint64),
        ("bytes", ctypes.c_int32),
        ("writes", ctypes.c_int32),
        ("address", ctypes.c_uint64),
    )


# kind, what the accesses did; the order is that of `Violation` in checker.cpp
VIOLATIONS = (
    ("race: two writes to one place, in no order", "written", "written"),
    ("race: a read of what another thread wrote, in no order", "read", "written"),
    ("race: a write over what another thread reads, in no order", "written", "read"),
    ("out of bounds", "", ""),
    ("uninitialised: a read of shared memory that nobody has written to", "read", ""),
    ("too early: cp.async still brings what goes there; cp_async_wait comes first", "", "requested"),
)
OUT_OF_BOUNDS = 3


class Lines:
    """The lines of the source that an address in a compiled library belongs to."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._known: dict[int, str] = {}

    def look_up(self, codes: Iterable[int]) -> None:
        """Asks addr2line for many at once."""
        new = sorted(set(codes) - self._known.keys())
        if not new:
            return
        command = ["addr2line", "-a", "-i", "-e", str(self._library), *map(hex, new)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for code, frames in zip(new, output.split("0x")[1:], strict=True):
            places = [line.partition(" (discriminator")[0] for line in frames.splitlines()[1:]]
            # Inlined functions come innermost first; what a reader has written starts after cuda.h.
            mine = [p for p in places if os.path.basename(p).partition(":")[0] not in ("cuda.h", "??")]
            self._known[code] = os.path.normpath(mine[0]) if mine else "?"

    def __getitem__(self, code: int) -> str:
        self.look_up([code])
        return self._known[code]


def position(linear: int, size: Sequence[int]) -> str:
    """A linear index as "(x, y, z)"."""
    return f"({linear % size[0]}, {linear // size[0] % size[1]}, {linear // size[0] // size[1]})"


def describe(
    report: CReport,
    kernel: str,
    lines: Lines,
    memory: Sequence[Memory],
    grid: Sequence[int],
    block: Sequence[int],
) -> Report:
    """A report of the checker as a message."""
    kind, did, other_did = VIOLATIONS[report.what]
    verb = did or ("written" if report.writes else "read")

    def access(verb: str, code: int, in_block: int, thread: int) -> str:
        return f"{lines[code]}   {verb} by block {position(in_block, grid)}, thread {position(thread, block)}"

    rows = [access(verb, report.code, report.block, report.thread)]
    found = [lines[report.code]]
    if other_did:
        rows.append(access(other_did, report.other_code, report.other_block, report.other_thread))
        found.append(lines[report.other_code])
    rows.append(place(report, memory))
    if kind.startswith("race"):
        rows.append(advice(report))
    return Report(kernel, kind, tuple(found), "\n  ".join([f"{kernel}: {kind}", *rows]))


def advice(report: CReport) -> str:
    """What would put the two accesses of a race in order."""
    if report.block != report.other_block:
        return "two blocks of one launch: only atomic operations, or two launches, are in order"
    if report.thread // 32 == report.other_thread // 32:
        return "two lanes of one warp: __syncwarp() or __syncthreads() between the two puts them in order"
    return "two warps of one block: __syncthreads() between the two puts them in order"


def place(report: CReport, memory: Sequence[Memory]) -> str:
    """Which array, and where in it."""
    address = report.address
    if report.what != OUT_OF_BOUNDS:
        at = next(m for m in memory if m.first <= address < m.first + m.bytes)
        return inside(at, address - at.first)
    if address < 4096:
        return f"address {address}: a null pointer"
    near = min(memory, key=lambda m: max(m.first - address, address - (m.first + m.bytes)))
    if max(near.first - address, address - (near.first + near.bytes)) > CONTEXT:
        return f"{report.bytes} bytes at address {address:#x}, near none of the launch's arrays"
    size, unit = (1, "byte") if near.array is None else (near.array.itemsize, "element")
    place = f"{unit} {(address - near.first) // size} of {near.title}, which has {near.bytes // size}"
    return place if report.bytes == size else f"{place}; {report.bytes} bytes from there"


def inside(memory: Memory, offset: int) -> str:
    array = memory.array
    if array is None or array.itemsize == 0:
        return f"{memory.title}, byte {offset}"
    index = tuple(int(i) for i in np.unravel_index(offset // array.itemsize, array.shape)) if array.ndim else ()
    return f"{memory.title}, element {list(index)}"


@functools.cache
def static_arrays(library: Path) -> list[tuple[int, int, str]]:
    """(offset in the library, bytes, name) of its static __shared__ arrays."""
    found = [(first, size, name.rpartition("::")[2]) for first, size, kind, name in build.symbols(library)
             if kind in "bBuV" and "::" in name]  # fmt: skip
    return sorted(found)
