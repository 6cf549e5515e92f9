"""The first import and the first kernel, in processes of their own: what they load, and where machine code is kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("numba", "llvmlite", "matplotlib", "scipy", "PIL", "safetensors", "tqdm", "http.client")

# Waits for a line of input, so that two of these compile at the same moment.
KERNEL = """
import os
import sys

import numpy as np
from minigan import kernels
from minigan.kernels.activation.cpu import _tanh_backward

print("ready", flush=True)
sys.stdin.readline()
gy, y = np.linspace(-1, 1, 50), np.linspace(-0.9, 0.9, 50)
np.testing.assert_allclose(kernels.tanh_backward(gy, y), gy * (1 - y * y), rtol=1e-12)
stats = _tanh_backward.versions[0].stats
print(os.environ["NUMBA_CACHE_DIR"], sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def start(program: str = KERNEL, tree: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    """A new Python that knows nothing of this one's cache, nor of a home."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd=tree,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str]) -> tuple[Path, int, int]:
    """Lets a KERNEL go on: its cache folder, hits and misses."""
    out, err = process.communicate("go\n")
    assert (process.returncode, err) == (0, "")
    folder, hits, misses = out.splitlines()[-1].rsplit(" ", 2)
    return Path(folder), int(hits), int(misses)


def test_the_import_loads_nothing_heavy() -> None:
    process = start(f"import sys, minigan; print(*sorted({set(HEAVY)} & set(sys.modules)))")
    assert process.communicate() == ("\n", "")


def test_two_processes_fill_one_cold_cache_and_the_next_reads_it(tmp_path: Path) -> None:
    both = [start(XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert both[0].stdin is not None
    both[0].stdin.write("go\n")
    both[0].stdin.flush()
    for process in reversed(both):
        folder, hits, misses = finish(process)
        assert folder.parent == tmp_path / "minigan"
        assert hits + misses == 1
    assert finish(start(XDG_CACHE_HOME=str(tmp_path))) == (folder, 1, 0)
    assert not list(folder.rglob("*.tmp.*"))  # what Numba names a file that it has not finished


def test_a_source_tree_that_cannot_be_written_to(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "minigan", tree / "minigan", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(tree.rglob("*"))
    for path in (*before, tree):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        folder, _, misses = finish(start(tree=tree, XDG_CACHE_HOME=str(tmp_path / "cache")))
    finally:
        for path in (tree, *before):
            path.chmod(0o755)
    assert misses == 1
    assert folder.is_relative_to(tmp_path / "cache")
    assert sorted(tree.rglob("*")) == before  # whoever runs this, also one whom no mode keeps from writing


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="elsewhere homes are found otherwise")
def test_without_a_home_the_cache_is_temporary(tmp_path: Path) -> None:
    nobody = "import pwd\n\ndef unknown(user):\n    raise KeyError(user)\n\npwd.getpwuid = unknown\n"
    folder, _, misses = finish(start(nobody + KERNEL, TMPDIR=str(tmp_path)))
    assert misses == 1
    assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())  # gone with its process
    assert not (ROOT / "~").exists()


# Each is the first to call one more kernel. What is compiled while the loop over threads comes from the cache must
# still start the threads when it comes from there itself.
CONVOLUTION = """
import numpy as np
from minigan import kernels
g = kernels.Geometry((1, 1), (0, 0), (1, 1), (8, 8))
kernels.conv2d(np.ones((2, 8, 8, 20), np.float32), np.ones((1, 1, 20, 20), np.float32), g)
"""
SMALL_PRODUCT = """
import numpy as np
from minigan import kernels
kernels.matmul(np.ones((64, 64), np.float32), np.ones((64, 64), np.float32))
"""


def test_a_kernel_from_the_cache_finds_its_threads(tmp_path: Path) -> None:
    for program in (CONVOLUTION, SMALL_PRODUCT, SMALL_PRODUCT):
        process = start(program, XDG_CACHE_HOME=str(tmp_path))
        assert process.communicate() == ("", "")
        assert process.returncode == 0
