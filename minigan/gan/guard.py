"""Where a training that is spoilt by NaN or an infinity went wrong, found by running its last steps again.

A training is exact to the bit, so nothing has to watch it all the time: `train` looks at each loss, and whoever saves
a state at its arrays (`not_finite`). When one of them finds something, the run goes back to its last good state, and
`blame` repeats the steps from there while it looks at every number. That a number is not finite is no fault in itself:
log(0) may be masked, and an infinite weight clipped. An update is at fault that leaves a loss, or at its end an
array of the state, that is not finite; then the first such number in it is named that no earlier update of those
repeated had, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from ..autograd import detect_anomaly
from ..nn import Module
from ..tensor import Array, Tensor
from .train import Found, Game, Hook, Logs, NotFiniteError, Player, train

State = tuple[dict[str, Array], dict[str, Any]]
"""Of `training_state`."""


class Blame(NamedTuple):
    """The step that went wrong (None: none did, this time), the last good one, the state after it, and a sentence."""

    step: int | None
    good: int
    state: State
    text: str


def not_finite(arrays: Mapping[str, Array]) -> str | None:
    """The first array of floats that is not finite, as "nets.G.1.weight holds NaN" or "... holds an infinity"."""
    for name, array in arrays.items():
        if fault := _fault(array):
            return f"{name} holds {fault}"
    return None


def _fault(array: Array) -> str | None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    return "NaN" if np.isnan(array).any() else "an infinity"


def blame(
    game: Game,
    players: Sequence[Player],
    nets: Mapping[str, Module],
    state: Callable[[], State],
    good: int,
    seen: int,
) -> Blame:
    """Repeats the steps good + 1 .. seen, and says what made the first number that spoilt one of them.

    Everything must have been restored to where it was after step `good`. `state` returns `training_state`, copies; its
    names are those in the text. Callbacks are not called. Afterwards, nets, players and data are where the trouble
    came up, maybe amidst a step: restore the returned state before going on.

    NotFiniteError if the state after step `good` is not finite.
    """
    watch = _Watch(nets, players, state, good)
    if fault := not_finite(watch.state[0]):
        raise NotFiniteError(
            f"{fault} before step {good + 1}, so there is no good state to go back to; begin anew, from finite weights"
        )
    watched = copy(game)
    watched.real = watch.images(game.real)
    try:
        with detect_anomaly(watch.op), np.errstate(all="ignore"):  # NumPy's warnings would say less
            train(watched, [watch.player(p) for p in players], seen, [watch.end_of_step], first=good + 1)
    except NotFiniteError as error:
        return Blame(watch.good + 1, watch.good, watch.state, str(error))
    text = (
        f"steps {good + 1} to {seen} gave finite numbers when they were run again, so {game.device} does not compute "
        "the same twice, or the trouble lies outside of them; resume the run"
    )
    return Blame(None, seen, watch.state, text)


class _Watch:
    """Notes what is not finite in one update after another, and raises NotFiniteError at the end of one that it spoilt.

    notes: (what was found, what to do about it), first things first. `harmless` are the keys of those that an earlier
    update had and lived.
    """

    def __init__(
        self, nets: Mapping[str, Module], players: Sequence[Player], state: Callable[[], State], good: int
    ) -> None:
        self.players, self.take_state, self.good, self.state = players, state, good, state()
        self.tensors: dict[str, Tensor] = {
            f"nets.{name}.{key}": tensor
            for name, net in nets.items()
            for key, tensor in (*net.named_parameters(), *net.named_buffers())
        }
        self.notes, self.harmless = dict[tuple[str, ...], tuple[str, str]](), set[tuple[str, ...]]()
        self.name, self.milder = "", ""  # the player whose turn it is, and how its updates become smaller

    # ---- notes ---------------------------------------------------------------------------------------------------

    def op(self, array: Array, op: str, when: str, origin: str) -> None:
        """The check for `detect_anomaly`."""
        if fault := _fault(array):
            text = f"{op}'s {when} pass produced {fault} (shape {array.shape}) at {origin}"
            self.notes.setdefault((op, when, origin, fault), (text, self.milder))

    def images(self, real: Iterator[Array]) -> Iterator[Array]:
        for batch in real:
            if fault := _fault(batch):
                text = f"the batch of real images holds {fault}"
                self.notes.setdefault(("images", fault), (text, "look for it in the data"))
            yield batch

    def gradients(self, after: str, advice: str) -> None:
        """Those of the player whose turn it is: the others' were dropped."""
        grads = {f"the gradient of {name}": t.grad for name, t in self.tensors.items() if t.grad is not None}
        self._note(not_finite(grads), after, advice)

    def arrays(self, after: str, advice: str = "") -> None:
        """Weights, buffers, and what optimizers remember, where they are: copies of a device's would take long."""
        self._note(not_finite(self._arrays()), after, advice)

    def _note(self, fault: str | None, after: str, advice: str) -> None:
        if fault:
            self.notes.setdefault((fault, after), (f"{fault} after {after}", advice or self.milder))

    def _arrays(self) -> dict[str, Array]:
        return {name: tensor.array for name, tensor in self.tensors.items()} | {
            f"optimizers.{player.name}.{i}.{key}": array
            for player in self.players
            for i, arrays in enumerate(player.optimizer.state)
            for key, array in arrays.items()
        }

    # ---- an update -----------------------------------------------------------------------------------------------

    def player(self, player: Player) -> Player:
        """The same player, watched."""
        optimizer = player.optimizer

        def loss(game: Game) -> tuple[Tensor, Found]:
            self.name = player.name
            self.milder = f"train again with a lower lr=, now {optimizer.lr:g}, or with clip_norm="
            value, logs = player.loss(game)
            self.arrays("the forward pass")
            if not isfinite(value.item()):
                raise self._error(f"the loss is {value.item()}")
            return value, logs

        def watched(hook: Hook, look: Callable[[str, str], None]) -> Hook:
            def call() -> None:
                hook()
                look(f"the hook {getattr(hook, '__qualname__', type(hook).__name__)}", "look for it in that hook")

            return call

        return replace(
            player,
            loss=loss,
            before=[watched(hook, self.gradients) for hook in player.before],
            after=[
                lambda: self.arrays(f"the update by {type(optimizer).__name__} at lr={optimizer.lr:g}"),
                *[watched(hook, self.arrays) for hook in player.after],
                self.end_of_update,
            ],
        )

    def end_of_update(self) -> None:
        if fault := not_finite(self._arrays()):
            raise self._error(fault)
        self.harmless |= self.notes.keys()
        self.notes.clear()

    def end_of_step(self, step: int, logs: Logs) -> None:
        """A callback of `train`: only now what hooks remember is looked at, in the copy that is kept."""
        state = self.take_state()
        if fault := not_finite(state[0]):
            raise self._error(fault)
        self.good, self.state = step, state

    def _error(self, effect: str) -> NotFiniteError:
        notes = [note for key, note in self.notes.items() if key not in self.harmless] or [*self.notes.values()]
        cause, advice = notes[0] if notes else (effect, self.milder)
        found = cause if cause.startswith(effect) else f"{cause}, and so {effect}"
        return NotFiniteError(f"step {self.good + 1}, player {self.name}: {found}; {advice}")
