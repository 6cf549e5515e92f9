"""What each algorithm for convolutions rounds, beside TF32, the fast mode of GPUs: python benchmarks/rounding.py

The error is the largest absolute difference from float64, divided by the largest absolute value; x and gy are drawn
from N(0, 1), weights from N(0, 0.02), the batch is 64. TF32 is simulated: inputs are rounded to its 10 bits of
mantissa, to nearest, and the rest is exact, which is the least that it can cost.

A second table compares sets of points for F(4x4, 2x2) (kernels/conv2d/algebra.py), as NumPy computes it.
"""

import numpy as np
from cases import BATCH
from numpy.typing import NDArray

from minigan import kernels
from minigan.kernels import Geometry
from minigan.kernels.conv2d.algebra import POINTS, matrices

LAYERS = (
    (64, 128, Geometry((2, 2), (1, 1), (4, 4), (32, 32))),
    (128, 256, Geometry((2, 2), (1, 1), (4, 4), (16, 16))),
    (256, 512, Geometry((2, 2), (1, 1), (4, 4), (8, 8))),
    (128, 128, Geometry((1, 1), (1, 1), (3, 3), (16, 16))),
)
"""Channels of x and y: the layers between two feature maps of a 64-pixel DCGAN, and a 3x3 one."""
PASSES = ("conv2d", "conv_transpose2d", "conv2d_weight")
SETS = (POINTS[5], (0, 1, -1, 2), (0, 1, -1, 0.5), (0, 1, 2, 3))

Array = NDArray[np.float32]


def tf32(x: Array) -> Array:
    """x, rounded to TF32."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def error(result: NDArray[np.floating], truth: NDArray[np.float64]) -> float:
    return float(np.abs(result - truth).max() / np.abs(truth).max())


def layers() -> None:
    print(f"{'':40}" + "".join(f"{name:>11}" for name in ("direct", "winograd2", "winograd4", "TF32")))
    for C, O, g in LAYERS:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((BATCH, *g.x_size, C), np.float32)
        y = rng.standard_normal((BATCH, *g.y_size, O), np.float32)
        w = rng.standard_normal((*g.window, C, O), np.float32) * np.float32(0.02)
        for name, pair in zip(PASSES, ((x, w), (y, w), (x, y)), strict=True):
            kernel = getattr(kernels, name)
            with kernels.use("reference"):
                truth = kernel(*(a.astype(np.float64) for a in pair), g)
                errors = [error(kernel(*(tf32(a).astype(np.float64) for a in pair), g), truth)]
            for algorithm in ("winograd4", "winograd2", "direct"):
                with kernels.set_conv_algorithm(algorithm):
                    errors.insert(0, error(kernel(*pair, g), truth))
            layer = f"{C}->{O}, {g.window[0]}x{g.window[1]}, at {g.x_size[0]}x{g.x_size[1]}"
            print(f"{name:17}{layer:23}" + "".join(f"{e:11.1e}" for e in errors))


def sandwich(matrix: NDArray[np.float64], tiles: Array) -> Array:
    """matrix P matrix^T of each tile P, whose pixels are the first two axes, in float32."""
    m = matrix.astype(np.float32)
    return np.einsum("qj,pj...->pq...", m, np.einsum("pi,ij...->pj...", m, tiles))


def points(tiles: int = 64, K: int = 1024, O: int = 64) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 5, tiles, K), np.float32)
    w = rng.standard_normal((2, 2, K, O), np.float32) * np.float32(0.02)
    truth = sum(
        x[u : u + 4, v : v + 4].astype(np.float64) @ w[u, v].astype(np.float64) for u in range(2) for v in range(2)
    )
    for z in SETS:
        A, B, G = matrices(4, 2, z)
        y = sandwich(A.T, sandwich(B, x) @ sandwich(G, w))
        print(f"points {', '.join(map(str, z)) + ', infinity':24}{error(y, truth):11.1e}")


if __name__ == "__main__":
    layers()
    print()
    points()
