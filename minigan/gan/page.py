"""What all of minigan's pages of HTML are made of: the document around them, its look, pictures inside.

A page needs nothing else: no scripts, no network. All that comes from files must go through `escaped`.
"""

import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .compare import shown
from .health import Finding

PNG, END_OF_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c1c1a; --soft: #5e5e58; --line: #dedcd3; --page: #f8f7f2; --card: #fff; --link: #1f5f99;
  --alarm: #b4530a; --alarm-page: #fff6e8; --good: #00725a;
  --c0: #0072b2; --c1: #d55e00; --c2: #00805c; --c3: #b0478a; --c4: #8a6d00; --c5: #4a4a46;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e9e8e2; --soft: #a6a59d; --line: #3a3934; --page: #151513; --card: #1e1e1b; --link: #86b8ea;
    --alarm: #f0a860; --alarm-page: #2b2116; --good: #4fd1ab;
    --c0: #56b4e9; --c1: #ff9147; --c2: #35c99b; --c3: #ee9bcb; --c4: #e3c64c; --c5: #c4c4bd;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; color: var(--ink); background: var(--page); overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 2.75rem 0 1rem; padding-bottom: .3rem; font-size: 1.25rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
h4 { margin: 0; font-size: .9rem; font-weight: 600; }
h3:first-child { margin-top: 0; }
small { font-size: .8rem; font-weight: normal; color: var(--soft); }
p { margin: .25rem 0; max-width: 44rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin-top: .75rem; }
.soft, figcaption, dt { color: var(--soft); }
.cards, .grids, dl { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(14.5rem, 46%), 1fr)); margin: 0; }
article { padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
article p { font-size: .875rem; line-height: 1.4; }
article .value { margin: .1rem 0 0; font-size: 1.6rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
article .beside { margin-bottom: .45rem; color: var(--ink); font-weight: 500; }
.warnings { display: grid; gap: .6rem; margin: 0 0 1.5rem; padding: 0; list-style: none; }
.warnings li { padding: .7rem 1rem; background: var(--alarm-page); border-left: .3rem solid var(--alarm); border-radius: .25rem; }
.warnings strong { color: var(--alarm); }
dt { font-size: .875rem; }
dd { margin: 0; }
figure { margin: 0; }
figcaption { font-size: .875rem; max-width: 44rem; }
img { display: block; max-width: 100%; height: auto; background: #000; }
.pixels { image-rendering: pixelated; }
.large .pixels { width: min(40rem, 100%); margin-bottom: .75rem; }
.large figcaption { margin-bottom: .75rem; }
.grids { grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 45%), 1fr)); }
.grids.wide { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.grids img { width: 100%; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.chart { padding: .8rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.chart h3 { margin: 0; font-size: .95rem; }
.chart figcaption { margin-top: .25rem; font-size: .8rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .8rem; }
.key { color: var(--ink); }
.key::before { content: ""; display: inline-block; width: 1.1rem; margin-right: .35rem; vertical-align: .25em; border-top: 3px solid var(--c); }
.key.dashed::before { border-top-style: dashed; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid, .axis, .mark { fill: none; stroke: var(--line); }
.axis { stroke: var(--soft); }
.mark { stroke: var(--ink); stroke-dasharray: 2 4; }
svg .mark-name { fill: var(--ink); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.dashed .line { stroke-dasharray: 6 5; }
.band { fill: var(--c); fill-opacity: .18; stroke: var(--c); stroke-opacity: .18; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.25rem .3rem 0; text-align: left; font-weight: normal; border-bottom: 1px solid var(--line); vertical-align: top; }
th { max-width: 20rem; }
thead th { color: var(--soft); font-size: .875rem; vertical-align: bottom; }
tbody th { color: var(--soft); }
td.best { font-weight: 700; color: var(--good); }
td small, tbody th small { display: block; }
tbody .group { padding-top: 1.1rem; font-weight: 600; color: var(--ink); }
.number { text-align: right; }
caption { padding: 1.5rem 0 .25rem; font-weight: 600; text-align: left; }
.scroll { overflow-x: auto; }
.scroll table { overflow-wrap: normal; }
.scroll:focus-visible { outline: 2px solid var(--link); }
.shares { width: 100%; max-width: 32rem; }
.shares th, .shares .number { white-space: nowrap; }
.shares td:last-child { width: 70%; padding-right: 0; }
.bar { display: block; height: .8em; margin-top: .4em; background: var(--c0); border-radius: 1px; }
.switch { position: absolute; opacity: 0; }
.switch + label { display: inline-block; margin: 0 .4rem .9rem 0; padding: .2rem .8rem; border: 1px solid var(--line); border-radius: 1rem; cursor: pointer; }
.switch:checked + label { color: var(--page); background: var(--ink); border-color: var(--ink); }
.switch:focus-visible + label { outline: 2px solid var(--link); outline-offset: 2px; }
@media screen { #by-step:checked ~ .by-seconds, #by-seconds:checked ~ .by-step { display: none; } }
@media print { article, .chart, .warnings li { break-inside: avoid; } }
"""  # noqa: E501 - a rule, a line


def document(generator: str, title: str, headline: str, under: str, sections: Mapping[str, str]) -> str:
    """The whole page, made by the command `generator`; sections: title to HTML, those without text are left out. The
    other texts are not yet escaped."""
    found = {name: text for name, text in sections.items() if text}
    links = "\n".join(f'<a href="#{_id(name)}">{name}</a>' for name in found)
    body = "\n".join(f'<section id="{_id(name)}">\n<h2>{name}</h2>\n{text}\n</section>' for name, text in found.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{generator}">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escaped(headline)}</h1>
<p>{escaped(under)}</p>
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


def escaped(value: Any) -> str:
    """For HTML, where many control characters are errors even when escaped."""
    return escape(shown(value))


def warned(findings: Sequence[Finding]) -> str:
    """A list of warnings; "" if there are none."""
    items = "\n".join(
        f"<li><strong>{escape(title)}.</strong> {escaped(evidence)} {escape(advice)}</li>"
        for title, evidence, advice in findings
    )
    return items and f'<ul class="warnings">\n{items}\n</ul>'


def image(path: Path, alt: str, faults: list[str], pixels: bool = False) -> str:
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
    return f'<img{look} alt="{escaped(alt)}" width="{width}" height="{height}" src="data:image/png;base64,{text}">'


def scrolled(table: str, label: str) -> str:
    """A table that may be wider than the page, which a keyboard can scroll, too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">\n{table}\n</div>'


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")
