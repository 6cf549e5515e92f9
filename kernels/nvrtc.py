"""CUDA kernels compiled and disassembled without a GPU, and without a driver: by NVRTC, NVIDIA's compiler in a library.

A cubin is what a GPU of one architecture runs. Making it here, for every architecture, shows on any machine whether a
kernel compiles, how many registers a thread takes, and whether the registers sufficed: what does not fit is *spilled*
into local memory, which is as far away as global memory, so a spill counts as an error.

NVRTC comes with the package nvidia-cuda-nvrtc (no other part of CUDA is needed) or with CUDA itself; without NVRTC,
nvcc does the same, several times slower. nvdisasm, which prints the instructions of a cubin (SASS), comes with
nvidia-cuda-nvdisasm.
"""

import ctypes
import ctypes.util
import functools
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import cuda

NO_SPILLS = "-v", "-Werror", "-warn-spills"
"""For ptxas, the last stage of the compiler: report what each kernel uses, and refuse to spill."""


class CompilerNotFound(RuntimeError):
    """Neither NVRTC nor nvcc is installed, or no nvdisasm."""


class CompileError(RuntimeError):
    """The compiler refused the text. The message is its log."""


@dataclass(frozen=True)
class Compiled:
    """A text compiled for one architecture. registers, spills: of each kernel, per thread (spills in bytes)."""

    cubin: bytes
    log: str
    registers: dict[str, int]
    spills: dict[str, int]


def compile_for(source: cuda.Source, macros: cuda.Macros, arch: int) -> Compiled:
    """The file for one set of macros and one architecture (compute capability times 10)."""
    return compile_text(source.text, cuda.options(macros), arch)


def compile_text(text: str, options: Sequence[str], arch: int) -> Compiled:
    """CUDA C++ that includes nothing, as CuPy compiles it. CompileError (also for a spill), CompilerNotFound."""
    options = *options, "-ftz=true", f"-arch=sm_{arch}"  # the first is CuPy's: tiny floats count as zero
    if _library() is not None:
        cubin, log = _nvrtc(text, (*options, *(f"--ptxas-options={option}" for option in NO_SPILLS)))
    elif nvcc := shutil.which("nvcc"):
        cubin, log = _nvcc(nvcc, text, (*options, f"-Xptxas={','.join(NO_SPILLS)}"))
    else:
        raise CompilerNotFound(_MISSING)
    return Compiled(cubin, log, *_used(log))


def architectures() -> tuple[int, ...]:
    """All that the compiler knows. CompilerNotFound without one."""
    if library := _library():
        count = ctypes.c_int()
        _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        known = (ctypes.c_int * count.value)()
        _check(library, library.nvrtcGetSupportedArchs(known))
        return tuple(known)
    if nvcc := shutil.which("nvcc"):
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        return tuple(map(int, re.findall(r"compute_(\d+)\b", listed)))
    raise CompilerNotFound(_MISSING)


def disassemble(cubin: bytes) -> str:
    """The instructions of a cubin. CompilerNotFound without nvdisasm."""
    nvdisasm = next(iter(_in_packages("bin/nvdisasm*")), None) or shutil.which("nvdisasm")
    if nvdisasm is None:
        raise CompilerNotFound("nvdisasm is not installed; it comes with: pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.cubin")
        file.write_bytes(cubin)
        return subprocess.run([nvdisasm, "-c", file], capture_output=True, text=True, check=True).stdout


def instructions(cubin: bytes) -> dict[str, Counter[str]]:
    """Of each kernel how often every instruction stands in it, such as LDG.E.128: a load of 16 bytes from memory."""
    found = {}
    for section in re.split(r"^\.text\.", disassemble(cubin), flags=re.MULTILINE)[1:]:
        name, _, lines = section.partition(":")
        found[name] = Counter(re.findall(r"^\s+/\*\w+\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", lines, re.MULTILINE))
    return found


def version() -> str:
    """The compiler and where it was found, for reports. CompilerNotFound without one."""
    if library := _library():
        major, minor = ctypes.c_int(), ctypes.c_int()
        _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return f"NVRTC {major.value}.{minor.value}"
    if nvcc := shutil.which("nvcc"):
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        release = re.search(r"release ([\d.]+)", said)
        return f"nvcc {release[1]}" if release else "nvcc"
    raise CompilerNotFound(_MISSING)


_MISSING = (
    "neither NVRTC nor nvcc is installed, so CUDA kernels cannot be compiled; NVRTC comes with: "
    "pip install nvidia-cuda-nvrtc (for CUDA 12: nvidia-cuda-nvrtc-cu12)"
)


def _in_packages(pattern: str) -> list[Path]:
    """Files of NVIDIA's Python packages, which lie at nvidia/<component or version>/..."""
    folders = {sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *sys.path}
    found = [file for folder in folders if folder for file in Path(folder, "nvidia").glob(f"*/{pattern}")]
    return sorted(found, reverse=True)  # of two versions the newer one, cu13 before cuda_nvrtc


@functools.cache
def _library() -> ctypes.CDLL | None:
    """NVRTC: of the Python packages, else the system's."""
    packaged = [p for p in _in_packages("lib/libnvrtc.so.*") if "builtins" not in p.name]
    system = ctypes.util.find_library("nvrtc")
    for name in (*map(str, packaged), *([system] if system else [])):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    return None


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise CompileError(library.nvrtcGetErrorString(status).decode())


def _nvrtc(text: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Cubin and log."""
    library = _library()
    assert library is not None
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None))
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = library.nvrtcCompileProgram(program, len(options), given)
        log = _bytes(library, program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            raise CompileError(log or library.nvrtcGetErrorString(status).decode())
        return _bytes(library, program, "CUBIN"), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """The log or the cubin: NVRTC says how long it is, then fills a buffer."""
    size = ctypes.c_size_t()
    _check(library, library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, library[f"nvrtcGet{what}"](program, buffer))
    return buffer.raw


def _nvcc(nvcc: str, text: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Cubin and log."""
    with tempfile.TemporaryDirectory() as folder:
        file, cubin = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        file.write_text(text)
        run = subprocess.run([nvcc, *options, "-cubin", "-o", cubin, file], capture_output=True, text=True)
        if run.returncode:
            raise CompileError(run.stderr)
        return cubin.read_bytes(), run.stderr


def _used(log: str) -> tuple[dict[str, int], dict[str, int]]:
    """Of each kernel the registers and the bytes spilled, from the report of ptxas."""
    registers, spills = {}, {}
    for section in log.split("Compiling entry function ")[1:]:
        name = section.split("'")[1]
        stored = re.search(r"(\d+) bytes spill stores", section)
        used = re.search(r"Used (\d+) registers", section)
        if stored is None or used is None:
            raise CompileError(f"the report of ptxas on {name} cannot be read:\n{section}")
        registers[name], spills[name] = int(used[1]), int(stored[1])
    return registers, spills
