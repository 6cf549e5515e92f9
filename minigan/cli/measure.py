"""minigan evaluate, compare and report."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import DataSet, load
from ..data.sources import TRIANGLES
from ..gan.compare import Contents, contents, describe_all, summary
from ..gan.compare_page import write_comparison
from ..gan.health import told
from ..gan.inversion import measure_triangles
from ..gan.recipes import Recipe, Settings
from ..gan.records import Record, RecordError
from ..gan.report import write_report
from ..gan.run import refuse_other_images
from ..gan.run_folder import RunFolder
from ..gan.sampling import FAKES, generate, latent_vectors, recipe_of, trained_generator
from ..kernels.device import NAMES as DEVICES
from ..metrics import Reference, describe, label_scores, train_classifier
from ..nn import Module
from ..options import option, parse, table
from ..tensor import Array
from .words import Ended, Say, UsageError, one_name, speaker, split, use_device

HELP = {
    "evaluate": """usage: minigan evaluate DIR [key=value ...] [--json]

Measures samples of a run: FID, KID, precision, recall and more, by the features of minigan's own classifier and of an
untrained net, beside what test images get; classes; copies of training images (docs/metrics.md). Without other keys
than data and device, it also puts what it finds into metrics.json of a complete run.

  minigan evaluate runs/gan-0001
  minigan evaluate runs/gan-0001 checkpoint=best count=2000 --json""",
    "compare": """usage: minigan compare DIR ... [out=FILE.html] [--json]

A table of runs: their results, the settings in which they differ, and what is wrong with them. With out= also as a
page, which needs no network: results beside what real images get, curves over each other, samples.

  minigan compare runs/gan-0001 runs/wgan-gp-0001 out=runs.html""",
    "report": """usage: minigan report DIR

Writes DIR/report.html: warnings, results, curves, samples, settings. It opens without a network and can be sent as
it is.

  minigan report runs/gan-0001""",
}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` can be told."""

    checkpoint: str = option("latest", "latest, best (of the lowest FID), or a step")
    count: int = option(FAKES, "samples", at_least=2)
    seed: int | None = option(None, "of the latent vectors (none: the run's own)")
    data: str | None = option(None, "where the images are now (none: where the run found them)")
    device: str = option("cpu", "that the samples are made on", choices=DEVICES)


def help_on(command: str, rest: Sequence[str]) -> str:
    """The text of --help."""
    keys = "\n\n" + "\n".join(table(Evaluation)) if command == "evaluate" else ""
    return HELP[command] + keys


def measure(recipe: Recipe, s: Settings, net: Module, codes: Array, data: DataSet, say: Say) -> dict[str, Any]:
    """Says how good the images are that a generator makes of codes (N, size), as far as the data allow to tell."""
    classifier = None
    if data.labels is None or data.test_images is None or data.test_labels is None:
        say(
            "These images come without labels or without a test set, so nothing classifies them: measured by the "
            "features of an untrained net."
        )
    else:
        say("Measuring by a classifier, which is trained once for each data set.")
        try:
            classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
        except ValueError as error:
            say(f"No classifier: {error}.")
    fakes = generate(net, codes, s.device)
    try:
        reference = Reference(data.images, data.test_images, fakes.shape[1], data.labels, classifier)
        metrics = reference.evaluate(fakes)
    except ValueError as error:
        say(f"Not measured: {error}.")
        return {}
    if classifier is not None and recipe.latent(s).categories:
        say("Reading the labels of samples, and those of test images by their nearest samples.")
        assert data.labels is not None
        assert data.test_images is not None
        assert data.test_labels is not None
        labels, tests = recipe.latent(s).labels(codes), (data.test_images, data.test_labels)
        metrics |= label_scores(fakes, labels, data.images, data.labels, *tests, classifier, recipe.conditional)
    if data.name == TRIANGLES and fakes.shape[1] != data.images.shape[1]:
        say("Triangles are looked for in images of 28 pixels only.")
    elif data.name == TRIANGLES:
        assert data.test_images is not None
        say("Looking for the nearest triangles, and for the latent vectors of some; it takes a while.")
        metrics |= measure_triangles(net, codes.shape[1], fakes, data.images, data.test_images, device=s.device)
    say(describe(metrics))
    return metrics


def evaluate(words: Sequence[str]) -> None:
    """Samples of a run against its data."""
    where = "minigan evaluate"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    options = parse(Evaluation, found.pairs, where)
    say = speaker("--json" in found.flags)
    recipe, settings = recipe_of(record)
    use_device(options.device, say)
    step, net = trained_generator(record, options.checkpoint, options.device)
    data = load(options.data or settings.data, settings.image_size)
    refuse_other_images(record, data)
    seed = settings.seed if options.seed is None else options.seed
    settings = replace(settings, seed=seed, device=options.device)
    codes = latent_vectors(recipe, settings, "evaluation", options.count)
    say(f"{options.count:,} samples of {record.path} after step {step}")
    measured = measure(recipe, settings, net, codes, data, say)
    if measured and options == Evaluation(data=options.data, device=options.device):
        with RunFolder.open(record.path) as folder:  # nobody trains it meanwhile
            metrics = record.metrics()
            if metrics.get("step") == step:
                folder.write_json("metrics.json", {**metrics, **measured})
    if "--json" in found.flags:
        print(json.dumps({"step": step, "samples": options.count, "seed": seed, **measured}))


def compare(words: Sequence[str]) -> None:
    """Several runs in tables, and as a page. One that cannot be read is named, and left out."""
    where = "minigan compare"
    found = split(words, where, ("--json",))
    if not found.names:
        raise UsageError(f"{where}: name the folders of runs (see minigan compare --help)")
    out = _out(found.pairs, where)
    runs, faults = list[Contents](), list[RecordError]()
    for name in found.names:
        try:
            runs.append(contents(Record.read(name)))
        except RecordError as error:
            faults.append(error)
    if not runs:
        raise faults[0]
    print(json.dumps([summary(run) for run in runs], indent=2) if "--json" in found.flags else describe_all(runs))
    if out is not None:
        speaker("--json" in found.flags)(f"written: {write_comparison(runs, Path(out))}")
    if faults:
        raise Ended(f"left out: {'; '.join(map(str, faults))}", 1)


def _out(pairs: Sequence[str], where: str) -> str | None:
    """The value of out=, None without. UsageError for any other key."""
    for pair in pairs:
        if not pair.startswith("out=") or pair == "out=" or len(pairs) > 1:
            raise UsageError(f"{where}: takes no {pair} here; the only key is out=FILE.html, once")
    return pairs[0].partition("=")[2] if pairs else None


def report(words: Sequence[str]) -> None:
    """One page of HTML. Its path goes to stdout, the warnings in it to stderr."""
    found = split(words, "minigan report")
    name = one_name(found, "minigan report", "the folder of a run")
    if found.pairs:
        raise UsageError("minigan report: takes the folder of a run and nothing else")
    path, findings = write_report(Record.read(name))
    print(path)
    if findings:
        print(told(findings), file=sys.stderr)
