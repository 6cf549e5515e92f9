"""From stored images to batches that a net takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..random import Generator
from .prefetch import prefetch

Array = NDArray[Any]


def batches(images: Array, batch_size: int, generator: Generator, image_size: int | None = None) -> Batches:
    """Endless batches of float32 (batch_size, H, W, C) in [-1, 1] from uint8 images (N, H, W) or (N, H, W, C).

    Every epoch is a new permutation from `generator`, drawn when its first batch is asked for; the last, partial batch
    is left out. With `image_size`, square images are resized to it, all batches of an epoch but the first by a thread
    while the one before is in use; those that have it already pass as they are.
    TypeError if the images are not bytes; ValueError if a batch is larger than the data, or if images that shall be
    resized are not square.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"batches: images must be uint8, 0 to 255, not {images.dtype}")
    if not 0 < batch_size <= len(images):
        raise ValueError(f"batches: batch size {batch_size} must be in 1 .. {len(images)}, the number of images")
    if image_size is not None and image_size < 1:
        raise ValueError(f"batches: the image size must be 1 or more pixels, not {image_size}")
    height, width = images.shape[1:3]
    if image_size is not None and height != width:
        raise ValueError(
            f"batches: images of {height} x {width} pixels cannot become {image_size} x {image_size} undistorted; "
            "crop them to squares"
        )
    return Batches(images, batch_size, generator, image_size or height)


class Batches(Iterator[Array]):
    """What `batches` returns. Its state says where it is: the next batch after loading is the one that was due.

    `picked` (batch_size,) says which of the images the last batch is made of.
    """

    def __init__(self, images: Array, batch_size: int, generator: Generator, image_size: int) -> None:
        self._images, self._batch_size, self._generator = images, int(batch_size), generator
        self._ahead = map if images.shape[1] == image_size else prefetch  # a thread costs more than only scaling does
        # No method: a thread that held this object would keep it alive.
        self._prepare = partial(_picked, images, image_size)
        self._epoch_counter, self._position = 0, 0  # position 0: the next batch begins an epoch
        self._order: Array = np.empty(0, int)
        self.picked: Array = self._order
        self._coming: Iterator[Array] | None = None

    def __next__(self) -> Array:
        if self._position == 0:
            self._epoch_counter = self._generator.counter
            self._order = self._generator.permutation(len(self._images))
            self._coming = None
        # Taken away while in use: what an exception stops half-way, Ctrl-C say, is begun anew at this batch.
        coming, self._coming = self._coming or self._rest(), None
        try:
            batch = next(coming)
        except BaseException:
            if self._position == 0:
                self._generator.counter = self._epoch_counter
            raise
        self._coming = coming
        start = self._position * self._batch_size
        self.picked = self._order[start : start + self._batch_size]
        self._position = (self._position + 1) % (len(self._images) // self._batch_size)
        return batch

    def _rest(self) -> Iterator[Array]:
        """The batches of this epoch that are still due."""
        size = self._batch_size
        starts = range(self._position * size, len(self._order) - size + 1, size)
        return iter(self._ahead(self._prepare, [self._order[start : start + size] for start in starts]))

    def state_dict(self) -> dict[str, Any]:
        """The number of batches taken in this epoch, and the generator where it began and as it is now.

        Between two epochs, none is taken of the next. What a thread prepares ahead is not counted.
        """
        return {
            "images": len(self._images),
            "batch_size": self._batch_size,
            "epoch_counter": self._epoch_counter if self._position else self._generator.counter,
            "position": self._position,
            "generator": self._generator.state_dict(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """ValueError if `load_state_dict` would raise it."""
        if (state["images"], state["batch_size"]) != (len(self._images), self._batch_size):
            raise ValueError(
                f"batches: the state is of {state['images']} images in batches of {state['batch_size']}, "
                f"not of {len(self._images)} in batches of {self._batch_size}; take the same data and batch size"
            )
        due = len(self._images) // self._batch_size
        if not 0 <= state["position"] < due or state["epoch_counter"] < 0:
            raise ValueError(
                f"batches: the state is at batch {state['position']} of an epoch from counter "
                f"{state['epoch_counter']}, but an epoch is batches 0 .. {due - 1} from a counter of 0 or more"
            )
        copy(self._generator).load_state_dict(state["generator"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken, and so does the generator. ValueError if it was taken of other data."""
        self.check_state(state)
        self._generator.load_state_dict(state["generator"])
        self._epoch_counter, self._position, self._coming = state["epoch_counter"], state["position"], None
        if self._position:
            generator = copy(self._generator)
            generator.counter = self._epoch_counter
            self._order = generator.permutation(len(self._images))


def _picked(images: Array, image_size: int, pick: Array) -> Array:
    return _prepared(images[pick], image_size)


def _prepared(images: Array, image_size: int) -> Array:
    """Bytes (N, H, W) or (N, H, W, C) -> float32 (N, H, W, C) in [-1, 1], resized to squares unless H fits."""
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[1] != image_size:
        images = resize(images, image_size)
    batch = images.astype(np.float32, copy=False)  # new either way: resized, or bytes before
    batch /= np.float32(127.5)
    batch -= np.float32(1)
    return batch


def resize(images: Array, size: int) -> Array:
    """(N, H, W, C) or (N, H, W) -> (N, size, size, C): bilinear, antialiased where it shrinks.

    Bytes become float32, floats keep their dtype. Pixel centres are aligned, as (i + 1/2) / size. Each new pixel is a
    mean of old ones, weighted by a triangle: as wide as two old pixels where the image grows, which is bilinear
    interpolation, and as two new pixels where it shrinks, so that no old pixel is skipped (P. S. Heckbert,
    "Fundamentals of texture mapping and image warping", 1989). ValueError for other shapes, or a size below 1.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape[1:3] or size < 1:
        raise ValueError(f"resize: takes images (N, H, W, C) to a size of 1 or more, not {images.shape} to {size}")
    dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
    N, H, W, C = images.shape
    down, across = _taps(H, size), _taps(W, size)
    # A few at a time: their arrays stay in the cache, and are too small for malloc to ask the system for each of them.
    few = max((1 << 15) // (size * max(W, size)), 1)
    resized = np.empty((N, size, size, C), dtype)
    for i in range(0, N, few):
        part = images[i : i + few].astype(dtype, copy=False)
        resized[i : i + few] = _weighted(_weighted(part, 1, *down), 2, *across)
    return resized


def _weighted(images: Array, axis: int, pixels: Array, weights: Array) -> Array:
    """Images (N, H, W, C) whose pixels along `axis`, 1 or 2, are the sums over `_taps`."""
    weights = weights.astype(images.dtype).reshape(*weights.shape, *[1] * (3 - axis))
    # No matrix product: the threads of BLAS and those of the kernels would wait for each other.
    total: Array = images.take(pixels[0], axis)
    total *= weights[0]
    for pixel, weight in zip(pixels[1:], weights[1:], strict=True):
        term = images.take(pixel, axis)
        term *= weight
        total += term
    return total


def _taps(n: int, size: int) -> tuple[Array, Array]:
    """For each of `size` new pixels, the old ones of n under its triangle, and their weights: both (taps, size)."""
    half_width = max(n / size, 1.0)
    centre = (np.arange(size) + 0.5) * n / size
    taps = max(-(-2 * n // size), 2)  # as many pixel centres as fit strictly inside the triangle
    pixels = np.floor(centre - half_width + 0.5).astype(int) + np.arange(taps)[:, None]
    weights = np.maximum(1 - np.abs(pixels + 0.5 - centre) / half_width, 0)
    weights[(pixels < 0) | (pixels >= n)] = 0  # the edge: what lies outside leaves its weight to the others
    return np.clip(pixels, 0, n - 1), weights / weights.sum(0)
