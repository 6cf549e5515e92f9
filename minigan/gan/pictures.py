"""Samples as files: grids, single pictures, arrays, animations. Each file or folder is written whole or not at all.

All take floats in [-1, 1] with their channels last, grey (C = 1) or RGB (C = 3). What is beyond is cut off. ValueError
for NaN or any other form; an OSError names what could not be written and what to do.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.sources import NAMES
from ..files import named, replace
from ..tensor import Array

GREY = 128
"""Between the images of a grid."""

PALETTE_PIXELS = 1 << 17
"""So many of an animation's pixels choose its colours: with millions of different ones, the choice takes seconds."""


def to_bytes(images: Array) -> Array:
    """uint8 (N, H, W, C) from images (N, H, W, C) in [-1, 1], rounded."""
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape or images.dtype.kind != "f":
        raise ValueError(
            "pictures are made from floats in [-1, 1] of shape (N, H, W, 1) or (N, H, W, 3), not from "
            f"{images.dtype} {images.shape}"
        )
    pixels = np.empty(images.shape, np.uint8)
    for i, image in enumerate(images):  # one at a time: all as float64 may not fit
        if np.isnan(image).any():
            raise ValueError(
                f"sample {i} holds NaN, so no picture is written: the weights or latent vectors that made it are "
                "spoilt; go back to an earlier checkpoint"
            )
        pixels[i] = np.rint(255 * np.clip(((image + 1) / 2).astype(np.float64), 0, 1))
    return pixels


def save_grid(path: str | Path, images: Array, columns: int = 8) -> None:
    """A PNG of images (N, H, W, C), one pixel apart, row by row."""
    from matplotlib.image import imsave

    grid = _grid(images, columns)
    pixels = np.repeat(grid, 3 // grid.shape[2], axis=2)  # grey as RGB
    with named(Path(path)):
        replace(Path(path), lambda file: imsave(file, pixels, format="png"))


def save_pictures(folder: str | Path, images: Array) -> None:
    """A new folder of PNGs, one for each of images (N, H, W, C): 000000.png and on, so sorted by name.

    `minigan.data.load` reads it back. FileExistsError if `folder` exists.
    """
    folder = Path(folder)
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists already; pictures need a new folder: choose another name")
    pixels = to_bytes(images)
    digits = max(6, len(str(len(pixels) - 1)))
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        with named(folder):
            if part.exists():  # a killed process had this one's number
                shutil.rmtree(part)
            part.mkdir(parents=True)
            for i, image in enumerate(pixels):
                _picture(image).save(part / f"{i:0{digits}}.png")
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_npz(path: str | Path, images: Array, /, **more: Array) -> None:
    """A .npz file of `images`, (N, H, W, C) as bytes, and of other arrays, such as the latent vectors z.

    `minigan.data.load` reads the images back. ValueError for other arrays under names that mean something to it.
    """
    taken = sorted({name for names in NAMES for name in names}.intersection(more))
    if taken:
        raise ValueError(
            f"save_npz: minigan.data.load would read the array {taken[0]!r} as part of a data set; give it another name"
        )
    arrays: dict[str, Any] = {"images": to_bytes(images), **more}

    def write(part: str) -> None:
        with open(part, "wb") as file:  # np.savez adds .npz to names
            np.savez(file, **arrays)

    with named(Path(path)):
        replace(Path(path), write)


def save_gif(path: str | Path, frames: Array, milliseconds: int = 80, columns: int = 8) -> None:
    """An animation of grids, at most `columns` wide: frames (T, N, H, W, C) there and back, for ever.

    Each is shown for `milliseconds`, which the format counts in tens. Grey is exact; colours are the 256 that suit all
    frames best. The bytes depend on the arguments and on Pillow only.
    """
    if frames.ndim != 5 or len(frames) == 0:
        raise ValueError(f"save_gif: frames must be (T, N, H, W, C) with T at least 1, not {frames.shape}")
    if not 20 <= milliseconds <= 1000:
        raise ValueError(
            f"save_gif: milliseconds must be in 20 .. 1000, not {milliseconds}: viewers slow down what is shorter"
        )
    grids = np.stack([_grid(images, min(columns, len(images))) for images in frames])
    height, width = grids.shape[1:3]
    if max(height, width) >= 1 << 16:
        raise ValueError(
            f"save_gif: a frame of {width} x {height} pixels is more than a GIF can hold, 65535 a side: take fewer "
            "samples, or other columns"
        )
    pictures = [_picture(grid) for grid in grids]
    if grids.shape[3] == 3:
        palette = _palette(grids)
        pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    back = pictures[-2:0:-1]  # without the ends, which would stand still
    with named(Path(path)):
        replace(
            Path(path),
            lambda part: pictures[0].save(
                part, format="gif", save_all=True, append_images=pictures[1:] + back, duration=milliseconds, loop=0
            ),
        )


def _grid(images: Array, columns: int) -> Array:
    """Bytes (height, width, C) of images (N, H, W, C): row by row, one pixel apart."""
    if columns < 1:
        raise ValueError(f"a grid needs at least 1 column, not {columns}")
    pixels = to_bytes(images)
    N, H, W, C = pixels.shape
    rows = -(-N // columns)
    grid = np.full((rows * (H + 1) + 1, columns * (W + 1) + 1, C), GREY, np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (H + 1) + 1, i % columns * (W + 1) + 1
        grid[top : top + H, left : left + W] = image
    return grid


def _picture(pixels: Array) -> Image.Image:
    """Of bytes (H, W, C)."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _palette(grids: Array) -> Image.Image:
    """A picture whose palette suits all grids (T, H, W, 3), by median cut (Heckbert 1982)."""
    pixels = grids.reshape(-1, 3)
    if len(pixels) > PALETTE_PIXELS:
        # by a prime, which has no divisor in common with a grid's width, so that no column is left out
        pixels = pixels[np.arange(PALETTE_PIXELS) * 1_000_003 % len(pixels)]
    return Image.fromarray(pixels[None]).quantize(256, dither=Image.Dither.NONE)
