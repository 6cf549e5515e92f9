"""The engine in six steps, each printed with its proof: python examples/autograd_tour.py

1 a derivative, 2 a derivative of a derivative, 3 what the graph looks like, 4 the three convolutions, 5 the gradient
penalty of WGAN-GP, 6 what the commonest mistakes say. --svg FILE draws the graph of step 3.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import minigan as mg
from minigan import graph, nn


def derivatives(svg: Path | None) -> None:
    """Steps 1 to 3 on f(x) = x tanh(x)."""
    x = mg.Tensor(np.array(0.5), requires_grad=True)  # a NumPy array keeps its dtype, here float64
    f = x * mg.tanh(x)
    first = mg.grad(f, x, create_graph=True)  # records how it was computed ...
    second = mg.grad(first, x, retain_graph=True)  # ... so that it can be differentiated itself
    t = math.tanh(0.5)

    heading("1. A derivative: f(x) = x tanh(x) at x = 0.5")
    compare("f'(x) = tanh x + x (1 - tanh^2 x)", t + 0.5 * (1 - t**2), first.item())

    heading("2. The derivative of that derivative: grad(f, x, create_graph=True), then grad again")
    compare("f''(x) = 2 (1 - tanh^2 x) (1 - x tanh x)", 2 * (1 - t**2) * (1 - 0.5 * t), second.item())

    heading("3. The graph of f'(x): minigan.graph.text(first, {...})")
    names = {"x": x, "f'": first}
    print(graph.text(first, names))
    if svg is not None:
        svg.write_text(graph.svg(first, names), encoding="utf-8")
        print(f"drawn in {svg}")


def convolutions() -> None:
    """Step 4: T(x, w, y) = <conv2d(x, w), y> is linear in x, w and y, so each gradient is another convolution."""
    heading("4. The convolution trio: T(x, w, y) = <conv2d(x, w), y>, stride 2, padding 1")
    rng = np.random.default_rng(0)
    x = mg.Tensor(rng.standard_normal((2, 6, 6, 3)), requires_grad=True)  # N H W C
    w = mg.Tensor(rng.standard_normal((4, 4, 3, 5)), requires_grad=True)  # KH KW C O
    y = mg.Tensor(rng.standard_normal((2, 3, 3, 5)))  # N OH OW O
    T = (mg.conv2d(x, w, stride=2, padding=1) * y).sum()
    gx, gw = mg.grad(T, [x, w])

    transposed = mg.conv_transpose2d(y, w, stride=2, padding=1)
    weight = mg.conv2d_weight(x, y, window=4, stride=2, padding=1)
    print(f"<conv2d(x, w), y>           = {T.item():.10f}")
    print(f"<x, conv_transpose2d(y, w)> = {(x * transposed).sum().item():.10f}")
    print(f"<w, conv2d_weight(x, y)>    = {(w * weight).sum().item():.10f}")
    print(f"dT/dx is conv_transpose2d(y, w): {np.allclose(gx, transposed, rtol=1e-12)}")
    print(f"dT/dw is conv2d_weight(x, y):    {np.allclose(gw, weight, rtol=1e-12)}")


def gradient_penalty(critic: nn.Module, real: mg.Tensor, fake: mg.Tensor, mix: mg.Tensor) -> mg.Tensor:
    """10 E (|df/dx| - 1)^2 on straight lines from real to fake (Gulrajani et al. 2017). real, fake (N, H, W, C)."""
    x = mg.Tensor(mix * real + (1 - mix) * fake, requires_grad=True)
    gx = mg.grad(critic(x).sum(), x, create_graph=True)  # of the sum: row n is the gradient of image n's score
    norms = mg.sqrt((gx * gx).sum(axis=(1, 2, 3)) + 1e-12)  # the square root of 0 has no derivative
    return 10 * ((norms - 1) ** 2).mean()


def wgan_gp() -> None:
    """Step 5: a derivative of a derivative at work, proven by finite differences."""
    heading("5. WGAN-GP: a penalty on the critic's gradient, and the gradient of that penalty")
    mg.manual_seed(0)  # the weights
    rng = np.random.default_rng(0)
    critic = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 4 * 4, 1))
    real, fake = (mg.Tensor(rng.standard_normal((16, 8, 8, 1)), dtype=np.float32) for _ in range(2))
    mix = mg.Tensor(rng.random((16, 1, 1, 1)), dtype=np.float32)
    w = next(critic.parameters())
    penalty = gradient_penalty(critic, real, fake, mix)
    gw = mg.grad(penalty, w)
    norm = float(np.linalg.norm(gw))
    print(f"penalty                                 = {penalty.item():.4f}")
    print(f"norm of d penalty / d first weight      = {norm:.4f}")

    values, direction, step = w.numpy().copy(), gw.numpy() / norm, 0.01
    ends = []
    for end in (values + step * direction, values - step * direction):
        with w.writing() as array:  # the only way to write: the graph learns of it
            array[...] = end
        ends.append(gradient_penalty(critic, real, fake, mix).item())
    print(f"the same by two values along it         = {(ends[0] - ends[1]) / (2 * step):.4f}")


def mistakes() -> None:
    """Step 6."""
    heading("6. The commonest mistakes, as sentences")
    real, w = mg.ones((4, 2)), mg.Tensor([[0.5], [0.5]], requires_grad=True)
    optimizer = mg.optim.SGD([w], lr=0.1)

    def step_between_forward_and_backward() -> None:
        score = ((real @ w) ** 2).mean()
        penalty = (w * w).sum()
        score.backward()
        optimizer.step()  # moves w, which the graph of the penalty still needs
        penalty.backward()

    def backward_twice() -> None:
        score = ((real @ w) ** 2).mean()
        score.backward()
        score.backward()

    for mistake in (step_between_forward_and_backward, backward_twice):
        print(f"{mistake.__name__.replace('_', ' ')}:")
        print(f"  {error_of(mistake)}")


def error_of(run: Callable[[], None]) -> str:
    try:
        run()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("the mistake went unnoticed")


def heading(text: str) -> None:
    print(f"\n{text}")


def compare(formula: str, by_hand: float, by_engine: float) -> None:
    print(f"{formula}\n  by hand   {by_hand:.12f}\n  by engine {by_engine:.12f}")
    print(f"  equal     {math.isclose(by_hand, by_engine, rel_tol=1e-14)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="A tour of minigan's automatic differentiation.")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the graph of step 3 into FILE")
    args = parser.parse_args()
    derivatives(args.svg)
    convolutions()
    wgan_gp()
    mistakes()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
