"""Processes that are forked from one that runs kernels, and threads that run them at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

FORKS = """
import multiprocessing
import os
import sys
import numba
import numpy as np
from minigan import kernels

def words(n):
    return kernels.philox(0, 0, n).size

def attempt():
    try:
        return words(1 << 17)
    except RuntimeError as error:
        with kernels.use("reference"):
            assert words(1 << 17) == 1 << 17
        assert kernels.add(np.ones(8), np.ones(8)).sum() == 16
        return error

def child(label):
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        try:
            print(label, attempt(), sep=": ", flush=True)
        finally:
            os._exit(0)
    print(label, os.waitpid(pid, 0)[1], sep=", status: ")

child("before")
words(8)
child("one core")
words(1 << 17)
child("after")
with kernels.use("cpu"):
    child("cpu")
if os.fork() == 0:
    child("grandchild")
    os._exit(0)
os.wait()
for method in ("fork", "spawn") if numba.threading_layer() == "omp" else ("fork",):
    with multiprocessing.get_context(method).Pool(1) as pool:
        try:
            print(method, pool.apply(kernels.philox, (0, 0, 8)).size, sep=": ")
        except RuntimeError as error:
            print(method, error, sep=": ")
print("parent", attempt(), sep=": ")
"""

THREADS = """
import threading
import numba
import numpy as np
from minigan import kernels

expected = kernels.philox(0, 0, 1 << 17)
wrong = []

def work():
    wrong.extend(i for i in range(200) if not np.array_equal(kernels.philox(0, 0, 1 << 17), expected))

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(numba.threading_layer(), wrong)
"""


def run(program: str, layer: str) -> list[str]:
    """What the program prints, as lines, on this layer of Numba's."""
    if layer == "omp":
        pytest.importorskip("numba.np.ufunc.omppool")
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_forks(layer: str) -> None:
    """The children of a process whose threads are GNU OpenMP's get a sentence, once there are threads; others work."""
    lines = run(FORKS, layer)
    works = "131072"
    sentence = (
        "philox: this process was forked from one that had run kernels on several threads, which do not survive a "
        "fork; start it by multiprocessing.get_context('spawn'), or before the first kernel runs, or select the NumPy "
        "kernels: minigan.kernels.use('reference')"
    )
    forked = sentence if layer == "omp" and sys.platform == "linux" else works
    assert lines == [
        *("before: " + works, "before, status: 0"),
        *("one core: " + works, "one core, status: 0"),
        *("after: " + forked, "after, status: 0"),
        *("cpu: " + forked, "cpu, status: 0"),
        *("grandchild: " + forked, "grandchild, status: 0"),
        "fork: " + ("8" if forked == works else forked),
        *(["spawn: 8"] if layer == "omp" else []),
        "parent: " + works,
    ]


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_run_kernels_at_once(layer: str) -> None:
    """Numba's workqueue would end the process."""
    assert run(THREADS, layer) == [f"{layer} []"]
