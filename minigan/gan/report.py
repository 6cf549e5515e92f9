"""A run as one page of HTML that needs nothing else: no scripts, no network, all pictures inside.

It is a function of the run's files: the same files give the same bytes. All that comes from files is escaped.
"""

import struct
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..files import named, replace
from .compare import classes_of, duration, left_out, shown, summary, text_of
from .records import Record

T = TypeVar("T")

GRIDS = 8  # pictures of samples, at most
PNG, END_OF_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1a; --soft: #62625c; --line: #dcdcd4; --page: #fbfbf8; --card: #fff; --bar: #3a6ea5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e2; --soft: #a2a29a; --line: #3a3a36; --page: #161614; --card: #1f1f1c; --bar: #7aa7d9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.6rem; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .25rem; font-size: 1.2rem; border-bottom: 1px solid var(--line); }
h3 { margin: 0; font-size: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; margin-top: .5rem; }
a { color: var(--bar); }
p { margin: .25rem 0; }
p, figcaption, dt, th { max-width: 44rem; }
.soft, figcaption, dt { color: var(--soft); }
.cards, .grids, dl { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); margin: 0; }
article { padding: .75rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.value { font-size: 1.6rem; line-height: 1.3; }
dd { margin: 0; }
figure { margin: 0 0 1rem; }
img { display: block; max-width: 100%; height: auto; }
.pixels { image-rendering: pixelated; }
.large .pixels { width: min(40rem, 100%); }
.grids { grid-template-columns: repeat(auto-fill, minmax(min(12rem, 45%), 1fr)); }
.grids img { width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem 1.25rem .2rem 0; text-align: left; font-weight: normal; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { text-align: right; }
caption { padding: 1.25rem 0 .25rem; font-weight: bold; text-align: left; }
.shares { width: 100%; max-width: 32rem; }
.shares td:last-child { width: 70%; }
.bar { display: block; height: .8em; margin-top: .35em; background: var(--bar); }
"""  # noqa: E501 - a rule, a line


def write_report(record: Record) -> Path:
    """Writes report.html into the run's folder, whole or not at all.

    RecordError if a file of the run is damaged, but for pictures and lines of metrics.jsonl, which are left out and
    named. OSError if the page cannot be written.
    """
    path, text = record.path / "report.html", page(record)
    with named(path):
        replace(path, lambda part: Path(part).write_text(text, encoding="utf-8"))
    return path


def page(record: Record) -> str:
    """The whole text of report.html."""
    run = summary(record)
    faults = [left_out(run["lines_left_out"])] if run["lines_left_out"] else []
    sections = {
        "Results": _results(run),
        "Samples": _samples(record, faults),
        "Interpolation": _figure(
            _image(record.path / "interpolation.png", "Rows of generated samples", faults, pixels=True),
            "Each row walks from one latent vector to another.",
        ),
        "Curves": _figure(
            _image(record.path / "losses.png", "Losses and other numbers, by step", faults),
            "What metrics.jsonl says, each step in pale and smoothed.",
        ),
        "Settings": _settings(record.settings),
    }
    sections = {"Run": _run(record, run, faults), **{title: text for title, text in sections.items() if text}}
    links = "\n".join(f'<a href="#{title.lower()}">{title}</a>' for title in sections)
    body = "\n".join(
        f'<section id="{title.lower()}">\n<h2>{title}</h2>\n{text}\n</section>' for title, text in sections.items()
    )
    name = _escaped(record.name)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: {_escaped(record.recipe)}, {run["state"]}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p>{_escaped(record.recipe)} on {_escaped(record.trained_on["name"])}: {run["state"]}</p>
<nav aria-label="Sections">
{links}
</nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def _run(record: Record, run: dict[str, Any], faults: Sequence[str]) -> str:
    """How far it got, on what, how quickly."""
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
    """A card for each number that was measured, then the classes."""
    cards = "\n".join(
        f'<article>\n<h3>{title}</h3>\n<p class="value">{value}</p>\n<p class="soft">{beside}</p>\n<p>{meaning}</p>\n'
        "</article>"
        for title, value, beside, meaning in _cards(run)
    )
    if not cards:
        return "<p>Not measured.</p>"
    return f'<div class="cards">\n{cards}\n</div>{_shares(run["predicted_histogram"])}'


def _cards(run: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Title, value, what to compare it with, and what it means."""
    if run["fid"] is not None:
        yield (
            "FID",
            f"{run['fid']:.2f}",
            f"floor {text_of(run['fid_floor'], '.2f')}: what {text_of(run['n'], ',')} test images get",
            "How far samples are from training images, by the features of minigan's own classifier: lower is better. "
            "It compares only with runs on the same data with as many samples, and with no published FID.",
        )
    if run["classes_present"] is not None:
        yield (
            "Classes present",
            classes_of(run),
            "real images have all",
            "The labels of the training images that are nearest to samples. A missing one is a class that G does not "
            "make.",
        )
    if run["rarest_share"] is not None:
        yield (
            "Rarest class",
            f"{run['rarest_share']:.1%}",
            f"{1 / run['classes']:.1%} if all were equal",
            "The share of samples in the class that the classifier sees least. Near 0, G has dropped it.",
        )
    if run["nearest_ratio"] is not None:
        yield (
            "Nearest training image",
            f"{run['nearest_ratio']:.2f}",
            "test images: 1",
            "The median distance of samples to their nearest training image, by that of test images. Far below 1, "
            "training images were memorised.",
        )
    if run["w_estimate_end"] is not None:
        yield (
            "Wasserstein estimate",
            f"{run['w_estimate_end']:.3g}",
            f"{text_of(run['w_estimate_peak'], '.3g')} at its highest",
            "By how much the critic scores real images above samples, at the end. It falls as G gets better, and "
            "compares only with runs of the same kind of critic.",
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
    head = '<tr><th scope="col">class</th><th scope="col" class="number">share</th><td></td></tr>'
    return f'\n<table class="shares">\n<caption>Samples by class</caption>\n{head}\n{rows}\n</table>'


def _samples(record: Record, faults: list[str]) -> str:
    """The last grid large, before it how it came about."""
    images = [
        (step, image)
        for step, path in evenly(record.samples(), GRIDS)
        if (image := _image(path, f"Generated samples after step {step:,}", faults, pixels=True))
    ]
    if not images:
        return ""
    *before, last = [f"<figure>\n{image}\n<figcaption>step {step:,}</figcaption>\n</figure>" for step, image in images]
    grids = "\n".join(["", '<div class="grids">', *before, "</div>"]) if before else ""
    return f'<div class="large">\n{last}\n</div>{grids}'


def _figure(image: str, caption: str) -> str:
    return image and f'<figure class="large">\n{image}\n<figcaption>{caption}</figcaption>\n</figure>'


def _image(path: Path, alt: str, faults: list[str], pixels: bool = False) -> str:
    """The picture in a PNG file; "" if there is none, and a line in `faults` if it is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        faults.append(f"{shown(path.name)} cannot be read ({error.strerror or error}), left out")
        return ""
    if (data[:8], data[12:16]) != (PNG, b"IHDR") or not data.endswith(END_OF_PNG):
        faults.append(f"{shown(path.name)} is no whole PNG file, left out")
        return ""
    width, height = struct.unpack_from(">2I", data, 16)  # what IHDR begins with
    text = b64encode(data).decode()
    look = ' class="pixels"' if pixels else ""
    return f'<img{look} alt="{escape(alt)}" width="{width}" height="{height}" src="data:image/png;base64,{text}">'


def _settings(settings: dict[str, Any]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{_escaped(key)}</th><td>{_escaped(value)}</td></tr>' for key, value in settings.items()
    )
    return rows and f"<table>\n{rows}\n</table>"


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of them, spread evenly; the first and the last are among them."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.rint(np.linspace(0, len(items) - 1, count)).astype(int)]


def _escaped(value: Any) -> str:
    """For HTML, where many control characters are errors even when escaped."""
    return escape(shown(value))
