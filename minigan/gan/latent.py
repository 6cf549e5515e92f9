"""Walks between latent vectors."""

import numpy as np

from ..tensor import Array


def slerp(a: Array, b: Array, t: Array) -> Array:
    """The great circle from a (t = 0) to b (t = 1), both (latent,); t (T,) -> (T, latent).

    A Gaussian in many dimensions lives near a sphere. A straight line cuts through the inside, where G was never
    trained, so the angle is interpolated instead (Shoemake 1985; for GANs White 2016), and the length beside it.
    """
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    cosine = a @ b / (length_a * length_b) if length_a * length_b else 1.0
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:  # one direction, or opposite ones, which no single circle joins, or none
        line: Array = np.outer(1 - t, a) + np.outer(t, b)
        return line
    arc = np.outer(np.sin((1 - t) * angle), a / length_a) + np.outer(np.sin(t * angle), b / length_b)
    walk: Array = arc / np.sin(angle) * ((1 - t) * length_a + t * length_b)[:, None]
    return walk
