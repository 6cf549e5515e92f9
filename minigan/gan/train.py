"""One training loop for every GAN: players take turns, each minimising its own loss over its own nets.

`train` knows nothing of generators and discriminators. A variant is a list of players; `two_player` makes the two that
most GANs have. What is fixed here: all nets but the player's are frozen while its loss is computed, so that no weight
gradient of theirs is computed; fakes for D are made without a graph, by G in training mode; D sees real and fake images
as two batches (batch norm's statistics stay apart), unless it is known to treat images one by one: then as one, which
is quicker (spectral norm then iterates once, not twice); G's step draws new z and runs D after D's own step.

Each player's update is captured (minigan/capture.py): its third one rehearses what the second has recorded, and from
then on it is replayed, to the same bits. What a player's loss computes with arrays is therefore ops, kernels, or a
function that is called by `kernels.live`; it reads no value back.

On a GPU the update is to be one graph, with nothing for the host to do half-way: the batch and all numbers are sent
ahead, the optimizer and the hooks are kernels, and whether the loss is finite these see for themselves (their gate).
The host looks at it afterwards.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

import numpy as np

from .. import kernels, nn
from ..autograd import _mode, grad, no_grad
from ..capture import Captured, CaptureError, MemoryPool
from ..nn import Module
from ..ops import sigmoid
from ..optim import Optimizer
from ..random import Generator
from ..tensor import Array, Tensor
from .hooks import ClipWeights, KernelHook, recordable
from .latent import Latent
from .objectives import Objective
from .penalties import Penalty, norm_per_sample

Logs = dict[str, float]
Found = Mapping[str, float | Tensor]
"""What a loss gives to be logged. Tensors, of one number each, are read after the update."""

Kind = tuple[tuple[int, ...], str, str]
"""Of a batch: shape, dtype, device."""

Callback = Callable[[int, Logs], None]
Hook = Callable[[], object]


class NotFiniteError(FloatingPointError):
    """A loss became NaN or infinite. Its player was not updated by it; the players before it in the step were."""


@dataclass
class Game:
    """What all players share: where real images and codes come from, and the device that they go to.

    Batches may be of several shapes: an update is recorded for each. The next one's decides which recording is
    replayed, so it may be fetched before its update begins, but never one that the update does not take. (Of an update
    that takes several batches only the first may change its shape; else CaptureError.)
    """

    real: Iterator[Array]  # batches (N, H, W, C)
    latent: Generator
    prior: Latent | int  # what codes are made of; a number: of so many normal numbers
    batch_size: int
    device: str = "cpu"
    labels_of_batch: Callable[[], Array] | None = None  # those of the batch that `real` gave last

    def __post_init__(self) -> None:
        self._ahead: tuple[Array, Array | None] | None = None  # images, labels: fetched, but not taken yet
        self._end: StopIteration | None = None  # met, but not told yet
        self._labels: Array | None = None  # of the batch that was taken last
        self._last: Kind | None = None  # which of these copies is of it
        self._copies: dict[Kind, Array] = {}
        self._took: bool | None = None  # whether the update that Python runs now has taken a batch; None: no update

    def images(self) -> Array:
        """The next batch of real images. `current` is a copy of it, in memory that others like it are written to."""
        kernels.ahead(self._make_ready)  # raises what the data raises
        *_, place = kernels.branch(self._coming)
        on_device = place == kernels.checked(self.device) != "cpu"  # not by way of the host
        batch: Array = kernels.live(self._take) if on_device else kernels.ahead(self._take, device=self.device)
        kind = batch.shape, str(batch.dtype), self.device
        if kind not in self._copies:
            self._copies[kind] = kernels.empty(batch.shape, batch.dtype, self.device)
        kernels.copy(batch, out=self._copies[kind])  # where recorded steps of other players read it
        if self._took is not None:
            self._took = True
        return batch

    def _fetch(self) -> Array:
        """The next batch, which stays the next until it is taken."""
        if self._end is not None:
            end, self._end = self._end, None
            raise end
        if self._ahead is None:
            batch = next(self.real)
            self._ahead = batch, None if self.labels_of_batch is None else self.labels_of_batch()
        return self._ahead[0]

    def _make_ready(self) -> None:
        self._fetch()

    def _coming(self) -> Kind | None:
        """What the next batch is like; None: there is none, as who then asks for it will be told."""
        try:
            batch = self._fetch()
        except StopIteration as end:
            self._end = end
            return None
        return batch.shape, str(batch.dtype), kernels.name_of(batch)

    def _take(self) -> Array:
        assert self._ahead is not None
        (fetched, self._labels), self._ahead = self._ahead, None
        self._last = fetched.shape, str(fetched.dtype), self.device
        on_device = kernels.name_of(fetched) == kernels.checked(self.device)
        batch: Array = fetched if on_device else kernels.to_host(fetched)
        return batch

    @property
    def current(self) -> Array:
        """A copy of the batch that was taken last. ValueError before the first one."""
        kind = self._last if self._took else kernels.branch(self._kind_of_last)
        if kind is None:
            raise ValueError("there is no current batch yet; a player that calls game.images() has to play before")
        return self._copies[kind]

    def _kind_of_last(self) -> Kind | None:
        return self._last

    @contextmanager
    def update(self) -> Iterator[None]:
        """Inside, a player's update is run by Python. If it takes a batch, `current` is of a shape that it knows."""
        self._took = False
        try:
            yield
        finally:
            self._took = None

    def begin(self) -> None:
        """Forgets what an update that failed has left, since when the data may have been restored."""
        self._ahead = self._end = self._labels = None

    def labels(self) -> Array:
        """The labels, int64 (batch_size,), of the last batch. ValueError if the images have none."""
        if self.labels_of_batch is None:
            raise ValueError("these images have no labels, which a conditional GAN needs; train on others (data=)")
        found: Array = kernels.ahead(self._labels_of_last)
        return found

    def _labels_of_last(self) -> Array:
        if self._labels is not None:
            return self._labels
        assert self.labels_of_batch is not None
        return self.labels_of_batch()

    def z(self) -> Tensor:
        """A batch of new codes: (batch_size, prior.size)."""
        return self.codes()[0]

    def codes(self) -> tuple[Tensor, list[Array]]:
        """New codes, as `z` gives them, and of each of their categories the values (batch_size,), on the host."""
        prior = Latent(self.prior) if isinstance(self.prior, int) else self.prior
        codes, labels = prior.draw_labelled(self.latent, self.batch_size, self.device)
        return Tensor.of(codes), labels


@dataclass
class Player:
    """Who is updated (`nets`, by `optimizer`), to minimise what, how many times a step, and what happens around each.

    loss(game) returns the number to minimise and what to log. The hooks in `before` are called when the gradients are
    there and the weights have not moved; those in `after` when they have (hooks.py has some). A hook may do anything,
    and what it does is done at each update, replayed or not. Gradients, as all that a replay makes, are written over by
    the next update: what a hook keeps, it copies. On a device hooks end the update's graph, and are called, but for
    those of hooks.py: where there are no others, their kernels are in the graph, too (`KernelHook`).
    """

    name: str
    nets: Sequence[Module]
    optimizer: Optimizer
    loss: Callable[[Game], tuple[Tensor, Found]]
    updates: Callable[[int], int] = lambda step: 1
    after: Sequence[Hook] = ()
    before: Sequence[Hook] = ()


def of_others(players: Sequence[Player]) -> list[list[Tensor]]:
    """For each player the parameters that it must not train: all that its own nets do not have."""
    own = [{id(p): p for net in player.nets for p in net.parameters()} for player in players]
    every = {key: p for parameters in own for key, p in parameters.items()}
    return [[p for key, p in every.items() if key not in parameters] for parameters in own]


@contextmanager
def frozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Freezes what is not frozen already."""
    thawed = [p for p in parameters if p.requires_grad]
    for p in thawed:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in thawed:
            p.requires_grad = True


class Turns:
    """Steps of a training, one at a time: what `train` repeats. It keeps what was recorded."""

    def __init__(self, game: Game, players: Sequence[Player], capture: bool = True) -> None:
        self.turns = [_Turn(game, *pair) for pair in zip(players, of_others(players), strict=True)]
        pool = MemoryPool()
        game.begin()
        self.captured = [Captured(turn.update, warmup=1, pool=pool) for turn in self.turns] if capture else []

    def step(self, number: int) -> Logs:
        """Each player's updates of the step `number`; the logs of its last one. Raises what `train` raises."""
        logs: Logs = {}
        capture = self.captured and _mode.anomaly is None
        for i, turn in enumerate(self.turns):
            found: Found = {}
            turn.number, update = number, self.captured[i] if capture else turn.update
            try:
                for _ in range(turn.player.updates(number)):
                    found = update()
            except CaptureError as error:
                raise CaptureError(
                    f"{error}. This is in the update of player {turn.player.name}; as it is, it runs with "
                    "train(..., capture=False), or the setting capture=false"
                ) from error
            logs |= {key: float(value) for key, value in found.items()}
        return logs


class _Turn:
    """A player's updates, in the step `number`. others: what it must not train."""

    def __init__(self, game: Game, player: Player, others: Sequence[Tensor]) -> None:
        self.game, self.player, self.others, self.number = game, player, others, 0
        parameters = [*(p for net in player.nets for p in net.parameters()), *player.optimizer.params]
        self.own = [*{id(p): p for p in parameters}.values()]

    def _way(self) -> tuple[Any, ...]:
        """What may be changed between two updates, and is not looked at again in a replay."""
        game, player = self.game, self.player
        shared = game.latent, game.prior, game.batch_size, game.device
        hooks = () if game.device == "cpu" else (tuple(player.before), tuple(player.after))  # where they are recorded
        return player.loss, player.optimizer, *shared, hooks, *[p.requires_grad for p in self.own]

    def update(self) -> Found:
        """One of them; what is to be logged. See `train`."""
        kernels.branch(self._way)
        with self.game.update(), frozen(self.others):
            loss, found = self.player.loss(self.game)
            if loss.size != 1:
                raise ValueError(
                    f"the loss of {self.player.name} is {loss.shape}, not one number; take its mean or its sum"
                )
            on_device = kernels.listening() and kernels.name_of(loss.array) != "cpu"
            if not on_device:
                kernels.live(self._check, loss.array)
            self.player.optimizer.zero_grad()
            loss.backward()
        if on_device and self._launches():
            self._launch(loss.array)
        else:
            if on_device:
                kernels.live(self._check, loss.array)  # not in the middle of the kernels
            kernels.live(self._move, [p.grad for p in self.player.optimizer.params])
        self.player.optimizer.zero_grad()  # the other players' turns want the memory
        return {f"{self.player.name}_loss": loss.detach(), **found}

    def _check(self, loss: Array) -> None:
        if not isfinite(value := loss.item()):
            raise NotFiniteError(
                f"step {self.number}: the loss of {self.player.name} is {value}; lower the learning rate, "
                "or run inside minigan.detect_anomaly() to see which op is to blame"
            )

    def _move(self, gradients: Sequence[Array | None]) -> None:
        """What follows the gradients. A replay has no `.grad` but these."""
        player = self.player
        for p, gradient in zip(player.optimizer.params, gradients, strict=True):
            p.grad = gradient
        for hook in player.before:
            hook()
        player.optimizer.step()
        for hook in player.after:
            hook()
        player.optimizer.zero_grad()

    def _launches(self) -> bool:
        """Whether all that follows the gradients can be recorded."""
        player = self.player
        return player.optimizer.launches() and all(map(recordable, (*player.before, *player.after)))

    def _hooks(self) -> tuple[list[KernelHook], list[KernelHook]]:
        """Those before and those after the optimizer's step, where all can be recorded."""
        return cast(list[KernelHook], [*self.player.before]), cast(list[KernelHook], [*self.player.after])

    def _launch(self, loss: Array) -> None:
        """`_check` and `_move`, recorded."""
        gate, (before, after) = loss.reshape(1), self._hooks()
        found = [hook.launch(gate) for hook in before]
        self.player.optimizer.launch(gate)
        found += [hook.launch(gate) for hook in after]
        kernels.live(self._conclude, loss, found)

    def _conclude(self, loss: Array, found: Sequence[Array | None]) -> None:
        """What is left to the host when the kernels have been launched."""
        before, after = self._hooks()
        try:
            self._check(loss)
        except NotFiniteError:
            counting: list[KernelHook | Optimizer] = [*before, self.player.optimizer, *after]
            for part in reversed(counting):
                part.take_back()
            raise
        for hook, array in zip((*before, *after), found, strict=True):
            hook.conclude(array)


def train(
    game: Game,
    players: Sequence[Player],
    steps: int,
    callbacks: Iterable[Callback] = (),
    first: int = 1,
    capture: bool = True,
) -> None:
    """Runs steps `first` .. `steps`; after each, every callback gets the step's number and its logs.

    An update is: loss, gradients, the player's `before` hooks, the optimizer's step, its `after` hooks. Then the
    gradients are dropped.

    capture: from each player's third update on, what its loss does and the gradients are replayed, to the same bits,
    so its Python is not run. Callbacks are run, and hooks, but on a device those of hooks.py are replayed, too. What
    they change of weights, optimizers and data is seen, and so are the fields of the game and the players, `train()`
    and `eval()`, and which weights are frozen: of what an update has not met before, the next one is recorded. What
    they change of the nets' layers is not seen, and a number that a loss reads, such as a penalty's weight, stays what
    it was when it was recorded: keep it in a tensor, or read it through `minigan.live`. False runs each update as it
    is, to watch or to debug it; so does `detect_anomaly()`.

    NotFiniteError, before its player is updated by it, if a loss is NaN or infinite. CaptureError, which names the
    line, if an update cannot be replayed.
    """
    callbacks, turns = list(callbacks), Turns(game, players, capture)
    for step in range(first, steps + 1):
        logs = turns.step(step)
        for callback in callbacks:
            callback(step, logs)


def two_player(
    G: Module,
    D: Module,
    objective: Objective,
    g_optimizer: Optimizer,
    d_optimizer: Optimizer,
    *,
    penalty: Penalty | None = None,
    clip: float | None = None,
    d_updates: Callable[[int], int] = lambda step: 1,
    replay: Callable[[Array], Array] | None = None,
) -> list[Player]:
    """D, then G: d_updates(step) updates of D for each one of G.

    penalty(D, real, fake) is a term of D's loss and what to log of it. `clip` bounds every weight of D *after* each of
    its updates (Arjovsky et al. 2017, algorithm 1), so that G meets clipped weights. replay(fakes) is what D is shown
    in place of new fakes (replay.py). An objective whose G compares fakes with real images is given those of D's last
    update.

    Logs d_loss and g_loss. For logits also the mean probability of being real: d_real of real images, d_fake_before of
    fakes before D's update, d_fake_after of G's new fakes after it. For a critic instead w_estimate = E D(x) -
    E D(G(z)) before its update, on the batches of that update, positive where the critic is right; grad_norm, the mean
    norm of its gradient by images, at the penalty's points (without a penalty at G's fakes, by one more backward pass;
    where the critic has batch norm, that is of the sum of a batch's scores by each image); and clip_share, the share
    of weights that lie at +-clip. For other scores their means: score_real and score_fake, before D's update.
    A penalty adds what it logs, whatever D's output is: penalty and grad_norm.
    """
    weights = list(D.parameters())

    def d_loss(game: Game) -> tuple[Tensor, Found]:
        x = game.images()
        with no_grad():
            fakes = G(game.z())
        shown = fakes.array if replay is None else replay(fakes.array)
        real, fake = judge(D, x, shown)
        loss, found = objective.d(real, fake), outputs_in_short(objective, real, fake)
        if penalty is not None:
            term, more = penalty(D, x, shown)
            loss, found = loss + term, {**found, **more}
        return loss, found

    def g_loss(game: Game) -> tuple[Tensor, Found]:
        fakes = G(game.z())
        fake = D(fakes)
        found = {}
        if objective.output == "logit":
            found["d_fake_after"] = probability(fake)
        elif objective.critic and penalty is None:
            slope = grad(fake.sum(), fakes, retain_graph=True)
            found["grad_norm"] = norm_per_sample(slope).mean()
        if clip is not None:
            found["clip_share"] = share_at(weights, clip)
        return objective.g(fake, D(Tensor.of(game.current))) if objective.needs_real else objective.g(fake), found

    after: list[Hook] = [] if clip is None else [ClipWeights(weights, clip)]
    return [Player("d", [D], d_optimizer, d_loss, d_updates, after), Player("g", [G], g_optimizer, g_loss)]


def outputs_in_short(objective: Objective, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """What to log of D's outputs before its update."""
    if objective.output == "logit":
        return {"d_real": probability(real), "d_fake_before": probability(fake)}
    with no_grad():
        means = real.mean(), fake.mean()
        return {"w_estimate": means[0] - means[1]} if objective.critic else dict(zip(SCORES, means, strict=True))


SCORES = ("score_real", "score_fake")


SAMPLEWISE = {
    *(nn.Sequential, nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm, nn.InstanceNorm2d, nn.AvgPool2d),
    *(nn.MaxPool2d, nn.Upsample, nn.Flatten, nn.Unflatten),
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.SpectralNorm, nn.EqualizedLR, nn.PixelNorm, nn.SelfAttention, nn.GaussianNoise),
    *(nn.VirtualBatch, nn.VirtualBatchNorm1d, nn.VirtualBatchNorm2d),
}
"""Modules of which a sample's output depends on that sample only."""


def judge(D: Module, real: Array, fake: Array) -> tuple[Tensor, Tensor]:
    """D's outputs for both: in one pass where no sample depends on others. Two small batches cost more than one."""
    if real.shape != fake.shape or not all(type(module) in SAMPLEWISE for module in D.modules()):
        return D(Tensor.of(real)), D(Tensor.of(fake))
    both = D(Tensor.of(kernels.concatenate([real, fake], 0)))
    return both[: len(real)], both[len(real) :]


def critic_updates(n: int, long_phases: bool = False) -> Callable[[int], int]:
    """`d_updates` for `two_player`: n; with `long_phases` 100 in the first 25 steps and in every 500th.

    The long phases are those of the authors' code of WGAN: a critic that is far from its optimum has a poor gradient.
    """
    return lambda step: 100 if long_phases and (step <= 25 or step % 500 == 0) else n


def share_at(weights: Iterable[Tensor], c: float) -> Tensor:
    """The share of all weights that lie at -c or c. Near 1: the critic has become a sum of signs."""
    weights = list(weights)
    with no_grad():
        counts = [(abs(w) >= c).astype(np.float32).sum() for w in weights]
        return sum(counts[1:], counts[0]) / sum(w.size for w in weights)


def probability(logits: Tensor) -> Tensor:
    """The mean of sigmoid(logits), without a graph."""
    with no_grad():
        return sigmoid(logits).mean()
