"""All numbers about a set of generated images, and what they say in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..random import Generator
from .classifier import Classifier, pixels
from .frechet import fid
from .neighbours import nearest

Array = NDArray[Any]

REFERENCES = 10_000  # training images that fakes and test images are compared with, and of the latter at most
QUERIES = 1_000  # images whose nearest neighbours are looked up
CHUNK = 5_000  # real images that are brought to the fakes' size at a time


def evaluate(fakes: Array, images: Array, labels: Array, test_images: Array, classifier: Classifier) -> dict[str, Any]:
    """What json.dumps takes, of `fakes` (N, H, H, C), floats in [-1, 1].

    images, labels, test_images: the real ones, uint8 (M, H', W', C), as they are stored. They are brought to H pixels
    first, as G saw them, so that resizing alone tells nobody apart. 10,000 random training images, the same in every
    run, are the reference; where there are fewer, all are.

    n_reference: the number of reference images.
    fid: of the first n fakes against the reference, by the classifier's features. It must not be compared with
        published FIDs, which are of another net's features, but with
    fid_floor: that of n test images against the same reference: what other real images get. It is no lower bound:
        copies of training images get less.
    n: as many fakes and test images as there are of both, 10,000 at most; FIDs of unequal numbers do not compare.
    classifier_accuracy: on the test images.
    predicted_histogram: how many of all fakes the classifier assigns to each class.
    label_histogram: how many of the first 1,000 fakes have their nearest reference image in each class;
    classes_present: how many classes that are.
    nearest_train: the median distance of these fakes to their nearest of all training images, pixels in [-1, 1];
    nearest_train_of_test: the same of 1,000 test images; nearest_ratio: the former by the latter, far below 1 if the
        training images were memorised, None if the latter is 0.

    ValueError if the fakes are not such images, or if fakes or test images are fewer than 2.
    """
    if fakes.ndim != 4 or fakes.shape[1] != fakes.shape[2] or fakes.dtype.kind != "f" or len(fakes) < 2:
        raise ValueError(
            f"evaluate: fakes must be N > 1 float images (N, H, H, C), but are {fakes.dtype} {fakes.shape}"
        )
    size, generator = fakes.shape[1], Generator(0, "metrics")
    fakes = pixels(fakes, size)
    sample = generator.permutation(len(images))[:REFERENCES]
    reference, reference_labels = images[sample], labels[sample]
    tests = test_images[generator.permutation(len(test_images))[:REFERENCES]]
    real_features = _features(classifier, reference, size)
    n = min(len(fakes), len(tests))

    queries, classes = fakes[:QUERIES], int(labels.max()) + 1
    neighbours, _ = _nearest(queries, reference, size)
    histogram = np.bincount(reference_labels[neighbours], minlength=classes)
    _, distances = _nearest(np.concatenate([queries, pixels(tests[:QUERIES], size)]), images, size)
    nearest_train = float(np.median(distances[: len(queries)]))
    of_test = float(np.median(distances[len(queries) :]))
    return {
        "n": n,
        "n_reference": len(reference),
        "fid": fid(classifier.features(fakes[:n]), real_features),
        "fid_floor": fid(_features(classifier, tests[:n], size), real_features),
        "classifier_accuracy": classifier.accuracy,
        "predicted_histogram": np.bincount(classifier.predict(fakes), minlength=classes).tolist(),
        "label_histogram": histogram.tolist(),
        "classes_present": int((histogram > 0).sum()),
        "nearest_train": nearest_train,
        "nearest_train_of_test": of_test,
        "nearest_ratio": nearest_train / of_test if of_test else None,
    }


def own_fid(fakes: Array, images: Array, test_images: Array, classifier: Classifier) -> float:
    """The `fid` of `evaluate`, by itself. ValueError if the fakes are not such images."""
    size, generator = fakes.shape[1], Generator(0, "metrics")
    reference = images[generator.permutation(len(images))[:REFERENCES]]
    n = min(len(fakes), len(test_images), REFERENCES)
    return fid(classifier.features(pixels(fakes[:n], size)), _features(classifier, reference, size))


def describe(metrics: Mapping[str, Any]) -> str:
    """What `evaluate` found, in a few lines."""
    by_pixels, by_net, ratio = metrics["label_histogram"], metrics["predicted_histogram"], metrics["nearest_ratio"]
    return "\n".join(
        [
            f"FID (own features, {metrics['n']:,} samples against {metrics['n_reference']:,} training images): "
            f"{metrics['fid']:.2f}; as many test images against the same: {metrics['fid_floor']:.2f}",
            f"The features are those of a classifier that gets {metrics['classifier_accuracy']:.1%} of the test images "
            "right; this FID compares with no published one",
            f"Classes among {sum(by_pixels):,} samples, by nearest training image: {_counts(by_pixels)}; "
            f"{metrics['classes_present']} of {len(by_pixels)} present",
            f"Classes among {sum(by_net):,} samples, by the classifier: {_counts(by_net)}; "
            f"the rarest has {min(by_net) / sum(by_net):.1%}",
            "Nearest training image: "
            + (
                "as near as copies are, for test images too"
                if ratio is None
                else f"{ratio:.2f} times as far as from test images (far below 1: memorised)"
            ),
        ]
    )


def _counts(histogram: Sequence[int]) -> str:
    return " ".join(f"{label}:{count}" for label, count in enumerate(histogram))


def _features(classifier: Classifier, images: Array, size: int) -> Array:
    """Of real images, seen at `size` pixels first."""
    parts = range(0, len(images), CHUNK)
    return np.concatenate([classifier.features(pixels(images[i : i + CHUNK], size)) for i in parts])


def _nearest(queries: Array, images: Array, size: int) -> tuple[Array, Array]:
    """`nearest` among real images, seen at `size` pixels."""
    index, distance = np.zeros(len(queries), np.int64), np.full(len(queries), np.inf)
    for start in range(0, len(images), CHUNK):
        found, far = nearest(queries, pixels(images[start : start + CHUNK], size))
        closer = far < distance
        index[closer], distance[closer] = start + found[closer], far[closer]
    return index, distance
