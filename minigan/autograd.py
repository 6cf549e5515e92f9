"""Reverse-mode differentiation to any order.

One op is one subclass of `Function`; calling an instance runs the op, and the instance *is* the node of the graph. Its
`forward` takes and returns arrays. Its `backward` takes and returns Tensors: it is made of ops, so a gradient can be
differentiated again. Nodes are numbered in the order of their creation, which is a topological order: differentiation
walks the numbers downwards, without recursion. Next: ops/.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import numpy as np

from . import kernels
from .anomaly import Check, calling_line, refuse_nan
from .dtypes import check_dtype
from .mixing import as_tensors
from .tensor import Array, Tensor

_number = count()
Targets = TypeVar("Targets", Tensor, Sequence[Tensor])


class _Mode(threading.local):
    recording = True  # whether ops become part of a graph
    anomaly: Check | None = None  # what looks at every result
    origin = ""  # inside a backward: the line of the program that called its forward


_mode = _Mode()


def is_recording() -> bool:
    """Whether ops on tensors that require a gradient are being recorded."""
    return _mode.recording


@contextmanager
def _switched(mode: str, on: Any) -> Iterator[None]:
    previous = getattr(_mode, mode)
    setattr(_mode, mode, on)
    try:
        yield
    finally:
        setattr(_mode, mode, previous)


def no_grad() -> Any:
    """`with no_grad():` or `@no_grad()`: results inside do not require gradients and keep nothing alive."""
    return _switched("recording", False)


def detect_anomaly(check: Check = refuse_nan) -> Any:
    """Inside, the first NaN that an op or its backward produces raises FloatingPointError.

    The message names the op and the line of your program that called it. Slow: every result is searched.
    check(array, op's name, "forward" or "backward", line) is called with each result; another one may look for other
    things than NaN, or only take notes.
    """
    return _switched("anomaly", check)


class Node:
    """A vertex of the graph: what it was computed from, in which order, and whose `.grad` it fills."""

    number: int
    parents: tuple[Node | None, ...] = ()
    shape: tuple[int, ...]
    owner: weakref.ref[Tensor] | None = None

    def own(self, tensor: Tensor) -> None:
        """Fill this tensor's `.grad` in `backward()`. Held weakly: a graph keeps no leaf alive."""
        self.owner = weakref.ref(tensor)


class Leaf(Node):
    """Where differentiation ends: a tensor that requires a gradient and that no op computed."""

    def __init__(self, tensor: Tensor) -> None:
        self.number, self.shape = next(_number), tensor.shape
        self.own(tensor)

    def __repr__(self) -> str:
        return "leaf"


class Function(Node):
    """Base of all ops. A subclass sets its options in `__init__`, and defines `forward` and `backward`.

    forward(*arrays) -> array. Every array operation is a kernel of minigan.kernels.
    backward(g) -> Tensor or None, or a tuple of them, one for each input. `self.needs[i]` says whether input i's is
        wanted; the rest may be None. A constant with respect to an input is None.
    saves_inputs, saves_output: declare what backward reads through `self.inputs` and `self.output`; the version guard
        watches over both. `self.kept` is for further arrays that forward computed and backward needs.
    shares_memory: the output may be a view of the first input.
    """

    name = "function"
    saves_inputs = False
    saves_output = False
    shares_memory = False
    needs: tuple[bool, ...] = ()
    origin = ""
    _inputs: tuple[tuple[Tensor, int], ...] | None = ()
    _output: tuple[Array, list[int], int] | None = None
    _kept: tuple[Array, ...] | None = ()

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __repr__(self) -> str:
        return self.name

    def forward(self, *arrays: Any, **_: Any) -> Array:
        raise NotImplementedError(f"{self.name} defines no forward")

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...] | Tensor | None:
        raise NotImplementedError(f"{self.name} defines no backward: it cannot be differentiated")

    def __call__(self, *inputs: Any) -> Tensor:
        """Runs the op on tensors (arrays, lists and numbers are taken too) and records it if need be."""
        tensors = as_tensors(self.name, inputs)
        y = kernels.as_array(self.forward(*[t.array for t in tensors]))
        check_dtype(self.name, y.dtype)
        shared = self.shares_memory and np.may_share_memory(y, tensors[0].array)
        result = Tensor.of(y, version=tensors[0]._version if shared else None)
        if _mode.anomaly:
            self.origin = _mode.origin or calling_line()
            if not _mode.origin:
                _mode.anomaly(y, self.name, "forward", self.origin)
        if _mode.recording:
            parents = tuple([t.node for t in tensors])
            if any(parents):
                if self.parents:
                    raise RuntimeError(f"{self.name}: an instance is one node of the graph and is called once")
                self.number, self.parents, self.shape = next(_number), parents, y.shape
                if self.saves_inputs:
                    self._inputs = tuple([(t, t._version[0]) for t in tensors])
                if self.saves_output:
                    self._output = y, result._version, result._version[0]
                result.node = self
        return result

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The saved inputs, if nobody wrote to them since."""
        if self._inputs is None:
            raise self._freed()
        for tensor, version in self._inputs:
            if tensor._version[0] != version:
                raise self._modified("input", tensor.shape)
        return tuple([tensor for tensor, _ in self._inputs])

    @property
    def output(self) -> Tensor:
        """The saved output, wrapped anew on each use: a node that held its own tensor would be a cycle."""
        if self._output is None:
            raise self._freed()
        array, counter, version = self._output
        if counter[0] != version:
            raise self._modified("output", array.shape)
        return Tensor.of(array, self, counter)

    @property
    def kept(self) -> tuple[Array, ...]:
        """Arrays that forward computed and set aside for backward."""
        if self._kept is None:
            raise self._freed()
        return self._kept

    @kept.setter
    def kept(self, arrays: tuple[Array, ...]) -> None:
        self._kept = arrays

    def release(self) -> None:
        """Drops what was saved for backward."""
        self._inputs = self._output = self._kept = None

    def _freed(self) -> RuntimeError:
        return RuntimeError(
            f"{self.name}: what it saved was freed when its graph was differentiated; "
            "to differentiate a graph twice, pass retain_graph=True the first time, or run the forward pass again"
        )

    def _modified(self, what: str, shape: tuple[int, ...]) -> RuntimeError:
        return RuntimeError(
            f"{self.name}: its {what} of shape {shape} was modified in place after the forward pass (by an optimizer "
            "step or weight clipping, between this forward and its backward?); run the forward pass after the change"
        )


# ---- differentiation ----------------------------------------------------------------------------------------------


def grad(
    y: Tensor,
    xs: Targets,
    gradient: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Targets:
    """d<gradient, y> / dx for each x of xs, each of x's shape. Visits only the nodes between y and xs.

    gradient: an array of y's shape; 1 if y is a single number.
    create_graph: record the computation, so that the results can be differentiated again.
    retain_graph: keep what the nodes saved, for a second call on the same graph (default: create_graph).
    allow_unused: zeros for an x that y does not depend on, in place of a RuntimeError.
    """
    many = [xs] if isinstance(xs, Tensor) else list(xs)
    root, g = _start("grad", y, gradient)
    for i, x in enumerate(many):
        if x.node is None:
            raise RuntimeError(f"grad: xs[{i}] of shape {x.shape} does not require a gradient; set requires_grad=True")
    targets = [x.node for x in many if x.node is not None]
    found = _differentiate(root, g, targets, create_graph, create_graph if retain_graph is None else retain_graph)
    for i, (x, node) in enumerate(zip(many, targets, strict=True)):
        if node not in found:
            if not allow_unused:
                message = f"grad: y does not depend on xs[{i}] of shape {x.shape}; pass allow_unused=True to get zeros"
                raise RuntimeError(message)
            found[node] = Tensor.of(np.zeros_like(x.array))
    results = tuple([found[node] for node in targets])
    return results[0] if isinstance(xs, Tensor) else results  # type: ignore[return-value]  # Targets is Tensor


def backward(y: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Adds dy/dx to `x.grad` of every leaf x that led to y, as plain arrays, never as a graph.

    For derivatives of derivatives use `grad(..., create_graph=True)`. The graph is freed unless `retain_graph`.
    """
    root, g = _start("backward", y, gradient)
    if isinstance(root, Leaf):
        raise RuntimeError("backward: this tensor is a leaf: no op computed it, so there is nothing to differentiate")
    _differentiate(root, g, None, create_graph=False, retain_graph=retain_graph)


def _start(caller: str, y: Tensor, gradient: Any) -> tuple[Node, Tensor]:
    """The node where differentiation starts, and the checked gradient that it starts with."""
    if y.node is None:
        raise RuntimeError(
            f"{caller}: this tensor does not require a gradient: nothing that led to it does, or no_grad() was on"
        )
    if gradient is None:
        if y.size != 1:
            raise RuntimeError(
                f"{caller}: y has shape {y.shape}, not a single number; use .sum(), .mean() or a gradient= of its shape"
            )
        gradient = Tensor.of(np.ones_like(y.array))
    g = gradient if isinstance(gradient, Tensor) else Tensor(kernels.beside(gradient, y.array), dtype=y.dtype)
    if g.shape != y.shape or g.dtype != y.dtype or type(g.array) is not type(y.array):
        have, want = (f"{t.dtype} {t.shape} on {t.device}" for t in (g, y))
        raise ValueError(f"{caller}: gradient is {have}, but y is {want}")
    return y.node, g


def _differentiate(
    root: Node, gy: Tensor, targets: Sequence[Node] | None, create_graph: bool, retain_graph: bool
) -> dict[Node, Tensor]:
    """The gradients at `targets`. With None: at all leaves, added to their owners' `.grad`."""
    wanted = set() if targets is None else set(targets)
    oldest = min((n.number for n in wanted), default=-1)  # nothing older can lead to a target
    nodes, stack = {root}, [root]
    while stack:
        for parent in stack.pop().parents:
            if parent is not None and parent.number >= oldest and parent not in nodes:
                nodes.add(parent)
                stack.append(parent)
    order = sorted(nodes, key=lambda n: n.number)
    useful = nodes if targets is None else set[Node]()
    if targets is not None:
        for node in order:
            if node in wanted or any(p in useful for p in node.parents):
                useful.add(node)
    gradients = {root: gy}
    with _switched("recording", create_graph):
        for node in reversed(order):
            if node not in useful or node not in gradients:
                continue
            g = gradients[node] if node in wanted else gradients.pop(node)
            if targets is None and node.owner is not None:
                _accumulate(node.owner(), g)
            if isinstance(node, Function) and any([p in useful for p in node.parents]):
                _propagate(node, g, useful, gradients)
                if not retain_graph:
                    node.release()
    return gradients


def _propagate(node: Function, g: Tensor, useful: set[Node], gradients: dict[Node, Tensor]) -> None:
    """Runs one node's backward and hands the results to its parents."""
    node.needs = tuple([p in useful for p in node.parents])
    outer, _mode.origin = _mode.origin, node.origin  # a NaN of the ops inside is this node's; so is their line
    try:
        results = node.backward(g)
    finally:
        _mode.origin = outer
    if not isinstance(results, tuple):
        results = (results,)
    if len(results) != len(node.parents):
        raise RuntimeError(f"{node.name}: backward returned {len(results)} gradients for {len(node.parents)} inputs")
    for parent, needed, gx in zip(node.parents, node.needs, results, strict=True):
        if parent is None or not needed or gx is None:
            continue
        if gx.shape != parent.shape:
            raise RuntimeError(f"{node.name}: backward returned shape {gx.shape} for an input of shape {parent.shape}")
        if _mode.anomaly:
            _mode.anomaly(gx.array, node.name, "backward", node.origin)
        gradients[parent] = gradients[parent] + gx if parent in gradients else gx


def _accumulate(tensor: Tensor | None, g: Tensor) -> None:
    """`tensor.grad += g`, in an array of its own: the same g may be the gradient of another leaf too."""
    if tensor is not None:
        old, gx = tensor.grad, g.array
        tensor.grad = kernels.left(tensor, kernels.copy(gx) if old is None else kernels.as_array(kernels.add(old, gx)))


# ---- fused ops ----------------------------------------------------------------------------------------------------


class Identity(Function):
    """Another name for a tensor: the same memory, a node of its own."""

    shares_memory = True

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, g: Tensor) -> Tensor:
        return g


def rederive(
    definition: Callable[..., Tensor], inputs: Sequence[Tensor], g: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of a fused op as a graph, from its definition in primitive ops.

    A fused op's own backward kernel is for the ordinary case. Where the gradient itself is going to be differentiated,
    it is computed as the gradient of the definition, on identity aliases of the inputs: without them, an input that
    also produced another input would collect that path's gradient here, and once more further down.
    """
    aliases = [Identity()(x) if need else x for x, need in zip(inputs, needs, strict=True)]
    wanted = [alias for alias, need in zip(aliases, needs, strict=True) if need]
    found = iter(grad(definition(*aliases), wanted, g, create_graph=True, allow_unused=True))
    return tuple(next(found) if need else None for need in needs)
