"""Settings of all tests, and a watch over the process-wide switches."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cubins
import hypothesis
import pytest

import minigan as mg
from minigan.kernels import cuda
from minigan.kernels.conv2d import algorithm

# Numba's cache folder is chosen now, before a test gives itself another XDG_CACHE_HOME.
with contextlib.suppress(ImportError):
    importlib.import_module("minigan.kernels.jit")

# deadline: the first call of a kernel compiles it. derandomize: a run is the same everywhere.
hypothesis.settings.register_profile("minigan", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("minigan")


def pytest_collection_finish(session: pytest.Session) -> None:
    """In a run of all tests CUDA kernels are compiled, and their mutants tried, beside the tests before theirs."""
    names = {item.path.name for item in session.items}
    if {"test_autograd.py", "test_cuda_compile.py"} <= names and not session.config.option.collectonly:
        cubins.begin()
        importlib.import_module("cuda_mutants").begin()


@pytest.fixture(autouse=True)
def switches_are_left_as_found() -> Iterator[None]:
    mg.manual_seed(0)
    with mg.kernels.set_conv_precision("fp32"):  # tests of tf32 and bf16 choose those themselves
        yield
        assert mg.kernels.conv_precision() == "fp32", "the test left another precision for convolutions set"
    assert mg.is_recording(), "the test left recording switched off"
    assert mg.kernels.backend() == "auto", "the test left another kernel backend selected"
    assert algorithm._setting == "auto", "the test left another algorithm for convolutions set"


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody's data and nobody's cache, but for the compiled kernels."""
    folder = tmp_path_factory.mktemp("cache")
    compiled = Path(os.environ.get("NUMBA_CACHE_DIR", "none"))
    if compiled.exists():
        (folder / "minigan").mkdir()
        (folder / "minigan" / compiled.name).symlink_to(compiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("MINIGAN_DATA", raising=False)
        yield


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads that kernels run on."""
    numba = pytest.importorskip("numba")
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("this machine has one core")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """(kernel, macros) of each launch of a CUDA kernel."""
    calls: list[tuple[str, Any]] = []
    original = cuda.Source.launch

    def launch(self: Any, kernel: str, grid: Any, block: Any, args: Any, macros: Any, **rest: Any) -> None:
        calls.append((kernel, macros))
        original(self, kernel, grid, block, args, macros, **rest)

    monkeypatch.setattr(cuda.Source, "launch", launch)
    return calls
