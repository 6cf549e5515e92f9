"""Small GANs on Gaussians in the plane: every objective and penalty on the same nets, where all can be counted.

    G, D = play("lsgan", GRID25, seed=0)
    row = evaluate(GRID25, compute(G, z), x)

D treats points one by one, so `field` can say in which direction G's loss pushes a sample, wherever it is.
"""

from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from itertools import count, pairwise
from typing import NamedTuple

from ..autograd import grad, no_grad
from ..data.mixtures import GRID25, RING8, Mixture
from ..metrics.mixtures import mixture_score
from ..metrics.wasserstein import dual_bound, exact_w1
from ..nn import Linear, Module, ReLU, Sequential, SpectralNorm, init, wrap_layers
from ..ops import concatenate
from ..optim import Adam, Optimizer, RMSprop
from ..random import Generator
from ..tensor import Array, Tensor
from .fgan import DIVERGENCES, f_gan
from .objectives import (
    HINGE,
    LEAST_SQUARES,
    MINIMAX,
    NON_SATURATING,
    RELATIVISTIC,
    WASSERSTEIN,
    Objective,
    smoothed,
)
from .penalties import Penalty, dragan, gradient_penalty, r1
from .train import Game, Logs, critic_updates, train, two_player

BATCH, LATENT, WIDTH = 256, 2, 128

MIXTURES = {mixture.name: mixture for mixture in (RING8, GRID25)}

SCORED, PAIRED = 2_500, 1_000
"""Fakes that the modes are counted in; of these the first for the Wasserstein distance."""

Look = Callable[[int, Logs, Module, Module], None]


def adam(lr: float = 1e-3, beta2: float = 0.999) -> Callable[[Module], Optimizer]:
    """With beta1 = 0.5, as most GANs have it."""
    return lambda net: Adam(net.parameters(), lr, (0.5, beta2))


class Toy(NamedTuple):
    """One system. Both players have the same optimizer, whose step size falls to 0 in equal steps."""

    objective: Objective
    optimizer: Callable[[Module], Optimizer]
    steps: int  # updates of G
    d_updates: int = 1
    clip: float | None = None
    penalty: Callable[[Generator], Penalty] | None = None  # made of the generator that it draws from
    spectral: bool = False  # spectral norm in every layer of D


TOYS = {
    "minimax": Toy(MINIMAX, adam(), 6000),
    "gan": Toy(NON_SATURATING, adam(), 6000),
    "lsgan": Toy(LEAST_SQUARES, adam(), 1500),
    "hinge": Toy(HINGE, adam(5e-4), 800, spectral=True),
    "ragan": Toy(RELATIVISTIC, adam(), 1200),
    **{f"fgan-{name}": Toy(f_gan(name), adam(), 1500) for name in DIVERGENCES},
    "wgan-clip": Toy(WASSERSTEIN, lambda net: RMSprop(net.parameters(), 5e-4), 2000, 5, clip=0.1),
    "wgan-gp": Toy(
        WASSERSTEIN, adam(3e-3, 0.9), 3000, 3, penalty=lambda g: partial(gradient_penalty, generator=g, weight=0.1)
    ),
    "wgan-gp-one-sided": Toy(
        WASSERSTEIN, adam(3e-3, 0.9), 500, 3,
        penalty=lambda g: partial(gradient_penalty, generator=g, weight=0.1, one_sided=True),
    ),
    "dragan": Toy(NON_SATURATING, adam(), 1000, penalty=lambda g: partial(dragan, generator=g, weight=0.1)),
    "gan-r1": Toy(NON_SATURATING, adam(), 1000, penalty=lambda g: partial(r1, weight=0.1)),
    "gan-smoothed": Toy(smoothed(NON_SATURATING), adam(), 1500),
}  # fmt: skip


def mlp(outputs: int, generator: Generator) -> Sequential:
    """(N, 2) -> (N, outputs), by three hidden layers of ReLU."""
    sizes = (2, WIDTH, WIDTH, WIDTH, outputs)
    layers: list[Module] = []
    for c_in, c_out in pairwise(sizes):
        layer = Linear(c_in, c_out)
        weight, bias = layer.parameters()
        init.kaiming_uniform_(weight, generator=generator)
        init.constant_(bias, 0)
        layers += [layer, ReLU()]
    return Sequential(*layers[:-1])


def play(
    name: str, mixture: Mixture, seed: int, steps: int | None = None, look: Look | None = None, capture: bool = True
) -> tuple[Module, Module]:
    """Trains the toy `name` on a mixture: G and D. All toys start from the same weights, for the same seed.

    steps: updates of G; without a number the toy's own. look(step, logs, G, D) is called after each. capture: see
    `train`.
    ValueError for an unknown name or no steps; NotFiniteError if a loss becomes NaN or infinite.
    """
    if name not in TOYS:
        near = get_close_matches(name, TOYS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TOYS)}"
        raise ValueError(f"play: there is no toy {name!r}; {hint}")
    toy = TOYS[name]
    steps = toy.steps if steps is None else steps
    if steps < 1:
        raise ValueError(f"play: steps must be at least 1, not {steps}")
    start, data, latent, mix = (Generator(seed, stream) for stream in ("init", "data", "latent", "mix"))
    G, D = mlp(2, start), mlp(1, start)
    if toy.spectral:
        wrap_layers(D, partial(SpectralNorm, generator=Generator(seed, "power iteration")))
    optimizers = toy.optimizer(G), toy.optimizer(D)
    rates = [optimizer.lr for optimizer in optimizers]
    players = two_player(
        G, D, toy.objective, *optimizers, clip=toy.clip, d_updates=critic_updates(toy.d_updates),
        penalty=None if toy.penalty is None else toy.penalty(mix),
    )  # fmt: skip

    def after(step: int, logs: Logs) -> None:
        for optimizer, lr in zip(optimizers, rates, strict=True):
            optimizer.lr = lr * (1 - step / steps)
        if look is not None:
            look(step, logs, G, D)

    real = (mixture.sample(BATCH, data) for _ in count())
    train(Game(real, latent, LATENT, BATCH), players, steps, [after], capture=capture)
    return G, D


def compute(net: Module, x: Array) -> Array:
    """net(x) as an array, without a graph, in eval mode: looking at a net must not change it."""
    training = net.training
    try:
        with no_grad():
            return net.eval()(Tensor(x)).array
    finally:
        net.train(training)


def evaluate(mixture: Mixture, fakes: Array, x: Array, critic: Module | None = None) -> dict[str, float]:
    """The `mixture_score` of fakes (N, 2), and `w1`, how far the first of them are from real points x (M, 2), M <= N.

    Without scipy there is no w1. Of a critic also what it makes of the same points: `critic`, the difference of its
    mean scores, and `bound`, what that proves about w1.
    """
    row, near = mixture_score(fakes, mixture), fakes[: len(x)]
    with suppress(ImportError):
        row["w1"] = exact_w1(x, near)
    if critic is not None:
        real, fake = compute(critic, x)[:, 0], compute(critic, near)[:, 0]
        row |= {"critic": float(real.mean() - fake.mean()), "bound": dual_bound(x, near, real, fake)}
    return row


def field(objective: Objective, D: Module, x: Array, real: Array, fakes: Array) -> Array:
    """In which direction, and how strongly, G's loss pushes a sample at each of the points x (N, 2): (N, 2).

    Minus the gradient of a batch's loss by one of its samples, times the size of the batch, since the loss is a mean.
    A relativistic objective also asks for D's outputs for real points (M, 2) and for their mean for G's fakes (K, 2),
    one of which the sample is. So the push at a point does not depend on the other points.
    """
    leaf, training = Tensor(x, requires_grad=True), D.training
    try:
        outputs = D.eval()(leaf)
        if not objective.needs_real:
            return -len(x) * grad(objective.g(outputs), leaf).array
        mirrored = Tensor(2 * compute(D, fakes).mean() - outputs.array)  # the mean of both is that for the fakes
        loss = objective.g(concatenate([outputs, mirrored]), Tensor(compute(D, real)))
        return -2 * len(x) * grad(loss, leaf).array
    finally:
        D.train(training)
