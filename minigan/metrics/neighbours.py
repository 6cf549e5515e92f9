"""The nearest neighbour in pixel space: what a generated image resembles most among the real ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import pixels

Array = NDArray[Any]

CHUNK = 250
"""Queries at a time. 60,000 references then take 60 MB for their squared distances."""

IMAGES = 5_000
"""Real images that are brought to the queries' size at a time."""


def nearest(queries: Array, references: Array) -> tuple[Array, Array]:
    """The index (N,) among `references` (M, ...) of the nearest to each of `queries` (N, ...), and its distance (N,).

    Euclidean and exact. |b|^2 - 2 a b in float32 (|a|^2 moves all references alike) leaves few that can be the
    nearest: those within its rounding error of the least. Their distances are computed anew, as |a - b| in float64,
    so that a copy is at exactly 0; the first of a tie wins.
    ValueError if there is no reference, if shapes differ, or if numbers are not finite.
    """
    if not len(references) or queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"nearest: takes queries (N, ...) and references (M, ...) of one shape, M > 0, "
            f"but they are {queries.shape} and {references.shape}"
        )
    b = references.reshape(len(references), -1).astype(np.float32, copy=False)
    b_squares = np.einsum("md,md->m", b, b)
    b_length = np.sqrt(b_squares.max())
    index, distance = np.zeros(len(queries), np.int64), np.zeros(len(queries))
    for start in range(0, len(queries), CHUNK):
        a = queries[start : start + CHUNK].reshape(-1, b.shape[1]).astype(np.float32, copy=False)
        a_lengths = np.sqrt(np.einsum("nd,nd->n", a, a))
        # A sum of D rounded products errs by at most D eps/2 of the lengths' product; 4 more for the other roundings.
        error = (b.shape[1] + 4) * np.finfo(np.float32).eps * (a_lengths + b_length) ** 2
        if not np.isfinite(error).all():
            raise ValueError("nearest: the queries or the references hold NaN, infinity or numbers beyond 1e15")
        estimate = b_squares - 2 * (a @ b.T)
        candidates = estimate <= (estimate.min(1) + error)[:, None]
        for n in range(len(a)):
            rows = np.flatnonzero(candidates[n])
            difference = references[rows].astype(np.float64) - queries[start + n]
            distances = np.sqrt((difference.reshape(len(rows), -1) ** 2).sum(1))
            best = distances.argmin()
            index[start + n], distance[start + n] = rows[best], distances[best]
    return index, distance


def nearest_image(queries: Array, images: Array) -> tuple[Array, Array]:
    """`nearest` among real images (M, H', W', C), bytes or floats in [-1, 1], of queries (N, H, H, C) in [-1, 1].

    A few at a time are brought to H pixels, so that `images` may be many. ValueError as `nearest` and `pixels`.
    """
    index, distance = np.zeros(len(queries), np.int64), np.full(len(queries), np.inf)
    for start in range(0, len(images), IMAGES):
        found, far = nearest(queries, pixels(images[start : start + IMAGES], queries.shape[1]))
        closer = far < distance
        index[closer], distance[closer] = start + found[closer], far[closer]
    return index, distance


def nearest_label_error(fakes: Array, fake_labels: Array, images: Array, labels: Array) -> float:
    """The share of `images` (M, H, W, C) whose label is not that of the nearest of the labelled fakes (N, H', H', C).

    In pixels, without a net: what A. Radford et al., "Unsupervised representation learning with deep convolutional
    generative adversarial networks", 2016, say of MNIST's test images: 3.1 % by the training images themselves, 2.98 %
    by 50,000 images of a class-conditional DCGAN [recalled, table 3]. Bytes or floats in [-1, 1]; labels (N,), (M,).
    ValueError as `nearest` and `pixels`, for other labels, and without images.
    """
    for kind, x, y in (("fakes", fakes, fake_labels), ("images", images, labels)):
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or not len(y):
            raise ValueError(
                f"nearest_label_error: {kind} {x.shape} need as many whole numbers for labels, not {y.dtype} {y.shape}"
            )
    index, _ = nearest_image(pixels(images, images.shape[1]), fakes)
    return float((fake_labels[index] != labels).mean())


def memorisation(distances: Array, distances_of_test: Array) -> dict[str, float | None]:
    """Of samples' distances (N,) to the nearest training image, and those of test images (M,).

    nearest_train, nearest_train_of_test: the medians; nearest_ratio: the former by the latter, None if that is 0.
    Far below 1 the samples are copies (C. Meehan et al., "A non-parametric test to detect
    data-copying in generative models", 2020, compare the same distances). Blurred images are near everything, too.
    """
    fakes, tests = float(np.median(distances)), float(np.median(distances_of_test))
    return {
        "nearest_train": fakes,
        "nearest_train_of_test": tests,
        "nearest_ratio": fakes / tests if tests else None,
    }
