"""SNGAN: every weight of D is divided by its largest singular value, and the loss is the hinge (Miyato et al. 2018).

One update of D for each of G, with Adam's averages of DCGAN: the authors' 5 and (0, 0.9) are for long trainings.
"""

from dataclasses import dataclass
from functools import partial

from ...nn import SpectralNorm, wrap_layers
from ...optim import Adam
from ...options import option
from ...random import Generator
from ..objectives import HINGE
from ..train import critic_updates, two_player
from . import gan, recipe


@dataclass(frozen=True)
class Settings(gan.Settings):
    """DCGAN's."""

    n_critic: int = option(1, "updates of D for each of G", above=0)


def build(s: Settings, channels: int) -> recipe.Parts:
    """D has no batch norm, which would undo the bound."""
    G, D = recipe.dcgan(s, channels, batch_norm=False)
    wrap_layers(D, partial(SpectralNorm, generator=Generator(s.seed, "power iteration"))).to(s.device)
    optimizers = [Adam(net.parameters(), s.lr, (s.beta1, s.beta2)) for net in (G, D)]
    players = two_player(G, D, HINGE, *optimizers, d_updates=critic_updates(s.n_critic))
    return recipe.Parts({"G": G, "D": D}, players, {})


RECIPE = recipe.Recipe(
    "sngan",
    "spectral norm in D, and the hinge loss",
    "Miyato et al. 2018",
    Settings,
    build,
    gan.RECIPE.presets,
    family="penalties",
    formula="max_D E min(0, D(x) - 1) + E min(0, -D(G(z)) - 1), W / σ(W) in D;  max_G E D(G(z))",
    expected="FID 14.20 ± 0.36 on MNIST in 30 s of one core",
)
