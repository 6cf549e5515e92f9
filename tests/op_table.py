"""Every op, with NumPy's idea of it and inputs to try it on. test_ops.py makes all its cases from this table.

To add an op: one row. `test_every_op_has_a_row` reminds you.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

import minigan as mg
from minigan.ops.conv import Conv2dBiasAct, ConvTranspose2dBiasAct

Array = Any
Inputs = SearchStrategy[list[Array]]


@dataclass(frozen=True)
class Row:
    name: str
    op: Callable[..., mg.Tensor]
    reference: Callable[..., Array]
    inputs: Inputs
    second_order: bool = True  # False: the second derivative is 0 everywhere, checked as such
    id: str = ""

    def __str__(self) -> str:
        return self.id or self.name


# ---- inputs ---------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 3)
shapes = st.lists(sizes, min_size=0, max_size=3).map(tuple)


def draw_array(draw: DrawFn, shape: Sequence[int], kind: str = "normal") -> Array:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal(tuple(shape))
    return np.exp(x / 2) + 0.2 if kind == "positive" else x


@st.composite
def one(draw: DrawFn, kind: str = "normal") -> list[Array]:
    return [draw_array(draw, draw(shapes), kind)]


@st.composite
def two(draw: DrawFn, second: str = "normal") -> list[Array]:
    """Two arrays whose shapes broadcast."""
    full = draw(shapes)
    a, b = (tuple(1 if draw(st.booleans()) else n for n in full) for _ in range(2))
    return [draw_array(draw, a), draw_array(draw, b[draw(st.integers(0, len(b))) :], second)]


@st.composite
def of(draw: DrawFn, *makers: Callable[..., tuple[int, ...]], **letters: SearchStrategy[int]) -> list[Array]:
    """Arrays whose shapes are functions of letters, each drawn once."""
    values = {letter: draw(strategy) for letter, strategy in letters.items()}
    return [draw_array(draw, maker(**values)) for maker in makers]


def images(least: int = 2, most: int = 4) -> Inputs:
    pixels = st.integers(least, most)
    return of(lambda N, H, W, C: (N, H, W, C), N=st.integers(1, 2), H=pixels, W=pixels, C=st.integers(1, 2))


@st.composite
def of_slopes(draw: DrawFn) -> list[Array]:
    """Squared norms (N,) on both sides of 1, where the one-sided penalty has a kink, and not near it."""
    s = draw_array(draw, (draw(sizes),), "positive")
    return [s + 0.3 * np.sign(s - 1)]


# ---- references -----------------------------------------------------------------------------------------------------


def leaky(x: Array, slope: float) -> Array:
    return np.where(x > 0, x, slope * x)


def pairs(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def seven_loops(x: Array, w: Array, stride: Any = 1, padding: Any = 0) -> Array:
    """Convolution as one would explain it on a blackboard."""
    (sh, sw), (ph, pw) = pairs(stride), pairs(padding)
    N, H, W, C = x.shape
    KH, KW, _, O = w.shape
    OH, OW = (H + 2 * ph - KH) // sh + 1, (W + 2 * pw - KW) // sw + 1
    y = np.zeros((N, OH, OW, O), x.dtype)
    for n in range(N):
        for i in range(OH):
            for j in range(OW):
                for u in range(KH):
                    for v in range(KW):
                        h, k = sh * i + u - ph, sw * j + v - pw
                        if 0 <= h < H and 0 <= k < W:
                            for c in range(C):
                                for o in range(O):
                                    y[n, i, j, o] += x[n, h, k, c] * w[u, v, c, o]
    return y


def adjoint_of_convolution(y: Array, w: Array, size: tuple[int, int], stride: Any, padding: Any) -> Array:
    """conv_transpose2d from its definition: x = sum of conv2d(e_k) . y over the unit images e_k."""
    shape = (1, *size, w.shape[2])
    x = np.zeros((len(y), *shape[1:]), y.dtype)
    for index in np.ndindex(shape[1:]):
        unit = np.zeros(shape, y.dtype)
        unit[(0, *index)] = 1
        x[(slice(None), *index)] = (seven_loops(unit, w, stride, padding) * y).sum((1, 2, 3))
    return x


def weight_of_convolution(x: Array, y: Array, window: tuple[int, int], stride: Any, padding: Any) -> Array:
    """conv2d_weight from its definition: the component of each unit filter."""
    w = np.zeros((*window, x.shape[3], y.shape[3]), x.dtype)
    for u, v, c in np.ndindex(w.shape[:3]):
        unit = np.zeros((*window, x.shape[3], 1), x.dtype)
        unit[u, v, c, 0] = 1
        w[u, v, c] = (seven_loops(x, unit, stride, padding) * y).sum((0, 1, 2))
    return w


def standardized(x: Array, axes: tuple[int, ...], eps: float = 1e-5) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def pooled(x: Array, reduce: Callable[..., Array], window: int, stride: int, padding: int, fill: float) -> Array:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=fill)
    OH, OW = (x.shape[1] - window) // stride + 1, (x.shape[2] - window) // stride + 1
    return np.stack(
        [
            np.stack(
                [
                    reduce(x[:, i * stride : i * stride + window, j * stride : j * stride + window], (1, 2))
                    for j in range(OW)
                ],
                1,
            )
            for i in range(OH)
        ],
        1,
    )


def logsumexp(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def scattered(g: Array) -> Array:
    y = np.zeros((4, g.shape[1]), g.dtype)
    np.add.at(y, [0, 2, 2], g)
    return y


def dropout_of_seed(x: Any) -> mg.Tensor:
    return mg.dropout(x, 0.5, generator=mg.random.Generator(7, "dropout"))


def dropout_reference(x: Array) -> Array:
    return x * (mg.random.Generator(7, "dropout").uniform(x.shape) >= 0.5) * 2


labels = np.array([2, 0, 1])
sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
rows_of_3 = of(lambda C: (3, C), C=sizes)
three_classes = of(lambda: (3, 3))
channels = dict(N=st.integers(2, 3), H=sizes, W=sizes, C=sizes)

conv_geometries = [
    # name, window, stride, padding, x size
    ("4x4 stride 2", (4, 4), 2, 1, (4, 6)),
    ("leftover rows", (3, 2), (2, 3), (1, 0), (6, 6)),
    ("stride over window", (1, 2), (3, 3), 0, (5, 5)),
    ("padding over window", (2, 2), 1, (3, 0), (3, 3)),
    ("whole image", (3, 4), 1, 0, (3, 4)),
]


FUSED_SLOPES = {"4x4 stride 2": 0.2, "leftover rows": 0.0, "whole image": 1.0}


def fused(kind: Any, g: Any, slope: float, first: Any, w: Any, b: Any) -> mg.Tensor:
    """What devices compute for a convolution with a bias, wherever the arrays are."""
    return kind(g, None, slope)(first, w, b)


def biased(convolve: Callable[..., Array], slope: float, first: Array, w: Array, b: Array) -> Array:
    return leaky(convolve(first, w) + b, slope)


def conv_rows() -> list[Row]:
    rows = []
    for name, k, s, p, x_size in conv_geometries:
        g = mg.kernels.Geometry(pairs(s), pairs(p), k, x_size)
        extra = tuple(x_size[i] - ((g.y_size[i] - 1) * g.stride[i] - 2 * g.padding[i] + k[i]) for i in (0, 1))
        sizes_nco = dict(N=st.integers(1, 2), C=st.integers(1, 2), O=st.integers(1, 2))
        x = partial(lambda x_size, N, C, O: (N, *x_size, C), x_size)
        w = partial(lambda k, N, C, O: (*k, C, O), k)
        y = partial(lambda y_size, N, C, O: (N, *y_size, O), g.y_size)
        rows += [
            Row("conv2d", partial(mg.conv2d, stride=s, padding=p), partial(seven_loops, stride=s, padding=p),
                of(x, w, **sizes_nco), id=f"conv2d {name}"),
            Row("conv_transpose2d", partial(mg.conv_transpose2d, stride=s, padding=p, output_padding=extra),
                partial(adjoint_of_convolution, size=x_size, stride=s, padding=p),
                of(y, w, **sizes_nco), id=f"conv_transpose2d {name}"),
            Row("conv2d_weight", partial(mg.conv2d_weight, window=k, stride=s, padding=p),
                partial(weight_of_convolution, window=k, stride=s, padding=p),
                of(x, y, **sizes_nco), id=f"conv2d_weight {name}"),
        ]  # fmt: skip
        if name in FUSED_SLOPES:
            slope, y_to_x = FUSED_SLOPES[name], partial(adjoint_of_convolution, size=x_size, stride=s, padding=p)
            x_to_y = partial(seven_loops, stride=s, padding=p)
            rows += [
                Row("conv2d", partial(fused, Conv2dBiasAct, g, slope), partial(biased, x_to_y, slope),
                    of(x, w, lambda N, C, O: (O,), **sizes_nco), id=f"conv2d_bias_act {name}"),
                Row("conv_transpose2d", partial(fused, ConvTranspose2dBiasAct, g, slope), partial(biased, y_to_x, slope),
                    of(y, w, lambda N, C, O: (C,), **sizes_nco), id=f"conv_transpose2d_bias_act {name}"),
            ]  # fmt: skip
    return rows


# ---- the table ------------------------------------------------------------------------------------------------------

OPS: list[Row] = [
    Row("add", mg.add, np.add, two(), second_order=False),
    Row("subtract", mg.subtract, np.subtract, two(), second_order=False),
    Row("multiply", mg.multiply, np.multiply, two()),
    Row("divide", mg.divide, np.divide, two("positive")),
    Row("negative", mg.negative, np.negative, one(), second_order=False),
    Row("power", lambda x: x**3, lambda x: x**3, one(), id="power 3"),
    Row("power", lambda x: x**2, lambda x: x**2, one(), id="power 2"),
    Row("power", lambda x: x**1, lambda x: x, one(), second_order=False, id="power 1"),
    Row("power", lambda x: x**-1.5, lambda x: x**-1.5, one("positive"), id="power -1.5"),
    Row("power", lambda x: x**-1, lambda x: 1 / x, one("positive"), id="power -1"),
    Row("power", lambda x, e: mg.power(mg.exp(x), e), lambda x, e: np.exp(x) ** e, two(), id="power tensor"),
    Row("power", lambda e: 2**e, lambda e: 2.0**e, one(), id="power of a number"),
    Row("exp", mg.exp, np.exp, one()),
    Row("log", mg.log, np.log, one("positive")),
    Row("sqrt", mg.sqrt, np.sqrt, one("positive")),
    Row("abs", mg.abs, np.abs, one(), second_order=False),
    Row("maximum", mg.maximum, np.maximum, two(), second_order=False),
    Row("minimum", mg.minimum, np.minimum, two(), second_order=False),
    Row("clip", lambda x: mg.clip(x, -0.5, 0.8), lambda x: np.clip(x, -0.5, 0.8), one(), second_order=False),
    Row("where", lambda a, b: mg.where(a > 0, a * a, b), lambda a, b: np.where(a > 0, a * a, b), two()),
    Row("astype", lambda x: mg.astype(mg.astype(x, x.dtype), x.dtype) * 1.0, lambda x: x, one(), second_order=False),
    Row("tanh", mg.tanh, np.tanh, one()),
    Row("sigmoid", mg.sigmoid, sigmoid, one()),
    Row("softplus", mg.softplus, lambda x: np.log1p(np.exp(x)), one()),
    Row("relu", mg.relu, lambda x: np.maximum(x, 0), one(), second_order=False),
    Row("leaky_relu", lambda x: mg.leaky_relu(x, 0.2), lambda x: leaky(x, 0.2), one(), second_order=False),
    Row("bias_act", lambda x, b: mg.bias_act(x, b, 0.2), lambda x, b: leaky(x + b, 0.2),
        of(lambda N, C: (N, 2, C), lambda N, C: (C,), N=sizes, C=sizes), second_order=False),
    Row("bias_act", lambda x, b: mg.bias_act(x, b, 0.0), lambda x, b: np.maximum(x + b, 0),
        of(lambda N, C: (N, C), lambda N, C: (C,), N=sizes, C=sizes), second_order=False, id="bias_act relu"),
    Row("elu", lambda x: mg.elu(x, 1.3), lambda x: np.where(x > 0, x, 1.3 * np.expm1(np.minimum(x, 0))), one()),
    Row("sum", mg.sum, np.sum, one(), second_order=False),
    Row("sum", lambda x: mg.sum(x, (0, -1)), lambda x: x.sum((0, -1)), images(), second_order=False, id="sum axes"),
    Row("mean", lambda x: mg.mean(x, 1, keepdims=True), lambda x: x.mean(1, keepdims=True), images(), second_order=False),
    Row("var", lambda x: mg.var(x, (1, 2)), lambda x: x.var((1, 2)), images()),
    Row("var", lambda x: mg.var(x, 1, keepdims=True), lambda x: x.var(1, keepdims=True), images(), id="var keepdims"),
    Row("max", lambda x: mg.max(x, 1), lambda x: x.max(1), images(), second_order=False),
    Row("logsumexp", lambda x: mg.logsumexp(x, 1), lambda x: logsumexp(x, 1), images()),
    Row("logsumexp", mg.logsumexp, logsumexp, one(), id="logsumexp all"),
    Row("softmax", mg.softmax, softmax, rows_of_3),
    Row("log_softmax", mg.log_softmax, lambda x: np.log(softmax(x)), rows_of_3),
    Row("reshape", lambda x: mg.reshape(x, (-1,)), lambda x: x.reshape(-1), one(), second_order=False),
    Row("transpose", mg.transpose, np.transpose, one(), second_order=False),
    Row("transpose", lambda x: mg.transpose(x, (3, 0, -2, 1)), lambda x: x.transpose(3, 0, -2, 1), images(),
        second_order=False, id="transpose axes"),
    Row("getitem", lambda x: x[..., ::-2], lambda x: x[..., ::-2], images(), second_order=False, id="getitem slice"),
    Row("getitem", lambda x: x[[0, 2, 2], 0], lambda x: x[[0, 2, 2], 0], rows_of_3, second_order=False, id="getitem array"),
    Row("scatter_add", lambda g: mg.scatter_add(g, [0, 2, 2], (4, g.shape[1])), scattered, rows_of_3, second_order=False),
    Row("concatenate", lambda a, b: mg.concatenate([a, b, a], -1), lambda a, b: np.concatenate([a, b, a], -1),
        of(lambda n, a, b: (n, a), lambda n, a, b: (n, b), n=sizes, a=sizes, b=sizes), second_order=False),
    Row("stack", lambda a, b: mg.stack([a, b], 1), lambda a, b: np.stack([a, b], 1),
        of(lambda n: (n, 2), lambda n: (n, 2), n=sizes), second_order=False),
    Row("pad", lambda x: mg.pad(x, ((1, 0), (0, 2)), 3.0), lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=3.0),
        rows_of_3, second_order=False),
    Row("broadcast_to", lambda x: mg.broadcast_to(x, (2, 3, 4)), lambda x: np.broadcast_to(x, (2, 3, 4)),
        of(lambda: (3, 1)), second_order=False),
    Row("flip", lambda x: mg.flip(x, (1, 2)), lambda x: np.flip(x, (1, 2)), images(), second_order=False),
    Row("matmul", mg.matmul, np.matmul, of(lambda i, k, j: (i, k), lambda i, k, j: (k, j), i=sizes, k=sizes, j=sizes)),
    Row("matmul", mg.matmul, np.matmul, of(lambda i, k: (2, 1, i, k), lambda i, k: (3, k, 2), i=sizes, k=sizes),
        id="matmul batches"),
    Row("matmul", mg.matmul, np.matmul, of(lambda k: (k,), lambda k: (2, k, 3), k=sizes), id="matmul vector"),
    Row("linear", mg.linear, lambda x, w, b: x @ w + b,
        of(lambda c, o: (2, 3, c), lambda c, o: (c, o), lambda c, o: (o,), c=sizes, o=sizes)),
    *conv_rows(),
    Row("conv2d", lambda x, w, b: mg.conv2d(x, w, b), lambda x, w, b: seven_loops(x, w) + b,
        of(lambda o: (1, 3, 3, 1), lambda o: (2, 2, 1, o), lambda o: (o,), o=sizes), id="conv2d bias"),
    Row("conv2d", lambda x, w, b: mg.conv2d(x, w, b, slope=0.2), lambda x, w, b: leaky(seven_loops(x, w) + b, 0.2),
        of(lambda o: (1, 3, 3, 1), lambda o: (2, 2, 1, o), lambda o: (o,), o=sizes), id="conv2d bias leaky"),
    Row("conv2d", lambda x, w: mg.conv2d(x, w, slope=0.0), lambda x, w: np.maximum(seven_loops(x, w), 0),
        of(lambda o: (1, 3, 3, 1), lambda o: (2, 2, 1, o), o=sizes), id="conv2d relu"),
    Row("batch_norm", mg.batch_norm, lambda x, g, b: standardized(x, (0, 1, 2)) * g + b,
        of(lambda N, H, W, C: (N, H, W, C), lambda N, H, W, C: (C,), lambda N, H, W, C: (C,), **channels)),
    Row("batch_norm", lambda x, g, b: mg.batch_norm(x, g, b, mg.Tensor(np.full(2, 0.3, x.dtype)).to(x.device),
        mg.Tensor(np.full(2, 1.7, x.dtype)).to(x.device), training=False),
        lambda x, g, b: (x - np.asarray(0.3, x.dtype)) / np.sqrt(np.asarray(1.7 + 1e-5, x.dtype)) * g + b,
        of(lambda: (3, 2), lambda: (2,), lambda: (2,)), id="batch_norm eval"),
    Row("batch_norm", lambda x, g, b: mg.batch_norm(x, g, b, slope=0.2),
        lambda x, g, b: leaky(standardized(x, (0, 1, 2)) * g + b, 0.2),
        of(lambda N, H, W, C: (N, H, W, C), lambda N, H, W, C: (C,), lambda N, H, W, C: (C,), **channels),
        id="batch_norm leaky"),
    Row("layer_norm", mg.layer_norm, lambda x, g, b: standardized(x, (1, 2, 3)) * g + b,
        of(lambda N, H, C: (N, H, 2, C), lambda N, H, C: (C,), lambda N, H, C: (C,), N=sizes, H=sizes, C=sizes)),
    Row("instance_norm", mg.instance_norm, lambda x: standardized(x, (1, 2)), images()),
    Row("avg_pool2d", lambda x: mg.avg_pool2d(x, 2), lambda x: pooled(x, np.mean, 2, 2, 0, 0.0), images(),
        second_order=False),
    Row("avg_pool2d", lambda x: mg.avg_pool2d(x, 3, 2, 1), lambda x: pooled(x, np.mean, 3, 2, 1, 0.0), images(),
        second_order=False, id="avg_pool2d padded"),
    Row("max_pool2d", lambda x: mg.max_pool2d(x, 3, 1, 1), lambda x: pooled(x, np.max, 3, 1, 1, -np.inf), images(),
        second_order=False),
    Row("upsample_nearest", lambda x: mg.upsample_nearest(x, (2, 3)), lambda x: x.repeat(2, 1).repeat(3, 2), images(1, 2),
        second_order=False),
    Row("dropout", dropout_of_seed, dropout_reference, one(), second_order=False),
    Row("embedding", lambda w: mg.embedding([[0, 2], [2, 1]], w), lambda w: w[[[0, 2], [2, 1]]], rows_of_3,
        second_order=False),
    Row("cross_entropy", lambda x: mg.cross_entropy(x, labels), lambda x: -np.log(softmax(x))[range(3), labels].mean(),
        three_classes),
    Row("binary_cross_entropy_with_logits",
        lambda x, t: mg.binary_cross_entropy_with_logits(x, mg.sigmoid(t)),
        lambda x, t: -(sigmoid(t) * np.log(sigmoid(x)) + (1 - sigmoid(t)) * np.log(1 - sigmoid(x))).mean(),
        of(lambda n: (n,), lambda n: (n,), n=sizes)),
    *[Row("binary_cross_entropy_with_logits", lambda x, t=t: mg.binary_cross_entropy_with_logits(x, t),
          lambda x, t=t: -(t * np.log(sigmoid(x)) + (1 - t) * np.log(sigmoid(-x))).mean(), one(),
          id=f"binary_cross_entropy_with_logits {t}") for t in (0, 1.0, 0.9, np.float32(0.25), np.int64(1))],
    Row("mean_difference", mg.mean_difference, lambda a, b: a.mean() - b.mean(),
        of(lambda n, m: (n, 1), lambda n, m: (m,), n=sizes, m=sizes), second_order=False),
    Row("row_squares", mg.row_squares, lambda x: (x**2).reshape(len(x), -1).sum(1), images()),
    Row("slope_penalty", lambda s: mg.slope_penalty(s, 10, 1e-2)[0],
        lambda s: 10 * ((np.sqrt(s + 1e-2) - 1) ** 2).mean(), of_slopes()),
    Row("slope_penalty", lambda s: mg.slope_penalty(s, 2.5, 1e-2, one_sided=True)[0],
        lambda s: 2.5 * (np.maximum(0, np.sqrt(s + 1e-2) - 1) ** 2).mean(), of_slopes(), id="slope_penalty one-sided"),
]  # fmt: skip
