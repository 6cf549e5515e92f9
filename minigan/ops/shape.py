"""Ops that move elements: views where NumPy has views, copies elsewhere. Each one's gradient is its adjoint."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..autograd import Function
from ..mixing import as_tensors, refuse_mixed_devices
from ..tensor import Array, Tensor, values_of

Shape = int | Sequence[int]


class Reshape(Function):
    shares_memory = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        try:
            y: Array = kernels.reshape(x, self.target)
        except ValueError:
            raise ValueError(f"reshape: {x.shape} holds {x.size} elements, which do not fill {self.target}") from None
        return y

    def backward(self, g: Tensor) -> Tensor:
        return reshape(g, self.source)


class Transpose(Function):
    shares_memory = True

    def __init__(self, axes: tuple[int, ...] | None) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        axes = range(x.ndim)[::-1] if self.axes is None else self.axes
        if any(not -x.ndim <= a < x.ndim for a in axes) or sorted(a % x.ndim for a in axes) != list(range(x.ndim)):
            raise ValueError(f"transpose: axes {tuple(axes)} are no order of the {x.ndim} axes of shape {x.shape}")
        self.inverse = tuple(np.argsort([axis % x.ndim for axis in axes]).tolist())
        return x.transpose(tuple(axes))

    def backward(self, g: Tensor) -> Tensor:
        return transpose(g, self.inverse)


class BroadcastTo(Function):
    shares_memory = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        try:
            return np.broadcast_to(x, self.target)
        except ValueError:
            raise ValueError(f"broadcast_to: shape {x.shape} does not broadcast to {self.target}") from None

    def backward(self, g: Tensor) -> Tensor:
        return sum_to(g, self.source)


class SumTo(Function):
    """The adjoint of broadcasting: sums over the axes that broadcasting stretched or added."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.target = shape

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        added = x.ndim - len(self.target)
        axes = tuple(i for i in range(x.ndim) if i < added or self.target[i - added] != x.shape[i])
        return kernels.as_array(kernels.sum(x, axes)).reshape(self.target)

    def backward(self, g: Tensor) -> Tensor:
        return broadcast_to(g, self.source)


class Getitem(Function):
    shares_memory = True

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        try:
            return kernels.take(x, self.index)
        except IndexError as error:
            raise IndexError(f"getitem: {error}; the tensor has shape {x.shape}") from None

    def backward(self, g: Tensor) -> Tensor:
        return scatter_add(g, self.index, self.source)


class ScatterAdd(Function):
    def __init__(self, index: Any, shape: tuple[int, ...]) -> None:
        self.index, self.target = index, shape

    def forward(self, g: Array) -> Array:
        return kernels.scatter_add(g, self.index, self.target)

    def backward(self, g: Tensor) -> Tensor:
        return getitem(g, self.index)


class Concatenate(Function):
    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *arrays: Array) -> Array:
        shapes = [a.shape for a in arrays]
        try:
            y: Array = kernels.concatenate(arrays, self.axis)
        except (ValueError, TypeError):  # includes NumPy's AxisError; CuPy raises others than NumPy
            raise ValueError(
                f"concatenate: shapes {', '.join(map(str, shapes))} must be equal but for axis {self.axis}"
            ) from None
        ends = np.cumsum([shape[self.axis] for shape in shapes]).tolist()
        before = (slice(None),) * (self.axis % arrays[0].ndim)
        self.parts = [(*before, slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]
        return y

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        return tuple(getitem(g, part) if need else None for part, need in zip(self.parts, self.needs, strict=True))


class Pad(Function):
    def __init__(self, widths: tuple[tuple[int, int], ...], value: float) -> None:
        self.widths, self.value = widths, value

    def forward(self, x: Array) -> Array:
        self.interior = tuple(slice(before, before + n) for (before, _), n in zip(self.widths, x.shape, strict=True))
        return kernels.pad(x, self.widths, self.value)

    def backward(self, g: Tensor) -> Tensor:
        return getitem(g, self.interior)


def _as_shape(shape: Shape) -> tuple[int, ...]:
    return tuple(map(operator.index, shape)) if isinstance(shape, Sequence) else (operator.index(shape),)


def reshape(x: Any, shape: Shape) -> Tensor:
    """x in another shape; one dimension may be -1."""
    return Reshape(_as_shape(shape))(x)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """x with its axes in the given order; without one, reversed."""
    return Transpose(None if axes is None else tuple(axes))(x)


def broadcast_to(x: Any, shape: Shape) -> Tensor:
    """x repeated along axes of length 1, and along new axes in front, to fill `shape`."""
    return BroadcastTo(_as_shape(shape))(x)


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The adjoint of `broadcast_to(_, x.shape)` for something of `shape`."""
    return x if x.shape == shape else SumTo(shape)(x)


def normal_axis(name: str, axis: Any, ndim: int) -> int:
    """The axis counted from 0; ValueError if there is none of that number."""
    if not -ndim <= operator.index(axis) < ndim:
        raise ValueError(f"{name}: there is no axis {axis} among {ndim}")
    return int(axis) % ndim


def as_index(index: Any, device: str = "cpu") -> Any:
    """An index that nobody else can change: the lists, arrays and tensors in it as arrays of its own.

    It may be on the CPU or beside the tensor that it is for, on `device`; ValueError for another one.
    """
    if isinstance(index, tuple):
        return tuple(as_index(i, device) for i in index)
    index = values_of(index)
    if kernels.name_of(index) not in ("cpu", device):
        raise ValueError(f"an index on {kernels.name_of(index)} is of no use on {device}; move it with .to({device!r})")
    return kernels.own(index) if isinstance(index, list) or hasattr(index, "ndim") else index


def _fixed_index(index: Any, device: str) -> Any:
    """`as_index`; while a step is recorded, of a mask the places: that a replay has others, or fewer, is noticed."""
    index = as_index(index, device)
    if not kernels.listening():
        return index
    parts: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        is_mask = getattr(part, "ndim", 0) > 0 and part.dtype == np.bool_
        parts += kernels.live(kernels.places, part) if is_mask else [part]
    return tuple(parts) if isinstance(index, tuple) or len(parts) > 1 else parts[0]


def getitem(x: Any, index: Any) -> Tensor:
    """x[index], with anything that NumPy takes between brackets."""
    return Getitem(_fixed_index(index, kernels.name_of(values_of(x))))(x)


def scatter_add(g: Any, index: Any, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with g added at `index`: the adjoint of `getitem`. Repeated indices add up."""
    return ScatterAdd(_fixed_index(index, kernels.name_of(values_of(g))), tuple(shape))(g)


def assign(array: Array, index: Any, value: Any) -> None:
    """array[index] = value: a number, a list, or a tensor or an array on the same device."""
    device, value = kernels.name_of(array), values_of(value)
    if isinstance(value, (list, tuple)):
        value = kernels.move(np.asarray(value, array.dtype), device)
    refuse_mixed_devices("item assignment", [x for x in (array, value) if hasattr(x, "ndim")])
    kernels.live(_write, array, as_index(index, device), value)


def _write(array: Array, index: Any, value: Any) -> None:
    if type(array) in kernels.DEVICES:
        kernels.take(array, index)  # raises for an index that is outside, at which a device does not look
    array[index] = kernels.operand(value)


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """The tensors one behind the other along an axis that they have."""
    if len(tensors) == 0:
        raise ValueError("concatenate: there is nothing to concatenate: the sequence is empty")
    return Concatenate(axis)(*tensors)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """The tensors one behind the other along a new axis."""
    parts = as_tensors("stack", tensors)
    shapes = {t.shape for t in parts}
    if len(shapes) != 1:
        raise ValueError(f"stack: shapes must be equal, but are {', '.join(str(t.shape) for t in parts) or 'none'}")
    axis = normal_axis("stack", axis, parts[0].ndim + 1)
    return concatenate([reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])) for t in parts], axis)


def pad(x: Any, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """x with (before, after) elements of `value` around it, one pair for each axis."""
    (tensor,) = as_tensors("pad", [x])
    shaped = len(widths) == tensor.ndim and all(isinstance(two, Sequence) and len(two) == 2 for two in widths)
    if not shaped or any(width < 0 for two in widths for width in two):
        raise ValueError(f"pad: {list(widths)} must be {tensor.ndim} pairs of numbers >= 0 for shape {tensor.shape}")
    return Pad(tuple((before, after) for before, after in widths), value)(tensor)


def flip(x: Any, axis: int | tuple[int, ...]) -> Tensor:
    """x backwards along the axes."""
    (tensor,) = as_tensors("flip", [x])
    axes = {normal_axis("flip", a, tensor.ndim) for a in ((axis,) if isinstance(axis, int) else axis)}
    return getitem(tensor, tuple(slice(None, None, -1 if i in axes else 1) for i in range(tensor.ndim)))


def embedding(indices: Any, weight: Tensor) -> Tensor:
    """The rows of weight (V, D) at integer indices (...): (..., D)."""
    device = kernels.name_of(values_of(weight))
    return getitem(weight, kernels.early(_rows, values_of(indices), len(weight), device=device))


def _rows(indices: Any, count: int) -> Array:
    rows = np.array(kernels.to_host(indices))
    if rows.dtype.kind not in "iu":
        raise TypeError(f"embedding: indices must be integers, not {rows.dtype}")
    if rows.size and (rows.min() < 0 or rows.max() >= count):
        raise IndexError(f"embedding: indices go from {rows.min()} to {rows.max()}, but weight has {count} rows")
    return rows
