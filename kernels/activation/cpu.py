"""The activations in one pass over memory each. tanh, sigmoid and softplus stay with NumPy's vector exp and tanh."""

import math
from typing import Any

from numpy.typing import NDArray

from ..jit import prange
from ..loops import check, flat, loop, result

Array = NDArray[Any]


def relu(x: Array, out: Array | None = None) -> Array:
    """max(x, 0)."""
    return _unary("relu", _relu, x, out)


def relu_backward(gy: Array, x: Array, out: Array | None = None) -> Array:
    """gy where x > 0, else 0, whatever gy is there."""
    return _binary("relu_backward", _relu_backward, gy, x, out)


def leaky_relu(x: Array, slope: float, out: Array | None = None) -> Array:
    """x where x > 0, else slope * x."""
    return _unary("leaky_relu", _leaky_relu, x, out, slope)


def leaky_relu_backward(gy: Array, x: Array, slope: float, out: Array | None = None) -> Array:
    """gy where x > 0, else slope * gy."""
    return _binary("leaky_relu_backward", _leaky_relu_backward, gy, x, out, slope)


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


@loop
def _relu(x: Array, y: Array) -> None:
    for i in prange(x.size):
        y[i] = 0 if x[i] <= 0 else x[i]  # in this order a NaN passes


@loop
def _relu_backward(gy: Array, x: Array, gx: Array) -> None:
    for i in prange(gy.size):
        gx[i] = gy[i] if x[i] > 0 else 0


@loop
def _leaky_relu(x: Array, y: Array, slope: Any) -> None:
    for i in prange(x.size):
        y[i] = x[i] if x[i] > 0 else slope * x[i]


@loop
def _leaky_relu_backward(gy: Array, x: Array, gx: Array, slope: Any) -> None:
    for i in prange(gy.size):
        gx[i] = gy[i] if x[i] > 0 else slope * gy[i]


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
