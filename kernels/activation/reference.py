"""The specification of the activations. Slope and alpha are Python floats, so that float32 stays float32."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def leaky_relu(x: Array, slope: float, out: Array | None = None) -> Array:
    """x where x > 0, else slope * x; with slope 0 max(x, 0)."""
    return _into(out, np.where(x > 0, x, slope * x) if slope else np.maximum(x, 0))


def leaky_relu_backward(gy: Array, x: Array, slope: float, out: Array | None = None) -> Array:
    """gy where x > 0, else slope * gy; with slope 0 0, whatever gy is there."""
    return _into(out, np.where(x > 0, gy, slope * gy if slope else 0))


def bias_act(x: Array, b: Array, slope: float, out: Array | None = None) -> Array:
    """x (..., C), b (C,) -> leaky_relu(x + b, slope) (..., C)."""
    return leaky_relu(x + b, slope, out)


def bias_act_backward(gy: Array, y: Array, slope: float, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """gy and y = bias_act(x, b, slope) (..., C) -> gx (..., C), gb (C,)."""
    gx, gb = out or (np.empty_like(gy), np.empty(gy.shape[-1], gy.dtype))
    leaky_relu_backward(gy, y, slope, gx)
    gb[...] = gx.sum(tuple(range(gx.ndim - 1)), dtype=np.float64)
    return gx, gb


def elu(x: Array, alpha: float, out: Array | None = None) -> Array:
    """x where x > 0, else alpha * (e^x - 1)."""
    return _into(out, np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def elu_backward(gy: Array, x: Array, alpha: float, out: Array | None = None) -> Array:
    """gy where x > 0, else alpha * e^x * gy."""
    return _into(out, np.where(x > 0, gy, alpha * np.exp(np.minimum(x, 0)) * gy))


def tanh(x: Array, out: Array | None = None) -> Array:
    """tanh(x)."""
    return np.tanh(x, out=out)


def tanh_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * (1 - y^2) with y = tanh(x)."""
    return _into(out, gy * (1 - y * y))


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + e^-x), by whichever of e^x and e^-x does not overflow."""
    e = np.exp(-np.abs(x))
    y: Array = np.divide(np.where(x < 0, e, 1), 1 + e, out=out)
    return y


def sigmoid_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * y * (1 - y) with y = sigmoid(x)."""
    return _into(out, gy * y * (1 - y))


def softplus(x: Array, out: Array | None = None) -> Array:
    """log(1 + e^x), of which max(x, 0) is taken out before it can overflow."""
    return np.add(np.maximum(x, 0), np.log1p(np.exp(-np.abs(x))), out=out)


def _into(out: Array | None, value: Array) -> Array:
    """`value`, in `out` if there is one."""
    if out is None:
        return value
    out[...] = value
    return out
