"""Room beside a weight for what kernels make of it."""

from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


class Prepared:
    """What kernels computed from one weight, for as long as its values stay the same.

    Opaque to everybody else: whoever owns the weight owns one of these, says `at(version)` before each use, and hands
    it to the kernels that take `prepared=`. A new version makes the contents stale.
    """

    def __init__(self) -> None:
        self._version: int | None = None
        self._arrays: dict[Hashable, Array] = {}
        self._valid: set[Hashable] = set()

    def at(self, version: int) -> "Prepared":
        """This slot, emptied if the weight has another version than at the last call.

        What nobody asked for in that version is forgotten; the rest of the memory is used again.
        """
        if version != self._version:
            self._arrays = {key: array for key, array in self._arrays.items() if key in self._valid}
            self._version, self._valid = version, set()
        return self

    def get(self, key: Hashable, allocate: Callable[[], Array], compute: Callable[[Array], None]) -> Array:
        """The array that `compute` fills, filled once a version."""
        if key not in self._valid:
            if key not in self._arrays:
                self._arrays[key] = allocate()
            compute(self._arrays[key])
            self._valid.add(key)
        return self._arrays[key]
