"""Where the reference's NumPy functions do not hand over to a device's; for all others they do."""

import numpy as np

from ..device import Array
from ..indexing.cuda import copy


def clip(x: Array, low: float | None, high: float | None, out: Array | None = None) -> Array:
    """min(max(x, low), high); None leaves that side open. CuPy refuses to leave both open."""
    if low is None and high is None:
        return copy(x, out)
    return np.clip(x, low, high, out=out)


def greater_share(a: Array, b: Array, out: Array | None = None) -> Array:
    """a's share of the gradient of maximum(a, b): 1 where a > b, 1/2 at ties, else 0.

    One of them may be a NumPy scalar. The operators > and == would make a host array of it (NumPy issue 12142).
    """
    dtype = a.dtype
    ties = np.multiply(np.equal(a, b), dtype.type(0.5))
    return np.add(np.greater(a, b), ties, out=out, dtype=dtype)
