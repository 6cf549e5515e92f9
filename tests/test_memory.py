"""A training step in its steady state asks the system for no memory."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
STEPS = """
import json, resource
import numpy as np
from minigan import kernels
from minigan.kernels import memory
x = np.ones(1 << 20, np.float32)
def step():
    y = kernels.leaky_relu(x, 0.2)
    z = kernels.leaky_relu(y, 0.2)
    return kernels.leaky_relu_backward(z, y, 0.2)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
before = faults()
for _ in range(20):
    step()
print(json.dumps([memory.keep_freed(), (faults() - before) / 20]))
"""


def run(**environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_memory_of_one_step_serves_the_next() -> None:
    kept, faults = run()
    assert kept
    assert faults < 10  # of 3 arrays of 1024 pages each


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_own_settings_are_left_alone(variable: str) -> None:
    kept, _ = run(**{variable: "1" if variable.startswith("MALLOC") else "glibc.malloc.arena_max=1"})
    assert not kept
