"""Any images as one data set: MNIST, drawn digits, triangles, IDX files, NumPy arrays, or a folder of pictures.

Whatever they come from, they leave as bytes (N, H, W, C), square, grey (C = 1) or RGB (C = 3), in an order that the
files' names or places determine.
"""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .batches import resize
from .drawn import drawn_digits
from .mnist import SHA256, SPLITS, check_pair, find_below, find_named, load_mnist, read_idx, sha256
from .triangles import drawn_triangles

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

DRAWN = ("drawn", "triangles")
"""Sources that are no files."""

TRIANGLES = "drawn triangles"
"""The name of that data set, whose manifold is known."""

KINDS = '"drawn", "triangles", a folder of IDX files, a folder of PNG or JPEG pictures, a .npy file or a .npz file'

NAMES = (("x_train", "y_train", "x_test", "y_test"), ("images", "labels", "test_images", "test_labels"))
"""Of the arrays in a .npz file: Keras's, and plain ones. All but the first may be missing."""

PICTURES = (".png", ".jpg", ".jpeg")

PIECE = 1 << 20
"""Floats that become bytes at once: a .npy file of them is never in memory whole."""


class DataSet(NamedTuple):
    """Images (N, H, W, C), H = W, C 1 or 3; labels (N,); the same for a test split. All uint8, or None if missing."""

    name: str
    images: Bytes
    labels: Bytes | None = None
    test_images: Bytes | None = None
    test_labels: Bytes | None = None


def load(source: str | Path | None = None, image_size: int = 28) -> DataSet:
    """The images of `source`:

    - None: what the environment variable MINIGAN_DATA names, which is any of the following; where it is not set, or
      empty, MNIST from the cache, to which it is downloaded first.
    - "drawn": the drawn digits (a folder of that name is "./drawn").
    - "triangles": triangles, which have no labels (a folder of that name is "./triangles").
    - a folder with IDX files under MNIST's names, in the places where `load_mnist` looks. Its name is "MNIST" if it
      is MNIST; the test split may be missing.
    - a .npy file: images (N, H, W) or (N, H, W, C), uint8, or floats: in [-1, 1] if any is below -0.01, else in
      [0, 1]. What rounding put up to 0.01 beyond is cut off.
    - a .npz file: arrays named as in NAMES, or a single one of any name.
    - a folder of PNG or JPEG pictures, in it or in its direct sub-folders, sorted by name. If all are in sub-folders,
      these are the classes: label i is the i-th sub-folder by name. Each picture must be square, and is resized to
      `image_size`; transparency is laid over white, EXIF's orientation is applied. All other sources keep their size,
      which `batches` changes.

    Raises FileNotFoundError if there is no such source, ValueError for what cannot be read or taken, each naming the
    file and what to do; what load_mnist raises; OSError if a folder or an IDX file cannot be read.
    """
    if image_size < 1:
        raise ValueError(f"load: the image size must be 1 or more pixels, not {image_size}")
    origin = ""
    if source is None and (variable := os.environ.get("MINIGAN_DATA")):
        source, origin = variable, " (which MINIGAN_DATA names)"
    if source is None:
        (images, labels), (test_images, test_labels) = load_mnist(split="train"), load_mnist(split="test")
        return DataSet("MNIST", images[..., None], labels, test_images[..., None], test_labels)
    if source == "drawn":
        (images, labels), (test_images, test_labels) = drawn_digits("train"), drawn_digits("test")
        return DataSet("drawn digits", images[..., None], labels, test_images[..., None], test_labels)
    if source == "triangles":
        images, test_images = (drawn_triangles(split)[..., None] for split in ("train", "test"))
        return DataSet(TRIANGLES, images, test_images=test_images)
    if source == "":
        raise ValueError(f"load: the name of the source is empty; choose {KINDS}")
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        if any(find_below(path, name) for name in SPLITS["train"]):
            return _idx_folder(path)
        return _pictures(path, image_size)
    if not path.exists():
        raise FileNotFoundError(f"load: there is no {path}{origin}; choose {KINDS}")
    if path.suffix == ".npy":
        with _readable(path):
            array = np.lib.format.open_memmap(path, mode="r")
        return DataSet(str(path), _images(path, array))
    if path.suffix == ".npz":
        return _npz(path)
    raise ValueError(f"load: {path}{origin} is a file of another kind; choose {KINDS}")


def _check_shape(where: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with its channels; ValueError unless it is that of square images, grey or RGB."""
    if len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(f"{where} has the shape {shape}; images are (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    N, H, W, C = shape if len(shape) == 4 else (*shape, 1)
    if C not in (1, 3):
        if H in (1, 3):
            raise ValueError(f"{where} has the shape {shape}, channels first; save array.transpose(0, 2, 3, 1)")
        raise ValueError(f"{where} has the shape {shape}, so {C} channels; images have 1 (grey) or 3 (RGB)")
    if H != W:
        raise ValueError(f"{where} has the shape {shape}, so images of {H} x {W} pixels; crop them to squares")
    return N, H, W, C


def _check_splits(where: object, images: Bytes, test_images: Bytes) -> None:
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"{where} holds images of shape {images.shape[1:]} to train, but {test_images.shape[1:]} to test; "
            "leave out one of them"
        )


# ---- IDX files ------------------------------------------------------------------------------------------------------


def _idx_folder(folder: Path) -> DataSet:
    images, labels, genuine = _idx_split(folder, "train")
    if not any(find_below(folder, name) for name in SPLITS["test"]):
        return DataSet("MNIST" if genuine else str(folder), images, labels)
    test_images, test_labels, test_genuine = _idx_split(folder, "test")
    _check_splits(folder, images, test_images)
    return DataSet("MNIST" if genuine and test_genuine else str(folder), images, labels, test_images, test_labels)


def _idx_split(folder: Path, split: str) -> tuple[Bytes, Bytes, bool]:
    """Images, labels, and whether they are MNIST's."""
    names = SPLITS[split]
    paths = [find_named(folder, name) for name in names]
    images, labels = (read_idx(path) for path in paths)
    shape = _check_shape(paths[0], images.shape)
    check_pair(paths, images, labels)
    genuine = all(sha256(a) == SHA256[name] for a, name in zip((images, labels), names, strict=True))
    return images.reshape(shape), labels, genuine


# ---- NumPy arrays ---------------------------------------------------------------------------------------------------


@contextmanager
def _readable(where: object) -> Iterator[None]:
    """Any error inside becomes a ValueError that names the file and what to do."""
    try:
        yield
    except Exception as error:  # the readers of NumPy and zipfile let through whatever they meet in damaged bytes
        raise ValueError(
            f"{where} cannot be read ({error}); save arrays of uint8 or floats by np.save or np.savez"
        ) from error


def _npz(path: Path) -> DataSet:
    with _readable(path):
        archive = zipfile.ZipFile(path)

    def stored(name: str) -> tuple[str, Array]:
        where = f"{path}[{name}]"
        with _readable(where), archive.open(entries[name]) as file:
            return where, np.lib.format.read_array(file)

    with archive:
        entries = {name.removesuffix(".npy"): name for name in archive.namelist()}
        names: tuple[str, ...] | None = next((names for names in NAMES if names[0] in entries), None)
        if names is None and len(entries) == 1:
            names = (*entries, "", "", "")
        if names is None:
            raise ValueError(
                f"{path} holds the arrays {', '.join(sorted(entries)) or '(none)'}; name them "
                f"{' or '.join(', '.join(names) for names in NAMES)} (all but the first may be missing), or keep only "
                "the images"
            )
        images = _images(*stored(names[0]))
        labels, test_images, test_labels = None, None, None
        if names[1] in entries:
            labels = _labels(*stored(names[1]), len(images))
        if names[2] in entries:
            test_images = _images(*stored(names[2]))
            _check_splits(path, images, test_images)
            if names[3] in entries:
                test_labels = _labels(*stored(names[3]), len(test_images))
    return DataSet(str(path), images, labels, test_images, test_labels)


def _images(where: object, array: Array) -> Bytes:
    """Bytes (N, H, W, C) from bytes, or from floats in [0, 1] or [-1, 1], which are spread over 0 to 255."""
    N, H, W, C = _check_shape(where, array.shape)
    if array.dtype == np.uint8:
        return np.array(array, order="C").reshape(N, H, W, C)
    if array.dtype.kind != "f":
        raise ValueError(f"{where} holds {array.dtype}; images are uint8, 0 to 255, or floats in [0, 1] or [-1, 1]")
    rows = max(1, PIECE // (H * W * C))
    slices = [slice(start, start + rows) for start in range(0, N, rows)]
    low, high = np.min([array[s].min() for s in slices]), np.max([array[s].max() for s in slices])
    if np.isnan(low):
        raise ValueError(f"{where} holds NaN; images are uint8, 0 to 255, or floats in [0, 1] or [-1, 1]")
    if low < -1.01 or high > 1.01:
        raise ValueError(
            f"{where} holds floats from {low} to {high}; scale them to [0, 1] or [-1, 1], or save 0 to 255 as uint8"
        )
    images = np.empty(array.shape, np.uint8)
    for s in slices:
        x = array[s].astype(np.float32)
        images[s] = np.rint((x + 1) * 127.5 if low < -0.01 else x * 255).clip(0, 255)
    return images.reshape(N, H, W, C)


def _labels(where: object, array: Array, count: int) -> Bytes:
    """Bytes (N,) from whole numbers (N,) or (N, 1)."""
    if array.dtype.kind not in "iu" or array.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{where} holds {array.dtype} of shape {array.shape}; the labels of {count} images are integers of shape "
            f"({count},)"
        )
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"{where} holds labels from {array.min()} to {array.max()}; they must be in 0 .. 255")
    return array.reshape(count).astype(np.uint8)


# ---- pictures -------------------------------------------------------------------------------------------------------


def _pictures(folder: Path, size: int) -> DataSet:
    """The pictures of the folder and its sub-folders, grey if all are."""
    files = _picture_files(folder)
    if not files:
        raise FileNotFoundError(
            f"load: {folder} holds no pictures: looked there and in its direct sub-folders for "
            f"{', '.join(PICTURES)}, and for {', '.join(SPLITS['train'])}, plain or .gz; name a folder that does"
        )
    images, grey = np.empty((len(files), size, size, 3), np.uint8), True
    for image, file in zip(images, files, strict=True):
        pixels = _read_picture(file)
        if pixels.shape[:2] != (size, size):
            pixels = resize(pixels[None], size)[0]
        image[...] = np.rint(pixels)  # a grey channel is repeated
        grey = grey and bool((image == image[..., :1]).all())
    return DataSet(str(folder), images[..., :1].copy() if grey else images, _classes(folder, files))


def _picture_files(folder: Path) -> list[Path]:
    """Sorted by name, the folder's own pictures among its sub-folders; hidden files are left out."""
    visible = [path for path in folder.iterdir() if path.name[0] != "."]
    inner = [path for sub in visible if sub.is_dir() for path in sub.iterdir() if path.name[0] != "."]
    files = [path for path in visible + inner if path.suffix.lower() in PICTURES and path.is_file()]
    return sorted(files, key=Path.as_posix)  # paths themselves compare without regard to case on Windows


def _classes(folder: Path, files: list[Path]) -> Bytes | None:
    """For each file the rank of its sub-folder; None if a file is in none."""
    if any(file.parent == folder for file in files):
        return None
    names = sorted({file.parent.name for file in files})
    if len(names) > 256:
        raise ValueError(
            f"load: {folder} has {len(names)} sub-folders with pictures, but there are at most 256 classes; merge "
            "some, or put all pictures into one folder to have no labels"
        )
    return np.array([names.index(file.parent.name) for file in files], np.uint8)


def _read_picture(file: Path) -> Array:
    """(H, W, 1) or (H, W, 3), 0 to 255, H = W; float32 if it was 16-bit grey, else uint8."""
    try:
        with Image.open(file) as opened:
            opened.verify()  # checksums to the end of the file, which decoding leaves out once it has all pixels
        with Image.open(file) as opened:
            pixels = _pixels(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's decoders let through whatever they meet in damaged bytes
        raise ValueError(f"{file} cannot be read as a picture ({error}); replace or remove it") from error
    height, width = pixels.shape[:2]
    if height != width:
        raise ValueError(f"{file} is {width}x{height} pixels; crop it to a square")
    return pixels.reshape(height, width, -1)


def _pixels(image: Image.Image) -> Array:
    """(H, W) or (H, W, 3), whatever the picture's own mode is."""
    if image.mode[0] == "I":  # 16-bit grey: "I;16", or "I" in older Pillows
        return np.asarray(image, np.float32) / 257
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
