"""The activations in one pass over memory each. tanh, sigmoid and softplus stay with NumPy's vector exp and tanh."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import inner, njit
from ..loops import SERIAL, check, flat, loop, part, result
from ..scratch import scratch

Array = NDArray[Any]

ROWS = 128  # that are summed by one thread at a time: so the result does not depend on how many there are
DEEP = 8  # rows that are added up in registers, in order, before the sum is stored
WIDE = 64  # channels of a row that is long enough for one loop to do all: where memory is slow, that is the quicker way


def leaky_relu(x: Array, slope: float, out: Array | None = None) -> Array:
    """x where x > 0, else slope * x; with slope 0 max(x, 0)."""
    return _unary("leaky_relu", _leaky_relu, x, out, slope)


def leaky_relu_backward(gy: Array, x: Array, slope: float, out: Array | None = None) -> Array:
    """gy where x > 0, else slope * gy; with slope 0 0, whatever gy is there."""
    return _binary("leaky_relu_backward", _leaky_relu_backward, gy, x, out, slope)


def bias_act(x: Array, b: Array, slope: float, out: Array | None = None) -> Array:
    """x (..., C), b (C,) -> leaky_relu(x + b, slope) (..., C)."""
    op, C = "bias_act", x.shape[-1:]
    check(op, x)
    if b.shape != C or b.dtype != x.dtype:
        raise ValueError(f"{op}: x is {x.dtype} {x.shape}, so b must be {x.dtype} {C}, not {b.dtype} {b.shape}")
    y = result(op, out, x.shape, x.dtype)
    if x.size:
        _bias_act(x.size, flat(x, -1, *C), flat(b), x.dtype.type(slope), y.reshape(-1, *C))
    return y


def bias_act_backward(gy: Array, y: Array, slope: float, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """gy and y = bias_act(x, b, slope) (..., C) -> gx (..., C), gb (C,)."""
    op, C = "bias_act_backward", y.shape[-1:]
    check(op, gy, y)
    shapes = zip(out or (None, None), (y.shape, C), strict=True)
    gx, gb = (result(op, array, shape, y.dtype) for array, shape in shapes)
    if not y.size:
        gb[...] = 0
        return gx, gb
    rows = flat(y, -1, *C)
    sums = scratch("sums", (-(-len(rows) // ROWS), *C), np.float64)
    _bias_act_backward(y.size, flat(gy, -1, *C, room="gy"), rows, y.dtype.type(slope), gx.reshape(-1, *C), sums)
    _add_up(sums, gb)
    return gx, gb


def elu(x: Array, alpha: float, out: Array | None = None) -> Array:
    """x where x > 0, else alpha * (e^x - 1)."""
    return _unary("elu", _elu, x, out, alpha)


def elu_backward(gy: Array, x: Array, alpha: float, out: Array | None = None) -> Array:
    """gy where x > 0, else alpha * e^x * gy."""
    return _binary("elu_backward", _elu_backward, gy, x, out, alpha)


def tanh_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * (1 - y^2) with y = tanh(x)."""
    return _binary("tanh_backward", _tanh_backward, gy, y, out)


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + e^-x), by whichever of e^x and e^-x does not overflow."""
    check("sigmoid", x)
    y = result("sigmoid", out, x.shape, x.dtype)
    _sigmoid(x.size, flat(x), flat(_exp_of_minus_absolute(x)), y.reshape(-1))
    return y


def sigmoid_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * y * (1 - y) with y = sigmoid(x)."""
    return _binary("sigmoid_backward", _sigmoid_backward, gy, y, out)


def softplus(x: Array, out: Array | None = None) -> Array:
    """log(1 + e^x), of which max(x, 0) is taken out before it can overflow."""
    check("softplus", x)
    y = result("softplus", out, x.shape, x.dtype)
    e = _exp_of_minus_absolute(x)
    return np.add(np.maximum(x, 0, out=y), np.log1p(e, out=e), out=y)


def _exp_of_minus_absolute(x: Array) -> Array:
    e = np.absolute(x, out=scratch("e", x.shape, x.dtype))
    return np.exp(np.negative(e, out=e), out=e)


def _unary(op: str, run: Any, x: Array, out: Array | None, *scalars: float) -> Array:
    check(op, x)
    y = result(op, out, x.shape, x.dtype)
    run(x.size, flat(x), y.reshape(-1), *map(x.dtype.type, scalars))
    return y


def _binary(op: str, run: Any, gy: Array, xy: Array, out: Array | None, *scalars: float) -> Array:
    check(op, gy, xy)
    gx = result(op, out, gy.shape, gy.dtype)
    run(gy.size, flat(gy, room="gy"), flat(xy), gx.reshape(-1), *map(gy.dtype.type, scalars))
    return gx


@inner(cache=True)
def leak(z: Any, slope: Any) -> Any:
    """One number of leaky_relu."""
    if slope == 0:
        return slope if z <= 0 else z  # in this order a NaN passes; slope * z would be NaN at -inf
    return z if z > 0 else slope * z


@inner(cache=True)
def leak_backward(g: Any, z: Any, slope: Any) -> Any:
    """One number of leaky_relu_backward."""
    if slope == 0:
        return g if z > 0 else slope
    return g if z > 0 else slope * g


@loop
def _leaky_relu(x: Array, y: Array, slope: Any, thread: int, threads: int) -> None:
    i, end = part(x.size, thread, threads)
    x, y = x[i:end], y[i:end]
    for i in range(x.size):
        y[i] = leak(x[i], slope)


@loop
def _leaky_relu_backward(gy: Array, x: Array, gx: Array, slope: Any, thread: int, threads: int) -> None:
    i, end = part(x.size, thread, threads)
    gy, x, gx = gy[i:end], x[i:end], gx[i:end]
    for i in range(x.size):
        gx[i] = leak_backward(gy[i], x[i], slope)


@loop
def _bias_act(x: Array, b: Array, slope: Any, y: Array, thread: int, threads: int) -> None:
    r, end = part(len(x), thread, threads)
    x, y = x[r:end], y[r:end]
    n, C = x.shape
    for r in range(n):
        for c in range(C):
            y[r, c] = leak(x[r, c] + b[c], slope)


@loop
def _bias_act_backward(gy: Array, y: Array, slope: Any, gx: Array, sums: Array, thread: int, threads: int) -> None:
    """sums: of each block of ROWS rows the sum of gx, which is then added up in an order of its own."""
    first, last = part(len(sums), thread, threads)
    C = y.shape[1]
    for b in range(first, last):
        block = slice(b * ROWS, min(len(y), (b + 1) * ROWS))
        if C < WIDE or y.size <= SERIAL:
            ga, ya, xa = gy[block].reshape(-1), y[block].reshape(-1), gx[block].reshape(-1)
            for i in range(ga.size):
                xa[i] = leak_backward(ga[i], ya[i], slope)
            _add_rows(gx[block], sums[b])
        else:
            gr, yr, xr, total = gy[block], y[block], gx[block], sums[b]
            total[:] = 0
            for r in range(len(yr)):
                for c in range(C):
                    g = leak_backward(gr[r, c], yr[r, c], slope)
                    xr[r, c] = g
                    total[c] += np.float64(g)


@inner(cache=True)
def _add_rows(x: Array, sums: Array) -> None:
    """sums (C,) = the float64 sum of x (n, C) over its rows, one after the other."""
    sums[:] = 0
    whole = len(x) // DEEP
    for i in range(whole):
        rows = x[DEEP * i : DEEP * (i + 1)]
        for c in range(sums.size):
            s = sums[c]
            for r in range(DEEP):
                s += np.float64(rows[r, c])
            sums[c] = s
    rows = x[DEEP * whole :]
    for r in range(len(rows)):
        for c in range(sums.size):
            sums[c] += np.float64(rows[r, c])


@njit(cache=True)
def _add_up(sums: Array, gb: Array) -> None:
    for c in range(gb.size):
        s = 0.0
        for b in range(len(sums)):
            s += sums[b, c]
        gb[c] = s


@loop
def _elu(x: Array, y: Array, alpha: Any, thread: int, threads: int) -> None:
    i, end = part(x.size, thread, threads)
    x, y = x[i:end], y[i:end]
    for i in range(x.size):
        y[i] = x[i] if x[i] > 0 else alpha * math.expm1(x[i])


@loop
def _elu_backward(gy: Array, x: Array, gx: Array, alpha: Any, thread: int, threads: int) -> None:
    i, end = part(x.size, thread, threads)
    gy, x, gx = gy[i:end], x[i:end], gx[i:end]
    for i in range(x.size):
        gx[i] = gy[i] if x[i] > 0 else alpha * math.exp(x[i]) * gy[i]


@loop
def _tanh_backward(gy: Array, y: Array, gx: Array, thread: int, threads: int) -> None:
    i, end = part(y.size, thread, threads)
    gy, y, gx = gy[i:end], y[i:end], gx[i:end]
    one = y.dtype.type(1)
    for i in range(y.size):
        gx[i] = gy[i] * (one - y[i] * y[i])


@loop
def _sigmoid(x: Array, e: Array, y: Array, thread: int, threads: int) -> None:
    """e: e^-|x|."""
    i, end = part(x.size, thread, threads)
    x, e, y = x[i:end], e[i:end], y[i:end]
    one = x.dtype.type(1)
    for i in range(x.size):
        y[i] = (e[i] if x[i] < 0 else one) / (one + e[i])


@loop
def _sigmoid_backward(gy: Array, y: Array, gx: Array, thread: int, threads: int) -> None:
    i, end = part(y.size, thread, threads)
    gy, y, gx = gy[i:end], y[i:end], gx[i:end]
    one = y.dtype.type(1)
    for i in range(y.size):
        gx[i] = gy[i] * y[i] * (one - y[i])
