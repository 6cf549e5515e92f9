"""Generative adversarial networks: objectives, penalties, nets, and one training loop for all of them."""

from .latent import slerp
from .models import dcgan_discriminator, dcgan_generator
from .objectives import MINIMAX, NON_SATURATING, WASSERSTEIN, Objective
from .penalties import grad_x, gradient_penalty
from .train import Game, NotFiniteError, Player, critic_updates, train, two_player

__all__ = [
    "MINIMAX",
    "NON_SATURATING",
    "WASSERSTEIN",
    "Game",
    "NotFiniteError",
    "Objective",
    "Player",
    "critic_updates",
    "dcgan_discriminator",
    "dcgan_generator",
    "grad_x",
    "gradient_penalty",
    "slerp",
    "train",
    "two_player",
]
