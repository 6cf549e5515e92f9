"""From stored images to batches that a net takes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..random import Generator

Array = NDArray[Any]


def batches(images: Array, batch_size: int, generator: Generator, image_size: int | None = None) -> Iterator[Array]:
    """Endless batches of float32 (batch_size, H, W, C) in [-1, 1] from uint8 images (N, H, W) or (N, H, W, C).

    Every epoch is a new permutation from `generator`; the last, partial batch is left out. `image_size` enlarges
    (bilinearly). ValueError if a batch is larger than the data.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"batches: images must be uint8, 0 to 255, not {images.dtype}")
    if not 0 < batch_size <= len(images):
        raise ValueError(f"batches: batch size {batch_size} must be in 1 .. {len(images)}, the number of images")
    if image_size is not None and image_size < max(images.shape[1:3]):
        raise ValueError(f"batches: images of {images.shape[1:3]} pixels are not made smaller, to {image_size}")
    return _batches(images, batch_size, generator, image_size)


def _batches(images: Array, batch_size: int, generator: Generator, image_size: int | None) -> Iterator[Array]:
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            batch = images[order[start : start + batch_size]].astype(np.float32)
            if batch.ndim == 3:
                batch = batch[..., None]
            if image_size is not None and batch.shape[1:3] != (image_size, image_size):
                batch = enlarge(batch, image_size)
            yield batch / np.float32(127.5) - np.float32(1)


def enlarge(images: Array, size: int) -> Array:
    """Bilinear: (N, H, W, C) -> (N, size, size, C), pixel centres aligned as (i + 1/2) / size; bytes become float32."""
    if images.dtype.kind != "f":
        images = images.astype(np.float32)
    for axis in (1, 2):
        left, right, share = _neighbours(images.shape[axis], size)
        share = share.astype(images.dtype).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        images = images.take(left, axis) * (1 - share) + images.take(right, axis) * share
    return images


def _neighbours(n: int, size: int) -> tuple[Array, Array, Array]:
    """For each of `size` new pixels: its two old neighbours of n, and the second one's share."""
    centre = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    left = centre.astype(int)
    return left, np.minimum(left + 1, n - 1), centre - left
