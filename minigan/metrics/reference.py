"""The real images that generated ones are compared with, and all numbers that come of it."""

from functools import cached_property
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..random import Generator
from .classifier import Classifier, untrained
from .diversity import mean_pairwise_distance
from .frechet import fid
from .images import pixels
from .inception import inception_score
from .kid import kid
from .manifold import K, manifold_scores, radii
from .neighbours import memorisation, nearest_image

Array = NDArray[Any]

REFERENCES = 10_000  # training images that fakes and test images are compared with, and of the latter at most
NEIGHBOURS = 5_000  # images a side whose distances to each other are looked at
QUERIES = 1_000  # images whose nearest training images are looked up
CHUNK = 5_000  # real images that are brought to the fakes' size at a time


class Reference:
    """Real images, uint8 (M, H', W', C) as they are stored, for fakes of `size` pixels.

    They are brought to that size first, as G saw them, so that resizing alone tells nobody apart. 10,000 random
    training images, the same in every run, are the reference; where there are fewer, all are. Their features are
    computed once, when they are first asked for, and so are the floors: what as many test images get.

    Without `test_images` there are no floors; without `labels` (M,), no classes by neighbours; without a `classifier`,
    nothing that needs one, and the features are those of an untrained net alone.
    ValueError for fewer than 2 images of a kind, and for labels that are not as many as the images.
    """

    def __init__(
        self,
        images: Array,
        test_images: Array | None,
        size: int,
        labels: Array | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        for kind, real in (("training", images), ("test", test_images)):
            if real is not None and (real.dtype != np.uint8 or real.ndim != 4 or len(real) < 2):
                raise ValueError(
                    f"Reference: {kind} images must be N > 1 of uint8 (N, H, W, C), as they are stored, but are "
                    f"{real.dtype} {real.shape}"
                )
        if labels is not None and labels.shape != (len(images),):
            raise ValueError(f"Reference: the labels of {len(images)} training images are of shape {labels.shape}")
        generator = Generator(0, "metrics")
        sample = generator.permutation(len(images))[:REFERENCES]
        self.size, self.classifier, self._all = size, classifier, images
        self._real, self._labels = images[sample], None if labels is None else labels[sample]
        self._classes = 0 if labels is None else int(labels.max()) + 1
        self._tests = None
        if test_images is not None:
            self._tests = test_images[generator.permutation(len(test_images))[:REFERENCES]]
        self._floors = dict[int, dict[str, Any]]()  # by the number of test images
        self._radii = dict[int, Array]()  # by the number of real images

    def fid(self, fakes: Array) -> float:
        """The "fid" of `evaluate` by itself; without a classifier, its "fid_random". ValueError as `evaluate`."""
        self._check(fakes)
        x = pixels(fakes[: self._count(fakes)], self.size)
        if self.classifier is None:
            return fid(self._random.features(x), self._real_random)
        return fid(self.classifier.features(x), self._real_features)

    def quick(self, fakes: Array) -> dict[str, Any]:
        """The "fid" of `evaluate` and what neighbours tell: what a curve over a training needs, in much less time.

        Without a classifier "fid_random". ValueError as `evaluate`.
        """
        self._check(fakes)
        net = self.classifier or self._random
        own = net.features(pixels(fakes[: self._count(fakes)], self.size))
        if self.classifier is None:
            return {"fid_random": fid(own, self._real_random), **self._neighbours(own, self._real_random)}
        return {"fid": fid(own, self._real_features), **self._neighbours(own, self._real_features)}

    def evaluate(self, fakes: Array) -> dict[str, Any]:
        """What json.dumps takes, of `fakes` (N, size, size, C), floats in [-1, 1], in random order.

        n: as many fakes and test images as there are of both, 10,000 at most; FIDs of unequal numbers do not compare.
        n_reference: the number of reference images.
        fid: of the first n fakes against the reference, by the classifier's features. It must not be compared with
            published FIDs, which are of another net's features, but with
        fid_floor: that of n test images against the same reference: what other real images get. It is no lower bound:
            copies of training images get less. All that follows has such a floor, to the line.
        kid, kid_error: the kernel distance, and its standard error (None below 2,000 samples).
        fid_random, kid_random: by the features of an untrained net.
        inception_score, marginal_entropy, conditional_entropy: by the classifier's probabilities; in nats.
        n_neighbours: how many of the n, and of the reference, the next ones are of: 5,000 at most. Up to 5 are too few
            for them. The features are the classifier's; without one, the untrained net's.
        precision, recall, density, coverage, two_sample_accuracy, two_sample_accuracy_real, two_sample_accuracy_fake:
            see manifold.py.
        mean_pairwise_distance: of these fakes, pixels in [-1, 1].
        ----
        classifier_accuracy: on the test images.
        predicted_histogram: how many of all fakes the classifier assigns to each class.
        label_histogram: how many of the first 1,000 fakes have their nearest reference image in each class;
        classes_present: how many classes that are.
        reference_histogram: how many of the reference images are of each class.
        nearest_train, nearest_train_of_test, nearest_ratio: of these fakes and of 1,000 test images among all training
            images, pixels in [-1, 1]: see `memorisation`.

        ValueError if the fakes are not such images, or fewer than 2. (Images in [0, 1] are pale ones in [-1, 1].)
        """
        self._check(fakes)
        x, n = pixels(fakes, self.size), self._count(fakes)
        own = self.classifier.features(x[:n]) if self.classifier else None
        found = {"n": n, "n_reference": len(self._real), **self._measures(own, self._random.features(x[:n]), x[:n])}
        if self._tests is not None:
            found |= self._floor(n)
        return found | self._histograms(x, own) | self._copies(x[:QUERIES])

    def _check(self, fakes: Array) -> None:
        C = self._real.shape[3]
        if fakes.shape[1:] != (self.size, self.size, C) or fakes.dtype.kind != "f" or len(fakes) < 2:
            raise ValueError(
                f"Reference: fakes must be N > 1 float images (N, {self.size}, {self.size}, {C}), but are "
                f"{fakes.dtype} {fakes.shape}"
            )

    def _count(self, fakes: Array) -> int:
        return min(len(fakes), REFERENCES if self._tests is None else len(self._tests))

    def _measures(self, own: Array | None, by_chance: Array, x: Array) -> dict[str, Any]:
        """Of n images, fakes or tests: their features by the classifier and by the untrained net, and themselves, or
        the first of them."""
        features, real = (by_chance, self._real_random) if own is None else (own, self._real_features)
        found: dict[str, Any] = {}
        if self.classifier is not None and own is not None:
            distance = kid(own, real)
            score = inception_score(self.classifier.probabilities(own))
            found |= {
                "fid": fid(own, real),
                "kid": distance.value,
                "kid_error": None if isnan(distance.error) else distance.error,
                "inception_score": score.score,
                "marginal_entropy": score.marginal,
                "conditional_entropy": score.conditional,
            }
        found |= {
            "fid_random": fid(by_chance, self._real_random),
            "kid_random": kid(by_chance, self._real_random).value,
        }
        found |= self._neighbours(features, real)
        if "n_neighbours" in found:
            found["mean_pairwise_distance"] = mean_pairwise_distance(x[: found["n_neighbours"]])
        return found

    def _neighbours(self, features: Array, real: Array) -> dict[str, Any]:
        """Of features (n, D) by the net that the real ones are of; {} of too few."""
        m = min(len(features), len(real), NEIGHBOURS)
        if m <= K:
            return {}
        if m not in self._radii:
            self._radii[m] = radii(real[:m], K)
        return {"n_neighbours": m, **manifold_scores(real[:m], features[:m], self._radii[m])}

    def _floor(self, n: int) -> dict[str, Any]:
        """The same of n test images."""
        assert self._tests is not None
        if n not in self._floors:
            own = self._features(self.classifier, self._tests[:n]) if self.classifier else None
            by_chance = self._features(self._random, self._tests[:n])
            found = self._measures(own, by_chance, pixels(self._tests[: min(n, NEIGHBOURS)], self.size))
            found.pop("n_neighbours", None)
            self._floors[n] = {f"{key}_floor": value for key, value in found.items()}
        return self._floors[n]

    def _histograms(self, x: Array, own: Array | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.classifier is not None and own is not None:
            features = np.concatenate([own, self.classifier.features(x[len(own) :])])
            p = self.classifier.probabilities(features)
            found["classifier_accuracy"] = self.classifier.accuracy
            found["predicted_histogram"] = np.bincount(p.argmax(1), minlength=p.shape[1]).tolist()
        if self._labels is not None:
            neighbours, _ = nearest_image(x[:QUERIES], self._real)
            histogram = np.bincount(self._labels[neighbours], minlength=self._classes)
            found["label_histogram"] = histogram.tolist()
            found["classes_present"] = int((histogram > 0).sum())
            found["reference_histogram"] = np.bincount(self._labels, minlength=self._classes).tolist()
        return found

    def _copies(self, queries: Array) -> dict[str, float | None]:
        """Without test images, only how near the fakes are."""
        _, distances = nearest_image(queries, self._all)
        if self._tests is None:
            return {"nearest_train": float(np.median(distances))}
        return dict(memorisation(distances, self._test_distances))

    @cached_property
    def _random(self) -> Classifier:
        return untrained(self._real.shape[3])

    @cached_property
    def _real_random(self) -> Array:
        return self._features(self._random, self._real)

    @cached_property
    def _real_features(self) -> Array:
        assert self.classifier is not None
        return self._features(self.classifier, self._real)

    @cached_property
    def _test_distances(self) -> Array:
        """Of 1,000 test images to their nearest training images."""
        assert self._tests is not None
        return nearest_image(pixels(self._tests[:QUERIES], self.size), self._all)[1]

    def _features(self, net: Classifier, images: Array) -> Array:
        """Of real images, seen at `size` pixels first."""
        parts = range(0, len(images), CHUNK)
        return np.concatenate([net.features(pixels(images[i : i + CHUNK], self.size)) for i in parts])
