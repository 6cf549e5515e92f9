"""Batch norm whose gain and bias are functions of a condition: a class, or G's own code."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..creation import ones, zeros
from ..tensor import Tensor
from . import init
from .layers import Linear, ReLU, Sequential
from .module import Module


class ModulatedBatchNorm2d(Module):
    """x (N, H, W, C) and c (N, condition): batch norm, then times 1 + gain(c), plus bias(c), for each channel.

    Without `hidden` both are linear: for one-hot c conditional batch norm, a gain and a bias for each class (Dumoulin
    et al. 2017; de Vries et al. 2017; in GANs Miyato & Koyama 2018). With it they are nets with so many hidden ReLUs:
    self-modulation, for c = z (Chen et al. 2019). Their last weights start at 0, so that it begins as plain batch norm.
    """

    takes_condition = True

    def __init__(
        self, channels: int, condition: int, hidden: int | None = None, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        self.channels, self.condition, self.eps, self.momentum = channels, condition, eps, momentum
        self.running_mean, self.running_var = zeros(channels), ones(channels)
        self.gain, self.bias = _zero_map(condition, hidden, channels), _zero_map(condition, hidden, channels)

    def forward(self, x: Tensor, c: Any) -> Tensor:
        if x.ndim != 4 or x.shape[-1] != self.channels:
            raise ValueError(f"ModulatedBatchNorm2d: x must be (N, H, W, {self.channels}), but is {x.shape}")
        if c.shape != (len(x), self.condition):
            raise ValueError(
                f"ModulatedBatchNorm2d: the condition must be {(len(x), self.condition)}, a row for each row of "
                f"x {x.shape}, but is {c.shape}"
            )
        one = ones(self.channels, dtype=x.dtype, device=x.device)
        statistics = self.running_mean, self.running_var, self.is_training(), self.momentum
        z = ops.batch_norm(x, one, one - one, *statistics, self.eps)
        per_channel = len(x), 1, 1, self.channels
        return z * (1 + self.gain(c)).reshape(per_channel) + self.bias(c).reshape(per_channel)

    def options(self) -> str:
        return f"channels {self.channels}, condition {self.condition}"


def _zero_map(condition: int, hidden: int | None, channels: int) -> Module:
    """(N, condition) -> (N, channels): 0, until it has learned something else."""
    last = Linear(condition if hidden is None else hidden, channels)
    init.constant_(last.weight, 0.0)
    init.constant_(last.bias, 0.0)  # type: ignore[arg-type]
    return last if hidden is None else Sequential(Linear(condition, hidden), ReLU(), last)


class Conditioned(Sequential):
    """One module after the other; those that say `takes_condition` are given c, too. Without c it is x itself.

    So Conditioned(...)(z) is a generator whose ModulatedBatchNorm2d layers see z.
    """

    takes_condition = True

    def forward(self, x: Any, c: Any = None) -> Tensor:
        y: Tensor = x
        c = x if c is None else c
        for layer in self.layers:
            y = layer(y, c) if getattr(layer, "takes_condition", False) else layer(y)
        return y
