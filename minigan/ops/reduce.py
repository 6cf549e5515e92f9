"""Sums, means, largest elements, and the softmax family."""

from operator import index
from typing import Any

import numpy as np

from .. import kernels
from ..autograd import Function
from ..dtypes import FLOATS
from ..mixing import as_tensors
from ..tensor import Array, Axis, Tensor
from .elementwise import astype, exp
from .shape import broadcast_to, reshape


def normal_axes(name: str, axis: Any) -> Axis:
    """None, an int or a tuple of ints, from whatever else counts as these."""
    if axis is None:
        return None
    try:
        return tuple(map(index, axis)) if isinstance(axis, (tuple, list)) else index(axis)
    except TypeError:
        raise TypeError(f"{name}: axis must be a whole number or a tuple of them, not {axis!r}") from None


def kept_shape(name: str, shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape after a reduction over `axis` that keeps the axes, with length 1."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    for a in axes:
        if not -len(shape) <= a < len(shape):
            raise ValueError(f"{name}: there is no axis {a} in shape {shape}")
    reduced = {a % len(shape) for a in axes}
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


class Sum(Function):
    def __init__(self, axis: Axis, keepdims: bool) -> None:
        self.axis, self.keepdims = normal_axes(self.name, axis), keepdims

    def forward(self, x: Array) -> Array:
        self.source, self.kept_shape = x.shape, kept_shape("sum", x.shape, self.axis)
        return kernels.sum(x, self.axis, self.keepdims)

    def backward(self, g: Tensor) -> Tensor:
        return broadcast_to(reshape(g, self.kept_shape), self.source)


class Max(Function):
    """The largest element gets the gradient; ties share it equally."""

    def __init__(self, axis: Axis, keepdims: bool) -> None:
        self.axis, self.keepdims = normal_axes(self.name, axis), keepdims

    def forward(self, x: Array) -> Array:
        self.kept_shape = kept_shape("max", x.shape, self.axis)
        if 0 in x.shape:
            raise ValueError(f"max: shape {x.shape} holds no elements")
        y = kernels.amax(x, self.axis, keepdims=True)
        self.kept = (kernels.amax_share(x, y, self.axis),)
        return y if self.keepdims else np.squeeze(y, self.axis)

    def backward(self, g: Tensor) -> Tensor:
        (share,) = self.kept
        return reshape(g, self.kept_shape) * Tensor.of(share)


class Logsumexp(Function):
    saves_inputs = True
    saves_output = True

    def __init__(self, axis: Axis, keepdims: bool) -> None:
        self.axis, self.keepdims = normal_axes(self.name, axis), keepdims

    def forward(self, x: Array) -> Array:
        self.kept_shape = kept_shape("logsumexp", x.shape, self.axis)
        return kernels.logsumexp(x, self.axis, self.keepdims)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.inputs
        return reshape(g, self.kept_shape) * exp(x - reshape(self.output, self.kept_shape))


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over the axes: all of them, one, or a tuple."""
    return Sum(axis, keepdims)(x)


def _as_float(x: Tensor) -> Tensor:
    """The mean of integers and bool, the share of hits, say, is a float32."""
    return x if x.dtype in FLOATS else astype(x, np.float32)


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over the axes."""
    (tensor,) = as_tensors("mean", [x])
    tensor = _as_float(tensor)
    total = sum(tensor, axis, keepdims)
    if tensor.size == 0:
        raise ValueError(f"mean: shape {tensor.shape} holds no elements")
    return total * (total.size / tensor.size)


def var(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The variance over the axes, divided by N."""
    (tensor,) = as_tensors("var", [x])
    tensor = _as_float(tensor)
    d = tensor - mean(tensor, axis, keepdims=True)
    return mean(d * d, axis, keepdims)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over the axes; ties share the gradient equally."""
    return Max(axis, keepdims)(x)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over the axes, without overflow."""
    return Logsumexp(axis, keepdims)(x)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """log(softmax(x)), without overflow."""
    (tensor,) = as_tensors("log_softmax", [x])
    return tensor - logsumexp(tensor, axis, keepdims=True)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along the axis."""
    return exp(log_softmax(x, axis))
