"""What a tensor may hold."""

from typing import Any

import numpy as np

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
"""What can be differentiated."""


def check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """TypeError unless it is float32, float64, an integer type or bool."""
    if dtype not in FLOATS and dtype.kind not in "iub":
        raise TypeError(f"{name}: dtype {dtype} is not supported; use float32, float64, an integer type or bool")
