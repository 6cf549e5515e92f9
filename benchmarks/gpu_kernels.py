"""Times the kernels on a GPU, on the layers of the DCGANs: python gpu_kernels.py cuda|emulator [--rivals]

Prints a line of JSON for each row. Convolutions of ours are timed in tf32, which is the default, in fp32 and in bf16;
those of images of few channels compute in fp32 all the same. All other kernels do so, too, whatever is set, and have
one contender, and no ratio in tf32.

With --rivals PyTorch's kernels, cuDNN's for the most part, take turns with ours: in each round everybody is timed once,
in an order of its own, and a ratio, of equal precisions, is the median over the rounds.
"""

# First: see there.
import rival  # isort: split

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from math import prod
from statistics import median
from typing import Any

import numpy as np
from cases import BATCH, MEMORY, MIDDLE, ONE_CHANNEL, Case, Contenders, cases, normal
from gpu_device import EventClock, describe, host_clock
from options import NO_TORCH
from rival import IMAGE, LAYOUTS, WEIGHT, Array, Call

from minigan import kernels
from minigan.kernels import Geometry
from minigan.kernels.conv2d.precision import PRECISIONS

TORCH_PRECISIONS = ("tf32", "fp32")
NETS = ((28, 32), (64, 64), (28, 64))
"""Pixels of the images and width; what the quick trainings use comes first, should the time run out."""
SMALL_NETS = ((28, 8),)
ROUNDS, SMALL_ROUNDS = 11, 2
WARM = 3
SEED = 0
CEILING = 8192  # rows and columns of the product whose speed is tensor cores' ceiling

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
    if args.rivals and not small:
        here["tf32_gflops"] = ceiling(torch_clock)
        print(f"PyTorch's product of two matrices of {CEILING}: {here['tf32_gflops']:.0f} GFLOP/s in tf32", flush=True)
    rows = (cases(SMALL_NETS, 2) if small else cases(NETS)) | fused(small) | more(small)
    for name, case in rows.items():
        contenders = case.build(args.device)
        precisions = PRECISIONS if convolves(case) else ("fp32",)
        errors = {precision: error(contenders, precision) for precision in precisions if args.rivals}
        calls = ours(contenders, ours_clock, precisions) | rivals(contenders, torch_clock, precisions)
        rounds = take_rounds(calls, SMALL_ROUNDS if small else ROUNDS, order)
        default = kernels.conv_precision() if convolves(case) else "fp32"
        found = figures(case, rounds, here, default)
        found |= {"error": errors.get("fp32"), "error_tf32": errors.get("tf32"), "error_bf16": errors.get("bf16")}
        print(json.dumps({"name": name, **found}), flush=True)


def convolves(case: Case) -> bool:
    """Whether the precision of convolutions is that of the row."""
    return case.operation.startswith("conv")


def clocks(device: Any, here: Mapping[str, Any], with_torch: bool) -> tuple[Clock, Clock]:
    """Ours and PyTorch's: each writes to other memory, and times its own stream, by its framework's means."""
    if device.name == "emulator":
        return host_clock, host_clock
    ours = EventClock.of_cupy(device.xp)
    return ours, EventClock.of_torch(rival.torch, here["l2_mb"]) if with_torch else ours


def ceiling(clock: Clock) -> float:
    """GFLOP/s in tf32: of PyTorch's product of two large matrices, the best of several."""
    a = rival.torch.ones(CEILING, CEILING, device="cuda")
    call = partial(in_precision, True, lambda: rival.torch.matmul(a, a))
    call()
    return 2 * CEILING**3 / min(clock(call)[0] for _ in range(5)) / 1e6


def ours(contenders: Contenders, clock: Clock, precisions: Iterable[str]) -> dict[str, tuple[Clock, Call]]:
    return {f"ours {precision}": (clock, partial(in_ours, precision, contenders.ours)) for precision in precisions}


def in_ours(precision: str, call: Call) -> Any:
    with kernels.set_conv_precision(precision):
        return call()


def rivals(contenders: Contenders, clock: Clock, precisions: Iterable[str]) -> dict[str, tuple[Clock, Call]]:
    """In both memory formats, products of float32 in full and rounded to TF32."""
    return {
        f"{layout} {precision}": (clock, partial(in_precision, precision == "tf32", call))
        for (layout, call), precision in product(contenders.rivals.items(), precisions)
        if precision in TORCH_PRECISIONS
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


def figures(
    case: Case, rounds: list[dict[str, tuple[float, float]]], here: Mapping[str, Any], default: str
) -> dict[str, Any]:
    """Medians over the rounds. default: the precision of "ours_ms", "host_ms", "gflops" and "gbps".

    Ratios are PyTorch's time / ours, in its faster memory format and the same precision. Roofs are those of fp32, and
    of tf32 where tensor cores' ceiling was measured.
    """
    ms, host_ms = ({who: median(times[who][i] for times in rounds) for who in rounds[0]} for i in range(2))
    taken = ms[f"ours {default}"]
    values = {
        "kind": case.kind,
        "trio": case.algorithm is not None,
        "precision": default,
        "ours_ms": taken,
        "ours_fp32_ms": ms["ours fp32"],
        "ours_bf16_ms": ms.get("ours bf16"),
        "host_ms": host_ms[f"ours {default}"],
        "gflops": case.flops / taken / 1e6 if case.flops else None,
        "gbps": case.bytes / taken / 1e6,
        "percent_of_roof": percent_of_roof(case, ms["ours fp32"], here.get("peak_gflops"), here),
        "percent_of_tf32_roof": percent_of_roof(case, ms.get("ours tf32"), here.get("tf32_gflops"), here),
    }
    for precision in TORCH_PRECISIONS:
        mine = f"ours {precision}"
        names = [name for layout in LAYOUTS if mine in ms and (name := f"{layout} {precision}") in ms]
        best = min(names, key=ms.__getitem__, default=None)
        values[f"ratio_{precision}"] = median(times[best][0] / times[mine][0] for times in rounds) if best else None
    rivals_ms = {who: each for who, each in ms.items() if not who.startswith("ours")}
    rivals_host_ms = {who: each for who, each in host_ms.items() if who in rivals_ms}
    return {**values, "torch_ms": rivals_ms, "torch_host_ms": rivals_host_ms}


def percent_of_roof(case: Case, ms: float | None, gflops: float | None, here: Mapping[str, Any]) -> float | None:
    """Of the speed that a peak and a copy's bandwidth allow; None without a time, or where these are not known."""
    if not ms or not gflops or not here.get("copy_gbps"):
        return None
    least: float = max((case.flops or 0) / gflops, case.bytes / here["copy_gbps"]) / 1e6
    return 100 * least / ms


def error(contenders: Contenders, precision: str) -> float:
    """Largest difference from PyTorch in full float32 / largest value; of several arrays, the worst."""
    mine = in_ours(precision, contenders.ours)
    theirs = in_precision(False, contenders.rivals["nchw"])
    pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (mine, theirs)), strict=True)
    return max(
        float(np.abs(kernels.to_host(mine) - other).max() / np.abs(other).max())
        for mine, other in ((mine, rival.array(other, contenders.axes)) for mine, other in pairs)
    )


# ---- several layers in one pass ----------------------------------------------------------------------------------


HALVINGS = ((28, 1, 32), (14, 32, 64), (64, 1, 64), (32, 64, 128), (16, 128, 256), (8, 256, 512))
"""Layers whose windows are 4x4 and step by 2: pixels and channels of the larger image, channels of the smaller one."""
SLOPE, EPS = 0.2, 1e-5


def fused(small: bool) -> dict[str, Case]:
    """What a convolution does besides: a bias and an activation, as in critics; a batch norm's statistics, as in G.

    The second rows go on to what the statistics are for, since PyTorch's batch norm shows none before its own result.
    """
    batch = 2 if small else BATCH
    rows = {}
    for h, C, O in ((4, 1, 4), (4, 8, 8)) if small else HALVINGS:
        g = Geometry((2, 2), (1, 1), (4, 4), (h, h))
        x, y, w = (batch, h, h, C), (batch, *g.y_size, O), (*g.window, C, O)
        kind, flops = ONE_CHANNEL if C == 1 else MIDDLE, 2 * prod(y) * 16 * C
        name, label = "conv2d + bias + leaky_relu", f"{h}x{h}x{C}->{O}"
        moved, build = 4 * (prod(x) + prod(y) + prod(w) + O), partial(_conv_bias_act, x, w, g)
        rows[f"{name} {label}"] = Case(0, C, name, label, "", kind, moved, build, flops)
        if C > 1:  # G's last layer has no batch norm
            name, label = "conv_transpose2d + batch_norm + relu", f"{h // 2}x{h // 2}x{O}->{C}"
            moved, build = 4 * (3 * prod(x) + prod(y) + prod(w)), partial(_conv_batch_norm, y, w, g)
            rows[f"{name} {label}"] = Case(0, C, name, label, "", kind, moved, build, flops)
    return rows


def _conv_bias_act(x_shape: tuple[int, ...], w_shape: tuple[int, ...], g: Geometry, device: str) -> Contenders:
    x, w, b = normal("x", *x_shape), normal("w", *w_shape, scale=0.02), normal("beta", w_shape[3])
    mine = [kernels.move(array, device) for array in (x, w, b)]

    def theirs(layout: str) -> Call:
        function, source, bias = rival.torch.nn.functional, _image(x, layout, device), rival.vector(b, _torchs(device))
        weight = rival.tensor(w, WEIGHT, layout, _torchs(device))
        return lambda: function.leaky_relu_(function.conv2d(source, weight, bias, g.stride, g.padding), SLOPE)

    return Contenders(lambda: kernels.conv2d_bias_act(*mine, SLOPE, g), lambda: None, _in_layouts(theirs))


def _conv_batch_norm(y_shape: tuple[int, ...], w_shape: tuple[int, ...], g: Geometry, device: str) -> Contenders:
    y, w, beta = normal("y", *y_shape), normal("w", *w_shape, scale=0.02), normal("beta", w_shape[2])
    gamma = np.ones_like(beta)
    source, weight, scale, shift = (kernels.move(array, device) for array in (y, w, gamma, beta))

    def run() -> Any:
        x, mean, var = kernels.conv_transpose2d_statistics(source, weight, g)
        return kernels.batch_norm_apply(x, mean, kernels.batch_norm_rstd(var, EPS), scale, shift, 0.0)

    def theirs(layout: str) -> Call:
        function, its_source = rival.torch.nn.functional, _image(y, layout, device)
        its_weight = rival.tensor(w, WEIGHT, layout, _torchs(device))
        vectors = [rival.vector(array, _torchs(device)) for array in (gamma, beta)]

        def forward() -> Any:
            x = function.conv_transpose2d(its_source, its_weight, None, g.stride, g.padding)
            return function.relu_(function.batch_norm(x, None, None, *vectors, training=True, eps=EPS))

        return forward

    return Contenders(run, lambda: None, _in_layouts(theirs))


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
