"""Reductions, statistics and activations on a device: accuracy, tilings, and what only their kernels can get wrong.

test_cuda_kernels.py compares them with their references on the calls that all kernels are tried on.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, WAYS, fetch, needs_device, only_emulated, run, send

import minigan as mg
from minigan import kernels, nn
from minigan.kernels import cuda, emulator
from minigan.kernels.batch_norm.cuda import combine
from minigan.kernels.emulator.report import costs
from minigan.kernels.reduce.cuda import BLOCKS, THREADS, Tiling

pytestmark = needs_device

FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def in_every_way(compute: Callable[[], Any]) -> Any:
    """compute() on the host, after the same bits came out in every order of the threads."""
    found = []
    for way in WAYS if DEVICE == "emulator" else WAYS[:1]:
        with run(way):
            found.append(fetch(compute()))
    bits = [[array.tobytes() for array in (f if isinstance(f, tuple) else (f,))] for f in found]
    assert all(b == bits[0] for b in bits)
    return found[0]


def normal(*shape: int, mean: float = 0, dtype: Any = np.float32) -> np.ndarray:
    return (mean + np.random.default_rng(0).standard_normal(shape)).astype(dtype)


# ---- how threads share an array --------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", [1, 3, 100, 10**6])
@pytest.mark.parametrize("n", [1, 2, 127, 129, 4097, 10**6])
@pytest.mark.parametrize(("inner", "lanes"), [(1, 1), (3, 1), (32, 1), (33, 1), (512, 1), (4, 4), (36, 4), (512, 4)])
def test_a_tiling_covers_everything_within_cudas_limits(outer: int, n: int, inner: int, lanes: int) -> None:
    (columns, rows_of_blocks), (width, height, depth), strips, rows = Tiling.of(outer, n, inner, lanes=lanes)
    assert width * height * depth <= THREADS
    assert depth <= 64
    assert height & (height - 1) == 0
    assert columns == -(-inner // (lanes * width)) * -(-outer // depth)
    assert rows_of_blocks == strips <= BLOCKS
    assert (strips - 1) * rows < n <= strips * rows
    assert strips == 1 or rows % height == 0


LAYERS = [(131_072, 64), (32_768, 128), (8192, 256), (2048, 512), (100_352, 16)]
"""(pixels, channels) of batches of 128 images, of 64 and 28 pixels a side."""


@pytest.mark.parametrize(("n", "C"), LAYERS)
def test_layers_of_images_fill_a_gpu_in_one_wave(n: int, C: int) -> None:
    """At 64 registers, 4 blocks of 256 threads on each of 128 multiprocessors: 512 at once, and the last ones whole."""
    tiling = Tiling.of(1, n, C, lanes=4)
    assert tiling.block[0] * tiling.block[1] == THREADS
    assert 256 <= tiling.grid[0] * tiling.grid[1] <= 512
    assert n > (tiling.strips - 1) * tiling.rows


# ---- sums ------------------------------------------------------------------------------------------------------

ALL_AXES = [
    ((), None), ((1,), 0), ((5,), ()), ((2, 0), 0), ((0, 2), 0), ((2, 0), None),  # little and nothing
    ((10_007,), None), ((3, 4099), 1), ((129, 3), 0),  # many rows: strips
    ((100, 3), 1), ((70, 1, 2), -1), ((5, 33), 0), ((2, 300), 0),  # short rows, several to a block; short columns
    ((6, 50, 35), 1), ((6, 5, 35), (0, 1)), ((6, 5, 35), (-1, 1)),  # the middle, the first two, the last two
    ((3, 4, 5, 6), (0, 2)), ((3, 4, 5, 6), (3, 0)), ((1, 4, 1, 6), (0, 3)),  # with others between them
]  # fmt: skip


@FLOATS
@pytest.mark.parametrize(("shape", "axis"), ALL_AXES)
def test_sums_over_any_axes(shape: tuple[int, ...], axis: Any, dtype: Any) -> None:
    x = normal(*shape, mean=1, dtype=dtype)
    exact = np.asarray(x.astype(np.longdouble).sum(axis))
    size = np.abs(x).astype(np.longdouble).sum(axis)
    for keepdims in (False, True):
        y = in_every_way(lambda keepdims=keepdims: kernels.sum(send(x), axis, keepdims))
        assert y.dtype == dtype
        assert y.shape == np.sum(x, axis, keepdims=keepdims).shape
        assert (np.abs(y.reshape(exact.shape) - exact) <= np.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_long_sum_is_right_to_the_last_place(axis: int | None) -> None:
    """NumPy's own sum over axis 0 is wrong in the fourth digit here: it adds row after row."""
    x = normal(20_000, 2, mean=1e6)
    exact = x.astype(np.float64).sum(axis)
    np.testing.assert_array_equal(in_every_way(lambda: kernels.sum(send(x), axis)), exact.astype(np.float32))


@pytest.mark.parametrize("shape", [(48, 33), (9000, 3), (20_000, 1)])
def test_a_sum_whose_terms_cancel(shape: tuple[int, int]) -> None:
    """What is left is a millionth of the terms: without `lost`, a thread's own sum would keep no digit of it."""
    x = normal(*shape) * np.float32(1e8)
    x[shape[0] // 2 :] = -x[: shape[0] // 2]
    x[1] += np.arange(shape[1], dtype=np.float32) * 16
    exact = x.astype(np.float64).sum(0)
    atol = 1e-13 * float(np.abs(x).sum())
    np.testing.assert_allclose(in_every_way(lambda: kernels.sum(send(x), 0)), exact, rtol=1e-7, atol=atol)
    _, gb = in_every_way(lambda: kernels.bias_act_backward(send(x), send(np.ones_like(x)), 0.0))
    np.testing.assert_allclose(gb, exact, rtol=1e-7, atol=atol)


def test_sums_of_what_is_not_finite() -> None:
    x = np.array([[np.inf, 1], [1, -np.inf], [np.inf, -np.inf], [np.nan, 1], [3e38, 3e38]], np.float32)
    np.testing.assert_array_equal(
        in_every_way(lambda: kernels.sum(send(x), 1)), [np.inf, -np.inf, np.nan, np.nan, np.inf]
    )


def test_integers_and_bool_are_counted_in_int64() -> None:
    for dtype in (np.bool_, np.int32, np.int64, np.uint8):
        x = np.arange(12).reshape(3, 4).astype(dtype)
        found, expected = fetch(kernels.sum(send(x), 0)), x.sum(0)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_refused_axes() -> None:
    x = send(np.ones((2, 3), np.float32))
    with pytest.raises(np.exceptions.AxisError, match=r"axis 2 is out of bounds for array of dimension 2"):
        kernels.sum(x, 2)
    with pytest.raises(ValueError, match=r"repeated axis"):
        kernels.sum(x, (0, 0))
    with pytest.raises(ValueError, match=r"^logsumexp: there is no largest element over axis 0 of shape \(0, 3\)$"):
        kernels.logsumexp(send(np.ones((0, 3), np.float32)), 0)
    with pytest.raises(ValueError, match=r"^sum: writes into a C-contiguous float32 \(3,\), not a float32 \(2,\)$"):
        kernels.sum(x, 0, out=send(np.ones(2, np.float32)))


# ---- logsumexp, largest elements -------------------------------------------------------------------------------


@FLOATS
def test_logsumexp_at_the_edges(dtype: Any) -> None:
    inf = np.inf
    x = np.array([[-inf] * 3, [inf, 1, 2], [inf, -inf, 0], [np.nan, 1, 2], [-inf, 2, 1], [1e4, 1e4, -1e4]], dtype)
    expected = [-inf, inf, inf, np.nan, 2 + math.log1p(math.exp(-1)), 1e4 + math.log(2)]
    for rows in (lambda: kernels.logsumexp(send(x), 1), lambda: kernels.logsumexp(send(x.T), 0)):
        np.testing.assert_allclose(in_every_way(rows), expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("shape", "axis"), [((300, 10), 1), ((3, 700), 1), ((50, 35), 0), ((4, 3, 5), (0, 2))])
def test_logsumexp_over_any_axes(shape: tuple[int, ...], axis: Any) -> None:
    x = normal(*shape) * 10
    expected = np.logaddexp.reduce(x.astype(np.float64).transpose() if axis == 0 else x.astype(np.float64), -1)
    if isinstance(axis, tuple):
        expected = np.log(np.exp(x.astype(np.float64)).sum(axis))
    np.testing.assert_allclose(in_every_way(lambda: kernels.logsumexp(send(x), axis)), expected, rtol=1e-6)


def test_ties_share_the_gradient_of_the_largest() -> None:
    x = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    largest = kernels.amax(send(x), 1, keepdims=True)
    share = fetch(kernels.amax_share(send(x), largest, 1))
    np.testing.assert_array_equal(share, np.array([[0, 0.5, 0.5], [1 / 3] * 3], np.float32))
    assert share.dtype == np.float32


# ---- statistics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (7, 33), (300, 1), (1000, 5), (2, 5, 7, 36), (3, 1100), (999, 20)])
@FLOATS
def test_statistics_of_any_shape(shape: tuple[int, ...], dtype: Any) -> None:
    x = normal(*shape, mean=3, dtype=dtype)
    exact = x.astype(np.longdouble).reshape(-1, shape[-1])
    mean, var = in_every_way(lambda: kernels.batch_norm_statistics(send(x)))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(mean, exact.mean(0), rtol=4 * eps)
    np.testing.assert_allclose(var, exact.var(0), rtol=8 * eps)


@pytest.mark.parametrize("row", [0, 1, 100, 2999])
@pytest.mark.parametrize("C", [3, 4])
def test_statistics_far_from_zero_and_with_an_outlier(row: int, C: int) -> None:
    """An outlier in the first rows spoils the pivot; 1000 against a deviation of 1 spoils what has none."""
    x = normal(3000, C, mean=1000)
    x[row, 1] = -1e6
    exact = x.astype(np.float64)
    mean, var = in_every_way(lambda: kernels.batch_norm_statistics(send(x)))
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(var, exact.var(0), rtol=3e-7)


@pytest.mark.parametrize("rows", [1, 77, 1000])
@pytest.mark.parametrize("C", [2, 8])
def test_a_constant_channel_has_its_value_for_mean_and_no_variance(rows: int, C: int) -> None:
    x = np.full((rows, C), 1000.1, np.float32)
    mean, var = in_every_way(lambda: kernels.batch_norm_statistics(send(x)))
    np.testing.assert_array_equal(mean, x[0])
    np.testing.assert_array_equal(var, 0)


def test_statistics_of_a_view() -> None:
    x = normal(40, 6, 5)
    for view in (lambda a: a[::2, 1:, ::3], lambda a: a.transpose(2, 0, 1)):
        found = in_every_way(lambda view=view: kernels.batch_norm_statistics(view(send(x))))
        expected = kernels.batch_norm_statistics(send(np.ascontiguousarray(view(x))))
        for a, b in zip(found, fetch(expected), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("groups", "per_group", "rows"), [(1, 10, 4), (4, 10, 4), (4, 8, 4), (9, 1, 5), (3, 700, 2)])
def test_moments_of_strips_in_groups(groups: int, per_group: int, rows: int) -> None:
    """The last strip of each group is shorter, and not only the last of all: it weighs less."""
    x = normal(groups, per_group, 5, mean=1000).astype(np.float64)
    x += np.arange(groups)[:, None, None]  # most of the variance is between the strips
    strips = [group[i : i + rows] for group in x for i in range(0, per_group, rows)]
    moments = [send(np.array([f(s) for s in strips])) for f in (lambda s: s.mean(0), lambda s: s.var(0) * len(s))]

    def combined() -> tuple[Any, Any]:
        mean, var = send(np.full((2, 5), np.nan, np.float32))
        combine(*moments, rows, per_group, mean, var)
        return mean, var

    mean, var = in_every_way(combined)
    np.testing.assert_allclose(mean, x.mean((0, 1)), rtol=1e-7)
    np.testing.assert_allclose(var, x.var((0, 1)), rtol=3e-7, atol=1e-15)


def test_moments_that_are_not_of_whole_groups() -> None:
    means, of = send(np.ones((7, 5))), send(np.ones(5, np.float32))
    refused = r"^combine: 10 rows a group in strips of 4 are 3 strips a group, but means are \(7, 5\) and squares \(7,"
    with pytest.raises(ValueError, match=refused):
        combine(means, means, 4, 10, of, of)


@pytest.mark.parametrize("off", ["gy", "x", "channels", "out"])
def test_channels_that_begin_where_vectors_may_not(off: str) -> None:
    """Four channels go at a time only if every array allows it, and the results are the same up to rounding."""
    arrays = {"gy": normal(130, 36) + 1, "x": normal(130, 36), "channels": np.abs(normal(4, 36)) + 1}
    arrays["out"] = np.zeros_like(arrays["x"])

    def results_with(off: str) -> list[np.ndarray]:
        """With the array of that name one number behind a multiple of 16 bytes."""
        placed = []
        for name, a in arrays.items():
            room = kernels.empty(a.size + 1, a.dtype, DEVICE)[int(name == off) :][: a.size].reshape(a.shape)
            room[...] = send(a)
            placed.append(room)
        gy, x, of, out = placed
        gradients = out, *kernels.empty((2, 36), x.dtype, DEVICE)
        found = [
            in_every_way(lambda: kernels.bias_act(x, of[0], 0.2, out=out)),
            *in_every_way(lambda: kernels.bias_act_backward(gy, x, 0.2, out=gradients[:2])),
            *in_every_way(lambda: kernels.batch_norm_statistics(x)),
            in_every_way(lambda: kernels.batch_norm_apply(x, *of, 0.2, out=out)),
            *in_every_way(lambda: kernels.batch_norm_backward(gy, x, *of, 0.2, out=gradients)),
        ]
        return list(map(np.copy, found))

    for found, expected in zip(results_with(off), results_with(""), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_is_five_launches_and_three_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics two, one for 1 / deviation, one to apply them, with the activation, and one for the running ones."""
    launched, launch = [], cuda.Source.launch

    def note(self: Any, kernel: str, *args: Any, **options: Any) -> None:
        launched.append(kernel)
        launch(self, kernel, *args, **options)

    monkeypatch.setattr(cuda.Source, "launch", note)
    net = nn.Sequential(nn.BatchNorm2d(8), nn.LeakyReLU(0.2)).to(DEVICE)
    x = mg.Tensor.of(send(normal(2, 5, 5, 8)))
    x.requires_grad = True
    called = called_rows(monkeypatch, lambda: net(x))
    forward = ["strip_moments", "combine_moments", "reciprocal_deviation", "apply", "running_moments"]
    assert launched == forward
    assert called == ["batch_norm_statistics", "batch_norm_rstd", "batch_norm_apply", "batch_norm_running"]
    y, g = net(x), mg.Tensor.of(send(normal(2, 5, 5, 8)))
    launched.clear()
    called = called_rows(monkeypatch, lambda: mg.grad(y, x, g))
    assert launched == ["strip_gradients", "add_gradients", "input_gradient"]
    assert called == ["batch_norm_backward"]


def called_rows(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> list[str]:
    """The rows of the table that `run` calls."""
    called, call = [], kernels.Kernel.__call__

    def note(self: Any, *args: Any, **options: Any) -> Any:
        called.append(self.name)
        return call(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kernels.Kernel, "__call__", note)
        run()
    return called


WALKS: dict[str, Callable[..., Any]] = {
    "strip_moments combine_moments": lambda x: kernels.batch_norm_statistics(x),
    "apply": lambda x: kernels.batch_norm_apply(x, x[0], x[1], x[2], x[3], 0.2),
    "strip_gradients add_gradients input_gradient": lambda x: kernels.batch_norm_backward(
        x, x, x[0], x[1], x[2], x[3], 0.2
    ),
    "bias_act": lambda x: kernels.bias_act(x, x[0], 0.2),
    "bias_act_backward add_strips": lambda x: kernels.bias_act_backward(x, x, 0.2),
    "sum_strips add_strips": lambda x: kernels.sum(x, 0),
    "sum_all": lambda x: kernels.sum(x, 1),
    "logsumexp": lambda x: kernels.logsumexp(x, 1),
}


@only_emulated
@pytest.mark.parametrize("names", WALKS)
@pytest.mark.parametrize("C", [3, 10, 16, 64, 160])
def test_no_bank_is_asked_twice_and_images_go_by_whole_sectors(names: str, C: int) -> None:
    """As the report has it. What the few sums of a strip cost is not asked."""
    x = send(normal(2000, C))
    with emulator.running(check=True, log_block=0) as done:
        WALKS[names](x)
    assert {launch.kernel for launch in done.launches} == set(names.split())
    for launch in done.launches:
        for cost in costs(launch):
            if cost.memory == "shared" or (cost.bytes == 16 and C % 32 == 0):
                assert cost.cost == cost.best, cost


def test_the_signs_of_forward_and_backward_agree() -> None:
    """Around zero, where rounding decides on the sign: the gradient must pass exactly where the output is positive."""
    x = normal(500, 4, mean=5)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    beta = (-x[7] + 5).astype(np.float32)
    given = [send(a) for a in (x, zeros + 5, ones, ones, beta)]
    y = fetch(kernels.batch_norm_apply(*given, 0.0))
    _, _, gbeta = fetch(kernels.batch_norm_backward(send(np.ones_like(x)), *given, 0.0))
    np.testing.assert_array_equal(gbeta, (y > 0).sum(0))


# ---- activations -----------------------------------------------------------------------------------------------


@FLOATS
def test_activations_at_the_edges(dtype: Any) -> None:
    x = np.array([-np.inf, 0, np.inf, np.nan], dtype)
    zero, one = send(np.zeros(1, dtype)), send(np.ones(1, dtype))
    np.testing.assert_array_equal(fetch(kernels.leaky_relu(send(x), 0.0)), [0, 0, np.inf, np.nan])
    np.testing.assert_array_equal(fetch(kernels.leaky_relu(send(x), 0.5)), x)
    np.testing.assert_array_equal(fetch(kernels.elu(send(x), 0.5)), [-0.5, 0, np.inf, np.nan])
    assert fetch(kernels.leaky_relu_backward(one, zero, 0.25)) == 0.25
    assert fetch(kernels.elu_backward(one, zero, 0.25)) == 0.25
    assert fetch(kernels.leaky_relu_backward(one * np.inf, -one, 0.0)) == 0
    x = np.array([-1000, -20, 0, 20, 1000, np.nan], dtype)
    tiny, tolerance = math.exp(-20), 4 * float(np.finfo(dtype).eps)
    expected = [0, tiny / (1 + tiny), 0.5, 1 - tiny, 1, np.nan]
    np.testing.assert_allclose(fetch(kernels.sigmoid(send(x))), expected, rtol=tolerance)
    expected = [0, math.log1p(tiny), math.log(2), 20 + tiny, 1000, np.nan]
    np.testing.assert_allclose(fetch(kernels.softplus(send(x))), expected, rtol=tolerance)


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 3, 4, 1023, 1025])
def test_arrays_that_begin_anywhere(start: int, n: int) -> None:
    """Four elements go at a time only where all arrays begin at a multiple of 16 bytes."""
    x = normal(n + start)
    y = in_every_way(lambda: kernels.tanh_backward(send(x)[start:], send(x[start:])))
    x = x[start:].astype(np.float64)
    np.testing.assert_allclose(y, x * (1 - x * x), rtol=1e-5, atol=1e-6)


def test_results_may_replace_an_input() -> None:
    x, gy, b = normal(300, 40), normal(300, 40) + 1, normal(40)
    ones = send(np.ones(40, np.float32))
    for call in (
        lambda x, **out: kernels.elu(x, 0.5, **out),
        lambda x, **out: kernels.bias_act(x, send(b), 0.2, **out),
        lambda x, **out: kernels.batch_norm_apply(x, ones, ones, ones, ones, 0.2, **out),
    ):
        expected, given = fetch(call(send(x))), send(x)
        assert in_every_way(lambda call=call: call(send(x))).tobytes() == expected.tobytes()
        np.testing.assert_array_equal(fetch(call(given, out=given)), expected)
    expected, given = fetch(kernels.bias_act_backward(send(gy), send(x), 0.2)), send(gy)
    found = kernels.bias_act_backward(given, send(x), 0.2, out=(given, send(b)))
    for a, e in zip(fetch(found), expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_refused_arrays() -> None:
    x, v = send(np.ones((2, 3))), send(np.ones(3))
    with pytest.raises(TypeError, match=r"^elu: wants all float32 or all float64, not int64$"):
        kernels.elu(send(np.arange(3)), 1.0)
    with pytest.raises(ValueError, match=r"^elu_backward: wants arrays of one shape, not \(2, 3\), \(3,\)$"):
        kernels.elu_backward(x, v, 1.0)
    with pytest.raises(ValueError, match=r"^bias_act: x is float64 \(2, 3\), so b must be float64 \(3,\), not float32"):
        kernels.bias_act(x, send(np.ones(3, np.float32)), 1.0)
    with pytest.raises(ValueError, match=r"^batch_norm_statistics: x \(0, 3\) is empty and has no mean$"):
        kernels.batch_norm_statistics(send(np.ones((0, 3))))
    refused = r"^batch_norm_apply: x is float64 \(2, 3\), so each .* float64 \(3,\), not float64 \(2,\)$"
    with pytest.raises(ValueError, match=refused):
        kernels.batch_norm_apply(x, v, v, v, send(np.ones(2)))
