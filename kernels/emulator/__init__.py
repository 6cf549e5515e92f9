"""CUDA C++ kernels on the CPU: the text of a .cu file is compiled by g++ and run, thread by thread.

For tests where there is no GPU, and for readers: it finds races, bad indices and forgotten barriers, and explains
bank conflicts and coalescing line by line (docs/emulator.md). Read cuda.h, then runtime.cpp, then checker.cpp.
"""

from .build import EmulatorError, available
from .checks import Report
from .module import Kernel, Launch, RawModule, Run, running

__all__ = ["EmulatorError", "Kernel", "Launch", "RawModule", "Report", "Run", "available", "running"]
