"""Other ways to make a tensor than `Tensor(data)`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import kernels
from .dtypes import check_dtype
from .tensor import Tensor


def zeros(
    shape: int | Sequence[int], requires_grad: bool = False, dtype: DTypeLike = np.float32, device: str = "cpu"
) -> Tensor:
    """A tensor of zeros."""
    return Tensor(kernels.move(np.zeros(shape, dtype), kernels.checked(device)), requires_grad)


def ones(
    shape: int | Sequence[int], requires_grad: bool = False, dtype: DTypeLike = np.float32, device: str = "cpu"
) -> Tensor:
    """A tensor of ones."""
    return Tensor(kernels.move(np.ones(shape, dtype), kernels.checked(device)), requires_grad)


def from_dlpack(producer: Any) -> Tensor:
    """A tensor over the memory of another library's CPU array (DLPack), without a copy.

    Whoever writes into that memory later does so behind the version guard's back. TypeError for a dtype that `Tensor`
    does not take.
    """
    array = np.from_dlpack(producer)
    check_dtype("from_dlpack", array.dtype)
    return Tensor.of(array)
