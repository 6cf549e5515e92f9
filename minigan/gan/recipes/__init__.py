"""Trainings that have a name: one file each, with its settings, its nets and its paper. `minigan list` prints them."""

from . import gan, minimax, wgan_clip, wgan_gp
from .recipe import Parts, Recipe, Settings

RECIPES = {recipe.name: recipe for recipe in (gan.RECIPE, minimax.RECIPE, wgan_clip.RECIPE, wgan_gp.RECIPE)}

__all__ = ["RECIPES", "Parts", "Recipe", "Settings"]
