"""Trains twice from one seed and compares bits: python gpu_repeat.py cuda|emulator

Prints a line of JSON for each variant, in tf32 and in fp32. Exit code 1 if two trainings differ in a bit of what they
log or of a weight, or if in fp32 their first losses are not those of the reference kernels on the CPU.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from step_rows import WGAN_GP, Row
from steps import Ours

from minigan import kernels
from minigan.tensor import Array

VARIANTS = {
    "gan": Row("gan", 28, 16),
    "wgan-clip": Row("wgan-clip", 28, 16, clip=0.01),
    "wgan-gp": Row(**WGAN_GP, size=28, width=16),
}
PRECISIONS = ("tf32", "fp32")  # of convolutions: the default, and the CPU's
STEPS, FIRST = 20, 5  # FIRST: so many are compared with the CPU; further on differences of rounding grow
LIMIT = 1e-3
"""Largest difference from the CPU / the larger of |loss| and 1."""

Logs = list[dict[str, float]]


def training(row: Row, device: str, steps: int) -> tuple[Logs, dict[str, Array]]:
    """What so many steps log, and G's and D's state in the end, on the host."""
    ours = Ours(row, device, both=True)
    logs = [ours.logs() for _ in range(steps)]
    nets = {"G": ours.G, "D": ours.D}
    return logs, {f"{net}.{key}": array for net in nets for key, array in nets[net].state_dict().items()}


def compare(variant: str, row: Row, device: str, steps: int) -> Iterator[dict[str, Any]]:
    """The lines of a variant; "passed" is the verdict. In tf32 "off_the_cpu" is told, and not judged."""
    with kernels.use("reference"):
        expected, _ = training(row, "cpu", min(FIRST, steps))
    for precision in PRECISIONS:
        with kernels.set_conv_precision(precision):
            (logs, state), (again, other) = (training(row, device, steps) for _ in range(2))
        off = max(difference(here, there) for here, there in zip(expected, logs, strict=False))
        steps_differ = [step for step, (a, b) in enumerate(zip(logs, again, strict=True), 1) if a != b]
        weights_differ = [key for key in state if state[key].tobytes() != other[key].tobytes()]
        yield {
            "variant": variant,
            "precision": precision,
            "steps": steps,
            "passed": not steps_differ and not weights_differ and (precision != "fp32" or off <= LIMIT),
            "steps_that_differ": steps_differ,
            "weights_that_differ": weights_differ,
            "off_the_cpu": off,
            "last_logs": logs[-1],
        }


def difference(expected: Mapping[str, float], found: Mapping[str, float]) -> float:
    """The largest of the losses, relative to the larger of |loss| and 1."""
    keys = [key for key in expected if key.endswith("_loss")]
    return max(abs(found[key] - expected[key]) / max(1, abs(expected[key])) for key in keys)


def main(device: str) -> int:
    passed = True
    for variant, row in VARIANTS.items():
        small = device == "emulator"
        row = replace(row, width=8, batch=2) if small else row
        for found in compare(variant, row, device, 2 if small else STEPS):
            print(json.dumps(found), flush=True)
            passed &= found["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
