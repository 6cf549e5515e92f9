"""What the two players minimise, as pure functions of D's outputs for a batch, each (N, 1) or (N,).

Everywhere: real images score high, fakes low, and both functions are losses, to be *minimised*. (The authors' own code
of WGAN has all signs turned; both ways work, a mixture of them trains G to look more fake.)

Of a GAN, D's output is a logit l, its score before the sigmoid s; -log s(l) = softplus(-l) and -log(1 - s(l)) =
softplus(l). In this form no gradient vanishes in a rounded probability of 0 or 1. Of a WGAN, D is a critic: its output
is a score of no fixed scale, without sigmoid and logarithm.
"""

from collections.abc import Callable
from typing import NamedTuple

from ..ops import softplus
from ..tensor import Tensor


class Objective(NamedTuple):
    """d(real outputs, fake outputs) is D's loss, g(fake outputs) is G's; each a single number to minimise.

    critic: D's output is a score, not a logit, so that no sigmoid of it is a probability.
    """

    name: str
    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]
    critic: bool = False


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-D(x)) + E softplus(D(G(z))): the negative log-likelihood of telling real from fake."""
    return softplus(-real).mean() + softplus(fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """E log(1 - s(D(G(z)))) = -E softplus(D(G(z))): the negative of D's loss, as far as G can change it.

    Its derivative by a logit, -s(l), vanishes where D is sure that the fake is fake: early in training.
    """
    return -softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-E log s(D(G(z))) = E softplus(-D(G(z))): its derivative, s(l) - 1, is -1 where D is sure."""
    return softplus(-fake).mean()


def wasserstein_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) - E D(x). Over all critics of slope at most 1 its minimum is minus the Wasserstein-1 distance."""
    return fake.mean() - real.mean()


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """-E D(G(z)): uphill on the critic."""
    return -fake.mean()


MINIMAX = Objective("minimax", discriminator_loss, minimax_generator_loss)
"""Goodfellow et al. 2014, equation 1."""

NON_SATURATING = Objective("non-saturating", discriminator_loss, non_saturating_generator_loss)
"""The GAN that everybody trains (Goodfellow et al. 2014, section 3, last paragraph)."""

WASSERSTEIN = Objective("wasserstein", wasserstein_critic_loss, wasserstein_generator_loss, critic=True)
"""Arjovsky et al. 2017. The critic's slope has to be bounded: by clipped weights, or by a gradient penalty."""
