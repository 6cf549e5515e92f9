"""PyTorch as an oracle that knows nothing of minigan: values, gradients, second derivatives, whole training runs.

Skipped where PyTorch is not installed. Every function of PyTorch is given minigan's layout and permutes inside, so that
its gradients come back in minigan's layout too.
"""

import copy
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minigan
from minigan import Tensor, nn, ops, optim
from minigan.gan import NON_SATURATING, Game, dcgan_discriminator, dcgan_generator, train, two_player
from minigan.interop.torch import from_torch, to_torch
from minigan.kernels import Geometry
from minigan.ops.conv import Conv2dBiasAct, ConvTranspose2dBiasAct
from minigan.random import Generator

torch = pytest.importorskip("torch")
F = torch.nn.functional

rng = np.random.default_rng


def close(ours: Any, theirs: Any, tolerance: float, what: str = "value") -> None:
    """The largest difference, relative to the largest element (at least 1)."""
    a, b = np.asarray(ours), theirs.numpy(force=True)
    assert a.shape == b.shape, f"{what}: minigan {a.shape}, PyTorch {b.shape}"
    assert a.dtype == b.dtype, f"{what}: minigan {a.dtype}, PyTorch {b.dtype}"
    error = np.max(np.abs(a - b), initial=0) / max(1.0, np.max(np.abs(b), initial=0))
    assert error <= tolerance, f"{what}: relative error {error:.2e} is above {tolerance:.0e}"


def agree(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Any],
    *arrays: np.ndarray,
    tolerance: float = 1e-10,
    second: bool = True,
    seed: int = 0,
) -> None:
    """The value, every gradient, and (second) the derivative of the gradients, with random upstream gradients."""
    xs = [Tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, t = ours(*xs), theirs(*ts)
    close(y, t, tolerance)
    random = rng(seed)
    upstream = random.standard_normal(y.shape).astype(y.dtype)
    plain = minigan.grad(y, xs, upstream, retain_graph=True)
    gs = torch.autograd.grad(t, ts, torch.tensor(upstream), create_graph=second)
    for i, (g, h) in enumerate(zip(plain, gs, strict=True)):
        close(g, h, tolerance, f"gradient {i}")
    if not second:
        return
    recorded = minigan.grad(y, xs, upstream, create_graph=True)
    weights = [random.standard_normal(a.shape).astype(a.dtype) for a in arrays]
    total = sum((g * Tensor(w)).sum() for g, w in zip(recorded, weights, strict=True))
    sum_ = sum((h * torch.tensor(w)).sum() for h, w in zip(gs, weights, strict=True))
    found = [np.zeros_like(a) for a in arrays]  # where f is linear, its gradient depends on nothing
    if total.requires_grad:
        found = minigan.grad(total, xs, allow_unused=True)
    wanted = [torch.zeros_like(t) for t in ts]
    if sum_.requires_grad:
        wanted = torch.autograd.grad(sum_, ts, allow_unused=True, materialize_grads=True)
    for i, (g, h) in enumerate(zip(found, wanted, strict=True)):
        close(g, h, 10 * tolerance, f"second derivative {i}")


def nchw(x: Any) -> Any:
    return x.permute(0, 3, 1, 2).contiguous()  # some of PyTorch's kernels refuse other strides


def oihw(w: Any) -> Any:
    return w.permute(3, 2, 0, 1).contiguous()


def nhwc(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def on_images(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """PyTorch's function of an image (and of what else it takes), in NHWC."""
    return lambda x, *rest: nhwc(f(nchw(x), *rest, **options))


# ---- convolutions ---------------------------------------------------------------------------------------------------


def convolution(**options: Any) -> Callable[..., Any]:
    return lambda x, w, b: nhwc(F.conv2d(nchw(x), oihw(w), b, **options))


def transposed_convolution(**options: Any) -> Callable[..., Any]:
    return lambda y, w, b: nhwc(F.conv_transpose2d(nchw(y), oihw(w), b, **options))


small, pairs_of = st.integers(1, 3), lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))


@given(small, small, small, pairs_of(1, 4), pairs_of(1, 3), pairs_of(0, 2), pairs_of(1, 8), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_conv2d(
    N: int,
    C: int,
    O: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, window, strict=True)))
    draw = rng(seed).standard_normal
    agree(
        lambda x, w, b: ops.conv2d(x, w, b, stride, padding),
        convolution(stride=stride, padding=padding),
        draw((N, *size, C)),
        draw((*window, C, O)),
        draw(O),
    )


@given(small, small, small, pairs_of(1, 4), pairs_of(1, 3), pairs_of(0, 2), pairs_of(0, 2), pairs_of(1, 5), small)
@settings(max_examples=25, deadline=None)
def test_conv_transpose2d(
    N: int,
    C: int,
    O: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_padding: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    assume(all(extra < s for extra, s in zip(output_padding, stride, strict=True)))
    edges = zip(size, stride, padding, window, output_padding, strict=True)
    assume(all((n - 1) * s - 2 * p + k + extra >= 1 for n, s, p, k, extra in edges))
    draw = rng(seed).standard_normal
    agree(
        lambda y, w, b: ops.conv_transpose2d(y, w, b, stride, padding, output_padding),
        transposed_convolution(stride=stride, padding=padding, output_padding=output_padding),
        draw((N, *size, O)),
        draw((*window, C, O)),
        draw(C),
    )


CONVOLUTIONS = [  # size, window, stride, padding, C, O
    ((28, 28), (4, 4), (2, 2), (1, 1), 3, 16),
    ((7, 9), (3, 2), (2, 3), (1, 0), 8, 5),  # rows and columns are left over
    ((5, 5), (5, 5), (1, 1), (0, 0), 16, 1),
    ((1, 1), (1, 1), (1, 1), (0, 0), 32, 32),
    ((12, 10), (3, 3), (1, 1), (1, 1), 17, 33),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize(("size", "window", "stride", "padding", "C", "O"), CONVOLUTIONS)
def test_layers_of_real_nets(size, window, stride, padding, C, O, dtype, tolerance):
    draw = rng(1).standard_normal
    x, w, b = (draw(s).astype(dtype) for s in ((4, *size, C), (*window, C, O), (O,)))
    agree(
        lambda x, w, b: ops.conv2d(x, w, b, stride, padding),
        convolution(stride=stride, padding=padding),
        *(x, w, b),
        tolerance=tolerance,
        second=False,
    )
    y, b = draw((4, 6, 5, O)).astype(dtype), draw(C).astype(dtype)
    agree(
        lambda y, w, b: ops.conv_transpose2d(y, w, b, stride, padding),
        transposed_convolution(stride=stride, padding=padding),
        *(y, w, b),
        tolerance=tolerance,
        second=False,
    )


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_a_bias_and_an_activation_in_the_convolution(slope: float) -> None:
    """As devices compute them."""
    g, draw = Geometry((2, 2), (1, 1), (4, 4), (6, 8)), rng(5).standard_normal
    x, w, y, of_y, of_x = (draw(s) for s in ((2, 6, 8, 3), (4, 4, 3, 5), (2, 3, 4, 5), (5,), (3,)))
    for kind, theirs, arrays in (
        (Conv2dBiasAct, convolution(stride=2, padding=1), (x, w, of_y)),
        (ConvTranspose2dBiasAct, transposed_convolution(stride=2, padding=1), (y, w, of_x)),
    ):
        agree(
            lambda *tensors, kind=kind: kind(g, None, slope)(*tensors),
            lambda *tensors, theirs=theirs: F.leaky_relu(theirs(*tensors), slope),
            *arrays,
        )


# ---- normalisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5, 7)])
def test_batch_norm_over_three_batches_and_then_in_eval(shape, dtype, tolerance):
    draw, C = rng(2).standard_normal, shape[-1]
    ours = [Tensor(np.zeros(C, dtype)), Tensor(np.ones(C, dtype))]
    theirs = [torch.tensor(np.zeros(C, dtype)), torch.tensor(np.ones(C, dtype))]
    gamma, beta = draw(C).astype(dtype), draw(C).astype(dtype)

    def torch_norm(x: Any, gamma: Any, beta: Any, training: bool) -> Any:
        y = F.batch_norm(x.movedim(-1, 1), *theirs, gamma, beta, training, momentum=0.2, eps=1e-3)
        return y.movedim(1, -1)

    for batch in range(3):
        x = (3 * draw(shape) + batch).astype(dtype)
        agree(
            lambda x, g, b: ops.batch_norm(x, g, b, *ours, training=True, momentum=0.2, eps=1e-3),
            lambda x, g, b: torch_norm(x, g, b, True),
            *(x, gamma, beta),
            tolerance=tolerance,
            second=dtype == np.float64,
        )
        for name, a, b in zip(("running_mean", "running_var"), ours, theirs, strict=True):
            close(a, b, tolerance, f"{name} after batch {batch}")
    agree(
        lambda x, g, b: ops.batch_norm(x, g, b, *ours, training=False, eps=1e-3),
        lambda x, g, b: torch_norm(x, g, b, False),
        *(draw(shape).astype(dtype), gamma, beta),
        tolerance=tolerance,
    )


def test_double_backward_of_batch_norm():
    """d/d(x, gamma) of the squared gradient, which is what a penalty on a critic with batch norm would need."""
    draw = rng(3).standard_normal
    arrays, upstream = (draw((4, 3, 3, 5)), draw(5), draw(5)), draw((4, 3, 3, 5))
    xs = [Tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    gx = minigan.grad(ops.batch_norm(*xs), xs[0], upstream, create_graph=True)
    tx, gamma, beta = ts
    y = on_images(F.batch_norm, training=True)(tx, None, None, gamma, beta)
    (hx,) = torch.autograd.grad(y, tx, torch.tensor(upstream), create_graph=True)
    close(gx, hx, 1e-10)
    found = minigan.grad((gx * gx).sum(), xs[:2])
    wanted = torch.autograd.grad((hx * hx).sum(), ts[:2])
    for g, h in zip(found, wanted, strict=True):
        close(g, h, 1e-9)


def test_batch_norm_whose_gain_comes_from_its_input():
    """A gradient that is recorded from batch norm's definition must not count the path through gamma twice."""
    agree(
        lambda x: ops.batch_norm(x, x.mean((0, 1, 2)), ops.var(x, (0, 1, 2))),
        lambda x: on_images(F.batch_norm, training=True)(
            x, None, None, x.mean((0, 1, 2)), x.var((0, 1, 2), correction=0)
        ),
        rng(18).standard_normal((4, 3, 3, 5)),
    )


@pytest.mark.parametrize("affine", [(5,), (3, 4, 5)], ids=["a gain for each channel", "a gain for each element"])
def test_layer_norm(affine):
    draw = rng(4).standard_normal
    agree(
        lambda x, g, b: ops.layer_norm(x, g, b, eps=1e-4),
        lambda x, g, b: F.layer_norm(x, x.shape[1:], eps=1e-4) * g + b,
        *(draw((2, 3, 4, 5)), draw(affine), draw(affine)),
    )
    agree(ops.layer_norm, lambda x: F.layer_norm(x, x.shape[1:]), draw((3, 7)))
    agree(ops.layer_norm, lambda x: F.layer_norm(x, x.shape[1:]), draw((3, 7)).astype(np.float32), tolerance=1e-5)


def test_layer_norm_of_an_image_is_group_norm_with_one_group():
    draw = rng(5).standard_normal
    agree(
        ops.layer_norm,
        lambda x, g, b: nhwc(F.group_norm(nchw(x), 1, g, b)),
        *(draw((2, 3, 4, 5)), draw(5), draw(5)),
    )


def test_instance_norm():
    draw = rng(6).standard_normal
    agree(
        lambda x, g, b: ops.instance_norm(x, g, b, eps=1e-4),
        lambda x, g, b: nhwc(F.instance_norm(nchw(x), weight=g, bias=b, eps=1e-4)),
        *(draw((2, 3, 4, 5)), draw(5), draw(5)),
    )


# ---- pooling, activations, reductions, losses -----------------------------------------------------------------------

POOLS = [(2, None, 0), (3, 2, 1), ((2, 3), (2, 1), (1, 0)), (2, 3, 0)]  # window, stride, padding


@pytest.mark.parametrize(("window", "stride", "padding"), POOLS)
def test_pooling(window, stride, padding):
    x = rng(7).standard_normal((2, 7, 8, 3))
    options = {"kernel_size": window, "stride": stride, "padding": padding}
    agree(lambda x: ops.avg_pool2d(x, window, stride, padding), on_images(F.avg_pool2d, **options), x)
    agree(lambda x: ops.max_pool2d(x, window, stride, padding), on_images(F.max_pool2d, **options), x)
    ties = rng(8).integers(-1, 1, x.shape).astype(np.float64)  # negative ones: the padding must not win
    agree(lambda x: ops.max_pool2d(x, window, stride, padding), on_images(F.max_pool2d, **options), ties)


@pytest.mark.parametrize("scale", [2, (3, 1)])
def test_upsample_nearest(scale):
    x = rng(9).standard_normal((2, 3, 4, 5))
    agree(lambda x: ops.upsample_nearest(x, scale), on_images(F.interpolate, scale_factor=scale, mode="nearest"), x)


POSITIVE, ANY = np.linspace(0.1, 4, 24).reshape(2, 3, 4), np.linspace(-6, 6, 24).reshape(2, 3, 4)
KINK = np.array([-1.0, -0.0, 0.0, 1.0])  # where a first derivative does not exist, minigan chooses PyTorch's
OPS = {
    "relu": (ops.relu, F.relu, ANY, KINK),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.2), lambda x: F.leaky_relu(x, 0.2), ANY, KINK),
    "elu": (lambda x: ops.elu(x, 1.5), lambda x: F.elu(x, 1.5), ANY, KINK),
    "abs": (ops.abs, torch.abs, ANY, KINK),
    "clip": (lambda x: ops.clip(x, -1.0, 1.0), lambda x: torch.clamp(x, -1.0, 1.0), ANY, KINK),
    "clip below": (lambda x: ops.clip(x, low=0.0), lambda x: torch.clamp(x, min=0.0), ANY, KINK),
    "tanh": (ops.tanh, torch.tanh, ANY, KINK),
    "sigmoid": (ops.sigmoid, torch.sigmoid, ANY, np.array([-700.0, -40.0, 40.0, 700.0])),
    "softplus": (ops.softplus, lambda x: F.softplus(x, threshold=50), ANY, np.array([-700.0, 0.0, 700.0])),
    "exp": (ops.exp, torch.exp, ANY),
    "log": (ops.log, torch.log, POSITIVE),
    "sqrt": (ops.sqrt, torch.sqrt, POSITIVE),
    "power": (lambda x: x**-1.5, lambda x: x**-1.5, POSITIVE),
    "square": (lambda x: x**2, lambda x: x**2, ANY, KINK),
    "sum": (lambda x: ops.sum(x, (0, -1)), lambda x: x.sum((0, -1)), ANY),
    "mean": (lambda x: ops.mean(x, 1, keepdims=True), lambda x: x.mean(1, keepdim=True), ANY),
    "var": (lambda x: ops.var(x, (0, 2)), lambda x: x.var((0, 2), correction=0), ANY),
    "max": (lambda x: ops.max(x, 1), lambda x: x.amax(1), ANY, np.round(ANY / 9)),
    "logsumexp": (lambda x: ops.logsumexp(x, (0, 1)), lambda x: x.logsumexp((0, 1)), ANY, 100 * ANY),
    "softmax": (lambda x: ops.softmax(x, 1), lambda x: x.softmax(1), ANY, 100 * ANY),
    "log_softmax": (ops.log_softmax, lambda x: x.log_softmax(-1), ANY, 100 * ANY),
    "flip": (lambda x: ops.flip(x, (0, 2)), lambda x: x.flip((0, 2)), ANY),
    "pad": (lambda x: ops.pad(x, [(0, 0), (1, 0), (2, 3)], 4.0), lambda x: F.pad(x, (2, 3, 1, 0), value=4.0), ANY),
}


@pytest.mark.parametrize("name", OPS)
def test_ops(name):
    ours, theirs, *points = OPS[name]
    for x in points:
        agree(ours, theirs, x, second=x is not KINK)  # there, second derivatives are anybody's choice
    agree(ours, theirs, points[0].astype(np.float32), tolerance=1e-5)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_of_two(name):
    a, b = np.array([1.0, 2.0, 3.0]), np.array([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    agree(getattr(ops, name), getattr(torch, name), a, b)


def test_products():
    draw = rng(10).standard_normal
    agree(ops.matmul, torch.matmul, draw((3, 1, 2, 4)), draw((2, 4, 5)))
    agree(ops.matmul, torch.matmul, draw(4), draw((2, 4, 5)))
    agree(ops.linear, lambda x, w, b: F.linear(x, w.T, b), draw((2, 3, 4)), draw((4, 5)), draw(5))
    rows = np.array([[0, 2], [2, 1]])
    agree(lambda w: ops.embedding(rows, w), lambda w: F.embedding(torch.tensor(rows), w), draw((4, 3)))


@pytest.mark.parametrize("scale", [1, 300])
def test_losses(scale):
    logits, labels = scale * rng(11).standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    agree(
        lambda x: ops.cross_entropy(x, labels),
        lambda x: F.cross_entropy(x, torch.tensor(labels)),
        logits,
    )
    agree(
        ops.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
        *(logits, rng(12).uniform(size=(5, 4))),
    )


# ---- whole nets -----------------------------------------------------------------------------------------------------


def twin(module: nn.Module) -> Any:
    """The same layers in PyTorch, with PyTorch's own weights."""
    match module:
        case nn.Sequential():
            return torch.nn.Sequential(*(twin(layer) for _, layer in module.named_children()))
        case nn.Linear():
            return torch.nn.Linear(*module.weight.shape, bias=module.bias is not None)
        case nn.Conv2d():
            *window, c_in, c_out = module.weight.shape
            options = {"stride": module.stride, "padding": module.padding, "bias": module.bias is not None}
            return torch.nn.Conv2d(c_in, c_out, window, **options)
        case nn.ConvTranspose2d():
            *window, c_out, c_in = module.weight.shape
            options = {"stride": module.stride, "padding": module.padding, "bias": module.bias is not None}
            return torch.nn.ConvTranspose2d(c_in, c_out, window, output_padding=module.output_padding, **options)
        case nn.BatchNorm2d():
            return torch.nn.BatchNorm2d(module.gamma.size)
        case nn.BatchNorm1d():
            return torch.nn.BatchNorm1d(module.gamma.size)
        case nn.InstanceNorm2d():
            return torch.nn.InstanceNorm2d(module.gamma.size, affine=True)
        case nn.LayerNorm():
            return torch.nn.GroupNorm(1, module.gamma.size)
        case nn.Embedding():
            return torch.nn.Embedding(*module.weight.shape)
        case nn.LeakyReLU():
            return torch.nn.LeakyReLU(module.slope)
        case nn.Unflatten():
            H, W, C = module.shape
            return torch.nn.Unflatten(1, (C, H, W))
        case nn.MaxPool2d():
            return torch.nn.MaxPool2d(module.window)
        case nn.AvgPool2d():
            return torch.nn.AvgPool2d(module.window)
        case nn.Upsample():
            return torch.nn.Upsample(scale_factor=module.scale)
        case _:
            return getattr(torch.nn, type(module).__name__)()


def loaded_twin(module: nn.Module, **options: Any) -> Any:
    """The PyTorch twin with the module's weights, in the module's dtype."""
    net = twin(module)
    if next(module.parameters()).dtype == np.float64:
        net.double()
    net.load_state_dict(to_torch(module, **options), strict=True)
    return net


def same_weights(ours: nn.Module, theirs: Any, tolerance: float) -> None:
    state, found = theirs.state_dict(), to_torch(ours)
    for name in found:
        if not name.endswith("num_batches_tracked"):
            close(found[name], state[name], tolerance, name)


CRITICS = {
    "leaky_relu": (nn.LeakyReLU(0.2), False),
    "leaky_relu, layer norm": (nn.LeakyReLU(0.2), True),
    "tanh": (nn.Tanh(), False),
    "elu, layer norm": (nn.ELU(), True),
    "softplus": (nn.Softplus(), False),
    "sigmoid, layer norm": (nn.Sigmoid(), True),
}


@pytest.mark.parametrize("name", CRITICS)
def test_gradient_penalty(name):
    """WGAN-GP (Gulrajani et al. 2017): the gradient with respect to the weights of |gradient w.r.t. the input|."""
    activation, layer_norm = CRITICS[name]
    norm = [nn.LayerNorm(6)] if layer_norm else []
    minigan.manual_seed(0)
    critic = nn.Sequential(
        *(nn.Conv2d(2, 4, 4, 2, 1), activation),
        *(nn.Conv2d(4, 6, 3, 2), *norm, activation),
        *(nn.Flatten(), nn.Linear(24, 1)),
    )
    critic.apply(lambda m: nn.init.normal_(m.gamma, 1.0, 0.5) if isinstance(m, nn.LayerNorm) else None)
    critic.astype(np.float64)
    theirs = loaded_twin(critic)
    x = rng(13).standard_normal((3, 10, 10, 2))

    image = Tensor(x, requires_grad=True)
    gradient = minigan.grad(critic(image).sum(), image, create_graph=True)
    norms = ops.sqrt((gradient * gradient).sum(axis=(1, 2, 3)))
    penalty = ((norms - 1.0) ** 2).mean()
    penalty.backward()

    tensor = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    (their_gradient,) = torch.autograd.grad(theirs(tensor).sum(), tensor, create_graph=True)
    their_penalty = ((their_gradient.square().sum(dim=(1, 2, 3)).sqrt() - 1) ** 2).mean()
    their_penalty.backward()

    close(gradient, nhwc(their_gradient), 1e-10, "gradient")
    close(penalty, their_penalty, 1e-10, "penalty")
    gradients = copy.deepcopy(critic)  # the gradients in place of the weights, to translate them like weights
    gradients.load_state_dict({n: p.grad if p.grad is not None else 0 * p.array for n, p in critic.named_parameters()})
    for (key, ours), parameter in zip(to_torch(gradients).items(), theirs.parameters(), strict=True):
        close(ours, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad, 1e-9, key)


class Doubles(Generator):
    """A stream of float64."""

    def normal(self, shape: Any, dtype: Any = np.float64, device: str = "cpu") -> np.ndarray:
        return super().normal(shape, dtype, device)


def torch_steps(
    G: Any, D: Any, g_optimizer: Any, d_optimizer: Any, game: Game, steps: int
) -> Iterator[tuple[float, float]]:
    """(d_loss, g_loss) of each step, in plain PyTorch."""
    for real in itertools.islice(game.real, steps):
        with torch.no_grad():
            fakes = G(torch.tensor(game.z().numpy()))
        d_loss = F.softplus(-D(torch.tensor(real.transpose(0, 3, 1, 2).copy()))).mean() + F.softplus(D(fakes)).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = F.softplus(-D(G(torch.tensor(game.z().numpy())))).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        yield d_loss.item(), g_loss.item()


OPTIMIZERS = {
    "Adam, 28 pixels": (28, "Adam", {"lr": 2e-3, "betas": (0.5, 0.999)}),
    "Adam, 32 pixels": (32, "Adam", {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}),
    "RMSprop, 28 pixels": (28, "RMSprop", {"lr": 1e-3, "alpha": 0.9}),
    "SGD, 28 pixels": (28, "SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_of_a_dcgan(name):
    size, optimizer, options = OPTIMIZERS[name]
    N, latent, steps = 8, 6, 10
    weights = Generator(0, "init")
    G = dcgan_generator(size, width=4, latent=latent, generator=weights).astype(np.float64)
    D = dcgan_discriminator(size, width=4, generator=weights).astype(np.float64)
    for net in (G, D):  # with DCGAN's deviation of 0.02, D of this width would say 0.000 to everything
        net.apply(lambda m: nn.init.kaiming_normal_(m.weight, generator=weights) if hasattr(m, "weight") else None)
    their_G, their_D = loaded_twin(G), loaded_twin(D)
    images = np.tanh(rng(14).standard_normal((steps, N, size, size, 1)))

    def game() -> Game:
        return Game(iter(images), Doubles(0, "latent"), latent, N)

    ours: list[tuple[float, float]] = []
    ours_of, theirs_of = getattr(optim, optimizer), getattr(torch.optim, optimizer)
    players = two_player(G, D, NON_SATURATING, ours_of(G.parameters(), **options), ours_of(D.parameters(), **options))
    train(game(), players, steps, [lambda step, logs: ours.append((logs["d_loss"], logs["g_loss"]))])
    pair = theirs_of(their_G.parameters(), **options), theirs_of(their_D.parameters(), **options)
    theirs = list(torch_steps(their_G, their_D, *pair, game(), steps))

    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert abs(ours[0][0] - ours[-1][0]) > 1e-3, "the losses must move for the comparison to mean something"
    same_weights(G, their_G, 1e-9)
    same_weights(D, their_D, 1e-9)


# ---- state dicts ----------------------------------------------------------------------------------------------------


def image_net() -> nn.Sequential:
    """Every layer with weights, and both kinds of flattened image, one of them through a batch norm."""
    return nn.Sequential(
        *(nn.Linear(5, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Unflatten(2, 3, 4)),
        *(nn.ConvTranspose2d(4, 6, (3, 4), 2, 1, output_padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2)),
        nn.Sequential(nn.Upsample(2), nn.Conv2d(6, 4, (3, 2), bias=False), nn.InstanceNorm2d(4), nn.ELU()),
        *(nn.Conv2d(4, 3, 1), nn.LayerNorm(3), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.BatchNorm1d(54), nn.Dropout(0.5), nn.Linear(54, 2)),
    )


def scrambled(net: Any) -> Any:
    """Every parameter and running statistic away from where it starts."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.uniform_(0.2, 1.2, generator=torch.Generator().manual_seed(len(name)))
    return net


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(dtype):
    minigan.manual_seed(1)
    net = image_net().astype(dtype)
    before = net.state_dict()
    state = to_torch(net)
    assert {str(v.dtype) for k, v in state.items() if "num" not in k} == {f"torch.{np.dtype(dtype)}"}
    assert all(tensor.is_contiguous() for tensor in state.values())
    other = image_net().astype(dtype)
    from_torch(other, state)
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    for tensor in state.values():
        tensor.zero_()
    np.testing.assert_array_equal(net.state_dict()["0.weight"], before["0.weight"], "to_torch must copy")


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_a_twin_computes_the_same(dtype, tolerance):
    torch.manual_seed(0)
    z = rng(15).standard_normal((3, 5)).astype(dtype)
    net = image_net().astype(dtype).eval()
    theirs = scrambled(twin(net)).to(torch.tensor(z).dtype).eval()
    from_torch(net, theirs.state_dict())
    close(net(Tensor(z)), theirs(torch.tensor(z)), tolerance, "PyTorch's weights in minigan")
    again = loaded_twin(net).eval()
    assert again(torch.tensor(z)).equal(theirs(torch.tensor(z))), "and back"
    assert again.state_dict()["1.num_batches_tracked"] == 0


def test_embedding_into_an_image():
    net = nn.Sequential(nn.Embedding(4, 12), nn.Unflatten(2, 2, 3), nn.Conv2d(3, 2, 2))
    rows = np.array([3, 0, 2])
    close(net(rows), nhwc(loaded_twin(net)(torch.tensor(rows))), 1e-6)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(x)


BEFORE_A_FLATTEN = {
    "Conv2d": [nn.Conv2d(3, 4, 2, 2)],
    "ConvTranspose2d": [nn.ConvTranspose2d(3, 4, 2), nn.AvgPool2d((5, 3)), nn.Upsample(2)],
    "BatchNorm2d": [nn.Conv2d(3, 4, 2, 2), Swish(), nn.BatchNorm2d(4), nn.Tanh()],
    "Linear": [nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 16), nn.ReLU())],
    "Unflatten": [nn.Linear(6, 16), nn.Unflatten(2, 2, 4), nn.Sigmoid()],
}


@pytest.mark.parametrize("name", BEFORE_A_FLATTEN)
def test_the_layer_before_a_flatten_tells_the_channels(name):
    net = nn.Sequential(*BEFORE_A_FLATTEN[name], nn.Flatten(), nn.Linear(16, 5)).eval()
    linear = f"{len(net) - 1}.weight"
    channels = 16 if name == "Linear" else 4
    rows = net.state_dict()[linear].reshape(-1, channels, 5)  # (pixels, channels, O)
    np.testing.assert_array_equal(to_torch(net)[linear].numpy().T, rows.swapaxes(0, 1).reshape(16, 5))


def test_a_layer_that_is_not_known_does_not_tell():
    net = nn.Sequential(nn.Conv2d(3, 4, 2, 2), Swish(), nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(ValueError, match="to_torch: 3 reads a flattened image whose channels"):
        to_torch(net)


def test_a_flatten_that_comes_first_is_told_its_channels():
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 1))
    x = rng(16).standard_normal((2, 2, 4, 3)).astype(np.float32)
    theirs = loaded_twin(net, flattened={"1": 3})
    close(net(Tensor(x)), theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())), 1e-6)
    other = nn.Sequential(nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 1))
    from_torch(other, theirs.state_dict(), flattened={"1": 3})
    np.testing.assert_array_equal(other(Tensor(x)).numpy(), net(Tensor(x)).numpy())
    with pytest.raises(
        ValueError,
        match=re.escape(
            "to_torch: 1 reads a flattened image whose channels the layers before it do not tell; "
            "pass flattened={'1': channels}"
        ),
    ):
        to_torch(net)


class Critic(nn.Module):
    """A forward of one's own, which flattens without a Flatten."""

    def __init__(self) -> None:
        self.features = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU())
        self.norm = nn.BatchNorm1d(27)
        self.head = nn.Linear(27, 1)

    def forward(self, x: Any) -> Tensor:
        return self.head(self.norm(self.features(x).flatten(1)))


class TorchCritic(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 2), torch.nn.ReLU())
        self.norm = torch.nn.BatchNorm1d(27)
        self.head = torch.nn.Linear(27, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.features(x).flatten(1)))


def test_a_forward_of_ones_own_is_told_its_channels():
    net, theirs = Critic().eval(), scrambled(TorchCritic()).eval()
    x = rng(17).standard_normal((2, 4, 4, 1)).astype(np.float32)
    from_torch(net, theirs.state_dict(), flattened={"norm": 3, "head": 3})
    close(net(Tensor(x)), theirs(torch.tensor(x.transpose(0, 3, 1, 2).copy())), 1e-5)
    for name, tensor in to_torch(net, flattened={"norm": 3, "head": 3}).items():
        assert tensor.equal(theirs.state_dict()[name]), name


def test_a_layer_alone_and_a_dtype_that_differs():
    theirs, layer = torch.nn.Linear(3, 2).double(), nn.Linear(3, 2)
    from_torch(layer, theirs.state_dict())
    assert layer.weight.dtype == np.float32
    close(layer.weight, theirs.weight.float().T, 0)
    from_torch(layer, dict(theirs.named_parameters()))  # tensors that require gradients are taken too


def test_what_does_not_fit_is_listed_before_anything_is_written():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5))
    state, before = to_torch(net), net.state_dict()
    del state["1.running_mean"], state["1.num_batches_tracked"]
    state |= {"3.weight": torch.zeros(5, 9), "4.weight": torch.zeros(1), "0.bias": torch.ones(2)}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        from_torch(net, state)
    assert str(caught.value) == (
        "from_torch: the state does not fit Sequential: 1.running_mean is missing; 4.weight is unexpected; "
        "3.weight has shape (5, 9), but here it is (5, 8)"
    )
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_channels_that_are_wrong():
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 5))
    message = "to_torch: axis 0 of 1.weight (8, 5) is 8 long, which is no flattened image of 3 channels"
    with pytest.raises(ValueError, match=re.escape(message)):
        to_torch(net, flattened={"1": 3})
    with pytest.raises(ValueError, match="from_torch: flattened names '0', which is no Linear and no norm"):
        from_torch(net, {}, flattened={"0": 2})


def test_loading_arrays_does_not_need_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from minigan import nn\n"
        "from minigan.interop.torch import from_torch\n"
        "layer = nn.Linear(3, 2)\n"
        "from_torch(layer, {'weight': np.arange(6.0).reshape(2, 3), 'bias': np.zeros(2)})\n"
        "print(layer.weight.numpy().tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]\n"
