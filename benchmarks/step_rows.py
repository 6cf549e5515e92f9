"""The rows of benchmarks/train_step.py. Every process reads this file, so it imports neither PyTorch nor minigan."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LATENT = {28: 64, 64: 100, None: 2}
"""Size of the images in pixels, None for points in the plane -> channels of z."""


@dataclass(frozen=True)
class Row:
    """A step: an update of D and, of a "gan", one of G, with the settings of the examples' quick trainings."""

    objective: str  # of examples/dcgan_mnist.py
    size: int | None = None  # of the images, pixels; None: points in the plane (examples/toy_gaussians.py)
    width: int = 128  # of the layer next to the image, or of all hidden layers
    batch: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)  # of Adam
    penalty: float | None = None  # weight of the gradient penalty
    clip: float | None = None  # bound of D's weights; with one, RMSprop in place of Adam

    @property
    def latent(self) -> int:
        return LATENT[self.size]

    @property
    def steps(self) -> int:
        """So many are timed together: a small step alone is over before the clock is sure of it."""
        return 1 if self.size == 64 else 5

    def real(self) -> NDArray[Any]:
        """What stands for a batch of the data, in [-1, 1): images (N, H, W, 1) or points (N, 2), float32."""
        shape = (self.batch, 2) if self.size is None else (self.batch, self.size, self.size, 1)
        return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


WGAN_GP: dict[str, Any] = {"objective": "wgan-gp", "betas": (0.5, 0.9), "penalty": 10.0}

ROWS = {
    "64px gan step w64 b64": Row("gan", 64, 64),
    "64px wgan-gp critic step w64 b64": Row(**WGAN_GP, size=64, width=64),
    "64px wgan-clip critic step w64 b64": Row("wgan-clip", 64, 64, clip=0.01),
    "28px gan step w16 b64": Row("gan", 28, 16),
    "28px gan step w32 b64": Row("gan", 28, 32),
    "28px gan step w64 b64": Row("gan", 28, 64),
    "28px wgan-gp critic step w32 b64": Row(**WGAN_GP, size=28, width=32),
    "toy wgan-gp critic step": Row("wgan-gp", batch=256, lr=3e-3, betas=(0.5, 0.9), penalty=0.1),
}
LARGE_ROWS = {
    "64px gan step w64 b128": Row("gan", 64, 64, 128),
    "64px wgan-gp critic step w64 b128": Row(**WGAN_GP, size=64, width=64, batch=128),
}
"""For a GPU, which smaller batches leave idle; of benchmarks/gpu_steps.py only."""
