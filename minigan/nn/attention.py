"""Self-attention for images."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..tensor import Tensor
from .layers import Linear
from .module import Module, Parameter


class SelfAttention(Module):
    """x (N, H, W, C) -> x + strength * attention(x), each pixel seeing all others (Zhang et al. 2019, section 3).

    Queries g and keys f have C/8 channels, values h C/2; keys and values are the largest of 2x2 pixels, all as in the
    authors' code (recalled; the paper has C/8 for the values too, and pools nothing). Position i counts for position j
    in the share softmax_i(f_i . g_j); the sum of the values is brought back to C channels by v. `strength`, a number,
    the paper's gamma, starts at 0, so that nets first learn from the neighbourhood. All four are 1x1 convolutions
    without biases.

    Memory: N (H W)^2 / 4 numbers. Spectral norm, which the paper has in all layers: wrap_layers(net, SpectralNorm).
    """

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise ValueError(f"SelfAttention: channels must be at least 1, not {channels}")
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.channels = channels
        # A Linear on pixels is a 1x1 convolution.
        self.f: Module = Linear(channels, narrow, bias=False)
        self.g: Module = Linear(channels, narrow, bias=False)
        self.h: Module = Linear(channels, half, bias=False)
        self.v: Module = Linear(half, channels, bias=False)
        self.strength = Parameter(np.zeros((), np.float32))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] != self.channels or min(x.shape[1:3]) < 2:
            raise ValueError(f"SelfAttention: x must be (N, H, W, {self.channels}), H, W > 1, but is {x.shape}")
        N, H, W, C = x.shape
        pixels = x.reshape(N * H * W, C)
        f, g, h = (layer(pixels) for layer in (self.f, self.g, self.h))
        f, h = (ops.max_pool2d(part.reshape(N, H, W, -1), 2).reshape(N, (H // 2) * (W // 2), -1) for part in (f, h))
        g = g.reshape(N, H * W, -1)
        shares = ops.softmax(g @ f.transpose(0, 2, 1), -1)  # (N, j, i)
        o = self.v((shares @ h).reshape(N * H * W, -1))
        return x + self.strength * o.reshape(x.shape)

    def options(self) -> str:
        return f"channels {self.channels}"
