"""Random numbers on a device: the streams of reference.py, drawn where they are needed (random.cu).

The counter is read from device memory: a CUDA graph keeps the numbers that it is recorded with. Where a number is
given for it, `out`, which must be there, says on which device to draw.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import cuda
from ..cuda import Array, Device
from .reference import Counter, floating, halves

THREADS = 256

SOURCE = cuda.Source(
    "random/random.cu",
    variants=[{"REAL": "float"}, {"REAL": "double"}],
    registers={"philox": 24, "uniform": 24, "normal": 40, "dropout_mask_of_float": 16, "dropout_mask_of_double": 16},
)


def philox(key: int, counter: Counter, n: int, out: Array | None = None) -> Array:
    """n words, uint32 (n,), of blocks counter, counter + 1, ..., wrapping around at 2^128. 0 <= key < 2^64."""
    return _draw("philox", key, counter, n, np.dtype(np.uint32), out, {"REAL": "float"})


def uniform(key: int, counter: Counter, n: int, dtype: DTypeLike, out: Array | None = None) -> Array:
    """n numbers in [0, 1), float32 or float64 (n,), equal on every backend to the last bit."""
    return _draw("uniform", key, counter, n, floating("uniform", dtype), out, {"REAL": cuda.real(dtype)})


def normal(key: int, counter: Counter, n: int, dtype: DTypeLike, out: Array | None = None) -> Array:
    """n standard normal numbers, float32 or float64 (n,)."""
    return _draw("normal", key, counter, n, floating("normal", dtype), out, {"REAL": cuda.real(dtype)})


def dropout_mask(u: Array, p: float, dtype: DTypeLike, out: Array | None = None) -> Array:
    """From uniform numbers: 0 where u < p, else 1 / (1 - p)."""
    mask = cuda.device_of(u).xp.empty(u.shape, dtype) if out is None else out
    macros = {"REAL": cuda.real(mask.dtype)}
    if u.size:
        args = cuda.contiguous(u), u.dtype.type(p), mask.dtype.type(1 / (1 - p)), u.size, mask
        SOURCE.launch(f"dropout_mask_of_{cuda.real(u.dtype)}", _grid(u.size), (THREADS,), args, macros)
    return mask


def _draw(
    op: str, key: int, counter: Counter, n: int, dtype: np.dtype[Any], out: Array | None, macros: cuda.Macros
) -> Array:
    both = halves(op, key, counter)
    if out is None:
        if isinstance(counter, int):
            raise ValueError(f"{op}: pass out=, an array of the device to draw on")
        out = cuda.device_of(counter).xp.empty(n, dtype)
    if out.shape != (n,) or out.dtype != dtype:
        raise ValueError(f"{op}: writes into {dtype} {(n,)}, not into {out.dtype} {out.shape}")
    if n:
        start = cuda.device_of(out).array(both) if isinstance(counter, int) else both
        args = np.uint64(key), start, n, out
        SOURCE.launch(op, _grid(cuda.ceil_div(out.nbytes, 16)), (THREADS,), args, macros)
    return out


def _grid(threads: int) -> tuple[int]:
    return (cuda.ceil_div(threads, THREADS),)


@SOURCE.example("philox", "uniform", "normal", "dropout_mask_of_float", "dropout_mask_of_double")
def _example(device: Device) -> None:
    n = 4 * THREADS + 6
    philox(1, 2, n, device.xp.empty(n, np.uint32))
    for dtype in (np.float32, np.float64):
        u = uniform(1, 2, n, dtype, device.xp.empty(n, dtype))
        normal(1, 2, n, dtype, device.xp.empty(n, dtype))
        dropout_mask(u, 0.5, np.float32)
