"""The convolution trio with fewer multiplications: Winograd's algorithm, on the phases of a strided convolution.

**Phases.** A 4x4 window that moves in steps of 2 meets the pixels of one parity with one parity of its taps. So it is
a sum of 2 * 2 convolutions of stride 1 with 2x2 windows, one for each phase (a, b) of the padded image:

    the window             phase (0, 0)      (0, 1)       (1, 0)       (1, 1)
    w00 w01 w02 w03        w00 w02           w01 w03      w10 w12      w11 w13       meets pixels
    w10 w11 w12 w13        w20 w22           w21 w23      w30 w32      w31 w33       (2 i + a - P, 2 j + b - P)
    w20 w21 w22 w23
    w30 w31 w32 w33

In general a window of S R x S R at stride S is S * S phases of R x R windows. Their channels, K = S * S * C of them
side by side, are what a matrix product sums over anyway.

**Tiles.** F(m, R) of algebra.py makes m x m outputs at a time from t x t pixels of each phase, t = m + R - 1, with
t * t products for m * m * R * R: F(2, 2) 9 for 16, F(4, 2) 25 for 64. With channels, a product of numbers becomes a
product of matrices, one for each of the t * t points p:

    x: t x t pixels             V_p (tiles, K)                    M_p (tiles, O)             y: m x m pixels
    of each phase               +----------+                      +---------+                of a tile
    +-+-+-+      B x B^T        |          |  x  U_p (K, O)   =   |         |      A^T M A   +-+-+
    +-+-+-+  ---------------->  |          |                      |         |  ----------->  +-+-+
    +-+-+-+  each channel by    |          |     G w G^T, once    |         |                +-+-+
    +-+-+-+  itself             +----------+     a version of w   +---------+

A block of tiles at a time goes through all of this in a thread's own scratch; `gemm_tile` multiplies.

**The other two operations** are the same form read in other directions:

  conv_transpose2d  V = A y A^T from m x m pixels of y, which do not overlap; M_p = V_p U_p^T, all phases of x side by
                    side; B^T M B is t x t pixels of a phase of x. These overlap with the neighbours' in R - 1 rows and
                    columns: a tile stores what it is the first to reach, and adds to what the tiles above and to its
                    left have stored.
  conv2d_weight     V = B x B^T and Y = A y A^T; M_p = V_p^T Y_p is a sum over all tiles, and G^T M G the gradient.

Rounding errors: algorithm.py has the bounds, docs/performance.md the figures.
"""

import functools
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..jit import get_num_threads, inner, njit
from ..loops import flat, up
from ..parallel import run, task
from ..prepared import Prepared, memory_for
from ..scratch import scratch
from ..simd import MR, VECTORS, columns, gemm_tile
from .algebra import POINTS, matrices
from .algorithm import phase_window
from .geometry import Geometry
from .transform import distance, transform

Array = NDArray[Any]
# N, the rest of x's shape, the rest of y's, the stride, and the row and column of x where the first window begins.
Shapes = tuple[int, int, int, int, int, int, int, int, int, int]
Room = tuple[Array, Array, Array, Array, Array]  # V, M, tables, zeros, and a place for what nobody wants

BLOCK = 48 // MR * MR  # tiles that go through at a time: V and M of a block near the second-level cache
DEPTH = 128  # longest sum in registers: the shorter, the smaller the rounding error
CHUNK = 256  # tiles of which the weight gradient makes V and Y at a time, between two meetings of all threads
ROWS, COLUMNS = 48 // MR * MR, 64  # the part of all M_p that the weight gradient keeps in the second-level cache
PAD = 16  # a row stride that is a power of two would map all rows of V to one cache set
TABLE = 4 * max(POINTS) ** 2  # offsets a thread: four tables of up to t x t pixels

# What the functions below are compiled with: `instance` gives each F(m, R) its own constants and transforms.
M, R, T = 2, 2, 3
vector: Any = None
number: Any = None
x_to_v: Any = None
y_to_v: Any = None
w_to_u: Any = None
m_to_x: Any = None
m_to_y: Any = None
m_to_w: Any = None


# ---- where pixels are --------------------------------------------------------------------------------------------


@inner(cache=True)
def _square(
    table: Array, at: int, count: int, n: int, y: int, x: int, step: int, H: int, W: int, C: int, outside: int
) -> None:
    """table[at:] = offsets of the count x count pixels (y + i * step, x + j * step) of image n, or `outside`."""
    for i in range(count):
        row = y + i * step
        for j in range(count):
            column = x + j * step
            inside = 0 <= row < H and 0 <= column < W
            table[at + i * count + j] = ((n * H + row) * W + column) * C if inside else outside


@inner(cache=True)
def _multiples(table: Array, at: int, count: int, step: int) -> None:
    for p in range(count):
        table[at + p] = p * step


@inner(cache=True)
def _place(tile: int, down: int, across: int, m: int) -> tuple[int, int, int]:
    """Image, row and column of a tile's first output; an image has down x across tiles of m x m."""
    return tile // (down * across), tile // across % down * m, tile % across * m


# ---- templates: one thread's share -------------------------------------------------------------------------------


def _sweep(
    p: Array, p_table: Array, p_at: int, p_shift: int, channels: int, q: Array, q_table: Array, q_at: int, q_shift: int
) -> None:
    """`transform` over the channels of one tile."""
    c, lanes = 0, columns(q) // VECTORS
    while c + lanes <= channels:
        vector(p, p_table, p_at, p_shift + c, q, q_table, q_at, q_shift + c)
        c += lanes
    while c < channels:
        number(p, p_table, p_at, p_shift + c, q, q_table, q_at, q_shift + c)
        c += 1


def _sweep_add(
    p: Array,
    p_table: Array,
    p_at: int,
    p_shift: int,
    channels: int,
    q: Array,
    q_table: Array,
    q_at: int,
    q_shift: int,
    sum_at: int,
) -> None:
    c, lanes = 0, columns(q) // VECTORS
    while c + lanes <= channels:
        vector(p, p_table, p_at, p_shift + c, q, q_table, q_at, q_shift + c, q_table, sum_at)
        c += lanes
    while c < channels:
        number(p, p_table, p_at, p_shift + c, q, q_table, q_at, q_shift + c, q_table, sum_at)
        c += 1


def _products(v: Array, v0: int, ldv: int, count: int, u: Array, K: int, O: int, m: Array, m0: int, ldm: int) -> None:
    """M_p (count, O) = V_p (count, K) U_p (K, O) at all points p; O in whole panels, count in whole tiles of MR."""
    panel = columns(v)
    depths = (K + DEPTH - 1) // DEPTH
    for p in range(T * T):
        for depth in range(depths):
            k0, k1 = depth * K // depths, (depth + 1) * K // depths
            for o in range(0, O, panel):
                b = p * K * O + o * K + k0 * panel
                for i in range(0, count, MR):
                    a, c = v0 + (p * BLOCK + i) * ldv + k0, m0 + (p * BLOCK + i) * ldm + o
                    gemm_tile(v, a, ldv, 1, u, b, m, c, ldm, k1 - k0, k0 > 0)


def _forward_share(x: Array, u: Array, y: Array, shapes: Shapes, room: Room, thread: int, threads: int) -> None:
    N, H, W, C, OH, OW, O, step, top, left = shapes
    v, m, tables, zeros, waste = room
    down, across = up(OH, M) // M, up(OW, M) // M
    K, OP = step * step * C, up(O, columns(v))
    ldv, ldm = K + PAD, OP + PAD
    v0, m0, at = thread * T * T * BLOCK * ldv, thread * T * T * BLOCK * ldm, thread * TABLE
    v_at, m_at, y_at = at + T * T, at + 2 * T * T, at + 3 * T * T
    _multiples(tables, v_at, T * T, BLOCK * ldv)
    _multiples(tables, m_at, T * T, BLOCK * ldm)
    outside, over = distance(x, zeros), distance(y, waste) + thread * OP
    tiles = N * down * across
    first, last = tiles * thread // threads, tiles * (thread + 1) // threads
    for block in range(first, last, BLOCK):
        count = min(BLOCK, last - block)
        for t in range(count):
            n, i, j = _place(block + t, down, across, M)
            for a in range(step):
                for b in range(step):
                    _square(tables, at, T, n, step * i + a + top, step * j + b + left, step, H, W, C, outside)
                    x_to_v(x, tables, at, 0, C, v, tables, v_at, v0 + t * ldv + (a * step + b) * C)
        _products(v, v0, ldv, count, u, K, OP, m, m0, ldm)
        for t in range(count):
            n, i, j = _place(block + t, down, across, M)
            _square(tables, y_at, M, n, i, j, 1, OH, OW, O, over)
            m_to_y(m, tables, m_at, m0 + t * ldm, O, y, tables, y_at, 0)


def _transposed_share(y: Array, u: Array, x: Array, shapes: Shapes, room: Room, thread: int, threads: int) -> None:
    """Threads share out whole images, since tiles of one image add to each other."""
    N, H, W, C, OH, OW, O, step, top, left = shapes
    v, m, tables, zeros, waste = room
    down, across = up(OH, M) // M, up(OW, M) // M
    CP = up(C, columns(v))
    ldv, ldm = O + PAD, step * step * CP + PAD
    v0, m0, at = thread * T * T * BLOCK * ldv, thread * T * T * BLOCK * ldm, thread * TABLE
    v_at, m_at, sum_at = at + T * T, at + 2 * T * T, at + 3 * T * T
    _multiples(tables, v_at, T * T, BLOCK * ldv)
    _multiples(tables, m_at, T * T, BLOCK * ldm)
    outside, over, nothing = distance(y, zeros), distance(x, waste) + thread * CP, distance(x, zeros)
    first, last = N * thread // threads * down * across, N * (thread + 1) // threads * down * across
    for block in range(first, last, BLOCK):
        count = min(BLOCK, last - block)
        for t in range(count):
            n, i, j = _place(block + t, down, across, M)
            _square(tables, at, M, n, i, j, 1, OH, OW, O, outside)
            y_to_v(y, tables, at, 0, O, v, tables, v_at, v0 + t * ldv)
        _products(v, v0, ldv, count, u, O, step * step * CP, m, m0, ldm)
        for t in range(count):
            n, i, j = _place(block + t, down, across, M)
            for a in range(step):
                for b in range(step):
                    _square(tables, at, T, n, step * i + a + top, step * j + b + left, step, H, W, C, over)
                    for k in range(T):
                        for l in range(T):
                            reached = (k < R - 1 and i > 0) or (l < R - 1 and j > 0)
                            tables[sum_at + k * T + l] = tables[at + k * T + l] if reached else nothing
                    m_to_x(m, tables, m_at, m0 + t * ldm + (a * step + b) * CP, C, x, tables, at, 0, sum_at)


def _weight_inputs(
    x: Array,
    y: Array,
    shapes: Shapes,
    first: int,
    last: int,
    chunk: int,
    u: Array,
    room: Room,
    thread: int,
    threads: int,
) -> None:
    """V, in rows of K, and Y, in panels, of tiles first..last."""
    _, H, W, C, OH, OW, O, step, top, left = shapes
    v, _, tables, zeros, _ = room
    down, across = up(OH, M) // M, up(OW, M) // M
    panel = columns(v)
    ldv, OP, at = step * step * C + PAD, up(O, panel), thread * TABLE
    v_at, u_at = at + T * T, at + 2 * T * T
    _multiples(tables, v_at, T * T, chunk * ldv)
    _multiples(tables, u_at, T * T, chunk * OP)
    x_outside, y_outside = distance(x, zeros), distance(y, zeros)
    count = last - first
    for t in range(count * thread // threads, count * (thread + 1) // threads):
        n, i, j = _place(first + t, down, across, M)
        for a in range(step):
            for b in range(step):
                _square(tables, at, T, n, step * i + a + top, step * j + b + left, step, H, W, C, x_outside)
                x_to_v(x, tables, at, 0, C, v, tables, v_at, t * ldv + (a * step + b) * C)
        _square(tables, at, M, n, i, j, 1, OH, OW, O, y_outside)
        for o in range(0, O, panel):
            y_to_v(y, tables, at, o, min(panel, O - o), u, tables, u_at, o * chunk + t * panel)


def _weight_sums(
    u: Array,
    count: int,
    chunk: int,
    start: bool,
    done: bool,
    w: Array,
    shapes: Shapes,
    share: int,
    room: Room,
    thread: int,
    threads: int,
) -> None:
    """M_p += V_p^T Y_p over `count` tiles, in parts of ROWS x COLUMNS at all p; when `done`, w = G^T M G of each part.

    share: numbers of M that a thread has. A single chunk makes every part from nothing, in the same place.
    """
    _, _, _, C, _, _, O, step, _, _ = shapes
    v, m, tables, _, _ = room
    panel, m0 = columns(v), thread * share
    K, OP, at = step * step * C, up(O, panel), thread * TABLE
    ldv, m_at = K + PAD, at + T * T
    _multiples(tables, m_at, T * T, ROWS * COLUMNS)
    tiles = (K + MR - 1) // MR
    first, last = tiles * thread // threads * MR, min(tiles * (thread + 1) // threads * MR, K)
    for k0 in range(first, last, ROWS):
        k1 = min(k0 + ROWS, last)
        for o0 in range(0, OP, COLUMNS):
            o1 = min(o0 + COLUMNS, OP)
            for p in range(T * T):
                for t0 in range(0, count, DEPTH):
                    length, add = min(DEPTH, count - t0), t0 > 0 or not start
                    for o in range(o0, o1, panel):
                        b = (p * OP + o) * chunk + t0 * panel
                        for k in range(k0, k1, MR):
                            a, to = (p * chunk + t0) * ldv + k, m0 + (p * ROWS + k - k0) * COLUMNS + o - o0
                            gemm_tile(v, a, 1, ldv, u, b, m, to, COLUMNS, length, add)
            if done:
                for k in range(k0, k1):
                    row, column, channel = k // C // step, k // C % step, k % C
                    for i in range(R):
                        for j in range(R):
                            tap = (step * i + row) * step * R + step * j + column
                            tables[at + i * R + j] = (tap * C + channel) * O + o0
                    m_to_w(m, tables, m_at, m0 + (k - k0) * COLUMNS, min(O, o1) - o0, w, tables, at, 0)
            if not (start and done):
                m0 += T * T * ROWS * COLUMNS


def _weights_share(
    w: Array, C: int, O: int, step: int, turned: bool, u: Array, tables: Array, thread: int, threads: int
) -> None:
    """U_p = G w G^T, packed: (K, O) of w (KH, KW, C, O); or, `turned`, (O, phases of C) of w (KH, KW, O, C)."""
    panel = columns(u)
    rows, width = (O, C) if turned else (C, O)
    whole = up(width, panel)
    size = step * step * rows * whole
    at = thread * TABLE
    u_at = at + T * T
    _multiples(tables, u_at, T * T, size)
    for a in range(step):
        for b in range(step):
            phase = a * step + b
            for k in range(rows * thread // threads, rows * (thread + 1) // threads):
                for i in range(R):
                    for j in range(R):
                        tap = (step * i + a) * step * R + step * j + b
                        tables[at + i * R + j] = (tap * rows + k) * width
                for o in range(0, width, panel):
                    if turned:
                        to = (phase * whole + o) * rows + k * panel
                    else:
                        to = o * step * step * rows + (phase * rows + k) * panel
                    w_to_u(w, tables, at, o, min(panel, width - o), u, tables, u_at, to)


# ---- templates: sharing out --------------------------------------------------------------------------------------


def _forward(x: Array, u: Array, y: Array, shapes: Shapes, room: Room, threads: int) -> None:
    run(threads, task(_forward_share, (x, u, y, shapes, room)))


def _transposed(y: Array, u: Array, x: Array, shapes: Shapes, room: Room, threads: int) -> None:
    run(threads, task(_transposed_share, (y, u, x, shapes, room)))


def _weight(
    x: Array, y: Array, w: Array, shapes: Shapes, chunk: int, u: Array, share: int, room: Room, threads: int
) -> None:
    """All threads meet twice a chunk: what one has transformed, all others need."""
    N, _, _, _, OH, OW, _, _, _, _ = shapes
    down, across = up(OH, M) // M, up(OW, M) // M
    tiles = N * down * across
    for first in range(0, tiles, chunk):
        last = min(first + chunk, tiles)
        run(threads, task(_weight_inputs, (x, y, shapes, first, last, chunk, u, room)))
        sums = u, last - first, chunk, first == 0, last == tiles, w, shapes, share, room
        run(threads, task(_weight_sums, sums))


def _weights(w: Array, C: int, O: int, step: int, turned: bool, u: Array, tables: Array, threads: int) -> None:
    run(threads, task(_weights_share, (w, C, O, step, turned, u, tables)))


@functools.cache
def instance(m: int, r: int) -> SimpleNamespace:
    """The four parallel templates for F(m, r). Compiled when first called, and cached on disk, as all kernels are."""
    A, B, G = matrices(m, r)
    space = {**globals(), "M": m, "R": r, "T": m + r - 1}

    def compiled(template: Any, name: str, jit: Any = inner) -> Any:
        # Numba names its cache entries after the function, and compiles its globals in as constants.
        twin = FunctionType(template.__code__, space, f"{name}_{m}_{r}")
        twin.__qualname__ = twin.__name__
        return jit(cache=True)(twin)

    transforms: tuple[tuple[str, Any, Array], ...] = (
        ("x_to_v", _sweep, B),
        ("y_to_v", _sweep, A),
        ("w_to_u", _sweep, G),
        ("m_to_y", _sweep, A.T),
        ("m_to_w", _sweep, G.T),
        ("m_to_x", _sweep_add, B.T),
    )
    for name, template, matrix in transforms:
        add = template is _sweep_add
        space = {**space, "vector": transform(matrix, True, add), "number": transform(matrix, False, add)}
        space[name] = compiled(template, name)
    shares: tuple[Any, ...] = _forward_share, _transposed_share, _weight_inputs, _weight_sums, _weights_share
    for template in (_products, *shares):
        space[template.__name__] = compiled(template, template.__name__)
    parallel: tuple[Any, ...] = _forward, _transposed, _weight, _weights
    return SimpleNamespace(**{f.__name__[1:]: compiled(f, f.__name__, njit) for f in parallel})


# ---- calls -------------------------------------------------------------------------------------------------------


def conv2d(x: Array, w: Array, g: Geometry, m: int, y: Array, prepared: Prepared | None) -> None:
    """Fills y (N, OH, OW, O) by F(m, R). The arrays are checked and not empty, y is contiguous."""
    run, points = _of(g, m)
    u = _transformed(w, g, m, False, prepared)
    K, OP = g.stride[0] ** 2 * x.shape[3], _panels(y.shape[3], y)
    room = _room(y.dtype, points * BLOCK * (K + PAD), points * BLOCK * (OP + PAD), x.shape[3], OP)
    run.forward(flat(x), u, y.reshape(-1), _shapes(x, y, g), room, get_num_threads())


def conv_transpose2d(y: Array, w: Array, g: Geometry, m: int, x: Array, prepared: Prepared | None) -> None:
    """Fills x (N, H, W, C) by F(m, R)."""
    run, points = _of(g, m)
    u = _transformed(w, g, m, True, prepared)
    step, (C, O) = g.stride[0], w.shape[2:]
    for size, pixels, padding in zip(g.x_size, g.y_size, g.padding, strict=True):
        if step * up(pixels, m) + g.window[0] - step < size + padding:
            x[...] = 0  # it has pixels that no tile reaches
    CP = _panels(C, x)
    room = _room(x.dtype, points * BLOCK * (O + PAD), points * BLOCK * (step**2 * CP + PAD), max(C, O), CP)
    run.transposed(flat(y), u, x.reshape(-1), _shapes(x, y, g), room, get_num_threads())


def conv2d_weight(x: Array, y: Array, g: Geometry, m: int, w: Array) -> None:
    """Fills w (KH, KW, C, O) by F(m, R)."""
    run, points = _of(g, m)
    threads = get_num_threads()
    K, OP = g.stride[0] ** 2 * x.shape[3], _panels(y.shape[3], y)
    tiles = len(y) * up(g.y_size[0], m) * up(g.y_size[1], m) // m**2
    chunk = up(tiles, -(-tiles // CHUNK)) // -(-tiles // CHUNK)  # all of one length, or nearly
    share = points * ROWS * COLUMNS
    if chunk < tiles:  # all parts of M are kept, and of its rows a thread has at most so many:
        rows = up(up(K, MR) // MR, threads) // threads * MR
        share *= up(rows, ROWS) // ROWS * (up(OP, COLUMNS) // COLUMNS)
    u, v = scratch("u", points * chunk * OP, w.dtype), scratch("v", points * chunk * (K + PAD), w.dtype)
    room = v, *_room(w.dtype, 0, share, max(w.shape[2:]), 0)[1:]
    run.weight(flat(x), flat(y), w.reshape(-1), _shapes(x, y, g), chunk, u, share, room, threads)


def _of(g: Geometry, m: int) -> tuple[SimpleNamespace, int]:
    """The compiled functions and the number of points, t * t."""
    r = phase_window(g)
    assert r is not None
    return instance(m, r), (m + r - 1) ** 2


def _shapes(x: Array, y: Array, g: Geometry) -> Shapes:
    return (*x.shape, *y.shape[1:], g.stride[0], -g.padding[0], -g.padding[1])


def _panels(channels: int, like: Array) -> int:
    """`channels` rounded up to whole panels."""
    return int(up(channels, columns(like)))


def _transformed(w: Array, g: Geometry, m: int, turned: bool, prepared: Prepared | None) -> Array:
    """U of w: from the slot beside the weight, if it has one; computed, if that holds none of this version."""
    run, points = _of(g, m)
    step, (C, O) = g.stride[0], w.shape[2:]
    size = points * step**2 * (O * _panels(C, w) if turned else C * _panels(O, w))

    def compute(u: Array) -> Array:
        threads = get_num_threads()
        source = flat(w)
        if turned:
            source = scratch("v", w.size, w.dtype)  # which is V's only later
            source.reshape(*w.shape[:2], O, C)[...] = w.transpose(0, 1, 3, 2)
            source = flat(source)
        if (C if turned else O) % columns(w):
            u[...] = 0  # the ends of panels stay so
        run.weights(source, C, O, step, turned, u, _tables(threads), threads)
        return u

    if prepared is not None:
        key = "winograd", m, step, turned, w.shape, w.dtype
        return prepared.get(key, lambda: compute(memory_for(size, w.dtype)))
    return compute(scratch("u", size, w.dtype))


def _tables(threads: int) -> Array:
    return scratch("tables", threads * TABLE, np.int64)


def _room(dtype: np.dtype[Any], v: int, m: int, zeros: int, waste: int) -> Room:
    """Sizes of V, M and waste are a thread's."""
    threads = get_num_threads()
    return (
        scratch("v", threads * v, dtype),
        scratch("m", threads * m, dtype),
        _tables(threads),
        scratch("zeros", zeros, dtype),
        scratch("waste", threads * waste, dtype),
    )
