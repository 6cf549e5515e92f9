"""Players that several recipes could have, beside those of `two_player`."""

from ..autograd import no_grad
from ..nn import Module, Sequential
from ..optim import Optimizer
from ..tensor import Tensor
from .models import features, head
from .train import Found, Game, Player, probability


def feature_matching(G: Module, D: Sequential, optimizer: Optimizer) -> Player:
    """G, whose loss is |E f(x) - E f(G(z))|², the squared distance between two batches' mean features.

    f is what D's last two layers see (Salimans et al. 2016, section 3.1); real images are those of D's last update. The
    means are over the batch: single images have no partner that they should resemble. Logs d_fake_after.
    """
    f, last = features(D), head(D)

    def loss(game: Game) -> tuple[Tensor, Found]:
        with no_grad():
            real = f(Tensor.of(game.current))
        fake = f(G(game.z()))
        difference = real.mean(axis=0) - fake.mean(axis=0)
        with no_grad():
            logs = {"d_fake_after": probability(last(fake))}
        return (difference * difference).sum(), logs

    return Player("g", [G], optimizer, loss)
