"""The matrix product in packed panels, as in conv2d/direct.py, but with nothing to gather: a is read where it lies.

A transposed view costs nothing, since the micro-kernel reads a by any two strides, and b is packed in any case.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conv2d.direct import KC, NC, _pack, _share, _store
from ..jit import get_num_threads, inner, njit
from ..loops import FLOATS, flat, result
from ..parallel import run, task
from ..scratch import scratch
from ..simd import MR, columns, gemm_tile

Array = NDArray[Any]

SMALL = 1 << 19  # multiply-adds up to which one core is as quick as two that have to be woken


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a (..., I, K), b (..., K, J) -> (..., I, J)."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or a.dtype not in FLOATS or b.dtype != a.dtype:
        return np.asarray(np.matmul(a, b, out=out))
    (I, K), J = a.shape, b.shape[1]
    if min(I, J) < MR or K == 0:  # a vector, or nearly one: each number of the matrix is read for only one product
        return np.asarray(np.matmul(a, b, out=out))
    y = result("matmul", out, (I, J), a.dtype)
    if out is not None and (np.may_share_memory(out, a) or np.may_share_memory(out, b)):
        y[...] = matmul(a, b)
        return y
    threads = get_num_threads() if I * K * J > SMALL else 1
    room = scratch("matmul", threads * (KC * NC + MR * columns(y)), a.dtype)
    _product(*_flat(a), *_flat(b), I, J, K, y.reshape(-1), room, threads)
    return y


def _flat(x: Array) -> tuple[Array, int, int]:
    """x (rows, columns) in one dimension, and the steps from row to row and from column to column."""
    if x.T.flags.c_contiguous and not x.flags.c_contiguous:
        return flat(x.T), 1, x.shape[0]
    return flat(x), x.shape[1], 1


@njit(cache=True)
def _product(
    a: Array,
    a_row: int,
    a_k: int,
    b: Array,
    b_k: int,
    b_column: int,
    I: int,
    J: int,
    K: int,
    y: Array,
    room: Array,
    threads: int,
) -> None:
    args = a, a_row, a_k, b, b_k, b_column, I, J, K, y, room
    if threads == 1:
        _share_of_product(*args, 0, 1)
    else:
        run(threads, task(_share_of_product, args))


@inner(cache=True)
def _share_of_product(
    a: Array,
    a_row: int,
    a_k: int,
    b: Array,
    b_k: int,
    b_column: int,
    I: int,
    J: int,
    K: int,
    y: Array,
    room: Array,
    thread: int,
    threads: int,
) -> None:
    """A thread's part of y: its columns, or its rows where there are few columns; then it packs all of b for itself."""
    panel = columns(y)
    packed = thread * (KC * NC + MR * panel)
    tile = packed + KC * NC
    first, last, left, right = 0, I, 0, J
    if J >= 2 * threads * panel:
        left, right = J * thread // threads // panel * panel, J * (thread + 1) // threads // panel * panel
        if thread == threads - 1:
            right = J
    else:
        first, last = _share(I, thread, threads)
    for j0 in range(left, right, NC):
        j1 = min(j0 + NC, right)
        for k0 in range(0, K, KC):
            length, add = min(KC, K - k0), k0 > 0
            for j in range(j0, j1, panel):
                at = k0 * b_k + j * b_column
                _pack(b, at, b_k, b_column, length, min(panel, j1 - j), room, packed + (j - j0) * KC)
            for row in range(first, last, MR):
                i = min(row, I - MR)  # the last tile is a whole one, too: of it only the rows that are left are stored
                for j in range(j0, j1, panel):
                    width, panel_at = min(panel, j1 - j), packed + (j - j0) * KC
                    if i + MR <= last and i == row and width == panel:
                        gemm_tile(a, i * a_row + k0 * a_k, a_row, a_k, room, panel_at, y, i * J + j, J, length, add)
                    else:
                        gemm_tile(
                            a, i * a_row + k0 * a_k, a_row, a_k, room, panel_at, room, tile, panel, length, False
                        )
                        for r in range(row, min(row + MR, last)):
                            _store(room, tile + (r - i) * panel, width, add, y, r * J + j)
