"""Real and generated images in one form."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import resize

Array = NDArray[Any]


def pixels(images: Array, size: int) -> Array:
    """float32 (N, size, size, C) in [-1, 1] from uint8 or from floats in [-1, 1], (N, H, W, C) or (N, H, W).

    ValueError for other dtypes, and for floats of another range.
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(f"metrics: images must be uint8, or floats in [-1, 1], not {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    x = images.astype(np.float32, copy=False)
    if images.dtype == np.uint8:
        x = x / np.float32(127.5) - np.float32(1)
    elif images.size and not max(-x.min(), x.max()) <= 1.001:  # what resizing may round to; NaN is not <= either
        raise ValueError(f"metrics: floats in images must be in [-1, 1], but go from {x.min():g} to {x.max():g}")
    return x if x.shape[1:3] == (size, size) else resize(x, size)
