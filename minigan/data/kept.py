"""Bytes that a program makes once and keeps in the cache."""

import hashlib
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import keep

Bytes = NDArray[np.uint8]


def made_once(
    path: Path, shapes: Sequence[tuple[int, ...]], make: Callable[[], tuple[Bytes, ...]]
) -> tuple[Bytes, ...]:
    """uint8 arrays of `shapes`: those that the file `path` keeps, or where it is missing or damaged those of make().

    A RuntimeWarning if they cannot be kept.
    """
    arrays = _read(path, shapes)
    if arrays is None:
        arrays = make()
        keep(path, lambda part: _write(Path(part), arrays))
    return arrays


def _read(path: Path, shapes: Sequence[tuple[int, ...]]) -> tuple[Bytes, ...] | None:
    """What `_write` wrote, or None if it is not there, not whole or of other shapes."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    data, digest = data[:-32], data[-32:]
    sizes = [prod(shape) for shape in shapes]
    if data.size != sum(sizes) or hashlib.sha256(data.data).digest() != digest.tobytes():
        return None
    parts = np.split(data, np.cumsum(sizes)[:-1])
    return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


def _write(path: Path, arrays: Sequence[Bytes]) -> None:
    """The bytes of each, and the sha256 of them all."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.data)
    with open(path, "wb") as file:
        file.writelines([*(array.data for array in arrays), digest.digest()])
