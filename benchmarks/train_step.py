"""Times whole training steps against PyTorch: python benchmarks/train_step.py

Both first take a step from the same weights, images and random numbers, and must find the same losses; replayed steps
of ours must find those of others to the bit. Then each
contender has a process of its own, with the OpenMP, the malloc and the settings that its users have, and they take
turns: in each round every one takes a step (of the small nets a few) in an order of its own, after a pause in which the
threads of the last one have gone to sleep. Compare within one run only.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from options import NO_TORCH, file, positive, present, thread_count, write
from step_report import FIELDS, Figures, Ready, Turns, figures, markdown, table
from step_rows import ROWS, Row
from tqdm import tqdm
from workers import Worker, WorkerError, environment

LIMIT = 1e-4
"""Largest difference / the larger of |loss| and 1 that the first losses may have."""
PAUSE = 0.02  # seconds before each turn
SEED = 0


class WrongLossError(Exception):
    """The two frameworks do not compute the same thing."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time minigan's training steps, float32, beside PyTorch's.",
        epilog='Example: python benchmarks/train_step.py --filter "28px gan" --rounds 5',
    )
    parser.add_argument("--filter", default="", metavar="TEXT", help="only rows whose name contains this (all)")
    parser.add_argument(
        "--rounds", type=positive, default=15, help="turns of each contender, whose median counts (%(default)s)"
    )
    parser.add_argument("--threads", type=thread_count, default=None, help="of minigan and of PyTorch (all cores)")
    parser.add_argument("--all-rivals", action="store_true", help="also torch.compile and bf16 autocast")
    parser.add_argument("--json", type=file, default=None, metavar="FILE", help="all figures, and what they mean")
    parser.add_argument("--markdown", action="store_true", help="print the table of the README instead")
    return parser.parse_args(words)


def compare(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """WrongLossError if a loss differs by more than LIMIT, or is NaN."""
    for mine, other in zip(ours, theirs, strict=True):
        if not abs(mine - other) <= LIMIT * max(abs(other), 1):
            raise WrongLossError(
                f"{name}: from the same start our loss is {mine:.6g} and PyTorch's {other:.6g}, which differ by more "
                f"than {LIMIT:.0e}; nothing was timed"
            )


def check(names: Sequence[str], threads: int, with_torch: bool) -> None:
    """Compares the first losses of all rows; without PyTorch only sees that ours are computed."""
    task = {"kind": "check", "rows": names, "threads": threads, "with_torch": with_torch}
    with Worker("comparing losses", task, environment(threads)) as worker:
        for name in tqdm(names, "comparing", unit="row"):
            ours, *theirs = worker.answer()
            compare(name, ours, *theirs or [ours])


def fair_rivals(row: Row, threads: int) -> dict[str, dict[str, Any]]:
    """What the task of each variant has besides: a memory format; of points, which have none, a number of threads."""
    if row.size is not None:
        return {layout: {"options": {"layout": layout}} for layout in ("nchw", "channels_last")}
    counts = {"all threads": threads, **({"one thread": 1} if threads > 1 else {})}
    return {variant: {"options": {}, "threads": count} for variant, count in counts.items()}


def measure(name: str, threads: int, rounds: int, order: random.Random, with_torch: bool, all_rivals: bool) -> Figures:
    """All rounds of one row. WorkerError if a contender ends; torch.compile and bf16 may fail to start."""
    row = ROWS[name]
    fair = fair_rivals(row, threads) if with_torch else {}
    settings = environment(1 if row.size is None else threads)  # the example of the toy gives NumPy's BLAS one thread
    workers: dict[str, Worker] = {}
    ready: dict[str, Ready] = {}
    not_run: dict[str, str] = {}
    with ExitStack() as stack:

        def start(contender: str, kind: str, **more: Any) -> None:
            task = {"kind": kind, "row": name, "threads": threads, **more}
            workers[contender] = stack.enter_context(Worker(f"{name}, {contender}", task, settings))

        def begin(contender: str) -> None:
            """Its first steps; nobody else does anything meanwhile."""
            ready[contender] = workers[contender].ask("begin")

        start("ours", "ours", capture=True)
        start("eager", "ours", capture=False)
        for contender, more in fair.items():
            start(contender, "torch", **more)
        if fair:
            start("as written", "torch", options={"optimizer": "default", "as_written": True})
        for worker in workers.values():
            worker.answer()
        for contender in workers:
            begin(contender)
        if fair and all_rivals:
            best = min(fair, key=lambda contender: ready[contender]["ms"])
            more = fair[best]
            for contender, option in (("torch.compile", "compiled"), ("bf16", "bf16")):
                options = {**more["options"], "optimizer": ready[best]["optimizer"], option: True}
                start(contender, "torch", **{**more, "options": options})
                try:
                    workers[contender].answer()
                    begin(contender)
                except WorkerError as error:
                    del workers[contender]
                    not_run[contender] = str(error)
                    print(error, file=sys.stderr)
        turns = [take_turns(workers, row.steps, order) for _ in tqdm(range(rounds), name, unit="round")]
    inside = {}
    for contender, capture in (("ours", True), ("eager", False)):
        task = {"kind": "inside", "row": name, "threads": threads, "capture": capture, "seconds": float(rounds)}
        with Worker(f"{name}, inside {contender}", task, settings) as worker:
            inside[contender] = worker.answer()
    return figures(name, row, ready, inside, turns, not_run)


def take_turns(workers: Mapping[str, Worker], steps: int, order: random.Random) -> Turns:
    """One round: so many steps of everybody."""
    found = {}
    for contender in order.sample(list(workers), len(workers)):
        time.sleep(PAUSE)
        found[contender] = workers[contender].ask(steps)
    return found


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    names = [name for name in ROWS if args.filter in name]
    if not names:
        print(f"No row's name contains {args.filter!r}. The names: {'; '.join(ROWS)}", file=sys.stderr)
        return 2
    with_torch = find_spec("torch") is not None
    if not with_torch:
        print(NO_TORCH, file=sys.stderr)
    rows: list[Figures] = []
    order = random.Random(SEED)
    status, trouble = 0, ""
    try:
        task = {"kind": "machine", "threads": args.threads}
        with Worker("measuring the machine", task, environment(args.threads)) as worker:
            here = worker.answer()
        present(here)
        check(names, here["threads"], with_torch)
        for name in names:
            rows.append(measure(name, here["threads"], args.rounds, order, with_torch, args.all_rivals))
    except (WorkerError, WrongLossError) as error:
        status, trouble = 1, str(error)
    except KeyboardInterrupt:
        status, trouble = 130, f"Interrupted; {len(rows)} of {len(names)} rows are complete."
    if rows:
        print(markdown(rows) if args.markdown else table(rows))
        if args.json:
            text = json.dumps({"machine": here, "rounds": args.rounds, "fields": FIELDS, "rows": rows}, indent=1) + "\n"
            write(args.json, lambda part: Path(part).write_text(text))
    if trouble:
        print(trouble if rows else f"{trouble} Nothing is written.", file=sys.stderr)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
