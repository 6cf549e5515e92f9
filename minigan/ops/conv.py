"""The convolution trio: three ops, each the gradient of the other two.

All are derivatives of T(x, w, y) (kernels/conv2d), which is linear in each argument, so the set is closed: whatever the
order of the derivative, these three kernels compute it. One `Geometry` goes through all of them.

On a device a convolution does more before it stores its result: it adds a bias and takes a leaky ReLU of that, or it
computes the statistics that a batch norm behind it wants. Derivatives are the trio's all the same.
"""

from collections.abc import Sequence
from operator import index
from typing import Any

from .. import kernels
from ..autograd import Function
from ..kernels import Geometry
from ..mixing import as_tensors
from ..tensor import Array, Tensor
from .activation import bias_act, bias_act_gradients, leaky_relu
from .norm import Statistics
from .shape import sum_to

Pair = int | tuple[int, int]

NOTHING = Tensor(0)
"""In place of an argument that nobody will ask for."""


class Trilinear(Function):
    """An argument is kept only for the gradient by the other: of a frozen layer, the images need not be.

    A third one, a bias, is not kept at all.
    """

    saves_inputs = True

    def __init__(self, geometry: Geometry, prepared: kernels.Prepared | None = None) -> None:
        self.geometry, self.prepared = geometry, prepared

    def __call__(self, *inputs: Any) -> Tensor:
        result = super().__call__(*inputs)
        if self._inputs:
            saved, others = self._inputs[:2], self.parents[1::-1]
            self._inputs = tuple([x if other else (NOTHING, 0) for x, other in zip(saved, others, strict=True)])
        return result


class Conv2d(Trilinear):
    """dT/dy: x (N, H, W, C), w (KH, KW, C, O) -> y (N, OH, OW, O)."""

    def forward(self, x: Array, w: Array) -> Array:
        return kernels.conv2d(x, w, self.geometry, prepared=self.prepared)

    def backward(self, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = self.inputs
        gw = Conv2dWeight(self.geometry)(x, gy) if self.needs[1] else None  # first: so it needs no memory beside gx
        gx = ConvTranspose2d(self.geometry, _slot(w))(gy, w) if self.needs[0] else None
        return gx, gw


class ConvTranspose2d(Trilinear):
    """dT/dx: y (N, OH, OW, O), w (KH, KW, C, O) -> x (N, H, W, C)."""

    def forward(self, y: Array, w: Array) -> Array:
        return kernels.conv_transpose2d(y, w, self.geometry, prepared=self.prepared)

    def backward(self, gx: Tensor) -> tuple[Tensor | None, ...]:
        y, w = self.inputs
        gw = Conv2dWeight(self.geometry)(gx, y) if self.needs[1] else None
        gy = Conv2d(self.geometry, _slot(w))(gx, w) if self.needs[0] else None
        return gy, gw


class Conv2dWeight(Trilinear):
    """dT/dw: x (N, H, W, C), y (N, OH, OW, O) -> w (KH, KW, C, O)."""

    def forward(self, x: Array, y: Array) -> Array:
        return kernels.conv2d_weight(x, y, self.geometry)

    def backward(self, gw: Tensor) -> tuple[Tensor | None, ...]:
        x, y = self.inputs
        gx = ConvTranspose2d(self.geometry)(y, gw) if self.needs[0] else None
        gy = Conv2d(self.geometry)(x, gw) if self.needs[1] else None
        return gx, gy


class WithBias(Trilinear):
    """In front of Conv2d or ConvTranspose2d: leaky_relu(what it gives + b, slope), slope >= 0. Its kernel is fused.

    The sign of the output says what the slope was.
    """

    def __init__(self, geometry: Geometry, prepared: kernels.Prepared | None, slope: float) -> None:
        super().__init__(geometry, prepared)
        self.slope, self.saves_output = slope, slope != 1

    def backward(self, g: Tensor) -> tuple[Tensor | None, ...]:
        if self.saves_output:
            g, gb = bias_act_gradients(g, self.output.detach(), self.slope, self.needs[2])
        else:
            gb = sum_to(g, g.shape[-1:]) if self.needs[2] else None
        return *super().backward(g), gb  # type: ignore[misc]  # a tuple, of the next class


class Conv2dBiasAct(WithBias, Conv2d):
    """x (N, H, W, C), w (KH, KW, C, O), b (O,) -> y (N, OH, OW, O)."""

    def forward(self, x: Array, w: Array, b: Array) -> Array:  # type: ignore[override]
        return kernels.conv2d_bias_act(x, w, b, self.slope, self.geometry, prepared=self.prepared)


class ConvTranspose2dBiasAct(WithBias, ConvTranspose2d):
    """y (N, OH, OW, O), w (KH, KW, C, O), b (C,) -> x (N, H, W, C)."""

    def forward(self, y: Array, w: Array, b: Array) -> Array:  # type: ignore[override]
        return kernels.conv_transpose2d_bias_act(y, w, b, self.slope, self.geometry, prepared=self.prepared)


class Conv2dStatistics(Conv2d):
    """Conv2d whose forward leaves `statistics`: mean (O,) and biased variance (O,) of what it gives."""

    def forward(self, x: Array, w: Array) -> Array:
        y, mean, var = kernels.conv2d_statistics(x, w, self.geometry, prepared=self.prepared)
        self.statistics = mean, var
        return y


class ConvTranspose2dStatistics(ConvTranspose2d):
    """The same, (C,)."""

    def forward(self, y: Array, w: Array) -> Array:
        x, mean, var = kernels.conv_transpose2d_statistics(y, w, self.geometry, prepared=self.prepared)
        self.statistics = mean, var
        return x


def _slot(w: Tensor) -> kernels.Prepared | None:
    """Room for what kernels make of w, once a version: beside a leaf that can be trained, which serves many calls.

    None while it is being written to, and where others could write to its memory, as each replay of a step does to
    what the step makes.
    """
    if w._leaf is None or w._prepared is False or not w.array.flags.owndata or kernels.made(w.array):
        return None
    if w._prepared is None:
        w._prepared = kernels.Prepared(w._version)
    slot: kernels.Prepared = w._prepared
    return slot


def pair(name: str, option: str, value: Pair, least: int) -> tuple[int, int]:
    """(vertical, horizontal), each at least `least`."""
    try:
        two = tuple(map(index, value)) if isinstance(value, Sequence) else (index(value),) * 2
    except TypeError:
        two = ()
    if len(two) != 2 or min(two) < least:
        raise ValueError(f"{name}: {option} must be one or two whole numbers >= {least}, not {value}")
    return two[0], two[1]


def _check_image(name: str, what: str, x: Tensor, channels: int, w: Tensor) -> None:
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"{name}: {what} must be (N, H, W, C) and w (KH, KW, C, O), but are {x.shape} and {w.shape}")
    if x.shape[3] != channels:
        have = f"{what} has {x.shape[3]} channels {x.shape}"
        raise ValueError(f"{name}: {have} but w expects {channels} {w.shape}; images are (N, H, W, C)")


def refuse(name: str, dilation: Pair, groups: int) -> None:
    """ValueError unless both are 1: PyTorch's arguments are known here, and said to be missing."""
    if dilation not in (1, (1, 1)) or groups != 1:
        raise ValueError(f"{name}: dilation={dilation}, groups={groups}: only dilation 1 and groups 1 are supported")


def _end(
    name: str,
    trilinear: type[Trilinear],
    fused: type[WithBias],
    arguments: tuple[Tensor, Tensor, Geometry],
    shape: tuple[int, ...],
    bias: Tensor | Array | None,
    slope: float,
) -> Tensor:
    """leaky_relu(result + bias, slope), for a result of this shape: in one kernel on a device, else in two."""
    first, w, geometry = arguments
    if not slope >= 0:
        raise ValueError(f"{name}: slope must be >= 0, not {slope}; leaky_relu takes others")
    if bias is None:
        y = trilinear(geometry, _slot(w))(first, w)
        return y if slope == 1 else leaky_relu(y, slope)
    if not hasattr(bias, "shape"):
        raise TypeError(f"{name}: bias must be a tensor ({shape[3]},), not {bias!r}; name stride= and padding=")
    if bias.shape != shape[3:]:
        raise ValueError(f"{name}: bias has shape {bias.shape} but the output has {shape[3]} channels {shape}")
    if first.device != "cpu":
        return fused(geometry, _slot(w), slope)(first, w, bias)
    y = trilinear(geometry, _slot(w))(first, w)
    return y + bias if slope == 1 else bias_act(y, bias, slope)


def _of_conv2d(
    x: Any, w: Any, stride: Pair, padding: Pair, dilation: Pair = 1, groups: int = 1
) -> tuple[Tensor, Tensor, Geometry]:
    """Its arguments, checked."""
    x, w = as_tensors("conv2d", [x, w])
    refuse("conv2d", dilation, groups)
    _check_image("conv2d", "x", x, w.shape[2] if w.ndim == 4 else 0, w)
    steps, pads = pair("conv2d", "stride", stride, 1), pair("conv2d", "padding", padding, 0)
    geometry = Geometry(steps, pads, w.shape[:2], x.shape[1:3])
    if min(geometry.y_size) < 1:
        raise ValueError(f"conv2d: the window {w.shape[:2]} is larger than x {x.shape} with padding {pads}")
    return x, w, geometry


def conv2d(
    x: Any,
    w: Any,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    slope: float = 1.0,
) -> Tensor:
    """x (N, H, W, C), w (KH, KW, C, O), bias (O,) -> (N, OH, OW, O), OH = floor((H + 2 P - KH) / S) + 1.

    y[n,i,j,o] = bias[o] + sum over u, v, c of x[n, S i + u - P, S j + v - P, c] w[u,v,c,o], zero outside of x; then
    leaky_relu of that slope >= 0, 0 for a ReLU.
    """
    x, w, g = arguments = _of_conv2d(x, w, stride, padding, dilation, groups)
    return _end("conv2d", Conv2d, Conv2dBiasAct, arguments, (len(x), *g.y_size, w.shape[3]), bias, slope)


def conv2d_statistics(x: Any, w: Any, stride: Pair = 1, padding: Pair = 0) -> tuple[Tensor, Statistics]:
    """x (N, H, W, C), w (KH, KW, C, O) -> conv2d(x, w), and mean (O,) and biased variance (O,) of that."""
    x, w, geometry = _of_conv2d(x, w, stride, padding)
    node = Conv2dStatistics(geometry, _slot(w))
    return node(x, w), node.statistics


def _of_conv_transpose2d(
    y: Any, w: Any, stride: Pair, padding: Pair, output_padding: Pair, dilation: Pair = 1, groups: int = 1
) -> tuple[Tensor, Tensor, Geometry]:
    """Its arguments, checked."""
    y, w = as_tensors("conv_transpose2d", [y, w])
    refuse("conv_transpose2d", dilation, groups)
    _check_image("conv_transpose2d", "y", y, w.shape[3] if w.ndim == 4 else 0, w)
    steps, pads = pair("conv_transpose2d", "stride", stride, 1), pair("conv_transpose2d", "padding", padding, 0)
    extra = pair("conv_transpose2d", "output_padding", output_padding, 0)
    if extra[0] >= steps[0] or extra[1] >= steps[1]:
        raise ValueError(f"conv_transpose2d: output_padding {extra} must be smaller than stride {steps}")
    h, v = ((y.shape[1 + i] - 1) * steps[i] - 2 * pads[i] + w.shape[i] + extra[i] for i in (0, 1))
    if h < 1 or v < 1:
        raise ValueError(f"conv_transpose2d: padding {pads} leaves nothing of y {y.shape} and the window {w.shape[:2]}")
    return y, w, Geometry(steps, pads, w.shape[:2], (h, v))


def conv_transpose2d(
    y: Any,
    w: Any,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    slope: float = 1.0,
) -> Tensor:
    """y (N, OH, OW, O), w (KH, KW, C, O), bias (C,) -> (N, H, W, C), H = (OH - 1) S - 2 P + KH + output_padding.

    w is the weight of the convolution that this one transposes: from C channels to O. Then leaky_relu of that slope
    >= 0, 0 for a ReLU.
    """
    y, w, g = arguments = _of_conv_transpose2d(y, w, stride, padding, output_padding, dilation, groups)
    shape = len(y), *g.x_size, w.shape[2]
    return _end("conv_transpose2d", ConvTranspose2d, ConvTranspose2dBiasAct, arguments, shape, bias, slope)


def conv_transpose2d_statistics(
    y: Any, w: Any, stride: Pair = 1, padding: Pair = 0, output_padding: Pair = 0
) -> tuple[Tensor, Statistics]:
    """y (N, OH, OW, O), w (KH, KW, C, O) -> conv_transpose2d(y, w), and mean (C,) and biased variance (C,) of that."""
    y, w, geometry = _of_conv_transpose2d(y, w, stride, padding, output_padding)
    node = ConvTranspose2dStatistics(geometry, _slot(w))
    return node(y, w), node.statistics


def conv2d_weight(x: Any, y: Any, window: Pair, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """x (N, H, W, C), y (N, OH, OW, O) -> (KH, KW, C, O): the gradient of <conv2d(x, w), y> with respect to w."""
    x, y = as_tensors("conv2d_weight", [x, y])
    name = "conv2d_weight"
    if x.ndim != 4 or y.ndim != 4:
        raise ValueError(f"{name}: x must be (N, H, W, C) and y (N, OH, OW, O), but are {x.shape} and {y.shape}")
    steps, pads = pair(name, "stride", stride, 1), pair(name, "padding", padding, 0)
    geometry = Geometry(steps, pads, pair(name, "window", window, 1), x.shape[1:3])
    if x.shape[0] != y.shape[0] or y.shape[1:3] != geometry.y_size:
        raise ValueError(f"{name}: x {x.shape} with this geometry gives y {geometry.y_size}, but y is {y.shape}")
    return Conv2dWeight(geometry)(x, y)


def explain_conv(x: Any, w: Any, stride: Pair = 1, padding: Pair = 0) -> None:
    """Prints which algorithm computes a convolution, its transposed one and its weight gradient, and why.

    x (N, H, W, C) and w (KH, KW, C, O): tensors, arrays or just their shapes. `set_conv_algorithm` overrules it.
    """
    x_shape, w_shape = (tuple(getattr(a, "shape", a)) for a in (x, w))
    name = "explain_conv"
    if len(x_shape) != 4 or len(w_shape) != 4 or x_shape[3] != w_shape[2]:
        raise ValueError(f"{name}: x must be (N, H, W, C) and w (KH, KW, C, O), but are {x_shape} and {w_shape}")
    steps, pads = pair(name, "stride", stride, 1), pair(name, "padding", padding, 0)
    geometry = Geometry(steps, pads, w_shape[:2], x_shape[1:3])
    if min(geometry.y_size) < 1:
        raise ValueError(f"{name}: the window {w_shape[:2]} is larger than x {x_shape} with padding {pads}")
    print(kernels.explain_conv(x_shape[0], *w_shape[2:], geometry))
