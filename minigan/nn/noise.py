"""Instance noise, and how it dies away."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import kernels
from ..random import Generator
from ..tensor import Array, Tensor
from .module import Module


class GaussianNoise(Module):
    """x + sigma * normal noise while training: as D's first layer, instance noise.

    It makes the distributions of real images and fakes overlap (Sonderby et al. 2017; Arjovsky & Bottou 2017). Draws
    from `generator`, which is to be listed with a training's generators. `Anneal` lowers `sigma`; at 0 nothing is
    drawn.
    """

    def __init__(self, sigma: float, generator: Generator) -> None:
        if not 0 <= sigma < inf:
            raise ValueError(f"GaussianNoise: sigma must be finite and >= 0, not {sigma}")
        self.sigma, self.generator = sigma, generator

    def forward(self, x: Any) -> Tensor:
        y: Tensor = x
        if self.is_training() and kernels.branch(self._is_on):
            sigma = Tensor.of(kernels.live(self._current, x.dtype))
            y = x + sigma * Tensor.of(self.generator.normal(x.shape, x.dtype, x.device))
        return y

    def _is_on(self) -> bool:
        return self.sigma > 0

    def _current(self, dtype: DTypeLike) -> Array:  # again in each replay of a captured step
        return np.asarray(self.sigma, dtype)

    def options(self) -> str:
        return f"sigma {self.sigma:g}"


class Anneal:
    """A hook for a player's `after`: lowers sigma in a line, from what it is now to 0 at call `steps`, and leaves it
    there."""

    def __init__(self, noise: GaussianNoise, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"Anneal: steps must be at least 1, not {steps}")
        self.noise, self.steps, self.first, self.calls = noise, steps, noise.sigma, 0

    def __call__(self) -> None:
        self.calls += 1
        self._set()

    def _set(self) -> None:
        self.noise.sigma = self.first * max(0.0, 1 - self.calls / self.steps)

    def state_dict(self) -> dict[str, Any]:
        """The first sigma, the number of calls, and `steps`: a run that is made longer has no second noisy time."""
        return {"first": self.first, "calls": self.calls, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `state_dict`, and gives the noise its sigma."""
        self.first, self.calls, self.steps = float(state["first"]), int(state["calls"]), int(state["steps"])
        self._set()
