"""Two samplers without a game, to stand beside GANs: both are fitted by maximum likelihood.

The mean log-likelihood of data under a model p is -KL(data, p) minus the data's entropy, which no model changes: the
most likely model is the one of least KL divergence from the data. That divergence is infinite where the model misses
data altogether, and mild about samples where no data are: such models cover all, and smear; a GAN does the opposite.
"""

from dataclasses import dataclass
from math import inf, log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..random import Generator
from ..tensor import Array

FLOOR = 1e-6
"""The least eigenvalue of a covariance, by the data's mean variance: on one point alone the likelihood is infinite."""

GAIN = 1e-10
"""Nats a point: an iteration that gains less is the last."""


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """K Gaussians in D dimensions, float64: `means` (K, D), `covariances` (K, D, D), `weights` (K,), 1 together.

    log_likelihood: the mean over the points, in nats, at the start and after each iteration; it never falls.
    """

    means: Array
    covariances: Array
    weights: Array
    log_likelihood: tuple[float, ...] = ()

    def log_density(self, x: Array) -> Array:
        """log p, float64 (N,), of points (N, D)."""
        if x.ndim != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(f"log_density: points must be (N, {self.means.shape[1]}), as the mixture's, not {x.shape}")
        return _log_sum(_joint(self, x.astype(np.float64)))

    def sample(self, n: int, generator: Generator) -> Array:
        """n points, float32 (n, D)."""
        ends = np.cumsum(self.weights)
        mode = np.searchsorted(ends, ends[-1] * generator.uniform(n, np.float64), side="right")
        noise = generator.normal((n, self.means.shape[1]), np.float64)
        offset = np.einsum("nij,nj->ni", np.linalg.cholesky(self.covariances)[mode], noise)
        x: Array = (self.means[mode] + offset).astype(np.float32)
        return x


def em_gaussian_mixture(
    x: NDArray[Any], K: int, generator: Generator, iterations: int = 200, restarts: int = 4
) -> GaussianMixture:
    """K Gaussians with full covariances, fitted to points x (N, D) by expectation maximisation (Dempster et al. 1977).

    Each iteration computes how likely each point comes from each Gaussian, then the weights, means and covariances
    that are best if these shares are right; the likelihood cannot fall. Eigenvalues of covariances below a floor are
    raised to it, which is the best that a covariance above the floor can do, so that this holds still. The first means
    are points far from each other (k-means++, Arthur & Vassilvitskii 2007). EM ends in a local maximum: the most likely
    of `restarts` fits is returned.

    ValueError for other shapes, points that are not finite, fewer distinct points than K, points that are all one, or
    squared distances that float64 cannot hold.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"em_gaussian_mixture: points must be (N, D), N and D at least 1, but are {x.shape}")
    broken = int((~np.isfinite(x)).any(axis=1).sum())
    if broken:
        raise ValueError(f"em_gaussian_mixture: {broken} of {len(x)} points are not finite; leave them out")
    for name, value in (("K", K), ("iterations", iterations), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"em_gaussian_mixture: {name} must be at least 1, not {value}")
    points = x.astype(np.float64)
    distinct = len(np.unique(points, axis=0))
    if distinct < max(K, 2):
        raise ValueError(
            f"em_gaussian_mixture: K = {K} needs at least {max(K, 2)} different points, but of {len(x)} points "
            f"{distinct} are different; ask for fewer Gaussians, or give more points"
        )
    with np.errstate(over="ignore"):
        span = float(np.ptp(points, axis=0).max())
    if not 1e-140 < span < 1e140:
        raise ValueError(
            f"em_gaussian_mixture: the points span {span:.3g}, and float64 cannot hold the squares of such distances; "
            "scale the points first, so that they span about 1"
        )
    fits = [_fit(points, K, generator, iterations) for _ in range(restarts)]
    return max(fits, key=lambda fit: fit.log_likelihood[-1])


def _fit(x: Array, K: int, generator: Generator, iterations: int) -> GaussianMixture:
    """One run of EM, from means of its own."""
    floor = FLOOR * x.var(axis=0).mean()
    nearest = _distances(x, _far_apart(x, K, generator)).argmin(axis=1)
    fit, history = _maximise(x, np.eye(K)[nearest], floor), [-inf]
    for _ in range(iterations + 1):
        joint = _joint(fit, x)
        density = _log_sum(joint)
        history.append(float(density.mean()))
        if len(history) == iterations + 2 or history[-1] - history[-2] < GAIN:
            break
        fit = _maximise(x, np.exp(joint - density[:, None]), floor)
    return GaussianMixture(fit.means, fit.covariances, fit.weights, tuple(history[1:]))


def _far_apart(x: Array, K: int, generator: Generator) -> Array:
    """K of the points, each drawn in proportion to its squared distance from the nearest that was drawn before.

    ValueError if all these are 0 in float64.
    """
    chosen = x[generator.integers(len(x), 1)]
    while len(chosen) < K:
        ends = np.cumsum(_distances(x, chosen).min(axis=1))
        if ends[-1] == 0:
            raise ValueError(
                f"em_gaussian_mixture: K = {K}, but the other points are so near to {len(chosen)} of them that the "
                "squares of the distances are 0 in float64; ask for fewer Gaussians"
            )
        new = np.searchsorted(ends, ends[-1] * generator.uniform(1, np.float64), side="right")
        chosen = np.concatenate([chosen, x[new]])
    return chosen


def _distances(x: Array, means: Array) -> Array:
    """Squared, (N, K)."""
    squares: Array = ((x[:, None] - means) ** 2).sum(axis=2)
    return squares


def _maximise(x: Array, share: Array, floor: float) -> GaussianMixture:
    """The most likely mixture if share (N, K) says what part of each point comes from each Gaussian."""
    counts = np.maximum(share.sum(axis=0), np.finfo(np.float64).tiny)  # a Gaussian may have lost all points
    means = share.T @ x / counts[:, None]
    offset = x[:, None] - means  # (N, K, D)
    covariances = np.einsum("nk,nki,nkj->kij", share, offset, offset, optimize=True) / counts[:, None, None]
    values, vectors = np.linalg.eigh(covariances)
    raised = vectors * np.maximum(values, floor)[:, None]  # columns are eigenvectors
    return GaussianMixture(means, raised @ vectors.swapaxes(1, 2), counts / counts.sum())


def _joint(fit: GaussianMixture, x: Array) -> Array:
    """log of each weight times its Gaussian's density, (N, K)."""
    D, lower = x.shape[1], np.linalg.cholesky(fit.covariances)
    white = np.linalg.solve(lower, (x[:, None] - fit.means).transpose(1, 2, 0))  # (K, D, N)
    log_root = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    joint: Array = np.log(fit.weights) - log_root - 0.5 * (D * log(2 * pi) + (white**2).sum(axis=1).T)
    return joint


def _log_sum(joint: Array) -> Array:
    """log of the sum of exp over the last axis."""
    top = joint.max(axis=-1)
    found: Array = top + np.log(np.exp(joint - top[..., None]).sum(axis=-1))
    return found


@dataclass(frozen=True, eq=False)
class NaiveBayes:
    """What `naive_bayes_pixels` returns: images (N, H, W, C) uint8, and which of them are of each class."""

    images: Array
    members: dict[int, Array]

    def sample(self, n: int, generator: Generator) -> tuple[Array, Array]:
        """n images, float32 (n, H, W, C) in [-1, 1], and their labels, int64 (n,), as frequent as in the data."""
        N, H, W, C = self.images.shape
        of_image = np.concatenate([np.full(len(rows), label) for label, rows in self.members.items()])
        labels: Array = of_image[generator.integers(N, n)]
        pixels, out = self.images.reshape(N, H * W, C), np.empty((n, H * W, C), np.uint8)
        for label, rows in self.members.items():
            due = np.flatnonzero(labels == label)
            source = rows[generator.integers(len(rows), (len(due), H * W))]
            out[due] = pixels[source, np.arange(H * W)]
        return (out.reshape(n, H, W, C) / np.float32(127.5) - 1).astype(np.float32), labels


def naive_bayes_pixels(images: NDArray[np.uint8], labels: NDArray[Any] | None) -> NaiveBayes:
    """Pixels that are independent, given the class: each has a histogram of its own values in that class's images.

    Of all such models the histogram is the most likely, whatever its shape: most of MNIST's pixels are 0 or nearly
    255, which a Gaussian would smear, and grey edges are lost by a Bernoulli. A draw from it is the pixel of a random
    image of the class, another image for each pixel, so no histogram is made. The colours of a pixel stay together.
    Without labels all images are one class, 0.

    ValueError unless images are uint8 (N, H, W, C), with no empty axis, and labels are integers (N,).
    """
    if images.ndim != 4 or 0 in images.shape or images.dtype != np.uint8:
        raise ValueError(
            f"naive_bayes_pixels: images must be uint8 (N, H, W, C) without an empty axis, but are {images.dtype} "
            f"{images.shape}"
        )
    if labels is None:
        labels = np.zeros(len(images), np.int64)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"naive_bayes_pixels: labels must be integers ({len(images)},), one an image, but are {labels.dtype} "
            f"{labels.shape}"
        )
    return NaiveBayes(images, {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)})
