"""The specification of the random numbers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..scratch import scratch

Array = NDArray[Any]
Counter = int | Array
"""0 .. 2^128 - 1; or its low and its high half, uint64 (2,), beside what is drawn: so a recorded draw can go on."""

M0, M1 = 0xD2511F53, 0xCD9E8D57  # the multipliers of the paper
W0, W1 = 0x9E3779B9, 0xBB67AE85  # key increments: golden ratio, sqrt(3) - 1


def philox(key: int, counter: Counter, n: int, out: Array | None = None) -> Array:
    """n words, uint32 (n,), of blocks counter, counter + 1, ..., wrapping around at 2^128. 0 <= key < 2^64."""
    low, high = halves("philox", key, counter)
    block = np.arange(-(-n // 4), dtype=np.uint64)
    low = low + block
    high = high + (low < block)  # the sum wrapped around: carry
    word, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = low & word, low >> half, high & word, high >> half
    for turn in range(10):
        k0, k1 = (key + turn * W0) & 0xFFFFFFFF, ((key >> 32) + turn * W1) & 0xFFFFFFFF
        a, b = np.uint64(M0) * c0, np.uint64(M1) * c2
        c0, c2 = (b >> half) ^ c1 ^ np.uint64(k0), (a >> half) ^ c3 ^ np.uint64(k1)
        c1, c3 = b & word, a & word
    words = np.empty(n, np.uint32) if out is None else out
    words[...] = np.stack((c0, c1, c2, c3), axis=1).reshape(-1)[:n]
    return words


def uniform(key: int, counter: Counter, n: int, dtype: DTypeLike, out: Array | None = None) -> Array:
    """n numbers in [0, 1), float32 or float64 (n,), equal on every backend to the last bit."""
    u = np.empty(n, floating("uniform", dtype)) if out is None else out
    if u.dtype == np.float32:
        u[...] = (philox(key, counter, n) >> np.uint32(8)) * 2.0**-24
    else:
        low, high = philox(key, counter, 2 * n).astype(np.uint64).reshape(n, 2).T
        u[...] = (low + (high << np.uint64(32)) >> np.uint64(11)) * 2.0**-53
    return u


def normal(key: int, counter: Counter, n: int, dtype: DTypeLike, out: Array | None = None) -> Array:
    """n standard normal numbers, float32 or float64 (n,)."""
    z = np.empty(n, floating("normal", dtype)) if out is None else out
    u, v = uniform(key, counter, n + n % 2, z.dtype).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log(1 - u)), 2 * np.pi * v  # 1 - u is in (0, 1]: its log is finite
    z[...] = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)[:n]
    return z


def dropout_mask(u: Array, p: float, dtype: DTypeLike, out: Array | None = None) -> Array:
    """From uniform numbers: 0 where u < p, else 1 / (1 - p)."""
    mask = np.empty(u.shape, dtype) if out is None else out
    mask[...] = np.greater_equal(u, p, out=scratch("kept", u.shape, np.bool_))
    return np.multiply(mask, mask.dtype.type(1 / (1 - p)), out=mask)


def halves(op: str, key: int, counter: Counter) -> Array:
    """The counter's low and high 64 bits, uint64 (2,). ValueError unless 0 <= key < 2^64 and 0 <= counter < 2^128."""
    number = counter if isinstance(counter, int) else 0
    if not (0 <= key < 1 << 64 and 0 <= number < 1 << 128):
        raise ValueError(f"{op}: key {key} must lie in [0, 2^64) and counter {number} in [0, 2^128)")
    if isinstance(counter, int):
        return np.array([counter & 0xFFFFFFFFFFFFFFFF, counter >> 64], np.uint64)
    if counter.shape != (2,) or counter.dtype != np.uint64:
        raise ValueError(f"{op}: a counter is a number, or uint64 (2,), not {counter.dtype} {counter.shape}")
    return counter


def floating(op: str, dtype: DTypeLike) -> np.dtype[Any]:
    """`dtype` as a NumPy dtype; TypeError unless it is float32 or float64."""
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"{op}: draws float32 or float64, not {np.dtype(dtype)}; convert the result instead")
    return np.dtype(dtype)
