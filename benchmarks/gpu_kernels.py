"""Times the kernels on a GPU, on the layers of the DCGANs: python gpu_kernels.py cuda|emulator [--rivals]

Prints a line of JSON for each row. With --rivals PyTorch's kernels, cuDNN's for the most part, take turns with ours: in
each round everybody is timed once, in an order of its own, and a ratio is the median over the rounds.
"""

# First: see there.
import rival  # isort: split

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from math import prod
from statistics import median
from typing import Any

import numpy as np
from cases import BATCH, MEMORY, MIDDLE, Case, Contenders, cases, normal
from gpu_device import EventClock, describe, host_clock
from options import NO_TORCH
from rival import IMAGE, LAYOUTS, Array, Call

from minigan import kernels

NETS = ((28, 32), (64, 64), (28, 64))
"""Pixels of the images and width; what the quick trainings use comes first, should the time run out."""
SMALL_NETS = ((28, 1),)
ROUNDS, SMALL_ROUNDS = 11, 2
WARM = 3
SEED = 0

Clock = Callable[[Call], tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time minigan's kernels on a GPU.")
    parser.add_argument("device", choices=("cuda", "emulator"))
    parser.add_argument("--rivals", action="store_true", help="PyTorch's kernels, too")
    args = parser.parse_args()
    if args.rivals and not rival.torch:
        sys.exit(NO_TORCH)
    small, order = args.device == "emulator", random.Random(SEED)
    device = kernels.connect(args.device)
    here = describe(device)
    if not args.rivals:
        rival.torch = None  # builds no arrays of its
    else:
        rival.torch.set_grad_enabled(False)
        rival.torch.backends.cudnn.benchmark = True
    ours_clock, torch_clock = clocks(device, here, args.rivals)
    rows = cases(SMALL_NETS, 2) if small else cases(NETS)
    for name, case in (rows | more(small)).items():
        contenders = case.build(args.device)
        checked = error(contenders) if args.rivals else None
        calls = {"ours": (ours_clock, contenders.ours), **rivals(contenders, torch_clock)}
        rounds = take_rounds(calls, SMALL_ROUNDS if small else ROUNDS, order)
        print(json.dumps({"name": name, **figures(case, rounds, here), "error": checked}), flush=True)


def clocks(device: Any, here: Mapping[str, Any], with_torch: bool) -> tuple[Clock, Clock]:
    """Ours and PyTorch's: each writes to other memory, and times its own stream, by its framework's means."""
    if device.name == "emulator":
        return host_clock, host_clock
    ours = EventClock.of_cupy(device.xp)
    return ours, EventClock.of_torch(rival.torch, here["l2_mb"]) if with_torch else ours


def rivals(contenders: Contenders, clock: Clock) -> dict[str, tuple[Clock, Call]]:
    """In both memory formats, products of float32 in full and rounded to TF32."""
    return {
        f"{layout} {precision}": (clock, partial(in_precision, precision == "tf32", call))
        for (layout, call), precision in product(contenders.rivals.items(), ("fp32", "tf32"))
    }


def in_precision(tf32: bool, call: Call) -> Any:
    rival.torch.backends.cudnn.allow_tf32 = rival.torch.backends.cuda.matmul.allow_tf32 = tf32
    return call()


def take_rounds(
    calls: Mapping[str, tuple[Clock, Call]], rounds: int, order: random.Random
) -> list[dict[str, tuple[float, float]]]:
    """(milliseconds on the GPU, milliseconds on the host) of everybody, in each round."""
    for _, call in calls.values():
        for _ in range(WARM):  # compiles, and chooses cuDNN's algorithm
            call()
    found = []
    for _ in range(rounds):
        times = {}
        for name in order.sample(list(calls), len(calls)):
            clock, call = calls[name]
            times[name] = clock(call)
        found.append(times)
    return found


def figures(case: Case, rounds: list[dict[str, tuple[float, float]]], here: Mapping[str, Any]) -> dict[str, Any]:
    """Medians over the rounds; ratios are PyTorch's time / ours, in its faster memory format."""
    ms, host_ms = ({who: median(times[who][i] for times in rounds) for who in rounds[0]} for i in range(2))
    ours = ms["ours"]
    values = {
        "kind": case.kind,
        "ours_ms": ours,
        "host_ms": host_ms["ours"],
        "gflops": case.flops / ours / 1e6 if case.flops else None,
        "gbps": case.bytes / ours / 1e6,
        "percent_of_roof": percent_of_roof(case, ours, here),
    }
    for precision in ("fp32", "tf32"):
        names = [f"{layout} {precision}" for layout in LAYOUTS if f"{layout} {precision}" in ms]
        best = min(names, key=ms.__getitem__, default=None)
        values[f"ratio_{precision}"] = median(times[best][0] / times["ours"][0] for times in rounds) if best else None
    rivals_ms = {who: each for who, each in ms.items() if who != "ours"}
    rivals_host_ms = {who: each for who, each in host_ms.items() if who != "ours"}
    return {**values, "torch_ms": rivals_ms, "torch_host_ms": rivals_host_ms}


def percent_of_roof(case: Case, ms: float, here: Mapping[str, Any]) -> float | None:
    """Of the speed that float32's peak and a copy's bandwidth allow; None where the device does not tell them."""
    if not here.get("peak_gflops") or not here.get("copy_gbps"):
        return None
    least: float = max((case.flops or 0) / here["peak_gflops"], case.bytes / here["copy_gbps"]) / 1e6
    return 100 * least / ms


def error(contenders: Contenders) -> float:
    """Largest difference from PyTorch in full float32 / largest value; of several arrays, the worst."""
    ours = contenders.ours()
    theirs = in_precision(False, contenders.rivals["nchw"])
    pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (ours, theirs)), strict=True)
    return max(
        float(np.abs(kernels.to_host(mine) - other).max() / np.abs(other).max())
        for mine, other in ((mine, rival.array(other, contenders.axes)) for mine, other in pairs)
    )


# ---- what the DCGANs with batch norm lack -------------------------------------------------------------------------


def more(small: bool) -> dict[str, Case]:
    """A critic's bias with its activation, the products of the toy's layers, and one large product."""
    batch = 2 if small else BATCH
    rows = {}
    for h, c in ((4, 4),) if small else ((14, 32), (32, 64), (16, 128)):
        shape = (batch, h, h, c)
        for what, moved in (("forward", 2), ("backward", 3)):
            build = partial(_bias_act if what == "forward" else _bias_act_backward, shape)
            label = f"{h}x{h}x{c}"
            rows[f"bias_act {what} {label}"] = Case(
                0, c, f"bias_act {what}", label, "", MEMORY, 4 * moved * prod(shape), build
            )
    for I, K, J in ((5, 6, 7),) if small else ((256, 2, 128), (256, 128, 128), (4096, 4096, 4096)):
        moved, label = 4 * (I * K + K * J + I * J), f"{I}x{K} {K}x{J}"
        build = partial(_matmul, I, K, J)
        rows[f"matmul {label}"] = Case(0, K, "matmul", label, "", MIDDLE, moved, build, 2 * I * K * J)
    return rows


SLOPE = 0.2


def _bias_act(shape: tuple[int, ...], device: str) -> Contenders:
    x, b = normal("x", *shape), normal("beta", shape[3])
    mine = [kernels.move(array, device) for array in (x, b)]

    def theirs(layout: str) -> Call:
        source, bias = _image(x, layout, device), rival.vector(b, _torchs(device)).view(1, -1, 1, 1)
        return lambda: rival.torch.nn.functional.leaky_relu_(source + bias, SLOPE)

    return Contenders(lambda: kernels.bias_act(*mine, SLOPE), lambda: None, _in_layouts(theirs))


def _bias_act_backward(shape: tuple[int, ...], device: str) -> Contenders:
    gy, y = normal("y", *shape), normal("x", *shape)
    mine = [kernels.move(array, device) for array in (gy, y)]

    def theirs(layout: str) -> Call:
        gradient, result = (_image(array, layout, device) for array in (gy, y))

        def backward() -> Any:
            gx = rival.torch.ops.aten.leaky_relu_backward(gradient, result, SLOPE, True)
            return gx, gx.sum((0, 2, 3))

        return backward

    return Contenders(lambda: kernels.bias_act_backward(*mine, SLOPE), lambda: None, _in_layouts(theirs))


def _matmul(I: int, K: int, J: int, device: str) -> Contenders:
    a, b = normal("x", I, K), normal("w", K, J)
    mine = [kernels.move(array, device) for array in (a, b)]
    if not rival.torch:
        return Contenders(lambda: kernels.matmul(*mine), lambda: None, {})
    theirs = [rival.vector(array, _torchs(device)) for array in (a, b)]
    return Contenders(lambda: kernels.matmul(*mine), lambda: None, {"nchw": lambda: rival.torch.matmul(*theirs)})


def _in_layouts(call: Callable[[str], Call]) -> dict[str, Call]:
    return {layout: call(layout) for layout in LAYOUTS} if rival.torch else {}


def _image(array: Array, layout: str, device: str) -> Any:
    return rival.tensor(array, IMAGE, layout, _torchs(device))


def _torchs(device: str) -> str:
    return "cuda" if device == "cuda" else "cpu"


if __name__ == "__main__":
    main()
