"""The convolution trio as packed matrix products that gather their patches on the fly.

A convolution is a matrix product. Each output pixel is one row of A, the patch of the input that its window
covers, K = KH * KW * C numbers long; B is the weight, (K, O); so y = A B. A is never stored whole: it would be up to
KH * KW times the input. Instead the product is cut into blocks that fit the caches, and each block of A is gathered
just before it is used:

                    k: 256 at a time                        o: 256 at a time, in panels two vectors wide
               +-------+-------+- - -                    +------+------+------+- -
        block  | A     |       |            256 rows of  | B    |      |      |         packed by each thread,
       of 96   |       |       |            the weight   |      |      |      |         used for all its pixels
       pixels  |       |       |                         |      |      |      |
               +-------+-------+- - -                    +------+------+------+- -
                  |  gathered by each thread                |
                  +------> tile of MR pixels  x  panel <----+      `gemm_tile`: the tile of y stays in registers
                                      |
                          y: stored at k = 0, added to after

In NHWC a patch is KH runs of KW * C neighbouring numbers, so gathering is copying, with zeros where a run leaves the
image. The three operations are three uses of this:

  conv2d            as above.
  conv_transpose2d  the pixels of x that are equal modulo the stride meet the same taps of the window, so each of the
                    S * S phases is a stride-1 convolution over y with a part of the weight, turned around.
  conv2d_weight     gw = A^T y: the same blocks of A, read along their other side and summed over the pixels.

Extra memory of a call: at most SCRATCH numbers a thread, kept for the next call, and a copy of an argument that is
not contiguous. For a given number of threads results are the same to the bit.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import get_num_threads, inner, njit
from ..loops import flat
from ..parallel import run, task
from ..scratch import scratch
from ..simd import MR, columns, gemm_tile
from .geometry import Geometry

Array = NDArray[Any]
Size = tuple[int, int, int, int]
Scratch = tuple[int, Array, Array, Array, Array]

KC = 256  # length of a block's sums: the shorter, the smaller the rounding error, but the oftener y is read again
RC = 96 // MR * MR  # rows of a block of A, RC x KC in the second-level cache
NC = 256  # columns of the packed block of B, KC x NC in the second-level cache
PAD = 16  # a row stride that is a power of two would map all rows of A to one cache set

A_SIZE = KC * (RC + PAD) + RC * PAD  # either RC rows of KC + PAD or KC rows of RC + PAD
B_SIZE = KC * NC
C_SIZE = RC * NC
SCRATCH = A_SIZE + B_SIZE + C_SIZE
"""Numbers (float32 or float64) of scratch a thread."""

GRID = np.dtype(
    [
        (field, np.int64)
        for field in (
            *("rows", "columns"),  # size of a grid of output pixels (i, j)
            *("step_y", "step_x", "top", "left"),  # its patches' corners: (i * step_y + top, j * step_x + left)
            *("high", "wide"),  # size of its patches
            *("w", "w_y", "w_x"),  # where patch pixel (u, v) has its weights: w + u * w_y + v * w_x
            *("to", "to_y", "to_x"),  # where pixel (i, j) of an image is stored: to + i * to_y + j * to_x
        )
    ]
)
"""One convolution of the gathering kernel. Places are in elements from the start of an array or of an image."""


# ---- moving patches ---------------------------------------------------------------------------------------------


@inner(cache=True)
def _clip(low: int, high: int, x: int, W: int, C: int) -> tuple[int, int]:
    """The part of elements low..high of a run of pixels starting at x (any sign) that lies in a row of W pixels."""
    first = min(max(low, -x * C), high)
    return first, max(first, min(high, (W - x) * C))


@inner(cache=True)
def _gather(
    source: Array, n: int, y: int, x: int, H: int, W: int, C: int, run: int, k0: int, k1: int, patch: Array, to: int
) -> None:
    """patch[to:] = elements k0..k1 of the patch of runs with corner (y, x) in image n; zeros outside the image."""
    y += k0 // run
    low, left = k0 % run, k1 - k0
    p = np.uintp(to)
    while left > 0:
        high = min(run, low + left)
        first = last = high
        if 0 <= y < H:
            first, last = _clip(low, high, x, W, C)
        for _ in range(np.uintp(first - low)):
            patch[p] = 0
            p += np.uintp(1)
        s = np.uintp(((n * H + y) * W + x) * C + first)
        for e in range(np.uintp(last - first)):
            patch[p + e] = source[s + e]
        p += np.uintp(last - first)
        for _ in range(np.uintp(high - last)):
            patch[p] = 0
            p += np.uintp(1)
        left -= high - low
        low = 0
        y += 1


@inner(cache=True)
def _pack(
    matrix: Array, at: int, row_step: int, column_step: int, rows: int, width: int, packed: Array, to: int
) -> None:
    """packed[to:] = a (rows, width) matrix, each row filled up with zeros to a panel's width."""
    m, p = np.uintp(at), np.uintp(to)
    panel = columns(packed)
    if column_step == 1 and width == panel:  # lengths that the compiler knows make it two vector instructions a row
        for _ in range(rows):
            for j in range(np.uintp(panel)):
                packed[p + j] = matrix[m + j]
            m += np.uintp(row_step)
            p += np.uintp(panel)
        return
    for _ in range(rows):
        for j in range(np.uintp(width)):
            packed[p + j] = matrix[m + j * np.uintp(column_step)]
        for j in range(np.uintp(width), np.uintp(panel)):
            packed[p + j] = 0
        m += np.uintp(row_step)
        p += np.uintp(panel)


# ---- the three kernels: what one thread does ---------------------------------------------------------------------


@inner(cache=True)
def _share(count: int, thread: int, threads: int) -> tuple[int, int]:
    """First and last of a thread's part of `count` rows, in whole tiles."""
    tiles = (count + MR - 1) // MR
    return tiles * thread // threads * MR, min(tiles * (thread + 1) // threads * MR, count)


@inner(cache=True)
def _store(tile: Array, at: int, width: int, add: bool, target: Array, to: int) -> None:
    """One row of a tile that does not lie in `target` as a whole."""
    s, t = np.uintp(at), np.uintp(to)
    panel = columns(tile)
    if width == panel:  # a length that the compiler knows makes it two vector instructions
        if add:
            for e in range(np.uintp(panel)):
                target[t + e] += tile[s + e]
        else:
            for e in range(np.uintp(panel)):
                target[t + e] = tile[s + e]
    elif add:
        for e in range(np.uintp(width)):
            target[t + e] += tile[s + e]
    else:
        for e in range(np.uintp(width)):
            target[t + e] = tile[s + e]


@inner(cache=True)
def _gather_share(
    source: Array,
    size: Size,
    weight: Array,
    w_c: int,
    w_o: int,
    target: Array,
    O: int,
    grids: Array,
    a: Array,
    b: Array,
    c: Array,
    places: Array,
    thread: int,
    threads: int,
) -> None:
    N, H, W, C = size
    image = len(target) // N
    panel = columns(target)
    a0, b0, c0, r0 = thread * A_SIZE, thread * B_SIZE, thread * C_SIZE, thread * RC
    lda = KC + PAD
    for index in range(len(grids)):
        g = grids[index]
        run, per_image = g.wide * C, g.rows * g.columns
        K = g.high * run
        k_blocks = (K + KC - 1) // KC
        dense = g.to_x == O and g.to_y == g.columns * O and image == per_image * O
        first, last = _share(N * per_image, thread, threads)
        if first >= last:
            continue
        for o0 in range(0, O, NC):
            o1 = min(o0 + NC, O)
            for k_block in range(k_blocks):
                k0, k1 = k_block * K // k_blocks, (k_block + 1) * K // k_blocks
                for o in range(o0, o1, panel):
                    k = k0
                    while k < k1:  # a tap at a time, or what this block has of it
                        tap, channel = k // C, k % C
                        rows = min(C - channel, k1 - k)
                        at = g.w + tap // g.wide * g.w_y + tap % g.wide * g.w_x + channel * w_c + o * w_o
                        _pack(weight, at, w_c, w_o, rows, min(panel, O - o), b, b0 + (o - o0) * KC + (k - k0) * panel)
                        k += rows
                n, i, j = first // per_image, first % per_image // g.columns, first % g.columns
                for p0 in range(first, last, RC):
                    p1 = min(p0 + RC, last)
                    for r in range(p1 - p0):
                        y, x = i * g.step_y + g.top, j * g.step_x + g.left
                        _gather(source, n, y, x, H, W, C, run, k0, k1, a, a0 + r * lda)
                        places[r0 + r] = n * image + g.to + i * g.to_y + j * g.to_x
                        j += 1
                        if j == g.columns:
                            i, j = i + 1, 0
                            if i == g.rows:
                                n, i = n + 1, 0
                    for o in range(o0, o1, panel):
                        filled, bo = min(panel, O - o), b0 + (o - o0) * KC
                        for r in range(0, p1 - p0, MR):
                            if dense and r + MR <= p1 - p0 and filled == panel:
                                to = places[r0 + r] + o
                                gemm_tile(a, a0 + r * lda, lda, 1, b, bo, target, to, O, k1 - k0, k0 > 0)
                                continue
                            gemm_tile(a, a0 + r * lda, lda, 1, b, bo, c, c0, panel, k1 - k0, False)
                            for e in range(min(MR, p1 - p0 - r)):
                                _store(c, c0 + e * panel, filled, k0 > 0, target, places[r0 + r + e] + o)


@inner(cache=True)
def _weight_share(
    source: Array,
    size: Size,
    gy: Array,
    y_size: Size,
    corner: Size,
    window: tuple[int, int],
    target: Array,
    o0: int,
    o1: int,
    by_pixels: bool,
    a: Array,
    b: Array,
    c: Array,
    thread: int,
    threads: int,
) -> None:
    """Columns o0..o1 of patches^T gy: some rows of them in `target`, or all of them, for some pixels, in `c`."""
    N, H, W, C = size
    OH, OW, O = y_size[1], y_size[2], y_size[3]
    step_y, step_x, top, left = corner
    run, panel, lda = window[1] * C, columns(target), RC + PAD
    K, pixels = window[0] * run, N * OH * OW
    a0, b0, c0 = thread * A_SIZE, thread * B_SIZE, thread * C_SIZE
    if by_pixels:
        result, ldr, r0 = c, NC, c0
        k_first, k_last, p_first, p_last = 0, K, pixels * thread // threads, pixels * (thread + 1) // threads
    else:
        result, ldr, r0 = target, O, o0
        (k_first, k_last), p_first, p_last = _share(K, thread, threads), 0, pixels
    for p0 in range(p_first, p_last, KC):
        p1, add = min(p0 + KC, p_last), p0 > p_first
        for o in range(o0, o1, panel):
            _pack(gy, p0 * O + o, O, 1, p1 - p0, min(panel, o1 - o), b, b0 + (o - o0) * KC)
        for k0 in range(k_first, k_last, RC):
            k1 = min(k0 + RC, k_last)
            n, i, j = p0 // (OH * OW), p0 // OW % OH, p0 % OW
            for r in range(p1 - p0):
                y, x = i * step_y + top, j * step_x + left
                _gather(source, n, y, x, H, W, C, run, k0, k1, a, a0 + r * lda)
                j += 1
                if j == OW:
                    i, j = i + 1, 0
                    if i == OH:
                        n, i = n + 1, 0
            for o in range(o0, o1, panel):
                filled, bo = min(panel, o1 - o), b0 + (o - o0) * KC
                for k in range(k0, k1, MR):
                    at, to = a0 + k - k0, r0 + k * ldr + o - o0
                    if by_pixels or (k + MR <= k1 and filled == panel):
                        gemm_tile(a, at, 1, lda, b, bo, result, to, ldr, p1 - p0, add)
                    else:
                        gemm_tile(a, at, 1, lda, b, bo, c, c0, panel, p1 - p0, False)
                        for e in range(min(MR, k1 - k)):
                            _store(c, c0 + e * panel, filled, add, result, to + e * ldr)


# ---- sharing out -------------------------------------------------------------------------------------------------
# One parallel region a call: every thread packs the weight for itself, since waiting for each other at every block
# costs more, above all on a machine that has other work to do.


@njit(cache=True)
def _gather_product(
    source: Array,
    size: Size,
    weight: Array,
    w_c: int,
    w_o: int,
    target: Array,
    O: int,
    grids: Array,
    scratch: Scratch,
) -> None:
    """target = patches of source times weight, over all grids; w_c, w_o: steps of the weight's channels."""
    threads, a, b, c, places = scratch
    run(threads, task(_gather_share, (source, size, weight, w_c, w_o, target, O, grids, a, b, c, places)))


@njit(cache=True)
def _weight_product(
    source: Array,
    size: Size,
    gy: Array,
    y_size: Size,
    corner: Size,
    window: tuple[int, int],
    target: Array,
    scratch: Scratch,
) -> None:
    """target (K, O) = patches of source, transposed, times gy (pixels, O).

    Threads share out the rows of the result. Where these are few, they share out the pixels: each has its own sums,
    which are added in order at the end.
    """
    threads, a, b, c, _ = scratch
    K, O = window[0] * window[1] * size[3], y_size[3]
    pixels = y_size[0] * y_size[1] * y_size[2]
    by_pixels = K <= RC
    if by_pixels:
        threads = min(threads, pixels)
    for o0 in range(0, O, NC):
        o1 = min(o0 + NC, O)
        args = source, size, gy, y_size, corner, window, target, o0, o1, by_pixels, a, b, c
        run(threads, task(_weight_share, args))
        if by_pixels:
            for k in range(K):
                for o in range(o1 - o0):
                    total = c[k * NC + o]
                    for part in range(1, threads):
                        total += c[part * C_SIZE + k * NC + o]
                    target[k * O + o0 + o] = total


# ---- calls -------------------------------------------------------------------------------------------------------


def conv2d(x: Array, w: Array, g: Geometry, y: Array) -> None:
    """Fills y (N, OH, OW, O). The arrays are checked and not empty."""
    N, C, O = len(x), x.shape[3], w.shape[3]
    g, C = _as_one_pixel(g, C)
    size = (N, *g.x_size, C)
    _gather_product(flat(x), size, flat(w), O, 1, y.reshape(-1), O, _forward(g, C, O), _scratch(x.dtype))


def conv_transpose2d(y: Array, w: Array, g: Geometry, x: Array) -> None:
    """Fills x (N, H, W, C)."""
    C, O = w.shape[2:]
    g, C = _as_one_pixel(g, C)
    grids = phases(g, C, O)
    if not np.all(grids["high"] * grids["wide"]):  # pixels that no tap reaches
        x[...] = 0
    _gather_product(flat(y), y.shape, flat(w), 1, O, x.reshape(-1), C, grids, _scratch(y.dtype))


def conv2d_weight(x: Array, y: Array, g: Geometry, w: Array) -> None:
    """Fills w (KH, KW, C, O)."""
    g, C = _as_one_pixel(g, x.shape[3])
    size = (len(x), *g.x_size, C)
    _weight_product(flat(x), size, flat(y), y.shape, _steps(g), g.window, w.reshape(-1), _scratch(x.dtype))


def _as_one_pixel(g: Geometry, C: int) -> tuple[Geometry, int]:
    """A window that covers the whole input meets one pixel of KH * KW * C channels: the same product, in one run."""
    if g.window == g.x_size and g.padding == (0, 0):
        return Geometry((1, 1), (0, 0), (1, 1), (1, 1)), g.window[0] * g.window[1] * C
    return g, C


def _steps(g: Geometry) -> tuple[int, int, int, int]:
    """Step and origin of the patches' corners in x."""
    return *g.stride, -g.padding[0], -g.padding[1]


@functools.cache
def _forward(g: Geometry, C: int, O: int) -> Array:
    (oh, ow), (kh, kw) = g.y_size, g.window
    return np.array([(oh, ow, *_steps(g), kh, kw, 0, kw * C * O, C * O, 0, ow * O, O)], GRID)


@functools.cache
def phases(g: Geometry, C: int, O: int) -> Array:
    """One grid for each remainder (r, q) of x's pixels modulo the stride: it meets every S-th tap, the last first."""
    (sh, sw), (ph, pw), (kh, kw), (h, w) = g
    return np.array(
        [
            (
                *(len(range(r, h, sh)), len(range(q, w, sw)), 1, 1),
                *((r + ph - us[-1]) // sh if us else 0, (q + pw - vs[-1]) // sw if vs else 0, len(us), len(vs)),
                *((us[-1] * kw + vs[-1]) * C * O if us and vs else 0, -sh * kw * C * O, -sw * C * O),
                *((r * w + q) * C, sh * w * C, sw * C),
            )
            for r in range(sh)
            for q in range(sw)
            for us in [range((r + ph) % sh, kh, sh)]
            for vs in [range((q + pw) % sw, kw, sw)]
        ],
        GRID,
    )


def _scratch(dtype: np.dtype[Any]) -> Scratch:
    """Number of threads, and their blocks of A, B and C."""
    threads = get_num_threads()
    a, b, c = (scratch(name, threads * size, dtype) for name, size in (("a", A_SIZE), ("b", B_SIZE), ("c", C_SIZE)))
    return threads, a, b, c, scratch("rows", threads * RC, np.int64)
