"""How weights start. Every function fills a tensor in place, from `generator` or the stream "init"."""

from math import sqrt

from ..random import Generator, stream
from ..tensor import Tensor
from .module import Module


def constant_(tensor: Tensor, value: float) -> Tensor:
    """All elements equal."""
    with tensor.writing() as array:
        array[...] = value
    return tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal of the given mean and standard deviation."""
    with tensor.writing() as array:
        array[...] = mean + std * (generator or stream("init")).normal(array.shape, array.dtype, tensor.device)
    return tensor


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in [low, high)."""
    with tensor.writing() as array:
        array[...] = low + (high - low) * (generator or stream("init")).uniform(array.shape, array.dtype, tensor.device)
    return tensor


def fans(weight: Tensor) -> tuple[int, int]:
    """(fan in, fan out): how many inputs an output sums, and the reverse. Weights are (..., in, out)."""
    if weight.ndim < 2:
        raise ValueError(f"fans: a weight has at least 2 axes, but this one is {weight.shape}")
    taps = weight.size // (weight.shape[-2] * weight.shape[-1])
    return taps * weight.shape[-2], taps * weight.shape[-1]


def kaiming_normal_(weight: Tensor, slope: float = 0.0, generator: Generator | None = None) -> Tensor:
    """Normal of deviation sqrt(2 / ((1 + slope^2) fan_in)), for (leaky) ReLU (He et al. 2015)."""
    return normal_(weight, 0.0, sqrt(2 / ((1 + slope**2) * fans(weight)[0])), generator)


def kaiming_uniform_(weight: Tensor, slope: float = 0.0, generator: Generator | None = None) -> Tensor:
    """Uniform with the deviation of `kaiming_normal_`."""
    bound = sqrt(6 / ((1 + slope**2) * fans(weight)[0]))
    return uniform_(weight, -bound, bound, generator)


def xavier_uniform_(weight: Tensor, generator: Generator | None = None) -> Tensor:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    bound = sqrt(6 / sum(fans(weight)))
    return uniform_(weight, -bound, bound, generator)


def dcgan_(net: Module, generator: Generator | None = None) -> Module:
    """Weights N(0, 0.02), batch-norm gains N(1, 0.02), biases 0, in the order of the net (Radford et al. 2016)."""
    for name, parameter in net.named_parameters():
        kind = name.rpartition(".")[2]
        if kind == "weight":
            normal_(parameter, 0.0, 0.02, generator)
        elif kind == "gamma":
            normal_(parameter, 1.0, 0.02, generator)
        else:
            constant_(parameter, 0.0)
    return net
