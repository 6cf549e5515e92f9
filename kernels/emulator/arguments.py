"""The arguments of a launch: whether they fit the kernel's parameters, and where in memory they are while it runs."""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .checks import Memory

GUARD = 1 << 16
"""Bytes around a copy that belong to nobody: further than a block reaches whose threads do not look at the end."""

ALIGNMENT = 256
"""Bytes. Arrays on a GPU start at multiples of it; in check mode, so they do here."""


class CParameter(ctypes.Structure):
    """EmulatorParameter of cuda.h."""

    _fields_ = (
        ("bytes", ctypes.c_int),
        ("type", ctypes.c_char),
        ("pointee", ctypes.c_char),
        ("writes", ctypes.c_bool),
        ("pointee_bytes", ctypes.c_int),
    )


def opened(value: Any) -> Any:
    """The NumPy array of an array of the emulated device; anything else as it is."""
    return getattr(value, "host", value)


def is_array(value: Any) -> bool:
    """Whether it is passed as a pointer. A structured array of no dimensions is passed by value, as a struct."""
    return isinstance(value, np.ndarray) and not (value.ndim == 0 and value.dtype.names)


def check_arguments(kernel: str, values: Sequence[Any], parameters: Sequence[Any]) -> None:
    """TypeError or ValueError for what would be read as something else on a GPU, without a word."""
    if len(values) != len(parameters):
        raise TypeError(f"{kernel} takes {len(parameters)} arguments, but {len(values)} were given")
    for i, (value, parameter) in enumerate(zip(values, parameters, strict=True)):
        _check(f"{kernel}: argument {i}", value, parameter)


def _check(where: str, value: Any, parameter: Any) -> None:
    kind = parameter.type.decode()
    takes = f"but the kernel takes {_c_type(parameter)}"
    if value is None:
        if kind != "p":
            raise TypeError(f"{where} is None, {takes}")
    elif is_array(value):
        if kind != "p" or not _fits(value.dtype, parameter.pointee.decode(), parameter.pointee_bytes):
            raise TypeError(f"{where} is an array of {value.dtype}, {takes}")
        if not value.flags.c_contiguous:
            raise ValueError(f"{where} of shape {value.shape} is not C-contiguous: kernels index memory by hand")
        if parameter.writes and not value.flags.writeable:
            raise ValueError(f"{where} is read-only, but the kernel takes a pointer to what is not const")
    elif isinstance(value, (np.generic, np.ndarray)):
        if kind == "p" or value.nbytes != parameter.bytes or not _fits(value.dtype, kind, parameter.bytes):
            raise TypeError(f"{where} is one {value.dtype}, {takes}")
    else:
        raise TypeError(
            f"{where} is {value!r}, whose C type would be a guess; pass a NumPy scalar, such as numpy.int32(3) or "
            "numpy.float32(0.5)"
        )


def _fits(dtype: np.dtype, kind: str, size: int) -> bool:
    """Whether values of a dtype are what a C type ('f'loat, 'i'nteger or else a struct) of this size means."""
    given = {"f": "f", "i": "i", "u": "i", "b": "i"}.get(dtype.kind, "s")
    if kind not in "fi":
        # An array of float2 may come as one of floats, and one of addresses as one of integers.
        return True
    # 16-bit floating point numbers are integers to a kernel without headers.
    return dtype.itemsize == size and (given == kind or size == 2)


def _c_type(parameter: Any) -> str:
    pointer = parameter.type == b"p"
    kind, size = (parameter.pointee, parameter.pointee_bytes) if pointer else (parameter.type, parameter.bytes)
    name = {"f": "floating point number", "i": "integer"}.get(kind.decode(), "struct")
    return f"a pointer to {size}-byte {name}s" if pointer else f"a {size}-byte {name}"


class Arguments:
    """The arguments in memory: `pointers` to their values, and the `pieces` of memory that the kernel may touch.

    apart: each array is copied to a place of its own, aligned as on a GPU, so that the memory behind its end belongs to
    nobody. Else it may be the next argument, and an index that is too large goes unnoticed. Arrays that overlap stay
    together. What `touches` holds stays where it is, since the kernel has its address.
    """

    def __init__(self, values: Sequence[Any], touches: Sequence[np.ndarray], apart: bool) -> None:
        arrays = {i: value for i, value in enumerate(values) if is_array(value)}
        where = {i: array.ctypes.data for i, array in arrays.items()}
        self.pieces: list[Memory] = []
        self._copies: list[tuple[int, np.ndarray, bool]] = []  # the address of the original, the copy, writeable
        if apart:
            named = [*((f"argument {i}", a, i) for i, a in arrays.items())]
            for members in _overlapping([*named, *((f"touches[{i}]", a, -1) for i, a in enumerate(touches))]):
                first = min(a.ctypes.data for _, a, _ in members)
                size = max(a.ctypes.data + a.nbytes for _, a, _ in members) - first
                stays = any(i < 0 for _, _, i in members)
                place = first if stays else self._copy(first, size, [a for _, a, _ in members])
                for _, array, i in members:
                    where[i] = array.ctypes.data - first + place
                array = members[0][1]
                alike = all((a.dtype, a.shape, a.nbytes) == (array.dtype, array.shape, size) for _, a, _ in members)
                title = " and ".join(title for title, _, _ in members)
                title += f" ({array.dtype}, shape {array.shape})" if alike else ""
                displaced = _root(array) % ALIGNMENT if stays else 0
                self.pieces.append(Memory(title, place, size, False, array if alike else None, displaced))
        # Kept: the kernel reads the values from here.
        self._values = [
            np.asarray(np.uint64(where.get(i, 0)) if value is None or i in arrays else value)
            for i, value in enumerate(values)
        ]
        self.pointers = (ctypes.c_void_p * max(1, len(values)))(*[value.ctypes.data for value in self._values])

    def _copy(self, first: int, size: int, arrays: list[np.ndarray]) -> int:
        """The address of a copy that has nothing behind it, as far from a multiple of ALIGNMENT as in its root."""
        room = np.empty(size + 2 * GUARD, np.uint8)
        start = -room.ctypes.data % ALIGNMENT + GUARD // 2 + (first - _root(arrays[0])) % ALIGNMENT
        copy = room[start : start + size]
        ctypes.memmove(copy.ctypes.data, first, size)
        self._copies.append((first, copy, any(a.flags.writeable for a in arrays)))
        return copy.ctypes.data

    def write_back(self) -> None:
        """What the kernel wrote to copies, to the arrays that were given."""
        for original, copy, writeable in self._copies:
            if writeable:
                ctypes.memmove(original, copy.ctypes.data, copy.nbytes)


Named = tuple[str, np.ndarray, int]


def _overlapping(arrays: Iterable[Named]) -> list[list[Named]]:
    """Groups of arrays whose memory overlaps."""
    groups: list[list[Named]] = []
    end = 0
    for named in sorted(arrays, key=lambda named: named[1].ctypes.data):
        first, size = named[1].ctypes.data, named[1].nbytes
        if groups and first < end:
            groups[-1].append(named)
        else:
            groups.append([named])
        end = max(end, first + size)
    return groups


def _root(array: np.ndarray) -> int:
    """The address where the memory starts that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data
