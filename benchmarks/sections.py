"""What a benchmark writes into docs/: a section between two marks, which keeps its place, and tables of Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigan.files import named, replace


class Marks(NamedTuple):
    begin: str
    end: str


def marks(program: str) -> Marks:
    """Between which a program writes."""
    return Marks(f"<!-- written by {program} -->", f"<!-- end of what {program} wrote -->")


def check_marks(path: Path, own: Marks) -> None:
    """ValueError if the file has one mark without the other, or the second first."""
    text = path.read_text() if path.exists() else ""
    begin, end = own
    if (text.count(begin), text.count(end)) not in ((0, 0), (1, 1)) or text.find(begin) > text.find(end):
        raise ValueError(f"{path} should have {begin} once and {end} once, behind it; put them right, or remove both")


def write_section(path: Path, own: Marks, paragraphs: Sequence[str]) -> None:
    """In place of the last one, or at the end of the file. ValueError as `check_marks`."""
    check_marks(path, own)
    text = path.read_text() if path.exists() else "# Results\n"
    before, after = text.rstrip() + "\n\n", ""
    if own.begin in text:
        before, rest = text.split(own.begin, 1)
        after = rest.split(own.end, 1)[1].lstrip("\n")
        after = f"\n{after}" if after else ""
    section = "\n\n".join([own.begin, *paragraphs, own.end]) + "\n"
    with named(path):
        replace(path, lambda part: Path(part).write_text(before + section + after))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation of those that there are."""
    known = [value for value in values if value == value]
    if not known:
        return "-"
    return f"{np.mean(known):{form}}" + (f" ± {np.std(known, ddof=1):{form}}" if len(known) > 1 else "")
