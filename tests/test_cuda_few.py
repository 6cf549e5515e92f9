"""CUDA kernels whose operand is nearly nothing: convolutions of few channels, and matrix products with a vector."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from convolutions import arguments, geometries, random_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from on_device import CHECKED, DEVICE, WAYS, needs_device, only_emulated, run

from minigan.kernels import Geometry, cuda, emulator, nvrtc
from minigan.kernels.conv2d import cuda as conv
from minigan.kernels.conv2d import cuda_few, reference
from minigan.kernels.conv2d.cuda_tensor import sizes_of
from minigan.kernels.emulator import report
from minigan.kernels.linear import cuda as linear
from minigan.kernels.linear import cuda_vector

pytestmark = needs_device

OPS = ("conv2d", "conv_transpose2d", "conv2d_weight")
WINDOW = Geometry((2, 2), (1, 1), (4, 4), (64, 64))  # of a generator's last layer

SHAPES = {  # N, C, O
    "64 channels": (Geometry((2, 2), (1, 1), (4, 4), (28, 26)), 2, 1, 64),
    "tiles of x, down": (Geometry((2, 2), (1, 1), (4, 4), (41, 35)), 1, 1, 16),
    "tiles of x, across": (Geometry((1, 1), (2, 2), (5, 5), (13, 17)), 2, 3, 20),
    "terms of two tiles": (Geometry((1, 1), (2, 2), (5, 5), (9, 7)), 2, 4, 36),
    "long sums in parts": (Geometry((1, 1), (1, 1), (4, 4), (15, 16)), 3, 4, 72),
    "odd channels": (Geometry((2, 2), (1, 1), (4, 4), (20, 20)), 2, 2, 67),
    "window smaller than stride": (Geometry((3, 4), (0, 0), (2, 2), (7, 9)), 1, 4, 24),
    "padding wider than x": (Geometry((2, 2), (3, 3), (4, 4), (2, 1)), 2, 4, 20),
}


@pytest.fixture
def device() -> cuda.Device:
    return cuda.connect(DEVICE)


def assert_close(actual: np.ndarray, desired: np.ndarray) -> None:
    assert (actual.shape, actual.dtype) == (desired.shape, desired.dtype)
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5 * float(np.abs(desired).max(initial=0)))


def shifted(array: np.ndarray) -> Any:
    """On the device, where no access of 16 bytes may begin."""
    memory = cuda.connect(DEVICE).xp.zeros(array.size + 1, array.dtype)
    memory[1:] = cuda.connect(DEVICE).xp.array(array.reshape(-1))
    return memory[1:].reshape(array.shape)


def check_trio(g: Geometry, N: int, C: int, O: int, place: Callable[[np.ndarray], Any]) -> None:
    """The trio equals its reference, to the bit the same in each order of threads and without a race."""
    for op, operands in arguments(*random_arrays(N, C, O, g, np.float32)).items():
        desired = getattr(reference, op)(*operands, g)
        bits = set()
        for way in CHECKED:
            with run(way):
                found = getattr(conv, op)(*map(place, operands), g, out=place(np.full_like(desired, 7))).get()
            assert_close(found, desired)
            bits.add(found.tobytes())
        assert len(bits) == 1, op


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("aligned", [True, False])
def test_the_trio_equals_its_reference(
    name: str, aligned: bool, device: cuda.Device, launched: list[tuple[str, Any]]
) -> None:
    g, N, C, O = SHAPES[name]
    check_trio(g, N, C, O, device.xp.array if aligned else shifted)
    assert {kernel for kernel, _ in launched} - {"add_parts"} == {f"{op}_few" for op in OPS}


@settings(max_examples=15)
@given(geometries(9), st.integers(1, 3), st.integers(1, 4), st.integers(1, 70))
def test_any_shape(g: Geometry, N: int, C: int, O: int) -> None:
    check_trio(g, N, C, O, cuda.connect(DEVICE).xp.array)


@pytest.mark.parametrize("name", SHAPES)
def test_bits_do_not_depend_on_where_arrays_begin(name: str, device: cuda.Device) -> None:
    g, N, C, O = SHAPES[name]
    for op, operands in arguments(*random_arrays(N, C, O, g, np.float32)).items():
        here, there = (getattr(conv, op)(*map(place, operands), g).get() for place in (device.xp.array, shifted))
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("op", OPS[:2])
@pytest.mark.parametrize("name", ["tiles of x, across", "terms of two tiles", "odd channels"])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_a_bias_and_a_leaky_relu(op: str, name: str, slope: float, device: cuda.Device) -> None:
    g, N, C, O = SHAPES[name]
    operands = arguments(*random_arrays(N, C, O, g, np.float32))[op]
    desired = getattr(reference, op)(*operands, g)
    bias = np.random.default_rng(1).standard_normal(desired.shape[3]).astype(np.float32)
    z = desired + bias
    for place in (device.xp.array, shifted):
        out = device.xp.zeros(desired.shape, np.float32)
        given = [device.xp.array(a) for a in operands]
        with run(WAYS[-1]):
            cuda_few.run(op, *given, out, sizes_of(N, C, O, g), place(bias), slope)
        assert_close(out.get(), np.where(z > 0, z, np.float32(slope) * z))


@pytest.mark.parametrize("op", OPS)
def test_what_is_not_a_number_stays_where_it_belongs(op: str, device: cuda.Device) -> None:
    """The zeros that fill tiles up multiply zeros only, and edges that blocks share are no part of what they store."""
    g = Geometry((1, 1), (0, 0), (5, 5), (13, 17))
    operands = arguments(*random_arrays(2, 3, 20, g, np.float32))[op]
    operands[0][0, 4, 5, 1] = np.nan
    desired = getattr(reference, op)(*operands, g)
    assert np.isnan(desired).any()
    found = getattr(conv, op)(*(device.xp.array(a) for a in operands), g).get()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(desired))


def test_the_shape_of_a_block(device: cuda.Device, launched: list[tuple[str, Any]]) -> None:
    for C, O in ((1, 64), (1, 32), (3, 64), (1, 30)):
        g = Geometry((2, 2), (1, 1), (4, 4), (4, 4))
        conv.conv2d(device.xp.zeros((1, 4, 4, C), np.float32), device.xp.zeros((4, 4, C, O), np.float32), g)
    shapes = (cuda_few.WIDE, cuda_few.NARROW, cuda_few.LONG, cuda_few.BY_ONES)
    assert launched == [("conv2d_few", shape.macros) for shape in shapes]


def test_what_fits() -> None:
    assert all(cuda_few.fits(op, sizes_of(128, 1, 64, WINDOW)) for op in OPS)
    assert not any(cuda_few.fits(op, sizes_of(128, 5, 64, WINDOW)) for op in OPS)
    wide = WINDOW._replace(stride=(1, 1), window=(16, 16))
    assert [cuda_few.fits(op, sizes_of(1, 1, 8, wide)) for op in OPS] == [True, False, True]
    assert cuda_few.tiles_of_x(cuda_few.Sizes(*sizes_of(1, 1, 8, wide).tolist()), 10) == (0, 0, 0)


@given(geometries(60), st.sampled_from([128, 256]))
def test_tiles_of_x_are_reached_by_no_more_pixels_than_a_block_has(g: Geometry, region: int) -> None:
    blocks, rows, columns = cuda_few.tiles_of_x(cuda_few.Sizes(*sizes_of(1, 1, 8, g).tolist()), region)
    reached = []
    for axis, size in enumerate((rows, columns)):
        starts = np.arange(g.y_size[axis]) * g.stride[axis] - g.padding[axis]
        tiles = [(first, min(first + size, g.x_size[axis])) for first in range(0, g.x_size[axis], size)]
        reached.append([int(((starts < end) & (starts + g.window[axis] > first)).sum()) for first, end in tiles])
    assert blocks == len(reached[0]) * len(reached[1])
    assert max(reached[0]) * max(reached[1]) <= region


def test_how_much_is_read_twice() -> None:
    """A generator's last layer: of the pixels of y that blocks have room for, four of five are their own."""
    blocks, rows, columns = cuda_few.tiles_of_x(cuda_few.Sizes(*sizes_of(128, 1, 64, WINDOW).tolist()), 256)
    assert (blocks, rows, columns) == (5, 13, 64)
    assert 32 * 32 / (blocks * 256) == 0.8


# ---- products with a vector -----------------------------------------------------------------------------------------


def laid(array: np.ndarray, across: bool, place: Callable[[np.ndarray], Any]) -> Any:
    """On the device; `across`: its columns as lines in memory."""
    return place(np.ascontiguousarray(array.T)).T if across else place(array)


VECTORS = [(5, 7, 1), (1, 7, 5), (5, 1, 7), (3, 2052, 1), (130, 36, 1), (1, 700, 36), (2, 1, 1024), (1, 1, 1)]


@pytest.mark.parametrize(("I", "K", "J"), VECTORS)
def test_products_with_a_vector(I: int, K: int, J: int, launched: list[tuple[str, Any]]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((I, K)).astype(np.float32), rng.standard_normal((K, J)).astype(np.float32)
    for left in (False, True):
        for right in (False, True):
            bits = set()
            for place in (cuda.connect(DEVICE).xp.array, shifted):
                given = laid(a, left, place), laid(b, right, place)
                for way in CHECKED:
                    with run(way):
                        bits.add(linear.matmul(*given, out=place(np.zeros((I, J), np.float32))).get().tobytes())
            assert len(bits) == 1  # wherever arrays begin, too
            assert_close(np.frombuffer(bits.pop(), np.float32).reshape(I, J), a @ b)
    assert {kernel for kernel, _ in launched} <= {"matrix_vector", "vector_matrix", "outer", "add_parts"}


@settings(max_examples=30)
@given(st.permutations([1, 0, 0]), st.integers(1, 80), st.integers(1, 300), st.booleans(), st.booleans())
def test_any_product_with_a_vector(ones: list[int], n: int, m: int, left: bool, right: bool) -> None:
    numbers = iter((n, m))
    I, K, J = (1 if one else next(numbers) for one in ones)
    rng, xp = np.random.default_rng(0), cuda.connect(DEVICE).xp
    a, b = rng.standard_normal((I, K)).astype(np.float32), rng.standard_normal((K, J)).astype(np.float32)
    first, second = laid(a, left, xp.array), laid(b, right, xp.array)
    with run(WAYS[-1]):
        assert_close(linear.matmul(first, second).get(), a @ b)


def test_a_convolution_to_one_number(device: cuda.Device, launched: list[tuple[str, Any]]) -> None:
    """The head of a discriminator: each of the trio reads or writes the images once."""
    g = Geometry((1, 1), (0, 0), (4, 4), (4, 4))
    check_trio(g, 5, 32, 1, device.xp.array)
    assert [kernel for kernel, _ in launched] == 2 * ["matrix_vector"] + 2 * ["outer"] + 2 * ["vector_matrix"]


# ---- what a GPU would do --------------------------------------------------------------------------------------------


def costs(launch: Callable[[], Any]) -> list[tuple[str, str, report.Cost]]:
    """(kernel, text of the line, cost) of the first block of each launch."""
    with emulator.running(check=True, log_block=0) as logged:
        launch()
    found = []
    for each in logged.launches:
        lines = report.source_lines(each.module.code, each.module.name)
        found += [(each.kernel, lines[cost.line].strip(), cost) for cost in report.costs(each)]
    return found


def trio(device: cuda.Device, C: int) -> None:
    """At the sizes of a large image, with 64 channels."""
    x, w, y = (device.xp.zeros(s, np.float32) for s in ((1, 64, 64, C), (4, 4, C, 64), (1, 32, 32, 64)))
    conv.conv2d(x, w, WINDOW), conv.conv_transpose2d(y, w, WINDOW), conv.conv2d_weight(x, y, WINDOW)


@only_emulated
@pytest.mark.parametrize("C", [1, 3])
def test_shared_memory_without_bank_conflicts(C: int, device: cuda.Device) -> None:
    """But where a warp adds up products for numbers of x from two rows."""
    shared = [found for found in costs(lambda: trio(device, C)) if found[2].memory == "shared"]
    assert len(shared) > 15
    for kernel, line, cost in shared:
        allowed = 2.1 if "products[k * PITCH" in line else 1
        assert cost.cost <= allowed * cost.best, (kernel, line, cost)
    products = sum(cost.requests * cost.cost for _, line, cost in shared if "products[k * PITCH" in line)
    assert products < 0.05 * sum(c.requests * c.cost for kernel, _, c in shared if kernel == "conv_transpose2d_few")


@only_emulated
def test_y_is_moved_once_in_whole_sectors(device: cuda.Device) -> None:
    """By the first block: bytes of y, and of the weights that it needs, against the sectors of all 16-byte accesses."""
    moved: dict[str, float] = {}
    for kernel, line, cost in costs(lambda: trio(device, 1)):
        if cost.memory == "global" and cost.bytes == 16:
            assert cost.cost == cost.best, (kernel, line, cost)
            moved[kernel] = moved.get(kernel, 0) + 32 * cost.cost * cost.requests
    pixel, weights = 64 * 4, 16 * 64 * 4
    assert moved["conv2d_few"] == 128 * pixel + weights
    assert moved["conv_transpose2d_few"] == 7 * 32 * pixel + weights  # 13 rows of x are reached by 7 of y
    assert moved["conv2d_weight_few"] == 256 * pixel + weights  # which are stored


@only_emulated
def test_matrices_are_moved_in_whole_sectors(device: cuda.Device) -> None:
    matrix, rows, columns = (device.xp.zeros(s, np.float32) for s in ((512, 1024), (512, 1), (1024, 1)))

    def launch() -> None:
        for a, b in ((matrix, columns), (rows.T, matrix), (rows, columns.T)):
            linear.matmul(a, b)

    for kernel, line, cost in costs(launch):
        assert cost.cost == cost.best, (kernel, line, cost)


WIDE = {  # what each kernel moves 16 bytes at a time, from or to global and shared memory
    "conv2d_few": ("LDG", "STG", "LDS"),
    "conv_transpose2d_few": ("LDG", "LDS", "STS"),
    "conv2d_weight_few": ("LDG", "STG", "LDS", "STS"),
    "matrix_vector": ("LDG",),
    "vector_matrix": ("LDG",),
    "outer": ("LDG", "STG"),
}


@pytest.mark.parametrize("source", [cuda_few.SOURCE, cuda_vector.SOURCE], ids=lambda source: source.file.name)
def test_instructions(source: cuda.Source) -> None:
    for variant in source.variants:
        if variant["VEC"] != 4:
            continue
        try:
            found = nvrtc.instructions(nvrtc.compile_for(source, variant, 90).cubin)
        except nvrtc.CompilerNotFound as missing:
            pytest.skip(str(missing))
        assert found.keys() == source.registers.keys()
        for kernel, counts in found.items():
            for start in WIDE.get(kernel, ()):
                assert any(name.startswith(start) and "128" in name for name in counts), (kernel, start)
            assert not any(name.startswith(("LDL", "STL", "ATOM", "RED")) for name in counts), kernel
