"""What benchmarks/gpu.py runs, in order: commands, their limits, and what is read from their output.

A figure function gets all that a stage printed, complete or not, and the folder that the stage had for itself; it
returns what the JSON file shall have of it, and in "summary" what the terminal shall show: of a failure with an empty
one, the last line of the output.
"""

import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent

Figures = dict[str, Any]

EVERY_OP = "test_every_op_on_the_device"
"""The test that differentiates every op numerically: the stage gradcheck, and none of parity's."""
WITHOUT_GPU = ("test_cuda_compile", "test_cuda_document", "test_cuda_mutations")
"""Tests of CUDA code that run none on a GPU."""
WRONG = {"error": 1e-4, "error_tf32": 2e-3, "error_bf16": 2e-2}
"""Largest error / largest value beyond which a kernel is called wrong, of sums of up to 10^5 products of float32, or of
factors rounded to tf32 or bf16."""
SANITIZERS: dict[str, tuple[str, ...]] = {  # what it finds, and options of its own
    # 512 bytes: arrays begin at multiples of that, so that without them one can end where the next begins.
    "memcheck": ("memory beyond the end of an array", "--padding", "512", "--report-api-errors", "no"),
    "racecheck": ("races in shared memory",),
    "synccheck": ("misused barriers",),
    "initcheck": ("reads of what nothing wrote",),
}
OPTIONS = ("--error-exitcode", "9", "--print-limit", "20")
EXAMPLE = ("--steps", "200", "--no-metrics", "--data", "drawn", "--out", "{folder}/run")
SMALL_EXAMPLE = ("--steps", "2", "--width", "1", "--batch-size", "2", *EXAMPLE[2:])
TUTORIAL = ("--preset", "tutorial-64")


def rows(output: str, folder: Path) -> Figures:
    """All lines that are JSON objects."""
    found = list(filter(None, map(_row, output.splitlines())))
    return {"rows": found, "summary": f"{len(found)} rows" if found else ""}


def _row(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line) if line.startswith("{") else None
    except ValueError:  # cut short
        return None
    return value


def text(output: str, folder: Path) -> Figures:
    lines = output.strip().splitlines()
    return {"text": lines, "summary": lines[-1] if lines else ""}


def counts(output: str, folder: Path) -> Figures:
    """Of pytest -v, which prints a line for each test that is done: the last line may never come."""
    verdicts = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", output, re.MULTILINE)
    n = Counter(verdict for _, verdict in verdicts)
    failures = [test for test, verdict in verdicts if verdict in ("FAILED", "ERROR")]
    summary = ", ".join(f"{n[verdict]} {verdict.lower()}" for verdict in ("PASSED", "FAILED", "ERROR", "SKIPPED"))
    done = {verdict.lower(): n[verdict] for verdict in n}
    return {"counts": done, "failures": failures, "summary": summary if done else ""}


def repeats(output: str, folder: Path) -> Figures:
    found = rows(output, folder)
    said = [f"{row['variant']} {row['precision']} {'equal' if row['passed'] else 'differs'}" for row in found["rows"]]
    return {**found, "summary": ", ".join(said)}


def errors(output: str, folder: Path) -> Figures:
    """Of compute-sanitizer; "not_run" if it refuses the device."""
    refusal = re.search(r".*(?:[Dd]evice|GPU) (?:is )?not supported.*", output)
    if refusal:
        return {"not_run": refusal.group().strip(" ="), "summary": ""}
    found = re.search(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: .*\((\d+) errors?, (\d+) warnings?\)", output)
    files = len(rows(output, folder)["rows"])
    if not found:
        return {"files": files, "summary": ""}
    number = int(found[1] or found[2] or 0)
    warnings = int(found[3] or 0)
    summary = f"{number} errors, {warnings} warnings in {files} .cu files"
    return {"errors": number, "warnings": warnings, "files": files, "summary": summary}


def timings(output: str, folder: Path) -> Figures:
    """Of gpu_kernels.py. means: geometric, of PyTorch's time / ours in the same precision."""
    found = rows(output, folder)
    wrong = [row["name"] for row in found["rows"] if any(_beyond(row[key], limit) for key, limit in WRONG.items())]
    said, means = [found["summary"]], {}
    for precision in ("tf32", "fp32"):
        for what, chosen in (("trio", [row for row in found["rows"] if row["trio"]]), ("all", found["rows"])):
            ratios = [row[f"ratio_{precision}"] for row in chosen if row[f"ratio_{precision}"]]
            if ratios:
                means[f"{what} {precision}"] = mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                said.append(f"{what} in {precision} {mean:.2f}, {min(ratios):.2f} at worst")
    if means:
        said[0] += ", PyTorch's time / ours"
    if wrong:
        said.append(f"wrong: {', '.join(wrong)}")
    return {**found, "means": means, "wrong": wrong, "summary": "; ".join(said)}


def _beyond(error: float | None, limit: float) -> bool:
    """Whether there is an error and it is too large, or no number."""
    return error is not None and not error <= limit


def steps(output: str, folder: Path) -> Figures:
    """Of gpu_steps.py; the summary has the fastest in tf32, of ours the captured one."""
    found = rows(output, folder)
    done = [row for row in found["rows"] if "ms" in row]
    best: dict[str, float] = {}
    for row in (row for row in done if row["contender"].endswith("tf32")):
        best[row["row"]] = min(row["ms"], best.get(row["row"], math.inf))
    said = [f"{name.replace(' step', '')} {ms:.2f} ms" for name, ms in best.items()]
    return {**found, "summary": ", ".join([*said, *([f"{n} failed"] if (n := len(found["rows"]) - len(done)) else [])])}


def example(output: str, folder: Path) -> Figures:
    """Images per second in all, and in the second half of the steps, when everything is warm."""
    log = folder / "run" / "metrics.jsonl"
    logged = list(filter(None, map(_row, log.read_text().splitlines()))) if log.exists() else []
    if len(logged) < 2:
        return {"summary": ""}
    middle, last = logged[(len(logged) - 1) // 2], logged[-1]
    speed = last["images"] / last["seconds"]
    warm = (last["images"] - middle["images"]) / (last["seconds"] - middle["seconds"])
    summary = f"{last['step']} steps, {speed:.0f} images/s, of the second half {warm:.0f}"
    return {"steps": last["step"], "images_per_s": speed, "images_per_s_warm": warm, "last": last, "summary": summary}


def tutorial(output: str, folder: Path) -> Figures:
    """As `example`; and whether the run ended, that is whether it measured its result."""
    found, end = example(output, folder), folder / "run" / "metrics.json"
    measured = json.loads(end.read_text()) if end.exists() else {}
    said = [found["summary"], "it ended" if measured else "it did not end"]
    said += [f"FID {measured['fid']:.2f}"] if "fid" in measured else []
    return {**found, "ended": bool(measured), "measured": measured, "summary": ", ".join(filter(None, said))}


# ---- the stages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One process. missing: why it cannot run here; "" if it can. test: if it fails, so does the whole program."""

    name: str
    what: str
    command: Sequence[str]  # "{folder}" in it is a new folder, which is removed at the end
    limit: float  # seconds
    figures: Callable[[str, Path], Figures]
    test: bool = False
    missing: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def lacks(*modules: str) -> str:
    absent = [module for module in modules if find_spec(module) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def program(name: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / name), *words)


def device_facts(device: str) -> Stage:
    """What is run first: without a device there is nothing else to run."""
    return Stage("device", "what there is", program("gpu_device.py", device), 60, rows)


def stages(device: str) -> list[Stage]:
    """All of them, on "cuda" or "emulator"."""
    small = device == "emulator"
    train = (sys.executable, "examples/dcgan_mnist.py", "--device", device)
    data = () if os.environ.get("MINIGAN_DATA") else ("--data", "drawn")
    torch, gpu = lacks("torch"), "wants a GPU" if small else ""
    training = lacks("tqdm", "matplotlib", "PIL", "safetensors")
    return [
        Stage("doctor", "minigan.doctor", (sys.executable, "-m", "minigan.doctor"), 60, text, test=True),
        *_tests(device),
        Stage(
            "determinism", "equal bits in two trainings; the CPU's losses", program("gpu_repeat.py", device), 120,
            repeats, test=True,
        ),
        *(_sanitizer(tool, gpu) for tool in SANITIZERS),
        Stage("kernels", "each kernel on each layer", program("gpu_kernels.py", device), 90, timings),
        Stage(
            "cudnn", "PyTorch's in turns with ours", program("gpu_kernels.py", device, "--rivals"), 120, timings,
            missing=torch,
        ),
        Stage("steps-ours", "whole training steps", program("gpu_steps.py", "ours", device), 90, steps),
        Stage("steps-eager", "PyTorch's", program("gpu_steps.py", "eager", device), 90, steps, missing=torch),
        Stage(
            "steps-graph", "PyTorch's, as a CUDA graph", program("gpu_steps.py", "graph", device), 90, steps,
            missing=torch or gpu,
        ),
        Stage(
            "example", "examples/dcgan_mnist.py, 200 steps", (*train, *(SMALL_EXAMPLE if small else EXAMPLE)), 75,
            example, missing=training,
        ),
        Stage(
            "steps-compiled", "PyTorch's, by torch.compile", program("gpu_steps.py", "compiled", device), 150, steps,
            missing=torch or gpu,
        ),
        Stage(
            "tutorial-64", "examples/dcgan_mnist.py, its large preset",
            (*train, *TUTORIAL, *(SMALL_EXAMPLE if small else (*data, "--out", "{folder}/run"))), 240, tutorial,
            missing=training,
        ),
    ]  # fmt: skip


def _tests(device: str) -> list[Stage]:
    """A process for each file: an illegal address ends all CUDA work of its process."""

    def stage(name: str, what: str, file: Path, selection: str) -> Stage:
        options = ("-v", "--tb=short", "--color=no", "-p", "no:cacheprovider", "-W", "default")  # CuPy may warn
        return Stage(
            name, what, (sys.executable, "-m", "pytest", *options, "-k", selection, f"tests/{file.name}"), 90, counts,
            test=True, missing=lacks("pytest", "hypothesis"), environment={"MINIGAN_TEST_DEVICE": device},
        )  # fmt: skip

    tests = ROOT / "tests"
    files = [file for file in sorted(tests.glob("test_cuda_*.py")) if file.stem not in WITHOUT_GPU]
    devices = tests / "test_devices.py"
    return [
        *(
            stage(f"parity-{file.stem.removeprefix('test_')}", f"tests/{file.name}", file, f"not {EVERY_OP}")
            for file in (devices, *files)
        ),
        stage("gradcheck", "every op's derivatives, in float64", devices, EVERY_OP),
    ]


def _sanitizer(tool: str, missing: str) -> Stage:
    what, *own = SANITIZERS[tool]
    found = shutil.which("compute-sanitizer", path="/usr/local/cuda/bin") or shutil.which("compute-sanitizer")
    missing = missing or ("" if found else "compute-sanitizer is neither in PATH nor in /usr/local/cuda/bin")
    command = (found or "compute-sanitizer", "--tool", tool, *OPTIONS, *own, *program("gpu_launch.py", "cuda"))
    return Stage(f"sanitizer-{tool}", what, command, 60, errors, test=True, missing=missing)


def choose(every: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """Those of the names, and for "parity" all "parity-..."; all if there are no names. ValueError for unknown ones."""
    for name in names:
        if not any(_is(stage, name) for stage in every):
            raise ValueError(f"there is no stage {name!r}; the stages: {', '.join(stage.name for stage in every)}")
    return [stage for stage in every if not names or any(_is(stage, name) for name in names)]


def _is(stage: Stage, name: str) -> bool:
    return stage.name == name or stage.name.startswith(f"{name}-")
