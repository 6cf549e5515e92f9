"""Checkpoints: all that a training needs to go on, in folders that are complete or not there.

step-00001200/arrays.safetensors   NumPy arrays by name
step-00001200/state.json           anything JSON; size and SHA-256 of the arrays' file; a SHA-256 of its own content

A folder is written as .step-00001200.part, flushed to the disk and then renamed. A folder that has the name already is
first renamed to .step-00001200.old, which counts for as long as nothing else has the name: a crash at any moment
leaves a complete checkpoint. One process at a time uses the folder.
"""

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .files import flush, named
from .tensor import Array

FORMAT = 1
ARRAYS, STATE = "arrays.safetensors", "state.json"
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64"),
)


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of a newer minigan."""


def save(folder: Path, arrays: Mapping[str, Array], state: Mapping[str, Any], score: float | None = None) -> None:
    """Writes a checkpoint, in the place of one that is there, and removes what a crashed write has left beside it.

    Tuples in `state` come back as lists, and arrays in the byte order of this machine. TypeError or ValueError for
    what would not come back. OSError, in one sentence that names the file: what was complete is intact.
    """
    folder = Path(folder)
    data, text = _packed(arrays, state, score)
    part, old, parent = _hidden(folder, "part"), _hidden(folder, "old"), folder.parent
    with named(parent):
        new = [path for path in (parent, *parent.parents) if not path.exists()]
        parent.mkdir(parents=True, exist_ok=True)
        for path in new:
            flush(path.parent)
    _sweep(folder)
    try:
        with named(folder):
            part.mkdir()
        for name, content in ((ARRAYS, data), (STATE, text)):
            with named(folder / name), open(part / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        with named(folder):
            flush(part)
            if os.path.lexists(folder):
                os.rename(folder, old)
            os.rename(part, folder)
            flush(parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sweep(folder)


def load(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays, sorted by name, and the state; every byte is checked. CheckpointError, in one sentence."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as unpack

    source = _found(Path(folder))
    document = _document(source / STATE)
    path, told = source / ARRAYS, document["arrays"]
    data = _bytes(path)
    if len(data) != told["bytes"]:
        raise CheckpointError(
            f"{path} has {len(data)} bytes, but {STATE} tells of {told['bytes']}: it is truncated or damaged"
        )
    if hashlib.sha256(data).hexdigest() != told["sha256"]:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in {STATE}")
    try:
        return dict(sorted(unpack(data).items())), document["state"]  # safetensors has them in any order
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file of NumPy arrays: {error}") from error


class Checkpoints:
    """The checkpoints of one training: after each save the last `keep` are there, and the one of the lowest score.

    Later ones, of a training that went on from an earlier step, stay until it has passed them.
    """

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep must be at least 1, not {keep}")
        self.folder, self.keep = Path(folder), keep

    def save(
        self, step: int, arrays: Mapping[str, Array], state: Mapping[str, Any], score: float | None = None
    ) -> None:
        """`save` under the step's name, then removes those not kept. A score that is not finite is never the best."""
        if step < 0:
            raise ValueError(f"Checkpoints: step must be at least 0, not {step}")
        save(self.path(step), arrays, state, score)
        self.prune(step)

    def prune(self, step: int) -> None:
        """Removes those not kept at the checkpoint of this step: for one that was killed before `save` came to it."""
        first = [s for s in self.steps() if s <= step][-self.keep :][0]
        scores = self._scores()  # what cannot be read today may be the best
        for path in [self.path(s) for s in scores if s < first and s != _lowest(scores)]:
            with named(path, "remove"):
                os.rename(_found(path), _hidden(path, "part"))  # half removed, it must not have a name that counts
        _sweep(self.path(step))

    def latest(self) -> tuple[int, dict[str, Array], dict[str, Any]]:
        """(step, arrays, state) of the checkpoint of the highest step that loads.

        Whoever goes back to an earlier step removes the later ones, or it is one of them that comes. A RuntimeWarning
        names those skipped, each with the reason. CheckpointError with all reasons if none loads.
        """
        reasons = []
        try:
            steps = self.steps()
        except OSError as error:
            raise CheckpointError(str(error)) from error
        for step in reversed(steps):
            try:
                arrays, state = load(self.path(step))
            except CheckpointError as error:
                if self.steps() != steps:  # the training that saves them has meanwhile removed this one
                    return self.latest()
                reasons.append(str(error))
                continue
            if reasons:
                warnings.warn(
                    f"going back to step {step} in {self.folder}: {'; '.join(reasons)}", RuntimeWarning, stacklevel=2
                )
            return step, arrays, state
        if reasons:
            raise CheckpointError(f"no checkpoint in {self.folder} loads: {'; '.join(reasons)}")
        raise CheckpointError(f"there is no checkpoint in {self.folder}")

    def steps(self) -> list[int]:
        """Of all checkpoints, whole or not, ascending."""
        with named(self.folder, "read"):
            names = os.listdir(self.folder) if self.folder.exists() else []
        matches = (re.fullmatch(r"step-([0-9]{8,})|\.step-([0-9]{8,})\.old", name) for name in names)
        steps = {int(match[1] or match[2]) for match in matches if match}
        return sorted(step for step in steps if _found(self.path(step)).name in names)

    def best(self) -> int | None:
        """The step of the lowest score, the first of equals; None if no checkpoint has one."""
        return _lowest(self._scores())

    def _scores(self) -> dict[int, float | None]:
        """By step, of those whose two files are readable and of the right size. `latest` tells of the others."""
        scores = {}
        for step in self.steps():
            folder = _found(self.path(step))
            with suppress(CheckpointError, OSError):
                document = _document(folder / STATE)
                if os.path.getsize(folder / ARRAYS) == document["arrays"]["bytes"]:
                    scores[step] = document["score"]
        return scores

    def path(self, step: int) -> Path:
        """The folder of a step, for `load`."""
        return self.folder / f"step-{step:08d}"


def _lowest(scores: Mapping[int, float | None]) -> int | None:
    found = [(score, step) for step, score in scores.items() if score is not None]
    return min(found)[1] if found else None


def _packed(arrays: Mapping[str, Array], state: Mapping[str, Any], score: float | None) -> tuple[bytes, bytes]:
    """The contents of both files."""
    from safetensors import SafetensorError
    from safetensors.numpy import save as pack

    native = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":  # safetensors' own
            raise ValueError(f"checkpoint: an array cannot be named {name!r}")
        if not isinstance(array, (np.ndarray, np.generic)) or array.dtype.name not in DTYPES:
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"checkpoint: {name} must be a NumPy array of {', '.join(DTYPES)}, not {kind}")
        # safetensors takes the bytes as they lie; ascontiguousarray would make 0-d arrays 1-d
        native[name] = np.asarray(array, order="C")
    try:
        data = pack(native)
    except (SafetensorError, UnicodeError) as error:
        raise ValueError(f"checkpoint: the arrays do not fit into one safetensors file: {error}") from error
    _check_json(dict(state), "state")
    document = {
        "format": FORMAT,
        "arrays": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "score": None if score is None or not math.isfinite(score) else float(score),
        "state": dict(state),
    }
    return data, json.dumps(document | {"sha256": _checksum(document)}, indent=1).encode()


def _check_json(value: Any, where: str) -> None:
    """TypeError or ValueError that says where something is that JSON does not hold or would change."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"checkpoint: {where} has the key {key!r}, and JSON's keys are strings")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"checkpoint: {where} is {value}, which JSON does not hold; an array does")
    elif not isinstance(value, (str, int, float, type(None))):
        raise TypeError(f"checkpoint: {where} is of type {type(value).__name__}, which JSON does not hold")


def _checksum(document: Mapping[str, Any]) -> str:
    """Of the canonical text: keys sorted, no spaces, nothing but ASCII. ValueError for numbers that are not finite."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _document(path: Path) -> dict[str, Any]:
    """state.json, checked."""
    raw = _bytes(path)
    try:
        document = json.loads(raw)
        checksum = _checksum({k: v for k, v in document.items() if k != "sha256"}) if isinstance(document, dict) else ""
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: it is truncated or damaged") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise CheckpointError(f"{path} is not the state of a checkpoint: it has no format number")
    if document["format"] > FORMAT:  # first of all: its checksum may be made in another way
        raise CheckpointError(
            f"{path} is of format {document['format']}, newer than {FORMAT}, which this minigan reads: update it"
        )
    if document.get("sha256") != checksum:
        raise CheckpointError(f"{path} is damaged: its checksum is not that of its content")
    match document:
        case {
            "format": 1,
            "arrays": {"bytes": int(), "sha256": str()},
            "score": float() | None,
            "state": dict(),
        }:
            return document
    raise CheckpointError(f"{path} is not the state of a checkpoint: a field is missing or of another type")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _hidden(folder: Path, suffix: str) -> Path:
    return folder.with_name(f".{folder.name}.{suffix}")


def _found(folder: Path) -> Path:
    """Where the checkpoint lies: a crash between two renames leaves the old one under its hidden name only."""
    old = _hidden(folder, "old")
    return old if old.exists() and not folder.exists() else folder


def _sweep(folder: Path) -> None:
    """Removes what crashed writes of `folder` and of steps beside it have left, but an .old that is all there is."""
    with named(folder.parent, "read"):
        names = os.listdir(folder.parent)
    for name in names:
        match = re.fullmatch(rf"\.(step-[0-9]+|{re.escape(folder.name)})\.(part|old)", name)
        if match and (match[2] == "part" or match[1] in names):
            path = folder.parent / name
            with named(path, "remove"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
