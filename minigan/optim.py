"""Optimizers: PyTorch's update rules, one kernel call for all parameters (kernels/optimizer)."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

from . import kernels
from .tensor import Array, Tensor


class Optimizer:
    """Base: holds the parameters and, for each, a dict of state arrays. A subclass defines `update`."""

    names: tuple[str, ...] = ()  # of the state arrays

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
        self.state: list[dict[str, Array]] = [{} for _ in self.params]

    def update(self, p: list[Array], g: list[Array], states: list[dict[str, Array]]) -> None:
        """Moves each array of p in place; its state is empty in its first step."""
        raise NotImplementedError

    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        kernels.live(self._step, [p.grad for p in self.params])  # so that a replay meets today's lr

    def _step(self, gradients: list[Array | None]) -> None:
        self.steps += 1
        every = zip(self.params, gradients, self.state, strict=True)
        chosen = [(p, g, state) for p, g, state in every if g is not None]
        with ExitStack() as writing:
            arrays = [writing.enter_context(p.writing()) for p, _, _ in chosen]
            self.update(arrays, [g for _, g, _ in chosen], [state for _, _, state in chosen])

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
        self.state = [
            {
                k: np.array(v, np.int64)
                if k == "step"
                else kernels.move(np.array(kernels.to_host(v), param.dtype), param.device)
                for k, v in arrays.items()
            }
            for param, arrays in zip(self.params, state["state"], strict=True)
        ]


class SGD(Optimizer):
    """g += weight_decay p; b = momentum b + g (b = g in the first step); p -= lr b."""

    names = ("momentum",)

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay)
        self.momentum = momentum

    def update(self, p: list[Array], g: list[Array], states: list[dict[str, Array]]) -> None:
        buffers, first = None, [not state for state in states]
        if self.momentum:
            for w, state in zip(p, states, strict=True):
                if not state:
                    state["momentum"] = np.zeros_like(w)
            buffers = [state["momentum"] for state in states]
        kernels.sgd(p, g, buffers, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, first=first)


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

    def update(self, p: list[Array], g: list[Array], states: list[dict[str, Array]]) -> None:
        for w, state in zip(p, states, strict=True):
            if not state:
                state["square"] = np.zeros_like(w)
        squares = [state["square"] for state in states]
        kernels.rmsprop(p, g, squares, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay)


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
        self.betas, self.eps = betas, eps

    def update(self, p: list[Array], g: list[Array], states: list[dict[str, Array]]) -> None:
        for w, state in zip(p, states, strict=True):
            if not state:
                state |= {"m": np.zeros_like(w), "v": np.zeros_like(w), "step": np.zeros((), np.int64)}
            state["step"] += 1
        kernels.adam(
            p,
            g,
            [state["m"] for state in states],
            [state["v"] for state in states],
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            step=[int(state["step"]) for state in states],
        )


def clip_weights(params: Iterable[Tensor], c: float) -> None:
    """Clips every weight into [-c, c], in place (Arjovsky et al. 2017)."""
    if not c > 0:
        raise ValueError(f"clip_weights: c must be > 0, not {c}")
    with ExitStack() as writing:
        kernels.clip_weights([writing.enter_context(p.writing()) for p in params], c)
