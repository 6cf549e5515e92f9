"""The non-saturating GAN with R1: D's gradient at real images is drawn to 0, and with it the training to its
equilibrium, which a GAN alone may circle for ever (Mescheder et al. 2018)."""

from dataclasses import dataclass
from functools import partial

from ...optim import Adam
from ...options import option
from ..objectives import NON_SATURATING
from ..penalties import Penalty, r1, r2, sum_of
from ..train import two_player
from . import gan, recipe


@dataclass(frozen=True)
class Settings(gan.Settings):
    """DCGAN's."""

    r1_lambda: float = option(10.0, "weight of the penalty on D's slope at real images", above=0)
    r2_lambda: float = option(0.0, "weight of the same at fakes; 0: none", at_least=0)


def build(s: Settings, channels: int) -> recipe.Parts:
    """The penalty needs a D without batch norm."""
    G, D = recipe.dcgan(s, channels, batch_norm=False)
    optimizers = [Adam(net.parameters(), s.lr, (s.beta1, s.beta2)) for net in (G, D)]
    penalty: Penalty = partial(r1, weight=s.r1_lambda)
    if s.r2_lambda:
        penalty = sum_of(penalty, partial(r2, weight=s.r2_lambda))
    return recipe.Parts({"G": G, "D": D}, two_player(G, D, NON_SATURATING, *optimizers, penalty=penalty), {})


RECIPE = recipe.Recipe(
    "gan-r1",
    "a GAN with a penalty on D's slope at real images",
    "Mescheder et al. 2018",
    Settings,
    build,
    gan.RECIPE.presets,
    family="penalties",
    formula="gan's, and D minimises λ/2 E |∇D(x)|²",
    expected="FID 11.21 ± 0.72 on MNIST in 30 s of one core",
)
