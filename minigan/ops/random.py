"""Ops that draw random numbers."""

from typing import Any

from .. import kernels
from ..mixing import as_tensors
from ..random import Generator, stream
from ..tensor import Tensor


def dropout(x: Any, p: float = 0.5, training: bool = True, generator: Generator | None = None) -> Tensor:
    """Zeros each element with probability p and divides the rest by 1 - p; nothing outside of training.

    Draws from `generator`, or from the stream "dropout" (Srivastava et al. 2014).
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be in [0, 1), not {p}")
    (tensor,) = as_tensors("dropout", [x])
    if not training or p == 0:
        return tensor
    u = (generator or stream("dropout")).uniform(tensor.shape, device=tensor.device)
    return tensor * Tensor.of(kernels.dropout_mask(u, p, tensor.dtype))
