"""Modules: names, states, shapes; layers against NumPy; how weights start; the nets of the DCGAN."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan import nn
from minigan.gan import dcgan_discriminator, dcgan_generator
from minigan.random import Generator, stream

Array = Any


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Block(nn.Module):
    """Parameters, a buffer and children, in an order that is not the alphabet's."""

    def __init__(self) -> None:
        self.second = nn.Linear(2, 3)
        self.scale = nn.Parameter(np.full(3, 2, np.float32))
        self.norm = nn.BatchNorm1d(3)
        self.offset = mg.zeros(3)
        self.first = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh())
        self.note = "nothing that has to be saved"

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.first(self.norm(self.second(x)) * self.scale + self.offset)


PARAMETERS = ["scale", "second.weight", "second.bias", "norm.gamma", "norm.beta", "first.0.weight"]
BUFFERS = ["offset", "norm.running_mean", "norm.running_var"]


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        self.a = nn.Linear(2, 2, bias=False)
        self.b = nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.b(self.a(x))


# ---- what a module is made of ---------------------------------------------------------------------------------------


def test_names_and_their_order() -> None:
    net = Block()
    assert [name for name, _ in net.named_parameters()] == PARAMETERS
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert [name for name, _ in net.named_children()] == ["second", "norm", "first"]
    assert [name for name, _ in net.named_modules()] == ["", "second", "norm", "first", "first.0", "first.1"]
    assert list(net.modules()) == [net, net.second, net.norm, net.first, net.first[0], net.first[1]]
    assert all(p is q for p, (_, q) in zip(net.parameters(), net.named_parameters(), strict=True))
    assert dict(net.named_parameters())["second.weight"] is net.second.weight


def test_parameters_require_gradients_and_buffers_do_not() -> None:
    net = Block()
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())
    assert not any(b.requires_grad for _, b in net.named_buffers())


def test_a_shared_parameter_is_listed_once() -> None:
    net = Tied()
    assert [name for name, _ in net.named_parameters()] == ["a.weight"]
    assert sorted(net.state_dict()) == ["a.weight", "b.weight"]
    x = mg.Tensor(normal(4, 2))
    net(x).sum().backward()
    w = net.a.weight.array
    expected = x.array.T @ np.ones((4, 2)) @ w.T + (x.array @ w).T @ np.ones((4, 2))
    assert net.a.weight.grad is not None
    np.testing.assert_allclose(net.a.weight.grad, expected, rtol=1e-5)


def test_sequential_is_a_sequence() -> None:
    layers = nn.Linear(2, 3), nn.ReLU()
    net = nn.Sequential(*layers)
    assert len(net) == 2
    assert net[0] is layers[0]
    assert [net[i] for i in range(2)] == list(layers)
    assert len(nn.Sequential()) == 0
    x = mg.Tensor([[1.0]])
    assert nn.Sequential()(x) is x


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2)])
def test_sequential_does_an_activation_in_the_pass_before_it(activation: nn.Module) -> None:
    act = activation  # one module in several places
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1), act, nn.ConvTranspose2d(4, 3, 3, 1, 1), act, nn.BatchNorm2d(3), act, act,
        nn.Flatten(), nn.Linear(75, 6), act, nn.BatchNorm1d(6), act, nn.Linear(6, 1, bias=False), act,
    )  # fmt: skip
    x = mg.Tensor(mg.random.stream("x").normal((8, 5, 5, 2)), requires_grad=True)

    def results(y: mg.Tensor) -> list[Any]:
        weights = list(net.parameters())
        plain = mg.grad(y.sum(), [x, *weights], retain_graph=True)
        (gx,) = mg.grad(y.sum(), [x], create_graph=True)
        return [y, *plain, *mg.grad((gx * gx).sum(), weights, allow_unused=True)]

    separate = x
    for layer in net:
        separate = layer(separate)
    fused = net(x)
    for a, b in zip(results(fused), results(separate), strict=True):
        np.testing.assert_allclose(a.array, b.array, rtol=1e-5, atol=1e-5 * float(abs(b.array).max()))
    assert np.array_equal(fused.array, separate.array)
    nodes = mg.graph.text(fused)
    assert (nodes.count("bias_act("), nodes.count("relu(")) == (3, 2)  # behind an activation, and behind no bias


def test_sequential_leaves_alone_what_is_not_what_it_seems() -> None:
    patched, x = nn.Linear(3, 4), mg.ones((2, 3))
    patched.forward = lambda x: mg.zeros((2, 4))  # type: ignore[method-assign, assignment, misc]
    assert not nn.Sequential(patched, nn.ReLU())(x).array.any()
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        nn.Sequential(nn.Linear(3, 4), None, nn.ReLU())(x)  # type: ignore[arg-type]
    assert nn.Sequential(nn.Linear(3, 0), nn.ReLU())(x).shape == (2, 0)


def test_sequential_leaves_subclasses_alone() -> None:
    class Negated(nn.ReLU):
        def forward(self, x: Any) -> mg.Tensor:
            return -super().forward(x)

    net = nn.Sequential(nn.Linear(3, 4), Negated())
    x = mg.ones((2, 3))
    assert np.array_equal(net(x).array, -mg.relu(net[0](x)).array)
    assert (nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(-0.5))(x).array >= 0).all()


def test_a_sequential_with_more_parts_has_them_all() -> None:
    class Skip(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(2, 2, bias=False))
            self.gate = nn.Linear(2, 2, bias=False)

    assert sorted(Skip().state_dict()) == ["0.weight", "gate.weight"]


def test_train_and_eval_reach_every_module() -> None:
    net = Block()
    assert all(module.training for module in net.modules())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.norm.train()
    assert [module.training for module in net.modules()] == [False, False, True, False, False, False]
    net.train(False).train()
    assert all(module.training for module in net.modules())


def test_apply_goes_from_the_inside_out() -> None:
    net, seen = Block(), list[nn.Module]()
    assert net.apply(seen.append) is net
    assert seen == [net.second, net.norm, net.first[0], net.first[1], net.first, net]


def test_requires_grad_and_zero_grad() -> None:
    net = Block()
    assert net.requires_grad_(False) is net
    assert not net(mg.Tensor(normal(4, 2))).requires_grad
    net.requires_grad_()
    (net(mg.Tensor(normal(4, 2))) ** 2).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_astype() -> None:
    net = Block()
    (net(mg.Tensor(normal(4, 2))) ** 2).sum().backward()
    before = net.state_dict()
    assert net.astype(np.float64) is net
    after = net.state_dict()
    assert all(array.dtype == np.float64 for array in after.values())
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    y = net(mg.Tensor(normal(4, 2, dtype=np.float64)))
    assert y.dtype == np.float64
    (y**2).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == np.float64 for p in net.parameters())
    assert net.norm.running_mean.dtype == np.float64


def test_astype_is_a_write() -> None:
    net = nn.Linear(2, 3)
    loss = (net(mg.Tensor(normal(4, 2), requires_grad=True)) ** 2).sum()
    net.astype(np.float64)
    with pytest.raises(RuntimeError, match=r"matmul: its input of shape \(2, 3\) was modified in place"):
        loss.backward()


def test_astype_refuses_what_cannot_be_learned() -> None:
    with pytest.raises(TypeError, match="int32"):
        nn.Linear(2, 3).astype(np.int32)


def test_deepcopy_gives_independent_weights() -> None:
    net = Block()
    before, other = net.state_dict(), copy.deepcopy(net)
    for _, p in other.named_parameters():
        with p.writing() as array:
            array += 1
    other(mg.Tensor(normal(4, 2)))
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert [name for name, _ in other.named_parameters()] == PARAMETERS
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in other.parameters())
    tied = copy.deepcopy(Tied())
    assert tied.a.weight is tied.b.weight


def test_deepcopy_keeps_gradients_and_frozen_weights() -> None:
    net = Block().requires_grad_(False)
    net.scale.requires_grad = True
    net(mg.Tensor(normal(4, 2))).sum().backward()
    other = copy.deepcopy(net)
    assert [name for name, p in other.named_parameters() if p.requires_grad] == ["scale"]
    np.testing.assert_array_equal(other.scale.grad, net.scale.grad)
    assert other.scale.grad is not net.scale.grad
    other.zero_grad()
    other(mg.Tensor(normal(4, 2))).sum().backward()  # the copy fills its own .grad
    np.testing.assert_array_equal(other.scale.grad, net.scale.grad)


def test_a_module_without_forward() -> None:
    with pytest.raises(NotImplementedError, match=r"^Module defines no forward$"):
        nn.Module()(1)


# ---- states ---------------------------------------------------------------------------------------------------------


def test_state_dict_holds_copies() -> None:
    net = Block()
    state = net.state_dict()
    assert sorted(state) == sorted(PARAMETERS + BUFFERS)
    assert all(type(array) is np.ndarray for array in state.values())
    state["scale"][...] = 7
    assert net.scale.array[0] == 2
    net(mg.Tensor(normal(4, 2)))
    assert not state["norm.running_mean"].any()


def test_a_state_makes_two_nets_equal() -> None:
    net, other, x = Block(), Block(), mg.Tensor(normal(4, 2))
    net(x)  # moves the running statistics
    assert (net(x).array != other(x).array).any()
    state = net.state_dict()
    other.load_state_dict(state)
    np.testing.assert_array_equal(net.eval()(x).array, other.eval()(x).array)
    state["second.bias"][...] = 99
    assert (other.state_dict()["second.bias"] != 99).all()


def test_a_state_of_another_dtype_is_converted() -> None:
    net = Block()
    net.load_state_dict(copy.deepcopy(net).astype(np.float64).state_dict())
    assert all(array.dtype == np.float32 for array in net.state_dict().values())


def test_load_state_dict_lists_all_that_is_wrong_and_writes_nothing() -> None:
    net, state = Block(), Block().state_dict()
    before = net.state_dict()
    del state["scale"], state["norm.running_var"]
    state |= {"more": np.zeros(2), "first.1.weight": np.zeros(2), "second.bias": np.zeros(4), "norm.beta": np.zeros(())}
    with pytest.raises(ValueError, match="load_state_dict") as error:
        net.load_state_dict(state)
    assert str(error.value) == (
        "load_state_dict: the state does not fit Block: scale is missing; norm.running_var is missing; more is "
        "unexpected; first.1.weight is unexpected; second.bias has shape (4,), but here it is (3,); norm.beta has "
        "shape (), but here it is (3,)"
    )
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_writes_nothing_if_a_value_is_no_number() -> None:
    net = nn.Linear(2, 2)
    before = net.state_dict()
    with pytest.raises((ValueError, TypeError)):
        net.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.array(["a", "b"])})
    np.testing.assert_array_equal(net.weight.array, before["weight"])


def test_weights_loaded_between_forward_and_backward_are_noticed() -> None:
    net = nn.Linear(2, 3)
    loss = (net(mg.Tensor(normal(4, 2), requires_grad=True)) ** 2).sum()
    net.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match=r"matmul: its input of shape \(2, 3\) was modified in place"):
        loss.backward()


# ---- repr -----------------------------------------------------------------------------------------------------------


def test_repr_shows_shapes_and_counts() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, (4, 2), 2, (1, 0)),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.3)),
        nn.Linear(1024, 10, bias=False),
    )
    assert repr(net) == (
        "Sequential()  # 10,456 parameters\n"
        "  0: Conv2d(stride (2, 2), padding (1, 0), weight (4, 2, 3, 8), bias (8,))  # 200 parameters\n"
        "  1: BatchNorm2d(gamma (8,), beta (8,))  # 16 parameters\n"
        "  2: LeakyReLU(0.2)\n"
        "  3: Sequential()\n"
        "    0: Flatten()\n"
        "    1: Dropout(0.3)\n"
        "  4: Linear(weight (1024, 10))  # 10,240 parameters"
    )
    assert repr(Tied()).startswith("Tied()  # 4 parameters\n")


# ---- layers: one table of what goes in, what comes out, and what is learned ----------------------------------------

LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...], dict[str, tuple[int, ...]]]] = [
    (lambda: nn.Linear(5, 3), (2, 5), (2, 3), {"weight": (5, 3), "bias": (3,)}),
    (lambda: nn.Linear(5, 3, bias=False), (2, 4, 5), (2, 4, 3), {"weight": (5, 3)}),
    (lambda: nn.Linear(5, 3), (5,), (3,), {"weight": (5, 3), "bias": (3,)}),
    (lambda: nn.Conv2d(2, 3, 4, 2, 1), (2, 8, 6, 2), (2, 4, 3, 3), {"weight": (4, 4, 2, 3), "bias": (3,)}),
    (lambda: nn.Conv2d(2, 3, (3, 1), bias=False), (2, 5, 6, 2), (2, 3, 6, 3), {"weight": (3, 1, 2, 3)}),
    (lambda: nn.Conv2d(1, 1, 3, (1, 2), (1, 0), bias=False), (1, 5, 6, 1), (1, 5, 2, 1), {"weight": (3, 3, 1, 1)}),
    (lambda: nn.ConvTranspose2d(2, 3, 4, 2, 1), (2, 4, 3, 2), (2, 8, 6, 3), {"weight": (4, 4, 3, 2), "bias": (3,)}),
    (lambda: nn.ConvTranspose2d(2, 3, 4, bias=False), (2, 1, 1, 2), (2, 4, 4, 3), {"weight": (4, 4, 3, 2)}),
    (
        lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, (1, 0), bias=False),
        (1, 4, 4, 2),
        (1, 8, 7, 3),
        {"weight": (3, 3, 3, 2)},
    ),
    (lambda: nn.BatchNorm1d(4), (3, 4), (3, 4), {"gamma": (4,), "beta": (4,)}),
    (lambda: nn.BatchNorm2d(4), (3, 2, 1, 4), (3, 2, 1, 4), {"gamma": (4,), "beta": (4,)}),
    (lambda: nn.LayerNorm(4), (3, 2, 2, 4), (3, 2, 2, 4), {"gamma": (4,), "beta": (4,)}),
    (lambda: nn.LayerNorm(4), (3, 4), (3, 4), {"gamma": (4,), "beta": (4,)}),
    (lambda: nn.InstanceNorm2d(4), (3, 2, 2, 4), (3, 2, 2, 4), {"gamma": (4,), "beta": (4,)}),
    (lambda: nn.ReLU(), (2, 3), (2, 3), {}),
    (lambda: nn.LeakyReLU(0.2), (2, 3), (2, 3), {}),
    (lambda: nn.ELU(), (2, 3), (2, 3), {}),
    (lambda: nn.Tanh(), (2, 3), (2, 3), {}),
    (lambda: nn.Sigmoid(), (2, 3), (2, 3), {}),
    (lambda: nn.Softplus(), (2, 3), (2, 3), {}),
    (lambda: nn.Flatten(), (2, 3, 4, 5), (2, 60), {}),
    (lambda: nn.Flatten(), (2, 3), (2, 3), {}),
    (lambda: nn.Flatten(), (2,), (2, 1), {}),
    (lambda: nn.Flatten(), (0, 3, 2), (0, 6), {}),
    (lambda: nn.Unflatten(3, 4, 5), (2, 60), (2, 3, 4, 5), {}),
    (lambda: nn.Unflatten(1, 1, -1), (2, 7), (2, 1, 1, 7), {}),
    (lambda: nn.Upsample(), (2, 3, 4, 1), (2, 6, 8, 1), {}),
    (lambda: nn.Upsample((1, 3)), (2, 3, 4, 1), (2, 3, 12, 1), {}),
    (lambda: nn.AvgPool2d(2), (2, 5, 4, 3), (2, 2, 2, 3), {}),
    (lambda: nn.AvgPool2d(3, 2, 1), (2, 5, 4, 3), (2, 3, 2, 3), {}),
    (lambda: nn.MaxPool2d((2, 1)), (2, 5, 4, 3), (2, 2, 4, 3), {}),
    (lambda: nn.MaxPool2d(3, 1, 1), (2, 5, 4, 3), (2, 5, 4, 3), {}),
    (lambda: nn.Dropout(0.5), (2, 3), (2, 3), {}),
    (lambda: nn.GaussianNoise(0.1, Generator(0, "noise")), (2, 3), (2, 3), {}),
    (lambda: nn.PixelNorm(), (2, 2, 2, 3), (2, 2, 2, 3), {}),
    (lambda: nn.MinibatchStdDev(2), (4, 2, 2, 3), (4, 2, 2, 4), {}),
    (lambda: nn.MinibatchDiscrimination(5, 3, 2), (4, 5), (4, 8), {"weight": (5, 6)}),
    (lambda: nn.VirtualBatch(nn.Linear(5, 3), normal(2, 5)), (4, 5), (4, 3), {"net.weight": (5, 3), "net.bias": (3,)}),
    (lambda: nn.SpectralNorm(nn.Linear(5, 3)), (2, 5), (2, 3), {"layer.weight": (5, 3), "layer.bias": (3,)}),
    (lambda: nn.EqualizedLR(nn.Linear(5, 3, bias=False)), (2, 5), (2, 3), {"layer.weight": (5, 3)}),
    (
        lambda: nn.SelfAttention(16),
        (2, 3, 3, 16),
        (2, 3, 3, 16),
        {"strength": (), "f.weight": (16, 2), "g.weight": (16, 2), "h.weight": (16, 8), "v.weight": (8, 16)},
    ),
]


@pytest.mark.parametrize("row", LAYERS, ids=lambda row: f"{type(row[0]()).__name__} {row[1]}")
def test_shapes_of_layers(row: Any) -> None:
    make, x, y, parameters = row
    layer = make()
    assert {name: p.shape for name, p in layer.named_parameters()} == parameters
    assert all(p.dtype == np.float32 for p in layer.parameters())
    tensor = mg.Tensor(normal(*x), requires_grad=True)
    for mode in (True, False):
        result = layer.train(mode)(tensor)
        assert result.shape == y
        assert result.dtype == np.float32
    result.sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.shape == x


def test_every_layer_is_in_the_table() -> None:
    others = {"Module", "Parameter", "Sequential", "Embedding", "init"}
    others |= {"Anneal", "Conditioned", "ModulatedBatchNorm2d", "Reparametrized", "wrap_layers"}  # test_gan_layers.py
    others |= {"VirtualBatchNorm1d", "VirtualBatchNorm2d"}
    assert {type(make()).__name__ for make, *_ in LAYERS} == set(nn.__all__) - others


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [(lambda: nn.Linear(50, 40), 50), (lambda: nn.Conv2d(8, 16, 3), 72), (lambda: nn.ConvTranspose2d(16, 8, 3), 72)],
)
def test_layers_start_uniform_within_the_root_of_fan_in(make: Any, fan_in: int) -> None:
    layer = make()
    for p in layer.parameters():
        assert np.abs(p.array).max() <= fan_in**-0.5
    assert np.abs(layer.weight.array).max() > 0.95 * fan_in**-0.5
    assert layer.bias.array.std() > 0
    mg.manual_seed(0)
    np.testing.assert_array_equal(make().weight.array, layer.weight.array)


def test_flatten_and_unflatten_undo_each_other() -> None:
    x = normal(2, 3, 4, 5)
    flat = nn.Flatten()(mg.Tensor(x))
    np.testing.assert_array_equal(flat.array, x.reshape(2, -1))
    np.testing.assert_array_equal(nn.Unflatten(3, 4, 5)(flat).array, x)
    with pytest.raises(ValueError, match=re.escape("reshape: (2, 60) holds 120 elements, which do not fill (2, 3, 4)")):
        nn.Unflatten(3, 4)(flat)


def test_upsample_and_pools_by_hand() -> None:
    x = mg.Tensor(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1))
    np.testing.assert_array_equal(nn.Upsample((2, 1))(x).array[0, :, 0, 0], [0, 0, 4, 4, 8, 8, 12, 12])
    np.testing.assert_array_equal(nn.AvgPool2d(2)(x).array[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(nn.MaxPool2d(2)(x).array[0, ..., 0], [[5, 7], [13, 15]])
    np.testing.assert_array_equal(nn.AvgPool2d(2)(nn.Upsample(2)(x)).array, x.array)
    padded = nn.AvgPool2d(2, 2, 1)(x).array[0, ..., 0]  # the zeros of the padding count
    np.testing.assert_array_equal(padded, np.array([[0, 3, 3], [12, 30, 18], [12, 27, 15]]) / 4)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.Conv2d(1, 1, 0), "Conv2d: window must be one or two whole numbers >= 1, not 0"),
        (lambda: nn.Conv2d(1, 1, 3, 0), "Conv2d: stride must be one or two whole numbers >= 1, not 0"),
        (lambda: nn.Conv2d(1, 1, 3, 1, -1), "Conv2d: padding must be one or two whole numbers >= 0, not -1"),
        (lambda: nn.ConvTranspose2d(1, 1, (3, 0)), "ConvTranspose2d: window must be one or two whole numbers >= 1"),
        (
            lambda: nn.Conv2d(3, 8, 4)(mg.zeros((1, 5, 5, 2))),
            "conv2d: x has 2 channels (1, 5, 5, 2) but w expects 3 (4, 4, 3, 8)",
        ),
        (
            lambda: nn.ConvTranspose2d(3, 8, 4)(mg.zeros((1, 5, 5, 2))),
            "conv_transpose2d: y has 2 channels (1, 5, 5, 2) but w expects 3 (4, 4, 8, 3)",
        ),
        (lambda: nn.Linear(3, 8)(mg.zeros((1, 5))), "linear: x has 5 channels (1, 5) but w expects 3 (3, 8)"),
        (lambda: nn.Upsample(0)(mg.zeros((1, 2, 2, 1))), "upsample_nearest: scale must be one or two whole"),
        (lambda: nn.MaxPool2d(3, 1, 2)(mg.zeros((1, 4, 4, 1))), "max_pool2d: padding (2, 2) must be at most half of"),
        (lambda: nn.AvgPool2d(5)(mg.zeros((1, 4, 4, 1))), "avg_pool2d: the window (5, 5) is larger than x"),
    ],
)
def test_errors_of_layers(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        call()


WITH_SLOPES: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda bias: nn.Linear(3, 4, bias), (5, 3)),
    "convolution": (lambda bias: nn.Conv2d(3, 4, 3, bias=bias), (2, 5, 5, 3)),
    "transposed": (lambda bias: nn.ConvTranspose2d(3, 4, 3, bias=bias), (2, 5, 5, 3)),
}


@pytest.mark.parametrize("name", WITH_SLOPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_a_slope_is_that_of_the_activation_behind(name: str, bias: bool, slope: float) -> None:
    make, shape = WITH_SLOPES[name]
    layer, x = make(bias), mg.Tensor(normal(*shape))
    np.testing.assert_allclose(layer(x, slope).numpy(), mg.leaky_relu(layer(x), slope).numpy(), rtol=1e-6)


def test_linear_refuses_a_bias_of_another_width() -> None:
    """One output channel would broadcast, and leave as five."""
    with pytest.raises(ValueError, match=re.escape("(5,)")):
        mg.linear(mg.ones((2, 3)), mg.ones((3, 1)), mg.ones(5))


# ---- dropout and embedding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout(p: float) -> None:
    layer, x = nn.Dropout(p), mg.ones((100, 200))
    y = layer(x).array
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - p)], rtol=1e-6)
    assert abs((y == 0).mean() - p) < 0.01
    assert abs(y.mean() - 1) < 0.05
    assert (layer(x).array != y).any()
    np.testing.assert_array_equal(layer.eval()(x).array, x.array)


def test_dropout_draws_from_its_own_stream() -> None:
    x = mg.ones(100)
    kept = Generator(0, "dropout").uniform(100) >= 0.5
    init = stream("init").counter
    np.testing.assert_array_equal(nn.Dropout(0.5)(x).array, 2.0 * kept)
    assert stream("dropout").counter == 25
    assert stream("init").counter == init
    nn.Dropout(0.5).eval()(x)
    assert stream("dropout").counter == 25


def test_dropout_passes_gradients_where_it_passed_values() -> None:
    x: Any = mg.Tensor(normal(50), requires_grad=True)
    y = nn.Dropout(0.4)(x)
    y.sum().backward()
    np.testing.assert_allclose(x.grad * x.array, y.array, rtol=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, -0.1])
def test_dropout_refuses(p: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"dropout: p must be in [0, 1), not {p}")):
        nn.Dropout(p)(mg.ones(3))


def test_embedding() -> None:
    layer = nn.Embedding(5, 3)
    assert {name: p.shape for name, p in layer.named_parameters()} == {"weight": (5, 3)}
    y = layer(np.array([[4, 0], [4, 1]]))
    assert y.shape == (2, 2, 3)
    np.testing.assert_array_equal(y.array[:, 0], layer.weight.array[[4, 4]])
    y.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad, np.array([1, 1, 0, 0, 2])[:, None] * np.ones(3))
    for indices, low, high in (([0, 5], 0, 5), ([-1, 2], -1, 2)):
        with pytest.raises(IndexError, match=f"indices go from {low} to {high}, but weight has 5 rows"):
            layer(indices)
    with pytest.raises(TypeError, match=r"^embedding: indices must be integers, not float64$"):
        layer([0.5])
    assert abs(nn.Embedding(100, 100).weight.array.std() - 1) < 0.02


# ---- normalisation, against NumPy -----------------------------------------------------------------------------------


def standardized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def randomized(layer: Any) -> Any:
    for seed, p in enumerate(layer.parameters()):
        with p.writing() as array:
            array[...] = normal(*p.shape, seed=10 + seed)
    return layer


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (6, 3)), (nn.BatchNorm2d, (2, 3, 4, 3))])
@pytest.mark.parametrize("momentum", [0.1, 0.4])
def test_batch_norm(kind: Any, shape: Any, momentum: float) -> None:
    layer = randomized(kind(3, eps=1e-3, momentum=momentum))
    mean, var, axes = np.zeros(3), np.ones(3), tuple(range(len(shape) - 1))
    for seed in range(3):
        x = 5 + 2 * normal(*shape, seed=seed)
        y = layer(mg.Tensor(x)).array
        expected = standardized(x, axes, 1e-3) * layer.gamma.array + layer.beta.array
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        mean = (1 - momentum) * mean + momentum * x.mean(axes)
        var = (1 - momentum) * var + momentum * x.var(axes, ddof=1)
        np.testing.assert_allclose(layer.running_mean.array, mean, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var.array, var, rtol=1e-5)
    layer.eval()
    expected = (x - mean) / np.sqrt(var + 1e-3) * layer.gamma.array + layer.beta.array
    np.testing.assert_allclose(layer(mg.Tensor(x)).array, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(mg.Tensor(x[:1])).array, expected[:1], rtol=1e-4, atol=1e-5)  # no batch needed
    np.testing.assert_allclose(layer.running_mean.array, mean, rtol=1e-5)


def test_batch_norm_of_a_large_mean() -> None:
    x = 1000 + normal(64, 4, 4, 2)
    np.testing.assert_allclose(nn.BatchNorm2d(2)(mg.Tensor(x)).array, standardized(x, (0, 1, 2), 1e-5), atol=2e-3)


def test_batch_norm_moves_its_statistics_without_a_graph_too() -> None:
    layer = nn.BatchNorm1d(2)
    with mg.no_grad():
        layer(mg.Tensor(normal(4, 2)))
    assert layer.running_mean.array.any()
    assert not layer.running_mean.requires_grad


def test_batch_norm_refuses() -> None:
    for kind, shape in ((nn.BatchNorm1d, (1, 3)), (nn.BatchNorm2d, (1, 1, 1, 3))):
        layer = kind(3)
        with pytest.raises(
            ValueError,
            match=re.escape(f"batch_norm: training needs at least 2 values a channel, but x {shape} has 1"),
        ):
            layer(mg.zeros(shape))
        assert not layer.running_mean.array.any()
        layer.eval()(mg.zeros(shape))
    for kind, axes, shape in ((nn.BatchNorm1d, 2, (2, 2, 2, 3)), (nn.BatchNorm2d, 4, (2, 3))):
        text = f"{kind.__name__}: x must have {axes} axes, channels last, but is {shape}"
        with pytest.raises(ValueError, match=re.escape(text)):
            kind(3)(mg.zeros(shape))
    for mode in (True, False):
        with pytest.raises(ValueError, match=re.escape("batch_norm: x has 4 channels (2, 4) but gamma is (3,)")):
            nn.BatchNorm1d(3).train(mode)(mg.zeros((2, 4)))


@pytest.mark.parametrize(("kind", "axes"), [(nn.LayerNorm, (1, 2, 3)), (nn.InstanceNorm2d, (1, 2))])
def test_layer_and_instance_norm(kind: Any, axes: tuple[int, ...]) -> None:
    layer, x = randomized(kind(3, eps=1e-3)), 5 + 2 * normal(2, 4, 5, 3)
    expected = standardized(x, axes, 1e-3) * layer.gamma.array + layer.beta.array
    for mode in (True, False):
        np.testing.assert_allclose(layer.train(mode)(mg.Tensor(x)).array, expected, rtol=1e-4, atol=1e-4)
    one_by_one = [layer(mg.Tensor(x[i : i + 1])).array[0] for i in range(2)]
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.InstanceNorm2d])
@pytest.mark.parametrize("channels", [1, 2])
def test_layer_and_instance_norm_refuse_other_channels(kind: Any, channels: int) -> None:
    """One channel would broadcast, and an image of one channel would leave with three."""
    with pytest.raises(ValueError, match=re.escape("(3,)")):
        kind(3)(mg.Tensor(normal(2, 4, 4, channels)))


def test_instance_norm_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=re.escape("instance_norm: x must be (N, H, W, C), but is (2, 3)")):
        nn.InstanceNorm2d(3)(mg.zeros((2, 3)))


# ---- how weights start ----------------------------------------------------------------------------------------------


def test_fans() -> None:
    assert nn.init.fans(mg.zeros((5, 3))) == (5, 3)
    assert nn.init.fans(mg.zeros((4, 2, 5, 3))) == (40, 24)
    with pytest.raises(ValueError, match=re.escape("fans: a weight has at least 2 axes, but this one is (3,)")):
        nn.init.fans(mg.zeros(3))


@pytest.mark.parametrize(
    ("fill", "mean", "std", "bound"),
    [
        (lambda w, g: nn.init.normal_(w, 2.0, 0.5, g), 2.0, 0.5, np.inf),
        (lambda w, g: nn.init.uniform_(w, 1.0, 3.0, g), 2.0, 12**-0.5 * 2, 3.0),
        (lambda w, g: nn.init.kaiming_normal_(w, 0.2, g), 0.0, (2 / (1.04 * 450)) ** 0.5, np.inf),
        (lambda w, g: nn.init.kaiming_uniform_(w, 0.2, g), 0.0, (2 / (1.04 * 450)) ** 0.5, (6 / (1.04 * 450)) ** 0.5),
        (lambda w, g: nn.init.xavier_uniform_(w, g), 0.0, (2 / (450 + 360)) ** 0.5, (6 / (450 + 360)) ** 0.5),
    ],
    ids=["normal", "uniform", "kaiming normal", "kaiming uniform", "xavier uniform"],
)
def test_distributions_of_weights(fill: Any, mean: float, std: float, bound: float) -> None:
    w, n = nn.Parameter(np.zeros((3, 3, 50, 40), np.float32)), 18_000
    assert fill(w, None) is w
    assert abs(w.array.mean() - mean) < 5 * std / n**0.5
    assert abs(w.array.std() / std - 1) < 0.03
    assert np.abs(w.array).max() <= bound * (1 + 1e-6)
    assert w.version == 1
    again, other = (nn.Parameter(np.zeros(w.shape, np.float32)) for _ in range(2))
    fill(again, Generator(0, "init"))  # as the default stream of seed 0
    np.testing.assert_array_equal(again.array, w.array)
    fill(other, None)
    assert (other.array != w.array).any()


def test_constant() -> None:
    w = nn.init.constant_(nn.Parameter(np.zeros((2, 3), np.float64)), 1.5)
    assert (w.array == 1.5).all()
    assert w.dtype == np.float64


def test_dcgan_init() -> None:
    net = nn.Sequential(nn.Conv2d(8, 64, 4), nn.BatchNorm2d(500), nn.Sequential(nn.ConvTranspose2d(64, 8, 4)))
    assert nn.init.dcgan_(net, Generator(1, "init")) is net
    p = {name: parameter.array for name, parameter in net.named_parameters()}
    for name in ("0.weight", "2.0.weight"):
        assert abs(p[name].mean()) < 1e-3
        assert abs(p[name].std() / 0.02 - 1) < 0.03
    assert abs(p["1.gamma"].mean() - 1) < 5e-3
    assert abs(p["1.gamma"].std() / 0.02 - 1) < 0.15
    assert not any(p[name].any() for name in ("0.bias", "1.beta", "2.0.bias"))
    generator = Generator(1, "init")  # drawn in the order of the net
    np.testing.assert_array_equal(p["0.weight"], np.float32(0.02) * generator.normal((4, 4, 8, 64)))
    np.testing.assert_array_equal(p["1.gamma"], 1 + np.float32(0.02) * generator.normal(500))


# ---- the nets of the DCGAN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_size", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 4])
def test_shapes_of_the_dcgan(image_size: int, channels: int, width: int) -> None:
    G = dcgan_generator(image_size, channels, width, latent=5)
    D = dcgan_discriminator(image_size, channels, width)
    images = G(mg.Tensor(normal(2, 5)))
    assert images.shape == (2, image_size, image_size, channels)
    assert np.abs(images.array).max() <= 1
    logits = D(images)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert all(p.grad is not None for net in (G, D) for p in net.parameters())
    assert not any("bias" in name for net in (G, D) for name, _ in net.named_parameters())


def count(net: nn.Module) -> int:
    return sum(p.size for p in net.parameters())


def test_parameters_of_the_64_pixel_nets_by_hand() -> None:
    middle = 4 * 4 * (512 * 256 + 256 * 128 + 128 * 64)
    generator = 4 * 4 * 100 * 512 + middle + 4 * 4 * 64 * 1 + 2 * (512 + 256 + 128 + 64)
    discriminator = 4 * 4 * 1 * 64 + middle + 4 * 4 * 512 * 1 + 2 * (128 + 256 + 512)
    assert (generator, discriminator) == (3_574_656, 2_763_520)
    assert count(dcgan_generator(64, 1, 64, 100)) == generator
    assert count(dcgan_discriminator(64, 1, 64)) == discriminator


def test_weights_of_the_dcgan_come_from_one_generator() -> None:
    a, b, c = (dcgan_generator(28, 1, 2, 5, Generator(seed, "init")) for seed in (3, 3, 4))
    for name, array in a.state_dict().items():
        np.testing.assert_array_equal(array, b.state_dict()[name])
    assert (a.state_dict()["1.weight"] != c.state_dict()["1.weight"]).any()


@pytest.mark.parametrize("make", [dcgan_generator, dcgan_discriminator])
def test_errors_of_the_dcgan(make: Any) -> None:
    with pytest.raises(ValueError, match=r"^dcgan: image size 48 is not one of 28, 32, 64$"):
        make(48)
    for channels, width in ((2, 4), (1, 0)):
        text = f"^dcgan: channels must be 1 or 3 and width at least 1, but are {channels} and {width}$"
        with pytest.raises(ValueError, match=text):
            make(28, channels, width)


def test_lists_of_modules_are_found() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            self.stages = [nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)]
            self.scales = (nn.Parameter(1.0),)
            self.heads = {"left": nn.Linear(1, 1, bias=False)}

    assert list(Tower().state_dict()) == ["scales.0", "stages.0.weight", "stages.1.weight", "heads.left.weight"]
