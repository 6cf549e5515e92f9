"""What the programs here share: types of their arguments, how they present the machine, and how they write files.

Imports nothing that is measured. What comes with Numba is imported where it is used, for a program whose own process
has no use of it.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOM = 1 << 20  # bytes that a file to be written may take
BUSY = 0.5  # load average per core
NO_TORCH = "PyTorch is not installed, so there is nothing to compare with: pip install torch"


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def thread_count(text: str) -> int:
    """An argparse type: a number of threads that Numba has."""
    import numba

    most = numba.config.NUMBA_NUM_THREADS
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1 and {most}, the cores that Numba found")
    return int(text)


def file(text: str) -> Path:
    """An argparse type: a file that can be written, as far as one can know before."""
    path = Path(text)
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            raise argparse.ArgumentTypeError(f"{text} is there and is not a file; name another one")
        try:
            part.write_bytes(bytes(ROOM))
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text}: {error.strerror}; name another file") from error
    return path


def present(here: dict[str, Any]) -> None:
    """Prints what machine.describe found, and warns of what disturbs."""
    print(
        f"{here['cpu']}: {here['threads']} of {here['cores']} cores, Numba's threading layer "
        f"{here['threading_layer']}, peak {here['peak_gflops']:.0f} GFLOP/s, copy {here['copy_gbps']:.0f} GB/s\n",
        flush=True,
    )
    if (here["load"] or 0) > BUSY * here["cores"]:
        print(
            f"Other programs run here (load {here['load']:.1f}): what takes less than a slice of the scheduler, some "
            "milliseconds, is not measured now.",
            file=sys.stderr,
        )
    if here["threading_layer"] == "workqueue":
        print(
            "Numba's workqueue layer is slower than OpenMP or TBB, and must not be used by two threads of Python at "
            "once: pip install tbb",
            file=sys.stderr,
        )


def write(path: Path, how: Callable[[str], object]) -> None:
    """`path` whole or not at all. An OSError says which file it was."""
    from minigan.files import replace

    try:
        replace(path, how)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}; the table above is all there is") from error
