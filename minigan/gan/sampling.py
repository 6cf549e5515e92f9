"""Samples of a generator that is being trained, or of a run's checkpoint."""

from dataclasses import replace
from typing import Any

import numpy as np

from .. import kernels
from ..autograd import no_grad
from ..checkpoint import CheckpointError, Checkpoints, load
from ..nn import Module
from ..options import OptionError, from_json, to_json
from ..random import Generator
from ..tensor import Array, Tensor
from .recipes import RECIPES, Recipe, Settings
from .recipes.recipe import add_hooks
from .records import Record, RecordError
from .state import name_of_hook

AT_ONCE = 250  # images
SHOWN, COLUMNS = 64, 8
"""How many codes sample pictures show, the same throughout a run, and how many in a row; see `shown_codes`."""

FAKES = 10_000
"""How many samples are measured."""


def generate(net: Module, z: Array, device: str = "cpu") -> Array:
    """Images (N, H, W, C) in [-1, 1] of codes (N, size), in eval mode; the net keeps its own mode."""
    training = net.training
    net.eval()
    try:
        with no_grad():
            parts = [
                net(Tensor.of(kernels.move(z[i : i + AT_ONCE], device))).to("cpu").array
                for i in range(0, len(z), AT_ONCE)
            ]
    finally:
        net.train(training)
    return np.concatenate(parts)


def latent_vectors(recipe: Recipe, s: Settings, stream: str, count: int) -> Array:
    """Codes (count, size), the same for the same run and the same name of a stream."""
    return recipe.latent(s).draw(Generator(s.seed, stream), count)


def shown_codes(recipe: Recipe, s: Settings) -> tuple[Array, int]:
    """The codes of a run's sample pictures, and how many are in a row.

    Of a prior with categories: a row for each of 8 codes, a column for each value of the first category; all else is
    the same along a row.
    """
    prior = recipe.latent(s)
    if not prior.categories:
        return latent_vectors(recipe, s, "samples", SHOWN), COLUMNS
    values, rows = prior.categories[0], SHOWN // COLUMNS
    codes = latent_vectors(recipe, s, "samples", rows).repeat(values, axis=0)
    return prior.relabel(codes, np.tile(np.arange(values), rows)), values


def recipe_of(record: Record) -> tuple[Recipe, Settings]:
    """What a run trains. RecordError if this minigan has no such recipe, or the recipe no such settings."""
    where = f"{record.path / 'config.json'}"
    if record.recipe not in RECIPES:
        raise RecordError(f"{where}: there is no recipe {record.recipe!r} here, only {', '.join(RECIPES)}")
    recipe = RECIPES[record.recipe]
    defaults = to_json(recipe.settings())  # a run of an older minigan does not know the newest settings
    try:
        return recipe, from_json(recipe.settings, {**defaults, **record.settings}, where)
    except OptionError as error:
        raise RecordError(f"{error}: the file is damaged or was changed by hand") from error


def trained_generator(record: Record, checkpoint: str = "latest", device: str = "cpu") -> tuple[int, Module]:
    """(step, the net that made the run's samples then) of a run's checkpoint: "latest", "best" or a step.

    CheckpointError if there is none, or it is damaged or of another run.
    """
    recipe, settings = recipe_of(record)
    step, arrays, _ = _read(Checkpoints(record.path / "checkpoints"), checkpoint)
    parts = recipe.build(replace(settings, device=device), record.trained_on["shape"][3])
    average = add_hooks(settings, parts, record.steps).average
    net, prefix = parts.nets["G"], "nets.G."
    if average is not None:
        net, prefix = average.net, f"hooks.{name_of_hook(parts.players, average)}.net."
    try:
        net.load_state_dict({key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)})
    except ValueError as error:
        raise CheckpointError(f"the checkpoint of step {step} in {record.path} is of another run: {error}") from error
    return step, net


def _read(checkpoints: Checkpoints, which: str) -> tuple[int, dict[str, Array], dict[str, Any]]:
    if which == "latest":
        return checkpoints.latest()
    steps = checkpoints.steps()
    step = checkpoints.best() if which == "best" else int(which) if which.isdecimal() else None
    if step is None and which == "best" and steps:
        raise CheckpointError(f"no checkpoint in {checkpoints.folder} was evaluated (evaluate_every=); take the latest")
    if step is None or step not in steps:
        listed = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(f"there is no checkpoint {which!r} in {checkpoints.folder}; there are those of {listed}")
    return (step, *load(checkpoints.path(step)))
