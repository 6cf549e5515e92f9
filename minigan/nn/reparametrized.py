"""Layers that compute with a weight made of the learned one: spectral norm and the equalised learning rate.

Each wraps a Linear, Conv2d or ConvTranspose2d, which keeps weight and bias; what is computed is recorded, so that
gradients of any order flow through it. `wrap_layers` wraps all layers of a net. Wrap after weights have started:
`init.dcgan_` on wrapped layers would undo what they prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeVar

from .. import kernels, ops
from ..autograd import no_grad
from ..random import Generator, stream
from ..tensor import Tensor
from . import init
from .layers import Conv2d, ConvTranspose2d, Linear
from .modulated import ModulatedBatchNorm2d
from .module import Module

M = TypeVar("M", bound=Module)

LAYERS = (Linear, Conv2d, ConvTranspose2d)


class Reparametrized(Module):
    """Base: `layer` with another weight. A subclass defines `weight`."""

    def __init__(self, layer: Module) -> None:
        if not isinstance(layer, LAYERS):
            raise TypeError(
                f"{type(self).__name__}: wraps a Linear, Conv2d or ConvTranspose2d, not {type(layer).__name__}"
            )
        self.layer: Linear | Conv2d | ConvTranspose2d = layer

    def weight(self) -> Tensor:
        """What the layer computes with: the shape of its own weight."""
        raise NotImplementedError(f"{type(self).__name__} defines no weight")

    def forward(self, x: Any) -> Tensor:
        return self.layer.forward(x, weight=self.weight())


class SpectralNorm(Reparametrized):
    """weight / sigma, its largest singular value as a matrix of (all else, output channels) (Miyato et al. 2018).

    sigma = v^T W u. `iterations` rounds of the power method (their algorithm 1) bring u (output channels) and v (all
    else), buffers, nearer to the singular vectors, whenever the layer runs in training mode; in eval mode they rest.
    To derivatives they are constants (their equation 12). A linear map then has slope at most 1; a convolution may
    exceed that, since this matrix is not the map of whole images.

    u starts from `generator`, or the stream "init", and 15 rounds, as in PyTorch, so that eval mode is right from the
    start. ValueError for a weight of zeros, which has no such vectors.
    """

    def __init__(self, layer: Module, iterations: int = 1, generator: Generator | None = None) -> None:
        super().__init__(layer)
        if iterations < 1:
            raise ValueError(f"SpectralNorm: iterations must be at least 1, not {iterations}")
        own = self.layer.weight
        if not (own.array != 0).any():
            raise ValueError(
                f"SpectralNorm: the weight {own.shape} of {type(layer).__name__} is all zeros, "
                "and no direction is its largest; let it start before it is wrapped"
            )
        self.iterations = iterations
        rows, columns = self.matrix().shape
        self.u = Tensor.of((generator or stream("init")).normal(columns, own.dtype, own.device))
        self.v = Tensor.of(kernels.empty(rows, own.dtype, own.device))
        self.iterate(15)

    def matrix(self) -> Tensor:
        """The learned weight as (all else, output channels)."""
        w: Tensor = self.layer.weight
        if isinstance(self.layer, ConvTranspose2d):  # (KH, KW, C_out, C_in)
            w = w.transpose(0, 1, 3, 2)
        return w.reshape(-1, w.shape[-1])

    def iterate(self, rounds: int) -> None:
        """So many rounds of the power method."""
        with no_grad():
            w, u = self.matrix(), self.u
            for _ in range(rounds):
                v = _unit(w @ u)
                u = _unit(v @ w)
        for buffer, vector in ((self.u, u), (self.v, v)):  # no graph has saved a buffer: `weight` makes vectors of them
            with buffer.writing() as array:
                kernels.copy(vector.array, out=array)

    def weight(self) -> Tensor:
        if self.is_training():
            self.iterate(self.iterations)
        u, v = _unit(self.u), _unit(self.v)  # a moving average of unit vectors (EMA) is shorter
        return self.layer.weight * (v @ self.matrix() @ u) ** -1

    def options(self) -> str:
        return f"iterations {self.iterations}"


def _unit(x: Tensor) -> Tensor:
    """x of length 1; scaled first, lest a square overflows."""
    x = x * (ops.max(ops.abs(x)) + 1e-30) ** -1
    return x * ((x * x).sum() + 1e-24) ** -0.5


class EqualizedLR(Reparametrized):
    """weight * gain / sqrt(fan_in), for a weight that starts N(0, 1) (Karras et al. 2018, section 4.1).

    He's constant at run time in place of once, at the start: an optimizer that normalises its steps, as Adam does, then
    moves all layers at one relative speed. fan_in is the number of inputs that an output sums: for a transposed
    convolution KH KW C_in / stride^2, away from the edges (a map of one pixel is all edge: there it is C_in, which gain
    can make up for). The bias starts at 0 and is not scaled. gain: sqrt(2) before a (leaky) ReLU, 1 for the last layer.
    """

    def __init__(self, layer: Module, gain: float = sqrt(2), generator: Generator | None = None) -> None:
        super().__init__(layer)
        w = init.normal_(self.layer.weight, generator=generator)
        if self.layer.bias is not None:
            init.constant_(self.layer.bias, 0.0)
        if isinstance(self.layer, ConvTranspose2d):  # (KH, KW, C_out, C_in)
            fan_in = w.size / w.shape[2] / (self.layer.stride[0] * self.layer.stride[1])
        else:
            fan_in = w.size / w.shape[-1]
        self.scale = gain / sqrt(fan_in)

    def weight(self) -> Tensor:
        return self.layer.weight * self.scale

    def options(self) -> str:
        return f"scale {self.scale:.4g}"


def wrap_layers(net: M, make: Callable[[Module], Module]) -> M:
    """Puts make(layer) in the place of every Linear, Conv2d and ConvTranspose2d inside of `net`, which it returns.

    wrap_layers(dcgan_discriminator(batch_norm=False), SpectralNorm), for example. A layer that is shared stays so;
    what is wrapped already stays as it is, and so do the gains and biases of ModulatedBatchNorm2d, which start at 0.
    """
    made: dict[int, Module] = {}

    def wrapped(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(wrapped, value))
        if isinstance(value, dict):
            return {key: wrapped(item) for key, item in value.items()}
        if type(value) not in LAYERS:
            return value
        if id(value) not in made:
            made[id(value)] = make(value)
        return made[id(value)]

    done = {
        id(inner)
        for m in net.modules()
        if isinstance(m, (Reparametrized, ModulatedBatchNorm2d))
        for inner in m.modules()
    }
    for module in [module for module in net.modules() if id(module) not in done]:
        vars(module).update({name: wrapped(value) for name, value in vars(module).items()})
    return net
