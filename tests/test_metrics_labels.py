"""Whether samples show their labels: accuracies, the best matching, and what `minigan evaluate` makes of them."""

import re
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan.cli.measure import measure
from minigan.data import DataSet
from minigan.gan.recipes import RECIPES, Recipe
from minigan.metrics import assignment, describe, label_accuracy, label_scores, matched_labels
from minigan.metrics import classifier as classifier_module
from minigan.nn import Module
from minigan.random import Generator
from minigan.tensor import Tensor

Array = Any


def error(categories: Array, read: Array) -> float:
    """The share that is not read as the label of its category."""
    return 1 - label_accuracy(matched_labels(categories, read), read)


def test_label_accuracy_counts_what_agrees() -> None:
    labels = np.array([0, 1, 2, 1])
    assert label_accuracy(labels, np.array([0, 1, 1, 1], np.uint8)) == 0.75
    assert label_accuracy(labels, np.array([[9, 1, 0], [0, 2, 1], [0, 0, 5], [3, 0, 0]])) == 0.75


@pytest.mark.parametrize(
    ("labels", "read", "text"),
    [
        (np.zeros(0, int), np.zeros(0, int), "labels must be N > 0 whole numbers, but are int64 (0,)"),
        (np.zeros(3), np.zeros(3, int), "labels must be N > 0 whole numbers, but are float64 (3,)"),
        (np.zeros(3, int), np.zeros(3), "3 labels need as many whole numbers (N,), or probabilities (N, K), to compare "
         "with, not float64 (3,)"),
        (np.zeros(3, int), np.zeros((2, 4)), "3 labels need as many whole numbers (N,), or probabilities (N, K), to "
         "compare with, not float64 (2, 4)"),
    ],
)  # fmt: skip
def test_label_accuracy_refuses(labels: Array, read: Array, text: str) -> None:
    with pytest.raises(ValueError, match=f"^label_accuracy: {re.escape(text)}$"):
        label_accuracy(labels, read)


def least(cost: Array) -> float:
    """By trying all permutations."""
    K = len(cost)
    return float(min(cost[range(K), list(order)].sum() for order in permutations(range(K))))


@given(st.integers(1, 6), st.integers(0, 10_000), st.booleans())
def test_the_assignment_is_the_cheapest_of_all(K: int, seed: int, ties: bool) -> None:
    rng = Generator(seed, "costs")
    cost = rng.integers(4, (K, K)) - 2 if ties else rng.normal((K, K), np.float64)
    found = assignment(cost)
    assert sorted(found) == list(range(K))
    assert cost[range(K), found].sum() == pytest.approx(least(cost), abs=1e-12)


@pytest.mark.parametrize("K", [10, 20, 37])
def test_the_assignment_is_scipys(K: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    cost = Generator(K, "costs").normal((K, K), np.float64) ** 3
    np.testing.assert_array_equal(assignment(cost), optimize.linear_sum_assignment(cost)[1])


def test_an_assignment_by_hand() -> None:
    np.testing.assert_array_equal(assignment(np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])), [1, 0, 2])
    assert assignment(np.zeros((0, 0))).shape == (0,)


@pytest.mark.parametrize("cost", [np.zeros((2, 3)), np.zeros(4), np.array([[0, np.nan], [1, 1]])])
def test_assignment_refuses(cost: Array) -> None:
    text = f"assignment: the costs must be finite and (K, K), as many columns as rows, not {cost.shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        assignment(cost)


def test_categories_are_matched_one_to_one() -> None:
    """Category 0 is mostly a 2, and so is 1, which has to take what is left; greedily it would be the reverse."""
    categories = np.repeat([0, 1, 2], 10)
    read = np.array([2] * 9 + [0] + [2] * 6 + [0] * 4 + [1] * 10)
    np.testing.assert_array_equal(matched_labels(categories, read), np.repeat([2, 0, 1], 10))
    assert error(categories, read) == pytest.approx(1 - (9 + 4 + 10) / 30)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_names_of_categories_do_not_matter(K: int, seed: int) -> None:
    rng = Generator(seed, "read")
    read, names = rng.integers(K, 50), rng.permutation(K)
    assert error(names[read], read) == 0
    other = rng.integers(K, 50)
    assert error(names[other], read) == pytest.approx(error(other, read))
    assert error(other, read) <= (other != read).mean() + 1e-12


def test_more_categories_than_labels() -> None:
    """What is left over is wrong throughout; so are labels that no category has."""
    assert error(np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])) == 0.5
    assert error(np.array([0, 0, 0, 1]), np.array([5, 5, 7, 9])) == 0.25


def test_matching_refuses() -> None:
    text = "matched_labels: categories and what is read must be whole numbers (N,), but are int64 (2,) and float64 (2,)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        matched_labels(np.zeros(2, int), np.zeros(2))
    with pytest.raises(ValueError, match="but are int64 .2,. and int64 .3,.$"):
        error(np.zeros(2, int), np.zeros(3, int))


# ---- of images ----------------------------------------------------------------------------------------------------


def bars(count: int, stream: str) -> tuple[Array, Array]:
    """Noise, in which label 0 is bright on the left, 1 on the right: uint8 (N, 28, 28, 1), and labels."""
    rng = Generator(0, stream)
    labels = np.arange(count) % 2
    images = rng.integers(100, (count, 28, 28, 1))
    images[labels == 0, :, :14] += 150
    images[labels == 1, :, 14:] += 150
    return images.astype(np.uint8), labels.astype(np.uint8)


IMAGES, LABELS = bars(120, "training")
TESTS, TEST_LABELS = bars(40, "tests")


def floats(images: Array) -> Array:
    return (images / 127.5 - 1).astype(np.float32)


def test_label_scores() -> None:
    """Of 60 fakes a third is made for the other label; the classifier sees the brighter side."""
    fakes = floats(IMAGES[60:])
    fake_labels = np.where(np.arange(60) < 20, 1 - LABELS[60:], LABELS[60:]).astype(np.int64)
    sides = SimpleNamespace(predict=lambda x: (x[:, :, 14:].mean((1, 2, 3)) > x[:, :, :14].mean((1, 2, 3))).astype(int))
    sides.accuracy = 0.975
    found = label_scores(fakes, fake_labels, IMAGES, LABELS, TESTS, TEST_LABELS, sides)  # type: ignore[arg-type]
    assert found["label_accuracy"] == pytest.approx(2 / 3)
    assert found["label_accuracy_floor"] == 0.975
    assert found["nearest_label_error_floor"] == 0
    apart = ((floats(TESTS)[:, None] - fakes[None]) ** 2).sum((2, 3, 4))
    assert found["nearest_label_error"] == (fake_labels[apart.argmin(1)] != TEST_LABELS).mean() > 0.1
    scores = label_scores(fakes, LABELS[60:], IMAGES, LABELS, TESTS, TEST_LABELS, sides)  # type: ignore[arg-type]
    assert scores == {**found, "label_accuracy": 1, "nearest_label_error": 0}
    others = 1 - LABELS[60:]
    assert label_scores(fakes, others, IMAGES, LABELS, TESTS, TEST_LABELS, sides)["label_accuracy"] == 0  # type: ignore[arg-type]
    assert label_scores(fakes, others, IMAGES, LABELS, TESTS, TEST_LABELS, sides, taught=False) == scores  # type: ignore[arg-type]


class Sides(Module):
    """Bright on the left for category 0, or, `swapped`, for 1; of the noise, which are pixels, a tenth."""

    def __init__(self, recipe: Recipe, settings: Any, swapped: bool) -> None:
        self.prior, self.swapped = recipe.latent(settings), swapped

    def forward(self, codes: Tensor) -> Tensor:
        noise, (category, *_), _ = self.prior.split(codes.array)
        x = 0.1 * noise[:, :784].reshape(-1, 28, 28, 1).clip(-3, 3)
        x[..., :14, :] += category[:, 1 if self.swapped else 0].reshape(-1, 1, 1, 1) - 0.5
        x[..., 14:, :] += category[:, 0 if self.swapped else 1].reshape(-1, 1, 1, 1) - 0.5
        return Tensor.of(x)


@pytest.fixture(scope="module", autouse=True)
def quick_classifier(clean_environment: None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier_module, "MIN_STEPS", 30)
        yield


@pytest.mark.parametrize(("name", "swapped"), [("cgan", False), ("cgan", True), ("infogan", True)])
def test_measure_reads_the_labels(name: str, swapped: bool) -> None:
    """Taught labels must be the right ones; categories only have to fit labels somehow."""
    recipe, data = RECIPES[name], DataSet("bars", IMAGES, LABELS, TESTS, TEST_LABELS)
    values = {"cgan": "classes=2", "infogan": "categories=2"}[name]
    settings = recipe.parse([values, "latent=784"], "test")
    codes = recipe.latent(settings).draw(Generator(0, "codes"), 50)
    said: list[str] = []
    found = measure(recipe, settings, Sides(recipe, settings, swapped), codes, data, said.append)
    right = name == "infogan" or not swapped
    assert found["label_accuracy"] == float(right)
    assert found["nearest_label_error"] == float(not right)
    assert (found["label_accuracy_floor"], found["nearest_label_error_floor"]) == (1, 0)
    assert said[1] == "Reading the labels of samples, and those of test images by their nearest samples."
    assert said[-1] == describe(found)
    share, wrong = ("100.0%", "0.0%") if right else ("0.0%", "100.0%")
    assert (
        f"Labels: the classifier reads {share} (100.0%) of samples as asked (categories that nobody taught: as the "
        f"labels that fit best); {wrong} (0.0%) of test images have a nearest sample of another label"
    ) in said[-1].splitlines()


def test_no_labels_are_read_of_others() -> None:
    """Not of a GAN that has none, nor where the data have none."""
    recipe = RECIPES["gan"]
    settings = recipe.parse(["latent=784"], "test")
    codes = recipe.latent(settings).draw(Generator(0, "codes"), 20)

    class Plain(Module):
        def forward(self, codes: Tensor) -> Tensor:
            return Tensor.of(codes.array[:, :784].clip(-1, 1).reshape(-1, 28, 28, 1))

    data = DataSet("bars", IMAGES, LABELS, TESTS, TEST_LABELS)
    found = measure(recipe, settings, Plain(), codes, data, lambda text: None)
    assert "label_histogram" in found
    assert "label_accuracy" not in found
    recipe = RECIPES["infogan"]
    settings = recipe.parse(["latent=784"], "test")
    codes = recipe.latent(settings).draw(Generator(0, "codes"), 20)
    assert "label_accuracy" not in measure(recipe, settings, Plain(), codes, DataSet("b", IMAGES), lambda text: None)
