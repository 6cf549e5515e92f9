"""DCGAN (Radford et al. 2016): all convolutions, 4x4 windows of stride 2, batch norm but at D's input and G's output.

A window that the stride divides touches every pixel equally often, so no checkerboard is built in. Images are made
from a base of 4x4 pixels by doubling (32, 64), or of 7x7 (28), so that no size has to be cropped.
"""

from collections.abc import Callable
from typing import Any

from ..nn import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    LeakyReLU,
    Module,
    ReLU,
    SelfAttention,
    Sequential,
    Tanh,
    Unflatten,
    init,
)
from ..random import Generator

BASES = {28: 7, 32: 4, 64: 4}
"""Image size -> size of the smallest feature map."""


def _levels(image_size: int, channels: int, width: int) -> tuple[int, int]:
    """(base size, number of doublings); ValueError for a size that no DCGAN here is made for."""
    if image_size not in BASES:
        raise ValueError(f"dcgan: image size {image_size} is not one of {', '.join(map(str, BASES))}")
    if channels not in (1, 3) or width < 1:
        raise ValueError(f"dcgan: channels must be 1 or 3 and width at least 1, but are {channels} and {width}")
    base = BASES[image_size]
    return base, (image_size // base).bit_length() - 1


def dcgan_generator(
    image_size: int = 64,
    channels: int = 1,
    width: int = 64,
    latent: int = 100,
    generator: Generator | None = None,
    batch_norm: bool = True,
) -> Sequential:
    """z (N, latent) -> images (N, image_size, image_size, channels) in (-1, 1).

    64 pixels: feature maps of 8, 4, 2 and 1 times `width` channels at 4, 8, 16 and 32 pixels.
    batch_norm=False: with biases instead, but at the output.
    """
    base, doublings = _levels(image_size, channels, width)
    c = width << (doublings - 1)
    layers: list[Module] = [Unflatten(1, 1, latent), ConvTranspose2d(latent, c, base, bias=not batch_norm)]
    for level in range(doublings):
        layers += [BatchNorm2d(c), ReLU()] if batch_norm else [ReLU()]
        if level < doublings - 1:
            layers.append(ConvTranspose2d(c, c // 2, 4, 2, 1, bias=not batch_norm))
            c //= 2
    layers += [ConvTranspose2d(c, channels, 4, 2, 1, bias=False), Tanh()]
    net = Sequential(*layers)
    init.dcgan_(net, generator)
    return net


def dcgan_discriminator(
    image_size: int = 64,
    channels: int = 1,
    width: int = 64,
    generator: Generator | None = None,
    batch_norm: bool = True,
    outputs: int = 1,
) -> Sequential:
    """Images (N, image_size, image_size, channels) -> logits (N, 1): the generator mirrored, with LeakyReLU 0.2.

    batch_norm=False: with biases instead, for a critic under a gradient penalty, which needs every sample by itself.
    outputs: numbers an image, (N, outputs), for an encoder.
    """
    base, doublings = _levels(image_size, channels, width)
    layers: list[Module] = [Conv2d(channels, width, 4, 2, 1, bias=not batch_norm), LeakyReLU(0.2)]
    c = width
    for _ in range(doublings - 1):
        layers.append(Conv2d(c, 2 * c, 4, 2, 1, bias=not batch_norm))
        if batch_norm:
            layers.append(BatchNorm2d(2 * c))
        layers.append(LeakyReLU(0.2))
        c *= 2
    layers += [Conv2d(c, outputs, base, bias=False), Flatten()]
    net = Sequential(*layers)
    init.dcgan_(net, generator)
    return net


def features(D: Sequential) -> Sequential:
    """A discriminator but for its last two layers, which make a number of its features; the layers are D's own."""
    return Sequential(*D.layers[:-2])


def head(D: Sequential) -> Sequential:
    """The last two layers of a discriminator: D(x) = head(D)(features(D)(x))."""
    return Sequential(*D.layers[-2:])


def replaced(net: Sequential, kind: type[Module], make: Callable[[Any], Module]) -> Sequential:
    """The layers of a net, but make(layer) in place of each one of that kind: replaced(D, Conv2d, SpectralNorm)."""
    return Sequential(*[make(layer) if isinstance(layer, kind) else layer for layer in net])


def with_attention(net: Sequential, image_size: int, width: int, generator: Generator | None = None) -> Sequential:
    """DCGAN's G or D with self-attention behind the activation of its maps of 14 pixels (of 28) or 16 (of 32, 64)."""
    activations = [i for i, layer in enumerate(net) if isinstance(layer, (ReLU, LeakyReLU))]
    from_image = activations if isinstance(net[0], Conv2d) else activations[::-1]
    level = 1 if image_size == 64 else 0
    behind = from_image[level] + 1
    attention = SelfAttention(width << level)
    init.dcgan_(attention, generator)
    return Sequential(*net.layers[:behind], attention, *net.layers[behind:])
