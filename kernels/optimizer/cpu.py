"""The optimizer updates in one parallel pass over all parameters, not one for each operation and parameter.

A net has dozens of parameters, most of them small, and a call costs more than the arithmetic on a small one. So
compiled code gets tables: where the memory of each array begins, and a list of blocks of at most BLOCK elements, which
threads share out.

    arrays   p0 [......................]  p1 [..]  p2 [.........]
    blocks      |  0  |  1  |  2  |  3 |     | 4|     |  5  | 6 |
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..jit import njit, prange
from ..loops import check, flat, result

Array = NDArray[Any]
Arrays = Sequence[Array]

BLOCK = 1 << 14  # elements


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
    if momentum_buffer is None:
        return _update("sgd", _sgd, (p, g), (lr, weight_decay))
    for buffer, is_first in zip(momentum_buffer, first, strict=True):
        if is_first:
            buffer[...] = 0
    return _update("sgd", _momentum, (p, g, momentum_buffer), (lr, momentum, weight_decay))


def rmsprop(
    p: Arrays, g: Arrays, square_average: Arrays, *, lr: float, alpha: float, eps: float, weight_decay: float
) -> Arrays:
    """The gradient divided by the root of its running mean square."""
    return _update("rmsprop", _rmsprop, (p, g, square_average), (lr, alpha, 1 - alpha, eps, weight_decay))


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
    rates = [lr / (1 - beta1**t) for t in step]
    corrections = [1 / math.sqrt(1 - beta2**t) for t in step]
    scalars = beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay
    return _update("adam", _adam, (p, g, m, v), scalars, (rates, corrections))


def clip_weights(p: Arrays, c: float) -> Arrays:
    """p into [-c, c]."""
    return _update("clip_weights", _clip, (p, p), (c,))


def _update(
    op: str,
    run: Any,
    arrays: tuple[Arrays, ...],
    scalars: tuple[float, ...],
    of_each: tuple[Sequence[float], ...] = (),
) -> Arrays:
    """`run` over `arrays`, (p, g, *state); `of_each` has numbers that differ from parameter to parameter."""
    every = []
    for p, g, *state in zip(*arrays, strict=True):
        check(op, p, g, *state)
        every.append([result(op, p, p.shape, p.dtype), flat(g), *(result(op, s, p.shape, p.dtype) for s in state)])
    for dtype in {p.dtype for p in arrays[0]}:
        chosen = [i for i, p in enumerate(arrays[0]) if p.dtype == dtype]
        rows = [every[i] for i in chosen]
        owners, starts, lengths = _blocks(tuple(row[0].size for row in rows))
        addresses = np.array([[array.ctypes.data for array in row] for row in rows])
        places = addresses[owners] + starts[:, None] * dtype.itemsize
        columns = (np.array([values[i] for i in chosen], dtype)[owners] for values in of_each)
        run(places, lengths, np.empty(0, dtype), *columns, *map(dtype.type, scalars))  # `rows` keeps all alive
    return arrays[0]


@functools.cache
def _blocks(sizes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Of each block its tensor, its first element and its length."""
    blocks = [(i, start, min(BLOCK, size - start)) for i, size in enumerate(sizes) for start in range(0, size, BLOCK)]
    owners, starts, lengths = np.array(blocks, np.int64).reshape(-1, 3).T.copy()
    return owners, starts, lengths


# ---- compiled ------------------------------------------------------------------------------------------------------
# places[b, j]: the address of block b of array j, in the order (p, g, *state). `like` has the dtype and nothing else.


@intrinsic
def _pointer(context: Any, address: Any, like: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.intp, like), emit


@njit(cache=True)
def _at(address: int, length: int, like: Array) -> Array:
    """The memory there as an array."""
    return carray(_pointer(address, like), (length,))


def _compiled(function: Any) -> Any:
    return njit(parallel=True, cache=True, error_model="numpy")(function)  # division by zero gives inf, as in NumPy


@_compiled
def _sgd(places: Array, lengths: Array, like: Array, lr: Any, decay: Any) -> None:
    for b in prange(len(lengths)):
        n = lengths[b]
        p, g = _at(places[b, 0], n, like), _at(places[b, 1], n, like)
        for i in range(n):
            p[i] -= lr * (g[i] + decay * p[i])


@_compiled
def _momentum(places: Array, lengths: Array, like: Array, lr: Any, momentum: Any, decay: Any) -> None:
    for b in prange(len(lengths)):
        n = lengths[b]
        p, g, buffer = _at(places[b, 0], n, like), _at(places[b, 1], n, like), _at(places[b, 2], n, like)
        for i in range(n):
            buffer[i] = momentum * buffer[i] + (g[i] + decay * p[i])
            p[i] -= lr * buffer[i]


@_compiled
def _rmsprop(places: Array, lengths: Array, like: Array, lr: Any, alpha: Any, rest: Any, eps: Any, decay: Any) -> None:
    for b in prange(len(lengths)):
        n = lengths[b]
        p, g, s = _at(places[b, 0], n, like), _at(places[b, 1], n, like), _at(places[b, 2], n, like)
        for i in range(n):
            gradient = g[i] + decay * p[i]
            s[i] = alpha * s[i] + rest * gradient * gradient
            p[i] -= lr * gradient / (math.sqrt(s[i]) + eps)


@_compiled
def _adam(
    places: Array,
    lengths: Array,
    like: Array,
    rates: Array,
    corrections: Array,
    beta1: Any,
    rest1: Any,
    beta2: Any,
    rest2: Any,
    eps: Any,
    decay: Any,
) -> None:
    for b in prange(len(lengths)):
        n, rate, correction = lengths[b], rates[b], corrections[b]
        p, g = _at(places[b, 0], n, like), _at(places[b, 1], n, like)
        m, v = _at(places[b, 2], n, like), _at(places[b, 3], n, like)
        for i in range(n):
            gradient = g[i] + decay * p[i]
            m[i] = beta1 * m[i] + rest1 * gradient
            v[i] = beta2 * v[i] + rest2 * gradient * gradient
            p[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)


@_compiled
def _clip(places: Array, lengths: Array, like: Array, c: Any) -> None:
    for b in prange(len(lengths)):
        p = _at(places[b, 0], lengths[b], like)
        for i in range(lengths[b]):
            p[i] = -c if p[i] < -c else (c if p[i] > c else p[i])
