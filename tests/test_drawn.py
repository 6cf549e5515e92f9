"""Drawn digits: what is drawn, by a few thousand of them, and the cache, by ten at a time."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minigan.data import drawn
from minigan.data.drawn import drawn_digits
from minigan.random import Generator

Digits = tuple[np.ndarray, np.ndarray]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    Generator(0, "").uniform(1)  # first, so that compiled kernels stay in the user's cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "minigan" / "drawn"


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes both splits small and the hands few."""
    monkeypatch.setattr(drawn, "COUNTS", {"train": 10, "test": 10})
    monkeypatch.setattr(drawn, "HANDS", 12)


@pytest.fixture(scope="module")
def some() -> Digits:
    return drawn.draw(2000, Generator(0, "some"))


@pytest.fixture(scope="module")
def others() -> Digits:
    """By other hands."""
    return drawn.draw(500, Generator(0, "others"))


def same(a: Digits, b: Digits) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# What is drawn


def test_a_split_has_mnist_s_shapes_and_ten_digits_equally_often() -> None:
    images, labels = drawn_digits("test")
    assert images.shape == (10_000, 28, 28)
    assert labels.shape == (10_000,)
    assert images.dtype == labels.dtype == np.uint8
    assert drawn.COUNTS["train"] == 60_000
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert (abs(counts - 1000) < 150).all()  # five deviations


def test_there_is_as_much_ink_as_in_mnist(some: Digits) -> None:
    images, labels = some
    assert images.mean() == pytest.approx(33.3, abs=2)  # MNIST's mean and deviation
    assert images.std() == pytest.approx(78.6, abs=3)
    for digit, ink in enumerate((44, 19, 38, 36, 31, 33, 35, 29, 38, 31)):  # MNIST's
        assert images[labels == digit].mean() == pytest.approx(ink, abs=8), digit


def test_every_digit_is_whole_and_in_the_middle(some: Digits) -> None:
    images, _ = some
    assert (images.max((1, 2)) > 200).all()
    assert (images.mean((1, 2)) > 5).all()
    border = images.copy()
    border[:, 1:-1, 1:-1] = 0
    assert (border.max((1, 2)) > 127).mean() < 0.01
    height = (images > 127).any(2).sum(1)
    assert 18 < height.mean() < 21
    assert height.min() >= 12
    weights = images.reshape(len(images), -1) / images.sum((1, 2))[:, None]
    centres = weights @ (np.indices((28, 28)).reshape(2, -1).T - 13.5)
    assert abs(centres).max() < 4
    assert abs(centres.mean(0)).max() < 0.5


def test_no_two_images_are_the_same(some: Digits) -> None:
    assert len(np.unique(some[0].reshape(2000, -1), axis=0)) == 2000


def test_the_labels_fit_the_images(some: Digits, others: Digits) -> None:
    """The nearest image by other hands has the same label."""
    near, far = (images.reshape(len(images), -1) / np.float32(255) for images, _ in (some, others))
    distance = (near**2).sum(1) - 2 * far @ near.T
    assert (some[1][distance.argmin(1)] == others[1]).mean() > 0.95


@pytest.mark.parametrize("row", drawn.MODELS)
def test_the_models_of_a_digit_share_its_hands_equally(row: tuple[str, ...]) -> None:
    assert drawn.HANDS % len(row) == 0


def test_curves_meet_the_ends_of_their_strokes_and_close_rings() -> None:
    names = ["00", "09", "90", "99"]
    line = drawn._curves("00 90", names)
    np.testing.assert_allclose(line[0], (1, 0, 0, 0), atol=1e-12)
    np.testing.assert_allclose(line.sum(1), 1)
    assert (np.diff(line[:, 2]) > 0).all()
    ring = drawn._curves("00 90 99 09 00", names)
    np.testing.assert_allclose(ring[0], (4 / 6, 1 / 6, 1 / 6, 0), atol=1e-12)  # between the neighbours on the ring


# The seed


@pytest.mark.usefixtures("ten")
def test_the_seed_and_the_split_determine_the_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = drawn_digits("train", 3)
    assert not same(first, drawn_digits("train", 4))
    assert not same(first, drawn_digits("test", 3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert same(first, drawn_digits("train", 3))


@pytest.mark.usefixtures("ten")
def test_training_digits_of_seed_0_come_without_arguments() -> None:
    assert same(drawn_digits(), drawn_digits("train", seed=0))


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match="^drawn_digits: there is no split 'x'; choose train or test$"):
        drawn_digits("x")  # type: ignore[arg-type]


# The cache


@pytest.mark.usefixtures("ten")
def test_digits_are_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn_digits()
    (file,) = cache.iterdir()
    assert file.name.startswith("train-0-")
    monkeypatch.delattr(drawn, "draw")
    again = drawn_digits()
    assert same(first, again)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in again)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "one bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "of another size": lambda data: data[: 9 * 785] + data[-32:],
}


@pytest.mark.usefixtures("ten")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_drawn_anew(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    first = drawn_digits()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(first, drawn_digits())
    assert file.read_bytes() == whole


@pytest.mark.usefixtures("ten")
def test_a_whole_file_of_another_number_of_digits_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn_digits()
    monkeypatch.setattr(drawn, "COUNTS", {"train": 20, "test": 10})
    assert len(drawn_digits()[0]) == 20
    monkeypatch.setattr(drawn, "COUNTS", {"train": 10, "test": 10})
    assert same(first, drawn_digits())


@pytest.mark.usefixtures("ten")
def test_without_a_cache_a_warning_says_so_and_the_digits_come(cache: Path) -> None:
    first = drawn_digits()
    for file in cache.iterdir():
        file.unlink()
    os.rmdir(cache)
    cache.write_text("in the way")
    with pytest.warns(
        RuntimeWarning, match=r"cannot keep .*train-0-.* so it is made anew each time; make room, or set"
    ):
        assert same(first, drawn_digits())
