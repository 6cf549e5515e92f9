"""Batch, layer and instance normalisation.

Batch norm is fused, together with an activation behind it: one kernel forward, one for the ordinary backward. Its
*definition* is a few lines of primitive ops; where a graph of the gradient is being recorded, the gradient is derived
from those (autograd.rederive), so any order of derivative is right without deriving one by hand. Layer and instance
norm are their definitions.
"""

from typing import Any

from .. import kernels
from ..autograd import Function, is_recording, rederive
from ..mixing import as_tensors
from ..tensor import Array, Tensor
from .activation import leaky_relu
from .reduce import mean

Statistics = tuple[Array, Array]
"""Mean and biased variance of each channel."""


def standardize(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the axes, var divided by N."""
    d = x - mean(x, axes, keepdims=True)
    return d * (mean(d * d, axes, keepdims=True) + eps) ** -0.5


class BatchNorm(Function):
    """gamma * (x - mean) / sqrt(var + eps) + beta, over all axes but the last, with the batch's own statistics.

    What is not positive is multiplied by `slope`: the activation behind it. `statistics` are those of x, for which its
    gradient accounts, whoever computed them.
    """

    saves_inputs = True

    def __init__(self, eps: float, slope: float = 1.0, statistics: Statistics | None = None) -> None:
        self.eps, self.slope, self.statistics = eps, slope, statistics

    def definition(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        z = standardize(x, tuple(range(x.ndim - 1)), self.eps) * gamma + beta
        return z if self.slope == 1 else leaky_relu(z, self.slope)

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        statistics: Statistics = self.statistics or kernels.batch_norm_statistics(x)
        self.mean, self.var = statistics
        self.kept = (self.mean, kernels.batch_norm_rstd(self.var, self.eps))
        return kernels.batch_norm_apply(x, *self.kept, gamma, beta, self.slope)

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta = self.inputs
        if is_recording():
            return rederive(self.definition, (x, gamma, beta), g, self.needs)
        arrays = g.array, x.array, *self.kept, gamma.array, beta.array
        return tuple(map(Tensor.of, kernels.batch_norm_backward(*arrays, self.slope)))


def batch_norm(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    slope: float = 1.0,
    statistics: Statistics | None = None,
) -> Tensor:
    """x (..., C), gamma and beta (C,) -> (..., C) (Ioffe & Szegedy 2015); then leaky_relu of that slope, 0 for a ReLU.

    Training: the statistics of this batch, over all axes but the last; the running ones move towards them by
    `momentum` (the running variance is the unbiased one, divided by N - 1). Otherwise: the running statistics.
    statistics: mean and biased variance (C,) of this batch, arrays, from what has computed them with x.
    """
    x, gamma, beta = as_tensors("batch_norm", [x, gamma, beta])
    if x.ndim < 2 or gamma.shape != x.shape[-1:] or beta.shape != x.shape[-1:]:
        raise ValueError(
            f"batch_norm: x has {x.shape[-1] if x.ndim else 'no'} channels {x.shape} "
            f"but gamma is {gamma.shape} and beta {beta.shape}"
        )
    for statistic in (running_mean, running_var):
        if statistic is not None and statistic.shape != gamma.shape:
            raise ValueError(f"batch_norm: running statistics must be {gamma.shape} like gamma, not {statistic.shape}")
    for array in statistics or ():
        if array.shape != gamma.shape or array.dtype != x.dtype:
            raise ValueError(
                f"batch_norm: statistics must be {x.dtype} {gamma.shape}, mean and variance of x, "
                f"not {array.dtype} {array.shape}"
            )
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: running_mean and running_var are given both or neither")
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: training=False needs running_mean and running_var")
        scale: Tensor = gamma * (running_var + eps) ** -0.5
        y: Tensor = x * scale + (beta - running_mean * scale)
        return y if slope == 1 else leaky_relu(y, slope)
    count = x.size // x.shape[-1] if x.size else 0
    if count < 2:
        raise ValueError(f"batch_norm: training needs at least 2 values a channel, but x {x.shape} has {count}")
    node = BatchNorm(eps, slope, statistics)
    result = node(x, gamma, beta)
    if running_mean is not None and running_var is not None:
        with running_mean.writing() as m, running_var.writing() as v:
            kernels.batch_norm_running(m, v, node.mean, node.var, momentum, count / (count - 1), out=(m, v))
    return result


def layer_norm(x: Any, gamma: Any = None, beta: Any = None, eps: float = 1e-5) -> Tensor:
    """Normalises each sample of x (N, ...) over all of its elements (Ba et al. 2016).

    gamma and beta, where given, broadcast against one sample: (C,) scales channels, as in critics of images.
    """
    (x,) = as_tensors("layer_norm", [x])
    if x.ndim < 2:
        raise ValueError(f"layer_norm: x must be (N, ...), but is {x.shape}")
    return _affine(standardize(x, tuple(range(1, x.ndim)), eps), gamma, beta)


def instance_norm(x: Any, gamma: Any = None, beta: Any = None, eps: float = 1e-5) -> Tensor:
    """Normalises each channel of each image of x (N, H, W, C) over its pixels (Ulyanov et al. 2016)."""
    (x,) = as_tensors("instance_norm", [x])
    if x.ndim != 4:
        raise ValueError(f"instance_norm: x must be (N, H, W, C), but is {x.shape}")
    return _affine(standardize(x, (1, 2), eps), gamma, beta)


def _affine(x: Tensor, gamma: Any, beta: Any) -> Tensor:
    x = x if gamma is None else x * gamma
    return x if beta is None else x + beta
