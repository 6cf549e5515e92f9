"""The device that tests of CUDA code run on: the emulator, or what MINIGAN_TEST_DEVICE names ("cuda")."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from minigan import kernels
from minigan.kernels import emulator

DEVICE = os.environ.get("MINIGAN_TEST_DEVICE", "emulator")

needs_device = pytest.mark.skipif(
    DEVICE == "emulator" and not emulator.available(), reason="the emulator needs g++, which is not installed"
)
only_emulated = pytest.mark.skipif(DEVICE != "emulator", reason="looks into the emulator")

WAYS: list[dict[str, Any]] = [{"order": "forward"}, {"order": "reverse"}, {"order": "random", "check": True}]
"""How the emulator runs threads; in check mode a race raises although the result may be right."""

CHECKED: list[dict[str, Any]] = [{"order": "reverse", "check": True}, WAYS[-1]]
"""Two orders in check mode: another mode would have to be compiled, too."""


@contextmanager
def run(way: dict[str, Any]) -> Iterator[None]:
    """Launches inside go that way. On a GPU there is only one."""
    if DEVICE == "emulator":
        with emulator.running(**way):
            yield
    else:
        yield


def send(value: Any) -> Any:
    """The arrays in an argument, those of lists included, as arrays of the device; what is transposed stays so."""
    if type(value) in (list, tuple):
        return type(value)(map(send, value))
    if isinstance(value, np.ndarray):
        transposed = value.ndim >= 2 and not value.flags.c_contiguous and value.T.flags.c_contiguous
        return kernels.move(value.T, DEVICE).T if transposed else kernels.move(value, DEVICE)
    return value


def fetch(value: Any) -> Any:
    """The arrays in a value back on the host."""
    if type(value) in (list, tuple):
        return type(value)(map(fetch, value))
    return kernels.to_host(value)
