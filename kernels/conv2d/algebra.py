"""Winograd's matrices: convolution with fewer multiplications, in one dimension.

A stride-1 convolution of r taps that makes m outputs at a time is the trilinear form

    T(x, w, y) = sum over i < m, u < r of  x[i + u] w[u] y[i]            x has t = m + r - 1 numbers

m r products if computed as it stands. Read y and w as polynomials, y(z) = sum y[i] z^i and w(z) = sum w[u] z^u. Then
T = sum over k of x[k] c[k], where c are the t coefficients of the product c(z) = y(z) w(z): and a polynomial of degree
t - 1 is known from its values at t points, which are just t products y(z_p) w(z_p) (the point "infinity" stands for the
leading coefficient). Lagrange's formula, c(z) = sum over p of c(z_p) l_p(z), puts it together again:

    T = sum over p of  (B x)_p  (G w)_p  (A y)_p

    A y = values of y(z) at the points           A (t, m), rows 1, z_p, z_p^2 ...
    G w = values of w(z) at the points           G (t, r), the same, times what makes B's numbers simple
    B x = coefficients of l_p against x          B (t, t)

One form, three gradients: each operation of the trio takes two factors in, multiplies point by point, and takes the
third factor's matrix, transposed, out.

    convolution        y = A^T ((G w) * (B x))
    transposed         x = B^T ((G w) * (A y))
    weight gradient    w = G^T ((B x) * (A y))

In two dimensions every matrix is applied to the rows and then to the columns: t * t products stand for m * m * r * r.
(Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016; with the points of Toom, 1963, and Cook, 1966.)

The points decide the rounding error, since errors are multiplied by their powers: small ones, of both signs, and with
each its inverse, do best (benchmarks/rounding.py compares some).
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

POINTS = {3: (0, 1), 4: (0, 1, -1), 5: (0, -1, 0.5, 2), 6: (0, 1, -1, 0.5, -2)}
"""t -> the finite points z_p; the last point is infinity."""


class Matrices(NamedTuple):
    A: NDArray[Any]
    B: NDArray[Any]
    G: NDArray[Any]


@functools.cache
def matrices(m: int, r: int, points: tuple[float, ...] | None = None) -> Matrices:
    """A (t, m), B (t, t) and G (t, r) of F(m, r), t = m + r - 1, in float64; by default with POINTS, t from 3 to 6."""
    t = m + r - 1
    z = np.array(points or POINTS[t], np.float64)
    A, B, G = np.zeros((t, m)), np.zeros((t, t)), np.zeros((t, r))
    A[:-1], G[:-1] = np.vander(z, m, increasing=True), np.vander(z, r, increasing=True)
    A[-1, -1] = G[-1, -1] = 1
    for p in range(t - 1):
        others = np.delete(z, p)
        B[p, : t - 1] = np.poly(others)[::-1]  # l_p(z) = prod (z - z_q) / prod (z_p - z_q), q != p:
        G[p] /= np.prod(z[p] - others)  # its numerator to B, its denominator to G
    B[-1] = np.poly(z)[::-1]  # what vanishes at every finite point has c[t - 1] z^(t - 1) to lead it
    return Matrices(A, B, G)
