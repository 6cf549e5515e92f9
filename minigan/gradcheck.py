"""Are the derivatives right? Three checks of a function against finite differences, in float64.

gradcheck: the gradient against central differences of the function.
gradgradcheck: the derivative of the recorded gradient against central differences of that gradient.
check_recorded: the gradient is the same whether it is being recorded or not. Without it, gradgradcheck would pass on a
    wrong recorded gradient, since it compares the second derivative with the first one *as recorded*.

All use a random upstream gradient: with `sum()` the gradient of batch norm, say, is 0 and every error is invisible.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .autograd import grad
from .tensor import Array, Tensor

Op = Callable[..., Tensor]

STEPS = (1e-4, 1e-5, 1e-6)
RESAMPLES = 5


class GradcheckError(AssertionError):
    """A derivative that disagrees with finite differences."""


def gradcheck(f: Op, inputs: Sequence[Any], tolerance: float = 1e-6, seed: int = 0, device: str = "cpu") -> None:
    """Raises GradcheckError unless the gradient of f agrees with central differences.

    f takes as many tensors as there are inputs and returns one. The inputs (tensors or arrays) are converted to
    float64. The error of an input's gradient is its largest absolute one, relative to the largest element (at least
    1e-2). If an element disagrees, f may have a kink right there: the inputs are moved a little and tried again, up to
    five times; a wrong derivative stays wrong. With `device`, f and its derivatives run there.
    """
    _check(_on(device, f), _as_arrays(inputs), tolerance, seed, "gradcheck")


def gradgradcheck(f: Op, inputs: Sequence[Any], tolerance: float = 1e-5, seed: int = 0, device: str = "cpu") -> None:
    """The same for the second derivative: `gradcheck` of f's recorded gradient, upstream gradient included."""
    f, arrays = _on(device, f), _as_arrays(inputs)
    upstream = np.asarray(np.random.default_rng(seed).standard_normal(f(*_leaves(arrays)).shape))

    def gradients(*tensors: Tensor) -> Tensor:
        *xs, gradient = tensors
        found = grad(f(*xs), xs, gradient, create_graph=True, allow_unused=True)
        weights = np.random.default_rng(seed + 1)
        total = Tensor(np.zeros(()))
        for g in found:
            total = total + (g * weights.standard_normal(g.shape)).sum()
        return total

    _check(gradients, [*arrays, upstream], tolerance, seed + 2, "gradgradcheck")


def check_recorded(f: Op, inputs: Sequence[Any], tolerance: float = 1e-10, seed: int = 0, device: str = "cpu") -> None:
    """Raises GradcheckError unless grad(create_graph=True) equals grad(create_graph=False)."""
    f, xs = _on(device, f), _leaves(_as_arrays(inputs))
    upstream = np.random.default_rng(seed).standard_normal(f(*xs).shape)
    plain = grad(f(*xs), xs, upstream, allow_unused=True)
    recorded = grad(f(*xs), xs, upstream, create_graph=True, allow_unused=True)
    for i, (a, b) in enumerate(zip(plain, recorded, strict=True)):
        _compare(f"check_recorded: input {i}", b.array, a.array, "recorded", "not recorded", tolerance)


def _as_arrays(inputs: Sequence[Any]) -> list[Array]:
    return [np.array(x.array if isinstance(x, Tensor) else x, np.float64) for x in inputs]


def _leaves(arrays: Sequence[Array]) -> list[Tensor]:
    return [Tensor(array, requires_grad=True) for array in arrays]


def _check(f: Op, arrays: list[Array], tolerance: float, seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    for attempt in range(RESAMPLES):
        try:
            _check_once(f, arrays, tolerance, rng, name)
            return
        except GradcheckError:
            if attempt == RESAMPLES - 1:
                raise
            arrays = [np.asarray(a + 0.01 * rng.standard_normal(a.shape)) for a in arrays]


def _on(device: str, f: Op) -> Op:
    """f with its inputs copied to the device and its result copied back: gradients take the same way."""
    return f if device == "cpu" else lambda *xs: f(*[x.to(device) for x in xs]).to("cpu")


def _check_once(f: Op, arrays: list[Array], tolerance: float, rng: np.random.Generator, name: str) -> None:
    xs = _leaves(arrays)
    y = f(*xs)
    upstream = rng.standard_normal(y.shape)
    if y.node is None:
        raise GradcheckError(f"{name}: the result does not require a gradient: f lost its graph")
    analytic = grad(y, xs, upstream, allow_unused=True)

    def value() -> Array:
        return f(*_leaves(arrays)).array

    for i, (x, g) in enumerate(zip(arrays, analytic, strict=True)):
        best: Array | None = None
        for step in STEPS:  # truncation error shrinks with the step, rounding error grows: take the better one
            numeric = _central_differences(value, x, upstream, step)
            if best is None or _error(g.array, numeric) < _error(g.array, best):
                best = numeric
            if _error(g.array, best) <= tolerance:
                break
        assert best is not None
        _compare(f"{name}: input {i}", g.array, best, "analytic", "numeric", tolerance)


def _central_differences(value: Callable[[], Array], x: Array, upstream: Array, step: float) -> Array:
    """d<upstream, value()> / dx, one element of x after the other."""
    result = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = value()
        x[index] = kept - step
        below = value()
        x[index] = kept
        result[index] = np.sum((above - below) * upstream) / (2 * step)
    return result


def _error(a: Array, b: Array) -> float:
    if not a.size:
        return 0.0
    difference = float(np.max(np.abs(a - b)))
    return np.inf if np.isnan(difference) else difference / max(float(np.max(np.abs(b))), 1e-2)


def _compare(what: str, a: Array, b: Array, name_a: str, name_b: str, tolerance: float) -> None:
    """Raises with the worst element if a and b differ by more than `tolerance`."""
    error = _error(a, b)
    if error <= tolerance:
        return
    gap = np.abs(a - b)
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(gap), np.inf, gap))), a.shape)
    raise GradcheckError(
        f"{what} of shape {a.shape}: relative error {error:.2e} is above {tolerance:.0e}; the worst element is "
        f"{tuple(map(int, worst))}: {name_a} {a[worst]:.8g}, {name_b} {b[worst]:.8g}"
    )
