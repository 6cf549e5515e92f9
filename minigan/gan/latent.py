"""What a generator is given: codes, walks between them, and normal numbers without tails."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from .. import kernels
from ..random import Generator, Shape
from ..tensor import Array, Tensor

T = TypeVar("T", Array, Tensor)
Between = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Latent:
    """What codes are made of, each one flat row: `noise` normal numbers; for each of `categories`, which says how many
    values it has, a one at the place of its value among zeros; `uniform` numbers in [-1, 1).

    InfoGAN's for digits is Latent(62, (10,), 2). A conditional generator's first category is the label.
    """

    noise: int
    categories: tuple[int, ...] = ()
    uniform: int = 0

    @property
    def size(self) -> int:
        """Numbers a code."""
        return self.noise + sum(self.categories) + self.uniform

    def draw(self, generator: Generator, count: int, device: str = "cpu", threshold: float | None = None) -> Array:
        """(count, size) float32 on the device. With a threshold the noise is `truncated`."""
        return self.draw_labelled(generator, count, device, threshold)[0]

    def draw_labelled(
        self, generator: Generator, count: int, device: str = "cpu", threshold: float | None = None
    ) -> tuple[Array, list[Array]]:
        """What `draw` gives, and of each category the values (count,), on the host."""
        shape = (count, self.noise)
        noise = generator.normal(shape, device=device) if threshold is None else truncated(generator, shape, threshold)
        labels = [generator.integers(values, count) for values in self.categories]
        rows = [one_hot_rows(of, values, device) for of, values in zip(labels, self.categories, strict=True)]
        parts = [kernels.move(noise, device), *rows]
        if self.uniform:
            numbers = generator.uniform((count, self.uniform), device=device)
            parts.append(kernels.subtract(kernels.multiply(numbers, 2), np.float32(1)))
        return parts[0] if len(parts) == 1 else kernels.concatenate(parts, 1), labels

    def split(self, codes: T) -> tuple[T, list[T], T]:
        """The noise, the categories and the uniform numbers of codes (N, size)."""
        if codes.shape[1:] != (self.size,):
            raise ValueError(f"Latent: codes must be (N, {self.size}), but are {codes.shape}")
        ends = list(accumulate(self.categories, initial=self.noise))
        categories = [codes[:, start:end] for start, end in pairwise(ends)]
        return codes[:, : self.noise], categories, codes[:, ends[-1] :]

    def labels(self, codes: Array, which: int = 0) -> Array:
        """The values (N,) of a category of codes (N, size), on the host."""
        found: Array = kernels.live(_places_of_ones, self.split(codes)[1][which])
        return found

    def relabel(self, codes: Array, labels: Array, which: int = 0) -> Array:
        """A copy of codes (N, size), on the host, in which a category has the values `labels` (N,)."""
        codes = kernels.host_copy(codes)
        _, categories, _ = self.split(codes)
        categories[which][...] = np.eye(self.categories[which], dtype=codes.dtype)[labels]
        return codes

    def walks(self, codes: Array, steps: int, path: Between | None = None) -> Array:
        """`walks` between the noise of codes (2 P, size); all else stays as it is at the start: (P, steps, size)."""
        noise, _, _ = self.split(codes)
        between = walks(noise, steps, path or slerp)
        rest = codes[: len(between), None, self.noise :].repeat(steps, axis=1)
        return np.concatenate([between, rest], axis=2)


def one_hot_rows(labels: Array, classes: int, device: str) -> Array:
    """float32 (N, classes) on the device, from labels (N,) on the host."""
    rows: Array = kernels.early(_one_hot, labels, classes, device=device)
    return rows


def _one_hot(labels: Array, classes: int) -> Array:
    return np.eye(classes, dtype=np.float32)[labels]


def _places_of_ones(rows: Array) -> Array:
    found: Array = kernels.to_host(rows).argmax(1)
    return found


def lerp(a: Array, b: Array, t: Array) -> Array:
    """The straight line from a (t = 0) to b (t = 1), both (latent,); t (T,) -> (T, latent)."""
    line: Array = np.outer(1 - t, a) + np.outer(t, b)
    return line


def slerp(a: Array, b: Array, t: Array) -> Array:
    """The great circle from a (t = 0) to b (t = 1), both (latent,); t (T,) -> (T, latent).

    A Gaussian in many dimensions lives near a sphere. A straight line cuts through the inside, where G was never
    trained, so the angle is interpolated instead (Shoemake 1985; for GANs White 2016), and the length beside it.
    """
    length_a, length_b = np.linalg.norm(a), np.linalg.norm(b)
    cosine = a @ b / (length_a * length_b) if length_a * length_b else 1.0
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:  # one direction, or opposite ones, which no single circle joins, or none
        return lerp(a, b, t)
    arc = np.outer(np.sin((1 - t) * angle), a / length_a) + np.outer(np.sin(t * angle), b / length_b)
    walk: Array = arc / np.sin(angle) * ((1 - t) * length_a + t * length_b)[:, None]
    return walk


def walks(z: Array, steps: int, path: Between = slerp) -> Array:
    """P walks from z[i] to z[P + i], for z (2 P, latent) -> (P, steps, latent), both ends included.

    path: `lerp` or `slerp`.
    """
    if z.ndim != 2 or len(z) == 0 or len(z) % 2:
        raise ValueError(f"walks: z must be (2 P, latent), a start and an end for each of P walks, not {z.shape}")
    if steps < 2:
        raise ValueError(f"walks: steps must be at least 2, since both ends are among them, not {steps}")
    P, t = len(z) // 2, np.linspace(0, 1, steps, dtype=z.dtype)
    return np.stack([path(a, b, t) for a, b in zip(z[:P], z[P:], strict=True)])


def truncated(generator: Generator, shape: Shape, threshold: float, dtype: DTypeLike = np.float32) -> Array:
    """Normal numbers of which none is beyond +-threshold: those that were are drawn anew, until none is left.

    The truncation trick (Brock et al. 2019, section 3.1): the lower the threshold, the better each sample, and the
    more they are all alike. Numbers of the first draw that are inside stay, so that from the same state of the
    generator all thresholds share them.
    """
    if not (isfinite(threshold) and threshold >= 0.01):
        raise ValueError(
            f"truncated: threshold must be finite and at least 0.01, not {threshold}: of the numbers drawn for 0.01, "
            "1 in 125 is inside, and for less hardly any"
        )
    z = generator.normal(shape, dtype)
    flat = z.reshape(-1)
    outside = np.flatnonzero(abs(flat) > threshold)
    while outside.size:
        flat[outside] = again = generator.normal(outside.size, dtype)
        outside = outside[abs(again) > threshold]
    return z
