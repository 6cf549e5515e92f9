"""Room beside a weight for what kernels make of it."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scratch import aligned

Array = NDArray[Any]

_free: dict[tuple[int, np.dtype[Any]], list[Array]] = {}
"""By size and dtype, what slots have let go of. It is large, wanted again in the next step, and serves all slots."""


def memory_for(size: int, dtype: np.dtype[Any]) -> Array:
    """An array for `compute` to fill, of so many numbers."""
    free = _free.get((size, dtype))
    return free.pop() if free else aligned(size, dtype, np.empty)


def _let_go(array: Array) -> None:
    _free.setdefault((array.size, array.dtype), []).append(array)


class Prepared:
    """What kernels computed from one weight, for as long as its values stay the same.

    Opaque to everybody else: whoever owns the weight owns one of these, says `at(version)` before each use, and hands
    it to the kernels that take `prepared=`. A new version makes the contents stale. They are several times as large as
    the weight: what was asked for so many times in the version before is let go after as many times in this one. The
    kernel that has just got it still uses it then: no other one starts meanwhile (conv2d/cpu.py).
    """

    def __init__(self) -> None:
        self._version: int | None = None
        self._arrays: dict[Hashable, Array] = {}
        self._uses: Counter[Hashable] = Counter()
        self._expected: Counter[Hashable] = Counter()

    def at(self, version: int) -> "Prepared":
        """This slot, emptied if the weight has another version than at the last call."""
        if version != self._version:
            if self._uses:  # a version that nobody used says nothing
                self._expected, self._uses = self._uses, Counter()
            self._version = version
            while self._arrays:
                _let_go(self._arrays.popitem()[1])
        return self

    def get(self, key: Hashable, compute: Callable[[], Array]) -> Array:
        """What `compute` makes; made once a version, unless it is asked for more often than in the one before."""
        self._uses[key] += 1
        array = self._arrays.pop(key, None)
        if array is None:
            array = compute()
        if self._uses[key] != self._expected[key]:
            self._arrays[key] = array
        else:
            _let_go(array)
        return array
