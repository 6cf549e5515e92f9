"""minigan train and minigan resume, and what the examples share with them."""

import json
import os
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .. import kernels
from .._version import __version__
from ..data import DataSet, load
from ..data.sources import DRAWN
from ..gan import NotFiniteError
from ..gan.recipes import RECIPES, Recipe, Settings
from ..gan.recipes.recipe import FREE
from ..gan.records import Record
from ..gan.run import Run, Stopped, Training, refuse_other_images
from ..gan.run_folder import RunFolder, check_new, running_median
from ..gan.sampling import FAKES, latent_vectors, recipe_of
from ..nn import Module
from ..options import OptionError, parse, table
from ..progress import Progress
from .measure import measure
from .words import CLOSED, Ended, Say, Terminated, UsageError, one_name, speaker, split, use_device

HELP_TRAIN = """usage: minigan train NAME [key=value ...] [out=DIR] [--json]

Trains NAME, one of
{names},
and writes a folder:
samples/ has pictures of G as it learns, losses.png the curves, metrics.jsonl one line a step, metrics.json the result,
weights.safetensors the nets, checkpoints/ what "minigan resume DIR" goes on from, to the bit, whenever the run was
stopped or killed. Ctrl-C stops after the step.

  minigan train gan
  minigan train wgan-gp steps=500 lr=1e-4 data=drawn out=runs/first
  minigan train gan preset=tutorial-64 evaluate_every=1000

--json prints metrics.json at the end and all else on stderr. minigan train NAME --help is about NAME; of {name}:

{about}

Its keys, and what they are when not given:

{keys}"""

HELP_RESUME = """usage: minigan resume DIR [key=value ...] [--json]

Goes on where the last good checkpoint stands, with the same bits as a run that was never interrupted. Of a run that is
complete nothing is done, unless it shall become longer. Where the data lie, how long to train, and how often to save
may change; what a step computes may not.

  minigan resume runs/gan-0001
  minigan resume runs/gan-0001 steps=6000
  minigan resume /mnt/runs/first data=/mnt/mnist

These keys may change; what is not given stays as it was. For a new run they are:

{keys}"""


def help_on(command: str, rest: Sequence[str]) -> str:
    """The text of --help; of `minigan train NAME --help` what NAME is, and its keys."""
    recipe = RECIPES[next((word for word in rest if word in RECIPES), "gan")]
    if command == "train":
        keys = "\n".join(table(recipe.settings))
        about = [f"{recipe.summary} ({recipe.paper})", recipe.formula]
        about += [f"measured: {recipe.expected}"] if recipe.expected else []
        names = textwrap.fill(", ".join(RECIPES), 100, break_on_hyphens=False)
        return HELP_TRAIN.format(names=names, name=recipe.name, about="\n".join(about), keys=keys)
    return HELP_RESUME.format(keys="\n".join(table(Settings, FREE - {"preset", "out"})))


def train(words: Sequence[str]) -> None:
    """A new run."""
    found = split(words, "minigan train", ("--json",))
    name = one_name(found, "minigan train", f"what to train: {', '.join(RECIPES)}")
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, 1)
        raise UsageError(
            f"minigan train: there is no recipe {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(RECIPES)}")
        )
    settings = RECIPES[name].parse(found.pairs, f"minigan train {name}")
    start(RECIPES[name], settings, "--json" in found.flags)


def start(recipe: Recipe, settings: Settings, as_json: bool = False) -> None:
    """Trains in a new folder, says what happens, and measures the result."""
    say = speaker(as_json)
    use_device(settings.device, say)
    if settings.out is not None:
        check_new(Path(settings.out))
    settings, data = _get_data(settings, say, anew=True)
    run = Run.start(Training(recipe, settings, data))
    nets = ", ".join(f"{name} {_count(net):,}" for name, net in run.training.parts.nets.items())
    with run.folder:
        _complete(run, say, as_json, f"{recipe.name}: parameters of {nets}; writing to {run.folder.path}")


def resume(words: Sequence[str]) -> None:
    """A run goes on."""
    where = "minigan resume"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    say = speaker("--json" in found.flags)
    recipe, recorded = recipe_of(record)
    settings = _changed(recorded, found.pairs, f"{where} {record.path}")
    with RunFolder.open(record.path) as folder:
        if record.state() == "complete" and (settings.steps, settings.epochs) == (recorded.steps, recorded.epochs):
            say(f"{record.path} is complete, with {record.steps} steps; steps= makes it longer")
            if "--json" in found.flags:
                print(json.dumps(record.metrics()))
            return
        use_device(settings.device, say)
        settings, data = _get_data(settings, say, anew=False)
        refuse_other_images(record, data)
        training = Training(recipe, settings, data)
        run = Run.resume(training, folder)
        here = {"minigan": __version__, "threads": kernels.threads(), "device": settings.device}
        there = {"minigan": record.version, "threads": record.threads, "device": recorded.device}
        for key, value in there.items():
            if value != here[key]:
                say(f"Note: the run had {key} {value}, here it is {here[key]}, so that the last bits may differ.")
        opening = f"{recipe.name}: going on after step {run.step} of {training.steps} in {record.path}"
        _complete(run, say, "--json" in found.flags, opening)


def _changed(recorded: Settings, pairs: Sequence[str], where: str) -> Settings:
    """The settings that a run goes on with."""
    given = {pair.partition("=")[0] for pair in pairs}
    base = replace(recorded, steps=None, epochs=None) if given & {"steps", "epochs"} else recorded
    settings = parse(base, pairs, where)
    settings.check_length(where)
    if fixed := sorted(given - FREE | given & {"preset", "out"}):
        raise OptionError(
            f"{where}: {fixed[0]} cannot change when a run goes on, it would be another training; begin one with "
            f"minigan train {'' if fixed[0] == 'out' else fixed[0] + '='}..."
        )
    if recorded.lr_schedule != "constant" and (settings.steps, settings.epochs) != (recorded.steps, recorded.epochs):
        raise OptionError(
            f"{where}: the learning rate of this run falls to 0 at its last step, so that cannot be another one"
        )
    return settings


def _get_data(s: Settings, say: Say, anew: bool) -> tuple[Settings, DataSet]:
    """The images, and the settings that name them wherever the run goes on."""
    source = s.data or os.environ.get("MINIGAN_DATA") or None
    try:
        data = load(source, s.image_size)
    except (FileNotFoundError, ConnectionError) as error:
        if not anew:
            raise type(error)(f"{error}; where the images of this run have moved to, data= says") from error
        if isinstance(error, FileNotFoundError):
            raise
        say(
            "MNIST is not here and cannot be downloaded, so this trains on drawn digits (data=, or --data, names "
            "other images)."
        )
        source, data = "drawn", load("drawn")
    if source is not None and source not in DRAWN:
        source = str(Path(os.path.expanduser(source)).resolve())
    N, H, W, C = data.images.shape
    say(f"{N:,} images of {data.name}, {H}x{W} pixels, {'grey' if C == 1 else 'in colour'}")
    return replace(s, data=source), data


def _complete(run: Run, say: Say, as_json: bool, opening: str) -> None:
    """Trains to the end and measures; whatever ends it before is told in one sentence, by an Ended."""
    training, path = run.training, run.folder.path
    again = f"go on with: minigan resume {shlex.quote(str(path))}"
    run.say = say
    try:
        say(opening)
        _train(run, again)
        run.write_results()
        say(f"{run.step} steps in {run.seconds:.0f} s, {run.seen / run.seconds:.0f} images/s; look at {path}/samples")
        metrics = {"step": run.step, "images": run.seen, "seconds": run.seconds, **_estimate(run, say)}
        if training.settings.metrics:
            metrics |= _measured(run, say, metrics)
        run.folder.write_json("metrics.json", metrics)
    except (KeyboardInterrupt, Terminated) as error:
        where = f"within step {run.step + 1}" if run.step < training.steps else "after the last step"
        raise Ended(f"{_in_words(error)} {where}; {again}", _code(error)) from error
    except BrokenPipeError as error:
        raise Ended(f"its output was closed; {again}", CLOSED) from error
    except OSError as error:
        raise Ended(f"{error}; then {again}", 1) from error
    except MemoryError as error:
        raise Ended(f"out of memory: {error}; with more of it, {again}", 1) from error
    if as_json:
        print(json.dumps(metrics))


def _train(run: Run, again: str) -> None:
    """All steps that are still to do. Of a run that ends before its time, too, the results so far are written."""
    try:
        with Progress(sum(run.training.images), "image", run.seen) as bar:
            run.train(lambda images, logs: bar.advance(images, in_short(logs)))
    except Stopped as stopped:
        run.write_results()
        text = f"{stopped} after step {run.step} of {run.training.steps}; {again}"
        raise Ended(text, 128 + stopped.number) from stopped
    except NotFiniteError as error:
        run.write_results()
        text = f"{error}; what is in {run.folder.path} is the state after step {run.step}, the last good one"
        raise Ended(text, 1) from error


def _measured(run: Run, say: Say, metrics: dict[str, Any]) -> dict[str, Any]:
    """How good the samples are. Interrupted, it leaves a complete run with the `metrics` so far."""
    try:
        training = run.training
        codes = latent_vectors(training.recipe, training.settings, "evaluation", FAKES)
        return measure(training.recipe, training.settings, training.sampler, codes, training.data, say)
    except (KeyboardInterrupt, Terminated) as error:
        run.folder.write_json("metrics.json", metrics)
        advice = f"minigan evaluate {shlex.quote(str(run.folder.path))}"
        raise Ended(f"not measured, but the run is complete: {advice}", _code(error)) from error


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, Terminated) else "interrupted"


def _code(error: BaseException) -> int:
    return error.code if isinstance(error, Terminated) else 130


def _estimate(run: Run, say: Say) -> dict[str, float]:
    """Of a critic: how far its Wasserstein estimate fell."""
    rows = [row for row in run.folder.rows() if "w_estimate" in row]
    if not rows:
        return {}
    estimate = running_median([row["w_estimate"] for row in rows])
    peak = int(estimate.argmax())
    high, end = float(estimate[peak]), float(estimate[-1])
    say(f"Wasserstein estimate, running median: {high:.3g} at step {rows[peak]['step']}, {end:.3g} at the end")
    return {"w_estimate_peak": high, "w_estimate_end": end}


IN_SHORT = ("reconstruction", "kl", "measure", "k")
"""Columns to show where D's outputs are not logged: BEGAN's, and those without a D."""


def in_short(logs: dict[str, float]) -> str:
    """What the progress shows of a step."""
    if "fid" in logs:
        return f"FID {logs['fid']:.2f}"
    if "w_estimate" in logs:
        return "W {w_estimate:.3g} |dD/dx| {grad_norm:.3g}".format(**logs)
    if "d_real" in logs and "d_fake_after" in logs:
        return "D(x) {d_real:.2f} D(G(z)) {d_fake_before:.2f} -> {d_fake_after:.2f}".format(**logs)
    if "score_real" in logs:
        return "D(x) {score_real:.2f} D(G(z)) {score_fake:.2f}".format(**logs)
    return " ".join(f"{key} {value:.3g}" for key, value in logs.items() if key in IN_SHORT)


def _count(net: Module) -> int:
    return sum(p.size for p in net.parameters())
