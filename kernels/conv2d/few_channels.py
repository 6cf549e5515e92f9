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

  conv2d            y[p, o]  = sum over k of  image[places[p] + taps[k]]  w[k, o]      rows: places,  steps: taps
  conv2d_weight     gw[k, o] = sum over p of  image[places[p] + taps[k]]  y[p, o]      rows: taps,  steps: places
  conv_transpose2d  image[places[p] + taps[k]] += sum over o of y[p, o] w[k, o], and the image without its border is x;
                    or, where x has channels enough to fill a panel, a conv2d for each phase of x (direct.py): there
                    the image is y's, and tables say also where in x a phase has its pixels.

The second operand, (K, O) or (pixels, O), is read in place. Where MR pixels or a panel of columns do not divide what
there is, the last tile begins earlier and overlaps the one before it. Tiles that are added to must not overlap: in
conv2d_weight each has its own place in the thread's sums, and a table whose last taps repeat. Fewer columns than a
tile's are made by `narrow_tile`, which is one vector wide: a whole one would be half empty, and MR sums keep busy too.

Dukhan, "The Indirect Convolution Algorithm" (2019), has one table of all (p, k); padding makes it the sum of two.
For a given number of threads results are the same to the bit.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import get_num_threads, inner, njit
from ..loops import flat, up
from ..parallel import run, task
from ..scratch import scratch
from ..simd import MR, VECTORS, columns, gemm_tile, indirect_tile, narrow_tile
from . import direct
from .geometry import Geometry

Array = NDArray[Any]
Size = tuple[int, int, int, int]
Scratch = tuple[int, Array, Array]

CHANNELS = 16  # more are rather copied together: then the general kernel has enough to do for each number of y
IMAGE = 1 << 18  # numbers of an image with its border
SUMS = 1 << 14  # numbers of a thread's share of gw, in whole tiles
DEPTH = 256  # longest sum of conv_transpose2d in registers
BLOCK = 64  # pixels whose rows of y stay in the first-level cache while all taps meet them


def fits(g: Geometry, C: int, O: int) -> bool:
    """Whether the kernels of this module can run: x has few channels, y a whole tile, and scratch suffices."""
    (ph, pw), (h, w), (oh, ow) = g.padding, g.x_size, g.y_size
    panel = _panel(O)
    return (
        1 <= C <= CHANNELS
        and O >= panel
        and min(oh, ow) > 0
        and oh * ow >= MR
        and (h + 2 * ph) * (w + 2 * pw) * C <= IMAGE
        and up(g.window[0] * g.window[1] * C, MR) * up(O, panel) <= SUMS
    )


def fits_transposed(g: Geometry, C: int, O: int) -> bool:
    """The same of conv_transpose2d."""
    if not 1 <= C <= CHANNELS or min(g.y_size) < 1:
        return False
    if _scattered(C):
        (ph, pw), (h, w) = g.padding, g.x_size
        return g.y_size[0] * g.y_size[1] >= MR and O <= DEPTH and (h + 2 * ph) * (w + 2 * pw) * C <= IMAGE
    phases, (down, across) = direct.phases(g, C, O), _border(g)
    taps = phases["high"] * phases["wide"] * O
    return bool(
        C >= _panel(C)
        and np.all(phases["rows"] * phases["columns"] >= MR)
        and np.all((taps > 0) & (taps <= DEPTH))
        and (g.y_size[0] + 2 * down) * (g.y_size[1] + 2 * across) * O <= IMAGE
    )


def _narrow(count: int) -> bool:
    """Whether so many columns are less than a tile's: then tiles have one vector of them."""
    return count < columns(np.empty(0, np.float32))


def _panel(count: int) -> int:
    """Columns of the tiles that make so many."""
    whole = columns(np.empty(0, np.float32))
    return whole // VECTORS if _narrow(count) else whole


def _scattered(C: int) -> bool:
    """Whether x has so few channels that even a narrow tile of them would be partly empty."""
    return C < _panel(C)


def conv2d(x: Array, w: Array, g: Geometry, y: Array) -> None:
    """y (N, OH, OW, O) = convolution of x (N, H, W, C), w (KH, KW, C, O)."""
    C, O = w.shape[2:]
    places, taps = _tables(g, C)
    _forward(flat(x), x.shape, g.padding, flat(w), O, y.reshape(-1), places, taps, _narrow(O), _scratch(x.dtype))


def conv2d_weight(x: Array, y: Array, g: Geometry, w: Array) -> None:
    """w (KH, KW, C, O) = gradient of the weight from x (N, H, W, C), y (N, OH, OW, O)."""
    C, O = w.shape[2:]
    places, taps = _tables(g, C)
    _weight(flat(x), x.shape, g.padding, flat(y), O, w.reshape(-1), places, taps, _narrow(O), _scratch(x.dtype))


def conv_transpose2d(y: Array, w: Array, g: Geometry, x: Array) -> None:
    """x (N, H, W, C) = transposed convolution of y (N, OH, OW, O), w (KH, KW, C, O)."""
    C, O = w.shape[2:]
    if _scattered(C):
        places, taps = _tables(g, C)
        K, panel = w.size // O, columns(y)
        packed = scratch("columns", (up(K, panel) // panel, O, panel), y.dtype)  # w's rows as columns
        packed[-1] = 0
        for k in range(0, K, panel):
            packed[k // panel, :, : K - k] = w.reshape(K, O)[k : k + panel].T
        _scatter(flat(y), O, packed.reshape(-1), K, x.reshape(-1), x.shape, g.padding, places, taps, _scratch(x.dtype))
    else:
        phases, places, taps, targets, elements = _phase_tables(g, C, O)
        weight = scratch("columns", elements.shape, w.dtype)
        np.take(flat(w), elements, out=weight, mode="clip")  # the rows that each phase meets; else take makes a copy
        tables = phases, places, taps, targets, _narrow(C)
        _by_phases(flat(y), y.shape, _border(g), flat(weight), C, x.reshape(-1), *tables, _scratch(x.dtype))


# ---- compiled ---------------------------------------------------------------------------------------------------
# Threads share out the images: the tables serve all of them, and none is copied twice.


@njit(cache=True)
def _forward(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    w: Array,
    O: int,
    y: Array,
    places: Array,
    taps: Array,
    narrow: bool,
    scratch: Scratch,
) -> None:
    threads, image, _ = scratch
    run(threads, task(_forward_share, (x, size, padding, w, O, y, places, taps, narrow, image)))


@inner(cache=True)
def _forward_share(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    w: Array,
    O: int,
    y: Array,
    places: Array,
    taps: Array,
    narrow: bool,
    image: Array,
    thread: int,
    threads: int,
) -> None:
    N, K, pixels, a0 = size[0], len(w) // O, len(places), thread * IMAGE
    panel = columns(y) // VECTORS if narrow else columns(y)
    _clear_image(size, padding, image, a0)
    for n in range(N * thread // threads, N * (thread + 1) // threads):
        _copy_image(x, n, size, padding, image, a0)
        for row in range(0, pixels, MR):
            p = min(row, pixels - MR)
            for column in range(0, O, panel):
                o = min(column, O - panel)
                to = (n * pixels + p) * O + o
                if narrow:
                    narrow_tile(image, a0, places, p, taps, 0, w, o, O, y, to, O, K, False)
                else:
                    indirect_tile(image, a0, places, p, taps, 0, w, o, O, y, to, O, K, False)


@njit(cache=True)
def _weight(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    y: Array,
    O: int,
    w: Array,
    places: Array,
    taps: Array,
    narrow: bool,
    scratch: Scratch,
) -> None:
    threads, image, sums = scratch
    panel = columns(w) // VECTORS if narrow else columns(w)
    run(threads, task(_weight_share, (x, size, padding, y, O, places, taps, narrow, image, sums)))
    for k in range(len(w) // O):
        for o in range(O):
            column = o // panel * panel
            at = column * len(taps) + k * panel + o - min(column, O - panel)
            total = sums[at]
            for part in range(1, threads):
                total += sums[part * SUMS + at]
            w[k * O + o] = total


@inner(cache=True)
def _weight_share(
    x: Array,
    size: Size,
    padding: tuple[int, int],
    y: Array,
    O: int,
    places: Array,
    taps: Array,
    narrow: bool,
    image: Array,
    sums: Array,
    thread: int,
    threads: int,
) -> None:
    """A thread's sums, in the order (panel, tap, column of the panel)."""
    N, pixels, a0, c0 = size[0], len(places), thread * IMAGE, thread * SUMS
    panel = columns(y) // VECTORS if narrow else columns(y)
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
                    if narrow:
                        narrow_tile(image, a0, taps, k, places, p, y, b0, O, sums, to, panel, length, True)
                    else:
                        indirect_tile(image, a0, taps, k, places, p, y, b0, O, sums, to, panel, length, True)


@njit(cache=True)
def _scatter(
    y: Array,
    O: int,
    w: Array,
    K: int,
    x: Array,
    size: Size,
    padding: tuple[int, int],
    places: Array,
    taps: Array,
    scratch: Scratch,
) -> None:
    threads, image, sums = scratch
    run(threads, task(_scatter_share, (y, O, w, K, x, size, padding, places, taps, image, sums)))


@inner(cache=True)
def _scatter_share(
    y: Array,
    O: int,
    w: Array,
    K: int,
    x: Array,
    size: Size,
    padding: tuple[int, int],
    places: Array,
    taps: Array,
    image: Array,
    tile: Array,
    thread: int,
    threads: int,
) -> None:
    N, pixels, panel = size[0], len(places), columns(y)
    a0, c0 = thread * IMAGE, thread * SUMS
    for n in range(N * thread // threads, N * (thread + 1) // threads):
        _clear_image(size, padding, image, a0)
        for k0 in range(0, K, panel):
            width = min(panel, K - k0)
            for row in range(0, pixels, MR):
                p = min(row, pixels - MR)
                gemm_tile(y, (n * pixels + p) * O, O, 1, w, k0 * O, tile, c0, panel, O, False)
                for i in range(row - p, MR):  # the rows before were in the last tile
                    place, c = np.uintp(a0 + places[p + i]), np.uintp(c0 + i * panel)
                    for k in range(np.uintp(width)):
                        image[place + np.uintp(taps[np.uintp(k0) + k])] += tile[c + k]
        _copy_back(image, a0, n, size, padding, x)


@njit(cache=True)
def _by_phases(
    y: Array,
    size: Size,
    border: tuple[int, int],
    w: Array,
    C: int,
    x: Array,
    phases: Array,
    places: Array,
    taps: Array,
    targets: Array,
    narrow: bool,
    scratch: Scratch,
) -> None:
    threads, image, sums = scratch
    run(threads, task(_phases_share, (y, size, border, w, C, x, phases, places, taps, targets, narrow, image, sums)))


@inner(cache=True)
def _phases_share(
    y: Array,
    size: Size,
    border: tuple[int, int],
    w: Array,
    C: int,
    x: Array,
    phases: Array,
    places: Array,
    taps: Array,
    targets: Array,
    narrow: bool,
    image: Array,
    tile: Array,
    thread: int,
    threads: int,
) -> None:
    """phases: of each the first place, the number of places, the first tap and the number of taps."""
    N, panel, per_image = size[0], columns(x) // VECTORS if narrow else columns(x), len(x) // size[0]
    a0, c0 = thread * IMAGE, thread * SUMS
    _clear_image(size, border, image, a0)
    for n in range(N * thread // threads, N * (thread + 1) // threads):
        _copy_image(y, n, size, border, image, a0)
        for phase in range(len(phases)):
            first, pixels, t, K = phases[phase]
            for row in range(0, pixels, MR):
                p = min(row, pixels - MR)
                for column in range(0, C, panel):
                    c = min(column, C - panel)
                    if narrow:
                        narrow_tile(image, a0, places, first + p, taps, t, w, t * C + c, C, tile, c0, panel, K, False)
                    else:
                        indirect_tile(image, a0, places, first + p, taps, t, w, t * C + c, C, tile, c0, panel, K, False)
                    for i in range(MR):
                        to, at = np.uintp(n * per_image + targets[first + p + i] + c), np.uintp(c0 + i * panel)
                        for e in range(np.uintp(panel)):
                            x[to + e] = tile[at + e]


@inner(cache=True)
def _clear_image(size: Size, padding: tuple[int, int], image: Array, at: int) -> None:
    image[at : at + (size[1] + 2 * padding[0]) * (size[2] + 2 * padding[1]) * size[3]] = 0


@inner(cache=True)
def _copy_back(image: Array, at: int, n: int, size: Size, padding: tuple[int, int], x: Array) -> None:
    """The reverse of `_copy_image`."""
    _, H, W, C = size
    row, step = np.uintp(W * C), np.uintp((W + 2 * padding[1]) * C)
    s = np.uintp(n * H) * row
    t = np.uintp(at + padding[1] * C) + np.uintp(padding[0]) * step
    for _ in range(H):
        for e in range(row):
            x[s + e] = image[t + e]
        s += row
        t += step


@inner(cache=True)
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


@functools.cache
def _border(g: Geometry) -> tuple[int, int]:
    """Rows above and below, columns left and right of y that the phases of x reach."""
    phases = direct.phases(g, 1, 1)
    high, wide = (phases[corner] + phases[count] - 1 + phases[size] for corner, count, size in (
        ("top", "rows", "high"), ("left", "columns", "wide")))  # fmt: skip
    (oh, ow), least = g.y_size, (-phases["top"].min(), -phases["left"].min())
    return max(0, int(least[0]), int(high.max()) - oh), max(0, int(least[1]), int(wide.max()) - ow)


@functools.cache
def _phase_tables(g: Geometry, C: int, O: int) -> tuple[Array, Array, Array, Array, Array]:
    """phases, places, taps and targets of `_phases_share`, and which elements of w are behind each tap, (taps, C)."""
    down, across = _border(g)
    row = (g.y_size[1] + 2 * across) * O
    ends, places, taps, targets, elements = [], [], [], [], []
    for p in direct.phases(g, C, O):
        i, j = np.arange(p["rows"]), np.arange(p["columns"])
        u, v, o = np.arange(p["high"])[:, None, None], np.arange(p["wide"])[:, None], np.arange(O)
        places.append(np.add.outer((i + p["top"] + down) * row, (j + p["left"] + across) * O).reshape(-1))
        targets.append((p["to"] + np.add.outer(i * p["to_y"], j * p["to_x"])).reshape(-1))
        taps.append((u * row + v * O + o).reshape(-1))
        elements.append(np.add.outer((p["w"] + u * p["w_y"] + v * p["w_x"] + o).reshape(-1), np.arange(C) * O))
        ends.append((len(places[-1]), len(taps[-1])))
    first = np.cumsum([(0, 0), *ends[:-1]], 0)
    phases = np.array([(f, n, t, k) for (f, t), (n, k) in zip(first, ends, strict=True)])
    return phases, np.concatenate(places), np.concatenate(taps), np.concatenate(targets), np.concatenate(elements)


def _scratch(dtype: np.dtype[Any]) -> Scratch:
    """Number of threads, and their images and sums."""
    threads = get_num_threads()
    return threads, scratch("image", threads * IMAGE, dtype), scratch("image's sums", threads * SUMS, dtype)
