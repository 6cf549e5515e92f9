"""`python -m minigan.kernels.emulator FILE.cu`: explains or checks the kernels of a file, without a GPU."""

import argparse
import importlib
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .build import EmulatorError, available
from .module import ORDERS, RawModule, running
from .report import LEGEND, explain, largest

DESCRIPTION = """\
Runs the CUDA kernels of a file on the CPU, and explains them line by line (--report): bank conflicts in shared memory,
coalescing in global memory. Or checks them (--check), in three orders of their threads: races, indices out of bounds,
uninitialised shared memory, misaligned accesses, barriers that not all threads reach.

The engine's own files know how to launch their kernels:

    python -m minigan.kernels.emulator kernels/conv2d/conv2d.cu --report

For any other file, say how one is launched. Arrays are filled with random numbers, single numbers are given:

    python -m minigan.kernels.emulator saxpy.cu --kernel saxpy --grid 4 --block 256 \\
        --args "f32=2 f32[1024] f32[1024] i32=1024"
"""

TYPES = {
    "f32": np.float32, "f64": np.float64, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage in front of it."""
        self.exit(2, f"{message}; see --help\n")


class UsageError(Exception):
    pass


def parser() -> Parser:
    parser = Parser(
        prog="python -m minigan.kernels.emulator",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0, 1 if violations were found, 2 for what cannot be run.",
    )
    parser.add_argument("file", type=Path, help="the .cu file")
    parser.add_argument("--report", action="store_true", help="explain memory accesses line by line (the default)")
    parser.add_argument("--check", action="store_true", help="check in the orders " + ", ".join(ORDERS))
    parser.add_argument("--kernel", metavar="NAME", help="report on this kernel only, or launch it, with --grid")
    parser.add_argument("--show", type=int, default=0, metavar="BLOCK", help="the block to report on (default 0)")
    launch = parser.add_argument_group("how to launch a kernel of a file of your own")
    launch.add_argument("--grid", type=size, metavar="X[,Y[,Z]]", help="blocks")
    launch.add_argument("--block", type=size, metavar="X[,Y[,Z]]", help="threads of a block")
    launch.add_argument(
        "--args", metavar="LIST", default="", help=f"TYPE[SHAPE] or TYPE=VALUE each; types: {' '.join(TYPES)}"
    )
    launch.add_argument("--shared", type=int, default=0, metavar="BYTES", help="dynamic shared memory")
    launch.add_argument("-D", dest="macros", action="append", default=[], metavar="NAME=VALUE", help="a macro")
    return parser


def size(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.split("[,x]", text))


def argument(text: str, random: np.random.Generator) -> Any:
    """An array of random numbers for "f32[8,64]", the number for "i32=8"."""
    match = re.fullmatch(r"(\w+)(?:\[([\d,]+)\]|=(\S+))", text)
    if not match or match[1] not in TYPES:
        raise UsageError(f"argument {text!r} is neither TYPE[SHAPE] nor TYPE=VALUE, with a type of {', '.join(TYPES)}")
    dtype = np.dtype(TYPES[match[1]])
    try:
        if match[3] is not None:
            return dtype.type(float(match[3]) if dtype.kind == "f" else int(match[3]))
        shape = [int(n) for n in match[2].split(",") if n]
    except (ValueError, OverflowError) as error:
        raise UsageError(f"argument {text!r}: {error}") from None
    return (random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 100, shape)).astype(dtype)


Launch = tuple[Callable[[], None], list[str]]
"""A function that launches kernels, and the names of those to report on."""


def own_launch(options: argparse.Namespace) -> Launch:
    """What the command line describes."""
    if None in (options.kernel, options.grid, options.block):
        raise UsageError(f"{options.file} is none of the engine's files: say --kernel, --grid, --block and --args")
    macros = [f"-I{options.file.resolve().parent}", *(f"-D{macro}" for macro in options.macros)]
    module = RawModule(path=options.file, options=macros)

    def launch() -> None:
        random = np.random.default_rng(0)
        args = [argument(text, random) for text in options.args.split()]
        kernel = module.get_function(options.kernel)
        kernel.max_dynamic_shared_size_bytes = max(options.shared, kernel.max_dynamic_shared_size_bytes)
        kernel(options.grid, options.block, args, shared_mem=options.shared)

    return launch, [options.kernel]


def engine_launch(options: argparse.Namespace) -> Launch:
    """The examples of one of the engine's files."""
    package = (__package__ or "").rpartition(".")[0]
    cuda = importlib.import_module(f"{package}.cuda")
    file = options.file.resolve()
    if file.is_relative_to(cuda.KERNELS_FOLDER.resolve()):
        cuda.sources()
    source = next((s for s in cuda.SOURCES if s.file.resolve() == file), None)
    if source is None:
        return own_launch(options)
    if options.kernel and options.kernel not in source.examples:
        raise UsageError(f"{options.kernel!r} is not among the kernels of {file.name}: {', '.join(source.examples)}")
    wanted = [options.kernel] if options.kernel else list(source.examples)
    examples = list(dict.fromkeys(source.examples[name] for name in wanted))
    device = cuda.connect("emulator")

    def launch() -> None:
        for example in examples:
            example(device)

    return launch, wanted


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if not available():
            RawModule(code="").get_function("")  # says what to install
        if not options.file.is_file():
            raise UsageError(f"there is no file {options.file}")
        launch, kernels = own_launch(options) if options.grid else engine_launch(options)
        violations = check(launch) if options.check else False
        if options.report or not options.check:
            violations |= report(launch, kernels, options.show)
        return 1 if violations else 0
    except (UsageError, ValueError, TypeError, EmulatorError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2


def check(launch: Callable[[], None]) -> bool:
    """Runs the kernels in each order. Whether there were violations, which are printed."""
    violations = False
    for order in ORDERS:
        with running(order=order, check=True) as run:
            try:
                launch()
                print(f"{order}: nothing found")
            except EmulatorError as error:
                if not run.reports:
                    raise
                violations = True
                print(f"{order}:\n{error}\n")
    return violations


def report(launch: Callable[[], None], kernels: list[str], block: int) -> bool:
    """Runs the kernels and prints what their memory accesses cost. Whether there were violations, which are printed."""
    violations = ""
    with running(check=True, log_block=block) as run:
        try:
            launch()
        except EmulatorError as error:
            if not run.reports:
                raise
            violations = f"\n{error}"
    shown = {kernel: found for kernel, found in largest(run.launches).items() if kernel in kernels}
    for kernel, found in shown.items():
        if not 0 <= block < math.prod(found.grid):
            raise UsageError(f"--show {block}: {kernel} runs in blocks 0 to {math.prod(found.grid) - 1}")
    print(LEGEND)
    for found in shown.values():
        print("\n" + explain(found, block))
    print(end=violations and violations + "\n")
    return bool(violations)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
