"""Runs beside each other: how far they got, how good they are, and in which settings they differ."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from ..metrics.report import number_of_classes, rarest_share
from .health import Finding, told, warnings
from .records import Record, Row, read_rows, throughput
from .run_folder import running_median

MISSING = "-"
OWN = ("out",)
"""Settings that no two runs share."""


class Contents(NamedTuple):
    """What a run's files hold, read once; lines_left_out: damaged ones of metrics.jsonl. findings: what is wrong."""

    record: Record
    rows: list[Row]
    lines_left_out: int
    metrics: dict[str, Any]
    findings: list[Finding]


def contents(record: Record) -> Contents:
    """RecordError if a file of the run is damaged."""
    rows, lines_left_out = read_rows(record.path / "metrics.jsonl")
    metrics = record.metrics()
    return Contents(record, rows, lines_left_out, metrics, warnings(record, rows, metrics))


def summary(run: Contents) -> dict[str, Any]:
    """One run as JSON; None for what is not known.

    step, images, seconds: how far it got. images_per_second: the median over its steps. classes: how many there are;
    classes_present, rarest_share: among the samples. metrics: all of metrics.json. warnings: what is wrong (health.py).
    """
    record, rows, lines_left_out, metrics, findings = run
    last = {**(rows[-1] if rows else {}), **{k: v for k, v in metrics.items() if v is not None}}
    histogram = metrics.get("predicted_histogram")
    return {
        "name": record.name,
        "path": str(record.path),
        "recipe": record.recipe,
        "state": record.state(),
        "steps": record.steps,
        **{key: _finite(last.get(key)) for key in ("step", "images", "seconds")},
        "images_per_second": throughput(rows),
        **{key: metrics.get(key) for key in ("fid", "fid_floor", "n", "classes_present")},
        "classes": number_of_classes(metrics),
        "predicted_histogram": histogram,
        "rarest_share": rarest_share(metrics),
        "nearest_ratio": metrics.get("nearest_ratio"),
        **_estimate(rows),
        "trained_on": record.trained_on,
        "lines_left_out": lines_left_out,
        "settings": record.settings,
        "metrics": metrics,
        "warnings": [finding._asdict() for finding in findings],
    }


def describe_all(all_contents: Sequence[Contents]) -> str:
    """A table of the runs, a table of the settings in which they differ, what does not compare, and warnings."""
    runs = [summary(run) for run in all_contents]
    names = names_of(runs)
    columns = {"run": names, "recipe": [shown(run["recipe"]) for run in runs], "state": [run["state"] for run in runs]}
    columns |= {title: [form(run) for run in runs] for title, form in COLUMNS.items()}
    if set(columns["W estimate"]) == {MISSING}:
        del columns["W estimate"]  # none of them has a critic
    lines = table([*columns], list(zip(*columns.values(), strict=True)), left=3)
    differing = differences(runs)
    if differing:
        lines += ["", *table(["setting", *names], differing, left=1)]
    elif len(runs) > 1:
        lines += ["", "Their settings are the same."]
    notes = notes_on(runs, names)
    for name, run in zip(names, all_contents, strict=True):
        if run.findings:
            notes.append(f"{name}: {told(run.findings)}.")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def differences(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The settings that are not the same in all runs: the name, and the value of each run."""
    keys = list(dict.fromkeys(key for run in runs for key in run["settings"] if key not in OWN))
    values = [[shown(run["settings"][key]) if key in run["settings"] else MISSING for run in runs] for key in keys]
    return [[shown(key), *row] for key, row in zip(keys, values, strict=True) if len(set(row)) > 1]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Aligned lines. The first `left` columns are texts, the others numbers, which end below each other."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def shown(value: Any) -> str:
    """A setting as it is written on the command line, in one line whatever it holds."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) and value and value.isprintable() else repr(value)


def duration(seconds: float) -> str:
    """80 s, 35 min, 5 h 12 min."""
    minutes = round(seconds / 60)
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def text_of(value: float | None, form: str) -> str:
    """format(value, form), or a dash."""
    return MISSING if value is None else format(value, form)


def classes_of(run: dict[str, Any]) -> str:
    """10 of 10, or a dash."""
    present, classes = run["classes_present"], run["classes"]
    return MISSING if present is None else f"{present} of {classes}" if classes else str(present)


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "steps": lambda run: text_of(run["step"], ","),
    "time": lambda run: MISSING if run["seconds"] is None else duration(run["seconds"]),
    "images/s": lambda run: text_of(run["images_per_second"], ",.0f"),
    "FID": lambda run: text_of(run["fid"], ".2f"),
    "floor": lambda run: text_of(run["fid_floor"], ".2f"),
    "classes": classes_of,
    "rarest": lambda run: text_of(run["rarest_share"], ".1%"),
    "W estimate": lambda run: text_of(run["w_estimate_end"], ".3g"),
}


def names_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The folders' names, or their paths where names are the same."""
    names = [run["name"] for run in runs]
    return [shown(run["path"] if names.count(run["name"]) > 1 else run["name"]) for run in runs]


def notes_on(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> list[str]:
    """What does not compare, and what was left out."""
    data, counts, sizes, features = (defaultdict[Any, list[str]](list) for _ in range(4))
    for name, run in zip(names, runs, strict=True):
        sizes[run["settings"].get("image_size")].append(name)
        data[run["trained_on"]["sha256"], shown(run["trained_on"]["name"])].append(name)
        if run["fid"] is not None and run["n"] is not None:
            counts[run["n"]].append(name)
        if run["n"] is not None:
            features[features_of(run)].append(name)
    notes = []
    if len({sha for sha, _ in data}) > 1:
        parts = [f"{', '.join(group)} on {name} ({shown(sha[:8])})" for (sha, name), group in data.items()]
        notes.append(f"Trained on different data, so their FIDs do not compare: {'; '.join(parts)}.")
    if len(counts) > 1:
        parts = [f"{', '.join(group)} by {n:,}" for n, group in counts.items()]
        notes.append(f"Measured by different numbers of samples, so their FIDs do not compare: {'; '.join(parts)}.")
    if len(features) > 1:
        parts = [f"{', '.join(group)} by those of {net}" for net, group in features.items()]
        notes.append(f"Measured by different features, so their numbers do not compare: {'; '.join(parts)}.")
    if len(sizes) > 1:
        parts = [f"{', '.join(group)} of {shown(size)}" for size, group in sizes.items()]
        notes.append(
            f"Trained on images of different sizes, so their numbers do not compare: {'; '.join(parts)} pixels."
        )
    notes += [
        f"{name}: {left_out(run['lines_left_out'])}."
        for name, run in zip(names, runs, strict=True)
        if run["lines_left_out"]
    ]
    return notes


def features_of(run: dict[str, Any]) -> str:
    """Whose features what neighbours tell is of."""
    return "an untrained net" if run["fid"] is None else "a classifier"


def left_out(lines: int) -> str:
    """What `lines_left_out` means."""
    return f"{lines:,} damaged {'line' if lines == 1 else 'lines'} of metrics.jsonl left out"


def _estimate(rows: Sequence[Row]) -> dict[str, float | None]:
    """The Wasserstein estimate at its highest and at the end, smoothed as in losses.png."""
    with np.errstate(invalid="ignore"):  # infinities of both signs
        values = running_median([row["w_estimate"] for row in rows if "w_estimate" in row])
    finite = values[np.isfinite(values)]
    return {
        "w_estimate_peak": float(finite.max()) if len(finite) else None,
        "w_estimate_end": _finite(float(values[-1])) if len(values) else None,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and isfinite(value) else None
