"""Arithmetic, element by element, with NumPy's broadcasting.

Every gradient below is an expression in the same ops, so that it can be differentiated again.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import kernels
from ..autograd import Function
from ..dtypes import FLOATS
from ..mixing import as_tensors, refuse_mixed_devices
from ..tensor import Array, Tensor, values_of
from .shape import sum_to

Number = float | int


def cannot_broadcast(name: str, *shapes: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast: from the last one backwards, "
        "dimensions must be equal or 1"
    )


class Binary(Function):
    """An op on two arrays that broadcast against each other. `kernel` computes it."""

    kernel: kernels.Kernel

    def forward(self, a: Array, b: Array) -> Array:
        self.shapes = a.shape, b.shape
        try:
            return self.kernel(a, b)
        except ValueError:
            raise cannot_broadcast(self.name, a.shape, b.shape) from None


class Add(Binary):
    kernel = kernels.add

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        ga = sum_to(g, self.shapes[0]) if self.needs[0] else None
        gb = sum_to(g, self.shapes[1]) if self.needs[1] else None
        return ga, gb


class Subtract(Binary):
    kernel = kernels.subtract

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        ga = sum_to(g, self.shapes[0]) if self.needs[0] else None
        gb = sum_to(-g, self.shapes[1]) if self.needs[1] else None
        return ga, gb


class Multiply(Binary):
    kernel = kernels.multiply
    saves_inputs = True

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.inputs
        ga = sum_to(g * b, a.shape) if self.needs[0] else None
        gb = sum_to(g * a, b.shape) if self.needs[1] else None
        return ga, gb


class Divide(Binary):
    kernel = kernels.divide
    saves_inputs = True

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.inputs
        ga = sum_to(g / b, a.shape) if self.needs[0] else None
        gb = sum_to(-g * a / (b * b), b.shape) if self.needs[1] else None
        return ga, gb


class Maximum(Binary):
    """The larger one gets the gradient; at ties each gets half."""

    kernel = kernels.maximum
    saves_inputs = True

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.inputs
        return self.shared(g, kernels.greater_share(a.array, b.array), kernels.greater_share(b.array, a.array))

    def shared(self, g: Tensor, share_a: Array, share_b: Array) -> tuple[Tensor | None, ...]:
        """The shares are masks, constant wherever the op has a derivative."""
        ga = sum_to(g * Tensor.of(share_a), self.shapes[0]) if self.needs[0] else None
        gb = sum_to(g * Tensor.of(share_b), self.shapes[1]) if self.needs[1] else None
        return ga, gb


class Minimum(Maximum):
    """The smaller one gets the gradient; at ties each gets half."""

    kernel = kernels.minimum

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b = self.inputs
        return self.shared(g, kernels.greater_share(b.array, a.array), kernels.greater_share(a.array, b.array))


class Negative(Function):
    def forward(self, x: Array) -> Array:
        return kernels.negative(x)

    def backward(self, g: Tensor) -> Tensor:
        return -g


class Power(Function):
    """x ** exponent, for a Python number."""

    saves_inputs = True

    def __init__(self, exponent: Number) -> None:
        self.exponent = exponent

    def forward(self, x: Array) -> Array:
        return kernels.power(x, self.exponent)

    def backward(self, g: Tensor) -> Tensor | None:
        if self.exponent == 0:
            return None  # x ** 0 is the constant 1, also at x = 0
        (x,) = self.inputs
        return g * (x ** (self.exponent - 1) * self.exponent)


class Exp(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.exp(x)

    def backward(self, g: Tensor) -> Tensor:
        return g * self.output


class Log(Function):
    saves_inputs = True

    def forward(self, x: Array) -> Array:
        return kernels.log(x)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.inputs
        return g / x


class Sqrt(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.sqrt(x)

    def backward(self, g: Tensor) -> Tensor:
        return g * 0.5 / self.output


class Abs(Function):
    saves_inputs = True

    def forward(self, x: Array) -> Array:
        return kernels.absolute(x)

    def backward(self, g: Tensor) -> Tensor:
        return g * Tensor.of(kernels.sign(self.inputs[0].array))  # the sign is constant wherever it has a derivative


class Clip(Function):
    saves_inputs = True

    def __init__(self, low: Number | None, high: Number | None) -> None:
        self.low, self.high = low, high

    def forward(self, x: Array) -> Array:
        return kernels.clip(x, self.low, self.high)

    def backward(self, g: Tensor) -> Tensor:
        return g * Tensor.of(kernels.inside(self.inputs[0].array, self.low, self.high))


class Where(Function):
    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, a: Array, b: Array) -> Array:
        self.shapes = a.shape, b.shape
        try:
            return kernels.where(self.condition, a, b)
        except ValueError:
            raise cannot_broadcast(self.name, self.condition.shape, a.shape, b.shape) from None

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        ga = sum_to(where(self.condition, g, 0.0), self.shapes[0]) if self.needs[0] else None
        gb = sum_to(where(self.condition, 0.0, g), self.shapes[1]) if self.needs[1] else None
        return ga, gb


class Astype(Function):
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def forward(self, x: Array) -> Array:
        self.source = x.dtype
        return kernels.cast(x, self.dtype)

    def backward(self, g: Tensor) -> Tensor:
        return g.astype(self.source)


class To(Function):
    def __init__(self, device: str) -> None:
        self.device = device

    def forward(self, x: Array) -> Array:
        self.source = kernels.name_of(x)
        y: Array = kernels.live(kernels.move, x, self.device)
        return y

    def backward(self, g: Tensor) -> Tensor:
        return to(g, self.source)


def add(a: Any, b: Any) -> Tensor:
    """a + b."""
    return Add()(a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b."""
    return Subtract()(a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """a * b."""
    return Multiply()(a, b)


def divide(a: Any, b: Any) -> Tensor:
    """a / b."""
    return Divide()(a, b)


def negative(x: Any) -> Tensor:
    """-x."""
    return Negative()(x)


def power(x: Any, exponent: Any) -> Tensor:
    """x ** exponent. For an exponent that is a tensor, x must be positive: exp(exponent * log(x))."""
    if isinstance(exponent, np.number):
        exponent = exponent.item()
    if isinstance(exponent, (int, float)):
        (x,) = as_tensors("power", [x])
        if x.dtype not in FLOATS and not (exponent >= 0 and float(exponent).is_integer()):
            raise TypeError(f"power: {x.dtype} to the power {exponent} is no {x.dtype}; convert with .astype(...)")
        return Power(exponent)(x)
    base, e = as_tensors("power", [x, exponent])
    return exp(multiply(log(base), e))


def exp(x: Any) -> Tensor:
    """e ** x."""
    return Exp()(x)


def log(x: Any) -> Tensor:
    """The natural logarithm."""
    return Log()(x)


def sqrt(x: Any) -> Tensor:
    """The square root. Its derivative at 0 is infinite: in a norm, add an epsilon inside."""
    return Sqrt()(x)


def abs(x: Any) -> Tensor:
    """|x|, with derivative 0 at 0."""
    return Abs()(x)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b, element by element; at ties each gets half of the gradient."""
    return Maximum()(a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b, element by element; at ties each gets half of the gradient."""
    return Minimum()(a, b)


def clip(x: Any, low: Number | None = None, high: Number | None = None) -> Tensor:
    """x limited to [low, high]. The gradient passes inside and at the edges."""
    if low is not None and high is not None and low > high:
        raise ValueError(f"clip: low {low} is above high {high}")
    return Clip(low, high)(x)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition (bool) holds, else b."""
    mask = kernels.own(values_of(condition))  # a copy, that nobody else can change before backward
    if mask.dtype != np.bool_:
        raise TypeError(f"where: the condition must be bool, not {mask.dtype}; compare it with something, as in x > 0")
    if kernels.DEVICES:
        refuse_mixed_devices("where", [mask, *as_tensors("where", [a, b])])
    return Where(mask)(a, b)


def to(x: Tensor, device: str) -> Tensor:
    """x copied to "cpu", "cuda" or "emulator"; itself if it is there. The gradient comes back.

    ValueError for any other name, ImportError or RuntimeError where the device cannot be used.
    """
    device = kernels.checked(device)
    return x if x.device == device else To(device)(x)


COMPARISONS = {
    operator.lt: kernels.less,
    operator.le: kernels.less_equal,
    operator.gt: kernels.greater,
    operator.ge: kernels.greater_equal,
    operator.eq: kernels.equal,
    operator.ne: kernels.not_equal,
}


def compare(by: Callable[[Any, Any], Any], a: Tensor, b: Any) -> Tensor:
    """by(a, b), one of Python's operators, a tensor of bool; b may be a tensor, an array or a number."""
    x, y = a.array, values_of(b)
    if kernels.DEVICES:
        refuse_mixed_devices(by.__name__, [array for array in (x, y) if hasattr(array, "ndim")])
    try:
        return Tensor.of(kernels.as_array(COMPARISONS[by](x, y)))
    except TypeError:  # b is no number: == answers all the same
        return Tensor.of(kernels.as_array(by(x, y)))


def astype(x: Tensor, dtype: DTypeLike) -> Tensor:
    """x in another dtype; between float32 and float64 the gradient is converted back."""
    if x.dtype == dtype:
        return x
    if np.dtype(dtype) in FLOATS:
        return Astype(np.dtype(dtype))(x)
    return Tensor(x.array, dtype=dtype)  # integers and bool have no gradient
