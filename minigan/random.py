"""Random numbers from named, counter-based generators.

A generator's whole state is a key, which comes from the run's seed and the generator's name, and a counter, which says
how many blocks of four words were drawn (Philox 4x32-10, kernels/random). So a run resumes exactly, draws made for
one purpose never shift those made for another, and every device draws the same numbers.
"""

from __future__ import annotations

import hashlib
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import kernels

Array = NDArray[Any]
Shape = int | tuple[int, ...]


class Generator:
    """The stream `name` of the run `seed`. Each draw advances the counter by whole blocks."""

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        self.name, self.key, self.counter = name, int.from_bytes(digest[:8], "little"), 0

    def __repr__(self) -> str:
        return f"Generator({self.name!r}, counter={self.counter})"

    def _advance(self, words: int) -> int:
        start = self.counter
        self.counter += -(-words // 4)
        return start

    def uniform(self, shape: Shape, dtype: DTypeLike = np.float32, device: str = "cpu") -> Array:
        """Uniform numbers in [0, 1), an array on the device: the same numbers on each."""
        n = _size(shape)
        start = kernels.ahead(self._start, n * _words(dtype), device=device)
        return _shaped(kernels.uniform(self.key, start, n, np.dtype(dtype)), shape)

    def normal(self, shape: Shape, dtype: DTypeLike = np.float32, device: str = "cpu") -> Array:
        """Normal numbers of mean 0 and deviation 1 (Box-Muller), an array on the device: the same but for rounding."""
        n = _size(shape)
        start = kernels.ahead(self._start, (n + n % 2) * _words(dtype), device=device)
        return _shaped(kernels.normal(self.key, start, n, np.dtype(dtype)), shape)

    def _start(self, words: int) -> Array:
        """The counter as a draw of so many words finds it: its low and its high half, uint64 (2,)."""
        start = self._advance(words)
        return np.array([start & 0xFFFFFFFFFFFFFFFF, start >> 64], np.uint64)

    def permutation(self, n: int) -> Array:
        """The numbers 0 .. n-1 in random order."""
        order: Array = kernels.ahead(self._permutation, n)
        return order

    def _permutation(self, n: int) -> Array:
        words = kernels.philox(self.key, self._advance(2 * n), 2 * n)
        return np.argsort(words.view(np.uint64), kind="stable")

    def integers(self, high: int, shape: Shape) -> Array:
        """Whole numbers in 0 .. high-1."""
        if not 0 < high <= 1 << 32:
            raise ValueError(f"integers: high must be in 1 .. 2**32, not {high}")
        return _shaped(kernels.ahead(self._integers, high, _size(shape)), shape)

    def _integers(self, high: int, n: int) -> Array:
        words: Array = kernels.philox(self.key, self._advance(n), n)
        return ((words.astype(np.uint64) * np.uint64(high) >> np.uint64(32)).astype(np.int64))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here."""
        return {"name": self.name, "key": self.key, "counter": self.counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. ValueError if it belongs to a stream of another name."""
        if state["name"] != self.name:
            raise ValueError(f"Generator: the state of stream {state['name']!r} does not fit stream {self.name!r}")
        if self.key != int(state["key"]):
            kernels.changed_layout()  # recorded steps draw under the old one
        self.key, self.counter = int(state["key"]), int(state["counter"])


def _size(shape: Shape) -> int:
    return shape if isinstance(shape, int) else prod(shape)


def _words(dtype: DTypeLike) -> int:
    """How many 32-bit words a number takes."""
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"Generator: draws float32 or float64, not {np.dtype(dtype)}; convert the result instead")
    return np.dtype(dtype).itemsize // 4


def _shaped(values: Array, shape: Shape) -> Array:
    return values.reshape(shape)


_seed = 0
_streams: dict[str, Generator] = {}


def manual_seed(seed: int) -> None:
    """Starts all default streams anew: "init" for weights, "dropout", and whatever else is asked for."""
    global _seed
    _seed = seed
    _streams.clear()
    kernels.changed_layout()  # recorded steps draw from the old ones


def stream(name: str) -> Generator:
    """The default generator of this name."""
    if name not in _streams:
        _streams[name] = Generator(_seed, name)
    return _streams[name]
