"""Matrix products with a vector on a GPU: vector.cu, float32. Also the sum of what several blocks have added up."""

import numpy as np

from .. import cuda
from ..cuda import Array, Device, ceil_div, device_of

THREADS = 256
WIDTH = 32  # columns of the matrix that a block of vector_matrix or add_parts has
FULL = 512  # blocks that fill a large GPU: four on each of 128 multiprocessors
LEAST = 256  # rows that are worth a block of their own

BY_FOURS, BY_ONES = ({"REAL": "float", "VEC": vec} for vec in (4, 1))

SOURCE = cuda.Source(
    "linear/vector.cu",
    variants=[BY_FOURS, BY_ONES],
    registers={"matrix_vector": 32, "vector_matrix": 48, "outer": 20, "add_parts": 32},
)


def matmul(left: Array, left_column: int, right: Array, right_row: int, y: Array, terms: int) -> None:
    """y (1, I, J) = a b, where I, J or `terms` is 1.

    left, right: a and b as they lie in memory. left_column, right_row: the step from column to column of a, and from
    row to row of b; 1 where the terms of a sum are neighbours.
    """
    _, I, J = y.shape
    if terms == 1:
        outer(left, right, y)
    else:
        matrix, vector, along_rows = (left, right, left_column == 1) if J == 1 else (right, left, right_row == 1)
        rows = max(I, J)  # of a or of b transposed, which has as many sums
        if along_rows:
            matrix_vector(matrix.reshape(rows, terms), vector, y)
        else:
            vector_matrix(vector, matrix.reshape(terms, rows), y)


def matrix_vector(matrix: Array, vector: Array, y: Array) -> None:
    """y[r] = sum of matrix[r, l] vector[l]; matrix (R, L), C-contiguous as the others. `y`, `vector`: of any shape."""
    R, L = matrix.shape
    vec = 4 if L % 4 == 0 and cuda.aligned(matrix, vector) else 1
    lanes = next((lanes for lanes in (8, 32) if L <= 16 * lanes), THREADS)  # each has up to four quads
    block = lanes, THREADS // lanes
    SOURCE.launch("matrix_vector", (ceil_div(R, block[1]),), block, [matrix, vector, y, R, L], _macros(vec))


def vector_matrix(vector: Array, matrix: Array, y: Array) -> None:
    """y[l] = sum of vector[r] matrix[r, l]; matrix (R, L), C-contiguous as the others."""
    R, L = matrix.shape
    vec = 4 if L % 4 == 0 and cuda.aligned(matrix) else 1
    tiles = ceil_div(L, WIDTH)
    splits = max(1, min(FULL // tiles, R // LEAST))
    chunk = ceil_div(R, splits)
    splits = ceil_div(R, chunk)
    parts = y if splits == 1 else device_of(y).xp.empty((splits, L), y.dtype)
    args = [vector, matrix, parts, R, L, chunk]
    SOURCE.launch("vector_matrix", (tiles, splits), (THREADS,), args, _macros(vec))
    if splits > 1:
        add_parts(parts, y)


def outer(a: Array, b: Array, y: Array) -> None:
    """y[i, j] = a[i] b[j], all C-contiguous."""
    I, J = a.size, b.size
    vec = 4 if J % 4 == 0 and cuda.aligned(b, y) else 1
    SOURCE.launch("outer", (ceil_div(I * ceil_div(J, 4), THREADS),), (THREADS,), [a, b, y, I, J], _macros(vec))


def add_parts(parts: Array, y: Array) -> None:
    """y[...] = the sum of parts (splits, ...), in one order."""
    SOURCE.launch("add_parts", (ceil_div(y.size, WIDTH),), (THREADS,), [parts, y, len(parts), y.size], BY_ONES)


def _macros(vec: int) -> cuda.Macros:
    return BY_FOURS if vec == 4 else BY_ONES


@SOURCE.example("matrix_vector", "vector_matrix", "outer", "add_parts")
def _example(device: Device) -> None:
    """One, four and several warps' worth of numbers in a row, rows and columns beyond the last whole tile, splits."""
    zeros = device.xp.zeros
    for R, L in ((37, 20), (9, 300), (3, 2052), (5, 7), (701, 36)):
        matrix, rows, columns = (zeros(shape, np.float32) for shape in ((R, L), R, L))
        matrix_vector(matrix, columns, rows)
        vector_matrix(rows, matrix, columns)
        outer(rows, columns, matrix)
