"""Matrix products."""

from typing import Any

from .. import kernels
from ..autograd import Function
from ..mixing import as_tensors
from ..tensor import Array, Tensor
from .shape import reshape, sum_to, transpose


def swap_last(x: Tensor) -> Tensor:
    """The transpose of each matrix of a batch."""
    return transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


class Matmul(Function):
    """a (..., I, K) @ b (..., K, J): batches broadcast."""

    saves_inputs = True

    def forward(self, a: Array, b: Array) -> Array:
        try:
            return kernels.matmul(a, b)
        except ValueError:
            raise ValueError(f"matmul: {a.shape} @ {b.shape}: the batches do not broadcast") from None

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.inputs
        ga = sum_to(g @ swap_last(b), a.shape) if self.needs[0] else None
        gb = sum_to(swap_last(a) @ g, b.shape) if self.needs[1] else None
        return ga, gb


def matmul(a: Any, b: Any) -> Tensor:
    """a @ b as in NumPy: matrices, batches of matrices that broadcast, and vectors on either side."""
    ta, tb = as_tensors("matmul", [a, b])
    row, column = ta.ndim == 1, tb.ndim == 1
    left = reshape(ta, (1, -1)) if row else ta
    right = reshape(tb, (-1, 1)) if column else tb
    if left.ndim < 2 or right.ndim < 2 or left.shape[-1] != right.shape[-2]:
        raise ValueError(f"matmul: {ta.shape} @ {tb.shape}: the inner dimensions do not match")
    y = Matmul()(left, right)
    if row:
        y = y[..., 0, :]
    return y[..., 0] if column else y


def linear(x: Any, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x (..., C) @ w (C, O) + b (O,) -> (..., O)."""
    (tensor,) = as_tensors("linear", [x])
    if tensor.ndim == 0 or w.ndim != 2 or tensor.shape[-1] != w.shape[0]:
        found = tensor.shape[-1] if tensor.ndim else "no"
        raise ValueError(f"linear: x has {found} channels {tensor.shape} but w expects {w.shape[0]} {w.shape}")
    if b is not None and b.shape != w.shape[1:]:
        raise ValueError(f"linear: bias has shape {b.shape} but the output has {w.shape[1]} channels")
    y = matmul(tensor, w)
    return y if b is None else y + b
