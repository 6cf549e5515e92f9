"""Room beside a weight for what kernels make of it."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


class Prepared:
    """What kernels computed from one weight, for as long as its values stay the same.

    Opaque to everybody else: whoever owns the weight owns one of these, says `at(version)` before each use, and hands
    it to the kernels that take `prepared=`. A new version makes the contents stale. They are several times as large as
    the weight: what was asked for so many times in the version before is let go after as many times in this one.
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
            self._arrays.clear()
        return self

    def get(self, key: Hashable, compute: Callable[[], Array]) -> Array:
        """What `compute` makes; made once a version, unless it is asked for more often than in the one before."""
        self._uses[key] += 1
        array = self._arrays.pop(key, None)
        if array is None:
            array = compute()
        if self._uses[key] != self._expected[key]:
            self._arrays[key] = array
        return array
