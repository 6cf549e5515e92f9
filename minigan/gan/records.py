"""What the folder of a run says, read and checked. Nothing here writes; run_folder.py says what is in it.

Whatever the files hold, it is a `Record` or a `RecordError`: who reads many runs can name the bad one and go on.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from reprlib import repr as short  # one line, few characters, few levels
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl in which the last step is looked for: some hundred lines."""

Row = dict[str, Any]
Check = tuple[Callable[[Any], bool], str]


class RecordError(ValueError):
    """A file of a run that is missing, damaged, or of another version of minigan: one sentence."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; all its numbers are finite, as JSON's are. RecordError."""
    try:
        text = _bytes(path).decode()
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not JSON (no UTF-8 at byte {error.start}): it is damaged") from error
    try:
        values = json.loads(text, parse_int=_finite(int), parse_float=_finite(float), parse_constant=_refuse)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno}, column {error.colno}"
        raise RecordError(f"{path} is not JSON ({where}): it is truncated or damaged") from error
    except RecursionError as error:
        raise RecordError(f"{path} is nested too deeply: it is damaged") from error
    except ValueError as error:
        raise RecordError(f"{path} holds {error}") from error
    if not isinstance(values, dict):
        raise RecordError(f"{path} holds {short(values)}, but should hold an object, {{...}}")
    return values


def read_rows(path: Path) -> tuple[list[Row], int]:
    """The good rows of metrics.jsonl, and how many bad lines were left out; none where there is no file.

    A good row has a "step", a whole number above 0, and nothing but numbers, which may be NaN. A torn last line is not
    counted: it is what kill -9 leaves. RecordError where the file cannot be read.
    """
    try:
        return _rows(_bytes(path))
    except FileNotFoundError:
        return [], 0


def rates(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(N - 1,) images a second, of each row but the first, which may compile kernels. NaN where it is unknown."""
    images, seconds = (np.array([row.get(key, nan) for row in rows], np.float64) for key in ("images", "seconds"))
    with np.errstate(all="ignore"):
        found = np.diff(images) / np.diff(seconds)
    return np.where(np.isfinite(found) & (found > 0), found, nan)  # a clock that went back, rows without images


def throughput(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Images a second: the median of `rates`. None if unknown."""
    found = rates(rows)
    found = found[np.isfinite(found)]
    return float(np.median(found)) if len(found) else None


@dataclass(frozen=True)
class Record:
    """A run as its config.json tells of it. steps: how many it is to have; version: the minigan that wrote it."""

    path: Path
    recipe: str
    settings: dict[str, Any]
    steps: int
    trained_on: dict[str, Any]
    version: str
    threads: int

    @classmethod
    def read(cls, folder: str | Path) -> "Record":
        """The run in `folder`. RecordError if there is none, or none that this minigan knows."""
        folder = Path(folder)
        path = folder / "config.json"
        try:
            config = read_json(path)
        except RecordError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                found = f"{folder} has no config.json" if os.path.isdir(folder) else f"there is no folder {folder}"
                raise RecordError(f"{found}: name the folder of a run") from error
            raise
        if "format" not in config and "objective" in config:
            raise RecordError(
                f"{folder} was written by a minigan that kept no checkpoints; it can be neither resumed nor sampled: "
                "train again"
            )
        form = config.get("format")
        if type(form) is int and form > FORMAT:  # first of all: its fields may be others
            raise RecordError(
                f"{path} is of format {short(form)}, newer than {FORMAT}, which this minigan reads: update minigan"
            )
        for key, (check, wanted) in CONFIG.items():
            if key not in config:
                raise RecordError(f"{path} has no {key}: it is damaged, or not the config of a run")
            _check(path, key, config[key], check, wanted)
        for key, (check, wanted) in TRAINED_ON.items():
            _check(path, f"trained_on.{key}", config["trained_on"].get(key), check, wanted)
        return cls(
            folder, config["recipe"], config["settings"], config["steps"], config["trained_on"], config["minigan"],
            config["threads"],
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.resolve().name

    def rows(self) -> list[Row]:
        """The good rows of metrics.jsonl."""
        return read_rows(self.path / "metrics.jsonl")[0]

    def metrics(self) -> dict[str, Any]:
        """metrics.json; {} where there is none. What minigan reads of it is checked: RecordError."""
        path = self.path / "metrics.json"
        if not os.path.exists(path):
            return {}
        metrics = read_json(path)
        for key, (check, wanted) in METRICS.items():
            if metrics.get(key) is not None:
                _check(path, key, metrics[key], check, wanted)
        for key, value in metrics.items():
            if key.endswith(("_floor", "_error")) and value is not None:
                _check(path, key, value, *NUMBER)
        return metrics

    def samples(self) -> list[tuple[int, Path]]:
        """(step, file) of all pictures of samples, by step."""
        folder = self.path / "samples"
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordError(f"cannot read {folder}: {error.strerror or error}") from error
        return sorted((int(m[1]), folder / m[0]) for n in names if (m := re.fullmatch(r"step_([0-9]{6,})\.png", n)))

    def state(self) -> str:
        """ "complete", "at step 312 of 3000" (where it was stopped, or is at this moment), or "not begun"."""
        if os.path.exists(self.path / "metrics.json"):
            return "complete"
        try:
            rows, _ = _rows(_bytes(self.path / "metrics.jsonl", TAIL))
        except FileNotFoundError:
            rows = []
        return f"at step {rows[-1]['step']} of {self.steps}" if rows else "not begun"


def _rows(data: bytes) -> tuple[list[Row], int]:
    """Of lines of JSON, the last of which may be torn."""
    rows, bad, decode = [], 0, json.JSONDecoder().decode
    lines = data.split(b"\n")
    torn = len(lines) - 1
    for i, line in enumerate(lines):
        try:
            row = decode(line.decode())
        except (ValueError, RecursionError):
            row = None
        if type(row) is dict and _is_count(row.get("step")) and all(map(_is_number, row.values())):
            rows.append(row)
        else:
            bad += bool(line) and i != torn
    return rows, bad


def _is_number(value: Any) -> bool:
    """A float, NaN and infinities too, or a whole number of 64 bits."""
    return type(value) is float or (type(value) is int and -(1 << 63) <= value < 1 << 63)


def _is_count(value: Any) -> bool:
    """A whole number above 0. True, which Python takes for 1, is none."""
    return type(value) is int and 0 < value < 1 << 63


def _is_count_or_0(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _are_settings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, (str, int, float, type(None))) for v in value.values())


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_count, value))


def _is_histogram(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_count_or_0, value))


TEXT: Check = (_is_text, "a text")
COUNT: Check = (_is_count, "a whole number above 0")
NUMBER: Check = (_is_number, "a number")

CONFIG: dict[str, Check] = {
    "format": COUNT,
    "recipe": TEXT,
    "settings": (_are_settings, "an object of numbers, texts, true, false and null"),
    "steps": COUNT,
    "trained_on": (lambda value: isinstance(value, dict), "an object"),
    "minigan": TEXT,
    "threads": COUNT,
}
TRAINED_ON: dict[str, Check] = {
    "name": TEXT,
    "shape": (_is_shape, "a list of 4 whole numbers above 0"),
    "sha256": TEXT,
}
METRICS: dict[str, Check] = {
    **dict.fromkeys(
        ("predicted_histogram", "label_histogram", "reference_histogram"),
        (_is_histogram, "a list of whole numbers, 0 or above"),
    ),
    **dict.fromkeys(
        ("step", "images", "n", "n_reference", "n_neighbours", "classes_present"),
        (_is_count_or_0, "a whole number, 0 or above"),
    ),
    **dict.fromkeys(("seconds", "nearest_ratio", "triangle_delta"), NUMBER),
    **dict.fromkeys(
        (
            *("fid", "kid", "fid_random", "kid_random", "precision", "recall", "density", "coverage"),
            *("two_sample_accuracy", "two_sample_accuracy_real", "two_sample_accuracy_fake"),
            *("inception_score", "marginal_entropy", "conditional_entropy", "mean_pairwise_distance"),
            *("triangle_precision", "triangle_recall", "triangle_f1", "triangle_distance"),
        ),
        NUMBER,
    ),
}
"""Of metrics.json (metrics/reference.py), what compare.py and report.py read, beside floors and errors of the same. Any
may be missing, or null."""


def _check(path: Path, key: str, value: Any, check: Callable[[Any], bool], wanted: str) -> None:
    if not check(value):
        raise RecordError(
            f"{path}: {key} is {short(value)}, but should be {wanted}: the file is damaged or was changed by hand"
        )


def _bytes(path: Path, last: int | None = None) -> bytes:
    """What is in a file, or its `last` bytes. FileNotFoundError; RecordError for all other trouble."""
    try:
        with open(path, "rb") as file:
            if last is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - last))
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from error


def _finite(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Reads a number of JSON. Those beyond a float's range break all arithmetic with floats."""

    def parse(text: str) -> float:
        if not isfinite(float(text)):
            raise ValueError(f"{short(text)[1:-1]}, a number too large to be one of a run")
        return kind(text)

    return parse


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which JSON does not have: write null")
