"""Layers that look at a batch as a whole: they tell a D how alike its images are, or normalise by a fixed batch."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from .. import ops
from ..random import Generator
from ..tensor import Tensor
from . import init
from .module import Module, Parameter


class MinibatchStdDev(Module):
    """x (N, ..., C) -> (N, ..., C + 1): one more channel, the same everywhere, says how much a group of samples varies
    (Karras et al. 2018, section 3).

    It is the standard deviation over the group (divided by its size), averaged over pixels and channels. As in the
    authors' code (recalled), the N / group groups are interleaved, and a batch smaller than `group` is one group; None
    always makes the batch one group. ValueError for a batch that groups do not divide.
    """

    def __init__(self, group: int | None = 4, eps: float = 1e-8) -> None:
        if group is not None and group < 2:
            raise ValueError(f"MinibatchStdDev: group must be at least 2, or None for the whole batch, not {group}")
        self.group, self.eps = group, eps

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2:
            raise ValueError(f"MinibatchStdDev: x must be (N, ..., C), but is {x.shape}")
        N = len(x)
        G = N if self.group is None else min(self.group, N)
        if N == 0 or N % G:
            raise ValueError(
                f"MinibatchStdDev: a batch of {N} does not divide into groups of {self.group}; "
                "choose another batch size, or group=None for the whole batch"
            )
        deviation = (ops.var(x.reshape(G, N // G, -1), 0) + self.eps) ** 0.5  # (N/G, elements)
        value = deviation.mean(1).reshape(1, -1)  # sample i is in group i % (N/G)
        rows = ops.broadcast_to(value, (G, N // G)).reshape(N, *[1] * (x.ndim - 1))
        return ops.concatenate([x, ops.broadcast_to(rows, (*x.shape[:-1], 1))], -1)

    def options(self) -> str:
        return "whole batch" if self.group is None else f"group {self.group}"


class MinibatchDiscrimination(Module):
    """f (N, A) -> (N, A + kernels): f, and for each kernel how near the other samples are (Salimans et al. 2016, 3.2).

    M = f T, seen as (N, kernels, dims), for the learned `weight` T (A, kernels * dims); behind f stands
    o[i, b] = sum over j != i of exp(-|M[i, b] - M[j, b]|_1), between 0 and N - 1.

    T starts normal with deviation sqrt(pi / A) / (2 dims): for features of variance 1 the exponent is then -1 on
    average. From N(0, 1) it would be -178 for 1,000 features and 5 dims, and o a constant 0 without a gradient.
    """

    def __init__(self, features: int, kernels: int = 100, dims: int = 5, generator: Generator | None = None) -> None:
        if min(features, kernels, dims) < 1:
            raise ValueError(
                "MinibatchDiscrimination: features, kernels and dims must be at least 1, "
                f"but are {features}, {kernels} and {dims}"
            )
        self.kernels, self.dims = kernels, dims
        self.weight = Parameter(np.zeros((features, kernels * dims), np.float32))
        init.normal_(self.weight, 0.0, sqrt(pi / features) / (2 * dims), generator)

    def forward(self, f: Tensor) -> Tensor:
        if f.ndim != 2 or f.shape[1] != self.weight.shape[0]:
            raise ValueError(
                f"MinibatchDiscrimination: f must be (N, {self.weight.shape[0]}), but is {f.shape}; "
                "images want a Flatten before it"
            )
        M = (f @ self.weight).reshape(len(f), self.kernels, self.dims)
        distance = abs(M[:, None] - M[None]).sum(3)  # (N, N, kernels)
        o = ops.exp(-distance).sum(1) - 1  # a sample's nearness to itself is exactly 1
        return ops.concatenate([f, o], 1)

    def options(self) -> str:
        return f"kernels {self.kernels}, dims {self.dims}"


class VirtualBatchNorm1d(Module):
    """x (N, C): batch norm by statistics of a fixed batch and of the sample itself (Salimans et al. 2016, section 3.4).

    A batch is what `VirtualBatch` makes of it: n reference rows, then the samples. A sample's mean and variance are
    those of the reference and this one sample together, which weighs 1 / (n + 1); reference rows are normalised by the
    reference alone. So no sample depends on its batch-mates, training and eval mode are one, and gradients flow through
    the reference, as in the authors' code. RuntimeError outside of a VirtualBatch.
    """

    axes = 2

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = Parameter(np.ones(channels, np.float32))
        self.beta = Parameter(np.zeros(channels, np.float32))
        self.reference_rows = 0  # VirtualBatch says how many

    def forward(self, x: Tensor) -> Tensor:
        name, n = type(self).__name__, self.reference_rows
        if x.ndim != self.axes or x.shape[-1:] != self.gamma.shape:
            raise ValueError(f"{name}: x must have {self.axes} axes and {self.gamma.size} channels, but is {x.shape}")
        if n == 0:
            raise RuntimeError(f"{name}: there is no reference batch; wrap the net: VirtualBatch(net, reference)")
        pixels = tuple(range(1, x.ndim - 1))
        own_mean = ops.mean(x, pixels, keepdims=True)  # (n + N, ..., C)
        d = x - own_mean
        own_var = ops.mean(d * d, pixels, keepdims=True)
        mean = own_mean[:n].mean(0, keepdims=True)  # of the reference
        e = own_mean - mean
        var = (own_var[:n] + e[:n] * e[:n]).mean(0, keepdims=True)
        share = np.zeros((len(x), *[1] * (x.ndim - 1)), x.dtype)
        share[n:] = 1 / (n + 1)
        w = Tensor(share).to(x.device)  # what a row's own statistics weigh
        mixed = (1 - w) * var + w * own_var + w * (1 - w) * (e * e)
        scale = self.gamma * (mixed + self.eps) ** -0.5
        return d * scale + ((1 - w) * e * scale + self.beta)


class VirtualBatchNorm2d(VirtualBatchNorm1d):
    """x (N, H, W, C): statistics over all pixels."""

    axes = 4


class VirtualBatch(Module):
    """`net` for batches behind a fixed reference batch (n, ...), of images or codes, chosen once: a buffer.

    Every forward takes the reference along, so n samples more are computed; their outputs are dropped. The
    VirtualBatchNorm layers in `net` normalise by them.
    """

    def __init__(self, net: Module, reference: Any) -> None:
        self.net, self.reference = net, Tensor(reference)
        if self.reference.ndim < 2 or len(self.reference) < 2:
            raise ValueError(
                f"VirtualBatch: reference must be at least 2 samples, (n, ...), but is {self.reference.shape}"
            )
        for module in net.modules():
            if isinstance(module, VirtualBatchNorm1d):
                module.reference_rows = len(self.reference)

    def forward(self, x: Any) -> Tensor:
        if x.shape[1:] != self.reference.shape[1:]:
            raise ValueError(
                f"VirtualBatch: samples are {x.shape[1:]}, but those of the reference {self.reference.shape[1:]}"
            )
        return self.net(ops.concatenate([self.reference, x]))[len(self.reference) :]

    def options(self) -> str:
        return f"reference {self.reference.shape}"
