"""What a benchmark writes while it runs, to go on from: files of JSON, each written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigan.files import named, replace


def put(path: Path, values: Mapping[str, Any]) -> None:
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, lambda part: Path(part).write_text(json.dumps(values, indent=1) + "\n"))


def get(path: Path) -> dict[str, Any]:
    """ValueError if the file is no longer what `put` wrote."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to have that again") from error
    return values


def refuse_other(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """ValueError that names the first of `here` that the table in `folder`, or its machine, has otherwise."""
    known = {**there, **there["machine"]}
    for key, value in here.items():
        if known.get(key) != value:
            raise ValueError(
                f"{folder} has runs of {key} {known.get(key)!r}, here it is {value!r}: they do not belong into one "
                "table; name another folder by --out, or remove that one"
            )
