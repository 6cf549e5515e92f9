"""The specification of losses and penalties: as one would write them in ops, in the same order of rounding.

They are the CPU's kernels, too, so what is between is written to memory that is kept (scratch.py).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..elementwise.reference import power
from ..scratch import scratch

Array = NDArray[Any]


def sigmoid_cross_entropy(l: Array, t: Array | float, out: Array | None = None) -> Array:
    """l any shape, t of the same or a number -> () mean(t softplus(-l) + (1 - t) softplus(l))."""
    if isinstance(t, np.ndarray):
        terms = _softplus(l, _room("terms", l))
        terms -= np.multiply(t, l, out=_room("others", l))
        return _into(out, _mean(terms))

    def term(weight: Any, sign: int, room: Array) -> Array:
        return np.multiply(weight, _softplus(np.multiply(sign, l, out=room), room), out=room)

    return _into(out, _mean(_weighted(t, l, term)))


def sigmoid_cross_entropy_backward(g: Array, l: Array, t: Array | float, out: Array | None = None) -> Array:
    """g (), l, t as above -> gl of l's shape: g / n (sigmoid(l) - t)."""
    g, gl = g * l.dtype.type(1 / l.size), np.empty_like(l) if out is None else out
    if isinstance(t, np.ndarray):
        terms = _sigmoid(l, _room("terms", l))
        terms *= g
        return np.subtract(terms, np.multiply(g, t, out=_room("others", l)), out=gl)

    def term(weight: Any, sign: int, room: Array) -> Array:
        return np.multiply(sign * g * weight, _sigmoid(np.multiply(sign, l, out=room), room), out=room)

    return _into(gl, _weighted(t, l, term))


def mean_difference(a: Array, b: Array, out: Array | None = None) -> Array:
    """a, b any shapes -> () mean(a) - mean(b)."""
    return _into(out, _mean(a) - _mean(b))


def mean_difference_backward(
    g: Array, a_shape: tuple[int, ...], b_shape: tuple[int, ...], out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """g () -> ga, gb of these shapes: g / n and -g / m everywhere."""
    ga, gb = out or (np.empty(a_shape, g.dtype), np.empty(b_shape, g.dtype))
    ga[...] = g * g.dtype.type(1 / math.prod(a_shape))
    gb[...] = g * g.dtype.type(-1 / math.prod(b_shape))
    return ga, gb


def row_squares(x: Array, out: Array | None = None) -> Array:
    """x (N, ...) -> (N,): of each row the sum of its squares."""
    rows = x.reshape(len(x), math.prod(x.shape[1:]))  # of no rows -1 would not do
    return np.sum(np.square(rows, out=scratch("squares", rows.shape, x.dtype)), axis=1, out=out)


def row_squares_backward(g: Array, x: Array, out: Array | None = None) -> Array:
    """g (N,), x (N, ...) -> 2 g x, of x's shape."""
    y: Array = np.multiply(_a_row(g, x), x, out=out)
    y += y
    return y


def slope_penalty(
    squares: Array, eps: float, weight: float, one_sided: bool, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """squares (N,) -> weight mean((r - 1)^2) and mean r, (): r = sqrt(squares + eps)."""
    norm, excess = _norm_and_excess(squares, eps, one_sided)
    penalty, mean = out or (None, None)
    excess *= excess
    return _into(penalty, _mean(excess) * squares.dtype.type(weight)), _into(mean, _mean(norm))


def slope_penalty_backward(
    g: Array, squares: Array, eps: float, weight: float, one_sided: bool, out: Array | None = None
) -> Array:
    """g () of the penalty, squares (N,) -> (N,): g weight / N (r - 1) / r."""
    dtype = squares.dtype.type
    reciprocal, share = _norm_and_excess(squares, eps, one_sided)
    share *= dtype(2)
    share *= g * dtype(weight) * dtype(1 / squares.size)
    power(np.add(squares, dtype(eps), out=reciprocal), -0.5, out=reciprocal)
    reciprocal *= dtype(0.5)
    return np.multiply(share, reciprocal, out=out)


def interpolate(e: Array, a: Array, b: Array, out: Array | None = None) -> Array:
    """e (N,), a, b (N, ...) -> e a + (1 - e) b."""
    e = _a_row(e, a)
    y: Array = np.multiply(e, a, out=out)
    y += np.multiply(1 - e, b, out=_room("others", b))
    return y


def _weighted(t: float, l: Array, term: Callable[[Any, int, Array], Array]) -> Array:
    """The terms of -l, as l is if real, by t, and of l by 1 - t; without weight none: 0 times infinity would be NaN."""
    rooms = _room("terms", l), _room("others", l)
    given = [pair for pair in ((t, -1), (1 - t, 1)) if pair[0]]
    terms = [term(l.dtype.type(weight), sign, room) for (weight, sign), room in zip(given, rooms, strict=False)]
    return np.add(terms[0], terms[1], out=terms[0]) if len(terms) == 2 else terms[0]


def _softplus(x: Array, out: Array) -> Array:
    """That of ../activation, of x in `out` or elsewhere."""
    e = _exp_of_minus_abs(x)
    y: Array = np.add(np.maximum(x, 0, out=out), np.log1p(e, out=e), out=out)
    return y


def _sigmoid(x: Array, out: Array) -> Array:
    """That of ../activation, of x in `out` or elsewhere."""
    e, below = _exp_of_minus_abs(x), np.less(x, 0, out=scratch("below", x.shape, np.bool_))
    out[...] = 1
    np.copyto(out, e, where=below)
    out /= np.add(1, e, out=e)
    return out


def _exp_of_minus_abs(x: Array) -> Array:
    e = np.abs(x, out=_room("e", x))
    y: Array = np.exp(np.negative(e, out=e), out=e)
    return y


def _norm_and_excess(squares: Array, eps: float, one_sided: bool) -> tuple[Array, Array]:
    """Both lent for a call."""
    norm = np.add(squares, squares.dtype.type(eps), out=_room("norm", squares))
    excess = np.subtract(power(norm, 0.5, out=norm), 1, out=_room("excess", squares))
    return norm, np.maximum(excess, 0, out=excess) if one_sided else excess


def _room(name: str, x: Array) -> Array:
    """Of x's shape and dtype, lent for a call."""
    return scratch(f"loss {name}", x.shape, x.dtype)


def _a_row(numbers: Array, x: Array) -> Array:
    """(N,) so that each meets a row of x (N, ...)."""
    return numbers.reshape(len(x), *[1] * (x.ndim - 1))


def _mean(x: Array) -> Array:
    return np.asarray(np.sum(x) * x.dtype.type(1 / x.size))


def _into(out: Array | None, value: Array) -> Array:
    """`value`, in `out` if there is one."""
    if out is None:
        return np.asarray(value)
    out[...] = value
    return out
