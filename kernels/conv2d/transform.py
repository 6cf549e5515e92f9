"""Q = M P M^T for tiles of pixels, a vector of channels at a time: what Winograd's algorithm does before and after
its products.

    P: columns x columns pixels                    Q: rows x rows pixels
    +---+---+---+                                  +---+---+
    |   |   |   |   M (rows, columns), constant    |   |   |       each pixel is a vector of neighbouring channels,
    +---+---+---+   ------------------------->     +---+---+       loaded and stored once
    |   |   |   |   first down its columns,        |   |   |
    +---+---+---+   then along its rows            +---+---+
    |   |   |   |
    +---+---+---+

The matrix is known when the code is made, so what is emitted is one straight line of additions: a zero costs nothing,
a one no multiplication. Where a pixel lies is read from a table of offsets. So a pixel outside the image, or another
layout, is another number in a table, and no branch.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from ..simd import VECTOR_BYTES

INDEX = ir.IntType(64)


def transform(matrix: NDArray[Any], wide: bool, add: bool = False) -> Any:
    """An intrinsic that transforms one vector of channels, or one channel if not `wide`, of one tile.

    transform(p, p_table, p_at, p_shift, q, q_table, q_at, q_shift[, sum_table, sum_at])

    Pixel (i, j) of P is p[p_table[p_at + i * columns + j] + p_shift:], of Q likewise. `add`: Q becomes a sum, with the
    pixels of q that sum_table names.
    """

    def signature(p: Any, q: Any) -> Any:
        table, n = types.Array(types.int64, 1, "C"), types.intp
        return types.void(p, table, n, n, q, table, n, n, *((table, n) if add else ()))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        dtype = signature.args[4].dtype
        item = dtype.bitwidth // 8
        lanes = VECTOR_BYTES // item if wide else 1
        scalar = context.get_value_type(dtype)
        kind = ir.VectorType(scalar, lanes) if wide else scalar
        name = f"llvm.fmuladd.v{lanes}f{8 * item}" if wide else f"llvm.fmuladd.f{8 * item}"
        multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)

        def data(argument: int) -> Any:
            return make_array(signature.args[argument])(context, builder, args[argument]).data

        def pixels(array: int, table: int, shift: int, count: int) -> list[Any]:
            """Pointers to a tile's pixels."""
            base = builder.gep(data(array), [args[shift]])
            first = builder.gep(data(table), [args[table + 1]])
            offsets = [builder.load(builder.gep(first, [INDEX(i)])) for i in range(count)]
            return [builder.bitcast(builder.gep(base, [offset]), kind.as_pointer()) for offset in offsets]

        def combine(coefficients: NDArray[Any], values: list[Any]) -> Any:
            terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
            terms.sort(key=lambda term: term[0] != 1)  # begin with one that needs no multiplication
            total = None
            for c, value in terms:
                constant = ir.Constant(kind, [float(c)] * lanes if wide else float(c))
                if total is None:
                    total = value if c == 1 else builder.fmul(constant, value)
                elif abs(c) == 1:
                    total = builder.fadd(total, value) if c == 1 else builder.fsub(total, value)
                else:
                    total = builder.call(multiply_add, [constant, value, total])
            return total

        rows, columns = matrix.shape
        source = pixels(0, 1, 3, columns * columns)
        half = []  # half[j][i]: row i of M P, its column j
        for j in range(columns):
            column = [builder.load(source[i * columns + j], align=item) for i in range(columns)]
            half.append([combine(matrix[i], column) for i in range(rows)])
        target = pixels(4, 5, 7, rows * rows)
        sums = pixels(4, 8, 7, rows * rows) if add else None
        for i in range(rows):
            row = [half[j][i] for j in range(columns)]
            for j in range(rows):
                value = combine(matrix[j], row)
                if sums is not None:
                    value = builder.fadd(value, builder.load(sums[i * rows + j], align=item))
                builder.store(value, target[i * rows + j], align=item)
        return context.get_dummy_value()

    if add:

        def typed_sum(
            context: Any, p: Any, p_table: Any, p_at: Any, p_shift: Any, q: Any, q_table: Any, q_at: Any, q_shift: Any,
            sum_table: Any, sum_at: Any,
        ) -> Any:  # fmt: skip
            return signature(p, q), codegen

        return intrinsic(typed_sum)

    def typed(
        context: Any, p: Any, p_table: Any, p_at: Any, p_shift: Any, q: Any, q_table: Any, q_at: Any, q_shift: Any
    ) -> Any:
        return signature(p, q), codegen

    return intrinsic(typed)


@intrinsic
def distance(context: Any, start: Any, end: Any) -> Any:
    """Elements from the first element of one array to the first of another, which may be anywhere in memory."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, last = (
            builder.ptrtoint(make_array(kind)(context, builder, array).data, INDEX)
            for kind, array in zip(signature.args, args, strict=True)
        )
        return builder.sdiv(builder.sub(last, first), INDEX(signature.args[0].dtype.bitwidth // 8))

    return types.intp(start, end), codegen
