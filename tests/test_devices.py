"""Tensors on a device: moving, mixing, training. The emulated device stands for a GPU (on_device.py)."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, needs_device, only_emulated
from op_table import OPS

import minigan as mg
from minigan import kernels, nn, ops
from minigan.gan import (
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    dcgan_discriminator,
    dcgan_generator,
    gradient_penalty,
    train,
    two_player,
)
from minigan.gan.penalties import interpolates
from minigan.interop.torch import from_torch, to_torch
from minigan.kernels import emulator
from minigan.kernels.gpu import driver_version
from minigan.optim import SGD, Adam, RMSprop
from minigan.random import Generator

pytestmark = needs_device


def on(values: Any, **options: Any) -> mg.Tensor:
    return mg.Tensor(values, **options).to(DEVICE)


# ---- moving -----------------------------------------------------------------------------------------------------


def test_a_tensor_moves_there_and_back_with_its_gradient() -> None:
    x = mg.Tensor([1.0, -2.0, 3.0], requires_grad=True)
    there = x.to(DEVICE)
    assert (x.device, there.device) == ("cpu", DEVICE)
    assert x.to("cpu") is x
    (there * there).sum().backward()
    assert type(x.grad) is np.ndarray
    np.testing.assert_array_equal(x.grad, [2, -4, 6])
    np.testing.assert_array_equal(there.to("cpu").numpy(), x.numpy())


def test_a_leaf_on_the_device_keeps_its_gradient_there() -> None:
    x = mg.Tensor(on([1.0, 2.0]), requires_grad=True)
    for _ in range(2):  # the second time it is added to
        (3 * x).sum().backward()
    assert kernels.name_of(x.grad) == DEVICE
    np.testing.assert_array_equal(kernels.to_host(x.grad), [6, 6])


def test_what_a_tensor_on_a_device_shows() -> None:
    x = on([[1.5, 2.0]])
    assert repr(x) == f"Tensor([[1.5, 2. ]], device={DEVICE!r})"
    assert (x[0, 0].item(), float(x[0, 1]), x.shape, x.dtype) == (1.5, 2.0, (1, 2), np.float32)
    assert bool((x > 1.7)[0, 1])
    assert copy.deepcopy(x).device == DEVICE
    assert mg.zeros((2, 2), device=DEVICE).device == mg.ones(3, device=DEVICE).device == DEVICE
    for read in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match=f"this tensor is on {DEVICE}, where NumPy cannot read it; copy it to the"):
            read()


def test_unknown_devices() -> None:
    with pytest.raises(ValueError, match=r"there is no device 'gpu'; choose one of cpu, cuda, emulator"):
        mg.Tensor(1).to("gpu")
    with pytest.raises(ValueError, match=r"one process uses one GPU.*CUDA_VISIBLE_DEVICES=1 and say 'cuda'"):
        mg.Tensor(1).to("cuda:1")


@pytest.mark.parametrize(
    "f",
    [
        ops.add,
        ops.matmul,
        lambda a, b: ops.concatenate([a, b]),
        lambda a, b: ops.where(b.numpy() > 0, a, a),
        lambda a, b: a > b,
        lambda a, b: a == b.numpy(),
    ],
)
def test_mixed_devices_are_one_sentence(f: Any) -> None:
    with pytest.raises(ValueError, match=rf"\w+: tensors on ({DEVICE} and cpu|cpu and {DEVICE}) do not mix; move one"):
        f(on([[1.0]]), mg.Tensor([[2.0]]))


def test_numbers_mix_with_every_device() -> None:
    x = on([1.0, 2.0])
    for y in (x + 1, 2 - x, x * np.float32(3), mg.Tensor(2.0) * x, ops.where(x > 1, x, 0.0), x**2, x**-1, x / 3):
        assert (y.device, y.dtype) == (DEVICE, np.float32)
    with pytest.raises(ValueError, match="do not mix"):  # its gradient would have to travel
        mg.Tensor(2.0, requires_grad=True) * x


def test_a_gradient_of_the_wrong_device() -> None:
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=rf"gradient is float32 \(2,\) on cpu, but y is float32 \(2,\) on {DEVICE}"):
        x.to(DEVICE).backward(mg.Tensor([1.0, 1.0]))
    x.to(DEVICE).backward([1.0, 2.0])  # numbers go where they are needed
    np.testing.assert_array_equal(x.grad, [1, 2])


# ---- every op ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", OPS, ids=str)
def test_every_op_on_the_device(row: Any) -> None:
    """Value, first and second derivative in float64, on the inputs that the CPU is tested with."""
    from hypothesis import HealthCheck, Phase, given, settings

    phases = [phase for phase in Phase if phase != Phase.shrink]

    @settings(max_examples=1, phases=phases, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
    @given(row.inputs)
    def check(arrays: list[Any]) -> None:
        y = row.op(*[on(a) for a in arrays])
        assert y.device == DEVICE
        np.testing.assert_allclose(y.to("cpu").numpy(), row.reference(*arrays), rtol=1e-9, atol=1e-9)
        mg.gradcheck(row.op, arrays, device=DEVICE)
        if row.second_order and max((np.size(a) for a in arrays), default=0) <= 40:
            mg.gradgradcheck(row.op, arrays, device=DEVICE)

    check()


# ---- random numbers, nets, optimizers ---------------------------------------------------------------------------


def test_every_device_draws_the_same_numbers() -> None:
    here, there = Generator(3, "z"), Generator(3, "z")
    np.testing.assert_array_equal(here.uniform((5, 3)), kernels.to_host(there.uniform((5, 3), device=DEVICE)))
    a, b = here.normal(7), kernels.to_host(there.normal(7, device=DEVICE))
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)
    assert here.counter == there.counter


def test_a_module_moves_and_its_state_is_numpys() -> None:
    mg.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 1)).astype(np.float32)
    expected = net(mg.Tensor(x)).numpy()
    mg.manual_seed(0)
    twin = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    assert twin.to(DEVICE) is twin
    assert {t.device for t in twin.parameters()} | {t.device for _, t in twin.named_buffers()} == {DEVICE}
    np.testing.assert_allclose(twin(on(x)).to("cpu").numpy(), expected, rtol=1e-5, atol=1e-5)
    state = twin.state_dict()
    assert {type(array) for array in state.values()} == {np.ndarray}
    for name, array in net.state_dict().items():
        np.testing.assert_allclose(state[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    twin.load_state_dict({name: 0 * array for name, array in state.items()})
    assert not any(bool(kernels.to_host(p.array).any()) for p in twin.parameters())
    with pytest.raises(ValueError, match="do not mix"):
        twin(mg.Tensor(x))


@pytest.mark.parametrize(
    "make", [SGD, partial(SGD, momentum=0.9), RMSprop, partial(Adam, weight_decay=0.1)], ids=["sgd", "m", "rms", "adam"]
)
def test_optimizers_step_on_the_device_as_on_the_cpu(make: Any) -> None:
    results = []
    for device in ("cpu", DEVICE):
        rng = np.random.default_rng(0)
        params = [mg.Tensor(mg.Tensor(rng.standard_normal(n)).to(device), requires_grad=True) for n in (1, 5, 1500)]
        optimizer = make(params, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            sum((p * p * p).sum() for p in params).backward()
            optimizer.step()
        state = optimizer.state_dict()
        assert all(type(v) is np.ndarray for arrays in state["state"] for v in arrays.values())
        optimizer.load_state_dict(state)
        optimizer.step()
        results.append([p.to("cpu").numpy() for p in params])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


def test_using_the_reference_runs_it_on_copies() -> None:
    x = on(np.random.default_rng(0).standard_normal((4, 5)))
    expected = kernels.to_host(ops.softplus(x).array)
    with kernels.use("reference"):
        y = ops.softplus(x)
        p = mg.Tensor(on([3.0, -3.0]))
        with p.writing() as array:
            kernels.clip_weights([array], 1.0)
    assert y.device == DEVICE
    np.testing.assert_allclose(kernels.to_host(y.array), expected, rtol=1e-12)
    np.testing.assert_array_equal(kernels.to_host(p.array), [1, -1])


def test_the_profile_sees_kernels_on_devices(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = on(np.ones((8, 8), np.float32)), on(np.ones((8, 8), np.float32))
    with mg.profile() as p:
        a @ b
        ops.mean(ops.softplus(mg.Tensor(a, requires_grad=True))).backward()  # constants on the CPU among arguments
        ops.cross_entropy(a, np.arange(8))
    (row,) = [row for row in p.kernels if row.name == "matmul"]
    assert (row.flops, row.bytes) == (2 * 8**3, 3 * 8 * 8 * 4)


def test_anomaly_mode_finds_a_nan_on_the_device() -> None:
    with mg.detect_anomaly(), pytest.raises(FloatingPointError, match="log: the forward pass produced a NaN"):
        ops.log(on([-1.0]))


# ---- training ---------------------------------------------------------------------------------------------------


def losses(variant: str, device: str, steps: int = 5) -> list[dict[str, float]]:
    """What `steps` steps of a tiny GAN log, in float32."""
    critic = variant != "gan"
    init = Generator(0, "init")
    G = dcgan_generator(28, 1, 2, 4, init).to(device)
    D = dcgan_discriminator(28, 1, 2, init, batch_norm=variant != "wgan-gp").to(device)
    optimizer = partial(RMSprop, lr=1e-3) if variant == "wgan-clip" else partial(Adam, lr=1e-3, betas=(0.5, 0.9))
    players = two_player(
        G,
        D,
        WASSERSTEIN if critic else NON_SATURATING,
        optimizer(G.parameters()),
        optimizer(D.parameters()),
        penalty=partial(gradient_penalty, generator=Generator(0, "penalty")) if variant == "wgan-gp" else None,
        clip=0.05 if variant == "wgan-clip" else None,
    )
    rng = np.random.default_rng(0)
    images = [rng.uniform(-1, 1, (3, 28, 28, 1)).astype(np.float32) for _ in range(steps)]
    found: list[dict[str, float]] = []
    train(
        Game(iter(images), Generator(0, "latent"), 4, 3, device), players, steps, [lambda _, logs: found.append(logs)]
    )
    return found


@pytest.mark.parametrize("variant", ["gan", "wgan-clip", "wgan-gp"])
def test_training_on_the_device_logs_the_cpus_losses(variant: str) -> None:
    """Five steps through the CUDA host code and the CUDA kernels."""
    for here, there in zip(losses(variant, "cpu"), losses(variant, DEVICE), strict=True):
        assert here.keys() == there.keys()
        for key, value in here.items():
            assert abs(there[key] - value) <= 1e-4 * max(1, abs(value)), (key, value, there[key])


def test_the_example_trains_on_the_device(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "examples/dcgan_mnist.py", "--device", DEVICE, "--data", "drawn", "--no-metrics"]
    command += ["--steps", "1", "--width", "1", "--batch-size", "2", "--out", str(out)]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["settings"]["device"] == DEVICE
    assert (out / "samples" / "step_000001.png").exists()


@pytest.fixture(autouse=True)
def disconnected() -> Iterator[None]:
    """Other test files find no device in use."""
    yield
    kernels.device.DEVICES.clear()  # type: ignore[attr-defined]


def test_a_device_without_room_says_which_op_wanted_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = on(np.ones((4, 4), np.float32))

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("Out of memory allocating 64 bytes (allocated so far: 1024 bytes).")

    monkeypatch.setattr(kernels.connect(DEVICE).xp, "empty", full)
    with pytest.raises(
        MemoryError, match=rf"^matmul: {DEVICE} has no room left: Out of memory.*; use smaller batches$"
    ):
        x @ x


def test_cupy_has_what_the_emulated_arrays_have() -> None:
    cupy = pytest.importorskip("cupy")
    from minigan.kernels.emulator import arrays

    assert [name for name in sorted(arrays.FUNCTIONS) if not hasattr(cupy, name)] == []
    public = [name for name in vars(arrays.ndarray) if not name.startswith("_") and name != "host"]
    assert [name for name in public if not hasattr(cupy.ndarray, name)] == []
    made = [name for name, value in vars(arrays).items() if getattr(value, "__module__", "") == arrays.__name__]
    assert [name for name in made if not name.startswith("_") and not hasattr(cupy, name)] == []


@pytest.mark.skipif(driver_version() is not None, reason="there is an NVIDIA driver")
def test_the_example_without_a_gpu_says_what_is_missing(tmp_path: Path) -> None:
    """One sentence, before data are looked for or anything is written."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "examples/dcgan_mnist.py", "--device", "cuda", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    there = "there is no NVIDIA driver here: install one from https://www.nvidia.com/drivers"
    missing = "the GPU is reached through CuPy, which is not installed: pip install 'minigan[cuda13]'"
    assert done.stderr.startswith(f"dcgan_mnist.py: {there if importlib.util.find_spec('cupy') else missing}")
    assert not (tmp_path / "run").exists()


# ---- what a review found ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_training_on_copies(backend: str) -> None:
    """Gradients that are broadcast views, optimizers that write in place, and results in one of the arguments."""
    with kernels.use(backend):
        x = mg.Tensor(on(np.arange(9.0).reshape(3, 3)), requires_grad=True)
        optimizer = Adam([x], lr=0.5)
        (ops.leaky_relu(x) * x).mean().backward()
        optimizer.step()
        np.testing.assert_allclose(kernels.to_host(x.array)[0], [0, 0.5, 1.5])
        b = on([1.0, 2.0, 3.0]).array
        assert kernels.add(b, b, out=b) is b
        kernels.add(b[:2], b[1:], out=b[1:])
    np.testing.assert_array_equal(kernels.to_host(b), [2, 6, 10])


def test_unknown_names_are_refused_everywhere() -> None:
    for use in (
        lambda: kernels.connect("gpu"),
        lambda: kernels.move(np.zeros(2), "gpu"),
        lambda: Generator(0, "z").normal(3, device="gpu"),
        lambda: mg.zeros(3, device="gpu"),
        lambda: nn.Linear(1, 1).to("gpu"),
    ):
        with pytest.raises(ValueError, match="there is no device 'gpu'; choose one of cpu, cuda, emulator"):
            use()


@only_emulated
def test_no_device_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.DEVICES.clear()
    monkeypatch.setattr(emulator, "available", lambda: False)
    with pytest.raises(RuntimeError, match=r"the emulator compiles CUDA kernels with g\+\+, on Linux: install g\+\+"):
        kernels.connect("emulator")


@pytest.mark.parametrize(
    "f",
    [
        lambda d, c: ops.add(d, [1.0, 2.0]),
        lambda d, c: ops.maximum(d, [1.0, 2.0]),
        lambda d, c: ops.concatenate([d, [1.0, 2.0]]),
        lambda d, c: d.__setitem__(slice(None), c.numpy()),
        lambda d, c: c.__setitem__(0, d[0]),
        lambda d, c: interpolates(d.array, c.array, Generator(0, "e")),
        lambda d, c: mg.batch_norm(d.reshape(2, 1), c[:1], c[:1]),
        lambda d, c: ops.bias_act(d, c, 0.0),
    ],
)
def test_more_that_does_not_mix(f: Any) -> None:
    with pytest.raises(ValueError, match=rf"(on|and) ({DEVICE}|cpu) do not mix; move one with .to\('{DEVICE}'\)"):
        f(on([1.0, 2.0]), mg.Tensor([1.0, 2.0]))


def test_item_assignment() -> None:
    d, c = on(np.zeros((3, 2), np.float32)), mg.Tensor([7.0, 8.0])
    d[0], d[1, 1], d[2] = [1, 2], 5, on([3.0, 4.0])
    d[1, 0] = c[0]  # a constant of a single number
    np.testing.assert_array_equal(kernels.to_host(d.array), [[1, 2], [7, 5], [3, 4]])
    with pytest.raises(IndexError, match="index 9 is out of bounds"):  # CuPy alone would wrap around
        d[np.array([9])] = 1
    assert bool((d[0, 0] == mg.Tensor(1.0)).array)


def test_indices_come_from_the_cpu_or_from_beside_the_tensor() -> None:
    d, c = on([1.0, 2.0, 3.0]), mg.Tensor([1.0, 2.0, 3.0])
    for index in ([0, 2], np.array([True, False, True]), c != 2, d != 2, on(np.array([0, 2]))):
        np.testing.assert_array_equal(kernels.to_host(d[index].array), [1, 3])
    with pytest.raises(ValueError, match=rf"an index on {DEVICE} is of no use on cpu; move it with .to\('cpu'\)"):
        c[d > 1]


def test_an_optimizer_whose_parameters_moved() -> None:
    net = nn.Linear(2, 2)
    optimizer = Adam(net.parameters())
    net(np.ones((1, 2), np.float32)).sum().backward()
    optimizer.step()
    net.to(DEVICE)
    net(on(np.ones((1, 2), np.float32))).sum().backward()
    with pytest.raises(
        ValueError, match=rf"adam: .* are on {DEVICE} and cpu; .*load_state_dict.* brings its state along"
    ):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()


def test_states_of_arrays_and_tensors_from_any_device() -> None:
    here, there = nn.Linear(2, 3), nn.Linear(2, 3).to(DEVICE)
    here.load_state_dict({name: tensor.array for name, tensor in there.named_parameters()})
    np.testing.assert_array_equal(here.weight.numpy(), there.weight.to("cpu").numpy())
    there.load_state_dict(dict(here.named_parameters()))


def test_weights_for_pytorch_and_back() -> None:
    here, there = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3).to(DEVICE)
    from_torch(there, to_torch(here))
    for a, b in zip(to_torch(here).values(), to_torch(there).values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(driver_version() is not None, reason="there is an NVIDIA driver")
def test_an_array_of_cupys_asks_for_the_gpu() -> None:
    """Before anybody has named the device; here, where there is none, in its sentence."""

    class ndarray:  # noqa: N801
        __module__ = "cupy"
        dtype = np.dtype(np.float32)

        def __array__(self, *_: Any, **__: Any) -> Any:
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    with pytest.raises((ImportError, RuntimeError), match="the GPU is reached through CuPy|no NVIDIA driver here"):
        mg.Tensor(ndarray())
