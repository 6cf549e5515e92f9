"""How to add an op with its kernels, end to end, on swish: python examples/add_an_op.py

    swish(x) = x s(x),    swish'(x) = s(x) (1 + x (1 - s(x))),    s(x) = 1 / (1 + e^-x)

(Ramachandran et al. 2017; PyTorch's SiLU). Everything that a new op consists of stands here in one file, in the
order in which to write it, each piece under the name of the file where it would live. The checks at the end are part
of those that the tests make from the op's row in their table.
"""

import argparse
import math
import sys
from typing import Any

import numpy as np

import minigan as mg
from minigan.kernels.activation.reference import sigmoid as sigmoid_kernel

try:  # a cpu.py is imported only where Numba is installed; only kernels/ may import Numba, through kernels/jit.py
    from minigan.kernels.loops import check, flat, loop, part, result
except ImportError:
    NUMBA = False
else:
    NUMBA = True

Array = np.typing.NDArray[Any]

# ---- 1. kernels/swish/reference.py: the specification. NumPy, arrays in, arrays out, obviously right ---------------


def swish_reference(x: Array, out: Array | None = None) -> Array:
    """x s(x)."""
    return np.asarray(np.multiply(x, sigmoid_kernel(x), out=out))


def swish_backward_reference(gy: Array, x: Array, out: Array | None = None) -> Array:
    """gy s (1 + x (1 - s)) with s = s(x)."""
    s = sigmoid_kernel(x)
    return np.asarray(np.multiply(gy, s * (1 + x * (1 - s)), out=out))


# ---- 2. kernels/swish/cpu.py: the same in one pass over memory, with nothing stored in between ---------------------

if NUMBA:

    def swish_cpu(x: Array, out: Array | None = None) -> Array:
        """x s(x)."""
        check("swish", x)
        y = result("swish", out, x.shape, x.dtype)
        _swish(x.size, flat(x), y.reshape(-1))
        return y

    def swish_backward_cpu(gy: Array, x: Array, out: Array | None = None) -> Array:
        """gy s (1 + x (1 - s)) with s = s(x)."""
        check("swish_backward", gy, x)
        gx = result("swish_backward", out, gy.shape, gy.dtype)
        _swish_backward(x.size, flat(gy), flat(x), gx.reshape(-1))
        return gx

    @loop
    def _swish(x: Array, y: Array, thread: int, threads: int) -> None:
        one = x.dtype.type(1)  # a plain 1 would make float64 of float32
        start, end = part(x.size, thread, threads)
        for i in range(start, end):
            y[i] = x[i] / (one + math.exp(-x[i]))

    @loop
    def _swish_backward(gy: Array, x: Array, gx: Array, thread: int, threads: int) -> None:
        one = x.dtype.type(1)
        start, end = part(x.size, thread, threads)
        for i in range(start, end):
            s = one / (one + math.exp(-x[i]))
            gx[i] = gy[i] * s * (one + x[i] * (one - s))


# ---- 3. kernels/__init__.py: one row for each kernel. The table then chooses, as these two lines do here -----------
#
#     swish = Kernel("swish", "swish", "cpu")
#     swish_backward = Kernel("swish_backward", "swish", "cpu")
#
# and, for a new folder, an __init__.py with its docstring, and its name among the packages of setup.cfg.

swish_kernel = swish_cpu if NUMBA else swish_reference
swish_backward_kernel = swish_backward_cpu if NUMBA else swish_backward_reference

# ---- 4. minigan/ops/activation.py, listed in minigan/ops/__init__.py: what autograd has to know --------------------


class Swish(mg.Function):
    saves_inputs = True  # backward reads self.inputs, and the engine watches that nobody writes to them in between

    def forward(self, x: Array) -> Array:
        return np.asarray(swish_kernel(x))  # in minigan/ops: kernels.swish(x)

    def backward(self, g: mg.Tensor) -> mg.Tensor | tuple[mg.Tensor | None, ...]:
        if mg.is_recording():  # somebody will differentiate the gradient: it must be a graph, not a kernel's result
            return mg.rederive(swish_definition, self.inputs, g, self.needs)
        (x,) = self.inputs
        return mg.Tensor.of(swish_backward_kernel(g.array, x.array))


def swish_definition(x: mg.Tensor) -> mg.Tensor:
    """swish in ops that can be differentiated to any order."""
    return x * mg.sigmoid(x)


def swish(x: Any) -> mg.Tensor:
    """x * sigmoid(x) (Ramachandran et al. 2017)."""
    return Swish()(x)


# ---- 5. tests/op_table.py and tests/test_kernels.py: one row each, which makes all the checks ----------------------
#
#     Row("swish", mg.swish, lambda x: x / (1 + np.exp(-x)), one()),
#     "swish": elementwise(1), "swish_backward": elementwise(2),

# ---- Three mistakes, which the checks must find ----------------------------------------------------------------------


class WrongSign(Swish):
    """The derivative with 1 - x (1 - s) in place of 1 + x (1 - s)."""

    def backward(self, g: mg.Tensor) -> mg.Tensor:
        (x,) = self.inputs
        s = mg.sigmoid(x)
        return g * s * (1 - x * (1 - s))


class WrongDefinition(Swish):
    """The right kernel, beside the definition of another function."""

    def backward(self, g: mg.Tensor) -> mg.Tensor | tuple[mg.Tensor | None, ...]:
        if mg.is_recording():
            return mg.rederive(lambda x: x * mg.sigmoid(1.1 * x), self.inputs, g, self.needs)
        return super().backward(g)


class Forgotten(Swish):
    """No branch for a gradient that is being recorded: the kernel's result has no graph."""

    def backward(self, g: mg.Tensor) -> mg.Tensor:
        (x,) = self.inputs
        return mg.Tensor.of(swish_backward_kernel(g.array, x.array))


# ---- The checks ----------------------------------------------------------------------------------------------------


def largest_difference(dtype: Any) -> float:
    """Between the kernels of this machine and the specification, over both kernels; values are of order 1."""
    rng = np.random.default_rng(0)
    gy, x = (rng.standard_normal((5, 7)).astype(dtype) for _ in range(2))
    forward = np.abs(swish_kernel(x) - swish_reference(x)).max()
    backward = np.abs(swish_backward_kernel(gy, x) - swish_backward_reference(gy, x)).max()
    return float(max(forward, backward))


def complaint(check_of: Any, op: Any, x: Array) -> str:
    """What a check says of an op, or "passed"."""
    try:
        check_of(op, [x])
    except AssertionError as error:
        return str(error)
    return "passed"


def main() -> int:
    argparse.ArgumentParser(description="Add an op to minigan, and check it.").parse_args()
    print("The kernel is " + ("compiled by Numba." if NUMBA else "the reference: Numba is not installed."))
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
        print(f"kernel = reference in {dtype.__name__}: {largest_difference(dtype) <= tolerance}")

    x = np.random.default_rng(1).standard_normal((2, 3))
    checks = (mg.gradcheck, mg.gradgradcheck, mg.check_recorded)
    for op in (swish, lambda x: WrongSign()(x), lambda x: WrongDefinition()(x), lambda x: Forgotten()(x)):
        print(f"\n{op(mg.Tensor(x, requires_grad=True)).node}:")
        for check_of in checks:
            print(f"  {check_of.__name__:14} {complaint(check_of, op, x)}")
    print("\nEach check finds what another one lets pass: run all three.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
