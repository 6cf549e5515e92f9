"""The one door to Numba: kernels import `njit`, `prange` and the rest from here.

Numba's on-disk cache is keyed by the file of the kernel alone, so an edited helper in another file would leave stale,
wrong machine code behind without a word (numba issue 1833). The cache folder is therefore named after a hash of
every kernel source. `NUMBA_CACHE_DIR` overrides it.

GNU OpenMP's threads wait for work, and for each other, by spinning. On a machine that does anything else besides, the
one that is awaited has lost its core to somebody, and the step takes ten times as long. Ours give up their core
after a fraction of a millisecond. `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` override it.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import sys
from pathlib import Path

import numba
from numba import get_num_threads, prange

from . import cache
from .dispatch import refuse
from .memory import keep_freed

__all__ = ["get_num_threads", "inner", "njit", "prange"]

# Without the entry for callers in C that Numba compiles for each function.
njit = functools.partial(numba.njit, no_cfunc_wrapper=True)

inner = functools.partial(njit, no_cpython_wrapper=True)
"""`njit` for what only compiled code calls: without the entry for Python, either. Called from Python it crashes."""


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# A folder that a parent process of other sources chose and passed on is not the user's choice.
_given = Path(os.environ.get("NUMBA_CACHE_DIR", "minigan/numba-"))
if _given.parent.name == "minigan" and _given.name.startswith("numba-"):
    # Both: the variable is read when Numba is imported, and somebody may have imported it before us.
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(cache.folder(f"numba-{_source_hash()}"))


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

keep_freed()


def shared_safely() -> bool:
    """Whether Python threads may run kernels at once. On Numba's workqueue, its layer without OpenMP, they may not."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        return False
    asked, first = str(numba.config.THREADING_LAYER).lower(), str(numba.config.THREADING_LAYER_PRIORITY[0]).lower()
    return asked not in ("workqueue", "forksafe") and first != "workqueue"


def _after_fork() -> None:
    """In a child process: where GNU OpenMP, which is that of Linux, has had threads, Numba would end the child."""
    with contextlib.suppress(ValueError):  # no threads were started
        if numba.threading_layer() == "omp" and sys.platform == "linux":
            refuse(
                "this process was forked from one that had run kernels on several threads, which do not survive a "
                "fork; start it by multiprocessing.get_context('spawn'), or before the first kernel runs, or select "
                "the NumPy kernels: minigan.kernels.use('reference')"
            )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
