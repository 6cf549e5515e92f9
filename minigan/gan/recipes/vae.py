"""The variational autoencoder: no GAN, but a bound of the likelihood, by an encoder that gives a Gaussian of codes for
each image (Kingma & Welling 2014).

Pixels are Gaussian around G's, all of deviation `sigma`: bytes scaled to [-1, 1] are no Bernoulli variables. sigma
says how much reconstruction counts against the code. By maximum likelihood it would be the error of reconstruction,
0.2 to 0.3 for digits; the default is larger, so that codes lie more like the random ones that samples are made of.
"""

from dataclasses import dataclass

from ...nn import Module
from ...ops import exp
from ...optim import Adam
from ...options import option
from ...random import Generator
from ...tensor import Tensor
from ..models import dcgan_discriminator, dcgan_generator
from ..train import Found, Game, Player
from . import gan, recipe
from .autoencoder import squared_error


@dataclass(frozen=True)
class Settings(gan.Settings):
    """DCGAN's nets and optimizer."""

    sigma: float = option(0.6, "deviation of a pixel, of 2 from black to white, around G's", above=0)


def posterior(E: Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance of an image's codes: two halves of E's output, each (N, latent)."""
    both = E(x)
    half = both.shape[1] // 2
    return both[:, :half], both[:, half:]


def sampled_codes(mean: Tensor, log_variance: Tensor, generator: Generator) -> Tensor:
    """A code from each Gaussian, (N, latent): mean + deviation * e, so that gradients reach both (section 2.4)."""
    noise = Tensor.of(generator.normal(mean.shape, mean.dtype, mean.device))
    return mean + exp(0.5 * log_variance) * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of the Gaussians from N(0, I), in nats, summed over a code, the mean over images (appendix B)."""
    return 0.5 * (mean * mean + exp(log_variance) - log_variance - 1).sum() / len(mean)


def build(s: Settings, channels: int) -> recipe.Parts:
    """Logs, in nats an image: `kl`, and `reconstruction`, -log p(x | z) but for the constant that sigma makes."""
    init, codes = Generator(s.seed, "init"), Generator(s.seed, "posterior")
    G = dcgan_generator(s.image_size, channels, s.width, s.latent, init).to(s.device)
    E = dcgan_discriminator(s.image_size, channels, s.width, init, outputs=2 * s.latent).to(s.device)
    optimizer = Adam([*E.parameters(), *G.parameters()], s.lr, (s.beta1, s.beta2))

    def loss(game: Game) -> tuple[Tensor, Found]:
        x = Tensor.of(game.images())
        mean, log_variance = posterior(E, x)
        kl = kl_divergence(mean, log_variance)
        error = squared_error(x, G(sampled_codes(mean, log_variance, codes))) / s.sigma**2
        return error + kl, {"reconstruction": error.detach(), "kl": kl.detach()}

    return recipe.Parts({"G": G, "E": E}, [Player("g", [E, G], optimizer, loss)], {"posterior": codes})


RECIPE = recipe.Recipe(
    "vae",
    "a variational autoencoder",
    "Kingma & Welling 2014",
    Settings,
    build,
    gan.RECIPE.presets,
    family="baselines",
    formula="min_{E,G} E |x - G(z)|² / 2σ² + KL(q(z|x), N(0, I)),  z ~ q(z|x) = N(E(x))",
    expected="FID 15.52 ± 0.25 on MNIST in 40 s of one core",
)
