"""Optimizers: their first step by hand, twenty against a few lines of NumPy, and everything around the update."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan.optim import SGD, Adam, Optimizer, RMSprop, clip_weights

Array = Any


def sgd(p: Array, gs: list[Array], lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> Array:
    b = np.zeros_like(p)
    for g in gs:
        b = momentum * b + (g + weight_decay * p)
        p = p - lr * b
    return p


def rmsprop(
    p: Array, gs: list[Array], lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
) -> Array:
    v = np.zeros_like(p)
    for g in gs:
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        p = p - lr * g / (np.sqrt(v) + eps)
    return p


def adam(
    p: Array, gs: list[Array], lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> Array:
    m = v = np.zeros_like(p)
    for t, g in enumerate(gs, 1):
        g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


CASES: list[tuple[type[Optimizer], Callable[..., Array], dict[str, Any]]] = [
    (SGD, sgd, {"lr": 0.1}),
    (SGD, sgd, {"lr": 0.1, "weight_decay": 0.3}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (SGD, sgd, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3}),
    (RMSprop, rmsprop, {}),
    (RMSprop, rmsprop, {"lr": 0.1, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.3}),
    (Adam, adam, {}),
    (Adam, adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-4, "weight_decay": 0.3}),
    (Adam, adam, {"lr": 0.1, "betas": (0.0, 0.9)}),
]
each_case = pytest.mark.parametrize(
    ("kind", "oracle", "options"), CASES, ids=lambda x: x.__name__ if isinstance(x, type) else None
)
each_kind = pytest.mark.parametrize("kind", [SGD, RMSprop, Adam])


def parameter(shape: tuple[int, ...] = (3, 2), dtype: Any = np.float64, seed: int = 0) -> mg.Tensor:
    return mg.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True)


def gradients(n: int, shape: tuple[int, ...] = (3, 2), dtype: Any = np.float64, seed: int = 1) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(n)]


def run(optimizer: Optimizer, gs: list[Array]) -> None:
    for g in gs:
        for p in optimizer.params:
            p.grad = g.copy()
        optimizer.step()


# ---- the rules ------------------------------------------------------------------------------------------------------


def test_first_step_by_hand() -> None:
    steps = {
        SGD: 0.1 * 4.0,
        RMSprop: 0.1 * 4.0 / (np.sqrt(0.01 * 16) + 1e-8),
        Adam: 0.1 * 1.0 / (1 + 1e-8 / 4),  # both means are corrected to g and g^2: lr, whatever the gradient
    }
    for kind, distance in steps.items():
        p = mg.Tensor(np.array([3.0, 3.0]), requires_grad=True)
        p.grad = np.array([4.0, -4.0])
        kind([p], lr=0.1).step()
        np.testing.assert_allclose(p.array, [3 - distance, 3 + distance], rtol=1e-12)


@each_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("shape", [(), (3, 2), (0, 4)])
def test_twenty_steps(kind: Any, oracle: Any, options: Any, dtype: Any, tolerance: float, shape: Any) -> None:
    p, gs = parameter(shape, dtype), gradients(20, shape, dtype)
    expected = oracle(p.array.copy(), gs, **options)
    array = p.array
    run(kind([p], **{"lr": 0.01, **options}) if kind is SGD else kind([p], **options), gs)
    assert p.array is array  # in place
    assert p.dtype == dtype
    np.testing.assert_allclose(p.array, expected, rtol=tolerance, atol=tolerance)


@each_kind
def test_gradient_of_another_layout(kind: Any) -> None:
    p, q = parameter(), parameter()
    g = gradients(1, (2, 3))[0]
    p.grad, q.grad = g.T, np.ascontiguousarray(g.T)
    kind([p, q], lr=0.1).step()
    np.testing.assert_array_equal(p.array, q.array)


def test_gradient_is_not_changed() -> None:
    for kind, _, options in CASES:
        p, g = parameter(), gradients(1)[0]
        p.grad = g.copy()
        kind([p], **{"lr": 0.1, **options}).step()
        np.testing.assert_array_equal(p.grad, g)


@each_kind
def test_a_parameter_without_gradient_is_skipped(kind: Any) -> None:
    p, q = parameter(), parameter()
    before, version = q.array.copy(), q.version
    optimizer = kind([p, q], lr=0.1, weight_decay=1.0)
    p.grad = gradients(1)[0]
    optimizer.step()
    np.testing.assert_array_equal(q.array, before)
    assert (q.version, p.version) == (version, 1)
    assert optimizer.state[1] == {}


def test_adam_corrects_each_parameter_by_its_own_steps() -> None:
    """A parameter that gets its first gradient in the third step moves by lr then, like any other in its first."""
    p, q = parameter(()), parameter(())
    optimizer = Adam([p, q], lr=0.1)
    for step in range(3):
        before = float(q)
        p.grad, q.grad = np.array(1.0), np.array(5.0) if step == 2 else None
        optimizer.step()
    assert before - float(q) == pytest.approx(0.1)


@each_kind
def test_a_step_between_forward_and_backward_is_noticed(kind: Any) -> None:
    p = parameter()
    optimizer = kind([p], lr=0.1)
    loss = (p * p).sum()
    run(optimizer, gradients(1))
    with pytest.raises(RuntimeError, match=r"multiply: its input of shape \(3, 2\) was modified in place"):
        loss.backward()


@each_kind
def test_minimises(kind: Any) -> None:
    p, target = parameter(), mg.Tensor(np.arange(6.0).reshape(3, 2) / 6)
    optimizer = kind([p], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = ((p - target) ** 2).sum()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.02


def test_zero_grad() -> None:
    p, q = parameter(), parameter()
    p.grad = gradients(1)[0]
    Adam([p, q]).zero_grad()
    assert p.grad is None
    assert q.grad is None


def test_learning_rate_can_change() -> None:
    p, gs = parameter(), gradients(2)
    optimizer = SGD([p], lr=0.1)
    expected = p.array - 0.1 * gs[0] - 0.5 * gs[1]
    run(optimizer, gs[:1])
    optimizer.lr = 0.5
    run(optimizer, gs[1:])
    np.testing.assert_allclose(p.array, expected, rtol=1e-12)


# ---- weight clipping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_weights(dtype: Any) -> None:
    p, q = parameter(dtype=dtype), mg.Tensor(np.array([-0.01, 0.01, 0.02, -5, 0], dtype), requires_grad=True)
    loss = (q * q).sum()
    clip_weights(iter([p, q]), 0.01)
    assert np.abs(p.array).max() <= dtype(0.01)
    np.testing.assert_array_equal(q.array, np.array([-0.01, 0.01, 0.01, -0.01, 0], dtype))
    assert (p.version, q.version) == (1, 1)
    with pytest.raises(RuntimeError, match=re.escape("(by an optimizer step or weight clipping, between this forward")):
        loss.backward()


@pytest.mark.parametrize("c", [0, -1.0, float("nan")])
def test_clip_weights_refuses(c: float) -> None:
    with pytest.raises(ValueError, match=f"^clip_weights: c must be > 0, not {c}$"):
        clip_weights([parameter()], c)


# ---- state ----------------------------------------------------------------------------------------------------------


@each_case
def test_state_continues_bit_for_bit(kind: Any, oracle: Any, options: Any) -> None:
    options = {"lr": 0.1, **options}
    p, gs = parameter(dtype=np.float32), gradients(7, dtype=np.float32)
    optimizer = kind([p], **options)
    run(optimizer, gs[:3])
    q = copy.deepcopy(p)
    other = kind([q], **options)
    state = optimizer.state_dict()
    other.load_state_dict(state)
    run(optimizer, gs[3:])
    run(other, gs[3:])
    np.testing.assert_array_equal(q.array, p.array)
    assert other.steps == optimizer.steps == 7


@each_kind
def test_state_is_a_copy_on_both_ways(kind: Any) -> None:
    p = parameter()
    optimizer = kind([p], lr=0.1)
    run(optimizer, gradients(1))
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    run(optimizer, gradients(1, seed=5))
    optimizer.load_state_dict(state)
    run(optimizer, gradients(1, seed=6))
    assert state["steps"] == kept["steps"] == 1
    for key, array in kept["state"][0].items():
        np.testing.assert_array_equal(state["state"][0][key], array)


def test_load_refuses_another_number_of_parameters() -> None:
    optimizer = Adam([parameter(), parameter()])
    run(optimizer, gradients(1))
    with pytest.raises(ValueError, match=r"^Adam: the state is of 2 parameters, not of 1$"):
        Adam([parameter()]).load_state_dict(optimizer.state_dict())


def test_load_refuses_another_shape_and_changes_nothing() -> None:
    optimizer, other = Adam([parameter()]), Adam([parameter((2, 2))])
    run(optimizer, gradients(1))
    with pytest.raises(ValueError, match=re.escape("Adam: m of parameter 0 is (3, 2), the parameter (2, 2)")):
        other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == {"lr": other.lr, "steps": 0, "state": [{}]}


def test_load_refuses_the_state_of_another_rule() -> None:
    adam_ = Adam([parameter()])
    run(adam_, gradients(1))
    with pytest.raises(ValueError, match="RMSprop"):
        RMSprop([parameter()]).load_state_dict(adam_.state_dict())


# ---- arguments ------------------------------------------------------------------------------------------------------


@each_kind
def test_refuses_no_parameters(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: there are no parameters to optimize$"):
        kind([], lr=0.1)


@each_kind
def test_refuses_a_single_tensor(kind: Any) -> None:
    """Its rows would be taken for the parameters, and nothing would ever be updated."""
    with pytest.raises(TypeError, match=kind.__name__):
        kind(parameter(), lr=0.1)


@each_kind
@pytest.mark.parametrize(("lr", "decay"), [(-0.1, 0.0), (0.1, -1.0), (float("nan"), 0.0)])
def test_refuses_negative_rates(kind: Any, lr: float, decay: float) -> None:
    text = f"^{kind.__name__}: lr and weight_decay must be >= 0, but are {lr} and {decay}$"
    with pytest.raises(ValueError, match=text):
        kind([parameter()], lr=lr, weight_decay=decay)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.5, -0.1), (0.5, 1.0)])
def test_adam_refuses_betas(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"Adam: betas must be in [0, 1), but are {betas}")):
        Adam([parameter()], betas=betas)


def test_base_defines_no_rule() -> None:
    optimizer = Optimizer([parameter()], 0.1, 0.0)
    with pytest.raises(NotImplementedError):
        run(optimizer, gradients(1))


@each_kind
def test_refuses_what_it_cannot_update(kind: Any) -> None:
    p = parameter()
    with pytest.raises(ValueError, match=f"^{kind.__name__}: parameter 0 was computed by multiply; only leaves"):
        kind([p * 2], lr=0.1)
    with pytest.raises(ValueError, match=f"^{kind.__name__}: a parameter is listed twice and would be updated twice"):
        kind([p, p], lr=0.1)


def test_the_learning_rate_is_part_of_the_state() -> None:
    first = Adam([parameter()])
    first.lr = 5e-4
    second = Adam([parameter()])
    second.load_state_dict(first.state_dict())
    assert second.lr == 5e-4
