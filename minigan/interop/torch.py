"""Weights from and to PyTorch: state dicts of the PyTorch module that has the same layers under the same names.

What differs is the order of axes, and one name: gamma and beta are PyTorch's `weight` and `bias`.

    Conv2d           (KH, KW, C_in, C_out)  <->  (C_out, C_in, KH, KW)
    ConvTranspose2d  (KH, KW, C_out, C_in)  <->  (C_in, C_out, KH, KW)
    Linear           (C_in, C_out)          <->  (C_out, C_in)

LayerNorm's (C,) are those of GroupNorm(1, C) on images, InstanceNorm2d's of InstanceNorm2d(C, affine=True).

A flattened image is the difficulty: minigan's Flatten and Unflatten take its numbers in the order (H, W, C), PyTorch's
in the order (C, H, W), so the inputs of a Linear behind a Flatten and the outputs of one before an Unflatten have to be
reordered. As matrices, (pixels, channels) and (channels, pixels), the orders are transposes: it is enough to know C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import kernels
from ..nn import (
    ELU,
    AvgPool2d,
    BatchNorm1d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
    Unflatten,
    Upsample,
)
from ..tensor import Array, Tensor

if TYPE_CHECKING:
    import torch

NORMS = (BatchNorm1d, LayerNorm)  # and their subclasses, BatchNorm2d and InstanceNorm2d
NAMES = {"gamma": "weight", "beta": "bias"}
KEEP_CHANNELS = (AvgPool2d, Dropout, ELU, LeakyReLU, MaxPool2d, ReLU, Sigmoid, Softplus, Tanh, Upsample)


def to_torch(module: Module, flattened: Mapping[str, int] | None = None) -> dict[str, torch.Tensor]:
    """Copies of the module's parameters and buffers as PyTorch's `load_state_dict(strict=True)` takes them.

    flattened: {name of a Linear or norm that reads a flattened image: the image's channels}. In a Sequential the layers
    around a Flatten or an Unflatten tell them, but for a Flatten that comes first; a `forward` of your own does not.
    ValueError if a Flatten in a Sequential is of unknown channels, or if channels do not divide what the layer reads.
    """
    import torch

    state = {key: torch.from_numpy(entry.to_torch()) for key, entry in _entries(module, "to_torch", flattened).items()}
    return state | {key: torch.tensor(0) for key in _counters(module)}


def from_torch(module: Module, state: Mapping[str, Any], flattened: Mapping[str, int] | None = None) -> None:
    """Copies the state dict of the PyTorch twin (tensors or arrays) into the module, in the module's dtype.

    flattened: as in `to_torch`. PyTorch's counter of batches, `num_batches_tracked`, is ignored.
    ValueError, before anything is written, that lists every missing, unexpected and misshapen name.
    """
    entries, ignored = _entries(module, "from_torch", flattened), set(_counters(module))
    arrays = {key: _as_array(value) for key, value in state.items() if key not in ignored}
    faults = [f"{key} is missing" for key in entries if key not in arrays]
    faults += [f"{key} is unexpected" for key in arrays if key not in entries]
    for key, entry in entries.items():
        if key in arrays and arrays[key].shape != entry.shape:
            faults.append(f"{key} has shape {arrays[key].shape}, but here it is {entry.shape}")
    if faults:
        raise ValueError(f"from_torch: the state does not fit {type(module).__name__}: {'; '.join(faults)}")
    for key, entry in entries.items():
        with entry.tensor.writing() as own:
            own[...] = kernels.move(np.asarray(entry.from_torch(arrays[key])), entry.tensor.device)


class Entry(NamedTuple):
    """A tensor of the module and how PyTorch lays it out."""

    tensor: Tensor
    axes: tuple[int, ...]  # PyTorch's array is the tensor transposed so
    flat: tuple[tuple[int, int], ...]  # (axis of the tensor, channels of the image that is flattened along it)

    @property
    def shape(self) -> tuple[int, ...]:
        """PyTorch's."""
        return tuple(self.tensor.shape[axis] for axis in self.axes)

    def to_torch(self) -> Array:
        array = kernels.to_host(self.tensor.array)
        for axis, channels in self.flat:
            array = _swap(array, axis, channels)
        return np.array(array.transpose(self.axes), order="C")

    def from_torch(self, array: Array) -> Array:
        array = array.transpose(np.argsort(self.axes))
        for axis, channels in self.flat:
            array = _swap(array, axis, array.shape[axis] // channels)
        return array


def _swap(array: Array, axis: int, inner: int) -> Array:
    """Reads the axis as a matrix of `inner` columns, and writes it column by column."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    return array.reshape(*before, -1, inner, *after).swapaxes(axis, axis + 1).reshape(array.shape)


def _as_array(value: Any) -> Array:
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _counters(module: Module) -> Iterator[str]:
    """PyTorch counts the batches that batch norm has seen; minigan does not."""
    for name, layer in module.named_modules():
        if isinstance(layer, BatchNorm1d):
            yield _join(name, "num_batches_tracked")


def _entries(module: Module, caller: str, flattened: Mapping[str, int] | None) -> dict[str, Entry]:
    """PyTorch's name -> the entry, for every tensor of the module."""
    inputs, outputs = _flat_axes(module, caller, flattened or {})
    entries = {}
    for name, layer in module.named_modules():
        for own, tensor in vars(layer).items():
            if not isinstance(tensor, Tensor):
                continue
            axes, flat = tuple(range(tensor.ndim)), []
            if isinstance(layer, (Conv2d, ConvTranspose2d)) and own == "weight":
                axes = (3, 2, 0, 1)
            if isinstance(layer, Linear) and own == "weight":
                axes = (1, 0)
                if name in inputs:
                    flat.append((0, inputs[name]))
            if name in outputs:
                flat.append((tensor.ndim - 1, outputs[name]))
            for axis, channels in flat:
                if channels < 1 or tensor.shape[axis] % channels:
                    raise ValueError(
                        f"{caller}: axis {axis} of {_join(name, own)} {tensor.shape} is {tensor.shape[axis]} long, "
                        f"which is no flattened image of {channels} channels"
                    )
            entries[_join(name, NAMES.get(own, own) if isinstance(layer, NORMS) else own)] = Entry(
                tensor, axes, tuple(flat)
            )
    return entries


# ---- where images are flattened -----------------------------------------------------------------------------------


def _flat_axes(module: Module, caller: str, given: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """(inputs, outputs): layer -> channels of the flattened image that it reads, and that it makes."""
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    readers = [name for name, layer in module.named_modules() if isinstance(layer, (Linear, *NORMS))]
    for name in given:
        if name not in readers:
            raise ValueError(f"{caller}: flattened names {name!r}, which is no Linear and no norm of this module")
    for chain in _chains("", module):
        channels: int | None = None  # of the image up to here; None: unknown
        flat = False
        for name, layer in chain:
            if isinstance(layer, (Linear, *NORMS)) and (flat or name in given):
                channels = given.get(name, channels)
                if channels is None:
                    raise ValueError(
                        f"{caller}: {name} reads a flattened image whose channels the layers before it do not tell; "
                        f"pass flattened={{{name!r}: channels}}"
                    )
                (inputs if isinstance(layer, Linear) else outputs)[name] = channels
            flat = isinstance(layer, Flatten) or (flat and isinstance(layer, (*NORMS, *KEEP_CHANNELS)))
            if not flat:
                channels = _channels_after(layer, channels)
        made: int | None = None  # channels of the image that an Unflatten will make of what comes out here
        for name, layer in reversed(chain):
            if made is not None and isinstance(layer, (Linear, Embedding, *NORMS)):
                outputs[name] = made
            if isinstance(layer, Unflatten) and len(layer.shape) == 3:
                made = layer.shape[2]
            elif not isinstance(layer, (*NORMS, *KEEP_CHANNELS)):
                made = None
    return inputs, outputs


def _channels_after(layer: Module, channels: int | None) -> int | None:
    """The channels of what a layer makes of an image; None where it cannot be told."""
    if isinstance(layer, Conv2d):
        return layer.weight.shape[3]
    if isinstance(layer, ConvTranspose2d):
        return layer.weight.shape[2]
    if isinstance(layer, Linear):
        return layer.weight.shape[1]
    if isinstance(layer, NORMS):
        return layer.gamma.size
    if isinstance(layer, Unflatten):
        return layer.shape[2] if len(layer.shape) == 3 else None
    return channels if isinstance(layer, KEEP_CHANNELS) else None


def _chains(name: str, module: Module) -> Iterator[list[tuple[str, Module]]]:
    """The layers of the module, in lists that run from front to back: all that a Sequential holds, or one layer."""
    chain = list(_unrolled(name, module))
    yield chain
    for inner, layer in chain:
        for child, part in layer.named_children():
            yield from _chains(_join(inner, child), part)


def _unrolled(name: str, module: Module) -> Iterator[tuple[str, Module]]:
    """The layers of a Sequential, and of the Sequentials in it."""
    if not isinstance(module, Sequential):
        yield name, module
        return
    for child, layer in module.named_children():
        yield from _unrolled(_join(name, child), layer)
