"""GANs that are told what to make: their nets, and their players.

A code's first category, one-hot, says which class G shall make: codes are Latent(noise, (classes,)), and G is a
function of the whole code, as any G. What differs is how D comes to know the class: it is shown it beside the image
(`conditional_players`, `matching_players`), or has to read it in the image (`auxiliary_players`; `info_players`, which
have no labels at all).

All players follow the rules of `two_player`: fakes for D are made without a graph, and D sees real images and fakes as
batches of their own. Logs are those of `two_player`, unless told otherwise.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import log

import numpy as np

from .. import kernels
from ..autograd import no_grad
from ..nn import (
    BatchNorm2d,
    Conditioned,
    Conv2d,
    Flatten,
    LeakyReLU,
    Linear,
    ModulatedBatchNorm2d,
    Module,
    Sequential,
    SpectralNorm,
    init,
)
from ..ops import broadcast_to, concatenate, cross_entropy, softplus
from ..optim import Optimizer
from ..random import Generator
from ..tensor import Array, Tensor
from .latent import Latent, one_hot_rows
from .models import dcgan_generator, features, replaced
from .objectives import NON_SATURATING, Objective
from .train import Found, Game, Player, outputs_in_short, probability


def one_hot(labels: Array, classes: int, device: str = "cpu") -> Tensor:
    """float32 (N, classes) on the device, from labels (N,)."""
    return Tensor.of(one_hot_rows(labels, classes, device))


def prior_of(game: Game) -> Latent:
    """What the game's codes are made of. ValueError if nothing in them says what to make."""
    if isinstance(game.prior, int) or not game.prior.categories:
        raise ValueError(f"a conditional GAN needs codes with a category, Latent(noise, (classes,)), not {game.prior}")
    return game.prior


def condition(game: Game, codes: Tensor) -> Tensor:
    """The first category of codes: (N, classes), one-hot."""
    return prior_of(game).split(codes)[1][0]


# ---- nets ---------------------------------------------------------------------------------------------------------


def conditional_generator(
    image_size: int, channels: int, width: int, prior: Latent, generator: Generator | None = None
) -> Sequential:
    """DCGAN's generator of whole codes, whose weights of all that is no noise start sqrt(noise) times as large.

    A label is one number among many: with equal weights it would begin with 1/sqrt(noise) of the noise's say in the
    first layer, and G would long make the same image of all labels.
    """
    G = dcgan_generator(image_size, channels, width, prior.size, generator)
    with G[1].weight.writing() as array:  # type: ignore[attr-defined]
        array[..., prior.noise :] *= np.float32(prior.noise**0.5)  # (KH, KW, C_out, C_in)
    return G


class LabelledConv2d(Module):
    """x (N, H, W, C_in) and c (N, K): a convolution of x and of K more channels, each one number of c at all pixels."""

    takes_condition = True

    def __init__(self, like: Conv2d, classes: int) -> None:
        KH, KW, c_in, c_out = like.weight.shape
        self.conv = Conv2d(c_in + classes, c_out, (KH, KW), like.stride, like.padding, bias=like.bias is not None)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        N, H, W, _ = x.shape
        maps = broadcast_to(c.reshape(N, 1, 1, -1), (N, H, W, c.shape[1]))
        return self.conv(concatenate([x, maps], 3))


def labelled(D: Sequential, classes: int, generator: Generator | None = None) -> Conditioned:
    """A discriminator D(x, c), which is shown the one-hot label before each convolution. Its weights are drawn anew, as
    DCGAN's."""
    net = Conditioned(*replaced(D, Conv2d, lambda conv: LabelledConv2d(conv, classes)))
    init.dcgan_(net, generator)
    return net


class ClassConditionalGenerator(Module):
    """A generator of whole codes whose batch norms have gains and biases for each class, the first category."""

    def __init__(self, net: Sequential, prior: Latent) -> None:
        self.prior = prior
        classes = prior.categories[0]
        modulated = replaced(net, BatchNorm2d, lambda norm: ModulatedBatchNorm2d(norm.gamma.size, classes))
        self.net = Conditioned(*modulated)

    def forward(self, codes: Tensor) -> Tensor:
        return self.net(codes, self.prior.split(codes)[1][0])


class ProjectionDiscriminator(Module):
    """D(x, c) = psi(phi(x)) + <embed(c), phi(x)>, all under spectral norm (Miyato & Koyama 2018, equation 3).

    If p and q are of exponential form, the best logit is of this form: a part that asks whether x is real at all, and
    one that is linear in c. phi: `trunk`, then one convolution over all of its map, to `width` features.
    """

    def __init__(self, D: Sequential, classes: int, width: int, generator: Generator, power: Generator) -> None:
        last: Conv2d = D[len(D) - 2]  # type: ignore[assignment]
        KH, KW, c_in, _ = last.weight.shape
        phi = Sequential(*features(D), Conv2d(c_in, width, (KH, KW)), LeakyReLU(0.2), Flatten())
        psi, embed = Linear(width, 1), Linear(classes, width, bias=False)
        for net in (phi, psi, embed):
            init.dcgan_(net, generator)
        self.phi = replaced(phi, Conv2d, lambda conv: SpectralNorm(conv, generator=power))
        self.psi, self.embed = SpectralNorm(psi, generator=power), SpectralNorm(embed, generator=power)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        phi = self.phi(x)
        return self.psi(phi) + (self.embed(c) * phi).sum(1, keepdims=True)


# ---- players ------------------------------------------------------------------------------------------------------


def conditional_players(
    G: Module, D: Module, objective: Objective, g_optimizer: Optimizer, d_optimizer: Optimizer
) -> list[Player]:
    """An objective of two, of pairs: D(x, c) tells real images with their labels from fakes with theirs (Mirza &
    Osindero 2014, equation 2).

    ValueError for a critic, whose slope nothing would bound here, and where G's loss needs real images.
    """
    if objective.critic or objective.needs_real:
        reason = (
            "its critic's slope would not be bounded" if objective.critic else "its G compares fakes with real images"
        )
        raise ValueError(f"conditional_players: not with {objective.name}: {reason}; take NON_SATURATING or HINGE")

    def d_loss(game: Game) -> tuple[Tensor, Found]:
        x, labels, z = game.images(), game.labels(), game.z()
        with no_grad():
            fakes = G(z)
        c = condition(game, z)
        real, fake = D(Tensor.of(x), one_hot(labels, c.shape[1], game.device)), D(fakes, c)
        return objective.d(real, fake), outputs_in_short(objective, real, fake)

    def g_loss(game: Game) -> tuple[Tensor, Found]:
        z = game.z()
        fake = D(G(z), condition(game, z))
        return objective.g(fake), {"d_fake_after": probability(fake)} if objective.output == "logit" else {}

    return [Player("d", [D], d_optimizer, d_loss), Player("g", [G], g_optimizer, g_loss)]


def wrong_labels(labels: Array, classes: int, generator: Generator) -> Array:
    """For each label (N,) one of the others, all alike."""
    others = generator.integers(classes - 1, len(labels))
    found: Array = kernels.early(_wrong_labels, labels, others, classes)
    return found


def _wrong_labels(labels: Array, others: Array, classes: int) -> Array:
    found: Array = (labels + 1 + others) % classes
    return found


def matching_players(
    G: Module,
    D: Module,
    g_optimizer: Optimizer,
    d_optimizer: Optimizer,
    wrong: Generator,
    judge_alone: Module | None = None,
) -> list[Player]:
    """D is shown a third kind of pair: real images with wrong labels c' (Reed et al. 2016, algorithm 1).

    L_D = sp(-l(x, c)) + (sp(l(x, c')) + sp(l(G(z, c), c))) / 2; sp: softplus, in the mean of the batch. So D cannot be
    right without looking at the label. `wrong` draws c'. Also logs d_wrong, the mean probability that D gives these.

    With `judge_alone`, whose weights d_optimizer has, too, real or fake is asked a second time, without the label. Each
    of the two has its own loss, and G's is the sum of both. (D must see fakes all the same: one that only knew wrong
    labels of real images was fooled by fakes that showed no digit.)
    """
    nets = [D] if judge_alone is None else [D, judge_alone]

    def d_loss(game: Game) -> tuple[Tensor, Found]:
        x, labels, z = Tensor.of(game.images()), game.labels(), game.z()
        with no_grad():
            fakes = G(z)
        c = condition(game, z)
        right, other = (one_hot(y, c.shape[1], game.device) for y in (labels, wrong_labels(labels, c.shape[1], wrong)))
        fits, fits_not = D(x, right), D(x, other)
        real, fake = fits, D(fakes, c)
        loss = softplus(-fits).mean() + (softplus(fits_not).mean() + softplus(fake).mean()) / 2
        if judge_alone is not None:
            real, fake = judge_alone(x), judge_alone(fakes)
            loss = loss + NON_SATURATING.d(real, fake)
        return loss, {**outputs_in_short(NON_SATURATING, real, fake), "d_wrong": probability(fits_not)}

    def g_loss(game: Game) -> tuple[Tensor, Found]:
        z = game.z()
        fakes = G(z)
        fits = D(fakes, condition(game, z))
        if judge_alone is None:
            return NON_SATURATING.g(fits), {"d_fake_after": probability(fits)}
        real = judge_alone(fakes)
        return NON_SATURATING.g(fits) + NON_SATURATING.g(real), {"d_fake_after": probability(real)}

    return [Player("d", nets, d_optimizer, d_loss), Player("g", [G], g_optimizer, g_loss)]


def share_right(logits: Tensor, labels: Array) -> Tensor:
    """The share of labels (N,) that have the highest of the logits (N, K), the first of equal ones."""
    N, K = logits.shape
    rows = kernels.reshape(logits.array, (N, 1, K, 1))
    highest = kernels.max_pool2d_index(rows, (1, K), (1, K), (0, 0)).reshape(N)  # counted over all rows, as `wanted`
    wanted = kernels.early(_places, labels, K, device=logits.device)
    right = kernels.cast(kernels.equal(highest, wanted), np.dtype(np.float64))
    return Tensor.of(kernels.as_array(kernels.divide(kernels.sum(right), N)))


def _places(labels: Array, classes: int) -> Array:
    places: Array = np.arange(len(labels)) * classes + kernels.to_host(labels)
    return places


def auxiliary_players(
    G: Module,
    D: Module,
    g_optimizer: Optimizer,
    d_optimizer: Optimizer,
    weight: float = 1.0,
    learn_from_fakes: bool = True,
) -> list[Player]:
    """D(x) (N, 1 + classes) is a logit for being real and those of the classes; it is not told the label (Odena et al.
    2017, equations 2 and 3).

    Both D and G want it to read the label right, of real images and fakes: `weight` times the cross entropies are added
    to both losses. Also logs class_real and class_fake, the shares that D reads right.

    learn_from_fakes=False: to D's only that of real images. Otherwise G and D can agree on signs for the labels that
    are no digits: what D reads in fakes then says nothing.
    """

    def d_loss(game: Game) -> tuple[Tensor, Found]:
        prior_of(game)
        x, labels, (z, (wanted, *_)) = game.images(), game.labels(), game.codes()
        with no_grad():
            fakes = G(z)
        of_real, of_fake = D(Tensor.of(x)), D(fakes)
        real, fake = of_real[:, :1], of_fake[:, :1]
        reading = cross_entropy(of_real[:, 1:], labels)
        if learn_from_fakes:
            reading = reading + cross_entropy(of_fake[:, 1:], wanted)
        shares = {"class_real": share_right(of_real[:, 1:], labels), "class_fake": share_right(of_fake[:, 1:], wanted)}
        loss = NON_SATURATING.d(real, fake) + weight * reading
        return loss, {**outputs_in_short(NON_SATURATING, real, fake), **shares}

    def g_loss(game: Game) -> tuple[Tensor, Found]:
        prior_of(game)
        z, (wanted, *_) = game.codes()
        of_fake = D(G(z))
        fake = of_fake[:, :1]
        reading = cross_entropy(of_fake[:, 1:], wanted)
        return NON_SATURATING.g(fake) + weight * reading, {"d_fake_after": probability(fake)}

    return [Player("d", [D], d_optimizer, d_loss), Player("g", [G], g_optimizer, g_loss)]


def information_loss(
    prior: Latent, codes: Tensor, guess: Tensor, labels: Sequence[Array] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log Q(c | x), in the mean of the batch, up to a constant, from what D guesses: (N, categories and uniform).

    labels: the values of the codes' categories; None: they are read in the codes.

    Of a category Q is a softmax; of a uniform number a normal of deviation 1 around the guess, as the authors' code has
    it. Logs `information`, H(c) - E -log Q(c | x) of the categories, in nats: no more than their entropy, and no more
    than what x tells of them (equation 5); and `code_error`, the mean squared error of the uniform numbers: 1/3 is
    that of guessing 0.
    """
    ends = list(accumulate(prior.categories, initial=0))
    guesses = [guess[:, start:end] for start, end in pairwise(ends)]
    if labels is None:
        labels = [prior.labels(codes.array, which) for which in range(len(guesses))]
    lost = sum(cross_entropy(of_c, c) for of_c, c in zip(guesses, labels, strict=True))
    assert isinstance(lost, Tensor)
    found = {"information": sum(map(log, prior.categories)) - lost.detach()}
    if prior.uniform:
        squares = (guess[:, ends[-1] :] - prior.split(codes)[2]) ** 2
        found["code_error"] = squares.detach().mean()
        lost = lost + squares.sum(1).mean() / 2
    return lost, found


def info_players(
    G: Module, D: Module, g_optimizer: Optimizer, d_optimizer: Optimizer, weight: float = 1.0
) -> list[Player]:
    """D(x) (N, 1 + categories and uniform) is a logit and a guess of what in the code is no noise (Chen et al. 2016).

    Both losses have `weight` times `information_loss` of fakes added: minus a lower bound of the mutual information of
    the code and the image (equation 6), by which nobody needs labels. Also logs what `information_loss` does, before
    D's update.
    """

    def d_loss(game: Game) -> tuple[Tensor, Found]:
        x, (z, labels) = game.images(), game.codes()
        with no_grad():
            fakes = G(z)
        real, of_fake = D(Tensor.of(x))[:, :1], D(fakes)
        fake = of_fake[:, :1]
        lost, found = information_loss(prior_of(game), z, of_fake[:, 1:], labels)
        return NON_SATURATING.d(real, fake) + weight * lost, {**outputs_in_short(NON_SATURATING, real, fake), **found}

    def g_loss(game: Game) -> tuple[Tensor, Found]:
        z, labels = game.codes()
        of_fake = D(G(z))
        fake = of_fake[:, :1]
        lost, _ = information_loss(prior_of(game), z, of_fake[:, 1:], labels)
        return NON_SATURATING.g(fake) + weight * lost, {"d_fake_after": probability(fake)}

    return [Player("d", [D], d_optimizer, d_loss), Player("g", [G], g_optimizer, g_loss)]
