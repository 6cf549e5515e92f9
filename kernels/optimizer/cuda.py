"""The optimizer updates on a device: one launch for all parameters of a dtype (optimizer.cu)."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import cuda
from ..cuda import Array, Device

Arrays = Sequence[Array]
Scalars = tuple[float, ...]

THREADS = 256
PART = 1024  # elements of a block: four a thread, which keep the memory busy while their arithmetic waits

SOURCE = cuda.Source(
    "optimizer/optimizer.cu",
    variants=[{"REAL": "float"}, {"REAL": "double"}],
    registers={
        "sgd": 32, "sgd_momentum": 40, "rmsprop": 48, "adam": 56, "clip_weights": 32, "moving_average": 32,
    },
)


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
    if momentum_buffer is None:
        return _update("sgd", "sgd", (p, g), (weight_decay,), gate, lr)
    return _update("sgd", "sgd_momentum", (p, g, momentum_buffer), (momentum, weight_decay), gate, lr)


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
    return _update("rmsprop", "rmsprop", (p, g, square_average), (alpha, 1 - alpha, eps, weight_decay), gate, lr)


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
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    scalars = beta1, 1 - beta1, logs[0], beta2, 1 - beta2, logs[1], eps, weight_decay
    return _update("adam", "adam", (p, g, m, v), scalars, gate, lr, step)


def clip_weights(p: Arrays, c: float, gate: Array | None = None) -> Arrays:
    """p into [-c, c]."""
    return _update("clip_weights", "clip_weights", (p,), (c,), gate)


def moving_average(averages: Arrays, values: Arrays, decay: float | Array, gate: Array | None = None) -> Arrays:
    """average = value + decay (average - value): in this form, equal values stay equal."""
    return _update("moving_average", "moving_average", (averages, values), (), gate, decay)


def _update(
    op: str,
    kernel: str,
    arrays: tuple[Arrays, ...],
    scalars: Scalars,
    gate: Array | None,
    rate: float | Array | None = None,
    of_each: Sequence[int] | Array | None = None,
) -> Arrays:
    """`kernel` over `arrays`, (p, g, *state); `of_each` has a number for each parameter."""
    for i, row in enumerate(zip(*arrays, strict=True)):
        _check(op, i, row)
    for dtype in dict.fromkeys(p.dtype for p in arrays[0]):
        chosen = [i for i, p in enumerate(arrays[0]) if p.dtype == dtype and p.size]
        if not chosen:
            continue
        try:
            device = cuda.device_of(*(of[i] for of in arrays for i in chosen))
        except ValueError as error:
            raise ValueError(
                f"{op}: {error}; where parameters moved after their optimizer's first step, "
                "optimizer.load_state_dict(optimizer.state_dict()) brings its state along"
            ) from None
        # A gradient may be a view, of which the kernel gets a copy. All others are written to.
        lists = [[cuda.contiguous(of[i]) if k == 1 else of[i] for i in chosen] for k, of in enumerate(arrays)]
        parts, blocks = _parts(device, tuple([a.size for a in lists[0]]))
        numbers: list[Array | None] = [] if rate is None else [_number(device, rate, dtype)]
        if of_each is not None:
            numbers.append(_numbers(device, of_each, chosen, dtype))
        numbers.append(None if gate is None else _gate(gate, dtype))
        tables = [cuda.addresses(of) for of in lists]
        args = [parts, *tables, *numbers, *map(dtype.type, scalars)]
        reaches = [array for of in lists for array in of]
        SOURCE.launch(kernel, (blocks,), (THREADS,), args, {"REAL": cuda.real(dtype)}, reaches=reaches)
    return arrays[0]


@functools.lru_cache(maxsize=256)
def _parts(device: Device, sizes: tuple[int, ...]) -> tuple[Array, int]:
    """Of each block its parameter, first element and number of elements: (blocks, 3) int32; and how many blocks."""
    parts = [(i, start, min(PART, size - start)) for i, size in enumerate(sizes) for start in range(0, size, PART)]
    return cuda.table(device, np.array(parts, np.int32)), len(parts)


def _number(device: Device, number: float | Array, dtype: np.dtype[Any]) -> Array:
    """A rate in device memory."""
    there: Any = number
    is_there = type(number) is device.xp.ndarray
    return there.astype(dtype, copy=False) if is_there else _constant(device, float(number), dtype)


def _numbers(device: Device, of_each: Sequence[int] | Array, chosen: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Those of the chosen parameters, in device memory."""
    if type(of_each) is device.xp.ndarray:
        there: Any = of_each
        return (there if len(chosen) == len(there) else there[np.array(chosen)]).astype(dtype, copy=False)
    return device.array(np.array([of_each[i] for i in chosen], dtype))  # a table that is kept is never asked for again


def _gate(gate: Array, dtype: np.dtype[Any]) -> Array:
    """In a dtype; if in another, its difference to itself, 0 or NaN: of 1e300 float32 makes an infinity."""
    return gate if gate.dtype == dtype else (gate - gate).astype(dtype)


@functools.lru_cache(maxsize=256)
def _constant(device: Device, number: float, dtype: np.dtype[Any]) -> Array:
    """A number in device memory, such as a learning rate that seldom changes."""
    return cuda.table(device, np.array([number], dtype))


def _check(op: str, i: int, row: Sequence[Array]) -> None:
    """Of parameter i: one floating dtype, one shape, and p and state that can be written to in place."""
    cuda.real(row[0].dtype)
    if any(a.dtype != row[0].dtype for a in row):
        raise TypeError(f"{op}: wants all float32 or all float64, not {_listed(a.dtype for a in row)}")
    if any(a.shape != row[0].shape for a in row):
        raise ValueError(f"{op}: wants arrays of one shape, not {_listed(a.shape for a in row)}")
    for k, a in enumerate(row):
        if k != 1 and not a.flags.c_contiguous:
            raise ValueError(f"{op}: writes into C-contiguous arrays, but one of parameter {i}, {a.shape}, is not")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


@SOURCE.example("sgd", "sgd_momentum", "rmsprop", "adam", "clip_weights", "moving_average")
def _example(device: Device) -> None:
    """Parameters of several parts, of one, and of a piece of one."""
    rng = np.random.default_rng(0)
    p, g, m, v = ([device.xp.array(rng.random(n, np.float32)) for n in (PART + 70, 33, PART)] for _ in range(4))
    sgd(p, g, None, lr=0.1, momentum=0, weight_decay=0.1)
    sgd(p, g, m, lr=0.1, momentum=0.9, weight_decay=0.1)
    rmsprop(p, g, v, lr=0.1, alpha=0.9, eps=1e-8, weight_decay=0)
    adam(p, g, m, v, lr=0.1, beta1=0.5, beta2=0.99, eps=1e-8, weight_decay=0, step=[1, 2, 3])
    clip_weights(p, 0.1)
    moving_average(p, g, 0.9)
