"""One tile of a matrix product, held in vector registers: the innermost loop of every GEMM here.

    C[i, j] (+)= sum over k of A[i, k] B[k, j]        i < MR rows, j < columns(C), which is two vectors

            k ->                          j ->
          +---------+                  +----------+----------+
        i | a .  .  |   for each k:    | vector 0 | vector 1 |   two loads from B, packed [k][columns],
          | b .  .  |                  +----------+----------+
          | c .  .  |                a | acc 0,0  | acc 0,1  |   one broadcast a row from A,
          +---------+                b | acc 1,0  | acc 1,1  |   MR x 2 multiply-adds, and no other
                                     c | acc 2,0  | acc 2,1  |   memory traffic until C is stored
                                       +----------+----------+

So a step of 2 + MR loads feeds 2 MR vector multiply-adds, enough to keep both multiply-add units busy
(Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). A compiler left to itself does
not keep the accumulators in registers; here they are LLVM vectors, written through Numba's `intrinsic`.

There are two ways to name the elements of A: by strides (`gemm_tile`), or by tables of places (`indirect_tile`),
which multiplies the patches of an image without copying them together (Dukhan, "The Indirect Convolution
Algorithm", 2019).
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

from .jit import inner, njit

VECTORS = 2
INDEX = ir.IntType(64)


def _tile(features: set[str]) -> tuple[int, int]:
    """(rows, bytes of a vector) of the tile that fills the vector registers of a CPU with these LLVM features."""
    if "+avx512f" in features:
        return 14, 64  # 28 accumulators, 2 of B, 1 of A: 31 of 32 registers
    if {"+avx2", "+fma"} <= features:
        return 6, 32  # 12 + 2 + 1 of 16
    return 4, 16  # SSE, NEON: 8 + 2 + 1 of 16


# What Numba compiles for, which the environment can set apart from what the host has.
_FEATURES = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
MR, VECTOR_BYTES = _tile(set(_FEATURES.split(",")))


def columns(array: Any) -> int:
    """Columns of the tile in the dtype of `array`: the width of a packed panel of B. A constant in Numba code."""
    return VECTORS * VECTOR_BYTES // int(array.itemsize)


@overload(columns)
def _columns(array: Any) -> Any:
    constant = VECTORS * VECTOR_BYTES * 8 // array.dtype.bitwidth

    def in_numba_code(array: Any) -> Any:
        return constant

    return in_numba_code


def _lanes(dtype: Any) -> int:
    return VECTOR_BYTES * 8 // int(dtype.bitwidth)


def _pointers(context: Any, builder: Any, signature: Any) -> Callable[[int, Any, Any], Any]:
    """at(number of an array argument, its value, an index): the address of that element."""

    def at(argument: int, value: Any, index: Any) -> Any:
        return builder.gep(make_array(signature.args[argument])(context, builder, value).data, [index])

    return at


@intrinsic
def _vector_tile(
    context: Any, a: Any, a0: Any, a_row: Any, a_k: Any, b: Any, b0: Any, c: Any, c0: Any, ldc: Any, k: Any, add: Any
) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, a0, a_row, a_k, b, b0, c, c0, ldc, k, add = args
        at = _pointers(context, builder, signature)
        return _emit_tile(
            context,
            builder,
            signature.args[6].dtype,
            [at(0, a, builder.add(a0, builder.mul(INDEX(i), a_row))) for i in range(MR)],
            lambda step: builder.mul(step, a_k),
            at(4, b, b0),
            INDEX(_lanes(signature.args[4].dtype) * VECTORS),
            [at(6, c, builder.add(c0, builder.mul(INDEX(i), ldc))) for i in range(MR)],
            k,
            add,
        )

    n = types.intp
    return types.void(a, n, n, n, b, n, c, n, n, n, types.boolean), emit


def _indirect(vectors: int) -> Any:
    """A tile of so many vectors of columns."""

    @intrinsic
    def tile(
        context: Any,
        a: Any,
        a0: Any,
        rows: Any,
        r0: Any,
        steps: Any,
        s0: Any,
        b: Any,
        b0: Any,
        ldb: Any,
        c: Any,
        c0: Any,
        ldc: Any,
        k: Any,
        add: Any,
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, a0, rows, r0, steps, s0, b, b0, ldb, c, c0, ldc, k, add = args
            at = _pointers(context, builder, signature)
            places = [builder.load(at(2, rows, builder.add(r0, INDEX(i)))) for i in range(MR)]
            first_step = at(4, steps, s0)
            return _emit_tile(
                context,
                builder,
                signature.args[9].dtype,
                [at(0, a, builder.add(a0, place)) for place in places],
                lambda step: builder.load(builder.gep(first_step, [step])),
                at(6, b, b0),
                ldb,
                [at(9, c, builder.add(c0, builder.mul(INDEX(i), ldc))) for i in range(MR)],
                k,
                add,
                vectors,
                in_order=VECTOR_BYTES == 64,
            )

        n = types.intp
        return types.void(a, n, rows, n, steps, n, b, n, n, c, n, n, n, types.boolean), emit

    return tile


_indirect_vector_tile, _narrow_vector_tile = _indirect(VECTORS), _indirect(1)


def _emit_tile(
    context: Any,
    builder: Any,
    dtype: Any,
    a_rows: list[Any],
    a_offset: Callable[[Any], Any],
    b_start: Any,
    b_step: Any,
    c_rows: list[Any],
    k: Any,
    add: Any,
    vectors: int = VECTORS,
    in_order: bool = False,
) -> Any:
    """LLVM code of one call. A[i, s] is at a_rows[i] + a_offset(s), row s of B at b_start + s * b_step.

    in_order: row after row, as it stands here. Left alone, LLVM may load what all MR rows need first, has no registers
    left for the sums, and moves them to and from the stack in each step, as it did in AVX-512's indirect tile.
    """
    lane = ir.IntType(32)
    item, lanes = dtype.bitwidth // 8, _lanes(dtype)
    scalar = context.get_value_type(dtype)
    vector = ir.VectorType(scalar, lanes)
    # fmuladd, not fma: without the instruction the latter becomes a library call.
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f{8 * item}"
    )
    undefined = ir.Constant(vector, ir.Undefined)
    zero = ir.Constant(vector, [ir.Constant(scalar, 0.0)] * lanes)
    first_lane = ir.Constant(ir.VectorType(lane, lanes), [ir.Constant(lane, 0)] * lanes)
    tile = [(i, j) for i in range(len(c_rows)) for j in range(vectors)]

    def vector_at(base: Any, j: int) -> Any:
        return builder.bitcast(builder.gep(base, [INDEX(j * lanes)]), vector.as_pointer())

    entry = builder.basic_block
    names = "loop", "summed", "store", "add_to", "done"
    loop, summed, store, add_to, done = (builder.append_basic_block(name) for name in names)
    builder.branch(loop)

    builder.position_at_end(loop)
    step = builder.phi(INDEX)
    sums = {ij: builder.phi(vector) for ij in tile}
    b_row = builder.gep(b_start, [builder.mul(step, b_step)])
    b_vectors = [builder.load(vector_at(b_row, j), align=item) for j in range(vectors)]
    offset = a_offset(step)
    new = {}
    for i, a_row in enumerate(a_rows):
        element = builder.load(builder.gep(a_row, [offset]))
        one = builder.insert_element(undefined, element, lane(0))
        everywhere = builder.shuffle_vector(one, undefined, first_lane)
        for j in range(vectors):
            new[i, j] = builder.call(multiply_add, [everywhere, b_vectors[j], sums[i, j]])
            if in_order:  # no instruction, but one that takes the sum, and behind which no later load may go
                new[i, j] = builder.asm(ir.FunctionType(vector, [vector]), "", "=v,0,~{memory}", [new[i, j]], True)
    following = builder.add(step, INDEX(1))
    for block, value in ((entry, INDEX(0)), (loop, following)):
        step.add_incoming(value, block)
    for ij in tile:
        for block, value in ((entry, zero), (loop, new[ij])):
            sums[ij].add_incoming(value, block)
    builder.cbranch(builder.icmp_signed("<", following, k), loop, summed)

    builder.position_at_end(summed)
    builder.cbranch(add, add_to, store)

    builder.position_at_end(store)
    for i, j in tile:
        builder.store(new[i, j], vector_at(c_rows[i], j), align=item)
    builder.branch(done)

    # Added at the end, not begun with: a sum of short sums rounds less than one long sum.
    builder.position_at_end(add_to)
    for i, j in tile:
        place = vector_at(c_rows[i], j)
        builder.store(builder.fadd(new[i, j], builder.load(place, align=item)), place, align=item)
    builder.branch(done)

    builder.position_at_end(done)
    return context.get_dummy_value()


@inner(cache=True)
def _plain_tile(
    a: Any, a0: int, a_row: int, a_k: int, b: Any, b0: int, c: Any, c0: int, ldc: int, k: int, add: bool
) -> None:
    """The same tile in plain loops, for a machine on which the vector code does not compile."""
    width = columns(c)
    for i in range(MR):
        row = c0 + i * ldc
        if not add:
            c[row : row + width] = 0
        for s in range(k):
            element = a[a0 + i * a_row + s * a_k]
            for j in range(width):
                c[row + j] += element * b[b0 + s * width + j]


@inner(cache=True)
def _indirect_plain_tile(
    a: Any,
    a0: int,
    rows: Any,
    r0: int,
    steps: Any,
    s0: int,
    b: Any,
    b0: int,
    ldb: int,
    c: Any,
    c0: int,
    ldc: int,
    k: int,
    add: bool,
) -> None:
    width = columns(c)
    for i in range(MR):
        row = c0 + i * ldc
        if not add:
            c[row : row + width] = 0
        for s in range(k):
            element = a[a0 + rows[r0 + i] + steps[s0 + s]]
            for j in range(width):
                c[row + j] += element * b[b0 + s * ldb + j]


@inner(cache=True)
def _narrow_plain_tile(
    a: Any,
    a0: int,
    rows: Any,
    r0: int,
    steps: Any,
    s0: int,
    b: Any,
    b0: int,
    ldb: int,
    c: Any,
    c0: int,
    ldc: int,
    k: int,
    add: bool,
) -> None:
    width = columns(c) // VECTORS
    for i in range(MR):
        row = c0 + i * ldc
        if not add:
            c[row : row + width] = 0
        for s in range(k):
            element = a[a0 + rows[r0 + i] + steps[s0 + s]]
            for j in range(width):
                c[row + j] += element * b[b0 + s * ldb + j]


@njit(cache=True)
def _probe(a: Any, b: Any, c: Any) -> None:
    _vector_tile(a, 0, 1, 1, b, 0, c, 0, columns(c), 1, False)


def _choose() -> tuple[Any, Any, Any]:
    one = np.ones(MR * VECTORS * VECTOR_BYTES, np.float32)
    try:
        _probe(one, one, np.empty_like(one))
    except Exception as error:  # whatever Numba and LLVM raise: the outcome is the same
        warnings.warn(
            f"the vector matrix kernel does not compile here ({type(error).__name__}: {error}): "
            "minigan uses plain loops, which are right but many times slower; try another numba within >=0.68,<0.69",
            RuntimeWarning,
            stacklevel=2,
        )
        return _plain_tile, _indirect_plain_tile, _narrow_plain_tile
    return _vector_tile, _indirect_vector_tile, _narrow_vector_tile


gemm_tile, indirect_tile, narrow_tile = _choose()
"""gemm_tile(a, a0, a_row, a_k, b, b0, c, c0, ldc, k, add)
indirect_tile(a, a0, rows, r0, steps, s0, b, b0, ldb, c, c0, ldc, k, add)
narrow_tile(the same)

To be called from Numba code only. One tile of C = A B, or C += A B where `add` is true. All arrays are flat and
C-contiguous; a, b and c are of one dtype, float32 or float64, the tables `rows` and `steps` are int64. Every other
argument counts elements. Nothing is checked.

    gemm_tile       A[i, k] = a[a0 + i * a_row + k * a_k]
                    B[k, j] = b[b0 + k * columns(b) + j]      a packed panel
    indirect_tile   A[i, k] = a[a0 + rows[r0 + i] + steps[s0 + k]]
                    B[k, j] = b[b0 + k * ldb + j]
    narrow_tile     the same, of one vector of columns: columns(c) // VECTORS
    all             C[i, j] = c[c0 + i * ldc + j]             all MR x columns(c) are written
                    i < MR: all MR rows of A are read, each by scalar broadcast
                    k >= 1: length of the sum
"""

compiles = gemm_tile is _vector_tile
"""Whether the tiles are vector code, not the plain loops that stand in for it."""
