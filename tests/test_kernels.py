"""Every row of the kernel table that has a compiled implementation equals its reference, and keeps the same manners.

The generated tests run over `kernels.KERNELS`, on the calls of kernel_cases.py.
"""

import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from kernel_cases import CASES, DTYPES, IN_PLACE, assert_equal, copies, each, results, several

from minigan import kernels
from minigan.kernels import KERNELS, dispatch

compiled = pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if "cpu" in kernel.compiled])
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def signatures(function: Callable[..., Any]) -> int:
    """How many versions Numba has compiled of the loops in the module of `function`."""
    names = vars(inspect.getmodule(inspect.unwrap(function))).values()
    loops = [loop for value in names for loop in getattr(value, "versions", (value,))]
    return sum(len(loop.signatures) for loop in loops if hasattr(loop, "signatures"))


def strided(array: np.ndarray) -> np.ndarray:
    """The same values, every second element of a larger array."""
    if array.ndim == 0:
        return array
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


# ---- generated from the table ----------------------------------------------------------------------------------


def test_every_compiled_kernel_has_a_case() -> None:
    assert {name for name, kernel in KERNELS.items() if kernel.compiled} <= set(CASES) <= set(KERNELS)


def test_no_folder_hides_a_kernel_of_its_name() -> None:
    """A package that is imported late becomes an attribute of its parent, over whatever stood there."""
    folders = "{f'{k.__name__}.{kernel.folder}' for kernel in k.KERNELS.values()}"
    program = f"import sys, minigan.kernels as k; print({folders} <= set(sys.modules))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "True\n"
    assert all(getattr(kernels, name) is kernel for name, kernel in KERNELS.items())


@pytest.mark.parametrize("name", KERNELS)
def test_implementations_have_docstrings_and_one_signature(name: str) -> None:
    reference = KERNELS[name].implementation("reference")
    assert reference.__doc__
    for backend in KERNELS[name].compiled:
        function = KERNELS[name].implementation(backend)
        assert function.__doc__
        assert list(inspect.signature(function).parameters) == list(inspect.signature(reference).parameters)


@compiled
@dtypes
def test_compiled_equals_reference(name: str, dtype: Any) -> None:
    reference, cpu = (KERNELS[name].implementation(backend) for backend in ("reference", "cpu"))
    for arguments, scalars in CASES[name](np.random.default_rng(0), dtype):
        given = copies(arguments)
        actual = results(name, cpu, (given, scalars))
        assert_equal(name, actual, results(name, reference, (copies(arguments), scalars)), dtype)
        for i, argument in enumerate(arguments):
            if i not in IN_PLACE.get(name, ()):
                for now, then in zip(*map(several, (given[i], argument)), strict=True):
                    np.testing.assert_array_equal(now, then, err_msg=f"{name} changed argument {i}")


@compiled
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_out_is_overwritten_and_returned(name: str, backend: str) -> None:
    if name in IN_PLACE:
        pytest.skip("changes its arguments instead")
    function = KERNELS[name].implementation(backend)
    for call in CASES[name](np.random.default_rng(0), np.float32):
        desired = results(name, function, call)
        given = tuple(np.full_like(d, 7) for d in desired)
        actual = results(name, function, call, out=given if len(given) > 1 else given[0])
        assert all(a is g for a, g in zip(actual, given, strict=True))
        assert_equal(name, actual, desired, np.float32)


@compiled
@dtypes
def test_layout_and_mutability_change_nothing_and_compile_nothing(name: str, dtype: Any) -> None:
    cpu = KERNELS[name].implementation("cpu")
    for arguments, scalars in CASES[name](np.random.default_rng(0), dtype):
        desired = results(name, cpu, (copies(arguments), scalars))
        before = signatures(cpu)
        for variant in (strided, np.copy):
            given = copies(arguments)
            for i, argument in enumerate(arguments):
                if i not in IN_PLACE.get(name, ()):
                    given[i] = each(lambda a, variant=variant: frozen(variant(a)), argument)
            actual = results(name, cpu, (given, scalars))
            assert_equal(name, actual, desired, dtype)
        assert signatures(cpu) == before


@compiled
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    cpu = KERNELS[name].implementation("cpu")
    for arguments, scalars in CASES[name](np.random.default_rng(0), np.float32):
        desired = results(name, cpu, (copies(arguments), scalars))
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            actual = results(name, cpu, (copies(arguments), scalars))
        finally:
            numba.set_num_threads(threads)
        if name == "conv2d_weight":  # adds up one partial sum a thread
            assert_equal(name, actual, desired, np.float32)
        else:
            assert all(np.array_equal(a, d, equal_nan=True) for a, d in zip(actual, desired, strict=True))


# ---- dispatch --------------------------------------------------------------------------------------------------


def test_use_selects_and_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    from minigan.kernels.activation import cpu, reference

    monkeypatch.setattr(cpu, "leaky_relu", lambda x, slope: "cpu")
    monkeypatch.setattr(reference, "leaky_relu", lambda x, slope: "reference")
    x = np.ones(3)
    with kernels.use("auto"):
        assert kernels.leaky_relu(x, 0.0) == "cpu"
        with suppress(ZeroDivisionError), kernels.use("reference"):
            assert (kernels.backend(), kernels.leaky_relu(x, 0.0)) == ("reference", "reference")
            raise ZeroDivisionError
        assert (kernels.backend(), kernels.leaky_relu(x, 0.0)) == ("auto", "cpu")
        with kernels.use("cpu"):
            assert (kernels.backend(), kernels.leaky_relu(x, 0.0)) == ("cpu", "cpu")
    dispatch._select(kernels.backend())  # forget the two functions above


def test_use_of_an_unknown_backend() -> None:
    message = "use: there is no backend 'nonsense'; choose one of auto, reference, cpu"
    with pytest.raises(ValueError, match=f"^{message}$"), kernels.use("nonsense"):
        pass


WITHOUT_NUMBA = """
import sys, warnings
sys.modules["numba"] = None
import numpy as np
from minigan import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert kernels.leaky_relu(np.array([-1.0, 2.0]), 0.0).tolist() == [0, 2]
    assert kernels.leaky_relu(np.array([-1.0, 2.0]), 0.5).tolist() == [-0.5, 2]
print(*(f"{w.category.__name__}: {w.message}" for w in caught), sep="\\n")
try:
    with kernels.use("cpu"):
        pass
except ImportError as error:
    print("ImportError:", error)
"""


def test_without_numba_one_warning_and_the_right_numbers() -> None:
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], cwd=root, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    warning, error = run.stdout.splitlines()
    assert warning.startswith("RuntimeWarning: numba cannot be imported (")
    assert warning.endswith("install it with: pip install 'numba>=0.68,<0.69'")
    assert error.startswith("ImportError: ")


@dtypes
def test_a_matrix_product_into_its_own_factor(dtype: Any) -> None:
    a, b = (np.random.default_rng(0).standard_normal((64, 64)).astype(dtype) for _ in range(2))
    expected = kernels.matmul(a, b)
    left, right = a.copy(), b.copy()
    np.testing.assert_array_equal(kernels.matmul(left, b, out=left), expected)
    np.testing.assert_array_equal(kernels.matmul(a, right, out=right), expected)


def test_what_is_joined_is_contiguous() -> None:
    """NumPy's result has its axes in an order of its own choice, as with a label's channels beside an image."""
    x, maps = np.ones((2, 5, 5, 1)), np.broadcast_to(np.arange(6.0).reshape(2, 1, 1, 3), (2, 5, 5, 3))
    joined = kernels.concatenate([x, maps], 3)
    assert not np.concatenate([x, maps], 3).flags.c_contiguous
    assert joined.flags.c_contiguous
    np.testing.assert_array_equal(joined, np.concatenate([x, maps], 3))


# ---- refusals --------------------------------------------------------------------------------------------------


def test_refused_arrays() -> None:
    x, v, p = np.ones((2, 3)), np.ones(3), np.ones(3, np.float32)
    with kernels.use("cpu"):
        with pytest.raises(TypeError, match=r"^leaky_relu: wants all float32 or all float64, not int64$"):
            kernels.leaky_relu(np.arange(3), 0.0)
        with pytest.raises(TypeError, match=r"^adam: .*, not float32, float64, float32, float32$"):
            kernels.adam([p], [v], [p], [p], lr=1, beta1=0, beta2=0, eps=0, weight_decay=0, step=[1])
        with pytest.raises(ValueError, match=r"^leaky_relu_backward: wants arrays of one shape, not \(2, 3\), \(3,\)$"):
            kernels.leaky_relu_backward(x, v, 0.0)
        refused = r"^leaky_relu: writes into a C-contiguous float64 \(2, 3\), not a non-contiguous float64 \(2, 3\)$"
        with pytest.raises(ValueError, match=refused):
            kernels.leaky_relu(x, 0.0, out=np.ones((3, 2)).T)
        with pytest.raises(ValueError, match=r"^clip_weights: writes into a C-contiguous float64 \(3,\), not a non"):
            kernels.clip_weights([np.ones(6)[::2]], 0.5)
        with pytest.raises(ValueError, match=r"^batch_norm_statistics: x \(0, 3\) is empty and has no mean$"):
            kernels.batch_norm_statistics(np.ones((0, 3)))
        refused = r"^batch_norm_apply: x is float64 \(2, 3\), so each .* float64 \(3,\), not float64 \(2,\)$"
        with pytest.raises(ValueError, match=refused):
            kernels.batch_norm_apply(x, v, v, v, np.ones(2))


def test_a_refused_update_is_refused_again_and_writes_nothing() -> None:
    one = np.ones(4, np.float32)
    options = {"lr": 1.0, "momentum": 0.5, "weight_decay": 0.0}
    refused = r"^sgd: writes into a C-contiguous float32 \(4,\), not a "
    with kernels.use("cpu"):
        columns = np.ones((4, 2), np.float32)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{refused}non-contiguous"):
                kernels.sgd([columns[:, 0]], [one], None, **options)
        assert (columns == 1).all()
        p, buffers, fixed = [one.copy(), one.copy()], [one.copy(), one.copy()], frozen(one.copy())
        kernels.sgd(p, [one, one], buffers, **options)  # so that the addresses of both buffers are known
        before = copies([*p, *buffers])
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{refused}read-only"):
                kernels.sgd(p, [one, one], [buffers[0], fixed], **options)
        np.testing.assert_array_equal([*p, *buffers, fixed], [*before, one])
        other = one.copy()
        kernels.sgd(p, [one, one], [buffers[0], other], **options)
        np.testing.assert_array_equal([*buffers, other], [1.75 * one, 1.5 * one, 1.5 * one])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_refused_draws(backend: str) -> None:
    with kernels.use(backend):
        for key, counter in ((-1, 0), (2**64, 0), (0, -1), (0, 2**128)):
            refused = rf"^philox: key {key} must lie in \[0, 2\^64\) and counter {counter} in \[0, 2\^128\)$"
            with pytest.raises(ValueError, match=refused):
                kernels.philox(key, counter, 4)
        with pytest.raises(TypeError, match=r"^normal: draws float32 or float64, not float16; convert the result"):
            kernels.normal(0, 0, 4, np.float16)


# ---- activation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@dtypes
def test_activations_at_the_edges(backend: str, dtype: Any) -> None:
    x = np.array([-np.inf, 0, np.inf, np.nan], dtype)
    zero, one = np.zeros(1, dtype), np.ones(1, dtype)
    with kernels.use(backend):
        np.testing.assert_array_equal(kernels.leaky_relu(x, 0.0), [0, 0, np.inf, np.nan])
        np.testing.assert_array_equal(kernels.leaky_relu(x, 0.5), x)
        np.testing.assert_array_equal(kernels.elu(x, 0.5), [-0.5, 0, np.inf, np.nan])
        assert kernels.leaky_relu_backward(one, zero, 0.0) == 0
        assert kernels.leaky_relu_backward(one, zero, 0.25) == 0.25
        assert kernels.elu_backward(one, zero, 0.25) == 0.25
        assert kernels.leaky_relu_backward(one * np.inf, -one, 0.0) == 0


@dtypes
def test_sigmoid_and_softplus_neither_overflow_nor_lose_digits(dtype: Any) -> None:
    x = np.array([-1000, -20, 0, 20, 1000, np.nan], dtype)
    tiny = math.exp(-20)
    tolerance = 4 * float(np.finfo(dtype).eps)
    sigmoid, softplus = kernels.sigmoid(x), kernels.softplus(x)
    assert sigmoid.dtype == softplus.dtype == dtype
    np.testing.assert_allclose(sigmoid, [0, tiny / (1 + tiny), 0.5, 1 - tiny, 1, np.nan], rtol=tolerance)
    desired = [0, math.log1p(tiny), math.log(2), 20 + tiny, 1000, np.nan]
    np.testing.assert_allclose(softplus, desired, rtol=tolerance)


# ---- batch norm ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_statistics_far_from_zero(backend: str) -> None:
    x = (1000 + np.random.default_rng(0).standard_normal((40, 32, 32, 5))).astype(np.float32)
    x[0, 0, 0, 1] = -1e6  # an outlier where it hurts most: the compiled kernel shifts by the first row
    exact = x.astype(np.float64)
    with kernels.use(backend):
        mean, var = kernels.batch_norm_statistics(x)
        rstd = 1 / np.sqrt(var)
        y = kernels.batch_norm_apply(x, mean, rstd, np.ones_like(mean), np.zeros_like(mean))
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-6)
    assert np.abs(y.mean((0, 1, 2), dtype=np.float64)).max() < 1e-4  # half a last place of 1000 is 3e-5


def test_batch_norm_backward_is_the_derivative() -> None:
    rng, h = np.random.default_rng(0), 1e-6
    x, gy, direction = rng.standard_normal((3, 4, 3, 2))
    gamma, beta = rng.standard_normal((2, 2))

    def loss(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> float:
        mean, var = kernels.batch_norm_statistics(x)
        return float((gy * kernels.batch_norm_apply(x, mean, (var + 1e-5) ** -0.5, gamma, beta)).sum())

    mean, var = kernels.batch_norm_statistics(x)
    gx, ggamma, gbeta = kernels.batch_norm_backward(gy, x, mean, (var + 1e-5) ** -0.5, gamma, beta)
    up, down = (loss(x + s * direction, gamma + s * gamma, beta + s) for s in (h, -h))
    expected = (gx * direction).sum() + (ggamma * gamma).sum() + gbeta.sum()
    assert (up - down) / (2 * h) == pytest.approx(expected, rel=1e-7)


# ---- optimizer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "adam"])
def test_optimizers_equal_pytorch(name: str, weight_decay: float, backend: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    p = rng.standard_normal((3, 4))
    theirs = torch.nn.Parameter(torch.tensor(p))
    a, b = np.zeros_like(p), np.zeros_like(p)
    common = {"lr": 0.05, "weight_decay": weight_decay}
    rival = {
        "sgd": lambda: torch.optim.SGD([theirs], **common),
        "momentum": lambda: torch.optim.SGD([theirs], momentum=0.9, **common),
        "rmsprop": lambda: torch.optim.RMSprop([theirs], alpha=0.9, eps=1e-7, **common),
        "adam": lambda: torch.optim.Adam([theirs], betas=(0.5, 0.9), eps=1e-7, **common),
    }[name]()
    for step in range(1, 6):
        g = rng.standard_normal(p.shape)
        theirs.grad = torch.tensor(g)
        rival.step()
        with kernels.use(backend):
            if name in ("sgd", "momentum"):
                buffers = None if name == "sgd" else [a]
                kernels.sgd([p], [g], buffers, momentum=0.9, **common)
            elif name == "rmsprop":
                kernels.rmsprop([p], [g], [a], alpha=0.9, eps=1e-7, **common)
            else:
                kernels.adam([p], [g], [a], [b], beta1=0.5, beta2=0.9, eps=1e-7, step=[step], **common)
        np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


# ---- random ----------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize("backend", ["reference", "cpu"])


@both
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**128 - 1, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x03707344_13198A2E_85A308D3_243F6A88,
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter: int, key: int, words: tuple[int, ...], backend: str) -> None:
    with kernels.use(backend):
        assert tuple(kernels.philox(key, counter, 4)) == words


@both
@pytest.mark.parametrize("bits", [32, 64, 96, 128])
def test_the_counter_carries_over_word_boundaries(bits: int, backend: str) -> None:
    with kernels.use(backend):
        blocks = [kernels.philox(5, (2**bits + i) % 2**128, 4) for i in (-2, -1, 0, 1)]
        np.testing.assert_array_equal(kernels.philox(5, 2**bits - 2, 16), np.concatenate(blocks))
        halves = np.array([(2**bits - 2) % 2**64, (2**bits - 2) // 2**64], np.uint64)
        np.testing.assert_array_equal(kernels.philox(5, halves, 16), np.concatenate(blocks))


@both
@dtypes
def test_a_shorter_draw_is_the_start_of_a_longer_one(dtype: Any, backend: str) -> None:
    with kernels.use(backend):
        for n in (1, 2, 3, 5, 30):
            for make in (kernels.uniform, kernels.normal):
                np.testing.assert_array_equal(make(3, 9, n, dtype), make(3, 9, 31, dtype)[:n])


@both
def test_how_many_may_be_a_number_of_numpy(backend: str) -> None:
    with kernels.use(backend):
        for draw in (kernels.uniform, kernels.normal):
            expected = draw(1, 0, 3, np.float32)
            np.testing.assert_array_equal(draw(1, 0, np.int64(3), np.float32), expected)


@dtypes
def test_uniform_and_normal_are_what_they_are_called(dtype: Any) -> None:
    n = 100_000
    u, z = kernels.uniform(1, 0, n, dtype), kernels.normal(2, 0, n, dtype).astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean(dtype=np.float64) == pytest.approx(0.5, abs=4 / math.sqrt(12 * n))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (z**power).mean() == pytest.approx(moment, abs=4 * math.sqrt(variance / n))
    assert np.mean(z[::2] * z[1::2]) == pytest.approx(0, abs=4 / math.sqrt(n / 2))
    # Kolmogorov and Smirnov: sqrt(n) times the largest distance of the distributions is below 1.63 in 99 of 100.
    distribution = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.sort(z)])
    for cdf in (np.sort(u).astype(np.float64), distribution):
        assert math.sqrt(n) * np.abs(cdf - (np.arange(n) + 0.5) / n).max() < 1.63


def test_box_muller_never_meets_the_logarithm_of_zero() -> None:
    """The smallest 1 - u of float32 is 2^-24, so no normal number exceeds sqrt(48 log 2) = 5.77."""
    largest = kernels.normal(0, 0, 1_000_000, np.float32)
    assert np.isfinite(largest).all()
    assert np.abs(largest).max() < 5.78
