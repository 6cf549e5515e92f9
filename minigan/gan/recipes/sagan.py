"""SAGAN: both nets can compare distant pixels, both have spectral norm, and each its own step size (Zhang et al. 2019).

The authors let D learn four times faster than G, by 4e-4 and 1e-4, for a million updates. In minutes such a G, slowed
by its spectral norm, learns little: here its step is 1e-3.
"""

from dataclasses import dataclass
from functools import partial

from ...nn import SpectralNorm, wrap_layers
from ...optim import Adam
from ...options import option
from ...random import Generator
from ..models import with_attention
from ..objectives import HINGE
from ..train import two_player
from . import gan, recipe


@dataclass(frozen=True)
class Settings(gan.Settings):
    """The authors', but for the nets and G's step size."""

    steps: int | None = option(2000, "updates of G", above=0, below=10_000_000)
    lr: float = option(1e-3, "step size of G's optimizer", above=0)
    d_lr: float = option(4e-4, "step size of D's optimizer", above=0)
    beta1: float = option(0.0, "Adam's average of gradients", at_least=0, below=1)
    beta2: float = option(0.9, "Adam's average of their squares", at_least=0, below=1)


def build(s: Settings, channels: int) -> recipe.Parts:
    """Attention works on 14 x 14 or 16 x 16 pixels."""
    start = Generator(s.seed, "attention")
    G, D = (with_attention(net, s.image_size, s.width, start) for net in recipe.dcgan(s, channels, batch_norm=False))
    power = Generator(s.seed, "power iteration")
    for net in (G, D):
        wrap_layers(net, partial(SpectralNorm, generator=power)).to(s.device)
    optimizers = [Adam(net.parameters(), lr, (s.beta1, s.beta2)) for net, lr in ((G, s.lr), (D, s.d_lr))]
    return recipe.Parts({"G": G, "D": D}, two_player(G, D, HINGE, *optimizers), {})


RECIPE = recipe.Recipe(
    "sagan",
    "self-attention and spectral norm in G and D, the hinge loss",
    "Zhang et al. 2019",
    Settings,
    build,
    {"tutorial-64": {**recipe.TUTORIAL_64, "lr": 1e-4}},
    family="tricks",
    formula="sngan's, with W / σ(W) in G, too, and y = x + strength · v(softmax(g(x) f(x)ᵀ) h(x)) in both nets",
    expected="FID 13.96 ± 1.21 on MNIST in 30 s of one core",
)
