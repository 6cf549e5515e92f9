"""The specification of the optimizer updates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Sequence[Array]


def sgd(
    p: Arrays,
    g: Arrays,
    momentum_buffer: Arrays | None,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    first: Sequence[bool],
) -> Arrays:
    """Gradient descent, with heavy-ball momentum if there are buffers, whose content a first step ignores."""
    for i, (weight, gradient) in enumerate(zip(p, g, strict=True)):
        step = gradient + weight_decay * weight
        if momentum_buffer is not None:
            momentum_buffer[i][...] = step if first[i] else momentum * momentum_buffer[i] + step
            step = momentum_buffer[i]
        weight -= lr * step
    return p


def rmsprop(
    p: Arrays, g: Arrays, square_average: Arrays, *, lr: float, alpha: float, eps: float, weight_decay: float
) -> Arrays:
    """The gradient divided by the root of its running mean square."""
    for weight, gradient, square in zip(p, g, square_average, strict=True):
        gradient = gradient + weight_decay * weight
        square[...] = alpha * square + (1 - alpha) * gradient * gradient
        weight -= lr * gradient / (np.sqrt(square) + eps)
    return p


def adam(
    p: Arrays,
    g: Arrays,
    m: Arrays,
    v: Arrays,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: Sequence[int],
) -> Arrays:
    """Running means m of g and v of g^2, corrected for their start at zero; `step` counts from 1."""
    for weight, gradient, mean, square, t in zip(p, g, m, v, step, strict=True):
        gradient = gradient + weight_decay * weight
        mean[...] = beta1 * mean + (1 - beta1) * gradient
        square[...] = beta2 * square + (1 - beta2) * gradient * gradient
        denominator = np.sqrt(square) / (1 - beta2**t) ** 0.5 + eps
        weight -= lr / (1 - beta1**t) * mean / denominator
    return p


def clip_weights(p: Arrays, c: float) -> Arrays:
    """p into [-c, c]."""
    for weight in p:
        np.clip(weight, -c, c, out=weight)
    return p
