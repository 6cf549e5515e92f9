"""Tests and times minigan on a GPU: python benchmarks/gpu.py

Runs stages (--list), each in a process of its own that is ended when its limit is over, and writes what is known to
benchmarks/results/<name of the GPU>.json after each of them: whatever happens, what is done is kept. What the stages
printed is beside it in <name of the GPU>.log.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_stages import ROOT, Stage, choose, device_facts, stages
from options import positive

MINIMUM = 10  # seconds that a stage must have
GRACE = 3  # seconds in which an interrupted stage may say what it has
TAIL = 40  # lines of a stage that failed
BAD = ("failed", "timed out")

Record = dict[str, Any]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Test and time minigan on a GPU.", epilog="Example: python benchmarks/gpu.py --stages parity,cudnn"
    )
    parser.add_argument(
        "--stages", type=lambda text: text.split(","), default=[], metavar="A,B", help="only these, by --list's names, "
        "or by what is before a hyphen; the others' results in the file stay",
    )  # fmt: skip
    parser.add_argument("--budget", type=positive, default=480, metavar="SECONDS", help="for everything (%(default)s)")
    parser.add_argument(
        "--device", choices=("cuda", "emulator"), default="cuda",
        help="emulator: CUDA on the CPU, on tiny shapes, to try this program (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="for the results"
    )
    parser.add_argument("--list", action="store_true", help="print the stages and their limits, and run none")
    return parser.parse_args(words)


def run(stage: Stage, limit: float, log: Path | None = None) -> Record:
    """Its record; all that it printed goes to the end of `log`.

    "status" is passed, failed, timed out, interrupted or not run.
    """
    record: Record = {"status": "not run", "date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0}
    if stage.missing:
        return {**record, "reason": stage.missing, "summary": stage.missing}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        command = [word.replace("{folder}", folder) for word in stage.command]
        settings = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **stage.environment}
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,  # so that it can be ended with all of its own processes
        )  # fmt: skip
        try:
            code = process.wait(limit)
            record |= {"status": "failed" if code else "passed", "exit_code": code}
        except subprocess.TimeoutExpired:
            record["status"] = "timed out"
        except KeyboardInterrupt:
            record["status"] = "interrupted"
        finally:
            end(process)
        record |= {"seconds": round(time.monotonic() - start, 1), "limit_s": round(limit, 1)}
        file.seek(0)
        output = file.read().decode(errors="replace").replace(f"{ROOT}{os.sep}", "").replace(folder, "FOLDER")
        record |= figures(stage, output, Path(folder))
    if log:
        with log.open("a") as book:
            book.write(f"==== {stage.name}: {record['status']} after {record['seconds']} s\n{output}\n")
    if "not_run" in record:
        record |= {"status": "not run", "reason": record.pop("not_run")}
    if record["status"] != "passed":
        record["tail"] = output.splitlines()[-TAIL:]
        record["summary"] = record["summary"] or next(reversed(record["tail"]), "it printed nothing")
    return record


def figures(stage: Stage, output: str, folder: Path) -> Record:
    """What the stage's own function reads from its output: never a reason to stop."""
    try:
        return stage.figures(output, folder)
    except Exception as error:
        return {"summary": f"its output cannot be read: {type(error).__name__}: {error}"}


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and all that it started: by a Ctrl-C, to which pytest answers with what failed, or the hard way.

    What is left of its group when it has ended by itself goes, too.
    """
    for kind in (signal.SIGINT, signal.SIGKILL) if process.poll() is None else (signal.SIGKILL,):
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(process.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def write(path: Path, results: Record) -> None:
    """Whole or not at all."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, path)


def slug(name: str) -> str:
    """ "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def before(path: Path) -> Record:
    """The stages that the file has; none where it cannot be read."""
    try:
        found: Record = json.loads(path.read_text())["stages"]
    except (OSError, ValueError, KeyError):
        return {}
    return found


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    every = stages(args.device)
    try:
        chosen = choose(every, args.stages)
    except ValueError as unknown:
        print(unknown, file=sys.stderr)
        return 2
    if args.list:
        for stage in every:
            print(f"{stage.name:<24}{stage.limit:>4.0f} s  {stage.what}{f' ({stage.missing})' * bool(stage.missing)}")
        return 0
    deadline = time.monotonic() + args.budget
    facts = run(device_facts(args.device), min(60, args.budget))
    if facts["status"] != "passed":
        print(facts["tail"][-1] if facts["tail"] else facts["status"], file=sys.stderr)
        return 130 if facts["status"] == "interrupted" else 1
    here = facts["rows"][-1]
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{slug(here['name'])}.json"
    log = path.with_suffix(".log")
    log.unlink(missing_ok=True)
    with suppress(metadata.PackageNotFoundError):
        here["versions"]["torch"] = metadata.version("torch")
    records = before(path) if args.stages else {}
    results = {"device": here, "minigan_device": args.device, "stages": records}
    print(f"{here['name']}: {len(chosen)} stages in {args.budget} s at most; results in {path}\n", flush=True)
    for stage in chosen:
        left = deadline - time.monotonic()
        print(f"{stage.name:<24}", end="", flush=True)
        if left < MINIMUM and not stage.missing:
            record: Record = {"status": "skipped", "reason": "no time left", "summary": "no time left"}
        else:
            record = run(stage, min(stage.limit, left), log)
        records.pop(stage.name, None)  # to the end, where it is newest
        records[stage.name] = record
        write(path, results)
        print(f"{record['status']:<12}{record.get('seconds', 0):>6.1f} s  {record['summary']}", flush=True)
        if record["status"] == "interrupted":
            break
    print(tables({stage.name: records[stage.name] for stage in chosen if stage.name in records}))
    if record["status"] == "interrupted":
        print(f"Interrupted; what is done is in {path}", file=sys.stderr)
        return 130
    return 1 if any(stage.test and records[stage.name]["status"] in BAD for stage in chosen) else 0


# ---- tables ------------------------------------------------------------------------------------------------------

COLUMNS = {  # of the kernels' table: title -> figure and its form
    "ours ms": ("ours_ms", ".4f"),
    "fp32 ms": ("ours_fp32_ms", ".4f"),
    "bf16 ms": ("ours_bf16_ms", ".4f"),
    "host ms": ("host_ms", ".3f"),
    "GFLOP/s": ("gflops", ".0f"),
    "GB/s": ("gbps", ".0f"),
    "% fp32": ("percent_of_roof", ".0f"),
    "% tf32": ("percent_of_tf32_roof", ".0f"),
    "tf32": ("ratio_tf32", ".2f"),
    "fp32": ("ratio_fp32", ".2f"),
    "error": ("error", ".0e"),
    "of tf32": ("error_tf32", ".0e"),
}


def tables(records: Mapping[str, Record]) -> str:
    """Kernels, PyTorch's beside them where the stage cudnn ran, and training steps, ours and PyTorch's in tf32 last."""
    lines = []
    kernels = records.get("cudnn", {}).get("rows") or records.get("kernels", {}).get("rows") or []
    if kernels:
        lines += ["", f"{'PyTorch time / ours: in tf32, in fp32':<56}" + "".join(f"{title:>9}" for title in COLUMNS)]
    for row in kernels:
        cells = (f"{'-' if row[key] is None else format(row[key], form):>9}" for key, form in COLUMNS.values())
        lines.append(f"{row['name']:<56}{''.join(cells)}")
    steps = [row for name, record in records.items() if name.startswith("steps-") for row in record.get("rows", [])]
    if steps:
        lines += ["", f"{'a training step':<38}{'':<34}{'ms':>9}{'unread ms':>11}{'images/s':>11}"]
    for row in sorted(steps, key=lambda row: row["row"]):
        start = f"{row['row']:<38}{row['contender']:<34}"
        if "error" in row:
            lines.append(f"{start}  {row['error']}")
        else:
            unread = format(row["unread_ms"], ".3f") if "unread_ms" in row else "-"
            lines.append(f"{start}{row['ms']:>9.3f}{unread:>11}{row['images_per_s']:>11.0f}")
    return "\n".join([*lines, *side_by_side(steps)])


def side_by_side(steps: Sequence[Record]) -> list[str]:
    """How many times as fast ours is, captured, as PyTorch as it stands and as its best graph, all in tf32."""
    times: dict[str, dict[str, float]] = {}
    for row in steps:
        if "ms" in row and row["contender"].endswith("tf32"):
            times.setdefault(row["row"], {})[row["contender"]] = row["ms"]
    lines = []
    for name, ms in times.items():
        ours, cells = ms.get("ours tf32"), []
        for kinds in (("eager",), ("graph", "compiled")):
            theirs = [each for contender, each in ms.items() if contender.startswith(kinds)]
            cells.append(f"{min(theirs) / ours:.2f}" if ours and theirs else "-")
        if cells != ["-", "-"]:
            lines.append(f"{name:<38}{cells[0]:>16}{cells[1]:>22}")
    title = f"{'PyTorch time / ours in tf32':<38}{'eager (goal 2)':>16}{'best graph (goal 1)':>22}"
    return ["", title, *lines] if lines else []


def interrupt(*_: object) -> None:
    """SIGINT and SIGTERM: what runs is ended and written down. A second one changes nothing."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # between two stages
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
