"""minigan evaluate, compare and report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data import DataSet, load
from ..gan.compare import compare as compared
from ..gan.compare import describe_all
from ..gan.records import Record, RecordError
from ..gan.report import write_report
from ..gan.run import refuse_other_images
from ..gan.run_folder import RunFolder
from ..gan.sampling import FAKES, generate, latent_vectors, recipe_of, trained_generator
from ..kernels.device import NAMES as DEVICES
from ..metrics import describe, train_classifier
from ..metrics import evaluate as evaluated
from ..options import option, parse, table
from ..tensor import Array
from .words import Ended, Say, UsageError, one_name, speaker, split, use_device

HELP = {
    "evaluate": """usage: minigan evaluate DIR [key=value ...] [--json]

Measures samples of a run: FID by minigan's own classifier, beside what test images get; classes; copies of training
images. Without other keys than data and device, it also puts what it finds into metrics.json of a complete run.

  minigan evaluate runs/gan-0001
  minigan evaluate runs/gan-0001 checkpoint=best count=2000 --json""",
    "compare": """usage: minigan compare DIR ... [--json]

A table of runs: their results, and the settings in which they differ.

  minigan compare runs/gan-0001 runs/wgan-gp-0001""",
    "report": """usage: minigan report DIR

Writes DIR/report.html: settings, curves, samples, results. It opens without a network and can be sent as it is.

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


def measure(fakes: Array, data: DataSet, say: Say) -> dict[str, Any]:
    """Says how good the fakes are; nothing where the data do not allow to tell."""
    if data.labels is None or data.test_images is None or data.test_labels is None:
        say("These images come without labels or without a test set, so nothing classifies them: no FID.")
        return {}
    say("Measuring by a classifier, which is trained once for each data set.")
    try:
        classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
        metrics = evaluated(fakes, data.images, data.labels, data.test_images, classifier)
    except ValueError as error:
        say(f"Not measured: {error}.")
        return {}
    say(describe(metrics))
    return metrics


def evaluate(words: Sequence[str]) -> None:
    """Samples of a run against its data."""
    where = "minigan evaluate"
    found = split(words, where, ("--json",))
    record = Record.read(one_name(found, where, "the folder of a run"))
    options = parse(Evaluation, found.pairs, where)
    say = speaker("--json" in found.flags)
    _, settings = recipe_of(record)
    use_device(options.device, say)
    step, net = trained_generator(record, options.checkpoint, options.device)
    data = load(options.data or settings.data, settings.image_size)
    refuse_other_images(record, data)
    seed = settings.seed if options.seed is None else options.seed
    z = latent_vectors(replace(settings, seed=seed), "evaluation", options.count)
    say(f"{options.count:,} samples of {record.path} after step {step}")
    measured = measure(generate(net, z, options.device), data, say)
    if measured and options == Evaluation(data=options.data, device=options.device):
        with RunFolder.open(record.path) as folder:  # nobody trains it meanwhile
            metrics = record.metrics()
            if metrics.get("step") == step:
                folder.write_json("metrics.json", {**metrics, **measured})
    if "--json" in found.flags:
        print(json.dumps({"step": step, "samples": options.count, "seed": seed, **measured}))


def compare(words: Sequence[str]) -> None:
    """Several runs in tables. One that cannot be read is named, and left out."""
    found = split(words, "minigan compare", ("--json",))
    if not found.names or found.pairs:
        raise UsageError("minigan compare: name the folders of runs, and nothing else (see minigan compare --help)")
    records, faults = list[Record](), list[RecordError]()
    for name in found.names:
        try:
            record = Record.read(name)
            record.metrics()
            records.append(record)
        except RecordError as error:
            faults.append(error)
    if not records:
        raise faults[0]
    print(json.dumps(compared(records), indent=2) if "--json" in found.flags else describe_all(records))
    if faults:
        raise Ended(f"left out: {'; '.join(map(str, faults))}", 1)


def report(words: Sequence[str]) -> None:
    """One page of HTML."""
    found = split(words, "minigan report")
    name = one_name(found, "minigan report", "the folder of a run")
    if found.pairs:
        raise UsageError("minigan report: takes the folder of a run and nothing else")
    print(write_report(Record.read(name)))
