"""Tensors on a device: moving, mixing, training. The emulated device stands for a GPU: it refuses what CuPy refuses."""

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
from minigan.optim import SGD, Adam, RMSprop
from minigan.random import Generator

emulator = pytest.importorskip("minigan.kernels.emulator")
pytestmark = pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")


def on(values: Any, **options: Any) -> mg.Tensor:
    return mg.Tensor(values, **options).to("emulator")


# ---- moving -----------------------------------------------------------------------------------------------------


def test_a_tensor_moves_there_and_back_with_its_gradient() -> None:
    x = mg.Tensor([1.0, -2.0, 3.0], requires_grad=True)
    there = x.to("emulator")
    assert (x.device, there.device) == ("cpu", "emulator")
    assert x.to("cpu") is x
    (there * there).sum().backward()
    assert type(x.grad) is np.ndarray
    np.testing.assert_array_equal(x.grad, [2, -4, 6])
    np.testing.assert_array_equal(there.to("cpu").numpy(), x.numpy())


def test_a_leaf_on_the_device_keeps_its_gradient_there() -> None:
    x = mg.Tensor(on([1.0, 2.0]), requires_grad=True)
    for _ in range(2):  # the second time it is added to
        (3 * x).sum().backward()
    assert kernels.name_of(x.grad) == "emulator"
    np.testing.assert_array_equal(kernels.to_host(x.grad), [6, 6])


def test_what_a_tensor_on_a_device_shows() -> None:
    x = on([[1.5, 2.0]])
    assert repr(x) == "Tensor([[1.5, 2. ]], device='emulator')"
    assert (x[0, 0].item(), float(x[0, 1]), x.shape, x.dtype) == (1.5, 2.0, (1, 2), np.float32)
    assert bool((x > 1.7)[0, 1])
    assert copy.deepcopy(x).device == "emulator"
    assert mg.zeros((2, 2), device="emulator").device == mg.ones(3, device="emulator").device == "emulator"
    for read in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match=r"this tensor is on emulator, where NumPy cannot read it; copy it to the"):
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
    with pytest.raises(ValueError, match=r"\w+: tensors on (emulator and cpu|cpu and emulator) do not mix; move one"):
        f(on([[1.0]]), mg.Tensor([[2.0]]))


def test_numbers_mix_with_every_device() -> None:
    x = on([1.0, 2.0])
    for y in (x + 1, 2 - x, x * np.float32(3), mg.Tensor(2.0) * x, ops.where(x > 1, x, 0.0), x**2, x**-1, x / 3):
        assert (y.device, y.dtype) == ("emulator", np.float32)
    with pytest.raises(ValueError, match="do not mix"):  # its gradient would have to travel
        mg.Tensor(2.0, requires_grad=True) * x


def test_a_gradient_of_the_wrong_device() -> None:
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"gradient is float32 \(2,\) on cpu, but y is float32 \(2,\) on emulator"):
        x.to("emulator").backward(mg.Tensor([1.0, 1.0]))
    x.to("emulator").backward([1.0, 2.0])  # numbers go where they are needed
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
        assert y.device == "emulator"
        np.testing.assert_allclose(y.to("cpu").numpy(), row.reference(*arrays), rtol=1e-9, atol=1e-9)
        mg.gradcheck(row.op, arrays, device="emulator")
        if row.second_order and max((np.size(a) for a in arrays), default=0) <= 40:
            mg.gradgradcheck(row.op, arrays, device="emulator")

    check()


# ---- random numbers, nets, optimizers ---------------------------------------------------------------------------


def test_every_device_draws_the_same_numbers() -> None:
    here, there = Generator(3, "z"), Generator(3, "z")
    np.testing.assert_array_equal(here.uniform((5, 3)), kernels.to_host(there.uniform((5, 3), device="emulator")))
    a, b = here.normal(7), kernels.to_host(there.normal(7, device="emulator"))
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)
    assert here.counter == there.counter


def test_a_module_moves_and_its_state_is_numpys() -> None:
    mg.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 1)).astype(np.float32)
    expected = net(mg.Tensor(x)).numpy()
    mg.manual_seed(0)
    twin = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    assert twin.to("emulator") is twin
    assert {t.device for t in twin.parameters()} | {t.device for _, t in twin.named_buffers()} == {"emulator"}
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
    for device in ("cpu", "emulator"):
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
    assert y.device == "emulator"
    np.testing.assert_allclose(kernels.to_host(y.array), expected, rtol=1e-12)
    np.testing.assert_array_equal(kernels.to_host(p.array), [1, -1])


def test_the_profile_sees_kernels_on_devices(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = on(np.ones((8, 8), np.float32)), on(np.ones((8, 8), np.float32))
    with mg.profile() as p:
        a @ b
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
    for here, there in zip(losses(variant, "cpu"), losses(variant, "emulator"), strict=True):
        assert here.keys() == there.keys()
        for key, value in here.items():
            assert abs(there[key] - value) <= 1e-4 * max(1, abs(value)), (key, value, there[key])


def test_the_example_trains_on_the_device(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "examples/dcgan_mnist.py", "--device", "emulator", "--data", "drawn", "--no-metrics"]
    command += ["--steps", "1", "--width", "1", "--batch-size", "2", "--out", str(out)]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["device"] == "emulator"
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

    monkeypatch.setattr(kernels.connect("emulator").xp, "empty", full)
    with pytest.raises(MemoryError, match=r"^matmul: emulator has no room left: Out of memory.*; use smaller batches$"):
        x @ x


def test_cupy_has_what_the_emulated_arrays_have() -> None:
    cupy = pytest.importorskip("cupy")
    from minigan.kernels.emulator import arrays

    assert [name for name in sorted(arrays.FUNCTIONS) if not hasattr(cupy, name)] == []
    public = [name for name in vars(arrays.ndarray) if not name.startswith("_") and name != "host"]
    assert [name for name in public if not hasattr(cupy.ndarray, name)] == []
    made = [name for name, value in vars(arrays).items() if getattr(value, "__module__", "") == arrays.__name__]
    assert [name for name in made if not name.startswith("_") and not hasattr(cupy, name)] == []


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_the_example_without_a_gpu_says_what_is_missing(tmp_path: Path) -> None:
    """One sentence, before data are looked for or anything is written."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "examples/dcgan_mnist.py", "--device", "cuda", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "dcgan_mnist.py: the GPU is reached through CuPy, which is not installed: pip install"
    )
    assert not (tmp_path / "run").exists()
