"""Times every kernel that the DCGANs use, on every layer, against PyTorch: python benchmarks/kernels.py

Each result is first compared with one computed in float64. Then come rounds; a round times every row once, in an
order of its own, and within a row one call of each contender after the other, in an order of its own: whatever else the
machine does in that second, it does to all of them. 64 MB of other memory are read before each call, which leaves
little of its data in the caches. Compare within one run only.
"""

# First: see there.
import rival  # isort: split

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import numba
import numpy as np
from cases import Case, Contenders, cases
from options import NO_TORCH, file, positive, present, thread_count, write
from report import FIELDS, Checked, Machine, Times, markdown, roofline, row, summary, table
from rival import Array, Call
from tqdm import tqdm

LIMIT = 2e-5
"""Largest error / largest value that a row may have: what winograd4, the least exact algorithm, promises."""

FLUSH = 64 << 20  # bytes
PICTURES = (".png", ".svg", ".pdf")
SEED = 0


class WrongResultError(Exception):
    """A kernel computed something else than its reference."""


def picture(text: str) -> Path:
    """An argparse type: a file that Matplotlib can write."""
    if not text.endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"{text} must end with {', '.join(PICTURES)}")
    return file(text)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time minigan's kernels on the layers of its DCGANs, batch 64, float32, beside PyTorch's.",
        epilog='All rows need 6 GB of memory. Example: python benchmarks/kernels.py --filter "28px conv2d" --rounds 3',
    )
    parser.add_argument("--filter", default="", metavar="TEXT", help="only rows whose name contains this (all)")
    parser.add_argument(
        "--rounds", type=positive, default=15, help="timings of each row, whose median counts (%(default)s)"
    )
    parser.add_argument("--threads", type=thread_count, default=None, help="of minigan and of PyTorch (all cores)")
    parser.add_argument("--json", type=file, default=None, metavar="FILE", help="ms, GFLOP/s, GB/s, errors of all rows")
    parser.add_argument("--picture", type=picture, default=None, metavar="FILE", help="a roofline of the convolutions")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/performance.md instead")
    return parser.parse_args(words)


def timed(call: Call) -> tuple[float, Any]:
    """Milliseconds, and what the call returned."""
    start = time.perf_counter_ns()
    result = call()
    return (time.perf_counter_ns() - start) / 1e6, result


def largest_error(results: Any, truth: Any) -> float:
    """Largest absolute error / largest absolute value; of several arrays, the worst. inf if a shape is wrong."""
    pairs = list(zip(*(x if isinstance(x, tuple) else (x,) for x in (results, truth)), strict=True))
    if any(result.shape != exact.shape for result, exact in pairs):
        return float("inf")
    return max(float(np.abs(result - exact).max() / np.abs(exact).max()) for result, exact in pairs)


def validate(name: str, contenders: Contenders) -> Checked:
    """Every contender's first call, compared with float64. WrongResultError if one is off by more than LIMIT."""
    truth = contenders.truth()
    first_ms, result = timed(contenders.ours)
    errors = {"ours": largest_error(result, truth)}
    if contenders.fresh:
        errors["fresh"] = largest_error(contenders.fresh(), truth)
    for layout, call in contenders.rivals.items():
        result = call()
        several = result if isinstance(result, tuple) else (result,)
        arrays = tuple(rival.array(each, contenders.axes) for each in several)
        errors[layout] = largest_error(arrays, truth)
    for contender, found in errors.items():
        if not found <= LIMIT:  # so that a NaN is found, too
            raise WrongResultError(
                f"{name}: the result ({contender}) is off by {found:.1e} of the largest value, where at most "
                f"{LIMIT:.0e} is right; nothing was timed"
            )
    return Checked(errors, first_ms)


def time_round(contenders: Mapping[str, Contenders], order: random.Random, other: Array) -> dict[str, Times]:
    """One timing of each contender of each row, `other` being read before."""
    times: dict[str, Times] = {}
    for name in order.sample(list(contenders), len(contenders)):
        each = contenders[name]
        calls = {"ours": each.ours, **({"fresh": each.fresh} if each.fresh else {}), **each.rivals}
        times[name] = {}
        for contender in order.sample(list(calls), len(calls)):
            other.sum()
            times[name][contender], result = timed(calls[contender])
            del result  # its memory is free again for the next call
    return times


def choose(args: argparse.Namespace) -> dict[str, Case]:
    """The rows that --filter leaves. ValueError if they are too few for what was asked."""
    every = cases()
    chosen = {name: case for name, case in every.items() if args.filter in name}
    if not chosen:
        some = "; ".join(list(every)[:: len(every) // 4])
        raise ValueError(f"No row's name contains {args.filter!r}. Some names: {some}")
    if args.picture and not any(case.flops for case in chosen.values()):
        raise ValueError(f"--picture shows convolutions, and no row with {args.filter!r} is one.")
    return chosen


def start(threads: int) -> Machine:
    """Sets the threads of everybody, measures the machine and says what there is."""
    numba.set_num_threads(threads)
    if rival.torch:
        rival.start(threads)
    else:
        print(NO_TORCH, file=sys.stderr)
    here = machine.describe(threads)
    present(here)
    return here


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    try:
        chosen = choose(args)
    except ValueError as too_few:
        print(too_few, file=sys.stderr)
        return 2
    here = start(args.threads or numba.config.NUMBA_NUM_THREADS)
    rounds: list[dict[str, Times]] = []
    order, other = random.Random(SEED), np.ones(FLUSH // 4, np.float32)
    trouble = ""
    try:
        contenders = {name: case.build() for name, case in tqdm(chosen.items(), "making arrays", unit="row")}
        checked = {name: validate(name, each) for name, each in tqdm(contenders.items(), "comparing", unit="row")}
        for _ in tqdm(range(args.rounds), "timing", unit="round"):
            rounds.append(time_round(contenders, order, other))
    except WrongResultError as wrong:
        print(wrong, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        trouble = f"Interrupted; {len(rounds)} of {args.rounds} rounds are complete."
    if rounds:
        report(args, here, chosen, checked, rounds)
    if trouble:
        print(trouble if rounds else f"{trouble} Nothing is written.", file=sys.stderr)
    return 130 if trouble else 0


def report(
    args: argparse.Namespace,
    here: Machine,
    chosen: Mapping[str, Case],
    checked: Mapping[str, Checked],
    rounds: Sequence[Mapping[str, Times]],
) -> None:
    """Prints, then writes what was asked for."""
    rows = [
        row(name, case, checked[name], [times[name] for times in rounds], here["peak_gflops"])
        for name, case in chosen.items()
    ]
    print(markdown(rows) if args.markdown else table(rows))
    means = summary(rows)
    if means:
        print(f"\n{means}")
    if args.json:
        text = json.dumps({"machine": here, "rounds": len(rounds), "fields": FIELDS, "rows": rows}, indent=1) + "\n"
        write(args.json, lambda part: Path(part).write_text(text))
    if args.picture:
        write(args.picture, lambda part: roofline(rows, here, part, args.picture.suffix[1:]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
