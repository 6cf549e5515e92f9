"""The kernels for parameters, random numbers and indices: one launch, equal bits, edges. On the emulated device."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any
from unittest import mock

import numpy as np
import pytest
from on_device import DEVICE, needs_device, run

from minigan import kernels
from minigan.kernels import cuda
from minigan.kernels.elementwise import cuda as elementwise
from minigan.kernels.elementwise import reference as elementwise_reference
from minigan.kernels.indexing import cuda as indexing
from minigan.kernels.indexing import reference as indexing_reference
from minigan.kernels.optimizer import cpu as optimizer_cpu
from minigan.kernels.optimizer import cuda as optimizer
from minigan.kernels.optimizer import reference as optimizer_reference
from minigan.kernels.random import cuda as random
from minigan.kernels.random import reference as random_reference

pytestmark = needs_device

DTYPES = (np.float32, np.float64)
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}
SIZES = (1, 33, 1023, 1024, 1025, 0, 2 * 1024 + 7)
WORD = 1 << 64

dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module")
def device() -> cuda.Device:
    return cuda.connect(DEVICE)


@pytest.fixture(params=["forward", "reverse", "random, checked"])
def order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads run in this order between barriers."""
    with run({"order": request.param.split(",")[0], "check": "checked" in request.param}):
        yield


def up(device: cuda.Device, arrays: list[np.ndarray]) -> list[Any]:
    return [device.xp.array(a) for a in arrays]


def host(array: Any) -> np.ndarray:
    return np.asarray(array.get())


# ---- optimizer -------------------------------------------------------------------------------------------------

STEPS: dict[str, tuple[str, int, dict[str, Any]]] = {  # kernel: function, number of states, scalars
    "sgd": ("sgd", 0, {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.01}),
    "sgd_momentum": ("sgd", 1, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "rmsprop": ("rmsprop", 1, {"lr": 0.01, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.01}),
    "adam": ("adam", 2, {"lr": 0.01, "beta1": 0.5, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "step": 3}),
    "clip_weights": ("clip_weights", 0, {"c": 0.5}),
    "moving_average": ("moving_average", 0, {"decay": 0.9}),
}


def call(module: Any, name: str, p: Any, g: Any, states: list[Any]) -> None:
    """One step; of the scalars that are given for each parameter, each second one is different."""
    function, _, scalars = STEPS[name]
    if function == "clip_weights":
        assert module.clip_weights(p, scalars["c"]) is p
        return
    of_each = {key: [scalars[key] + i % 2 for i in range(len(p))] for key in ("step",) if key in scalars}
    given = states or ([None] if function == "sgd" else [])
    assert getattr(module, function)(p, g, *given, **(scalars | of_each)) is p


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("name", STEPS)
@dtypes
def test_parameters_of_all_sizes(device: cuda.Device, name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    p, g, *states = ([rng.standard_normal(n).astype(dtype) for n in SIZES] for _ in range(2 + STEPS[name][1]))
    states = [[s * s for s in state] for state in states]
    on_device = [up(device, arrays) for arrays in (p, g, *states)]
    call(optimizer, name, on_device[0], on_device[1], on_device[2:])
    call(optimizer_reference, name, p, g, states)
    for there, here in zip(on_device, (p, g, *states), strict=True):
        for a, b in zip(there, here, strict=True):
            np.testing.assert_allclose(host(a), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", STEPS)
def test_one_launch_for_all_parameters_of_a_dtype(
    device: cuda.Device, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[tuple[str, int]] = []
    launch = optimizer.SOURCE.launch
    monkeypatch.setattr(
        optimizer.SOURCE,
        "launch",
        lambda kernel, grid, *rest, **more: (launched.append((kernel, grid[0])), launch(kernel, grid, *rest, **more)),
    )
    for kinds, launches in ((DTYPES[:1], 1), (DTYPES, 2)):
        p, g, *states = (
            up(device, [np.ones(n, kinds[i % len(kinds)]) for i, n in enumerate((5, 1024, 1025, 0))])
            for _ in range(2 + STEPS[name][1])
        )
        launched.clear()
        call(optimizer, name, p, g, states)
        assert [kernel for kernel, _ in launched] == launches * [name]
        assert sum(blocks for _, blocks in launched) == 1 + 1 + 2
    launched.clear()
    call(optimizer, name, [], [], [[] for _ in range(STEPS[name][1])])
    assert launched == []


def test_tables_of_the_same_parameters_are_made_once(device: cuda.Device) -> None:
    made = optimizer._parts.cache_info, cuda._address_table.cache_info, optimizer._constant.cache_info
    p, g = (up(device, [np.ones(n, np.float32) for n in (3, 4)]) for _ in range(2))
    counts = []
    for _ in range(3):
        call(optimizer, "sgd", p, g, [])
        counts.append([info().misses for info in made])
    assert counts[0] == counts[1] == counts[2]


MODULES = {"cuda": optimizer, "cpu": optimizer_cpu, "reference": optimizer_reference}
EVERYWHERE = [(where, name) for where in MODULES for name in STEPS if hasattr(MODULES[where], STEPS[name][0])]


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(("where", "name"), EVERYWHERE)
@pytest.mark.parametrize("gate", [0.0, -3.0e38, np.nan, np.inf, -np.inf])
@dtypes
def test_a_gate_that_is_not_finite(
    device: cuda.Device, monkeypatch: pytest.MonkeyPatch, where: str, name: str, gate: float, dtype: Any
) -> None:
    """Nothing is written behind it; behind any other the step is that without one. It may be of another dtype."""
    module: Any = MODULES[where]
    rng = np.random.default_rng(0)
    place = device.xp.array if module is optimizer else np.array
    kept, given = ([[rng.random(n).astype(dtype) for n in (5, 1030)] for _ in range(2 + STEPS[name][1])] for _ in "12")
    of_gate = np.float64 if abs(gate) > 1e30 or dtype is np.float64 else dtype
    for gated in (False, True):
        arrays = [[place(a) for a in of] for of in kept]
        if gated:
            function = getattr(module, STEPS[name][0])
            monkeypatch.setattr(module, STEPS[name][0], partial(function, gate=place(np.array([gate], of_gate))))
        call(module, name, arrays[0], arrays[1], arrays[2:])
        given = arrays if not gated else given
        expected = given if np.isfinite(gate) else kept
        if gated:
            for a, b in zip(chain(*arrays), chain(*expected), strict=True):
                np.testing.assert_array_equal(kernels.to_host(a), kernels.to_host(b))


@pytest.mark.parametrize(("where", "name"), [(where, name) for where, name in EVERYWHERE if name != "clip_weights"])
@dtypes
def test_rates_and_counts_in_memory(
    device: cuda.Device, monkeypatch: pytest.MonkeyPatch, where: str, name: str, dtype: Any
) -> None:
    """Where a recorded step finds them: to the same bits, of any dtype; also where not all parameters are of one."""
    module: Any = MODULES[where]
    place = device.xp.array if module is optimizer else np.array
    function, results = getattr(module, STEPS[name][0]), []

    def in_memory(p: Any, g: Any, *states: Any, **scalars: Any) -> Any:
        moved = {"lr": 1, "decay": 1, "step": len(p)}
        placed = {k: place(np.array(v, dtype).reshape(moved[k])) if k in moved else v for k, v in scalars.items()}
        return function(p, g, *states, **placed)

    for way in (function, in_memory):
        rng = np.random.default_rng(0)
        monkeypatch.setattr(module, STEPS[name][0], way)
        sizes = (5, np.float32), (7, np.float64), (1030, np.float32)
        arrays = [[place(rng.random(n).astype(kind)) for n, kind in sizes] for _ in range(4)]
        call(module, name, arrays[0], arrays[1], arrays[2 : 2 + STEPS[name][1]])
        results.append([kernels.to_host(a) for a in chain(*arrays)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6 if dtype is np.float32 else 0)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_a_rate_may_be_one_of_numpys_numbers(device: cuda.Device, number: Any) -> None:
    """As a schedule computes it."""
    p, g = (up(device, [np.full(3, v)]) for v in (1.0, 2.0))
    optimizer.sgd(p, g, None, lr=number, momentum=0, weight_decay=0)
    assert host(p[0]).tolist() == [1 - 2 * float(number)] * 3
    optimizer.moving_average(p, g, number)
    assert host(p[0]).tolist() == [2 + float(number) * (-1 - 2 * float(number))] * 3


def test_clipping_keeps_nan_and_the_edges(device: cuda.Device) -> None:
    p = up(device, [np.array([-np.inf, -1, 0.5, np.nan, np.inf], np.float32)])
    optimizer.clip_weights(p, 1.0)
    np.testing.assert_array_equal(host(p[0]), [-1, -1, 0.5, np.nan, 1])


@pytest.mark.parametrize("step", [1, 2, 1000, 10**6])
def test_adams_corrections_keep_their_digits(device: cuda.Device, step: int) -> None:
    """1 - 0.999 ** 1 has 3 digits fewer than 0.999 in float32, and beta 0 has no logarithm."""
    for beta1 in (0.0, 0.9):
        scalars = {"lr": 1.0, "beta1": beta1, "beta2": 0.999, "eps": 0.0, "weight_decay": 0.0, "step": [step]}
        exact = [np.ones(1) for _ in range(4)]
        p, g, m, v = (up(device, [a.astype(np.float32)]) for a in exact)
        optimizer.adam(p, g, m, v, **scalars)
        optimizer_reference.adam(*([a] for a in exact), **scalars)
        assert host(p[0]) == pytest.approx(exact[0], rel=2e-7, abs=2e-7 * abs(1 - exact[0][0]))


def test_gradients_may_be_views_and_nothing_else(device: cuda.Device) -> None:
    p, g, m = (device.xp.array(np.arange(6.0).reshape(2, 3)) for _ in range(3))
    optimizer.sgd([p], [g.T.copy().T], None, lr=1, momentum=0, weight_decay=0)
    assert not host(p).any()
    optimizer.sgd([p], [np.broadcast_to(device.xp.array(np.ones(1)), (2, 3))], None, lr=1, **SGD)
    assert (host(p) == -1).all()
    refused = r"^sgd: writes into C-contiguous arrays, but one of parameter 0, \(3, 2\), is not$"
    for arrays in ((p.T, g.T.copy(), m.T.copy()), (p.T.copy(), g.T.copy(), m.T)):
        with pytest.raises(ValueError, match=refused):
            optimizer.sgd(*([a] for a in arrays), lr=1, **SGD)
    with pytest.raises(ValueError, match=r"^sgd: wants arrays of one shape, not \(2, 3\), \(3, 2\)$"):
        optimizer.sgd([p], [g.T], None, lr=1, **SGD)
    with pytest.raises(TypeError, match=r"^sgd: wants all float32 or all float64, not float64, float32$"):
        optimizer.sgd([p], [g.astype(np.float32)], None, lr=1, **SGD)


SGD: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0}


# ---- random ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 1023, 1027])
@pytest.mark.parametrize("counter", [0, 2**32 - 2, WORD - 2, WORD**2 - 2])
def test_the_stream_is_that_of_the_cpu(device: cuda.Device, counter: int, n: int) -> None:
    key = 0xFEDCBA9876543210
    words = random.philox(key, counter, n, device.xp.empty(n, np.uint32))
    np.testing.assert_array_equal(host(words), random_reference.philox(key, counter, n))
    halves = device.xp.array(np.array([counter % WORD, counter // WORD], np.uint64))
    np.testing.assert_array_equal(host(random.philox(key, halves, n)), host(words))
    for dtype in DTYPES:
        u = random.uniform(key, counter, n, dtype, device.xp.empty(n, dtype))
        np.testing.assert_array_equal(host(random.uniform(key, halves, n, dtype)), host(u))
        np.testing.assert_array_equal(host(u), random_reference.uniform(key, counter, n, dtype))
        z = random.normal(key, counter, n, dtype, device.xp.empty(n, dtype))
        scale = 4 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(host(z), random_reference.normal(key, counter, n, dtype), rtol=scale, atol=4 * scale)


def test_a_draw_into_a_piece_of_an_array(device: cuda.Device) -> None:
    """Which begins where a 16-byte store may not."""
    wide = device.xp.zeros(16, np.float32)
    random.uniform(1, 2, 14, np.float32, wide[1:15])
    np.testing.assert_array_equal(host(wide), [0, *random_reference.uniform(1, 2, 14, np.float32), 0])


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("shape", [(), (0, 3), (300,), (3, 5)])
def test_dropout_masks(device: cuda.Device, shape: tuple[int, ...]) -> None:
    for drawn in DTYPES:
        u = np.asarray(np.random.default_rng(0).random(shape), drawn)
        u[...] = np.where(u < 0.4, drawn(0.3), u)  # p itself is kept
        for dtype in DTYPES:
            expected = random_reference.dropout_mask(u, 0.3, dtype)
            mask = random.dropout_mask(device.xp.array(u), 0.3, dtype)
            assert mask.dtype == dtype
            np.testing.assert_array_equal(host(mask), expected)
            out = device.xp.empty(shape, dtype)
            assert random.dropout_mask(device.xp.array(u.T).T, 0.3, dtype, out) is out
            np.testing.assert_array_equal(host(out), expected)


def test_refused_draws(device: cuda.Device) -> None:
    out = device.xp.empty(3, np.float32)
    with pytest.raises(ValueError, match=r"^uniform: pass out=, an array of the device to draw on$"):
        random.uniform(0, 0, 3, np.float32)
    with pytest.raises(ValueError, match=r"^philox: a counter is a number, or uint64 \(2,\), not float32 \(3,\)$"):
        random.philox(0, out, 3)
    with pytest.raises(ValueError, match=r"^normal: writes into float32 \(4,\), not into float32 \(3,\)$"):
        random.normal(0, 0, 4, np.float32, out)
    with pytest.raises(ValueError, match=r"^uniform: writes into float64 \(3,\), not into float32 \(3,\)$"):
        random.uniform(0, 0, 3, np.float64, out)
    with pytest.raises(ValueError, match=r"^uniform: key -1 must lie in"):
        random.uniform(-1, 0, 3, np.float32, out)


# ---- indexing --------------------------------------------------------------------------------------------------

INDICES = {
    "number": 3,
    "NumPy number": np.int64(-1),
    "slice": slice(1, None, 2),
    "backwards": (slice(None), slice(None, None, -1), None),
    "ellipsis": (Ellipsis, 0),
    "all": (),
    "repeated": np.array([1, 1, 0, -1, 1]),
    "empty": np.zeros(0, np.int64),
    "no axes": np.array(2),
    "in the middle": (slice(None), np.array([0, 0, 1])),
    "around a slice": (np.array([[0], [1]]), slice(None), np.array([1, 1, 4], np.int32)),
    "mask": np.array([True, False, True, True]),
    "mask of two axes": np.arange(12).reshape(4, 3) % 3 > 0,
    "nothing": np.zeros(4, bool),
    "true": True,
}


def on_device(device: cuda.Device, index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(on_device(device, part) for part in index)
    return device.xp.array(index) if isinstance(index, np.ndarray) else index


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("name", INDICES)
def test_take_and_its_adjoint(device: cuda.Device, name: str) -> None:
    index = INDICES[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    y = indexing_reference.take(x, index)
    g = rng.standard_normal(y.shape).astype(np.float32)
    adjoint = indexing_reference.scatter_add(g, index, x.shape)
    for given in (index, on_device(device, index)):
        np.testing.assert_array_equal(host(indexing.take(device.xp.array(x), given)), y)
        np.testing.assert_array_equal(host(indexing.scatter_add(device.xp.array(g), given, x.shape)), adjoint)
        out = device.xp.array(np.full_like(x, 7))
        assert indexing.scatter_add(device.xp.array(g), given, x.shape, out) is out
        np.testing.assert_array_equal(host(out), adjoint)
        out = device.xp.array(np.full_like(y, 7))
        assert indexing.take(device.xp.array(x), given, out) is out
        np.testing.assert_array_equal(host(out), y)


def test_indices_out_of_bounds_are_found_on_the_host(device: cuda.Device) -> None:
    x = device.xp.zeros((4, 3))
    for index in (np.array([4]), np.array([0, -5]), (0, np.array([3])), np.ones((4, 4), bool)):
        with pytest.raises(IndexError):
            indexing.take(x, index)
        with pytest.raises(IndexError):
            indexing.scatter_add(x, index, (4, 3))


@dtypes
@pytest.mark.usefixtures("order")
def test_sums_at_repeated_places_have_the_bits_of_a_loop(device: cuda.Device, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    g = (rng.standard_normal(1000) * 10.0 ** rng.integers(-6, 7, 1000)).astype(dtype)
    index = rng.integers(0, 9, 1000)
    expected = indexing_reference.scatter_add(g, index, (9,))
    for given, most in ((index, None), (device.xp.array(index), indexing.LOOKED_AT), (device.xp.array(index), 0)):
        with mock.patch.object(indexing, "LOOKED_AT", most):  # 0: sorted on the device
            np.testing.assert_array_equal(host(indexing.scatter_add(device.xp.array(g), given, (9,))), expected)


@dtypes
@pytest.mark.usefixtures("order")
@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 1), (1, 1)), ((3, 2), (1, 3), (0, 1)), ((7, 6), (1, 1), (0, 0))],
)
def test_the_index_of_max_pooling(device: cuda.Device, window: Any, stride: Any, padding: Any, dtype: Any) -> None:
    x = np.random.default_rng(0).integers(0, 4, (3, 7, 6, 5)).astype(dtype)  # many ties
    x[0, 2, 2, 0] = x[0, 5, 5, 1] = x[0, 5, 4, 1] = np.nan
    x[1] = -np.inf  # as the padding
    x[1, 3, 3, 3] = np.inf
    expected = indexing_reference.max_pool2d_index(x, window, stride, padding)
    index = indexing.max_pool2d_index(device.xp.array(x), window, stride, padding)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(host(index), expected)
    out = device.xp.empty(expected.shape, np.int64)
    assert indexing.max_pool2d_index(device.xp.array(x.T).T, window, stride, padding, out) is out
    np.testing.assert_array_equal(host(out), expected)


def test_moving_elements(device: cuda.Device) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    there = device.xp.array(x)
    copied = indexing.copy(there.transpose(2, 0, 1))
    assert copied.flags.c_contiguous
    np.testing.assert_array_equal(host(copied), x.transpose(2, 0, 1))
    np.testing.assert_array_equal(host(indexing.concatenate([there, there[:1]], 0)), np.concatenate([x, x[:1]]))
    out = device.xp.empty((2, 6, 4))
    assert indexing.concatenate((there, there), -2, out) is out
    np.testing.assert_array_equal(host(out), np.concatenate([x, x], 1))
    widths = ((1, 0), (0, 2), (1, 1))
    expected = indexing_reference.pad(x, widths, -2.5)
    np.testing.assert_array_equal(host(indexing.pad(there, widths, -2.5)), expected)
    out = device.xp.empty(expected.shape)
    assert indexing.pad(there, widths, -2.5, out) is out
    np.testing.assert_array_equal(host(out), expected)


# ---- elementwise: what the reference cannot do on a device -----------------------------------------------------


@dtypes
def test_clip_without_bounds_and_shares_of_a_number(device: cuda.Device, dtype: Any) -> None:
    x = np.array([-1, 0.25, 0.5, np.nan, 3], dtype)
    there, half = device.xp.array(x), dtype(0.5)
    for low, high in ((None, None), (0, None), (None, 1), (0, 1)):
        expected = np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)
        np.testing.assert_array_equal(host(elementwise.clip(there, low, high)), expected)
    out = device.xp.empty(5, dtype)
    assert elementwise.clip(there, None, None, out) is out
    np.testing.assert_array_equal(host(out), x)
    for here, pair in (((x, half), (there, half)), ((half, x), (half, there)), ((x, x), (there, there))):
        shares = elementwise.greater_share(*pair, out=out)
        assert shares is out
        assert shares.dtype == elementwise.greater_share(*pair).dtype == dtype
        np.testing.assert_array_equal(host(shares), elementwise_reference.greater_share(*here))
