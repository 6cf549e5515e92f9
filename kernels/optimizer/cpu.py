"""The optimizer updates in one pass over memory each, instead of one pass for each operation of the rule."""

import math
from typing import Any

from numpy.typing import NDArray

from ..jit import prange
from ..loops import check, flat, loop, result

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
    if momentum_buffer is None:
        return _update("sgd", _sgd, p, g, (), (lr, weight_decay))
    if first:
        momentum_buffer[...] = 0
    return _update("sgd", _momentum, p, g, (momentum_buffer,), (lr, momentum, weight_decay))


def rmsprop(
    p: Array, g: Array, square_average: Array, *, lr: float, alpha: float, eps: float, weight_decay: float
) -> Array:
    """The gradient divided by the root of its running mean square."""
    return _update("rmsprop", _rmsprop, p, g, (square_average,), (lr, alpha, 1 - alpha, eps, weight_decay))


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
    rate, correction = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    scalars = (rate, correction, beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay)
    return _update("adam", _adam, p, g, (m, v), scalars)


def clip_weights(p: Array, c: float) -> Array:
    """p into [-c, c]."""
    check("clip_weights", p)
    _clip(result("clip_weights", p, p.shape, p.dtype).reshape(-1), p.dtype.type(c))
    return p


def _update(op: str, run: Any, p: Array, g: Array, state: tuple[Array, ...], scalars: tuple[float, ...]) -> Array:
    check(op, p, g, *state)
    mutable = (result(op, array, p.shape, p.dtype).reshape(-1) for array in (p, *state))
    run(*mutable, flat(g), *map(p.dtype.type, scalars))
    return p


@loop
def _sgd(p: Array, g: Array, lr: Any, decay: Any) -> None:
    for i in prange(p.size):
        p[i] -= lr * (g[i] + decay * p[i])


@loop
def _momentum(p: Array, buffer: Array, g: Array, lr: Any, momentum: Any, decay: Any) -> None:
    for i in prange(p.size):
        buffer[i] = momentum * buffer[i] + (g[i] + decay * p[i])
        p[i] -= lr * buffer[i]


@loop
def _rmsprop(p: Array, s: Array, g: Array, lr: Any, alpha: Any, rest: Any, eps: Any, decay: Any) -> None:
    for i in prange(p.size):
        gradient = g[i] + decay * p[i]
        s[i] = alpha * s[i] + rest * gradient * gradient
        p[i] -= lr * gradient / (math.sqrt(s[i]) + eps)


@loop
def _adam(
    p: Array,
    m: Array,
    v: Array,
    g: Array,
    rate: Any,
    correction: Any,
    beta1: Any,
    rest1: Any,
    beta2: Any,
    rest2: Any,
    eps: Any,
    decay: Any,
) -> None:
    for i in prange(p.size):
        gradient = g[i] + decay * p[i]
        m[i] = beta1 * m[i] + rest1 * gradient
        v[i] = beta2 * v[i] + rest2 * gradient * gradient
        p[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)


@loop
def _clip(p: Array, c: Any) -> None:
    for i in prange(p.size):
        p[i] = -c if p[i] < -c else (c if p[i] > c else p[i])
