"""benchmarks/train_step.py times what it says it does. How fast anything is, no test asks."""

import importlib
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "benchmarks" / "train_step.py"
TOY, SMALL = "toy wgan-gp critic step", "28px gan step w16 b64"
MACHINE = {"cpu": "a CPU", "cores": 2, "load": 0.1, "threading_layer": "omp", "peak_gflops": 9.0, "copy_gbps": 1.0}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The program as a module, with its own folder on the path, as Python puts it there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROGRAM.parent))
        yield importlib.import_module("train_step")


MS = {
    "ours": 4.0, "eager": 6.0, "nchw": 8.0, "channels_last": 16.0, "as written": 12.0, "torch.compile": 7.0, "bf16": 2.0
}  # fmt: skip


class Actor:
    """A Worker that starts no process: answers as step_worker.py does, in the milliseconds of MS."""

    losses: tuple[Sequence[float], ...] = (1.5, 0.7), (1.50001, 0.70001)
    fails: tuple[str, ...] = ()
    tasks: ClassVar[list[dict[str, Any]]]
    running = 0

    def __init__(self, label: str, task: dict[str, Any], environment: dict[str, str]) -> None:
        self.label, self.contender, self.task = label, label.rpartition(", ")[2], task
        type(self).tasks.append(task)

    def __enter__(self) -> "Actor":
        type(self).running += 1
        return self

    def __exit__(self, *_: object) -> None:
        type(self).running -= 1

    def answer(self) -> Any:
        if self.task["kind"] == "inside":
            captured = self.task["capture"]
            return {"arrays_mb": 30.0 + captured, "outside": 0.4 - 0.3 * captured, "replays": 9, "replay_faults": 3}
        if self.contender in self.fails:
            raise sys.modules["workers"].WorkerError(f"{self.label}: no")
        if self.task["kind"] == "machine":
            return {**MACHINE, "threads": self.task["threads"]}
        if self.task["kind"] == "check":
            return self.losses[: 1 + self.task["with_torch"]]
        return "built"

    def ask(self, steps: int | str) -> Any:
        ms = MS[self.contender]
        return {"peak_mb": 50.0, "optimizer": "fused", "ms": ms} if steps == "begin" else {"ms": ms, "faults": steps}


@pytest.fixture
def acted(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> type[Actor]:
    """The actor's class, in place of the processes; PyTorch is installed."""

    class Fresh(Actor):
        tasks: ClassVar[list[dict[str, Any]]] = []

    monkeypatch.setattr(bench, "Worker", Fresh)
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    monkeypatch.setattr(bench, "PAUSE", 0)
    return Fresh


def test_settings_are_the_examples(bench: ModuleType) -> None:
    toy, recipes = (importlib.import_module(name) for name in ("minigan.gan.toys", "minigan.gan.recipes"))
    for name, row in bench.ROWS.items():
        if row.size is None:
            recipe = toy.TOYS[row.objective]
            optimizer = recipe.optimizer(toy.mlp(1, toy.Generator(0, "init")))
            assert (row.batch, row.latent, row.width) == (toy.BATCH, toy.LATENT, toy.WIDTH)
            weight = recipe.penalty(toy.Generator(0, "mix")).keywords["weight"]
            assert (row.lr, row.betas, row.penalty) == (optimizer.lr, optimizer.betas, weight)
        else:
            s = recipes.RECIPES[row.objective].settings()
            found = s.lr, getattr(s, "gp_lambda", None), getattr(s, "clip", None)
            assert (row.lr, row.penalty, row.clip) == found
            assert row.clip or row.betas == (s.beta1, s.beta2)
            assert name.startswith(f"{row.size}px {row.objective} ")
            assert name.endswith(f"step w{row.width} b{row.batch}")
        assert ("critic" in name) == (row.objective != "gan")


def test_the_parent_loads_nothing_that_is_measured() -> None:
    code = "import sys, train_step; print(*{'torch', 'numba', 'minigan'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROGRAM.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_what_the_program_measures(tmp_path: Path) -> None:
    """Real processes, on the smallest row: losses agree, everybody takes turns."""
    file = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), "--filter", TOY, "--rounds", "2", "--threads", "1",
         "--json", str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert TOY in done.stdout
    assert list(tmp_path.iterdir()) == [file]
    written = json.loads(file.read_text())
    (row,) = written["rows"]
    assert row.keys() == written["fields"].keys()
    assert written["machine"]["threads"] == 1
    assert row["ours_ms"] > 0
    assert row["images_per_s"] == pytest.approx(256e3 / row["ours_ms"])
    assert row["eager_ms"] > 0
    assert row["eager_ratio"] > 0
    assert 0 < row["outside"] < 1
    assert 0 < row["eager_outside"] < 1
    assert 0 < row["arrays_mb"] < 500
    assert 0 < row["eager_arrays_mb"] < 500
    assert 0 < row["replays"] <= 1000
    assert row["peak_mb"] is None or 0 < row["peak_mb"] < 500
    assert row["eager_peak_mb"] is None or 0 < row["eager_peak_mb"] < 500
    assert row["torch_compile_ms"] is row["torch_bf16_ms"] is None
    if importlib.util.find_spec("torch"):
        assert row["torch_ms"] == min(row["torch_variants_ms"].values())
        assert row["torch_layout"] in ("all threads", "one thread")
        assert row["torch_adam"] in ("fused", "foreach", "for-loop")
        assert row["ratio"] > 0
        assert row["as_written_ratio"] > 0
    else:
        assert row["ratio"] is None
        assert "pip install torch" in done.stderr


def test_a_process_that_dies_says_why_and_none_is_left(bench: ModuleType) -> None:
    workers = sys.modules["workers"]
    sentence = r"^a row, ours: its process ended with exit status 1: KeyError: 'nobody'$"
    with workers.Worker("a row, ours", {"kind": "nobody"}, os.environ) as worker:  # noqa: SIM117
        with pytest.raises(workers.WorkerError, match=sentence):
            worker.ask(1)
    with workers.Worker("a row, ours", {"kind": "machine", "threads": 1}, os.environ) as worker:
        assert worker.process.poll() is None
    assert worker.process.poll() is not None


def test_all_rivals(bench: ModuleType, acted: type[Actor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch.compile and bf16 take over the faster variant; what does not start is null, with the reason."""
    acted.fails = ("torch.compile",)
    file = tmp_path / "rows.json"
    words = ["--filter", SMALL, "--rounds", "2", "--all-rivals", "--markdown", "--json", str(file)]
    assert bench.main(words) == 0
    assert acted.running == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert row["torch_layout"] == "nchw"
    assert row["torch_variants_ms"].keys() == {"nchw", "channels_last"}
    assert (row["torch_compile_ms"], row["compile_ratio"]) == (None, None)
    assert row["not_run"] == {"torch.compile": f"{SMALL}, torch.compile: no"}
    assert (row["torch_ms"], row["torch_as_written_ms"], row["torch_bf16_ms"]) == (8, 12, 2)
    assert (row["ratio"], row["as_written_ratio"], row["bf16_ratio"]) == (2, 3, 0.5)
    assert (row["peak_mb"], row["faults"]) == (50, 5)
    assert (row["eager_ms"], row["eager_ratio"], row["eager_peak_mb"]) == (6, 1.5, 50)
    assert (row["arrays_mb"], row["eager_arrays_mb"], row["replays"], row["replay_faults"]) == (31, 30, 9, 3)
    assert (row["outside"], row["eager_outside"]) == (pytest.approx(0.1), 0.4)
    by_kind = {kind: [task for task in acted.tasks if task["kind"] == kind] for kind in ("ours", "torch", "inside")}
    assert by_kind["torch"][-1]["options"] == {"layout": "nchw", "optimizer": "fused", "bf16": True}
    assert [task["capture"] for task in (*by_kind["ours"], *by_kind["inside"])] == [True, False, True, False]
    assert [task["seconds"] for task in by_kind["inside"]] == [2, 2]
    cells = f"\n| {SMALL} | 4.0 | 16000 | 6.0 | 8.0 | 2.00 | 12.0 | 2.0 | 10% | 40% | 50 / 50 |"
    assert cells in capsys.readouterr().out


def test_ratios_are_of_one_round(bench: ModuleType) -> None:
    turns = [
        {
            "ours": {"ms": a, "faults": 3}, "eager": {"ms": 3 * a, "faults": 8}, "nchw": {"ms": b, "faults": 7},
            "bf16": {"ms": c, "faults": 9},
        }
        for a, b, c in ((1.0, 2.0, 3.0), (2.0, 8.0, 2.0), (3.0, 9.0, 9.0))
    ]  # fmt: skip
    ready = {who: {"peak_mb": 1.0, "optimizer": "fused"} for who in turns[0]}
    inside = {"arrays_mb": 1.0, "outside": 0.5, "replays": 3, "replay_faults": None}
    row = bench.figures(SMALL, bench.ROWS[SMALL], ready, dict.fromkeys(("ours", "eager"), inside), turns, {})
    assert (row["eager_ms"], row["eager_ratio"], row["replay_faults"]) == (6, 3, None)
    assert (row["ours_ms"], row["torch_ms"], row["ratio"], row["bf16_ratio"]) == (2, 8, 3, 3)
    assert (row["faults"], row["torch_faults"], row["images_per_s"]) == (3, 7, 32000)
    assert bench.table([row]).splitlines()[1].split()[-1] == "7"


def test_everybody_has_a_turn_in_each_round(bench: ModuleType, acted: type[Actor]) -> None:
    contenders = {name: acted(name, {}, {}) for name in MS}
    order = random.Random(0)
    orders = {tuple(bench.take_turns(contenders, 1, order)) for _ in range(5)}
    assert len(orders) == 5
    assert {frozenset(each) for each in orders} == {frozenset(MS)}


def test_without_pytorch(
    bench: ModuleType, acted: type[Actor], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    assert bench.main(["--filter", SMALL, "--all-rivals", "--markdown"]) == 0
    printed = capsys.readouterr()
    assert "pip install torch" in printed.err
    assert printed.out.rstrip().endswith("| 50 / - |")
    assert "PyTorch, ms" not in printed.out


def test_other_losses_are_not_timed(bench: ModuleType, acted: type[Actor], capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (1.6, float("nan")):
        acted.losses = (1.5, 0.7), (wrong, 0.7)
        assert bench.main(["--filter", SMALL]) == 1
        assert (
            f"{SMALL}: from the same start our loss is 1.5 and PyTorch's {wrong}, which differ by more than 1e-04; "
            "nothing was timed" in capsys.readouterr().err
        )
    assert {task["kind"] for task in acted.tasks} == {"machine", "check"}


@pytest.mark.parametrize("complete", [0, 2])
def test_interrupted(
    complete: int, bench: ModuleType, acted: type[Actor], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The complete rows count; where there is none, an older file stays."""
    names = [name for name in bench.ROWS if "28px gan" in name]
    ask = acted.ask

    def stopped(self: Actor, steps: int | str) -> Any:
        if self.label.startswith(names[complete]):
            raise KeyboardInterrupt
        return ask(self, steps)

    monkeypatch.setattr(acted, "ask", stopped)
    file = tmp_path / "rows.json"
    file.write_text("older")
    assert bench.main(["--filter", "28px gan", "--rounds", "1", "--json", str(file)]) == 130
    assert acted.running == 0
    assert f"Interrupted; {complete} of 3 rows are complete." in capsys.readouterr().err
    if complete:
        assert [row["name"] for row in json.loads(file.read_text())["rows"]] == names[:2]
    else:
        assert file.read_text() == "older"


def test_rows_that_are_not_there(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--filter", "96px"]) == 2
    assert "No row's name contains '96px'. The names: 64px gan step w64 b64; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rounds", "0"], "'0' is not a whole number above 0"),
        (["--threads", "4096"], ", the cores that Numba found"),
        (["--json", "{}/no/rows.json"], "rows.json: No such file or directory; name another file"),
    ],
)
def test_mistakes_are_named_before_anything_is_timed(
    words: list[str], sentence: str, bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.arguments([word.format(tmp_path) for word in words])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
