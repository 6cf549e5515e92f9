"""The engine: graphs, their order and lifetime, the guards, and what is said when something is wrong."""

import copy
import gc
import io
import pickle
import re
import tokenize
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigan as mg
from minigan.autograd import Identity
from minigan.gradcheck import GradcheckError
from minigan.ops.norm import BatchNorm, standardize

ROOT = Path(__file__).parent.parent


def leaf(*shape: int, seed: int = 0) -> mg.Tensor:
    return mg.Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def lines_of_code(path: Path) -> int:
    """Lines that hold something other than blanks, comments and docstrings."""
    lines: set[int] = set()
    previous = tokenize.NEWLINE
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in quiet or token.type == tokenize.ENDMARKER:
            if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
                previous = tokenize.NEWLINE
            continue
        if not (token.type == tokenize.STRING and previous == tokenize.NEWLINE):  # a string statement is a docstring
            lines.update(range(token.start[0], token.end[0] + 1))
        previous = token.type
    return len(lines)


def test_the_engine_stays_small() -> None:
    sizes = {name: lines_of_code(ROOT / "minigan" / name) for name in ("tensor.py", "autograd.py")}
    print(f"engine: {sizes}, {sum(sizes.values())} lines of code")
    assert sum(sizes.values()) < 450


# ---- values, dtypes, wrapping -----------------------------------------------------------------------------------


def test_numbers_and_lists_become_float32_and_arrays_keep_their_dtype() -> None:
    assert mg.Tensor(2).dtype == mg.Tensor([1, 2.5]).dtype == np.float32
    assert mg.Tensor(np.arange(3)).dtype == np.int64
    assert mg.Tensor(np.zeros(2)).dtype == np.float64
    assert mg.Tensor([True, False]).dtype == np.bool_
    x = mg.Tensor(np.zeros(2))
    assert all(y.dtype == np.float64 for y in (x + 1, 2.5 * x, x / [1, 2], np.float32(2) * x, np.ones(2) - x))


def test_the_callers_array_is_copied() -> None:
    a = np.zeros(2, np.float32)
    x = mg.Tensor(a)
    a[0] = 1
    assert x.array.tolist() == [0, 0]


def test_dtypes_that_do_not_mix() -> None:
    with pytest.raises(TypeError, match=r"add: dtypes float32 and float64 do not mix; convert one with \.astype"):
        mg.ones(2) + np.ones(2)
    with pytest.raises(
        TypeError, match="dtype float16 is not supported; use float32, float64, an integer type or bool"
    ):
        mg.Tensor(np.zeros(2, np.float16))
    with pytest.raises(TypeError, match="requires_grad: only float32 and float64 can be differentiated, not int64"):
        mg.Tensor(np.arange(2), requires_grad=True)


def test_integers_lose_no_decimals() -> None:
    x = mg.Tensor(np.array([1, 2, 3]))
    assert (x * 2).array.tolist() == [2, 4, 6]
    assert (x == [1, 0, 3]).mean().item() == pytest.approx(2 / 3)
    with pytest.raises(TypeError, match="multiply: a number with decimals does not mix with int64; convert with"):
        x * 0.5
    for exponent in (0.5, -1):
        with pytest.raises(TypeError, match=f"power: int64 to the power {exponent} is no int64; convert with"):
            x**exponent


def test_comparisons_are_tensors_of_bool() -> None:
    x = mg.Tensor([1.0, 2.0, 3.0])
    assert (x > 2).array.tolist() == [False, False, True]
    assert (x == [1, 0, 3]).array.tolist() == [True, False, True]
    assert (2 >= x).array.tolist() == (x <= 2).array.tolist() == [True, True, False]
    assert mg.where(x != 2, x, 0.0).array.tolist() == [1, 0, 3]


def test_astype_carries_the_gradient_back() -> None:
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    g = mg.grad((x.astype(np.float64) ** 2).sum(), x)
    assert g.dtype == np.float32
    assert g.array.tolist() == [2, 4]


# ---- arrays leave read-only -------------------------------------------------------------------------------------


def test_exports_are_read_only_views() -> None:
    x = mg.Tensor([1.0, 2.0])
    for view in (np.asarray(x), x.numpy(), np.from_dlpack(x)):
        assert np.shares_memory(view, x.array)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 5
    assert np.asarray(x, np.float64).dtype == np.float64
    copy = np.array(x)
    copy[0] = 5
    assert x.array[0] == 1


def test_writing_counts_a_version_and_is_refused_on_results() -> None:
    x = leaf(2)
    with x.writing() as a:
        a[0] = 3
    assert x.array[0] == 3
    assert x.version > 0
    message = r"writing: this tensor was computed by multiply, and its graph would no longer describe it"
    with pytest.raises(RuntimeError, match=message), (x * 2).writing():
        pass
    frozen = np.zeros(2)
    frozen.flags.writeable = False
    message = "writing: the memory behind this tensor is read-only"
    with pytest.raises(ValueError, match=message), mg.from_dlpack(mg.Tensor(frozen)).writing():
        pass


def test_item_assignment() -> None:
    x, free = leaf(3), mg.zeros(3, dtype=np.float64)
    message = r"item assignment cannot be differentiated; build the result with where\(\) or concatenate\(\)"
    with pytest.raises(RuntimeError, match=message):
        x[0] = 1.0
    with pytest.raises(RuntimeError, match=message):
        free[0] = x[0]
    free[1] = 4.0
    assert free.array.tolist() == [0, 4, 0]
    assert free.version > 0
    with mg.no_grad():
        x[mg.Tensor(np.array([0, 1]))] = x[2]
    assert x.version > 0
    assert x.array[0] == x.array[2]


def test_from_dlpack_shares_memory() -> None:
    a = np.arange(3, dtype=np.float32)
    x = mg.from_dlpack(a)
    a[0] = 9
    assert x.array[0] == 9
    with pytest.raises(TypeError, match="from_dlpack: dtype complex64 is not supported"):
        mg.from_dlpack(np.zeros(2, np.complex64))


# ---- the in-place guard -----------------------------------------------------------------------------------------

GUARD = r"multiply: its input of shape \(2,\) was modified in place after the forward pass \(by an optimizer step"


def test_guard_names_the_op_and_the_likely_cause() -> None:
    w, x = leaf(2), leaf(2, seed=1)
    y = (w * x).sum()
    with w.writing() as a:
        a += 1
    with pytest.raises(RuntimeError, match=GUARD):
        y.backward()


def test_guard_sees_writes_through_every_view() -> None:
    for view in (mg.Tensor.detach, lambda t: t.reshape(-1), lambda t: t[:1], lambda t: t.transpose(), Identity()):
        w, x = leaf(2), leaf(2, seed=1)
        with mg.no_grad():
            alias = view(w)
        y = (w * x).sum()
        with alias.writing() as a:
            a += 1
        with pytest.raises(RuntimeError, match=GUARD):
            y.backward()


def test_guard_watches_saved_outputs() -> None:
    x = leaf(2)
    y = mg.exp(x)
    with y.detach().writing() as a:
        a += 1
    with pytest.raises(RuntimeError, match=r"exp: its output of shape \(2,\) was modified in place"):
        y.sum().backward()


def test_guard_sees_a_save_in_the_middle_of_a_write() -> None:
    x = leaf(2)
    with x.writing() as a:
        y = (x * x).sum()
        a += 1
    with pytest.raises(RuntimeError, match=GUARD):
        y.backward()


def test_copies_are_not_guarded_as_views() -> None:
    x, w = leaf(3), leaf(2)
    y = (x[[0, 1]] * w).sum()  # an index array copies
    with x.writing() as a:
        a[0] = 5
    y.backward()
    assert w.grad is not None


def test_indices_labels_and_masks_belong_to_the_graph() -> None:
    """Whoever changes the caller's array later does not move the gradient."""
    w = mg.Tensor(np.ones((3, 2)), requires_grad=True)
    index, mask, labels = np.array([0, 1]), np.array([True, False, False]), mg.Tensor(np.array([0, 1, 0]))
    calls = [
        mg.embedding(index, w).sum(),
        w[index].sum(),
        mg.where(mask[:, None], w, 0.0).sum(),
        mg.cross_entropy(w, labels),
    ]
    expected = [mg.grad(y, w, retain_graph=True).array for y in calls]
    index[:], mask[:] = 2, True
    with labels.writing() as a:
        a[:] = 1
    for y, g in zip(calls, expected, strict=True):
        np.testing.assert_array_equal(mg.grad(y, w).array, g)


def test_guard_lets_harmless_writes_pass() -> None:
    w, x = leaf(2), leaf(2, seed=1)
    y = (w + x).sum()  # addition saves nothing
    with w.writing() as a:
        a += 1
    y.backward()
    assert w.grad is not None
    assert w.grad.tolist() == [1, 1]


# ---- backward and grad ------------------------------------------------------------------------------------------


def test_grad_is_an_array_and_adds_up() -> None:
    x = leaf(3)
    (x * x).sum().backward()
    (x * 3).sum().backward()
    assert type(x.grad) is np.ndarray
    np.testing.assert_allclose(x.grad, 2 * x.array + 3)


def test_leaves_do_not_share_their_gradients_memory() -> None:
    x, y = leaf(3), leaf(3)
    gradient = np.ones(3)
    (x + y).backward(gradient)
    assert x.grad is not None
    assert y.grad is not None
    assert not np.shares_memory(x.grad, y.grad)
    assert not np.shares_memory(x.grad, gradient)


def test_shared_inputs() -> None:
    x = leaf(2)
    g = mg.grad((x * x + mg.matmul(x, x) + mg.maximum(x, x)).sum(), x)
    np.testing.assert_allclose(g.array, 2 * x.array + 2 * 2 * x.array + 1)


def test_one_gamma_in_two_norms() -> None:
    """An input of a fused op that also reaches the result another way must not be counted twice."""
    x, gamma, beta = leaf(4, 3), leaf(3, seed=1), leaf(3, seed=2)

    def twice(x: mg.Tensor, gamma: mg.Tensor, beta: mg.Tensor) -> mg.Tensor:
        return mg.batch_norm(mg.tanh(mg.batch_norm(x * gamma, gamma, beta)), gamma, beta)

    inputs = [x.array, gamma.array, beta.array]
    mg.gradcheck(twice, inputs)
    mg.check_recorded(twice, inputs)
    mg.gradgradcheck(twice, inputs)


def test_grad_visits_only_what_is_needed() -> None:
    visited = []

    class Spy(mg.Function):
        def __init__(self, label: str) -> None:
            self.label = label

        def forward(self, x: Any) -> Any:
            return x * 1

        def backward(self, g: mg.Tensor) -> mg.Tensor:
            visited.append(self.label)
            return g

    x, w = leaf(2), leaf(2)
    middle = Spy("x")(x)
    y = (middle * Spy("w")(w)).sum()
    mg.grad(y, x, retain_graph=True)
    assert visited == ["x"]
    mg.grad(y, middle)  # an intermediate result is a target too, and nothing behind it is visited
    assert visited == ["x"]


def test_needs_spare_unwanted_gradients() -> None:
    x, w = leaf(1, 4, 4, 1), leaf(3, 3, 1, 1)
    y = mg.conv2d(x, w)
    node = y.node
    mg.grad(y.sum(), x)
    assert isinstance(node, mg.Function)
    assert node.needs == (True, False)


def test_retain_grad() -> None:
    x = leaf(2)
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad is not None
    np.testing.assert_allclose(y.grad, 2 * y.array)
    with pytest.raises(RuntimeError, match="retain_grad: this tensor does not require a gradient"):
        mg.zeros(2).retain_grad()


def test_no_grad_and_detach() -> None:
    x = leaf(2)
    with mg.no_grad():
        assert not (x * 2).requires_grad
    assert not (x.detach() * 2).requires_grad

    @mg.no_grad()
    def double(t: mg.Tensor) -> mg.Tensor:
        return t * 2

    assert not double(x).requires_grad
    assert not double(x).requires_grad  # the decorator works more than once
    g = mg.grad((x * x.detach()).sum(), x)
    np.testing.assert_allclose(g.array, x.array)


def test_freezing_and_thawing_keeps_the_leaf() -> None:
    x = leaf(2)
    y = (x * x).sum()
    x.requires_grad = False
    x.requires_grad = True
    np.testing.assert_allclose(mg.grad(y, x).array, 2 * x.array)


def test_copies_are_leaves_of_their_own() -> None:
    x = leaf(2)
    for other in (copy.copy(x), copy.deepcopy(x)):
        (other * other).sum().backward()
        assert x.grad is None
        with other.writing() as a:
            a += 1
        assert x.version == 0
    with pytest.raises(TypeError, match="a tensor cannot be pickled; save arrays"):
        pickle.dumps(x)


def test_tensors_behave_like_numbers_and_sequences() -> None:
    x = mg.Tensor([1.0, 2.0])
    assert f"{x.sum():.2f}" == "3.00"
    assert [float(row) for row in x] == [1, 2]
    assert (x ** np.int64(2)).array.tolist() == (x ** np.float32(2)).array.tolist() == [1, 4]
    assert x.reshape(np.int64(2)).sum(np.int64(0)).item() == 3
    assert x.reshape(1, 2).sum([0, 1]).item() == 3
    with pytest.raises(TypeError, match="a tensor of a single number cannot be iterated over"):
        list(x.sum())


def test_gradient_argument() -> None:
    x = leaf(2)
    np.testing.assert_allclose(mg.grad(x * x, x, [1.0, 0.0]).array, [2 * x.array[0], 0])
    with pytest.raises(ValueError, match=r"grad: gradient is float64 \(3,\) on cpu, but y is float64 \(2,\) on cpu"):
        mg.grad(x * x, x, np.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: (x * x).backward(), r"backward: y has shape \(2,\), not a single number; use \.sum\(\)"),
        (lambda x: mg.grad(x * x, x), r"grad: y has shape \(2,\), not a single number"),
        (
            lambda x: x[0].detach().backward(),
            "backward: this tensor does not require a gradient: nothing that led to it does",
        ),
        (lambda x: x.backward(np.ones(2)), "backward: this tensor is a leaf: no op computed it"),
        (lambda x: mg.grad(x.sum(), leaf(3)), r"grad: y does not depend on xs\[0\] of shape \(3,\); pass allow_unused"),
        (lambda x: mg.grad(x.sum(), [x, mg.ones(1)]), r"grad: xs\[1\] of shape \(1,\) does not require a gradient"),
        (
            lambda x: setattr(x * 2, "requires_grad", False),
            "requires_grad can be set on leaves only; this one comes from multiply",
        ),
        (lambda x: x.sum().item() and x.item(), r"item: a tensor of shape \(2,\) holds 2 numbers, not one"),
    ],
)
def test_misuse_gets_one_clear_sentence(call: Any, message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        call(leaf(2))


def test_a_freed_graph_says_so() -> None:
    x = leaf(2)
    y = mg.exp(x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    message = "exp: what it saved was freed when its graph was differentiated; to differentiate a graph twice, pass "
    with pytest.raises(RuntimeError, match=message):
        y.backward()
    shared = x + 1  # a shared node that saves nothing can be walked by two graphs, as in PyTorch
    shared.sum().backward()
    (shared * 2).sum().backward()


def test_unused_inputs_get_zeros_on_request() -> None:
    x, other = leaf(2), leaf(3)
    gx, g = mg.grad(x.sum(), [x, other], allow_unused=True)
    assert gx.array.tolist() == [1, 1]
    assert g.array.tolist() == [0, 0, 0]


def test_a_custom_op_with_faults_is_named() -> None:
    class Forgetful(mg.Function):
        def forward(self, a: Any, b: Any) -> Any:
            return a + b

        def backward(self, g: mg.Tensor) -> mg.Tensor:
            return g

    class WrongShape(mg.Function):
        def forward(self, a: Any) -> Any:
            return a.sum()

        def backward(self, g: mg.Tensor) -> mg.Tensor:
            return g

    class FirstOrderOnly(mg.Function):
        def forward(self, a: Any) -> Any:
            return a * 2

    x = leaf(2)
    with pytest.raises(RuntimeError, match="forgetful: backward returned 1 gradients for 2 inputs"):
        Forgetful()(x, x).sum().backward()
    with pytest.raises(RuntimeError, match=r"wrong_shape: backward returned shape \(\) for an input of shape \(2,\)"):
        WrongShape()(x).backward()
    with pytest.raises(NotImplementedError, match="first_order_only defines no backward: it cannot be differentiated"):
        FirstOrderOnly()(x).sum().backward()
    op = mg.ops.elementwise.Exp()
    op(x)
    with pytest.raises(RuntimeError, match="exp: an instance is one node of the graph and is called once"):
        op(x)


# ---- anomaly mode -----------------------------------------------------------------------------------------------


def test_anomaly_mode_names_the_op_and_the_line() -> None:
    x = mg.Tensor([1.0, -1.0], requires_grad=True)
    with mg.detect_anomaly(), np.errstate(invalid="ignore"), pytest.raises(FloatingPointError) as caught:
        mg.log(x)  # the line to be named
    assert str(caught.value).startswith("log: the forward pass produced a NaN (shape (2,)); called at ")
    assert "test_autograd.py" in str(caught.value)
    assert str(caught.value).endswith("mg.log(x)  # the line to be named")


def test_anomaly_mode_sees_backward() -> None:
    x = mg.Tensor([0.0], requires_grad=True)
    with mg.detect_anomaly(), np.errstate(all="ignore"):
        y = mg.sqrt(x * x) * 0.0  # the culprit: 0 / 0 in the gradient of sqrt
        with pytest.raises(FloatingPointError, match=r"sqrt: the backward pass produced a NaN .* the culprit"):
            y.sum().backward()


def test_anomaly_mode_sees_second_derivatives() -> None:
    """The nodes that a backward makes belong to the line whose op it differentiates."""
    x = mg.Tensor([0.0], requires_grad=True)
    with mg.detect_anomaly(), np.errstate(all="ignore"):
        y = (x * x * x) ** 0.5  # the culprit: its derivative is 0 * inf at 0
        with pytest.raises(FloatingPointError, match=r"power: the backward pass produced a NaN .* the culprit"):
            mg.grad(mg.grad(y.sum() * 0.0, x, create_graph=True).sum(), x)
        y = x**1.5  # the second culprit: its second derivative is infinite at 0
        first = mg.grad(y.sum(), x, create_graph=True)
        with pytest.raises(FloatingPointError, match=r"the backward pass produced a NaN .* the second culprit"):
            mg.grad((first * 0.0).sum(), x)


# ---- order, depth, lifetime -------------------------------------------------------------------------------------


def test_a_long_chain_needs_no_recursion() -> None:
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1]
    del y


def live_tensors() -> int:
    return sum(issubclass(type(o), (mg.Tensor, mg.Function)) for o in gc.get_objects())


def test_graphs_are_freed_by_reference_counting_alone() -> None:
    gc.collect()
    gc.disable()
    try:
        x, w = leaf(2, 4, 4, 1), leaf(3, 3, 1, 2)
        gamma, beta = leaf(2, seed=3), leaf(2, seed=4)
        before = live_tensors()
        y = (mg.tanh(mg.batch_norm(mg.conv2d(x, w), gamma, beta)) ** 2).sum()
        node = weakref.ref(y.node)
        g = mg.grad(y, x, create_graph=True)
        (g * g).sum().backward()
        del y, g
        assert node() is None
        assert live_tensors() == before
    finally:
        gc.enable()


def test_double_backward_steps_do_not_grow() -> None:
    """200 steps in the manner of WGAN-GP; nothing may be left behind by any of them."""
    w, x = leaf(3, 3, 1, 2), leaf(2, 5, 5, 1)
    counts = []
    gc.collect()
    gc.disable()
    try:
        for step in range(200):
            w.grad = None
            g = mg.grad(mg.leaky_relu(mg.conv2d(x, w), 0.2).sum(), x, create_graph=True)
            (((g * g).sum((1, 2, 3)) + 1e-12) ** 0.5).mean().backward()
            del g
            if step % 20 == 0:
                counts.append(live_tensors())
    finally:
        gc.enable()
    assert len(set(counts)) == 1


# ---- higher orders and fused ops --------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [(1.3, -0.4), (0.0, 0.0)], ids=["gamma", "gamma 0"])
def test_third_order_of_batch_norm(gamma: tuple[float, float]) -> None:
    def second(x: mg.Tensor, gamma: mg.Tensor, beta: mg.Tensor) -> mg.Tensor:
        g = mg.grad((mg.batch_norm(x, gamma, beta) ** 3).sum(), x, create_graph=True)
        return (g * x).sum() + (g * g).sum()

    x = np.random.default_rng(0).standard_normal((3, 2, 1, 2))
    mg.gradgradcheck(second, [x, np.array(gamma), np.array([0.2, 0.5])])
    mg.gradgradcheck(lambda x, g, b: mg.batch_norm(x, g, b), [x, np.array(gamma), np.array([0.2, 0.5])])


def test_third_order_of_convolution() -> None:
    def second(x: mg.Tensor, w: mg.Tensor) -> mg.Tensor:
        gx, gw = mg.grad((mg.conv2d(x, w, stride=2, padding=1) ** 3).sum(), [x, w], create_graph=True)
        return (gx**2).sum() * (gw * w).sum()

    rng = np.random.default_rng(0)
    mg.gradgradcheck(second, [rng.standard_normal((1, 4, 3, 1)), rng.standard_normal((3, 2, 1, 2)) / 3])


def test_batch_norm_uses_its_kernel_unless_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(BatchNorm, "definition", lambda *a: calls.append(a) or mg.batch_norm(*a[1:]))
    x, gamma, beta = leaf(4, 2), leaf(2, seed=1), leaf(2, seed=2)
    mg.grad(mg.batch_norm(x, gamma, beta).sum(), x)
    assert not calls


@given(
    seed=st.integers(0, 2**32 - 1), geometry=st.tuples(*[st.integers(1, 3)] * 6, st.integers(0, 3), st.integers(0, 2))
)
@settings(max_examples=100)
def test_trilinear_identity(seed: int, geometry: tuple[int, ...]) -> None:
    """<conv2d(x, w), y> = <x, conv_transpose2d(y, w)> = <w, conv2d_weight(x, y)>, for any geometry."""
    sh, sw, kh, kw, oh, ow, ph, pw = geometry
    rng = np.random.default_rng(seed)
    h, v = (oh - 1) * sh + kh + int(rng.integers(sh)), (ow - 1) * sw + kw + int(rng.integers(sw))
    ph, pw = min(ph, (h - 1) // 2), min(pw, (v - 1) // 2)
    size = (h - 2 * ph, v - 2 * pw)
    extra = ((h - kh) % sh, (v - kw) % sw)
    N, C, O = rng.integers(1, 4, 3)
    x = rng.standard_normal((N, *size, C))
    w = rng.standard_normal((kh, kw, C, O))
    y = mg.conv2d(x, w, stride=(sh, sw), padding=(ph, pw)).array
    y = rng.standard_normal(y.shape)
    one = (mg.conv2d(x, w, stride=(sh, sw), padding=(ph, pw)).array * y).sum()
    two = (mg.conv_transpose2d(y, w, stride=(sh, sw), padding=(ph, pw), output_padding=extra).array * x).sum()
    three = (mg.conv2d_weight(x, y, (kh, kw), stride=(sh, sw), padding=(ph, pw)).array * w).sum()
    scale = np.abs(x).sum() * np.abs(w).max() * np.abs(y).max() + 1
    assert abs(one - two) < 1e-13 * scale
    assert abs(one - three) < 1e-13 * scale


# ---- gradcheck catches what it is for ---------------------------------------------------------------------------


class Sabotaged(BatchNorm):
    """Batch norm whose definition can be replaced by a wrong one."""

    def __init__(self, definition: Any) -> None:
        super().__init__(1e-5)
        self.definition = definition  # type: ignore[method-assign]


class WrongSign(mg.Function):
    saves_inputs = True

    def forward(self, x: Any) -> Any:
        return np.cos(x)

    def backward(self, g: mg.Tensor) -> mg.Tensor:
        return g * mg.tanh(self.inputs[0])  # neither the sign nor the function is right


class DroppedTerm(mg.Function):
    saves_inputs = True

    def forward(self, x: Any) -> Any:
        return x * x.sum()

    def backward(self, g: mg.Tensor) -> mg.Tensor:
        return g * self.inputs[0].sum()  # the term through the sum is missing


class ConstantInFormula(mg.Function):
    """Right at first order; its recorded gradient treats its own output as a constant."""

    saves_inputs = True

    def forward(self, x: Any) -> Any:
        return np.exp(x)

    def backward(self, g: mg.Tensor) -> mg.Tensor:
        return g * mg.exp(self.inputs[0]).detach()


def detached_mean(x: mg.Tensor, gamma: mg.Tensor, beta: mg.Tensor) -> mg.Tensor:
    d = x - x.mean(0, keepdims=True)
    outer = x - x.mean(0, keepdims=True).detach()
    return d * ((outer * outer).mean(0, keepdims=True) + 1e-5) ** -0.5 * gamma + beta


NORM_INPUTS = [np.random.default_rng(5).standard_normal(s) for s in ((5, 2), (2,), (2,))]


def test_a_wrong_sign_and_a_dropped_term_are_caught() -> None:
    x = np.random.default_rng(0).standard_normal(3)
    with pytest.raises(
        GradcheckError, match=r"gradcheck: input 0 of shape \(3,\): relative error .* worst element is \("
    ):
        mg.gradcheck(lambda t: WrongSign()(t), [x])
    with pytest.raises(GradcheckError, match="analytic .*, numeric "):
        mg.gradcheck(lambda t: DroppedTerm()(t), [x])


def test_a_constant_in_a_formula_is_caught_at_second_order() -> None:
    x = np.random.default_rng(0).standard_normal(3)
    mg.gradcheck(lambda t: ConstantInFormula()(t), [x])
    with pytest.raises(GradcheckError, match="gradgradcheck: input 0"):
        mg.gradgradcheck(lambda t: ConstantInFormula()(t), [x])


def test_a_detached_mean_is_caught() -> None:
    """d of the variance with respect to its own mean is 0, so the first derivative is right and the second is not."""
    op = lambda x, gamma, beta: Sabotaged(detached_mean)(x, gamma, beta)  # noqa: E731
    mg.gradcheck(op, NORM_INPUTS)
    mg.check_recorded(op, NORM_INPUTS)
    with pytest.raises(GradcheckError, match="gradgradcheck"):
        mg.gradgradcheck(op, NORM_INPUTS)


def test_a_double_counted_alias_is_caught_only_by_check_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(x: mg.Tensor, gamma: mg.Tensor, beta: mg.Tensor) -> mg.Tensor:
        return BatchNorm(1e-5)(x * gamma, gamma, beta)

    original = BatchNorm.backward

    def backward(self: Any, g: mg.Tensor) -> Any:
        x, gamma, beta = self.inputs
        if mg.is_recording():
            return mg.grad(standardize(x, (0,), 1e-5) * gamma + beta, (x, gamma, beta), g, create_graph=True)
        return original(self, g)

    # x * gamma was computed from gamma: without aliases, gamma's gradient collects that path here and again below.
    monkeypatch.setattr(BatchNorm, "backward", backward)
    mg.gradcheck(shared, NORM_INPUTS)
    with pytest.raises(GradcheckError, match="check_recorded: input 1 .* recorded .*, not recorded "):
        mg.check_recorded(shared, NORM_INPUTS)


def test_gradcheck_moves_away_from_kinks_and_reports_nan() -> None:
    mg.gradcheck(mg.relu, [np.zeros(3)])
    with np.errstate(invalid="ignore"), pytest.raises(GradcheckError, match="relative error inf"):
        mg.gradcheck(mg.sqrt, [np.array([-1.0])])
    with pytest.raises(GradcheckError, match="the result does not require a gradient: f lost its graph"):
        mg.gradcheck(lambda x: x.detach(), [np.ones(2)])


# ---- error texts of the ops -------------------------------------------------------------------------------------


def zeros(*shape: int) -> Any:
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mg.add(zeros(2), zeros(3)), "add: shapes (2,) and (3,) do not broadcast: from the last one backwards"),
        (lambda: mg.where(zeros(2) > 0, zeros(3), 1.0), "where: shapes (2,) and (3,) and () do not broadcast"),
        (lambda: mg.where(zeros(2), 1.0, 2.0), "where: the condition must be bool, not float64; compare it"),
        (lambda: mg.clip(zeros(2), 3, 1), "clip: low 3 is above high 1"),
        (lambda: mg.sum(zeros(2, 3), 2), "sum: there is no axis 2 in shape (2, 3)"),
        (lambda: mg.sum(zeros(2, 3), 0.5), "sum: axis must be a whole number or a tuple of them, not 0.5"),
        (lambda: mg.stack([zeros(2)], 7), "stack: there is no axis 7 among 2"),
        (lambda: mg.flip(zeros(2), 5), "flip: there is no axis 5 among 1"),
        (
            lambda: mg.transpose(zeros(2, 3), (2, 1)),
            "transpose: axes (2, 1) are no order of the 2 axes of shape (2, 3)",
        ),
        (lambda: mg.pad(zeros(2), [1]), "pad: [1] must be 1 pairs of numbers >= 0 for shape (2,)"),
        (
            lambda: mg.matmul(zeros(2, 3, 4), zeros(3, 4, 5)),
            "matmul: (2, 3, 4) @ (3, 4, 5): the batches do not broadcast",
        ),
        (
            lambda: mg.conv2d(zeros(1, 2, 2, 1), zeros(1, 1, 1, 2), stride=2.0),
            "stride must be one or two whole numbers",
        ),
        (
            lambda: mg.conv2d_weight(zeros(4, 4), zeros(1, 2, 2, 1), 2),
            "conv2d_weight: x must be (N, H, W, C) and y (N, ",
        ),
        (
            lambda: mg.exp(np.arange(3, dtype=np.uint8)),
            "exp: dtype float16 is not supported; use float32, float64, an ",
        ),
        (lambda: mg.max(zeros(0)), "max: shape (0,) holds no elements"),
        (lambda: mg.mean(zeros(0)), "mean: shape (0,) holds no elements"),
        (lambda: mg.reshape(zeros(4), (3,)), "reshape: (4,) holds 4 elements, which do not fill (3,)"),
        (
            lambda: mg.transpose(zeros(2, 3), (0, 0)),
            "transpose: axes (0, 0) are no order of the 2 axes of shape (2, 3)",
        ),
        (lambda: mg.broadcast_to(zeros(2), (3,)), "broadcast_to: shape (2,) does not broadcast to (3,)"),
        (
            lambda: mg.Tensor(zeros(2))[2],
            "getitem: index 2 is out of bounds for axis 0 with size 2; the tensor has shape",
        ),
        (lambda: mg.concatenate([]), "concatenate: there is nothing to concatenate: the sequence is empty"),
        (
            lambda: mg.concatenate([zeros(2, 3), zeros(3, 2)]),
            "concatenate: shapes (2, 3), (3, 2) must be equal but for ",
        ),
        (lambda: mg.stack([zeros(2), zeros(3)]), "stack: shapes must be equal, but are (2,), (3,)"),
        (lambda: mg.pad(zeros(2), ((1, -1),)), "pad: [(1, -1)] must be 1 pairs of numbers >= 0 for shape (2,)"),
        (lambda: mg.embedding([0.5], mg.ones((2, 2))), "embedding: indices must be integers, not float64"),
        (lambda: mg.embedding([2], mg.ones((2, 2))), "embedding: indices go from 2 to 2, but weight has 2 rows"),
        (lambda: mg.matmul(zeros(2, 3), zeros(2, 3)), "matmul: (2, 3) @ (2, 3): the inner dimensions do not match"),
        (lambda: mg.linear(zeros(2, 3), mg.ones((4, 2))), "linear: x has 3 channels (2, 3) but w expects 4 (4, 2)"),
        (
            lambda: mg.conv2d(zeros(1, 5, 5, 2), zeros(3, 3, 4, 8)),
            "conv2d: x has 2 channels (1, 5, 5, 2) but w expects 4 (3, 3, 4, 8)",
        ),
        (
            lambda: mg.conv_transpose2d(zeros(1, 5, 5, 2), zeros(3, 3, 4, 8)),
            "conv_transpose2d: y has 2 channels (1, 5, 5, 2) but w expects 8 (3, 3, 4, 8)",
        ),
        (
            lambda: mg.conv2d(zeros(5, 5), zeros(3, 3, 4, 8)),
            "conv2d: x must be (N, H, W, C) and w (KH, KW, C, O), but are (5, 5) and (3, 3, 4, 8)",
        ),
        (
            lambda: mg.conv2d(zeros(1, 5, 5, 2), zeros(3, 3, 2, 8), groups=2),
            "conv2d: dilation=1, groups=2: only dilation 1 and groups 1 are supported",
        ),
        (
            lambda: mg.conv_transpose2d(zeros(1, 5, 5, 2), zeros(3, 3, 2, 2), dilation=(2, 1)),
            "conv_transpose2d: dilation=(2, 1), groups=1: only dilation 1 and groups 1 are supported",
        ),
        (
            lambda: mg.conv2d(zeros(1, 2, 2, 1), zeros(3, 3, 1, 1)),
            "conv2d: the window (3, 3) is larger than x (1, 2, 2, 1) with padding (0, 0)",
        ),
        (
            lambda: mg.conv2d(zeros(1, 2, 2, 1), zeros(1, 1, 1, 2), mg.ones(3)),
            "conv2d: bias has shape (3,) but the output has 2 channels (1, 2, 2, 2)",
        ),
        (
            lambda: mg.conv2d(zeros(1, 2, 2, 1), zeros(1, 1, 1, 2), 1),
            "conv2d: bias must be a tensor (2,), not 1; name stride= and padding=",
        ),
        (
            lambda: mg.conv2d(zeros(1, 2, 2, 1), zeros(1, 1, 1, 2), stride=0),
            "conv2d: stride must be one or two whole numbers >= 1, not 0",
        ),
        (
            lambda: mg.conv_transpose2d(zeros(1, 2, 2, 1), zeros(2, 2, 1, 1), output_padding=1),
            "conv_transpose2d: output_padding (1, 1) must be smaller than stride (1, 1)",
        ),
        (
            lambda: mg.conv_transpose2d(zeros(1, 1, 1, 1), zeros(2, 2, 1, 1), padding=1),
            "conv_transpose2d: padding (1, 1) leaves nothing of y (1, 1, 1, 1) and the window (2, 2)",
        ),
        (
            lambda: mg.conv2d_weight(zeros(1, 4, 4, 1), zeros(1, 2, 2, 1), 2),
            "conv2d_weight: x (1, 4, 4, 1) with this geometry gives y (3, 3), but y is (1, 2, 2, 1)",
        ),
        (
            lambda: mg.batch_norm(zeros(2, 3), zeros(2), zeros(3)),
            "batch_norm: x has 3 channels (2, 3) but gamma is (2,) and beta (3,)",
        ),
        (
            lambda: mg.batch_norm(zeros(1, 3), zeros(3), zeros(3)),
            "batch_norm: training needs at least 2 values a channel, but x (1, 3) has 1",
        ),
        (
            lambda: mg.batch_norm(zeros(2, 3), zeros(3), zeros(3), training=False),
            "batch_norm: training=False needs running_mean and running_var",
        ),
        (
            lambda: mg.batch_norm(zeros(2, 3), zeros(3), zeros(3), mg.zeros((5, 3)), mg.zeros(3)),
            "batch_norm: running statistics must be (3,) like gamma, not (5, 3)",
        ),
        (
            lambda: mg.batch_norm(zeros(2, 3), zeros(3), zeros(3), mg.zeros(3)),
            "batch_norm: running_mean and running_var are given both or neither",
        ),
        (lambda: mg.nn.Conv2d(4, 4, 3, 1, 2, 2), "Conv2d: dilation=2, groups=1: only dilation 1 and groups 1 are"),
        (lambda: mg.layer_norm(zeros(3)), "layer_norm: x must be (N, ...), but is (3,)"),
        (lambda: mg.instance_norm(zeros(3)), "instance_norm: x must be (N, H, W, C), but is (3,)"),
        (lambda: mg.avg_pool2d(zeros(3), 2), "avg_pool2d: x must be (N, H, W, C), but is (3,)"),
        (
            lambda: mg.max_pool2d(zeros(1, 2, 2, 1), 3),
            "max_pool2d: the window (3, 3) is larger than x (1, 2, 2, 1) with padding (0, 0)",
        ),
        (
            lambda: mg.max_pool2d(zeros(1, 4, 4, 1), 2, padding=2),
            "max_pool2d: padding (2, 2) must be at most half of the window (2, 2)",
        ),
        (lambda: mg.upsample_nearest(zeros(3)), "upsample_nearest: x must be (N, H, W, C), but is (3,)"),
        (lambda: mg.dropout(zeros(3), 1.0), "dropout: p must be in [0, 1), not 1.0"),
        (
            lambda: mg.cross_entropy(zeros(2, 3), zeros(2)),
            "cross_entropy: logits must be (N, K) and labels N integers, but are (2, 3) and float64 (2,)",
        ),
        (lambda: mg.cross_entropy(zeros(1, 3), [3]), "cross_entropy: labels go from 3 to 3, for 3 classes"),
        (
            lambda: mg.binary_cross_entropy_with_logits(zeros(2), zeros(2, 1)),
            "binary_cross_entropy_with_logits: logits (2,) and targets (2, 1) must have one shape",
        ),
        (
            lambda: mg.binary_cross_entropy_with_logits(np.arange(3), 1),
            "binary_cross_entropy_with_logits: wants all float32 or all float64, not int64",
        ),
        (
            lambda: mg.mean_difference(np.arange(3), np.arange(2)),
            "mean_difference: wants all float32 or all float64, not int64, int64",
        ),
        (
            lambda: mg.mean_difference(zeros(3), zeros(0)),
            "mean_difference: shape (0,) holds no elements",
        ),
        (
            lambda: mg.row_squares(np.ones((2, 3), np.int32)),
            "row_squares: wants all float32 or all float64, not int32",
        ),
        (
            lambda: mg.slope_penalty(np.arange(3), 10, 1e-12),
            "slope_penalty: wants all float32 or all float64, not int64",
        ),
        (
            lambda: mg.kernels.use("gpu").__enter__(),
            "use: there is no backend 'gpu'; choose one of auto, reference, cpu",
        ),
    ],
)
def test_error_texts(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, IndexError), match=re.escape(message)):
        call()
