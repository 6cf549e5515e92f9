"""The relativistic average GAN: D says how much more real an image is than fakes are on average, and G's loss compares
both, too (Jolicoeur-Martineau 2019)."""

from ..objectives import RELATIVISTIC
from . import gan, recipe


def build(s: gan.Settings, channels: int) -> recipe.Parts:
    """`gan`, but for the losses."""
    return gan.build(s, channels, RELATIVISTIC)


RECIPE = recipe.Recipe(
    "ragan",
    "DCGAN whose D compares images with the other side's mean",
    "Jolicoeur-Martineau 2019",
    gan.Settings,
    build,
    gan.RECIPE.presets,
    formula="max_D E log s(D(x) - E D(G(z))) + E log(1 - s(D(G(z)) - E D(x)));  G: the same with the sides swapped",
    expected="FID 13.70 ± 2.10 on MNIST in 30 s of one core",
)
