"""The Fréchet distance against its closed forms, neighbours against brute force, and a classifier that trains here."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from minigan import random
from minigan.data import load_mnist
from minigan.metrics import Reference, fid, frechet_distance, nearest, neighbours, train_classifier
from minigan.metrics import classifier as classifier_module
from minigan.random import Generator

Array = np.typing.NDArray[Any]

# The Fréchet distance


def gaussian(seed: int, D: int, rank: int | None = None) -> tuple[Array, Array]:
    """A mean (D,) and a covariance (D, D) of the given rank."""
    draw = np.random.default_rng(seed)
    factor = draw.normal(size=(D, D if rank is None else rank))
    return draw.normal(size=D), factor @ factor.T


@pytest.mark.parametrize(
    ("m_a", "s_a", "m_b", "s_b"), [(0, 1, 0, 1), (1, 2, -3, 0.5), (5, 0, 5, 3), (1e3, 1e-3, 0, 1e3)]
)
def test_frechet_in_one_dimension(m_a: float, s_a: float, m_b: float, s_b: float) -> None:
    distance = frechet_distance(np.array([m_a]), np.array([[s_a**2]]), np.array([m_b]), np.array([[s_b**2]]))
    assert distance == pytest.approx((m_a - m_b) ** 2 + (s_a - s_b) ** 2)


def test_frechet_of_commuting_covariances() -> None:
    """With one basis for both, it is the sum of the distances in one dimension."""
    draw = np.random.default_rng(0)
    basis, _ = np.linalg.qr(draw.normal(size=(6, 6)))
    m_a, m_b, s_a, s_b = draw.uniform(0, 3, (4, 6))
    distance = frechet_distance(m_a, basis * s_a**2 @ basis.T, m_b, basis * s_b**2 @ basis.T)
    assert distance == pytest.approx(((m_a - m_b) ** 2 + (s_a - s_b) ** 2).sum())


def test_frechet_by_hand() -> None:
    """S_a S_b = [[2, 1], [1, 1]] [[1, 0], [0, 4]] has the trace 6 and the determinant 4, and of a 2x2 matrix the
    square root has the trace sqrt(tr + 2 sqrt(det)) = sqrt(10)."""
    zero = np.zeros(2)
    distance = frechet_distance(zero, np.array([[2.0, 1], [1, 1]]), zero, np.diag([1.0, 4]))
    assert distance == pytest.approx(3 + 5 - 2 * np.sqrt(10))


@pytest.mark.parametrize(("rank_a", "rank_b"), [(8, 8), (3, 8), (3, 5), (0, 8), (0, 0)])
def test_frechet_against_the_matrix_square_root(rank_a: int, rank_b: int) -> None:
    """sqrtm needs a regular product; a little more variance makes it one."""
    linalg = pytest.importorskip("scipy.linalg")
    (m_a, S_a), (m_b, S_b) = gaussian(1, 8, rank_a), gaussian(2, 8, rank_b)
    little = 1e-9 * np.eye(8)
    root = linalg.sqrtm((S_a + little) @ (S_b + little))
    expected = ((m_a - m_b) ** 2).sum() + np.trace(S_a + S_b - 2 * root.real)
    assert frechet_distance(m_a, S_a, m_b, S_b) == pytest.approx(expected, abs=1e-2, rel=1e-3)
    if rank_a == rank_b == 8:
        assert frechet_distance(m_a, S_a, m_b, S_b) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 6), st.integers(0, 6))
def test_frechet_is_a_distance(seed: int, D: int, rank_a: int, rank_b: int) -> None:
    """Symmetric, never negative, 0 for equals, and blind to the choice of coordinates; singular covariances too."""
    a, b = gaussian(seed, D, rank_a), gaussian(seed + 1, D, rank_b)
    distance = frechet_distance(*a, *b)
    assert type(distance) is float
    assert distance >= 0
    assert frechet_distance(*b, *a) == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-6)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))
    turned = [(turn @ mean + 1, turn @ cov @ turn.T) for mean, cov in (a, b)]
    assert frechet_distance(*turned[0], *turned[1]) == pytest.approx(distance, rel=1e-6, abs=1e-6)


def test_frechet_refuses_other_shapes() -> None:
    text = "means must be (D,) and covariances (D, D) of one D, but are (2,), (2, 2) and (3,), (3, 3)"
    with pytest.raises(ValueError, match=re.escape(text)):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", range(4))
def test_frechet_refuses_what_is_not_finite(bad: float, place: int) -> None:
    arguments = [np.zeros(2), np.eye(2), np.zeros(2), np.eye(2)]
    arguments[place].flat[0] = bad
    text = "^frechet_distance: the means or the covariances hold NaN or infinity$"
    with pytest.raises(ValueError, match=text):
        frechet_distance(*arguments)


def test_fid_fits_gaussians_without_bias() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(50, 4)).astype(np.float32), draw.normal(1, 2, size=(70, 4)).astype(np.float32)
    expected = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert fid(a, b) == pytest.approx(expected, rel=1e-5)
    assert fid(a, a) == pytest.approx(0, abs=1e-6)
    assert fid(a + 3, a) == pytest.approx(4 * 9, rel=1e-5)


def test_fid_of_a_large_offset_keeps_its_digits() -> None:
    """Float32 sums of features near 1000 would lose a variance of 1e-4."""
    x = np.random.default_rng(0).normal(1000, 0.01, (500, 3)).astype(np.float32)
    y = x.astype(np.float64) * 2 - 1000
    assert fid(x, y) == pytest.approx(fid(x.astype(np.float64) - 1000, y - 1000), rel=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (np.zeros((1, 3)), np.zeros((9, 3)), "fid: features must be (N, D) of N > 1 samples, but are (1, 3)"),
        (np.zeros((9, 3)), np.zeros((0, 3)), "fid: features must be (N, D) of N > 1 samples, but are (0, 3)"),
        (np.zeros((9, 3, 1)), np.zeros((9, 3)), "fid: features must be (N, D) of N > 1 samples, but are (9, 3, 1)"),
        (np.zeros((9, 3)), np.zeros((9, 4)), "but are (9, 3) and (9, 4); compute both by the same net"),
        (np.zeros((9, 3)), np.full((9, 3), np.nan), "fid: features (9, 3) hold NaN or infinity; look at the images"),
        (np.full((9, 3), np.inf), np.zeros((9, 3)), "fid: features (9, 3) hold NaN or infinity; look at the images"),
    ],
)
def test_fid_faults(a: Array, b: Array, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        fid(a, b)


# Neighbours


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_nearest_against_brute_force(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    draw = np.random.default_rng(0)
    queries, references = (draw.integers(0, 256, (n, 3, 4, 2)).astype(dtype) for n in (20, 60))
    every = np.sqrt(((queries[:, None].astype(np.float64) - references) ** 2).sum((2, 3, 4)))
    index, distance = nearest(queries, references)
    np.testing.assert_array_equal(index, every.argmin(1))
    np.testing.assert_allclose(distance, every.min(1), rtol=1e-14)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 1000.0]))
def test_nearest_finds_copies_among_almost_copies(seed: int, offset: float) -> None:
    """The others differ in the last bits, where |a|^2 + |b|^2 - 2 a b in float32 is noise."""
    draw = np.random.default_rng(seed)
    image = draw.uniform(-1, 1, 50) + offset
    references = (image + draw.choice([-1e-6, 1e-6], (40, 50)) * (1 + abs(offset))).astype(np.float32)
    order = draw.permutation(40)
    index, distance = nearest(references[order], references)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(references[index], references[order])


def test_nearest_takes_the_first_of_equals_and_no_queries() -> None:
    index, distance = nearest(np.ones((2, 3)), np.ones((5, 3)))
    assert (index.tolist(), distance.tolist()) == ([0, 0], [0, 0])
    assert [len(found) for found in nearest(np.ones((0, 3)), np.ones((5, 3)))] == [0, 0]


@pytest.mark.parametrize(
    ("queries", "references", "text"),
    [
        (np.zeros((3, 4)), np.zeros((0, 4)), "one shape, M > 0, but they are (3, 4) and (0, 4)"),
        (np.zeros((3, 2, 2)), np.zeros((5, 4)), "one shape, M > 0, but they are (3, 2, 2) and (5, 4)"),
        (np.full((3, 4), np.nan), np.zeros((5, 4)), "hold NaN, infinity or numbers beyond"),
        (np.zeros((3, 4)), np.full((5, 4), np.inf), "hold NaN, infinity or numbers beyond"),
    ],
)
def test_nearest_faults(queries: Array, references: Array, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        nearest(queries, references)


# The classifier


def bars(n: int, seed: int, channels: int = 1, size: int = 28) -> tuple[Array, Array]:
    """Four classes: a bright bar on noise, upright or lying, on either side: images (n, size, size, C), labels."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 80, (n, size, size, channels))
    labels = draw.integers(0, 4, n)
    for image, label in zip(images, labels, strict=True):
        place = size // 4 + (label % 2) * size // 2 + draw.integers(-2, 3)
        (image if label < 2 else image.swapaxes(0, 1))[place - 2 : place + 2] += 150
    return images.astype(np.uint8), labels.astype(np.uint8)


def cache_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by XDG_CACHE_HOME: the compiled kernels shall stay where they are."""
    monkeypatch.setattr(classifier_module, "cache_folder", lambda: folder)


@pytest.fixture(autouse=True)
def short(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, and a cache that all tests of this file share."""
    cache_in(tmp_path_factory.getbasetemp() / "metrics-cache", monkeypatch)
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 30)


TRAIN, TEST = bars(300, 1), bars(200, 2)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each training."""
    trained: list[int] = []
    train = classifier_module._train

    def counting(*args: Any) -> None:
        trained.append(1)
        train(*args)

    monkeypatch.setattr(classifier_module, "_train", counting)
    return trained


def test_classifier_learns(capsys: pytest.CaptureFixture[str]) -> None:
    net = train_classifier(*TRAIN, *TEST)
    assert type(net.accuracy) is float
    assert net.accuracy > 0.97
    assert net.accuracy == (net.predict(TEST[0]) == TEST[1]).mean()
    features = net.features(TEST[0])
    assert features.shape == (200, 64)
    assert features.dtype == np.float32
    assert net.features(TEST[0][:0]).shape == (0, 64)
    assert net.predict(TEST[0][:0]).shape == (0,)
    assert not capsys.readouterr().out


def test_classifier_takes_bytes_and_floats_with_or_without_a_channel_axis_and_of_any_size() -> None:
    net = train_classifier(*TRAIN, *TEST)
    features, floats = net.features(TEST[0]), TEST[0] / 127.5 - 1
    np.testing.assert_array_equal(net.features(TEST[0][..., 0]), features)
    np.testing.assert_allclose(net.features(floats), features, rtol=1e-3, atol=1e-4)
    larger = np.repeat(np.repeat(TEST[0], 2, 1), 2, 2)
    assert (net.predict(larger) == TEST[1]).mean() > 0.95
    many = np.repeat(TEST[0], 6, 0)  # more than are computed at a time
    np.testing.assert_allclose(net.features(many), np.repeat(features, 6, 0), rtol=1e-3, atol=1e-4)


def test_classifier_forgets_no_mode() -> None:
    """Features are those of the running statistics, whatever mode somebody left the net in."""
    net = train_classifier(*TRAIN, *TEST)
    before = net.features(TEST[0])
    np.testing.assert_array_equal(net.train().features(TEST[0]), before)


def test_classifier_of_small_colour_images() -> None:
    (images, labels), test = bars(300, 3, 3, 20), bars(200, 4, 3, 20)
    assert train_classifier(images, labels.astype(np.int64), *test).accuracy > 0.9


def test_classifier_with_a_class_that_has_no_images() -> None:
    images, labels = TRAIN
    net = train_classifier(images, np.where(labels == 3, 255, labels).astype(np.uint8), *TEST)
    assert set(net.predict(TEST[0])) == {0, 1, 2, 255}


def test_classifier_needs_two_classes() -> None:
    text = "^train_classifier: all labels are 3: with one class there is nothing to tell apart$"
    with pytest.raises(ValueError, match=text):
        train_classifier(TRAIN[0], np.full_like(TRAIN[1], 3), *TEST)


def test_classifier_is_cached_and_a_seed_fixes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache_in(tmp_path, monkeypatch)
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 3)
    trained = counted(monkeypatch)
    features = train_classifier(*TRAIN, *TEST).features(TEST[0])
    (path,) = tmp_path.glob("classifier-*.safetensors")
    np.testing.assert_array_equal(train_classifier(*TRAIN, *TEST).features(TEST[0]), features)
    assert len(trained) == 1
    path.unlink()
    np.testing.assert_array_equal(train_classifier(*TRAIN, *TEST).features(TEST[0]), features)
    assert len(trained) == 2

    images, labels = TRAIN[0].copy(), TRAIN[1].copy()
    images[7, 3, 3, 0] += 1
    labels[7] = (labels[7] + 1) % 4
    for other in ({"images": images}, {"labels": labels}, {"seed": 1}):
        names: dict[str, Any] = {
            "images": TRAIN[0],
            "labels": TRAIN[1],
            "test_images": TEST[0],
            "test_labels": TEST[1],
            **other,
        }
        assert not np.array_equal(train_classifier(**names).features(TEST[0]), features)
    assert len(trained) == 5
    assert len(list(tmp_path.glob("classifier-*"))) == 4

    monkeypatch.setattr(classifier_module, "RECIPE", np.zeros(1, np.uint8))
    train_classifier(*TRAIN, *TEST)
    monkeypatch.setattr(classifier_module, "__version__", "another")
    train_classifier(*TRAIN, *TEST)
    assert len(trained) == 7


def test_classifier_replaces_a_damaged_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache_in(tmp_path, monkeypatch)
    features = train_classifier(*TRAIN, *TEST).features(TEST[0])
    (path,) = tmp_path.glob("classifier-*")
    whole = path.read_bytes()
    trained: list[int] = []

    def restore(net: Any, *_: Any) -> None:
        trained.append(1)
        state = load(whole)
        del state["sha256"]
        net.load_state_dict(state)

    monkeypatch.setattr(classifier_module, "_train", restore)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = save({"sha256": np.zeros(32, np.uint8)})
    for damaged in (b"", b"\xff" * 99, whole[:5], whole[:-1], whole + b"\0", bytes(flipped), other):
        path.write_bytes(damaged)
        assert np.array_equal(train_classifier(*TRAIN, *TEST).features(TEST[0]), features)
        assert path.read_bytes() == whole
    assert len(trained) == 7


def test_classifier_that_cannot_be_kept_warns_and_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache_in(tmp_path / "file", monkeypatch)
    with pytest.warns(RuntimeWarning, match=r"cannot keep .*classifier-\w+\.safetensors"):
        assert train_classifier(*TRAIN, *TEST).accuracy > 0.97


def test_classifier_disturbs_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache_in(tmp_path, monkeypatch)
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 3)
    names = ["init", "dropout", "data", "latent", "classifier weights", "classifier data"]
    random.stream("init").normal(5)
    before = [random.stream(name).state_dict() for name in names]
    state = pickle.dumps(np.random.get_state())  # noqa: NPY002 - the global state is the point
    features = train_classifier(*TRAIN, *TEST).features(TEST[0])
    assert [random.stream(name).state_dict() for name in names] == before
    assert pickle.dumps(np.random.get_state()) == state  # noqa: NPY002

    random.manual_seed(5)
    next(tmp_path.glob("classifier-*")).unlink()
    np.testing.assert_array_equal(train_classifier(*TRAIN, *TEST).features(TEST[0]), features)


def test_classifier_shows_its_progress_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(classifier_module, "MIN_STEPS", 2)
    images, labels = bars(9, 1)
    for folder, progress in (("a", True), ("b", False)):
        cache_in(tmp_path / folder, monkeypatch)
        train_classifier(images, labels, *TEST, progress=progress)
        shown = capsys.readouterr()
        assert not shown.out
        assert ("4 of 4 steps of the classifier, " in shown.err) == progress
        if not progress:
            assert not shown.err


IMAGES, LABELS = TRAIN


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (IMAGES / 255, LABELS, "training images must be N > 1 of uint8 (N, H, W, C), but are float64 (300, 28, 28, 1)"),
        (IMAGES[0, :, :, 0], LABELS, "training images must be N > 1 of uint8 (N, H, W, C), but are uint8 (28, 28)"),
        (IMAGES[:1], LABELS[:1], "training images must be N > 1 of uint8 (N, H, W, C), but are uint8 (1, 28, 28, 1)"),
        (IMAGES, LABELS[:9], "the training labels must be 300 integers in 0 .. 255, one for each"),
        (IMAGES, LABELS / 1, "must be 300 integers in 0 .. 255, one for each image, but are float64 (300,)"),
        (IMAGES, LABELS.astype(int) - 1, "but are int64 (300,) from -1 to 2"),
        (IMAGES, LABELS.astype(int) + 253, "but are int64 (300,) from 253 to 256"),
    ],
)  # fmt: skip
def test_classifier_faults(images: Array, labels: Array, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        train_classifier(images, labels, *TEST)
    with pytest.raises(ValueError, match=re.escape(text.replace("training", "test"))):
        train_classifier(*TRAIN, images, labels)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (np.zeros((2, 28, 28, 1), np.int64), "metrics: images must be uint8, or floats in [-1, 1], not int64"),
        (np.linspace(0, 255, 784).reshape(1, 28, 28, 1), "floats in images must be in [-1, 1], but go from 0 to 255"),
        (np.full((2, 28, 28, 1), np.nan), "floats in images must be in [-1, 1], but go from nan to nan"),
    ],
)
def test_images_of_another_range_are_refused(images: Array, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        train_classifier(*TRAIN, *TEST).features(images)


# The real one

HERE = os.environ.get("MINIGAN_DATA")


@pytest.mark.skipif(not HERE, reason="MINIGAN_DATA does not name a folder with MNIST")
def test_the_real_mnist() -> None:
    """About half a minute on two cores."""
    train, test = load_mnist(HERE, "train"), load_mnist(HERE, "test")
    net = train_classifier(*train, *test)
    assert net.accuracy >= 0.99
    rows = Generator(0, "others").permutation(60_000)[:2000]
    judge = Reference(train[0][..., None], test[0][..., None], 28, train[1], net)
    found = judge.evaluate((train[0][rows, :, :, None] / 127.5 - 1).astype(np.float32))
    assert found["fid_floor"] < 0.5
    assert found["nearest_train"] < 1e-4
