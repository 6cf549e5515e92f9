"""Losses on logits: a sigmoid or softmax followed by a logarithm would lose the gradient where it matters most.

And what critics of Wasserstein GANs minimise. All but `cross_entropy` are fused, one kernel each way; where a graph of
the gradient is being recorded, it is that of their definition in other ops (autograd.rederive).
"""

import math
from typing import Any

import numpy as np

from .. import kernels
from ..autograd import Function, is_recording, rederive
from ..dtypes import FLOATS
from ..mixing import as_tensors
from ..tensor import Array, Tensor, values_of
from .activation import relu, softplus
from .reduce import log_softmax, mean
from .shape import broadcast_to, reshape


class SigmoidCrossEntropy(Function):
    """mean of t softplus(-l) + (1 - t) softplus(l), for a target t that is one number, or the second input."""

    saves_inputs = True

    def __init__(self, target: float | None = None) -> None:
        self.target = target

    def definition(self, logits: Tensor, *targets: Tensor) -> Tensor:
        if targets:
            return mean(softplus(logits) - targets[0] * logits)
        t = self.target or 0.0
        if t in (0, 1):
            return mean(softplus(-logits if t else logits))
        return mean(t * softplus(-logits) + (1 - t) * softplus(logits))

    def forward(self, logits: Array, *targets: Array) -> Array:
        return kernels.sigmoid_cross_entropy(logits, targets[0] if targets else self.target)

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        logits, *targets = self.inputs
        if is_recording():
            return rederive(self.definition, self.inputs, g, self.needs)
        gl, t = None, targets[0].array if targets else self.target
        if self.needs[0]:
            gl = Tensor.of(kernels.sigmoid_cross_entropy_backward(g.array, logits.array, t))
        return gl, *(g * (-1 / logits.size) * logits if need else None for need in self.needs[1:])


class MeanDifference(Function):
    def forward(self, a: Array, b: Array) -> Array:
        self.shapes = a.shape, b.shape
        return kernels.mean_difference(a, b)

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        if not is_recording():
            return tuple(map(Tensor.of, kernels.mean_difference_backward(g.array, *self.shapes)))
        shares = [sign / math.prod(shape) for sign, shape in zip((1, -1), self.shapes, strict=True)]
        return tuple([broadcast_to(g * share, shape) for share, shape in zip(shares, self.shapes, strict=True)])


class RowSquares(Function):
    saves_inputs = True

    def forward(self, x: Array) -> Array:
        return kernels.row_squares(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.inputs
        if is_recording():
            y = reshape(g, (len(x), *[1] * (x.ndim - 1))) * x
            return y + y
        return Tensor.of(kernels.row_squares_backward(g.array, x.array))


class SlopePenalty(Function):
    """weight * mean((r - 1)^2) with r = sqrt(squares + eps), or of max(0, r - 1)^2. `mean_norm` is the mean of r."""

    saves_inputs = True

    def __init__(self, weight: float, eps: float, one_sided: bool) -> None:
        self.weight, self.eps, self.one_sided = weight, eps, one_sided

    def definition(self, squares: Tensor) -> Tensor:
        excess = (squares + self.eps) ** 0.5 - 1
        return mean((relu(excess) if self.one_sided else excess) ** 2) * self.weight

    def forward(self, squares: Array) -> Array:
        penalty, self.mean_norm = kernels.slope_penalty(squares, self.eps, self.weight, self.one_sided)
        return penalty

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...] | Tensor:
        (squares,) = self.inputs
        if is_recording():
            return rederive(self.definition, self.inputs, g, self.needs)
        scalars = self.eps, self.weight, self.one_sided
        return Tensor.of(kernels.slope_penalty_backward(g.array, squares.array, *scalars))


def cross_entropy(logits: Any, labels: Any) -> Tensor:
    """mean over n of -log softmax(logits)[n, labels[n]]; logits (N, K), labels integers (N,) in 0..K-1."""
    (logits,) = as_tensors("cross_entropy", [logits])
    places = kernels.early(_places, values_of(labels), logits.shape, device=logits.device)
    return -mean(reshape(log_softmax(logits), (-1,))[places])


def _places(labels: Any, shape: tuple[int, ...]) -> Array:
    """Where each row of logits has its label, in the order of their memory. ValueError unless they fit this shape."""
    rows = np.array(kernels.to_host(labels))
    if len(shape) != 2 or rows.shape != shape[:1] or rows.dtype.kind not in "iu":
        raise ValueError(
            f"cross_entropy: logits must be (N, K) and labels N integers, but are {shape} and {rows.dtype} {rows.shape}"
        )
    if rows.size and (rows.min() < 0 or rows.max() >= shape[1]):
        raise ValueError(f"cross_entropy: labels go from {rows.min()} to {rows.max()}, for {shape[1]} classes")
    return np.arange(len(rows)) * shape[1] + rows.astype(np.intp)


def binary_cross_entropy_with_logits(logits: Any, targets: Any) -> Tensor:
    """mean of -t log s(l) - (1 - t) log(1 - s(l)), s the sigmoid, without its rounding: -log s(l) is softplus(-l).

    targets: of the shape of logits, or one number for all of them.
    """
    if isinstance(targets, (int, float, np.integer, np.floating)):
        (logits,) = as_tensors("binary_cross_entropy_with_logits", [logits])
        inputs, node = [logits], SigmoidCrossEntropy(float(targets))
    else:
        logits, targets = as_tensors("binary_cross_entropy_with_logits", [logits, targets])
        inputs, node = [logits, targets], SigmoidCrossEntropy()
        if logits.shape != targets.shape:
            raise ValueError(
                f"binary_cross_entropy_with_logits: logits {logits.shape} and targets {targets.shape} must have one "
                "shape"
            )
    _refuse("binary_cross_entropy_with_logits", *inputs)
    return node(*inputs)


def mean_difference(a: Any, b: Any) -> Tensor:
    """mean(a) - mean(b), of any shapes: a critic's estimate, if a are its scores of one kind and b of the other."""
    a, b = as_tensors("mean_difference", [a, b])
    _refuse("mean_difference", a, b)
    return MeanDifference()(a, b)


def row_squares(x: Any) -> Tensor:
    """x (N, ...) -> (N,): of each sample the sum of its squares, its squared Euclidean norm."""
    (x,) = as_tensors("row_squares", [x])
    if x.ndim < 1:
        raise ValueError("row_squares: x must be (N, ...), but is a single number")
    _refuse_integers("row_squares", x)
    return RowSquares()(x)


def slope_penalty(squares: Any, weight: float, eps: float, one_sided: bool = False) -> tuple[Tensor, Tensor]:
    """weight * mean((r - 1)^2) for norms r = sqrt(squares + eps), squares (N,); and the mean of r, without a graph.

    one_sided: of max(0, r - 1)^2.
    """
    (squares,) = as_tensors("slope_penalty", [squares])
    if squares.ndim != 1:
        raise ValueError(f"slope_penalty: squares must be (N,), one a sample, but are {squares.shape}")
    _refuse("slope_penalty", squares)
    node = SlopePenalty(weight, eps, one_sided)
    penalty = node(squares)
    return penalty, Tensor.of(node.mean_norm)


def _refuse(name: str, *tensors: Tensor) -> None:
    """What has no mean."""
    _refuse_integers(name, *tensors)
    for tensor in tensors:
        if tensor.size == 0:
            raise ValueError(f"{name}: shape {tensor.shape} holds no elements")


def _refuse_integers(name: str, *tensors: Tensor) -> None:
    if any(tensor.dtype not in FLOATS for tensor in tensors):
        listed = ", ".join(str(tensor.dtype) for tensor in tensors)
        raise TypeError(f"{name}: wants all float32 or all float64, not {listed}")
