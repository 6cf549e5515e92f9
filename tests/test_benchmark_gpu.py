"""benchmarks/gpu.py keeps what it has found, whatever becomes of a stage. The rest is tried on the emulator."""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from minigan.kernels import emulator

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "benchmarks" / "gpu.py"
FACTS = """import json; print(json.dumps({"name": "Some GPU (TM) 3", "versions": {}}))"""
ROW = """print('{"n": 1}', flush=True);"""
STOP = "import os, signal, time; os.kill(os.getppid(), signal.{}); time.sleep(60)"

needs_emulator = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++, which is not installed")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of benchmarks/, with its folder on the path, as Python puts it there."""
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module


@pytest.fixture
def gpu(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, on a machine with some GPU, and little patience."""
    module = load("gpu")
    monkeypatch.setattr(module, "GRACE", 0.5)
    monkeypatch.setattr(module, "device_facts", lambda device: stage(module, "device", FACTS))
    return module


@pytest.fixture
def handlers() -> Iterator[None]:
    kinds = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


def stage(gpu: ModuleType, name: str, code: str, limit: float = 20, **options: Any) -> Any:
    figures = sys.modules["gpu_stages"].rows
    return gpu.Stage(name, f"about {name}", (sys.executable, "-c", code), limit, figures, **options)


def run_main(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, stages: list[Any], *words: str
) -> tuple[int, dict[str, Any]]:
    """Exit code, and the stages in the file."""
    monkeypatch.setattr(gpu, "stages", lambda device: stages)
    code = gpu.main([*words, "--out", str(out)])
    return code, json.loads((out / "some-gpu-tm-3.json").read_text())["stages"]


# ---- one stage -------------------------------------------------------------------------------------------------------


def test_a_stage_that_passes_and_one_that_fails(gpu: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log"
    record = gpu.run(stage(gpu, "a", ROW), 20, log)
    assert (record["status"], record["exit_code"], record["rows"], record["summary"]) == (
        "passed", 0, [{"n": 1}], "1 rows",
    )  # fmt: skip
    assert "tail" not in record
    record = gpu.run(stage(gpu, "b", ROW + "import sys; print('{cut'); sys.exit('no device')"), 20, log)
    assert (record["status"], record["exit_code"], record["rows"]) == ("failed", 1, [{"n": 1}])
    assert record["tail"] == ['{"n": 1}', "{cut", "no device"]
    assert [line for line in log.read_text().splitlines() if line.startswith("====")] == [
        f"==== a: passed after {gpu_seconds(log, 'a')} s", f"==== b: failed after {gpu_seconds(log, 'b')} s",
    ]  # fmt: skip


def gpu_seconds(log: Path, name: str) -> str:
    (line,) = [line for line in log.read_text().splitlines() if line.startswith(f"==== {name}:")]
    return line.split()[-2]


def test_a_stage_that_takes_too_long_is_ended_with_its_children(gpu: ModuleType, tmp_path: Path) -> None:
    """Even if it ignores a Ctrl-C; what it had printed counts."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print('{\"child\": %d}' % child.pid, flush=True); time.sleep(60)"
    )
    start = time.monotonic()
    record = gpu.run(stage(gpu, "slow", code), 2)
    assert time.monotonic() - start < 10
    assert (record["status"], record["limit_s"]) == ("timed out", 2)
    (row,) = record["rows"]
    for _ in range(50):  # an orphan's end is its new parent's to notice
        if not alive(row["child"]):
            break
        time.sleep(0.1)
    assert not alive(row["child"])


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_stage_that_cannot_run_says_why(gpu: ModuleType) -> None:
    record = gpu.run(stage(gpu, "a", ROW, missing="not installed: torch"), 20)
    assert (record["status"], record["reason"]) == ("not run", "not installed: torch")


def test_output_that_cannot_be_read_stops_nothing(gpu: ModuleType) -> None:
    def broken(output: str, folder: Path) -> dict[str, Any]:
        raise KeyError("ms")

    given = gpu.Stage("a", "", (sys.executable, "-c", ROW), 20, broken)
    assert gpu.run(given, 20)["summary"] == "its output cannot be read: KeyError: 'ms'"


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_file_is_written_after_each_stage(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some-gpu-tm-3.json"
    peek = f"import json; print(json.dumps({{'seen': list(json.load(open({str(file)!r}))['stages'])}}))"
    failing = stage(gpu, "fails", "raise SystemExit('oh')")
    code, found = run_main(gpu, monkeypatch, tmp_path, [stage(gpu, "first", ROW), failing, stage(gpu, "peek", peek)])
    assert found["peek"]["rows"] == [{"seen": ["first", "fails"]}]
    assert code == 0  # it is no test that failed
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Some GPU (TM) 3: 3 stages in 480 s at most; results in ")
    assert [line.split()[:2] for line in lines[2:5]] == [["first", "passed"], ["fails", "failed"], ["peek", "passed"]]
    assert lines[3].endswith(" oh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some-gpu-tm-3.json", "some-gpu-tm-3.log"]


def test_a_test_that_fails_is_the_programs_exit_code(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = stage(gpu, "fails", "raise SystemExit('oh')", test=True)
    assert run_main(gpu, monkeypatch, tmp_path, [failing, stage(gpu, "last", ROW)])[0] == 1
    absent = stage(gpu, "fails", ROW, test=True, missing="no compute-sanitizer")
    assert run_main(gpu, monkeypatch, tmp_path, [absent])[0] == 0


def test_the_budget(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Limits shrink to what is left; with less than the minimum left a stage is skipped."""
    monkeypatch.setattr(gpu, "MINIMUM", 2)
    stages = [stage(gpu, "long", "import time; time.sleep(60)", limit=60), stage(gpu, "late", ROW)]
    start = time.monotonic()
    _, found = run_main(gpu, monkeypatch, tmp_path, stages, "--budget", "4")
    assert time.monotonic() - start < 15
    assert found["long"]["status"] == "timed out"
    assert found["long"]["limit_s"] <= 4
    assert (found["late"]["status"], found["late"]["reason"]) == ("skipped", "no time left")


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
def test_interrupted(
    kind: str, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, handlers: None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By the stage itself, in this test. What was done, and what the interrupted stage had printed, is kept."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, gpu.interrupt)
    stages = [stage(gpu, "first", ROW), stage(gpu, "second", ROW + STOP.format(kind)), stage(gpu, "third", ROW)]
    code, found = run_main(gpu, monkeypatch, tmp_path, stages)
    assert code == 130
    assert [(name, record["status"], record["rows"]) for name, record in found.items()] == [
        ("first", "passed", [{"n": 1}]), ("second", "interrupted", [{"n": 1}]),
    ]  # fmt: skip
    assert "Interrupted; what is done is in" in capsys.readouterr().err


def test_some_stages(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name or by what is before a hyphen; the file keeps the others' results, and a full run starts anew."""
    stages = [stage(gpu, name, ROW) for name in ("doctor", "parity-a", "parity-b", "parityless")]
    run_main(gpu, monkeypatch, tmp_path, stages, "--stages", "doctor")
    _, found = run_main(gpu, monkeypatch, tmp_path, stages, "--stages", "parity")
    assert list(found) == ["doctor", "parity-a", "parity-b"]
    assert gpu.main(["--stages", "stairs"]) == 2
    assert "there is no stage 'stairs'; the stages: doctor, parity-a, " in capsys.readouterr().err
    monkeypatch.setattr(gpu, "run", lambda *_: pytest.fail("--list runs nothing"))
    assert gpu.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "doctor                    20 s  about doctor"


def test_without_a_device(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing = stage(gpu, "device", "raise SystemExit('there is no GPU')")
    monkeypatch.setattr(gpu, "device_facts", lambda device: failing)
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == "there is no GPU\n"


def test_the_parent_loads_nothing_that_is_measured() -> None:
    code = "import sys, gpu; gpu.stages('cuda'); print(*{'torch', 'numba', 'cupy', 'minigan'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROGRAM.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


# ---- the stages ------------------------------------------------------------------------------------------------------


def test_every_test_of_cuda_code_is_in_one_stage(load: Callable[[str], ModuleType]) -> None:
    module = load("gpu_stages")
    stages = {stage.name: stage for stage in module.stages("cuda")}
    tests = ROOT / "tests"
    files = {path.name for path in tests.glob("test_cuda_*.py")} | {"test_devices.py"}
    without = {f"{name}.py" for name in module.WITHOUT_GPU}
    assert without < files
    parity = [stage for name, stage in stages.items() if name.startswith("parity-")]
    assert sorted(Path(stage.command[-1]).name for stage in parity) == sorted(files - without)
    assert f"def {module.EVERY_OP}(" in (tests / "test_devices.py").read_text()
    assert stages["gradcheck"].command[-3:] == ("-k", module.EVERY_OP, "tests/test_devices.py")
    assert {stage.environment["MINIGAN_TEST_DEVICE"] for stage in parity} == {"cuda"}
    assert list(stages)[-1] == "steps-compiled"


def test_what_is_read_from_pytest(load: Callable[[str], ModuleType]) -> None:
    output = (
        "tests/test_a.py::test_b[float 32] PASSED [ 10%]\ntests/test_a.py::test_c FAILED [ 20%]\n"
        "tests/test_a.py::test_d SKIPPED (no GPU) [ 30%]\ntests/test_a.py::test_e "
    )
    found = load("gpu_stages").counts(output, Path())
    assert found["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["failures"] == ["tests/test_a.py::test_c"]
    assert found["summary"] == "1 passed, 1 failed, 0 error, 1 skipped"


@pytest.mark.parametrize(
    ("line", "errors", "warnings"),
    [
        ("========= ERROR SUMMARY: 0 errors", 0, 0),
        ("========= ERROR SUMMARY: 1 error", 1, 0),
        ("========= RACECHECK SUMMARY: 5 hazards displayed (2 errors, 3 warnings)", 2, 3),
        ("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 1, 0),
    ],
)
def test_what_is_read_from_the_sanitizer(
    line: str, errors: int, warnings: int, load: Callable[[str], ModuleType]
) -> None:
    found = load("gpu_stages").errors(f'========= COMPUTE-SANITIZER\n{{"file": "a.cu"}}\n{line}\n', Path())
    assert (found["errors"], found["warnings"], found["files"]) == (errors, warnings, 1)


def test_a_sanitizer_that_refuses_the_device_is_no_failure(gpu: ModuleType) -> None:
    code = "import sys; print('========= Error: Device not supported. Look elsewhere.'); sys.exit(255)"
    given = gpu.Stage("a", "", (sys.executable, "-c", code), 20, sys.modules["gpu_stages"].errors, test=True)
    record = gpu.run(given, 20)
    assert (record["status"], record["reason"]) == ("not run", "Error: Device not supported. Look elsewhere.")


def test_what_is_read_from_the_example(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lines = [{"step": n, "images": 64 * n, "seconds": 10 + n} for n in range(1, 5)]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 5, "ima'
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    found = load("gpu_stages").example("", tmp_path)
    assert (found["steps"], found["images_per_s_warm"]) == (4, 64)
    assert found["images_per_s"] == pytest.approx(256 / 14)
    assert load("gpu_stages").example("", tmp_path / "none") == {"summary": ""}


# ---- times -----------------------------------------------------------------------------------------------------------


class Event:
    """What a stream's event is, on a GPU that takes 0.3 ms for each write and 2 ms for a call."""

    now = 0.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass


def take(ms: float) -> Callable[[], None]:
    def work() -> None:
        Event.now += ms

    return work


def test_the_clock_keeps_the_gpu_busy_first_and_does_not_count_that(load: Callable[[str], ModuleType]) -> None:
    clock = load("gpu_device").EventClock(take(0.3), Event, lambda start, end: end.at - start.at)
    assert clock.writes == 4  # more than a millisecond
    Event.now = 0.0
    ms, host_ms = clock(take(2))
    assert ms == pytest.approx(2)
    assert Event.now == pytest.approx(3.2)
    assert host_ms < 1


def test_figures_of_a_row(load: Callable[[str], ModuleType]) -> None:
    module = load("gpu_kernels")
    case = SimpleNamespace(kind="middle", flops=4e9, bytes=1e6)
    rounds = [
        {"ours": (a, 0.1), "nchw fp32": (b, 0.2), "channels_last fp32": (9.0, 0.2), "nchw tf32": (1.0, 0.2)}
        for a, b in ((2.0, 4.0), (1.0, 5.0), (4.0, 6.0))
    ]
    row = module.figures(case, rounds, {"peak_gflops": 4000.0, "copy_gbps": 10.0})
    assert (row["ours_ms"], row["host_ms"], row["gflops"], row["gbps"]) == (2, 0.1, 2000, 0.5)
    assert row["percent_of_roof"] == pytest.approx(50)
    assert (row["ratio_fp32"], row["ratio_tf32"]) == (2, 0.5)
    assert row["torch_ms"] == {"nchw fp32": 5, "channels_last fp32": 9, "nchw tf32": 1}
    alone = module.figures(case, [{"ours": (1.0, 0.1)}], {})
    assert alone["percent_of_roof"] is alone["ratio_fp32"] is None
    found = sys.modules["gpu_stages"] if "gpu_stages" in sys.modules else load("gpu_stages")
    lines = "\n".join(json.dumps({"name": name, "error": e, **row}) for name, e in (("a", 1e-6), ("b", float("nan"))))
    read = found.timings(lines, Path())
    assert read["wrong"] == ["b"]
    expected = "2 rows; PyTorch's time / ours in fp32 2.00, 2.00 at worst; PyTorch's time / ours in tf32 0.50, 0.50 at "
    assert read["summary"] == f"{expected}worst; wrong: b"


def test_everybody_has_a_turn_in_each_round(load: Callable[[str], ModuleType]) -> None:
    calls: list[str] = []
    contenders = {name: (lambda call: (call(), 0.0), lambda name=name: calls.append(name)) for name in "abc"}
    rounds = load("gpu_kernels").take_rounds(contenders, 6, random.Random(0))
    assert calls[:9] == [*"aaabbbccc"]
    assert all(sorted(calls[i : i + 3]) == [*"abc"] for i in range(9, 27, 3))
    assert len({tuple(found) for found in rounds}) > 1


# ---- on the emulator -------------------------------------------------------------------------------------------------


@needs_emulator
def test_stages_on_the_emulator(tmp_path: Path) -> None:
    """The program as it is started, each of its own programs but PyTorch's once."""
    words = ["--device", "emulator", "--stages", "determinism,kernels,steps-ours,sanitizer", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "emulator.json").read_text())
    assert found["device"]["name"] == "emulator"
    records = found["stages"]
    assert records["sanitizer-memcheck"]["reason"] == "wants a GPU"
    assert {row["variant"] for row in records["determinism"]["rows"]} == {"gan", "wgan-clip", "wgan-gp"}
    assert all(row["passed"] for row in records["determinism"]["rows"])
    assert [row["contender"] for row in records["steps-ours"]["rows"]] == ["ours", "ours, not captured"]
    assert all(row["ms"] > 0 for row in records["steps-ours"]["rows"])
    names = {row["name"].split()[1 if "px" in row["name"] else 0] for row in records["kernels"]["rows"]}
    assert names >= {"conv2d", "conv_transpose2d", "batch_norm", "leaky_relu", "tanh", "adam", "bias_act", "matmul"}
    assert "28px adam of G" in done.stdout


@needs_emulator
def test_the_sanitizers_program_launches_every_kernel() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM.with_name("gpu_launch.py")), "emulator"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    files = sorted(path.name for path in (ROOT / "kernels").glob("*/*.cu"))
    assert sorted(row["file"] for row in rows) == files
    assert all(row["kernels"] for row in rows)
