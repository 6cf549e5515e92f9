"""Trainings that have a name: one file each, with its settings, its nets and its paper. `minigan list` prints them."""

from . import (
    acgan,
    autoencoder,
    began,
    cgan,
    dragan,
    fgan,
    gan,
    gan_r1,
    improved,
    infogan,
    lsgan,
    matching,
    minimax,
    projection,
    ragan,
    sagan,
    sngan,
    vae,
    vae_gan,
    wgan_clip,
    wgan_gp,
)
from .recipe import Parts, Recipe, Settings

_FILES = (
    *(gan, minimax, lsgan, ragan, fgan, wgan_clip, began),  # objectives
    *(wgan_gp, dragan, gan_r1, sngan),  # penalties
    *(improved, sagan),  # tricks
    *(cgan, matching, acgan, infogan, projection),  # conditional
    *(autoencoder, vae, vae_gan),  # baselines
)

RECIPES = {file.RECIPE.name: file.RECIPE for file in _FILES}
"""In the order of their families."""

__all__ = ["RECIPES", "Parts", "Recipe", "Settings"]
