"""The non-linearities of neural networks.

tanh, sigmoid and elu have a fused backward kernel for the ordinary case; where the gradient is being recorded, it is
written in primitive ops instead. relu and leaky_relu are piecewise linear: their derivative is a mask, constant almost
everywhere, so one op serves as the gradient of itself.
"""

from typing import Any

from .. import kernels
from ..autograd import Function, is_recording
from ..mixing import as_tensors
from ..tensor import Array, Tensor
from .elementwise import exp, where
from .shape import sum_to


class LeakyRelu(Function):
    """Its derivative goes by the sign of y, which is x's unless slope < 0; so x need not be kept."""

    def __init__(self, slope: float) -> None:
        self.slope = slope
        self.saves_output, self.saves_inputs = slope >= 0, not slope >= 0

    def forward(self, x: Array) -> Array:
        return kernels.leaky_relu(x, self.slope)

    def backward(self, g: Tensor) -> Tensor:
        sign = self.inputs[0] if self.saves_inputs else self.output
        return LeakyReluBackward(self.slope)(g, sign.detach())


class Relu(LeakyRelu):
    """The leaky one of slope 0."""


class LeakyReluBackward(Function):
    """g where x > 0, else slope * g: linear in g, so its own gradient is itself."""

    saves_inputs = True

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, g: Array, x: Array) -> Array:
        return kernels.leaky_relu_backward(g, x, self.slope)

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        _, x = self.inputs
        return LeakyReluBackward(self.slope)(g, x), None


class BiasAct(Function):
    """leaky_relu(x + b, slope) in one pass, slope >= 0."""

    saves_output = True

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, x: Array, b: Array) -> Array:
        return kernels.bias_act(x, b, self.slope)

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        return bias_act_gradients(g, self.output.detach(), self.slope, self.needs[1])


def bias_act_gradients(g: Tensor, y: Tensor, slope: float, of_bias: bool) -> tuple[Tensor, Tensor | None]:
    """Those with respect to x and b of y = leaky_relu(x + b, slope), which is a constant here; b's if it is wanted."""
    if is_recording() or not of_bias:
        gx = LeakyReluBackward(slope)(g, y)
        return gx, sum_to(gx, y.shape[-1:]) if of_bias else None
    gx, gb = map(Tensor.of, kernels.bias_act_backward(g.array, y.array, slope))
    return gx, gb


class Elu(Function):
    saves_inputs = True

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def forward(self, x: Array) -> Array:
        return kernels.elu(x, self.alpha)

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.inputs
        if is_recording():
            below = kernels.less_equal(x.array, 0)
            return g * where(below, exp(where(below, x, 0.0)) * self.alpha, 1.0)  # exp only where it is used
        return Tensor.of(kernels.elu_backward(g.array, x.array, self.alpha))


class Tanh(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.tanh(x)

    def backward(self, g: Tensor) -> Tensor:
        y = self.output
        return g * (1.0 - y * y) if is_recording() else Tensor.of(kernels.tanh_backward(g.array, y.array))


class Sigmoid(Function):
    saves_output = True

    def forward(self, x: Array) -> Array:
        return kernels.sigmoid(x)

    def backward(self, g: Tensor) -> Tensor:
        y = self.output
        return g * (y * (1.0 - y)) if is_recording() else Tensor.of(kernels.sigmoid_backward(g.array, y.array))


class Softplus(Function):
    saves_inputs = True

    def forward(self, x: Array) -> Array:
        return kernels.softplus(x)

    def backward(self, g: Tensor) -> Tensor:
        return g * sigmoid(self.inputs[0])


def relu(x: Any) -> Tensor:
    """max(x, 0); derivative 0 at 0."""
    return Relu(0.0)(x)


def leaky_relu(x: Any, slope: float = 0.01) -> Tensor:
    """x where x > 0, else slope * x; derivative `slope` at 0 (Maas et al. 2013)."""
    return LeakyRelu(slope)(x)


def bias_act(x: Any, b: Any, slope: float = 1.0) -> Tensor:
    """x (..., C), b (C,) -> leaky_relu(x + b, slope) (..., C), slope >= 0. Slope 0 is a ReLU, 1 nothing but a bias."""
    x, b = as_tensors("bias_act", [x, b])
    if x.ndim < 1 or b.shape != x.shape[-1:] or not slope >= 0:
        raise ValueError(f"bias_act: x (..., C), b (C,) and slope >= 0 are {x.shape}, {b.shape} and {slope}")
    return x + b if slope == 1 else BiasAct(slope)(x, b)


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2016)."""
    return Elu(alpha)(x)


def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent."""
    return Tanh()(x)


def sigmoid(x: Any) -> Tensor:
    """1 / (1 + exp(-x)). In a loss use `softplus` of the logit: the logarithm of a sigmoid loses its gradient."""
    return Sigmoid()(x)


def softplus(x: Any) -> Tensor:
    """log(1 + exp(x)), without overflow: -log(sigmoid(-x))."""
    return Softplus()(x)
