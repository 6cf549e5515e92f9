"""What the two players minimise, as pure functions of D's outputs for a batch, each (N, 1) or (N,).

Everywhere: real images score high, fakes low, and both functions are losses, to be *minimised*. (The authors' own code
of WGAN has all signs turned; both ways work, a mixture of them trains G to look more fake.)

Of a GAN, D's output is a logit l, its score before the sigmoid s; -log s(l) = softplus(-l) and -log(1 - s(l)) =
softplus(l). In this form no gradient vanishes in a rounded probability of 0 or 1. Of a WGAN, D is a critic: its output
is a score of no fixed scale, without sigmoid and logarithm. Other objectives give D's output yet other meanings; where
the best D is known, as a function of the densities p of real and q of fake images, it stands there. fgan.py has more.
"""

from collections.abc import Callable
from math import inf
from typing import Literal, NamedTuple

from ..ops import binary_cross_entropy_with_logits as cross_entropy
from ..ops import mean_difference, relu
from ..tensor import Tensor


class Objective(NamedTuple):
    """d(real outputs, fake outputs) is D's loss, g(fake outputs) is G's; each a single number to minimise.

    output: what D's output is: a "logit", whose sigmoid is a probability; the score of a "critic", whose mean
    difference estimates a Wasserstein distance; or any other "score".
    needs_real: G's loss is g(fake outputs, real outputs).
    """

    name: str
    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[..., Tensor]
    output: Literal["logit", "critic", "score"] = "logit"
    needs_real: bool = False

    @property
    def critic(self) -> bool:
        """Whether D's outputs estimate a Wasserstein distance."""
        return self.output == "critic"


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-D(x)) + E softplus(D(G(z))): the negative log-likelihood of telling real from fake."""
    return cross_entropy(real, 1) + cross_entropy(fake, 0)


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """E log(1 - s(D(G(z)))) = -E softplus(D(G(z))): the negative of D's loss, as far as G can change it.

    Its derivative by a logit, -s(l), vanishes where D is sure that the fake is fake: early in training.
    """
    return -cross_entropy(fake, 0)


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-E log s(D(G(z))) = E softplus(-D(G(z))): its derivative, s(l) - 1, is -1 where D is sure."""
    return cross_entropy(fake, 1)


def wasserstein_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) - E D(x). Over all critics of slope at most 1 its minimum is minus the Wasserstein-1 distance."""
    return mean_difference(fake, real)


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """-E D(G(z)): uphill on the critic."""
    return -fake.mean()


def least_squares_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """1/2 E (D(x) - 1)^2 + 1/2 E D(G(z))^2: regression to 1 and 0. The best D is p / (p + q)."""
    return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """1/2 E (D(G(z)) - 1)^2: a fake far on the wrong side is pulled hard, and one scored above 1 is pulled back."""
    return ((fake - 1) ** 2).mean() / 2


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))): nothing more to win beyond the margins 1 and -1.

    The best D is the sign of p - q, and its loss is 2 minus twice the total variation distance.
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def relativistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-(D(x) - E D(G(z)))) + E softplus(D(G(z)) - E D(x)): is it more real than the other kind on average?

    A constant added to D changes nothing.
    """
    return discriminator_loss(real - fake.mean(), fake - real.mean())


def relativistic_generator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """D's loss with the roles swapped: fakes shall look more real than real images do on average."""
    return relativistic_discriminator_loss(fake, real)


MINIMAX = Objective("minimax", discriminator_loss, minimax_generator_loss)
"""Goodfellow et al. 2014, equation 1."""

NON_SATURATING = Objective("non-saturating", discriminator_loss, non_saturating_generator_loss)
"""The GAN that everybody trains (Goodfellow et al. 2014, section 3, last paragraph)."""

WASSERSTEIN = Objective("wasserstein", wasserstein_critic_loss, wasserstein_generator_loss, output="critic")
"""Arjovsky et al. 2017. The critic's slope has to be bounded: by clipped weights, or by a gradient penalty."""

LEAST_SQUARES = Objective(
    "least-squares", least_squares_discriminator_loss, least_squares_generator_loss, output="score"
)
"""LSGAN (Mao et al. 2017, equation 9 (recalled): a = 0, b = c = 1). D has no sigmoid."""

HINGE = Objective("hinge", hinge_discriminator_loss, wasserstein_generator_loss, output="score")
"""Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17 (recalled). G's loss is the WGAN's: it has no margin."""

RELATIVISTIC = Objective(
    "relativistic", relativistic_discriminator_loss, relativistic_generator_loss, output="score", needs_real=True
)
"""RaSGAN, the relativistic average form of the standard GAN (Jolicoeur-Martineau 2019, section 4.2 (recalled))."""


def smoothed(objective: Objective, real_target: float = 0.9) -> Objective:
    """One-sided label smoothing (Salimans et al. 2016, section 3.4): D's target for real images is real_target, not 1.

    The target of fakes stays 0, and G's target stays 1. With fakes smoothed, too, the best D would be
    (a p + b q) / (p + q), which has a peak where only fakes are, and keeps them there. So it is a p / (p + q).
    ValueError unless D's loss is `discriminator_loss`: only there is a target a probability.
    """
    if not 0 < real_target <= 1:
        raise ValueError(f"smoothed: real_target is a probability, above 0 and at most 1, not {real_target}")
    if objective.output != "logit":
        raise ValueError(
            f"smoothed: D's output in {objective.name} is a {objective.output}, not a logit, so that D has no target "
            "that is a probability; smooth MINIMAX or NON_SATURATING"
        )
    if objective.d is not discriminator_loss:
        raise ValueError(
            f"smoothed: D's loss in {objective.name} is not discriminator_loss, the only one that it knows how to "
            "change; smooth first, then add other terms"
        )

    def d(real: Tensor, fake: Tensor) -> Tensor:
        return cross_entropy(real, real_target) + cross_entropy(fake, 0)

    return objective._replace(name=f"{objective.name}, smoothed", d=d)


def drifting(objective: Objective, weight: float = 1e-3) -> Objective:
    """weight E D(x)^2, over real images, added to D's loss (Karras et al. 2018, appendix A.1 (recalled)).

    It keeps a critic's outputs near 0: its loss depends on their differences only, so they would drift away.
    ValueError if the weight is negative or not finite.
    """
    if not 0 <= weight < inf:
        raise ValueError(f"drifting: weight must be finite and at least 0, not {weight}")

    def d(real: Tensor, fake: Tensor) -> Tensor:
        return objective.d(real, fake) + weight * (real**2).mean()

    return objective._replace(name=f"{objective.name}, drift penalised", d=d)
