"""The GAN of `gan` with any of the tricks that were said to help, each by one key; without any it is `gan`, to the bit.

Each key's paper: smoothing, feature_matching, minibatch=discrimination and *_norm=virtual: Salimans et al. 2016;
minibatch=std, g_norm=pixel and equalized: Karras et al. 2018; noise: Sonderby et al. 2017, Arjovsky & Bottou 2017;
replay: Shrivastava et al. 2017; d_norm=spectral: Miyato et al. 2018; g_norm=self-modulated: Chen et al. 2019;
attention: Zhang et al. 2019; d_lr: Heusel et al. 2017.
"""

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from ... import kernels, nn
from ...nn import Module, Sequential, init
from ...optim import Adam
from ...options import option
from ...random import Generator
from ...tensor import Tensor
from ..models import dcgan_discriminator, dcgan_generator, features, head, replaced, with_attention
from ..objectives import NON_SATURATING, smoothed
from ..players import feature_matching
from ..replay import Replay
from ..train import Found, Game, Player, two_player
from . import gan, recipe

KERNELS, DIMS, HIDDEN, GROUP = 32, 5, 32, 4
"""Of minibatch discrimination, self-modulation and minibatch=std."""


@dataclass(frozen=True)
class Settings(gan.Settings):
    """`gan`'s, and the tricks."""

    smoothing: float = option(1.0, "D's target for real images, 0.9 for example; 1: none", above=0)
    noise: float = option(0.0, "deviation of noise on all that D sees, which falls to 0; 0: none", at_least=0)
    noise_steps: int | None = option(None, "updates of D until the noise is 0 (none: steps)", above=0)
    replay: int = option(0, "old fakes that are kept, to be half of what D sees; 0: none", at_least=0)
    feature_matching: bool = option(False, "match mean features of D, in place of fooling it")
    minibatch: str = option(
        "none", "what D is told of how alike a batch's images are", choices=("none", "discrimination", "std")
    )
    d_norm: str = option(
        "batch", "what keeps D's activations in bounds", choices=("batch", "spectral", "virtual", "layer", "none")
    )
    g_norm: str = option(
        "batch", "what keeps G's activations in bounds", choices=("batch", "virtual", "pixel", "self-modulated")
    )
    equalized: bool = option(False, "scale weights as the net runs, not at the start; wants a larger lr, as 1e-3")
    attention: bool = option(False, "self-attention in both nets, at 14 or 16 pixels")
    d_lr: float | None = option(None, "step size of D's optimizer (none: lr)", above=0)

    def __post_init__(self) -> None:
        if self.smoothing > 1:
            raise ValueError(f"smoothing={self.smoothing:g} is no probability, which D's target is; give at most 1")
        if self.equalized and self.d_norm == "spectral":
            raise ValueError(
                "equalized=true and d_norm=spectral: the spectral norm divides out the scale that the other sets; "
                "take one of them"
            )
        if self.replay and self.minibatch != "none":
            raise ValueError(
                f"replay={self.replay} and minibatch={self.minibatch}: D would judge how alike the fakes of a batch "
                "are, half of which are not from this G; take one of them"
            )
        if "virtual" in (self.d_norm, self.g_norm) and self.batch_size < 2:
            raise ValueError("a virtual norm needs a reference of at least 2 images; give batch_size=2 or more")
        if self.minibatch == "std" and self.batch_size > GROUP and self.batch_size % GROUP:
            raise ValueError(
                f"minibatch=std compares groups of {GROUP} images, which do not divide batch_size={self.batch_size}; "
                f"give batch_size={self.batch_size // GROUP * GROUP}"
            )
        if self.noise and self.d_norm == "virtual":
            raise ValueError(
                f"noise={self.noise:g} and d_norm=virtual: noisy images would be normalised by a reference without "
                "noise; take one of them"
            )
        if self.noise and self.noise_steps is None and self.epochs is not None:
            raise ValueError(
                f"noise={self.noise:g} falls to 0 over the run's steps, which epochs={self.epochs} does not say; "
                "give steps in place of epochs, or, to a new run, noise_steps"
            )


def attend(s: Settings, net: Sequential, start: Generator) -> Sequential:
    """`net` with self-attention."""
    return with_attention(net, s.image_size, s.width, start)


def equalize(net: Sequential, start: Generator) -> None:
    """Equalised learning rates, with a gain for the ReLU that follows: none behind the last layer. The first layer of G
    sees one pixel, so that none of its outputs is a sum over a window."""
    weighted = [layer for layer in net.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]

    def equalized(layer: Any) -> Module:
        gain = 1.0 if layer is weighted[-1] else sqrt(2)
        sees_one = layer is weighted[0] and isinstance(layer, nn.ConvTranspose2d)
        return nn.EqualizedLR(layer, gain * layer.weight.shape[0] if sees_one else gain, start)

    nn.wrap_layers(net, equalized)


def make_generator(s: Settings, channels: int, weights: Generator, start: Generator) -> Module:
    """DCGAN's G with what the settings ask for. weights: the stream of DCGAN's weights; start: of all others."""
    G = dcgan_generator(s.image_size, channels, s.width, s.latent, weights, batch_norm=s.g_norm != "pixel")
    if s.attention:
        G = attend(s, G, start)
    if s.equalized:
        equalize(G, start)

    def modulated(norm: nn.BatchNorm2d) -> Module:
        layer = nn.ModulatedBatchNorm2d(norm.gamma.size, s.latent, HIDDEN)
        for net in (layer.gain, layer.bias):
            assert isinstance(net, Sequential)
            init.dcgan_(net[0], start)
        return layer

    if s.g_norm == "virtual":
        return nn.VirtualBatch(replaced(G, nn.BatchNorm2d, virtual), start.normal((s.batch_size, s.latent)))
    if s.g_norm == "pixel":
        return replaced(G, nn.ReLU, lambda relu: Sequential(relu, nn.PixelNorm()))
    if s.g_norm == "self-modulated":
        return nn.Conditioned(*replaced(G, nn.BatchNorm2d, modulated))
    return G


def virtual(norm: nn.BatchNorm2d) -> Module:
    """A virtual batch norm in the place of a batch norm."""
    return nn.VirtualBatchNorm2d(norm.gamma.size)


def make_discriminator(s: Settings, channels: int, weights: Generator, start: Generator) -> Sequential:
    """DCGAN's D with what the settings ask for; the last two layers make a logit of features."""
    plain = dcgan_discriminator(s.image_size, channels, s.width, weights, s.d_norm not in ("spectral", "none"))
    trunk, last = features(plain), head(plain)[0]
    assert isinstance(last, nn.Conv2d)
    window, _, c, _ = last.weight.shape
    logit: Module = last
    if s.attention:
        trunk = attend(s, trunk, start)
    if s.d_norm == "layer":
        trunk = replaced(trunk, nn.BatchNorm2d, lambda norm: nn.LayerNorm(norm.gamma.size))
    if s.d_norm == "virtual":
        reference = np.zeros((s.batch_size, s.image_size, s.image_size, channels), np.float32)
        trunk = Sequential(nn.VirtualBatch(replaced(trunk, nn.BatchNorm2d, virtual), reference))
    if s.minibatch == "discrimination":
        A = window * window * c
        trunk = Sequential(*trunk, nn.Flatten(), nn.MinibatchDiscrimination(A, KERNELS, DIMS, start))
        logit = init.dcgan_(nn.Linear(A + KERNELS, 1), start)
    elif s.minibatch == "std":
        trunk = Sequential(*trunk, nn.MinibatchStdDev(GROUP))
        logit = init.dcgan_(nn.Conv2d(c + 1, 1, window, bias=False), start)
    D = Sequential(*trunk, logit, nn.Flatten())
    if s.equalized:
        equalize(D, start)
    if s.d_norm == "spectral":
        nn.wrap_layers(D, partial(nn.SpectralNorm, generator=start))
    return D


def refer_to_first_batch(D: Module, player: Player) -> None:
    """The reference of D's virtual batch norm is a batch of real images of its own, the first that is drawn."""
    (batch,) = (module for module in D.modules() if isinstance(module, nn.VirtualBatch))
    loss = player.loss

    def with_reference(game: Game) -> tuple[Tensor, Found]:
        if kernels.branch(lambda: player.optimizer.steps == 0):
            with batch.reference.writing() as rows:
                kernels.copy(game.images(), out=rows)
        return loss(game)

    player.loss = with_reference


def build(s: Settings, channels: int) -> recipe.Parts:
    """`gan`, and what the settings ask for."""
    weights, tricks = Generator(s.seed, "init"), Generator(s.seed, "tricks")
    G = make_generator(s, channels, weights, tricks).to(s.device)
    D = make_discriminator(s, channels, weights, tricks).to(s.device)
    generators, state, replay, noise = dict[str, Generator](), dict[str, Module](), None, None
    if s.noise:
        generators["noise"] = Generator(s.seed, "noise")
        noise = nn.GaussianNoise(s.noise, generators["noise"])
        D = Sequential(noise, *D)
    if s.replay:
        generators["replay"] = Generator(s.seed, "replay")
        shape = (s.image_size, s.image_size, channels)
        state["replay"] = replay = Replay(s.replay, shape, generators["replay"])
    g_optimizer = Adam(G.parameters(), s.lr, (s.beta1, s.beta2))
    d_optimizer = Adam(D.parameters(), s.d_lr or s.lr, (s.beta1, s.beta2))
    objective = NON_SATURATING if s.smoothing == 1 else smoothed(NON_SATURATING, s.smoothing)
    players = two_player(G, D, objective, g_optimizer, d_optimizer, replay=replay)
    if s.d_norm == "virtual":
        refer_to_first_batch(D, players[0])
    if s.feature_matching:
        players[1] = feature_matching(G, D, g_optimizer)
    if noise is not None:
        steps = s.noise_steps or s.steps
        assert steps is not None
        players[0].after = [nn.Anneal(noise, steps)]
    return recipe.Parts({"G": G, "D": D}, players, generators, state)


RECIPE = recipe.Recipe(
    "improved",
    "gan, with tricks that are switched on one by one",
    "Salimans et al. 2016, and others: see the file",
    Settings,
    build,
    gan.RECIPE.presets,
    family="tricks",
    formula="gan's, changed by each trick",
    expected="d_norm=spectral: FID 13.48 ± 0.67 on MNIST in 30 s of one core",
)
