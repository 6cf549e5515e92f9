"""Where arrays live: on the CPU as NumPy's, on a GPU as CuPy's, or on the emulated device as emulator.arrays'.

A device is an array module and a module loader. ("cuda": cupy, cupy.RawModule) is a GPU; ("emulator":
emulator.arrays, emulator.RawModule) runs the same CUDA text on the CPU, so that host code, grids and argument lists
included, is the same on both. Nothing imports cupy before somebody asks for "cuda".
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
"""Or cupy.ndarray, or emulator.arrays.ndarray, which have the same attributes."""

NAMES = ("cpu", "cuda", "emulator")


@dataclass(frozen=True)
class Device:
    """Where arrays live and CUDA kernels run. xp: the array module (NumPy's names, and asnumpy); load: RawModule."""

    name: str
    xp: Any
    load: Callable[..., Any]

    def array(self, values: Any) -> Any:
        """A C-contiguous copy of a NumPy array on the device."""
        return self.xp.array(values, order="C")

    def view(
        self, block: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Any:
        """An array in a block of bytes of the device."""
        if self.name == "emulator":
            return self.xp.ndarray(np.ndarray(shape, dtype, block.host, offset, strides))
        return self.xp.ndarray(shape, dtype, block.data + offset, strides)

    def send(self, host: Array, block: Any) -> None:
        """Copies bytes of the host to a block of the device. `host` may be written to as soon as this returns."""
        if self.name == "emulator":
            block.host[...] = host
        else:
            block.set(host)  # of pageable memory, which CUDA stages first

    def graph(self, runs: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
        """What runs all of them, kernels' launches: one launch of a CUDA graph on a GPU, a list elsewhere."""
        if self.name == "cuda":
            made: Callable[[], Any] = importlib.import_module(f"{__package__}.gpu").graph(runs)
            return made

        def run() -> None:
            for each in runs:
                each()

        return run


DEVICES: dict[type, Device] = {}
"""By the type of its arrays, each device that somebody asked for. Empty: every array is NumPy's."""


def connect(name: str) -> Device:
    """The device "cuda" or "emulator". ImportError or RuntimeError: in one sentence why it cannot be used here.

    ValueError for any other name.
    """
    name = checked(name)
    for device in DEVICES.values():
        if device.name == name:
            return device
    if name == "cuda":
        gpu = importlib.import_module(f"{__package__}.gpu")  # the only module that imports cupy
        device = Device("cuda", *gpu.connect_gpu())
    elif name == "emulator":
        arrays, emulator = (
            importlib.import_module(f"{__package__}.{part}") for part in ("emulator.arrays", "emulator")
        )
        if not emulator.available():
            raise RuntimeError("the emulator compiles CUDA kernels with g++, on Linux: install g++, or use 'cpu'")
        device = Device("emulator", arrays, emulator.RawModule)
    else:
        raise ValueError("connect: the CPU is always there, and no device of CUDA kernels")
    DEVICES[device.xp.ndarray] = device
    return device


def checked(name: str) -> str:
    """`name`, or "cuda" for "cuda:0". ValueError for what is no device."""
    if name == "cuda:0":
        return "cuda"
    if name in NAMES:
        return name
    if str(name).startswith("cuda:"):
        number = name.partition(":")[2]
        raise ValueError(
            f"device {name!r}: one process uses one GPU, the first that CUDA shows it; "
            f"to choose another, start it with CUDA_VISIBLE_DEVICES={number} and say 'cuda'"
        )
    raise ValueError(f"there is no device {name!r}; choose one of {', '.join(NAMES)}")


def device_of(*arrays: Any) -> Device:
    """The device that all of these arrays are on. ValueError if they are on several, or on the CPU."""
    found = [DEVICES.get(type(array)) for array in arrays]
    first = found[0]
    if first is None or any(device is not first for device in found):
        names = " and ".join(dict.fromkeys(map(name_of, arrays)))
        raise ValueError(f"the arrays of one kernel must be on one device of CUDA kernels, but these are on {names}")
    return first


def name_of(array: Any) -> str:
    """ "cpu", "cuda" or "emulator"."""
    device = DEVICES.get(type(array))
    return "cpu" if device is None else device.name


def empty(shape: int | tuple[int, ...], dtype: DTypeLike, name: str) -> Array:
    """An array with any content on the device `name`."""
    return (np if name == "cpu" else connect(name).xp).empty(shape, dtype)


def move(array: Array, name: str) -> Array:
    """The array on the device `name`: a C-contiguous copy, or itself if it is there already."""
    name = checked(name)
    if name_of(array) == name:
        return array
    host = to_host(array)
    return host if name == "cpu" else connect(name).array(host)


def beside(values: Any, array: Array) -> Any:
    """Numbers, lists and NumPy arrays as an array where `array` is."""
    return values if type(array) is np.ndarray else move(as_array(values), name_of(array))


def to_host(values: Any) -> Any:
    """A copy of a device's array as NumPy's; anything else as it is."""
    device = DEVICES.get(type(values))
    return values if device is None else device.xp.asnumpy(values)


def places(mask: Array) -> tuple[Array, ...]:
    """Where a mask holds: an index array for each of its axes, on the CPU."""
    return np.nonzero(to_host(mask))


def host_copy(array: Array) -> Array:
    """A new NumPy array of the values: one copy, wherever they are."""
    return to_host(array) if type(array) in DEVICES else array.copy()


def own(values: Any, dtype: DTypeLike | None = None) -> Array:
    """A new C-contiguous array of the values, on the device where they are."""
    if DEVICES and (device := DEVICES.get(type(values))) is not None:
        made: Array = device.xp.array(values, dtype=dtype, order="C")
        return made
    try:
        return np.array(values, dtype=dtype, order="C")
    except TypeError:
        if not _is_cupys(values):
            raise
        connect("cuda")  # nobody has asked for the GPU by name yet
        return own(values, dtype)


def is_array(values: Any) -> bool:
    """Whether it is an array of NumPy, CuPy or the emulated device, or one of NumPy's scalars."""
    return isinstance(values, (np.ndarray, np.generic)) or type(values) in DEVICES or _is_cupys(values)


def _is_cupys(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "cupy"


def as_array(values: Any) -> Array:
    """A device's array as it is; of anything else NumPy's."""
    return values if type(values) is np.ndarray or type(values) in DEVICES else np.asarray(values)


def operand(values: Any) -> Any:
    """A NumPy array of a single number as a NumPy scalar, which may stand beside any device's arrays."""
    return values[()] if type(values) is np.ndarray and values.ndim == 0 else values


def read_only(array: Array) -> Array:
    """A view that cannot be written to. TypeError unless the array is NumPy's."""
    if type(array) in DEVICES:
        name = name_of(array)
        raise TypeError(f"this tensor is on {name}, where NumPy cannot read it; copy it to the CPU: t.to('cpu')")
    view = array.view()
    view.flags.writeable = False
    return view


def synchronize() -> None:
    """Waits until every GPU has done what it was asked for: launches return before their work is done."""
    for device in DEVICES.values():
        if device.name == "cuda":
            device.xp.cuda.get_current_stream().synchronize()
