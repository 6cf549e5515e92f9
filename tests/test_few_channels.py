"""The convolution of images of few channels against its specification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convolutions import geometries, random_arrays, relative_error, run_apart
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minigan.kernels import Geometry
from minigan.kernels.conv2d import reference

numba = pytest.importorskip("numba")

from minigan.kernels import simd  # noqa: E402
from minigan.kernels.conv2d import few_channels  # noqa: E402

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
PANEL = simd.columns(np.empty(0, np.float32))
HALF = PANEL // simd.VECTORS
DCGAN = Geometry((2, 2), (1, 1), (4, 4), (28, 28))


def results(x: Any, w: Any, y: Any, g: Geometry) -> tuple[Any, Any]:
    """conv2d(x, w) and conv2d_weight(x, y), written over NaN."""
    gy, gw = np.full_like(y, np.nan), np.full_like(w, np.nan)
    few_channels.conv2d(x, w, g, gy)
    few_channels.conv2d_weight(x, y, g, gw)
    return gy, gw


def assert_equals_reference(N: int, C: int, O: int, g: Geometry, dtype: Any) -> None:
    assert few_channels.fits(g, C, O)
    x, w, y = random_arrays(N, C, O, g, dtype)
    exact = [a.astype(np.float64) for a in (x, w, y)]
    expected = reference.conv2d(exact[0], exact[1], g), reference.conv2d_weight(exact[0], exact[2], g)
    for got, right in zip(results(x, w, y, g), expected, strict=True):
        assert relative_error(got, right) <= TOLERANCE[dtype]


@settings(max_examples=80)
@given(
    geometries(14),
    st.integers(0, 3),
    st.integers(1, few_channels.CHANNELS),
    st.integers(HALF, 3 * PANEL),
    st.sampled_from((np.float32, np.float64)),
)
def test_equals_the_reference(g: Geometry, N: int, C: int, O: int, dtype: Any) -> None:
    assume(few_channels.fits(g, C, O))
    assert_equals_reference(N, C, O, g, dtype)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("N", "C", "O", "g"),
    [
        pytest.param(5, 1, 2 * PANEL, DCGAN, id="whole panels"),
        pytest.param(3, 1, PANEL + 1, DCGAN, id="one column over"),
        pytest.param(5, 1, HALF, DCGAN, id="a narrow panel"),
        pytest.param(3, 2, HALF + 1, DCGAN, id="one column over a narrow one"),
        pytest.param(3, 1, PANEL - 1, DCGAN._replace(x_size=(33, 30)), id="one column short of a whole one"),
        pytest.param(3, 1, 2 * PANEL - 1, DCGAN._replace(x_size=(33, 30)), id="one column short"),
        pytest.param(1, 1, PANEL, Geometry((1, 1), (0, 0), (3, 3), (3, simd.MR + 2)), id="one tile of pixels"),
        pytest.param(2, 1, PANEL, Geometry((1, 1), (0, 0), (3, 3), (3, simd.MR + 3)), id="one pixel over"),
        pytest.param(2, 1, PANEL, Geometry((1, 3), (0, 0), (2, 3), (simd.MR + 1, 5)), id="rows of one pixel"),
        pytest.param(2, 4, PANEL, Geometry((2, 1), (3, 2), (7, 7), (20, 19)), id="many taps"),
        pytest.param(1, 4, PANEL, Geometry((1, 1), (0, 0), (1, 1), (128, 128)), id="the largest image"),
    ],
)
def test_tiles_and_edges(N: int, C: int, O: int, g: Geometry, dtype: Any) -> None:
    assert_equals_reference(N, C, O, g, dtype)


@pytest.mark.usefixtures("threads")
def test_same_bits_again_whatever_ran_before() -> None:
    arrays = random_arrays(5, 1, PANEL + 3, DCGAN, np.float32)
    before = [a.copy() for a in arrays]
    first = results(*arrays, DCGAN)
    results(*random_arrays(3, 4, 2 * PANEL, DCGAN, np.float32), DCGAN)  # leaves its scratch behind
    for got, again in zip(first, results(*arrays, DCGAN), strict=True):
        np.testing.assert_array_equal(got, again)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layouts_and_flags_share_one_compiled_version() -> None:
    arrays = random_arrays(2, 3, PANEL, DCGAN, np.float32)
    expected = results(*arrays, DCGAN)
    kernels = few_channels._forward, few_channels._weight
    versions = [len(kernel.signatures) for kernel in kernels]
    frozen = [a.copy() for a in arrays]
    for a in frozen:
        a.flags.writeable = False
    for x, w, y in (map(np.asfortranarray, arrays), frozen):
        gy, gw = np.empty_like(expected[0]), np.empty_like(expected[1])
        few_channels.conv2d(x, w, DCGAN, gy)
        few_channels.conv2d_weight(x, y, DCGAN, gw)
        np.testing.assert_array_equal(gy, expected[0])
        np.testing.assert_array_equal(gw, expected[1])
    assert [len(kernel.signatures) for kernel in kernels] == versions


@pytest.mark.parametrize(
    ("g", "C", "O"),
    [
        pytest.param(DCGAN, few_channels.CHANNELS + 1, PANEL, id="many channels"),
        pytest.param(DCGAN, 0, PANEL, id="no channel"),
        pytest.param(DCGAN, 1, HALF - 1, id="less than a narrow panel"),
        pytest.param(DCGAN, 4, few_channels.SUMS // 64 + 1, id="many sums"),
        pytest.param(DCGAN._replace(x_size=(28, few_channels.IMAGE // 30)), 1, PANEL, id="large image"),
        pytest.param(DCGAN._replace(padding=(0, 0), x_size=(4, 4)), 1, PANEL, id="less than a tile of pixels"),
        pytest.param(DCGAN._replace(padding=(0, 0), window=(30, 30)), 1, PANEL, id="no pixel"),
    ],
)
def test_what_does_not_fit(g: Geometry, C: int, O: int) -> None:
    assert not few_channels.fits(g, C, O)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("plain", "vector", "columns"),
    [
        (simd._indirect_plain_tile, simd._indirect_vector_tile, PANEL // 2),  # of float64
        (simd._narrow_plain_tile, simd._narrow_vector_tile, HALF // 2),
    ],
)
def test_plain_loops_equal_the_vector_tile(plain: Any, vector: Any, columns: int, add: bool) -> None:
    def both(a: Any, rows: Any, steps: Any, b: Any, c: Any, d: Any, add: bool) -> None:
        plain(a, 1, rows, 2, steps, 3, b, 4, 100, c, 5, 90, 7, add)
        vector(a, 1, rows, 2, steps, 3, b, 4, 100, d, 5, 90, 7, add)

    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(n) for n in (60, 1000, 90 * (simd.MR + 1)))
    rows, steps, d = rng.integers(0, 30, simd.MR + 2), rng.integers(0, 29, 10), c.copy()
    before = c.copy()
    numba.njit(both)(a, rows, steps, b, c, d, add)
    np.testing.assert_allclose(c, d, rtol=1e-12)
    assert np.count_nonzero(c != before) == simd.MR * columns


def test_the_smallest_tile(tmp_path: Path) -> None:
    program = """
import numpy as np
from minigan.kernels import Geometry, simd
from minigan.kernels.conv2d import few_channels, reference
g = Geometry((2, 2), (1, 1), (4, 4), (9, 9))
rng = np.random.default_rng(0)
x, w, y = (rng.standard_normal(s).astype("f4") for s in ((2, 9, 9, 1), (4, 4, 1, 18), (2, 4, 4, 18)))
gy, gw = np.empty_like(y), np.empty_like(w)
few_channels.conv2d(x, w, g, gy)
few_channels.conv2d_weight(x, y, g, gw)
np.testing.assert_allclose(gy, reference.conv2d(x, w, g), rtol=1e-3, atol=1e-5)
np.testing.assert_allclose(gw, reference.conv2d_weight(x, y, g), rtol=1e-3, atol=1e-5)
print(simd.MR)
"""
    assert run_apart(program, tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == "4\n"
