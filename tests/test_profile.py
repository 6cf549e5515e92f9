"""What `minigan.profile` measures, that it measures it once, and that it leaves no trace but the one that it saves."""

import gc
import importlib
import json
import threading
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan import autograd, kernels
from minigan.capture import Recording
from minigan.kernels import Geometry, Kernel
from minigan.profile import KernelRow, OpRow, Profile

MODULE: Any = importlib.import_module("minigan.profile")  # the name minigan.profile is the function
Array = np.typing.NDArray[Any]


class Clock:
    """Time passes only when somebody lets it."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def pass_ms(self, ms: int) -> None:
        self.ns += ms * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock on which kernels.exp takes 3 ms, kernels.negative 1 ms, and every other kernel no time."""
    clock = Clock()
    monkeypatch.setattr(MODULE, "perf_counter_ns", clock)
    for kernel, ms in ((kernels.exp, 3), (kernels.negative, 1)):
        plain = kernel.implementation("reference")

        def slow(x: Array, out: Array | None = None, ms: int = ms, plain: Any = plain) -> Array:
            clock.pass_ms(ms)
            y: Array = plain(x, out=out)
            return y

        monkeypatch.setattr(kernel, "_chosen", slow)
    return clock


def op(p: Profile, name: str, part: str) -> OpRow:
    (row,) = (row for row in p.ops if (row.name, row.part) == (name, part))
    return row


def kernel(p: Profile, name: str) -> KernelRow:
    (row,) = (row for row in p.kernels if row.name == name)
    return row


def leaf(*shape: int) -> mg.Tensor:
    return mg.Tensor(np.ones(shape, np.float32), requires_grad=True)


def seconds(ms: int) -> Any:
    return pytest.approx(ms * 1e-3, abs=1e-12)


def in_place() -> tuple[Any, ...]:
    return Kernel.__call__, mg.Function.__call__, autograd._propagate, Recording.replay


# ---- times -----------------------------------------------------------------------------------------------------------


def test_total_own_and_python_time_of_ops_that_call_ops(clock: Clock) -> None:
    class Outer(mg.Function):
        def forward(self, x: Array) -> Array:
            clock.pass_ms(10)
            return np.asarray(kernels.exp(x))

        def backward(self, g: mg.Tensor) -> mg.Tensor:
            clock.pass_ms(20)
            kernels.exp(g.array)
            return -mg.exp(g)

    x = leaf(2)
    with mg.profile() as p:
        Outer()(x).sum().backward()
        clock.pass_ms(100)
        kernels.negative(x.array)
    # The backward of Outer: 20 ms, a kernel of 3, the op exp of 3, the op negative of 1.
    assert op(p, "outer", "forward") == ("outer", "forward", 1, seconds(13), seconds(13), seconds(10))
    assert op(p, "outer", "backward") == ("outer", "backward", 1, seconds(27), seconds(23), seconds(20))
    assert op(p, "exp", "forward") == ("exp", "forward", 1, seconds(3), seconds(3), seconds(0))
    assert kernel(p, "exp")[:3] == ("exp", 3, seconds(9))
    assert kernel(p, "negative")[:3] == ("negative", 2, seconds(2))
    assert [row.name for row in p.ops][:3] == ["outer", "outer", "exp"]
    assert [row.name for row in p.kernels][:2] == ["exp", "negative"]
    assert p.wall == seconds(141)
    assert str(p).splitlines()[-1] == (
        "wall time 141.00 ms, 92% of it outside of kernels: 30.00 ms inside ops, 100.00 ms elsewhere"
    )


def test_an_op_inside_its_own_like_counts_once_in_the_total_time(clock: Clock) -> None:
    class Nested(mg.Function):
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def forward(self, x: Array) -> Array:
            clock.pass_ms(1)
            return Nested(self.depth - 1)(x).array if self.depth else x

    with mg.profile() as p:
        Nested(2)(mg.ones(1))
        Nested(0)(mg.ones(1))
    assert op(p, "nested", "forward") == ("nested", "forward", 4, seconds(4), seconds(4), seconds(4))


def test_a_kernel_inside_a_kernel_counts_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def log_of_exp(x: Array) -> Array:
        clock.pass_ms(5)
        return np.asarray(kernels.exp(x))

    monkeypatch.setattr(kernels.log, "_chosen", log_of_exp)
    with mg.profile() as p:
        mg.log(mg.ones(2))
    assert kernel(p, "log").seconds == seconds(5)
    assert kernel(p, "exp").seconds == seconds(3)
    assert op(p, "log", "forward").python == seconds(0)


def test_the_clock_stands_still_while_notes_are_taken(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_flops", lambda *_: clock.pass_ms(1000))
    with mg.profile() as p:
        mg.exp(mg.ones(2))
    assert p.wall == op(p, "exp", "forward").total == seconds(3)


def test_real_times_add_up() -> None:
    x = leaf(50, 50)
    with mg.profile() as p:
        (mg.exp(x @ x) * x).sum().backward()
    assert sum(row.own for row in p.ops) <= p.wall
    assert all(0 < row.python <= row.own <= row.total for row in p.ops)
    in_ops = sum(row.own - row.python for row in p.ops)
    assert 0 < in_ops <= sum(row.seconds for row in p.kernels) < p.wall


# ---- what kernels did ------------------------------------------------------------------------------------------------


def test_flops_of_the_convolution_trio_are_those_of_the_direct_convolution() -> None:
    g = Geometry((2, 1), (1, 0), (3, 2), (7, 6))
    N, (OH, OW), C, O = 2, g.y_size, 4, 5
    x, w, y = np.ones((N, 7, 6, C)), np.ones((3, 2, C, O)), np.ones((N, OH, OW, O))
    with kernels.use("reference"), mg.profile() as p:
        kernels.conv2d(x, w, g)
        kernels.conv_transpose2d(y, w, g, prepared=None)
        kernels.conv2d_weight(x, y, g, out=np.empty_like(w))
        kernels.conv2d_bias_act(x, w, np.ones(O), 0.2, g)
        kernels.conv_transpose2d_bias_act(y, w, np.ones(C), 0.2, g)
        kernels.conv2d_statistics(x, w, g)
        kernels.conv_transpose2d_statistics(y, w, g)
    for name, result in (("conv2d", y), ("conv_transpose2d", x), ("conv2d_weight", w)):
        row = kernel(p, name)
        assert row.flops == 2 * N * OH * OW * 3 * 2 * C * O
        assert row.bytes == x.nbytes + w.nbytes + y.nbytes
        assert row.allocated == (0 if name == "conv2d_weight" else result.nbytes)
        if name != "conv2d_weight":
            assert kernel(p, f"{name}_bias_act").flops == kernel(p, f"{name}_statistics").flops == row.flops


def test_flops_of_matrix_products_with_any_number_of_axes() -> None:
    with mg.profile() as p:
        kernels.matmul(np.ones((3, 4)), np.ones((4, 5)))
        kernels.matmul(np.ones((2, 1, 3, 4)), np.ones((7, 4, 5)))
        kernels.matmul(np.ones(4), np.ones(4))
        kernels.exp(np.ones(4))
    assert kernel(p, "matmul").flops == 2 * 3 * 4 * 5 + 2 * (2 * 7) * 3 * 4 * 5 + 2 * 4
    assert kernel(p, "exp").flops is None


def test_a_kernel_that_raised_has_no_flops() -> None:
    x, w, g = np.ones((1, 3, 3, 2)), np.ones((3, 3, 4, 5)), Geometry((1, 1), (0, 0), (3, 3), (3, 3))
    with kernels.use("reference"), mg.profile() as p:
        with pytest.raises(ValueError, match="matmul"):
            kernels.conv2d(x, w, g)
        with pytest.raises(ValueError, match="matmul"):
            kernels.matmul(np.ones((2, 3)), np.ones((2, 3)))
    assert [(row.calls, row.flops, row.allocated) for row in p.kernels] == [(1, None, 0)] * 2


def test_bytes_count_each_array_once_and_what_the_kernel_allocated() -> None:
    def measured(run: Any, *args: Any, **kwargs: Any) -> tuple[int, int]:
        with kernels.use("reference"), mg.profile() as p:
            run(*args, **kwargs)
        (row,) = p.kernels
        return row.bytes, row.allocated

    x, y = np.ones((10, 8), np.float32), np.ones((10, 8), np.float32)  # of 320 bytes
    assert measured(kernels.multiply, x, y) == (960, 320)
    assert measured(kernels.multiply, x, x) == (640, 320)
    assert measured(kernels.multiply, x, 2.0, out=y) == (640, 0)
    assert measured(kernels.multiply, x, x, out=x) == (320, 0)
    assert measured(kernels.clip_weights, [x, y], 0.5) == (640, 0)  # in place, arrays in a list
    assert measured(kernels.take, x, slice(2, 4)) == (320, 0)  # a view
    assert measured(kernels.take, x, (np.array([1, 2]), slice(None))) == (320 + 16 + 64, 64)
    assert measured(kernels.concatenate, [x, y], 0) == (1280, 640)  # arrays in a list
    assert measured(kernels.add, np.float32(1), 2.0) == (0, 0)
    out = np.empty(8, np.float32), np.empty(8, np.float32)
    assert measured(kernels.batch_norm_statistics, x) == (320 + 64, 64)  # a tuple of arrays
    assert measured(kernels.batch_norm_statistics, x, out=out) == (320 + 64, 0)


# ---- the block -------------------------------------------------------------------------------------------------------


def test_results_are_the_same_to_any_order() -> None:
    def penalty() -> list[Array]:
        x = mg.Tensor(np.linspace(-1, 1, 72).reshape(2, 6, 6, 1), requires_grad=True)
        w = mg.Tensor(np.linspace(-1, 1, 18).reshape(3, 3, 1, 2), requires_grad=True)
        with kernels.use("reference"):
            gx = mg.grad(mg.tanh(mg.conv2d(x, w, stride=2, padding=1)).sum(), x, create_graph=True)
            ((gx * gx).sum((1, 2, 3)) ** 0.5 - 1).sum().backward()
        assert x.grad is not None
        assert w.grad is not None
        return [x.grad, w.grad]

    expected = penalty()
    with mg.profile() as p:
        found = penalty()
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert op(p, "conv2d", "backward").calls == 2
    assert op(p, "conv2d_weight", "forward").calls == kernel(p, "conv2d_weight").calls > 0


def test_kernels_use_inside_outside_and_across_the_block() -> None:
    x, before = np.ones(3), in_place()
    with kernels.use("reference"), mg.profile() as outside:
        kernels.exp(x)
    with mg.profile() as inside:
        kernels.exp(x)
        with kernels.use("reference"):
            kernels.exp(x)
        kernels.exp(x)
    stack = ExitStack()
    with mg.profile() as across:
        stack.enter_context(kernels.use("reference"))
        kernels.exp(x)
    kernels.exp(x)
    stack.close()
    kernels.exp(x)
    assert [kernel(outside, "exp").calls, kernel(inside, "exp").calls, kernel(across, "exp").calls] == [1, 3, 1]
    assert in_place() == before


def test_a_replay_shows_its_kernels_and_those_of_live_calls(clock: Clock) -> None:
    """With a view, and a call that nobody reads, which are none of a replay's. Of a recording step the ops show."""

    def shifted(x: mg.Tensor) -> mg.Tensor:
        clock.pass_ms(50)
        return -x

    def step(x: mg.Tensor) -> mg.Tensor:
        mg.log(x)
        return mg.live(shifted, mg.exp(x).reshape(3, 2)) @ w

    captured, x, w = mg.capture(step), mg.ones((2, 3)), mg.ones((2, 5))
    with mg.profile() as recording:
        captured(x)
    captured(x)
    before = in_place()
    with mg.profile() as p:
        captured(x)
        captured(x)
    assert in_place() == before
    assert {row.name for row in recording.ops} == {"log", "exp", "reshape", "negative", "matmul"}
    assert (kernel(recording, "exp").calls, kernel(recording, "exp").seconds) == (1, seconds(3))
    assert [row.name for row in p.ops] == ["negative"]  # inside of the live call
    assert [(row.name, row.calls) for row in p.kernels] == [("exp", 2), ("negative", 2), ("matmul", 2)]
    assert [row.seconds for row in p.kernels] == [seconds(6), seconds(2), seconds(0)]
    assert (kernel(p, "matmul").flops, kernel(p, "matmul").allocated) == (2 * 2 * 3 * 2 * 5, 0)
    assert kernel(p, "exp").bytes == 2 * (24 + 24)
    assert {e.inputs for e in p.events if e.name == "matmul"} == {"(3, 2), (2, 5), (3, 5)"}
    assert p.wall == seconds(108)
    assert np.array_equal(captured(x), step(x))


def test_a_replay_of_another_thread_runs_unseen() -> None:
    captured, x = mg.capture(lambda x: mg.exp(x)), mg.zeros(2)
    found: list[mg.Tensor] = []

    def other() -> None:
        found.extend(captured(x) for _ in range(4))

    with mg.profile() as p:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert p.kernels == []
    assert captured.recordings[0].run is not None
    assert found[3].array.tolist() == [1, 1]


def test_it_prints_when_the_block_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with mg.profile() as p:
        mg.exp(mg.ones(2, 3))
        assert capsys.readouterr().out == ""
    printed = capsys.readouterr().out
    assert printed == f"{p}\n"
    ops, table, last = printed.split("\n\n")
    assert [line.split()[:3] for line in ops.splitlines()[1:]] == [["exp", "forward", "1"], ["all", "ops", "1"]]
    assert ops.splitlines()[0].split("  ")[-3:] == ["total ms", "own ms", "Python ms"]
    assert table.splitlines()[0].split() == ["kernel", "calls", "ms", "GFLOP/s", "GB/s", "MB", "allocated"]
    assert table.splitlines()[1].split()[3] == "-"
    assert len({len(line) for line in ops.splitlines()}) == len({len(line) for line in table.splitlines()}) == 1
    assert last.startswith("wall time ")


def test_an_empty_block(clock: Clock) -> None:
    with mg.profile() as p:
        pass
    assert p.ops == p.kernels == []
    assert str(p).endswith("wall time 0.00 ms, 0% of it outside of kernels: 0.00 ms inside ops, 0.00 ms elsewhere")


def test_an_exception_passes_through_and_what_was_measured_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    before = in_place()
    x, y = mg.ones(2), mg.ones(3)
    with pytest.raises(ValueError, match=r"^add: shapes \(2,\) and \(3,\) do not broadcast"), mg.profile() as p:
        mg.add(mg.exp(x), y)
    assert in_place() == before
    assert capsys.readouterr().out == f"{p}\n"
    assert kernel(p, "exp").calls == 1
    assert kernel(p, "add") == ("add", 1, kernel(p, "add").seconds, None, 20, 0)


def test_an_exception_that_the_block_catches_ends_the_calls_that_it_left(clock: Clock) -> None:
    class Broken(mg.Function):
        def forward(self, x: Array) -> Array:
            kernels.exp(x)
            raise KeyError("broken")

    with mg.profile() as p:
        with pytest.raises(KeyError):
            Broken()(mg.ones(2))
        kernels.exp(np.ones(2))
    assert op(p, "broken", "forward") == ("broken", "forward", 1, seconds(3), seconds(3), seconds(0))
    assert p.wall == seconds(6)


def test_profiles_do_not_nest() -> None:
    message = "^profile: another profile is running, and they do not nest; leave its block first$"
    before = in_place()
    with mg.profile() as p:
        with pytest.raises(RuntimeError, match=message), mg.profile():
            pass
        kernels.exp(np.ones(2))
    assert kernel(p, "exp").calls == 1
    assert in_place() == before
    with mg.profile():
        assert in_place() != before


def test_other_threads_run_unseen() -> None:
    found: list[mg.Tensor] = []
    with mg.profile() as p:
        thread = threading.Thread(target=lambda: found.append(mg.exp(mg.zeros(2))))
        thread.start()
        thread.join()
    assert p.ops == p.kernels == []
    assert found[0].array.tolist() == [1, 1]


def test_it_keeps_no_array_alive() -> None:
    gc.disable()
    try:
        with mg.profile() as p:
            x = leaf(3)
            y = mg.exp(x)
            arrays = [weakref.ref(x.array), weakref.ref(y.array)]
            y.sum().backward()
            del x, y
        assert [array() for array in arrays] == [None, None]
        assert p.ops
    finally:
        gc.enable()


# ---- the trace -------------------------------------------------------------------------------------------------------


def test_the_trace_is_a_tree_of_complete_events(tmp_path: Path) -> None:
    x, w = leaf(2, 6, 6, 1), leaf(3, 3, 1, 2)
    with kernels.use("reference"), mg.profile() as p:
        mg.conv2d(x, w).sum().backward()
    p.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(events) == len(p.events) == sum(row.calls for row in (*p.ops, *p.kernels))
    assert {e["ph"] for e in events} == {"X"}
    assert len({(e["pid"], e["tid"]) for e in events}) == 1
    assert events[0]["name"] == "conv2d forward"
    assert events[1]["name"] == "conv2d"
    assert [e["cat"] for e in events[:2]] == ["op", "kernel"]
    shapes = {"inputs": "(2, 6, 6, 1), (3, 3, 1, 2)", "results": "(2, 4, 4, 2)"}
    assert [e["args"] for e in events[:2]] == [shapes, shapes]

    under: dict[str, set[str]] = {}
    stack: list[dict[str, Any]] = []
    for e in events:
        while stack and stack[-1]["ts"] + stack[-1]["dur"] <= e["ts"]:
            stack.pop()
        if stack:
            assert e["ts"] + e["dur"] <= stack[-1]["ts"] + stack[-1]["dur"] + 1e-6, "two events overlap"
            under.setdefault(stack[-1]["name"], set()).add(e["name"])
        stack.append(e)
    assert under["conv2d backward"] == {"conv_transpose2d forward", "conv2d_weight forward"}
    assert events[1]["dur"] == pytest.approx(kernel(p, "conv2d").seconds * 1e6)


def test_a_trace_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mg.profile() as p:
        mg.exp(mg.ones(2))
    path = tmp_path / "trace.json"
    path.write_text("older")

    def full(self: Path, text: str) -> None:
        self.touch()
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=r"^profile: cannot write .*trace\.json \(the disk is full\); choose"):
            p.save(path)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("trace.json", "older")]


def test_a_trace_into_a_folder_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    with mg.profile() as p:
        pass
    path = tmp_path / "missing" / "trace.json"
    with pytest.raises(OSError, match=r"^profile: ") as caught:
        p.save(str(path))
    assert str(caught.value) == (
        f"profile: cannot write {path} (No such file or directory); choose a folder that exists and has room"
    )
