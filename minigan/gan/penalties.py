"""Penalties on the slope of D, as terms of its loss. They are differentiated twice: by images, then by weights.

Each has its own idea of which slope is right, and where: `gradient_penalty` 1 between real and fake samples, `dragan` 1
around the real ones, `r1` and `r2` 0 at the real ones and at the fakes. D's outputs are taken as they are, before any
sigmoid. All return the penalty, a single number with its graph, and what to log, without: `penalty`, and `grad_norm`,
the mean norm. Bind all but D, real and fake with functools.partial to hand one to `two_player`.
"""

from collections.abc import Callable

from .. import kernels
from ..autograd import grad, no_grad
from ..mixing import refuse_mixed_devices
from ..nn import BatchNorm1d, MinibatchDiscrimination, MinibatchStdDev, ModulatedBatchNorm2d, Module
from ..ops import row_squares, slope_penalty
from ..random import Generator
from ..tensor import Array, Tensor

Critic = Callable[[Tensor], Tensor]
"""Samples (N, ...) -> scores (N, 1) or (N,). A Module, or any function of Tensors."""

Penalty = Callable[[Module, Array, Array], tuple[Tensor, dict[str, Tensor]]]
"""D, real samples, fakes -> a term of D's loss, and what to log."""

BATCHWISE = (BatchNorm1d, ModulatedBatchNorm2d, MinibatchDiscrimination, MinibatchStdDev)
"""Modules of which a sample's output depends on its batch."""

EPS = 1e-12  # inside the square root: at 0 its derivative would be infinite, and 0 times that NaN


def grad_x(D: Critic, x: Array) -> Tensor:
    """The gradient of each sample's score by that sample, recorded: (N, ...), the shape of x.

    The scores are summed: a sample's gradient is then its own score's, provided that D treats samples one by one.
    A D with one of BATCHWISE is refused with a ValueError.
    """
    if isinstance(D, Module):
        for name, module in D.named_modules():
            if isinstance(module, BATCHWISE):
                raise ValueError(
                    f"gradient penalty: module {name} of the critic is {type(module).__name__}, which makes a score "
                    "depend on the whole batch, so that no sample has a gradient of its own; leave it out; "
                    "in place of a batch norm take LayerNorm, or none (dcgan_discriminator(..., batch_norm=False))"
                )
    leaf = Tensor(x, requires_grad=True)
    return grad(D(leaf).sum(), leaf, create_graph=True)


def squares_per_sample(g: Tensor) -> Tensor:
    """The squared Euclidean norm over everything but the first axis: (N, ...) -> (N,)."""
    return row_squares(g)


def norm_per_sample(g: Tensor) -> Tensor:
    """The Euclidean norm over everything but the first axis: (N, ...) -> (N,)."""
    return (squares_per_sample(g) + EPS) ** 0.5


def interpolates(real: Array, fake: Array, generator: Generator) -> Array:
    """e real + (1 - e) fake, with one e ~ U[0, 1) a sample: points on the lines from fakes to real images."""
    if real.shape != fake.shape:
        raise ValueError(f"interpolates: real samples are {real.shape}, but fakes are {fake.shape}; draw equally many")
    refuse_mixed_devices("interpolates", [real, fake])
    e = _uniform(generator, (len(real),), real)
    x: Array = kernels.interpolate(e, real, fake)
    return x


def _uniform(generator: Generator, shape: tuple[int, ...], like: Array) -> Array:
    """Numbers in [0, 1), the same in both precisions, where `like` is and of its dtype."""
    numbers: Array = generator.uniform(shape, device=kernels.name_of(like))
    return numbers if like.dtype == numbers.dtype else kernels.cast(numbers, like.dtype)


def gradient_penalty(
    D: Critic, real: Array, fake: Array, generator: Generator, weight: float = 10.0, one_sided: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """weight E (|d D(x) / d x| - 1)^2 at `interpolates`: WGAN-GP (Gulrajani et al. 2017, algorithm 1).

    The mean norm stays near 1 in a healthy training. The penalty holds D to slope 1 where it matters, between the two
    distributions; it does not make "gradients on real and fake images similar", as is sometimes said.

    one_sided: weight E max(0, |d D(x) / d x| - 1)^2, which lets D be flat: WGAN-LP (Petzka et al. 2018, equation 8
    (recalled)). A critic of slope at most 1 is all that the distance asks for.
    """
    return _slope_of_1(grad_x(D, interpolates(real, fake, generator)), weight, one_sided)


def surroundings(real: Array, generator: Generator) -> Array:
    """x + e s u / 2, with s the deviation of all numbers of the batch, u ~ U[0, 1) for each number, e one a sample.

    So a point lies on the line from a sample to a noisy copy of it. The noise is never negative: that is the form of
    the authors' code; the paper writes of normal noise (recalled).
    """
    u = _uniform(generator, real.shape, real)
    e = _uniform(generator, (len(real), *[1] * (real.ndim - 1)), real)
    with no_grad():
        s = Tensor.of(real).var() ** 0.5
    x: Array = kernels.add(real, kernels.divide(kernels.multiply(e, kernels.multiply(s.array, u)), 2))
    return x


def dragan(
    D: Critic, real: Array, fake: Array, generator: Generator, weight: float = 10.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """weight E (|d D(x) / d x| - 1)^2 at the `surroundings` of real samples: DRAGAN (Kodali et al. 2017).

    The fakes are not looked at. It goes with D's logits and the losses of an ordinary GAN.
    """
    return _slope_of_1(grad_x(D, surroundings(real, generator)), weight)


def _slope_of_1(g: Tensor, weight: float, one_sided: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    penalty, mean_norm = slope_penalty(squares_per_sample(g), weight, EPS, one_sided)
    return penalty, {"penalty": penalty.detach(), "grad_norm": mean_norm}


def r1(D: Critic, real: Array, fake: Array, weight: float = 10.0) -> tuple[Tensor, dict[str, Tensor]]:
    """weight / 2 E |d D(x) / d x|^2 at the real samples (Mescheder et al. 2018, equation 9 (recalled), gamma = weight).

    D is flat where the data are, once G has found them, so that both come to rest there. The fakes are not looked at.
    Some write weight for what is weight / 2 here.
    """
    return _flat(D, real, weight)


def r2(D: Critic, real: Array, fake: Array, weight: float = 10.0) -> tuple[Tensor, dict[str, Tensor]]:
    """weight / 2 E |d D(x) / d x|^2 at the fakes (Mescheder et al. 2018, equation 10 (recalled))."""
    return _flat(D, fake, weight)


def _flat(D: Critic, x: Array, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    squares = squares_per_sample(grad_x(D, x))  # no root, so no EPS
    penalty = weight / 2 * squares.mean()
    with no_grad():
        norm = (squares**0.5).mean()
    return penalty, {"penalty": penalty.detach(), "grad_norm": norm}


def sum_of(first: Penalty, *others: Penalty) -> Penalty:
    """Several penalties as one: sum_of(r1, r2). Logs their sum, and the mean of their `grad_norm`."""

    def total(D: Module, real: Array, fake: Array) -> tuple[Tensor, dict[str, Tensor]]:
        term, logs = first(D, real, fake)
        norms = [logs["grad_norm"]]
        for penalty in others:
            more, logs = penalty(D, real, fake)
            term = term + more
            norms.append(logs["grad_norm"])
        return term, {"penalty": term.detach(), "grad_norm": sum(norms[1:], norms[0]) / len(norms)}

    return total
