"""Several runs as one page of HTML: results beside each other, what differs, curves over each other, samples."""

from collections.abc import Mapping, Sequence
from errno import EEXIST, EISDIR
from html import escape
from pathlib import Path
from typing import Any

from ..files import named, replace
from .compare import COLUMNS, MISSING, Contents, differences, features_of, names_of, notes_on, shown, summary
from .curves import of_runs
from .page import document, image, scrolled, warned
from .results import GROUPS, best, floor_of, value_of

GENERATOR = "minigan compare"
"""In the head of each page, so that one is known from files of others."""
HEAD = 4096
"""Bytes of a page within which that is."""
CURVES = 12
"""Runs whose curves are drawn: more cannot be told apart."""


def write_comparison(runs: Sequence[Contents], path: Path) -> Path:
    """Writes the page, whole or not at all. OSError if it cannot be, or if another file is there."""
    text = page(runs)
    with named(path):
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder; name a file")
        if path.exists() and not _own(path):
            raise FileExistsError(EEXIST, "there is another file, which minigan compare did not write")
        replace(path, lambda part: Path(part).write_text(text, encoding="utf-8"))
    return path


def page(contents: Sequence[Contents]) -> str:
    """The whole text."""
    runs = [summary(run) for run in contents]
    names = names_of(runs)
    faults = list[str]()
    sections = {
        "Runs": _table(names, {"": _facts(runs)}, "Runs"),
        "Results": _results(names, runs),
        "Warnings": _warnings(names, contents),
        "Settings": _settings(names, runs),
        "Curves": _curves(names, contents),
        "Samples": _samples(names, contents, faults),
    }
    notes = [*notes_on(runs, names), *(f"{fault}." for fault in faults)]
    sections["Runs"] += "".join(f"\n<p>{escape(note)}</p>" for note in notes)
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    headline = f"{count} compared" if len(runs) > 1 else count
    return document(GENERATOR, f"minigan: {count}", headline, ", ".join(names), sections)


def _facts(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """How far they got, as in the table of the terminal."""
    rows = {"recipe": [shown(run["recipe"]) for run in runs], "state": [run["state"] for run in runs]}
    rows |= {title: [COLUMNS[title](run) for run in runs] for title in ("steps", "time", "images/s")}
    return [[title, *map(_cell, cells)] for title, cells in rows.items()]


def _results(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    """All numbers in groups. The best are marked if all runs saw the same data and as many samples were measured."""
    groups = dict[str, list[list[str]]]()
    measured = [run["metrics"] for run in runs]
    fair = len({_measured_by(run) for run in runs if run["n"] is not None}) == 1
    for title, measures in GROUPS.items():
        for measure in measures:
            values = [metrics.get(measure.key) for metrics in measured]
            winners = best(measure, values, [metrics.get(f"{measure.key}_floor") for metrics in measured])
            cells = [
                _cell(value_of(measure, metrics), "" if value is None else floor_of(measure, metrics), fair and first)
                for metrics, value, first in zip(measured, values, winners, strict=True)
            ]
            better = f"<small>{measure.better} is better</small>" if measure.better in ("lower", "higher") else ""
            groups.setdefault(title, []).append([f"{escape(measure.title)}{better}", *cells])
    others = {"Classes present": "classes", "Rarest class": "rarest", "Wasserstein estimate": "W estimate"}
    groups["Classes and critic"] = [
        [title, *(_cell(COLUMNS[column](run)) for run in runs)] for title, column in others.items()
    ]
    nothing = _cell(MISSING)
    known = {title: [row for row in rows if set(row[1:]) != {nothing}] for title, rows in groups.items()}
    known = {title: rows for title, rows in known.items() if rows}
    return _table(names, known, "Results") if known else "<p>Not measured.</p>"


def _measured_by(run: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same for two runs' numbers to compare; `notes_on` says where it is not."""
    return run["trained_on"]["sha256"], run["settings"].get("image_size"), run["n"], features_of(run)


def _cell(value: str, floor: str = "", first: bool = False) -> str:
    beside = f"<small>{escape(floor)}</small>" if floor else ""
    if first:
        return f'<td class="best">{escape(value)} best{beside}</td>'
    return f"<td>{escape(value)}{beside}</td>"


def _warnings(names: Sequence[str], contents: Sequence[Contents]) -> str:
    found = [(name, warned(run.findings)) for name, run in zip(names, contents, strict=True)]
    return "\n".join(f"<h3>{escape(name)}</h3>\n{text}" for name, text in found if text)


def _settings(names: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    rows = [[escape(key), *map(_cell, values)] for key, *values in differences(runs)]
    if rows:
        return _table(names, {"": rows}, "Settings that differ")
    return "<p>Their settings are the same.</p>" if len(runs) > 1 else ""


def _table(names: Sequence[str], groups: Mapping[str, Sequence[Sequence[str]]], label: str) -> str:
    """A column for each run; a row is a title and its cells, all HTML. A group without a title has no line for it."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    bodies = []
    for title, rows in groups.items():
        lines = [f'<tr><th scope="row">{first}</th>{"".join(cells)}</tr>' for first, *cells in rows]
        if title:
            lines.insert(0, f'<tr><th scope="rowgroup" class="group" colspan="{len(names) + 1}">{title}</th></tr>')
        bodies.append("\n".join(["<tbody>", *lines, "</tbody>"]))
    body = "\n".join(bodies)
    table = f"<table>\n<thead>\n<tr><td></td>{head}</tr>\n</thead>\n{body}\n</table>"
    return scrolled(table, label)


def _curves(names: Sequence[str], contents: Sequence[Contents]) -> str:
    """By step and by seconds; two radio buttons choose, without a script."""
    rows, names = [run.rows for run in contents[:CURVES]], names[:CURVES]
    by_step, by_seconds = of_runs(names, rows, "step"), of_runs(names, rows, "seconds")
    if not by_step or not by_seconds:
        return by_step or by_seconds
    some = f"<p>Of the first {CURVES} runs.</p>\n" if len(contents) > CURVES else ""
    buttons = "\n".join(
        f'<input type="radio" class="switch" name="by" id="by-{x}"{chosen}><label for="by-{x}">by {x}</label>'
        for x, chosen in (("step", " checked"), ("seconds", ""))
    )
    return f"{some}{buttons}\n{by_step}\n{by_seconds}"


def _samples(names: Sequence[str], contents: Sequence[Contents], faults: list[str]) -> str:
    """The last grid of each."""
    figures = []
    for name, run in zip(names, contents, strict=True):
        for step, path in run.record.samples()[-1:]:
            if picture := image(path, f"Samples of {name} after step {step:,}", faults, pixels=True):
                caption = f"{escape(name)}, step {step:,}"
                figures.append(f"<figure>\n{picture}\n<figcaption>{caption}</figcaption>\n</figure>")
    return "\n".join(['<div class="grids wide">', *figures, "</div>"]) if figures else ""


def _own(path: Path) -> bool:
    """Whether a file is such a page."""
    if not path.is_file():
        return False  # a pipe, which would wait for somebody
    with open(path, "rb") as file:
        return f'content="{GENERATOR}"'.encode() in file.read(HEAD)
