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
    if not 0 < batch_size <= len(images):
        raise ValueError(f"batches: batch size {batch_size} must be in 1 .. {len(images)}, the number of images")
    if image_size is not None and image_size < images.shape[1]:
        raise ValueError(f"batches: images of {images.shape[1]} pixels are not made smaller, to {image_size}")
    return _batches(images, batch_size, generator, image_size)


def _batches(images: Array, batch_size: int, generator: Generator, image_size: int | None) -> Iterator[Array]:
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            batch = images[order[start : start + batch_size]].astype(np.float32)
            if batch.ndim == 3:
                batch = batch[..., None]
            if image_size is not None and image_size != images.shape[1]:
                batch = enlarge(batch, image_size)
            yield batch / np.float32(127.5) - np.float32(1)


def enlarge(images: Array, size: int) -> Array:
    """Bilinear: (N, H, W, C) -> (N, size, size, C), pixel centres aligned as (i + 1/2) / size."""
    rows, columns = (_bilinear(n, size).astype(images.dtype) for n in images.shape[1:3])
    return np.einsum("ah,nhwc,bw->nabc", rows, images, columns, optimize=True)


def _bilinear(n: int, size: int) -> Array:
    """(size, n): each row holds the two weights that make a new pixel from its neighbours."""
    centre = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    left = np.minimum(centre.astype(int), max(n - 2, 0))
    weights = np.zeros((size, n))
    weights[np.arange(size), left] = 1 - (centre - left)
    weights[np.arange(size), np.minimum(left + 1, n - 1)] += centre - left
    return weights
