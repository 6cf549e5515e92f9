"""Tensor: an array, and what automatic differentiation has to remember about it.

A tensor points to the node of the graph that computed it (autograd.py); the node points to the nodes of its inputs,
never back to the tensor, so graphs are freed by reference counting as soon as nobody holds their results. Every
operator below is a call of an op in ops/. Next file to read: autograd.py.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import kernels
from .dtypes import FLOATS, check_dtype

Array = NDArray[Any]
Axis = int | tuple[int, ...] | None


class Tensor:
    """An n-dimensional array that can be differentiated.

    Python numbers and lists become float32; arrays keep their dtype (float32, float64, an integer type or bool) and
    their device, and are copied, so that nobody else can write into them. Raises TypeError for any other dtype, and
    for `requires_grad` on integers.

    array: the engine's own array. Read it freely; write only through `writing()`, which keeps the version true.
    grad: after `backward()`, the gradient as a plain array, on leaves and where `retain_grad()` asked for it.
    node: what the graph knows of this tensor; None if it does not require a gradient.
    """

    __slots__ = ("__weakref__", "_leaf", "_prepared", "_version", "array", "grad", "node")
    __array_ufunc__ = None  # array * tensor asks Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False, dtype: DTypeLike | None = None) -> None:
        data = values_of(data)
        if dtype is None and not kernels.is_array(data):
            data = np.asarray(data)
            if data.dtype.kind in "iuf":
                dtype = np.float32
        self.array: Array = kernels.own(data, dtype)
        check_dtype("Tensor", self.array.dtype)
        self.grad: Array | None = None
        self.node: Node | None = None
        self._leaf: Leaf | None = None  # kept while frozen: graphs made before know the tensor by it
        self._prepared: Any = None  # for ops/conv.py: what kernels made of the array
        self._version = [0]  # one counter for all tensors that share the memory
        if requires_grad:
            self.requires_grad = True

    @classmethod
    def of(cls, array: Array, node: Node | None = None, version: list[int] | None = None) -> Tensor:
        """A tensor around an array that already belongs to the engine, without a copy.

        `version` is the counter of the tensor whose memory it shares, if it shares any.
        """
        tensor = Tensor.__new__(Tensor)
        tensor.array, tensor.node, tensor._version = array, node, [0] if version is None else version
        tensor.grad = tensor._leaf = tensor._prepared = None
        return tensor

    # ---- what it is ------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def device(self) -> str:
        """Where the array lives: "cpu", "cuda" or "emulator"."""
        return kernels.name_of(self.array)

    @property
    def version(self) -> int:
        """How many times the memory was written to; compared when backward reads a saved tensor."""
        return self._version[0]

    @property
    def is_leaf(self) -> bool:
        """True unless an op computed it from tensors that require a gradient."""
        return not isinstance(self.node, Function)

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            raise RuntimeError(
                f"requires_grad can be set on leaves only; this one comes from {self.node}: use detach()"
            )
        if value and self.dtype not in FLOATS:
            raise TypeError(f"requires_grad: only float32 and float64 can be differentiated, not {self.dtype}")
        if value and self._leaf is None:
            self._leaf = Leaf(self)
        self.node = self._leaf if value else None

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("a tensor of a single number cannot be iterated over; use item()")
        return (self[i] for i in range(len(self)))

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else str(self), spec)

    def __bool__(self) -> bool:
        return bool(kernels.read(self.array))

    def __repr__(self) -> str:
        values = np.array2string(kernels.to_host(self.array), None, 4, separator=", ", prefix="Tensor(", threshold=100)
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        dtype += "" if self.device == "cpu" else f", device={self.device!r}"
        graph = "" if self.node is None else ", requires_grad=True" if self.is_leaf else f", from {self.node}"
        return f"Tensor({values}{dtype}{graph})"

    # ---- leaving the engine: always read-only -----------------------------------------------------------------

    def numpy(self) -> Array:
        """A read-only view of the values. To write, use `with t.writing() as array:`. TypeError off the CPU."""
        return kernels.read_only(kernels.read(self.array))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        """DLPack capsule, on the CPU marked read-only. NumPy obeys the mark, PyTorch does not: there, copy first."""
        return (self.numpy() if self.device == "cpu" else self.array).__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[Any, Any]:
        return self.array.__dlpack_device__()

    def item(self) -> Any:
        """The only element, as a Python number. ValueError if there are several."""
        if self.size != 1:
            raise ValueError(f"item: a tensor of shape {self.shape} holds {self.size} numbers, not one")
        return kernels.read(self.array).item()

    def __float__(self) -> float:
        return float(self.item())

    def detach(self) -> Tensor:
        """The same memory, cut off from the graph. A constant to every derivative."""
        return Tensor.of(self.array, version=self._version)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(f"deepcopy: a tensor computed by {self.node} cannot be copied with its graph")
        other = type(self).__new__(type(self))
        other.array, other._version = self.array.copy(), [0]
        other.node = other._leaf = other._prepared = None
        other.grad = None if self.grad is None else self.grad.copy()
        other.requires_grad = self.requires_grad
        return other

    def __copy__(self) -> Tensor:
        return self.__deepcopy__({})

    def __reduce__(self) -> Any:
        raise TypeError("a tensor cannot be pickled; save arrays: state_dict() of a module, or numpy() of a tensor")

    # ---- writing in place ---------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Array]:
        """`with t.writing() as array:` hands out the writable array and counts one version, when the block ends.

        RuntimeError on a tensor that an op computed: its graph would no longer describe its values.
        """
        if not self.is_leaf:
            raise RuntimeError(
                f"writing: this tensor was computed by {self.node}, and its graph would no longer describe it; "
                "write to a leaf, or build the result with where() or concatenate()"
            )
        if not getattr(self.array.flags, "writeable", True):
            raise ValueError("writing: the memory behind this tensor is read-only; write to a copy, Tensor(t)")
        slot, self._prepared = self._prepared, False  # nothing is prepared from values that come and go
        try:
            yield self.array
        finally:
            self._prepared = slot
            kernels.written(self.array, self._count)

    def _count(self) -> None:  # again in each replay of a captured step
        self._version[0], self._prepared = self.version + 1, self._prepared and self._prepared.at(self.version + 1)

    def replace(self, array: Array) -> None:
        """Other memory of the same shape, as a write; the gradient is dropped."""
        self.array, self.grad, self._prepared, self._version = array, None, None, [self.version + 1]
        kernels.changed_layout()

    def __setitem__(self, index: Any, value: Any) -> None:
        if autograd.is_recording() and (self.requires_grad or getattr(value, "requires_grad", False)):
            raise RuntimeError(
                "item assignment cannot be differentiated; build the result with where() or concatenate(), "
                "or assign inside no_grad()"
            )
        with self.writing() as array:
            ops.assign(array, index, value)

    # ---- differentiation (autograd.py) ------------------------------------------------------------------------------

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Fills `.grad` of every leaf that led here; see `minigan.backward`."""
        autograd.backward(self, gradient, retain_graph)

    def retain_grad(self) -> None:
        """Ask `backward()` to fill this tensor's `.grad` although it is no leaf."""
        if self.node is None:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        self.node.own(self)

    # ---- operators: each is an op of ops/ ---------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return ops.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return ops.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.divide(other, self)

    def __pow__(self, exponent: Any) -> Tensor:
        return ops.power(self, exponent)

    def __rpow__(self, base: Any) -> Tensor:
        return ops.power(base, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return ops.negative(self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    # Comparisons give tensors of bool, which have no gradient. `==` compares elements too, as in NumPy and PyTorch.
    def __lt__(self, other: Any) -> Tensor:
        return ops.compare(operator.lt, self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.compare(operator.le, self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.compare(operator.gt, self, other)

    def __ge__(self, other: Any) -> Tensor:
        return ops.compare(operator.ge, self, other)

    def __eq__(self, other: Any) -> Any:
        return ops.compare(operator.eq, self, other)

    def __ne__(self, other: Any) -> Any:
        return ops.compare(operator.ne, self, other)

    __hash__ = object.__hash__

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.mean(self, axis, keepdims)

    def var(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.var(self, axis, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.max(self, axis, keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: int) -> Tensor:
        return ops.transpose(self, axes or None)

    def flatten(self, start: int = 0) -> Tensor:
        """The axes from `start` on as one."""
        return ops.reshape(self, (*self.shape[:start], prod(self.shape[start:])))

    def astype(self, dtype: DTypeLike) -> Tensor:
        return ops.astype(self, dtype)

    def to(self, device: str) -> Tensor:
        return ops.to(self, device)


def values_of(x: Any) -> Any:
    """The array of a tensor; anything else as it is."""
    return x.array if isinstance(x, Tensor) else x


# Last, because these modules need Tensor to exist while they are imported.
from . import autograd, ops  # noqa: E402
from .autograd import Function, Leaf, Node  # noqa: E402
