"""The one door to Numba: kernels import `njit`, `prange` and the rest from here.

Numba's on-disk cache is keyed by the file of the kernel alone, so an edited helper in another file would leave stale,
wrong machine code behind without a word (numba issue 1833). The cache folder is therefore named after a hash of
every kernel source. `NUMBA_CACHE_DIR` overrides it.

GNU OpenMP's threads wait for work, and for each other, by spinning. On a machine that does anything else besides, the
one that is awaited has lost its core to somebody, and the step takes ten times as long. Ours give up their core
after a fraction of a millisecond. `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` override it.
"""

import atexit
import contextlib
import hashlib
import importlib
import os
import shutil
import tempfile
from pathlib import Path

import numba
from numba import get_num_threads, njit, prange

__all__ = ["get_num_threads", "njit", "prange"]


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder() -> str:
    """In the user's cache; where no home can be written to, a temporary folder of this process."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(base, "minigan", f"numba-{_source_hash()}")
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = tempfile.mkdtemp(prefix="minigan-numba-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# A folder that a parent process of other sources chose and passed on is not the user's choice.
_given = Path(os.environ.get("NUMBA_CACHE_DIR", "minigan/numba-"))
if _given.parent.name == "minigan" and _given.name.startswith("numba-"):
    # Both: the variable is read when Numba is imported, and somebody may have imported it before us.
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = _cache_folder()


def _load_threads() -> None:
    """Loads Numba's OpenMP layer, which reads the variable once; other users of OpenMP keep their own setting."""
    os.environ["GOMP_SPINCOUNT"] = "20000"
    try:
        with contextlib.suppress(ImportError):  # without OpenMP Numba has another layer, which does not spin
            importlib.import_module("numba.np.ufunc.omppool")
    finally:
        del os.environ["GOMP_SPINCOUNT"]


if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    _load_threads()
