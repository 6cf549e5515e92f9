"""How well samples cover a mixture of Gaussians whose modes are known."""

from math import exp, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.mixtures import Mixture
from ..random import Generator

RADIUS = 3.0  # sigmas: a sample of high quality lies within it (Srivastava et al. 2017, VEEGAN)
PERFECT_SHARE = 1 - exp(-(RADIUS**2) / 2)
"""The high_quality of a perfect sampler, 98.9 %. More than that: the samples are too close to the means."""


def mixture_score(samples: NDArray[Any], mixture: Mixture) -> dict[str, float]:
    """What `samples` (N, 2) miss and what they repeat. A sample belongs to the nearest of the K modes.

    modes         with at least one sample of high quality, one within 3 sigma of the mean
    modes_filled  with at least N / 4K of these, a quarter of their due: one lucky sample is a weak proof
    high_quality  share of these in all samples; PERFECT_SHARE is perfect
    kl            KL(p, u) of the shares p of the modes from the equal ones u, in nats: 0 to log K; the luck of N draws
                  alone makes it about (K - 1) / 2N
    reverse_kl    KL(u, p), to which each mode lost adds the most; one more sample in each mode keeps it finite
    std_ratio     deviation of the samples of high quality around their own mode's mean, as a multiple of the true
                  one; below 1 a mode has shrunk, 0 where no mode has two of them

    ValueError for other shapes, no samples, or samples that are not finite.
    """
    if samples.ndim != 2 or samples.shape[1] != 2 or not len(samples):
        raise ValueError(f"mixture_score: samples must be (N, 2), N at least 1, but are {samples.shape}")
    broken = int((~np.isfinite(samples)).any(axis=1).sum())
    if broken:
        raise ValueError(f"mixture_score: {broken} of {len(samples)} samples are not finite; the training has diverged")
    N, K = len(samples), len(mixture.means)
    points = samples.astype(np.float64)
    distance = np.linalg.norm(points[:, None] - mixture.means, axis=2)
    nearest = distance.argmin(axis=1)
    good = distance.min(axis=1) <= RADIUS * mixture.sigma
    filled = np.bincount(nearest[good], minlength=K)
    share = np.bincount(nearest, minlength=K) / N
    padded = (N * share + 1) / (N + K)
    return {
        "modes": int((filled > 0).sum()),
        "modes_filled": int((filled >= N / (4 * K)).sum()),
        "high_quality": float(good.mean()),
        "kl": float(sum(p * log(p * K) for p in share if p > 0)),
        "reverse_kl": float(-np.log(padded * K).mean()),
        "std_ratio": _deviation(points[good], nearest[good], K) / (mixture.sigma * _CUT),
    }


def perfect_score(mixture: Mixture, n: int, seed: int = 0) -> dict[str, float]:
    """The `mixture_score` of n points of the mixture itself: what a perfect sampler gets, but for the luck of a seed.

    A row to stand beside those of trained samplers. ValueError if n is below 1.
    """
    if n < 1:
        raise ValueError(f"perfect_score: takes 1 or more samples, not {n}")
    return mixture_score(mixture.sample(n, Generator(seed, "perfect sampler")), mixture)


_CUT = sqrt(1 - RADIUS**2 / 2 * (1 - PERFECT_SHARE) / PERFECT_SHARE)
"""The deviation along an axis of a round Gaussian of deviation 1 whose samples beyond RADIUS are left out: 0.975."""


def _deviation(points: NDArray[Any], mode: NDArray[Any], K: int) -> float:
    """The deviation along an axis around each mode's own mean, all modes pooled; 0 without two points in any mode."""
    counts = np.bincount(mode, minlength=K)
    freedom = int(2 * (counts - 1).clip(0).sum())
    if not freedom:
        return 0.0
    sums = np.stack([np.bincount(mode, points[:, i], K) for i in range(2)], axis=1)
    residual = points - (sums / counts.clip(1)[:, None])[mode]
    return sqrt(float((residual**2).sum()) / freedom)
