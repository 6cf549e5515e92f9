"""The specification of the optimizer updates.

What changes from step to step, the rate lr and the counts in `step`, may be arrays (1,) and (n,) beside p: so a step
that was recorded can go on. gate: a number (1,) beside p; where it is NaN or infinite, nothing is written.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..scratch import scratch

Array = NDArray[Any]
Arrays = Sequence[Array]


def sgd(
    p: Arrays,
    g: Arrays,
    momentum_buffer: Arrays | None,
    *,
    lr: float | Array,
    momentum: float,
    weight_decay: float,
    gate: Array | None = None,
) -> Arrays:
    """Gradient descent, with heavy-ball momentum if there are buffers, which begin at 0."""
    if not is_open(gate):
        return p
    lr = plain(lr)
    for i, (weight, gradient) in enumerate(zip(p, g, strict=True)):
        step = gradient + weight_decay * weight
        if momentum_buffer is not None:
            momentum_buffer[i][...] = momentum * momentum_buffer[i] + step
            step = momentum_buffer[i]
        weight -= lr * step
    return p


def rmsprop(
    p: Arrays,
    g: Arrays,
    square_average: Arrays,
    *,
    lr: float | Array,
    alpha: float,
    eps: float,
    weight_decay: float,
    gate: Array | None = None,
) -> Arrays:
    """The gradient divided by the root of its running mean square."""
    if not is_open(gate):
        return p
    lr = plain(lr)
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
    lr: float | Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: Sequence[int] | Array,
    gate: Array | None = None,
) -> Arrays:
    """Running means m of g and v of g^2, corrected for their start at zero; `step` counts from 1."""
    if not is_open(gate):
        return p
    lr, step = plain(lr), counts(step)
    for weight, gradient, mean, square, t in zip(p, g, m, v, step, strict=True):
        gradient = gradient + weight_decay * weight
        mean[...] = beta1 * mean + (1 - beta1) * gradient
        square[...] = beta2 * square + (1 - beta2) * gradient * gradient
        denominator = np.sqrt(square) / (1 - beta2**t) ** 0.5 + eps
        weight -= lr / (1 - beta1**t) * mean / denominator
    return p


def clip_weights(p: Arrays, c: float, gate: Array | None = None) -> Arrays:
    """p into [-c, c]."""
    for weight in p if is_open(gate) else ():
        np.clip(weight, -c, c, out=weight)
    return p


def moving_average(averages: Arrays, values: Arrays, decay: float | Array, gate: Array | None = None) -> Arrays:
    """average = value + decay (average - value): in this form, equal values stay equal."""
    for average, value in zip(averages, values, strict=True) if is_open(gate) else ():
        apart = np.subtract(average, value, out=scratch("apart", average.shape, average.dtype))
        np.add(value, np.multiply(apart, plain(decay), out=apart), out=average)
    return averages


def is_open(gate: Array | None) -> bool:
    """Whether a gate lets a step happen: there is none, or it is finite."""
    return gate is None or math.isfinite(gate.item())


def plain(number: float | Array) -> float:
    """As a Python number."""
    return number if isinstance(number, (int, float)) else float(number.item())


def counts(step: Sequence[int] | Array) -> Sequence[int]:
    """As Python numbers."""
    return step if isinstance(step, list) else [int(t) for t in step]
