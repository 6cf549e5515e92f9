"""Where the time of a block goes: by op, by kernel, and what is left to Python.

    with minigan.profile() as p:
        step()
    p.save("trace.json")  # for chrome://tracing and https://ui.perfetto.dev

Leaving the block prints two tables. Ops nest: the backward of one is made of others. An op's *total* time includes
the ops that it called; its *own* time does not, so own times add up; its *Python* time is the part of its own that no
kernel took. While the profile takes notes its clock stands still, but for about a microsecond a call. For the length
of the block it stands in front of the functions through which everything passes: outside it costs nothing.

A captured step that is replayed has no ops. Its kernels are timed one by one, on a GPU too, where they are launched
together otherwise; what a live call takes besides kernels is time "elsewhere".
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np

from . import autograd
from .autograd import Function
from .capture import Recording
from .files import replace
from .kernels import Kernel, name_of, synchronize
from .tensor import Array, Tensor

KERNEL, FORWARD, BACKWARD, REPLAY = "kernel", "forward", "backward", "replay"
PLACES: tuple[tuple[Any, str, str], ...] = (
    (Kernel, "__call__", KERNEL),
    (Function, "__call__", FORWARD),
    (autograd, "_propagate", BACKWARD),
    (Recording, "replay", REPLAY),
)
"""Owner and name of each function that is timed, and what its calls are. The first argument of all has a `.name`; but
of a replay, which is no event itself.
"""

_running = threading.Lock()


class OpRow(NamedTuple):
    """The calls of one op's forward or backward. Times in seconds."""

    name: str
    part: str  # "forward" or "backward"
    calls: int
    total: float  # with the ops that were called inside
    own: float  # without them
    python: float  # the part of `own` that is not in kernels


class KernelRow(NamedTuple):
    """The calls of one kernel."""

    name: str
    calls: int
    seconds: float
    flops: int | None  # of matrix products, and of convolutions if computed directly; None for other kernels
    bytes: int  # of all arrays passed and returned, each once and whole
    allocated: int  # bytes of results that lie in no argument's memory


@dataclass(slots=True)
class Event:
    """One call that ended, in nanoseconds. It holds no array alive."""

    name: str
    kind: str
    start: int
    outermost: bool  # not called by its own like
    duration: int = 0
    in_ops: int = 0  # the part of the duration that went to ops called inside, and to kernels called directly
    in_kernels: int = 0
    flops: int | None = None
    bytes: int = 0
    allocated: int = 0
    inputs: str = ""  # shapes
    results: str = ""


class Stopwatch:
    """Counts the nanoseconds between `go` and `stop`. It is running from the start."""

    def __init__(self) -> None:
        self.ns, self._since = 0, perf_counter_ns()

    def stop(self) -> int:
        self.ns += perf_counter_ns() - self._since
        return self.ns

    def go(self) -> None:
        self._since = perf_counter_ns()


class Profile:
    """What one block did. `print` shows it as tables, `ops` and `kernels` are their rows, by falling time.

    events: all calls, in the order in which they ended.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._open: list[Event] = []
        self._thread = threading.get_ident()
        self._watch = Stopwatch()

    @property
    def wall(self) -> float:
        """Seconds in the block, without those that the notes took."""
        return self._watch.ns * 1e-9

    @property
    def ops(self) -> list[OpRow]:
        """One row for each op and pass; the one with the longest own time first."""
        rows = []
        for (name, kind), events in self._grouped(FORWARD, BACKWARD):
            own = sum(e.duration - e.in_ops for e in events)
            python = own - sum(e.in_kernels for e in events)
            total = sum(e.duration for e in events if e.outermost)
            rows.append(OpRow(name, kind, len(events), total * 1e-9, own * 1e-9, python * 1e-9))
        return sorted(rows, key=lambda row: -row.own)

    @property
    def kernels(self) -> list[KernelRow]:
        """One row for each kernel; the one with the longest time first."""
        rows = []
        for (name, _), events in self._grouped(KERNEL):
            seconds = sum(e.duration - e.in_kernels for e in events) * 1e-9
            flops = [e.flops for e in events if e.flops is not None]
            moved, allocated = sum(e.bytes for e in events), sum(e.allocated for e in events)
            rows.append(KernelRow(name, len(events), seconds, sum(flops) if flops else None, moved, allocated))
        return sorted(rows, key=lambda row: -row.seconds)

    def __str__(self) -> str:
        ops, kernels = self.ops, self.kernels
        own, python, inside = sum(o.own for o in ops), sum(o.python for o in ops), sum(k.seconds for k in kernels)
        op_lines = [(f"{o.name} {o.part}", f"{o.calls}", _ms(o.total), _ms(o.own), _ms(o.python)) for o in ops]
        # No sum of the total times: they overlap.
        op_lines.append(("all ops", f"{sum(o.calls for o in ops)}", "", _ms(own), _ms(python)))
        kernel_lines = [
            (
                k.name,
                f"{k.calls}",
                _ms(k.seconds),
                _giga(k.flops, k.seconds),
                _giga(k.bytes, k.seconds),
                f"{k.allocated / 1e6:.1f}",
            )
            for k in kernels
        ]
        allocated = sum(k.allocated for k in kernels)
        kernel_lines.append(
            ("all kernels", f"{sum(k.calls for k in kernels)}", _ms(inside), "", "", f"{allocated / 1e6:.1f}")
        )
        outside = self.wall - inside
        share = outside / self.wall if self.wall else 0
        return (
            f"{_table(('op', 'calls', 'total ms', 'own ms', 'Python ms'), op_lines)}\n\n"
            f"{_table(('kernel', 'calls', 'ms', 'GFLOP/s', 'GB/s', 'MB allocated'), kernel_lines)}\n\n"
            f"wall time {_ms(self.wall)} ms, {share:.0%} of it outside of kernels: "
            f"{_ms(python)} ms inside ops, {_ms(outside - python)} ms elsewhere"
        )

    def save(self, path: str | Path) -> None:
        """Writes all calls in Chrome's trace format, whole or not at all. OSError if it cannot."""
        # A call and its first inner call may start in the same nanosecond; the outer one comes first.
        events = sorted(self.events, key=lambda e: (e.start, -e.duration))
        trace = [
            {
                "name": e.name if e.kind == KERNEL else f"{e.name} {e.kind}",
                "cat": "kernel" if e.kind == KERNEL else "op",
                "ph": "X",  # a complete event: start and duration, in microseconds
                "ts": e.start / 1e3,
                "dur": e.duration / 1e3,
                "pid": os.getpid(),
                "tid": 1,  # all are of one thread
                "args": {"inputs": e.inputs, "results": e.results},
            }
            for e in events
        ]
        text = json.dumps({"traceEvents": trace, "displayTimeUnit": "ms"})
        try:
            replace(Path(path), lambda part: Path(part).write_text(text))
        except OSError as error:
            raise OSError(
                f"profile: cannot write {path} ({error.strerror or error}); choose a folder that exists and has room"
            ) from error

    def _in_place_of(self, run: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """What stands in front of a function of PLACES."""
        if kind != REPLAY:
            return self._timed(run, kind)
        timed = self._timed(lambda call, *args, **options: call.run.func(*args, **options), KERNEL)

        def replay(recording: Recording) -> Any:
            assert recording.plan is not None
            for call in recording.plan.replayed:
                bound: Any = call.run
                if call.kind == "kernel" and not isinstance(bound.func, Kernel):  # which is timed by itself
                    timed(call, *bound.args, **bound.keywords)
                else:
                    bound()
            return recording.result

        return replay

    def _timed(self, run: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """`run`, with an event for each call by the thread that entered the block."""
        watch = self._watch

        def call(it: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread or self._inside(it.name, kind):
                return run(it, *args, **kwargs)
            start = watch.stop()
            outermost = not any(e.name == it.name and e.kind == kind for e in self._open)
            event = Event(it.name, kind, start, outermost)
            self._open.append(event)
            result = None
            watch.go()
            try:
                result = run(it, *args, **kwargs)
                synchronize()
                return result
            finally:
                event.duration = watch.stop() - start
                self._close(event, (*args, *kwargs.values()), result)
                watch.go()

        return call

    def _inside(self, name: str, kind: str) -> bool:
        """Whether this is a kernel that is called by itself: by the recorder that it told of the call."""
        return kind == KERNEL and bool(self._open) and (self._open[-1].name, self._open[-1].kind) == (name, KERNEL)

    def _close(self, event: Event, inputs: tuple[Any, ...], result: Any) -> None:
        """Notes what a call did. Its result is None if it raised."""
        self._open.pop()
        if self._open and event.kind == KERNEL:
            self._open[-1].in_kernels += event.duration
        elif self._open:
            self._open[-1].in_ops += event.duration
        arrays, results = list(_arrays(inputs)), list(_arrays([result]))
        event.inputs, event.results = (", ".join(str(a.shape) for a in part) for part in (arrays, results))
        if event.kind == KERNEL:
            new = [r for r in results if not any(type(a) is type(r) and np.may_share_memory(r, a) for a in arrays)]
            event.allocated = sum(a.nbytes for a in new)
            event.bytes = sum(a.nbytes for a in {id(a): a for a in arrays}.values()) + event.allocated
            event.flops = None if result is None else _flops(event.name, arrays, result)
        self.events.append(event)

    def _grouped(self, *kinds: str) -> Iterable[tuple[tuple[str, str], list[Event]]]:
        groups: dict[tuple[str, str], list[Event]] = {}
        for event in self.events:
            if event.kind in kinds:
                groups.setdefault((event.name, event.kind), []).append(event)
        return groups.items()


@contextmanager
def profile() -> Iterator[Profile]:
    """`with profile() as p:` times every op and kernel that this thread runs, and prints the tables at the end.

    They are printed even if the block raises. The first call of a kernel may compile it: profile a later one.
    RuntimeError inside another profile.
    """
    if not _running.acquire(blocking=False):
        raise RuntimeError("profile: another profile is running, and they do not nest; leave its block first")
    originals = [getattr(owner, name) for owner, name, _ in PLACES]
    p = Profile()
    try:
        for (owner, name, kind), original in zip(PLACES, originals, strict=True):
            setattr(owner, name, p._in_place_of(original, kind))
        yield p
    finally:
        p._watch.stop()
        for (owner, name, _), original in zip(PLACES, originals, strict=True):
            setattr(owner, name, original)
        _running.release()
        print(p)


def _arrays(values: Iterable[Any]) -> Iterator[Array]:
    """The arrays among the values, those of tensors and those inside lists and tuples included."""
    for value in values:
        if isinstance(value, np.ndarray) or name_of(value) != "cpu":
            yield value
        elif isinstance(value, Tensor):
            yield value.array
        elif isinstance(value, list | tuple):
            yield from _arrays(value)


def _flops(kernel: str, arrays: Sequence[Array], result: Any) -> int | None:
    """Multiplications and additions of a matrix product, or of a convolution that is computed directly.

    What a convolution does beside it, a bias or statistics, is not counted.
    """
    if kernel == "matmul":
        return 2 * int(result.size) * int(arrays[0].shape[-1])
    kernel = kernel.removesuffix("_bias_act").removesuffix("_statistics")
    if kernel == "conv2d":
        y, w = result[0] if isinstance(result, tuple) else result, arrays[1]
    elif kernel == "conv_transpose2d":
        y, w = arrays[0], arrays[1]
    elif kernel == "conv2d_weight":
        y, w = arrays[1], result
    else:
        return None
    return 2 * int(y.size) * prod(w.shape[:3])  # y (N, OH, OW, O), w (KH, KW, C, O)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def _giga(amount: int | None, seconds: float) -> str:
    """10^9 a second; "-" where nothing was counted, or faster than the clock ticks."""
    return f"{amount / seconds / 1e9:.1f}" if amount is not None and seconds else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in (head, *rows)
    )
