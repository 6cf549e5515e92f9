"""Every op and every layer in a captured step: recorded, rehearsed and replayed, it gives the bits of the eager step.

The cases come from op_table.py, from the layers of test_nn.py, and from the ops of test_random_graphs.py, put together
at random.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from on_device import DEVICE, needs_device
from op_table import OPS, Row
from test_nn import LAYERS
from test_random_graphs import BINARY, UNARY

import minigan as mg
from minigan import nn, ops
from minigan.random import Generator

Array = Any
Step = Callable[..., Any]

CALLS = 5
"""One records, one rehearses, three replay."""


def found(results: Any) -> Iterator[Array]:
    """Copies of all arrays in what a step returned."""
    if isinstance(results, Mapping):
        results = list(results.values())
    if isinstance(results, (list, tuple)):
        for result in results:
            yield from found(result)
    else:
        yield mg.kernels.to_host(ops.shape.values_of(results)).copy()


def run(make: Callable[[], Step], inputs: list[list[Any]], captured: bool, between: Callable[[], None]) -> list[Any]:
    """What a new step returns for each of the inputs."""
    mg.manual_seed(0)
    step = make()
    call, results = mg.capture(step) if captured else step, []
    for given_ in inputs:
        results.append(list(found(call(*given_))))
        between()
    if captured:
        assert all(recording.run is not None for recording in call.recordings)
    return results


def assert_captured_equals_eager(make: Callable[[], Step], inputs: list[list[Any]]) -> None:
    """`make` gives a step with nets and generators of its own; it is run on the inputs in turn."""
    with np.errstate(all="ignore"):
        every = [run(make, inputs, captured, lambda: None) for captured in (False, True)]
    for call, (eager, captured) in enumerate(zip(*every, strict=True)):
        for i, (expected, array) in enumerate(zip(eager, captured, strict=True)):
            assert array.dtype == expected.dtype, f"result {i} of call {call}"
            np.testing.assert_array_equal(array, expected, f"result {i} of call {call}", strict=True)


def others(array: Array, rng: np.random.Generator) -> Array:
    """Numbers of the same shape and kind, positive where all of them are."""
    mixed = rng.permutation(array.reshape(-1)).reshape(array.shape) * rng.uniform(0.5, 1.5, array.shape)
    return np.asarray(mixed, array.dtype)


def draws(arrays: list[Array], dtype: Any) -> list[list[mg.Tensor]]:
    rng = np.random.default_rng(0)
    return [[mg.Tensor(others(a.astype(dtype), rng)) for a in arrays] for _ in range(CALLS)]


# ---- ops ------------------------------------------------------------------------------------------------------------


def derivatives(op: Callable[..., mg.Tensor], order: int, xs: tuple[mg.Tensor, ...]) -> list[mg.Tensor]:
    """op(*xs), its gradients, and the gradients of the sum of their squares."""
    leaves = [mg.Tensor(x, requires_grad=order > 0) for x in xs]
    y = op(*leaves)
    if not order:
        return [y]
    upstream = mg.Tensor(np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype))
    first = mg.grad(y, leaves, upstream, create_graph=order > 1, allow_unused=True)
    total = sum((g * g).sum() for g in first)
    second = mg.grad(total, leaves, allow_unused=True) if order > 1 and total.requires_grad else ()
    return [y, *first, *second]


REFUSED = {
    "dropout": (
        "each step makes a generator of its own, which a replay would not",
        "capture: the function that is called ahead at .* is another one in each step",
    )
}
"""Rows of the table that cannot be captured: why, and what the error says. MORE has what to do instead."""


@pytest.mark.parametrize("row", OPS, ids=str)
@settings(max_examples=2, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_op(row: Row, data: Any) -> None:
    inputs = draws(data.draw(row.inputs), data.draw(st.sampled_from([np.float32, np.float64])))
    for order in range(3):

        def make(order: int = order) -> Step:
            return lambda *xs: derivatives(row.op, order, xs)

        if str(row) not in REFUSED:
            assert_captured_equals_eager(make, inputs)
        else:
            with pytest.raises(mg.CaptureError, match=REFUSED[str(row)][1]):
                run(make, inputs, True, lambda: None)


def with_a_generator() -> Step:
    generator = Generator(7, "dropout")
    return lambda x, *_: mg.dropout(x, 0.5, generator=generator)


def that_writes() -> Step:
    state, counts = mg.zeros((4, 3)), mg.Tensor(np.zeros(4, np.int64))

    def step(x: mg.Tensor, i: mg.Tensor, mask: mg.Tensor) -> list[mg.Tensor]:
        state[1:3] = x[0]
        state[i] = x * 2
        state[mask] = 0.5
        state[:, 0] = [1.0, 2.0, 3.0, 4.0]
        counts[i[0] > 1] = 7
        return [state * 1.0, counts * 1]

    return step


def that_writes_to_its_own() -> Step:
    def step(x: mg.Tensor, *_: Any) -> mg.Tensor:
        fresh = mg.zeros((4, 3))
        fresh[:3] = x
        return fresh * 2

    return step


def that_compares() -> Step:
    names = "__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"
    return lambda x, i, mask: [
        getattr(x, name)(other) for name in names for other in (x.transpose(), 0.0, x[0], [0, 1, 2])
    ]


MORE: dict[str, Callable[[], Step]] = {
    "comparisons": that_compares,
    "comparisons of integers": lambda: lambda x, i, mask: [i == 2, i >= 1, i != i[::-1], i < 1.5],
    "comparison with no number": lambda: lambda x, i, mask: [x == None, x != None],  # noqa: E711
    "where": lambda: lambda x, i, mask: [mg.where(mask[:3, None], x, -x), mg.where(x > 0, x, 0.0)],
    "embedding": lambda: lambda x, i, mask: mg.embedding(i, x),
    "cross_entropy": lambda: lambda x, i, mask: mg.cross_entropy(x, i),
    "getitem integers": lambda: lambda x, i, mask: [x[i], x[i, ::-1], x[:, i], x[i, i]],
    "scatter_add": lambda: lambda x, i, mask: mg.scatter_add(x, i, (5, 3)),
    "astype": lambda: lambda x, i, mask: [
        x.astype(np.float64), (x * 3).astype(np.int64), x.astype(bool), mask.astype(np.float32), i.astype(np.float64),
    ],
    "Tensor of a transposed tensor": lambda: lambda x, i, mask: [
        mg.Tensor(x.transpose()).sum(0), mg.Tensor(x.transpose(), dtype=np.float64).sum(0)
    ],
    "reshape that has to copy": lambda: lambda x, i, mask: [
        x.transpose().reshape(-1), x[:, ::2].reshape(-1), mg.broadcast_to(x[:, None], (3, 2, 3)).reshape(6, 3) * 2
    ],
    "max and var": lambda: lambda x, i, mask: [x.max(1), x.var(0), x.max(), x.mean((0, 1), keepdims=True)],
    "dropout": with_a_generator,
    "dropout from the stream": lambda: lambda x, i, mask: [mg.dropout(x, 0.3), mg.dropout(x, 0.3, training=False)],
    "random numbers": lambda: lambda x, i, mask: [
        mg.Tensor.of(mg.random.stream("a").normal((3, 5))), mg.Tensor.of(mg.random.stream("a").uniform(7, np.float64)),
        mg.Tensor.of(mg.random.stream("a").permutation(9)), mg.Tensor.of(mg.random.stream("a").integers(10, (2, 3))),
    ],
    "item assignment": that_writes,
    "item assignment to a new tensor": that_writes_to_its_own,
    "masks": lambda: lambda x, i, mask: [x[mask[:3]], x[:, mask[:3]], x[mask[:3], mask[:3]], -x[x == x]],
}  # fmt: skip
"""Steps whose arguments are numbers (3, 3), integers (3,), and a mask (4,) that holds in as many places each time."""


def more_inputs() -> list[list[Any]]:
    rng = np.random.default_rng(0)
    masks = np.array([[True, False, True, False], [False, True, True, False]])
    return [
        [mg.Tensor(given) for given in (np.float32(rng.standard_normal((3, 3))), rng.permutation(3), masks[i % 2])]
        for i in range(CALLS)
    ]


@pytest.mark.parametrize("name", MORE)
def test_more_ops(name: str) -> None:
    assert_captured_equals_eager(MORE[name], more_inputs())


PLAIN = ops.abs, ops.dropout, ops.elu, ops.leaky_relu, ops.negative, ops.sigmoid, ops.softmax, ops.softplus, ops.tanh
TRANSPOSED: dict[str, Callable[[mg.Tensor], mg.Tensor]] = {
    **{op.__name__: op for op in PLAIN},
    "itself": lambda x: x,
    "a copy": lambda x: mg.Tensor(x).sum() * x,
    "in another dtype": lambda x: mg.Tensor(x.astype(np.float64) * 1.1, dtype=np.float32).sum() * x,
    "flat": lambda x: x.reshape(-1),
    "beside another": lambda x: ops.maximum(x, 0.1) * x[::-1] - ops.where(x > 0, x, 0.5),
    "parts": lambda x: ops.concatenate([x[:, 3:], x[:, np.arange(7)], ops.clip(x, -1.0, 1.0)], 1),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_axes_stay_in_the_order_that_they_have_in_memory(name: str) -> None:
    """It decides in which order a sum adds up."""

    def step(x: mg.Tensor) -> list[mg.Tensor]:
        leaf = mg.Tensor(x, requires_grad=True)
        y = TRANSPOSED[name](leaf.transpose())
        (g,) = mg.grad((y * y).sum(), [leaf])
        return [y, y.sum(), y.sum(0), g, g.sum(), (g * 0.7).transpose().sum(1)]

    rng = np.random.default_rng(0)
    inputs = [[rng.standard_normal((67, 45)).astype(np.float32)] for _ in range(CALLS)]
    assert_captured_equals_eager(lambda: step, inputs)


def there_and_back() -> Step:
    weight = mg.Tensor(np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3), requires_grad=True)

    def step(x: mg.Tensor, i: mg.Tensor, mask: mg.Tensor) -> list[mg.Tensor]:
        there, w = x.to(DEVICE), weight.to(DEVICE)
        y = mg.tanh(there @ w)[i] + mg.embedding(i, w) * mg.where(there > 0, there, 0.5)
        loss = mg.cross_entropy(mg.dropout(y.transpose().reshape(3, 3)), i)
        return [y.to("cpu"), there == w, mg.grad(loss, weight), (y - 1).detach()[mask.to(DEVICE)[:3]]]

    return step


@needs_device
def test_a_step_on_two_devices() -> None:
    assert_captured_equals_eager(there_and_back, more_inputs())


def test_places_of_a_mask_are_those_of_the_replay() -> None:
    """As many as were recorded, or an error."""
    step = mg.capture(lambda x, mask: [x[mask], mg.scatter_add(x[mask], mask, (4,))])
    x = mg.Tensor(np.arange(4.0))
    for bits in ("1100", "0110", "1010", "0011", "1001"):
        mask = np.array([bit == "1" for bit in bits])
        taken, added = step(x, mask)
        np.testing.assert_array_equal(taken.array, x.array[mask])
        np.testing.assert_array_equal(added.array, np.where(mask, x.array, 0))
    for bits in ("1000", "1011"):
        with pytest.raises(mg.CaptureError, match=r"gave int64 \(2,\) when the step was recorded and gives int64"):
            step(x, np.array([bit == "1" for bit in bits]))


def test_labels_and_indices_are_checked_in_each_replay() -> None:
    x, w, good = mg.ones((2, 3)), mg.ones((3, 4)), np.array([0, 2])
    losses = mg.capture(lambda labels: mg.cross_entropy(x, labels))
    rows = mg.capture(lambda indices: mg.embedding(indices, w))
    for _ in range(3):
        losses(good)
        rows(good)
    with pytest.raises(ValueError, match=re.escape("cross_entropy: labels go from 0 to 3, for 3 classes")):
        losses(np.array([0, 3]))
    with pytest.raises(IndexError, match=re.escape("embedding: indices go from -1 to 0, but weight has 3 rows")):
        rows(np.array([0, -1]))
    assert (losses(good).array == losses.step(good).array).all()




# ---- layers ---------------------------------------------------------------------------------------------------------


def training(make: Callable[[], nn.Module], optimizer: str, mode: bool) -> Step:
    """A step that trains the layer; it returns all that moves."""
    layer = make().train(mode)
    parameters = list(layer.parameters())
    optimizers = {"sgd": lambda: mg.optim.SGD(parameters, 0.1, 0.9), "adam": lambda: mg.optim.Adam(parameters, 0.01)}
    update = optimizers[optimizer]() if parameters else None

    def step(*inputs: mg.Tensor) -> list[Any]:
        xs = [mg.Tensor(x, requires_grad=x.dtype == np.float32) for x in inputs]
        y = layer(*xs)
        loss = (y * y).sum()
        layer.zero_grad()
        loss.backward()
        if update is not None:
            update.step()
        gradients = [mg.Tensor.of(x.grad) for x in xs if x.grad is not None]
        state = [mg.Tensor.of(mg.kernels.copy(t.array)) for _, t in layer._named_tensors()]
        return [y, loss, *gradients, *state]

    return step


Layer = tuple[Callable[[], nn.Module], Callable[[np.random.Generator], list[Any]]]


def numbers(*shapes: tuple[int, ...]) -> Callable[[np.random.Generator], list[Any]]:
    return lambda rng: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


class Twice(nn.Module):
    """Two passes in one step, as D's on real and fake images."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return ops.concatenate([self.net(x), self.net(x * 0.5)])


def reference_batch(channels: int) -> Array:
    return np.random.default_rng(5).standard_normal((3, channels)).astype(np.float32)


ALL_LAYERS: dict[str, Layer] = {
    **{f"{type(make()).__name__} {x}": (make, numbers(x)) for make, x, *_ in LAYERS},
    "Embedding": (lambda: nn.Embedding(5, 3), lambda rng: [rng.integers(0, 5, (2, 3))]),
    "Sequential": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Upsample(),
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(768, 2), nn.BatchNorm1d(2), nn.Tanh(),
        ),
        numbers((4, 8, 8, 1)),
    ),
    "VirtualBatchNorm1d": (
        lambda: nn.VirtualBatch(nn.Sequential(nn.Linear(4, 3), nn.VirtualBatchNorm1d(3)), reference_batch(4)),
        numbers((2, 4)),
    ),
    "VirtualBatchNorm2d": (
        lambda: nn.VirtualBatch(
            nn.Sequential(nn.Unflatten(2, 2, 1), nn.Conv2d(1, 3, 2), nn.VirtualBatchNorm2d(3)), reference_batch(4)
        ),
        numbers((2, 4)),
    ),
    "ModulatedBatchNorm2d": (lambda: nn.ModulatedBatchNorm2d(3, 2), numbers((4, 2, 2, 3), (4, 2))),
    "Conditioned": (
        lambda: nn.Conditioned(nn.Linear(5, 12), nn.Unflatten(2, 2, 3), nn.ModulatedBatchNorm2d(3, 5, 4), nn.ReLU()),
        numbers((4, 5)),
    ),
    "two passes of SpectralNorm": (lambda: Twice(nn.SpectralNorm(nn.Conv2d(2, 3, 3), 2)), numbers((2, 4, 4, 2))),
    "two passes of BatchNorm2d": (lambda: Twice(nn.BatchNorm2d(2)), numbers((2, 3, 3, 2))),
}  # fmt: skip


def test_every_layer_is_captured() -> None:
    captured = " ".join(ALL_LAYERS)
    others = {"Module", "Parameter", "init", "Anneal", "Reparametrized", "wrap_layers"}
    assert {name for name in nn.__all__ if name not in captured} == others


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ALL_LAYERS)
def test_layer(name: str, mode: bool) -> None:
    make, draw = ALL_LAYERS[name]
    rng = np.random.default_rng(0)
    inputs = [draw(rng) for _ in range(CALLS)]
    assert_captured_equals_eager(lambda: training(make, "adam" if mode else "sgd", mode), inputs)


def test_sigma_is_that_of_the_replay_and_nothing_is_drawn_at_0() -> None:
    inputs = [[np.full((2, 3), i, np.float32)] for i in range(9)]
    every = []
    for captured in (False, True):
        noise = nn.GaussianNoise(0.5, Generator(0, "noise"))
        every.append(run(lambda noise=noise: noise.forward, inputs, captured, nn.Anneal(noise, 5)))
        every.append([[noise.generator.counter]])
    eager, counter, captured, counter_of_captured = every
    np.testing.assert_array_equal(captured, eager)
    assert counter == counter_of_captured
    assert (eager[4][0] != inputs[4][0]).all()
    np.testing.assert_array_equal(eager[5:], inputs[5:])


def test_streams_that_start_anew_do_so_in_a_captured_step() -> None:
    step = mg.capture(lambda x: mg.dropout(x))
    first, *_ = [step(mg.ones((4, 4))).array.copy() for _ in range(4)]
    mg.manual_seed(0)
    np.testing.assert_array_equal(step(mg.ones((4, 4))).array, first)


def test_what_is_prepared_from_weights_is_that_of_the_replay() -> None:
    mg.set_conv_algorithm("winograd4")
    layers = [nn.Conv2d(2, 3, 3, 1, 1) for _ in range(2)]
    try:
        numbers = [[np.full((1, 5, 5, 2), i, np.float32)] for i in range(CALLS)]
        for layer in layers:
            layer.load_state_dict(layers[0].state_dict())
        rest = iter(layers)
        assert_captured_equals_eager(lambda: training(lambda: next(rest), "adam", True), numbers)
        assert all(layer.weight._prepared for layer in layers)
    finally:
        mg.set_conv_algorithm("auto")


def test_buffers_of_spectral_norm_stay_where_they_are() -> None:
    """EMA, checkpoints and replays hold on to them."""
    sn = nn.SpectralNorm(nn.Linear(5, 3))
    before, values = (sn.u.array, sn.v.array), sn.state_dict()
    y = sn(mg.ones((2, 5))).sum()
    sn(mg.ones((2, 5)))  # a second pass before the first one's gradient
    y.backward()
    assert sn.u.array is before[0]
    assert sn.v.array is before[1]
    assert all((sn.state_dict()[key] != values[key]).any() for key in ("u", "v"))


# ---- ops put together at random -------------------------------------------------------------------------------------


def summed(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
    return a.sum(0, keepdims=True) if a.ndim else b.mean()


ANY: dict[str, Callable[..., mg.Tensor]] = {
    **{name: lambda a, b, f=f: f(mg, a) for name, f in UNARY.items()},
    **{name: lambda a, b, f=f: f(mg, a, b) for name, f in BINARY.items()},
    "sum": summed,
    "transpose": lambda a, b: a.transpose(),
    "flat": lambda a, b: a.transpose().reshape(-1),
    "backwards": lambda a, b: a[::-1] if a.ndim else a,
    "some": lambda a, b: a[[0, -1, 0]] if a.ndim else a,
    "square matrix": lambda a, b: a.transpose() @ a if a.ndim == 2 else a * b.mean(),
    "both": lambda a, b: ops.concatenate([a, a * 2, b] if a.shape == b.shape else [a, a], -1) if a.ndim else a + 1,
    "where": lambda a, b: ops.where(a > b.mean(), a, -1.0),
    "no gradient": lambda a, b: a.detach() * b.mean(),
}


def graph(program: list[tuple[str, int, int]], leaves: list[mg.Tensor]) -> list[mg.Tensor]:
    """The leaves, and what the program makes of them: each line is an op and the numbers of its operands."""
    tensors = list(leaves)
    for name, i, j in program:
        a, b = tensors[-1 - i % len(tensors)], tensors[-1 - j % len(tensors)]
        if a.size + b.size < 200:
            try:
                np.broadcast_shapes(a.shape, b.shape)
            except ValueError:
                b = a
            tensors.append(ANY[name](ops.clip(a, -9.0, 9.0), b))
    return tensors


lines = st.tuples(st.sampled_from(sorted(ANY)), st.integers(0, 5), st.integers(0, 9))


@settings(max_examples=30)
@given(
    program=st.lists(lines, min_size=3, max_size=12),
    n=st.integers(1, 3),
    k=st.integers(1, 3),
)
def test_random_graph(program: list[tuple[str, int, int]], n: int, k: int) -> None:
    """Gradients of first and second order by arguments and a weight, which the step moves."""
    rng = np.random.default_rng(0)
    inputs = [[mg.Tensor(rng.standard_normal(shape)) for shape in ((n, k), (k, n), (k,))] for _ in range(CALLS)]

    def make() -> Step:
        weight = mg.Tensor(np.random.default_rng(1).standard_normal((n, k)), requires_grad=True)
        update = mg.optim.SGD([weight], 0.01)

        def step(*xs: mg.Tensor) -> list[mg.Tensor]:
            leaves = [weight, *[mg.Tensor(x, requires_grad=True) for x in xs]]
            tensors = graph(program, leaves)
            y = sum((t * t).mean() for t in tensors)
            first = mg.grad(y, leaves, create_graph=True)
            update.zero_grad()
            sum((g * g).sum() for g in first).backward()
            update.step()
            return [*tensors[len(leaves) :], y, *first, *[mg.Tensor.of(x.grad) for x in leaves[1:]], weight]

        return step

    assert_captured_equals_eager(make, inputs)
