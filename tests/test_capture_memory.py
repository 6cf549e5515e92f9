"""A replayed step makes no new arrays, no graph and no tensors; and kernels that are given `out=` allocate nothing."""

import itertools
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kernel_cases import CASES, IN_PLACE, results

import minigan as mg
from minigan import nn, optim
from minigan.autograd import Function, grad, no_grad
from minigan.data import DataSet
from minigan.gan.recipes import RECIPES
from minigan.gan.run import Training
from minigan.gan.train import Turns
from minigan.kernels import KERNELS
from minigan.random import Generator
from minigan.tensor import Tensor

BOUND = 8192  # bytes: views, tuples, lists and numbers, of Python's; an array of 64 x 32 numbers is larger

BY_ARRAYS = {
    "take": "an index of arrays is looked up by NumPy's general code",
    "scatter_add": "an index of arrays is looked up by NumPy's general code",
}
"""Kernels that allocate, and why."""


@pytest.fixture(autouse=True)
def _small_buffers() -> Iterator[None]:
    """NumPy's iterators buffer some thousand numbers of a broadcast operand; here they may hold few."""
    before = np.setbufsize(64)
    yield
    np.setbufsize(before)


def new_bytes(run: Callable[[], Any]) -> int:
    """How much memory a call needs beyond what there was, once it ran before."""
    run()
    tracemalloc.start()
    try:
        run()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [name for name in CASES if name not in BY_ARRAYS])
def test_a_kernel_with_out_allocates_nothing(name: str) -> None:
    function = KERNELS[name].implementation("cpu")
    for call in CASES[name](np.random.default_rng(0), np.float32):
        given = [np.asarray(array) for array in results(name, function, call)]
        out = {} if name in IN_PLACE else {"out": tuple(given) if len(given) > 1 else given[0]}
        assert new_bytes(lambda call=call, out=out: results(name, function, call, **out)) < BOUND


def toy_critic() -> tuple[Callable[..., Any], list[Tensor]]:
    """A step of the critic of WGAN-GP on points of the plane; the batch."""
    mg.manual_seed(0)
    G, D = (
        nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, out)) for out in (2, 1)
    )
    adam = optim.Adam(D.parameters(), 1e-4, (0.0, 0.9))
    latent, mixing = Generator(0, "latent"), Generator(0, "penalty")

    def step(x: Tensor) -> Tensor:
        with no_grad():
            fake = G(Tensor.of(latent.normal((128, 2))))
            share = Tensor.of(mixing.uniform((128, 1)))
            between = share * x + (1 - share) * fake
        leaf = Tensor(between.array, requires_grad=True)
        g = grad(D(leaf).sum(), leaf, create_graph=True)
        penalty = 10 * (((g * g).sum(axis=1) + 1e-12) ** 0.5 - 1) ** 2
        loss = D(fake).mean() - D(x).mean() + penalty.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        adam.zero_grad()
        return loss

    return step, [Tensor(np.random.default_rng(0).standard_normal((128, 2)).astype(np.float32))]


def images() -> tuple[Callable[..., Any], list[Tensor]]:
    """A step of the discriminator of a DCGAN, 28 x 28 pixels; the batch."""
    mg.manual_seed(0)
    D = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 7),
        nn.Flatten(),
    )
    G = nn.Sequential(
        nn.ConvTranspose2d(16, 32, 7, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )
    adams = [optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (D, G)]
    latent = Generator(0, "latent")

    def step(x: Tensor) -> Tensor:
        fake = G(Tensor.of(latent.normal((8, 1, 1, 16))))
        loss = mg.ops.softplus(-D(x)).mean() + mg.ops.softplus(D(fake)).mean()
        for adam in adams:
            adam.zero_grad()
        loss.backward()
        for adam in adams:
            adam.step()
            adam.zero_grad()
        return loss

    return step, [Tensor(np.random.default_rng(0).standard_normal((8, 28, 28, 1)).astype(np.float32))]


def winograd() -> tuple[Callable[..., Any], list[Tensor]]:
    """A step of one layer that is convolved by Winograd's algorithm, for which its weight is transformed; the batch."""
    mg.manual_seed(0)
    layer, x = nn.Conv2d(64, 64, 4, stride=2, padding=1), np.random.default_rng(0).standard_normal((16, 32, 32, 64))
    sgd = optim.SGD(layer.parameters(), 1e-3)

    def step(x: Tensor) -> Tensor:
        (g,) = [grad((layer(x.detach()) ** 2).mean(), layer.weight)]
        layer.weight.grad = g.array
        sgd.step()
        sgd.zero_grad()
        return g

    return step, [Tensor(x.astype(np.float32))]


@pytest.mark.parametrize("make", [toy_critic, images, winograd])
def test_a_replay_makes_nothing(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    step, batch = make()
    captured = mg.capture(step)
    for _ in range(4):
        captured(*batch)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a replay made a Function or a Tensor")

    with monkeypatch.context() as patch:
        patch.setattr(Function, "__call__", refuse)
        patch.setattr(Tensor, "__init__", refuse)
        patch.setattr(Tensor, "of", refuse)
        assert new_bytes(lambda: captured(*batch)) < BOUND
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(50):
            captured(*batch)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 50


BATCH = 32 * 28 * 28 * (1 + 4)  # bytes: 32 images, from which the numbers are made that the players are given


@pytest.mark.parametrize("name", ["cgan", "sagan"])
def test_a_replay_of_a_recipe_makes_nothing_but_the_batch(name: str) -> None:
    rng, recipe = np.random.default_rng(0), RECIPES[name]
    data = DataSet("noise", rng.integers(0, 256, (64, 28, 28, 1)).astype(np.uint8), np.arange(64) % 10, None, None)
    training = Training(recipe, recipe.parse(["width=8", "batch_size=32", "steps=40"], "test"), data)
    turns, number = Turns(training.game, training.parts.players), itertools.count(1)
    for _ in range(4):
        turns.step(next(number))
    assert new_bytes(lambda: turns.step(next(number))) < BATCH + 2 * BOUND
    calls = [call for captured in turns.captured for plan in captured.plans for call in plan.replayed]
    for call in calls:
        if call.kind == "kernel":
            assert new_bytes(call.run) < BOUND, f"{call.name} at {call.line}"
