"""`python -m minigan.doctor`, and what is said where the GPU cannot be used. CuPy is a fake."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minigan import doctor, kernels
from minigan.kernels import device, gpu
from minigan.kernels.device import DEVICES

ROOT = Path(__file__).parents[1]


def raising(error: Exception) -> Any:
    def function(*_: Any) -> Any:
        raise error

    return function


def fake_cupy(
    driver: int = 13000,
    runtime: int = 13020,
    count: Any = lambda: 1,
    capability: tuple[int, int] = (9, 0),
    compiler: Any = lambda: (13, 2),
) -> SimpleNamespace:
    """As much of CuPy as is asked before the first array is made."""
    properties = {"name": b"Imaginary 9000", "totalGlobalMem": 80 << 30, "major": capability[0], "minor": capability[1]}
    calls = SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: runtime,
        getDeviceCount=count,
        getDeviceProperties=lambda number: properties,
    )
    return SimpleNamespace(
        __version__="14.2.0",
        ndarray=type("ndarray", (), {}),
        RawModule=object(),
        cuda=SimpleNamespace(runtime=calls, nvrtc=SimpleNamespace(getVersion=compiler)),
    )


@pytest.fixture(autouse=True)
def no_gpu_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    for kind in [kind for kind, found in DEVICES.items() if found.name == "cuda"]:
        monkeypatch.delitem(DEVICES, kind)


# ---- the GPU ---------------------------------------------------------------------------------------------------


def test_a_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert gpu.connect_gpu() == (cupy, cupy.RawModule)
    assert gpu.describe_gpu() == gpu.GPU("Imaginary 9000", 80 << 30, 90, "14.2.0", "13.2", "13.0")


@pytest.mark.parametrize(
    ("driver", "advice"),
    [
        (None, "pip install 'minigan[cuda13]', after NVIDIA's driver, which is missing, too"),
        (11080, "pip install 'minigan[cuda13]', after a newer driver: this one knows CUDA 11.8 at most"),
        (12040, "pip install 'minigan[cuda12]', which fits this driver"),
        (13010, "pip install 'minigan[cuda13]', which fits this driver"),
        (14000, "pip install 'minigan[cuda13]', which fits this driver"),
    ],
)
def test_without_cupy(monkeypatch: pytest.MonkeyPatch, driver: int | None, advice: str) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(gpu, "driver_version", lambda: driver)
    with pytest.raises(ImportError) as caught:
        gpu.connect_gpu()
    assert str(caught.value) == f"the GPU is reached through CuPy, which is not installed: {advice}"


def test_with_a_broken_cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libstdc++.so.6 is too old')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(ImportError, match=r"^CuPy is installed, but cannot be imported: libstdc\+\+.so.6 is too old$"):
        gpu.connect_gpu()


NO_DEVICE = RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
LOST = RuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (
            fake_cupy(driver=0, count=raising(RuntimeError("cudaErrorInsufficientDriver"))),
            "there is no NVIDIA driver here: install one from https://www.nvidia.com/drivers (in a container: start it "
            "with the GPU, as by docker run --gpus all)",
        ),
        (
            fake_cupy(driver=12040),
            "this CuPy is for CUDA 13, but the driver knows CUDA 12.4 at most: update the driver, or "
            "pip uninstall cupy-cuda13x and pip install 'minigan[cuda12]'",
        ),
        (
            fake_cupy(driver=11080, runtime=12090),
            "this CuPy is for CUDA 12, but the driver knows CUDA 11.8 at most: update the driver",
        ),
        (
            fake_cupy(count=lambda: 0),
            "there is a driver, but CUDA shows this process no GPU; look at CUDA_VISIBLE_DEVICES",
        ),
        (
            fake_cupy(count=raising(NO_DEVICE)),
            "there is a driver, but CUDA shows this process no GPU; look at CUDA_VISIBLE_DEVICES",
        ),
        (fake_cupy(count=raising(LOST)), f"the GPU cannot be used: {LOST}"),
        (
            fake_cupy(capability=(6, 1)),
            "the GPU, Imaginary 9000, has compute capability 6.1; minigan's kernels need 7.5 (Turing, 2018) or newer",
        ),
        (
            fake_cupy(runtime=12090, compiler=raising(RuntimeError("Failure finding libnvrtc.so"))),
            "CuPy does not find NVRTC, the library that compiles kernels; it comes with: pip install 'minigan[cuda12]'",
        ),
    ],
    ids=["no driver", "old driver", "very old driver", "hidden", "no device", "busy", "old GPU", "no NVRTC"],
)
def test_a_gpu_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, cupy: Any, message: str) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(RuntimeError) as caught:
        gpu.connect_gpu()
    assert str(caught.value) == message


def test_nobody_imports_cupy_unasked() -> None:
    program = "import sys, minigan.doctor; print([name for name in sys.modules if name.startswith('cupy')])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.returncode) == ("[]\n", 0), run.stderr


# ---- the report ------------------------------------------------------------------------------------------------


def test_the_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("minigan ")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= doctor.WIDTH
    found = {line.split()[0]: line for line in lines if line.startswith("  ") and line[2] != " "}
    assert {"numpy", "numba", "processor", "cpu", "cuda", "emulator"} <= set(found)
    assert found["cpu"][14:19] == "works"
    assert found["cuda"][14:].startswith("does not    the GPU is reached through CuPy, which is not installed: ")
    assert lines[-1].startswith("Training works on: cpu")


def test_the_gpu_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    with monkeypatch.context() as patch:
        patch.setattr(device, "DEVICES", {})
        assert doctor._cuda() == "Imaginary 9000, 80 GB, compute capability 9.0, CuPy 14.2.0 for CUDA 13.2"


def test_wrong_numbers_and_no_device_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "uniform", lambda *_, out: out.fill(0) or out)
    monkeypatch.setattr(doctor, "describers", lambda: {"cpu": doctor._cpu, "cuda": raising(OSError("lines\n of text"))})
    assert doctor.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[26:] for line in lines[-4:-2]] == [
        f"{doctor._cpu()}: a kernel gives wrong numbers",
        "lines of text",
    ]
    assert lines[-1] == "Training does not work here."


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "numba_available", lambda: False)
    assert doctor.examine("cpu") == ("cpu", True, "NumPy's kernels, which are slow: pip install numba")
