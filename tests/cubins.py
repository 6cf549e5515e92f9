"""Compiled kernels, each compiled once for all tests that look at it; those of a file and architecture side by side."""

import functools
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from minigan.kernels import cuda, nvrtc

POOL = ThreadPoolExecutor()  # the compiler is a library that lets go of Python's lock


@functools.cache
def _begun(source: cuda.Source, arch: int) -> list[Future[nvrtc.Compiled]]:
    return [POOL.submit(nvrtc.compile_for, source, variant, arch) for variant in source.variants]


def compiled(source: cuda.Source, variant: int, arch: int) -> nvrtc.Compiled:
    """One of a source's variants for one architecture. CompileError, CompilerNotFound."""
    return _begun(source, arch)[variant].result()


@functools.cache
def instructions(source: cuda.Source, variant: int, arch: int) -> dict[str, Counter[str]]:
    """Of each of its kernels how often every instruction stands in it. CompilerNotFound without a disassembler."""
    return nvrtc.instructions(compiled(source, variant, arch).cubin)
