"""Whether images show the label that they were made for: of conditional GANs, and of those that find classes alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..random import Generator
from .classifier import Classifier
from .neighbours import nearest_label_error

Array = NDArray[Any]


def label_accuracy(labels: Array, read: Array) -> float:
    """The share of images that are read as what they were made for.

    labels: whole numbers (N,); read: what a classifier takes the images for, also whole numbers (N,), or probabilities
    (N, K).
    ValueError for other shapes, and without images.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(f"label_accuracy: labels must be N > 0 whole numbers, but are {labels.dtype} {labels.shape}")
    if read.ndim not in (1, 2) or len(read) != len(labels) or (read.ndim == 1 and read.dtype.kind not in "iu"):
        raise ValueError(
            f"label_accuracy: {len(labels)} labels need as many whole numbers (N,), or probabilities (N, K), to "
            f"compare with, not {read.dtype} {read.shape}"
        )
    return float(((read.argmax(1) if read.ndim == 2 else read) == labels).mean())


def assignment(cost: Array) -> Array:
    """The column (K,) of each row of `cost` (K, K), none twice, for which the costs' sum is least.

    H. W. Kuhn, "The Hungarian method for the assignment problem", 1955, with potentials, in K^3 steps: row by row, the
    shortest path of changes by which one more row gets a column, each cost as seen above row[i] + column[j].
    ValueError for other shapes and numbers that are not finite.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or not np.isfinite(cost).all():
        raise ValueError(f"assignment: the costs must be finite and (K, K), as many columns as rows, not {cost.shape}")
    K, cost = len(cost), cost.astype(np.float64)
    row, column = np.zeros(K), np.zeros(K + 1)  # potentials; the last column is where a path begins
    owner = np.full(K + 1, -1)  # the row that has the column
    for new in range(K):
        j, owner[K] = K, new
        before, seen, slack = np.full(K, K), np.zeros(K + 1, bool), np.full(K, np.inf)
        while owner[j] >= 0:
            seen[j] = True
            reduced = cost[owner[j]] - row[owner[j]] - column[:K]
            nearer = ~seen[:K] & (reduced < slack)
            slack[nearer], before[nearer] = reduced[nearer], j
            free = np.where(seen[:K], np.inf, slack)
            step, j = free.min(), int(free.argmin())
            row[owner[seen]] += step
            column[seen] -= step
            slack -= step
        while j != K:
            owner[j], j = owner[before[j]], before[j]
    found = np.empty(K, np.int64)
    found[owner[:K]] = np.arange(K)
    return found


def matched_labels(categories: Array, read: Array) -> Array:
    """For each image (N,) the label of its category, by the matching of categories with labels under which most agree.

    categories: what the images were made for; read: what a classifier takes them for; both whole numbers (N,). Where
    there are more categories than labels, those left over get numbers that are no labels. ValueError for other arrays.
    """
    if categories.shape != read.shape or categories.ndim != 1 or {categories.dtype.kind, read.dtype.kind} - {*"iu"}:
        raise ValueError(
            "matched_labels: categories and what is read must be whole numbers (N,), but are "
            f"{categories.dtype} {categories.shape} and {read.dtype} {read.shape}"
        )
    K = int(max(categories.max(initial=0), read.max(initial=0))) + 1
    together = np.zeros((K, K), np.int64)
    np.add.at(together, (categories, read), 1)
    labels: Array = assignment(-together)[categories]
    return labels


def label_scores(
    fakes: Array,
    fake_labels: Array,
    images: Array,
    labels: Array,
    test_images: Array,
    test_labels: Array,
    classifier: Classifier,
    taught: bool = True,
) -> dict[str, float]:
    """Of n fakes (n, H, H, C) in [-1, 1] and the labels (n,) that they were made for; all else as in a data set.

    label_accuracy: the share that the classifier reads so; _floor: of the test images.
    nearest_label_error: `nearest_label_error` of the test images, by the fakes for training images; _floor: by n
        of the training images. It needs no net, and asks also for variety: one good image a label is not enough.
    taught: without it, fake_labels are categories without names, each of which is taken for a label (`matched_labels`).
        The matching is fitted to the fakes that it scores, so K categories that mean nothing get a little over 1 / K.
        X. Chen et al., "InfoGAN", 2016, section 7.2, say 95 % of MNIST (recalled), but of real images, by D's guesses.
    10,000 fakes and as many test images of 28 pixels take 6 s of one core.
    """
    n, read = min(len(fakes), len(images)), classifier.predict(fakes)
    if not taught:
        fake_labels = matched_labels(fake_labels, read)
    some = Generator(0, "metrics").permutation(len(images))[:n]  # they may be sorted by label
    return {
        "label_accuracy": label_accuracy(fake_labels, read),
        "label_accuracy_floor": classifier.accuracy,
        "nearest_label_error": nearest_label_error(fakes[:n], fake_labels[:n], test_images, test_labels),
        "nearest_label_error_floor": nearest_label_error(images[some], labels[some], test_images, test_labels),
    }
