"""benchmarks/kernels.py measures what it says it does. How fast anything is, no test asks."""

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from minigan import kernels

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "benchmarks" / "kernels.py"
ROW = "28px conv2d forward 32->1"
MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "load": 1.7,
    "threading_layer": "workqueue",
    "peak_gflops": 9.0,
    "copy_gbps": 1.0,
}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The program as a module, with its own folder on the path, as Python puts it there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROGRAM.parent))
        spec = importlib.util.spec_from_file_location("benchmark_kernels", PROGRAM)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def every(bench: ModuleType) -> dict[str, Any]:
    rows: dict[str, Any] = bench.cases()
    return rows


@pytest.fixture
def alone(bench: ModuleType, every: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program without PyTorch, on a machine that has been measured."""
    monkeypatch.setattr(bench, "cases", lambda: every)
    monkeypatch.setattr(bench.rival, "torch", None)
    monkeypatch.setattr(bench.machine, "describe", lambda threads: {**MACHINE, "threads": threads})
    return bench


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *args],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_rows_are_those_of_the_nets(every: dict[str, Any]) -> None:
    assert "64px conv2d weight gradient 256->512" in every
    assert "64px conv2d forward 64->128 at 32x32, width 64" in every
    assert "64px conv2d forward 64->128 at 16x16, width 32" in every
    assert "32px conv_transpose2d input gradient 100->256" in every
    assert {"28px tanh backward 28x28x1 width 16", "64px adam of G width 64"} <= every.keys()
    kinds = [(case.operation.split()[0], case.kind) for case in every.values() if (case.size, case.width) == (64, 64)]
    for op in ("conv2d", "conv_transpose2d"):
        assert [kinds.count((op, k)) for k in ("middle", "one channel", "covers its input")] == [9, 3, 3]
    layer = every["64px conv2d forward 64->128 at 32x32, width 64"]
    assert layer.flops == 2 * 64 * 16 * 16 * 128 * 64 * 4 * 4
    assert layer.algorithm in ("direct", "winograd2", "winograd4")
    assert layer.bytes == 4 * (64 * 32 * 32 * 64 + 64 * 16 * 16 * 128 + 4 * 4 * 64 * 128)


def test_every_operation_agrees_with_float64(bench: ModuleType, every: dict[str, Any]) -> None:
    """On its smallest row, PyTorch too where there is one."""
    ordered = sorted(every.items(), key=lambda item: -item[1].bytes)
    smallest = {case.operation: (name, case) for name, case in ordered}
    assert len(smallest) == 15
    for name, case in smallest.values():
        checked = bench.validate(name, case.build())
        assert 0 <= max(checked.errors.values()) < 2e-5


def test_a_wrong_result_is_not_timed(bench: ModuleType) -> None:
    right = np.array([1.0, -2.0])
    assert bench.largest_error((right, right), (right, right - [0, 2])) == 0.5
    assert bench.largest_error(right, right[:, None]) == float("inf")
    for wrong in (right + 1e-3, right * np.nan):
        contenders = bench.Contenders(ours=lambda wrong=wrong: wrong, truth=lambda: right, rivals={})
        with pytest.raises(
            bench.WrongResultError, match=r"^a row: the result \(ours\) is off by .* nothing was timed$"
        ):
            bench.validate("a row", contenders)


def test_a_round_times_everybody_once(bench: ModuleType) -> None:
    calls: list[str] = []
    contenders = {
        name: bench.Contenders(
            ours=lambda name=name: calls.append(f"{name} ours"),
            truth=lambda: None,
            rivals={"nchw": lambda name=name: calls.append(f"{name} nchw")},
            fresh=lambda name=name: calls.append(f"{name} fresh"),
        )
        for name in "abc"
    }
    orders = []
    order = random.Random(0)
    for _ in range(3):
        calls.clear()
        times = bench.time_round(contenders, order, np.ones(1))
        assert {f"{name} {who}" for name in times for who in times[name]} == set(calls)
        assert len(calls) == 9
        orders.append(tuple(calls))
        assert [c[0] for c in calls] == [c for c in "".join(dict.fromkeys(c[0] for c in calls)) for _ in range(3)]
    assert len(set(orders)) == 3


def test_figures_of_a_row(bench: ModuleType, every: dict[str, Any]) -> None:
    case = every["64px conv2d forward 128->256 at 16x16, width 64"]
    times = [
        {"ours": 2.0, "fresh": 3.0, "nchw": 9.0, "channels_last": 4.0},
        {"ours": 4.0, "fresh": 4.5, "nchw": 8.0, "channels_last": 4.0},
        {"ours": 1.0, "fresh": 1.0, "nchw": 7.0, "channels_last": 5.0},
    ]
    checked = bench.Checked({"ours": 1e-6, "nchw": 2e-6, "channels_last": 3e-6}, first_ms=12.0)
    row = bench.row("a", case, checked, times, peak_gflops=1000.0)
    assert row.keys() == bench.FIELDS.keys()
    assert (row["ours_ms"], row["torch_nchw_ms"], row["torch_channels_last_ms"]) == (2, 8, 4)
    assert (row["ratio"], row["torch_error"], row["compile_ms"], row["weight_ms"]) == (2, 3e-6, 10, 0.5)
    assert row["gflops"] == pytest.approx(2 * 64 * 8 * 8 * 256 * 128 * 16 / 2e-3 / 1e9)
    assert row["percent_of_peak"] == pytest.approx(row["gflops"] / 10)
    row = {**row, "name": "64px conv2d forward 128->256"}
    other = {**row, "ratio": 0.5}
    means = bench.summary([row, other]).splitlines()
    assert means[1].split() == ["64px", "width", "64", "1.00", "(0.50)", "1.00", "(0.50)", "-", "-", "-"]
    assert means[2].split() == ["64px", "middle", "layers", "width", "64,", "conv2d", "1.00", "(0.50)"]
    last = bench.markdown([row]).splitlines()[-1]
    assert last.startswith("| 64px conv2d forward 128->256 | 2.00 | 0.50 | 4.00 | 2.00 |")


def test_the_program_writes_what_it_measured(tmp_path: Path) -> None:
    file, picture = tmp_path / "rows.json", tmp_path / "roof.svg"
    done = run("--filter", ROW, "--rounds", "2", "--threads", "1", "--json", str(file), "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.iterdir()) == [picture, file]
    assert picture.read_text().startswith("<?xml")
    assert "1 of " in done.stdout
    assert "threading layer" in done.stdout
    assert ROW in done.stdout
    written = json.loads(file.read_text())
    (row,) = written["rows"]
    assert row["name"] == ROW
    assert row["ours_ms"] > 0
    assert 0 < row["error"] < 2e-5
    here = written["machine"]
    assert here["threads"] == 1
    assert here["peak_gflops"] > 0
    assert here["copy_gbps"] > 0
    assert here["versions"]["numpy"] == np.__version__
    with_torch = importlib.util.find_spec("torch") is not None
    assert with_torch == (here["versions"]["torch"] is not None) == (row["ratio"] is not None)
    assert with_torch or "pip install torch" in done.stderr


def test_without_pytorch(alone: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    words = ["--filter", ROW, "--rounds", "1", "--markdown", "--json", str(file)]
    assert alone.main(words) == 0
    printed = capsys.readouterr()
    for warning in ("pip install torch", "Other programs run here (load 1.7)", "workqueue layer is slower"):
        assert warning in printed.err
    assert f"\n| {ROW} | " in printed.out
    (row,) = json.loads(file.read_text())["rows"]
    assert {field for field, value in row.items() if value is None} >= {"torch_nchw_ms", "ratio", "torch_error"}


@pytest.mark.parametrize("complete", [0, 2])
def test_interrupted(
    complete: int,
    alone: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The complete rounds count; where there is none, an older file stays."""
    file, rounds, time_round = tmp_path / "rows.json", [], alone.time_round

    def stopped(*args: Any) -> Any:
        if len(rounds) == complete:
            raise KeyboardInterrupt
        rounds.append(time_round(*args))
        return rounds[-1]

    monkeypatch.setattr(alone, "time_round", stopped)
    file.write_text("older")
    assert alone.main(["--filter", ROW, "--json", str(file)]) == 130
    assert f"Interrupted; {complete} of 15 rounds are complete." in capsys.readouterr().err
    if complete:
        assert json.loads(file.read_text())["rounds"] == complete
    else:
        assert file.read_text() == "older"


def test_a_wrong_kernel_ends_the_program(
    alone: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels.conv2d, "_chosen", lambda x, w, g, **_: np.zeros((len(x), 1, 1, 1), np.float32))
    assert alone.main(["--filter", ROW]) == 1
    assert f"{ROW}: the result (ours) is off by 1.0e+00 of the largest value" in capsys.readouterr().err
    monkeypatch.undo()


def test_rows_that_are_not_there(alone: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert alone.main(["--filter", "conv3d"]) == 2
    assert "No row's name contains 'conv3d'. Some names: 28px conv2d forward 1->16; " in capsys.readouterr().err
    assert alone.main(["--filter", "tanh", "--picture", str(tmp_path / "a.png")]) == 2
    assert "--picture shows convolutions, and no row with 'tanh' is one." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rounds", "0"], "'0' is not a whole number above 0"),
        (["--threads", "0"], "'0' is not between 1 and "),
        (["--threads", "4096"], ", the cores that Numba found"),
        (["--json", "{}/no/rows.json"], "rows.json: No such file or directory; name another file"),
        (["--json", "{}"], "is there and is not a file; name another one"),
        (["--picture", "{}/a.txt"], "a.txt must end with .png, .svg, .pdf"),
    ],
)
def test_mistakes_are_named_before_anything_is_timed(
    words: list[str], sentence: str, bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.arguments([word.format(tmp_path) for word in words])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(argparse.ArgumentTypeError, match="a: No space left on device; name another file"):
        bench.file(str(tmp_path / "a"))
