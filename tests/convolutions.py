"""What the tests of the convolution kernels share."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigan.kernels import Geometry

NAMES = ("conv2d", "conv_transpose2d", "conv2d_weight")


def random_arrays(N: int, C: int, O: int, g: Geometry, dtype: Any = np.float64) -> tuple[Any, Any, Any]:
    """x, w, y of a geometry."""
    rng = np.random.default_rng(0)
    shapes = (N, *g.x_size, C), (*g.window, C, O), (N, *g.y_size, O)
    x, w, y = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, w, y


def arguments(x: Any, w: Any, y: Any) -> dict[str, tuple[Any, Any]]:
    return {"conv2d": (x, w), "conv_transpose2d": (y, w), "conv2d_weight": (x, y)}


def relative_error(got: Any, expected: Any) -> float:
    """The largest absolute error, divided by the largest absolute value; NaN where either has one."""
    error, scale = (np.abs(a).max(initial=0) for a in (got - expected, expected))
    return float(error / scale) if scale else float(error)


@st.composite
def geometries(draw: st.DrawFn, largest: int) -> Geometry:
    """Strides that leave rows over, paddings wider than the window, inputs that are smaller than it."""

    def axis() -> tuple[int, int, int, int]:
        stride, padding, window = draw(st.integers(1, 3)), draw(st.integers(0, 5)), draw(st.integers(1, 5))
        return stride, padding, window, draw(st.integers(max(1, window - 2 * padding), largest))

    (sh, ph, kh, h), (sw, pw, kw, w) = axis(), axis()
    return Geometry((sh, sw), (ph, pw), (kh, kw), (h, w))


def start_apart(program: str, cache: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts a program in a process of its own that has no compiled code."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What the program has printed when it ends."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def run_apart(program: str, cache: Path, **environment: str) -> str:
    return output_of(start_apart(program, cache, **environment))
