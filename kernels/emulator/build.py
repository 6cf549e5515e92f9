"""From the text of a .cu file to a library that can be loaded: g++, and a cache of what it made."""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import cache

HERE = Path(__file__).parent

STATIC_SHARED = 48 << 10
"""Bytes of static shared memory that a block may have, on every GPU."""

DEFINES = ("-DMINIGAN_EMULATOR=1", "-D__CUDA_ARCH__=800")  # the instructions that are emulated are those of sm_80
# DWARF 4: older versions of addr2line confuse the files of version 5.
FLAGS = ("-g1", "-gdwarf-4", "-fPIC", "-w", "-fvisibility=hidden", "-fno-gnu-unique", "-fno-exceptions")
RUNTIME = ("-O2", "-std=c++17", "-fPIC")
LANGUAGE = ("-fno-strict-aliasing", "-ffp-contract=off")
FAST = ("-O2",)
# -fsanitize=thread without its library: the functions that it calls are those of checker.cpp.
CHECKED = ("-O1", "-fsanitize=thread", "-fsanitize=bounds-strict,alignment", "-DMINIGAN_EMULATOR_CHECK=1")


class EmulatorError(RuntimeError):
    """A kernel that cannot be compiled, a launch that a GPU would refuse, or a violation that was found."""


def available() -> bool:
    """Whether kernels can be compiled here: whether this is Linux with a g++."""
    return sys.platform == "linux" and shutil.which("g++") is not None


def _compiler() -> str:
    if sys.platform != "linux":
        raise EmulatorError(f"the emulator loads ELF libraries and runs on Linux only, not on {sys.platform}")
    path = shutil.which("g++")
    if path is None:
        raise EmulatorError(
            "the emulator compiles kernels with g++, which is not on the PATH; "
            "install it: apt install g++, dnf install gcc-c++ or conda install gxx"
        )
    return path


def _hash(*parts: object) -> str:
    compiler = os.stat(_compiler())
    text = repr((parts, compiler.st_size, compiler.st_mtime))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@functools.cache
def _headers() -> str:
    return (HERE / "cuda.h").read_text() + (HERE / "runtime.h").read_text()


def _run(command: Sequence[str], *, cwd: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        lines = done.stderr.replace(cwd + "/", "").splitlines()
        raise EmulatorError("\n".join(["g++ cannot compile the kernel:", *lines[:20]]))
    return done.stdout


def _folder() -> Path:
    """Where compiled code is kept. It is made again if somebody has removed it since."""
    folder = cache.folder("emulator")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _runtime_file() -> Path:
    sources = ["runtime.cpp", "checker.cpp"]
    texts = [(HERE / name).read_text() for name in (*sources, "runtime.h", "checker.h", "fiber.h")]
    path = _folder() / f"runtime-{_hash(*texts, RUNTIME)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = os.path.join(scratch, path.name)
            link = ["-shared", f"-Wl,-soname,{path.name}", "-o", made]
            _run([_compiler(), *RUNTIME, *(str(HERE / name) for name in sources), *link], cwd=scratch)
            os.replace(made, path)  # whole or not at all, however many processes do this at once
    return path


@functools.cache
def runtime() -> ctypes.CDLL:
    """The scheduler and the checker, one for all kernels of the process."""
    library = ctypes.CDLL(str(_runtime_file()))
    library.emulator_launch.restype = ctypes.c_char_p
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        library.emulator_handle_interrupts()
    library.emulator_reports.restype = library.emulator_accesses.restype = ctypes.c_size_t
    return library


def library_file(text: str, name: str, options: Sequence[str], expressions: Sequence[str], checked: bool) -> Path:
    """The compiled library of a .cu text, from the cache if it was compiled before. EmulatorError where g++ refuses.

    name: what messages call the text, up to its first #line. options: NVRTC's; those that mean nothing to g++ are
    left out. expressions: instantiated templates, such as "product<float, 32>". checked: with the checker's calls.
    """
    flags = [*DEFINES, *FLAGS, *LANGUAGE, *(CHECKED if checked else FAST), *_options(options)]
    # What it includes is a part of the text: then it is preprocessed even where the library turns out to be there.
    plain = _preprocessed(text, name, flags) if INCLUDE.search(text) else None
    parts = (plain or text, name, flags, list(expressions), _headers(), _runtime_file().name)
    path = _folder() / f"kernel-{_hash(*parts)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            _build(path, plain or _preprocessed(text, name, flags), flags, expressions, scratch)
    return path


def _preprocessed(text: str, name: str, flags: Sequence[str]) -> str:
    """Without cuda.h: so that kernels can be found, those that macros write out included."""
    macros = [flag for flag in flags if flag.startswith(("-D", "-U", "-I", "-std="))]
    command = [_compiler(), "-E", "-w", "-x", "c++", *macros, "-"]
    return _run(command, cwd=str(_folder()), text=f'#line 1 "{name}"\n{text}')


def _build(path: Path, plain: str, flags: Sequence[str], expressions: Sequence[str], scratch: str) -> None:
    compiler, whole = _compiler(), os.path.join(scratch, "whole.cpp")
    kernels = kernel_names(plain)
    exports = [f"EMULATOR_KERNEL({kernel}, ({bounds}), {kernel})" for kernel, bounds in kernels.items()]
    exports += [f"EMULATOR_KERNEL({symbol_of(e)}, ({NO_BOUNDS}), {e})" for e in expressions]
    names = " ".join(kernels)
    exports.append(f'extern "C" EMULATOR_EXPORT const char* emulator_kernels() {{ return "{names}"; }}')
    plain = EXTERN_SHARED.sub(r"EMULATOR_DYNAMIC_SHARED(\1);", plain)
    Path(whole).write_text('#include "cuda.h"\n' + plain + '\n#line 1 "exports"\n' + "\n".join(exports) + "\n")
    made, linked = os.path.join(scratch, "kernel.o"), os.path.join(scratch, path.name)
    _run([compiler, *flags, f"-I{HERE}", f"-fdebug-prefix-map={scratch}=.", "-c", whole, "-o", made], cwd=scratch)
    _refuse_what_nvcc_refuses(made)
    link = [compiler, "-shared", made, str(_runtime_file()), "-Wl,-rpath,$ORIGIN", "-o", linked]
    _run(link, cwd=scratch)
    os.replace(linked, path)


INCLUDE = re.compile(r"#\s*include\b")
EXTERN_SHARED = re.compile(r"extern\s+__shared__\s+([^;{}]*?\[\s*\])\s*;")
KERNEL = re.compile(
    r"""(?P<template>template\s*<[^;{}]*>\s*)?(?P<c>extern\s*"C"\s*)?
        __global__\s+(?:void\s+)?
        (?:__launch_bounds__\s*\((?P<bounds>(?:[^()]|\([^()]*\))*)\)\s*)?(?:void\s+)?(?P<name>\w+)\s*\(""",
    re.VERBOSE,
)
NO_BOUNDS = "1024"


def kernel_names(text: str) -> dict[str, str]:
    """The kernels of a preprocessed text that can be launched by name, those with C names, and their launch bounds."""
    block = re.search(r'extern\s*"C"\s*\{', text) is not None
    found = [m for m in KERNEL.finditer(text) if not m["template"] and (m["c"] or block)]
    return {m["name"]: m["bounds"] or NO_BOUNDS for m in found}


def symbol_of(expression: str) -> str:
    """The C name under which an instantiated template is exported."""
    return "template_" + hashlib.sha256(expression.encode()).hexdigest()[:16]


def _options(options: Sequence[str]) -> list[str]:
    """Those of NVRTC's options that mean something to g++: macros, folders and the language."""
    kept, rest = [], iter(options)
    for option in rest:
        option = option.replace("--define-macro=", "-D").replace("--include-path=", "-I").replace("--std=", "-std=")
        if option in ("-D", "-U", "-I"):
            option += next(rest, "")
        if option.startswith(("-D", "-U", "-I", "-std=")):
            kept.append(option)
    return kept if any(option.startswith("-std=") for option in kept) else ["-std=c++17", *kept]


def symbols(path: str | Path) -> list[tuple[int, int, str, str]]:
    """(address, bytes, kind, name) of the variables of a compiled file, names as C++ writes them."""
    listing = subprocess.run(["nm", "-S", "-C", str(path)], capture_output=True, text=True, check=True).stdout
    parts = [line.split(None, 3) for line in listing.splitlines()]
    return [(int(p[0], 16), int(p[1], 16), p[2], p[3]) for p in parts if len(p) == 4 and p[2] in "bBdDuV"]


def _refuse_what_nvcc_refuses(made: str) -> None:
    shared: dict[str, int] = {}
    for _, size, kind, name in symbols(made):
        function, inside, _ = name.rpartition("::")
        if not inside:
            raise EmulatorError(
                f"{name}: the emulator has no global __device__ or __constant__ variables (it would poison them "
                "together with shared memory); pass an array, or make it constexpr"
            )
        if kind in "bBuV":
            shared[function] = shared.get(function, 0) + size
    for function, size in shared.items():
        if size > STATIC_SHARED:
            raise EmulatorError(
                f"{function}: {size} bytes of static __shared__ arrays, of which a GPU has {STATIC_SHARED}; "
                "use `extern __shared__` and shared_mem= for more"
            )
