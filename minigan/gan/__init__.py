"""Generative adversarial networks: objectives, nets, and one training loop for all of them."""

from .models import dcgan_discriminator, dcgan_generator
from .objectives import NON_SATURATING, Objective
from .train import Game, NotFiniteError, Player, train, two_player

__all__ = [
    "NON_SATURATING",
    "Game",
    "NotFiniteError",
    "Objective",
    "Player",
    "dcgan_discriminator",
    "dcgan_generator",
    "train",
    "two_player",
]
