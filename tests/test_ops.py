"""Every op of the table: values, dtypes, layouts, backends, and derivatives of first, second and third order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_table import OPS, Row

import minigan as mg

HELPERS = {"as_index", "assign", "compare", "to"}  # in ops.__all__, but no op on numbers; test_devices.py has `to`

each_op = pytest.mark.parametrize("row", OPS, ids=str)
quick = settings(max_examples=10)
slow = settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow])


def test_every_op_has_a_row() -> None:
    assert {row.name for row in OPS} == set(mg.ops.__all__) - HELPERS


def values(row: Row, arrays: Sequence[Any]) -> Any:
    return row.op(*map(mg.Tensor, arrays)).array


def values_and_gradients(row: Row, arrays: Sequence[Any]) -> list[Any]:
    xs = [mg.Tensor(a, requires_grad=True) for a in arrays]
    y = row.op(*xs)
    upstream = np.random.default_rng(0).standard_normal(y.shape).astype(y.dtype)
    return [y.array, *(g.array for g in mg.grad(y, xs, upstream, allow_unused=True))]


@each_op
@quick
@given(data=st.data())
def test_forward_equals_numpy(row: Row, data: Any) -> None:
    arrays = data.draw(row.inputs)
    copies = [a.copy() for a in arrays]
    y, expected = values(row, arrays), np.asarray(row.reference(*arrays))
    assert y.shape == expected.shape
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@each_op
@quick
@given(data=st.data())
def test_float32_stays_float32(row: Row, data: Any) -> None:
    arrays = data.draw(row.inputs)
    single = values_and_gradients(row, [a.astype(np.float32) for a in arrays])
    double = values_and_gradients(row, [a.astype(np.float32).astype(np.float64) for a in arrays])
    for a, b in zip(single, double, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@each_op
@quick
@given(data=st.data())
def test_layout_of_inputs_does_not_matter(row: Row, data: Any) -> None:
    arrays = data.draw(row.inputs)

    def strided(a: Any) -> Any:  # the same values, every axis with a gap and the last one backwards
        if not a.ndim:
            return a.copy()
        wide = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
        view = wide[tuple(slice(None, None, -2 if i == a.ndim - 1 else 2) for i in range(a.ndim))]
        view[...] = a
        return view

    xs = [mg.Tensor.of(strided(a)) for a in arrays]
    np.testing.assert_allclose(row.op(*xs).array, values(row, arrays), rtol=1e-12, atol=1e-12)


@each_op
@quick
@given(data=st.data())
def test_backends_agree(row: Row, data: Any) -> None:
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-5)):
        arrays = [a.astype(dtype) for a in data.draw(row.inputs)]
        with mg.kernels.use("reference"):
            expected = values_and_gradients(row, arrays)
        for a, b in zip(values_and_gradients(row, arrays), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance)


@each_op
@slow
@given(data=st.data())
def test_gradient(row: Row, data: Any) -> None:
    arrays = data.draw(row.inputs)
    mg.gradcheck(row.op, arrays)
    mg.check_recorded(row.op, arrays)


@each_op
@slow
@given(data=st.data())
def test_second_gradient(row: Row, data: Any) -> None:
    arrays = data.draw(row.inputs)
    mg.gradgradcheck(row.op, arrays)
    if not row.second_order:
        xs = [mg.Tensor(a, requires_grad=True) for a in arrays]
        first = mg.grad(row.op(*xs).sum(), xs, create_graph=True, allow_unused=True)
        for g in first:
            if g.requires_grad:
                for second in mg.grad(g.sum(), xs, retain_graph=True, allow_unused=True):
                    assert not second.array.any()


@each_op
@settings(max_examples=1)
@given(data=st.data())
def test_no_order_of_differentiation_fails(row: Row, data: Any) -> None:
    xs = [mg.Tensor(a, requires_grad=True) for a in data.draw(row.inputs)]
    y = (row.op(*xs) ** 2).sum()
    for _ in range(4):
        gradients = mg.grad(y, xs, create_graph=True, allow_unused=True)
        assert all(np.isfinite(g.array).all() for g in gradients)
        y = sum(((g * g).sum() for g in gradients), start=mg.Tensor(np.zeros(())))
        if not y.requires_grad:
            break
