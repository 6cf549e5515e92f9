"""Convolution of images of few channels: matrix products that read their patches where they lie.

A patch of such an image is short, 16 numbers for a 4x4 window and one channel, so a product with the weight is soon
done, and what costs time is moving data: y, which is many times larger than x. Here y is stored once, straight from
registers (or loaded once, in place), and no patch is ever copied together.

Each thread copies one image at a time into its scratch, amid a border of zeros, so that no patch ends at an edge.
Then two tables say where everything is:

       the image in its border                patch of pixel p, element k:  image[places[p] + taps[k]]
      0  0  0  0  0  0  0  0  0
      0 [.  .  .  .] .  .  .  0               places[p]   where the patch of output pixel p begins
      0 [.  .  .  .] .  .  .  0               taps[k]     how far on its element k = (u, v, c) lies, the same
      0 [.  .  .  .] .  .  .  0                           for all patches
      0 [.  .  .  .] .  .  .  0
      0  0  0  0  0  0  0  0  0               `indirect_tile` takes these tables in place of the strides of A

  conv2d         y[p, o]  = sum over k of  image[places[p] + taps[k]]  w[k, o]      rows: places,  steps: taps
  conv2d_weight  gw[k, o] = sum over p of  image[places[p] + taps[k]]  y[p, o]      rows: taps,  steps: places

The second operand, (K, O) or (pixels, O), is read in place. Where MR pixels or a panel of columns do not divide what
there is, the last tile begins earlier and overlaps the one before it. Tiles that are added to must not overlap: in
conv2d_weight each has its own place in the thread's sums, and a table whose last taps repeat.

Dukhan, "The Indirect Convolution Algorithm" (2019), has one table of all (p, k); padding makes it the sum of two.
For a given number of threads results are the same to the bit.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import get_num_threads, njit, prange
from ..loops import aligned, flat, up
from ..simd import MR, columns, indirect_tile
from .geometry import Geometry

Array = NDArray[Any]
Size = tuple[int, int, int, int]
Scratch = tuple[int, Array, Array]

CHANNELS = 4  # more are rather copied together: then the general kernel has enough to do for each number of y
IMAGE = 1 << 16  # numbers of an image with its border
SUMS = 1 << 14  # numbers of a thread's share of gw, in whole tiles
BLOCK = 64  # pixels whose rows of y stay in the first-level cache while all taps meet them


def fits(g: Geometry, C: int, O: int) -> bool:
    """Whether the kernels of this module can run: x has few channels, y a whole tile, and scratch suffices."""
    (ph, pw), (h, w), (oh, ow) = g.padding, g.x_size, g.y_size
    panel = columns(np.empty(0, np.float32))
    return (
        1 <= C <= CHANNELS
        and O >= panel
        and min(oh, ow) > 0
        and oh * ow >= MR
        and (h + 2 * ph) * (w + 2 * pw) * C <= IMAGE
        and up(g.window[0] * g.window[1] * C, MR) * up(O, panel) <= SUMS
    )


def conv2d(x: Array, w: Array, g: Geometry, y: Array) -> None:
    """y (N, OH, OW, O) = convolution of x (N, H, W, C), w (KH, KW, C, O)."""
    C, O = w.shape[2:]
    places, taps = _tables(g, C)
    _forward(flat(x), x.shape, g.padding, flat(w), O, y.reshape(-1), places, taps, _scratch(x.dtype))


def conv2d_weight(x: Array, y: Array, g: Geometry, w: Array) -> None:
    """w (KH, KW, C, O) = gradient of the weight from x (N, H, W, C), y (N, OH, OW, O)."""
    C, O = w.shape[2:]
    places, taps = _tables(g, C)
    _weight(flat(x), x.shape, g.padding, flat(y), O, w.reshape(-1), places, taps, _scratch(x.dtype))


# ---- compiled ---------------------------------------------------------------------------------------------------
# Threads share out the images: the tables serve all of them, and none is copied twice.


@njit(parallel=True, cache=True)
def _forward(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    w: Array,
    O: int,
    y: Array,
    places: Array,
    taps: Array,
    scratch: Scratch,
) -> None:
    threads, image, _ = scratch
    for thread in prange(threads):
        _forward_share(x, size, padding, w, O, y, places, taps, image, np.intp(thread), threads)


@njit(cache=True)
def _forward_share(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    w: Array,
    O: int,
    y: Array,
    places: Array,
    taps: Array,
    image: Array,
    thread: int,
    threads: int,
) -> None:
    N, K, pixels, panel, a0 = size[0], len(w) // O, len(places), columns(y), thread * IMAGE
    _clear_image(size, padding, image, a0)
    for n in range(N * thread // threads, N * (thread + 1) // threads):
        _copy_image(x, n, size, padding, image, a0)
        for row in range(0, pixels, MR):
            p = min(row, pixels - MR)
            for column in range(0, O, panel):
                o = min(column, O - panel)
                indirect_tile(image, a0, places, p, taps, 0, w, o, O, y, (n * pixels + p) * O + o, O, K, False)


@njit(parallel=True, cache=True)
def _weight(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    y: Array,
    O: int,
    w: Array,
    places: Array,
    taps: Array,
    scratch: Scratch,
) -> None:
    threads, image, sums = scratch
    panel = columns(w)
    for thread in prange(threads):
        _weight_share(x, size, padding, y, O, places, taps, image, sums, np.intp(thread), threads)
    for k in range(len(w) // O):
        for o in range(O):
            column = o // panel * panel
            at = column * len(taps) + k * panel + o - min(column, O - panel)
            total = sums[at]
            for part in range(1, threads):
                total += sums[part * SUMS + at]
            w[k * O + o] = total


@njit(cache=True)
def _weight_share(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    y: Array,
    O: int,
    places: Array,
    taps: Array,
    image: Array,
    sums: Array,
    thread: int,
    threads: int,
) -> None:
    """A thread's sums, in the order (panel, tap, column of the panel)."""
    N, pixels, panel, a0, c0 = size[0], len(places), columns(y), thread * IMAGE, thread * SUMS
    _clear_image(size, padding, image, a0)
    sums[c0 : c0 + SUMS] = 0
    for n in range(N * thread // threads, N * (thread + 1) // threads):
        _copy_image(x, n, size, padding, image, a0)
        for p in range(0, pixels, BLOCK):
            length = min(BLOCK, pixels - p)
            for column in range(0, O, panel):
                b0 = (n * pixels + p) * O + min(column, O - panel)
                for k in range(0, len(taps), MR):
                    to = c0 + column * len(taps) + k * panel
                    indirect_tile(image, a0, taps, k, places, p, y, b0, O, sums, to, panel, length, True)


@njit(cache=True)
def _clear_image(size: Size, padding: tuple[int, int], image: Array, at: int) -> None:
    image[at : at + (size[1] + 2 * padding[0]) * (size[2] + 2 * padding[1]) * size[3]] = 0


@njit(cache=True)
def _copy_image(x: Array, n: int, size: Size, padding: tuple[int, int], image: Array, at: int) -> None:
    """Image n of x to image[at:], which has a border of padding's (vertical, horizontal) pixels."""
    _, H, W, C = size
    row, step = np.uintp(W * C), np.uintp((W + 2 * padding[1]) * C)  # unsigned: no test for wrap-around, vector code
    s = np.uintp(n * H) * row
    t = np.uintp(at + padding[1] * C) + np.uintp(padding[0]) * step
    for _ in range(H):
        for e in range(row):
            image[t + e] = x[s + e]
        s += row
        t += step


# ---- tables and scratch -----------------------------------------------------------------------------------------


@functools.cache
def _tables(g: Geometry, C: int) -> tuple[Array, Array]:
    """places (OH * OW,) and taps (KH * KW * C,), whose last one repeats until there are whole tiles of them."""
    (sh, sw), (oh, ow), (kh, kw) = g.stride, g.y_size, g.window
    row = (g.x_size[1] + 2 * g.padding[1]) * C
    places = np.add.outer(np.arange(oh) * sh * row, np.arange(ow) * sw * C).reshape(-1)
    taps = np.add.outer(np.arange(kh) * row, np.arange(kw * C)).reshape(-1)
    return places, np.pad(taps, (0, up(len(taps), MR) - len(taps)), mode="edge")


def _scratch(dtype: np.dtype[Any]) -> Scratch:
    """Number of threads, and their images and sums."""
    return _allocate(get_num_threads(), dtype)


@functools.cache
def _allocate(threads: int, dtype: np.dtype[Any]) -> Scratch:
    """Kept for ever: fresh pages cost more than a copy. cpu.py lets one call at a time in."""
    return threads, aligned(threads * IMAGE, dtype), aligned(threads * SUMS, dtype)
