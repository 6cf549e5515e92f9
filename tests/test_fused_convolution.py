"""What a convolution does on a device before it stores its result, and that the CPU's way is what it was.

Kernels are tested by the table (kernel_cases.py), derivatives of any order by that of the ops (op_table.py); here is
who uses them.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import kernels, nn
from minigan.kernels import KERNELS, Geometry
from minigan.ops.conv import Conv2dBiasAct, Conv2dStatistics, ConvTranspose2dBiasAct

pytestmark = needs_device


@pytest.fixture(autouse=True)
def disconnected() -> Iterator[None]:
    """Other test files find no device in use."""
    yield
    kernels.device.DEVICES.clear()  # type: ignore[attr-defined]


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def there_and_back(few: int = 2, some: int = 4, last: int = 3) -> nn.Sequential:
    """A bias with an activation, statistics with one and without, and a bias alone.

    Of the images here most have few channels, for which a device has kernels of their own.
    """
    mg.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(few, some, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(some, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, some, 4, 2, 1, bias=False), nn.BatchNorm2d(some), nn.Tanh(),
        nn.ConvTranspose2d(some, last, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(last, 1, 3),
    )  # fmt: skip


ON_TENSOR_CORES = 8, 12, 6
"""Channels of a net like that without few of them; 6 are no multiple of 4."""


LARGE = {name for name, kernel in KERNELS.items() if kernel.folder in ("conv2d", "activation")} | {
    *("batch_norm_statistics", "batch_norm_apply", "batch_norm_backward"),
}
"""Kernels that go over images, but for sums."""


def called(run: Callable[[], Any]) -> list[str]:
    """Which of them it calls, in order."""
    with mg.profile() as p:
        run()
    return [e.name for e in p.events if e.kind == "kernel" and e.name in LARGE]


def forward(net: nn.Module, device: str, x: np.ndarray | None = None) -> list[str]:
    moved = mg.Tensor(images(3, 8, 8, 2) if x is None else x).to(device)
    with mg.no_grad():
        return called(lambda: net.to(device)(moved))


# ---- who uses them ----------------------------------------------------------------------------------------------


def test_on_a_device_a_net_calls_the_fused_kernels() -> None:
    assert forward(there_and_back(), DEVICE) == [
        "conv2d_bias_act",
        *("conv2d_statistics", "batch_norm_apply"),
        *("conv_transpose2d_statistics", "batch_norm_apply", "tanh"),
        "conv_transpose2d_bias_act",
        "conv2d_bias_act",
    ]


def test_on_the_cpu_a_net_calls_what_it_called_before() -> None:
    assert forward(there_and_back(), "cpu") == [
        *("conv2d", "bias_act"),
        *("conv2d", "batch_norm_statistics", "batch_norm_apply"),
        *("conv_transpose2d", "batch_norm_statistics", "batch_norm_apply", "tanh"),
        *("conv_transpose2d", "bias_act"),
        "conv2d",
    ]


def test_the_backward_pass_calls_the_trio() -> None:
    net, x = there_and_back().to(DEVICE), mg.Tensor(images(3, 8, 8, 2)).to(DEVICE)
    y = net(x).sum()
    backward = called(y.backward)
    assert [name for name in backward if name.startswith("conv")] == [
        *("conv2d_weight", "conv_transpose2d"),
        *("conv2d_weight", "conv2d"),
        *("conv2d_weight", "conv2d"),
        *("conv2d_weight", "conv_transpose2d"),
        "conv2d_weight",  # nobody asks for the gradient of the images
    ]
    assert [name for name in backward if not name.startswith("conv")] == [
        "bias_act_backward", "tanh_backward", "batch_norm_backward", "batch_norm_backward", "bias_act_backward",
    ]  # fmt: skip


def test_the_device_computes_what_the_cpu_does() -> None:
    """The output, first derivatives, those of a gradient penalty, and running statistics."""
    x = images(3, 8, 8, 2)
    found = []
    for device in ("cpu", DEVICE):
        net = there_and_back().to(device)
        moved = mg.Tensor(mg.Tensor(x).to(device), requires_grad=True)
        y, weights = net(moved), list(net.parameters())
        plain = mg.grad((y * y).sum(), [moved, *weights], retain_graph=True)
        (gx,) = mg.grad((y * y).sum(), [moved], create_graph=True)
        second = mg.grad(((gx * gx).sum() - 1) ** 2, [moved, *weights], allow_unused=True)
        found.append([t.to("cpu").numpy() for t in (y, *plain, gx, *second, *dict(net.named_buffers()).values())])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=2e-5 * max(1.0, float(np.abs(here).max())))


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 5e-3), ("bf16", 5e-2)])
def test_on_tensor_cores_a_net_computes_what_the_cpu_does_but_for_rounding(
    precision: str, tolerance: float, launched: list[tuple[str, Any]]
) -> None:
    x, found = images(3, 8, 8, 8), []
    for device in ("cpu", DEVICE):
        net = there_and_back(*ON_TENSOR_CORES).to(device)
        with kernels.set_conv_precision(precision):
            y = net(mg.Tensor(x).to(device))
            gradients = mg.grad((y * y).sum(), list(net.parameters()))
        found.append([t.to("cpu").numpy() for t in (y, *gradients, *dict(net.named_buffers()).values())])
    assert {"conv2d_mma", "conv_transpose2d_mma", "conv2d_weight_mma"} <= {name for name, _ in launched}
    for here, there in zip(*found, strict=True):
        assert np.linalg.norm(there - here) < tolerance * np.linalg.norm(here)


class Classifier:
    """The net and an optimizer; its step takes a gradient's gradient."""

    def __init__(self, *channels: int) -> None:
        self.net = there_and_back(*channels).to(DEVICE)
        self.optimizer = mg.optim.Adam(self.net.parameters(), lr=0.01)

    def step(self, x: mg.Tensor) -> mg.Tensor:
        points = mg.Tensor(x.array, requires_grad=True)
        y = self.net(points)
        (gx,) = mg.grad(y.sum(), [points], create_graph=True)
        loss: mg.Tensor = (y * y).mean() + (gx * gx).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


@pytest.mark.parametrize(("channels", "precision"), [((2, 4, 3), "fp32"), (ON_TENSOR_CORES, "tf32")])
def test_a_captured_step_is_the_step(channels: tuple[int, ...], precision: str) -> None:
    """To the bit, in training mode and in the other one."""
    plain, other = Classifier(*channels), Classifier(*channels)
    step = mg.capture(other.step)
    with kernels.set_conv_precision(precision):
        for number, training in enumerate((True, True, True, False, False, False, True)):
            for one in (plain, other):
                one.net.train(training)
            x = mg.Tensor(images(3, 8, 8, channels[0], seed=number)).to(DEVICE)
            assert plain.step(x).item() == step(x).item()
            for (name, a), b in zip(plain.net.state_dict().items(), other.net.state_dict().values(), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=name)
    assert len(step.recordings) == 2


# ---- who does not -----------------------------------------------------------------------------------------------


def test_statistics_are_computed_only_where_they_are_used() -> None:
    bare, norm = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)

    class Doubled(nn.Conv2d):
        def forward(self, *args: Any, **options: Any) -> mg.Tensor:
            return 2 * super().forward(*args, **options)

    class Normed(nn.BatchNorm2d):
        pass

    patched = nn.Conv2d(2, 4, 3, bias=False)
    patched.forward = lambda x: 3 * bare(x)  # type: ignore[method-assign, assignment, misc]
    listening = nn.BatchNorm2d(4)
    listening.forward = lambda x: x  # type: ignore[method-assign, assignment, misc]
    plain = ["conv2d", "batch_norm_statistics", "batch_norm_apply"]
    assert forward(nn.Sequential(bare, norm), DEVICE) == ["conv2d_statistics", "batch_norm_apply"]
    assert forward(nn.Sequential(bare, norm.eval()), DEVICE) == ["conv2d"]
    norm.train()
    assert forward(nn.Sequential(Doubled(2, 4, 3, bias=False), norm), DEVICE) == plain
    assert forward(nn.Sequential(patched, norm), DEVICE) == plain
    assert forward(nn.Sequential(bare, Normed(4)), DEVICE) == plain
    assert forward(nn.Sequential(bare, listening), DEVICE) == ["conv2d"]
    assert forward(nn.Sequential(nn.Conv2d(2, 4, 3), norm), DEVICE) == ["conv2d_bias_act", *plain[1:]]
    assert forward(nn.Sequential(nn.SpectralNorm(bare), norm), DEVICE) == plain
    apart = nn.Sequential(nn.Sequential(bare), norm)
    assert forward(apart, DEVICE) == plain


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_a_batch_too_small_for_batch_norm(device: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4)).to(device)
    for count, shape in ((0, (0, 1, 1, 4)), (1, (1, 1, 1, 4))):
        message = f"batch_norm: training needs at least 2 values a channel, but x {shape} has {count}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            net(mg.zeros((count, 3, 3, 2), device=device))


def test_a_wrapped_layer_and_its_activation() -> None:
    """The weight is another one in each call: it is no leaf."""
    found = []
    for device in ("cpu", DEVICE):
        mg.manual_seed(0)
        net = nn.Sequential(nn.SpectralNorm(nn.Conv2d(2, 4, 3)), nn.LeakyReLU(0.2)).to(device)
        y = net(mg.Tensor(images(3, 8, 8, 2)).to(device))
        (y * y).sum().backward()
        gradients = [mg.Tensor.of(p.grad) for p in net.parameters()]
        found.append([t.to("cpu").numpy() for t in (y, *gradients)])
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)


# ---- the ops ----------------------------------------------------------------------------------------------------

G = Geometry((2, 2), (1, 1), (4, 4), (6, 8))


def arguments(*trained: str) -> list[mg.Tensor]:
    """x, w and b of a convolution."""
    shapes = {"x": (2, 6, 8, 3), "w": (4, 4, 3, 5), "b": (5,)}
    return [mg.Tensor(images(*shape), requires_grad=name in trained) for name, shape in shapes.items()]


def test_what_nobody_will_ask_for_is_not_kept() -> None:
    for trained, kept in (("xwb", "xw"), ("xb", "w"), ("wb", "x"), ("b", ""), ("x", "w")):
        x, w, b = arguments(*trained)
        node = Conv2dBiasAct(G, None, 0.2)
        node(x, w, b)
        assert [t is a for t, a in zip(node.inputs, (x, w), strict=True)] == [letter in kept for letter in "xw"]
    assert Conv2dBiasAct(G, None, 1.0).saves_output is False  # nor is the output, if the bias is all


def test_a_bias_may_change_before_the_backward_pass() -> None:
    x, w, b = arguments("w", "b")
    y = Conv2dBiasAct(G, None, 0.2)(x, w, b).sum()
    with b.writing() as array:
        array += 1
    y.backward()
    y = Conv2dBiasAct(G, None, 0.2)(x, w, b).sum()
    with x.writing() as array:
        array += 1
    with pytest.raises(RuntimeError, match=r"^conv2d_bias_act: its input of shape \(2, 6, 8, 3\) was modified in pla"):
        y.backward()


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    x, w, b = arguments("x", "w", "b")
    y = Conv2dBiasAct(G, None, 0.2)(x, w, b).sum()
    for wanted, expected in (
        (x, ["leaky_relu_backward", "conv_transpose2d"]),
        (w, ["leaky_relu_backward", "conv2d_weight"]),
        (b, ["bias_act_backward"]),
    ):
        assert called(lambda wanted=wanted: mg.grad(y, [wanted], retain_graph=True)) == expected


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_without_the_bias_equal_those_with_it(transposed: bool) -> None:
    """And the recorded ones the plain ones."""
    kind = ConvTranspose2dBiasAct if transposed else Conv2dBiasAct
    shapes = ((2, 3, 4, 5) if transposed else (2, 6, 8, 3)), (4, 4, 3, 5), ((3,) if transposed else (5,))
    xs = [mg.Tensor(images(*shape).astype(np.float64), requires_grad=True) for shape in shapes]
    whole = mg.grad((kind(G, None, 0.2)(*xs) ** 2).sum(), xs, create_graph=True)
    for some in ([0], [1], [2], [0, 1], [1, 2]):
        part = mg.grad((kind(G, None, 0.2)(*xs) ** 2).sum(), [xs[i] for i in some])
        for i, g in zip(some, part, strict=True):
            np.testing.assert_allclose(g.array, whole[i].array, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_biases_and_slopes_that_do_not_fit(device: str) -> None:
    x, w, y = (mg.zeros(shape, device=device) for shape in ((2, 6, 8, 3), (4, 4, 3, 5), (2, 3, 4, 5)))
    bias = mg.zeros(4, device=device)
    for call, message in (
        (lambda: mg.conv2d(x, w, bias, 2, 1), "conv2d: bias has shape (4,) but the output has 5 channels (2, 3, 4, 5)"),
        (
            lambda: mg.conv_transpose2d(y, w, bias, 2, 1, slope=0.2),
            "conv_transpose2d: bias has shape (4,) but the output has 3 channels (2, 6, 8, 3)",
        ),
        (lambda: mg.conv2d(x, w, slope=-0.5), "conv2d: slope must be >= 0, not -0.5; leaky_relu takes others"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
    with pytest.raises(TypeError, match=r"^conv2d: bias must be a tensor \(5,\), not 2; name stride= and padding=$"):
        mg.conv2d(x, w, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtypes float32 and float64 do not mix"):
        mg.conv2d(x, w, mg.zeros(5, device=device).astype(np.float64), 2, 1)


def test_batch_norm_with_statistics_that_somebody_has() -> None:
    x = mg.Tensor(2 + images(3, 4, 5, 6).astype(np.float64), requires_grad=True)
    gamma, beta = (mg.Tensor(images(6, seed=s).astype(np.float64), requires_grad=True) for s in (1, 2))
    known = kernels.batch_norm_statistics(x.array)
    running = [[mg.zeros(6).astype(np.float64), mg.ones(6).astype(np.float64)] for _ in range(2)]
    own = mg.batch_norm(x, gamma, beta, *running[0], slope=0.2)
    given = mg.batch_norm(x, gamma, beta, *running[1], slope=0.2, statistics=known)
    for f in (lambda y: [y], lambda y: mg.grad((y**2).sum(), [x, gamma, beta], create_graph=True)):
        for a, b in zip(f(own), f(given), strict=True):
            np.testing.assert_array_equal(a.array, b.array)
    for a, b in zip(*running, strict=True):
        np.testing.assert_array_equal(a.array, b.array)
    assert "batch_norm_statistics" not in called(lambda: mg.batch_norm(x, gamma, beta, statistics=known))
    message = "batch_norm: statistics must be float64 (6,), mean and variance of x, not float64 (5,)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mg.batch_norm(x, gamma, beta, statistics=(known[0][:5], known[1]))


def test_statistics_beside_a_convolution() -> None:
    x, w, _ = arguments("x", "w")
    node = Conv2dStatistics(G)
    y = node(x, w)
    assert node.name == "conv2d_statistics"
    for a, b in zip(node.statistics, kernels.batch_norm_statistics(y.array), strict=True):
        np.testing.assert_array_equal(a, b)
    plain = mg.grad((mg.conv2d(x, w, None, 2, 1) ** 2).sum(), [x, w])
    for a, b in zip(mg.grad((y**2).sum(), [x, w]), plain, strict=True):
        np.testing.assert_array_equal(a.array, b.array)


# ---- the kernels ------------------------------------------------------------------------------------------------


def test_arguments_that_the_device_refuses() -> None:
    def on(*shape: int, dtype: Any = np.float32) -> Any:
        return kernels.move(np.zeros(shape, dtype), DEVICE)

    x, w, y, b = on(2, 6, 8, 3), on(4, 4, 3, 5), on(2, 3, 4, 5), on(5)
    refused: list[tuple[type[Exception], Callable[[], Any], str]] = [
        (
            ValueError,
            lambda: kernels.conv2d_bias_act(x, w, on(3), 0.2, G),
            "conv2d_bias_act: the result is float32 (2, 3, 4, 5), so b must be float32 (5,), not float32 (3,)",
        ),
        (
            ValueError,
            lambda: kernels.conv_transpose2d_bias_act(y, w, on(3, dtype=np.float64), 0.2, G),
            "conv_transpose2d_bias_act: the result is float32 (2, 6, 8, 3), so b must be float32 (3,), "
            "not float64 (3,)",
        ),
        (
            ValueError,
            lambda: kernels.conv2d_bias_act(y, w, b, 0.2, G),
            "conv2d_bias_act: x has shape (2, 3, 4, 5) but the geometry expects (2, 6, 8, 5)",
        ),
        (
            TypeError,
            lambda: kernels.conv_transpose2d_statistics(on(2, 3, 4, 5, dtype=np.float64), w, G),
            "conv_transpose2d_statistics: y is float64 and w is float32, but both must be float32 or both float64; "
            "convert with astype",
        ),
        (
            ValueError,
            lambda: kernels.conv2d_statistics(x, w, G, out=(x, b, b)),
            "conv2d_statistics: writes into a C-contiguous float32 (2, 3, 4, 5), not a float32 (2, 6, 8, 3)",
        ),
        (
            ValueError,
            lambda: kernels.conv2d_statistics(x[:0], w, G),
            "conv2d_statistics: y (0, 3, 4, 5) is empty and has no mean",
        ),
        (
            ValueError,
            lambda: kernels.conv_transpose2d_statistics(y[:0], w, G),
            "conv_transpose2d_statistics: x (0, 6, 8, 3) is empty and has no mean",
        ),
    ]
    for error, call, message in refused:
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            call()
