"""An autoencoder, whose decoder is given random codes: no GAN, and bad on purpose.

Nothing makes the codes of images lie where random codes do, so that what the decoder makes between them is no image.
A VAE adds just that (vae.py).
"""

from ...optim import Adam
from ...random import Generator
from ...tensor import Tensor
from ..models import dcgan_discriminator, dcgan_generator
from ..train import Found, Game, Player
from . import gan, recipe


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|² an image, halved: minus the log-likelihood under a Gaussian of variance 1, but for its constant."""
    difference = x - y
    return 0.5 * (difference * difference).sum() / len(x)


def build(s: gan.Settings, channels: int) -> recipe.Parts:
    """E is DCGAN's discriminator, but for its number of outputs; G is the decoder. One player has both."""
    init = Generator(s.seed, "init")
    G = dcgan_generator(s.image_size, channels, s.width, s.latent, init).to(s.device)
    E = dcgan_discriminator(s.image_size, channels, s.width, init, outputs=s.latent).to(s.device)
    optimizer = Adam([*E.parameters(), *G.parameters()], s.lr, (s.beta1, s.beta2))

    def loss(game: Game) -> tuple[Tensor, Found]:
        x = Tensor.of(game.images())
        error = squared_error(x, G(E(x)))
        return error, {"reconstruction": error.detach()}

    return recipe.Parts({"G": G, "E": E}, [Player("g", [E, G], optimizer, loss)], {})


RECIPE = recipe.Recipe(
    "autoencoder",
    "the decoder of an autoencoder, given random codes",
    "Hinton & Salakhutdinov 2006",
    gan.Settings,
    build,
    gan.RECIPE.presets,
    family="baselines",
    formula="min_{E,G} E |x - G(E(x))|² / 2",
    expected="FID 55.39 ± 13.41 on MNIST in 30 s of one core",
)
