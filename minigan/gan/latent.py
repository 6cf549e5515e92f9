"""Latent vectors: walks between them, and normal numbers without tails."""

from collections.abc import Callable
from math import isfinite

import numpy as np
from numpy.typing import DTypeLike

from ..random import Generator, Shape
from ..tensor import Array


def lerp(a: Array, b: Array, t: Array) -> Array:
    """The straight line from a (t = 0) to b (t = 1), both (latent,); t (T,) -> (T, latent)."""
    line: Array = np.outer(1 - t, a) + np.outer(t, b)
    return line


def slerp(a: Array, b: Array, t: Array) -> Array:
    """The great circle from a (t = 0) to b (t = 1), both (latent,); t (T,) -> (T, latent).

    A Gaussian in many dimensions lives near a sphere. A straight line cuts through the inside, where G was never
    trained, so the angle is interpolated instead (Shoemake 1985; for GANs White 2016), and the length beside it.
    """
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    cosine = a @ b / (length_a * length_b) if length_a * length_b else 1.0
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:  # one direction, or opposite ones, which no single circle joins, or none
        return lerp(a, b, t)
    arc = np.outer(np.sin((1 - t) * angle), a / length_a) + np.outer(np.sin(t * angle), b / length_b)
    walk: Array = arc / np.sin(angle) * ((1 - t) * length_a + t * length_b)[:, None]
    return walk


def walks(z: Array, steps: int, path: Callable[[Array, Array, Array], Array] = slerp) -> Array:
    """P walks from z[i] to z[P + i], for z (2 P, latent) -> (P, steps, latent), both ends included.

    path: `lerp` or `slerp`.
    """
    if z.ndim != 2 or len(z) == 0 or len(z) % 2:
        raise ValueError(f"walks: z must be (2 P, latent), a start and an end for each of P walks, not {z.shape}")
    if steps < 2:
        raise ValueError(f"walks: steps must be at least 2, since both ends are among them, not {steps}")
    P, t = len(z) // 2, np.linspace(0, 1, steps, dtype=z.dtype)
    return np.stack([path(a, b, t) for a, b in zip(z[:P], z[P:], strict=True)])


def truncated(generator: Generator, shape: Shape, threshold: float, dtype: DTypeLike = np.float32) -> Array:
    """Normal numbers of which none is beyond +-threshold: those that were are drawn anew, until none is left.

    The truncation trick (Brock et al. 2019, section 3.1): the lower the threshold, the better each sample, and the
    more they are all alike. Numbers of the first draw that are inside stay, so that from the same state of the
    generator all thresholds share them.
    """
    if not (isfinite(threshold) and threshold >= 0.01):
        raise ValueError(
            f"truncated: threshold must be finite and at least 0.01, not {threshold}: of the numbers drawn for 0.01, "
            "1 in 125 is inside, and for less hardly any"
        )
    z = generator.normal(shape, dtype)
    flat = z.reshape(-1)
    outside = np.flatnonzero(abs(flat) > threshold)
    while outside.size:
        flat[outside] = again = generator.normal(outside.size, dtype)
        outside = outside[abs(again) > threshold]
    return z
