"""The GAN of the minimax game itself, whose generator's gradient vanishes where D is sure (Goodfellow et al. 2014,
equation 1)."""

from ..objectives import MINIMAX
from . import gan, recipe


def build(s: gan.Settings, channels: int) -> recipe.Parts:
    """`gan`, but for G's loss."""
    return gan.build(s, channels, MINIMAX)


RECIPE = recipe.Recipe(
    "minimax",
    "DCGAN with the loss of the minimax game, which saturates",
    "Goodfellow et al. 2014, equation 1",
    gan.Settings,
    build,
    gan.RECIPE.presets,
    formula="min_G max_D E log s(D(x)) + E log(1 - s(D(G(z))))",
    expected="FID 75.28 ± 8.32 on MNIST in 40 s of one core",
)
