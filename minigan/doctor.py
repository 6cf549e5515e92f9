"""What works on this machine: `python -m minigan.doctor`.

Prints versions and devices, runs a kernel on each device and compares the result, and says what to install for those
that do not work. Ends with exit code 0 if there is a device that trains, else 1.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import NamedTuple

import numpy as np

from . import kernels
from ._version import __version__
from .kernels import gpu, nvrtc
from .kernels.device import connect
from .kernels.dispatch import numba_available
from .kernels.random import reference

WIDTH = 110  # of the screen, in letters
NUMBERS = 1000
PACKAGES = "numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "cupy", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"


class Finding(NamedTuple):
    """One device: whether kernels run there, and on what, or why not and what to do."""

    device: str
    works: bool
    text: str


def main(as_json: bool = False) -> int:
    """Prints everything, as text or as JSON, and returns the exit code."""
    if as_json:
        findings = [examine(name) for name in describers()]
        print(json.dumps({"minigan": __version__, **dict(versions()), "devices": [f._asdict() for f in findings]}))
        return 0 if any(finding.works for finding in findings) else 1
    print(f"minigan {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}\n")
    for name, text in versions():
        print(f"  {name:<24}{text}")
    print()
    findings = [examine(name) for name in describers()]
    for device, works, text in findings:
        line = f"  {device:<12}{'works' if works else 'does not':<12}{text}"
        print(textwrap.fill(line, WIDTH, subsequent_indent=26 * " ", break_on_hyphens=False))
    able = [finding.device for finding in findings if finding.works]
    print(f"\nTraining works on: {', '.join(able)}." if able else "\nTraining does not work here.")
    return 0 if able else 1


def versions() -> Iterator[tuple[str, str]]:
    """Name and version of everything that kernels are made with. Of packages that exclude each other, those there."""
    for package in PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in ("numpy", "numba"):
                yield package, "not installed"
    driver = gpu.driver_version()
    yield "NVIDIA driver", "none" if driver is None else f"knows CUDA {driver // 1000}.{driver % 1000 // 10}"
    try:
        compiler = nvrtc.version()
    except nvrtc.CompilerNotFound:
        compiler = "none (needed on a GPU, and for tests that compile without one)"
    yield "CUDA compiler", compiler
    yield "C++ compiler", _first_line("g++", "--version") or "none (needed for the device 'emulator' alone)"
    yield "processor", _processor()


def examine(device: str) -> Finding:
    """Draws random numbers there, which are the same on every device to the last bit."""
    try:
        description = describers()[device]()
        drawn = kernels.uniform(1, 2, NUMBERS, np.float32, out=kernels.empty(NUMBERS, np.float32, device))
        kernels.synchronize()
        right = np.array_equal(kernels.to_host(drawn), reference.uniform(1, 2, NUMBERS, np.float32))
    except Exception as error:  # whatever it is, the other devices are examined as well
        return Finding(device, False, " ".join(str(error).split()) or type(error).__name__)
    return Finding(device, right, description if right else f"{description}: a kernel gives wrong numbers")


def describers() -> dict[str, Callable[[], str]]:
    """For each device a function that says what it is, or raises an error that says why it is not there."""
    return {"cpu": _cpu, "cuda": _cuda, "emulator": _emulator}


def _cpu() -> str:
    if not numba_available():
        return "NumPy's kernels, which are slow: pip install numba"
    threads = kernels.threads()
    return f"Numba kernels on {threads} {'thread' if threads == 1 else 'threads'}"


def _cuda() -> str:
    connect("cuda")
    found = gpu.describe_gpu()
    return (
        f"{found.name}, {found.memory / 2**30:.0f} GB, compute capability {found.architecture / 10}, "
        f"CuPy {found.cupy} for CUDA {found.runtime}"
    )


def _emulator() -> str:
    connect("emulator")
    return "CUDA kernels on the CPU, to read and to test them: many times slower than Numba's"


def _processor() -> str:
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        model = models[0] if models else model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {usable} {'core' if usable == 1 else 'cores'} for this process"


def _first_line(*command: str) -> str:
    """Of what a program prints; nothing if there is no such program."""
    if shutil.which(command[0]) is None:
        return ""
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return lines[0] if lines else ""


if __name__ == "__main__":
    from .cli import main as command_line

    sys.exit(command_line(["doctor", *sys.argv[1:]]))
