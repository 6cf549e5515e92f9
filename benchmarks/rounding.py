"""What each algorithm for convolutions costs in accuracy, beside TF32, the fast mode of GPUs.

    python benchmarks/rounding.py

The error is the largest absolute difference from float64, divided by the largest absolute value; x and gy are drawn
from N(0, 1), weights from N(0, 0.02), the batch is 64. TF32 is simulated: inputs are rounded to its 10 bits of
mantissa, to nearest, and the rest is exact, which is the least that it can cost.
"""

import numpy as np
from cases import BATCH
from numpy.typing import NDArray

from minigan import kernels
from minigan.kernels import Geometry

LAYERS = ((64, 128, 32), (128, 256, 16), (256, 512, 8))
"""Channels of x and y and size of x, of the layers between two feature maps of a 64-pixel DCGAN."""
PASSES = ("conv2d", "conv_transpose2d", "conv2d_weight")


def tf32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x, rounded to TF32."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def main() -> None:
    print(f"{'':34}" + "".join(f"{name:>11}" for name in ("direct", "winograd2", "winograd4", "TF32")))
    for C, O, size in LAYERS:
        g = Geometry((2, 2), (1, 1), (4, 4), (size, size))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((BATCH, size, size, C), np.float32)
        y = rng.standard_normal((BATCH, *g.y_size, O), np.float32)
        w = rng.standard_normal((4, 4, C, O), np.float32) * np.float32(0.02)
        for name, pair in zip(PASSES, ((x, w), (y, w), (x, y)), strict=True):
            kernel = getattr(kernels, name)
            with kernels.use("reference"):
                truth = kernel(*(a.astype(np.float64) for a in pair), g)
                results = [kernel(*(tf32(a).astype(np.float64) for a in pair), g)]
            for algorithm in ("winograd4", "winograd2", "direct"):
                with kernels.set_conv_algorithm(algorithm):
                    results.insert(0, kernel(*pair, g))
            errors = (np.abs(result - truth).max() / np.abs(truth).max() for result in results)
            print(f"{name:17}{C:4}->{O:4} at {size:2}x{size:2}" + "".join(f"{error:11.1e}" for error in errors))


if __name__ == "__main__":
    main()
