"""f-GAN: the game whose value, at the best D, is the f-divergence of one's choice (Nowozin et al. 2016)."""

from dataclasses import dataclass

from ...options import option
from ..fgan import DIVERGENCES, f_gan
from . import gan, recipe


@dataclass(frozen=True)
class Settings(gan.Settings):
    """`gan`'s, and which divergence."""

    divergence: str = option("pearson", "what D estimates", choices=tuple(DIVERGENCES))
    saturating: bool = option(False, "G minimises the bound itself, not the variant of section 3.2")


def build(s: Settings, channels: int) -> recipe.Parts:
    """`gan`, but for the losses."""
    return gan.build(s, channels, f_gan(s.divergence, s.saturating))


RECIPE = recipe.Recipe(
    "fgan",
    "DCGAN with any of several f-divergences",
    "Nowozin et al. 2016",
    Settings,
    build,
    gan.RECIPE.presets,
    formula="max_D E g(D(x)) - E f*(g(D(G(z))));  max_G E g(D(G(z)))",
    expected="FID 32.34 ± 1.29 on MNIST in 30 s of one core",
)
