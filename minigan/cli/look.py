"""minigan sample, minigan interpolate and minigan traverse."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from ..data import load
from ..files import named
from ..gan.latent import Latent, lerp, slerp
from ..gan.pictures import save_gif, save_grid, save_npz, save_pictures
from ..gan.records import Record
from ..gan.run import refuse_other_images
from ..gan.run_folder import check_new, next_free
from ..gan.sampling import AT_ONCE, generate, recipe_of, trained_generator
from ..kernels.device import NAMES as DEVICES
from ..metrics import train_classifier
from ..nn import Module
from ..options import OptionError, option, parse, table
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

A generator that is told the label (cgan, matching, acgan, projection) makes class=3 of every code. Of any other,
samples are drawn until minigan's classifier takes enough of them for a 3.

{keys}"""

HELP_INTERPOLATE = """usage: minigan interpolate DIR [key=value ...] [--json]

Walks from one latent vector to another, a row each: interpolation.png shows all pictures, interpolation.gif moves.

  minigan interpolate runs/gan-0001
  minigan interpolate runs/gan-0001 path=lerp walks=4 steps=24 out=walks

{keys}"""

HELP_TRAVERSE = """usage: minigan traverse DIR [key=value ...] [--json]

One part of the code goes through its values, all else stays: a picture for each part, a row for each code, a column for
each value. Parts are class, the label or category, all of whose values are shown; uniform-0 and on, InfoGAN's numbers;
noise-0 and on; and truncation, which draws the same noise within +-0.5, 1, 1.5, 2 and without a bound. InfoGAN's
numbers are drawn within [-1, 1): what G makes of those beyond, as by reach=2, it has not learnt.

  minigan traverse runs/cgan-0001
  minigan traverse runs/infogan-0001 code=uniform-0 rows=10 steps=11
  minigan traverse runs/gan-0001 code=noise-7 reach=3 out=seventh

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
    label: int | None = option(None, "only samples of this label; or class=", at_least=0)
    data: str | None = option(None, "for label=, where the images are now (none: where the run found them)")
    out: str | None = option(None, "a new folder (none: DIR/sampled-0001 and on)")


@dataclass(frozen=True)
class Walks(Choice):
    """What `interpolate` can be told."""

    walks: int = option(8, "rows", above=0)
    steps: int = option(10, "pictures a row, both ends included", at_least=2)
    path: str = option("slerp", "great circles, or straight lines", choices=tuple(PATHS))
    out: str | None = option(None, "a new folder (none: DIR/walks-0001 and on)")


@dataclass(frozen=True)
class Traversals(Choice):
    """What `traverse` can be told."""

    code: str | None = option(None, "the part that changes (none: each that is no noise, and truncation)")
    rows: int = option(8, "codes", above=0)
    steps: int = option(9, "values of a number, both ends included", at_least=2)
    reach: float = option(2.0, "a number goes from -reach to reach; InfoGAN's are drawn within 1", above=0)
    out: str | None = option(None, "a new folder (none: DIR/traversed-0001 and on)")


HELP: dict[str, tuple[str, type[Choice]]] = {
    "sample": (HELP_SAMPLE, Samples),
    "interpolate": (HELP_INTERPOLATE, Walks),
    "traverse": (HELP_TRAVERSE, Traversals),
}

THRESHOLDS = (0.5, 1.0, 1.5, 2.0, None)
"""Of the columns of a truncation."""


def help_on(command: str, rest: Sequence[str]) -> str:
    """The text of --help."""
    text, kind = HELP[command]
    return text.format(keys="\n".join(table(kind)))


def sample(words: Sequence[str]) -> None:
    """A grid, single pictures and arrays."""
    where = "minigan sample"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    key, options = _samples(found.pairs, where)
    say = speaker("--json" in found.flags)
    _refuse_old(options.out)
    step, net, prior, draw = _prepared(record, options, "sample", say)
    if options.label is None or recipe_of(record)[0].conditional:
        z = draw(options.count) if options.label is None else _told(prior, key, options.label, draw(options.count))
        images = generate(net, z, options.device)
    else:
        z, images = _of_class(record, options, key, lambda z: generate(net, z, options.device), draw)
    folder = _new_folder(record, options.out, "sampled")
    files = [folder / "grid.png", folder / "samples.npz", folder / "images"]
    save_grid(files[0], images, columns=isqrt(len(images) - 1) + 1)
    save_npz(files[1], images, z=z)
    save_pictures(files[2], images)
    say(f"{len(images):,} samples of {record.path} after step {step}: {', '.join(map(str, files))}")
    if "--json" in found.flags:
        print(json.dumps({"step": step, "samples": len(images), "files": [str(file) for file in files]}))


def _samples(pairs: Sequence[str], where: str) -> tuple[str, Samples]:
    """What a label is called there, label or class, and the options. OptionError, by the same name."""
    key = "class" if any(pair.startswith("class=") for pair in pairs) else "label"
    try:
        return key, parse(Samples, [re.sub("^class=", "label=", pair) for pair in pairs], where)
    except OptionError as error:
        raise OptionError(str(error).replace(" label=", f" {key}=")) from error


def interpolate(words: Sequence[str]) -> None:
    """A strip and an animation."""
    where = "minigan interpolate"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    options, say = parse(Walks, found.pairs, where), speaker("--json" in found.flags)
    _refuse_old(options.out)
    step, net, prior, draw = _prepared(record, options, "interpolate", say)
    z = prior.walks(draw(2 * options.walks), options.steps, PATHS[options.path])
    images = generate(net, z.reshape(-1, z.shape[-1]), options.device)
    frames = images.reshape(options.walks, options.steps, *images.shape[1:]).swapaxes(0, 1)
    folder = _new_folder(record, options.out, "walks")
    files = [folder / "interpolation.png", folder / "interpolation.gif"]
    save_grid(files[0], images, columns=options.steps)
    save_gif(files[1], frames)
    say(f"{options.walks} walks by {record.path} after step {step}: {', '.join(map(str, files))}")
    if "--json" in found.flags:
        print(json.dumps({"step": step, "walks": options.walks, "files": [str(file) for file in files]}))


def traverse(words: Sequence[str]) -> None:
    """One part of the code after the other through its values."""
    where = "minigan traverse"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    options, say = parse(Traversals, found.pairs, where), speaker("--json" in found.flags)
    _refuse_old(options.out)
    parts = _parts(record, options)
    step, net, prior, draw = _prepared(record, options, "traverse", say)
    codes = draw(options.rows)
    pictures = {}
    for part in parts:
        rows, values = _traversal(prior, codes, part, options)
        pictures[part] = generate(net, rows.reshape(-1, prior.size), options.device), values
    folder = _new_folder(record, options.out, "traversed")
    count = f"{options.rows:,} code{'' if options.rows == 1 else 's'}"
    say(f"{count} of {record.path} after step {step}, in columns:")
    for part, (images, values) in pictures.items():
        save_grid(folder / f"{part}.png", images, columns=len(values))
        say(f"{folder / part}.png: {', '.join(values)}")
    if "--json" in found.flags:
        files = [str(folder / f"{part}.png") for part in pictures]
        columns = {part: values for part, (_, values) in pictures.items()}
        print(json.dumps({"step": step, "rows": options.rows, "columns": columns, "files": files}))


def _parts(record: Record, options: Traversals) -> list[str]:
    """The parts of the code that are asked for. ValueError for one that the run's codes do not have."""
    recipe, settings = recipe_of(record)
    prior = recipe.latent(settings)
    classes = [f"class-{i}" if i else "class" for i in range(len(prior.categories))]
    shown = [*classes, *(f"uniform-{i}" for i in range(prior.uniform))]
    noise = [f"noise-{i}" for i in range(prior.noise)]
    if options.truncation is not None and (options.code == "truncation" or not (options.code or shown)):
        raise ValueError(
            f"truncation={options.truncation:g} and a picture of truncation contradict each other; give another code=, "
            "or leave truncation= out"
        )
    if options.code is None:
        return shown if options.truncation is not None else [*shown, "truncation"]
    if options.code not in (*shown, *noise, "truncation"):
        raise ValueError(
            f"code={options.code}: the codes of {record.path} have {', '.join([*shown, noise[0]])} to {noise[-1]}; "
            "or take truncation"
        )
    return [options.code]


def _traversal(prior: Latent, codes: Array, part: str, options: Traversals) -> tuple[Array, list[str]]:
    """(R, T, size) from codes (R, size): those of which a part has each of T values, and what these are called."""
    name, _, number = part.partition("-")
    which = int(number or 0)
    if name == "truncation":
        drawn = [prior.draw(Generator(options.seed, "traverse"), len(codes), threshold=t) for t in THRESHOLDS]
        noise = np.stack([prior.split(of_t)[0] for of_t in drawn], axis=1)
        rows = codes[:, None].repeat(len(THRESHOLDS), axis=1)
        rows[:, :, : prior.noise] = noise
        return rows, ["any" if t is None else f"{t:g}" for t in THRESHOLDS]
    if name == "class":
        values = np.arange(prior.categories[which])
        rows = prior.relabel(codes.repeat(len(values), axis=0), np.tile(values, len(codes)), which)
        return rows.reshape(len(codes), len(values), -1), [str(value) for value in values]
    numbers = np.linspace(-options.reach, options.reach, options.steps, dtype=codes.dtype)
    rows = codes[:, None].repeat(len(numbers), axis=1)
    rows[:, :, which if name == "noise" else which - prior.uniform] = numbers
    return rows, [f"{value:.3g}" for value in numbers]


def _told(prior: Latent, key: str, label: int, codes: Array) -> Array:
    """The codes, all with this label. ValueError if there is no such."""
    if label >= prior.categories[0]:
        raise ValueError(f"{key}={label}: this generator was taught the labels 0 to {prior.categories[0] - 1}")
    return prior.relabel(codes, np.full(len(codes), label))


def _prepared(record: Record, options: Choice, stream: str, say: Say) -> tuple[int, Module, Latent, Draw]:
    """The step, the net, what its codes are made of, and what draws them."""
    use_device(options.device, say)
    step, net = trained_generator(record, options.checkpoint, options.device)
    recipe, settings = recipe_of(record)
    prior, generator = recipe.latent(settings), Generator(options.seed, stream)
    return step, net, prior, lambda count: prior.draw(generator, count, threshold=options.truncation)


def _of_class(
    record: Record, options: Samples, key: str, make: Callable[[Array], Array], draw: Draw
) -> tuple[Array, Array]:
    """(z, images) of the first samples that the classifier takes for the class."""
    settings = recipe_of(record)[1]
    data = load(options.data or settings.data, settings.image_size)
    refuse_other_images(record, data)
    if data.labels is None or data.test_images is None or data.test_labels is None:
        raise ValueError(f"{key}={options.label} needs labels and a test set, which {data.name} does not have")
    if options.label not in data.labels:
        known = ", ".join(map(str, sorted(set(data.labels.tolist()))))
        raise ValueError(f"{key}={options.label}: the labels of {data.name} are {known}")
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
        f"{key}={options.label}: of {drawn:,} samples only {sum(len(z) for z, _ in found)} look like it, "
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
