"""docs/capture.md: its program runs, its errors are those that a reader gets, its list is what the example prints."""

import contextlib
import io
import itertools
import linecache
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_examples import run

import minigan as mg

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "capture.md").read_text()
LIST, ERRORS = re.findall(r"```text\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_program_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    printed, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(printed):
        exec(program, names)
    assert 0 < float(printed.getvalue()) < 1.4
    assert names["optimizer"].steps == 100
    assert len(names["step"].plans) == 1


@pytest.mark.parametrize("entry", ERRORS.strip().split("\n\n"), ids=lambda entry: entry.partition("\n")[0])
def test_the_errors_are_these(entry: str) -> None:
    line, _, message = entry.partition("\n")
    program = f"def step(x):\n    {line}\n"
    linecache.cache["train.py"] = len(program), None, program.splitlines(keepends=True), "train.py"
    names: dict[str, Any] = {
        "mg": mg, "np": np, "rng": np.random.default_rng(0), "numbers": itertools.count(1), "buffer": mg.zeros(3),
        "net": SimpleNamespace(u=mg.zeros(3)),
    }  # fmt: skip
    exec(compile(program, "train.py", "exec"), names)
    step = mg.capture(names["step"])
    with pytest.raises(mg.CaptureError) as caught:
        [step(mg.Tensor([first, 2.0, 3.0])) for first in (0.0, 1.0, 2.0)]
    assert str(caught.value).split() == message.split()


def test_the_list_is_the_examples(tmp_path: Path) -> None:
    """And the picture is drawn where it is asked for, and nothing else anywhere."""
    printed = run("capture.py", tmp_path).splitlines()
    shown = [line for line in LIST.splitlines() if line not in ("", "...")]
    assert [line for line in printed if line in shown] == shown
    png = tmp_path / "memory.png"
    assert run("capture.py", tmp_path, "--png", str(png)).splitlines() == [*printed, f"drawn in {png}"]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [png]
