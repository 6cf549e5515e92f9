"""Times whole training steps on a GPU, of one contender: python gpu_steps.py ours|eager|graph|compiled cuda|emulator

ours: as the examples train, in each precision of convolutions, and as they do under capture=False. eager: PyTorch as
written in torch_steps.py. graph: its whole step captured as one CUDA graph, which is as little work for the host as
there can be. compiled: its nets by torch.compile, and that as a graph.
Prints a line of JSON for each row and variant. Every step's losses are read, as a training's log has them; PyTorch's
"unread_ms" is without: the host may run ahead.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median
from typing import Any

from step_rows import LARGE_ROWS, ROWS, Row

SMALL = "28px gan step w32 b64"
NAMES = (
    *LARGE_ROWS,  # first, should the time run out
    SMALL,
    "28px gan step w64 b64",
    "64px gan step w64 b64",
    "28px wgan-gp critic step w32 b64",
    "64px wgan-gp critic step w64 b64",
)
WARM, ROUNDS, STEPS = 5, 7, 20

Step = Callable[[], Any]
Variants = Iterator[tuple[str, Callable[[], dict[str, Step]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training steps on a GPU.")
    contenders = {"ours": ours, "eager": eager, "graph": graph, "compiled": compiled}
    parser.add_argument("contender", choices=contenders)
    parser.add_argument("device", choices=("cuda", "emulator"))
    args = parser.parse_args()
    small = args.device == "emulator"
    small_rows = {"28px gan step w8 b2": replace(ROWS[SMALL], width=8, batch=2)}
    for name, row in (small_rows if small else {name: (LARGE_ROWS | ROWS)[name] for name in NAMES}).items():
        for variant, start in contenders[args.contender](row, args.device):
            line: dict[str, Any] = {"row": name, "contender": variant}
            try:
                line |= timed(start(), row.batch, *((1, 1, 1) if small else (WARM, ROUNDS, STEPS)))
            except Exception as error:
                if args.contender == "ours":
                    raise
                line["error"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            print(json.dumps(line), flush=True)


def timed(ways: dict[str, Step], batch: int, warm: int, rounds: int, steps: int) -> dict[str, float]:
    """Milliseconds of a step, by way: medians over the rounds. "wait" among the ways waits for the GPU."""
    wait = ways.pop("wait")
    found = {}
    for way, step in ways.items():
        for _ in range(warm):
            step()
        times = []
        for _ in range(rounds):
            wait()
            start = time.perf_counter()
            for _ in range(steps):
                step()
            wait()
            times.append((time.perf_counter() - start) * 1e3 / steps)
        found[way] = median(times)
    return {**found, "images_per_s": 1e3 * batch / found["ms"]}


def ours(row: Row, device: str) -> Variants:
    from steps import Ours

    from minigan import kernels

    def start(precision: str, capture: bool) -> dict[str, Step]:
        kernels.set_conv_precision(precision)  # until the next variant starts
        return {"ms": Ours(row, device, capture=capture).step, "wait": kernels.synchronize}

    for precision, capture in (("tf32", True), ("fp32", True), ("bf16", True), ("tf32", False)):
        yield f"ours {precision}{'' if capture else ', not captured'}", partial(start, precision, capture)


# ---- PyTorch -----------------------------------------------------------------------------------------------------


def torch_variants(row: Row, device: str, **options: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and maker of a Rival in each memory format, products of float32 in full and rounded to TF32."""
    from rival import LAYOUTS, torch
    from torch_steps import Rival

    torch.backends.cudnn.benchmark = True

    def make(layout: str, tf32: bool) -> Any:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        if options.get("compiled"):
            torch.compiler.reset()  # of one class of net it compiles a few versions, and from then on silently none
        return Rival(row, layout, device="cuda" if device == "cuda" else "cpu", **options)

    for layout, precision in product(LAYOUTS, ("fp32", "tf32")):
        yield f"{layout} {precision}", partial(make, layout, precision == "tf32")


def eager(row: Row, device: str) -> Variants:
    from rival import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for name, make in torch_variants(row, device, optimizer="fused"):
        yield f"eager {name}", partial(as_it_stands, make, wait)


def graph(row: Row, device: str) -> Variants:
    for name, make in torch_variants(row, device, optimizer="capturable"):
        yield f"graph {name}", partial(captured, make)


def compiled(row: Row, device: str) -> Variants:
    """Without the critics: torch.compile does not differentiate a gradient."""
    if row.penalty is not None:
        return
    for name, make in torch_variants(row, device, optimizer="capturable", compiled=True):
        if "tf32" in name:  # the faster precision only: each takes a minute to compile
            yield f"compiled, graph {name}", partial(captured, make)


def as_it_stands(make: Callable[[], Any], wait: Step) -> dict[str, Step]:
    rival = make()
    return {"ms": rival.step, "unread_ms": rival.losses, "wait": wait}


def captured(make: Callable[[], Any]) -> dict[str, Step]:
    """The whole step, optimizers included, as one graph, after steps on another stream as torch.cuda.graph wants."""
    from rival import torch

    rival = make()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            rival.losses()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        losses = torch.stack(rival.losses())

    def step() -> Any:
        recorded.replay()
        return losses.tolist()

    return {"ms": step, "unread_ms": recorded.replay, "wait": torch.cuda.synchronize}


if __name__ == "__main__":
    main()
