"""Triangles: a data set whose manifold is known, so that precision and recall of a generator can be computed.

M. Lucic et al., "Are GANs created equal? A large-scale study", 2018. From the notebook that its authors published are:
three vertices on a circle whose diameter is 0.75 of the image's side, one in each third of the circle, any two of them
20 degrees or more apart as seen from its centre; the centroid shifted to the middle of the image; a dark triangle on
white paper, 28x28 pixels, of which each is the mean of 8x8 samples; 60,000 to train and 10,000 to test.
Chosen here is what the notebook only promises: its own vertices come as near as 10 degrees, and it turns triangles by
6 degrees at most, as it converts to radians twice. Here 20 degrees are kept and all turns are equally likely. Samples
are at the middles of the sub-pixels, and there is no second test set.

A triangle in the plane has 6 degrees of freedom. Centring removes 2, the circle's size 1: 3 are left, the angles of the
vertices on their circle. With gaps of at least 20 degrees between them that are at most 220, they are the manifold.

Lengths are in pixels, x to the right and y down, from the image's upper left corner.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..files import cache_folder
from ..random import Generator
from .kept import made_once

Array = NDArray[Any]

COUNTS = {"train": 60_000, "test": 10_000}
SIZE = 28
SCALE = 0.75  # the circle's diameter, of SIZE
MIN_GAP = 20  # degrees
SAMPLES = 8  # a side, in each pixel
CHUNK = 500  # triangles at a time, few enough for the processor's cache


def drawn_triangles(split: Literal["train", "test"] = "train", seed: int = 0) -> NDArray[np.uint8]:
    """Images (N, 28, 28), uint8, 0 for ink to 255 for paper; N is 60,000 for "train", 10,000 for "test".

    The same seed gives the same bytes everywhere. They are made once, in seconds, and kept in the cache
    ($XDG_CACHE_HOME or ~/.cache, then minigan/triangles); a damaged file is made anew. ValueError for another split; a
    RuntimeWarning if the cache cannot be written.
    """
    if split not in COUNTS:
        raise ValueError(f"drawn_triangles: there is no split {split!r}; choose train or test")
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = cache_folder() / "triangles" / f"{split}-{seed}-{recipe}.bin"
    n = COUNTS[split]

    def make() -> tuple[NDArray[np.uint8]]:
        return (draw(random_angles(n, Generator(seed, f"triangles, {split}"))),)

    (images,) = made_once(path, [(n, SIZE, SIZE)], make)
    return images


def random_angles(n: int, generator: Generator) -> Array:
    """Where on their circle the vertices of n triangles are: radians (n, 3), float64, rising."""
    turn, place = (generator.uniform(shape).astype(np.float64) for shape in ((n, 1), (n, 3)))
    third = 360 / 3
    degrees = third * np.arange(3) + MIN_GAP / 2 + (third - MIN_GAP) * place
    return np.deg2rad(degrees + 360 * turn)


def on_circle(angles: Array) -> Array:
    """The vertices (N, 3, 2), as (x, y), of triangles in the middle of their image, from radians (N, 3)."""
    vertices = SCALE * SIZE / 2 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    centred: Array = vertices - vertices.mean(axis=-2, keepdims=True) + SIZE / 2
    return centred


def draw(angles: Array) -> NDArray[np.uint8]:
    """Images (N, 28, 28), uint8, from radians (N, 3)."""
    images: NDArray[np.uint8] = np.rint(255 * (1 - render(on_circle(angles)))).astype(np.uint8)
    return images


def render(vertices: Array, size: int = SIZE, smooth: bool = False) -> Array:
    """How much of each pixel of size x size a triangle covers, 0 to 1: float64 (N, size, size), of vertices (N, 3, 2).

    In each pixel 8x8 samples are counted, on 8 lines. smooth: the exact length of these lines inside the triangle in
    place of the samples on it, which is what an optimiser needs: it changes with every move of a vertex.
    A line meets a triangle in an interval, so that the cost is that of two ends a line, not of a sample each.
    """
    if vertices.ndim != 3 or vertices.shape[1:] != (3, 2):
        raise ValueError(f"render: vertices must be (N, 3, 2), but are {vertices.shape}")
    covered = np.empty((len(vertices), size, size))
    for start in range(0, len(vertices), CHUNK):
        part = slice(start, start + CHUNK)
        left, right = _intervals(vertices[part].astype(np.float64), size)
        if not smooth:  # the samples to the left of an end, whose share of a pixel's width each has
            left, right = (np.ceil(SAMPLES * end - 0.5) / SAMPLES for end in (left, right))
        covered[part] = _covered(left.clip(0, size), right.clip(0, size), size)
    return covered


def _intervals(vertices: Array, size: int) -> tuple[Array, Array]:
    """Where each line of samples comes in and leaves, two of (N, size * SAMPLES); 0 and 0 where it passes by."""
    y = (np.arange(size * SAMPLES) + 0.5) / SAMPLES
    left = np.full((len(vertices), len(y)), np.inf)
    right = -left
    for i in range(3):
        (px, py), (qx, qy) = (vertices[:, j % 3].T[..., None] for j in (i, i + 1))  # each (N, 1)
        crossed = (py <= y) != (qy <= y)
        slope = (qx - px) / np.where(qy == py, 1, qy - py)  # a level side is never crossed
        x = px + (y - py) * slope
        np.minimum(left, x, out=left, where=crossed)
        np.maximum(right, x, out=right, where=crossed)
    met = right > -np.inf
    return np.where(met, left, 0), np.where(met, right, 0)


def _covered(left: Array, right: Array, size: int) -> Array:
    """The mean over a pixel's lines of how much of each is between its ends, (N, size, size).

    Left of an end at x, pixel floor(x) is covered by its fraction, and all pixels before wholly: as differences along
    the row, fraction - 1 there and -fraction at the next pixel.
    """
    rows = np.arange(len(left) * size).reshape(-1, size, 1) * (size + 2)
    steps = np.zeros(len(left) * size * (size + 2))
    for end, sign in ((right, 1 / SAMPLES), (left, -1 / SAMPLES)):
        column = end.astype(np.int64)
        fraction = (end - column) * sign
        at = (column.reshape(len(left), size, SAMPLES) + rows).ravel()
        steps += np.bincount(at, fraction.ravel() - sign, len(steps))
        steps += np.bincount(at + 1, -fraction.ravel(), len(steps))
    covered: Array = steps.reshape(len(left), size, size + 2)[..., :size].cumsum(axis=2)
    return covered
