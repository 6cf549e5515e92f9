"""What a GPU is and how fast it can be: python gpu_device.py cuda|emulator prints it as a line of JSON."""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from minigan.kernels.device import Device, connect

LANES = {75: 64, 80: 64}
"""Multiply-adds in float32 of a multiprocessor and clock, by architecture; 128 in all that are not here."""
COPIED = 512 << 20  # bytes
HEAD_START_MS = 1.0
BEHIND = 4  # sizes of the L2 cache

Call = Callable[[], Any]


def describe(device: Device) -> dict[str, Any]:
    """The "device" of the JSON file. peak_gflops is clock times lanes; copy_gbps is measured, read and written."""
    import numpy as np

    if device.name == "emulator":
        return {"name": "emulator", "versions": {"numpy": np.__version__}}
    from minigan.kernels.gpu import describe_gpu

    gpu, attributes = describe_gpu(), device.xp.cuda.Device().attributes
    processors, clock = attributes["MultiProcessorCount"], attributes.get("ClockRate", 0)  # kHz
    return {
        "name": gpu.name,
        "architecture": gpu.architecture,
        "multiprocessors": processors,
        "clock_mhz": clock / 1e3,
        "memory_mb": gpu.memory / 1e6,
        "l2_mb": attributes["L2CacheSize"] / 1e6,
        "peak_gflops": 2 * LANES.get(gpu.architecture, 128) * processors * clock / 1e6 or None,
        "copy_gbps": copy_bandwidth(device.xp, min(COPIED, gpu.memory // 8)),
        "versions": {"cupy": gpu.cupy, "runtime": gpu.runtime, "driver": gpu.driver, "numpy": np.__version__},
    }


def copy_bandwidth(xp: Any, size: int) -> float:
    """GB/s, read and written bytes together, of a copy of so many bytes: the best of several."""
    source = xp.ones(size // 4, xp.float32)
    target = xp.empty_like(source)
    clock = EventClock.of_cupy(xp)
    ms = min(clock(lambda: xp.copyto(target, source))[0] for _ in range(10))
    return 2 * int(source.nbytes) / ms / 1e6


class EventClock:
    """Milliseconds of a call on the GPU, between two events of its stream, and on the host.

    Before the call other memory is written to, until the L2 cache has little of the call's data left and the GPU is
    so busy that the host can put all of the call's kernels into the queue: gaps between launches are not measured,
    but the second figure tells how long the host took.
    """

    def __init__(self, write: Call, event: Callable[[], Any], elapsed: Callable[[Any, Any], float]) -> None:
        self.write, self.event, self.elapsed, self.writes = write, event, elapsed, 1
        self(write)
        self.writes = math.ceil(HEAD_START_MS / max(self(write)[0], 1e-3))

    def __call__(self, call: Call) -> tuple[float, float]:
        for _ in range(self.writes):
            self.write()
        start, end = self.event(), self.event()
        start.record()
        began = time.perf_counter_ns()
        call()
        host = (time.perf_counter_ns() - began) / 1e6
        end.record()
        end.synchronize()
        return self.elapsed(start, end), host

    @classmethod
    def of_cupy(cls, xp: Any) -> "EventClock":
        other = xp.zeros(BEHIND * xp.cuda.Device().attributes["L2CacheSize"] // 4, xp.float32)
        return cls(lambda: xp.add(other, 1, out=other), xp.cuda.Event, xp.cuda.get_elapsed_time)

    @classmethod
    def of_torch(cls, torch: Any, l2_mb: float) -> "EventClock":
        other = torch.zeros(BEHIND * int(l2_mb * 1e6) // 4, device="cuda")
        return cls(lambda: other.add_(1), lambda: torch.cuda.Event(enable_timing=True), lambda a, b: a.elapsed_time(b))


def host_clock(call: Call) -> tuple[float, float]:
    """What stands for an EventClock without a GPU: twice the milliseconds on the host."""
    began = time.perf_counter_ns()
    call()
    ms = (time.perf_counter_ns() - began) / 1e6
    return ms, ms


if __name__ == "__main__":
    try:
        print(json.dumps(describe(connect(sys.argv[1]))))
    except (ImportError, RuntimeError) as error:
        sys.exit(str(error))
