"""Steps recorded and replayed: what stays equal to the bit, what stays live, and what is refused in which words."""

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import capture, kernels, nn
from minigan.capture import CaptureError
from minigan.kernels import cuda, gpu, recording
from minigan.kernels.device import Device, connect
from minigan.kernels.plan import MemoryPool, Value, live_bytes, place
from minigan.optim import SGD, Adam, Optimizer
from minigan.random import Generator

Array = Any


class Classifier:
    """A small net, its optimizer and a step that uses random numbers, batch norm and a gradient's gradient."""

    def __init__(self, device: str = "cpu", optimizer: Callable[..., Optimizer] = Adam) -> None:
        mg.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 1)).to(device)
        self.optimizer = optimizer(self.net.parameters(), lr=0.01)
        self.noise, self.device = Generator(0, "noise"), device

    def step(self, x: mg.Tensor) -> tuple[mg.Tensor, dict[str, mg.Tensor]]:
        x = x + mg.Tensor.of(self.noise.normal(x.shape, device=self.device))
        points = mg.Tensor(x.array, requires_grad=True)
        slope = mg.grad(self.net(points).sum(), points, create_graph=True)
        loss = mg.softplus(self.net(x)).mean() + ((slope * slope).sum(axis=1) ** 0.5).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss, {"slope": slope.mean()}

    def state(self) -> list[Array]:
        tensors = [t for _, t in (*self.net.named_parameters(), *self.net.named_buffers())]
        grads = [t.grad for t in self.net.parameters() if t.grad is not None]
        return [kernels.to_host(a) for a in (*(t.array for t in tensors), *grads)] + [
            kernels.to_host(a) for arrays in self.optimizer.state for a in arrays.values()
        ]


def batches(n: int, device: str = "cpu") -> Iterator[mg.Tensor]:
    rng = np.random.default_rng(0)
    for _ in range(n):
        yield mg.Tensor(rng.normal(size=(6, 3)).astype(np.float32)).to(device)


def assert_equal_steps(plain: Classifier, other: Classifier, step: Callable[..., Any], n: int = 6) -> None:
    """Losses, weights, buffers, gradients and optimizer states agree to the bit after each of n steps."""
    for x in batches(n, plain.device):
        (loss, logs), (captured, its_logs) = plain.step(x), step(x)
        assert loss.item() == captured.item()
        assert logs["slope"].item() == its_logs["slope"].item()
        for a, b in zip(plain.state(), other.state(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert plain.noise.counter == other.noise.counter
    assert plain.optimizer.steps == other.optimizer.steps


# ---- equal to the bit, and live -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [Adam, lambda params, lr: SGD(params, lr, momentum=0.9)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_captured_step_is_the_step(backend: str, optimizer: Callable[..., Optimizer]) -> None:
    with kernels.use(backend):
        plain, other = Classifier(optimizer=optimizer), Classifier(optimizer=optimizer)
        step = capture(other.step)
        assert_equal_steps(plain, other, step)
    (recorded,) = step.recordings
    assert recorded.run is not None
    assert any(call.idle for call in recorded.tape.calls)  # the points' own scores, which nobody reads


@needs_device
def test_a_captured_step_is_the_step_on_a_device() -> None:
    plain, other = Classifier(DEVICE), Classifier(DEVICE)
    assert_equal_steps(plain, other, capture(other.step), n=4)


def test_a_replay_runs_none_of_the_steps_python() -> None:
    calls = count()
    step = capture(lambda x: (next(calls), x * 2)[1])
    for x in batches(5):
        np.testing.assert_array_equal(step(x).numpy(), 2 * x.numpy())
    assert next(calls) == 2


def test_warmup_runs_the_step_as_it_is() -> None:
    calls = count()
    step = capture(lambda x: x * (1.0 if next(calls) == 0 else 2.0), warmup=1)
    assert [step(mg.Tensor([3.0])).numpy().tolist() for _ in range(5)] == [[3], [6], [6], [6], [6]]
    assert next(calls) == 3


def test_learning_rates_and_numbers_stay_live() -> None:
    plain, other = Classifier(), Classifier()
    step = capture(other.step)
    for i, x in enumerate(batches(6)):
        plain.optimizer.lr = other.optimizer.lr = 0.1 / (i + 1)
        assert plain.step(x)[0].item() == step(x)[0].item()
    scaled = capture(lambda x, factor: x * factor)
    for factor in (1, 2.5, -3.0, 4):
        np.testing.assert_array_equal(scaled(mg.Tensor([1.0, 2.0]), factor).numpy(), np.float32([1, 2]) * factor)


def test_what_is_live_is_called_in_each_replay() -> None:
    numbers = count()
    step = capture(lambda x: x + mg.live(lambda: next(numbers)))
    assert [step(mg.Tensor([10.0])).numpy().tolist() for _ in range(5)] == [[10], [11], [12], [13], [14]]
    seen: list[float] = []
    watched = capture(lambda x: mg.live(lambda y: seen.append(y.item()), x * 2))
    for i in range(4):
        watched(mg.Tensor(float(i)))
    assert seen == [0, 2, 4, 6]


def test_each_answer_of_a_branch_has_its_own_recording() -> None:
    setting = SimpleNamespace(double=False)
    runs: list[bool] = []

    def step(x: mg.Tensor) -> mg.Tensor:
        runs.append(setting.double)
        return x * 2 if mg.branch(lambda: setting.double) else x

    captured = capture(step)
    for setting.double in (False, False, False, True, True, False, True, True):
        assert captured(mg.Tensor([1.5])).numpy().tolist() == [3 if setting.double else 1.5]
    assert runs == [False, False, True, True]
    assert len(captured.recordings) == 2


def test_gradients_that_the_step_leaves_are_the_last_ones() -> None:
    w = mg.Tensor([1.0, 2.0], requires_grad=True)

    def step(x: mg.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    captured = capture(step)
    for i in range(4):
        captured(mg.Tensor([float(i), -1.0]))
        np.testing.assert_array_equal(w.grad, [i, -1])


def test_other_memory_or_other_kernels_are_recorded_anew() -> None:
    plain, other = Classifier(), Classifier()
    step = capture(other.step)
    for i, x in enumerate(batches(9)):
        if i == 3:
            for c in (plain, other):
                c.net.load_state_dict({key: value / 2 for key, value in c.net.state_dict().items()})
        if i == 6:
            for c in (plain, other):
                c.net.astype(np.float64).astype(np.float32)
        with kernels.use("reference" if i == 8 else "auto"):
            assert plain.step(x)[0].item() == step(x)[0].item()


def test_captured_steps_within_a_captured_step() -> None:
    inner = capture(lambda x: x * 3)
    outer = capture(lambda x: inner(x) + 1)
    assert [outer(mg.Tensor([float(i)])).numpy().tolist() for i in range(4)] == [[1], [4], [7], [10]]
    assert inner.recordings == []


def test_other_threads_are_not_recorded() -> None:
    def step(x: mg.Tensor) -> mg.Tensor:
        thread = threading.Thread(target=lambda: mg.Tensor([1.0]) + 1)
        thread.start()
        thread.join()
        return x + 1

    captured = capture(step)
    for _ in range(3):
        captured(mg.Tensor([1.0]))
    assert [call.name for call in captured.recordings[0].tape.calls] == ["add"]


def test_results_keep_their_structure_and_have_no_graph() -> None:
    w = mg.Tensor([2.0], requires_grad=True)
    step = capture(lambda x: {"a": (w * x, [x]), "b": None, "c": "text", "d": 3})
    for i in range(4):
        found = step(mg.Tensor([float(i)]))
        assert (found["a"][0].item(), found["a"][1][0].item()) == (2 * i, i)
        assert not found["a"][0].requires_grad
        assert (found["b"], found["c"], found["d"]) == (None, "text", 3)
    again = step(mg.Tensor([7.0]))
    assert again["a"][0] is found["a"][0]  # the same tensors each time, written over


def test_gradients_are_left_by_replays_too() -> None:
    def losses(step: Callable[[mg.Tensor], Any], w: mg.Tensor) -> list[list[float]]:
        optimizer, found = SGD([w], lr=0.1), []
        for i in range(6):
            optimizer.zero_grad()
            step(mg.Tensor([float(i), 1.0]))
            optimizer.step()
            found.append(w.numpy().tolist())
        return found

    plain, captured = (mg.Tensor([1.0, 1.0], requires_grad=True) for _ in range(2))
    step = capture(lambda x: (captured * x).sum().backward())
    assert losses(step, captured) == losses(lambda x: (plain * x).sum().backward(), plain)
    with pytest.raises(CaptureError, match=r"a tensor \(2,\) has a gradient at .*; zero_grad\(\) before each call"):
        step(mg.Tensor([1.0, 1.0]))


def test_modes_are_noticed() -> None:
    layer, w = nn.BatchNorm1d(2), mg.Tensor([2.0], requires_grad=True)
    x = mg.Tensor([[1.0, 2.0], [3.0, 5.0]])
    step = capture(lambda x: layer(x))
    for mode in (True, True, True, False, False, False, True):
        layer.train(mode)
        before = layer.running_mean.numpy().copy()
        found = step(x).numpy().copy()
        assert (before == layer.running_mean.numpy()).all() != mode
        layer.running_mean[:] = before
        layer.running_var[:] = layer.running_var.numpy()
        np.testing.assert_allclose(found.mean(axis=0) < 1e-6, mode)

    def backward(x: mg.Tensor) -> mg.Tensor:
        y = (w * x).sum()
        if y.requires_grad:
            y.backward()
        return y

    captured = capture(backward)
    for i in range(8):
        w.grad = None
        if i % 2:
            captured(mg.Tensor([3.0]))
            assert w.grad is not None
        else:
            with mg.no_grad():
                captured(mg.Tensor([3.0]))
            assert w.grad is None


def test_arguments_are_read_before_they_are_written_over() -> None:
    swap = capture(lambda a, b: (b, a))
    a, b = mg.Tensor([1.0]), mg.Tensor([2.0])
    for _ in range(5):
        a, b = swap(a, b)
        assert {a.item(), b.item()} == {1, 2}


def test_an_old_graph_notices_that_a_result_was_written_over() -> None:
    w = mg.Tensor([2.0], requires_grad=True)
    step = capture(lambda x: x * 2)
    for i in range(3):
        y = (w * step(mg.Tensor([float(i)]))).sum()
    step(mg.Tensor([7.0]))
    with pytest.raises(RuntimeError, match="modified in place after the forward pass"):
        y.backward()


def test_a_weight_that_is_written_by_another_name_is_prepared_anew() -> None:
    layers = [nn.Conv2d(32, 32, 4, 2, 1) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = mg.Tensor(np.random.default_rng(0).normal(size=(2, 16, 16, 32)).astype(np.float32))
    with mg.set_conv_algorithm("winograd2"):
        step = capture(lambda x: layers[1](x))
        for i in range(6):
            if i > 2:
                for layer in layers:
                    with layer.weight.detach().writing() as array:
                        array *= 2
            np.testing.assert_array_equal(step(x).numpy(), layers[0](x).numpy())


def test_a_copy_has_memory_of_its_own() -> None:
    step = capture(lambda x: x + 1)
    for _ in range(3):
        first = step(mg.Tensor([1.0]))
    second = copy.deepcopy(step)(mg.Tensor([5.0]))
    assert (first.item(), second.item()) == (2, 6)


# ---- ahead -----------------------------------------------------------------------------------------------------------


class Counting:
    """Numbers 1, 2, ..., one a call; `noted` says who asked for each."""

    def __init__(self) -> None:
        self.count, self.noted = 0, list[tuple[str, int]]()

    def next(self, name: str = "ahead") -> Array:
        self.count += 1
        self.noted.append((name, self.count))
        return np.full(2, self.count, np.float32)

    def nothing(self) -> None:
        self.next("nothing")

    def back(self) -> None:
        self.count -= 1


both = pytest.mark.parametrize("device", ["cpu", pytest.param(DEVICE, marks=needs_device)])


@both
def test_what_is_called_ahead_keeps_its_order_beside_live_calls(device: str) -> None:
    """In the recording, the rehearsal and replays."""
    first, second, events = Counting(), Counting(), list[str]()

    def step(x: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        a = kernels.ahead(first.next, device=device)
        y = x + mg.Tensor.of(a)
        kernels.live(lambda: events.append(f"live, after {first.count} and {second.count}"))
        b = kernels.ahead(second.next, "two", device=device)
        kernels.ahead(first.nothing)
        return y * 10, mg.Tensor.of(b) + mg.Tensor.of(kernels.ahead(first.next, device=device)) * 100

    captured, x = capture(step), mg.Tensor([0.0, 0.5]).to(device)
    for i in range(5):
        y, z = captured(x)
        assert y.to("cpu").numpy().tolist() == [10 * (3 * i + 1), 10 * (3 * i + 1.5)]
        assert z.to("cpu").numpy().tolist() == [i + 1 + 100 * (3 * i + 3)] * 2
    expected = [("ahead", 1), ("nothing", 2), ("ahead", 3)]
    assert first.noted == [(name, n + 3 * i) for i in range(5) for name, n in expected]
    assert events == [f"live, after {3 * i + 1} and {i}" for i in range(5)]
    assert captured.plans[0].sent == 3 * 64


@needs_device
def test_what_is_given_ahead_travels_as_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two live calls. The rehearsal sends each by itself."""
    copies, send = list[int](), Device.send

    def noted(device: Device, host: Array, block: Any) -> None:
        copies.append(host.nbytes)
        send(device, host, block)

    monkeypatch.setattr(Device, "send", noted)
    noise = Generator(0, "noise")

    def step() -> mg.Tensor:
        y = mg.Tensor.of(noise.normal(3, device=DEVICE)) + mg.Tensor.of(noise.uniform(3, device=DEVICE))
        kernels.live(lambda: None)
        return y + mg.Tensor.of(noise.normal(3, device=DEVICE))

    captured = capture(step)
    for expected in ([], [64] * 3, [2 * 64, 64], [2 * 64, 64]):
        copies.clear()
        captured()
        assert copies == expected


@both
def test_draws_keep_their_order_beside_live_ones(device: str) -> None:
    """Whether a live function draws, from the same generator, always, sometimes, or not and sets it back."""
    runs = []
    for captured in (False, True):
        a, b, c = (Generator(0, name) for name in "abc")
        calls = count()

        def sometimes(a: Generator = a, b: Generator = b, calls: Iterator[int] = calls) -> None:
            if next(calls) in (3, 5):
                a.integers(10, 4)
                b.counter = 1

        def step(a: Generator = a, b: Generator = b, c: Generator = c, sometimes: Any = sometimes) -> list[Any]:
            found = [a.normal(2, device=device), mg.live(lambda: a.normal(2)), a.normal(2, device=device)]
            mg.live(sometimes)
            found += [a.normal(2, device=device), c.uniform(2, device=device), b.permutation(4), b.normal(2)]
            return [mg.Tensor.of(x) if not isinstance(x, mg.Tensor) else x for x in found]

        call = capture(step) if captured else step
        runs.append([[t.to("cpu").numpy().copy() for t in call()] for _ in range(8)])
    for eager, replayed in zip(*runs, strict=True):
        for x, y in zip(eager, replayed, strict=True):
            np.testing.assert_array_equal(x, y)


@both
def test_what_is_given_ahead_is_not_written_over(device: str) -> None:
    """Not by the result of its last reader, however large it is; else another one, which is sent, would undo that."""
    numbers, noise = count(), Generator(0, "noise")

    def batch() -> Array:
        return np.full(recording.LARGE // 4, next(numbers), np.float32)

    def step() -> tuple[mg.Tensor, mg.Tensor]:
        y = mg.Tensor.of(kernels.ahead(batch, device=device)) + mg.Tensor([1.0]).to(device)
        z = mg.Tensor.of(noise.normal(4, device=device))
        return y.sum() / y.size, z

    captured = capture(step)
    assert [captured()[0].item() for _ in range(5)] == [1, 2, 3, 4, 5]


@both
@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_what_was_counted_ahead_is_taken_back(device: str, raised: type[BaseException]) -> None:
    """If a replay does not come to the next live call; behind it, it was done."""
    first, second, third, calls = Counting(), Counting(), Counting(), count(1)

    def fail() -> Array:
        if next(calls) in (4, 6):
            raise raised
        return np.ones(2)

    @capture
    def step() -> Any:
        kernels.ahead(first.next, device=device, back=first.back)
        kernels.live(lambda: None)
        a = kernels.ahead(second.next, device=device, back=second.back)
        kernels.ahead(fail, device=device)
        kernels.ahead(third.next, device=device, back=third.back)
        return mg.Tensor.of(a) * 2

    for i in range(1, 8):
        with pytest.raises(raised) if i in (4, 6) else nullcontext():
            step()
        failed = (i >= 4) + (i >= 6)
        assert (first.count, second.count, third.count) == (i, i - failed, i - failed)


@pytest.mark.parametrize("device", ["cpu", pytest.param(DEVICE, marks=needs_device)])
def test_what_is_made_of_numbers_given_ahead_is_made_ahead(device: str) -> None:
    """Unless somebody may have written to them; what is made of the step's own arrays is made where it stands."""
    numbers = Counting()

    def tenfold(x: Array) -> Array:
        return 10 * kernels.to_host(x)

    def step(x: mg.Tensor) -> list[mg.Tensor]:
        first, second, third = (kernels.ahead(numbers.next) for _ in range(3))
        found = [kernels.early(tenfold, first.reshape(2, 1)[1:], device=device)]
        found.append(kernels.early(tenfold, (x + 1).array, device=device))
        kernels.multiply(second, np.float32(2), out=second)
        kernels.live(lambda a: np.negative(a, out=a), third)
        return [mg.Tensor.of(a) * 1 for a in (*found, *(kernels.early(tenfold, a) for a in (second, third)))]

    captured, x = capture(step), mg.Tensor([0.5]).to(device)
    for i in range(5):
        found = [y.to("cpu").numpy().reshape(-1)[0] for y in captured(x)]
        assert found == [10 * (3 * i + 1), 15, 20 * (3 * i + 2), -10 * (3 * i + 3)]
    (plan,) = captured.plans
    kinds = [call.kind for call in plan.replayed if call.kind != "kernel"]
    assert kinds == ["ahead"] * 4 + ["live"] * 4
    written = capture(lambda: kernels.early(tenfold, np.negative(a := kernels.ahead(numbers.next), out=a)))
    with pytest.raises(CaptureError, match=r"was written to by something that is no kernel"):
        written()


def test_what_cannot_be_called_ahead() -> None:
    n = count()
    step = capture(lambda x: mg.Tensor.of(kernels.ahead(lambda a: a, x.array)))
    with pytest.raises(CaptureError, match=r"lambda, called ahead at .*, is given an array, which a replay has not "):
        step(mg.Tensor([1.0]))
    step = capture(lambda: mg.Tensor.of(kernels.ahead(partial(np.full, 2, float(next(n))))) + 1)
    step()
    with pytest.raises(CaptureError, match=r"the function that is called ahead at .* is another one in each step, "):
        step()
    shapes = iter([2, 2, 2, 3])
    step = capture(lambda: mg.Tensor.of(kernels.ahead(lambda: np.ones(next(shapes)))) * 2)
    for _ in range(3):
        step()
    with pytest.raises(CaptureError, match=r"gave float64 \(2,\) when the step was .* float64 \(3,\) now"):
        step()


@needs_device
def test_what_a_graph_would_freeze_runs_between_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, numbers on the host are copied into a graph: here, a graph's launches do what its first did."""
    numbers = count(1)

    def graph(self: Any, runs: Any) -> Any:
        frozen = [frozen_arguments(run) for run in runs]
        return lambda: [run() for run in frozen]

    def frozen_arguments(run: Any) -> Any:
        args = [a[()] if isinstance(a, np.ndarray) and a.ndim == 0 else a for a in run.args]
        return lambda: run.func(*args, **run.keywords)

    monkeypatch.setattr(Device, "graph", graph)
    step = capture(lambda x: x * mg.live(lambda: next(numbers)) + 2)
    x = mg.Tensor([1.0]).to(DEVICE)
    assert [step(x).to("cpu").item() for _ in range(5)] == [3, 4, 5, 6, 7]


# ---- what cannot be captured ---------------------------------------------------------------------------------------

w = mg.Tensor([1.0, 2.0], requires_grad=True)
numbers, turn = count(1), SimpleNamespace(number=0)
outside = np.zeros(2, np.float32)
rng = np.random.default_rng(0)


def reads(x: mg.Tensor) -> mg.Tensor:
    return x * (x.sum().item() + 1)


def decides(x: mg.Tensor) -> mg.Tensor:
    return x * 2 if x.sum() > 0 else x


def looks(x: mg.Tensor) -> mg.Tensor:
    return x + float(np.asarray(x)[0])


def takes_turns(x: mg.Tensor) -> mg.Tensor:
    return x + x if next(numbers) % 2 else x * x


def grows(x: mg.Tensor) -> mg.Tensor:
    return mg.concatenate([x] * next(numbers)) * 2


def does_more(x: mg.Tensor) -> mg.Tensor:
    for _ in range(next(numbers)):
        x = x + 1
    return x


def does_less(x: mg.Tensor) -> mg.Tensor:
    for _ in range(5 - next(numbers)):
        x = x + 1
    return x


def schedules(x: mg.Tensor) -> mg.Tensor:
    return x ** next(numbers)


def weighs(x: mg.Tensor) -> mg.Tensor:
    return x * (1 / next(numbers))


def draws_by_numpy(x: mg.Tensor) -> mg.Tensor:
    return x + mg.Tensor(rng.normal(size=2).astype(np.float32))


def returns_numpy(x: mg.Tensor) -> Array:
    return x.array * 2


def takes_a_neighbour(x: mg.Tensor) -> mg.Tensor:
    a = x + 1
    s = a.sum()
    b = x * 2
    t = b.sum()
    return (b if next(numbers) == 1 else a) * 3 + s + t


def answers_with_a_list(x: mg.Tensor) -> mg.Tensor:
    return x if mg.branch(lambda: [1]) else x * 2


def returns_a_number(x: mg.Tensor) -> tuple[mg.Tensor, int]:
    return x * 2, next(numbers)


def accumulates(x: mg.Tensor) -> None:
    (w * x).sum().backward()


def writes_by_hand(x: mg.Tensor) -> mg.Tensor:
    y = w * x
    with w.writing() as array:
        array *= 0.5
    return y


def changes_a_result(x: mg.Tensor) -> mg.Tensor:
    y = x * 2
    y.array[0] = 5
    return y + 1


def binds_the_step(x: mg.Tensor) -> mg.Tensor:
    n = next(numbers)
    return x + mg.live(lambda: n)


def asks_late(x: mg.Tensor) -> mg.Tensor:
    turn.number += 1
    return x if mg.branch(lambda: turn.number % 2 == 0) else x * 2


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (reads, r"a value is read back in the middle of the step, at .*capture.py:\d+: return x \* \(x.sum\(\).item"),
        (decides, r"read back in the middle of the step, at .*: return x \* 2 if x.sum\(\) > 0 else x; a replay runs"),
        (looks, r"read back in the middle of the step, at .*np.asarray\(x\)"),
        (takes_turns, r"did not do what the one before did: multiply at .*: return x \+ x if .*, where it was add at"),
        (grows, r"concatenate with argument .* at .*\[x\] \* next\(numbers\)\) \* 2, where it was .*"),
        (does_more, r"the step calls add at .*: x = x \+ 1, where the one before had ended; a step must take the same"),
        (does_less, r"the step ended after 3 calls, but the one before went on with add at .*: x = x \+ 1"),
        (schedules, r"power with argument 2 at .*, where it was 1 at .*; a number that changes .* minigan.live\("),
        (weighs, r"multiply at .*: return x \* \(1 / next.* is given float32 \(\) that no kernel of this step"),
        (draws_by_numpy, r"copy at .*rng.normal.* is given float32 \(2,\) that no kernel .* had other values in"),
        (returns_numpy, r"the step returns float32 \(2,\) that none of its kernels made, so that a replay could not"),
        (takes_a_neighbour, r"multiply of other memory at .*: return \(b if .*, where it was the result of multiply"),
        (answers_with_a_list, r"a branch at .* is answered by a list, which may change behind the answer; answer by"),
        (returns_a_number, r"the step returned 1 and then 2, which Python made, so that a replay could not renew"),
        (accumulates, r"add at .*: \(w \* x\).sum\(\).backward\(\)"),
        (writes_by_hand, r"float32 \(2,\) was written to by something that is no kernel, between .*: y = w \* x and"),
        (changes_a_result, r"float32 \(2,\) was written to by something .* no kernel, between .* and .*return y \+ 1"),
        (binds_the_step, r"the function that is called live at .* is another one in each step, or has other values"),
        (asks_late, r"a branch at .* is answered True, but when the step was recorded it was answered False at"),
    ],
)
def test_what_cannot_be_captured_is_refused(step: Callable[..., Any], error: str) -> None:
    global numbers
    numbers, w.grad = count(1), None
    captured = capture(step)

    def twice() -> None:
        for first in (1.0, 3.0):
            captured(mg.Tensor([first, 2.0]))

    with pytest.raises(CaptureError, match=error) as caught:
        twice()
    assert "test_capture.py:" in str(caught.value) or "returned" in str(caught.value) or "returns" in str(caught.value)
    assert (mg.Tensor([1.0]) + 1).item() == 2  # nobody listens any more


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ((mg.Tensor([1.0, 2.0, 3.0]),), r"argument 0 was float32 \(2,\) .* and is float32 \(3,\) at .*capture another"),
        ((mg.Tensor(np.zeros(2)),), r"argument 0 was float32 \(2,\) when the step was recorded, and is float64 \("),
        ((), r"recorded with 1 arguments, called with 0 at .*"),
        (("text",), r"argument 0 was float32 \(2,\) when the step was recorded, and is 'text' at"),
    ],
)
def test_other_arguments_are_refused(inputs: tuple[Any, ...], error: str) -> None:
    step = capture(lambda x: x + 1)
    for _ in range(3):
        step(mg.Tensor([1.0, 2.0]))
    with pytest.raises(CaptureError, match=error):
        step(*inputs)
    np.testing.assert_array_equal(step(mg.Tensor([1.0, 2.0])).numpy(), [2, 3])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("text", r"argument 0 is a str, at .*; arguments are tensors, arrays or numbers: let the step look up"),
        (w, r"argument 0 requires a gradient, at .*; what is trained is no argument: let the step look"),
    ],
)
def test_what_is_no_argument(given: Any, error: str) -> None:
    with pytest.raises(CaptureError, match=error):
        capture(lambda x: x)(given)


def test_a_live_function_keeps_its_shape() -> None:
    shapes = iter([2, 2, 2, 3])
    step = capture(lambda: mg.live(lambda: np.ones(next(shapes), np.float32)) * 2)
    for _ in range(3):
        step()
    with pytest.raises(CaptureError, match=r"gave float32 \(2,\) when the step was recorded and gives float32 \(3,"):
        step()


def test_anomaly_mode_is_refused() -> None:
    step = capture(lambda x: x + 1)
    error = r"detect_anomaly\(\) is on at .*test_capture.py:\d+.*call the step itself"
    with mg.detect_anomaly(), pytest.raises(CaptureError, match=error):
        step(mg.Tensor([1.0]))


def test_a_step_that_waits_for_another_that_is_recorded_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "PATIENCE", 0.01)
    found: list[BaseException] = []

    def other() -> None:
        try:
            capture(lambda x: x + 1)(mg.Tensor([1.0]))
        except CaptureError as error:
            found.append(error)

    def step(x: mg.Tensor) -> mg.Tensor:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return x + 1

    capture(step)(mg.Tensor([1.0]))
    assert "another thread has been recording a step for 0.01 seconds; if it waits for this one" in str(found[0])


def test_an_error_of_the_step_itself_passes() -> None:
    fails = iter([False, True, False, False, False])

    def step(x: mg.Tensor) -> mg.Tensor:
        if next(fails):
            raise KeyError("mine")
        return x + 1

    captured = capture(step)
    captured(mg.Tensor([1.0]))
    with pytest.raises(KeyError, match="mine"):
        captured(mg.Tensor([1.0]))
    for i in range(3):
        assert captured(mg.Tensor([float(i)])).item() == i + 1


# ---- memory ---------------------------------------------------------------------------------------------------------

spans = st.tuples(st.integers(0, 30), st.integers(0, 10), st.integers(0, 400))


@given(st.lists(spans, max_size=30))
def test_no_two_values_share_memory_while_both_are_needed(drawn: list[tuple[int, int, int]]) -> None:
    values = [
        Value((size,), (0,), np.dtype(np.float32), "cpu", born, born + length) for born, length, size in drawn
    ]
    size = place(values)
    assert size >= live_bytes(values)
    for i, a in enumerate(values):
        assert a.offset % 64 == 0
        assert a.offset + a.nbytes <= size
        for b in values[:i]:
            if a.born <= b.last and b.born <= a.last:
                assert a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset


def test_steps_share_a_pool() -> None:
    pool = MemoryPool()
    big, small = (capture(lambda x, n=n: (x + 1) * mg.ones(n) * 2 + 1, pool=pool) for n in (4096, 64))
    for i in range(4):
        assert big(mg.Tensor([float(i)])).numpy()[-1] == small(mg.Tensor([float(i)])).numpy()[-1] == 2 * i + 3
    plans = [step.recordings[0].plan for step in (big, small)]
    assert pool.nbytes == max(plan.peak for plan in plans if plan)
    for plan in plans:
        assert plan is not None
        assert plan.least <= plan.peak <= plan.sum


def test_layouts_stay_what_they_were() -> None:
    """NumPy's results lie as their inputs do: sums over them would else be added up in another order."""
    x = mg.Tensor(np.random.default_rng(0).normal(size=(7, 33, 5)).astype(np.float32))

    def step(x: mg.Tensor) -> mg.Tensor:
        turned = x.transpose(2, 0, 1) * 3
        return mg.exp(turned).sum(axis=(0, 2)) + turned.transpose(1, 0, 2).reshape(7, -1).sum(axis=1)

    captured = capture(step)
    for _ in range(4):
        np.testing.assert_array_equal(captured(x).numpy(), step(x).numpy())


# ---- CUDA graphs: CuPy is a fake -------------------------------------------------------------------------------


class Refused(Exception):
    """CUDA's "operation not permitted when stream is capturing"."""


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """done: what it was asked for. recording: the calls of the graph that is being recorded, or None. spoiled: whether
    its end will be refused."""
    state = SimpleNamespace(done=list[str](), recording=None, spoiled=False)
    done = state.done

    class Stream:
        def __init__(self, non_blocking: bool = False) -> None:
            self.name = "own" if non_blocking else "common"

        def __enter__(self) -> None:
            done.append(f"enter {self.name}")

        def __exit__(self, *error: object) -> None:
            done.append(f"exit {self.name}")

        def begin_capture(self) -> None:
            done.append("begin")
            state.recording = []

        def end_capture(self) -> Any:
            done.append("end")
            calls, state.recording = state.recording, None
            if state.spoiled:
                state.spoiled = False
                raise Refused("invalidated")
            return SimpleNamespace(launch=lambda stream: done.extend([f"launch on {stream.name}", *calls]))

        def synchronize(self) -> None:
            done.append(f"wait for {self.name}")

    @contextmanager
    def using(allocator: Any) -> Iterator[None]:
        done.append(f"memory of {allocator}")
        yield
        done.append("memory as before")

    cuda = SimpleNamespace(
        Stream=Stream,
        MemoryPool=lambda: SimpleNamespace(malloc="its own pool"),
        get_current_stream=Stream,
        using_allocator=using,
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    return state


def runs_of(cupy: SimpleNamespace, names: str, refused: str = "", spoiling: str = "") -> list[Callable[[], None]]:
    """Calls of these names. While a graph is recorded, those in `refused` raise; all of `refused` and `spoiling` make
    its end fail."""

    def call(name: str) -> None:
        if cupy.recording is None:
            cupy.done.append(name)
            return
        cupy.spoiled |= name in refused + spoiling
        if name in refused:
            raise Refused("not permitted")
        cupy.recording.append(name)

    def named(name: str) -> Callable[[str], None]:
        function: Any = partial(call)
        function.name = name
        return function  # type: ignore[no-any-return]

    return [partial(named(name), name) for name in names]


def test_a_graph_is_recorded_on_a_stream_and_pool_of_its_own(cupy: SimpleNamespace) -> None:
    launch = gpu.graph(runs_of(cupy, "ab"))
    recorded = [*cupy.done]
    launch()
    launch()
    assert recorded == [
        "wait for common",
        *("enter own", "memory of its own pool", "begin", "end"),
        *("memory as before", "exit own"),
    ]
    assert cupy.done[len(recorded) :] == ["launch on common", "a", "b"] * 2


@pytest.mark.parametrize("spoiling", [False, True])
def test_what_cuda_does_not_record_runs_between_two_graphs(cupy: SimpleNamespace, spoiling: bool) -> None:
    """Whether the refused graph ends as if nothing had happened, or not."""
    runs = runs_of(cupy, "abcd", refused="c")
    text = (
        r"^CUDA does not record c in a graph \(not permitted\): in a captured step it is launched by the host each "
        "time, which is right, but slower$"
    )
    with pytest.warns(RuntimeWarning, match=text) as caught:
        launch = gpu.graph(runs)
    assert len(caught) == 1
    cupy.done.clear()
    launch()
    assert cupy.done == ["launch on common", "a", "b", "c", "launch on common", "d"]


def test_who_interrupts_leaves_no_stream_recording(cupy: SimpleNamespace) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpu.graph([*runs_of(cupy, "a"), interrupted])
    assert cupy.recording is None
    assert "end" in cupy.done


def test_a_graph_that_fails_at_its_end_is_none(cupy: SimpleNamespace) -> None:
    with pytest.warns(RuntimeWarning, match=r"record a or b in a graph \(invalidated\): in a captured step it and "):
        launch = gpu.graph(runs_of(cupy, "aba", spoiling="b"))
    cupy.done.clear()
    launch()
    assert cupy.done == ["a", "b", "a"]


@needs_device
def test_what_launches_are_given_lives_as_long_as_a_graph() -> None:
    """The tables of an optimizer's kernel, too, which others may push out of their cache."""
    device = connect(DEVICE)
    p, g = ([device.xp.array(np.ones(5, np.float32))] for _ in range(2))

    def step() -> None:
        kernels.sgd(p, g, None, lr=0.25, momentum=0.0, weight_decay=0.0)

    step()
    kept: list[Any] = []
    with cuda.recording_a_graph(kept):
        step()
    ((arguments, reaches),) = kept
    assert len(arguments) == 6  # parts, two tables of addresses, the rate, no gate, decay
    assert [array is known for array, known in zip(reaches, (*p, *g), strict=True)] == [True, True]
    with cuda.recording_a_graph([]), pytest.raises(RuntimeError, match=r"^a table would have to be sent to the "):
        kernels.sgd(p, g, None, lr=0.5, momentum=0.0, weight_decay=0.0)
    step()
    assert kernels.to_host(p[0]).tolist() == [1 - 3 * 0.25] * 5
