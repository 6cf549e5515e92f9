"""WGAN-GP: a penalty on the critic's slope in place of clipped weights (Gulrajani et al. 2017, algorithm 1).

The critic has no batch norm, which would make its score depend on the whole batch.
"""

from dataclasses import dataclass
from functools import partial

from ...optim import Adam
from ...options import option
from ...random import Generator
from ..objectives import WASSERSTEIN, drifting
from ..penalties import gradient_penalty
from ..train import critic_updates, two_player
from . import gan, recipe


@dataclass(frozen=True)
class Settings(gan.Settings):
    """The authors' lambda, number of critic updates and beta2; beta1 is that of their code for MNIST."""

    steps: int | None = option(2500, "updates of G", above=0, below=10_000_000)
    beta2: float = option(0.9, "Adam's average of their squares", at_least=0, below=1)
    n_critic: int = option(5, "updates of the critic for each of G", above=0)
    long_phases: bool = option(False, "100 critic updates in the first 25 steps, and in each 500th")
    gp_lambda: float = option(10.0, "weight of the gradient penalty", above=0)
    one_sided: bool = option(False, "penalise slopes above 1 only (Petzka et al. 2018)")
    drift: float = option(0.0, "weight of E D(x)^2 in the critic's loss (Karras et al. 2018); 0: none", at_least=0)


def build(s: Settings, channels: int) -> recipe.Parts:
    """The penalty draws its points from a stream of its own."""
    G, D = recipe.dcgan(s, channels, batch_norm=False)
    optimizers = [Adam(net.parameters(), s.lr, (s.beta1, s.beta2)) for net in (G, D)]
    points = Generator(s.seed, "penalty")
    penalty = partial(gradient_penalty, generator=points, weight=s.gp_lambda, one_sided=s.one_sided)
    d_updates = critic_updates(s.n_critic, s.long_phases)
    objective = drifting(WASSERSTEIN, s.drift) if s.drift else WASSERSTEIN
    players = two_player(G, D, objective, *optimizers, penalty=penalty, d_updates=d_updates)
    return recipe.Parts({"G": G, "D": D}, players, {"penalty": points})


RECIPE = recipe.Recipe(
    "wgan-gp",
    "WGAN with a penalty on the critic's slope",
    "Gulrajani et al. 2017, algorithm 1",
    Settings,
    build,
    {"tutorial-64": {**recipe.TUTORIAL_64, "lr": 1e-4}},
    family="penalties",
    formula="max_D E D(x) - E D(G(z)) - λ E (|∇D(x̂)| - 1)²;  max_G E D(G(z))",
    expected="FID 33.79 ± 0.55 on MNIST in 40 s of one core",
)
