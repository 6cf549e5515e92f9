"""Settings of all tests, and a watch over the two process-wide switches."""

import contextlib
import importlib
from collections.abc import Iterator

import hypothesis
import pytest

import minigan as mg

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
