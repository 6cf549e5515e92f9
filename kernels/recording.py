"""A step is recorded while it runs, rehearsed on memory of its own, and from then on replayed without its Python.

    recording   The step runs as ever. Each call of a kernel is noted: what it was given, in terms of the results of
                earlier calls, and which line of the program asked for it.
    rehearsal   The next step runs as ever, too, but each result goes to the place that plan.py gave it, and each call
                is compared with the one that was noted. Two steps that do not do the same are no step to replay.
    replay      The list of calls, from first to last: no graph, no tensors, no new arrays but what live calls make.

What is no kernel call, but has to happen in every step, is wrapped in `live`: it is called again at each replay.
What needs nothing of the step's kernels, but gives them numbers, is wrapped in `ahead`: it is called again, too, but
before the kernels that it stands among, right behind the last live call. What all of them give between two live calls
travels to a device as one copy. Random counters, batches of data and learning rates get in by this door, so that
nothing stands between kernels, and a GPU runs them as one graph.

    the step     ahead  kernel  ahead  kernel  live  kernel  ahead  kernel
    a replay     ahead  ahead  copy  [kernel  kernel]  live  ahead  copy  [kernel  kernel]      [one graph]

What a step may do in one way or another, it asks by `branch`.

An array that no call of this step made is either the same memory in both steps, such as a weight, and is read and
written where it lies; or new in each but of equal values, and is a constant; or neither, which is refused.
"""

import functools
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import DEVICES, Device, connect, move, name_of, to_host
from .plan import MemoryPool, Value, live_bytes, new_block, place, side_by_side, view

Array = NDArray[Any]
Run = Callable[[], Any]


class CaptureError(RuntimeError):
    """A step does something that a replay could not do. The message names the line."""


@dataclass(frozen=True)
class Use:
    """An array among the arguments of a call: a part of the result `value`, or from outside of the step."""

    value: int | None
    outside: Array | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Made:
    """Stands for the array of a value in what a call returned."""

    value: int


@dataclass
class Call:
    """One call of a step. results: the numbers of its values. run: itself, on planned memory.

    kind: "kernel", "live", "ahead", or "view", which takes no time in a replay: its result is memory that is there
    already.
    """

    kind: str
    name: str
    function: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    line: str
    results: tuple[int, ...] = ()
    idle: bool = False  # whether a replay leaves it out
    answer: Any = None  # the structure of what it returned, with numbers of values for arrays
    run: Run | None = None

    @property
    def replayed(self) -> bool:
        """Whether a replay runs it."""
        return self.kind != "view" and not self.idle


@dataclass
class Branch:
    """A question that the step asked, and what it was told."""

    question: Callable[[], Any]
    answer: Any
    line: str


@dataclass
class Tape:
    """What a recorded step does."""

    calls: list[Call] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    asked: list[Branch] = field(default_factory=list)  # each question once

    def holds(self) -> bool:
        """Whether the step would go the way that was recorded."""
        return all(branch.question() == branch.answer for branch in self.asked)


current: "Recorder | Rehearsal | None" = None
"""Who listens to the kernels. One step of the process is recorded at a time, in one thread."""

_one_at_a_time = threading.RLock()

PATIENCE = 300
"""Seconds that a thread waits for another one to have recorded a step."""


def listening() -> bool:
    """Whether a step is being recorded or rehearsed here."""
    return current is not None and current.thread == threading.get_ident()


@contextmanager
def listen(listener: "Recorder | Rehearsal") -> Iterator[None]:
    """Inside, `listener` hears of every kernel call of this thread. Other threads that want to record wait."""
    global current
    if not _one_at_a_time.acquire(timeout=PATIENCE):
        raise CaptureError(
            f"capture: another thread has been recording a step for {PATIENCE} seconds; if it waits for this one, let "
            "one of them run without capture"
        )
    before, current = current, listener
    try:
        yield
    finally:
        current = before
        _one_at_a_time.release()


@contextmanager
def _deaf() -> Iterator[None]:
    global current
    listener, current = current, None
    try:
        yield
    finally:
        current = listener


def live(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), called again at every replay of a step that is being recorded; its kernels are not recorded.

    Arrays among the arguments, and in lists and tuples there, are those of the replay. Arrays that it returns are
    copied to where the step expects them; in every replay they must have the same shapes. Arrays that it is given are
    lent to it: later calls of the step write over them.
    """
    if current is not None and listening():
        return current.live(function, args)
    return function(*args)


def ahead(function: Callable[..., Any], *args: Any, device: str = "cpu", back: Run | None = None) -> Any:
    """function(*args), a NumPy array or numbers, as an array on the device; None for a function that gives nothing.

    A step that is being recorded calls it again at every replay: behind the live call that stands before it, or first
    of all, but before the kernels in between. Of those that stand between the same live calls the order stays, and what
    they gave then goes to each device as one copy. So it may depend on what live functions and others that were called
    ahead have done, but on nothing that a kernel does: what functions called ahead gave on the CPU is the only kind of
    array that it may be given, else CaptureError.

    back: undoes what it has counted. A replay calls it if, before the next live call, anything raises: then it is as if
    the kernels had not been asked for.
    """
    if current is not None and listening():
        return current.ahead(function, args, device, back)
    return _sent(function, device, *args)


def early(function: Callable[..., Any], *args: Any, device: str = "cpu") -> Any:
    """`ahead` where its arrays are all such as that may be given, else called where it stands, as a live call is."""
    if current is not None and listening() and not current.knows(args):
        return current.live(_sent, (function, device, *args))
    return ahead(function, *args, device=device)


def _sent(function: Callable[..., Any], device: str, *args: Any) -> Any:
    found = function(*args)
    return None if found is None else move(np.asarray(found), device)


def branch(question: Callable[[], Any]) -> Any:
    """question(), on which the rest of a step depends. A step for which it is answered otherwise is recorded anew.

    It is asked before a replay begins, too, so its answer must not depend on what the step does before it asks, nor on
    how often it is asked. CaptureError for an answer that can be changed, such as a list.
    """
    answer = question()
    if current is not None and listening():
        if getattr(type(answer), "__hash__", None) is None or is_device_array(answer):
            raise CaptureError(
                f"capture: a branch at {current.line()} is answered by a {type(answer).__name__}, which may change "
                "behind the answer; answer by a bool, a number or a string"
            )
        current.branch(question, answer)
    return answer


def left(tensor: Any, array: Array) -> Array:
    """`array`, which becomes the gradient that a tensor, a leaf, is left with; a replay will leave it there, too."""
    if current is not None and listening():
        current.leaves[id(tensor)] = weakref.ref(tensor)
    return array


def made(array: Any) -> bool:
    """Whether it is memory of the step that is being recorded: each replay makes it anew."""
    return current is not None and listening() and current.made(array)


def written(array: Any, count: Callable[[], None]) -> None:
    """count(), which counts a write to the array: at each replay, too, unless it is memory of the step.

    On a device, where no kernel keeps anything beside a weight, it does not matter when: it is called ahead.
    """
    if made(array):
        count()
    else:
        (live if name_of(array) == "cpu" else ahead)(count)


def read(array: Any) -> Any:
    """The array, for Python to look at. CaptureError if a step is being recorded: a replay does not look."""
    if current is not None and listening():
        raise CaptureError(
            f"capture: a value is read back in the middle of the step, at {current.line()}; a replay runs no Python "
            "there: return the tensor from the step and read it afterwards, or wrap what depends on the value in "
            "minigan.live(function, tensors)"
        )
    return array


# ---- arrays and what they lie in -----------------------------------------------------------------------------------


def is_device_array(array: Any) -> bool:
    return isinstance(array, np.ndarray) or type(array) in DEVICES


def root_of(array: Any) -> Any:
    """Whatever owns the array's memory: all views of it have the same root."""
    root = getattr(array, "host", array)  # of an emulated device's array
    while (base := getattr(root, "base", None)) is not None:
        root = base
    return root


def address(array: Any) -> int:
    """Where its first element lies."""
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr)


def strides_of(array: Any) -> tuple[int, ...]:
    """Its strides; 0 where an axis has one element, or all have none, so that any would do."""
    return tuple(step if n > 1 and array.size else 0 for n, step in zip(array.shape, array.strides, strict=True))


def memory_order(array: Any) -> tuple[int, ...] | None:
    """Its axes from the slowest to the fastest, if its elements fill their memory without gaps; else None."""
    strides = strides_of(array)
    order = tuple(sorted(range(array.ndim), key=lambda axis: -strides[axis]))  # stable: C order where any would do
    step = array.dtype.itemsize
    for axis in reversed(order):
        if array.shape[axis] > 1 and array.size:
            if strides[axis] != step:
                return None
            step *= array.shape[axis]
    return order


def fingerprint(array: Array) -> int:
    """Of the bytes of an array that owns its memory, or of a sample of them where they are many."""
    flat = array.ravel(order="K")
    return zlib.adler32(flat[:: 1 if flat.nbytes <= SAMPLED else flat.size >> 10].tobytes())


SAMPLED = 1 << 18
"""Bytes; of larger arrays, a write to a few elements may go unnoticed."""


def same(a: Any, b: Any) -> bool:
    """Whether two arguments that are no arrays are the same: identical, equal, or functions that do the same."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, functools.partial):
        return same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if hasattr(a, "__self__") and hasattr(a, "__func__"):
        return a.__self__ is b.__self__ and a.__func__ is b.__func__
    if isinstance(getattr(a, "__code__", None), CodeType):
        cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (a, b)]
        defaults = [(f.__defaults__, f.__kwdefaults__) for f in (a, b)]
        return a.__code__ is b.__code__ and same(*cells) and same(*defaults)
    if hasattr(a, "__array_ufunc__") and not isinstance(a, np.generic):  # arrays, tensors: others in each step
        return False
    return bool(a == b) or (a != a and b != b)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """The structure of lists and tuples with each array, or Use, replaced."""
    if type(structure) in (tuple, list):
        return type(structure)([mapped(function, part) for part in structure])
    return function(structure) if isinstance(structure, Use) or is_device_array(structure) else structure


def flattened(structure: Any) -> Iterator[Any]:
    """What is in a structure of lists and tuples."""
    if type(structure) in (tuple, list):
        for part in structure:
            yield from flattened(part)
    else:
        yield structure


# ---- the first time -------------------------------------------------------------------------------------------------


class Recorder:
    """Notes what a step does. line: says which line of the program is being run."""

    def __init__(self, line: Callable[[], str]) -> None:
        self.line, self.thread, self.tape = line, threading.get_ident(), Tape()
        self.leaves: dict[int, weakref.ref[Any]] = {}  # tensors that a gradient was left to
        self._known: dict[int, tuple[weakref.ref[Any], int, int]] = {}  # by id of its root: it, value, its address
        self._roots: list[weakref.ref[Any]] = []  # of each value
        self._prints: dict[int, tuple[Any, int, str]] = {}  # by id of a root: it, maybe weakly, fingerprint, line
        self._early: set[int] = set()  # values that were given ahead on the CPU, and that nobody may have written to

    def call(self, kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Runs kernel(*args, **options) and notes it."""
        given = mapped(self.use, args), {key: mapped(self.use, option) for key, option in options.items()}
        call = Call("kernel", kernel.name, kernel, *given, self.line())
        self._refuse_changed(call.line, args, tuple(options.values()))
        if kernel.in_place or options.get("out") is not None:
            self._early.difference_update(use.value for use in _uses(call))
        with _deaf():
            result = kernel(*args, **options)
        if not kernel.in_place and options.get("out") is None:
            result = as_device_array(result)
            inputs = [array for array in flattened((args, tuple(options.values()))) if is_device_array(array)]
            roots = set(map(id, map(root_of, inputs)))
            if any(id(root_of(array)) in roots for array in flattened(result)):
                call.kind = "view"
            else:
                result = mapped(_apart, result)
                self._define(call, result)
        self.tape.calls.append(call)
        self._fingerprint(args, tuple(options.values()), result)
        return result

    def live(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """See `live`."""
        call = Call("live", _name(function), function, mapped(self.use, args), {}, self.line())
        self._refuse_changed(call.line)
        self._early.difference_update(use.value for use in _uses(call))
        with _deaf():
            result = mapped(_own_copy, function(*args))
        self._define(call, result)
        self.tape.calls.append(call)
        self._prints.clear()  # it may have written anywhere
        self._fingerprint(args, result)
        return result

    def ahead(self, function: Callable[..., Any], args: tuple[Any, ...], device: str, back: Run | None) -> Any:
        """See `ahead`."""
        line = self.line()
        if not self.knows(args):
            raise CaptureError(
                f"capture: {_name(function)}, called ahead at {line}, is given an array, which a replay has not "
                "computed yet when it calls the function; wrap it in kernels.live(function, array) instead"
            )
        call = Call("ahead", _name(function), function, mapped(self.use, args), {"device": device, "back": back}, line)
        if call.args:
            self._refuse_changed(line, args)
        with _deaf():
            result = mapped(_own_copy, _sent(function, device, *args))
        self._define(call, result)
        if device == "cpu":
            self._early.update(call.results)
        self.tape.calls.append(call)
        self._fingerprint(result)
        return result

    def knows(self, args: tuple[Any, ...]) -> bool:
        """Whether a replay has all arrays among the arguments before the kernels: functions called ahead gave them."""
        return all(self.use(a).value in self._early for a in flattened(args) if is_device_array(a))

    def branch(self, question: Callable[[], Any], answer: Any) -> None:
        """See `branch`."""
        branch = Branch(question, answer, self.line())
        self.tape.branches.append(branch)
        if not any(same(question, other.question) for other in self.tape.asked):
            self.tape.asked.append(branch)

    def use(self, array: Array) -> Use:
        """What an array is to this step."""
        root, at = root_of(array), address(array)
        found = self._known.get(id(root))
        layout = array.shape, strides_of(array), array.dtype
        if found is not None and found[0]() is root:
            _, value, start = found
            self.tape.values[value].last = len(self.tape.calls)
            return Use(value, None, at - start, *layout)
        return Use(None, array, 0, *layout)

    def _refuse_changed(self, now: str, *arrays: Any) -> None:
        """CaptureError if one of the arrays, by default of all, was written to since a kernel saw it: whatever did so
        would not do it again."""
        roots = [id(root_of(array)) for array in flattened(arrays) if is_device_array(array)] or list(self._prints)
        for root, before, line in [self._prints[root] for root in roots if root in self._prints]:
            array = root() if isinstance(root, weakref.ref) else root
            if array is not None and fingerprint(array) != before:
                raise CaptureError(
                    f"capture: {array.dtype} {array.shape} was written to by something that is no kernel, between "
                    f"{line} and {now}; a replay would not do so: use minigan's ops, an optimizer, or "
                    "minigan.live(function, tensors)"
                )

    def _fingerprint(self, *arrays: Any) -> None:
        """Remembers what the arrays hold now."""
        line = self.line()
        for array in flattened(arrays):
            root = root_of(array) if isinstance(array, np.ndarray) else None
            if isinstance(root, np.ndarray) and root.dtype != object:
                known = self._known.get(id(root))
                held = known[0] if known is not None and known[0]() is root else root
                self._prints[id(root)] = held, fingerprint(root), line

    def made(self, array: Array) -> bool:
        """Whether a call of this step made it."""
        return self.use(array).value is not None

    def _define(self, call: Call, result: Any) -> None:
        """Makes values of the arrays in a result."""
        numbers = []

        def define(array: Array) -> int:
            root, number, now = root_of(array), len(self.tape.values), len(self.tape.calls)
            order = memory_order(array)
            assert order is not None
            value = Value(array.shape, order, array.dtype, name_of(array), now, now, ahead=call.kind == "ahead")
            self.tape.values.append(value)
            self._known[id(root)] = weakref.ref(root), number, address(array)
            self._roots.append(weakref.ref(root))
            numbers.append(number)
            return number

        call.answer = mapped(lambda array: Made(define(array)), result)
        call.results = tuple(numbers)

    def finish(self) -> None:
        """The step has ended: what somebody still holds, now that the step's own variables are gone, is kept."""
        self._refuse_changed(self.line())
        self._prints.clear()
        for value, root in zip(self.tape.values, self._roots, strict=True):
            if root() is not None:
                value.kept, value.last = True, len(self.tape.calls)


def as_device_array(result: Any) -> Any:
    """NumPy's scalars as arrays."""
    return np.asarray(result) if isinstance(result, np.generic) else result


def _apart(array: Array) -> Array:
    """Itself, if its elements fill memory of its own; else a copy."""
    alone = memory_order(array) is not None and getattr(root_of(array), "nbytes", None) == array.nbytes
    return array if alone else array.copy()


def _own_copy(array: Array) -> Array:
    """Of what a live function returns: it may be memory that somebody else will write to."""
    return array.copy()


def _name(function: Any) -> str:
    name = getattr(function, "__qualname__", "") or type(function).__name__
    return name.replace("<locals>.", "").replace("<lambda>", "lambda")


# ---- the second time, and all others ---------------------------------------------------------------------------------


class Plan:
    """A tape with memory: "shared", which other steps may use between two runs of this one, "kept", and "ahead", for
    what functions called ahead give: one block a device, in their order, so that one copy fills what neighbours give.

    Two kinds of calls a replay leaves out: those whose results nobody reads, and copies of what nobody reads
    afterwards, which share the memory of what they copy. Large results of some are written over what they read.

    peak: bytes of the shared memory; least: what is needed at once at the worst moment; sum: of all its values.
    kept: bytes of what outlasts the step. sent: bytes of what is given ahead.
    """

    def __init__(self, tape: Tape, pool: MemoryPool) -> None:
        self.tape, self.pool = tape, pool
        _leave_out_unread(tape)
        _leave_out_copies(tape)
        _write_in_place(tape)
        self.sizes: dict[tuple[str, str], int] = {}  # of each device's blocks
        own = [value for value in tape.values if value.alias is None]
        for device in dict.fromkeys(value.device for value in own):
            for block in ("shared", "kept", "ahead"):
                inside = [v for v in own if (v.device, v.block) == (device, block)]
                self.sizes[device, block] = (side_by_side if block == "ahead" else place)(inside)
            pool.reserve(device, self.sizes[device, "shared"])
        for value in tape.values:
            if value.alias is not None:
                there = tape.values[value.alias]
                value.offset, value.kept = there.offset, there.kept
        temporary = [value for value in own if value.block == "shared"]
        self.peak, self.kept, self.sent = (
            sum(size for (_, of), size in self.sizes.items() if of == block) for block in ("shared", "kept", "ahead")
        )
        self.least, self.sum = live_bytes(temporary), sum(v.nbytes for v in temporary)
        self.arrays: list[Array] = []
        self.constants: set[int] = set()  # ids of uses of what is made anew in each step, always the same
        self._places: list[tuple[Any, int]] = []  # of each value: memory, and where it begins there
        self._numbers: dict[int, int] = {}  # of values, by the id of their memory
        self._blocks: list[Array] = []
        self._hosts: dict[str, Array] = {}  # by device: a block of the host, which is copied to its block "ahead"
        self._aheads: dict[str, Array] = {}  # by device: that block

    def allocate(self) -> None:
        """Takes the memory, and makes each call ready to run on it."""
        blocks = {
            (device, of): self.pool.block(device, size) if of == "shared" else new_block(size, device)
            for (device, of), size in self.sizes.items()
        }
        self._blocks = [*blocks.values()]
        self._aheads = {device: block for (device, of), block in blocks.items() if of == "ahead"}
        self._hosts = {
            device: block if device == "cpu" else new_block(self.sizes[device, "ahead"], "cpu")
            for device, block in self._aheads.items()
        }
        for number, v in enumerate(self.tape.values):
            block, start = blocks[v.device, v.block], v.offset
            if v.device == "cpu":  # memory of its own, to NumPy: what lies in one place in turn is told apart by it
                piece = memoryview(block)[start : start + v.nbytes]  # type: ignore[arg-type]
                block, start = np.frombuffer(piece, np.uint8) if v.nbytes else np.empty(0, np.uint8), 0
                self._numbers[id(root_of(block))] = number
            self._places.append((block, start))
            self.arrays.append(view(block, start, v.shape, v.strides, v.dtype, v.device))
        for call in self.tape.calls:
            call.run = self._bound(call)

    def _bound(self, call: Call) -> Run | None:
        if call.kind == "view" or (call.idle and self.tape.values[call.results[0]].alias is not None):
            return None
        args = mapped(self.array, call.args)
        if call.kind == "kernel":
            options = {key: mapped(self.array, option) for key, option in call.options.items()}
            if call.results:
                options["out"] = self.result(call)
            return functools.partial(call.function.runner(args), *args, **options)
        if call.kind == "ahead" and call.results:
            value = self.tape.values[call.results[0]]
            on_host = view(self._hosts[value.device], value.offset, value.shape, value.strides, value.dtype, "cpu")
            return functools.partial(_fill, call, args, on_host)
        if not call.results:
            return functools.partial(call.function, *args)
        return functools.partial(_refill, call, args, self.result(call))

    def sendings(self, calls: Sequence[Call]) -> list[Run]:
        """For each device a copy to it of what calls ahead, all that there are between the first and the last, gave."""
        runs = list[Run]()
        values = [self.tape.values[number] for call in calls for number in call.results]
        for device in dict.fromkeys(v.device for v in values if v.device != "cpu" and v.nbytes):
            ends = [end for v in values if v.device == device for end in (v.offset, v.offset + v.nbytes)]
            part = slice(min(ends), max(ends))
            runs.append(functools.partial(connect(device).send, self._hosts[device][part], self._aheads[device][part]))
        return runs

    def array(self, use: Use) -> Array:
        """The array that a call is given."""
        if use.value is None:
            assert use.outside is not None
            return use.outside
        value, array = self.tape.values[use.value], self.arrays[use.value]
        if use.offset == 0 and (array.shape, strides_of(array), array.dtype) == (use.shape, use.strides, use.dtype):
            return array
        block, start = self._places[use.value]
        return view(block, start + use.offset, use.shape, use.strides, use.dtype, value.device)

    def holds(self, array: Array) -> bool:
        """Whether it lies in the memory of a value."""
        root = root_of(array)
        return id(root) in self._numbers or any(root is root_of(block) for block in self._blocks)

    def is_that(self, array: Array, use: Use) -> bool:
        """Whether this is the array that a call is given."""
        expected = self.array(use)
        if address(array) != address(expected) or strides_of(array) != strides_of(expected):
            return False
        return use.value is None or type(array) in DEVICES or self._numbers.get(id(root_of(array))) == use.value

    def device(self, call: Call) -> Device | None:
        """The device on which a call can be part of a graph; None: on the CPU, called live, or reading numbers on the
        host, which a graph would keep as they were."""
        if any(name_of(self.array(use)) == "cpu" and id(use) not in self.constants for use in _uses(call)):
            return None
        places = [self.tape.values[number].device for number in call.results] + [
            name_of(self.array(use)) for use in _uses(call)
        ]
        names = [name for name in places if name != "cpu"] if call.kind == "kernel" else []
        return connect(names[0]) if names else None

    @property
    def replayed(self) -> list[Call]:
        """The calls that a replay runs, in their order."""
        return [call for call in self.tape.calls if call.replayed]

    def result(self, call: Call) -> Any:
        """What the call returns."""
        return _placed(call.answer, self.arrays)


def _placed(answer: Any, arrays: Sequence[Array]) -> Any:
    if type(answer) in (tuple, list):
        return type(answer)([_placed(part, arrays) for part in answer])
    return arrays[answer.value] if isinstance(answer, Made) else answer


def _refill(call: Call, args: Sequence[Any], places: Any) -> None:
    """A live call whose results are copied to their places."""
    found = [*flattened(call.function(*args))]
    expected = [*flattened(places)]
    if len(found) != len(expected):
        raise CaptureError(
            f"capture: {call.name}, at {call.line}, gave {len(expected)} things when the step was recorded, and gives "
            f"{len(found)} now; it must give the same each time"
        )
    for place_, array in zip(expected, found, strict=True):
        if is_device_array(place_):
            _copy_to(place_, array, call)


def _fill(call: Call, args: Sequence[Any], place_: Array) -> None:
    """A call ahead, whose result is copied to its place on the host."""
    _copy_to(place_, np.asarray(call.function(*args)), call)


def _copy_to(place_: Array, array: Any, call: Call) -> None:
    if not is_device_array(array) or (array.shape, array.dtype) != (place_.shape, place_.dtype):
        now = f"{array.dtype} {array.shape}" if is_device_array(array) else repr(array)
        raise CaptureError(
            f"capture: {call.name}, at {call.line}, gave {place_.dtype} {place_.shape} when the step was recorded "
            f"and gives {now} now; a recorded step has fixed shapes: capture another step for these"
        )
    place_[...] = array


def _uses(call: Call) -> Iterator[Use]:
    for part in flattened((call.args, tuple(call.options.values()))):
        if isinstance(part, Use):
            yield part


def _leave_out_unread(tape: Tape) -> None:
    """Calls whose results nobody reads, but others of the kind: of a gradient's forward pass often the last ones."""
    read = {number for number, value in enumerate(tape.values) if value.kept}
    for call in reversed(tape.calls):
        if call.kind == "kernel" and call.results and not read.intersection(call.results):
            call.idle = True
        elif call.kind != "view":
            read.update(use.value for use in _uses(call) if use.value is not None)


def _leave_out_copies(tape: Tape) -> None:
    """Copies of what is read for the last time: a parameter's gradient, say, which is an array of its own."""
    for number, call in enumerate(tape.calls):
        if call.kind == "kernel" and call.name == "copy" and not call.idle and call.results:
            call.idle = _take_over(tape, number)


IN_PLACE = {
    *("leaky_relu_backward", "tanh_backward", "sigmoid_backward", "elu_backward"),
    *("add", "subtract", "multiply", "divide", "negative"),
}
"""Kernels whose first result may be written over their first argument: they read each number before they write it."""

LARGE = 1 << 20
"""Bytes. For less it saves nothing that matters, and compiled loops are quicker on arrays that do not overlap."""


def _write_in_place(tape: Tape) -> None:
    """Large results over what is read for the last time: the gradient that goes into an activation's backward."""
    for number, call in enumerate(tape.calls):
        fits = call.kind == "kernel" and call.name in IN_PLACE and not call.idle and call.results
        if fits and tape.values[call.results[0]].nbytes >= LARGE:
            _take_over(tape, number)


def _take_over(tape: Tape, number: int) -> bool:
    """Gives the first result of a call the place of its first argument, if nobody else reads that from there on.

    What is given ahead keeps its place for the whole step.
    """
    call = tape.calls[number]
    use, made = call.args[0], tape.values[call.results[0]]
    if not isinstance(use, Use) or use.value is None:
        return False
    there = tape.values[use.value]
    if there.kept or there.ahead:
        return False
    root = use.value if there.alias is None else there.alias
    in_order = use.strides == tuple(s if n > 1 else 0 for n, s in zip(made.shape, made.strides, strict=True))
    whole = (use.offset, use.shape, use.dtype) == (0, there.shape, there.dtype) == (0, made.shape, made.dtype)
    readers = [other for other in _uses(call) if other.value in (use.value, root)]
    if not (in_order and whole and len(readers) == 1 and tape.values[root].last == number):
        return False
    made.alias = root
    tape.values[root].last, tape.values[root].kept = made.last, made.kept
    return True


class Rehearsal:
    """Runs a step on the memory of a plan, and compares it with the tape, call by call."""

    def __init__(self, plan: Plan, line: Callable[[], str]) -> None:
        self.plan, self.line, self.thread = plan, line, threading.get_ident()
        self.leaves: dict[int, weakref.ref[Any]] = {}
        self._next = self._asked = 0

    def call(self, kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Runs what was recorded in place of kernel(*args, **options). CaptureError if that is something else."""
        call = self._expect(kernel.name)
        self._compare(call, "argument", args, call.args)
        if options.keys() != call.options.keys():
            raise self._other(call, f"arguments {', '.join(options)}", f"arguments {', '.join(call.options)}")
        for key, option in options.items():
            self._compare(call, f"{key}=", option, call.options[key])
        with _deaf():
            if call.run is None:
                return kernel(*args, **options) if call.kind == "view" else self.plan.result(call)
            answer = call.run()
        return self.plan.result(call) if call.results else answer

    def live(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """See `live`."""
        call = self._expect(_name(function))
        if not same(function, call.function):
            raise CaptureError(
                f"capture: the function that is called live at {self.line()} is another one in each step, or has "
                "other values bound in it; pass live() the arrays as arguments, and let it look up the rest itself"
            )
        self._compare(call, "argument", args, call.args)
        assert call.run is not None
        with _deaf():
            answer = call.run()
        return self.plan.result(call) if call.results else answer

    def ahead(self, function: Callable[..., Any], args: tuple[Any, ...], device: str, back: Run | None) -> Any:
        """See `ahead`. Here, as in the recording, it is called where it stands."""
        call = self._expect(_name(function))
        if not same((function, back), (call.function, call.options["back"])):
            raise CaptureError(
                f"capture: the function that is called ahead at {self.line()} is another one in each step, or has "
                "other values bound in it; let it look them up itself"
            )
        self._compare(call, "argument", args, call.args)
        if device != call.options["device"]:
            raise self._other(call, f"{call.name} for {device}", call.options["device"])
        assert call.run is not None
        with _deaf():
            for run in (call.run, *self.plan.sendings([call])):
                run()
        return self.plan.result(call) if call.results else None

    def knows(self, args: tuple[Any, ...]) -> bool:
        """Whether the next call was one ahead."""
        calls = self.plan.tape.calls
        return self._next < len(calls) and calls[self._next].kind == "ahead"

    def branch(self, question: Callable[[], Any], answer: Any) -> None:
        """See `branch`."""
        branches = self.plan.tape.branches
        known = branches[self._asked] if self._asked < len(branches) else None
        if known is None or not (same(question, known.question) and same(answer, known.answer)):
            was = "none was asked" if known is None else f"it was answered {known.answer!r} at {known.line}"
            raise CaptureError(
                f"capture: a branch at {self.line()} is answered {answer!r}, but when the step was recorded {was}"
            )
        self._asked += 1

    def finish(self) -> None:
        """The step has ended. CaptureError if it did less than the one that was recorded."""
        rest = [call for call in self.plan.tape.calls[self._next :] if call.kind != "view"]
        if rest:
            raise CaptureError(
                f"capture: the step ended after {self._next} calls, but the one before went on with {rest[0].name} at "
                f"{rest[0].line}; {ADVICE}"
            )

    def made(self, array: Array) -> bool:
        """Whether it lies in the plan's memory."""
        return self.plan.holds(array)

    def _expect(self, name: str) -> Call:
        """The next call of the tape, if it is one of this name."""
        calls = self.plan.tape.calls
        if self._next == len(calls):
            raise CaptureError(
                f"capture: the step calls {name} at {self.line()}, where the one before had ended; {ADVICE}"
            )
        call = calls[self._next]
        if call.name != name:
            raise self._other(call, name, call.name)
        self._next += 1
        return call

    def _compare(self, call: Call, what: str, now: Any, then: Any) -> None:
        if isinstance(then, Use) or is_device_array(now):
            self._compare_arrays(call, now, then)
        elif type(now) in (tuple, list) and type(then) is type(now) and len(now) == len(then):
            for a, b in zip(now, then, strict=True):
                self._compare(call, what, a, b)
        elif not same(now, then):
            raise self._other(
                call, f"{call.name} with {what} {_shown(now)}", f"{_shown(then)}", "; a number that changes from step "
                "to step belongs in a tensor, or in minigan.live(function)"
            )

    def _compare_arrays(self, call: Call, now: Any, then: Any) -> None:
        if not (isinstance(then, Use) and is_device_array(now)):
            raise self._other(call, f"{call.name} of {_kind(now)}", _kind(then))
        if (now.shape, now.dtype) != (then.shape, then.dtype):
            raise self._other(call, f"{call.name} of {_kind(now)}", _kind(then))
        if self.plan.is_that(now, then):
            return
        expected, floats = self.plan.array(then), now.dtype.kind == "f"
        if then.value is None and np.array_equal(to_host(now), to_host(expected), equal_nan=floats):
            self.plan.constants.add(id(then))
            return
        if then.value is None:
            raise CaptureError(
                f"capture: {call.name} at {self.line()} is given {_kind(now)} that no kernel of this step made, and "
                "that had other values in the step before: what computed it would not be replayed. If it is left from "
                "the step before, as a gradient that was not zeroed is, drop it first; else compute it with minigan's "
                "ops, pass it to the step, or wrap what makes it in minigan.live(function)"
            )
        raise self._other(call, f"{call.name} of other memory", f"the result of {self._maker(then.value)}")

    def _maker(self, value: int) -> str:
        made = self.plan.tape.calls[self.plan.tape.values[value].born]
        return f"{made.name} at {made.line}"

    def _other(self, call: Call, now: str, then: str, advice: str = "") -> CaptureError:
        return CaptureError(
            f"capture: a step did not do what the one before did: {now} at {self.line()}, where it was {then} at "
            f"{call.line}{advice or '; ' + ADVICE}"
        )


ADVICE = (
    "a step must take the same way each time, unless it asks minigan.branch(question); if only the first ones differ, "
    "capture(step, warmup=...) runs them as they are"
)


def _kind(array: Any) -> str:
    return f"{array.dtype} {array.shape}" if isinstance(array, Use) or is_device_array(array) else repr(array)


def _shown(value: Any) -> str:
    text = repr(mapped(_Shown, value))
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Shown:
    def __init__(self, array: Any) -> None:
        self.text = _kind(array)

    def __repr__(self) -> str:
        return self.text


def replay(plan: Plan) -> Run:
    """What runs all calls of a plan that has been rehearsed: live ones, and between them those ahead, then the kernels,
    on a GPU as CUDA graphs."""
    runs = list[Run]()
    for _, group in groupby(plan.replayed, lambda call: call.kind == "live"):
        calls = [*group]
        first = [call for call in calls if call.kind == "ahead"]
        stretch = [*_runs(first), *plan.sendings(first)]
        for device, rest in groupby([call for call in calls if call.kind != "ahead"], plan.device):
            kernels = _runs(rest)
            stretch += kernels if device is None else [device.graph(kernels)]
        backs = [call.options["back"] for call in first]
        runs += [functools.partial(_all_or_none, stretch, backs)] if any(backs) else stretch

    def run() -> None:
        for each in runs:
            each()

    return run


def _runs(calls: Iterable[Call]) -> list[Run]:
    return [call.run for call in calls if call.run is not None]


def _all_or_none(runs: Sequence[Run], backs: Sequence[Run | None]) -> None:
    """Runs a stretch between live calls. If it does not come to its end, what its first calls, those ahead, have
    counted is taken back, by these functions, the last first."""
    done = 0
    try:
        for run in runs:
            run()
            done += 1
    except BaseException:
        for back in reversed(backs[:done]):
            if back is not None:
                back()
        raise
