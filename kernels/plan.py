"""Where the results of a recorded step lie: each has a place from the call that makes it to the last that reads it.

Places are given out largest first, each at the lowest address that is free for as long as it is needed ("greedy by
size", Pisarchyk & Lee 2020, "Efficient memory management for deep neural net inference", section 5.3 (recalled)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import connect

Array = NDArray[Any]

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


@dataclass
class Value:
    """A result of a recorded call, in the order of its memory: `order` lists its axes from the slowest to the fastest.

    born, last: numbers of the calls that make it and that read it last. kept: it has to outlast the step. ahead: it is
    given before the step begins. alias: the value whose place it shares.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: np.dtype[Any]
    device: str
    born: int
    last: int
    kept: bool = False
    ahead: bool = False
    alias: int | None = None
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Of its place: whole cache lines."""
        return -(-prod(self.shape) * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT

    @property
    def block(self) -> str:
        """Which of its device's blocks it lies in: "ahead", "kept" or "shared"."""
        return "ahead" if self.ahead else "kept" if self.kept else "shared"

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        strides, step = [0] * len(self.shape), self.dtype.itemsize
        for axis in reversed(self.order):
            strides[axis] = step
            step *= self.shape[axis]
        return tuple(strides)


def view(
    block: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], device: str
) -> Array:
    """An array in a block of bytes."""
    if device != "cpu":
        return connect(device).view(block, offset, shape, strides, dtype)
    return np.ndarray(shape, dtype, block, offset, strides)


def place(values: Sequence[Value]) -> int:
    """Gives each value an offset, so that no two that are needed at once overlap; the size of the block, in bytes."""
    placed: list[Value] = []
    for value in sorted(values, key=lambda v: (-v.nbytes, v.born)):
        rivals = [v for v in placed if v.born <= value.last and value.born <= v.last]
        value.offset = 0
        for other in sorted(rivals, key=lambda v: v.offset):
            if other.offset - value.offset >= value.nbytes:
                break
            value.offset = max(value.offset, other.offset + other.nbytes)
        placed.append(value)
    return max((v.offset + v.nbytes for v in values), default=0)


def side_by_side(values: Sequence[Value]) -> int:
    """Gives each value an offset behind the one before; the size of the block, in bytes."""
    end = 0
    for value in values:
        value.offset, end = end, end + value.nbytes
    return end


def live_bytes(values: Sequence[Value]) -> int:
    """The most bytes that are needed at once: no plan can do with less."""
    changes: dict[int, int] = {}
    for value in values:
        changes[value.born] = changes.get(value.born, 0) + value.nbytes
        changes[value.last + 1] = changes.get(value.last + 1, 0) - value.nbytes
    most = now = 0
    for _, change in sorted(changes.items()):
        now += change
        most = max(most, now)
    return most


def new_block(size: int, device: str) -> Array:
    """So many bytes, any content, beginning at a multiple of ALIGNMENT."""
    if device != "cpu":
        raw: Array = connect(device).xp.empty(size + ALIGNMENT, np.uint8)
        return raw[-raw.data.ptr % ALIGNMENT :][:size]  # type: ignore[attr-defined]  # CuPy's
    raw = np.empty(size + ALIGNMENT, np.uint8)
    return raw[-raw.ctypes.data % ALIGNMENT :][:size]


class MemoryPool:
    """Blocks of memory that several recorded steps use in turn, all in one thread.

    A block is as large as the largest step asks for that was recorded before the first was rehearsed; one that asks for
    more later gets another block. What a step keeps for others does not lie here.
    """

    def __init__(self) -> None:
        self.thread: int | None = None  # that uses it
        self._sizes: dict[str, int] = {}
        self._blocks: dict[str, list[Array]] = {}

    def reserve(self, device: str, size: int) -> None:
        """Says what will be asked for, before the first `block` is: so that one block is enough for all."""
        self._sizes[device] = max(self._sizes.get(device, 0), size)

    def block(self, device: str, size: int) -> Array:
        """At least `size` bytes on the device, shared with everybody else who asks."""
        self.reserve(device, size)
        blocks = self._blocks.setdefault(device, [])
        if not blocks or len(blocks[-1]) < size:
            blocks.append(new_block(self._sizes[device], device))
        return blocks[-1]

    @property
    def nbytes(self) -> int:
        """Of all blocks."""
        return sum(len(block) for blocks in self._blocks.values() for block in blocks)
