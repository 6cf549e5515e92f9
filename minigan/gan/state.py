"""All that decides how a training goes on, as named arrays and JSON: with it, it goes on to the bit.

nets.<net>.<name>                         parameters and buffers, as in the net's state dict
optimizers.<player>.<parameter>.<name>    what the optimizer remembers of each parameter that was updated
hooks.<player>.<before|after>.<i>.<...>   arrays of a hook that has a `state_dict`: the averaged net's, say

are NumPy arrays on every device. The learning rates, the steps counted, what hooks count, the random generators, the
place in the data and what the caller adds are JSON. To the bit means: by the same program, on the same device and
number of threads.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from ..data.batches import Batches
from ..nn import Module
from ..random import Generator
from ..tensor import Array
from .train import Player


def training_state(
    nets: Mapping[str, Module],
    players: Sequence[Player],
    generators: Mapping[str, Generator],
    batches: Batches,
    extra: Mapping[str, Any],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, the rest), both copies. To be taken between two steps.

    generators: whatever a step draws from but the one of `batches`, which is in its state: for latent vectors, for a
    penalty, and `minigan.random.stream("dropout")` where a net drops out.
    """
    _check_names(nets, players)
    arrays = {f"nets.{name}.{key}": array for name, net in nets.items() for key, array in net.state_dict().items()}
    for player in players:
        for i, state in enumerate(player.optimizer.state_dict()["state"]):
            arrays |= {f"optimizers.{player.name}.{i}.{key}": array for key, array in state.items()}
    for name, hook in _hooks(players).items():
        arrays |= _arrays_of(name, hook)
    return arrays, {**_rest(players, generators, batches), "extra": dict(extra)}


def _rest(players: Sequence[Player], generators: Mapping[str, Generator], batches: Batches) -> dict[str, Any]:
    """All that is no array. begun: which parameters the optimizer has arrays for."""
    optimizers = {player.name: player.optimizer for player in players}
    return {
        "optimizers": {
            name: {
                "lr": float(optimizer.lr),
                "steps": optimizer.steps,
                "begun": [i for i, state in enumerate(optimizer.state) if state],
            }
            for name, optimizer in optimizers.items()
        },
        "hooks": {name: _numbers_of(hook) for name, hook in _hooks(players).items()},
        "generators": {name: generator.state_dict() for name, generator in generators.items()},
        "batches": batches.state_dict(),
    }


def restore(
    arrays: Mapping[str, Array],
    rest: Mapping[str, Any],
    nets: Mapping[str, Module],
    players: Sequence[Player],
    generators: Mapping[str, Generator],
    batches: Batches,
) -> dict[str, Any]:
    """Puts everything where `training_state` found it; returns its `extra`.

    ValueError, before anything is written, that lists what is missing, unexpected, misshapen, or of other data or
    another stream.
    """
    _check_names(nets, players)
    faults = _faults_of_form(rest, _rest(players, generators, batches))
    if not faults:  # else it does not say which arrays there should be
        faults = _faults_of_arrays(arrays, rest, nets, players) + _faults_of_streams(rest, generators, batches)
    if faults:
        raise ValueError(f"restore: the state does not fit this training: {'; '.join(faults)}")
    for name, net in nets.items():
        net.load_state_dict(_under(f"nets.{name}.", arrays))
    for player in players:
        state = [_under(f"optimizers.{player.name}.{i}.", arrays) for i in range(len(player.optimizer.params))]
        player.optimizer.load_state_dict({**rest["optimizers"][player.name], "state": state})
    for name, hook in _hooks(players).items():
        parts = {
            key: _under(f"hooks.{name}.{key}.", arrays) for key, value in hook.state_dict().items() if _is_state(value)
        }
        hook.load_state_dict({**rest["hooks"][name], **parts})
    for name, generator in generators.items():
        generator.load_state_dict(rest["generators"][name])
    batches.load_state_dict(rest["batches"])
    return dict(rest["extra"])


def _hooks(players: Sequence[Player]) -> dict[str, Any]:
    """The hooks that have something to remember, by name."""
    every = {
        f"{player.name}.{when}.{i}": hook
        for player in players
        for when in ("before", "after")
        for i, hook in enumerate(getattr(player, when))
    }
    return {name: hook for name, hook in every.items() if hasattr(hook, "state_dict")}


def name_of_hook(players: Sequence[Player], hook: Any) -> str:
    """Under which name its arrays are found."""
    (name,) = (name for name, other in _hooks(players).items() if other is hook)
    return name


def _is_state(value: Any) -> bool:
    """Whether part of a hook's state is a state dict of arrays; all else in it is JSON."""
    return isinstance(value, Mapping)


def _arrays_of(name: str, hook: Any) -> dict[str, Array]:
    states = {key: value for key, value in hook.state_dict().items() if _is_state(value)}
    return {f"hooks.{name}.{key}.{inner}": array for key, state in states.items() for inner, array in state.items()}


def _numbers_of(hook: Any) -> dict[str, Any]:
    return {key: value for key, value in hook.state_dict().items() if not _is_state(value)}


def _check_names(nets: Mapping[str, Module], players: Sequence[Player]) -> None:
    """Names of arrays are made of these, and one array must not hide another."""
    names = [player.name for player in players]
    if len(set(names)) != len(names):
        raise ValueError(f"training_state: players need different names, but theirs are {', '.join(names)}")
    for name in (*nets, *names):
        if "." in name:
            raise ValueError(f"training_state: {name!r} has a dot, which separates the parts of an array's name")


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays whose names begin so, by what follows."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _faults_of_form(rest: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """JSON values that are missing, unexpected, or of another type than here."""
    found, own = _flat({key: value for key, value in rest.items() if key != "extra"}), _flat(here)
    faults = _faults_of_names(found, own)
    if not isinstance(rest.get("extra"), Mapping):
        faults.append("extra is missing")
    return faults + [
        f"{name} is {found[name]!r}, not of type {type(value).__name__}"
        for name, value in own.items()
        if name in found and type(found[name]) is not type(value)
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(value, Mapping):
        return {name: value}
    inner = (_flat(part, f"{name}.{key}" if name else str(key)) for key, part in value.items())
    return {key: part for parts in inner for key, part in parts.items()}


def _faults_of_names(found: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    missing = [f"{name} is missing" for name in own if name not in found]
    return missing + [f"{name} is unexpected" for name in found if name not in own]


def _faults_of_arrays(
    arrays: Mapping[str, Array], rest: Mapping[str, Any], nets: Mapping[str, Module], players: Sequence[Player]
) -> list[str]:
    """Arrays of other names, shapes or dtypes than these nets have, and than their optimizers had."""
    own = {
        f"nets.{name}.{key}": (array.dtype, array.shape)
        for name, net in nets.items()
        for key, array in net.state_dict().items()
    }
    for player in players:
        for i, param in enumerate(player.optimizer.params):
            if i in rest["optimizers"][player.name]["begun"]:
                for key in player.optimizer.names:
                    form = (np.dtype(np.int64), ()) if key == "step" else (param.dtype, param.shape)
                    own[f"optimizers.{player.name}.{i}.{key}"] = form
    for name, hook in _hooks(players).items():
        own |= {key: (array.dtype, array.shape) for key, array in _arrays_of(name, hook).items()}
    faults = _faults_of_names(arrays, own)
    for name, (dtype, shape) in own.items():
        if name in arrays and (arrays[name].dtype, arrays[name].shape) != (dtype, shape):
            faults.append(f"{name} is {arrays[name].dtype} {arrays[name].shape}, but here it is {dtype} {shape}")
    return faults


def _faults_of_streams(rest: Mapping[str, Any], generators: Mapping[str, Generator], batches: Batches) -> list[str]:
    """What generators and data refuse."""
    checks = [partial(copy(g).load_state_dict, rest["generators"][name]) for name, g in generators.items()]
    faults = []
    for check in (*checks, partial(batches.check_state, rest["batches"])):
        try:
            check()
        except ValueError as error:
            faults.append(str(error))
    return faults
