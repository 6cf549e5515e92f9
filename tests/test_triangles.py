"""Triangles: how they are drawn, against brute force; and how far images are from them, where that is known."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.data import drawn_triangles, load, sources
from minigan.data import triangles as data_module
from minigan.metrics import nearest
from minigan.metrics import triangles as metrics
from minigan.random import Generator

Array = np.typing.NDArray[Any]

SHA256 = {
    "train": "7c21e8790282c0d43182dab0f0588c62b71bedad98f67a0c8be22c04ecc0137f",
    "test": "865b5003328329f16e1a48a4ddb8e4e5d438db6f8c034e71452f83925346a720",
}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    Generator(0, "").uniform(1)  # first, so that compiled kernels stay in the user's cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "minigan" / "triangles"


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("whole")))
        return {"train": drawn_triangles("train"), "test": drawn_triangles("test")}


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "COUNTS", {"train": 10, "test": 10})


def angles(n: int, name: str = "some") -> Array:
    return data_module.random_angles(n, Generator(0, name))


def gaps(radians: Array) -> Array:
    """Between neighbours on the circle, degrees (N, 3)."""
    following = np.concatenate([radians[:, 1:], radians[:, :1] + 2 * np.pi], axis=1)
    return np.rad2deg(following - radians)


def by_samples(vertices: Array, size: int) -> Array:
    """Every sample by itself: inside if the ray to its right crosses an odd number of sides."""
    place = (np.arange(8 * size) + 0.5) / 8
    x, y = np.meshgrid(place, place)
    inside = np.zeros(x.shape, bool)
    for (px, py), (qx, qy) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        if py != qy:
            inside ^= ((py <= y) != (qy <= y)) & (x < px + (y - py) * ((qx - px) / (qy - py)))
    return inside.reshape(size, 8, size, 8).mean((1, 3))


# ---- the rasteriser -------------------------------------------------------------------------------------------------

places = st.floats(-3, 12) | st.integers(0, 9).map(float) | st.integers(0, 72).map(lambda i: (i + 0.5) / 8)


@given(st.lists(st.tuples(places, places), min_size=3, max_size=3))
def test_every_sample_counts(points: list[tuple[float, float]]) -> None:
    """Also beyond the edge, through samples, level, upright, flat and of one point."""
    vertices = np.array(points)
    covered = data_module.render(vertices[None], size=9)[0]
    expected = by_samples(vertices, 9)
    off = np.abs(covered - expected)
    assert off.max() <= 1 / 64 + 1e-12  # a side may run through a sample, where rounding decides
    assert off.sum() <= 10 / 64


def test_samples_are_exact_where_no_side_runs_through_one() -> None:
    vertices = data_module.on_circle(angles(100))
    for covered, triangle in zip(data_module.render(vertices), vertices, strict=True):
        np.testing.assert_array_equal(covered, by_samples(triangle, 28))


def test_areas() -> None:
    vertices = data_module.on_circle(angles(1000))
    a, b = vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 0]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    for smooth, usual in ((True, 0.02), (False, 0.1)):
        off = abs(data_module.render(vertices, smooth=smooth).sum((1, 2)) - area)
        assert off.mean() < usual
        assert off.max() < 1  # of a side that is nearly level
    whole = np.array([[[-50.0, -50], [100, 0], [0, 100]]])
    for smooth in (False, True):
        np.testing.assert_allclose(data_module.render(whole, smooth=smooth), 1, atol=1e-12)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_turned_triangle_is_the_turned_image(smooth: bool) -> None:
    vertices = data_module.on_circle(angles(200))
    image = data_module.render(vertices, smooth=smooth)
    x, y = vertices[..., 0], vertices[..., 1]

    def same(a: Array, b: Array, places: Array) -> None:
        rendered = data_module.render(np.stack([a, b], axis=2), smooth=smooth)
        np.testing.assert_allclose(rendered, places, atol=1e-9)

    same(28 - x, y, image[:, :, ::-1])
    same(x, 28 - y, image[:, ::-1])
    if not smooth:  # whose lines would run down
        same(y, x, image.transpose(0, 2, 1))
    for order in ([1, 2, 0], [2, 1, 0]):
        np.testing.assert_allclose(data_module.render(vertices[:, order], smooth=smooth), image, atol=1e-9)


def test_smooth_images_change_with_every_move() -> None:
    here = data_module.on_circle(angles(50))
    change = data_module.render(here + np.array([1e-3, 0]), smooth=True) - data_module.render(here, smooth=True)
    assert (np.abs(change).max((1, 2)) > 1e-4).all()
    assert abs(change.sum((1, 2))).max() < 1e-9
    near = np.linalg.norm((data_module.render(here, smooth=True) - data_module.render(here)).reshape(50, -1), axis=1)
    assert near.max() < 0.3


def test_render_names_the_shape() -> None:
    message = r"^render: vertices must be \(N, 3, 2\), but are \(4, 2\)$"
    with pytest.raises(ValueError, match=message):
        data_module.render(np.zeros((4, 2)))


# ---- the data set ---------------------------------------------------------------------------------------------------


def test_vertices_are_as_the_paper_s_program_promises() -> None:
    radians = angles(20_000)
    assert gaps(radians).min() >= 20
    assert gaps(radians).max() <= 220
    assert gaps(radians).min() < 21
    vertices = data_module.on_circle(radians)
    np.testing.assert_allclose(vertices.mean(1), 14, atol=1e-9)
    assert vertices.min() > 0
    assert vertices.max() < 28
    a, b, c = (np.linalg.norm(vertices[:, i] - vertices[:, i - 1], axis=1) for i in range(3))
    s = (a + b + c) / 2
    np.testing.assert_allclose(a * b * c / 4 / np.sqrt(s * (s - a) * (s - b) * (s - c)), 10.5)  # the circle's radius
    turns = np.histogram(np.rad2deg(radians[:, 0]) % 360, 12, (0, 360))[0] / 20_000
    assert abs(turns - 1 / 12).max() < 0.01


def test_the_splits_are_the_same_bytes_everywhere(splits: dict[str, Array]) -> None:
    for split, n in (("train", 60_000), ("test", 10_000)):
        images = splits[split]
        assert (images.shape, images.dtype) == ((n, 28, 28), np.uint8)
        assert hashlib.sha256(images.data).hexdigest() == SHA256[split]
        assert len(np.unique(images[:2000].reshape(2000, -1), axis=0)) == 2000
    levels = np.unique(splits["test"])
    np.testing.assert_array_equal(levels, np.unique(np.rint(255 * np.arange(65) / 64)))
    assert (splits["test"][:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    ink = 1 - splits["test"] / 255
    middle = (ink.sum(1) @ (np.arange(28) + 0.5)) / ink.sum((1, 2))
    assert abs(middle - 14).max() < 0.1
    assert 30 < ink.sum((1, 2)).min() < ink.sum((1, 2)).max() < 145


@pytest.mark.usefixtures("ten")
def test_the_seed_and_the_split_determine_the_triangles() -> None:
    first = drawn_triangles()
    np.testing.assert_array_equal(first, drawn_triangles("train", seed=0))
    assert not np.array_equal(first, drawn_triangles("test"))
    assert not np.array_equal(first, drawn_triangles("train", 1))


@pytest.mark.usefixtures("ten")
def test_triangles_are_drawn_once_and_a_damaged_file_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn_triangles()
    (file,) = cache.iterdir()
    assert file.name.startswith("train-0-")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], whole[: 9 * 784] + whole[-32:]):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(drawn_triangles(), first)
        assert file.read_bytes() == whole
    monkeypatch.delattr(data_module, "draw")
    again = drawn_triangles()
    np.testing.assert_array_equal(again, first)
    assert again.flags.writeable


@pytest.mark.usefixtures("ten")
def test_without_a_cache_a_warning_says_so(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    with pytest.warns(RuntimeWarning, match=r"cannot keep .*train-0-.* so it is made anew each time; make room, or"):
        assert len(drawn_triangles()) == 10


def test_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match="^drawn_triangles: there is no split 'x'; choose train or test$"):
        drawn_triangles("x")  # type: ignore[arg-type]


@pytest.mark.usefixtures("ten")
def test_triangles_by_name() -> None:
    data = load("triangles")
    assert data.name == "drawn triangles"
    assert data.test_images is not None
    assert data.labels is data.test_labels is None
    np.testing.assert_array_equal(data.images[..., 0], drawn_triangles("train"))
    np.testing.assert_array_equal(data.test_images[..., 0], drawn_triangles("test"))
    assert '"triangles"' in sources.KINDS


# ---- the distance to the manifold -----------------------------------------------------------------------------------


def furthest(found: Array, vertices: Array) -> Array:
    """The largest distance between vertices (N, 3, 2) that belong together, whichever comes first."""
    ways = [np.linalg.norm(np.roll(found, k, axis=1) - vertices, axis=2).max(1) for k in range(3)]
    return np.min(ways, axis=0)


@settings(max_examples=20)
@given(st.floats(0, 2 * np.pi), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_fit_recovers_the_vertices(turn: float, places: list[float]) -> None:
    radians = np.deg2rad(120 * np.arange(3) + 10 + 100 * np.array([places])) + turn
    vertices, distance = metrics.fit(data_module.draw(radians))
    assert metrics.relative(vertices, distance)[0] < metrics.DELTA
    if min(gaps(radians)[0]) > 35:  # of a needle, another one is nearly the same image
        assert distance[0] < 0.35
        assert furthest(vertices, data_module.on_circle(radians))[0] < 0.5


def test_held_out_triangles_pass_and_their_shapes_are_found() -> None:
    radians = angles(500, "held out")
    vertices, distance = metrics.fit(data_module.draw(radians))
    assert distance.dtype == np.float64
    assert (metrics.relative(vertices, distance) < metrics.DELTA / 10).mean() > 0.98
    assert np.quantile(distance, 0.95) < 0.2
    assert np.quantile(furthest(vertices, data_module.on_circle(radians)), 0.95) < 0.1
    for ks in metrics.shape_distances(vertices, data_module.on_circle(radians)).values():
        assert ks < 0.03


def others() -> dict[str, Array]:
    """Images that are no triangles of the data set, uint8 (N, 28, 28) each."""
    draw = np.random.default_rng(0)
    first, second = (data_module.render(data_module.on_circle(angles(20, name))) for name in "ab")
    small = (data_module.on_circle(angles(20)) - 14) * 0.8 + 14
    return {
        "squares": metrics.squares(20, Generator(0, "squares")),
        "blobs": metrics.blobs(20, Generator(0, "blobs")),
        "noise": draw.integers(0, 256, (20, 28, 28)).astype(np.uint8),
        "two triangles": np.rint(255 * (1 - first) * (1 - second)).astype(np.uint8),
        "grey": np.repeat(np.arange(0, 256, 15, dtype=np.uint8), 784).reshape(-1, 28, 28),
        "off by a pixel": np.roll(data_module.draw(angles(20)), 1, axis=2),
        "small": np.rint(255 * (1 - data_module.render(small))).astype(np.uint8),
        "light on dark": 255 - data_module.draw(angles(20)),
        "pale": np.rint(0.9 * data_module.draw(angles(20))).astype(np.uint8),
    }


@pytest.mark.parametrize("kind", others())
def test_other_images_fail_by_the_distance_of_the_best_triangle(kind: str) -> None:
    """No fit is farther than the nearest of many triangles: they are on the manifold too."""
    images = others()[kind]
    vertices, distance = metrics.fit(images)
    if kind != "pale":  # half of which pass: a tenth of the ink is missing
        assert metrics.precision(images) <= (0.1 if kind == "two triangles" else 0.05)  # some of which are nearly one
    many = data_module.draw(angles(5000, "many")) / np.float32(255)
    assert (distance <= nearest(images / np.float32(255), many)[1] + 0.05).all()  # smooth images differ so much
    again = 1 - data_module.render(vertices, smooth=True)
    np.testing.assert_allclose(np.sqrt(((images / 255 - again) ** 2).sum((1, 2))), distance, rtol=1e-5)
    np.testing.assert_allclose(vertices.mean(1), 14, atol=1e-9)
    around = np.linalg.norm(vertices - vertices[:, [1, 2, 0]], axis=2)
    assert around.min() > 2 * 10.5 * np.sin(np.deg2rad(10)) - 1e-6  # the gaps stay 20 degrees


def test_blank_paper_is_as_far_as_the_smallest_triangle_has_ink() -> None:
    for size in (28, 32):
        vertices, distance = metrics.fit(np.full((2, size, size, 1), 255, np.uint8))
        assert distance == pytest.approx(4.9, abs=0.3)
        assert metrics.relative(vertices, distance) == pytest.approx(1, abs=1e-6)


def test_a_shade_counts_in_every_pixel() -> None:
    x = 1 - data_module.render(data_module.on_circle(angles(20)), smooth=True)
    paper = (x > 0.99).sum((1, 2))
    shaded = 2 * np.where(x > 0.99, x - 0.1, x) - 1
    np.testing.assert_allclose(metrics.fit(shaded)[1], 0.1 * np.sqrt(paper), rtol=0.05)


def test_forms_of_images() -> None:
    grey = data_module.draw(angles(20))
    _, distance = metrics.fit(grey)
    for same in (grey[..., None], grey / np.float32(127.5) - 1, grey[..., None] / 127.5 - 1):
        np.testing.assert_allclose(metrics.fit(same)[1], distance, atol=1e-5)
    np.testing.assert_allclose(metrics.fit(grey[3:5])[1], distance[3:5], atol=1e-9)
    assert metrics.fit(grey[:0])[1].shape == (0,)
    large = np.rint(255 * (1 - data_module.render(2 * data_module.on_circle(angles(20)), size=56))).astype(np.uint8)
    assert metrics.precision(large) == 1


@pytest.mark.parametrize("shape", [(2, 28, 28, 3), (2, 28, 27), (28, 28), (2, 1, 28, 28, 1)])
def test_images_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    message = f"triangles: images must be grey, (N, H, H) or (N, H, H, 1), but are {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metrics.fit(np.zeros(shape, np.uint8))


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"floats in images must be in \[-1, 1\], but go from nan to nan"):
        metrics.fit(np.full((2, 28, 28), np.nan))


# ---- delta, precision, shapes ---------------------------------------------------------------------------------------


def test_precision_is_a_share() -> None:
    images = np.concatenate([data_module.draw(angles(30)), metrics.squares(10, Generator(0, "squares"))])
    assert metrics.precision(images) == 0.75
    assert metrics.precision(images, delta=100) == 1
    assert metrics.precision(images, delta=1e-9) == 0
    with pytest.raises(ValueError, match="^triangles: the precision of no images is not defined; pass 1 or more$"):
        metrics.precision(images[:0])


def test_delta_is_what_calibration_finds() -> None:
    images = [make(300, Generator(0, "others")) for make in (metrics.squares, metrics.blobs)]
    assert metrics.calibrate(np.concatenate(images)) == pytest.approx(metrics.DELTA, abs=0.01)


def test_calibration_by_hand() -> None:
    """Blank paper lacks all of a triangle's ink."""
    assert metrics.calibrate(np.full((3, 28, 28), 255, np.uint8)) == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore")  # of p-values
@settings(max_examples=25)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.lists(st.integers(-5, 5), min_size=1, max_size=30))
def test_ks_distance_against_scipy(a: list[int], b: list[int]) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = np.array(a, float), np.array(b, float)
    distance = metrics.ks_distance(x, y)
    assert distance == pytest.approx(stats.ks_2samp(x, y, method="asymp").statistic)
    assert metrics.ks_distance(y, x) == distance == metrics.ks_distance(np.exp(x), np.exp(y))


def test_ks_distance_by_hand() -> None:
    assert metrics.ks_distance(np.array([1.0, 2]), np.array([2.0, 1])) == 0
    assert metrics.ks_distance(np.array([1.0, 2]), np.array([3.0])) == 1
    assert metrics.ks_distance(np.array([1.0, 2, 3, 4]), np.array([1.5, 1.6])) == 0.75
    for wrong in (np.zeros(0), np.zeros((2, 2)), np.array([np.nan])):
        with pytest.raises(ValueError, match=r"^ks_distance: takes numbers \(N,\), N > 0, without NaN, not \("):
            metrics.ks_distance(np.zeros(3), wrong)


def test_shapes_by_hand() -> None:
    triangle = np.array([[[0.0, 0], [4, 0], [0, 3]]])
    shapes = metrics._shapes(triangle)
    assert shapes["area"] == pytest.approx(6)
    assert shapes["smallest_angle"] == pytest.approx(np.rad2deg(np.arctan(3 / 4)))
    assert shapes["orientation"] == pytest.approx(np.rad2deg(np.arctan2(-1, 4 - 4 / 3)))
    reverse = metrics._shapes(triangle[:, ::-1])
    assert all(reverse[name] == pytest.approx(shapes[name]) for name in shapes)
    with pytest.raises(
        ValueError, match=r"^shape_distances: vertices must be \(N, 3, 2\), N > 0, but are \(0, 3, 2\)$"
    ):
        metrics.shape_distances(triangle[:0], triangle)


def test_shape_distances_see_what_is_missing() -> None:
    radians = angles(2000)
    real = data_module.on_circle(angles(2000, "real"))
    assert max(metrics.shape_distances(data_module.on_circle(radians), real).values()) < 0.07
    needles = data_module.on_circle(radians[gaps(radians).min(1) < 40])
    found = metrics.shape_distances(needles, real)
    assert found["smallest_angle"] > 0.3
    assert found["area"] > 0.3
    up = data_module.on_circle(radians[(np.deg2rad(0) < radians[:, 0] % 6.28) & (radians[:, 0] % 6.28 < 0.5)])
    assert metrics.shape_distances(up, real)["orientation"] > 0.1


# ---- the table ------------------------------------------------------------------------------------------------------


def test_squares_and_blobs_are_as_large_as_triangles() -> None:
    for images in (metrics.squares(300, Generator(0, "squares")), metrics.blobs(300, Generator(0, "blobs"))):
        ink = (1 - images / 255).sum((1, 2))
        assert 34 < ink.min() < 45
        assert 125 < ink.max() < 141
        np.testing.assert_allclose(images, np.rot90(images, 2, (1, 2)), atol=12)  # turned by half


def test_the_table_of_what_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {split: data_module.draw(angles(200, split)) for split in ("train", "test")}
    monkeypatch.setattr(data_module, "drawn_triangles", lambda split: images[split])
    head, *rows = metrics.sanity(100).splitlines()
    assert head.split() == ["distance:", "1", "%", "50", "%", "99", "%", "within", "0.25"]
    shares = {row[:23].strip(): float(row.split()[-1].rstrip("%")) for row in rows}
    assert min(shares["held-out triangles"], shares["training images"]) >= 99
    assert max(shares["the same, a pixel off"], shares["of 0.8 the size"]) <= 10
    assert 20 < shares["the same on grey paper"] < 90
    assert shares["turned squares"] == shares["blobs"] == 0
