"""minigan sample and minigan interpolate."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from ..data import load
from ..files import named
from ..gan.latent import lerp, slerp, truncated, walks
from ..gan.pictures import save_gif, save_grid, save_npz, save_pictures
from ..gan.records import Record
from ..gan.run import refuse_other_images
from ..gan.run_folder import check_new, next_free
from ..gan.sampling import AT_ONCE, generate, recipe_of, trained_generator
from ..kernels.device import NAMES as DEVICES
from ..metrics import train_classifier
from ..nn import Module
from ..options import option, parse, table
from ..random import Generator
from ..tensor import Array
from .words import Say, one_name, speaker, split, use_device

PATHS = {"slerp": slerp, "lerp": lerp}
TRIES = 1000
"""Samples that are drawn at most for each that is wanted of a class."""

Draw = Callable[[int], Array]

HELP_SAMPLE = """usage: minigan sample DIR [key=value ...] [--json]

Images of a run's generator, into a new folder: grid.png, one PNG a sample in images/, and samples.npz, which holds
"images" (bytes) and "z". Both can be trained on: data=DIR/images.

  minigan sample runs/gan-0001
  minigan sample runs/gan-0001 count=1000 seed=7 truncation=2 checkpoint=best out=faces
  minigan sample runs/gan-0001 class=3

{keys}"""

HELP_INTERPOLATE = """usage: minigan interpolate DIR [key=value ...] [--json]

Walks from one latent vector to another, a row each: interpolation.png shows all pictures, interpolation.gif moves.

  minigan interpolate runs/gan-0001
  minigan interpolate runs/gan-0001 path=lerp walks=4 steps=24 out=walks

{keys}"""


@dataclass(frozen=True)
class Choice:
    """Which generator, and where its pictures go."""

    checkpoint: str = option("latest", "latest, best (of the lowest FID), or a step")
    seed: int = option(0, "of the latent vectors")
    truncation: float | None = option(
        None, "draws latent numbers anew that are further from 0; below 2 contrast fades", at_least=0.01
    )
    device: str = option("cpu", "that the samples are made on", choices=DEVICES)


@dataclass(frozen=True)
class Samples(Choice):
    """What `sample` can be told."""

    count: int = option(64, "samples", above=0)
    label: int | None = option(None, "only samples that minigan's classifier gives this label; or class=", at_least=0)
    data: str | None = option(None, "for label=, where the images are now (none: where the run found them)")
    out: str | None = option(None, "a new folder (none: DIR/sampled-0001 and on)")


@dataclass(frozen=True)
class Walks(Choice):
    """What `interpolate` can be told."""

    walks: int = option(8, "rows", above=0)
    steps: int = option(10, "pictures a row, both ends included", at_least=2)
    path: str = option("slerp", "great circles, or straight lines", choices=tuple(PATHS))
    out: str | None = option(None, "a new folder (none: DIR/walks-0001 and on)")


def help_on(command: str, rest: Sequence[str]) -> str:
    """The text of --help."""
    text, kind = (HELP_SAMPLE, Samples) if command == "sample" else (HELP_INTERPOLATE, Walks)
    return text.format(keys="\n".join(table(kind)))


def sample(words: Sequence[str]) -> None:
    """A grid, single pictures and arrays."""
    where = "minigan sample"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    pairs = [f"label{pair[5:]}" if pair.startswith("class=") else pair for pair in found.pairs]
    options, say = parse(Samples, pairs, where), speaker("--json" in found.flags)
    _refuse_old(options.out)
    step, net, draw = _prepared(record, options, "sample", say)
    if options.label is None:
        z = draw(options.count)
        images = generate(net, z, options.device)
    else:
        z, images = _of_class(record, options, lambda z: generate(net, z, options.device), draw)
    folder = _new_folder(record, options.out, "sampled")
    files = [folder / "grid.png", folder / "samples.npz", folder / "images"]
    save_grid(files[0], images, columns=isqrt(len(images) - 1) + 1)
    save_npz(files[1], images, z=z)
    save_pictures(files[2], images)
    say(f"{len(images):,} samples of {record.path} after step {step}: {', '.join(map(str, files))}")
    if "--json" in found.flags:
        print(json.dumps({"step": step, "samples": len(images), "files": [str(file) for file in files]}))


def interpolate(words: Sequence[str]) -> None:
    """A strip and an animation."""
    where = "minigan interpolate"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    options, say = parse(Walks, found.pairs, where), speaker("--json" in found.flags)
    _refuse_old(options.out)
    step, net, draw = _prepared(record, options, "interpolate", say)
    z = walks(draw(2 * options.walks), options.steps, PATHS[options.path])
    images = generate(net, z.reshape(-1, z.shape[-1]), options.device)
    frames = images.reshape(options.walks, options.steps, *images.shape[1:]).swapaxes(0, 1)
    folder = _new_folder(record, options.out, "walks")
    files = [folder / "interpolation.png", folder / "interpolation.gif"]
    save_grid(files[0], images, columns=options.steps)
    save_gif(files[1], frames)
    say(f"{options.walks} walks by {record.path} after step {step}: {', '.join(map(str, files))}")
    if "--json" in found.flags:
        print(json.dumps({"step": step, "walks": options.walks, "files": [str(file) for file in files]}))


def _prepared(record: Record, options: Choice, stream: str, say: Say) -> tuple[int, Module, Draw]:
    """The step, the net and what draws its latent vectors."""
    use_device(options.device, say)
    step, net = trained_generator(record, options.checkpoint, options.device)
    latent, generator, threshold = recipe_of(record)[1].latent, Generator(options.seed, stream), options.truncation
    if threshold is None:
        return step, net, lambda count: generator.normal((count, latent))
    return step, net, lambda count: truncated(generator, (count, latent), threshold)


def _of_class(record: Record, options: Samples, make: Callable[[Array], Array], draw: Draw) -> tuple[Array, Array]:
    """(z, images) of the first samples that the classifier takes for the class."""
    settings = recipe_of(record)[1]
    data = load(options.data or settings.data, settings.image_size)
    refuse_other_images(record, data)
    if data.labels is None or data.test_images is None or data.test_labels is None:
        raise ValueError(f"label={options.label} needs labels and a test set, which {data.name} does not have")
    if options.label not in data.labels:
        raise ValueError(
            f"label={options.label}: the labels of {data.name} are {', '.join(map(str, set(data.labels)))}"
        )
    classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
    found: list[tuple[Array, Array]] = []
    drawn = 0
    while drawn < TRIES * options.count:
        z, drawn = draw(AT_ONCE), drawn + AT_ONCE
        images = make(z)
        right = classifier.predict(images) == options.label
        found.append((z[right], images[right]))
        if sum(len(z) for z, _ in found) >= options.count:
            z, images = (np.concatenate(arrays)[: options.count] for arrays in zip(*found, strict=True))
            return z, images
    raise ValueError(
        f"label={options.label}: of {drawn:,} samples only {sum(len(z) for z, _ in found)} look like it, "
        f"not {options.count}; the generator does not make them"
    )


def _refuse_old(out: str | None) -> None:
    """FileExistsError if there is something in it; asked before anything is computed."""
    if out is not None:
        check_new(Path(out))


def _new_folder(record: Record, out: str | None, name: str) -> Path:
    """Made when its files are about to be written, so that what fails before leaves none behind."""
    if out is None:
        return next_free(record.path, name)
    folder = Path(out)
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
