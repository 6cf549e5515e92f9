"""What the two players minimise, as pure functions of D's logits.

A logit l is D's score before the sigmoid s; -log s(l) = softplus(-l) and -log(1 - s(l)) = softplus(l). In this form the
gradient never vanishes in a rounded probability of 0 or 1.
"""

from collections.abc import Callable
from typing import NamedTuple

from ..ops import softplus
from ..tensor import Tensor


class Objective(NamedTuple):
    """d(real logits, fake logits) is D's loss, g(fake logits) is G's; each a single number to minimise."""

    name: str
    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-D(x)) + E softplus(D(G(z))): the negative log-likelihood of telling real from fake."""
    return softplus(-real).mean() + softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """E softplus(-D(G(z))): strong gradients where D is sure that the fakes are fake."""
    return softplus(-fake).mean()


NON_SATURATING = Objective("non-saturating", discriminator_loss, non_saturating_generator_loss)
"""The GAN that everybody trains (Goodfellow et al. 2014, section 3, last paragraph)."""
