"""A run as one page of HTML. It is a function of the run's files: the same files give the same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..files import named, replace
from .compare import Contents, classes_of, contents, duration, left_out, shown, summary, text_of
from .curves import of_run
from .health import Finding
from .page import document, escaped, image, scrolled, warned
from .records import Record
from .results import GROUPS, floor_of, value_of

T = TypeVar("T")

GRIDS = 8  # pictures of samples, at most


class Card(NamedTuple):
    """A number: what to compare it with, and what it means."""

    title: str
    value: str
    beside: str
    meaning: str


def write_report(record: Record) -> tuple[Path, list[Finding]]:
    """Writes report.html into the run's folder, whole or not at all; returns its path and the warnings in it.

    RecordError if a file of the run is damaged, but for pictures and lines of metrics.jsonl, which are left out and
    named. OSError if the page cannot be written.
    """
    run = contents(record)
    path, text = record.path / "report.html", page(run)
    with named(path):
        replace(path, lambda part: Path(part).write_text(text, encoding="utf-8"))
    return path, run.findings


def page(run: Contents) -> str:
    """The whole text of report.html."""
    record, known = run.record, summary(run)
    faults = [left_out(known["lines_left_out"])] if known["lines_left_out"] else []
    sections = {
        "Results": _results(known),
        "Curves": of_run(run.rows, run.metrics),
        "Samples": _samples(record, faults),
        "Interpolation": _interpolation(record, faults),
        "Settings": _settings(record.settings),
    }
    name, title = shown(record.name), f"{shown(record.recipe)} on {shown(record.trained_on['name'])}: {known['state']}"
    first = {"Warnings": warned(run.findings), "Run": _run(record, known, faults)}
    return document("minigan report", f"{name}: {title}", name, title, first | sections)


def _run(record: Record, run: dict[str, Any], faults: Sequence[str]) -> str:
    """How it ended, on what, how quickly."""
    N, H, W, C = record.trained_on["shape"]
    facts = {
        "State": run["state"],
        "Steps": f"{text_of(run['step'], ',')} of {record.steps:,}",
        "Images seen": text_of(run["images"], ","),
        "Time": "-" if run["seconds"] is None else duration(run["seconds"]),
        "Images a second, median": text_of(run["images_per_second"], ",.0f"),
        "Trained on": f"{shown(record.trained_on['name'])}: {N:,} images, {H}x{W}, {'grey' if C == 1 else 'in colour'}",
        "Written by": f"minigan {shown(record.version)}, {record.threads} threads",
    }
    lines = [f"<div><dt>{term}</dt><dd>{escape(fact)}</dd></div>" for term, fact in facts.items()]
    notes = [f"<p><strong>Damaged:</strong> {escape(fault)}.</p>" for fault in faults]
    return "\n".join(["<dl>", *lines, "</dl>", *notes])


def _results(run: dict[str, Any]) -> str:
    """A card for each number that was measured, in groups, then the classes."""
    groups = {title: cards for title, cards in _groups(run, run["metrics"]).items() if cards}
    if not groups:
        return "<p>Not measured.</p>"
    floors = "<p>The floor of a number is what as many real test images get: nobody's samples need be better.</p>"
    if not any(key.endswith("_floor") for key in run["metrics"]):
        floors = ""
    n, pairs = run["metrics"].get("n"), run["metrics"].get("n_neighbours")
    counted = "" if n is None else f"<p>Of {n:,} samples.</p>"
    if pairs is not None:
        counted += f"\n<p>What is told by neighbours, of {pairs:,} samples and as many training images.</p>"
    texts = [
        f'<h3>{title}</h3>\n<div class="cards">\n{"".join(map(_card, cards))}</div>' for title, cards in groups.items()
    ]
    return "\n".join(filter(None, [counted, floors, *texts, _shares(run["predicted_histogram"])]))


def _groups(run: dict[str, Any], metrics: Mapping[str, Any]) -> dict[str, list[Card]]:
    groups = {
        title: [
            Card(measure.title, value_of(measure, metrics), floor_of(measure, metrics), measure.meaning)
            for measure in measures
            if metrics.get(measure.key) is not None
        ]
        for title, measures in GROUPS.items()
    }
    if (card := _entropies(metrics)) is not None:
        groups["Fidelity and variety"].append(card)
    return groups | {"Classes": list(_classes(run)), "Critic": list(_critic(run))}


def _entropies(metrics: Mapping[str, Any]) -> Card | None:
    marginal, conditional = (metrics.get(key) for key in ("marginal_entropy", "conditional_entropy"))
    if marginal is None or conditional is None:
        return None
    floors = [metrics.get(key) for key in ("marginal_entropy_floor", "conditional_entropy_floor")]
    beside = " and ".join(text_of(floor, ".2f") for floor in floors)
    return Card(
        "Inception score: entropies",
        f"{marginal:.2f}, {conditional:.2f}",
        "" if None in floors else f"floor {beside}",
        "In nats. Of all samples' classes together: high, if no class is rare. Of a single sample's: low, if it is "
        "plain what it is.",
    )


def _classes(run: dict[str, Any]) -> Iterator[Card]:
    if run["classes_present"] is not None:
        yield Card(
            "Classes present",
            classes_of(run),
            "real images have all",
            "The labels of the training images that are nearest to samples. A missing one is a class that G does not "
            "make.",
        )
    if run["rarest_share"] is not None:
        yield Card(
            "Rarest class",
            f"{run['rarest_share']:.1%}",
            f"{1 / run['classes']:.1%} if all were equal",
            "The share of samples in the class that the classifier sees least. Near 0, G has dropped it.",
        )


def _critic(run: dict[str, Any]) -> Iterator[Card]:
    if run["w_estimate_end"] is not None:
        yield Card(
            "Wasserstein estimate",
            f"{run['w_estimate_end']:.3g}",
            f"{text_of(run['w_estimate_peak'], '.3g')} at its highest",
            "By how much the critic scores real images above samples, at the end. It compares only with runs of the "
            "same kind of critic.",
        )


def _card(card: Card) -> str:
    beside = f'<p class="beside">{escape(card.beside)}</p>\n' if card.beside else ""
    return (
        f'<article>\n<h4>{escape(card.title)}</h4>\n<p class="value">{escape(card.value)}</p>\n{beside}'
        f'<p class="soft">{escape(card.meaning)}</p>\n</article>\n'
    )


def _shares(histogram: Sequence[int] | None) -> str:
    """The share of each class as a bar, the longest as long as there is room."""
    if not histogram or not sum(histogram):
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{label}</th><td class="number">{count / sum(histogram):.1%}</td>'
        f'<td><span class="bar" style="width: {count / max(histogram):.1%}"></span></td></tr>'
        for label, count in enumerate(histogram)
    )
    head = '<thead><tr><th scope="col">class</th><th scope="col" class="number">share</th><td></td></tr></thead>'
    body = f"<tbody>\n{rows}\n</tbody>"
    caption = "<caption>Samples by class, as the classifier reads them</caption>"
    return f'<table class="shares">\n{caption}\n{head}\n{body}\n</table>'


def _samples(record: Record, faults: list[str]) -> str:
    """The last grid large, then how it came about."""
    images = [
        (step, picture)
        for step, path in evenly(record.samples(), GRIDS)
        if (picture := image(path, f"Generated samples after step {step:,}", faults, pixels=True))
    ]
    if not images:
        return ""
    *before, last = [
        f"<figure>\n{picture}\n<figcaption>step {step:,}</figcaption>\n</figure>" for step, picture in images
    ]
    grids = "\n".join(["", "<h3>Before</h3>", '<div class="grids">', *before, "</div>"]) if before else ""
    return f'<div class="large">\n{last}\n</div>{grids}'


def _interpolation(record: Record, faults: list[str]) -> str:
    picture = image(record.path / "interpolation.png", "Rows of generated samples", faults, pixels=True)
    caption = "Each row walks from one latent vector to another."
    return picture and f'<figure class="large">\n{picture}\n<figcaption>{caption}</figcaption>\n</figure>'


def _settings(settings: dict[str, Any]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escaped(key)}</th><td>{escaped(value)}</td></tr>' for key, value in settings.items()
    )
    return rows and scrolled(f"<table>\n<tbody>\n{rows}\n</tbody>\n</table>", "Settings")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of them, spread evenly; the first and the last are among them."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.rint(np.linspace(0, len(items) - 1, count)).astype(int)]
