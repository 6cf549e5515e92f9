"""The specification of the optimizer updates."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def sgd(
    p: Array,
    g: Array,
    momentum_buffer: Array | None,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    first: bool,
) -> Array:
    """Gradient descent, with heavy-ball momentum if there is a buffer, whose content the first step ignores."""
    g = g + weight_decay * p
    if momentum_buffer is not None:
        momentum_buffer[...] = g if first else momentum * momentum_buffer + g
        g = momentum_buffer
    p -= lr * g
    return p


def rmsprop(
    p: Array, g: Array, square_average: Array, *, lr: float, alpha: float, eps: float, weight_decay: float
) -> Array:
    """The gradient divided by the root of its running mean square."""
    g = g + weight_decay * p
    square_average[...] = alpha * square_average + (1 - alpha) * g * g
    p -= lr * g / (np.sqrt(square_average) + eps)
    return p


def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> Array:
    """Running means m of g and v of g^2, corrected for their start at zero; `step` counts from 1."""
    g = g + weight_decay * p
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * g * g
    denominator = np.sqrt(v) / (1 - beta2**step) ** 0.5 + eps
    p -= lr / (1 - beta1**step) * m / denominator
    return p


def clip_weights(p: Array, c: float) -> Array:
    """p into [-c, c]."""
    return np.clip(p, -c, c, out=p)
