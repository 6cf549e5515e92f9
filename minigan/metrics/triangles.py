"""How far images are from the manifold of the triangles (data/triangles.py), and what share of them is near enough.

M. Lucic et al., "Are GANs created equal? A large-scale study", 2018: precision is the share of fakes within `delta` of
the manifold, recall that of held-out triangles within `delta` of what G can make (gan/inversion.py), F1 their harmonic
mean. The manifold here is the data set's own, of 3 degrees of freedom: a triangle that is off the middle, or of another
size, or thinner, is as far from it as its pixels are from those of the nearest triangle that the data set could hold.
So is paper that is not quite white. Nothing else is demanded, and no second tolerance is needed.

Distances are Euclidean, over all pixels, of images in [0, 1]: half of what they are in [-1, 1]. What counts is their
ratio to the norm of the triangle's own ink, `relative`: for a needle fewer pixels may be wrong than for a large one,
and blank paper is at 1 from all. Figures of the paper, whose distance, tolerance and triangles are others, do not
compare.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import triangles as data
from ..random import Generator
from .images import pixels
from .neighbours import nearest

Array = NDArray[Any]

DELTA = 0.25
"""Of `relative`. What `calibrate` finds for `squares` and `blobs`, 0.245, rounded. 99 % of held-out triangles are
within 0.02; of triangles that were moved by a pixel 4 % pass, of those shrunk to 0.8 of their size 1 %."""

STARTS = 20_000  # triangles among which the nearest is looked up, to start a fit from
STEPS = 10  # of a fit
MOVE = 0.03  # radians by which an angle is moved to see what that changes: a third of a pixel
CHUNK = 500  # images at a time


def calibrate(others: Array) -> float:
    """Half of the relative distance beyond which 99 % of `others` are, images that are no triangles, as `fit` takes
    them: what is nearer is a triangle rather than one of these."""
    return float(np.quantile(relative(*fit(others)), 0.01)) / 2


def relative(vertices: Array, distance: Array) -> Array:
    """What `fit` returns, as a share of the norm of each triangle's ink: (N,)."""
    share: Array = distance / np.sqrt((data.render(vertices, smooth=True) ** 2).sum((1, 2)))
    return share


def precision(images: Array, delta: float = DELTA) -> float:
    """The share of `images` of a `relative` distance below `delta`. ValueError for none, or as by `fit`."""
    if not len(images):
        raise ValueError("triangles: the precision of no images is not defined; pass 1 or more")
    return float((relative(*fit(images)) < delta).mean())


def shape_distances(vertices: Array, real_vertices: Array) -> dict[str, float]:
    """How differently triangles (N, 3, 2) and real ones (M, 3, 2) are distributed: Kolmogorov-Smirnov distances.

    orientation: of the direction from the middle to the sharpest corner; area; smallest_angle: at that corner. Each is
    from 0, for the same distribution, to 1; the luck of the draw alone makes it about sqrt((N + M) / NM).
    """
    shapes, real_shapes = _shapes(vertices), _shapes(real_vertices)
    return {name: ks_distance(shapes[name], real_shapes[name]) for name in shapes}


def ks_distance(a: Array, b: Array) -> float:
    """The largest difference of the two shares of numbers up to x, for any x, of a (N,) and b (M,)."""
    for numbers in (a, b):
        if numbers.ndim != 1 or not len(numbers) or np.isnan(numbers).any():
            raise ValueError(f"ks_distance: takes numbers (N,), N > 0, without NaN, not {numbers.shape} {numbers}")
    x = np.concatenate([a, b])
    shares = (np.searchsorted(np.sort(numbers), x, side="right") / len(numbers) for numbers in (a, b))
    return float(np.abs(np.subtract(*shares)).max())


def _shapes(vertices: Array) -> dict[str, Array]:
    """Orientation and smallest angle in degrees, area in square pixels: each (N,), of vertices (N, 3, 2)."""
    if vertices.ndim != 3 or vertices.shape[1:] != (3, 2) or not len(vertices):
        raise ValueError(f"shape_distances: vertices must be (N, 3, 2), N > 0, but are {vertices.shape}")
    following, previous = np.roll(vertices, -1, axis=1) - vertices, np.roll(vertices, 1, axis=1) - vertices
    cross = following[..., 0] * previous[..., 1] - following[..., 1] * previous[..., 0]
    angle = np.arctan2(np.abs(cross), (following * previous).sum(2))  # (N, 3)
    sharpest = angle.argmin(1)
    arm = (vertices - vertices.mean(1, keepdims=True))[np.arange(len(vertices)), sharpest]
    return {
        "orientation": np.rad2deg(np.arctan2(arm[:, 1], arm[:, 0])),
        "area": np.abs(cross[:, 0]) / 2,
        "smallest_angle": np.rad2deg(angle.min(1)),
    }


def fit(images: Array) -> tuple[Array, Array]:
    """The nearest triangle of the manifold to each image: its vertices (N, 3, 2), in pixels, and its distance (N,).

    images: uint8, or floats in [-1, 1], (N, H, H) or (N, H, H, 1); of another size than 28 they are resized. From the
    nearest of 20,000 triangles, Levenberg-Marquardt on the three angles, kept within the manifold. For an image that
    resembles no triangle this is a local optimum, so that its distance may be too large by a little.
    ValueError for images of another form, or NaN.
    """
    x = _grey(images)
    vertices, distance = np.empty((len(x), 3, 2)), np.empty(len(x))
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        angles, distance[part] = _fit(x[part])
        vertices[part] = data.on_circle(angles)
    return vertices, distance


def _grey(images: Array) -> Array:
    """float64 (N, 784), 0 for ink to 1 for paper."""
    if images.ndim not in (3, 4) or images.shape[1] != images.shape[2] or images.shape[3:] not in ((), (1,)):
        raise ValueError(f"triangles: images must be grey, (N, H, H) or (N, H, H, 1), but are {images.shape}")
    x: Array = (pixels(images, data.SIZE).astype(np.float64) + 1) / 2
    return x.reshape(len(x), data.SIZE**2)


@cache
def _starts() -> tuple[Array, Array]:
    """Angles (STARTS, 3) and their images, float32 (STARTS, 784)."""
    angles = data.random_angles(STARTS, Generator(0, "triangles, starts"))
    return angles, _seen(angles).astype(np.float32)


def _seen(angles: Array) -> Array:
    """Images (N, 784) in [0, 1] of radians (N, 3)."""
    return 1 - data.render(data.on_circle(angles), smooth=True).reshape(len(angles), data.SIZE**2)


def _fit(x: Array) -> tuple[Array, Array]:
    """Angles (N, 3) and distances (N,) of images (N, 784)."""
    starts, shown = _starts()
    angles = starts[nearest(x.astype(np.float32), shown)[0]]
    left = x - _seen(angles)
    error = (left**2).sum(1)
    damping = np.full(len(x), 1e-2)
    for _ in range(STEPS):
        moved = [_seen(angles + MOVE * axis) for axis in np.eye(3)]
        slope = (np.stack(moved, axis=2) - (x - left)[..., None]) / MOVE  # (N, 784, 3)
        square = slope.transpose(0, 2, 1) @ slope
        damped = square + damping[:, None, None] * (square * np.eye(3) + 1e-6 * np.eye(3))
        step = np.linalg.solve(damped, slope.transpose(0, 2, 1) @ left[..., None])[..., 0]
        tried = _within(angles + step)
        tried_left = x - _seen(tried)
        tried_error = (tried_left**2).sum(1)
        better = tried_error < error
        angles[better], left[better], error[better] = tried[better], tried_left[better], tried_error[better]
        damping *= np.where(better, 0.2, 5)
    return angles, np.sqrt(error)


def _within(angles: Array) -> Array:
    """Angles whose gaps are MIN_GAP at least: what each is away from its third is brought near the others'."""
    third = 2 * np.pi / 3 * np.arange(3)
    place = angles - third
    middle = (place.max(1, keepdims=True) + place.min(1, keepdims=True)) / 2
    half = np.pi / 3 - np.deg2rad(data.MIN_GAP) / 2
    within: Array = place.clip(middle - half, middle + half) + third
    return within


# ---- how well it tells triangles from other things ------------------------------------------------------------------


def squares(n: int, generator: Generator) -> Array:
    """Turned dark squares in the middle, uint8 (n, 28, 28), as large as triangles: 35 to 140 square pixels."""
    turn, area = generator.uniform((n, 1)).astype(np.float64), 35 + 105 * generator.uniform((n, 1)).astype(np.float64)
    angle = 2 * np.pi * turn + np.pi / 2 * np.arange(4)
    corners = np.sqrt(area / 2)[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=2) + data.SIZE / 2
    halves = data.render(corners[:, [0, 1, 2]]) + data.render(corners[:, [2, 3, 0]])
    images: Array = np.rint(255 * (1 - halves).clip(0)).astype(np.uint8)
    return images


def blobs(n: int, generator: Generator) -> Array:
    """Turned dark ellipses in the middle, uint8 (n, 28, 28), as large as triangles, their edge a pixel wide.

    One axis is 1 to 2 times the other.
    """
    area, ratio, turn = (generator.uniform((n, 1, 1)).astype(np.float64) for _ in range(3))
    radius = np.sqrt((35 + 105 * area) / np.pi)
    long, cos, sin = np.sqrt(1 + ratio), np.cos(np.pi * turn), np.sin(np.pi * turn)
    y, x = np.indices((data.SIZE, data.SIZE)) + 0.5 - data.SIZE / 2
    distance = np.hypot((cos * x + sin * y) / long, (cos * y - sin * x) * long)
    images: Array = np.rint(255 * (distance - radius + 0.5).clip(0, 1)).astype(np.uint8)
    return images


def sanity(n: int = 1000) -> str:
    """A table of what `fit` and DELTA say about n images each that are triangles, and that are not."""
    generator, test = Generator(0, "triangles, sanity"), data.drawn_triangles("test")[:n]
    small = data.SIZE / 2 + 0.8 * (data.on_circle(data.random_angles(n, generator)) - data.SIZE / 2)
    rows = {
        "held-out triangles": test,
        "training images": data.drawn_triangles("train")[:n],
        "the same, a pixel off": np.roll(test, 1, axis=2),
        "the same on grey paper": np.rint(0.9 * test).astype(np.uint8),
        "of 0.8 the size": np.rint(255 * (1 - data.render(small))).astype(np.uint8),
        "turned squares": squares(n, generator),
        "blobs": blobs(n, generator),
    }
    lines = [f"{'':23}  distance: 1 %   50 %   99 %   within {DELTA}"]
    for name, images in rows.items():
        distance = relative(*fit(images))
        low, middle, high = np.quantile(distance, (0.01, 0.5, 0.99))
        lines += [f"{name:23}  {low:13.3f}  {middle:5.3f}  {high:5.3f}  {(distance < DELTA).mean():11.1%}"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(sanity())
