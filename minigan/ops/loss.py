"""Losses on logits: a sigmoid or softmax followed by a logarithm would lose the gradient where it matters most."""

from typing import Any

import numpy as np

from .. import kernels
from ..mixing import as_tensors
from ..tensor import Array, Tensor, values_of
from .activation import softplus
from .reduce import log_softmax, mean


def cross_entropy(logits: Any, labels: Any) -> Tensor:
    """mean over n of -log softmax(logits)[n, labels[n]]; logits (N, K), labels integers (N,) in 0..K-1."""
    (logits,) = as_tensors("cross_entropy", [logits])
    rows = kernels.live(_classes, values_of(labels), logits.shape)
    return -mean(log_softmax(logits)[np.arange(len(rows)), rows])


def _classes(labels: Any, shape: tuple[int, ...]) -> Array:
    """The labels on the CPU. ValueError unless they fit logits of this shape."""
    rows = np.array(kernels.to_host(labels))
    if len(shape) != 2 or rows.shape != shape[:1] or rows.dtype.kind not in "iu":
        raise ValueError(
            f"cross_entropy: logits must be (N, K) and labels N integers, but are {shape} and {rows.dtype} {rows.shape}"
        )
    if rows.size and (rows.min() < 0 or rows.max() >= shape[1]):
        raise ValueError(f"cross_entropy: labels go from {rows.min()} to {rows.max()}, for {shape[1]} classes")
    return rows


def binary_cross_entropy_with_logits(logits: Any, targets: Any) -> Tensor:
    """mean of -t log s(l) - (1 - t) log(1 - s(l)), s the sigmoid, computed as softplus(l) - t l; shapes equal."""
    logits, targets = as_tensors("binary_cross_entropy_with_logits", [logits, targets])
    if logits.shape != targets.shape:
        raise ValueError(
            f"binary_cross_entropy_with_logits: logits {logits.shape} and targets {targets.shape} must have one shape"
        )
    return mean(softplus(logits) - targets * logits)
