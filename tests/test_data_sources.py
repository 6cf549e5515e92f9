"""Data from MNIST, IDX folders, NumPy files and folders of pictures; and one sentence for each fault of these."""

import gzip
import hashlib
import io
import os
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minigan.data import DataSet, batches, load, mnist, resize, sources
from minigan.files import cache_folder
from minigan.random import Generator

Array = Any


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the variables, the cache or the network of this machine."""
    monkeypatch.delenv("MINIGAN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", ())


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fault(source: str | Path | None, error: type[Exception] = ValueError, **options: Any) -> str:
    """The sentence that refuses `source`."""
    with pytest.raises(error) as caught:
        load(source, **options)
    return str(caught.value)


# ---- what there is --------------------------------------------------------------------------------------------------


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    kinds = '"drawn", "triangles", a folder of IDX files, a folder of PNG or JPEG pictures, a .npy file or a .npz file'
    assert fault(tmp_path / "no", FileNotFoundError) == f"load: there is no {tmp_path / 'no'}; choose {kinds}"
    (tmp_path / "faces.mat").write_bytes(b"MATLAB")
    assert fault(tmp_path / "faces.mat") == f"load: {tmp_path / 'faces.mat'} is a file of another kind; choose {kinds}"


def test_an_empty_name_is_not_the_current_folder() -> None:
    kinds = '"drawn", "triangles", a folder of IDX files, a folder of PNG or JPEG pictures, a .npy file or a .npz file'
    assert fault("") == f"load: the name of the source is empty; choose {kinds}"


def test_the_variable_names_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbers(5, 6, 6)
    monkeypatch.setenv("MINIGAN_DATA", str(npy(tmp_path / "set.npy", images)))
    np.testing.assert_array_equal(load().images[..., 0], images)
    other = npy(tmp_path / "other.npy", numbers(2, 6, 6))
    assert len(load(other).images) == 2  # what is named by hand goes first
    monkeypatch.setenv("MINIGAN_DATA", str(tmp_path / "no"))
    message = fault(None, FileNotFoundError)
    assert message.startswith(f"load: there is no {tmp_path / 'no'} (which MINIGAN_DATA names); choose ")


def test_without_a_variable_or_with_an_empty_one_mnist_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {split: (numbers(n, 28, 28), numbers(n)) for split, n in (("train", 5), ("test", 3))}
    monkeypatch.setattr(sources, "load_mnist", lambda split: splits[split])
    for set_or_not in (lambda: None, lambda: monkeypatch.setenv("MINIGAN_DATA", "")):
        set_or_not()
        data = load()
        assert data.name == "MNIST"
        np.testing.assert_array_equal(data.images[..., 0], splits["train"][0])
        np.testing.assert_array_equal(data.test_labels, splits["test"][1])


def test_where_there_is_no_home_names_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does then
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/minigan")
    with pytest.raises(FileNotFoundError, match=r"^load_mnist: ~.mine is not a folder"):
        mnist.load_mnist("~/mine")
    assert fault("~/set.npy", FileNotFoundError).startswith(f"load: there is no {Path('~/set.npy')}; choose ")


def test_an_image_size_is_a_number_of_pixels(tmp_path: Path) -> None:
    assert fault(tmp_path, image_size=0) == "load: the image size must be 1 or more pixels, not 0"


def test_drawn_digits_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": 5, "test": 3}
    drawn = {split: (numbers(n, 28, 28), numbers(n)) for split, n in counts.items()}
    monkeypatch.setattr(sources, "drawn_digits", lambda split: drawn[split])
    data = load("drawn")
    assert data.name == "drawn digits"
    for split, images, labels in (("train", *data[1:3]), ("test", *data[3:])):
        np.testing.assert_array_equal(images, drawn[split][0][..., None])
        np.testing.assert_array_equal(labels, drawn[split][1])


# ---- IDX files ------------------------------------------------------------------------------------------------------


def idx(array: Array) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def idx_folder(folder: Path, size: int = 28, test: bool = True, packed: bool = False) -> dict[str, Array]:
    """Writes 6 images to train and 4 to test, with labels. Name -> array."""
    arrays = {}
    for (split, names), n in zip(mnist.SPLITS.items(), (6, 4), strict=True):
        if split == "train" or test:
            arrays |= {names[0]: numbers(n, size, size), names[1]: numbers(n)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return arrays


@pytest.mark.parametrize("size", [28, 20])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
def test_idx_files_of_any_square_size(tmp_path: Path, size: int, packed: bool, place: str) -> None:
    images, labels, test_images, test_labels = idx_folder(tmp_path / place, size, packed=packed).values()
    data = load(str(tmp_path))
    assert data.name == str(tmp_path)
    assert data.test_images is not None
    assert data.images.shape == (6, size, size, 1)
    np.testing.assert_array_equal(data.images[..., 0], images)
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.test_images[..., 0], test_images)
    np.testing.assert_array_equal(data.test_labels, test_labels)


def test_mnist_is_known_by_its_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = idx_folder(tmp_path)
    monkeypatch.setattr(mnist, "SHA256", {name: hashlib.sha256(idx(a)).hexdigest() for name, a in arrays.items()})
    monkeypatch.setattr(sources, "SHA256", mnist.SHA256)
    named = load(tmp_path)
    assert named.name == "MNIST"
    monkeypatch.setenv("MINIGAN_DATA", str(tmp_path))
    for a, b in zip(load()[1:], named[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert load().name == "MNIST"
    name = mnist.SPLITS["test"][1]
    (tmp_path / name).write_bytes(idx(arrays[name] ^ 1))
    assert load(tmp_path).name == load().name == str(tmp_path)


def test_the_test_split_may_be_missing_but_not_half_of_it(tmp_path: Path) -> None:
    idx_folder(tmp_path, test=False)
    data = load(tmp_path)
    assert (data.test_images, data.test_labels) == (None, None)
    (tmp_path / mnist.SPLITS["test"][0]).write_bytes(idx(numbers(4, 28, 28)))
    assert f"{tmp_path} holds no t10k-labels-idx1-ubyte: looked there" in fault(tmp_path, FileNotFoundError)


def test_faults_of_idx_files(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    images, labels = (tmp_path / name for name in mnist.SPLITS["train"])
    whole = images.read_bytes()
    images.write_bytes(whole[:-5])
    assert fault(tmp_path) == f"{images} holds 4715 bytes, but its header (6, 28, 28) asks for 4720"
    images.write_bytes(gzip.compress(whole)[:-20])
    assert fault(tmp_path).startswith(f"{images} is damaged and cannot be unpacked (")
    images.write_bytes(idx(numbers(6, 28, 20)))
    assert fault(tmp_path) == (f"{images} has the shape (6, 28, 20), so images of 28 x 20 pixels; crop them to squares")
    images.write_bytes(idx(numbers(6)))
    assert fault(tmp_path) == (f"{images} has the shape (6,); images are (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    images.write_bytes(idx(numbers(5, 28, 28)))
    assert fault(tmp_path) == (
        f"{images} holds 5 images, but {labels} holds labels of shape (6,); take both files from the same data set"
    )
    images.write_bytes(idx(numbers(6, 32, 32)))
    assert fault(tmp_path) == (
        f"{tmp_path} holds images of shape (32, 32, 1) to train, but (28, 28, 1) to test; leave out one of them"
    )
    images.unlink()
    assert f"{tmp_path} holds no train-images-idx3-ubyte: looked there" in fault(tmp_path, FileNotFoundError)


# ---- .npy -----------------------------------------------------------------------------------------------------------


def npy(path: Path, array: Array) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("shape", [(5, 6, 6), (5, 6, 6, 1), (5, 6, 6, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_bytes(tmp_path: Path, shape: tuple[int, ...], order: Any) -> None:
    images = numbers(*shape)
    data = load(npy(tmp_path / "set.npy", np.asarray(images, order=order)))
    assert data.name == str(tmp_path / "set.npy")
    assert data[2:] == (None, None, None)
    assert data.images.flags.c_contiguous
    np.testing.assert_array_equal(data.images, images.reshape(5, 6, 6, -1))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_floats_of_either_range(tmp_path: Path, dtype: str, order: Any) -> None:
    images = numbers(5, 8, 8, 3)
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    for floats in (images / 255, images / 127.5 - 1):
        data = load(npy(tmp_path / "set.npy", np.asarray(floats, dtype, order=order)))
        assert data.images.dtype == np.uint8
        np.testing.assert_allclose(data.images.astype(int), images, atol=dtype == "<f2")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (numbers(5, 3, 8, 8), "has the shape (5, 3, 8, 8), channels first; save array.transpose(0, 2, 3, 1)"),
        (numbers(5, 1, 8, 8), "has the shape (5, 1, 8, 8), channels first; save array.transpose(0, 2, 3, 1)"),
        (numbers(5, 8, 8, 4), "has the shape (5, 8, 8, 4), so 4 channels; images have 1 (grey) or 3 (RGB)"),
        (numbers(5, 8, 6), "has the shape (5, 8, 6), so images of 8 x 6 pixels; crop them to squares"),
        (numbers(5, 64), "has the shape (5, 64); images are (N, H, W), (N, H, W, 1) or (N, H, W, 3)"),
        (numbers(0, 8, 8), "has the shape (0, 8, 8); images are (N, H, W), (N, H, W, 1) or (N, H, W, 3)"),
        (np.zeros((2, 4, 4), int), "holds int64; images are uint8, 0 to 255, or floats in [0, 1] or [-1, 1]"),
        (np.zeros((2, 4, 4), complex), "holds complex128; images are uint8, 0 to 255, or floats in"),
        (
            np.linspace(0, 255, 32).reshape(2, 4, 4),
            "holds floats from 0.0 to 255.0; scale them to [0, 1] or [-1, 1], or save 0 to 255 as uint8",
        ),
        (np.linspace(-1.5, 1, 32).reshape(2, 4, 4), "holds floats from -1.5 to 1.0; scale them"),
        (np.full((2, 4, 4), np.nan), "holds NaN; images are uint8, 0 to 255, or floats in"),
        (np.append(np.zeros(31), np.inf).reshape(2, 4, 4), "holds floats from 0.0 to inf; scale them"),
        (np.linspace(0, 1.0100001, 32).reshape(2, 4, 4), "holds floats from 0.0 to 1.0100001; scale them"),
        (
            np.full((2, 4, 4), None),
            "cannot be read (",
        ),
    ],
)
def test_each_fault_of_an_array_is_one_sentence(tmp_path: Path, array: Array, sentence: str) -> None:
    path = npy(tmp_path / "set.npy", array)
    assert fault(path).startswith(f"{path} {sentence}")
    np.savez(tmp_path / "set.npz", images=array)
    assert fault(tmp_path / "set.npz").startswith(f"{tmp_path / 'set.npz'}[images] {sentence}")


@pytest.mark.parametrize("low", [0, -1])
def test_floats_that_rounding_put_out_of_their_range(tmp_path: Path, low: int) -> None:
    """They are cut off, and one pixel of -1e-7 does not make [0, 1] into [-1, 1]."""
    floats = np.float32([low - 0.0099, low - 1e-7, low, 0.2, 1, 1 + 1e-7, 1.0099, 0.6, 0.7]).reshape(1, 3, 3)
    expected = np.rint(255 * (np.clip(floats, low, 1) - low) / (1 - low))
    np.testing.assert_array_equal(load(npy(tmp_path / "set.npy", floats)).images[..., 0], expected)


def test_damaged_npy(tmp_path: Path) -> None:
    path = npy(tmp_path / "set.npy", numbers(5, 8, 8))
    whole = path.read_bytes()
    pattern = re.escape(f"{path} cannot be read (") + r".+\); save arrays of uint8 or floats by np\.save or np\.savez"
    damaged = whole[:-7], b"", b"\x89PNG", whole[:40], whole.replace(b"descr", b"dexxr"), whole.replace(b"}", b" ")
    for content in damaged:
        path.write_bytes(content)
        assert re.fullmatch(pattern, fault(path))


def test_the_floats_of_a_npy_file_are_never_in_memory_whole(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((1500, 64, 64))
    path = npy(tmp_path / "set.npy", images)
    size = images.size
    del images
    tracemalloc.start()
    load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size + 4 * 4 * sources.PIECE < 4 * size + 1


# ---- .npz -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", sources.NAMES)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_npz_by_names(tmp_path: Path, names: tuple[str, ...], save: Callable[..., None], count: int) -> None:
    arrays = [numbers(6, 9, 9, 3), np.arange(6)[:, None], numbers(4, 9, 9, 3, seed=1), np.arange(4, dtype=np.int32)]
    save(tmp_path / "set.npz", **dict(zip(names[:count], arrays, strict=False)))
    data = load(tmp_path / "set.npz")
    assert data.name == str(tmp_path / "set.npz")
    for array, found in zip(arrays[:count], data[1:], strict=False):
        assert found is not None
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, array.ravel() if array.ndim < 3 else array)
    assert all(found is None for found in data[1 + count :])


def test_npz_of_one_array_of_any_name(tmp_path: Path) -> None:
    images = numbers(6, 9, 9)
    np.savez(tmp_path / "set.npz", images)  # as arr_0
    np.testing.assert_array_equal(load(tmp_path / "set.npz").images[..., 0], images)


def test_faults_of_npz(tmp_path: Path) -> None:
    path, images = tmp_path / "set.npz", numbers(6, 9, 9)

    def saved(**arrays: Array) -> str:
        np.savez(path, **arrays)
        return fault(path)

    assert saved(faces=images, ages=np.arange(6)) == (
        f"{path} holds the arrays ages, faces; name them x_train, y_train, x_test, y_test or images, labels, "
        "test_images, test_labels (all but the first may be missing), or keep only the images"
    )
    assert saved().startswith(f"{path} holds the arrays (none); name them x_train")
    assert saved(images=images, labels=np.arange(5)) == (
        f"{path}[labels] holds int64 of shape (5,); the labels of 6 images are integers of shape (6,)"
    )
    assert saved(images=images, labels=np.eye(6)).startswith(f"{path}[labels] holds float64 of shape (6, 6); the")
    assert saved(images=images, labels=np.arange(-1, 5)) == (
        f"{path}[labels] holds labels from -1 to 4; they must be in 0 .. 255"
    )
    assert saved(images=images, labels=np.arange(251, 257)).startswith(f"{path}[labels] holds labels from 251 to 256;")
    assert saved(x_train=images, x_test=numbers(3, 8, 8)) == (
        f"{path} holds images of shape (9, 9, 1) to train, but (8, 8, 1) to test; leave out one of them"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert fault(path).startswith(f"{path}[readme.txt] cannot be read (")
    path.write_bytes(b"PK")
    assert fault(path) == (
        f"{path} cannot be read (File is not a zip file); save arrays of uint8 or floats by np.save or np.savez"
    )


def outcome(path: Path) -> bytes | str:
    """The images that were read, or that they were refused by the file's name."""
    try:
        return load(path).images.tobytes()
    except ValueError as error:
        return "refused" if str(error).startswith(str(path)) else str(error)


@settings(max_examples=150, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), compressed=st.booleans())
def test_a_damaged_archive_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, at: float, flip: int, compressed: bool
) -> None:
    """Unless the damage changes nothing that is read, such as a time stamp."""
    file, images = io.BytesIO(), numbers(3, 5, 5)
    (np.savez_compressed if compressed else np.savez)(file, images=images)
    content = bytearray(file.getvalue())
    content[int(at * len(content))] ^= flip
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    assert outcome(path) in (images.tobytes(), "refused")


# ---- pictures -------------------------------------------------------------------------------------------------------


def picture(path: Path, pixels: Array, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def one(folder: Path, size: int) -> Array:
    """The only picture of the folder, (H, W, C)."""
    data = load(folder, size)
    assert data.images.shape[:3] == (1, size, size)
    return data.images[0]


def test_grey_and_colour(tmp_path: Path) -> None:
    grey, colour = numbers(8, 8), numbers(8, 8, 3)
    picture(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(one(tmp_path, 8)[..., 0], grey)
    picture(tmp_path / "b.PNG", np.stack([grey] * 3, -1))
    assert load(tmp_path, 8).images.shape == (2, 8, 8, 1)  # RGB, but grey
    picture(tmp_path / "c.png", colour)
    data = load(tmp_path, 8)
    assert data.name == str(tmp_path)
    np.testing.assert_array_equal(data.images, [np.stack([grey] * 3, -1)] * 2 + [colour])


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(0, 240, 15, dtype=np.uint8), (16, 16))
    picture(tmp_path / "grey.jpg", smooth, quality=95)
    np.testing.assert_allclose(one(tmp_path, 16)[..., 0].astype(int), smooth, atol=6)
    picture(tmp_path / "colour.jpeg", np.stack([smooth, smooth[::-1], 255 - smooth], -1), quality=95)
    assert load(tmp_path, 16).images.shape == (2, 16, 16, 3)


@pytest.mark.parametrize("size", [5, 12, 30])
def test_each_picture_is_resized(tmp_path: Path, size: int) -> None:
    small, large = numbers(8, 8, 3), numbers(40, 40, 3)
    picture(tmp_path / "a.png", small)
    picture(tmp_path / "b.png", large)
    expected = np.concatenate([resize(small[None], size), resize(large[None], size)])
    np.testing.assert_array_equal(load(tmp_path, size).images, np.rint(expected))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((3, 3, 4), np.uint8)
    pixels[..., 0], pixels[0, :, 3], pixels[1, :, 3] = 200, 255, 128
    picture(tmp_path / "rgba.png", pixels)
    np.testing.assert_array_equal(one(tmp_path, 3)[:, 0], [[200, 0, 0], [227, 127, 127], [255, 255, 255]])


def test_transparent_grey_and_transparent_colours(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 255], [0, 0]], [[90, 255], [90, 0]]], np.uint8)).save(tmp_path / "a.png")
    picture(tmp_path / "b.png", np.array([[0, 7], [90, 7]], np.uint8), transparency=7)
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    palette.putpalette([0, 0, 0, 9, 9, 9, 90, 90, 90])
    palette.save(tmp_path / "c.png", transparency=1)
    np.testing.assert_array_equal(load(tmp_path, 2).images[..., 0], [[[0, 255], [90, 255]]] * 3)


def test_palettes_bits_and_sixteen_bits(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(one(tmp_path, 2), [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]])
    (tmp_path / "a.png").unlink()
    picture(tmp_path / "b.png", np.array([[True, False], [False, True]]))
    picture(tmp_path / "c.png", np.array([[65535, 0], [257 * 90, 65535]], np.uint16))
    np.testing.assert_array_equal(load(tmp_path, 2).images[..., 0], [[[255, 0], [0, 255]], [[255, 0], [90, 255]]])


def test_exif_says_where_up_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 255
    picture(tmp_path / "a.jpg", pixels, exif=exif)
    image = one(tmp_path, 16)[..., 0]
    np.testing.assert_allclose(image[:7].astype(int), 255, atol=3)
    np.testing.assert_allclose(image[9:].astype(int), 0, atol=3)


def test_sub_folders_are_classes_if_they_hold_all(tmp_path: Path) -> None:
    for name, value in (("dog/1.png", 4), ("cat/2.png", 2), ("cat/10.png", 1), ("eel/x.jpg", 6)):
        picture(tmp_path / name, np.full((4, 4), value, np.uint8))
    (tmp_path / "bee").mkdir()  # holds none, so it is no class
    picture(tmp_path / "cat/deeper/3.png", numbers(4, 4))  # is not looked for
    data = load(tmp_path, 4)
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 4, 6]
    assert data.labels is not None
    assert (data.labels.dtype, data.labels.tolist()) == (np.uint8, [0, 0, 1, 2])
    assert (data.test_images, data.test_labels) == (None, None)
    picture(tmp_path / "d.png", np.full((4, 4), 3, np.uint8))
    data = load(tmp_path, 4)
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 6]
    assert data.labels is None


def test_pictures_are_sorted_with_regard_to_case(tmp_path: Path) -> None:
    for name, value in (("b.png", 3), ("C.png", 1), ("a.png", 2), ("Z/c.png", 0)):
        picture(tmp_path / name, np.full((2, 2), value, np.uint8))
    assert load(tmp_path, 2).images[:, 0, 0, 0].tolist() == [1, 0, 2, 3]


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", numbers(4, 4))
    picture(tmp_path / ".thumbnails/a.png", numbers(4, 4))
    for name in ("._a.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"?")
    assert load(tmp_path, 4).images.shape == (1, 4, 4, 1)


def test_faults_of_pictures(tmp_path: Path) -> None:
    assert fault(tmp_path, FileNotFoundError) == (
        f"load: {tmp_path} holds no pictures: looked there and in its direct sub-folders for .png, .jpg, .jpeg, and "
        "for train-images-idx3-ubyte, train-labels-idx1-ubyte, plain or .gz; name a folder that does"
    )
    path = picture(tmp_path / "pic.png", numbers(30, 40))
    assert fault(tmp_path) == f"{path} is 40x30 pixels; crop it to a square"
    picture(path, numbers(30, 30))
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:20], whole[:-500], whole[:100] + b"?" * 50 + whole[150:]):
        path.write_bytes(content)
        assert re.fullmatch(
            re.escape(f"{path} cannot be read as a picture (") + r".+\); replace or remove it", fault(tmp_path)
        )


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["png", "jpg"]),
    cut=st.floats(0, 1) | st.none(),
    at=st.floats(0, 1, exclude_max=True),
    flip=st.integers(0, 255),
    junk=st.binary(max_size=60),
)
def test_a_damaged_picture_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cut: float | None, at: float, flip: int, junk: bytes
) -> None:
    """A PNG has checksums: it is read as it was, or refused. Of a JPEG only the form can be promised."""
    file, pixels = io.BytesIO(), numbers(9, 9)
    Image.fromarray(pixels).save(file, "png" if kind == "png" else "jpeg")
    content = bytearray(file.getvalue())
    content[int(at * len(content))] ^= flip
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"a.{kind}"
    path.write_bytes(junk if cut == 0 else content[: None if cut is None else int(cut * len(content))])
    try:
        images, fault = load(folder, 9).images, ""
    except ValueError as error:
        fault = str(error)
    if fault:
        assert fault.startswith(str(path))
        assert "\n" not in fault
    else:
        assert images.shape[:3] == (1, 9, 9)
        assert kind == "jpg" or (images == pixels[None, ..., None]).all()


def test_too_many_classes(tmp_path: Path) -> None:
    for i in range(257):
        picture(tmp_path / f"{i}/a.png", np.zeros((1, 1), np.uint8))
    assert fault(tmp_path, image_size=1) == (
        f"load: {tmp_path} has 257 sub-folders with pictures, but there are at most 256 classes; merge some, or put "
        "all pictures into one folder to have no labels"
    )


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        picture(tmp_path / f"{i % 3}/{i}.png", numbers(6, 6, seed=i))
    listed = Path.iterdir
    found: list[DataSet] = []
    for turn in (sorted, lambda names: sorted(names, reverse=True)):
        monkeypatch.setattr(Path, "iterdir", lambda path, turn=turn: iter(turn(listed(path))))
        found.append(load(tmp_path, 6))
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    first, second, other = (
        list(islice(batches(data.images, 2, Generator(seed, "data"), 4), 8))
        for data, seed in ((found[0], 0), (found[1], 0), (found[0], 1))
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
