"""Penalties on the slope of D, as terms of its loss. They are differentiated twice: by images, then by weights."""

from collections.abc import Callable

from .. import kernels
from ..autograd import grad
from ..mixing import refuse_mixed_devices
from ..nn import BatchNorm1d, Module
from ..random import Generator
from ..tensor import Array, Tensor

Critic = Callable[[Tensor], Tensor]
"""Samples (N, ...) -> scores (N, 1) or (N,). A Module, or any function of Tensors."""

EPS = 1e-12  # inside the square root: at 0 its derivative would be infinite, and 0 times that NaN


def grad_x(D: Critic, x: Array) -> Tensor:
    """The gradient of each sample's score by that sample, recorded: (N, ...), the shape of x.

    The scores are summed: a sample's gradient is then its own score's, provided that D treats samples one by one.
    Batch norm does not, so a D that contains it is refused with a ValueError.
    """
    if isinstance(D, Module):
        for name, module in D.named_modules():
            if isinstance(module, BatchNorm1d):
                raise ValueError(
                    f"gradient penalty: module {name} of the critic is {type(module).__name__}, which makes a score "
                    "depend on the whole batch, so that no sample has a gradient of its own; leave it out "
                    "(dcgan_discriminator(..., batch_norm=False)) or take LayerNorm"
                )
    leaf = Tensor(x, requires_grad=True)
    return grad(D(leaf).sum(), leaf, create_graph=True)


def norm_per_sample(g: Tensor) -> Tensor:
    """The Euclidean norm over everything but the first axis: (N, ...) -> (N,)."""
    flat = g.reshape(len(g), -1)
    return ((flat * flat).sum(axis=1) + EPS) ** 0.5


def interpolates(real: Array, fake: Array, generator: Generator) -> Array:
    """e real + (1 - e) fake, with one e ~ U[0, 1) a sample: points on the lines from fakes to real images."""
    if real.shape != fake.shape:
        raise ValueError(f"interpolates: real samples are {real.shape}, but fakes are {fake.shape}; draw equally many")
    refuse_mixed_devices("interpolates", [real, fake])
    shape = (len(real), *[1] * (real.ndim - 1))
    e: Array = generator.uniform(shape, device=kernels.name_of(real)).astype(real.dtype)  # the same in both precisions
    x: Array = e * real + (1 - e) * fake
    return x


def gradient_penalty(
    D: Critic, real: Array, fake: Array, generator: Generator, weight: float = 10.0
) -> tuple[Tensor, dict[str, float]]:
    """weight E (|d D(x) / d x| - 1)^2 at `interpolates`: WGAN-GP (Gulrajani et al. 2017, algorithm 1).

    Returns the penalty, a single number with its graph, and what to log: `penalty`, and `grad_norm`, the mean norm,
    which stays near 1 in a healthy training. It holds D to slope 1 where it matters, between the two distributions;
    it does not make "gradients on real and fake images similar", as is sometimes said.
    """
    norm = norm_per_sample(grad_x(D, interpolates(real, fake, generator)))
    penalty = weight * ((norm - 1) ** 2).mean()
    return penalty, {"penalty": penalty.item(), "grad_norm": float(norm.array.mean())}
