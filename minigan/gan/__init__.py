"""Generative adversarial networks: objectives, penalties, nets, and one training loop for all of them."""

from .fgan import f_gan
from .hooks import EMA, GradientNorm, LinearDecay, clip_gradients
from .latent import Latent, slerp
from .models import dcgan_discriminator, dcgan_generator
from .objectives import (
    HINGE,
    LEAST_SQUARES,
    MINIMAX,
    NON_SATURATING,
    RELATIVISTIC,
    WASSERSTEIN,
    Objective,
    drifting,
    smoothed,
)
from .penalties import dragan, grad_x, gradient_penalty, r1, r2, sum_of
from .state import restore, training_state
from .train import Game, NotFiniteError, Player, critic_updates, train, two_player

__all__ = [
    "EMA",
    "HINGE",
    "LEAST_SQUARES",
    "MINIMAX",
    "NON_SATURATING",
    "RELATIVISTIC",
    "WASSERSTEIN",
    "Game",
    "GradientNorm",
    "Latent",
    "LinearDecay",
    "NotFiniteError",
    "Objective",
    "Player",
    "clip_gradients",
    "critic_updates",
    "dcgan_discriminator",
    "dcgan_generator",
    "dragan",
    "drifting",
    "f_gan",
    "grad_x",
    "gradient_penalty",
    "r1",
    "r2",
    "restore",
    "slerp",
    "smoothed",
    "sum_of",
    "train",
    "training_state",
    "two_player",
]
