"""What the figures of a benchmark depend on: the machine, its limits as measured now, and the software."""

# mypy: disallow-untyped-decorators=False

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from minigan.kernels import simd
from minigan.kernels.jit import njit, prange

Array = NDArray[Any]

PACKAGES = ("numpy", "numba", "llvmlite", "torch")


def describe(threads: int) -> dict[str, Any]:
    """The "machine" of the JSON file. Measures peak and bandwidth on so many threads, in about a second.

    "load" is the system's average over the last minute, of other programs that is, unless this one ran just before.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    peak, bandwidth = peak_gflops(threads), copy_bandwidth()
    return {
        **identity(threads),
        "features": [feature[1:] for feature in simd._FEATURES.split(",") if feature.startswith("+")],
        "cores": cores(),
        "load": load,
        "peak_gflops": peak,
        "copy_gbps": bandwidth,
        "threading_layer": numba.threading_layer(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def identity(threads: int) -> dict[str, Any]:
    """What must be the same for figures to stand in one table."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"cpu": cpu_model(), "threads": threads, "versions": versions}


def cores() -> int:
    """Those that this process may use, as far as the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def peak_gflops(threads: int) -> float:
    """Multiply-adds of float32 on independent accumulators, two operations each: the best of several runs."""
    depth, repeats = 256, 4000
    a = np.zeros(1, np.float32)
    tile = simd.MR * simd.columns(a)
    b, c = np.zeros(depth * simd.columns(a), np.float32), np.zeros(threads * tile, np.float32)
    return 2 * threads * repeats * depth * tile / best(100, lambda: _tiles(a, b, c, threads, depth, repeats)) / 1e9


def copy_bandwidth() -> float:
    """GB/s, read and written bytes together, of a copy that no cache holds."""
    source = np.ones(1 << 25, np.float32)
    target = np.zeros_like(source)
    return 2 * source.nbytes / best(8, lambda: _copy(source, target)) / 1e9


def best(runs: int, call: Callable[[], Any]) -> float:
    """Seconds of the fastest of so many calls, after one that compiles."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@njit(parallel=True, cache=True)
def _tiles(a: Array, b: Array, c: Array, threads: int, depth: int, repeats: int) -> None:
    """The innermost loop of all matrix products, on one element of A and a B that stays in the first-level cache."""
    tile = simd.MR * simd.columns(c)
    for thread in prange(threads):
        for _ in range(repeats):
            simd.gemm_tile(a, 0, 0, 0, b, 0, c, np.intp(thread) * tile, simd.columns(c), depth, False)


@njit(parallel=True, cache=True)
def _copy(source: Array, target: Array) -> None:
    for i in prange(source.size):
        target[i] = source[i]
