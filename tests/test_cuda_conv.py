"""Convolutions and matrix products on a device: by tiles, naive, and as the reference has them.

test_cuda_kernels.py compares them with their references on the calls that all kernels are tried on.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, WAYS, fetch, needs_device, run, send

from minigan.kernels import Geometry, cuda
from minigan.kernels.conv2d import cuda as conv
from minigan.kernels.conv2d import reference
from minigan.kernels.linear import cuda as linear

pytestmark = needs_device

OPS = {"conv2d": ("x", "w"), "conv_transpose2d": ("y", "w"), "conv2d_weight": ("x", "y")}

GEOMETRIES = {  # stride, padding, window, size of x; N, C, O
    "k4 s2 p1": (Geometry((2, 2), (1, 1), (4, 4), (10, 14)), 3, 20, 68),
    "k3 s1 p1": (Geometry((1, 1), (1, 1), (3, 3), (7, 9)), 2, 16, 32),
    "k7 valid": (Geometry((1, 1), (0, 0), (7, 7), (8, 9)), 2, 4, 20),
    "k5 s3, rows left over": (Geometry((3, 3), (2, 1), (5, 5), (11, 13)), 2, 8, 24),
    "k5x2 s3x2": (Geometry((3, 2), (0, 2), (2, 5), (9, 8)), 1, 20, 21),
    "k1": (Geometry((1, 1), (0, 0), (1, 1), (3, 3)), 1, 17, 17),
    "from one channel": (Geometry((2, 2), (1, 1), (4, 4), (8, 8)), 5, 1, 64),
    "to one channel": (Geometry((2, 2), (1, 1), (4, 4), (8, 8)), 4, 64, 1),
    "to one pixel": (Geometry((1, 1), (0, 0), (4, 4), (4, 4)), 3, 24, 20),
    "window smaller than stride": (Geometry((3, 4), (0, 0), (2, 2), (7, 9)), 1, 4, 24),
    "padding wider than x": (Geometry((2, 2), (3, 3), (4, 4), (2, 1)), 2, 4, 20),
}


@pytest.fixture(autouse=True)
def by_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels have kernels of their own, which test_cuda_few.py tests."""
    monkeypatch.setattr(conv.cuda_few, "fits", lambda op, sizes: False)


@pytest.fixture
def device() -> cuda.Device:
    return cuda.connect(DEVICE)


def operands(op: str, name: str, dtype: Any = np.float32) -> tuple[list[np.ndarray], Geometry]:
    g, n, c, o = GEOMETRIES[name]
    shapes = {"x": (n, *g.x_size, c), "w": (*g.window, c, o), "y": (n, *g.y_size, o)}
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shapes[letter]).astype(dtype) for letter in OPS[op]], g


def compute(op: str, arrays: list[np.ndarray], g: Geometry) -> np.ndarray:
    result: np.ndarray = fetch(getattr(conv, op)(*send(arrays), g))
    return result


def assert_close(actual: np.ndarray, desired: np.ndarray, tolerance: float = 1e-5) -> None:
    assert (actual.shape, actual.dtype) == (desired.shape, desired.dtype)
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance * float(np.abs(desired).max(initial=0)))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_tiles_equal_the_naive_kernel_and_the_reference(op: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, g = operands(op, name)
    desired = getattr(reference, op)(*arrays, g)
    in_each_order = []
    for way in WAYS[:2]:
        with run(way):
            in_each_order.append(compute(op, arrays, g))
    assert_close(in_each_order[0], desired)
    np.testing.assert_array_equal(*in_each_order)
    monkeypatch.setattr(conv, "_tiled", conv._naive)
    assert_close(compute(op, arrays, g), desired)


@pytest.mark.parametrize("op", OPS)
def test_float64_is_computed_in_float64(op: str) -> None:
    arrays, g = operands(op, "k5 s3, rows left over", np.float64)
    assert_close(compute(op, arrays, g), getattr(reference, op)(*arrays, g), 1e-13)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ["k4 s2 p1", "k5x2 s3x2", "window smaller than stride", "to one channel"])
def test_no_races_and_nothing_out_of_bounds(op: str, name: str) -> None:
    """Each shape of tile, with edges, and with the taps that meet no pixel."""
    arrays, g = operands(op, name)
    with run(WAYS[-1]):
        compute(op, arrays, g)


@pytest.mark.parametrize("op", OPS)
def test_what_is_not_a_number_stays_where_it_belongs(op: str) -> None:
    """The zeros that fill tiles up multiply zeros only."""
    arrays, g = operands(op, "k7 valid")
    arrays[0][0, 0 if op == "conv_transpose2d" else 7, 1, 1] = np.nan  # one row beyond the window of another pixel
    desired = getattr(reference, op)(*arrays, g)
    assert np.isnan(desired).any()
    np.testing.assert_array_equal(np.isnan(compute(op, arrays, g)), np.isnan(desired))


@pytest.mark.parametrize("op", OPS)
def test_long_sums_are_split_and_added_in_one_order(
    op: str, launched: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    g = Geometry((1, 1), (1, 1), (4, 4), (9, 9))
    shapes = {"x": (5, 9, 9, 64), "w": (4, 4, 64, 4), "y": (5, 8, 8, 4)}
    if op == "conv_transpose2d":
        shapes |= {"x": (1, 9, 9, 4), "w": (4, 4, 4, 64), "y": (1, 8, 8, 64)}
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shapes[letter]).astype(np.float32) for letter in OPS[op]]
    bits = []
    for way in WAYS:
        with run(way):
            bits.append(compute(op, arrays, g))
    assert [kernel for kernel, _ in launched] == 3 * [f"{op}_tiled", "add_splits"]
    assert_close(bits[0], getattr(reference, op)(*arrays, g))
    np.testing.assert_array_equal(bits[0], bits[1])
    np.testing.assert_array_equal(bits[0], bits[2])
    launched.clear()
    monkeypatch.setattr(linear, "FULL", 1)
    assert_close(compute(op, arrays, g), bits[0])
    assert [kernel for kernel, _ in launched] == [f"{op}_tiled"]


def test_a_window_as_large_as_the_image_is_a_linear_layer(launched: list[tuple[str, Any]]) -> None:
    for op in OPS:
        compute(op, *operands(op, "to one pixel"))
    assert {kernel for kernel, _ in launched} == {"matmul_tiled", "add_splits"}


def test_how_long_sums_are_split() -> None:
    tile = linear.WIDE
    assert linear.split(512, 10_000, tile) == (1, 10_000)  # enough blocks
    assert linear.split(1, 100, tile) == (1, 112)  # too little for two
    assert linear.split(1, 8192, tile) == (64, 128)
    for blocks, terms in ((1, 1), (3, 5000), (100, 1 << 20), (511, 300), (7, 257)):
        splits, chunk = linear.split(blocks, terms, tile)
        assert chunk % tile.BK == 0
        assert (splits - 1) * chunk < terms <= splits * chunk


def test_the_shape_of_the_tile(device: cuda.Device, launched: list[tuple[str, Any]]) -> None:
    """Four numbers a load where channels come in fours and memory begins at 16 bytes; other bits never come of it."""
    g = Geometry((1, 1), (1, 1), (3, 3), (4, 4))
    x, w, flat = (np.random.default_rng(0).standard_normal(n).astype(np.float32) for n in (256, 3 * 3 * 16 * 20, 257))
    flat[1:] = x
    weight = device.xp.array(w).reshape(3, 3, 16, 20)
    aligned = conv.conv2d(device.xp.array(x).reshape(1, 4, 4, 16), weight, g)
    shifted = conv.conv2d(device.xp.array(flat)[1:].reshape(1, 4, 4, 16), weight, g)
    np.testing.assert_array_equal(aligned.get(), shifted.get())
    few = device.xp.array(np.ascontiguousarray(w.reshape(3, 3, 16, 20)[..., :16]))
    conv.conv2d(device.xp.array(x).reshape(1, 4, 4, 16), few, g)
    tiles = [macros for kernel, macros in launched if kernel == "conv2d_tiled"]
    assert tiles == [linear.WIDE.macros, linear.WIDE_BY_ONES.macros, linear.NARROW.macros]


@pytest.mark.parametrize(
    ("a", "b"), [((0, 4, 4, 2), (3, 3, 2, 5)), ((2, 4, 4, 0), (3, 3, 0, 5)), ((2, 4, 4, 3), (3, 3, 3, 0))]
)
def test_nothing_in_and_nothing_out(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    g = Geometry((1, 1), (1, 1), (3, 3), (4, 4))
    x, w, y = (np.ones(shape, np.float32) for shape in (a, b, (*a[:3], b[3])))
    for op, arrays in (("conv2d", [x, w]), ("conv_transpose2d", [y, w]), ("conv2d_weight", [x, y])):
        assert_close(compute(op, arrays, g), getattr(reference, op)(*arrays, g))


def test_refused_arrays(device: cuda.Device) -> None:
    g = Geometry((1, 1), (0, 0), (3, 3), (4, 4))
    x, w = device.xp.zeros((2, 4, 4, 3), np.float32), device.xp.zeros((3, 3, 2, 5), np.float32)
    with pytest.raises(
        ValueError, match=r"^conv2d: w has shape \(3, 3, 2, 5\) but the geometry expects \(3, 3, 3, 5\)$"
    ):
        conv.conv2d(x, w, g)
    with pytest.raises(TypeError, match=r"^conv2d: x is float32 and w is float64, but both must be float32 or both"):
        conv.conv2d(x, w.astype(np.float64), g)
    out = device.xp.zeros((2, 2, 2, 4), np.float32)
    with pytest.raises(
        ValueError, match=r"^conv2d: writes into a C-contiguous float32 \(2, 2, 2, 5\), not a float32 \("
    ):
        conv.conv2d(x, device.xp.zeros((3, 3, 3, 5), np.float32), g, out=out)


# ---- matrix products ------------------------------------------------------------------------------------------------

LAYOUTS: tuple[Callable[[Any], Any], ...] = (lambda m: m, lambda m: m.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_matrices_as_they_lie_and_transposed(dtype: Any, device: cuda.Device) -> None:
    rng = np.random.default_rng(0)
    for I, K, J in ((1, 1, 1), (65, 17, 66), (68, 36, 72), (130, 20, 3), (4, 300, 4), (1, 9, 33), (33, 1, 1)):
        a, b = rng.standard_normal((I, K)).astype(dtype), rng.standard_normal((K, J)).astype(dtype)
        for left in LAYOUTS:
            for right in LAYOUTS:  # the same numbers, transposed in memory
                given = (side(device.xp.array(np.ascontiguousarray(side(m)))) for side, m in ((left, a), (right, b)))
                assert_close(linear.matmul(*given).get(), a @ b, 1e-5 if dtype == np.float32 else 1e-13)


def test_a_transposed_matrix_is_read_where_it_lies(device: cuda.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(array: Any) -> Any:
        raise AssertionError("copied")

    a, b = device.xp.zeros((12, 20), np.float32), device.xp.zeros((3, 12, 20), np.float32)
    whole = linear.contiguous
    monkeypatch.setattr(linear, "contiguous", lambda x: x if x.flags.c_contiguous else refuse(x))
    assert linear.matmul(a.T, a).shape == (20, 20)
    assert linear.matmul(a, b.transpose(0, 2, 1)).shape == (3, 12, 12)
    with pytest.raises(AssertionError, match="copied"):
        linear.matmul(a[:, ::2], a[::2].T[:10])
    monkeypatch.setattr(linear, "contiguous", whole)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5,), (5,)),
        ((5,), (5, 6)),
        ((6, 5), (5,)),
        ((2, 3, 5), (5,)),
        ((5,), (2, 5, 3)),
        ((4, 3, 8), (8, 20)),
        ((20, 12), (4, 12, 20)),
        ((4, 20, 12), (4, 12, 20)),
        ((3, 1, 8, 9), (2, 9, 7)),
        ((1, 3, 4), (1, 4, 2)),
        ((0, 3, 4), (4, 5)),
        ((2, 0, 4), (4, 5)),
        ((2, 3, 0), (0, 5)),
    ],
)
def test_vectors_and_batches(a: tuple[int, ...], b: tuple[int, ...], device: cuda.Device) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal(a).astype(np.float32), rng.standard_normal(b).astype(np.float32)
    desired = np.asarray(left @ right)
    out = device.xp.array(np.full_like(desired, 7))
    assert linear.matmul(device.xp.array(left), device.xp.array(right), out=out) is out
    assert_close(out.get(), desired)
    assert_close(linear.matmul(device.xp.array(left), device.xp.array(right)).get(), desired)


def test_products_have_no_races_and_one_order(device: cuda.Device, launched: list[tuple[str, Any]]) -> None:
    a, b = (device.xp.array(np.random.default_rng(0).standard_normal((300, n)).astype(np.float32)) for n in (66, 68))
    bits = []
    for way in WAYS:
        with run(way):
            bits.append(linear.matmul(a.T, b).get())
    assert [kernel for kernel, _ in launched] == 3 * ["matmul_tiled", "add_splits"]
    np.testing.assert_array_equal(bits[0], bits[1])
    np.testing.assert_array_equal(bits[0], bits[2])


def test_a_product_into_its_own_factor(device: cuda.Device) -> None:
    a = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    left, right = device.xp.array(a), device.xp.array(a)
    assert linear.matmul(left, right, out=left) is left
    assert_close(left.get(), a @ a)


def test_integers_and_mixed_dtypes(device: cuda.Device) -> None:
    a, b = device.xp.array(np.arange(6).reshape(2, 3)), device.xp.array(np.ones((3, 2), np.float32))
    with pytest.raises(
        TypeError, match="matmul: on a device both must be float32 or both float64, not int64 and float32"
    ):
        linear.matmul(a, b)


def test_refused_products(device: cuda.Device) -> None:
    a, b = device.xp.zeros((2, 3, 4), np.float32), device.xp.zeros((4, 4, 2), np.float32)
    with pytest.raises(ValueError, match=r"^matmul: \(2, 3, 4\) @ \(3, 4\): the inner dimensions do not match$"):
        linear.matmul(a, a[0])
    with pytest.raises(ValueError, match="broadcast"):
        linear.matmul(a, b)
