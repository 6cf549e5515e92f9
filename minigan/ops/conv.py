"""The convolution trio: three ops, each the gradient of the other two.

All are derivatives of T(x, w, y) (kernels/conv2d), which is linear in each argument, so the set is closed: whatever the
order of the derivative, these three kernels compute it. One `Geometry` goes through all of them.
"""

from collections.abc import Sequence
from operator import index
from typing import Any

from .. import kernels
from ..autograd import Function
from ..kernels import Geometry
from ..mixing import as_tensors
from ..tensor import Array, Tensor

Pair = int | tuple[int, int]

NOTHING = Tensor(0)
"""In place of an argument that nobody will ask for."""


class Trilinear(Function):
    """An argument is kept only for the gradient by the other: of a frozen layer, the images need not be."""

    saves_inputs = True

    def __init__(self, geometry: Geometry, prepared: kernels.Prepared | None = None) -> None:
        self.geometry, self.prepared = geometry, prepared

    def __call__(self, *inputs: Any) -> Tensor:
        result = super().__call__(*inputs)
        if self._inputs and not all(self.parents):
            self._inputs = tuple(
                saved if other else (NOTHING, 0) for saved, other in zip(self._inputs, self.parents[::-1], strict=True)
            )
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


def _add_bias(name: str, y: Tensor, bias: Tensor | Array | None) -> Tensor:
    if bias is None:
        return y
    if not hasattr(bias, "shape"):
        raise TypeError(f"{name}: bias must be a tensor ({y.shape[3]},), not {bias!r}; name stride= and padding=")
    if bias.shape != y.shape[3:]:
        raise ValueError(f"{name}: bias has shape {bias.shape} but the output has {y.shape[3]} channels {y.shape}")
    return y + bias


def conv2d(
    x: Any,
    w: Any,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """x (N, H, W, C), w (KH, KW, C, O), bias (O,) -> (N, OH, OW, O), OH = floor((H + 2 P - KH) / S) + 1.

    y[n,i,j,o] = bias[o] + sum over u, v, c of x[n, S i + u - P, S j + v - P, c] w[u,v,c,o], zero outside of x.
    """
    x, w = as_tensors("conv2d", [x, w])
    refuse("conv2d", dilation, groups)
    _check_image("conv2d", "x", x, w.shape[2] if w.ndim == 4 else 0, w)
    steps, pads = pair("conv2d", "stride", stride, 1), pair("conv2d", "padding", padding, 0)
    geometry = Geometry(steps, pads, w.shape[:2], x.shape[1:3])
    if min(geometry.y_size) < 1:
        raise ValueError(f"conv2d: the window {w.shape[:2]} is larger than x {x.shape} with padding {pads}")
    return _add_bias("conv2d", Conv2d(geometry, _slot(w))(x, w), bias)


def conv_transpose2d(
    y: Any,
    w: Any,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """y (N, OH, OW, O), w (KH, KW, C, O), bias (C,) -> (N, H, W, C), H = (OH - 1) S - 2 P + KH + output_padding.

    w is the weight of the convolution that this one transposes: from C channels to O.
    """
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
    geometry = Geometry(steps, pads, w.shape[:2], (h, v))
    return _add_bias("conv_transpose2d", ConvTranspose2d(geometry, _slot(w))(y, w), bias)


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
