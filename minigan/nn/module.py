"""Module: a thing with parameters. Its attributes say what it is made of; nothing has to be registered.

An attribute that is a Parameter is learned, any other Tensor is a buffer (saved, but not learned: the running
statistics of batch norm), and a Module is a child, whose names come behind its own and a dot. A list, tuple or dict of
these counts too: its elements are named `attribute.0` or `attribute.key`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from .. import kernels
from ..dtypes import FLOATS
from ..tensor import Array, Tensor, values_of

M = TypeVar("M", bound="Module")


class Parameter(Tensor):
    """A tensor that a module learns."""

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        super().__init__(data, requires_grad=True)


class Module:
    """Base of all layers and nets. A subclass sets its parts in `__init__` and defines `forward`."""

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.forward(*args, **kwargs)

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of all attributes, lists, tuples and dicts opened."""
        for name, value in vars(self).items():
            if isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value))
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", item) for key, item in value.items())
            else:
                yield name, value

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly inside this one."""
        return ((name, value) for name, value in self._parts() if isinstance(value, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all inside it."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, module in self.named_modules():
            for name, value in module._parts():
                if isinstance(value, Tensor):
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once, under its first name."""
        seen: set[int] = set()
        for name, tensor in self._named_tensors():
            if isinstance(tensor, Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, tensor) of what is saved, but not learned."""
        return ((name, tensor) for name, tensor in self._named_tensors() if not isinstance(tensor, Parameter))

    def train(self: M, mode: bool = True) -> M:
        """Training behaviour of batch norm and dropout, here and in all modules inside."""
        for module in self.modules():
            module.training = mode
        return self

    def is_training(self) -> bool:
        """`training`, for `forward`: a captured step is recorded anew where it has changed."""
        mode: bool = kernels.branch(self._mode)
        return mode

    def _mode(self) -> bool:
        return self.training

    def eval(self: M) -> M:
        """The opposite of `train`."""
        return self.train(False)

    def requires_grad_(self: M, value: bool = True) -> M:
        """Freezes (False) or thaws all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad = value
        return self

    def apply(self: M, function: Callable[[Module], Any]) -> M:
        """Calls function(module) for every module inside, then for this one."""
        for _, child in self.named_children():
            child.apply(function)
        function(self)
        return self

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self: M, dtype: Any) -> M:
        """Converts parameters and buffers to float32 or float64, in place; gradients are dropped."""
        if np.dtype(dtype) not in FLOATS:
            raise TypeError(f"astype: a module is float32 or float64, not {np.dtype(dtype)}")
        for _, tensor in self._named_tensors():
            tensor.replace(tensor.array.astype(dtype))
        return self

    def to(self: M, device: str) -> M:
        """Moves parameters and buffers to "cpu", "cuda" or "emulator", in place; gradients are dropped.

        Before their optimizer's first step: its own arrays stay where they are.
        """
        device = kernels.checked(device)
        for _, tensor in self._named_tensors():
            if tensor.device != device:
                tensor.replace(kernels.move(tensor.array, device))
        return self

    def state_dict(self) -> dict[str, Array]:
        """NumPy copies of all parameters and buffers by their dotted names."""
        return {name: kernels.host_copy(tensor.array) for name, tensor in self._named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies the arrays of `state` into the parameters and buffers of the same names.

        ValueError, before anything is written, that lists every missing, unexpected and misshapen name.
        """
        own = dict(self._named_tensors())
        state = {name: kernels.to_host(values_of(value)) for name, value in state.items()}
        faults = [f"{name} is missing" for name in own if name not in state]
        faults += [f"{name} is unexpected" for name in state if name not in own]
        for name, tensor in own.items():
            if name in state and np.shape(state[name]) != tensor.shape:
                faults.append(f"{name} has shape {np.shape(state[name])}, but here it is {tensor.shape}")
        if faults:
            raise ValueError(f"load_state_dict: the state does not fit {type(self).__name__}: {'; '.join(faults)}")
        arrays = {name: kernels.move(np.asarray(state[name], t.dtype), t.device) for name, t in own.items()}
        for name, tensor in own.items():
            with tensor.writing() as array:
                array[...] = arrays[name]

    def options(self) -> str:
        """What `repr` shows between the brackets."""
        return ""

    def __repr__(self) -> str:
        count = sum(p.size for p in self.parameters())
        shapes = [f"{k} {v.shape}" for k, v in self._parts() if isinstance(v, Parameter)]
        inside = ", ".join(part for part in (self.options(), *shapes) if part)
        lines = [f"{type(self).__name__}({inside})" + (f"  # {count:,} parameters" if count else "")]
        for name, child in self.named_children():
            lines += [f"  {line}" for line in f"{name}: {child!r}".splitlines()]
        return "\n".join(lines)
