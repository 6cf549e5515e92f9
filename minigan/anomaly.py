"""The search for the first NaN, for `detect_anomaly()`: which op produced it, called by which line of the program."""

import traceback
from pathlib import Path
from typing import Any

import numpy as np

_HERE = str(Path(__file__).parent)


def calling_line() -> str:
    """The innermost line outside of minigan that led here, as "file:line: text"."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_HERE):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "an unknown line"


def refuse_nan(array: Any, op: str, when: str, origin: str) -> None:
    """FloatingPointError if there is a NaN in what `op`'s forward or backward pass produced."""
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise FloatingPointError(f"{op}: the {when} pass produced a NaN (shape {array.shape}); called at {origin}")
