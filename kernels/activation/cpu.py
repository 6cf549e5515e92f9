"""The activations in one pass over memory each. tanh, sigmoid and softplus stay with NumPy's vector exp and tanh."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import inner, prange
from ..loops import check, flat, loop, result

Array = NDArray[Any]

ROWS = 128  # that are summed by one thread at a time: so the result does not depend on how many there are


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
        _bias_act(flat(x, -1, *C), flat(b), x.dtype.type(slope), y.reshape(-1, *C))
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
    sums = np.zeros((-(-len(rows) // ROWS), *C))
    _bias_act_backward(flat(gy, -1, *C), rows, y.dtype.type(slope), gx.reshape(-1, *C), sums)
    np.sum(sums, 0, out=gb, dtype=np.float64)
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


def sigmoid_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * y * (1 - y) with y = sigmoid(x)."""
    return _binary("sigmoid_backward", _sigmoid_backward, gy, y, out)


def _unary(op: str, run: Any, x: Array, out: Array | None, *scalars: float) -> Array:
    check(op, x)
    y = result(op, out, x.shape, x.dtype)
    run(flat(x), y.reshape(-1), *map(x.dtype.type, scalars))
    return y


def _binary(op: str, run: Any, gy: Array, xy: Array, out: Array | None, *scalars: float) -> Array:
    check(op, gy, xy)
    gx = result(op, out, gy.shape, gy.dtype)
    run(flat(gy), flat(xy), gx.reshape(-1), *map(gy.dtype.type, scalars))
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
def _leaky_relu(x: Array, y: Array, slope: Any) -> None:
    for i in prange(x.size):
        y[i] = leak(x[i], slope)


@loop
def _leaky_relu_backward(gy: Array, x: Array, gx: Array, slope: Any) -> None:
    for i in prange(gy.size):
        gx[i] = leak_backward(gy[i], x[i], slope)


@loop
def _bias_act(x: Array, b: Array, slope: Any, y: Array) -> None:
    n, C = x.shape
    for r in prange(n):
        for c in range(C):
            y[r, c] = leak(x[r, c] + b[c], slope)


@loop
def _bias_act_backward(gy: Array, y: Array, slope: Any, gx: Array, sums: Array) -> None:
    """sums: of each block of ROWS rows the sum of gx, which is then added up in an order of its own."""
    n, C = gy.shape
    for b in prange(len(sums)):
        start = np.int64(b) * ROWS
        for r in range(start, min(n, start + ROWS)):
            for c in range(C):
                g = leak_backward(gy[r, c], y[r, c], slope)
                gx[r, c] = g
                sums[b, c] += np.float64(g)


@loop
def _elu(x: Array, y: Array, alpha: Any) -> None:
    for i in prange(x.size):
        y[i] = x[i] if x[i] > 0 else alpha * math.expm1(x[i])


@loop
def _elu_backward(gy: Array, x: Array, gx: Array, alpha: Any) -> None:
    for i in prange(gy.size):
        gx[i] = gy[i] if x[i] > 0 else alpha * math.exp(x[i]) * gy[i]


@loop
def _tanh_backward(gy: Array, y: Array, gx: Array) -> None:
    one = y.dtype.type(1)
    for i in prange(gy.size):
        gx[i] = gy[i] * (one - y[i] * y[i])


@loop
def _sigmoid_backward(gy: Array, y: Array, gx: Array) -> None:
    one = y.dtype.type(1)
    for i in prange(gy.size):
        gx[i] = gy[i] * y[i] * (one - y[i])
