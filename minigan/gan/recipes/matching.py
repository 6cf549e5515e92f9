"""A matching-aware discriminator: it also has to tell right labels from wrong ones (Reed et al. 2016, GAN-CLS).

D is CGAN's. (The authors' is told the label before its last layer only, which here learned to look at it much later.)
Labels need not begin louder in G than any input, as CGAN's have to: that cost variety here. split=true asks
a second net, which is not told the label, whether an image is real; it has a loss of its own.
"""

from dataclasses import dataclass

from ...nn import Module
from ...optim import Adam
from ...options import option
from ...random import Generator
from ..conditional import labelled, matching_players
from ..models import dcgan_discriminator, dcgan_generator
from . import cgan, gan, recipe


@dataclass(frozen=True)
class Settings(cgan.Settings):
    """CGAN's, and whether D is one net or two."""

    split: bool = option(False, "a second net judges images without their labels")


def build(s: Settings, channels: int) -> recipe.Parts:
    """Wrong labels are drawn from a stream of their own."""
    init, wrong = Generator(s.seed, "init"), Generator(s.seed, "wrong labels")
    G = dcgan_generator(s.image_size, channels, s.width, cgan.latent(s).size, init).to(s.device)
    D = labelled(dcgan_discriminator(s.image_size, channels, s.width), s.classes, init).to(s.device)
    nets: dict[str, Module] = {"G": G, "D": D}
    if s.split:
        nets["D_real"] = dcgan_discriminator(s.image_size, channels, s.width, init).to(s.device)
    judges = [p for name, net in nets.items() if name != "G" for p in net.parameters()]
    g_optimizer, d_optimizer = (Adam(own, s.lr, (s.beta1, s.beta2)) for own in (G.parameters(), judges))
    players = matching_players(G, D, g_optimizer, d_optimizer, wrong, nets.get("D_real"))
    return recipe.Parts(nets, players, {"wrong labels": wrong})


RECIPE = recipe.Recipe(
    "matching",
    "CGAN whose D also sees real images with wrong labels",
    "Reed et al. 2016, algorithm 1",
    Settings,
    build,
    gan.RECIPE.presets,
    family="conditional",
    formula="max_D E log s(D(x, y)) + (E log(1 - s(D(x, y'))) + E log(1 - s(D(G(z, c), c)))) / 2;  "
    "max_G E log s(D(G(z, c), c))",
    latent=cgan.latent,
    conditional=True,
    expected="FID 5.24 ± 0.71, label accuracy 87.4% ± 1.3% on MNIST in 40 s of one core",
)
