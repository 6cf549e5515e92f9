"""Settings of all tests, and a watch over the three process-wide switches."""

import contextlib
import importlib
from collections.abc import Iterator

import hypothesis
import pytest

import minigan as mg
from minigan.kernels.conv2d import algorithm

# Numba's cache folder is chosen now, before a test gives itself another XDG_CACHE_HOME.
with contextlib.suppress(ImportError):
    importlib.import_module("minigan.kernels.jit")

# deadline: the first call of a kernel compiles it. derandomize: a run is the same everywhere.
hypothesis.settings.register_profile("minigan", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("minigan")


@pytest.fixture(autouse=True)
def switches_are_left_as_found() -> Iterator[None]:
    mg.manual_seed(0)
    yield
    assert mg.is_recording(), "the test left recording switched off"
    assert mg.kernels.backend() == "auto", "the test left another kernel backend selected"
    assert algorithm._setting == "auto", "the test left another algorithm for convolutions set"


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
