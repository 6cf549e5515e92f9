"""Every row of the kernel table on a device equals its reference, in two thread orders and in check mode.

The generated tests run over the calls of kernel_cases.py. A new .cu file needs nothing here.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import CASES, DTYPES, IN_PLACE, Call, assert_equal, copies, results
from on_device import DEVICE, WAYS, fetch, needs_device, only_emulated, run, send

from minigan import kernels
from minigan.kernels import KERNELS, cuda

pytestmark = needs_device

ROOT = Path(__file__).parent.parent
DRAWN = {"philox": np.uint32, "uniform": None, "normal": None}
INDEXED = {"take": 1, "scatter_add": 1}
"""The argument that stays on the host: an index."""

each_row = pytest.mark.parametrize("name", CASES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def options(scalars: dict[str, Any]) -> dict[str, Any]:
    """What is given by name, arrays on the device."""
    return {key: send(value) for key, value in scalars.items()}


def on_device(name: str, call: Call, **out: Any) -> list[np.ndarray]:
    """What the table's row computes on the device, fetched."""
    arguments, scalars = call
    given = [a if INDEXED.get(name) == i else send(a) for i, a in enumerate(arguments)]
    if name in DRAWN:
        n, dtype = arguments[2], DRAWN[name] or arguments[3]
        odd = n % 2  # then the array begins where vectors of four may not
        out = {"out": kernels.empty(n + odd, dtype, DEVICE)[odd:]} | out
    found = fetch(results(name, KERNELS[name], (given, options(scalars)), **out))
    if name not in IN_PLACE:
        for before, after in zip(arguments, given, strict=True):
            np.testing.assert_equal(fetch(after), before, err_msg=f"{name} changed an argument")
    return found


@each_row
@each_dtype
def test_the_device_equals_the_reference(name: str, dtype: Any) -> None:
    reference = KERNELS[name].implementation("reference")
    calls = list(CASES[name](np.random.default_rng(0), dtype))
    expected = [results(name, reference, (copies(arguments), scalars)) for arguments, scalars in calls]
    first = None
    for way in WAYS if DEVICE == "emulator" else WAYS[:1]:
        with run(way):
            found = [on_device(name, call) for call in calls]
        for actual, desired in zip(found, expected, strict=True):
            assert_equal(name, actual, desired, dtype)
        bits = [array.tobytes() for actual in found for array in actual]
        assert bits == (first or bits), f"{name}: another order of the threads changed the result"
        first = bits


@each_row
def test_out_is_filled_and_returned(name: str) -> None:
    if name in IN_PLACE:
        pytest.skip("changes its arguments instead")
    for call in CASES[name](np.random.default_rng(0), np.float32):
        expected = on_device(name, call)
        given = tuple(send(np.full_like(d, 7)) for d in expected)
        arguments = [a if INDEXED.get(name) == i else send(a) for i, a in enumerate(call[0])]
        found = results(name, KERNELS[name], (arguments, options(call[1])), out=given if len(given) > 1 else given[0])
        assert all(a is g for a, g in zip(found, given, strict=True))
        for a, d in zip(fetch(found), expected, strict=True):
            np.testing.assert_array_equal(a, d)


def each(change: Any, argument: Any) -> Any:
    """The argument with every array of the device in it changed, be it one or a list of them."""
    if isinstance(argument, list):
        return [each(change, a) for a in argument]
    return change(argument) if kernels.name_of(argument) != "cpu" else argument


def every_second(array: Any) -> Any:
    """The same values, every second element of a larger array of the device."""
    if array.ndim == 0:
        return array
    wide = kernels.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype, DEVICE)
    wide[..., ::2] = array
    return wide[..., ::2]


@each_row
def test_strided_arguments(name: str) -> None:
    if name in DRAWN or name == "clip_weights":
        pytest.skip("takes no arrays, or writes into all of them")
    for arguments, scalars in CASES[name](np.random.default_rng(0), np.float32):
        expected = on_device(name, (copies(arguments), scalars))
        kept = (*IN_PLACE.get(name, ()), INDEXED.get(name))  # written to in place, or an index
        given = [a if i == INDEXED.get(name) else send(a) for i, a in enumerate(copies(arguments))]
        given = [a if i in kept else each(every_second, a) for i, a in enumerate(given)]
        found = fetch(results(name, KERNELS[name], (given, options(scalars))))
        for a, d in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, d)


def test_the_host_code_has_the_references_signatures() -> None:
    with_cuda = [kernel for kernel in KERNELS.values() if "cuda" in kernel.compiled]
    assert {kernel.folder for kernel in with_cuda} == {
        path.parent.name for path in (ROOT / "kernels").glob("*/cuda.py")
    }
    for kernel in with_cuda:
        module = importlib.import_module(f"minigan.kernels.{kernel.folder}.cuda")
        function, reference = getattr(module, kernel.name), kernel.implementation("reference")
        assert function.__doc__, kernel.name
        assert list(inspect.signature(function).parameters) == list(inspect.signature(reference).parameters)


def test_every_kernel_has_an_example_and_a_register_budget() -> None:
    for source in cuda.sources():
        assert source.kernels, source.file
        assert sorted(source.examples) == sorted(source.registers) == sorted(source.kernels), source.file


@only_emulated
@pytest.mark.parametrize("source", cuda.sources(), ids=lambda source: source.file.name)
def test_the_examples_launch_their_kernels_without_a_violation(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = set()
    launch = cuda.Source.launch

    def note(self: Any, kernel: str, *args: Any, **options: Any) -> None:
        launched.add((self.file, kernel))
        launch(self, kernel, *args, **options)

    monkeypatch.setattr(cuda.Source, "launch", note)
    device = cuda.connect("emulator")
    for kernel, example in source.examples.items():
        with run({"order": "reverse", "check": True}):
            example(device)
        assert (source.file, kernel) in launched


def test_cupy_is_given_a_number_for_a_null_pointer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of None it makes another address."""
    given: list[Any] = []
    device = cuda.Device("cuda", None, lambda: None)
    monkeypatch.setattr(cuda, "device_of", lambda *arrays: device)
    monkeypatch.setattr(cuda.Source, "_function", lambda *key: lambda *args, **options: given.append(args[2]))
    cuda.sources()[0].launch("kernel", (1,), (32,), (None, 3), {})
    assert [(value, value.dtype) for value in given[0]] == [(0, np.uint64), (3, np.int32)]


def test_arguments_that_a_launch_refuses() -> None:
    source, device = cuda.sources()[0], cuda.connect(DEVICE)
    x = device.xp.zeros((4, 4), np.float32)
    kernel = source.kernels[0]
    with pytest.raises(TypeError, match=rf"{kernel}: pass 0.5 as a NumPy scalar or an int: its C type cannot be guess"):
        source.launch(kernel, (1,), (32,), (x, 0.5), {})
    with pytest.raises(OverflowError, match=rf"{kernel}: 2147483648 does not fit the kernel's 32-bit indices"):
        source.launch(kernel, (1,), (32,), (x, 1 << 31), {})
    with pytest.raises(ValueError, match=rf"{kernel}: argument 0 of shape \(4, 2\) is not C-contiguous"):
        source.launch(kernel, (1,), (32,), (x[:, ::2], 1), {})
    with pytest.raises(TypeError, match=r"CUDA kernels compute in float32 or float64, not in int64"):
        cuda.real(np.int64)
