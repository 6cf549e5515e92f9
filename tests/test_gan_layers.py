"""The layers that GANs brought, against their formulas and PyTorch: what moves, what is saved, what is refused."""

import copy
import re
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import nn, ops
from minigan.gan import EMA, gradient_penalty
from minigan.gradcheck import check_recorded, gradcheck, gradgradcheck
from minigan.random import Generator, stream

Array = Any


def normal(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check_gradients(module: nn.Module, parameters: dict[str, nn.Module], *inputs: Array) -> None:
    """First and second derivative by the inputs and by parameters: attribute -> its owner, in any order."""
    attributes = [(owner, name.split(".")[-1]) for name, owner in parameters.items()]

    def f(*tensors: mg.Tensor) -> mg.Tensor:
        for (owner, name), tensor in zip(attributes, tensors[len(inputs) :], strict=True):
            setattr(owner, name, tensor)
        return module(*tensors[: len(inputs)])

    every = [*inputs, *[getattr(owner, name).numpy() for owner, name in attributes]]
    gradcheck(f, every)
    gradgradcheck(f, every)
    check_recorded(f, every)


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 2, 1, (0, 1)), (2, 3, 1, 2)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, (1, 2), (1, 2)), (2, 1, 2, 2)),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def matrix_of(layer: Any, weight: Array) -> Array:
    """(output channels, all else): the sum over inputs and taps for one output channel is a row."""
    axis = 2 if isinstance(layer, nn.ConvTranspose2d) else weight.ndim - 1
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


# ---- spectral norm --------------------------------------------------------------------------------------------------


@each_layer
def test_spectral_norm_brings_the_largest_singular_value_to_1(name: str) -> None:
    make, shape = LAYERS[name]
    sn = nn.SpectralNorm(make())
    for seed in range(60):
        y = sn(mg.Tensor(normal(*shape, seed=seed, dtype=np.float32)))
    weight, own = sn.eval().weight().numpy(), sn.layer.weight.numpy()
    assert np.linalg.svd(matrix_of(sn.layer, weight))[1][0] == pytest.approx(1, abs=1e-5)
    sigma = np.linalg.svd(matrix_of(sn.layer, own))[1][0]
    np.testing.assert_allclose(weight, own / sigma, rtol=1e-4)
    plain = copy.deepcopy(sn.layer)
    with plain.weight.writing() as array:
        array[...] = weight
    np.testing.assert_allclose(sn(mg.Tensor(normal(*shape, seed=59, dtype=np.float32))).numpy(), y.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(sn(mg.ones(shape)).numpy(), plain(mg.ones(shape)).numpy())


@each_layer
@pytest.mark.parametrize("iterations", [1, 3])
def test_power_method_written_out(name: str, iterations: int) -> None:
    sn = nn.SpectralNorm(LAYERS[name][0](), iterations).astype(np.float64)
    with sn.u.writing() as u:
        u[...] = normal(3)
    W, u = matrix_of(sn.layer, sn.layer.weight.numpy()), sn.u.numpy()
    if name == "ConvTranspose2d":  # rows of the matrix in the order of the layer: taps, then inputs
        W = sn.layer.weight.numpy().transpose(2, 0, 1, 3).reshape(3, -1)
    for _ in range(iterations):
        v = W.T @ u / np.linalg.norm(W.T @ u)
        u = W @ v / np.linalg.norm(W @ v)
    weight = sn.weight().numpy()
    np.testing.assert_allclose(sn.u.numpy(), u, rtol=1e-12)
    np.testing.assert_allclose(sn.v.numpy(), v, rtol=1e-12)
    np.testing.assert_allclose(weight, sn.layer.weight.numpy() / (u @ W @ v), rtol=1e-12)


def test_u_moves_in_training_mode_only_whether_recorded_or_not() -> None:
    sn = nn.SpectralNorm(nn.Linear(6, 4))
    with sn.u.writing() as u:
        u[...] = np.ones(4)
    x = mg.ones((2, 6))
    found = [sn.state_dict()]
    sn(x)
    found.append(sn.state_dict())
    with mg.no_grad():
        sn(x)
    found.append(sn.state_dict())
    sn.eval()
    assert (sn(x).numpy() == sn(x).numpy()).all()
    found.append(sn.state_dict())
    assert (found[0]["u"] != found[1]["u"]).any()
    assert (found[1]["u"] != found[2]["u"]).any()
    assert all((found[2][key] == found[3][key]).all() for key in found[2])
    assert list(found[0]) == ["u", "v", "layer.weight", "layer.bias"]


def test_u_starts_from_its_generator() -> None:
    layer = nn.Linear(6, 4)
    counter = stream("init").counter
    a, b, other = (nn.SpectralNorm(copy.deepcopy(layer), generator=Generator(seed, "u")) for seed in (1, 1, 2))
    assert stream("init").counter == counter
    assert (a.u.numpy() == b.u.numpy()).all()
    assert (a.u.numpy() != other.u.numpy()).any()
    mg.manual_seed(3)
    c = nn.SpectralNorm(copy.deepcopy(layer))
    mg.manual_seed(3)
    assert (c.u.numpy() == nn.SpectralNorm(copy.deepcopy(layer)).u.numpy()).all()
    sigma = np.linalg.svd(layer.weight.numpy())[1][0]  # eval mode is right from the start
    np.testing.assert_allclose(a.eval().weight().numpy(), layer.weight.numpy() / sigma, rtol=0.02)


def test_spectral_norm_resumes_to_the_bit() -> None:
    x = mg.Tensor(normal(3, 6, dtype=np.float32))
    a = nn.SpectralNorm(nn.Linear(6, 4))
    a(x)
    b = nn.SpectralNorm(nn.Linear(6, 4))
    b.load_state_dict(a.state_dict())
    for _ in range(3):
        assert (a(x).numpy() == b(x).numpy()).all()
    assert all((value == b.state_dict()[key]).all() for key, value in a.state_dict().items())


@each_layer
def test_spectral_norm_derivatives(name: str) -> None:
    make, shape = LAYERS[name]
    sn = nn.SpectralNorm(make()).astype(np.float64).eval()
    with sn.u.writing() as u:  # far from the singular vector: sigma's derivative is no accident of convergence
        u += 0.5
    check_gradients(sn, {"weight": sn.layer}, normal(*shape))


@each_layer
def test_spectral_norm_is_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    make, shape = LAYERS[name]
    sn = nn.SpectralNorm(make()).astype(np.float64)
    x = mg.Tensor(normal(*shape))
    sn(x)
    twin = {
        "Linear": lambda: torch.nn.Linear(5, 3),
        "Conv2d": lambda: torch.nn.Conv2d(2, 3, 2, 1, (0, 1)),
        "ConvTranspose2d": lambda: torch.nn.ConvTranspose2d(2, 3, (1, 2), (1, 2)),
    }[name]().double()
    axes = (1, 0) if name == "Linear" else (3, 2, 0, 1)
    with torch.no_grad():
        twin.weight.copy_(torch.tensor(sn.layer.weight.numpy().transpose(axes)))
        twin.bias.copy_(torch.tensor(sn.layer.bias.numpy()))
    torch.nn.utils.parametrizations.spectral_norm(twin).eval()
    own = twin.parametrizations.weight[0]
    taps = sn.layer.weight.shape[:-2]
    rows = np.arange(sn.v.size).reshape(*taps, -1)  # PyTorch has inputs before taps
    own._u.copy_(torch.tensor(sn.u.numpy()))
    own._v.copy_(torch.tensor(sn.v.numpy()[np.moveaxis(rows, -1, 0).reshape(-1)]))

    y = sn.eval()(x)
    images = name != "Linear"
    theirs = torch.tensor(x.numpy().transpose(0, 3, 1, 2) if images else x.numpy())
    expected = twin(theirs)
    found = expected.permute(0, 2, 3, 1) if images else expected
    np.testing.assert_allclose(y.numpy(), found.detach().numpy(), rtol=1e-10, atol=1e-12)
    upstream = normal(*y.shape, seed=1)
    y.backward(upstream)
    found.backward(torch.tensor(upstream))
    gradient = twin.parametrizations.weight.original.grad.permute(*np.argsort(axes)).numpy()
    np.testing.assert_allclose(sn.layer.weight.grad, gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sn.layer.bias.grad, twin.bias.grad.numpy(), rtol=1e-10)


def critic() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(12, 4), nn.Tanh())
    return nn.wrap_layers(nn.Sequential(*net.layers, nn.Linear(4, 1)), nn.SpectralNorm).astype(np.float64)


def test_gradient_penalty_through_spectral_norm() -> None:
    D, real, fake = critic(), normal(3, 4, 4, 1), normal(3, 4, 4, 1, seed=1)
    for _ in range(300):
        D(mg.Tensor(real))

    def gradients() -> list[Array]:
        D.zero_grad()
        scores = D(mg.Tensor(real)), D(mg.Tensor(fake))  # each moves u: graphs must not share it
        loss = (scores[1] ** 2 - scores[0]).mean() + gradient_penalty(D, real, fake, Generator(0, "penalty"))[0]
        loss.backward()
        return [p.grad.copy() for p in D.parameters()]

    training = gradients()
    D.eval()
    for a, b in zip(training, gradients(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)

    def penalty(weight: mg.Tensor) -> mg.Tensor:
        D[0].layer.weight = weight
        return gradient_penalty(D, real, fake, Generator(0, "penalty"))[0]

    gradcheck(penalty, [D[0].layer.weight.numpy()])


def test_a_net_of_linear_maps_has_slope_at_most_1() -> None:
    net = nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    nn.wrap_layers(net, nn.SpectralNorm)
    for _ in range(100):
        net(mg.ones((1, 4)))
    x = 5 * normal(200, 4, dtype=np.float32)
    score = net.eval()(mg.Tensor(x)).numpy()[:, 0]
    slopes = abs(score[:, None] - score) / np.maximum(np.linalg.norm(x[:, None] - x, axis=2), 1e-9)
    assert 0.01 < slopes.max() <= 1 + 1e-4


def test_frozen_weights_record_nothing() -> None:
    D = critic().requires_grad_(False)
    assert not D(mg.Tensor(normal(2, 4, 4, 1))).requires_grad
    sn = nn.SpectralNorm(nn.Linear(2, 2, bias=False))
    assert not any(b.requires_grad for _, b in sn.named_buffers())
    assert [name for name, _ in sn.named_parameters()] == ["layer.weight"]


def test_averaged_vectors_count_by_their_direction() -> None:
    sn = nn.SpectralNorm(nn.Linear(6, 4))
    ema = EMA(sn, 0.5, warmup=False)
    for seed in range(3):
        with sn.layer.weight.writing() as w:
            w[...] = normal(6, 4, seed=seed, dtype=np.float32)
        sn(mg.ones((1, 6)))
        ema()
    net = ema.net
    u, v, w = (t.numpy() for t in (net.u, net.v, net.layer.weight))
    assert np.linalg.norm(u) < 0.99
    sigma = v @ w @ u / np.linalg.norm(u) / np.linalg.norm(v)
    np.testing.assert_allclose(net.weight().numpy(), w / sigma, rtol=1e-5)


# ---- wrapping -------------------------------------------------------------------------------------------------------


def test_wrap_layers_wraps_each_layer_once() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.shared = nn.Linear(3, 3)
            self.again = self.shared
            self.listed = [nn.Linear(3, 3), nn.Tanh()]
            self.named = {"head": nn.Linear(3, 1)}
            self.done = nn.SpectralNorm(nn.Linear(3, 3))
            self.note = "stays"

    net = Net()
    inside, done = net.shared, net.done
    assert nn.wrap_layers(net, nn.SpectralNorm) is net
    assert isinstance(net.shared, nn.SpectralNorm)
    assert net.shared is net.again
    assert net.shared.layer is inside
    assert isinstance(net.listed[0], nn.SpectralNorm)
    assert isinstance(net.listed[1], nn.Tanh)
    assert isinstance(net.named["head"], nn.SpectralNorm)
    assert net.done is done
    assert type(done.layer) is nn.Linear
    assert net.note == "stays"
    attention = nn.wrap_layers(nn.SelfAttention(8), nn.SpectralNorm)
    assert isinstance(attention.f, nn.SpectralNorm)
    assert attention(mg.ones((1, 2, 2, 8))).shape == (1, 2, 2, 8)


def test_what_cannot_be_wrapped() -> None:
    for wrapper in (nn.SpectralNorm, nn.EqualizedLR):
        text = f"{wrapper.__name__}: wraps a Linear, Conv2d or ConvTranspose2d, not Tanh"
        with pytest.raises(TypeError, match=f"^{text}$"):
            wrapper(nn.Tanh())
    with pytest.raises(ValueError, match=r"^SpectralNorm: iterations must be at least 1, not 0$"):
        nn.SpectralNorm(nn.Linear(1, 1), 0)
    layer = nn.Linear(2, 3)
    nn.init.constant_(layer.weight, 0.0)
    text = (
        "SpectralNorm: the weight (2, 3) of Linear is all zeros, and no direction is its largest; let it start before "
        "it is wrapped"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.SpectralNorm(layer)


# ---- equalised learning rate and pixel norm -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in"),
    [
        (lambda: nn.Linear(64, 256), (64, 64), 64),
        (lambda: nn.Conv2d(16, 64, 3), (8, 10, 10, 16), 144),
        (lambda: nn.ConvTranspose2d(16, 64, 4, 2), (8, 10, 10, 16), 64),
    ],
)
def test_equalized_weights_keep_the_variance(layer: Any, shape: tuple[int, ...], fan_in: int) -> None:
    wrapped = nn.EqualizedLR(layer(), 1.0, Generator(0, "weights"))
    assert wrapped.layer.weight.numpy().std() == pytest.approx(1, abs=0.02)
    assert not wrapped.layer.bias.numpy().any()
    np.testing.assert_allclose(wrapped.weight().numpy() * sqrt(fan_in), wrapped.layer.weight.numpy(), rtol=1e-6)
    y = wrapped(mg.Tensor(normal(*shape, dtype=np.float32))).numpy()
    inner = y if y.ndim == 2 else y[:, 3:-3, 3:-3]  # at the edges a transposed convolution sums fewer
    assert inner.var() == pytest.approx(1, abs=0.1)
    he = nn.EqualizedLR(layer(), generator=Generator(0, "weights"))
    np.testing.assert_allclose(he.weight().numpy(), sqrt(2) * wrapped.weight().numpy(), rtol=1e-6)


def test_equalized_bias_is_not_scaled() -> None:
    wrapped = nn.EqualizedLR(nn.Linear(9, 2))
    with wrapped.layer.bias.writing() as b:
        b[...] = [1, 2]
    np.testing.assert_array_equal(wrapped(mg.zeros((1, 9))).numpy(), [[1, 2]])
    assert nn.EqualizedLR(nn.Linear(9, 2, bias=False))(mg.zeros((1, 9))).shape == (1, 2)


@each_layer
def test_equalized_derivatives(name: str) -> None:
    make, shape = LAYERS[name]
    wrapped, x = nn.EqualizedLR(make()).astype(np.float64), mg.Tensor(normal(*shape))
    plain = copy.deepcopy(wrapped.layer)
    with plain.weight.writing() as array:
        array *= wrapped.scale
    (wrapped(x) ** 2).sum().backward()
    (plain(x) ** 2).sum().backward()
    np.testing.assert_allclose(wrapped.layer.weight.grad, wrapped.scale * plain.weight.grad, rtol=1e-12)
    np.testing.assert_allclose(wrapped.layer.bias.grad, plain.bias.grad, rtol=1e-12)


def test_pixel_norm() -> None:
    x = normal(2, 3, 3, 5)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(nn.PixelNorm()(mg.Tensor(x)).numpy(), expected, rtol=1e-12)
    assert not nn.PixelNorm()(mg.zeros((1, 2))).numpy().any()
    check_gradients(nn.PixelNorm(), {}, normal(2, 2, 3))


# ---- minibatch statistics -------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(1, 3), st.sampled_from([1, 2, 3, None]), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_minibatch_stddev_written_out(groups: int, size: int | None, rest: list[int]) -> None:
    N = groups * (size or 2)
    x = normal(N, *rest, seed=N)
    group = None if size is None or size == 1 else size
    G = group or N
    expected = np.empty(N)
    for i in range(N):
        members = x[i % (N // G) :: N // G]
        expected[i] = np.sqrt(members.var(axis=0) + 1e-8).mean()
    y = nn.MinibatchStdDev(group)(mg.Tensor(x)).numpy()
    assert y.shape == (*x.shape[:-1], rest[-1] + 1)
    np.testing.assert_array_equal(y[..., :-1], x)
    for i in range(N):
        np.testing.assert_allclose(y[i, ..., -1], expected[i], rtol=1e-10)


def test_minibatch_stddev_tells_copies_from_variety() -> None:
    layer, x = nn.MinibatchStdDev(4), normal(8, 3, 3, 2)
    copies = np.repeat(x[:1], 8, axis=0)
    assert np.allclose(layer(mg.Tensor(copies)).numpy()[..., -1], 1e-4)  # sqrt(eps)
    assert layer(mg.Tensor(x)).numpy()[..., -1].min() > 0.5
    assert layer(mg.Tensor(x[:3])).shape == (3, 3, 3, 3)  # one group of 3
    check_gradients(nn.MinibatchStdDev(2), {}, normal(4, 2, 3))


def test_minibatch_stddev_refusals() -> None:
    text = "MinibatchStdDev: group must be at least 2, or None for the whole batch, not 1"
    with pytest.raises(ValueError, match=f"^{text}$"):
        nn.MinibatchStdDev(1)
    text = (
        "MinibatchStdDev: a batch of 6 does not divide into groups of 4; choose another batch size, or group=None for "
        "the whole batch"
    )
    with pytest.raises(ValueError, match=f"^{text}$"):
        nn.MinibatchStdDev(4)(mg.ones((6, 2)))
    with pytest.raises(ValueError, match=r"^MinibatchStdDev: x must be \(N, \.\.\., C\), but is \(6,\)$"):
        nn.MinibatchStdDev(4)(mg.ones(6))


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_minibatch_discrimination_written_out(N: int, A: int, B: int, C: int) -> None:
    layer, f = nn.MinibatchDiscrimination(A, B, C).astype(np.float64), normal(N, A)
    M = (f @ layer.weight.numpy()).reshape(N, B, C)
    o = np.zeros((N, B))
    for i in range(N):
        for b in range(B):
            o[i, b] = sum(np.exp(-abs(M[i, b] - M[j, b]).sum()) for j in range(N) if j != i)
    y = layer(mg.Tensor(f)).numpy()
    np.testing.assert_array_equal(y[:, :A], f)
    np.testing.assert_allclose(y[:, A:], o, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("features", "dims"), [(16, 1), (784, 5)])
def test_minibatch_discrimination_starts_where_it_learns(features: int, dims: int) -> None:
    layer = nn.MinibatchDiscrimination(features, 50, dims)
    f = normal(32, features, dtype=np.float32)
    M = (f @ layer.weight.numpy()).reshape(32, 50, dims)
    exponent = abs(M[:, None] - M[None]).sum(3).sum() / (32 * 31 * 50)
    assert exponent == pytest.approx(1, abs=0.2)
    same = layer(mg.Tensor(np.repeat(f[:1], 32, axis=0))).numpy()[:, features:]
    np.testing.assert_allclose(same, 31, rtol=1e-5)
    different = layer(mg.Tensor(f)).numpy()[:, features:]
    assert 31 * 0.2 < different.mean() < 31 * 0.7


def test_minibatch_discrimination_derivatives_and_refusals() -> None:
    layer = nn.MinibatchDiscrimination(3, 2, 2).astype(np.float64)
    check_gradients(layer, {"weight": layer}, normal(4, 3))
    text = "MinibatchDiscrimination: f must be (N, 3), but is (2, 4, 4, 3); images want a Flatten before it"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        layer(mg.ones((2, 4, 4, 3)))
    text = "MinibatchDiscrimination: features, kernels and dims must be at least 1, but are 3, 0 and 5"
    with pytest.raises(ValueError, match=f"^{text}$"):
        nn.MinibatchDiscrimination(3, 0)


# ---- virtual batch norm ---------------------------------------------------------------------------------------------


def virtual(reference: Array, *layers: nn.Module) -> nn.VirtualBatch:
    return nn.VirtualBatch(nn.Sequential(*layers), reference).astype(reference.dtype)


@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(1, 4), st.sampled_from([(), (1, 1), (2, 3)]), st.integers(1, 3))
def test_virtual_batch_norm_written_out(n: int, N: int, pixels: tuple[int, ...], C: int) -> None:
    reference, x = normal(n, *pixels, C), 3 + normal(N, *pixels, C, seed=1)
    norm: Any = nn.VirtualBatchNorm2d(C) if pixels else nn.VirtualBatchNorm1d(C)
    net = virtual(reference, norm)
    for tensor, seed in ((norm.gamma, 2), (norm.beta, 3)):
        with tensor.writing() as array:
            array[...] = normal(C, seed=seed)
    y, axes = net(mg.Tensor(x)).numpy(), tuple(range(len(pixels) + 1))
    whole = net.net(mg.Tensor(np.concatenate([reference, x]))).numpy()
    for i in range(N):
        joined = np.concatenate([reference, x[i : i + 1]])  # n + 1 samples of equal size: each weighs 1 / (n + 1)
        z = (x[i] - joined.mean(axes)) / np.sqrt(joined.var(axes) + 1e-5)
        np.testing.assert_allclose(y[i], z * norm.gamma.numpy() + norm.beta.numpy(), rtol=1e-9, atol=1e-12)
    z = (reference - reference.mean(axes)) / np.sqrt(reference.var(axes) + 1e-5)
    np.testing.assert_allclose(whole[:n], z * norm.gamma.numpy() + norm.beta.numpy(), rtol=1e-9, atol=1e-12)


def small_generator(reference: Array) -> nn.VirtualBatch:
    return virtual(
        reference,
        *(nn.Linear(4, 12), nn.VirtualBatchNorm1d(12), nn.ReLU(), nn.Unflatten(2, 2, 3)),
        *(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.VirtualBatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1)),
    )


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    z = normal(6, 4, seed=1, dtype=np.float32)
    G = small_generator(normal(8, 4, dtype=np.float32))
    images = G(mg.Tensor(z)).numpy()
    assert images.shape == (6, 8, 8, 1)
    others = np.concatenate([z[:1], 9 * normal(5, 4, seed=2, dtype=np.float32)])
    assert abs(G(mg.Tensor(others)).numpy()[0] - images[0]).max() == 0
    for i in range(6):  # another size of batch: sums may be taken in another order
        np.testing.assert_allclose(G(mg.Tensor(z[i : i + 1])).numpy()[0], images[i], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(G.eval()(mg.Tensor(z)).numpy(), images)
    plain = nn.BatchNorm1d(4)
    assert abs(plain(mg.Tensor(z)).numpy()[0] - plain(mg.Tensor(others)).numpy()[0]).max() > 0.1


def test_virtual_batch_is_saved_with_its_reference() -> None:
    z = mg.Tensor(normal(3, 4, seed=1, dtype=np.float32))
    G, other = small_generator(normal(8, 4, dtype=np.float32)), small_generator(normal(8, 4, seed=5, dtype=np.float32))
    assert [name for name, _ in G.named_buffers()] == ["reference"]
    other.load_state_dict(G.state_dict())
    np.testing.assert_array_equal(other(z).numpy(), G(z).numpy())
    ema = EMA(G)
    ema()
    np.testing.assert_array_equal(ema.net.reference.numpy(), G.reference.numpy())
    np.testing.assert_allclose(ema.net(z).numpy(), G(z).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"reference has shape \(8, 4\), but here it is \(2, 4\)"):
        small_generator(normal(2, 4, dtype=np.float32)).load_state_dict(G.state_dict())


def test_gradients_flow_through_the_reference() -> None:
    linear, norm = nn.Linear(2, 2, bias=False), nn.VirtualBatchNorm1d(2)
    net = virtual(normal(3, 2), linear, norm)
    check_gradients(net, {"weight": linear, "gamma": norm, "beta": norm}, normal(2, 2, seed=1))
    norm2 = nn.VirtualBatchNorm2d(2)
    net = virtual(normal(2, 2, 1, 2), norm2)
    check_gradients(net, {"gamma": norm2, "reference": net}, normal(2, 2, 1, 2, seed=1))


def test_virtual_batch_refusals() -> None:
    text = "VirtualBatchNorm1d: there is no reference batch; wrap the net: VirtualBatch(net, reference)"
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        nn.VirtualBatchNorm1d(2)(mg.ones((3, 2)))
    text = "VirtualBatchNorm2d: x must have 4 axes and 2 channels, but is (3, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.VirtualBatchNorm2d(2)(mg.ones((3, 2)))
    text = "VirtualBatchNorm1d: x must have 2 axes and 2 channels, but is (3, 1)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        nn.VirtualBatchNorm1d(2)(mg.ones((3, 1)))
    text = "VirtualBatch: samples are (3,), but those of the reference (4,)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        small_generator(normal(8, 4, dtype=np.float32))(mg.ones((2, 3)))
    text = "VirtualBatch: reference must be at least 2 samples, (n, ...), but is (1, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        small_generator(normal(1, 4, dtype=np.float32))


# ---- modulated batch norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [None, 5])
def test_modulation_begins_as_plain_batch_norm(hidden: int | None) -> None:
    modulated, plain = nn.ModulatedBatchNorm2d(3, 4, hidden), nn.BatchNorm2d(3)
    x, c = mg.Tensor(2 + normal(5, 2, 2, 3, dtype=np.float32)), mg.Tensor(normal(5, 4, dtype=np.float32))
    for _ in range(2):
        np.testing.assert_allclose(modulated(x, c).numpy(), plain(x).numpy(), rtol=1e-6)
    for name in ("running_mean", "running_var"):
        np.testing.assert_array_equal(getattr(modulated, name).numpy(), getattr(plain, name).numpy())
    assert sorted(name for name, _ in modulated.named_buffers()) == ["running_mean", "running_var"]
    np.testing.assert_allclose(modulated.eval()(x, c).numpy(), plain.eval()(x).numpy(), rtol=1e-5, atol=1e-6)
    assert len(list(modulated.parameters())) == (4 if hidden is None else 8)
    (modulated(x, c) * x).sum().backward()
    last = modulated.gain if hidden is None else modulated.gain[2]
    assert abs(last.weight.grad).max(0).min() > 0  # it can learn from where it begins


def started(norm: nn.ModulatedBatchNorm2d) -> nn.ModulatedBatchNorm2d:
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return norm.astype(np.float64)


def test_one_hot_conditions_are_gains_and_biases_of_classes() -> None:
    norm, x = started(nn.ModulatedBatchNorm2d(2, 3)), normal(6, 2, 2, 2)
    labels = np.array([0, 1, 2, 0, 1, 2])
    y = norm(mg.Tensor(x), mg.Tensor(np.eye(3)[labels])).numpy()
    z = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    gains = 1 + norm.gain.weight.numpy() + norm.gain.bias.numpy()
    biases = norm.bias.weight.numpy() + norm.bias.bias.numpy()
    for i, label in enumerate(labels):
        np.testing.assert_allclose(y[i], z[i] * gains[label] + biases[label], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hidden", [None, 2])
@pytest.mark.parametrize("training", [True, False])
def test_modulated_derivatives(hidden: int | None, training: bool) -> None:
    norm = started(nn.ModulatedBatchNorm2d(2, 2, hidden)).train(training)
    gain: Any = norm.gain if hidden is None else norm.gain[2]
    bias: Any = norm.bias if hidden is None else norm.bias[0]
    if training:  # running statistics move, outputs do not depend on them
        check_gradients(norm, {"weight": gain, "other.weight": bias}, normal(3, 1, 2, 2), normal(3, 2, seed=1))
    else:
        check_gradients(norm, {"weight": gain}, normal(3, 1, 2, 2), normal(3, 2, seed=1))


def test_conditioned_gives_the_condition_to_who_takes_it() -> None:
    norm = started(nn.ModulatedBatchNorm2d(2, 3)).astype(np.float32)
    first, last = nn.ConvTranspose2d(3, 2, 2), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 1, 1))
    net = nn.Conditioned(nn.Unflatten(1, 1, 3), first, nn.Conditioned(norm), last)
    z, c = (mg.Tensor(normal(4, 3, seed=seed, dtype=np.float32)) for seed in (0, 1))

    def expected(c: mg.Tensor) -> Array:
        return last(norm(first(z.reshape(4, 1, 1, 3)), c)).numpy()

    np.testing.assert_allclose(net(z, c).numpy(), expected(c), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net(z).numpy(), expected(z), rtol=1e-5, atol=1e-6)  # self-modulation
    assert (net(z, c).numpy() != net(z).numpy()).any()
    other = copy.deepcopy(net)
    nn.init.normal_(other[1].weight)
    other.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(other.eval()(z, c).numpy(), net.eval()(z, c).numpy())


def test_modulated_refusals() -> None:
    norm, x = nn.ModulatedBatchNorm2d(3, 4), mg.ones((2, 1, 1, 3))
    text = "ModulatedBatchNorm2d: x must be (N, H, W, 3), but is (2, 1, 1, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        norm(mg.ones((2, 1, 1, 2)), mg.ones((2, 4)))
    for shape in ((2, 3), (1, 4)):
        text = (
            f"ModulatedBatchNorm2d: the condition must be (2, 4), a row for each row of x (2, 1, 1, 3), but is {shape}"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            norm(x, mg.ones(shape))


# ---- self-attention -------------------------------------------------------------------------------------------------


def attention(channels: int) -> nn.SelfAttention:
    layer = nn.SelfAttention(channels)
    nn.init.constant_(layer.strength, 0.7)
    return layer.astype(np.float64)


def test_attention_begins_as_the_identity_that_can_learn() -> None:
    layer, x = nn.SelfAttention(8), normal(2, 3, 3, 8, dtype=np.float32)
    y = layer(mg.Tensor(x))
    np.testing.assert_array_equal(y.numpy(), x)
    (y**2).sum().backward()
    assert layer.strength.grad != 0
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        "strength": (), "f.weight": (8, 1), "g.weight": (8, 1), "h.weight": (8, 4), "v.weight": (4, 8),
    }  # fmt: skip


def test_attention_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    layer, x, upstream = attention(16), normal(2, 3, 4, 16), normal(2, 3, 4, 16, seed=1)

    def conv(name: str) -> Any:
        weight = getattr(layer, name).weight.numpy()
        made = torch.nn.Conv2d(*weight.shape, 1, bias=False).double()
        with torch.no_grad():
            made.weight.copy_(torch.tensor(weight.T[:, :, None, None]))
        return made

    f, g, h, v = map(conv, "fghv")
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pool = torch.nn.MaxPool2d(2)
    s = torch.einsum("nci,ncj->nij", pool(f(theirs)).flatten(2), g(theirs).flatten(2))
    beta = torch.softmax(s, 1)  # over i, for each j
    o = v(torch.einsum("nci,nij->ncj", pool(h(theirs)).flatten(2), beta).reshape(2, 8, 3, 4))
    expected = (theirs + layer.strength.item() * o).permute(0, 2, 3, 1)
    ours = mg.Tensor(x, requires_grad=True)
    y = layer(ours)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    y.backward(upstream)
    expected.backward(torch.tensor(upstream))
    np.testing.assert_allclose(ours.grad, theirs.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-9, atol=1e-12)
    for name, twin in zip("fghv", (f, g, h, v), strict=True):
        found = getattr(layer, name).weight.grad
        np.testing.assert_allclose(found, twin.weight.grad[:, :, 0, 0].T.numpy(), rtol=1e-8, atol=1e-12)


def test_attention_derivatives_and_refusals() -> None:
    layer = attention(2)
    check_gradients(layer, {"strength": layer, "weight": layer.f}, normal(1, 4, 2, 2))
    assert attention(1)(mg.Tensor(normal(1, 2, 3, 1))).shape == (1, 2, 3, 1)
    for shape in (1, 2, 2, 3), (1, 1, 2, 2):
        text = f"SelfAttention: x must be (N, H, W, 2), H, W > 1, but is {shape}"
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            layer(mg.Tensor(normal(*shape)))
    with pytest.raises(ValueError, match=r"^SelfAttention: channels must be at least 1, not 0$"):
        nn.SelfAttention(0)


# ---- noise ----------------------------------------------------------------------------------------------------------


def test_noise_in_training_mode_only() -> None:
    generator = Generator(0, "noise")
    noise, x = nn.GaussianNoise(0.5, generator), mg.Tensor(normal(64, 8, 8, 2, dtype=np.float32))
    difference = noise(x).numpy() - x.numpy()
    assert abs(difference.mean()) < 0.02
    assert difference.std() == pytest.approx(0.5, rel=0.02)
    counter = generator.counter
    assert counter > 0
    assert noise.eval()(x) is x
    noise.train().sigma = 0.0
    assert noise(x) is x
    assert generator.counter == counter
    noise.sigma = 0.5
    again = noise(x).numpy() - x.numpy()
    assert abs(np.corrcoef(again.ravel(), difference.ravel())[0, 1]) < 0.05
    fresh = nn.GaussianNoise(0.5, Generator(0, "noise"))
    np.testing.assert_array_equal(fresh(x).numpy() - x.numpy(), difference)
    leaf = mg.Tensor(normal(2, 2), requires_grad=True)
    noise(leaf).sum().backward()
    np.testing.assert_array_equal(leaf.grad, np.ones((2, 2)))


def test_noise_dies_away_in_a_line_and_resumes() -> None:
    noise = nn.GaussianNoise(0.4, Generator(0, "noise"))
    hook, found = nn.Anneal(noise, 4), []
    for _ in range(6):
        hook()
        found.append(noise.sigma)
    np.testing.assert_allclose(found, [0.3, 0.2, 0.1, 0, 0, 0], atol=1e-15)
    resumed = nn.GaussianNoise(0.9, Generator(0, "noise"))
    other = nn.Anneal(resumed, 9)  # which the state knows better
    other.load_state_dict({"first": 0.4, "calls": 1, "steps": 4})
    assert resumed.sigma == found[0]
    other()
    assert resumed.sigma == found[1]
    assert other.state_dict() == {"first": 0.4, "calls": 2, "steps": 4}


def test_noise_refusals() -> None:
    for sigma in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"^GaussianNoise: sigma must be finite and >= 0, not {sigma}$"):
            nn.GaussianNoise(sigma, Generator(0, "noise"))
    with pytest.raises(ValueError, match=r"^Anneal: steps must be at least 1, not 0$"):
        nn.Anneal(nn.GaussianNoise(0.1, Generator(0, "noise")), 0)


# ---- all of them ----------------------------------------------------------------------------------------------------

X, REFERENCE = (normal(4, 4, 5, 4, seed=seed, dtype=np.float32) for seed in (0, 9))

SAMPLEWISE: dict[str, Callable[[], nn.Module]] = {
    "SpectralNorm": lambda: nn.SpectralNorm(nn.Conv2d(4, 3, 3)).eval(),
    "EqualizedLR": lambda: nn.EqualizedLR(nn.ConvTranspose2d(4, 3, 3)),
    "PixelNorm": nn.PixelNorm,
    "SelfAttention": lambda: nn.Sequential(attention(4), nn.Tanh()).astype(np.float32),
    "VirtualBatch": lambda: nn.VirtualBatch(nn.VirtualBatchNorm2d(4), REFERENCE),
}
BATCHWISE: dict[str, Callable[[], nn.Module]] = {
    "MinibatchStdDev": lambda: nn.MinibatchStdDev(2),
    "MinibatchDiscrimination": lambda: nn.Sequential(nn.Flatten(), nn.MinibatchDiscrimination(80, 3, 2)),
    "ModulatedBatchNorm2d": lambda: nn.Conditioned(started(nn.ModulatedBatchNorm2d(4, 4)), nn.Tanh()).astype(
        np.float32
    ),
}


def run(module: nn.Module, x: mg.Tensor) -> mg.Tensor:
    return module(x, ops.mean(x, (1, 2))) if isinstance(module, nn.Conditioned) else module(x)


@pytest.mark.parametrize("name", [*SAMPLEWISE, *BATCHWISE])
def test_who_looks_at_one_sample_only(name: str) -> None:
    module = {**SAMPLEWISE, **BATCHWISE}[name]()
    whole, two = run(module, mg.Tensor(X)).numpy(), run(module, mg.Tensor(X[:2])).numpy()
    assert np.allclose(whole[:2], two, rtol=1e-5, atol=1e-6) == (name in SAMPLEWISE)


@pytest.mark.parametrize("name", [*SAMPLEWISE, *BATCHWISE])
@needs_device
def test_on_a_device(name: str) -> None:
    module, x = {**SAMPLEWISE, **BATCHWISE}[name](), mg.Tensor(X)
    twin = copy.deepcopy(module).to(DEVICE)
    for _ in range(2):
        expected, found = run(module.train(), x), run(twin.train(), x.to(DEVICE))
        assert found.device == DEVICE
        np.testing.assert_allclose(found.to("cpu").numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    noise = nn.GaussianNoise(0.1, Generator(0, "noise"))(x.to(DEVICE))
    expected = nn.GaussianNoise(0.1, Generator(0, "noise"))(x)
    np.testing.assert_allclose(noise.to("cpu").numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
