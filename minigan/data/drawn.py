"""Drawn digits: a set of MNIST's shape that needs no network, because a program writes it.

A digit has a few models, which are strokes on a grid. A hand is a model whose points are moved at random, kept as a
field: the distance of each point of the plane to the nearest stroke. An image is a hand seen through a random
affine map and an elastic deformation, with ink where the distance is less than half the pen's width. The hands of
the test images are others than those of the training images, as MNIST's writers are.

Lengths are in pixels, x to the right and y down. Elastic deformation: P. Simard, D. Steinkraus, J. Platt, "Best
practices for convolutional neural networks applied to visual document analysis", 2003.
"""

import hashlib
from functools import cache
from itertools import pairwise
from math import ceil, dist
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..files import cache_folder
from ..random import Generator
from .kept import made_once

Array = NDArray[Any]
Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]

COUNTS = {"train": 60_000, "test": 10_000}

MODELS = (
    # 0: closed, narrow, with crossed ends
    ("50 21 04 17 49 78 95 82 50", "60 31 15 28 59 87 83 60", "72 50 22 05 28 59 88 94 71 41 22"),
    # 1: plain, bent, with a serif, with a serif and a foot
    ("50 59", "50 44 49", "32 50, 50 59", "32 50, 50 59, 29 89"),
    # 2: with a corner, with a loop, with a flat top
    ("12 30 60 82 74 46 19, 19 99", "12 40 72 74 46 28 19 08 17 38 69 98", "13 21 50 81 83 56 19, 19 48 79 98"),
    # 3: round, with a loop in the middle, with a straight top
    ("11 30 70 82 64 44, 44 75 87 79 39 08", "11 40 72 64 34 44 75 87 59 28 07", "10 80, 80 44, 44 75 87 69 39 08"),
    # 4: open, closed, round
    ("20 15, 15 95, 81 79", "60 06, 06 96, 60 69", "20 13 15 45 84, 81 84 79"),
    # 5: with corners, leaning, in one stroke
    ("90 20, 20 14, 14 53 86 79 49 08", "80 30, 30 24, 24 64 86 69 39 18", "90 50 22 34 65 77 59 29 08"),
    # 6: curved, upright, wide
    ("70 32 15 17 39 69 87 75 45 16", "50 23 17 39 79 86 65 36 17", "80 41 15 08 39 79 87 66 36 18"),
    # 7: plain, with a bar, with a serif, round
    ("10 90, 90 64 49", "10 90, 90 65 49, 35 85", "12 10, 10 90, 90 65 49", "11 30 60 90, 90 64 59"),
    # 8: in one stroke, open at the top, of two rings
    ("50 21 23 54 87 59 27 54 83 81 50", "81 50 21 23 54 77 59 28 26 54 90", "50 11 35 75 91 50, 53 16 29 79 86 53"),
    # 9: with a straight tail, with a curl, in one stroke
    ("82 50 21 13 35 65 82, 82 79", "82 50 21 13 35 65 82, 82 86 59 18", "81 40 12 14 45 74 81, 81 69"),
)
"""The digits' strokes, "xy xy xy, xy xy", on a grid from 00, top left, to 99: the points that control a curve.

A curve begins and ends in its first and last point; where these are one, it is a ring. A corner takes two curves.
"""

CELL = (1.4, 1.9)  # width and height of a cell of the grid
MOVE = 0.6  # of a model's points: cells, at most
SIZE = 17.2  # of a hand: its height, or its width if that is more
HANDS = 96  # of a digit, shared equally by its models
FIELD, STEP = 48, 0.7  # points a side of a field, and the distance between them

TURN = (-8, 8)  # degrees, clockwise
SLANT = (-10, 22)  # degrees, to the right
WIDTH, HEIGHT = (0.85, 1.2), (0.93, 1.07)  # of an image's digit, by that of its hand
KNOTS, SMOOTH, BEND = 6, 4.0, 3.0  # elastic: knots a side, the deviation of their Gaussians, how far they move at most
PEN = (1.7, 3.35)  # width of the strokes
EDGE = (0.8, 1.4)  # width of the edge, from paper to ink


def drawn_digits(split: Literal["train", "test"] = "train", seed: int = 0) -> Digits:
    """Images (N, 28, 28), 0 for paper to 255 for ink, and labels (N,), 0 to 9, both uint8, as from `load_mnist`.

    N is 60,000 for "train", 10,000 for "test". Another `seed` gives other hands and images; the same one the same,
    but for single grey levels that rounding changes between machines. They are drawn once, in seconds, and kept in
    the cache ($XDG_CACHE_HOME or ~/.cache, then minigan/drawn); a damaged file is drawn anew. ValueError for another
    split; a RuntimeWarning if the cache cannot be written.
    """
    if split not in COUNTS:
        raise ValueError(f"drawn_digits: there is no split {split!r}; choose train or test")
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = cache_folder() / "drawn" / f"{split}-{seed}-{recipe}.bin"
    n = COUNTS[split]
    images, labels = made_once(path, ((n, 28, 28), (n,)), lambda: draw(n, Generator(seed, f"drawn digits, {split}")))
    return images, labels


def draw(n: int, generator: Generator) -> Digits:
    """n images, uint8 (n, 28, 28), and labels, uint8 (n,), of hands that are drawn for them."""
    fields = np.concatenate([_hands(model, HANDS // len(row), generator) for row in MODELS for model in row])
    labels = generator.integers(len(MODELS), n)
    hands = labels * HANDS + generator.integers(HANDS, n)
    images = np.empty((n, 28, 28), np.uint8)
    for start in range(0, n, 1000):  # few enough for the processor's cache
        chunk = slice(start, start + 1000)
        images[chunk] = _images(fields, hands[chunk], generator)
    return images, labels.astype(np.uint8)


def _hands(model: str, n: int, generator: Generator) -> Array:
    """n fields, float32 (n, FIELD, FIELD), of one model, centred halfway between the strokes' mass and box."""
    names = sorted(set(model.replace(",", "").split()))
    moves = _between((-MOVE, MOVE), generator, (n, len(names), 2))
    points = (np.array([(int(name[0]), int(name[1])) for name in names]) + moves) * CELL
    curves = _curves(model, names) @ points  # (n, S, 2)
    mass, low, high = (of(curves, axis=1, keepdims=True) for of in (np.mean, np.min, np.max))
    curves -= (mass + (low + high) / 2) / 2  # by the mass alone, as MNIST's, 7's and 9's would leave the image
    curves *= SIZE / (high - low).max(2, keepdims=True)
    axis = (np.arange(FIELD) - (FIELD - 1) / 2) * STEP
    x, y = ((curves.T[..., None] - axis) ** 2).astype(np.float32)  # each (S, n, FIELD)
    squares = np.full((n, FIELD, FIELD), np.inf, np.float32)
    for i in range(len(x)):
        np.minimum(squares, x[i, :, None, :] + y[i, :, :, None], out=squares)
    return np.sqrt(squares)


def _curves(model: str, names: list[str]) -> Array:
    """(S, len(names)): what turns a model's points into S points along its curves, cubic B-splines."""
    place = {name: (int(name[0]) * CELL[0], int(name[1]) * CELL[1]) for name in names}
    unit = dict(zip(names, np.eye(len(names)), strict=True))
    pieces = []
    for stroke in model.split(", "):
        path = stroke.split()
        p = [unit[name] for name in path]
        ring = path[0] == path[-1]
        p = [p[-2] if ring else 2 * p[0] - p[1], *p, p[1] if ring else 2 * p[-1] - p[-2]]
        for i, (start, end) in enumerate(pairwise(path)):
            t = np.linspace(0, 1, ceil(dist(place[start], place[end]) / 0.4), endpoint=False)
            weights = (1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
            pieces.append(np.stack(weights, axis=1) / 6 @ p[i : i + 4])
    return np.concatenate(pieces)


def _images(fields: Array, hands: Array, generator: Generator) -> Array:
    """One image, uint8 (n, 28, 28), of each of the n hands, which number the fields (.., FIELD, FIELD)."""
    n = len(hands)
    turn, slant = (np.deg2rad(_between(degrees, generator, n)) for degrees in (TURN, SLANT))
    width, height = (_between(sizes, generator, n) for sizes in (WIDTH, HEIGHT))
    sin, cos, tan = np.sin(turn), np.cos(turn), np.tan(slant)
    # From the image back to the hand: turn, slant, stretch.
    affine = [(cos - tan * sin) / width, (sin + tan * cos) / width, -sin / height, cos / height]
    elastic = _between((-BEND, BEND), generator, (n, 2, KNOTS**2))
    elastic -= elastic.mean(2, keepdims=True)  # it bends the digit, but leaves it in the middle
    maps = np.concatenate((np.stack(affine, axis=1).reshape(n, 2, 2), elastic), axis=2)
    seen = (maps.reshape(2 * n, -1) @ _basis()).reshape(n, 2, 28 * 28)
    distance = _bilinear(fields, hands[:, None], seen[:, 0], seen[:, 1])
    pen, edge = _between(PEN, generator, (n, 1)), _between(EDGE, generator, (n, 1))
    ink = np.clip((pen / 2 - distance) / edge + 0.5, 0, 1)
    return np.rint(255 * ink).astype(np.uint8).reshape(n, 28, 28)


@cache
def _basis() -> Array:
    """(2 + KNOTS^2, 784): x, y and the share of each knot of the elastic deformation, at every pixel."""
    axis = np.arange(28, dtype=np.float32) - np.float32(13.5)
    knots = np.linspace(-14, 14, KNOTS, dtype=np.float32)
    bumps = np.exp(-(((knots[:, None] - axis) / SMOOTH) ** 2) / 2)
    bumps /= bumps.sum(0)
    return np.concatenate((np.stack(np.meshgrid(axis, axis)).reshape(2, -1), np.kron(bumps, bumps)))


def _bilinear(fields: Array, index: Array, x: Array, y: Array) -> Array:
    """The values of fields[index] at (x, y), which are measured in pixels from the middle of a field."""
    x, y = (np.clip(v / np.float32(STEP) + np.float32((FIELD - 1) / 2), 0, FIELD - 1.01) for v in (x, y))
    column, row = x.astype(np.intp), y.astype(np.intp)
    x, y = x - column.astype(np.float32), y - row.astype(np.float32)
    at, flat = (index * FIELD + row) * FIELD + column, fields.reshape(-1)
    above = flat.take(at) * (1 - x) + flat.take(at + 1) * x
    below = flat.take(at + FIELD) * (1 - x) + flat.take(at + FIELD + 1) * x
    return above * (1 - y) + below * y


def _between(limits: tuple[float, float], generator: Generator, shape: int | tuple[int, ...]) -> Array:
    """Uniform numbers, float32."""
    low, high = map(np.float32, limits)
    return low + (high - low) * generator.uniform(shape)
