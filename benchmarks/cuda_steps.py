"""One convolution on the way from naive to tensor cores, step by step: python benchmarks/cuda_steps.py

Needs no GPU. The compiler says what each step takes of a multiprocessor, and the emulator what it asks of memory:
docs/cuda.md explains the table. With --report, line by line. How long a step takes on a GPU: benchmarks/gpu.py.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from minigan import kernels
from minigan.kernels import Geometry, cuda, emulator, nvrtc
from minigan.kernels.conv2d import cuda as conv
from minigan.kernels.conv2d import cuda_tensor
from minigan.kernels.emulator.module import Launch
from minigan.kernels.emulator.report import Cost, costs, explain
from minigan.kernels.linear import cuda as linear
from minigan.kernels.linear import cuda_tensor as linear_tensor

ARCHITECTURE = 90
LAYER = Geometry((2, 2), (1, 1), (4, 4), (32, 32))  # as the second layer of D at 64 pixels
CHANNELS = 32, 128
WEIGHT = *LAYER.window, *CHANNELS
TERMS = LAYER.window[0] * LAYER.window[1] * CHANNELS[0]

SWIZZLES = {"((k / 4 ^ at % 8) * 4 + k % 4)": "k", "((at / 4 ^ k / lines % (4 / lines) * 2) * 4 + at % 4)": "at"}
"""In linear/mma_tiles.cuh, and what would stand there if pieces stayed in their places."""


class Step(NamedTuple):
    """A form of the kernel: where its text is, with which macros and changes, and how much of the result is a block's.

    launch: runs one block of it, on arrays of the emulator.
    """

    name: str
    source: cuda.Source
    kernel: str
    macros: cuda.Macros
    products: int  # of a block
    launch: Callable[[Any, Any, Any], None]
    changes: Mapping[str, str] = {}


def steps() -> list[Step]:
    """In the order in which docs/cuda.md has them."""
    tile, large, small = linear.WIDE, linear_tensor.LARGE, linear_tensor.SMALL
    found = [
        Step("naive", conv.NAIVE, "conv2d_naive", {"REAL": "float"}, 256 * TERMS, naive),
        Step("tiles", conv.SOURCE, "conv2d_tiled", tile.macros, tile.BM * tile.BN * TERMS, tiled),
    ]
    for name, shape, precision, changes in (
        ("tensor cores", small, "tf32", SWIZZLES),
        ("swizzle", small, "tf32", {}),
        ("large tiles", large, "tf32", {}),
        ("bf16", large, "bf16", {}),
    ):
        products = shape.BM * shape.BN * TERMS
        launch = tensor(shape, precision)
        found.append(
            Step(name, cuda_tensor.SOURCE, "conv2d_mma", shape.macros(precision), products, launch, changes)
        )
    return found


SIZES = cuda_tensor.sizes_of(1, *CHANNELS, LAYER)


def naive(x: Any, w: Any, y: Any) -> None:
    conv.NAIVE.launch("conv2d_naive", (1,), (256,), [x, w, y, SIZES], {"REAL": "float"})


def tiled(x: Any, w: Any, y: Any) -> None:
    args = [x, w, y, SIZES, TERMS]
    conv.SOURCE.launch("conv2d_tiled", (1,), (linear.WIDE.threads,), args, linear.WIDE.macros)


def tensor(tile: linear_tensor.Tile, precision: str) -> Callable[[Any, Any, Any], None]:
    def launch(x: Any, w: Any, y: Any) -> None:
        args = [x, w, y, SIZES, TERMS, None, np.float32(1), None, None]
        block, macros = (tile.threads,), tile.macros(precision)
        cuda_tensor.SOURCE.launch("conv2d_mma", (1,), block, args, macros, shared=tile.shared)

    return launch


def changed(text: str, changes: Mapping[str, str]) -> str:
    """The text of a kernel with each of these places changed. LookupError where there is no such place."""
    for old, new in changes.items():
        if text.count(old) != 1:
            raise LookupError(f"{old!r} stands {text.count(old)} times in the kernel, not once")
        text = text.replace(old, new)
    return text


def compile_step(step: Step) -> nvrtc.Compiled:
    return nvrtc.compile_for(step.source, step.macros, ARCHITECTURE)


def measure(step: Step, compiled_of: Callable[[Step], nvrtc.Compiled] = compile_step) -> tuple[dict[str, Any], Launch]:
    """What the step takes and asks for, and its launch, for a report line by line."""
    source, before = step.source, step.source.text
    vars(source)["text"] = changed(before, step.changes)  # in place of the cached property
    forget()
    try:
        compiled = compiled_of(step)
        rng, device = np.random.default_rng(0), cuda.connect("emulator")
        x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, *LAYER.x_size, CHANNELS[0]), WEIGHT))
        y = device.array(np.full((1, *LAYER.y_size, CHANNELS[1]), np.nan, np.float32))
        with emulator.running(check=True, log_block=0) as run:
            step.launch(device.array(x), device.array(w), y)
        asked = costs(run.launches[0])
    finally:
        vars(source)["text"] = before
        forget()
    y, in_fp32 = kernels.to_host(y), kernels.conv2d(x, w, LAYER)
    error = np.nanmax(np.abs(y - in_fp32)) / np.abs(in_fp32).max()  # of the block's; the others are NaN
    return {
        "registers": compiled.registers[step.kernel],
        "sectors": per_thousand(asked, "global", step.products),
        "wavefronts": per_thousand(asked, "shared", step.products),
        "best": per_thousand(asked, "shared", step.products, at_best=True),
        "requests": 1000 * sum(cost.requests for cost in asked) / step.products,
        "error": error,
    }, run.launches[0]


def forget() -> None:
    """All that was compiled, since a text is another one now."""
    cuda.Source._function.cache_clear()
    cuda.Source._module.cache_clear()


def per_thousand(asked: list[Cost], memory: str, products: int, at_best: bool = False) -> float:
    """Sectors (wavefronts) of a block for each thousand of its products."""
    of_it = [cost for cost in asked if cost.memory == memory]
    return 1000 * sum(cost.requests * (cost.best if at_best else cost.cost) for cost in of_it) / products


HEAD = """\
| step | registers | loads and stores | sectors | wavefronts | without conflicts | error |
|---|---|---|---|---|---|---|"""


def row(step: Step, found: Mapping[str, Any]) -> str:
    return (
        f"| {step.name} | {found['registers']} | {found['requests']:.2f} | {found['sectors']:.2f} | "
        f"{found['wavefronts']:.2f} | {found['best']:.2f} | {found['error']:.0e} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--report", action="store_true", help="also what each line of each step asks for")
    args = parser.parse_args()
    try:
        reports = []
        print(HEAD)
        for step in steps():
            found, launch = measure(step)
            print(row(step, found), flush=True)
            if args.report:
                reports.append(f"\n==== {step.name}\n\n{explain(launch, 0)}")
    except (nvrtc.CompilerNotFound, emulator.EmulatorError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(*reports, sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
