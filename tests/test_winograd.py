"""Winograd's algorithm: its matrices, its transforms, the trio, the choice of an algorithm, and prepared weights."""

import copy
import functools
import subprocess
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from convolutions import NAMES, arguments, output_of, random_arrays, relative_error, start_apart
from hypothesis import given, settings
from hypothesis import strategies as st

import minigan as mg
from minigan import kernels
from minigan.kernels import Geometry, Prepared, conv_algorithm, scratch, set_conv_algorithm, use
from minigan.kernels.conv2d import algorithm as rule
from minigan.kernels.conv2d import reference
from minigan.kernels.conv2d.algebra import matrices
from minigan.kernels.conv2d.algorithm import ALGORITHMS, TILES

numba = pytest.importorskip("numba")

from minigan.kernels import simd  # noqa: E402
from minigan.kernels.conv2d import direct, few_channels, winograd  # noqa: E402
from minigan.kernels.conv2d.transform import distance, transform  # noqa: E402
from minigan.kernels.prepared import _shelves, memory_for  # noqa: E402

# All four F(m, R) and both dtypes, in four combinations of eight: each takes a quarter of a minute to compile.
DTYPES = {2: np.float32, 3: np.float64}
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}
DCGAN = Geometry((2, 2), (1, 1), (4, 4), (8, 8))

each_form = pytest.mark.parametrize(("m", "r"), [(2, 2), (4, 2), (2, 3), (4, 3)])
each_window = pytest.mark.parametrize("R", DTYPES)
each_algorithm = pytest.mark.parametrize("algorithm", TILES)


def assert_trio_equals_reference(N: int, C: int, O: int, g: Geometry, dtype: Any) -> None:
    """Each operation of the algorithm that is set, written over NaN."""
    for name, args in arguments(*random_arrays(N, C, O, g, dtype)).items():
        expected = getattr(reference, name)(*(a.astype(np.float64) for a in args), g)
        out = np.full(expected.shape, np.nan, dtype)
        assert getattr(kernels, name)(*args, g, out=out) is out
        assert relative_error(out, expected) <= TOLERANCE[dtype], name


# ---- algebra ---------------------------------------------------------------------------------------------------------


@each_form
def test_matrices_make_the_trilinear_form(m: int, r: int) -> None:
    A, B, G = matrices(m, r)
    t = m + r - 1
    assert [a.shape for a in (A, B, G)] == [(t, m), (t, t), (t, r)]  # t products for m * r
    form = np.zeros((t, r, m))
    for i, u in np.ndindex(m, r):
        form[i + u, u, i] = 1
    np.testing.assert_allclose(np.einsum("pk,pu,pi->kui", B, G, A), form, atol=1e-14)


@each_form
def test_transposes_make_the_three_operations(m: int, r: int) -> None:
    A, B, G = matrices(m, r)
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(n) for n in (m + r - 1, r, m))
    np.testing.assert_allclose(A.T @ ((G @ w) * (B @ x)), np.correlate(x, w), atol=1e-13)
    np.testing.assert_allclose(B.T @ ((G @ w) * (A @ y)), np.convolve(y, w), atol=1e-13)
    np.testing.assert_allclose(G.T @ ((B @ x) * (A @ y)), np.correlate(x, y), atol=1e-13)


# ---- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_transform_equals_numpy(wide: bool, add: bool) -> None:
    matrix = np.array([[0, 1, -1], [-1, 0, 0.25], [1, 1, 1], [0, 0, -2.5]])
    apply = transform(matrix, wide, add)

    def overwrite(p: Any, p_table: Any, q: Any, q_table: Any) -> None:
        apply(p, p_table, 2, 5, q, q_table, 1, 3)

    def add_to(p: Any, p_table: Any, q: Any, q_table: Any) -> None:
        apply(p, p_table, 2, 5, q, q_table, 1, 3, q_table, 17)  # sums: the table's next 16 pixels

    rng = np.random.default_rng(0)
    p, q = (rng.standard_normal(1000).astype(np.float32) for _ in range(2))
    lanes = simd.columns(p) // 2 if wide else 1
    p_table, q_table = (rng.permutation(33) * lanes for _ in range(2))

    def pixels(array: Any, offsets: Any, shift: int) -> Any:
        return array[offsets[:, None] + shift + np.arange(lanes)].astype(np.float64)

    tile = pixels(p, p_table[2:11], 5).reshape(3, 3, lanes)
    expected = np.einsum("ij,jkc,lk->ilc", matrix, tile, matrix).reshape(16, lanes)
    if add:
        expected += pixels(q, q_table[17:33], 3)
    before = q.copy()
    numba.njit(add_to if add else overwrite)(p, p_table, q, q_table)
    np.testing.assert_allclose(pixels(q, q_table[1:17], 3), expected, rtol=1e-5, atol=1e-5)
    assert np.count_nonzero(q != before) == 16 * lanes


def test_distance_counts_elements() -> None:
    a = np.zeros(20, np.float32)
    measure = numba.njit(lambda start, end: distance(start, end))
    assert measure(a[3:], a[10:]) == 7
    assert measure(a[10:], a[3:]) == -7


# ---- the trio --------------------------------------------------------------------------------------------------------


@st.composite
def geometries(draw: st.DrawFn, R: int, largest: int = 13) -> Geometry:
    """Windows of R strides; paddings wider than they are, pixels that no tap reaches."""
    stride = draw(st.integers(1, 3))
    window = stride * R

    def axis() -> tuple[int, int]:
        padding = draw(st.integers(0, 1) | st.integers(0, window + 1))
        return padding, draw(st.integers(max(1, window - 2 * padding), max(largest, window)))

    (ph, h), (pw, w) = axis(), axis()
    return Geometry((stride, stride), (ph, pw), (window, window), (h, w))


@each_algorithm
@each_window
@settings(max_examples=100)
@given(data=st.data(), N=st.integers(1, 3), C=st.integers(1, 35), O=st.integers(1, 35))
def test_equals_the_reference(algorithm: str, R: int, data: Any, N: int, C: int, O: int) -> None:
    with set_conv_algorithm(algorithm):
        assert_trio_equals_reference(N, C, O, data.draw(geometries(R)), DTYPES[R])


@each_algorithm
@each_window
@pytest.mark.parametrize("left_over", [(2, 0), (0, 1)])
def test_pixels_that_no_tile_reaches(algorithm: str, R: int, left_over: tuple[int, int]) -> None:
    g = Geometry((3, 3), (0, 0), (3 * R, 3 * R), (3 * R + 9 + left_over[0], 3 * R + 9 + left_over[1]))
    assert g.y_size == (4, 4)  # whole tiles
    with set_conv_algorithm(algorithm):
        assert_trio_equals_reference(2, 3, 5, g, DTYPES[R])


large = pytest.mark.parametrize(
    ("N", "C", "O", "size"),
    [
        pytest.param(7, 5, 7, (33, 30), id="several blocks of tiles"),
        pytest.param(3, 140, 21, (9, 8), id="sums longer than registers take"),
        pytest.param(3, 42, 150, (9, 8), id="many parts of the weight"),
        pytest.param(1, 3, 2, (6, 6), id="hardly more tiles than threads"),
    ],
)


@pytest.mark.usefixtures("threads")
@each_algorithm
@each_window
@large
def test_blocks_parts_and_edges(algorithm: str, R: int, N: int, C: int, O: int, size: tuple[int, int]) -> None:
    g = Geometry((2, 2), (1, 1), (2 * R, 2 * R), size)
    with set_conv_algorithm(algorithm):
        assert_trio_equals_reference(N, C, O, g, DTYPES[R])


@pytest.mark.usefixtures("threads")
@each_algorithm
@each_window
@pytest.mark.parametrize("tiles", [1, 11])
@large
def test_weight_gradient_in_chunks(
    algorithm: str, R: int, tiles: int, N: int, C: int, O: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    g = Geometry((2, 2), (1, 1), (2 * R, 2 * R), size)
    x, _, y = random_arrays(N, C, O, g, DTYPES[R])
    points, panel = (TILES[algorithm] + R - 1) ** 2, simd.columns(x)
    monkeypatch.setattr(winograd, "CHUNK", tiles * points * (4 * C + -(-O // panel) * panel))
    with set_conv_algorithm(algorithm):
        got = mg.kernels.conv2d_weight(x, y, g)
    expected = reference.conv2d_weight(x.astype(np.float64), y.astype(np.float64), g)
    assert relative_error(got, expected) <= TOLERANCE[DTYPES[R]]


@each_algorithm
@each_window
def test_nothing_in_scratch_is_read_before_it_is_written(algorithm: str, R: int) -> None:
    g = Geometry((2, 2), (3, 0), (2 * R, 2 * R), (9, 8))
    with set_conv_algorithm(algorithm):
        for _ in range(2):
            assert_trio_equals_reference(3, 19, 21, g, DTYPES[R])
            for (name, _), array in scratch.kept.arrays.items():
                if name == "zeros":
                    assert not array.any()
                elif array.dtype.kind == "f":
                    array[...] = np.nan


@pytest.mark.usefixtures("threads")
@each_algorithm
@each_window
def test_same_bits_again_whatever_ran_before(algorithm: str, R: int) -> None:
    g = Geometry((2, 2), (1, 1), (2 * R, 2 * R), (15, 12))
    arrays = random_arrays(5, 21, 37, g, DTYPES[R])
    before = [a.copy() for a in arrays]

    def results() -> list[Any]:
        return [getattr(kernels, name)(*args, g) for name, args in arguments(*arrays).items()]

    with set_conv_algorithm(algorithm):
        first = results()
        assert_trio_equals_reference(2, 40, 3, g, DTYPES[R])  # leaves its scratch behind
        for got, again in zip(first, results(), strict=True):
            np.testing.assert_array_equal(got, again)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layouts_and_flags_share_one_compiled_version() -> None:
    arrays = random_arrays(2, 5, 6, DCGAN, np.float32)
    run = winograd.instance(2, 2)
    with set_conv_algorithm("winograd2"):
        expected = {name: getattr(kernels, name)(*args, DCGAN) for name, args in arguments(*arrays).items()}
        versions = {name: len(kernel.signatures) for name, kernel in vars(run).items()}
        frozen = [a.copy() for a in arrays]
        for a in frozen:
            a.flags.writeable = False
        for variant in (list(map(np.asfortranarray, arrays)), frozen):
            for name, args in arguments(*variant).items():
                np.testing.assert_array_equal(getattr(kernels, name)(*args, DCGAN), expected[name])
    assert {name: len(kernel.signatures) for name, kernel in vars(run).items()} == versions


@each_algorithm
@settings(max_examples=25)
@given(geometries(3), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_trilinear_form(algorithm: str, g: Geometry, N: int, C: int, O: int) -> None:
    x, w, y = random_arrays(N, C, O, g)
    with set_conv_algorithm(algorithm):
        forms = (
            np.vdot(mg.kernels.conv2d(x, w, g), y),
            np.vdot(mg.kernels.conv_transpose2d(y, w, g), x),
            np.vdot(mg.kernels.conv2d_weight(x, y, g), w),
        )
    np.testing.assert_allclose(forms, forms[0], rtol=1e-10, atol=1e-10)


# ---- derivatives -----------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each operation ran, by module and name."""
    counts: Counter[str] = Counter()

    def watch(module: Any, name: str) -> None:
        function = getattr(module, name)

        @functools.wraps(function)
        def counted(*args: Any) -> None:
            counts[f"{module.__name__.split('.')[-1]}.{name}"] += 1
            function(*args)

        monkeypatch.setattr(module, name, counted)

    for name in NAMES:
        watch(winograd, name)
        watch(direct, name)
    for name in ("conv2d", "conv2d_weight"):
        watch(few_channels, name)
    return counts


@each_algorithm
@pytest.mark.parametrize(
    ("check", "g"),
    [
        (mg.gradcheck, Geometry((1, 1), (1, 1), (3, 3), (5, 4))),
        (mg.gradcheck, Geometry((2, 2), (1, 1), (6, 6), (4, 6))),
        (mg.gradgradcheck, Geometry((1, 1), (1, 1), (3, 3), (3, 4))),
    ],
)
def test_derivatives(algorithm: str, check: Callable[..., None], g: Geometry, calls: Counter[str]) -> None:
    x, w, y = random_arrays(1, 2, 1, g)
    with set_conv_algorithm(algorithm):
        check(lambda x, w: mg.conv2d(x, w, None, g.stride, g.padding), [x, w])
        check(lambda y, w: mg.conv_transpose2d(y, w, None, g.stride, g.padding), [y, w])
    assert set(calls) == {f"winograd.{name}" for name in NAMES}


@pytest.mark.parametrize(("C", "O", "size"), [(64, 128, 16), (128, 256, 8)])
def test_rounding_errors_in_layers_of_dcgan(C: int, O: int, size: int) -> None:
    g = DCGAN._replace(x_size=(size, size))
    x, w, y = random_arrays(64, C, O, g, np.float32)
    for name, args in arguments(x, np.float32(0.02) * w, y).items():
        expected = getattr(reference, name)(*(a.astype(np.float64) for a in args), g)
        for algorithm, bound in (("direct", 1e-6), ("winograd2", 5e-6), ("winograd4", 2e-5), ("auto", 2e-5)):
            with set_conv_algorithm(algorithm):
                assert relative_error(getattr(kernels, name)(*args, g), expected) <= bound, (name, algorithm)


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_the_switch_as_a_function_and_as_a_context() -> None:
    g = DCGAN

    def chosen() -> str:
        return conv_algorithm("conv2d", 1, 1, 1, g)

    with set_conv_algorithm("auto"):
        mg.set_conv_algorithm("winograd2")
        assert chosen() == "winograd2"
        with set_conv_algorithm("winograd4"):
            assert chosen() == "winograd4"
            with pytest.raises(ZeroDivisionError), set_conv_algorithm("direct"):
                _ = 1 // int(chosen() != "direct")
            assert chosen() == "winograd4"
        assert chosen() == "winograd2"
    assert conv_algorithm("conv2d", 64, 64, 128, g._replace(x_size=(32, 32))) == "winograd4"


def test_the_switch_refuses_other_names() -> None:
    message = r"set_conv_algorithm: there is no 'fft'; choose one of auto, direct, winograd2, winograd4"
    with pytest.raises(ValueError, match=message):
        set_conv_algorithm("fft")


MISFITS = [
    pytest.param(Geometry((1, 1), (2, 2), (5, 5), (8, 8)), id="5x5, stride 1"),
    pytest.param(Geometry((1, 1), (1, 1), (4, 4), (8, 8)), id="4x4, stride 1"),
    pytest.param(Geometry((2, 1), (1, 1), (4, 4), (8, 8)), id="unequal strides"),
    pytest.param(Geometry((2, 2), (1, 1), (4, 6), (8, 8)), id="no square"),
    pytest.param(Geometry((2, 2), (1, 1), (5, 5), (8, 8)), id="two strides and a bit"),
]


@pytest.mark.parametrize("N", [0, 2])
@pytest.mark.parametrize("g", MISFITS)
def test_forced_on_what_does_not_fit(g: Geometry, N: int) -> None:
    for name, args in arguments(*random_arrays(N, 2, 3, g, np.float32)).items():
        (kh, kw), (sh, sw) = g.window, g.stride
        message = (
            rf"{name}: winograd2 fits square windows of two or three strides, not a window \({kh}, {kw}\) of stride "
            rf"\({sh}, {sw}\); use set_conv_algorithm\('auto'\)"
        )
        with set_conv_algorithm("winograd2"), pytest.raises(ValueError, match=message):
            getattr(kernels, name)(*args, g)
    for algorithm in ("auto", "direct"):
        with set_conv_algorithm(algorithm):
            assert_trio_equals_reference(N, 2, 3, g, np.float32)
            assert conv_algorithm("conv2d", N, 2, 3, g) == "direct"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_batch(algorithm: str) -> None:
    with set_conv_algorithm(algorithm):
        assert_trio_equals_reference(0, 2, 3, DCGAN, np.float32)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(
    ("expected", "N", "C", "O", "g"),
    [
        pytest.param("direct", 64, 1, 64, DCGAN._replace(x_size=(28, 28)), id="one channel"),
        pytest.param("direct", 1, 256, 512, DCGAN, id="few pixels for many weights"),
        pytest.param("direct", 64, 64, 128, MISFITS[0].values[0], id="misfit"),
        pytest.param("winograd4", 64, 64, 128, DCGAN._replace(x_size=(32, 32)), id="many of both"),
    ],
)
def test_the_rule(
    expected: str, N: int, C: int, O: int, g: Geometry, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "_vector", lambda: lanes)
    assert {conv_algorithm(name, N, C, O, g) for name in NAMES} == {expected}


def test_the_rule_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "numba_available", lambda: False)
    assert rule._vector.__wrapped__() == 8
    monkeypatch.undo()
    assert rule._vector.__wrapped__() == simd.VECTOR_BYTES // 4


def test_the_rule_without_vector_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd, "compiles", False)
    assert rule._vector.__wrapped__() == 0
    monkeypatch.setattr(rule, "_vector", lambda: 0)
    assert rule._cheapest.__wrapped__("conv2d", 64, 64, 128, DCGAN._replace(x_size=(32, 32))) == "direct"


def test_explain_conv(capsys: pytest.CaptureFixture[str]) -> None:
    x, w = np.zeros((64, 32, 32, 64), np.float32), mg.zeros((4, 4, 64, 128))
    mg.explain_conv(x, w, stride=2, padding=1)
    first, columns, *rows = capsys.readouterr().out.splitlines()
    assert columns.split() == ["conv2d,", "conv_transpose2d", "conv2d_weight"]
    assert first == "convolution of x (64, 32, 32, 64) with w (4, 4, 64, 128), stride (2, 2), padding (1, 1)"
    assert [row.split()[0] for row in rows] == ["direct", "winograd2", "winograd4"]
    for column in (1, 2):
        times = [float(row.replace("<-", "").split()[column].replace(",", "")) for row in rows]
        assert times[2] == min(times)
    assert [row.endswith("<-") for row in rows] == [False, False, True]

    mg.explain_conv(x.shape, w.shape, 2, 1)
    assert capsys.readouterr().out.splitlines() == [first, columns, *rows]
    with set_conv_algorithm("winograd2"):
        mg.explain_conv(x, w.shape, (2, 2), (1, 1))
    _, _, *forced, said = capsys.readouterr().out.splitlines()
    assert [row.endswith("<-") for row in forced] == [False, True, False]
    assert said == "  set_conv_algorithm('winograd2') is in force"
    with set_conv_algorithm("winograd4"):
        mg.explain_conv(x, (5, 5, 64, 128))
    _, _, *misfit, said = capsys.readouterr().out.splitlines()
    assert misfit[1].split() == ["winograd2", *2 * ["does", "not", "fit"]]
    assert misfit[2].split() == ["winograd4", *2 * ["does", "not", "fit", "<-"]]
    with use("reference"):
        mg.explain_conv(x, w, 2, 1)
    assert "the reference kernels are running" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (
            (64, 32, 32),
            (4, 4, 3, 8),
            r"be \(N, H, W, C\) .* \(KH, KW, C, O\), but are \(64, 32, 32\) and \(4, 4, 3, 8\)",
        ),
        ((1, 8, 8, 2), (4, 4, 3, 8), r"but are \(1, 8, 8, 2\) and \(4, 4, 3, 8\)"),
        ((1, 3, 8, 3), (4, 4, 3, 8), r"the window \(4, 4\) is larger than x \(1, 3, 8, 3\) with padding \(0, 0\)"),
    ],
)
def test_explain_conv_checks_shapes(x: Any, w: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"explain_conv: .*{message}"):
        mg.explain_conv(x, w)
    with pytest.raises(ValueError, match="explain_conv: stride must be one or two whole numbers >= 1, not 0"):
        mg.explain_conv((1, 8, 8, 3), (4, 4, 3, 8), stride=0)


# ---- prepared weights ------------------------------------------------------------------------------------------------


def slot_at() -> Callable[[int], Prepared]:
    """A slot, at any version of its weight."""
    counter = [0]
    slot = Prepared(counter)

    def at(version: int) -> Prepared:
        counter[0] = version
        return slot.at(version)

    return at


def test_a_slot_computes_once_a_version_and_lets_go_after_as_many_uses_as_before() -> None:
    at, computed = slot_at(), Counter[str]()
    slot = at(0)

    def get(key: str) -> Any:
        def compute() -> Any:
            computed[key] += 1
            return np.array([computed[key]])

        return slot.get(key, compute)

    first = get("a")
    assert [get("a") is first, get("a") is first, at(0) is slot, get("b")[0]] == [True, True, True, 1]
    assert computed == {"a": 1, "b": 1}
    assert set(slot._arrays) == {"a", "b"}
    at(1)
    assert not slot._arrays
    second = get("a")
    assert second[0] == 2
    assert get("a") is second
    assert set(slot._arrays) == {"a"}
    assert get("a") is second  # for the third time, as in the version before
    assert get("b")[0] == 2
    assert not slot._arrays
    at(2)
    at(3)  # two writes in a row: clipping comes after the update
    for _ in range(3):
        get("a")
    assert not slot._arrays
    third = get("a")  # once more than expected
    assert (third[0], get("a") is third, set(slot._arrays)) == (4, True, {"a"})


def test_what_a_slot_lets_go_of_serves_the_next_version() -> None:
    at, places = slot_at(), set()
    for version in range(4):
        array = at(version).get("u", lambda: memory_for(100, np.dtype(np.float32)))
        places.add(array.ctypes.data)
    assert len(places) == 1


def test_what_slots_let_go_of_serves_all_and_is_gone_with_the_last_of_them() -> None:
    kind, compute = (101, np.dtype(np.float32)), lambda: memory_for(101, np.dtype(np.float32))
    first, second, places = slot_at(), slot_at(), set()
    for version in range(3):
        for at in (first, second):  # one after the other, as the layers of a net in which each lets go at once
            places.add(at(version).get("u", compute).ctypes.data)
            if not version:
                at(-1)
    assert len(places) == 1
    memory = weakref.ref(_shelves[kind][0].base)
    del at, first
    assert memory() is not None
    del second
    assert memory() is None
    assert kind not in _shelves


@pytest.fixture
def transformed(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, bool]]:
    """How often weights were transformed, by (m, turned)."""
    counts: Counter[tuple[int, bool]] = Counter()
    instance = winograd.instance

    def watched(m: int, r: int) -> SimpleNamespace:
        run = instance(m, r)

        def weights(w: Any, C: int, O: int, step: int, turned: bool, *rest: Any) -> None:
            counts[m, turned] += 1
            run.weights(w, C, O, step, turned, *rest)

        return SimpleNamespace(**{**vars(run), "weights": weights})

    monkeypatch.setattr(winograd, "instance", watched)
    return counts


def layer_and_input() -> tuple[mg.nn.Conv2d, mg.Tensor]:
    x = mg.Tensor(np.random.default_rng(0).standard_normal((2, 8, 8, 5)), requires_grad=True, dtype=np.float32)
    return mg.nn.Conv2d(5, 6, 4, 2, 1), x


def run(layer: mg.nn.Conv2d, x: mg.Tensor) -> list[Any]:
    """The output and the gradient with respect to x: both use the weight."""
    layer.zero_grad()
    x.grad = None
    y = layer(x)
    (y * y).sum().backward()
    return [y.array, x.grad]


def assert_equals_direct(layer: mg.nn.Conv2d, x: mg.Tensor) -> None:
    got = run(layer, x)
    with set_conv_algorithm("direct"):
        expected = run(copy.deepcopy(layer), x)
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b) <= 1e-5


def slot_of(layer: mg.nn.Conv2d) -> Prepared:
    slot: Prepared | None = layer.weight._prepared
    assert slot is not None
    return slot


def step(layer: mg.nn.Conv2d) -> None:
    mg.optim.SGD(layer.parameters(), 0.1).step()


def write(layer: mg.nn.Conv2d) -> None:
    with layer.weight.writing() as w:
        w *= -1


def assign(layer: mg.nn.Conv2d) -> None:
    with mg.no_grad():
        layer.weight[0] = 1


def load(layer: mg.nn.Conv2d) -> None:
    layer.load_state_dict({name: 2 * array for name, array in layer.state_dict().items()})


def clip(layer: mg.nn.Conv2d) -> None:
    mg.optim.clip_weights(layer.parameters(), 0.01)


def replace(layer: mg.nn.Conv2d) -> None:
    layer.weight.replace(layer.weight.array + 1)


def write_through_a_view(layer: mg.nn.Conv2d) -> None:
    with layer.weight.detach().writing() as w:
        w += 1


@each_algorithm
@pytest.mark.parametrize("change", [step, write, assign, load, clip, replace, write_through_a_view])
def test_weights_are_transformed_once_a_version(
    algorithm: str, change: Callable[[mg.nn.Conv2d], None], transformed: Counter[tuple[int, bool]]
) -> None:
    layer, x = layer_and_input()
    m = TILES[algorithm]
    with set_conv_algorithm(algorithm):
        first = run(layer, x)
        for got, again in zip(first, run(layer, x), strict=True):
            np.testing.assert_array_equal(got, again)
        assert transformed == {(m, False): 1, (m, True): 1}
        before = layer.weight.array.copy()
        change(layer)
        assert not np.array_equal(layer.weight.array, before)
        run(layer, x)
        run(layer, x)
        assert transformed == {(m, False): 2, (m, True): 2}
        assert_equals_direct(layer, x)


def test_one_slot_serves_all_algorithms(transformed: Counter[tuple[int, bool]]) -> None:
    layer, x = layer_and_input()
    for _ in range(2):
        for algorithm in ("winograd2", "direct", "winograd4", "auto"):
            with set_conv_algorithm(algorithm):
                run(layer, x)
    expected = {(m, turned): 1 for m in (2, 4) for turned in (False, True)}
    assert transformed == expected
    for algorithm in TILES:
        with set_conv_algorithm(algorithm):
            assert_equals_direct(layer, x)
    write(layer)
    for algorithm in TILES:
        with set_conv_algorithm(algorithm):
            assert_equals_direct(layer, x)
    assert transformed == dict.fromkeys(expected, 2)


def test_a_convolution_and_its_transposed_one_share_a_weight(transformed: Counter[tuple[int, bool]]) -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm("winograd2"):
        y = layer(x)
        z = mg.conv_transpose2d(y, layer.weight, None, 2, 1)
        mg.grad((z * z).sum(), [x, layer.weight])
    assert transformed == {(2, False): 1, (2, True): 1}


def test_only_leaves_have_a_slot(transformed: Counter[tuple[int, bool]]) -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm("direct"):
        expected = mg.conv2d(x, layer.weight, None, 2, 1).array
    derived = layer.weight * 2
    with set_conv_algorithm("winograd2"):
        for w, factor in ((layer.weight.detach(), 1), (mg.Tensor(layer.weight), 1), (derived, 2)):
            for _ in range(2):
                y = mg.conv2d(x, w, None, 2, 1)
                assert relative_error(y.array, factor * expected) <= 1e-5
                mg.grad(y.sum(), [x])
            assert w._prepared is None
        derived.sum().backward()
    assert transformed == {(2, False): 6, (2, True): 6}


def test_a_frozen_weight_keeps_its_slot(transformed: Counter[tuple[int, bool]]) -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm("winograd2"):
        run(layer, x)
        slot = slot_of(layer)
        layer.requires_grad_(False)
        run(layer, x)
        layer.requires_grad_(True)
        run(layer, x)
        assert layer.weight._prepared is slot
        assert transformed == {(2, False): 1, (2, True): 1}
        layer.requires_grad_(False)
        write(layer)
        assert_equals_direct(layer, x)


def test_a_copy_has_a_slot_of_its_own() -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm("winograd2"):
        run(layer, x)
        twin = copy.deepcopy(layer)
        assert twin.weight._prepared is None
        write(twin)
        assert_equals_direct(twin, x)
        assert_equals_direct(layer, x)
        assert slot_of(twin) is not slot_of(layer)


def test_the_slot_goes_with_the_weight() -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm("winograd2"):
        run(layer, x)
    slot = weakref.ref(slot_of(layer))
    del layer
    assert slot() is None


def test_each_dtype_has_its_own_transformed_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(w: Any, C: int, O: int, step: int, turned: bool, u: Any, *rest: Any) -> None:
        u[...] = w[0]

    monkeypatch.setattr(winograd, "instance", lambda m, r: SimpleNamespace(weights=weights))
    weight = mg.nn.Conv2d(5, 6, 4, 2, 1).weight
    at = slot_at()
    for version, dtype in enumerate((np.float32, np.float64, np.float32)):
        weight.replace((weight.array + 1).astype(dtype))
        u = winograd._transformed(weight.array, DCGAN, 2, False, at(version))
        assert u.dtype == dtype
        assert (u == weight.array.flat[0]).all()


def test_a_converted_module_forgets_what_was_prepared() -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm("winograd2"):
        run(layer, x)
        layer.astype(np.float64)
        write(layer)
        layer.astype(np.float32)
        assert_equals_direct(layer, x)


# ---- other CPUs ------------------------------------------------------------------------------------------------------

PROGRAM = """
import numpy as np
from minigan.kernels import Geometry, conv2d, conv2d_weight, set_conv_algorithm, simd
from minigan.kernels.conv2d import reference, winograd
g = Geometry((2, 2), (1, 1), (4, 4), (9, 9))
rng = np.random.default_rng(0)
x, w, y = (rng.standard_normal(s).astype("f4") for s in ((2, 9, 9, 21), (4, 4, 21, 18), (2, 4, 4, 18)))
set_conv_algorithm("winograd2")
np.testing.assert_allclose(conv2d(x, w, g), reference.conv2d(x, w, g), atol=1e-4)
np.testing.assert_allclose(conv2d_weight(x, y, g), reference.conv2d_weight(x, y, g), atol=1e-4)
(code,) = winograd.instance(2, 2).forward.inspect_asm().values()
print(simd.MR, *(register for register in ("xmm", "ymm", "zmm") if register in code))
"""
HASWELL = (
    "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fsgsbase,+fxsr,+invpcid,+lzcnt,+mmx,+movbe,+pclmul,"
    "+popcnt,+rdrnd,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+xsaveopt"
)
TARGETS = {
    "haswell": (HASWELL, "6 xmm ymm\n"),
    "generic": ("", "4 xmm\n"),
}
x86 = pytest.mark.skipif(
    numba.core.codegen.get_host_cpu_features().find("+avx2") < 0, reason="this machine runs no code for haswell"
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.Popen[str]]:
    """Both at once, as long as compilation is on one core."""
    return {
        name: start_apart(PROGRAM, tmp_path_factory.mktemp(name), NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)
        for name, (features, _) in TARGETS.items()
    }


@x86
@pytest.mark.targets
@pytest.mark.parametrize("name", TARGETS)
def test_code_for_other_cpus(name: str, processes: dict[str, subprocess.Popen[str]]) -> None:
    assert output_of(processes[name]) == TARGETS[name][1]


@each_algorithm
def test_nothing_is_prepared_while_a_weight_is_written_to(algorithm: str) -> None:
    layer, x = layer_and_input()
    with set_conv_algorithm(algorithm):
        run(layer, x)
        with mg.no_grad(), layer.weight.writing() as w:
            for factor in (0, 1):
                w[...] = factor
                y = mg.conv2d(x, layer.weight, None, 2, 1)
                expected = reference.conv2d(x.array, layer.weight.array, DCGAN)
                assert relative_error(y.array, expected) <= 1e-5
        assert_equals_direct(layer, x)
        assert layer.weight._prepared is not False


def test_nothing_is_prepared_from_memory_that_others_can_write_to() -> None:
    foreign = np.ones((4, 4, 5, 6), np.float32)
    w = mg.from_dlpack(foreign)
    w.requires_grad = True
    x = np.ones((2, 8, 8, 5), np.float32)
    with set_conv_algorithm("winograd2"):
        assert mg.conv2d(x, w, None, 2, 1).array.any()
        foreign[...] = 0
        assert not mg.conv2d(x, w, None, 2, 1).array.any()


def test_one_weight_at_two_strides() -> None:
    x = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype(np.float32)
    w = mg.Tensor(np.random.default_rng(1).standard_normal((6, 6, 3, 5)).astype(np.float32), requires_grad=True)
    with set_conv_algorithm("winograd2"):
        for stride in (2, 3, 2):
            y = mg.conv2d(x, w, None, stride, 0)
            geometry = Geometry((stride, stride), (0, 0), (6, 6), (12, 12))
            assert relative_error(y.array, reference.conv2d(x, w.array, geometry)) <= 1e-5


# ---- threads, and numbers that are none ------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["direct", "winograd2"])
def test_python_threads_do_not_disturb_each_other(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 8, 5)).astype(np.float32)
    weights = [rng.standard_normal((4, 4, 5, 6)).astype(np.float32) for _ in range(2)]
    with set_conv_algorithm(algorithm):
        expected = [kernels.conv2d(x, w, DCGAN) for w in weights]

        def wrong(i: int) -> int:
            return sum(not np.array_equal(kernels.conv2d(x, weights[i], DCGAN), expected[i]) for _ in range(300))

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(wrong, range(2))) == [0, 0]


def test_a_nan_is_never_lost() -> None:
    x, w, _ = random_arrays(1, 2, 3, DCGAN, np.float32)
    for place in ((0, 0), (3, 4), (7, 7)):
        x[0, *place, 1] = np.nan
        expected = np.isnan(reference.conv2d(x, w, DCGAN))
        for algorithm in TILES:
            with set_conv_algorithm(algorithm):
                assert np.isnan(kernels.conv2d(x, w, DCGAN))[expected].all()
        x[0, *place, 1] = 0
