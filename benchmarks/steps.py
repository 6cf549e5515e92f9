"""The step as minigan takes it: by the nets, the players and the loop of minigan.gan, as the examples do."""

from functools import partial
from itertools import count, pairwise, repeat

from step_rows import Row

from minigan import kernels
from minigan.gan import (
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    dcgan_discriminator,
    dcgan_generator,
    gradient_penalty,
    two_player,
)
from minigan.gan.train import Turns
from minigan.nn import Linear, Module, ReLU, Sequential
from minigan.optim import Adam, Optimizer, RMSprop
from minigan.random import Generator


def latent() -> Generator:
    """The stream that z is drawn from."""
    return Generator(0, "latent")


def mix() -> Generator:
    """The stream that places the penalty's points between real images and fakes."""
    return Generator(0, "penalty")


class Ours:
    """G, D and the players of a row; of a critic's row only the critic, unless `both` shall play.

    capture: as of `train`.
    """

    def __init__(self, row: Row, device: str = "cpu", both: bool = False, capture: bool = True) -> None:
        if row.size is None:
            self.G, self.D = mlp(row.width, 2), mlp(row.width, 1)
        else:
            init = Generator(0, "init")
            self.G = dcgan_generator(row.size, 1, row.width, row.latent, init)
            self.D = dcgan_discriminator(row.size, 1, row.width, init, batch_norm=row.penalty is None)
        self.G.to(device), self.D.to(device)
        penalty = row.penalty and partial(gradient_penalty, generator=mix(), weight=row.penalty)

        def optimizer(net: Module) -> Optimizer:
            return RMSprop(net.parameters(), row.lr) if row.clip else Adam(net.parameters(), row.lr, row.betas)

        gan = row.objective == "gan"
        players = two_player(
            self.G, self.D, NON_SATURATING if gan else WASSERSTEIN, optimizer(self.G), optimizer(self.D),
            penalty=penalty or None, clip=row.clip,
        )  # fmt: skip
        self.players = players if gan or both else players[:1]
        game = Game(repeat(kernels.move(row.real(), device)), latent(), row.latent, row.batch, device)
        self.turns, self.numbers = Turns(game, self.players, capture), count(1)

    def logs(self) -> dict[str, float]:
        """What one step logs."""
        return self.turns.step(next(self.numbers))

    def step(self) -> list[float]:
        """The players' losses, before their updates."""
        logs = self.logs()
        return [logs[f"{player.name}_loss"] for player in self.players]


def mlp(width: int, outputs: int) -> Sequential:
    """(N, 2) -> (N, outputs), by three hidden layers of ReLU."""
    layers: list[Module] = []
    for c_in, c_out in pairwise((2, width, width, width, outputs)):
        layers += [Linear(c_in, c_out), ReLU()]
    return Sequential(*layers[:-1])
