"""The Fréchet distance of two Gaussians, and of the Gaussians fitted to two sets of features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def frechet_distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|m_a - m_b|^2 + Tr S_a + Tr S_b - 2 sum sqrt(eig(S_a^1/2 S_b S_a^1/2)), m (D,), S (D, D).

    The squared 2-Wasserstein distance (D. C. Dowson & B. V. Landau, "The Fréchet distance between multivariate normal
    distributions", 1982). Symmetric eigenproblems only, in float64: nothing complex can appear, S may be singular, and
    eigenvalues that rounding made negative count as 0. ValueError if shapes differ, or if numbers are not finite.
    """
    m_a, S_a, m_b, S_b = (np.asarray(x, np.float64) for x in (mean_a, cov_a, mean_b, cov_b))
    D = m_a.size
    if not (m_a.shape == m_b.shape == (D,) and S_a.shape == S_b.shape == (D, D)):
        raise ValueError(
            "frechet_distance: means must be (D,) and covariances (D, D) of one D, but are "
            f"{m_a.shape}, {S_a.shape} and {m_b.shape}, {S_b.shape}"
        )
    if not all(np.isfinite(x).all() for x in (m_a, S_a, m_b, S_b)):
        raise ValueError("frechet_distance: the means or the covariances hold NaN or infinity")
    values, vectors = np.linalg.eigh(S_a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    products = np.linalg.eigvalsh(root @ S_b @ root)
    shared = np.sqrt(np.maximum(products, 0)).sum()
    distance = float(((m_a - m_b) ** 2).sum() + np.trace(S_a) + np.trace(S_b) - 2 * shared)
    return max(distance, 0.0)  # in this order NaN, from numbers too large for their squares, stays NaN


def fid(features_a: Array, features_b: Array) -> float:
    """The Fréchet distance of the Gaussians fitted to features (N_a, D) and (N_b, D); covariances divide by N - 1.

    M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017, who
    take the features of an Inception net. With other features it is a number on another scale: only distances by the
    same features and about the same N compare. It is biased upwards, the more the smaller N is.
    ValueError if a set is not (N, D) with N > 1 and finite numbers, or if the D differ.
    """
    check_features("fid", features_a, features_b)
    return frechet_distance(*_gaussian(features_a), *_gaussian(features_b))


def check_features(op: str, features_a: Array, features_b: Array) -> None:
    """ValueError, which names the op, unless both are (N, D), N > 1, of one D > 0, and finite."""
    for features in (features_a, features_b):
        if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
            raise ValueError(f"{op}: features must be (N, D) of N > 1 samples, but are {features.shape}")
        if not np.isfinite(features).all():
            raise ValueError(f"{op}: features {features.shape} hold NaN or infinity; look at the images they are of")
    if features_a.shape[1] != features_b.shape[1]:
        raise ValueError(
            f"{op}: features must be of one length, but are {features_a.shape} and {features_b.shape}; "
            "compute both by the same net"
        )


def _gaussian(features: Array) -> tuple[Array, Array]:
    """The mean (D,) and the covariance (D, D) of features (N, D), in float64."""
    x = features.astype(np.float64)
    mean = x.mean(0)
    x -= mean
    return mean, x.T @ x / (len(x) - 1)
