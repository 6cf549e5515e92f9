"""Compiled kernels, each compiled once for all tests that look at it.

Where all of them will be looked at, a process of its own compiles them from the beginning, beside the tests that come
before: `begin`.
"""

import atexit
import functools
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from minigan.kernels import cuda, nvrtc

ROOT = Path(__file__).parent.parent
ARCHITECTURES = (75, 80, 90, 100)  # Turing, Ampere, Hopper, Blackwell

Kept = nvrtc.Compiled | nvrtc.CompileError

_process: subprocess.Popen[bytes] | None = None
_folder = tempfile.TemporaryDirectory(prefix="cubins-")


def begin() -> None:
    """Starts to compile everything, unless there is no compiler."""
    global _process
    try:
        nvrtc.architectures()
    except nvrtc.CompilerNotFound:
        return
    command = [sys.executable, __file__, _folder.name]
    _process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    atexit.register(_process.kill)


@functools.cache
def compiled(source: cuda.Source, variant: int, arch: int) -> nvrtc.Compiled:
    """One of a source's variants for one architecture. CompileError, CompilerNotFound."""
    path = _path(Path(_folder.name), source, variant, arch)
    while _process is not None and not path.exists() and _process.poll() is None:
        time.sleep(0.05)
    kept: Kept = pickle.loads(path.read_bytes()) if path.exists() else _compile(source, variant, arch)
    if isinstance(kept, nvrtc.CompileError):
        raise kept
    return kept


@functools.cache
def instructions(source: cuda.Source, variant: int, arch: int) -> dict[str, Counter[str]]:
    """Of each of its kernels how often every instruction stands in it. CompilerNotFound without a disassembler."""
    return nvrtc.instructions(compiled(source, variant, arch).cubin)


def _compile(source: cuda.Source, variant: int, arch: int) -> Kept:
    try:
        return nvrtc.compile_for(source, source.variants[variant], arch)
    except nvrtc.CompileError as error:
        return error


def _path(folder: Path, source: cuda.Source, variant: int, arch: int) -> Path:
    return folder / f"{source.file.parent.name}-{source.file.stem}-{variant}-{arch}"


def main(folder: Path) -> None:
    known = nvrtc.architectures()
    for source in cuda.sources():
        for variant in range(len(source.variants)):
            for arch in ARCHITECTURES:
                if source.minimum <= arch and arch in known:
                    path = _path(folder, source, variant, arch)
                    part = path.with_suffix(".part")
                    part.write_bytes(pickle.dumps(_compile(source, variant, arch)))
                    part.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
