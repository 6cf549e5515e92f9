"""The search for the first NaN, for `detect_anomaly()`: which op produced it, called by which line of the program."""

import contextlib
import inspect
import linecache
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Check = Callable[[Any, str, str, str], None]
"""check(array, op, "forward" or "backward", origin): looks at what one pass of an op produced."""

_HERE = os.path.join(Path(__file__).parent, "")
_GAN = os.path.join(_HERE, "gan", "")


def calling_line() -> str:
    """The innermost line of the program that led here, as "file:line: text".

    The program is what lies outside of minigan, and minigan/gan: there the losses are, and a run that was started from
    the command line has no others.
    """
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_GAN) or not (name.startswith(_HERE) or name == contextlib.__file__):
            text = linecache.getline(name, frame.f_lineno, frame.f_globals).strip()
            shown = f"minigan/{name.removeprefix(_HERE)}" if name.startswith(_GAN) else name
            return f"{shown}:{frame.f_lineno}: {text}"
        frame = frame.f_back
    return "an unknown line"


def refuse_nan(array: Any, op: str, when: str, origin: str) -> None:
    """FloatingPointError if there is a NaN in what `op`'s forward or backward pass produced."""
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise FloatingPointError(f"{op}: the {when} pass produced a NaN (shape {array.shape}); called at {origin}")
