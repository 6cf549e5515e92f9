"""Samples as files: what is read back is what was written, and a failing write leaves nothing behind."""

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imsave
from PIL import Image

from minigan.data import load
from minigan.gan import pictures
from minigan.gan.pictures import save_gif, save_grid, save_npz, save_pictures, to_bytes

Array = Any


def images_of(*shape: int, seed: int = 0) -> tuple[Array, Array]:
    """Bytes and the floats of them."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return pixels, pixels / np.float32(127.5) - np.float32(1)


def smooth(T: int, N: int, size: int) -> Array:
    """Frames (T, N, size, size, 3) that change a little from one to the next, in [-1, 1]."""
    t, n, y, x, c = np.ogrid[:T, :N, :size, :size, :3]
    return np.sin(0.3 * t + n + 4 * (x + c) / size) * np.cos(3 * y / size + c)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_byte_survives_as_a_float(dtype: Any) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = (pixels / 127.5 - 1).astype(dtype)
    found = to_bytes(images)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


def test_what_is_out_of_range_is_clipped() -> None:
    images = np.array([-np.inf, -3.0, -1.0, 0.0, 1.0, 3.0, np.inf], np.float32).reshape(1, 1, 7, 1)
    np.testing.assert_array_equal(to_bytes(images).ravel(), [0, 0, 0, 128, 255, 255, 255])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 1), np.uint8), np.zeros((4, 4, 1)), np.zeros((2, 3, 4, 4)), np.zeros((0, 4, 4, 1)),
        np.zeros((2, 4, 4, 1), np.int64), np.zeros((1, 2, 4, 4, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_other_forms_are_refused(tmp_path: Path, images: Array) -> None:
    text = (
        "pictures are made from floats in [-1, 1] of shape (N, H, W, 1) or (N, H, W, 3), not from "
        f"{images.dtype} {images.shape}"
    )
    for write in (save_grid, save_pictures, save_npz):
        with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
            write(tmp_path / "out", images)
    assert files(tmp_path) == []


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    images = np.zeros((5, 4, 4, 3), np.float32)
    images[3, 1, 2, 0] = np.nan
    text = (
        "sample 3 holds NaN, so no picture is written: the weights or latent vectors that made it are spoilt; go back "
        "to an earlier checkpoint"
    )
    for write in (save_grid, save_pictures, save_npz, lambda path, x: save_gif(path, x[None])):
        with pytest.raises(ValueError, match=rf"^{text}$"):
            write(tmp_path / "out", images)
    assert files(tmp_path) == []


# ---- grids ----------------------------------------------------------------------------------------------------------


def in_one_go(images: Array, columns: int) -> Array:
    """A grid made another way: as floats, rounded at the end."""
    N, H, W, C = images.shape
    sheet = np.full((-(-N // columns) * (H + 1) + 1, columns * (W + 1) + 1, C), 0.5)
    for i, image in enumerate(images):
        top, left = i // columns * (H + 1) + 1, i % columns * (W + 1) + 1
        sheet[top : top + H, left : left + W] = (image + 1) / 2
    return np.repeat(np.rint(255 * np.clip(sheet, 0, 1)).astype(np.uint8), 3 // C, axis=2)


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize(("N", "size", "columns"), [(1, 64, 8), (11, 5, 8), (20, 28, 10), (3, 1, 1)])
def test_the_bytes_of_a_grid(tmp_path: Path, N: int, size: int, columns: int, C: int) -> None:
    images = 1.2 * np.random.default_rng(N).standard_normal((N, size, size, C)).astype(np.float32)
    save_grid(tmp_path / "grid.png", images, columns)
    expected = io.BytesIO()
    imsave(expected, in_one_go(images, columns), format="png")
    assert (tmp_path / "grid.png").read_bytes() == expected.getvalue()


@pytest.mark.parametrize("columns", [0, -1])
def test_a_grid_has_columns(tmp_path: Path, columns: int) -> None:
    with pytest.raises(ValueError, match=f"^a grid needs at least 1 column, not {columns}$"):
        save_grid(str(tmp_path / "grid.png"), images_of(2, 3, 3, 1)[1], columns)


# ---- single pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("C", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize(("N", "size"), [(1, 64), (12, 9)])
def test_one_picture_a_sample(tmp_path: Path, N: int, size: int, C: int, mode: str) -> None:
    pixels, images = images_of(N, size, size, C)
    save_pictures(tmp_path / "new" / "samples", images)
    assert files(tmp_path / "new") == ["samples", *(f"samples/{i:06d}.png" for i in range(N))]
    for i in range(N):
        with Image.open(tmp_path / "new" / "samples" / f"{i:06d}.png") as picture:
            assert picture.mode == mode
            np.testing.assert_array_equal(np.asarray(picture).reshape(size, size, C), pixels[i])
    np.testing.assert_array_equal(load(tmp_path / "new" / "samples", size).images, pixels)


def test_names_have_digits_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Million(list[Array]):
        def __len__(self) -> int:
            return 1_000_001

    first = images_of(2, 3, 3, 1)
    monkeypatch.setattr(pictures, "to_bytes", lambda images: Million(first[0]))
    save_pictures(tmp_path / "many", first[1])
    assert files(tmp_path / "many") == ["0000000.png", "0000001.png"]


@pytest.mark.parametrize("what", ["an empty folder", "a file", "a dangling link"])
def test_an_existing_folder_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "old"
    if what == "an empty folder":
        path.mkdir()
    elif what == "a file":
        path.write_text("text")
    else:
        path.symlink_to(tmp_path / "nothing")
    text = f"{path} exists already; pictures need a new folder: choose another name"
    with pytest.raises(FileExistsError, match=rf"^{re.escape(text)}$"):
        save_pictures(path, images_of(2, 3, 3, 1)[1])
    assert files(tmp_path) == ["old"]


def test_what_a_killed_process_of_this_number_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f"samples.{os.getpid()}.part"
    left.mkdir()
    (left / "000007.png").write_bytes(b"half a pic")
    save_pictures(tmp_path / "samples", images_of(2, 3, 3, 1)[1])
    assert files(tmp_path) == ["samples", "samples/000000.png", "samples/000001.png"]


# ---- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("N", [1, 7])
def test_samples_are_a_data_set(tmp_path: Path, N: int, C: int) -> None:
    pixels, images = images_of(N, 64, 64, C)
    z = np.random.default_rng(1).standard_normal((N, 16)).astype(np.float32)
    path = tmp_path / "samples.npz"
    save_npz(path, images, z=z, seed=np.array(3))
    data = load(path)
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.images, pixels)
    assert (data.labels, data.test_images, data.test_labels) == (None, None, None)
    with np.load(path) as arrays:
        assert sorted(arrays) == ["images", "seed", "z"]
        np.testing.assert_array_equal(arrays["z"], z)
        assert arrays["z"].dtype == np.float32
    save_npz(tmp_path / "again.npz", images, z=z, seed=np.array(3))
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    save_npz(path, images[::-1])  # in the place of the old one
    np.testing.assert_array_equal(load(path).images, pixels[::-1])
    assert files(tmp_path) == ["again.npz", "samples.npz"]


@pytest.mark.parametrize("name", ["images", "labels", "test_images", "x_train", "y_test"])
def test_names_that_mean_something_to_load(tmp_path: Path, name: str) -> None:
    text = f"save_npz: minigan.data.load would read the array {name!r} as part of a data set; give it another name"
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        save_npz(tmp_path / "samples.npz", images_of(2, 3, 3, 1)[1], **{"z": np.zeros(2), name: np.zeros(2)})
    assert files(tmp_path) == []


# ---- animations -----------------------------------------------------------------------------------------------------


def shown(path: Path) -> tuple[list[Array], list[int], Any]:
    """The frames (height, width, 3), their durations, and how often they are repeated: 0 is for ever."""
    with Image.open(path) as picture:
        loop, arrays, durations = picture.info.get("loop"), [], []
        for i in range(picture.n_frames):
            picture.seek(i)
            arrays.append(np.asarray(picture.convert("RGB")))
            durations.append(picture.info["duration"])
    return arrays, durations, loop


@pytest.mark.parametrize(("T", "order"), [(2, [0, 1]), (3, [0, 1, 2, 1]), (5, [0, 1, 2, 3, 4, 3, 2, 1])])
def test_there_and_back_in_exact_grey(tmp_path: Path, T: int, order: list[int]) -> None:
    frames = images_of(T, 6, 9, 9, 1)[1]
    save_gif(tmp_path / "walk.gif", frames, milliseconds=50, columns=4)
    found, durations, loop = shown(tmp_path / "walk.gif")
    assert loop == 0
    assert durations == [50] * len(order)
    np.testing.assert_array_equal(found, [in_one_go(frames[i], 4) for i in order])


@pytest.mark.parametrize("levels", [1, 2, 17, 255, 256])
def test_frames_of_few_greys_are_exact(tmp_path: Path, levels: int) -> None:
    """Pillow writes smaller palettes for them."""
    greys = np.random.default_rng(levels).permutation(256)[:levels]
    frames = np.random.default_rng(0).choice(greys, (4, 5, 9, 9, 1)) / 127.5 - 1
    frames[:, 0, 0, 0] = np.arange(4)[:, None] / 4  # none is like the one before
    save_gif(tmp_path / "walk.gif", frames)
    expected = [in_one_go(frames[i], 5) for i in (0, 1, 2, 3, 2, 1)]
    np.testing.assert_array_equal(shown(tmp_path / "walk.gif")[0], expected)


def test_frames_that_are_equal_take_their_time(tmp_path: Path) -> None:
    a, b = images_of(2, 1, 3, 3, 1)[1]
    save_gif(tmp_path / "walk.gif", np.stack([a, a, a, b]))
    found, durations, _ = shown(tmp_path / "walk.gif")
    assert sum(durations) == 6 * 80
    moments = np.repeat(found, np.array(durations) // 80, axis=0)
    np.testing.assert_array_equal(moments, [in_one_go(x, 1) for x in (a, a, a, b, a, a)])


@pytest.mark.parametrize(("N", "size"), [(1, 64), (8, 28), (3, 64)])
def test_colours_are_near(tmp_path: Path, N: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PALETTE_PIXELS", 1 << 14)  # so that they are fewer than there are
    frames = smooth(6, N, size)
    save_gif(tmp_path / "walk.gif", frames, columns=4)
    found, durations, loop = shown(tmp_path / "walk.gif")
    assert loop == 0
    assert durations == [80] * 10
    error = abs(np.array(found[:6], int) - [in_one_go(images, min(4, N)) for images in frames])
    assert error.mean() < 8
    np.testing.assert_array_equal(found[6:], found[4:0:-1])


def test_few_colours_are_exact(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).choice([-1.0, 1.0], (3, 4, 8, 8, 3))
    save_gif(tmp_path / "walk.gif", frames)
    np.testing.assert_array_equal(shown(tmp_path / "walk.gif")[0][:3], [in_one_go(images, 4) for images in frames])


@pytest.mark.parametrize("C", [1, 3])
def test_the_same_bytes_each_time(tmp_path: Path, C: int) -> None:
    frames = images_of(3, 2, 16, 16, C)[1]
    for name in ("a.gif", "b.gif"):
        save_gif(str(tmp_path / name), frames)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_one_frame_stands_still(tmp_path: Path) -> None:
    frames = images_of(1, 1, 64, 64, 1)[1]
    for T in (1, 4):
        save_gif(tmp_path / "still.gif", np.repeat(frames, T, axis=0))
        np.testing.assert_array_equal(shown_once(tmp_path / "still.gif"), in_one_go(frames[0], 1))


def shown_once(path: Path) -> Array:
    with Image.open(path) as picture:
        assert picture.n_frames == 1
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3, 4, 4), {}, "save_gif: frames must be (T, N, H, W, C) with T at least 1, not (2, 3, 4, 4)"),
        ((0, 3, 4, 4, 1), {}, "save_gif: frames must be (T, N, H, W, C) with T at least 1, not (0, 3, 4, 4, 1)"),
        ((1, 1, 4, 4, 2), {}, "not from float32 (1, 4, 4, 2)"),
        ((1, 1, 4, 4, 1), {"columns": 0}, "a grid needs at least 1 column, not 0"),
        (
            (1, 1, 4, 4, 1), {"milliseconds": 10},
            "save_gif: milliseconds must be in 20 .. 1000, not 10: viewers slow down what is shorter",
        ),
        (
            (1, 2048, 31, 1, 1), {"columns": 1},
            "save_gif: a frame of 3 x 65537 pixels is more than a GIF can hold, 65535 a side: take fewer samples, or "
            "other columns",
        ),
    ],
)  # fmt: skip
def test_animations_that_make_no_sense(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(message)}$"):
        save_gif(tmp_path / "walk.gif", np.zeros(shape, np.float32), **options)
    assert files(tmp_path) == []


# ---- writes that fail -----------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Path, Array], None]] = {
    "grid.png": save_grid,
    "samples": save_pictures,
    "samples.npz": lambda path, images: save_npz(path, images, z=np.zeros((64, 16))),
    "walk.gif": lambda path, images: save_gif(path, images.reshape(8, 8, *images.shape[1:])),
}


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may have more than `size` bytes: the system refuses to write on."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("C", [1, 3])
def test_no_room(tmp_path: Path, name: str, C: int) -> None:
    images = images_of(64, 64, 64, C)[1]
    path, old = tmp_path / name, name != "samples"
    if old:
        path.write_bytes(b"the old file, whole")
    text = f"cannot write {path}: File too large; what was written before is intact: make room, or choose another place"
    with room_for(3000), pytest.raises(OSError, match=rf"^{re.escape(text)}$"):
        WRITES[name](path, images)
    assert files(tmp_path) == ([name] if old else [])
    assert not old or path.read_bytes() == b"the old file, whole"
    WRITES[name](tmp_path / f"new-{name}", images)  # nothing is in the way


@pytest.mark.parametrize("name", WRITES)
def test_a_disk_that_is_full_at_the_end(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: Path | str, target: Path) -> None:
        assert re.fullmatch(rf".*{name}\.\d+\.part", str(source))
        assert target == tmp_path / name
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fails)
    text = f"cannot write {tmp_path / name}: No space left on device; what was written before is intact: make room,"
    with pytest.raises(OSError, match=rf"^{re.escape(text)}"):
        WRITES[name](tmp_path / name, images_of(64, 8, 8, 1)[1])
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", WRITES)
def test_an_interrupt_leaves_nothing(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: Path | str, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WRITES[name](tmp_path / name, images_of(64, 8, 8, 1)[1])
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", WRITES)
def test_a_folder_that_is_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("text")
    path = tmp_path / "file" / name
    with pytest.raises(OSError, match=re.escape(f"cannot write {path}: Not a directory; ")):
        WRITES[name](path, images_of(64, 8, 8, 1)[1])
    assert files(tmp_path) == ["file"]
