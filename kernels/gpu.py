"""The GPU, through CuPy. No other module imports cupy, and this one only when somebody asks for the GPU."""

import ctypes
import importlib
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import cuda

MINIMUM = 75
"""The oldest architecture that the kernels compile for: compute capability 7.5, Turing, 2018."""

EXTRAS = (12, 13)
"""CUDA's major versions for which there is an extra, minigan[cuda...]. A driver runs what is older than itself."""


@dataclass(frozen=True)
class GPU:
    """What there is. memory: bytes; architecture: compute capability times 10; runtime: CuPy's CUDA."""

    name: str
    memory: int
    architecture: int
    cupy: str
    runtime: str
    driver: str


def connect_gpu() -> tuple[Any, Any]:
    """(cupy, cupy.RawModule), once everything that kernels need is there.

    ImportError if CuPy is not; RuntimeError if there is no GPU or no driver, if they are too old, or NVRTC is missing:
    in each case one sentence, with what to do.
    """
    cupy = _cupy()
    _check_driver(cupy)
    gpu = describe_gpu()
    if gpu.architecture < MINIMUM:
        raise RuntimeError(
            f"the GPU, {gpu.name}, has compute capability {gpu.architecture / 10}; minigan's kernels need "
            f"{MINIMUM / 10} (Turing, 2018) or newer"
        )
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # a class of its own, wherever it comes from
        raise RuntimeError(
            "CuPy does not find NVRTC, the library that compiles kernels; it comes with: "
            f"pip install 'minigan[cuda{_major(cupy)}]'"
        ) from error
    return cupy, cupy.RawModule


def describe_gpu() -> GPU:
    """The GPU that kernels run on: the first that CUDA shows to this process. Errors as of `connect_gpu`."""
    cupy = _cupy()
    _check_driver(cupy)
    found = cupy.cuda.runtime.getDeviceProperties(0)
    name = found["name"]
    return GPU(
        name.decode() if isinstance(name, bytes) else name,
        found["totalGlobalMem"],
        10 * found["major"] + found["minor"],
        cupy.__version__,
        _cuda(cupy.cuda.runtime.runtimeGetVersion()),
        _cuda(cupy.cuda.runtime.driverGetVersion()),
    )


def driver_version() -> int | None:
    """The newest CUDA that the driver knows, as 1000 major + 10 minor, asked without CuPy. None without a driver."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            cuda = ctypes.CDLL(library)
        except OSError:
            continue
        version = ctypes.c_int()
        return version.value if cuda.cuDriverGetVersion(ctypes.byref(version)) == 0 else None
    return None


def graph(runs: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    """The kernels that `runs` launch, recorded as a CUDA graph: what launches them all at once, on the current stream.

    Each must have run before, so that its kernels are compiled and its tables are in place. Memory that one takes for
    itself comes from a pool that lives as long as the graph, and so do the arrays that launches are given: from the
    common pool such memory would be handed out again, and the graph would still use it.

    A call that CUDA cannot record, as one that copies from the host, is left out of it and run between two graphs; a
    warning names it.
    """
    cupy = _cupy()
    stream, pool, kept, recorded = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool(), list[Any](), None
    cupy.cuda.get_current_stream().synchronize()
    failed: int | None = None
    number, error = 0, Exception()
    with cuda.recording_a_graph(kept), stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        try:
            for number, run in enumerate(runs):  # noqa: B007 - number says how far it came
                run()
        except Exception as raised:  # CuPy's are of many classes
            failed, error = number, raised
        except BaseException:  # somebody does not want to wait: nothing is to be recorded by this stream any more
            with suppress(Exception):
                stream.end_capture()
            raise
        try:
            recorded = stream.end_capture()
        except Exception as raised:
            if failed is None:
                return _one_by_one(runs, raised)
    if failed is not None:
        _warn(_name(runs[failed]), "is", error)
        parts = [graph(part) if part else None for part in (runs[:failed], runs[failed + 1 :])]
        return _in_turn([part for part in (parts[0], runs[failed], parts[1]) if part is not None])

    def launch(graph: Any = recorded, memory: Any = (pool, kept)) -> None:
        graph.launch(cupy.cuda.get_current_stream())

    return launch


def _one_by_one(runs: Sequence[Callable[[], Any]], error: Exception) -> Callable[[], None]:
    """Without a graph: it is not known which of the calls CUDA has refused."""
    _warn(" or ".join(dict.fromkeys(map(_name, runs))), "and all beside it are", error)
    return _in_turn(runs)


def _in_turn(runs: Sequence[Callable[[], Any]]) -> Callable[[], None]:
    def run() -> None:
        for each in runs:
            each()

    return run


def _name(run: Callable[[], Any]) -> str:
    function = getattr(run, "func", run)
    return str(getattr(function, "name", getattr(function, "__qualname__", function)))


def _warn(name: str, are: str, error: Exception) -> None:
    warnings.warn(
        f"CUDA does not record {name} in a graph ({error}): in a captured step it {are} launched by the host each "
        "time, which is right, but slower",
        RuntimeWarning,
        stacklevel=2,
    )


def _cupy() -> Any:
    """The module, or ImportError with the package that fits the driver."""
    try:
        return importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        driver = driver_version()
        if driver is None:
            advice = "pip install 'minigan[cuda13]', after NVIDIA's driver, which is missing, too"
        elif driver // 1000 < min(EXTRAS):
            advice = f"pip install 'minigan[cuda13]', after a newer driver: this one knows CUDA {_cuda(driver)} at most"
        else:
            advice = f"pip install 'minigan[cuda{min(driver // 1000, max(EXTRAS))}]', which fits this driver"
        raise ImportError(f"the GPU is reached through CuPy, which is not installed: {advice}") from None
    except ImportError as error:
        raise ImportError(f"CuPy is installed, but cannot be imported: {error}") from error


def _check_driver(cupy: Any) -> None:
    """RuntimeError unless there is a GPU, and a driver that is new enough for this CuPy."""
    runtime = cupy.cuda.runtime
    driver = runtime.driverGetVersion()
    if driver == 0:
        raise RuntimeError(
            "there is no NVIDIA driver here: install one from https://www.nvidia.com/drivers (in a container: start it "
            "with the GPU, as by docker run --gpus all)"
        )
    major = _major(cupy)
    if driver // 1000 < major:
        fitting = f", or pip uninstall cupy-cuda{major}x and pip install 'minigan[cuda{driver // 1000}]'"
        raise RuntimeError(
            f"this CuPy is for CUDA {major}, but the driver knows CUDA {_cuda(driver)} at most: update the driver"
            f"{fitting if driver // 1000 in EXTRAS else ''}"
        )
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as error:  # CuPy's CUDARuntimeError, of which "no device" is one
        if "NoDevice" not in str(error):
            raise RuntimeError(f"the GPU cannot be used: {error}") from error
        count = 0
    if count == 0:
        raise RuntimeError("there is a driver, but CUDA shows this process no GPU; look at CUDA_VISIBLE_DEVICES")


def _major(cupy: Any) -> int:
    """12 or 13: CuPy's CUDA. A driver runs everything of its own major version."""
    return int(cupy.cuda.runtime.runtimeGetVersion()) // 1000


def _cuda(version: int) -> str:
    """12040 -> "12.4"."""
    return f"{version // 1000}.{version % 1000 // 10}"
