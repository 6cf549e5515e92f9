"""The rows of the benchmark: what each layer of the DCGANs asks of the kernels, found by walking the nets.

A convolution is a row for each of its three passes. In the letters of kernels/conv2d, x and y are its two images: a
Conv2d goes from x to y and a ConvTranspose2d from y to x, so the passes of both are the same three kernels.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import rival
from rival import IMAGE, LAYOUTS, WEIGHT, Array, Call

from minigan import Tensor, kernels, no_grad
from minigan.gan import dcgan_discriminator, dcgan_generator
from minigan.kernels import Geometry
from minigan.nn import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    LeakyReLU,
    Module,
    ReLU,
    Sequential,
    Tanh,
    Unflatten,
)

LATENT = {28: 64, 32: 100, 64: 100}
"""Size of the images in pixels -> channels of z."""
WIDTHS = (16, 32, 64)
BATCH = 64

MIDDLE, ONE_CHANNEL, COVERS, MEMORY = KINDS = ("middle", "one channel", "covers its input", "memory-bound")
"""A layer between two feature maps; one with images of one channel at an end; one whose window covers x, the first of
G and the last of D; and whatever moves more than it computes."""

PASSES = ("forward", "input gradient", "weight gradient")
CONV2D = ("conv2d", "conv_transpose2d", "conv2d_weight")  # the kernel of each pass
CONV_TRANSPOSE2D = ("conv_transpose2d", "conv2d", "conv2d_weight")
ACTIVATIONS = {ReLU: "relu", LeakyReLU: "leaky_relu", Tanh: "tanh"}
ADAM = {"lr": 2e-4, "beta1": 0.5, "beta2": 0.999, "eps": 1e-8}


@dataclass(frozen=True)
class Contenders:
    """The calls to be timed and the one that knows the truth. A call returns an array, or a tuple of arrays."""

    ours: Call
    truth: Call  # by the reference kernels in float64
    rivals: dict[str, Call]  # by PyTorch's memory format; empty without PyTorch
    fresh: Call | None = None  # `ours` with a new version of the weight, where the algorithm transforms weights
    axes: tuple[int, ...] = IMAGE  # of PyTorch's result


@dataclass(frozen=True)
class Case:
    """A row. Arrays are made by `build`, in float32, on the device of minigan that it is told, or else the CPU."""

    size: int  # of the net's images, pixels
    width: int
    operation: str
    label: str
    where: str  # what tells it from its namesakes at other widths
    kind: str
    bytes: int  # each array moved once
    build: Callable[..., Contenders]
    flops: int | None = None  # of the direct convolution
    algorithm: str | None = None


NETS = tuple((size, width) for size in LATENT for width in WIDTHS)


def cases(nets: Iterable[tuple[int, int]] = NETS, batch: int = BATCH) -> dict[str, Case]:
    """The rows of nets (pixels of the images, width) by their names, which are unique."""
    found = [case for size, width in nets for case in _of_nets(size, width, batch)]
    names = [f"{case.size}px {case.operation} {case.label}" for case in found]
    times = Counter(names)
    return {name if times[name] == 1 else f"{name} {case.where}": case for name, case in zip(names, found, strict=True)}


def _of_nets(size: int, width: int, batch: int) -> list[Case]:
    """The rows of D and G; of what both do on the same shape, one."""
    with kernels.use("reference"):  # compiles nothing: the first call of a kernel is to be timed
        D = dcgan_discriminator(size, 1, width)
        G = dcgan_generator(size, 1, width, LATENT[size])
    starts = {"D": (D, (batch, size, size, 1)), "G": (G, (batch, LATENT[size]))}
    rows = [row for net, shape in starts.values() for row in _of_layers(size, width, net, shape)]
    rows += [_adam(size, width, letter, net) for letter, (net, _) in starts.items()]
    return list({(row.operation, row.label): row for row in rows}.values())


def _of_layers(size: int, width: int, net: Sequential, shape: tuple[int, ...]) -> Iterator[Case]:
    done = None
    for layer, following in pairwise([*net, None]):
        with no_grad(), kernels.use("reference"):
            # One sample shows the shapes.
            after = (shape[0], *layer(Tensor(np.zeros((1, *shape[1:]), np.float32))).shape[1:])
        if isinstance(layer, Conv2d | ConvTranspose2d):
            yield from _convolution(size, width, layer, shape, after)
        elif isinstance(layer, BatchNorm2d) and isinstance(following, ReLU | LeakyReLU):
            name, done = f"batch_norm + {ACTIVATIONS[type(following)]}", following
            run = partial(_batch_norm, shape, layer.eps, following.slope)
            yield _pointwise(size, width, f"{name} forward", shape, 2, run)
            run = partial(_batch_norm_backward, shape, layer.eps, following.slope)
            yield _pointwise(size, width, f"{name} backward", shape, 3, run)
        elif layer is done:
            pass
        elif type(layer) in ACTIVATIONS:
            name = ACTIVATIONS[type(layer)]
            slope = (layer.slope,) if isinstance(layer, LeakyReLU) else ()
            yield _pointwise(size, width, f"{name} forward", shape, 2, partial(_activation, name, shape, slope))
            run = partial(_activation_backward, name, shape, slope)
            yield _pointwise(size, width, f"{name} backward", shape, 3, run)
        elif not isinstance(layer, Flatten | Unflatten):
            raise TypeError(f"the net has a {type(layer).__name__}, for which the benchmark has no row")
        shape = after


def _pointwise(size: int, width: int, operation: str, shape: tuple[int, ...], moved: int, build: Any) -> Case:
    """A row that moves `moved` arrays of the shape."""
    _, h, w, c = shape
    return Case(size, width, operation, f"{h}x{w}x{c}", f"width {width}", MEMORY, 4 * moved * prod(shape), build)


@cache
def normal(role: str, *shape: int, scale: float = 1.0) -> Array:
    """float32 from N(0, scale^2), the same at each call. Rows share it: only those of Adam write, and to copies."""
    x = np.random.default_rng((crc32(role.encode()), *shape)).standard_normal(shape, np.float32)
    x *= np.float32(scale)
    x.flags.writeable = False
    return x


def _to(device: str, *arrays: Array) -> list[Array]:
    return [kernels.move(array, device) for array in arrays]


def _rivals(device: str, call: Callable[..., Call], *arguments: Any) -> dict[str, Call]:
    """By memory format, on the device that minigan calls so."""
    return {layout: call(*arguments, layout, _torchs(device)) for layout in LAYOUTS} if rival.torch else {}


def _torchs(device: str) -> str:
    return "cuda" if device == "cuda" else "cpu"


def _reference(name: str) -> Callable[..., Any]:
    return kernels.KERNELS[name].implementation("reference")


def _double(*arrays: Array) -> list[Array]:
    return [array.astype(np.float64) for array in arrays]


# ---- convolutions ------------------------------------------------------------------------------------------------


def _convolution(
    size: int, width: int, layer: Conv2d | ConvTranspose2d, before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[Case]:
    transposed = isinstance(layer, ConvTranspose2d)
    x, y = (after, before) if transposed else (before, after)
    KH, KW, C, O = layer.weight.shape
    g = Geometry(layer.stride, layer.padding, (KH, KW), (x[1], x[2]))
    if g.window == g.x_size and g.padding == (0, 0):
        kind = COVERS
    else:
        kind = ONE_CHANNEL if C == 1 else MIDDLE
    for what, kernel in zip(PASSES, CONV_TRANSPOSE2D if transposed else CONV2D, strict=True):
        algorithm = kernels.conv_algorithm(kernel, x[0], C, O, g)
        yield Case(
            size,
            width,
            f"{'conv_transpose2d' if transposed else 'conv2d'} {what}",
            f"{before[3]}->{after[3]}",
            f"at {before[1]}x{before[2]}, width {width}",
            kind,
            4 * (prod(x) + prod(y) + KH * KW * C * O),
            partial(_build_convolution, what, transposed, kernel, algorithm, x, y, g),
            2 * prod(y) * C * KH * KW,
            algorithm,
        )


def _build_convolution(
    what: str,
    transposed: bool,
    kernel: str,
    algorithm: str,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    g: Geometry,
    device: str = "cpu",
) -> Contenders:
    x, y = normal("x", *x_shape), normal("y", *y_shape)
    w = normal("w", *g.window, x_shape[3], y_shape[3], scale=0.02)
    first, second = {"conv2d": (x, w), "conv_transpose2d": (y, w), "conv2d_weight": (x, y)}[kernel]
    run = kernels.KERNELS[kernel]
    rivals = _rivals(device, rival.convolution, what, transposed, x, w, y, g)

    def truth() -> Any:
        return _reference(kernel)(*_double(first, second), g)

    a, b = _to(device, first, second)
    if kernel == "conv2d_weight":
        return Contenders(lambda: run(a, b, g), truth, rivals, axes=WEIGHT)
    version = [0]
    kept, changing = kernels.Prepared([0]), kernels.Prepared(version)

    def fresh() -> Any:
        version[0] += 1
        return run(a, b, g, prepared=changing)

    transforms = device == "cpu" and algorithm != "direct"
    return Contenders(lambda: run(a, b, g, prepared=kept), truth, rivals, fresh=fresh if transforms else None)


# ---- batch norm, activations, Adam -------------------------------------------------------------------------------


def _parameters(C: int) -> tuple[Array, Array]:
    return 1 + normal("gamma", C, scale=0.02), normal("beta", C, scale=0.02)


def _batch_norm(shape: tuple[int, ...], eps: float, slope: float, device: str = "cpu") -> Contenders:
    x, (gamma, beta) = normal("x", *shape), _parameters(shape[3])

    def run(statistics: Any, apply: Any, x: Array, gamma: Array, beta: Array) -> Array:
        mean, var = statistics(x)
        y: Array = apply(x, mean, (var + x.dtype.type(eps)) ** -0.5, gamma, beta, slope)
        return y

    return Contenders(
        partial(run, kernels.batch_norm_statistics, kernels.batch_norm_apply, *_to(device, x, gamma, beta)),
        lambda: run(_reference("batch_norm_statistics"), _reference("batch_norm_apply"), *_double(x, gamma, beta)),
        _rivals(device, rival.batch_norm, x, gamma, beta, eps, slope),
    )


def _batch_norm_backward(shape: tuple[int, ...], eps: float, slope: float, device: str = "cpu") -> Contenders:
    gy, x, (gamma, beta) = normal("y", *shape), normal("x", *shape), _parameters(shape[3])
    exact = _double(x)[0].reshape(-1, shape[3])
    mean, rstd = exact.mean(0), (exact.var(0) + eps) ** -0.5
    z = gamma * (x - mean) * rstd + beta
    # Where rounding alone decides on which side of 0 the activation is, any result is right: no gradient comes there.
    gy = np.where(np.abs(z) > 1e-5, gy, np.float32(0))
    ours = *_to(device, gy, x, mean.astype(np.float32), rstd.astype(np.float32), gamma, beta), slope
    return Contenders(
        lambda: kernels.batch_norm_backward(*ours),
        lambda: _reference("batch_norm_backward")(*_double(gy, x), mean, rstd, *_double(gamma, beta), slope),
        _rivals(device, rival.batch_norm_backward, gy, x, gamma, beta, eps, slope),
    )


def _activation(name: str, shape: tuple[int, ...], slope: tuple[float, ...], device: str = "cpu") -> Contenders:
    x, run = normal("x", *shape), kernels.KERNELS[name]
    (ours,) = _to(device, x)
    return Contenders(
        lambda: run(ours, *slope),
        lambda: _reference(name)(*_double(x), *slope),
        _rivals(device, rival.activation, name, x, slope),
    )


def _activation_backward(
    name: str, shape: tuple[int, ...], slope: tuple[float, ...], device: str = "cpu"
) -> Contenders:
    gy, xy, run = normal("y", *shape), normal("x", *shape), kernels.KERNELS[f"{name}_backward"]
    if name == "tanh":  # derived from its output
        xy = np.tanh(xy)
    ours = _to(device, gy, xy)
    return Contenders(
        lambda: run(*ours, *slope),
        lambda: _reference(f"{name}_backward")(*_double(gy, xy), *slope),
        _rivals(device, rival.activation_backward, name, gy, xy, slope),
    )


def _adam(size: int, width: int, letter: str, net: Module) -> Case:
    elements = sum(parameter.size for parameter in net.parameters())
    moved = 7 * 4 * elements  # p, g, m, v are read and p, m, v written
    build = partial(_build_adam, elements)
    return Case(size, width, "adam", f"of {letter}", f"width {width}", MEMORY, moved, build)


def _build_adam(elements: int, device: str = "cpu") -> Contenders:
    """All parameters as one vector. Every call takes the first step again, from where the last one went."""
    p, g = normal("w", elements, scale=0.02), normal("y", elements)
    mine, gradients, *moments = _to(device, p.copy(), g, np.zeros_like(p), np.zeros_like(p))

    def run(kernel: Any, p: Array, g: Array, m: Array, v: Array) -> Array:
        kernel([p], [g], [m], [v], weight_decay=0.0, step=[1], **ADAM)
        return p

    def truth() -> Array:
        exact, gradient = _double(p, g)
        return run(_reference("adam"), exact, gradient, np.zeros_like(exact), np.zeros_like(exact))

    betas = ADAM["beta1"], ADAM["beta2"]
    rivals = {"nchw": rival.adam(p, g, ADAM["lr"], betas, ADAM["eps"], _torchs(device))} if rival.torch else {}
    return Contenders(lambda: run(kernels.adam, mine, gradients, *moments), truth, rivals)
