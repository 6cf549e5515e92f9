"""All numbers about generated images together, and in words; with whatever the data lack left out."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigan.cli.measure import measure
from minigan.data import DataSet, resize
from minigan.gan.recipes import RECIPES
from minigan.gan.recipes.gan import Settings
from minigan.metrics import (
    Classifier,
    Reference,
    describe,
    fid,
    kid,
    mean_pairwise_distance,
    neighbours,
    precision_recall,
    reference,
    train_classifier,
    two_sample_accuracy,
    untrained,
)
from minigan.metrics import classifier as classifier_module
from minigan.metrics.images import pixels
from minigan.nn import Sequential, Unflatten
from minigan.random import Generator

Array = np.typing.NDArray[Any]


def bars(n: int, seed: int, size: int = 28) -> tuple[Array, Array]:
    """Images (n, size, size, 1) of a bright bar on noise, labels (n,): its place, and whether it lies or stands."""
    draw = np.random.default_rng(seed)
    images, labels = draw.integers(0, 80, (n, size, size, 1)), draw.integers(0, 4, n)
    for image, label in zip(images, labels, strict=True):
        place = size // 4 + (label % 2) * size // 2 + draw.integers(-2, 3)
        (image if label < 2 else image.swapaxes(0, 1))[place - 2 : place + 2] += 150
    return images.astype(np.uint8), labels.astype(np.uint8)


TRAIN, TEST = bars(300, 1), bars(200, 2)
IMAGES, LABELS = TRAIN


@pytest.fixture(autouse=True)
def short(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, and a cache that all tests of this file share; not by XDG_CACHE_HOME, where compiled kernels are."""
    folder: Path = tmp_path_factory.getbasetemp() / "reference-cache"
    monkeypatch.setattr(classifier_module, "cache_folder", lambda: folder)
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 30)


def net() -> Classifier:
    return train_classifier(*TRAIN, *TEST, progress=False)


def judge(test_images: Array | None = TEST[0], size: int = 28) -> Reference:
    return Reference(IMAGES, test_images, size, LABELS, net())


def judged(fakes: Array) -> dict[str, Any]:
    return judge(size=fakes.shape[1]).evaluate(fakes.astype(np.float32))


def real(images: Array) -> Array:
    return images / 127.5 - 1


def test_evaluate_unmasks_copies() -> None:
    """Copies of training images: an FID of real images, but at no distance from what was learned."""
    found = judged(real(IMAGES[:250]))
    assert (found["n"], found["n_reference"]) == (200, 300)
    assert sum(found["predicted_histogram"]) == sum(found["label_histogram"]) == 250
    assert found["fid"] < 2 * found["fid_floor"]
    assert found["nearest_train"] < 1e-5 < found["nearest_train_of_test"]
    assert found["nearest_ratio"] < 1e-6
    assert found["label_histogram"] == np.bincount(LABELS[:250]).tolist()
    assert found["classes_present"] == 4
    assert found["reference_histogram"] == np.bincount(LABELS).tolist()
    assert found["two_sample_accuracy"] < 0.2 < found["two_sample_accuracy_floor"]
    assert found["precision"] > 0.95
    assert np.abs(np.subtract(found["predicted_histogram"], found["label_histogram"])).sum() < 20


def test_evaluate_of_other_real_images() -> None:
    found = judged(real(bars(250, 5)[0]))
    assert found["fid"] < 3 * found["fid_floor"]
    assert found["nearest_ratio"] == pytest.approx(1, abs=0.05)


def test_evaluate_of_noise() -> None:
    found = judged(np.random.default_rng(0).uniform(-1, 1, (250, 28, 28, 1)))
    assert found["fid"] > 20 * found["fid_floor"]
    assert found["fid_random"] > 20 * found["fid_random_floor"]
    assert found["kid"] > 20 * abs(found["kid_floor"])
    assert (found["precision"], found["coverage"]) == (0, 0)
    assert found["two_sample_accuracy"] == 1
    assert found["nearest_ratio"] > 1.2


def test_evaluate_of_a_collapsed_generator() -> None:
    one = real(IMAGES[LABELS == 2][:1])
    found = judged(np.clip(one + np.random.default_rng(0).normal(0, 0.02, (250, 28, 28, 1)), -1, 1))
    assert found["label_histogram"] == [0, 0, 250, 0]
    assert found["predicted_histogram"] == [0, 0, 250, 0]
    assert found["classes_present"] == 1
    assert found["fid"] > 10 * found["fid_floor"]
    assert found["inception_score"] < 1.05 < 3.5 < found["inception_score_floor"]
    assert found["marginal_entropy"] < 0.1 < 1.3 < found["marginal_entropy_floor"]
    assert found["recall"] < 0.1 < 0.5 < found["recall_floor"]
    assert found["coverage"] < 0.3 < 0.8 < found["coverage_floor"]
    assert found["mean_pairwise_distance"] < 0.2 * found["mean_pairwise_distance_floor"]


def test_evaluate_brings_real_images_to_the_size_of_the_fakes() -> None:
    """An interpolated copy is a copy, and its features are those of interpolated images."""
    fakes = resize(real(IMAGES[:100]), 40)
    found = judged(fakes)
    assert found["nearest_train"] < 1e-4
    assert found["fid"] < 3 * found["fid_floor"]


def test_evaluate_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = real(bars(50, 5)[0])
    whole = judged(fakes)
    monkeypatch.setattr(reference, "CHUNK", 23)
    monkeypatch.setattr(neighbours, "IMAGES", 29)
    for key, value in judged(fakes).items():
        assert value == (None if value is None else pytest.approx(whole[key], rel=1e-3, abs=1e-6)), key


def test_evaluate_takes_a_sample_of_much_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "REFERENCES", 80)
    monkeypatch.setattr(reference, "QUERIES", 60)
    found = judged(real(IMAGES[:100]))
    assert (found["n"], found["n_reference"]) == (80, 80)
    assert sum(found["label_histogram"]) == 60
    assert sum(found["predicted_histogram"]) == 100
    assert found["nearest_train"] < 1e-5  # of all training images
    assert found == judged(real(IMAGES[:100]))


@pytest.mark.parametrize("n", [50, 150])
def test_evaluate_compares_as_many_fakes_as_test_images(n: int) -> None:
    """Fewer images have a larger FID: fakes that begin with the test images get what these get."""
    order = Generator(0, "metrics")
    order.permutation(len(IMAGES))  # the draw of the reference; the next draw brings tests into the order of the fakes
    tests = TEST[0][:n][np.argsort(order.permutation(n))]
    found = judge(tests).evaluate(real(TEST[0]))
    assert found["n"] == n
    for key, value in found.items():
        if f"{key}_floor" in found and value is not None:
            assert value == pytest.approx(found[f"{key}_floor"], rel=1e-3, abs=1e-6), key


MEASURED = (
    "fid", "kid", "kid_error", "inception_score", "marginal_entropy", "conditional_entropy", "fid_random",
    "kid_random", "precision", "recall", "density", "coverage", "two_sample_accuracy", "two_sample_accuracy_real",
    "two_sample_accuracy_fake", "mean_pairwise_distance",
)  # fmt: skip
CLASSES = {"label_histogram", "reference_histogram", "classes_present"}
BY_CLASSIFIER = {*MEASURED[:6], "classifier_accuracy", "predicted_histogram"}
FLOORS = {f"{key}_floor" for key in MEASURED}
ALL = {
    *MEASURED, *FLOORS, *CLASSES, *BY_CLASSIFIER, "n", "n_reference", "n_neighbours", "nearest_train",
    "nearest_train_of_test", "nearest_ratio",
}  # fmt: skip
FAKES = real(bars(120, 5)[0]).astype(np.float32)


def test_evaluate_gives_json() -> None:
    found = judged(FAKES)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.keys() == ALL
    assert found["n"] == found["n_neighbours"] == 120
    for key in {*MEASURED, "classifier_accuracy", "nearest_train", "nearest_train_of_test", "nearest_ratio"}:
        assert type(found[key]) is (type(None) if key == "kid_error" else float), key


def test_the_numbers_are_those_of_the_functions() -> None:
    found, classifier = judged(FAKES), net()
    order = Generator(0, "metrics")
    sample = IMAGES[order.permutation(300)]
    tests = TEST[0][order.permutation(200)]
    a, b, t = (classifier.features(x) for x in (FAKES, sample, tests[:120]))
    assert found["fid"] == fid(a, b)
    assert found["fid_floor"] == fid(t, b)
    assert (found["kid"], found["kid_floor"]) == (kid(a, b).value, kid(t, b).value)
    assert (found["precision"], found["recall"]) == precision_recall(b[:120], a)
    assert found["two_sample_accuracy_floor"] == two_sample_accuracy(b[:120], t).overall
    assert found["mean_pairwise_distance_floor"] == mean_pairwise_distance(pixels(tests[:120], 28))
    assert found["fid_random"] == fid(untrained(1).features(FAKES), untrained(1).features(sample))
    p = classifier.probabilities(a)
    assert found["predicted_histogram"] == np.bincount(p.argmax(1), minlength=4).tolist()


def test_features_of_real_images_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    compute = Classifier.features
    monkeypatch.setattr(Classifier, "features", lambda self, x: seen.append(len(x)) or compute(self, x))
    this = judge()
    seen.clear()
    first = this.fid(FAKES)
    assert seen == [120, 300]  # neither the untrained net nor the tests were asked for
    assert this.fid(FAKES) == first
    assert seen[2:] == [120]
    found = this.evaluate(FAKES)
    assert found["fid"] == first
    seen.clear()
    assert this.evaluate(FAKES) == found
    assert seen == [120, 120, 0]
    assert this.evaluate(FAKES[:60])["fid_floor"] > found["fid_floor"]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("tests", [True, False])
@pytest.mark.parametrize("classified", [True, False])
def test_what_the_data_lack_is_left_out(labelled: bool, tests: bool, classified: bool) -> None:
    this = Reference(
        IMAGES, TEST[0] if tests else None, 28, LABELS if labelled else None, net() if classified else None
    )
    found = this.evaluate(FAKES)
    missing = set() if labelled else set(CLASSES)
    missing |= set() if tests else FLOORS | {"nearest_train_of_test", "nearest_ratio"}
    missing |= set() if classified else BY_CLASSIFIER | {f"{key}_floor" for key in BY_CLASSIFIER}
    assert found.keys() == ALL - missing
    assert this.fid(FAKES) == found["fid" if classified else "fid_random"]
    words = describe(found)
    assert ("In brackets: what as many test images get" in words) == tests
    assert ("There are no test images: no floors to compare these numbers with" in words) != tests
    assert ("by nearest training image: " in words) == labelled
    assert ("Inception score" in words) == ("\nFID (own features" in words) == classified
    if not classified:
        random = untrained(1)
        sample = IMAGES[Generator(0, "metrics").permutation(300)[:120]]
        assert found["precision"] == precision_recall(random.features(sample), random.features(FAKES)).precision


@pytest.mark.parametrize("n", [2, 5, 6])
def test_few_fakes(n: int) -> None:
    found = judged(FAKES[:n])
    assert ("n_neighbours" in found) == ("precision" in found) == ("coverage_floor" in found) == (n > 5)
    assert "kid" in found
    assert describe(found)


def test_untrained_is_the_same_everywhere_and_disturbs_nobody() -> None:
    one, other = untrained(1), untrained(1)
    assert np.array_equal(one.features(FAKES), other.features(FAKES))
    assert not np.array_equal(untrained(1, 1).features(FAKES), one.features(FAKES))
    assert one.features(FAKES).std(0).max() > 0.01
    assert untrained(3).features(np.repeat(FAKES, 3, 3)).shape == (120, 64)


def test_probabilities_do_not_overflow() -> None:
    classifier = net()
    features = classifier.features(FAKES)
    p = classifier.probabilities(features)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(1), 1)
    assert (p.argmax(1) == classifier.predict(FAKES)).all()
    np.testing.assert_allclose(classifier.probabilities(features * np.float32(1e30)).sum(1), 1)
    logits = np.log(p)
    doubled = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)  # no bias: twice the features
    np.testing.assert_allclose(classifier.probabilities(features * 2), doubled, rtol=1e-3, atol=1e-6)


# ---- in words ------------------------------------------------------------------------------------------------------


def test_describe() -> None:
    floors = {
        **{"fid_floor": 0.4, "kid_floor": 0.0001, "fid_random_floor": 0.01, "kid_random_floor": 0.00002},
        **{"inception_score_floor": 9.8, "marginal_entropy_floor": 2.301, "conditional_entropy_floor": 0.02},
        **{"precision_floor": 0.9, "recall_floor": 0.91, "density_floor": 1.01, "coverage_floor": 0.95},
        **{"two_sample_accuracy_floor": 0.502, "two_sample_accuracy_real_floor": 0.5},
        **{"two_sample_accuracy_fake_floor": 0.504, "mean_pairwise_distance_floor": 20.5},
    }
    values = {
        **{"n": 8000, "n_reference": 9000, "fid": 12.345, "classes_present": 2, "kid": 0.0312, "kid_error": 0.0021},
        **{"classifier_accuracy": 0.9921, "label_histogram": [1, 0, 1000], "nearest_ratio": 1.031},
        **{"predicted_histogram": [3000, 4800, 200], "fid_random": 0.123, "kid_random": 0.0045, "n_neighbours": 5000},
        **{"inception_score": 9.1, "marginal_entropy": 2.28, "conditional_entropy": 0.071, "nearest_train": 3.2},
        **{"precision": 0.8, "recall": 0.7, "density": 0.9, "coverage": 0.6, "mean_pairwise_distance": 19.5},
        **{"two_sample_accuracy": 0.812, "two_sample_accuracy_real": 0.85, "two_sample_accuracy_fake": 0.774},
        "nearest_train_of_test": 3.1,
    }
    lines = [
        "In brackets: what as many test images get",
        "FID (own features, 8,000 samples against 9,000 training images): 12.35 (0.40)",
        "The features are of a classifier of 28 pixels that gets 99.2% of the test images right; "
        "this FID compares with no published one",
        "KID (own features, 8,000 samples against 9,000 training images): 0.0312 (0.0001), standard error 0.0021",
        "By the features of an untrained net, 8,000 samples against 9,000 training images: "
        "FID 0.1230 (0.0100), KID 0.00450 (0.00002)",
        "Inception score (own classifier, 8,000 samples): 9.10 (9.80); "
        "entropy of the classes 2.280 (2.301), of one sample 0.071 (0.020)",
        "Neighbourhoods of 5,000 samples and 5,000 training images: precision 0.800 (0.900), recall 0.700 (0.910), "
        "density 0.900 (1.010), coverage 0.600 (0.950)",
        "Told apart by the nearest other, 5,000 samples and 5,000 training images: 81.2% (50.2%), 50% is ideal; "
        "of training images 85.0% (50.0%), of samples 77.4% (50.4%)",
        "Mean distance between 5,000 samples: 19.50 (20.50)",
        "Classes among 1,001 samples, by nearest training image: 0:1 1:0 2:1000; 2 of 3 present",
        "Classes among 8,000 samples, by the classifier: 0:3000 1:4800 2:200; the rarest has 2.5%",
        "Nearest training image: 1.03 times as far as from test images (far below 1: memorised)",
    ]
    assert describe(values | floors).splitlines() == lines
    bare = [re.sub(r" \([0-9.]+%?\)", "", line) for line in lines[1:]]
    assert describe(values).splitlines() == ["There are no test images: no floors to compare these numbers with", *bare]
    assert describe({}) == ""
    for key in values.keys() - {"nearest_train", "nearest_train_of_test"}:
        without = {name: value for name, value in values.items() if name != key}
        assert describe(without) == describe({**without, key: None}) != describe(values), key
    unused = {"predicted_histogram": [0, 6, 2], "label_histogram": [0, 6, 2], "classes_present": 2}
    for real, rarest, of in (([0, 5, 5], "25.0%", 2), ([5, 5, 5], "0.0%", 3), (None, "0.0%", 3)):
        *_, near, seen = describe({**unused, "reference_histogram": real}).splitlines()
        assert near.endswith(f"2 of {of} present")
        assert seen.endswith(f"the rarest has {rarest}")
    assert describe({"kid": 0.1}).splitlines() == ["KID (own features, ? samples against ? training images): 0.1000"]


def test_where_the_test_images_are_copies() -> None:
    found = judge(IMAGES).evaluate(real(IMAGES[:50]).astype(np.float32))
    assert found["nearest_ratio"] is None
    assert describe(found).splitlines()[-1] == "Nearest training image: as near as copies are, for test images too"


# ---- what is refused, and what is measured all the same ------------------------------------------------------------


@pytest.mark.parametrize(
    "fakes",
    [
        np.zeros((1, 28, 28, 1)), np.zeros((9, 28, 20, 1)), np.zeros((9, 28, 28)), np.zeros((9, 28, 28, 3)),
        np.zeros((9, 28, 28, 1), np.uint8), np.zeros((9, 40, 40, 1)),
    ],
)  # fmt: skip
def test_faulty_fakes(fakes: Array) -> None:
    text = f"Reference: fakes must be N > 1 float images (N, 28, 28, 1), but are {fakes.dtype} {fakes.shape}"
    for check in (judge().evaluate, judge().fid):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            check(fakes)


FORM = "must be N > 1 of uint8 (N, H, W, C), as they are stored, but are"


@pytest.mark.parametrize(
    ("images", "test_images", "labels", "text"),
    [
        (IMAGES[:1], TEST[0], None, f"training images {FORM} uint8 (1, 28, 28, 1)"),
        (IMAGES[..., 0], TEST[0], None, f"training images {FORM} uint8 (300, 28, 28)"),
        (IMAGES, TEST[0][:1], None, f"test images {FORM} uint8 (1, 28, 28, 1)"),
        (IMAGES, TEST[0] / 255, None, f"test images {FORM} float64 {TEST[0].shape}"),
        (IMAGES, None, LABELS[:9], "the labels of 300 training images are of shape (9,)"),
    ],
)
def test_faulty_real_images(images: Array, test_images: Array, labels: Array, text: str) -> None:
    with pytest.raises(ValueError, match=f"^Reference: {re.escape(text)}$"):
        Reference(images, test_images, 28, labels)


def test_fakes_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match=r"^metrics: floats in images must be in \[-1, 1\], but go from nan to nan$"):
        judged(np.full((9, 28, 28, 1), np.nan))


@pytest.mark.parametrize("with_classifier", [True, False])
def test_quick_is_a_part_of_all(with_classifier: bool) -> None:
    own = judge() if with_classifier else Reference(IMAGES, TEST[0], 28)
    found, everything = own.quick(FAKES), own.evaluate(FAKES)
    assert found.items() <= everything.items()
    assert {"fid" if with_classifier else "fid_random", "precision", "two_sample_accuracy"} <= found.keys()


def test_measure_takes_what_there_is() -> None:
    said: list[str] = []
    G = Sequential(Unflatten(28, 28, 1))  # z are the pixels

    def measured(fakes: Array, data: DataSet) -> dict[str, Any]:
        said.clear()
        codes = fakes.reshape(len(fakes), -1).astype(np.float32)
        return measure(RECIPES["gan"], Settings(), G, codes, data, said.append)

    found = measured(FAKES, DataSet("bars", *TRAIN, *TEST))
    assert found.keys() == ALL
    assert said == ["Measuring by a classifier, which is trained once for each data set.", describe(found)]
    found = measured(FAKES, DataSet("bars", IMAGES))
    assert {"fid_random", "precision", "nearest_train"} <= found.keys()
    assert said[0] == (
        "These images come without labels or without a test set, so nothing classifies them: measured by the features "
        "of an untrained net."
    )
    assert said[1] == describe(found)
    found = measured(FAKES, DataSet("bars", IMAGES, LABELS * 0, *TEST))
    assert found.keys() == ALL - BY_CLASSIFIER - {f"{key}_floor" for key in BY_CLASSIFIER}
    assert said[1].startswith("No classifier: train_classifier: all labels are 0: with one class there is nothing")
    assert measured(FAKES[:1], DataSet("bars", IMAGES)) == {}
    assert said[1].startswith("Not measured: Reference: fakes must be N > 1 float images (N, 28, 28, 1), but are ")
