"""What is done around a player's updates: gradients clipped before, weights averaged and learning rates lowered after.

A hook is called without arguments; `Player.before` and `Player.after` list them (train.py). What a hook must remember
to go on exactly, it says in its `state_dict`.

A call does anything, so it interrupts a captured update. Those here are also `KernelHook`s: on a device what they
compute is recorded with the update, and what is left for the host is done when the kernels have been launched.
"""

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from math import inf, sqrt
from typing import Any

import numpy as np

from .. import kernels
from ..dtypes import FLOATS
from ..mixing import refuse_mixed_devices
from ..nn import Module
from ..optim import Optimizer, clip_weights
from ..tensor import Array, Tensor


class KernelHook:
    """A hook that can be a part of a recorded update on a device: kernels, and what the host does ahead and behind.

    There it does the same, wherever in `before` and `after` it stands: what it counts or sets is done `ahead`, in the
    order of the hooks and the optimizer's step, and undone by `take_back` if the loss is found not to be finite.
    """

    def __call__(self) -> object:
        raise NotImplementedError

    def launches(self) -> bool:
        """Whether it can be, as it is now."""
        return True

    def launch(self, gate: Array) -> Array | None:
        """The kernels of a call, which change nothing that outlasts the update where `gate`, (1,), is not finite.

        What it returns, `conclude` is given in each replay.
        """
        return None

    def conclude(self, found: Array | None) -> None:
        """The rest of a call."""

    def take_back(self) -> None:
        """In place of `conclude` where the gate was not finite: what was counted ahead was not done. Also passed to
        `kernels.ahead`, for updates that end by another exception."""


def recordable(hook: object) -> bool:
    """Whether a hook can be recorded. One with a call of its own, whose class inherits the kernels, cannot."""
    if not isinstance(hook, KernelHook):
        return False
    calling = next(vars(kind) for kind in type(hook).__mro__ if "__call__" in vars(kind))
    return ("launch" in calling or "conclude" in calling) and hook.launches()


class EMA(KernelHook):
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

    def __call__(self) -> None:
        self._average(self._advance())

    def _advance(self) -> float:
        """Counts a call: the decay that it uses."""
        decay = min(self.decay, (1 + self.calls) / (10 + self.calls)) if self.warmup else self.decay
        self.calls += 1
        return decay

    def _average(self, decay: float | Array, gate: Array | None = None) -> None:
        # One write of each: whoever is interrupted keeps the old average or the new one.
        with ExitStack() as writing:
            averages, values = list[Array](), list[Array]()
            for average, tensor in zip(_tensors(self.net), _tensors(self.trained), strict=True):
                refuse_mixed_devices("EMA", [average, tensor.array])
                array = writing.enter_context(average.writing())
                if tensor.dtype in FLOATS:
                    averages.append(array)
                    values.append(tensor.array)
                else:
                    array[...] = tensor.array
            kernels.moving_average(averages, values, decay, gate)

    def launches(self) -> bool:
        """Not where a net has tensors of integers, nor numbers of two kinds or none, nor on the CPU."""
        kinds = {(t.device, t.dtype) for net in (self.net, self.trained) for t in _tensors(net)}
        return len(kinds) == 1 and all(device != "cpu" and dtype in FLOATS for device, dtype in kinds)

    def launch(self, gate: Array) -> None:
        kernels.branch(self._settings)
        self._average(kernels.ahead(self._sent, device=kernels.name_of(gate), back=self.take_back), gate)

    def _settings(self) -> tuple[int, int]:
        return id(self.net), id(self.trained)

    def _sent(self) -> Array:
        (dtype,) = {t.dtype for t in _tensors(self.net)}
        return np.array([self._advance()], dtype)

    def take_back(self) -> None:
        self.calls -= 1

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


class LinearDecay(KernelHook):
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
        self.base_lr = self._last = optimizer.lr

    def __call__(self) -> None:
        share = min(max((self.optimizer.steps - self.start) / (self.steps - self.start), 0.0), 1.0)
        self.optimizer.lr = (1 - share) * self.base_lr + share * self.final

    def launch(self, gate: Array) -> None:
        kernels.ahead(self._lower, back=self.take_back)

    def _lower(self) -> None:
        self._last = self.optimizer.lr
        self()

    def take_back(self) -> None:
        self.optimizer.lr = self._last

    def state_dict(self) -> dict[str, float]:
        """The first rate; the optimizer saves the rest."""
        return {"base_lr": self.base_lr}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes over a `state_dict`, before or after the optimizer takes over its own."""
        self.base_lr = float(state["base_lr"])


class GradientNorm(KernelHook):
    """`value` is the `gradient_norm` of the last update, 0 before the first. Put it first in `before`: clipping comes
    after it."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params, self.value, self._room = list(params), 0.0, Room()

    def __call__(self) -> None:
        self.value = gradient_norm(self.params, self._room)

    def launches(self) -> bool:
        return len({(p.device, p.dtype) for p in self.params}) == 1

    def launch(self, gate: Array) -> Array | None:
        gradients = [p.grad for p in self.params if p.grad is not None]
        return _squares(gradients) if gradients else None

    def conclude(self, found: Array | None) -> None:
        self.value = 0.0 if found is None else _root(found)


class ClipGradients(KernelHook):
    """`clip_gradients` of a player's parameters, as a hook for `before`."""

    def __init__(self, params: Iterable[Tensor], max_norm: float) -> None:
        self.params, self.max_norm, self._room = list(params), max_norm, Room()

    def __call__(self) -> None:
        clip_gradients(self.params, self.max_norm, self._room)

    def launches(self) -> bool:
        return _together(self.params)

    def launch(self, gate: Array) -> None:
        kernels.branch(self._setting)
        gradients = [p.grad for p in self.params if p.grad is not None]
        if gradients:
            _clip_there(gradients, _squares(gradients), self.max_norm)

    def _setting(self) -> float:
        return self.max_norm


class ClipWeights(KernelHook):
    """`clip_weights` of a critic's parameters, as a hook for `after`."""

    def __init__(self, params: Iterable[Tensor], c: float) -> None:
        self.params, self.c = list(params), c

    def __call__(self) -> None:
        clip_weights(self.params, self.c)

    def launches(self) -> bool:
        return _together(self.params)

    def launch(self, gate: Array) -> None:
        kernels.branch(self._setting)
        clip_weights(self.params, self.c, gate)

    def _setting(self) -> float:
        return self.c


def _together(params: Iterable[Tensor]) -> bool:
    """Whether all are on one device, which is none of NumPy's, and of one dtype."""
    kinds = {(p.device, p.dtype) for p in params}
    return len(kinds) == 1 and all(device != "cpu" for device, _ in kinds)


def gradient_norm(params: Iterable[Tensor], room: Room | None = None) -> float:
    """The Euclidean norm over all gradients together; 0 if there are none, inf where float32 cannot hold a square.

    room: for the squares, of who calls this again.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    with np.errstate(over="ignore", invalid="ignore"):
        return _root(_squares(gradients, room or Room())) if gradients else 0.0


def _squares(gradients: Sequence[Array], room: Room | None = None) -> Array:
    """The sum of the squares of each gradient, (n,)."""
    sums = [kernels.sum(kernels.multiply(g, g, out=room and room.like(g))) for g in gradients]
    squares: Array = kernels.concatenate([s.reshape(1) for s in sums], 0)
    return squares


def _root(squares: Array) -> float:
    """The norm. One transfer from a device, not one for each gradient."""
    return sqrt(kernels.to_host(squares).sum(dtype=np.float64))


def _clip_there(gradients: Sequence[Array], squares: Array, max_norm: float) -> Array:
    """Scales gradients on a device without asking the host: `clip_gradients`. Their norm, a float64."""
    norm: Array = kernels.sqrt(kernels.sum(kernels.cast(squares, np.dtype(np.float64))))
    factor = kernels.divide(max_norm, kernels.add(norm, EPSILON))
    factor = kernels.where(kernels.greater_equal(factor, 1.0), 1.0, factor)  # NaN stays
    factor = kernels.cast(factor, gradients[0].dtype)
    for gradient in gradients:
        kernels.multiply(gradient, factor, out=gradient)
    return norm


EPSILON = 1e-6  # PyTorch's


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
    gradients = [p.grad for p in params if p.grad is not None]
    if gradients and _together(params):
        return float(_clip_there(gradients, _squares(gradients, room or Room()), max_norm))
    norm = gradient_norm(params, room)
    factor = max_norm / (norm + EPSILON)
    if not factor >= 1:  # NaN goes here
        with np.errstate(over="ignore", invalid="ignore"):
            for gradient in gradients:
                gradient *= factor
    return norm
