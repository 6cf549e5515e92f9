"""NumPy's matrix product (BLAS for float32 and float64)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a (..., I, K), b (..., K, J) -> (..., I, J)."""
    return np.asarray(np.matmul(a, b, out=out))
