"""minigan train and minigan resume, and what the examples share with them."""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from .. import kernels
from .._version import __version__
from ..data import DataSet, load
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
from .words import Ended, Say, UsageError, one_name, speaker, split, use_device

HELP_TRAIN = """usage: minigan train NAME [key=value ...] [out=DIR] [--json]

Trains NAME (minigan list) and writes a folder: samples/ has pictures of G as it learns, losses.png the curves,
metrics.jsonl one line a step, metrics.json the result, weights.safetensors the nets, checkpoints/ what
"minigan resume DIR" goes on from, to the bit, whenever the run was stopped or killed. Ctrl-C stops after the step.

  minigan train gan
  minigan train wgan-gp steps=500 lr=1e-4 data=drawn out=runs/first
  minigan train gan preset=tutorial-64 evaluate_every=1000

--json prints metrics.json at the end and all else on stderr. The keys of {name} and what they are when not given:

{keys}"""

HELP_RESUME = """usage: minigan resume DIR [key=value ...] [--json]

Goes on where the last good checkpoint stands, with the same bits as a run that was never interrupted. Of a run that is
complete nothing is done, unless it shall become longer. Where the data lie, how long to train, and how often to save
may change; what a step computes may not.

  minigan resume runs/gan-0001
  minigan resume runs/gan-0001 steps=6000
  minigan resume /mnt/runs/first data=/mnt/mnist

These keys may change:

{keys}"""


def help_on(command: str, rest: Sequence[str]) -> str:
    """The text of --help; of `minigan train NAME --help` the keys of NAME."""
    names = [word for word in rest if word in RECIPES]
    recipe = RECIPES[names[0] if names else "gan"]
    if command == "train":
        return HELP_TRAIN.format(name=recipe.name, keys="\n".join(table(recipe.settings)))
    keys = [line for line in table(Settings) if line.split("=")[0].strip() in FREE - {"preset", "out"}]
    return HELP_RESUME.format(keys="\n".join(keys))


def train(words: Sequence[str]) -> None:
    """A new run."""
    found = split(words, "minigan train", ("--json",))
    name = one_name(found, "minigan train", f"the name of what to train: {', '.join(RECIPES)}")
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
    settings, data = _get_data(settings, say)
    run = Run.start(Training(recipe, settings, data))
    nets = ", ".join(f"{name} {_count(net):,}" for name, net in run.training.parts.nets.items())
    say(f"{recipe.name}: parameters of {nets}; writing to {run.folder.path}")
    _complete(run, say, as_json)


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
            return
        use_device(settings.device, say)
        settings, data = _get_data(settings, say)
        refuse_other_images(record, data)
        training = Training(recipe, settings, data)
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", RuntimeWarning)
            run = Run.resume(training, folder)
        for warning in noted:
            say(f"Note: {warning.message}.")
        here = {"minigan": __version__, "threads": kernels.threads(), "device": settings.device}
        there = {"minigan": record.version, "threads": record.threads, "device": recorded.device}
        for key, value in there.items():
            if value != here[key]:
                say(f"Note: the run had {key} {value}, here it is {here[key]}, so that the last bits may differ.")
        say(f"{recipe.name}: going on after step {run.step} of {training.steps} in {record.path}")
        _complete(run, say, "--json" in found.flags)


def _changed(recorded: Settings, pairs: Sequence[str], where: str) -> Settings:
    """The settings that a run goes on with."""
    given = {pair.partition("=")[0] for pair in pairs}
    settings = parse(recorded, pairs, where)
    if fixed := sorted(given - FREE | given & {"preset", "out"}):
        raise OptionError(
            f"{where}: {fixed[0]} cannot change when a run goes on, it would be another training; begin one with "
            f"minigan train {'' if fixed[0] == 'out' else fixed[0] + '='}..."
        )
    if given & {"steps", "epochs"}:
        if recorded.lr_schedule != "constant":
            raise OptionError(
                f"{where}: the learning rate of this run falls to 0 at its last step, so it cannot become longer"
            )
        if {"steps", "epochs"} <= given:
            raise OptionError(f"{where}: steps and epochs both say how long to train; give one of them")
        settings = replace(settings, epochs=None) if "steps" in given else replace(settings, steps=None)
    return settings


def _get_data(s: Settings, say: Say) -> tuple[Settings, DataSet]:
    """The images, and the settings that name them wherever the run goes on."""
    source = s.data or os.environ.get("MINIGAN_DATA") or None
    try:
        data = load(source, s.image_size)
    except ConnectionError:
        say(
            "MNIST is not here and cannot be downloaded, so this trains on drawn digits (data=, or --data, names "
            "other images)."
        )
        source, data = "drawn", load("drawn")
    if source not in (None, "drawn"):
        source = str(Path(os.path.expanduser(source)).resolve())
    N, H, W, C = data.images.shape
    say(f"{N:,} images of {data.name}, {H}x{W} pixels, {'grey' if C == 1 else 'in colour'}")
    return replace(s, data=source), data


def _complete(run: Run, say: Say, as_json: bool) -> None:
    """Trains to the end; whatever ends it before is told in one sentence, by an Ended."""
    training, path = run.training, run.folder.path
    again = f"go on with: minigan resume {path}"
    try:
        with Progress(sum(training.images), "image", run.seen) as bar:
            run.train(lambda images, logs: bar.advance(images, in_short(logs)))
    except Stopped as stopped:
        run.write_results()
        raise Ended(f"{stopped} after step {run.step} of {training.steps}; {again}", 128 + stopped.number) from stopped
    except KeyboardInterrupt as error:
        raise Ended(f"interrupted within step {run.step + 1}; {again}", 130) from error
    except NotFiniteError as error:
        run.write_results()
        raise Ended(f"{error}; what is in {path} is the state after step {run.step}, the last good one", 1) from error
    except OSError as error:
        raise Ended(f"{error}; then {again}", 1) from error
    run.write_results()
    say(f"{run.step} steps in {run.seconds:.0f} s, {run.seen / run.seconds:.0f} images/s; look at {path}/samples")
    metrics = {"step": run.step, "images": run.seen, "seconds": run.seconds, **_estimate(run, say)}
    if training.settings.metrics:
        try:
            fakes = training.generate(latent_vectors(training.settings, "evaluation", FAKES))
            metrics |= measure(fakes, training.data, say)
        except KeyboardInterrupt as error:
            run.folder.write_json("metrics.json", metrics)
            raise Ended(f"not measured, but the run is complete: minigan evaluate {path}", 130) from error
    run.folder.write_json("metrics.json", metrics)
    if as_json:
        print(json.dumps(metrics))


def _estimate(run: Run, say: Say) -> dict[str, float]:
    """Of a critic: how far its Wasserstein estimate fell."""
    rows = run.folder.rows()
    if "w_estimate" not in rows[0]:
        return {}
    estimate = running_median([row["w_estimate"] for row in rows])
    peak = int(estimate.argmax())
    high, end = float(estimate[peak]), float(estimate[-1])
    say(f"Wasserstein estimate, running median: {high:.3g} at step {peak + 1}, {end:.3g} at the end")
    return {"w_estimate_peak": high, "w_estimate_end": end}


def in_short(logs: dict[str, float]) -> str:
    """What the progress shows of a step."""
    if "w_estimate" in logs:
        return "W {w_estimate:.3g} |dD/dx| {grad_norm:.3g}".format(**logs)
    return "D(x) {d_real:.2f} D(G(z)) {d_fake_before:.2f} -> {d_fake_after:.2f}".format(**logs)


def _count(net: Module) -> int:
    return sum(p.size for p in net.parameters())
