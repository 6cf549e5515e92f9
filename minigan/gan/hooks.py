"""What is done around a player's updates: gradients clipped before, weights averaged and learning rates lowered after.

A hook is called without arguments; `Player.before` and `Player.after` list them (train.py). What a hook must remember
to go on exactly, it says in its `state_dict`.
"""

import copy
from collections.abc import Iterable
from math import inf, sqrt
from typing import Any

import numpy as np

from .. import kernels
from ..dtypes import FLOATS
from ..mixing import refuse_mixed_devices
from ..nn import Module
from ..optim import Optimizer
from ..tensor import Array, Tensor


class EMA:
    """The exponential moving average of a net, for sampling: smoother than any one of its states (Yazici et al. 2019).

    Each call moves `self.net`, a copy in eval mode that requires no gradients: average = decay average + (1 - decay)
    value. `warmup`: call t = 0, 1, ... uses at most (1 + t) / (10 + t) in place of `decay`, since the first weights
    are noise, which 0.999 alone would keep 5 % of for 3,000 calls.

    Batch norm's running statistics are averaged, too, like the weights that they belong to: today's statistics are
    of activations that older weights never made. Tensors of integers are copied.

    Put it last in `after`, so that it meets the weights that the next step does.
    """

    def __init__(self, net: Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay must be in [0, 1), not {decay}")
        self.trained, self.decay, self.warmup, self.calls = net, decay, warmup, 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.net.zero_grad()
        self._room = Room()

    def __call__(self) -> None:
        decay = min(self.decay, (1 + self.calls) / (10 + self.calls)) if self.warmup else self.decay
        self.calls += 1
        for average, tensor in zip(_tensors(self.net), _tensors(self.trained), strict=True):
            value = tensor.array
            refuse_mixed_devices("EMA", [average, value])
            with average.writing() as array:  # one write: whoever is interrupted keeps the old average or the new one
                if tensor.dtype in FLOATS:  # value + decay (array - value): in this form, equal values stay equal
                    apart = kernels.subtract(array, value, out=self._room.like(value))
                    kernels.add(value, kernels.multiply(apart, decay, out=apart), out=array)
                else:
                    array[...] = value

    def state_dict(self) -> dict[str, Any]:
        """The number of calls and the averaged net's own `state_dict`."""
        return {"calls": self.calls, "net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `state_dict`. ValueError, before anything is written, if it is of another net."""
        calls = int(state["calls"])
        self.net.load_state_dict(state["net"])
        self.calls = calls


class Room:
    """Memory for what is between two results, kept from call to call: as much as the largest array asked for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[type, Any], Array] = {}

    def like(self, array: Array) -> Array:
        """C-contiguous, of its shape, dtype and device, with any content; the same memory each time."""
        key = type(array), array.dtype
        flat = self._kept.get(key)
        if flat is None or flat.size < array.size:
            flat = self._kept[key] = kernels.empty(array.size, array.dtype, kernels.name_of(array))
        return flat[: array.size].reshape(array.shape)


def _tensors(net: Module) -> Iterable[Tensor]:
    """All parameters and buffers, each once."""
    return {id(tensor): tensor for _, tensor in [*net.named_parameters(), *net.named_buffers()]}.values()


class LinearDecay:
    """The learning rate that the optimizer has now, until its update `start`; then in a line to `final` at `steps`.

    Both count the optimizer's own updates: a critic's are n_critic times the generator's. The rate depends on
    `optimizer.steps` and the first rate only, so that a resumed run goes on exactly.
    """

    def __init__(self, optimizer: Optimizer, steps: int, start: int = 0, final: float = 0.0) -> None:
        if steps < 1 or not 0 <= start < steps:
            raise ValueError(f"LinearDecay: needs 0 <= start < steps, but start is {start} and steps is {steps}")
        if not 0 <= final < inf:
            raise ValueError(f"LinearDecay: final is a learning rate, finite and >= 0, not {final}")
        self.optimizer, self.steps, self.start, self.final = optimizer, steps, start, final
        self.base_lr = optimizer.lr

    def __call__(self) -> None:
        share = min(max((self.optimizer.steps - self.start) / (self.steps - self.start), 0.0), 1.0)
        self.optimizer.lr = (1 - share) * self.base_lr + share * self.final

    def state_dict(self) -> dict[str, float]:
        """The first rate; the optimizer saves the rest."""
        return {"base_lr": self.base_lr}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes over a `state_dict`, before or after the optimizer takes over its own."""
        self.base_lr = float(state["base_lr"])


class GradientNorm:
    """`value` is the `gradient_norm` of the last update, 0 before the first. Put it first in `before`: clipping comes
    after it."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params, self.value, self._room = list(params), 0.0, Room()

    def __call__(self) -> None:
        self.value = gradient_norm(self.params, self._room)


def gradient_norm(params: Iterable[Tensor], room: Room | None = None) -> float:
    """The Euclidean norm over all gradients together; 0 if there are none, inf where float32 cannot hold a square.

    room: for the squares, of who calls this again.
    """
    gradients, room = [p.grad for p in params if p.grad is not None], room or Room()
    if not gradients:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.stack([kernels.sum(kernels.multiply(g, g, out=room.like(g))) for g in gradients])
        # One transfer from a device, not one for each.
        return sqrt(kernels.to_host(squares).sum(dtype=np.float64))


def clip_gradients(params: Iterable[Tensor], max_norm: float, room: Room | None = None) -> float:
    """Scales all gradients, in place, by one factor, so that their norm is at most max_norm (Pascanu et al. 2013).

    Returns their `gradient_norm` before that, which `room` is for.

    As in PyTorch a norm that is not finite is no error: NaN makes all gradients NaN, an infinity makes the finite ones
    0, and it is returned for the caller to check. The next loss that is not finite stops `train`.
    """
    if isinstance(params, Tensor):
        raise TypeError("clip_gradients: params must be a list of tensors, not one tensor: write [p]")
    if not max_norm > 0:
        raise ValueError(f"clip_gradients: max_norm must be > 0, not {max_norm}")
    params = list(params)
    norm = gradient_norm(params, room)
    factor = max_norm / (norm + 1e-6)  # PyTorch's epsilon
    if not factor >= 1:  # NaN goes here
        with np.errstate(over="ignore", invalid="ignore"):
            for gradient in (p.grad for p in params if p.grad is not None):
                gradient *= factor
    return norm
