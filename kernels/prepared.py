"""Room beside a weight for what kernels make of it."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from .scratch import aligned

Array = NDArray[Any]


class _Shelf(list[Array]):
    """Arrays of one size and dtype that slots have let go of: large, wanted again in the next step, and by all slots.

    It is held by the slots that ever laid something on it, so that it is gone with the last of them.
    """


Kind = tuple[int, np.dtype[Any]]  # size and dtype

_shelves: WeakValueDictionary[Kind, _Shelf] = WeakValueDictionary()


def memory_for(size: int, dtype: np.dtype[Any]) -> Array:
    """An array for `compute` to fill, of so many numbers."""
    shelf = _shelves.get((size, dtype))
    return shelf.pop() if shelf else aligned(size, dtype, np.empty)


class Prepared:
    """What kernels computed from one weight, for as long as its values stay the same.

    Opaque to everybody else: whoever owns the weight owns one of these, says `at(version)` after each write, and hands
    it to the kernels that take `prepared=`. A new version makes the contents stale; `version` is the weight's counter,
    shared by all names of its memory, so that a write by another name is noticed, too. The contents are several times
    as large as the weight: what was asked for so many times in the version before is let go after as many times in this
    one. The kernel that has just got it still uses it then: no other one starts meanwhile (conv2d/cpu.py).
    """

    def __init__(self, version: Sequence[int]) -> None:
        self._counter = version
        self._version: int | None = None
        self._arrays: dict[Hashable, Array] = {}
        self._uses: Counter[Hashable] = Counter()
        self._expected: Counter[Hashable] = Counter()
        self._shelves: dict[Kind, _Shelf] = {}

    def at(self, version: int) -> "Prepared":
        """This slot, emptied if the weight has another version than at the last call."""
        if version != self._version:
            if self._uses:  # a version that nobody used says nothing
                self._expected, self._uses = self._uses, Counter()
            self._version = version
            while self._arrays:
                self._let_go(self._arrays.popitem()[1])
        return self

    def get(self, key: Hashable, compute: Callable[[], Array]) -> Array:
        """What `compute` makes; made once a version, unless it is asked for more often than in the one before."""
        self.at(self._counter[0])
        self._uses[key] += 1
        array = self._arrays.pop(key, None)
        if array is None:
            array = compute()
        if self._uses[key] != self._expected[key]:
            self._arrays[key] = array
        else:
            self._let_go(array)
        return array

    def _let_go(self, array: Array) -> None:
        kind = array.size, array.dtype
        shelf = self._shelves[kind] = _shelves.setdefault(kind, _Shelf())
        shelf.append(array)
