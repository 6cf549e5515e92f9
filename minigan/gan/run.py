"""A run: a recipe, its settings and its data, in a folder from which it goes on to the bit.

    run = Run.start(Training(RECIPES["gan"], settings, load("drawn")))
    run.train()  # to the end, or to a signal
    run.write_results()
    run.folder.close()

    with RunFolder.open("runs/gan-0001") as folder:  # whatever has happened to the first one
        Run.resume(Training(RECIPES["gan"], settings, load("drawn")), folder).train()

A checkpoint holds all that a step depends on (state.py), so a run may die at any moment: what it did after its last
checkpoint is done again, and comes out the same.
"""

import hashlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from errno import EIO, EPIPE
from typing import Any

import numpy as np

from .. import kernels
from .._version import __version__
from ..checkpoint import CheckpointError, Checkpoints
from ..data import DataSet, batches
from ..metrics import Reference, mean_pairwise_distance, train_classifier
from ..metrics.images import pixels
from ..nn import Module
from ..options import to_json
from ..random import Generator
from ..tensor import Array
from .guard import blame, not_finite
from .recipes import Recipe, Settings
from .recipes.recipe import FREE, add_hooks, images_of_steps
from .records import FORMAT, Record, read_json
from .run_folder import RunFolder
from .sampling import FAKES, SHOWN, generate, latent_vectors, recipe_of, shown_codes
from .state import restore, training_state
from .train import Game, Logs, NotFiniteError, train

PIPE = 13
"""SIGPIPE, where a system has it: nobody reads any more what the run says."""


class Stopped(Exception):
    """A signal asked the run to stop. The step was finished, and saved; whoever resumes loses nothing."""

    def __init__(self, number: int) -> None:
        super().__init__("its output was closed" if number == PIPE else signal.Signals(number).name)
        self.number = number


class Training:
    """What a recipe makes of settings and data: nets, players and everything they draw from, before the first step.

    ValueError for settings and data that do not fit together.
    """

    def __init__(self, recipe: Recipe, settings: Settings, data: DataSet) -> None:
        s = settings
        self.recipe, self.settings, self.data = recipe, s, data
        labels = _labels(recipe, s, data)
        self.real = batches(data.images, s.batch_size, Generator(s.seed, "data"), s.image_size)
        self.parts = recipe.build(s, data.images.shape[3])
        self.images = images_of_steps(s, self.parts.players, len(data.images))  # that D sees in each step
        self.steps = len(self.images)
        self.average, self.gradient = add_hooks(s, self.parts, self.steps)
        latent = Generator(s.seed, "latent")
        picked = None if labels is None else lambda: labels[self.real.picked]
        self.game = Game(self.real, latent, recipe.latent(s), s.batch_size, s.device, picked)
        self.generators = {"latent": latent, **self.parts.generators}
        self.trained_on = description(data, recipe.conditional)
        some = Generator(0, "real images").permutation(len(data.images))[:SHOWN]
        some_images = pixels(data.images[some], s.image_size)
        self.real_distance = mean_pairwise_distance(some_images) if len(some) > 1 else 0.0
        self.reference: Reference | None = None
        if s.evaluate_every is not None:
            if data.labels is None or data.test_images is None or data.test_labels is None:
                raise ValueError(
                    f"evaluate_every={s.evaluate_every} needs images with labels and a test set, which {data.name} "
                    "does not have; leave it out"
                )
            classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
            self.reference = Reference(data.images, data.test_images, s.image_size, classifier=classifier)

    @property
    def sampler(self) -> Module:
        """Who makes the samples: G, or its average."""
        return self.parts.nets["G"] if self.average is None else self.average.net

    @property
    def _modules(self) -> dict[str, Module]:
        return {**self.parts.nets, **self.parts.state}

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be one of this training."""
        fixed = {key: value for key, value in to_json(self.settings).items() if key not in FREE}
        length = {} if self.settings.lr_schedule == "constant" else {"steps": self.steps}
        return {"recipe": self.recipe.name, "settings": fixed, "trained_on": self.trained_on["sha256"], **length}

    def refuse_other(self, where: str, found: dict[str, Any]) -> None:
        """CheckpointError that names what the identity of a checkpoint has otherwise.

        A checkpoint of an older minigan does not have the newest settings, which then had their defaults.
        """
        own = self.identity
        here = {**own, **own["settings"]}
        there = {**to_json(self.recipe.settings()), **found, **dict(found.get("settings", {}))}
        faults = [
            f"{key}={there.get(key)!r} there, {value!r} here"
            for key, value in here.items()
            if key != "settings" and there.get(key) != value
        ]
        if faults:
            raise CheckpointError(f"{where} is of another training: {'; '.join(faults)}")

    def generate(self, z: Array) -> Array:
        """Images (N, H, W, C) in [-1, 1] of codes (N, size); of a spoilt net they may not be finite."""
        with np.errstate(all="ignore"):
            return generate(self.sampler, z, self.settings.device)

    def state(self, **extra: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        """(arrays, JSON): see state.py."""
        return training_state(self._modules, self.parts.players, self.generators, self.real, extra)

    def restore(self, arrays: dict[str, Array], state: dict[str, Any]) -> dict[str, Any]:
        """Goes to where `state` was called; returns its `extra`."""
        return restore(arrays, state, self._modules, self.parts.players, self.generators, self.real)


def _labels(recipe: Recipe, s: Settings, data: DataSet) -> Array | None:
    """The images' labels, int64 (N,), or None. ValueError if they are not what a conditional recipe needs."""
    if recipe.conditional:
        if data.labels is None:
            raise ValueError(
                f"{recipe.name} makes images of given labels, and {data.name} has none; train on labelled images, or "
                "take a recipe that needs no labels (minigan list)"
            )
        classes, highest = recipe.latent(s).categories[0], int(data.labels.max())
        if highest + 1 != classes:
            raise ValueError(
                f"{recipe.name}: classes={classes}, but the labels of {data.name} go up to {highest}; "
                f"give classes={highest + 1}"
            )
    return None if data.labels is None else data.labels.astype(np.int64)


class Run:
    """A training and its folder: `step` steps are done, in `seconds`; D has seen `seen` images."""

    def __init__(self, training: Training, folder: RunFolder) -> None:
        self.training, self.folder = training, folder
        self.checkpoints = Checkpoints(folder.path / "checkpoints", training.settings.keep)
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self.say: Callable[[str], None] = lambda text: None
        self._torn = False  # whether nets and players are amidst a step
        self._shown, self._columns = shown_codes(training.recipe, training.settings)
        # Where each code is shown with every label, images would differ even if G ignored its noise.
        categories = training.recipe.latent(training.settings).categories
        self._varied = latent_vectors(training.recipe, training.settings, "samples", SHOWN) if categories else None

    @classmethod
    def start(cls, training: Training) -> "Run":
        """In a new folder, with a checkpoint of step 0. OSError if there is such a folder, or it cannot be written."""
        run = cls(training, RunFolder(training.settings.out, training.recipe.name))
        try:
            run.folder.sweep()
            run._write_config()
            run.save()
        except BaseException:
            run.folder.close()
            raise
        return run

    @classmethod
    def resume(cls, training: Training, folder: RunFolder) -> "Run":
        """Where the last checkpoint of the folder stands that loads; a RuntimeWarning names those that do not.

        CheckpointError if none does, or if it is of another training: of other settings or other data.
        """
        run = cls(training, folder)
        try:
            run.step, arrays, state = run.checkpoints.latest()
        except CheckpointError:
            if run.checkpoints.steps() or folder.rows():
                raise
            run.save()  # it died before the first one
        else:
            if run.step > training.steps:
                raise ValueError(
                    f"{folder.path} has {run.step} steps already, so it cannot end at {training.steps}; "
                    "give more, or nothing"
                )
            extra = state.get("extra", {})
            training.refuse_other(str(run.checkpoints.path(run.step)), extra)
            try:
                training.restore(arrays, state)
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{run.checkpoints.path(run.step)}: {error}") from error
            run.seen, run.seconds = extra["seen"], extra["seconds"]
        run.checkpoints.prune(run.step)
        folder.sweep()
        if missing := folder.rewind(run.step):
            warnings.warn(
                f"{folder.path / 'metrics.jsonl'} has no line for {missing} of the first {run.step} steps: the curves "
                "have gaps, the training has none",
                RuntimeWarning,
                stacklevel=2,
            )
        run._write_config()
        return run

    def _write_config(self) -> None:
        training, path = self.training, self.folder.path / "config.json"
        settings = replace(training.settings, out=str(self.folder.path))
        before = read_json(path) if path.exists() else {}
        config = {
            "format": FORMAT,
            "recipe": training.recipe.name,
            "settings": to_json(settings),
            "steps": training.steps,
            # Of a run that goes on the images are the same, but may have another place.
            "trained_on": before.get("trained_on", training.trained_on),
            "minigan": __version__,
            "threads": kernels.threads(),
        }
        if config != before:
            self.folder.write_json("config.json", config)

    def save(self, score: float | None = None) -> None:
        """A checkpoint of this step. NotFiniteError if the state is not worth keeping."""
        state = self.training.state(seen=self.seen, seconds=self.seconds, **self.training.identity)
        if fault := not_finite(state[0]):
            raise NotFiniteError(f"step {self.step}: {fault}")
        self.folder.flush()  # the log must not lag behind the checkpoint
        self.checkpoints.save(self.step, *state, score)

    def train(self, report: Callable[[int, Logs], None] = lambda images, logs: None) -> None:
        """All steps that are still to do; `report` gets the number of images that D saw in a step, and its logs.

        Stopped, by SIGINT, SIGTERM or SIGHUP, and by a `report` whose pipe is closed: after the step and a checkpoint.
        A second signal is a KeyboardInterrupt at once. NotFiniteError names the op; the last good state is saved.
        OSError if something cannot be written: what was written before is intact.
        """
        training, s = self.training, self.training.settings
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        first = under_way = self.step + 1

        def after_step(step: int, logs: Logs) -> None:
            nonlocal saved, under_way
            images = training.images[step - 1]
            self.step, self.seen = step, self.seen + images
            last = step == training.steps
            logs = {**logs, "g_grad_norm": training.gradient.value}
            pictures = None
            if step % s.sample_every == 0:
                pictures = self._checked(training.generate(self._shown))
                if training.real_distance:
                    varied = pictures if self._varied is None else self._checked(training.generate(self._varied))
                    logs["spread"] = mean_pairwise_distance(varied) / training.real_distance
            if training.reference is not None and step % (s.evaluate_every or 1) == 0:
                logs["fid"] = self._fid(training.reference)
            self.seconds = time.monotonic() - began
            self.folder.log({"step": step, "images": self.seen, "seconds": self.seconds, **logs})
            closed = False
            try:
                report(images, logs)
            except OSError as error:
                if error.errno not in (EPIPE, EIO):  # EIO: of a terminal that has gone
                    raise
                closed = True
            # From here on, a signal waits for the end of the next step.
            stop = asked[0] if asked else PIPE if closed else None
            if pictures is None and (last or stop is not None):
                pictures = self._checked(training.generate(self._shown))
            if pictures is not None:
                self.folder.save_samples(step, pictures, self._columns)
            if "fid" in logs or last or stop is not None or time.monotonic() - saved >= s.checkpoint_seconds:
                self.save(logs.get("fid"))
                saved = time.monotonic()
            if stop is not None:
                raise Stopped(stop)
            under_way = step + 1

        if self._torn:
            raise RuntimeError(f"the last training in {self.folder.path} ended within a step: go on by Run.resume")
        self._torn = True
        try:
            with signals_noted() as asked, kernels.set_conv_precision(s.precision):
                train(training.game, training.parts.players, training.steps, [after_step], first, s.capture)
                if asked:
                    raise Stopped(asked[0])
            self._torn = False
        except Stopped:
            self._torn = False
            raise
        except NotFiniteError as error:
            fault = self._blamed(error, under_way)
            self._torn = False
            raise fault from error
        finally:
            self.folder.close_log()

    def _checked(self, images: Array) -> Array:
        if not np.isfinite(images).all():
            raise NotFiniteError(f"step {self.step}: G makes images that are not finite")
        return images

    def _fid(self, reference: Reference) -> float:
        """Of the samples as they are now."""
        z = latent_vectors(self.training.recipe, self.training.settings, "evaluation", FAKES)
        return reference.fid(self._checked(self.training.generate(z)))

    def _blamed(self, error: NotFiniteError, seen: int) -> NotFiniteError:
        """Goes back to the last checkpoint and does its steps again, watching every op; saves the last good state."""
        training, step = self.training, self.step
        try:
            good, arrays, state = self.checkpoints.latest()
        except CheckpointError as lost:
            return NotFiniteError(f"{error}; and {lost}, so that the cause is not looked for")
        self.say(f"Numbers are no longer finite: looking for the cause in steps {good + 1} to {seen}, slowly.")
        training.restore(arrays, state)
        parts = training.parts
        found = blame(training.game, parts.players, parts.nets, training.state, good, seen)
        if found.step is None:
            training.restore(arrays, state)
            self.step, self.seen = good, sum(training.images[:good])
            self.folder.rewind(good)
            if seen == step:  # no loss was at fault, but the images
                return NotFiniteError(
                    f"{error}, though all weights are finite: they have grown too large; train again with a lower lr=, "
                    "or with clip_norm="
                )
            return NotFiniteError(f"{error}; {found.text}")
        self.step, self.seen = found.good, sum(training.images[: found.good])
        extra = {"seen": self.seen, "seconds": self.seconds, **training.identity}
        arrays, state = found.state
        training.restore(arrays, {**state, "extra": extra})
        self.folder.rewind(self.step)
        if found.good != good:
            self.save()
        images = training.generate(self._shown)
        if np.isfinite(images).all():  # finite weights may be so large that their images are not
            self.folder.save_samples(self.step, images, self._columns)
        return NotFiniteError(found.text)

    def write_results(self) -> None:
        """weights.safetensors, losses.png and, at the end of the run, interpolation.png."""
        training = self.training
        average = {} if training.average is None else {"G_average": training.average.net}
        self.folder.save_weights(**training.parts.nets, **average)
        if not self.step:
            return
        self.folder.plot_losses()
        if self.step == training.steps:
            codes = latent_vectors(training.recipe, training.settings, "samples", SHOWN)[:16]
            z = training.recipe.latent(training.settings).walks(codes, 10)
            self.folder.save_interpolation(training.generate(z.reshape(-1, z.shape[-1])))


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """The signals that came and ask to stop, for the block to look at. A second one is a KeyboardInterrupt."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)
        with suppress(OSError):  # no print, which may be what was interrupted
            os.write(2, b"\nStopping after this step; the same again stops at once.\n")

    if threading.current_thread() is not threading.main_thread():  # only there signals can be taken
        yield noted
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup's, a shell's &
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def description(data: DataSet, with_labels: bool = False) -> dict[str, Any]:
    """What config.json says of the images; sha256 is of shape and pixels, and of the labels where they matter."""
    digest = hashlib.sha256(repr(data.images.shape).encode())
    digest.update(np.ascontiguousarray(data.images).data)
    if with_labels and data.labels is not None:
        digest.update(np.ascontiguousarray(data.labels).data)
    return {"name": data.name, "shape": list(data.images.shape), "sha256": digest.hexdigest()}


def refuse_other_images(record: Record, data: DataSet) -> None:
    """ValueError if a run was trained on others, or with other labels if it had any."""
    conditional = recipe_of(record)[0].conditional
    here = description(data, conditional)
    if here["sha256"] != record.trained_on["sha256"]:
        kind = "images or labels" if conditional else "images"
        raise ValueError(
            f"{record.path} was trained on other {kind}: on {_in_words(record.trained_on)}, but here are "
            f"{_in_words(here)}; name the right ones by data="
        )


def _in_words(trained_on: dict[str, Any]) -> str:
    N, H, W, C = trained_on["shape"]
    return f"{N:,} of {trained_on['name']}, {H}x{W}x{C}, SHA-256 {trained_on['sha256'][:8]}"
