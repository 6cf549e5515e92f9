"""The layers. Names and arguments follow PyTorch; images are NHWC.

Unless told otherwise, weights and biases start uniform in +-1/sqrt(fan_in), from the stream "init". Linear, Conv2d and
ConvTranspose2d compute with `weight` in place of their own where they are given one (reparametrized.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

from .. import kernels, ops
from ..creation import ones, zeros
from ..ops.conv import Pair, conv2d_statistics, conv_transpose2d_statistics, pair, refuse
from ..ops.norm import Statistics
from ..tensor import Tensor, values_of
from . import init
from .module import Module, Parameter


def _uniform(shape: tuple[int, ...], bound: float) -> Parameter:
    parameter = Parameter(np.zeros(shape, np.float32))
    init.uniform_(parameter, -bound, bound)
    return parameter


class Linear(Module):
    """x (..., C_in) -> (..., C_out); weight (C_in, C_out)."""

    def __init__(self, c_in: int, c_out: int, bias: bool = True) -> None:
        bound = 1 / sqrt(max(c_in, 1))
        self.weight = _uniform((c_in, c_out), bound)
        self.bias = _uniform((c_out,), bound) if bias else None

    def forward(self, x: Any, slope: float = 1.0, weight: Tensor | None = None) -> Tensor:
        w = self.weight if weight is None else weight
        if slope == 1:
            return ops.linear(x, w, self.bias)
        y = ops.linear(x, w)
        return ops.leaky_relu(y, slope) if self.bias is None else ops.bias_act(y, self.bias, slope)


class Conv2d(Module):
    """x (N, H, W, C_in) -> (N, OH, OW, C_out); weight (KH, KW, C_in, C_out)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        window: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        refuse("Conv2d", dilation, groups)
        shape = (*pair("Conv2d", "window", window, 1), c_in, c_out)
        bound = 1 / sqrt(shape[0] * shape[1] * c_in)
        self.stride, self.padding = pair("Conv2d", "stride", stride, 1), pair("Conv2d", "padding", padding, 0)
        self.weight = _uniform(shape, bound)
        self.bias = _uniform((c_out,), bound) if bias else None

    def forward(self, x: Any, slope: float = 1.0, weight: Tensor | None = None) -> Tensor:
        w = self.weight if weight is None else weight
        return ops.conv2d(x, w, self.bias, self.stride, self.padding, slope=slope)

    def with_statistics(self, x: Any) -> tuple[Tensor, Statistics]:
        """What it gives without its bias, and mean and variance of the channels, which a batch norm behind it wants."""
        return conv2d_statistics(x, self.weight, self.stride, self.padding)

    def options(self) -> str:
        return f"stride {self.stride}, padding {self.padding}"


class ConvTranspose2d(Module):
    """x (N, H, W, C_in) -> (N, OH, OW, C_out), OH = (H - 1) S - 2 P + KH + output_padding.

    It owns the weight of the convolution that it transposes: (KH, KW, C_out, C_in).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        window: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
    ) -> None:
        refuse("ConvTranspose2d", dilation, groups)
        name = "ConvTranspose2d"
        shape = (*pair(name, "window", window, 1), c_out, c_in)
        bound = 1 / sqrt(shape[0] * shape[1] * c_out)  # PyTorch's fan_in of a transposed convolution
        self.stride, self.padding = pair(name, "stride", stride, 1), pair(name, "padding", padding, 0)
        self.output_padding = pair(name, "output_padding", output_padding, 0)
        self.weight = _uniform(shape, bound)
        self.bias = _uniform((c_out,), bound) if bias else None

    def forward(self, x: Any, slope: float = 1.0, weight: Tensor | None = None) -> Tensor:
        w = self.weight if weight is None else weight
        return ops.conv_transpose2d(x, w, self.bias, self.stride, self.padding, self.output_padding, slope=slope)

    def with_statistics(self, x: Any) -> tuple[Tensor, Statistics]:
        """As that of Conv2d."""
        return conv_transpose2d_statistics(x, self.weight, self.stride, self.padding, self.output_padding)

    def options(self) -> str:
        return f"stride {self.stride}, padding {self.padding}"


class BatchNorm1d(Module):
    """x (N, C): each channel to mean 0 and variance 1 over the batch, times gamma, plus beta."""

    axes = 2

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum
        self.gamma = Parameter(np.ones(channels, np.float32))
        self.beta = Parameter(np.zeros(channels, np.float32))
        self.running_mean, self.running_var = zeros(channels), ones(channels)

    def forward(self, x: Tensor, slope: float = 1.0, statistics: Statistics | None = None) -> Tensor:
        if x.ndim != self.axes:
            raise ValueError(f"{type(self).__name__}: x must have {self.axes} axes, channels last, but is {x.shape}")
        return ops.batch_norm(
            x,
            self.gamma,
            self.beta,
            self.running_mean,
            self.running_var,
            self.is_training(),
            self.momentum,
            self.eps,
            slope,
            statistics,
        )


class BatchNorm2d(BatchNorm1d):
    """x (N, H, W, C): each channel over the batch and all pixels."""

    axes = 4


class LayerNorm(Module):
    """Each sample to mean 0 and variance 1 over all of its elements, times gamma, plus beta (both (C,))."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = Parameter(np.ones(channels, np.float32))
        self.beta = Parameter(np.zeros(channels, np.float32))

    def check_channels(self, x: Tensor) -> None:
        if x.shape[-1:] != self.gamma.shape:  # one channel would broadcast
            raise ValueError(
                f"{type(self).__name__}: x {x.shape} must have the channels of gamma {self.gamma.shape}, last"
            )

    def forward(self, x: Tensor) -> Tensor:
        self.check_channels(x)
        return ops.layer_norm(x, self.gamma, self.beta, self.eps)


class InstanceNorm2d(LayerNorm):
    """Each channel of each image to mean 0 and variance 1 over its pixels, times gamma, plus beta."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            self.check_channels(x)
        return ops.instance_norm(x, self.gamma, self.beta, self.eps)


class PixelNorm(Module):
    """x (..., C) divided by the root mean square of its channels, at each pixel for itself (Karras et al. 2018, 4.2).

    It has no weights: it stands behind each convolution of a generator, so that no signal can grow out of hand.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * (ops.mean(x * x, -1, keepdims=True) + self.eps) ** -0.5


class ReLU(Module):
    """max(x, 0)."""

    slope = 0.0

    def forward(self, x: Any) -> Tensor:
        return ops.relu(x)


class LeakyReLU(Module):
    """x where x > 0, else slope * x."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def forward(self, x: Any) -> Tensor:
        return ops.leaky_relu(x, self.slope)

    def options(self) -> str:
        return f"{self.slope}"


class ELU(Module):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Any) -> Tensor:
        return ops.elu(x, self.alpha)

    def options(self) -> str:
        return f"{self.alpha}"


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Any) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)). Losses take logits: leave it off the end of a discriminator."""

    def forward(self, x: Any) -> Tensor:
        return ops.sigmoid(x)


class Softplus(Module):
    """log(1 + exp(x))."""

    def forward(self, x: Any) -> Tensor:
        return ops.softplus(x)


class Flatten(Module):
    """(N, ...) -> (N, everything else), in NHWC order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Unflatten(Module):
    """(N, elements) -> (N, *shape)."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def options(self) -> str:
        return f"{self.shape}"


class Upsample(Module):
    """Each pixel repeated `scale` times in both directions."""

    def __init__(self, scale: Pair = 2) -> None:
        self.scale = scale

    def forward(self, x: Any) -> Tensor:
        return ops.upsample_nearest(x, self.scale)

    def options(self) -> str:
        return f"{self.scale}"


class AvgPool2d(Module):
    """The mean of each window."""

    def __init__(self, window: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.window, self.stride, self.padding = window, stride, padding

    def forward(self, x: Any) -> Tensor:
        return ops.avg_pool2d(x, self.window, self.stride, self.padding)

    def options(self) -> str:
        return f"{self.window}"


class MaxPool2d(AvgPool2d):
    """The largest element of each window."""

    def forward(self, x: Any) -> Tensor:
        return ops.max_pool2d(x, self.window, self.stride, self.padding)


class Dropout(Module):
    """Zeros each element with probability p while training."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Any) -> Tensor:
        return ops.dropout(x, self.p, self.is_training())

    def options(self) -> str:
        return f"{self.p}"


class Embedding(Module):
    """Integers (...) in 0..V-1 -> rows (..., D) of weight (V, D), which starts N(0, 1)."""

    def __init__(self, rows: int, width: int) -> None:
        self.weight = Parameter(np.zeros((rows, width), np.float32))
        init.normal_(self.weight)

    def forward(self, indices: Any) -> Tensor:
        return ops.embedding(indices, self.weight)


class Sequential(Module):
    """One module after the other; children are named 0, 1, 2 ...

    A batch norm or a bias does the work of the ReLU or leaky ReLU behind it in its own pass over memory. The output is
    the same to the bit. On a device a convolution without a bias computes the statistics of the batch norm behind it,
    too: with other roundings.
    """

    def __init__(self, *layers: Module) -> None:
        vars(self).update((str(i), layer) for i, layer in enumerate(layers))

    @property
    def layers(self) -> list[Module]:
        """The modules in order."""
        return [part for name, part in vars(self).items() if name.isdigit()]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, index: int) -> Module:
        return self.layers[index]

    def forward(self, x: Any) -> Tensor:
        y: Tensor = x
        layers, i = self.layers, 0
        while i < len(layers):
            options: dict[str, Any] = {}
            if _measures(y, *layers[i : i + 2]):
                y, options["statistics"] = layers[i].with_statistics(y)  # type: ignore[attr-defined]
                i += 1
            if _fuse(*layers[i : i + 2]):
                options["slope"] = layers[i + 1].slope  # type: ignore[attr-defined]
            y = layers[i].forward(y, **options) if options else layers[i](y)
            i += 2 if "slope" in options else 1
        return y


def _fuse(layer: Any, following: Any = None) -> bool:
    """Whether `layer` has a pass for the activation behind it, and neither is a subclass or patched."""
    if type(layer) not in (Linear, Conv2d, ConvTranspose2d, BatchNorm1d, BatchNorm2d):
        return False
    if type(following) not in (ReLU, LeakyReLU) or not following.slope >= 0:
        return False
    patched = "forward" in vars(layer) or "forward" in vars(following)
    return vars(layer).get("bias", True) is not None and not patched  # batch norm always has one


def _measures(x: Any, layer: Any, following: Any = None) -> bool:
    """Whether `layer`, given x, computes the statistics of the batch norm behind it; no subclass, nothing patched."""
    if type(layer) not in (Conv2d, ConvTranspose2d) or type(following) is not BatchNorm2d:
        return False
    on_device = kernels.name_of(array := values_of(x)) != "cpu" and array.size > 0  # of nothing there is no mean
    patched = "forward" in vars(layer) or "forward" in vars(following)
    return on_device and layer.bias is None and not patched and following.is_training()
