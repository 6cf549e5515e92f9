"""NumPy's reductions (its sum is pairwise, so float32 stays accurate), and two that need care."""

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import NDArray

from ..scratch import scratch

Array = NDArray[Any]
Axis = int | tuple[int, ...] | None


def sum(x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """The sum over the axes."""
    return np.asarray(np.sum(x, axis=axis, keepdims=keepdims, out=out))


def amax(x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """The largest element over the axes."""
    return np.asarray(np.amax(x, axis=axis, keepdims=keepdims, out=out))


def amax_share(x: Array, largest: Array, axis: Axis = None, out: Array | None = None) -> Array:
    """Each element's share of the gradient of amax: 1 / (number of ties) where x equals the largest, else 0.

    `largest` is amax(x, axis, keepdims=True).
    """
    share = np.empty_like(x) if out is None else out
    share[...] = np.equal(x, largest, out=scratch("ties", x.shape, np.bool_))
    share /= np.sum(share, axis=axis, keepdims=True, out=scratch("counts", largest.shape, x.dtype))
    return share


def logsumexp(x: Array, axis: Axis = None, keepdims: bool = False, out: Array | None = None) -> Array:
    """log(sum(exp(x))) without overflow: the largest element is taken out first."""
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    kept = tuple([1 if i in axes else n for i, n in enumerate(x.shape)])
    shift, total = scratch("shift", kept, x.dtype), scratch("total", kept, x.dtype)
    infinite, terms = scratch("infinite", kept, np.bool_), scratch("terms", x.shape, x.dtype)
    np.amax(x, axis=axis, keepdims=True, out=shift)
    np.logical_not(np.isfinite(shift, out=infinite), out=infinite)
    np.copyto(shift, 0, where=infinite)
    np.exp(np.subtract(x, shift, out=terms), out=terms)
    np.sum(terms, axis=axis, keepdims=True, out=total)
    with np.errstate(divide="ignore"):  # log(0) = -inf is the right answer for a row of -inf
        np.log(total, out=total)
    total += shift
    result = total if keepdims else np.squeeze(total, axis=axis)
    if out is None:
        return result.copy()
    out[...] = result
    return out
