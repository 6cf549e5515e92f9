"""A training step, recorded once and replayed: what small nets cost besides their kernels, saved.

    step = capture(train_step)
    for x in batches:
        loss = step(x)  # the first call records, the second rehearses, all others replay

How a step is recorded, and what it may not do, is told in kernels/recording.py; docs/capture.md shows one.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import kernels, recorded
from .anomaly import calling_line
from .autograd import _mode, is_recording
from .kernels.plan import MemoryPool
from .kernels.recording import (
    CaptureError,
    Plan,
    Recorder,
    Rehearsal,
    Run,
    is_device_array,
    listen,
    listening,
    replay,
    root_of,
    same,
)
from .tensor import Array, Tensor, values_of

__all__ = ["CaptureError", "Captured", "MemoryPool", "branch", "capture", "live"]


def capture(step: Callable[..., Any], *, warmup: int = 0, pool: MemoryPool | None = None) -> Captured:
    """`step` as a function that does the same, to the bit, but from its third call on without Python.

    The first call records the kernels that the step calls, and their order; the second compares; from then on they are
    called on fixed memory. Parameters, optimizers' states and other tensors that were there before stay what they are.
    Live, too, are random generators, learning rates and step counters, and the arguments: tensors and arrays, of which
    the step gets copies, and numbers, which become float32 tensors. What the step returns, tensors in tuples, lists and
    dicts, is written over by the next call, and has no graph. `.grad` of a leaf, if the step leaves it, is that of the
    last call. A captured step is called in one thread.

    warmup: so many calls run the step as it is, before one is recorded: where first steps differ from later ones.
    pool: memory that several captured steps use in turn; by default each has its own.

    CaptureError, which names the line, for a step that cannot be replayed: it reads a value back, does not do the same
    twice (see `branch`), computes with other functions than minigan's (see `live`), or is to run inside
    `detect_anomaly`; and for arguments of other shapes than those that were recorded.
    """
    return Captured(step, warmup, pool or MemoryPool())


class Captured:
    """What `capture` returns. `str()` of it lists the recorded calls and their memory, which `draw` draws."""

    def __init__(self, step: Callable[..., Any], warmup: int, pool: MemoryPool) -> None:
        self.step, self.warmup, self.pool = step, warmup, pool
        self.recordings: list[Recording] = []
        self._inputs: tuple[Any, ...] | None = None
        self._numbers: set[int] = set()  # which of the arguments are Python's numbers
        self._seen = kernels.layout()
        self._thread: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Captured:
        return Captured(copy.deepcopy(self.step, memo), self.warmup, MemoryPool())

    def __call__(self, *inputs: Any) -> Any:
        if listening():
            return _detached(self.step(*inputs))  # as a part of a larger step
        if _mode.anomaly is not None:
            raise CaptureError(
                f"capture: detect_anomaly() is on at {calling_line()}, which looks at the result of each op, and a "
                "replay has no ops; call the step itself, without capture, to search"
            )
        self._refuse_other_threads()
        own = self._fill(inputs)
        if self.warmup > 0:
            self.warmup -= 1
            return _detached(self.step(*own))
        if self._seen != kernels.layout():
            self.recordings, self._seen = [], kernels.layout()  # tensors or kernels are other ones now
        for recording in self.recordings:
            if recording.graphs == is_recording() and recording.tape.holds():
                return recording.replay() if recording.run is not None else recording.rehearse(self.step, own)
        if len(self.recordings) == WAYS:
            raise CaptureError(
                f"capture: the step has gone {WAYS} different ways, and is at {calling_line()} to go another; a branch "
                "with so many answers is better a number: hand it in as an argument"
            )
        recording = Recording(self.pool)
        result = recording.record(self.step, own)
        if self._seen != kernels.layout():
            raise CaptureError(
                f"capture: the step itself, called at {calling_line()}, moves tensors to other memory or chooses other "
                "kernels, so that it would be recorded anew each time; do so before"
            )
        self.recordings.append(recording)
        return result

    def _refuse_other_threads(self) -> None:
        here = threading.get_ident()
        self._thread, self.pool.thread = self._thread or here, self.pool.thread or here
        if (self._thread, self.pool.thread) != (here, here):
            raise CaptureError(
                f"capture: called at {calling_line()} in another thread than before, but a step, or a pool, has one "
                "memory; capture the step once for each thread"
            )

    def _fill(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs, copied to where recorded steps read them."""
        if self._inputs is None:
            self._inputs = tuple([_input(i, given) for i, given in enumerate(inputs)])
            self._numbers = {i for i, given in enumerate(inputs) if isinstance(given, (int, float))}
        if len(inputs) != len(self._inputs):
            raise CaptureError(
                f"capture: recorded with {len(self._inputs)} arguments, called with {len(inputs)} at {calling_line()}"
            )
        every = [values_of(place) for place in self._inputs]
        arrays = [_apart(values_of(given), every) for given in inputs]
        for i, (place, given, array) in enumerate(zip(self._inputs, inputs, arrays, strict=True)):
            to = every[i]
            if isinstance(given, (int, float)) and i in self._numbers:
                to.fill(given)
            elif not is_device_array(array) or (array.shape, array.dtype) != (to.shape, to.dtype):
                found = f"{array.dtype} {array.shape}" if is_device_array(array) else repr(given)
                raise CaptureError(
                    f"capture: argument {i} was {to.dtype} {to.shape} when the step was recorded, and is {found} at "
                    f"{calling_line()}; a recorded step has fixed shapes: capture another one for these"
                )
            elif type(array) is not type(to):
                raise CaptureError(
                    f"capture: argument {i} was on {kernels.name_of(to)} when the step was recorded, and is on "
                    f"{kernels.name_of(array)} at {calling_line()}; move it with .to({kernels.name_of(to)!r})"
                )
            else:
                to[...] = array
            if isinstance(place, Tensor):
                place._version[0] += 1
        return self._inputs

    @property
    def plans(self) -> list[Plan]:
        """What each recording does, and on which memory."""
        return [recording.plan for recording in self.recordings if recording.plan is not None]

    def __str__(self) -> str:
        return "\n\n".join(map(recorded.text, self.plans)) or "a captured step, not recorded yet"

    def draw(self, path: str | Path) -> None:
        """Writes a PNG of the planned memory: which result lies where, and from which call to which.

        RuntimeError if nothing is recorded yet, OSError if it cannot be written.
        """
        if not self.plans:
            raise RuntimeError("draw: nothing is recorded yet; call the step once more than its warmup")
        recorded.draw(self.plans, path)


def _input(i: int, given: Any) -> Any:
    """Memory for an argument, and for all that will stand in its place."""
    if isinstance(given, Tensor):
        if given.requires_grad:
            raise CaptureError(
                f"capture: argument {i} requires a gradient, at {calling_line()}; what is trained is no argument: let "
                "the step look it up"
            )
        return Tensor.of(_copy(given.array))
    if is_device_array(given):
        return _copy(given)
    if isinstance(given, (int, float)):
        return Tensor(given)
    raise CaptureError(
        f"capture: argument {i} is a {type(given).__name__}, at {calling_line()}; arguments are tensors, arrays or "
        "numbers: let the step look up anything else"
    )


def _copy(array: Array) -> Array:
    """With its axes in the same order of memory: sums over them would else be added up in another."""
    return array.copy(order="K") if isinstance(array, np.ndarray) else array.copy()


def _apart(given: Any, places: Sequence[Array]) -> Any:
    """An argument's array; a copy of one in the place of another argument, which is about to be written to."""
    roots = [root_of(place) for place in places]
    inside = is_device_array(given) and any(root_of(given) is root for root in roots)
    return _copy(given) if inside else given


WAYS = 32
"""So many recordings a captured step may have."""


class Recording:
    """One way that a step goes. graphs: whether ops were being recorded, which `no_grad` around it prevents."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool, self.graphs = pool, is_recording()
        self._left: list[tuple[Callable[[], Tensor | None], Array | None]] = []  # leaves and their gradients
        self._fresh: list[Callable[[], Tensor | None]] = []  # of these, those that had none when the step began
        self._written: list[Tensor] = []  # what the step returns
        self.plan: Plan | None = None
        self.run: Run | None = None
        self._first: Any = None
        self.result: Any = None  # of a replay: tensors on planned memory

    @property
    def tape(self) -> Any:
        assert self.plan is not None
        return self.plan.tape

    def record(self, step: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        """Runs the step and notes what it does."""
        recorder = Recorder(calling_line)
        with listen(recorder):
            result = _detached(step(*inputs))
            recorder.finish()
        self.plan = Plan(recorder.tape, self.pool)
        self._first = _arrays(result, recorder.use)
        self._fresh = list(recorder.leaves.values())
        return result

    def rehearse(self, step: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        """Runs the step again, on the memory that replays use."""
        assert self.plan is not None
        self.plan.allocate()
        self._fresh = [leaf for leaf in self._fresh if (tensor := leaf()) is not None and tensor.grad is None]
        rehearsal = Rehearsal(self.plan, calling_line)
        with listen(rehearsal):
            result = _detached(step(*inputs))
            rehearsal.finish()
        now = _arrays(result, lambda array: array)
        _compare_results(self.plan, now, self._first)
        self.result, self._first = result, None
        self._written = [tensor for tensor in _tensors(result) if not tensor.is_leaf or tensor.node is None]
        self._left = [(leaf, tensor.grad) for leaf in rehearsal.leaves.values() if (tensor := leaf()) is not None]
        self.run = replay(self.plan)
        return result

    def replay(self) -> Any:
        """Runs what was recorded."""
        assert self.run is not None
        for leaf in self._fresh:
            if (tensor := leaf()) is not None and tensor.grad is not None:
                raise CaptureError(
                    f"capture: a tensor {tensor.shape} has a gradient at {calling_line()}, to which the step would "
                    "add, but it had none when the step was recorded; zero_grad() before each call"
                )
        self.run()
        for leaf, gradient in self._left:
            if (tensor := leaf()) is not None:
                tensor.grad = gradient
        for tensor in self._written:
            tensor._version[0] += 1
        return self.result


def _detached(result: Any) -> Any:
    """What a step returned, its tensors without their graphs."""
    if isinstance(result, Tensor):
        return result.detach() if result.requires_grad and not result.is_leaf else result
    if isinstance(result, Mapping):
        return {key: _detached(value) for key, value in result.items()}
    if type(result) in (tuple, list):
        return type(result)([_detached(value) for value in result])
    if isinstance(result, tuple):  # a named one
        return type(result)(*map(_detached, result))
    return result


def _arrays(result: Any, describe: Callable[[Array], Any]) -> Any:
    """The result with each tensor and array described."""
    array = values_of(result)
    if is_device_array(array):
        return describe(array)
    if isinstance(result, Mapping):
        return {key: _arrays(value, describe) for key, value in result.items()}
    if isinstance(result, (tuple, list)):
        return [_arrays(value, describe) for value in result]
    return result


def _tensors(result: Any) -> Iterator[Tensor]:
    """Those in what a step returned."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (Mapping, tuple, list)):
        for part in result.values() if isinstance(result, Mapping) else result:
            yield from _tensors(part)


def _compare_results(plan: Plan, now: Any, then: Any) -> None:
    """CaptureError unless both steps returned the same, as far as Python made it."""
    if isinstance(then, Mapping) and isinstance(now, Mapping) and now.keys() == then.keys():
        for key in now:
            _compare_results(plan, now[key], then[key])
    elif isinstance(then, list) and isinstance(now, list) and len(now) == len(then):
        for a, b in zip(now, then, strict=True):
            _compare_results(plan, a, b)
    elif is_device_array(now):
        if plan.is_that(now, then):
            return
        if then.value is None and np.array_equal(*map(kernels.to_host, (now, plan.array(then)))):
            return  # a constant, such as the gradient by what was not used
        raise CaptureError(
            f"capture: the step returns {now.dtype} {now.shape} that none of its kernels made, so that a replay "
            "could not renew it; compute it with minigan's ops"
        )
    elif not same(now, then):
        raise CaptureError(
            f"capture: the step returned {then!r} and then {now!r}, which Python made, so that a replay could not "
            "renew it; return the tensor and read it afterwards"
        )


def live(function: Callable[..., Any], *tensors: Any) -> Any:
    """function(*tensors) as a tensor, computed anew at each replay of a captured step; it may return nothing.

    For what no kernel does: the next batch, a number that a schedule changes. It gets the tensors of the replay, may
    read them, and returns an array or a number, of the same shape each time. No gradient flows through it. The tensors
    are lent to it for the call: to keep one, copy it.
    """
    found = kernels.live(partial(_on_tensors, function), *map(values_of, tensors))
    return None if found is None else Tensor.of(found)


def _on_tensors(function: Callable[..., Any], *arrays: Any) -> Array | None:
    found = function(*[Tensor.of(array) if is_device_array(array) else array for array in arrays])
    return None if found is None else Tensor(found).array


def branch(question: Callable[[], Any]) -> Any:
    """question(), on which the rest of a captured step depends: each answer has a recording of its own.

    It is asked before each replay, so its answer must not depend on what the step does before it asks, nor on how often
    it is asked.
    """
    return kernels.branch(question)

