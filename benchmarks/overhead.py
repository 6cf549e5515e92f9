"""What an op costs besides its arithmetic, in microseconds: python benchmarks/overhead.py

Arrays of 64 numbers, on which arithmetic takes next to nothing: NumPy's call, the kernel's, the op's without a graph
and with one, and its node's share of a backward pass; the same op in PyTorch on one thread, where that is installed.
Each figure is the best of several runs: other work of the machine only ever adds.
"""

# First: see there.
import rival  # isort: split

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import minigan as mg
from minigan import kernels

SIZE, DEPTH, RUNS = 64, 200, 15
Op = Callable[[Any], Any]


def best(call: Callable[[], Any], repeats: int) -> float:
    """Microseconds of one call."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / repeats * 1e6


def chain(op: Op, x: Any) -> Any:
    for _ in range(DEPTH):
        x = op(x)
    return x


def ours(op: Op, values: np.ndarray) -> list[float]:
    """Without a graph, with one, and backward."""
    constant, x = mg.Tensor(values), mg.Tensor(values, requires_grad=True)
    y = chain(op, x).sum()
    backward = best(lambda: mg.grad(y, x, retain_graph=True), 10) / DEPTH
    return [best(lambda: op(constant), 2000), best(lambda: op(x), 2000), backward]


def theirs(op: Op, values: np.ndarray) -> list[float]:
    torch = rival.torch
    torch.set_num_threads(1)
    constant, x = torch.tensor(values), torch.tensor(values, requires_grad=True)
    y = chain(op, x).sum()
    backward = best(lambda: torch.autograd.grad(y, x, retain_graph=True), 10) / DEPTH
    return [best(lambda: op(constant), 2000), best(lambda: op(x), 2000), backward]


def main() -> None:
    values = np.linspace(0.5, 0.9, SIZE, dtype=np.float32)  # so that no chain of products overflows
    ours_c, theirs_c = mg.Tensor(values), rival.torch and rival.torch.tensor(values)
    rows: dict[str, tuple[Callable[[], Any], Callable[[], Any], Op, Op]] = {
        "x * c": (
            lambda: np.multiply(values, values),
            lambda: kernels.multiply(values, values),
            lambda x: x * ours_c,
            lambda x: x * theirs_c,
        ),
        "x * 2.0": (
            lambda: np.multiply(values, np.float32(2)),
            lambda: kernels.multiply(values, np.float32(2)),
            lambda x: x * 2.0,
            lambda x: x * 2.0,
        ),
        "tanh(x)": (
            lambda: np.tanh(values),
            lambda: kernels.tanh(values),
            mg.tanh,
            lambda x: x.tanh(),
        ),
        "leaky_relu(x, 0.2)": (
            lambda: np.where(values > 0, values, np.float32(0.2) * values),
            lambda: kernels.leaky_relu(values, 0.2),
            lambda x: mg.leaky_relu(x, 0.2),
            lambda x: rival.torch.nn.functional.leaky_relu(x, 0.2),
        ),
    }
    columns = ["NumPy", "kernel", "op", "op, recorded", "backward"]
    columns += ["PyTorch: op", "recorded", "backward"] if rival.torch else []
    print(f"{'microseconds a call':20}", *(f"{column:>12}" for column in columns))
    for name, (numpy_call, kernel_call, op, rival_op) in rows.items():
        figures = [best(numpy_call, 2000), best(kernel_call, 2000), *ours(op, values)]
        figures += theirs(rival_op, values) if rival.torch else []
        print(f"{name:20}", *(f"{figure:12.2f}" for figure in figures))


if __name__ == "__main__":
    main()
