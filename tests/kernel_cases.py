"""Calls to try every kernel of the table on. test_kernels.py and test_cuda_kernels.py make all their cases from it.

A new row of the table that has a kernel of its own, for the CPU or for CUDA, needs one entry in CASES.
"""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from minigan.kernels import Geometry
from minigan.kernels.loops import SERIAL

Call = tuple[list[Any], dict[str, Any]]

DTYPES = (np.float32, np.float64)
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
EXACT = {"philox", "uniform"}
IN_PLACE = {"sgd": (0, 2), "rmsprop": (0, 2), "adam": (0, 2, 3), "clip_weights": (0,), "moving_average": (0,)}
"""The arguments that these kernels change; the first of them is what they return."""
SHAPES = ((), (0, 3), (7,), (2, 3, 5))


def large(dtype: Any, *case: Any) -> tuple[Any, ...]:
    """A case large enough for the parallel loop; in float32 only, which halves the time that compiling takes."""
    return case if dtype == np.float32 else ()


def elementwise(count: int, *scalars: float) -> Callable[..., Iterator[Call]]:
    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for shape in (*SHAPES, *large(dtype, (SERIAL // 16 + 1, 16))):
            arrays = [np.asarray(rng.standard_normal(shape), dtype) for _ in range(count)]
            yield [*arrays, *scalars], {}

    return cases


def optimizer(states: int, **scalars: Any) -> Callable[..., Iterator[Call]]:
    """Lists of all shapes at once: p, g and so many states."""

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        closed = {"gate": np.array([np.nan], dtype)}
        for shapes, gate in (((*SHAPES, *large(dtype, (SERIAL // 16 + 1, 16))), {}), (SHAPES, closed)):
            p, g, *state = ([np.asarray(rng.standard_normal(s), dtype) for s in shapes] for _ in range(2 + states))
            of_each = {key: value * len(shapes) for key, value in scalars.items() if isinstance(value, list)}
            yield [p, g, *([np.asarray(s * s) for s in each] for each in state)], scalars | of_each | gate

    return cases


def sgd(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    common = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    yield from optimizer(1, **common)(rng, dtype)
    for (p, g), scalars in optimizer(0, **common)(rng, dtype):
        yield [p, g, None], scalars


def batch_norm(*channels: str, slopes: tuple[tuple[float, ...], ...] = ((),)) -> Callable[..., Iterator[Call]]:
    """`channels`: names of the arrays."""

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for shape in ((1, 3), (64, 1), (130, 40), (2, 5, 6, 7), *large(dtype, (17, 16, 16, 16))):
            x, gy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
            given = {
                "gy": gy,
                "x": x + 2,
                "mean": 2 + rng.standard_normal(shape[-1]).astype(dtype) / 10,
                "rstd": rng.uniform(0.5, 2, shape[-1]).astype(dtype),
                "gamma": rng.standard_normal(shape[-1]).astype(dtype),
                "beta": rng.standard_normal(shape[-1]).astype(dtype),
            }
            for slope in slopes:
                yield [*(given[name] for name in channels), *slope], {}

    return cases


def convolution(*operands: str) -> Callable[..., Iterator[Call]]:
    geometries = (
        (Geometry((2, 2), (1, 1), (4, 4), (16, 16)), 2, 3, 20),
        (Geometry((2, 2), (1, 1), (4, 4), (8, 8)), 3, 40, 33),
        (Geometry((1, 1), (1, 1), (3, 3), (7, 9)), 2, 16, 32),
        (Geometry((1, 1), (0, 0), (4, 4), (4, 4)), 5, 24, 1),
        (Geometry((3, 2), (0, 2), (2, 5), (9, 8)), 1, 1, 4),
        (Geometry((1, 1), (2, 2), (5, 5), (14, 9)), 5, 3, 8),
    )

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for g, n, c, o in geometries:
            given = {"x": (n, *g.x_size, c), "w": (*g.window, c, o), "y": (n, *g.y_size, o)}
            yield [*(rng.standard_normal(given[name]).astype(dtype) for name in operands), g], {}

    return cases


def convolution_at_infinity(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    """One pixel is infinite, and the window of one pixel meets it once."""
    yield from convolution("x", "w")(rng, dtype)
    for C in (3, 5):  # few channels, and more
        x, w = rng.standard_normal((1, 3, 3, C)).astype(dtype), rng.standard_normal((1, 1, C, 4)).astype(dtype)
        x[0, 1, 0] = np.inf
        yield [x, np.abs(w), Geometry((1, 1), (0, 0), (1, 1), (3, 3))], {}


def biased_convolution(*operands: str) -> Callable[..., Iterator[Call]]:
    """With a bias for each channel of the result, and one slope after the other."""
    result = {"x": -1, "y": -2}[operands[0]]  # the axis of w that is the result's channels

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        calls = convolution(*operands)(rng, dtype)
        for ([first, w, g], _), slope in zip(calls, cycle((0.2, 0.0, 1.0)), strict=False):
            yield [first, w, rng.standard_normal(w.shape[result]).astype(dtype), slope, g], {}

    return cases


def draw(*dtype_argument: str) -> Callable[..., Iterator[Call]]:
    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for n in (0, 1, 2, 3, 4, 1001, *large(dtype, 2 * SERIAL + 7)):
            for counter in (0, 2**32 - 2, 2**64 - 2, 2**128 - 2):
                yield [0x0123456789ABCDEF, counter, n, *(dtype for _ in dtype_argument)], {}

    return cases


SLOPES = (0.0,), (0.2,)


def matmul(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    for i, k, j in ((6, 1, 6), (7, 3, 33), (33, 300, 17), (13, 5, 600), (1, 4, 9), (9, 4, 1), (0, 2, 3), (2, 0, 3)):
        yield [rng.standard_normal((i, k)).astype(dtype), rng.standard_normal((k, j)).astype(dtype)], {}
    for i, k, j in ((1, 601, 20), (3, 601, 1)):  # vectors: a sum that several blocks share, and one of several warps
        yield [rng.standard_normal((i, k)).astype(dtype), rng.standard_normal((k, j)).astype(dtype)], {}
    for i, k, j in ((150, 64, 70), (128, 70, 256)):
        yield [rng.standard_normal((k, i)).astype(dtype).T, rng.standard_normal((j, k)).astype(dtype).T], {}
    yield [rng.standard_normal((3, 1, 8, 9)).astype(dtype), rng.standard_normal((2, 9, 7)).astype(dtype)], {}


def at_infinity(rng: np.random.Generator, dtype: Any) -> np.ndarray:
    """(5, 2), with infinities and NaN."""
    return np.array([[1, 2], [np.inf, 3], [-np.inf, -np.inf], [np.inf, -np.inf], [np.nan, 1]], dtype)


def slope_zero(count: int) -> Callable[..., Iterator[Call]]:
    """So many arrays, at infinity too: 0 times infinity would be NaN."""

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        yield from elementwise(count, 0.2)(rng, dtype)
        x = at_infinity(rng, dtype)
        yield [*[x, -x][:count], 0.0], {}

    return cases


def statistics(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    yield from batch_norm("x")(rng, dtype)
    yield [np.full((3, 2), 1000.1, dtype)], {}


def reduction(*options: dict[str, Any]) -> Callable[..., Iterator[Call]]:
    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for shape in ((1,), (7, 3), (2, 5, 33), (70, 1, 40)):
            for option in options:
                if max((option["axis"],) if isinstance(option["axis"], int) else option["axis"] or (0,)) < len(shape):
                    yield [rng.standard_normal(shape).astype(dtype)], option
        yield [at_infinity(rng, dtype)], {"axis": 1, "keepdims": False}

    return cases


AXES: tuple[Any, ...] = (None, 0, -1, (0, 1), (1, 2), (0, 2))
REDUCTIONS = [{"axis": axis, "keepdims": axis != -1} for axis in AXES]


def indexed(rng: np.random.Generator, dtype: Any) -> Iterator[tuple[np.ndarray, Any]]:
    """Arrays and what may stand between brackets behind them."""
    x = rng.standard_normal((5, 4, 3)).astype(dtype)
    repeated = rng.integers(0, 5, (2, 6))
    yield from ((x, i) for i in (2, (slice(1, 4), slice(None, None, -2)), (..., None, 1), x > 0, repeated))
    yield x, (repeated, slice(None), np.array(-1))
    yield x.reshape(-1), rng.integers(0, 60, (3, 50))


def scatter_add(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    for x, index in indexed(rng, dtype):
        yield [rng.standard_normal(x[index].shape).astype(dtype), index, x.shape], {}


def pooling(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    for window, stride, padding in (((2, 2), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 1))):
        x = rng.integers(0, 4, (2, 5, 6, 3)).astype(dtype)  # with ties
        x[0, 2, 2, 0], x[1, 0, 0, 1] = np.nan, -np.inf
        yield [x, window, stride, padding], {}


def scores(*names: str) -> Callable[..., Iterator[Call]]:
    """A batch's scores, as many as would do for pixels, and infinite ones; `t` is an array or a number."""

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for shape in ((), (1,), (128, 1), (7, 3, 5), (5000, 2)):
            given = {name: np.asarray(rng.standard_normal(shape), dtype) for name in ("l", "t")}
            given["g"] = np.asarray(rng.standard_normal(), dtype)
            for t in (given["t"], 0.0, 1.0, 0.9):
                yield [*((given | {"t": t})[name] for name in names)], {}
        for l, t in ((np.inf, 1.0), (-np.inf, 0.0), (np.inf, 0.0), (np.nan, 0.0)):
            given = {"l": np.array([1, l], dtype), "t": t, "g": np.asarray(2, dtype)}
            yield [given[name] for name in names], {}

    return cases


def rows(*names: str) -> Callable[..., Iterator[Call]]:
    """`g`: one number a row; other names: arrays of rows, short, long and of any length."""

    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for shape in ((0, 4), (3, 0), (1,), (5, 1), (300, 2), (3, 4, 4, 2), (70, 36), (3, 5001), (2, 8192)):
            yield [rng.standard_normal(shape[:1] if name == "g" else shape).astype(dtype) for name in names], {}

    return cases


def slopes(*given: str) -> Callable[..., Iterator[Call]]:
    def cases(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
        for n in (1, 7, 128, 1000):
            squares, g = rng.uniform(0, 3, n).astype(dtype), np.asarray(rng.standard_normal(), dtype)
            squares[-1] = 0
            for one_sided in (False, True):
                yield [*([g] if given else []), squares, 1e-3, 10.0, one_sided], {}

    return cases


CASES: dict[str, Callable[..., Iterator[Call]]] = {
    "clip": lambda rng, dtype: (
        ([x, *edges], {})
        for (x,), _ in elementwise(1)(rng, dtype)
        for edges in ((-0.5, 0.7), (None, 0.3), (None, None))
    ),
    "greater_share": lambda rng, dtype: (  # with ties
        ([np.asarray(np.rint(x)) for x in pair], {}) for pair, _ in elementwise(2)(rng, dtype)
    ),
    "leaky_relu": slope_zero(1),
    "leaky_relu_backward": slope_zero(2),
    "bias_act": batch_norm("x", "beta", slopes=SLOPES),
    "bias_act_backward": batch_norm("gy", "x", slopes=SLOPES),
    "elu": elementwise(1, 0.7),
    "elu_backward": elementwise(2, 0.7),
    "tanh": elementwise(1),
    "tanh_backward": elementwise(2),
    "sigmoid": elementwise(1),
    "softplus": elementwise(1),
    "sigmoid_backward": elementwise(2),
    "matmul": matmul,
    "conv2d": convolution_at_infinity,
    "conv_transpose2d": convolution("y", "w"),
    "conv2d_weight": convolution("x", "y"),
    "conv2d_bias_act": biased_convolution("x", "w"),
    "conv_transpose2d_bias_act": biased_convolution("y", "w"),
    "conv2d_statistics": convolution("x", "w"),
    "conv_transpose2d_statistics": convolution("y", "w"),
    "batch_norm_statistics": statistics,
    "batch_norm_rstd": lambda rng, dtype: (([rng.uniform(0, 3, C).astype(dtype), 1e-5], {}) for C in (1, 300)),
    "batch_norm_running": lambda rng, dtype: (
        ([*rng.uniform(0.1, 3, (4, C)).astype(dtype), 0.1, 1.25], {}) for C in (1, 300)
    ),
    "batch_norm_apply": batch_norm("x", "mean", "rstd", "gamma", "beta", slopes=((), *SLOPES)),
    "batch_norm_backward": batch_norm("gy", "x", "mean", "rstd", "gamma", "beta", slopes=((), *SLOPES)),
    "sigmoid_cross_entropy": scores("l", "t"),
    "sigmoid_cross_entropy_backward": scores("g", "l", "t"),
    "mean_difference": lambda rng, dtype: (
        ([rng.standard_normal(n).astype(dtype) + 3, rng.standard_normal(m).astype(dtype)], {})
        for n, m in ((1, 1), (128, 128), (5, 700))
    ),
    "mean_difference_backward": lambda rng, dtype: (
        ([np.asarray(rng.standard_normal(), dtype), a, b], {}) for a, b in (((3, 1), ()), ((300, 1), (2, 2)))
    ),
    "row_squares": rows("x"),
    "row_squares_backward": rows("g", "x"),
    "interpolate": rows("g", "x", "y"),
    "slope_penalty": slopes(),
    "slope_penalty_backward": slopes("g"),
    "sgd": sgd,
    "rmsprop": optimizer(1, lr=0.01, alpha=0.9, eps=1e-8, weight_decay=0.01),
    "adam": optimizer(2, lr=0.01, beta1=0.5, beta2=0.99, eps=1e-8, weight_decay=0.01, step=[3]),
    "clip_weights": lambda rng, dtype: (([p, 0.5], gate) for (p, _), gate in optimizer(0)(rng, dtype)),
    "moving_average": optimizer(0, decay=0.9),
    "sum": reduction(*REDUCTIONS),
    "amax": reduction(*REDUCTIONS),
    "amax_share": lambda rng, dtype: (
        ([x, x.max(option["axis"], keepdims=True), option["axis"]], {})
        for (x,), option in reduction(*REDUCTIONS)(rng, dtype)
    ),
    "logsumexp": reduction(*REDUCTIONS),
    "copy": lambda rng, dtype: (([x.T], {}) for (x,), _ in elementwise(1)(rng, dtype)),
    "reshape": lambda rng, dtype: (
        ([a, (-1,)], {}) for (x,), _ in elementwise(1)(rng, dtype) for a in ((x, x.T) if x.size else (x,))
    ),
    "take": lambda rng, dtype: (([x, index], {}) for x, index in indexed(rng, dtype)),
    "scatter_add": scatter_add,
    "concatenate": lambda rng, dtype: (([[a, b], 0], {}) for (a, b), _ in elementwise(2)(rng, dtype) if a.ndim),
    "pad": lambda rng, dtype: (([x, [(1, 2)] * x.ndim, 0.5], {}) for (x,), _ in elementwise(1)(rng, dtype)),
    "max_pool2d_index": pooling,
    "dropout_mask": lambda rng, dtype: (
        ([np.asarray(abs(x) % 1), 0.3, dtype], {}) for (x,), _ in elementwise(1)(rng, dtype)
    ),
    "philox": draw(),
    "uniform": draw("dtype"),
    "normal": draw("dtype"),
}


def each(change: Callable[[np.ndarray], Any], argument: Any) -> Any:
    """The argument with every array in it changed, be it one or a list of them."""
    if isinstance(argument, list):
        return [each(change, a) for a in argument]
    return change(argument) if isinstance(argument, np.ndarray) else argument


def several(argument: Any) -> list[Any]:
    return argument if isinstance(argument, list) else [argument]


def copies(arguments: list[Any]) -> list[Any]:
    return each(np.copy, arguments)


def results(name: str, function: Callable[..., Any], call: Call, **out: Any) -> list[np.ndarray]:
    """All arrays that a call makes, or changes, as a list."""
    arguments, scalars = call
    with np.errstate(invalid="ignore"):  # some cases hold infinities
        returned = function(*arguments, **scalars, **out)
    if name in IN_PLACE:
        assert returned is arguments[0]
        return [array for i in IN_PLACE[name] for array in arguments[i] or ()]
    return list(returned) if isinstance(returned, tuple) else [returned]


def assert_equal(name: str, actual: list[np.ndarray], desired: list[np.ndarray], dtype: Any) -> None:
    for a, d in zip(actual, desired, strict=True):
        assert (a.shape, a.dtype) == (d.shape, d.dtype)
        scale = 0 if name in EXACT else TOLERANCE[dtype]
        largest = float(np.abs(d[np.isfinite(d)]).max(initial=0))
        np.testing.assert_allclose(a, d, rtol=scale, atol=scale * largest)
