"""The optimizer updates in one parallel pass over all parameters, not one for each operation and parameter.

A net has dozens of parameters, most of them small, and a call costs more than the arithmetic on a small one. So
compiled code gets tables: where the memory of each array begins, and a list of blocks of at most BLOCK elements, which
threads share out. They are kept from step to step, in which most arrays are the same.

    arrays   p0 [......................]  p1 [..]  p2 [.........]
    blocks      |  0  |  1  |  2  |  3 |     | 4|     |  5  | 6 |
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..jit import inner
from ..loops import check, flat, loop, part, result
from .reference import counts, is_open, plain

Array = NDArray[Any]
Arrays = Sequence[Array]

BLOCK = 1 << 14  # elements


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
    if momentum_buffer is None:
        return _update("sgd", _sgd, (p, g), (plain(lr), weight_decay))
    return _update("sgd", _momentum, (p, g, momentum_buffer), (plain(lr), momentum, weight_decay))


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
    return _update("rmsprop", _rmsprop, (p, g, square_average), (plain(lr), alpha, 1 - alpha, eps, weight_decay))


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
    rates = [lr / (1 - beta1**t) for t in step]
    corrections = [1 / math.sqrt(1 - beta2**t) for t in step]
    scalars = beta1, 1 - beta1, beta2, 1 - beta2, eps, weight_decay
    return _update("adam", _adam, (p, g, m, v), scalars, (rates, corrections))


def clip_weights(p: Arrays, c: float, gate: Array | None = None) -> Arrays:
    """p into [-c, c]."""
    return _update("clip_weights", _clip, (p, p), (c,)) if is_open(gate) else p


def _update(
    op: str,
    run: Any,
    arrays: tuple[Arrays, ...],
    scalars: tuple[float, ...],
    of_each: tuple[Sequence[float], ...] = (),
) -> Arrays:
    """`run` over `arrays`, (p, g, *state); `of_each` has numbers that differ from parameter to parameter."""
    key = op, len(arrays), *map(id, arrays[0])
    table = _tables.get(key)
    if table is None:
        for old, known in list(_tables.items()):
            if known.stale():
                _tables.pop(old, None)
        table = _tables[key] = _Table(len(arrays), len(arrays[0]))
    copies = table.look(op, arrays)  # they and `arrays` keep all alive
    for dtype, chosen, owners, starts, lengths, numbers in table.groups:
        columns = numbers[: len(of_each)]
        for column, values in zip(columns, of_each, strict=True):
            for i in chosen:
                column[i] = values[i]
        blocks = table.addresses, owners, starts, lengths, numbers[-1]
        run(table.size, *blocks, *columns, *map(dtype.type, scalars))
    del copies
    return arrays[0]


class _Table:
    """Where the arrays of an optimizer lie: addresses[i, j] is that of parameter i's array j, of (p, g, *state).

    groups: of each dtype it, the parameters that have it, of each block its parameter, first element and length, and
    room for numbers that differ from parameter to parameter.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self._known: list[list[Any]] = [[_nothing] * columns for _ in range(rows)]  # weak references
        self.addresses = np.zeros((rows, columns), np.int64)
        self.groups: list[tuple[np.dtype[Any], list[int], Array, Array, Array, list[Array]]] = []
        self.size = 0

    def stale(self) -> bool:
        """Whether one of the parameters is gone."""
        return any(known[0]() is None for known in self._known)

    def look(self, op: str, arrays: tuple[Arrays, ...]) -> list[Array]:
        """Checks the arrays that are others than at the last call, and notes their addresses.

        Returns copies of those gradients that compiled code could not read where they are.
        """
        copies = []
        for i, (row, known) in enumerate(zip(zip(*arrays, strict=True), self._known, strict=True)):
            changed = [j for j, array in enumerate(row) if known[j]() is not array]
            if not changed:
                continue
            check(op, *row)
            if changed[0] == 0:
                self.groups = []
            for j in changed:
                array = row[j]
                reference: Any = weakref.ref(array)
                if j != 1:
                    result(op, array, array.shape, array.dtype)
                elif not (array.flags.c_contiguous and array.flags.aligned):
                    array, reference = flat(array), _nothing
                    copies.append(array)
                self.addresses[i, j] = array.ctypes.data
                known[j] = reference  # last: of what was refused, nothing is known
        if not self.groups:
            self._group(arrays[0])
        return copies

    def _group(self, p: Arrays) -> None:
        self.size = sum(array.size for array in p)
        for dtype in dict.fromkeys(array.dtype for array in p):
            chosen = [i for i, array in enumerate(p) if array.dtype == dtype]
            blocks = [(i, n, min(BLOCK, p[i].size - n)) for i in chosen for n in range(0, p[i].size, BLOCK)]
            owners, starts, lengths = np.array(blocks, np.int64).reshape(-1, 3).T.copy()
            self.groups.append((dtype, chosen, owners, starts, lengths, [np.empty(len(p), dtype) for _ in range(3)]))


def _nothing() -> None:
    """Stands for a weak reference to an array that is gone."""


_tables: dict[tuple[Any, ...], _Table] = {}


# ---- compiled ------------------------------------------------------------------------------------------------------
# Of block b the parameter is owners[b], the first element starts[b], their number lengths[b]. `like` has the dtype and
# nothing else.


@intrinsic
def _pointer(context: Any, address: Any, like: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.intp, like), emit


@inner(cache=True)
def _at(addresses: Array, owners: Array, starts: Array, lengths: Array, like: Array, b: int, j: int) -> Array:
    """The part of array j that belongs to block b."""
    address = addresses[owners[b], j] + starts[b] * like.itemsize
    return carray(_pointer(address, like), (lengths[b],))


@loop
def _sgd(
    addresses: Array,
    owners: Array,
    starts: Array,
    lengths: Array,
    like: Array,
    lr: Any,
    decay: Any,
    thread: int,
    threads: int,
) -> None:
    first, last = part(len(lengths), thread, threads)
    for b in range(first, last):
        p = _at(addresses, owners, starts, lengths, like, b, 0)
        g = _at(addresses, owners, starts, lengths, like, b, 1)
        for i in range(lengths[b]):
            p[i] -= lr * (g[i] + decay * p[i])


@loop
def _momentum(
    addresses: Array,
    owners: Array,
    starts: Array,
    lengths: Array,
    like: Array,
    lr: Any,
    momentum: Any,
    decay: Any,
    thread: int,
    threads: int,
) -> None:
    first, last = part(len(lengths), thread, threads)
    for b in range(first, last):
        p = _at(addresses, owners, starts, lengths, like, b, 0)
        g = _at(addresses, owners, starts, lengths, like, b, 1)
        buffer = _at(addresses, owners, starts, lengths, like, b, 2)
        for i in range(lengths[b]):
            buffer[i] = momentum * buffer[i] + (g[i] + decay * p[i])
            p[i] -= lr * buffer[i]


@loop
def _rmsprop(
    addresses: Array,
    owners: Array,
    starts: Array,
    lengths: Array,
    like: Array,
    lr: Any,
    alpha: Any,
    rest: Any,
    eps: Any,
    decay: Any,
    thread: int,
    threads: int,
) -> None:
    first, last = part(len(lengths), thread, threads)
    for b in range(first, last):
        p = _at(addresses, owners, starts, lengths, like, b, 0)
        g = _at(addresses, owners, starts, lengths, like, b, 1)
        s = _at(addresses, owners, starts, lengths, like, b, 2)
        for i in range(lengths[b]):
            gradient = g[i] + decay * p[i]
            s[i] = alpha * s[i] + rest * gradient * gradient
            p[i] -= lr * gradient / (math.sqrt(s[i]) + eps)


@loop
def _adam(
    addresses: Array,
    owners: Array,
    starts: Array,
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
    thread: int,
    threads: int,
) -> None:
    first, last = part(len(lengths), thread, threads)
    for b in range(first, last):
        rate, correction = rates[owners[b]], corrections[owners[b]]
        p = _at(addresses, owners, starts, lengths, like, b, 0)
        g = _at(addresses, owners, starts, lengths, like, b, 1)
        m = _at(addresses, owners, starts, lengths, like, b, 2)
        v = _at(addresses, owners, starts, lengths, like, b, 3)
        for i in range(lengths[b]):
            gradient = g[i] + decay * p[i]
            m[i] = beta1 * m[i] + rest1 * gradient
            v[i] = beta2 * v[i] + rest2 * gradient * gradient
            p[i] -= rate * m[i] / (math.sqrt(v[i]) * correction + eps)


@loop
def _clip(
    addresses: Array, owners: Array, starts: Array, lengths: Array, like: Array, c: Any, thread: int, threads: int
) -> None:
    first, last = part(len(lengths), thread, threads)
    for b in range(first, last):
        p = _at(addresses, owners, starts, lengths, like, b, 0)
        for i in range(lengths[b]):
            p[i] = -c if p[i] < -c else (c if p[i] > c else p[i])
