"""Two mixtures of Gaussians in the plane, on which a GAN that loses modes can be seen to lose them.

Several incompatible versions of both are in use. These are the ones of WGAN-GP (Gulrajani et al. 2017, and the toy
program of its authors): scaled to a deviation of about 1 along each axis, with modes far narrower than their distance.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from ..random import Array, Generator


@dataclass(frozen=True, eq=False)
class Mixture:
    """K equally likely round Gaussians: `means` (K, 2), and `sigma`, the deviation along each axis."""

    name: str
    means: Array
    sigma: float

    def sample(self, n: int, generator: Generator) -> Array:
        """n points, float32 (n, 2)."""
        modes = generator.integers(len(self.means), n)
        points: Array = self.means[modes] + np.float32(self.sigma) * generator.normal((n, 2))
        return points


def _ring(modes: int, radius: float) -> Array:
    angles = 2 * np.pi * np.arange(modes) / modes
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def _grid(side: int, spacing: float) -> Array:
    ticks = spacing * (np.arange(side) - (side - 1) / 2)
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


# The authors wrote 1.414 and 2.828; the square roots differ from these in the fourth digit, a hundredth of sigma.
RING8 = Mixture("ring8", _ring(8, 2 / sqrt(2)), 0.02 / sqrt(2))
"""Eight modes on a circle of radius 1.414, 1.08 = 77 sigma apart."""

GRID25 = Mixture("grid25", _grid(5, 2 / sqrt(8)), 0.05 / sqrt(8))
"""Five by five modes, 0.71 = 40 sigma apart."""
