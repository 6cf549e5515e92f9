"""What may meet in one op: tensors of one dtype on one device, and numbers, which adapt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import kernels
from .kernels.device import DEVICES
from .tensor import Tensor, values_of


def as_tensors(name: str, inputs: Sequence[Any]) -> Sequence[Tensor]:
    """Wraps numbers, lists and arrays. Numbers take the dtype of the tensors beside them; tensors must agree.

    TypeError for mixed dtypes, ValueError for mixed devices.
    """
    first = values_of(inputs[0]) if inputs else None
    kind, dtype = type(first), getattr(first, "dtype", None)
    if all([isinstance(x, Tensor) and x.array.dtype is dtype and type(x.array) is kind for x in inputs]):
        return inputs  # nearly always
    dtypes = [x.dtype for x in inputs if isinstance(x, (Tensor, np.ndarray)) or type(x) in DEVICES]
    if any([dtype != dtypes[0] for dtype in dtypes]):
        mixed = " and ".join(map(str, dict.fromkeys(dtypes)))
        raise TypeError(f"{name}: dtypes {mixed} do not mix; convert one with .astype(...)")
    if dtypes and dtypes[0].kind in "iub" and any([isinstance(x, float) and not x.is_integer() for x in inputs]):
        raise TypeError(f"{name}: a number with decimals does not mix with {dtypes[0]}; convert with .astype(...)")
    tensors = [x if isinstance(x, Tensor) else Tensor(x, dtype=dtypes[0] if dtypes else None) for x in inputs]
    refuse_mixed_devices(name, tensors)
    return tensors


def refuse_mixed_devices(name: str, inputs: Sequence[Any]) -> None:
    """ValueError if tensors or arrays are on several devices, but for constants of a single number on the CPU."""
    if not DEVICES:
        return
    devices = dict.fromkeys(
        device
        for x in inputs
        if (device := kernels.name_of(values_of(x))) != "cpu" or x.ndim or getattr(x, "node", None) is not None
    )
    if len(devices) > 1:
        there = next(device for device in devices if device != "cpu")
        raise ValueError(f"{name}: tensors on {' and '.join(devices)} do not mix; move one with .to({there!r})")
