"""What PyTorch makes of the same work. `torch` is None where it is not installed.

Arrays come in minigan's layout, images NHWC and weights (KH, KW, C, O). PyTorch computes on copies in its own, made
beforehand: (N, C, H, W) and (O, C, KH, KW), each in either of PyTorch's memory formats.

To be imported before Numba. PyTorch brings a GNU OpenMP of its own, but takes the one that is loaded already, and with
it the threads and the setting that kernels/jit.py made for Numba. In this order both have what their users have.
"""

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Call = Callable[[], Any]

LAYOUTS = ("nchw", "channels_last")
IMAGE, WEIGHT = (0, 3, 1, 2), (3, 2, 0, 1)
"""The axes of minigan's arrays in PyTorch's order."""

torch: Any = None
with suppress(ImportError):
    torch = importlib.import_module("torch")


def start(threads: int) -> None:
    """From now on PyTorch computes on so many threads, and records no graph."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(threads)


def tensor(array: Array, axes: tuple[int, ...], layout: str, device: str) -> Any:
    """A copy of an image or a weight, as PyTorch has it, on its device "cpu" or "cuda"."""
    memory_format = torch.contiguous_format if layout == "nchw" else torch.channels_last
    return torch.from_numpy(array.transpose(axes).copy()).to(device, memory_format=memory_format)


def vector(array: Array, device: str) -> Any:
    return torch.from_numpy(array.copy()).to(device)


def array(result: Any, axes: tuple[int, ...]) -> Array:
    """The reverse of `tensor`; vectors as they are."""
    values: Array = result.numpy(force=True)
    return values.transpose(np.argsort(axes)) if values.ndim == 4 else values


def convolution(what: str, transposed: bool, x: Array, w: Array, y: Array, g: Any, layout: str, device: str) -> Call:
    """The pass `what` of the layer from x to y, or from y to x if it is transposed; g is its Geometry."""
    weight = tensor(w, WEIGHT, layout, device)
    images = tensor(x, IMAGE, layout, device), tensor(y, IMAGE, layout, device)
    source, gradient = reversed(images) if transposed else images
    if what == "forward":
        forward = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
        return lambda: forward(source, weight, None, g.stride, g.padding)
    backward, needed = torch.ops.aten.convolution_backward, (what == "input gradient", what == "weight gradient", False)
    rest = (None, g.stride, g.padding, (1, 1), transposed, (0, 0), 1, needed)
    return lambda: backward(gradient, source, weight, *rest)[needed.index(True)]


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float, slope: float, layout: str, device: str) -> Call:
    """And the activation behind it, in place as most nets have it."""
    source, function = tensor(x, IMAGE, layout, device), torch.nn.functional
    scale, shift = vector(gamma, device), vector(beta, device)
    leak = partial(function.leaky_relu_, negative_slope=slope) if slope else function.relu_
    return lambda: leak(function.batch_norm(source, None, None, scale, shift, training=True, eps=eps))


def batch_norm_backward(
    gy: Array, x: Array, gamma: Array, beta: Array, eps: float, slope: float, layout: str, device: str
) -> Call:
    gradient, source = tensor(gy, IMAGE, layout, device), tensor(x, IMAGE, layout, device)
    scale, shift = vector(gamma, device), vector(beta, device)
    y, mean, rstd = torch.native_batch_norm(source, scale, shift, None, None, True, 0.1, eps)
    aten, rest = torch.ops.aten, (scale, None, None, mean, rstd, True, eps, (True, True, True))
    leak = partial(aten.leaky_relu_backward, negative_slope=slope, self_is_result=True)
    leak = leak if slope else partial(aten.threshold_backward, threshold=0)
    return lambda: aten.native_batch_norm_backward(leak(gradient, y), source, *rest)


def activation(name: str, x: Array, slope: tuple[float, ...], layout: str, device: str) -> Call:
    function, source = getattr(torch.ops.aten, name), tensor(x, IMAGE, layout, device)
    return lambda: function(source, *slope)


def activation_backward(name: str, gy: Array, xy: Array, slope: tuple[float, ...], layout: str, device: str) -> Call:
    gradient, saved = tensor(gy, IMAGE, layout, device), tensor(xy, IMAGE, layout, device)
    # relu is a threshold at 0; leaky_relu wants to know whether it was given y instead of x.
    name, rest = {"relu": ("threshold", (0,)), "leaky_relu": (name, (*slope, False))}.get(name, (name, slope))
    function = getattr(torch.ops.aten, f"{name}_backward")
    return lambda: function(gradient, saved, *rest)


def adam(p: Array, g: Array, lr: float, betas: tuple[float, float], eps: float, device: str) -> Call:
    """Fused: one pass over memory. Each call is a step."""
    parameter = torch.nn.Parameter(vector(p, device))
    parameter.grad = vector(g, device)
    optimizer = torch.optim.Adam([parameter], lr, betas, eps, fused=True)

    def step() -> Any:
        optimizer.step()
        return parameter

    return step
