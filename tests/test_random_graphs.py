"""Random graphs, built twice: with minigan, and with a naive engine of NumPy functions. Their gradients must agree.

The naive engine orders a graph by recursion, where minigan counts nodes, and its rules are NumPy, where minigan's are
ops. It also keeps account of what a backward pass needs and of who wrote to that, so it knows when minigan must refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import minigan as mg

Array = Any
Vjp = Callable[[Array], Array]

# ---- the naive engine -----------------------------------------------------------------------------------------------


class RefusedError(Exception):
    """What a node needs for its backward pass was overwritten or freed."""


class Value:
    """An array and, for each value that it was computed from, a function from its own gradient to that one's."""

    requires_grad: bool

    def __init__(
        self, array: Array, *edges: tuple[Value, Vjp], view: bool = False, requires_grad: bool = False
    ) -> None:
        self.array = np.asarray(array)
        self.edges = [(parent, vjp) for parent, vjp in edges if parent.requires_grad]
        self.requires_grad = requires_grad or bool(self.edges)
        # Views have one version together. Some indices and reshapes make copies.
        view = view and np.may_share_memory(array, edges[0][0].array)
        self.version: list[int] = edges[0][0].version if view else [0]
        self.saved: list[tuple[list[int], int]] = []
        self.freed, self.retained = False, False
        self.grad: Array | None = None

    def saves(self, *values: Value) -> Value:
        self.saved = [(value.version, value.version[0]) for value in values]
        return self

    def check(self) -> None:
        if self.saved and (self.freed or any(counter[0] != version for counter, version in self.saved)):
            raise RefusedError


def differentiate(y: Value, gradient: Array, targets: Sequence[Value] | None = None) -> dict[Value, Array]:
    """The gradients of all values between y and the targets (None: all leaves). Raises RefusedError."""
    leads: dict[Value, bool] = {}  # whether a value leads to a target; in the order in which recursion leaves values
    order: list[Value] = []

    def visit(value: Value) -> bool:
        if value not in leads:
            behind = [visit(parent) for parent, _ in value.edges]
            leads[value] = targets is None or value in targets or any(behind)
            order.append(value)
        return leads[value]

    visit(y)
    found = {y: gradient}
    for value in reversed(order):
        edges = [(parent, vjp) for parent, vjp in value.edges if leads[parent]]
        if edges:
            value.check()
        for parent, vjp in edges:
            found[parent] = found.get(parent, 0) + vjp(found[value])
    return found


def lift(x: Any) -> Value:
    return x if isinstance(x, Value) else Value(np.asarray(x, np.float64))


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    g = g.sum(tuple(range(g.ndim - len(shape))))
    return g.sum(tuple(i for i, n in enumerate(shape) if n != g.shape[i]), keepdims=True)


def binary(array: Array, a: Value, b: Value, ga: Vjp, gb: Vjp) -> Value:
    shapes = a.array.shape, b.array.shape
    return Value(array, (a, lambda g: unbroadcast(ga(g), shapes[0])), (b, lambda g: unbroadcast(gb(g), shapes[1])))


def add(a: Value, b: Any) -> Value:
    b = lift(b)
    return binary(a.array + b.array, a, b, lambda g: g, lambda g: g)


def subtract(a: Value, b: Value) -> Value:
    return binary(a.array - b.array, a, b, lambda g: g, lambda g: -g)


def multiply(a: Value, b: Any) -> Value:
    b = lift(b)
    return binary(a.array * b.array, a, b, lambda g: g * b.array, lambda g: g * a.array).saves(a, b)


def divide(a: Value, b: Value) -> Value:
    y = binary(a.array / b.array, a, b, lambda g: g / b.array, lambda g: -g * a.array / b.array**2)
    return y.saves(a, b)


def maximum(a: Value, b: Value) -> Value:
    def share(x: Value, y: Value) -> Vjp:
        return lambda g: g * np.where(x.array == y.array, 0.5, x.array > y.array)

    return binary(np.maximum(a.array, b.array), a, b, share(a, b), share(b, a)).saves(a, b)


def matmul(a: Value, b: Value) -> Value:
    return Value(a.array @ b.array, (a, lambda g: g @ b.array.T), (b, lambda g: a.array.T @ g)).saves(a, b)


def tanh(x: Value) -> Value:
    y = Value(np.tanh(x.array), (x, lambda g: g * (1 - y.array**2)))
    return y.saves(y)


def exp(x: Value) -> Value:
    y = Value(np.exp(x.array), (x, lambda g: g * y.array))
    return y.saves(y)


def clip(x: Value, low: float, high: float) -> Value:
    y = np.clip(x.array, low, high)
    return Value(y, (x, lambda g: g * ((x.array >= low) & (x.array <= high)))).saves(x)


def leaky_relu(x: Value, slope: float) -> Value:
    y = np.where(x.array > 0, x.array, slope * x.array)
    value = Value(y, (x, lambda g: g * np.where(y > 0, 1, slope)))
    return value.saves(value)  # whose sign is x's


def sum_(x: Value, axis: tuple[int, ...], keepdims: bool) -> Value:
    kept, shape = x.array.sum(axis, keepdims=True).shape, x.array.shape
    return Value(x.array.sum(axis, keepdims=keepdims), (x, lambda g: np.broadcast_to(g.reshape(kept), shape)))


def mean(x: Value, axis: tuple[int, ...], keepdims: bool) -> Value:
    total = sum_(x, axis, keepdims)
    return multiply(total, total.array.size / x.array.size)


def reshape(x: Value, shape: tuple[int, ...]) -> Value:
    source = x.array.shape
    return Value(x.array.reshape(shape), (x, lambda g: g.reshape(source)), view=True)


def transpose(x: Value, axes: tuple[int, ...]) -> Value:
    return Value(x.array.transpose(axes), (x, lambda g: g.transpose(np.argsort(axes).astype(int))), view=True)


def getitem(x: Value, index: Any) -> Value:
    def scatter(g: Array) -> Array:
        gx = np.zeros(shape)
        np.add.at(gx, index, g)
        return gx

    shape = x.array.shape
    return Value(x.array[index], (x, scatter), view=True)


def broadcast_to(x: Value, shape: tuple[int, ...]) -> Value:
    source = x.array.shape
    return Value(np.broadcast_to(x.array, shape), (x, lambda g: unbroadcast(g, source)), view=True)


def concatenate(values: Sequence[Value], axis: int) -> Value:
    def cut(i: int) -> Vjp:
        return lambda g: np.split(g, ends[:-1], axis)[i]

    ends = np.cumsum([v.array.shape[axis] for v in values])
    return Value(np.concatenate([v.array for v in values], axis), *((v, cut(i)) for i, v in enumerate(values)))


naive = SimpleNamespace(
    add=add, subtract=subtract, multiply=multiply, divide=divide, maximum=maximum, matmul=matmul, tanh=tanh, exp=exp,
    clip=clip, leaky_relu=leaky_relu, sum=sum_, mean=mean, reshape=reshape, transpose=transpose, getitem=getitem,
    broadcast_to=broadcast_to, concatenate=concatenate,
)  # fmt: skip

# ---- graphs of both -------------------------------------------------------------------------------------------------

sizes = st.integers(1, 3)
shapes = st.lists(sizes, max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)
modes = st.sampled_from([True, True, True, False])  # whether an op is recorded

UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda E, x: E.tanh(x),
    "exp of clipped": lambda E, x: E.exp(E.clip(x, -2.0, 1.0)),
    "leaky relu": lambda E, x: E.leaky_relu(x, 0.2),
    "square": lambda E, x: E.multiply(x, x),
    "nothing": lambda E, x: E.subtract(x, x),
    "double": lambda E, x: E.add(x, x),
    "one": lambda E, x: E.divide(E.add(E.multiply(x, x), 1.0), E.add(E.multiply(x, x), 1.0)),
    "tie": lambda E, x: E.maximum(x, x),
    "both halves": lambda E, x: E.maximum(x, E.multiply(x, -1.0)),
}
BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda E, a, b: E.add(a, b),
    "subtract": lambda E, a, b: E.subtract(a, b),
    "multiply": lambda E, a, b: E.multiply(a, b),
    "maximum": lambda E, a, b: E.maximum(a, b),
    "divide": lambda E, a, b: E.divide(a, E.add(E.multiply(b, b), 1.0)),
}


VIEWS: dict[str, Callable[[Any, Any], Any]] = {
    "itself": lambda E, x: x,
    "reshape": lambda E, x: E.reshape(x, (-1,)),
    "transpose": lambda E, x: E.transpose(x, tuple(range(len(x.array.shape)))[::-1]),
    "getitem": lambda E, x: E.getitem(x, ...),
    "broadcast_to": lambda E, x: E.broadcast_to(x, (2, *x.array.shape)),
}

NOT_POSSIBLE = r"modified in place after the forward pass|was freed when its graph was differentiated"


def normal(seed: int, shape: tuple[int, ...]) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def assert_close(found: Array, expected: Array) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * max(1, np.abs(expected).max(initial=0)))


class Pair:
    """A tensor and the value that it must agree with."""

    def __init__(self, tensor: mg.Tensor, value: Value) -> None:
        self.tensor, self.value = tensor, value

    def __repr__(self) -> str:
        return f"<{self.tensor.shape} from {self.tensor.node}>"


class RandomGraphs(RuleBasedStateMachine):
    pairs = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Pair] = []

    def keep(self, tensor: mg.Tensor, value: Value) -> Any:
        pair = Pair(tensor, value)
        self.all.append(pair)
        return pair

    def eligible(self, x: Pair, condition: Callable[[Pair], Any]) -> Pair | None:
        """x, or in its place the latest pair that meets the condition. (`assume` would give the whole graph up.)"""
        return x if condition(x) else next((pair for pair in reversed(self.all) if condition(pair)), None)

    def apply(self, f: Callable[..., Any], *operands: Pair, recorded: bool) -> Any:
        """f(engine, *operands) with both engines, unless numbers grow out of bounds."""
        value = f(naive, *(pair.value for pair in operands))
        if np.abs(value.array).max(initial=0) > 1e3:
            return multiple()
        if not recorded:
            value.edges, value.saved, value.requires_grad = [], [], False
        with nullcontext() if recorded else mg.no_grad():
            return self.keep(f(mg, *(pair.tensor for pair in operands)), value)

    # ---- rules that build

    @initialize(target=pairs, seed=seeds, n=sizes, k=sizes)
    def first_leaves(self, seed: int, n: int, k: int) -> Any:
        shapes = (n, k), (k, n), (n, k), (k,), ()
        return multiple(*(self.leaf(seed + i, shape, True) for i, shape in enumerate(shapes)))

    @rule(target=pairs, seed=seeds, shape=shapes, requires_grad=modes)
    def leaf(self, seed: int, shape: tuple[int, ...], requires_grad: bool) -> Any:
        array = normal(seed, shape)
        return self.keep(mg.Tensor(array, requires_grad), Value(array, requires_grad=requires_grad))

    @rule(target=pairs, name=st.sampled_from(sorted(UNARY)), x=pairs, recorded=modes)
    def unary(self, name: str, x: Pair, recorded: bool) -> Any:
        return self.apply(UNARY[name], x, recorded=recorded)

    @rule(target=pairs, name=st.sampled_from(sorted(BINARY)), a=pairs, b=pairs, recorded=modes)
    def binary(self, name: str, a: Pair, b: Pair, recorded: bool) -> Any:
        try:
            np.broadcast_shapes(a.tensor.shape, b.tensor.shape)
        except ValueError:
            with pytest.raises(ValueError, match="do not broadcast"):
                BINARY[name](mg, a.tensor, b.tensor)
            return multiple()
        return self.apply(BINARY[name], a, b, recorded=recorded)

    @rule(target=pairs, a=pairs, b=pairs, recorded=modes)
    def matmul(self, a: Pair, b: Pair, recorded: bool) -> Any:
        found = self.eligible(a, lambda pair: pair.tensor.ndim == 2)
        if found is None:
            return multiple()
        a = found
        if b.tensor.ndim == 2 and a.tensor.shape[1] == b.tensor.shape[0]:
            return self.apply(lambda E, x, y: E.matmul(x, y), a, b, recorded=recorded)
        return self.apply(lambda E, x: E.matmul(E.transpose(x, (1, 0)), x), a, recorded=recorded)

    @rule(target=pairs, x=pairs, which=st.sampled_from(["sum", "mean"]), keepdims=st.booleans(), data=st.data())
    def reduce(self, x: Pair, which: str, keepdims: bool, data: Any) -> Any:
        axes = [i for i in range(x.tensor.ndim) if data.draw(st.booleans())]
        axis = tuple(i - x.tensor.ndim if data.draw(st.booleans()) else i for i in axes)
        return self.apply(lambda E, t: getattr(E, which)(t, axis, keepdims), x, recorded=True)

    @rule(target=pairs, x=pairs, recorded=modes, data=st.data())
    def reshape(self, x: Pair, recorded: bool, data: Any) -> Any:
        n = x.tensor.size
        divisors = [d for d in range(1, n + 1) if n % d == 0]
        d = data.draw(st.sampled_from(divisors))
        shape = data.draw(st.sampled_from([(n,), (d, n // d), (1, d, n // d)]))
        return self.apply(lambda E, t: E.reshape(t, shape), x, recorded=recorded)

    @rule(target=pairs, x=pairs, recorded=modes, data=st.data())
    def transpose(self, x: Pair, recorded: bool, data: Any) -> Any:
        axes = tuple(data.draw(st.permutations(range(x.tensor.ndim))))
        return self.apply(lambda E, t: E.transpose(t, axes), x, recorded=recorded)

    @rule(target=pairs, x=pairs, recorded=modes, data=st.data())
    def getitem(self, x: Pair, recorded: bool, data: Any) -> Any:
        index: list[Any] = []
        for n in x.tensor.shape:
            start = data.draw(st.integers(0, n - 1))
            index.append(data.draw(st.sampled_from([slice(None), slice(start, None), slice(None, None, -1), start])))
        if index and data.draw(st.booleans()):  # an array of indices, repeated ones among them
            n = x.tensor.shape[0]
            index = [np.array([0, n - 1, 0]), *(slice(None) for _ in x.tensor.shape[1:])]
        return self.apply(lambda E, t: E.getitem(t, (*index, ...)), x, recorded=recorded)

    @rule(target=pairs, x=pairs, recorded=modes, data=st.data())
    def broadcast_to(self, x: Pair, recorded: bool, data: Any) -> Any:
        if x.tensor.ndim == 3:
            return multiple()
        shape = (*data.draw(st.sampled_from([(), (2,)])), *(data.draw(sizes) if n == 1 else n for n in x.tensor.shape))
        return self.apply(lambda E, t: E.broadcast_to(t, shape), x, recorded=recorded)

    @rule(target=pairs, a=pairs, b=pairs, recorded=modes, data=st.data())
    def concatenate(self, a: Pair, b: Pair, recorded: bool, data: Any) -> Any:
        if a.tensor.ndim == 0 or a.tensor.size > 30:
            return multiple()
        axis = data.draw(st.integers(-a.tensor.ndim, a.tensor.ndim - 1))
        parts = [a, b, a] if a.tensor.shape == b.tensor.shape else [a, a]
        return self.apply(lambda E, *ts: E.concatenate(ts, axis), *parts, recorded=recorded)

    @rule(target=pairs, x=pairs)
    def detach(self, x: Pair) -> Any:
        constant = Value(x.value.array)
        constant.version = x.value.version
        return self.keep(x.tensor.detach(), constant)

    @rule(x=pairs)
    def retain_grad(self, x: Pair) -> None:
        if x.tensor.requires_grad:
            x.tensor.retain_grad()
            x.value.retained = True

    @rule(x=consumes(pairs))
    def drop(self, x: Pair) -> None:
        """The program forgets a tensor; graphs that need it go on working."""
        self.all.remove(x)

    # ---- rules that differentiate

    @rule(y=pairs, seed=seeds, retain=modes, reduced=st.booleans())
    def backward(self, y: Pair, seed: int, retain: bool, reduced: bool) -> None:
        found = self.eligible(y, lambda pair: pair.value.edges)
        if found is not None:
            self.backward_of(found, seed, retain, reduced)

    def backward_of(self, y: Pair, seed: int, retain: bool, reduced: bool) -> None:
        g = normal(seed, y.tensor.shape)
        root = naive.sum(naive.multiply(y.value, g), tuple(range(g.ndim)), False) if reduced else y.value

        def run(retain_graph: bool) -> None:
            if reduced:
                (y.tensor * mg.Tensor(g)).sum().backward(retain_graph=retain_graph)
            else:
                y.tensor.backward(g, retain_graph=retain_graph)

        try:
            found = differentiate(root, np.ones(()) if reduced else g)
        except RefusedError:
            with pytest.raises(RuntimeError, match=NOT_POSSIBLE):
                run(True)
            self.zero_grad()
            return
        run(retain)
        for value, gradient in found.items():
            value.freed |= not retain
            if not value.edges or value.retained:
                value.grad = gradient.copy() if value.grad is None else value.grad + gradient

    @rule(y=pairs, xs=st.lists(pairs, min_size=1, max_size=3), seed=seeds, create=st.booleans(), retain=modes)
    def grad(self, y: Pair, xs: list[Pair], seed: int, create: bool, retain: bool) -> None:
        found_y = self.eligible(y, lambda pair: pair.tensor.requires_grad)
        xs = [x for x in xs if x.tensor.requires_grad]
        if found_y is None or not xs:
            return
        y = found_y
        targets, g = [x.value for x in xs], normal(seed, y.tensor.shape)
        tensors, options = [x.tensor for x in xs], {"create_graph": create, "allow_unused": True}
        try:
            found = differentiate(y.value, g, targets)
        except RefusedError:
            with pytest.raises(RuntimeError, match=NOT_POSSIBLE):
                mg.grad(y.tensor, tensors, g, retain_graph=True, **options)
            return
        results = mg.grad(y.tensor, tensors, g, retain_graph=retain, **options)
        for result, x in zip(results, xs, strict=True):
            assert_close(result.array, found.get(x.value, np.zeros(x.tensor.shape)))
            assert create or not result.requires_grad
        if not retain:
            for value in found:  # what was only arrived at was not differentiated
                value.freed |= any(parent in found for parent, _ in value.edges)

    @rule()
    def zero_grad(self) -> None:
        for pair in self.all:
            pair.tensor.grad = pair.value.grad = None

    @rule(x=pairs, seed=seeds)
    def write(self, x: Pair, seed: int) -> None:
        found = self.eligible(x, lambda pair: pair.tensor.is_leaf and pair.value.array.flags.writeable)
        if found is None:
            return
        x = found
        array = normal(seed, x.tensor.shape)
        with x.tensor.writing() as memory:
            memory[...] = array
        x.value.array[...] = array
        x.value.version[0] += 1

    @rule(x=pairs, y=pairs, seed=seeds)
    def write_and_differentiate(self, x: Pair, y: Pair, seed: int) -> None:
        self.write(x, seed)
        self.backward(y, seed, True, True)

    @rule(x=pairs, view=st.sampled_from(sorted(VIEWS)), name=st.sampled_from(sorted(UNARY)), seed=seeds, out=modes)
    def write_through_an_alias(self, x: Pair, view: str, name: str, seed: int, out: bool) -> None:
        """What an op saved (its input, or its own output) changes by way of another tensor on the same memory."""
        y = self.apply(lambda E, t: UNARY[name](E, VIEWS[view](E, t)), x, recorded=True)
        if isinstance(y, Pair) and y.value.edges:
            self.write(self.detach(y if out else x), seed)
            self.backward_of(y, seed, True, True)

    # ---- what always holds

    @invariant()
    def values_are_those_of_numpy(self) -> None:
        for pair in self.all:
            np.testing.assert_array_equal(pair.tensor.array, pair.value.array)
            assert pair.tensor.dtype == np.float64
            assert pair.tensor.requires_grad == pair.value.requires_grad
            assert pair.tensor.is_leaf == (not pair.value.edges)

    @invariant()
    def gradients_agree(self) -> None:
        for pair in self.all:
            found, expected = pair.tensor.grad, pair.value.grad
            assert (found is None) == (expected is None)
            if found is not None:
                assert type(found) is np.ndarray
                assert_close(found, expected)

    @invariant()
    def gradients_own_their_memory(self) -> None:
        gradients = [pair.tensor.grad for pair in self.all if pair.tensor.grad is not None]
        for i, g in enumerate(gradients):
            assert g.flags.writeable
            assert not any(np.may_share_memory(g, other) for other in gradients[:i])
            assert not any(np.may_share_memory(g, pair.tensor.array) for pair in self.all)


TestRandomGraphs = RandomGraphs.TestCase
TestRandomGraphs.settings = settings(max_examples=120, stateful_step_count=40, report_multiple_bugs=False)


# ---- what the machine found, each in a few lines --------------------------------------------------------------------


def test_grad_leaves_the_graph_behind_its_targets_alone() -> None:
    """dy/dh stops at h, so h can still be differentiated: back-propagation in two halves."""
    x = mg.Tensor([0.5], requires_grad=True)
    h = mg.tanh(x)
    gh = mg.grad((h * h).sum(), h)
    h.backward(gh)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, 2 * np.tanh(0.5) * (1 - np.tanh(0.5) ** 2), rtol=1e-6)


def test_grad_of_a_single_number_stays_an_array() -> None:
    x = mg.Tensor(3.0, requires_grad=True)
    for _ in range(3):
        (x * x).backward()
    assert type(x.grad) is np.ndarray
    assert x.grad == 18
