"""Memory that kernels want only during a call, kept from call to call: fresh pages cost more than arithmetic.

So a kernel that is given `out=` allocates nothing once it has run with arrays of that size, and a recorded step can be
replayed on the memory it has. Each Python thread has its own: compiled code lets others run.
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[str, Any], Array] = {}


kept = _Kept()
"""`kept.arrays`: of this thread, by name and dtype, the whole memory."""


def aligned(size: int, dtype: np.dtype[Any], make: Callable[..., Array] = np.zeros) -> Array:
    """An array of zeros, or of whatever `make` makes, that begins at a cache line."""
    raw = make(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype)


def scratch(name: str, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
    """An array that holds what the last user of the name left there, at first zeros; lent for one call.

    Whoever needs two at once gives them two names, and calls no kernel meanwhile that uses the same.
    """
    if not isinstance(shape, tuple):
        shape = (int(shape),)  # of NumPy's, too
    size = math.prod(shape)
    whole = kept.arrays.get((name, dtype))
    if whole is None or whole.size < size:
        whole = kept.arrays[name, dtype] = aligned(size, np.dtype(dtype))
    return whole[:size].reshape(shape)
