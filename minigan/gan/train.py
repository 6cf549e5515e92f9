"""One training loop for every GAN: players take turns, each minimising its own loss over its own nets.

`train` knows nothing of generators and discriminators. A variant is a list of players; `two_player` makes the two that
most GANs have. What is fixed here: all nets but the player's are frozen while its loss is computed, so that no weight
gradient of theirs is computed; fakes for D are made without a graph, by G in training mode; D sees real and fake images
as two batches (batch norm's statistics stay apart); G's step draws new z and runs D after D's own step.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

from ..autograd import no_grad
from ..nn import Module
from ..ops import sigmoid
from ..optim import Optimizer
from ..random import Generator
from ..tensor import Array, Tensor
from .objectives import Objective

Logs = dict[str, float]
Callback = Callable[[int, Logs], None]


class NotFiniteError(FloatingPointError):
    """A loss became NaN or infinite. Its player was not updated by it; the players before it in the step were."""


@dataclass
class Game:
    """What all players share: where real images and latent vectors come from."""

    real: Iterator[Array]  # batches (N, H, W, C)
    latent: Generator
    latent_size: int
    batch_size: int

    def z(self) -> Tensor:
        """A batch of new latent vectors, N(0, 1): (batch_size, latent_size)."""
        return Tensor.of(self.latent.normal((self.batch_size, self.latent_size)))


@dataclass
class Player:
    """Who is updated (`nets`, by `optimizer`), to minimise what, how many times a step, and what happens after each.

    loss(game) returns the number to minimise and what to log.
    """

    name: str
    nets: Sequence[Module]
    optimizer: Optimizer
    loss: Callable[[Game], tuple[Tensor, Logs]]
    updates: Callable[[int], int] = lambda step: 1
    after: Sequence[Callable[[], None]] = ()


@contextmanager
def only_trainable(player: Player, players: Sequence[Player]) -> Iterator[None]:
    """Freezes what the other players' nets have of their own, as far as it is not frozen already."""
    own = {id(p) for net in player.nets for p in net.parameters()}
    parameters = {id(p): p for other in players for net in other.nets for p in net.parameters()}
    frozen = [p for key, p in parameters.items() if key not in own and p.requires_grad]
    for p in frozen:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad = True


def train(game: Game, players: Sequence[Player], steps: int, callbacks: Iterable[Callback] = ()) -> None:
    """Runs steps 1 .. `steps`; after each, every callback gets the step's number and its logs.

    NotFiniteError, before its player is updated by it, if a loss is NaN or infinite.
    """
    callbacks = list(callbacks)
    for step in range(1, steps + 1):
        logs: Logs = {}
        for player in players:
            for _ in range(player.updates(step)):
                with only_trainable(player, players):
                    loss, found = player.loss(game)
                    value = loss.item()
                    if not isfinite(value):
                        raise NotFiniteError(
                            f"step {step}: the loss of {player.name} is {value}; lower the learning rate, "
                            "or run inside minigan.detect_anomaly() to see which op is to blame"
                        )
                    player.optimizer.zero_grad()
                    loss.backward()
                player.optimizer.step()
                for hook in player.after:
                    hook()
                logs |= {f"{player.name}_loss": value, **found}
        for callback in callbacks:
            callback(step, logs)


def two_player(
    G: Module, D: Module, objective: Objective, g_optimizer: Optimizer, d_optimizer: Optimizer
) -> list[Player]:
    """D, then G. Logs d_loss, g_loss, and mean probabilities of being real: d_real of real images, d_fake_before of
    fakes before D's step, d_fake_after of G's new fakes after it.
    """

    def d_loss(game: Game) -> tuple[Tensor, Logs]:
        x = Tensor.of(next(game.real))
        with no_grad():
            fakes = G(game.z())
        real, fake = D(x), D(fakes)
        return objective.d(real, fake), {"d_real": probability(real), "d_fake_before": probability(fake)}

    def g_loss(game: Game) -> tuple[Tensor, Logs]:
        fake = D(G(game.z()))
        return objective.g(fake), {"d_fake_after": probability(fake)}

    return [Player("d", [D], d_optimizer, d_loss), Player("g", [G], g_optimizer, g_loss)]


def probability(logits: Tensor) -> float:
    """The mean of sigmoid(logits)."""
    with no_grad():
        return float(sigmoid(logits).mean())
