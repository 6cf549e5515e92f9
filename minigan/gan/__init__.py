"""Generative adversarial networks: objectives, penalties, nets, and one training loop for all of them."""

from .hooks import EMA, GradientNorm, LinearDecay, clip_gradients
from .latent import slerp
from .models import dcgan_discriminator, dcgan_generator
from .objectives import MINIMAX, NON_SATURATING, WASSERSTEIN, Objective
from .penalties import grad_x, gradient_penalty
from .state import restore, training_state
from .train import Game, NotFiniteError, Player, critic_updates, train, two_player

__all__ = [
    "EMA",
    "MINIMAX",
    "NON_SATURATING",
    "WASSERSTEIN",
    "Game",
    "GradientNorm",
    "LinearDecay",
    "NotFiniteError",
    "Objective",
    "Player",
    "clip_gradients",
    "critic_updates",
    "dcgan_discriminator",
    "dcgan_generator",
    "grad_x",
    "gradient_penalty",
    "restore",
    "slerp",
    "train",
    "training_state",
    "two_player",
]
