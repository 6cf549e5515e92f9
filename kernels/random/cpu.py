"""Philox block by block in registers; uniforms and normals are then made in place from the words that fill `out`."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..jit import inner
from ..loops import loop, part, result
from ..scratch import scratch
from .reference import M0, M1, W0, W1, Counter, floating, halves

Array = NDArray[Any]

# Compiled code makes a float64 of a uint64 and a plain integer: every constant has its type.
WORD, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIERS, INCREMENTS = (np.uint64(M0), np.uint64(M1)), (np.uint64(W0), np.uint64(W1))


def philox(key: int, counter: Counter, n: int, out: Array | None = None) -> Array:
    """n words, uint32 (n,), of blocks counter, counter + 1, ..., wrapping around at 2^128. 0 <= key < 2^64."""
    low, high = halves("philox", key, counter)
    words = result("philox", out, (n,), np.dtype(np.uint32))
    _philox(n, words, np.uint64(key), low, high)
    return words


def uniform(key: int, counter: Counter, n: int, dtype: DTypeLike, out: Array | None = None) -> Array:
    """n numbers in [0, 1), float32 or float64 (n,), equal on every backend to the last bit."""
    u = result("uniform", out, (n,), floating("uniform", dtype))
    words = u.view(np.uint32)  # as many as are needed: one for a float32, two for a float64
    philox(key, counter, words.size, words)
    if u.dtype == np.float32:
        _unit(n, u, words, np.uint32(8), np.float32(2**-24))
    else:
        _unit(n, u, words.view("<u8"), np.uint64(11), 2.0**-53)
    return u


def normal(key: int, counter: Counter, n: int, dtype: DTypeLike, out: Array | None = None) -> Array:
    """n standard normal numbers, float32 or float64 (n,)."""
    z = result("normal", out, (n,), floating("normal", dtype))
    pairs = z if n % 2 == 0 else scratch("pairs", n + 1, z.dtype)
    _box_muller(n, uniform(key, counter, pairs.size, z.dtype, pairs).reshape(-1, 2))
    if n % 2:
        z[...] = pairs[:n]
    return z


@inner(cache=True)
def _block(b: Any, key: Any, low: Any, high: Any) -> Any:
    """The four words of block b after the counter (low, high)."""
    start = low + b
    if start < low:
        high += np.uint64(1)
    c0, c1, c2, c3 = start & WORD, start >> HALF, high & WORD, high >> HALF
    k0, k1 = key & WORD, key >> HALF
    for _ in range(10):
        x, y = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (y >> HALF) ^ c1 ^ k0, y & WORD, (x >> HALF) ^ c3 ^ k1, x & WORD
        k0, k1 = k0 + INCREMENTS[0] & WORD, k1 + INCREMENTS[1] & WORD
    return c0, c1, c2, c3


@loop
def _philox(words: Array, key: Any, low: Any, high: Any, thread: int, threads: int) -> None:
    whole = words.size // 4
    blocks = words[: 4 * whole].reshape(whole, 4)
    first, last = part(whole, thread, threads)
    blocks = blocks[first:last]
    for b in range(len(blocks)):
        four = _block(np.uint64(first + b), key, low, high)
        blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3] = four
    if thread == 0 and 4 * whole < words.size:
        rest = _block(np.uint64(whole), key, low, high)
        for i in range(4 * whole, words.size):
            words[i] = rest[i - 4 * whole]


@loop
def _unit(u: Array, words: Array, shift: Any, scale: Any, thread: int, threads: int) -> None:
    i, end = part(u.size, thread, threads)
    u, words = u[i:end], words[i:end]
    for i in range(u.size):
        u[i] = u.dtype.type(words[i] >> shift) * scale


@loop
def _box_muller(pairs: Array, thread: int, threads: int) -> None:
    one, two, turn = pairs.dtype.type(1), pairs.dtype.type(2), pairs.dtype.type(2 * math.pi)
    i, end = part(len(pairs), thread, threads)
    pairs = pairs[i:end]
    for i in range(len(pairs)):
        radius = math.sqrt(-two * math.log(one - pairs[i, 0]))
        angle = turn * pairs[i, 1]
        pairs[i, 0], pairs[i, 1] = radius * math.cos(angle), radius * math.sin(angle)
