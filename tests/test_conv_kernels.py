"""The direct convolution trio against its specification, and the specification against seven loops."""

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convolutions import NAMES, arguments, geometries, random_arrays, relative_error, run_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.kernels import Geometry, scratch, set_conv_algorithm, simd
from minigan.kernels.conv2d import cpu, direct, reference

numba = pytest.importorskip("numba")

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
DCGAN = Geometry((2, 2), (1, 1), (4, 4), (8, 8))


@pytest.fixture(autouse=True)
def direct_algorithm() -> Iterator[None]:
    """Where Winograd's fits, too; that one has tests of its own."""
    with set_conv_algorithm("direct"):
        yield


def assert_trio_equals_reference(N: int, C: int, O: int, g: Geometry, dtype: Any) -> None:
    for name, args in arguments(*random_arrays(N, C, O, g, dtype)).items():
        got = getattr(cpu, name)(*args, g)
        expected = getattr(reference, name)(*(a.astype(np.float64) for a in args), g)
        assert got.shape == expected.shape
        assert got.dtype == dtype
        assert relative_error(got, expected) <= TOLERANCE[dtype], name


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    geometries(9),
    st.integers(0, 3),
    st.sampled_from((1, 2, 7, 16, 19)),
    st.sampled_from((1, 3, 16, 17)),
    st.sampled_from((np.float32, np.float64)),
)
def test_equals_the_reference(g: Geometry, N: int, C: int, O: int, dtype: Any) -> None:
    assert_trio_equals_reference(N, C, O, g, dtype)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("N", "C", "O", "g"),
    [
        pytest.param(40, 70, 37, DCGAN, id="many blocks each way"),
        pytest.param(3, 600, 20, Geometry((1, 2), (3, 0), (3, 2), (7, 5)), id="taps longer than a block"),
        pytest.param(2, 3, 530, DCGAN, id="several blocks of columns"),
        pytest.param(3, 3, 530, Geometry((3, 2), (4, 5), (14, 14), (16, 15)), id="few channels, large window"),
        pytest.param(40, 1, 37, DCGAN._replace(x_size=(16, 15)), id="one channel, many pixels"),
        pytest.param(1, 1, 1, Geometry((1, 1), (0, 0), (1, 1), (1, 1)), id="one number"),
        pytest.param(5, 6, 4, Geometry((2, 2), (0, 0), (4, 4), (4, 4)), id="window covers the input"),
        pytest.param(2, 17, 3, Geometry((3, 3), (0, 0), (2, 2), (7, 8)), id="pixels that no tap reaches"),
    ],
)
def test_blocks_panels_and_edges(N: int, C: int, O: int, g: Geometry, dtype: Any) -> None:
    assert_trio_equals_reference(N, C, O, g, dtype)


@pytest.mark.parametrize(
    "g",
    [
        DCGAN._replace(x_size=(4, 5)),
        Geometry((2, 1), (0, 2), (3, 2), (5, 3)),
        Geometry((1, 3), (3, 0), (2, 3), (2, 4)),
    ],
)
def test_reference_equals_seven_loops(g: Geometry) -> None:
    x, w, y = random_arrays(2, 2, 3, g)
    gx, gw, gy = (np.zeros_like(a) for a in (x, w, y))
    (sh, sw), (ph, pw) = g.stride, g.padding
    for n, i, j, o, u, v, c in itertools.product(*(range(size) for size in (*y.shape, *g.window, x.shape[3]))):
        row, column = sh * i + u - ph, sw * j + v - pw
        if 0 <= row < g.x_size[0] and 0 <= column < g.x_size[1]:
            gy[n, i, j, o] += x[n, row, column, c] * w[u, v, c, o]
            gx[n, row, column, c] += y[n, i, j, o] * w[u, v, c, o]
            gw[u, v, c, o] += x[n, row, column, c] * y[n, i, j, o]
    for name, expected in zip(NAMES, (gy, gx, gw), strict=True):
        np.testing.assert_allclose(getattr(reference, name)(*arguments(x, w, y)[name], g), expected, rtol=1e-12)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(geometries(9), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_trilinear_form(g: Geometry, N: int, C: int, O: int) -> None:
    x, w, y = random_arrays(N, C, O, g)
    forms = (
        np.vdot(cpu.conv2d(x, w, g), y),
        np.vdot(cpu.conv_transpose2d(y, w, g), x),
        np.vdot(cpu.conv2d_weight(x, y, g), w),
    )
    np.testing.assert_allclose(forms, forms[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("C", [1, 20])
@pytest.mark.parametrize("name", NAMES)
def test_out_is_overwritten_whole_and_inputs_are_left_alone(name: str, C: int) -> None:
    args = arguments(*random_arrays(3, C, 5, DCGAN, np.float32))[name]
    before = [a.copy() for a in args]
    expected = getattr(cpu, name)(*args, DCGAN)
    out = np.full_like(expected, np.nan)
    assert getattr(cpu, name)(*args, DCGAN, out=out) is out
    np.testing.assert_array_equal(out, expected)  # to the bit, since the number of threads is the same
    for a, b in zip(args, before, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.flags.writeable


@pytest.mark.parametrize("name", NAMES)
def test_layouts_and_flags_share_one_compiled_version(name: str) -> None:
    args = arguments(*random_arrays(3, 20, 5, DCGAN, np.float32))[name]
    expected = getattr(cpu, name)(*args, DCGAN)
    kernels = direct._gather_product, direct._weight_product
    versions = [len(kernel.signatures) for kernel in kernels]
    strided = [np.repeat(a, 2, axis=1)[:, ::2] for a in args]
    fortran = [np.asfortranarray(a) for a in args]
    frozen = [a.copy() for a in args]
    for a in frozen:
        a.flags.writeable = False
    for variant in (strided, fortran, frozen, [unaligned(a) for a in args]):
        np.testing.assert_array_equal(getattr(cpu, name)(*variant, DCGAN), expected)
    assert [len(kernel.signatures) for kernel in kernels] == versions


@pytest.mark.parametrize("name", NAMES)
def test_memory_of_a_call(name: str) -> None:
    g = DCGAN._replace(x_size=(32, 32))
    x, w, y = random_arrays(16, 32, 64, g, np.float32)
    args = arguments(x, w, y)[name]
    out = getattr(cpu, name)(*args, g)
    tracemalloc.start()
    getattr(cpu, name)(*args, g, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    scratch.kept.arrays.clear()
    getattr(cpu, name)(*args, g, out=out)
    peak_with_scratch = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 0.1 * (x.nbytes + y.nbytes)
    fixed = numba.get_num_threads() * direct.SCRATCH * x.itemsize
    assert peak_with_scratch <= fixed + 0.1 * (x.nbytes + y.nbytes)


@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f8", "f4"), ("i4", "i4"), ("f2", "f2")])
def test_dtypes_are_checked(dtypes: tuple[str, str]) -> None:
    x, w, _ = random_arrays(1, 2, 3, DCGAN)
    first, second = (a.astype(dtype) for a, dtype in zip((x, w), dtypes, strict=True))
    message = rf"conv2d: x is {first.dtype} and w is {second.dtype}, but both must be float32 or both float64"
    with pytest.raises(TypeError, match=message):
        cpu.conv2d(first, second, DCGAN)


def test_shapes_are_checked() -> None:
    x, w, y = random_arrays(1, 2, 3, DCGAN)
    with pytest.raises(ValueError, match=r"conv2d: w has shape \(4, 4, 1, 3\) but .* expects \(4, 4, 2, 3\)"):
        cpu.conv2d(x, w[:, :, :1], DCGAN)
    with pytest.raises(ValueError, match=r"conv2d_weight: y has shape \(1, 3, 4, 3\) but .* expects \(1, 4, 4, 3\)"):
        cpu.conv2d_weight(x, y[:, 1:], DCGAN)
    with pytest.raises(
        ValueError, match=r"conv2d: writes into a C-contiguous float64 .*, not a float32 \(1, 4, 4, 3\)"
    ):
        cpu.conv2d(x, w, DCGAN, out=y.astype(np.float32))
    y.flags.writeable = False
    with pytest.raises(ValueError, match=r"conv2d: writes into a C-contiguous float64 .*, not a read-only float64"):
        cpu.conv2d(x, w, DCGAN, out=y)
    with pytest.raises(ValueError, match=r"conv2d: writes into a C-contiguous float64 .*, not an unaligned float64"):
        cpu.conv2d(x, w, DCGAN, out=unaligned(y))


def unaligned(array: Any) -> Any:
    """A copy that begins at an odd address."""
    copy = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize(
    ("features", "tile"),
    [("+avx,+avx2,+avx512f,+fma", (14, 64)), ("+avx,+avx2,+fma", (6, 32)), ("+avx,-avx2,-fma", (4, 16)), ("", (4, 16))],
)
def test_tile_follows_the_features(features: str, tile: tuple[int, int]) -> None:
    assert simd._tile(set(features.split(","))) == tile


def test_the_smallest_tile(tmp_path: Path) -> None:
    program = """
import numpy as np
from minigan.kernels import Geometry, set_conv_algorithm, simd
from minigan.kernels.conv2d import cpu, direct, reference
g = Geometry((2, 2), (1, 1), (4, 4), (9, 9))
x, w = (np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((2, 9, 9, 20), (4, 4, 20, 18)))
np.testing.assert_allclose(cpu.conv2d(x, w, g), reference.conv2d(x, w, g), rtol=1e-3, atol=1e-4)
print(simd.gemm_tile.__name__, simd.MR)
"""
    output = run_apart(program, tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert output.split() == ["_vector_tile", "4"]


def test_plain_loops_where_vector_code_does_not_compile(tmp_path: Path) -> None:
    program = """
import warnings
import numpy as np
from llvmlite import ir

def no_vectors(*args):
    raise NotImplementedError("no vectors on this machine")

ir.VectorType = no_vectors
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from minigan.kernels import simd
    from minigan.kernels.jit import njit

gemm_tile = simd.gemm_tile

@njit
def product(a, b, c, add):
    gemm_tile(a, 3, 7, 1, b, 0, c, 2, 50, 7, add)

a, b, c = (np.random.default_rng(0).standard_normal(n) for n in (200, 7 * simd.columns(np.empty(0)), 1000))
A, B = a[3 : 3 + simd.MR * 7].reshape(simd.MR, 7), b.reshape(7, -1)
product(a, b, c, False)
product(a, b, c, True)
C = np.array([c[2 + 50 * i :][: B.shape[1]] for i in range(simd.MR)])
np.testing.assert_allclose(C, 2 * A @ B)
print(gemm_tile.__name__, [w.category.__name__ for w in caught], "no vectors on this machine" in str(caught[0].message))
"""
    assert run_apart(program, tmp_path).split() == ["_plain_tile", "['RuntimeWarning']", "True"]


def test_reference_where_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise numba.core.errors.LoweringError("no code for this machine")

    monkeypatch.setattr(cpu, "_compiles", True)
    monkeypatch.setattr(direct, "_gather_product", broken)
    x, w, y = random_arrays(2, 20, 3, DCGAN)
    with pytest.warns(RuntimeWarning, match="convolution kernels do not compile here .*no code for this machine"):
        first = cpu.conv2d(x, w, DCGAN)
    np.testing.assert_array_equal(first, reference.conv2d(x, w, DCGAN))
    np.testing.assert_array_equal(cpu.conv2d_weight(x, y, DCGAN), reference.conv2d_weight(x, y, DCGAN))
