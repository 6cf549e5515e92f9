"""Optimizers: PyTorch's update rules, one kernel call for all parameters (kernels/optimizer)."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

from . import kernels
from .tensor import Array, Tensor

Rate = float | Array
Steps = list[int] | Array

LIVE = ("lr", "steps", "_last", "params", "state")
"""Attributes of an optimizer that a replay of a step looks up, or whose arrays it writes to."""


class Optimizer:
    """Base: holds the parameters and, for each, a dict of state arrays.

    A subclass defines `rule`, one kernel call; or else `update`, which may do anything.

    In a captured step on a device the kernel call is recorded, so that a GPU runs it in one graph with what makes the
    gradients: the learning rate and the counts of steps are sent `ahead` (kernels/recording.py). A subclass or an
    optimizer with an `update` or a `step` of its own, or with parameters on the CPU or of several dtypes, is called by
    `live`.
    """

    names: tuple[str, ...] = ()  # of the state arrays: one of the parameter's shape each; "step" is a count

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        if isinstance(params, Tensor):
            raise TypeError(f"{type(self).__name__}: params must be a list of tensors, not one tensor: write [p]")
        self.params = list(params)
        if not self.params:
            raise ValueError(f"{type(self).__name__}: there are no parameters to optimize")
        for i, p in enumerate(self.params):
            if not p.is_leaf:
                raise ValueError(
                    f"{type(self).__name__}: parameter {i} was computed by {p.node}; only leaves are updated"
                )
        if len({id(p) for p in self.params}) != len(self.params):
            raise ValueError(f"{type(self).__name__}: a parameter is listed twice and would be updated twice")
        if not lr >= 0 or not weight_decay >= 0:
            raise ValueError(
                f"{type(self).__name__}: lr and weight_decay must be >= 0, but are {lr} and {weight_decay}"
            )
        self.lr, self.weight_decay, self.steps = lr, weight_decay, 0
        self._last: tuple[int, ...] = ()  # numbers of the parameters of the last recorded step
        self.state: list[dict[str, Array]] = [{} for _ in self.params]

    def rule(
        self, p: list[Array], g: list[Array], states: list[dict[str, Array]], lr: Rate, step: Steps, gate: Array | None
    ) -> None:
        """Moves each array of p in place, where the gate is finite. step: counts from 1, if there is a state "step"."""
        raise NotImplementedError

    def update(self, p: list[Array], g: list[Array], states: list[dict[str, Array]]) -> None:
        """Moves each array of p in place; its state is empty in its first step."""
        for w, state in zip(p, states, strict=True):
            if not state:
                self._begin(w, state)
        self.rule(p, g, states, self.lr, _count(states), None)

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        if kernels.listening() and self.launches():
            self.launch()
        else:
            kernels.live(self._step, [p.grad for p in self.params])  # so that a replay meets today's lr

    def _step(self, gradients: list[Array | None]) -> None:
        self.steps += 1
        every = zip(self.params, gradients, self.state, strict=True)
        chosen = [(p, g, state) for p, g, state in every if g is not None]
        with ExitStack() as writing:
            arrays = [writing.enter_context(p.writing()) for p, _, _ in chosen]
            self.update(arrays, [g for _, g, _ in chosen], [state for _, _, state in chosen])

    def _begin(self, w: Array, state: dict[str, Array]) -> None:
        """Fills an empty state."""
        state |= {name: np.zeros((), np.int64) if name == "step" else np.zeros_like(w) for name in self._kept()}

    def _kept(self) -> tuple[str, ...]:
        """Those of `names` that are needed."""
        return self.names

    # ---- as a part of a captured step on a device ------------------------------------------------------------------

    def launches(self) -> bool:
        """Whether its kernel call can be recorded."""
        kinds = {(p.device, p.dtype) for p in self.params}
        by_rule = all(getattr(getattr(self, name), "__func__", None) is inherited for name, inherited in INHERITED)
        return by_rule and len(kinds) == 1 and self.params[0].device != "cpu" and all(p.size for p in self.params)

    def launch(self, gate: Array | None = None) -> None:
        """`step`, recorded. gate: a number (1,) on the device; where it is not finite, nothing moves.

        The step is counted before the gate is looked at: `take_back` is for who then finds it closed.
        """
        numbers = [i for i, p in enumerate(self.params) if p.grad is not None]
        params, states = [self.params[i] for i in numbers], [self.state[i] for i in numbers]
        for p, state in zip(params, states, strict=True):
            if not state:
                self._begin(p.array, state)
        kernels.branch(self._settings)
        sent = kernels.ahead(self._counted, tuple(numbers), device=self.params[0].device, back=self.take_back)
        with ExitStack() as writing:
            arrays = [writing.enter_context(p.writing()) for p in params]
            if arrays:
                gradients = [p.grad for p in params if p.grad is not None]
                self.rule(arrays, gradients, states, sent[:1], sent[1:], gate)

    def _settings(self) -> tuple[Any, ...]:
        """What is recorded with the kernel call: its numbers, and where the state lies."""
        settings = [(name, _unchanging(value)) for name, value in vars(self).items() if name not in LIVE]
        return *settings, *[id(array) for state in self.state for array in state.values()]

    def _counted(self, numbers: tuple[int, ...]) -> Array:
        """Counts a step of the parameters of these numbers: the learning rate, and their own counts, if they have any,
        in their dtype."""
        self.steps, self._last = self.steps + 1, numbers
        return np.array([self.lr, *_count([self.state[i] for i in numbers])], self.params[0].dtype)

    def take_back(self) -> None:
        """The last step that was counted was none: its gate was closed, or it was not launched."""
        self.steps -= 1
        _count([self.state[i] for i in self._last], -1)

    def zero_grad(self) -> None:
        """Forgets the gradients: `backward` adds to what is there."""
        for param in self.params:
            param.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The learning rate, the step count and a NumPy copy of every state array."""
        state = [{k: kernels.host_copy(v) for k, v in arrays.items()} for arrays in self.state]
        return {"lr": self.lr, "steps": self.steps, "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `state_dict`. ValueError if it was made for other parameters or by another rule."""
        if len(state["state"]) != len(self.params):
            raise ValueError(
                f"{type(self).__name__}: the state is of {len(state['state'])} parameters, not of {len(self.params)}"
            )
        for i, (param, arrays) in enumerate(zip(self.params, state["state"], strict=True)):
            if arrays and set(arrays) != set(self.names):
                raise ValueError(
                    f"{type(self).__name__}: the state of parameter {i} holds {', '.join(arrays)}, "
                    f"not {', '.join(self.names) or 'nothing'}: it is another optimizer's"
                )
            for key, array in arrays.items():
                if array.shape != (() if key == "step" else param.shape):
                    raise ValueError(
                        f"{type(self).__name__}: {key} of parameter {i} is {array.shape}, the parameter {param.shape}"
                    )
        self.lr, self.steps = float(state["lr"]), int(state["steps"])
        for param, kept, arrays in zip(self.params, self.state, state["state"], strict=True):
            for key in [key for key in kept if key not in arrays]:
                del kept[key]
            for key, array in arrays.items():
                _put(kept, key, np.array(kernels.to_host(array), np.int64 if key == "step" else param.dtype), param)


def _put(kept: dict[str, Array], key: str, array: Array, param: Tensor) -> None:
    """In place, if there is such an array already: recorded steps write to that."""
    found = array if key == "step" else kernels.move(array, param.device)
    old = kept.get(key)
    if old is not None and (type(old), old.shape, old.dtype) == (type(found), found.shape, found.dtype):
        old[...] = found
    else:
        kept[key] = found


def _count(states: list[dict[str, Array]], by: int = 1) -> list[int]:
    """Counts a step of each parameter that counts its own; the counts."""
    counting = [state for state in states if "step" in state]
    for state in counting:
        state["step"] += by
    return [int(state["step"]) for state in counting]


INHERITED = [(name, getattr(Optimizer, name)) for name in ("step", "_step", "update")]
"""What a captured step on a device does in one kernel call: an optimizer that has one of them itself is called live."""


class _Same:
    """Equal to others of the same object only."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _unchanging(value: Any) -> Any:
    """What is equal to the same of another value only if that would do, whatever happens to `value` meanwhile."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_unchanging, value))
    if isinstance(value, dict):
        return tuple([(_unchanging(key), _unchanging(part)) for key, part in value.items()])
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value if isinstance(value, (int, float, str, np.generic)) else _Same(value)


class SGD(Optimizer):
    """g += weight_decay p; b = momentum b + g, where b begins at 0; p -= lr b."""

    names = ("momentum",)

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay)
        self.momentum = momentum

    def _kept(self) -> tuple[str, ...]:
        return self.names if self.momentum else ()

    def rule(
        self, p: list[Array], g: list[Array], states: list[dict[str, Array]], lr: Rate, step: Steps, gate: Array | None
    ) -> None:
        kernels.sgd(
            p,
            g,
            [state["momentum"] for state in states] if self.momentum else None,
            lr=lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            gate=gate,
        )


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g^2; p -= lr g / (sqrt(v) + eps) (Hinton 2012)."""

    names = ("square",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        self.alpha, self.eps = alpha, eps

    def rule(
        self, p: list[Array], g: list[Array], states: list[dict[str, Array]], lr: Rate, step: Steps, gate: Array | None
    ) -> None:
        squares = [state["square"] for state in states]
        kernels.rmsprop(
            p, g, squares, lr=lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay, gate=gate
        )


class Adam(Optimizer):
    """m, v: running means of g and g^2; p -= lr m^ / (sqrt(v^) + eps), bias-corrected (Kingma & Ba 2015).

    Each parameter counts its own steps: one that gets its first gradient late is corrected as in a first step.
    """

    names = ("m", "v", "step")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adam: betas must be in [0, 1), but are {betas}")
        self.betas, self.eps = tuple(betas), eps

    def rule(
        self, p: list[Array], g: list[Array], states: list[dict[str, Array]], lr: Rate, step: Steps, gate: Array | None
    ) -> None:
        kernels.adam(
            p,
            g,
            [state["m"] for state in states],
            [state["v"] for state in states],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            step=step,
            gate=gate,
        )


def clip_weights(params: Iterable[Tensor], c: float, gate: Array | None = None) -> None:
    """Clips every weight into [-c, c], in place (Arjovsky et al. 2017); where a gate is not finite, none."""
    if not c > 0:
        raise ValueError(f"clip_weights: c must be > 0, not {c}")
    with ExitStack() as writing:
        kernels.clip_weights([writing.enter_context(p.writing()) for p in params], c, gate)
