"""BEGAN: D is an autoencoder, which rebuilds real images well and fakes badly; a controller keeps the two errors at a
ratio of gamma (Berthelot et al. 2017).

D is DCGAN's discriminator, down to a code, and behind it DCGAN's generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ... import kernels
from ...autograd import no_grad
from ...creation import zeros
from ...nn import Module, Sequential
from ...optim import Adam, Optimizer
from ...options import option
from ...random import Generator
from ...tensor import Array, Tensor
from ..hooks import KernelHook
from ..models import dcgan_discriminator, dcgan_generator
from ..train import Found, Game, Player
from . import gan, recipe


@dataclass(frozen=True)
class Settings(gan.Settings):
    """For short trainings: the authors' step sizes, 1e-4 and 1e-3 for k, are for half a million updates.

    At their gamma of 0.5 fakes do not get so easy in minutes that k leaves 0, and G ends in one easy blob.
    """

    lr: float = option(5e-4, "step size of the optimizers", above=0)
    gamma: float = option(
        0.9, "error of fakes over that of real images; low: good pictures, all alike", above=0, below=1
    )
    lambda_k: float = option(0.1, "step size of k", above=0)


class Balance(Module):
    """k, in [0, 1]: how much D cares for fakes. It moves by proportional control."""

    def __init__(self, gamma: float, rate: float) -> None:
        self.gamma, self.rate, self.k = gamma, rate, zeros(1)

    def update(self, real: Array | float, fake: Array | float, gate: Array | None = None) -> None:
        """k + rate (gamma real - fake), within [0, 1], for the two errors of a step, where k is.

        Where the gate, (1,), is not finite, k stays.
        """
        with self.k.writing() as k:
            numbers = [kernels.as_array(kernels.beside(number, k)) for number in (real, fake, k)]
            real, fake, old = (kernels.cast(number, np.dtype(np.float64)) for number in numbers)
            step = kernels.multiply(kernels.subtract(kernels.multiply(real, self.gamma), fake), self.rate)
            new = kernels.clip(kernels.add(old, step), 0.0, 1.0)
            if gate is not None:
                new = kernels.where(kernels.equal(kernels.subtract(gate, gate), 0), new, old)  # inf - inf is NaN
            kernels.cast(new, k.dtype, out=k)

    def measure(self, real: Tensor, fake: Tensor) -> Tensor:
        """M = real + |gamma real - fake|, which falls as a training converges."""
        return real + abs(self.gamma * real - fake)


class Control(KernelHook):
    """Moves k by the errors of a step, (), when G has learned."""

    def __init__(self, balance: Balance, real: Tensor, fake: Tensor) -> None:
        self.balance, self.real, self.fake = balance, real, fake

    def __call__(self) -> None:
        self.balance.update(self.real.array, self.fake.array)

    def launch(self, gate: Array) -> None:
        kernels.branch(self._settings)
        self.balance.update(self.real.array, self.fake.array, gate)

    def _settings(self) -> tuple[float, float]:
        return self.balance.gamma, self.balance.rate


def error(D: Module, x: Tensor) -> Tensor:
    """The mean of |x - D(x)| over all pixels of all images."""
    return abs(x - D(x)).mean()


def check_autoencoder(D: Module, shape: Sequence[int]) -> None:
    """ValueError unless D(x) has the shape of x, for images of this shape, (H, W, C)."""
    x, training = np.zeros((2, *shape), np.float32), D.training
    device = next((p.device for p in D.parameters()), "cpu")
    try:
        with no_grad():
            y = D.eval()(Tensor.of(kernels.move(x, device)))
    finally:
        D.train(training)
    if y.shape != x.shape:
        raise ValueError(
            "BEGAN: D must be an autoencoder, since its loss is how badly it rebuilds an image, but it makes "
            f"{y.shape} of images {x.shape}; take an encoder and a decoder behind it, not a discriminator that gives a "
            "score"
        )


def began_players(
    G: Module, D: Module, g_optimizer: Optimizer, d_optimizer: Optimizer, balance: Balance, shape: Sequence[int]
) -> list[Player]:
    """D, then G, then k moves. shape: of an image, (H, W, C). ValueError if D is no autoencoder.

    The balance is to be where the nets are: k is read and moved there, and seen by the host in logs and checkpoints.

    Logs k, of this step, and `measure`.
    """
    check_autoencoder(D, shape)
    real_error, fake_error = (zeros((), device=balance.k.device) for _ in range(2))  # of this step

    def note(error: Tensor, place: Tensor) -> None:
        with place.writing() as number:
            kernels.copy(error.array, out=number)

    def d_loss(game: Game) -> tuple[Tensor, Found]:
        with no_grad():
            fakes = G(game.z())
        real, k = error(D, Tensor.of(game.images())), Tensor(balance.k.array.reshape(()))
        note(real, real_error)
        return real - k * error(D, fakes), {"k": k}

    def g_loss(game: Game) -> tuple[Tensor, Found]:
        fake = error(D, G(game.z()))
        note(fake, fake_error)
        return fake, {"measure": balance.measure(real_error, fake_error)}

    control = Control(balance, real_error, fake_error)
    return [Player("d", [D], d_optimizer, d_loss), Player("g", [G], g_optimizer, g_loss, after=[control])]


def build(s: Settings, channels: int) -> recipe.Parts:
    """k begins at 0: D first learns what images are."""
    init, size = Generator(s.seed, "init"), s.image_size
    G = dcgan_generator(size, channels, s.width, s.latent, init).to(s.device)
    D = Sequential(
        *dcgan_discriminator(size, channels, s.width, init, outputs=s.latent),
        *dcgan_generator(size, channels, s.width, s.latent, init),
    ).to(s.device)
    g_optimizer, d_optimizer = (Adam(net.parameters(), s.lr, (s.beta1, s.beta2)) for net in (G, D))
    balance = Balance(s.gamma, s.lambda_k).to(s.device)
    players = began_players(G, D, g_optimizer, d_optimizer, balance, (size, size, channels))
    return recipe.Parts({"G": G, "D": D}, players, {}, {"balance": balance})


RECIPE = recipe.Recipe(
    "began",
    "D is an autoencoder; k balances it against G",
    "Berthelot et al. 2017",
    Settings,
    build,
    {"tutorial-64": {**recipe.TUTORIAL_64, "lr": 1e-4, "gamma": 0.5, "lambda_k": 1e-3}},
    formula="min_D L(x) - k L(G(z));  min_G L(G(z));  k += λ (γ L(x) - L(G(z)));  L(v) = |v - D(v)|",
    expected="FID 63.93 ± 9.17 on MNIST in 40 s of one core",
)
