"""NumPy's ufuncs under the table's names, and the three masks that gradients need."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..scratch import scratch

Array = NDArray[Any]

add, subtract, multiply, divide, negative = np.add, np.subtract, np.multiply, np.divide, np.negative
exp, log, sqrt, absolute, sign = np.exp, np.log, np.sqrt, np.absolute, np.sign
minimum, maximum = np.minimum, np.maximum
less, less_equal, greater, greater_equal = np.less, np.less_equal, np.greater, np.greater_equal
equal, not_equal = np.equal, np.not_equal


def power(x: Array, exponent: float, out: Array | None = None) -> Array:
    """x ** exponent for a Python number; NumPy's own loop for the commonest ones is many times faster."""
    if exponent == 2:
        return np.square(x, out=out)
    if exponent == -1:
        return np.divide(1, x, out=out, dtype=x.dtype)
    return np.power(x, x.dtype.type(exponent), out=out)


def clip(x: Array, low: float | None, high: float | None, out: Array | None = None) -> Array:
    """min(max(x, low), high); None leaves that side open."""
    return np.clip(x, low, high, out=out)


def where(condition: Array, a: Array, b: Array, out: Array | None = None) -> Array:
    """a where the condition holds, else b; all three broadcast."""
    if out is None:
        return np.where(condition, a, b)
    np.copyto(out, b)
    np.copyto(out, a, where=condition)
    return out


def greater_share(a: Array, b: Array, out: Array | None = None) -> Array:
    """a's share of the gradient of maximum(a, b): 1 where a > b, 1/2 at ties, else 0."""
    shape = np.broadcast(a, b).shape
    more = np.greater(a, b, out=scratch("more", shape, np.bool_))
    ties = np.equal(a, b, out=scratch("ties", shape, np.bool_))
    share = np.empty(shape, a.dtype) if out is None else out
    share[...] = ties
    share *= share.dtype.type(0.5)
    share += more
    return share


def inside(x: Array, low: float | None, high: float | None, out: Array | None = None) -> Array:
    """1 where low <= x <= high, else 0: the derivative of clip, edges included."""
    mask = np.ones_like(x) if out is None else out
    mask[...] = 1
    if low is not None:
        mask *= x >= low
    if high is not None:
        mask *= x <= high
    return mask


def cast(x: Array, dtype: DTypeLike, out: Array | None = None) -> Array:
    """x in another dtype, always a copy."""
    if out is None:
        return x.astype(dtype)
    np.copyto(out, x, casting="unsafe")  # as astype does
    return out
