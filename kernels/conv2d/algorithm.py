"""Which algorithm computes a convolution: a rule, and a switch to overrule it.

    direct       every product of the definition. Rounding error at most 1e-6.
    winograd2    F(2x2, RxR): 9 products for 16 with a 4x4 window of stride 2. At most 5e-6.
    winograd4    F(4x4, RxR): 25 products for 64. At most 2e-5.
    auto         the one that the rule below expects to be fastest.

These are bounds of the largest absolute error divided by the largest absolute value, against float64, in the layers of
DCGANs with inputs drawn from N(0, 1) and weights from N(0, 0.02); benchmarks/rounding.py shows what is reached.

The rule counts multiply-adds, and counts what is no multiply-add as the number of them that takes as long. A Winograd
form saves products and pays for transforms, of each tile on the way in and out, and of the weights. So it wins
where channels are many, since products grow with C * O and transforms with C + O, and where tiles are many, since
the weights are transformed once for all of them. N is among them: one image by itself may be computed
otherwise, and so differ in its last digits, from the same image in a batch.

Winograd's sums of differences know no infinity: inf - inf is NaN. An infinite or NaN pixel makes NaN of all outputs of
its tile, and numbers beyond 1e36 or so may overflow on the way, in places where direct convolution stays finite.
"""

import functools
import importlib
from types import TracebackType

from ..dispatch import backend, numba_available
from .geometry import Geometry

ALGORITHMS = ("auto", "direct", "winograd2", "winograd4")
TILES = {"winograd2": 2, "winograd4": 4}
"""Winograd's algorithms, and m of their tiles of m x m outputs."""

# What else takes time, as measured on a CPU with vectors of 8 numbers; in multiply-adds a number of a vector, since
# longer vectors make these faster but not the memory, which is what transforms wait for.
GATHER = 0.15  # a product's share of copying patches together
TRANSFORM = 3  # a number of V or M
WEIGHTS = 4.5  # a number of M, in the weight gradient
KEPT = 6.5  # a number of U: 4.5 in each of two calls that share it, and 2 for its memory, which is taken all the while

_setting = "auto"


class set_conv_algorithm:  # noqa: N801  # a function to its users, as torch.set_grad_enabled
    """Which algorithm convolutions use from now on; as a context, until its end. Process-wide.

    name: "auto", "direct", "winograd2" or "winograd4"; ValueError for another. Where a convolution has a geometry that
    the algorithm does not fit, its call raises ValueError. The reference kernels (`kernels.use`) have no choice.
    """

    def __init__(self, name: str) -> None:
        global _setting
        if name not in ALGORITHMS:
            raise ValueError(f"set_conv_algorithm: there is no {name!r}; choose one of {', '.join(ALGORITHMS)}")
        self._before, _setting = _setting, name

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _setting
        _setting = self._before


def phase_window(g: Geometry) -> int | None:
    """R, where a window of S R x S R moves in steps of S, R = 2 or 3: then Winograd's forms apply. Else None."""
    (sh, sw), (kh, kw) = g.stride, g.window
    r, rest = divmod(kh, sh)
    return r if sh == sw and kh == kw and rest == 0 and r in (2, 3) else None


@functools.cache
def _vector() -> int:
    """Numbers (float32) in a vector of this CPU, 0 if vector code does not compile; 8 without Numba, which knows."""
    if not numba_available():
        return 8
    simd = importlib.import_module("..simd", __package__)
    return simd.VECTOR_BYTES // 4 if simd.compiles else 0


def cost(operation: str, algorithm: str, N: int, C: int, O: int, g: Geometry) -> float:
    """Time of one convolution of N images, in multiply-adds; conv2d and conv_transpose2d take the same."""
    (oh, ow), (kh, kw) = g.y_size, g.window
    if algorithm == "direct":
        return N * oh * ow * kh * kw * C * O * (1 + GATHER)
    m, r = TILES[algorithm], phase_window(g)
    if r is None:
        return float("inf")
    points, K = (m + r - 1) ** 2, g.stride[0] ** 2 * C
    tiles = N * -(-oh // m) * -(-ow // m)
    weights = WEIGHTS if operation == "conv2d_weight" else KEPT
    return points * (tiles * K * O + _vector() * (tiles * (K + O) * TRANSFORM + K * O * weights))


@functools.cache
def _cheapest(operation: str, N: int, C: int, O: int, g: Geometry) -> str:
    algorithms = ("direct", *TILES) if _vector() else ("direct",)
    return min(algorithms, key=lambda algorithm: cost(operation, algorithm, N, C, O, g))


def conv_algorithm(operation: str, N: int, C: int, O: int, g: Geometry) -> str:
    """The algorithm that computes this one: "direct", "winograd2" or "winograd4"."""
    if _setting == "auto":
        return _cheapest(operation, N, C, O, g)
    if _setting in TILES and phase_window(g) is None:
        raise ValueError(
            f"{operation}: {_setting} fits square windows of two or three strides, not a window {g.window} of stride "
            f"{g.stride}; use set_conv_algorithm('auto')"
        )
    return _setting


def explain_conv(N: int, C: int, O: int, g: Geometry) -> str:
    """The rule at work, as text: estimated times in million multiply-adds, and an arrow at the choice."""
    (h, w), (kh, kw) = g.x_size, g.window
    lines = [f"convolution of x {(N, h, w, C)} with w {(kh, kw, C, O)}, stride {g.stride}, padding {g.padding}"]
    lines.append(f"{'':13}{'conv2d, conv_transpose2d':>24}{'conv2d_weight':>16}")
    fits = phase_window(g) is not None
    for algorithm in ("direct", *TILES):
        cells = [f"  {algorithm:11}"]
        for operation, width in ("conv2d", 21), ("conv2d_weight", 13):
            possible = fits or algorithm == "direct"
            estimate = f"{cost(operation, algorithm, N, C, O, g) / 1e6:,.1f}" if possible else "does not fit"
            chosen = _cheapest(operation, N, C, O, g) if _setting == "auto" else _setting
            cells.append(f"{estimate:>{width}}{' <-' if algorithm == chosen else '':3}")
        lines.append("".join(cells).rstrip())
    if _setting != "auto":
        lines.append(f"  set_conv_algorithm({_setting!r}) is in force")
    if backend() == "reference" or not numba_available():
        lines.append("  but the reference kernels are running, which have one algorithm")
    return "\n".join(lines)
