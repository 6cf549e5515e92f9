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
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from minigan import kernels
from minigan.kernels import cuda, emulator

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
    assert list(stages)[-1] == "tutorial-64"


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
    cut = load("gpu_stages").tutorial("", tmp_path)
    assert (cut["steps"], cut["ended"], cut["summary"]) == (4, False, f"{found['summary']}, it did not end")
    (tmp_path / "run" / "metrics.json").write_text('{"step": 4, "fid": 6.346}')
    done = load("gpu_stages").tutorial("", tmp_path)
    assert (done["ended"], done["summary"]) == (True, f"{found['summary']}, it ended, FID 6.35")
    assert load("gpu_stages").tutorial("", tmp_path / "none")["summary"] == "it did not end"


def test_the_last_stage_trains_on_what_there_is(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, words in (("/mnist", []), ("", ["--data", "drawn"])):
        monkeypatch.setenv("MINIGAN_DATA", folder)
        command = load("gpu_stages").stages("cuda")[-1].command
        assert [*command[2:]] == [
            "--device", "cuda", "--preset", "tutorial-64", *words, "--out", "{folder}/run",
        ]  # fmt: skip


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
    """Precisions are compared with themselves only."""
    module = load("gpu_kernels")
    case = SimpleNamespace(kind="middle", algorithm="direct", flops=4e9, bytes=1e6)
    rounds = [
        {
            "ours tf32": (a, 0.1), "ours fp32": (4 * a, 0.1), "ours bf16": (0.5, 0.1), "nchw fp32": (b, 0.2),
            "channels_last fp32": (9.0, 0.2), "nchw tf32": (1.0, 0.2), "channels_last tf32": (7.0, 0.2),
        }
        for a, b in ((2.0, 4.0), (1.0, 5.0), (4.0, 6.0))
    ]  # fmt: skip
    row = module.figures(case, rounds, {"peak_gflops": 1000.0, "tf32_gflops": 8000.0, "copy_gbps": 10.0}, "tf32")
    assert (row["ours_ms"], row["ours_fp32_ms"], row["ours_bf16_ms"], row["precision"]) == (2, 8, 0.5, "tf32")
    assert (row["host_ms"], row["gflops"], row["gbps"], row["trio"]) == (0.1, 2000, 0.5, True)
    assert (row["percent_of_roof"], row["percent_of_tf32_roof"]) == pytest.approx((50, 25))
    assert (row["ratio_fp32"], row["ratio_tf32"]) == (0.5, 0.5)
    assert row["torch_ms"] == {"nchw fp32": 5, "channels_last fp32": 9, "nchw tf32": 1, "channels_last tf32": 7}
    assert row["torch_host_ms"] == dict.fromkeys(row["torch_ms"], 0.2)
    alone = module.figures(SimpleNamespace(**vars(case) | {"algorithm": None}), [{"ours fp32": (1.0, 0.1)}], {}, "fp32")
    assert (alone["ours_ms"], alone["ours_fp32_ms"], alone["ours_bf16_ms"], alone["trio"]) == (1, 1, None, False)
    absent = "percent_of_roof", "percent_of_tf32_roof", "ratio_fp32", "ratio_tf32"
    assert [alone[key] for key in absent] == [None] * 4


def test_what_is_read_from_the_kernels_times(load: Callable[[str], ModuleType]) -> None:
    right = {"error": 9e-5, "error_tf32": 1e-3, "error_bf16": 1e-2}
    none = {"error": None, "error_tf32": None, "error_bf16": None}
    rows = [
        {"name": "a", "trio": True, "ratio_tf32": 1.0, "ratio_fp32": 0.5, **right},
        {"name": "b", "trio": True, "ratio_tf32": 4.0, "ratio_fp32": 0.5, **right, "error_tf32": 3e-3},
        {"name": "c", "trio": False, "ratio_tf32": 13.5, "ratio_fp32": 4.0, **none, "error": float("nan")},
        {"name": "d", "trio": False, "ratio_tf32": None, "ratio_fp32": 4.0, **right, "error_bf16": 3e-2},
        {"name": "e", "trio": False, "ratio_tf32": None, "ratio_fp32": 4.0, **none, "error": 2e-4},
        {"name": "f", "trio": False, "ratio_tf32": None, "ratio_fp32": None, **none},
    ]
    read = load("gpu_stages").timings("some words\n" + "\n".join(map(json.dumps, rows)), Path())
    means = {"trio tf32": 2, "all tf32": 54 ** (1 / 3), "trio fp32": 0.5, "all fp32": 2**0.8}
    assert read["means"] == pytest.approx(means)
    assert read["wrong"] == [*"bcde"]
    assert read["summary"] == (
        "6 rows, PyTorch's time / ours; trio in tf32 2.00, 1.00 at worst; all in tf32 3.78, 1.00 at worst; "
        "trio in fp32 0.50, 0.50 at worst; all in fp32 1.74, 0.50 at worst; wrong: b, c, d, e"
    )
    assert load("gpu_stages").timings(json.dumps(rows[5]), Path())["summary"] == "1 rows"


def test_steps_beside_pytorchs_in_the_same_precision(gpu: ModuleType, load: Callable[[str], ModuleType]) -> None:
    times = {
        "steps-ours": {"ours tf32": 2, "ours bf16": 1, "ours tf32, not captured": 3},
        "steps-eager": {"eager nchw tf32": 6, "eager channels_last tf32": 5, "eager nchw fp32": 4},
        "steps-graph": {"graph nchw tf32": 3},
        "steps-compiled": {"compiled, graph nchw tf32": 2.5},
    }
    name = "64px gan step w64 b128"
    records = {
        stage: {"rows": [{"row": name, "contender": who, "ms": ms, "images_per_s": 1} for who, ms in found.items()]}
        for stage, found in times.items()
    }
    failed = {"row": "28px gan step w64 b64", "contender": "graph nchw tf32", "error": "RuntimeError: no memory"}
    records["steps-graph"]["rows"].append(failed)
    *_, title, row = gpu.tables(records).splitlines()
    assert title.split("  ")[0] == "PyTorch time / ours in tf32"
    assert row.split("  ")[0] == name
    assert row.split()[-2:] == ["2.50", "1.25"]
    assert gpu.tables({"steps-ours": records["steps-ours"]}).count("PyTorch time") == 0
    eager = {stage: records[stage] for stage in ("steps-ours", "steps-eager")}
    assert gpu.tables(eager).splitlines()[-1].split()[-2:] == ["2.50", "-"]
    read = load("gpu_stages").steps("\n".join(map(json.dumps, records["steps-ours"]["rows"])), Path())
    assert read["summary"] == "64px gan w64 b128 2.00 ms"


def test_everybody_has_a_turn_in_each_round(load: Callable[[str], ModuleType]) -> None:
    calls: list[str] = []
    contenders = {name: (lambda call: (call(), 0.0), lambda name=name: calls.append(name)) for name in "abc"}
    rounds = load("gpu_kernels").take_rounds(contenders, 6, random.Random(0))
    assert calls[:9] == [*"aaabbbccc"]
    assert all(sorted(calls[i : i + 3]) == [*"abc"] for i in range(9, 27, 3))
    assert len({tuple(found) for found in rounds}) > 1


def test_our_steps_are_taken_in_the_precision_that_is_named(load: Callable[[str], ModuleType]) -> None:
    row = load("step_rows").Row("gan", 28, 1, 2)
    with kernels.set_conv_precision("fp32"):
        for name, start in load("gpu_steps").ours(row, "cpu"):
            start()
            assert name.split()[1].strip(",") == kernels.conv_precision()
            kernels.set_conv_precision("fp32")


def test_the_large_steps_come_first(load: Callable[[str], ModuleType]) -> None:
    """And are no rows of benchmarks/train_step.py, which are a CPU's."""
    names, rows = load("gpu_steps").NAMES, load("step_rows")
    assert names[:2] == ("64px gan step w64 b128", "64px wgan-gp critic step w64 b128")
    assert set(names[:2]) == rows.LARGE_ROWS.keys()
    assert set(names[2:]) < rows.ROWS.keys()
    assert not rows.ROWS.keys() & rows.LARGE_ROWS.keys()


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
    repeats = {(row["variant"], row["precision"]): row for row in records["determinism"]["rows"]}
    assert repeats.keys() == {*product(("gan", "wgan-clip", "wgan-gp"), ("tf32", "fp32"))}
    assert all(row["passed"] for row in repeats.values())
    assert repeats["gan", "tf32"]["off_the_cpu"] > 1e-5 > repeats["gan", "fp32"]["off_the_cpu"]
    assert [row["contender"] for row in records["steps-ours"]["rows"]] == [
        "ours tf32", "ours fp32", "ours bf16", "ours tf32, not captured",
    ]  # fmt: skip
    assert all(row["ms"] > 0 for row in records["steps-ours"]["rows"])
    names = {row["name"].split()[1 if "px" in row["name"] else 0] for row in records["kernels"]["rows"]}
    assert names >= {"conv2d", "conv_transpose2d", "batch_norm", "leaky_relu", "tanh", "adam", "bias_act", "matmul"}
    for row in records["kernels"]["rows"]:
        assert (row["precision"] == "tf32") == (row["ours_bf16_ms"] is not None) == ("conv" in row["name"]), row["name"]
    assert "28px adam of G" in done.stdout


@needs_emulator
def test_ours_is_compared_in_the_precision_that_is_named(load: Callable[[str], ModuleType]) -> None:
    """A convolution on tensor cores: the differences are those of its roundings."""
    pytest.importorskip("torch")
    module = load("gpu_kernels")
    module.rival.torch.set_grad_enabled(False)
    try:
        for name, case in module.fused(small=True).items():
            contenders = case.build("emulator")
            fp32, tf32, bf16 = (module.error(contenders, precision) for precision in ("fp32", "tf32", "bf16"))
            if "x1->" in name:  # few channels: in float32 always
                assert fp32 == tf32 == bf16 < 1e-6
            else:
                assert fp32 < 1e-6 < 1e-5 < tf32 < 1e-3, name
                assert 2 * tf32 < bf16 < 1e-2, name
    finally:
        module.rival.torch.set_grad_enabled(True)


@needs_emulator
def test_the_sanitizers_program_launches_every_kernel(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By itself, whatever the precision of convolutions is."""
    launched: set[tuple[str, str]] = set()
    launch = cuda.Source.launch

    def noted(source: cuda.Source, kernel: str, *args: Any, **options: Any) -> None:
        launched.add((source.file.relative_to(cuda.KERNELS_FOLDER).as_posix(), kernel))
        launch(source, kernel, *args, **options)

    monkeypatch.setattr(cuda.Source, "launch", noted)
    with kernels.set_conv_precision("tf32"):
        load("gpu_launch").main("emulator")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    files = [path.relative_to(ROOT / "kernels").as_posix() for path in (ROOT / "kernels").glob("*/*.cu")]
    assert sorted(row["file"] for row in rows) == sorted(files)
    assert all(row["kernels"] for row in rows)
    assert {(row["file"], kernel) for row in rows for kernel in row["kernels"]} <= launched
    assert {f"{file.partition('/')[0]}:{kernel}" for file, kernel in launched} >= {
        "conv2d:conv2d_mma", "conv2d:conv2d_tiled", "conv2d:conv2d_few", "linear:matmul_mma", "linear:matmul_tiled",
    }  # fmt: skip
