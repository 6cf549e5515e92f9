"""GANs that are told what to make: the label reaches both nets, and every loss is the one written out in NumPy."""

import re
from collections.abc import Iterator
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan.data import DataSet
from minigan.gan.conditional import (
    ClassConditionalGenerator,
    LabelledConv2d,
    ProjectionDiscriminator,
    auxiliary_players,
    conditional_generator,
    conditional_players,
    info_players,
    information_loss,
    labelled,
    matching_players,
    one_hot,
    wrong_labels,
)
from minigan.gan.latent import Latent
from minigan.gan.models import dcgan_discriminator, dcgan_generator
from minigan.gan.objectives import HINGE, NON_SATURATING
from minigan.gan.recipes import RECIPES
from minigan.gan.run import Training
from minigan.gan.train import Game, Player, train
from minigan.nn import BatchNorm2d, Conv2d, Module, Parameter
from minigan.optim import SGD
from minigan.random import Generator
from minigan.tensor import Tensor

Array = Any
PAIRS = ("cgan", "matching", "acgan", "projection")
N, NOISE, CLASSES, PIXELS = 7, 3, 4, 5
PRIOR = Latent(NOISE, (CLASSES,))


# ---- recipes ------------------------------------------------------------------------------------------------------


def digits(labels: Array | None) -> DataSet:
    rng = Generator(0, "images")
    images = rng.integers(256, (24, 28, 28, 1)).astype(np.uint8)
    return DataSet("noise", images, labels)


LABELS = (np.arange(24) % 10).astype(np.uint8)


def trained(name: str, *words: str, steps: int = 3) -> Training:
    recipe = RECIPES[name]
    training = Training(recipe, recipe.parse(["width=2", "batch_size=6", "latent=4", *words], "test"), digits(LABELS))
    train(training.game, training.parts.players, steps)
    return training


@pytest.mark.parametrize("name", [*PAIRS, "matching split=true", "infogan"])
def test_the_label_reaches_both_nets(name: str) -> None:
    """Another label, or category: another image, and, where D is told, another score."""
    training = trained(*name.split())
    G, D, prior = training.parts.nets["G"].eval(), training.parts.nets["D"].eval(), training.game.prior
    assert isinstance(prior, Latent)
    assert set(training.parts.nets) == {"G", "D"} | ({"D_real"} if "split" in name else set())
    codes = prior.draw(Generator(0, "codes"), 4)
    codes = prior.relabel(codes, np.zeros(4, int))
    other = prior.relabel(codes, np.full(4, 9))
    images, others = (G(Tensor(z)).array for z in (codes, other))
    assert (np.abs(images - others).max((1, 2, 3)) > 0).all()
    if name in ("acgan", "infogan"):
        assert D(Tensor(images)).shape == (4, 11 if name == "acgan" else 13)
    else:
        scores = [D(Tensor(images), one_hot(np.full(4, label), 10)).array for label in (0, 9)]
        assert scores[0].shape == (4, 1)
        assert (scores[0] != scores[1]).all()


LOGGED = {
    "cgan": {"d_real", "d_fake_before", "d_fake_after"},
    "matching": {"d_real", "d_fake_before", "d_fake_after", "d_wrong"},
    "acgan": {"d_real", "d_fake_before", "d_fake_after", "class_real", "class_fake"},
    "infogan": {"d_real", "d_fake_before", "d_fake_after", "information", "code_error"},
    "projection": {"score_real", "score_fake"},
}


@pytest.mark.parametrize("name", LOGGED)
def test_what_is_logged(name: str) -> None:
    rows: list[dict[str, float]] = []
    training = trained(name, steps=0)
    train(training.game, training.parts.players, 2, [lambda step, logs: rows.append(logs)])
    assert rows[1].keys() == {"d_loss", "g_loss", *LOGGED[name]}
    assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.parametrize("name", PAIRS)
def test_images_without_labels_are_refused(name: str) -> None:
    recipe = RECIPES[name]
    text = (
        f"{name} makes images of given labels, and noise has none; train on labelled images, or take a recipe that "
        "needs no labels (minigan list)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Training(recipe, recipe.parse([], "test"), digits(None))
    text = f"{name}: classes=9, but the labels of noise go up to 9; give classes=10"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Training(recipe, recipe.parse(["classes=9", "batch_size=6"], "test"), digits(LABELS))


def test_infogan_needs_no_labels() -> None:
    """And looks at none: with others it is the same to the bit."""
    recipe = RECIPES["infogan"]
    settings = recipe.parse(["width=2", "batch_size=6", "latent=4"], "test")
    weights = []
    for labels in (None, LABELS, LABELS[::-1].copy()):
        training = Training(recipe, settings, digits(labels))
        train(training.game, training.parts.players, 2)
        weights.append(np.concatenate([p.array.ravel() for p in training.parts.nets["G"].parameters()]))
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


def test_labels_are_those_of_the_images() -> None:
    """D's real pairs: each image with the label that the data set has of it."""
    data = digits(LABELS)
    images = data.images.copy()
    images[:] = 20 * LABELS.reshape(-1, 1, 1, 1)  # so that an image says what it is
    recipe = RECIPES["cgan"]
    training = Training(
        recipe, recipe.parse(["width=2", "batch_size=6", "latent=4"], "test"), replace_images(data, images)
    )
    seen: list[tuple[Array, Array]] = []
    D = training.parts.nets["D"]
    forward = D.forward
    D.forward = lambda x, c: seen.append((x.array, c.array)) or forward(x, c)  # type: ignore[method-assign, func-returns-value]
    train(training.game, training.parts.players, 5, capture=False)
    real = seen[::3]
    assert len(real) == 5
    for x, c in real:
        np.testing.assert_array_equal(np.rint((x[:, 0, 0, 0] + 1) * 127.5 / 20), c.argmax(1))


def replace_images(data: DataSet, images: Array) -> DataSet:
    return data._replace(images=images)


# ---- nets ---------------------------------------------------------------------------------------------------------


def test_a_labelled_convolution_sees_constant_maps() -> None:
    rng = Generator(0, "x")
    x, c = rng.normal((2, 6, 6, 3)), rng.normal((2, 4))
    layer = LabelledConv2d(Conv2d(3, 5, 4, 2, 1, bias=False), 4)
    assert layer.conv.bias is None
    whole = np.concatenate([x, np.tile(c[:, None, None], (1, 6, 6, 1))], 3)
    np.testing.assert_array_equal(layer(Tensor(x), Tensor(c)).array, layer.conv(Tensor(whole)).array)
    assert LabelledConv2d(Conv2d(3, 5, 1), 4).conv.bias is not None


def test_labelled_is_given_the_label_before_every_convolution() -> None:
    D = labelled(dcgan_discriminator(28, 1, 2), 3, Generator(0, "init"))
    shapes = [p.shape for name, p in D.named_parameters() if name.endswith("weight")]
    assert shapes == [(4, 4, 1 + 3, 2), (4, 4, 2 + 3, 4), (7, 7, 4 + 3, 1)]


def test_each_class_has_gains_of_its_own() -> None:
    """Of a net that sees no label otherwise: at first all are 0; then those of one class change that class only."""
    net = dcgan_generator(28, 1, 2, PRIOR.size)
    with net[1].weight.writing() as array:  # type: ignore[attr-defined]
        array[..., NOISE:] = 0
    G = ClassConditionalGenerator(net, PRIOR).eval()
    assert not any(isinstance(module, BatchNorm2d) for module in G.modules())
    codes = PRIOR.relabel(PRIOR.draw(Generator(0, "codes"), 2 * CLASSES), np.arange(2 * CLASSES) % CLASSES)
    plain = G(Tensor(codes)).array
    moved = PRIOR.relabel(codes, (np.arange(2 * CLASSES) + 1) % CLASSES)
    np.testing.assert_array_equal(G(Tensor(moved)).array, plain)
    for name, parameter in G.named_parameters():
        if name.endswith("gain.weight"):
            with parameter.writing() as array:
                array[2] = 1.0
    changed = (G(Tensor(codes)).array != plain).any((1, 2, 3))
    np.testing.assert_array_equal(changed, np.arange(2 * CLASSES) % CLASSES == 2)


def test_the_projection_is_an_inner_product() -> None:
    D = ProjectionDiscriminator(
        dcgan_discriminator(28, 1, 2, batch_norm=False), CLASSES, 6, Generator(0, "init"), Generator(0, "power")
    ).eval()
    x = Tensor(Generator(0, "x").normal((CLASSES, 28, 28, 1)))
    phi = D.phi(x).array
    psi, embed = D.psi.layer, D.embed.layer.weight.array
    sigma = np.linalg.svd(embed)[1][0]
    weight = psi.weight.array / np.linalg.norm(psi.weight.array)
    expected = phi @ weight + psi.bias.array + (embed / sigma * phi).sum(1, keepdims=True)  # type: ignore[union-attr]
    np.testing.assert_allclose(D(x, one_hot(np.arange(CLASSES), CLASSES)).array, expected, rtol=2e-3, atol=1e-6)


def test_a_label_begins_with_as_much_say_as_the_noise() -> None:
    """In the first layer: the deviation of what labels add is that of what noise adds."""
    prior = Latent(64, (10,))
    G = conditional_generator(28, 1, 8, prior, Generator(0, "init"))
    plain = dcgan_generator(28, 1, 8, prior.size, Generator(0, "init"))
    weight, before = G[1].weight.array, plain[1].weight.array  # type: ignore[attr-defined]
    np.testing.assert_array_equal(weight[..., :64], before[..., :64])
    np.testing.assert_allclose(weight[..., 64:], 8 * before[..., 64:], rtol=1e-6)
    codes = prior.draw(Generator(0, "codes"), 500)
    noise = codes[:, :64] @ weight[0, 0, :, :64].T
    labels = codes[:, 64:] @ weight[0, 0, :, 64:].T
    assert labels.std() == pytest.approx(noise.std(), rel=0.2)


# ---- losses -------------------------------------------------------------------------------------------------------


class Flat(Module):
    """G: images (N, 1, PIXELS, 1), linear in the code."""

    def __init__(self, size: int) -> None:
        self.weight = Parameter(Generator(0, "G").normal((size, PIXELS)))

    def forward(self, codes: Tensor) -> Tensor:
        return (codes @ self.weight).reshape(-1, 1, PIXELS, 1)


class Columns(Module):
    """D: so many numbers, linear in the image, and in the label if it is told one."""

    def __init__(self, outputs: int = 1, classes: int | None = None) -> None:
        rng = Generator(0, f"D {outputs} {classes}")
        self.weight = Parameter(rng.normal((PIXELS, outputs)))
        if classes is not None:
            self.of_label = Parameter(rng.normal((classes, outputs)))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        y = x.reshape(-1, PIXELS) @ self.weight
        return y if c is None else y + c @ self.of_label


def real_images() -> Iterator[Array]:
    rng = Generator(0, "real")
    while True:
        yield rng.normal((N, 1, PIXELS, 1))


def game(prior: Latent | int = PRIOR) -> Game:
    return Game(real_images(), Generator(0, "latent"), prior, N, labels_of_batch=lambda: np.arange(N) % CLASSES)


class Drawn:
    """What a player sees in its first update: x (N, PIXELS), labels, codes, their labels, G's pixels."""

    def __init__(self, G: Flat, prior: Latent = PRIOR) -> None:
        self.x = next(real_images()).reshape(N, PIXELS)
        self.codes = prior.draw(Generator(0, "latent"), N)
        self.y, self.c = np.arange(N) % CLASSES, prior.labels(self.codes)
        self.fakes = self.codes @ G.weight.array


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def surprise_of(logits: Array, labels: Array) -> float:
    """The mean of -log softmax at the labels."""
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]).mean())


def updates(players: list[Player], prior: Latent = PRIOR) -> list[tuple[float, dict[str, float]]]:
    """Loss and logs of each player, each in a game of its own; D's loss has no graph to G."""
    found = []
    for player in players:
        loss, logs = player.loss(game(prior))
        loss.backward()
        assert all(p.grad is not None for p in player.nets[0].parameters())
        if player.name == "d":
            assert all(p.grad is None for p in players[1].nets[0].parameters())
        found.append((loss.item(), logs))
    return found


def optimizers(*nets: Module) -> list[SGD]:
    return [SGD(net.parameters(), 0.1) for net in nets]


@pytest.mark.parametrize("objective", [NON_SATURATING, HINGE])
def test_the_losses_of_pairs(objective: Any) -> None:
    G, D = Flat(PRIOR.size), Columns(1, CLASSES)
    (d_loss, d_logs), (g_loss, g_logs) = updates(conditional_players(G, D, objective, *optimizers(G, D)))
    at, w, u = Drawn(G), D.weight.array, D.of_label.array
    real, fake = at.x @ w + u[at.y], at.fakes @ w + u[at.c]
    if objective is HINGE:
        assert d_loss == pytest.approx(np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean())
        assert g_loss == pytest.approx(-fake.mean())
        assert d_logs == pytest.approx({"score_real": real.mean(), "score_fake": fake.mean()})
        assert g_logs == {}
    else:
        assert d_loss == pytest.approx(softplus(-real).mean() + softplus(fake).mean())
        assert g_loss == pytest.approx(softplus(-fake).mean())
        assert d_logs == pytest.approx({"d_real": sigmoid(real).mean(), "d_fake_before": sigmoid(fake).mean()})
        assert g_logs == pytest.approx({"d_fake_after": sigmoid(fake).mean()})


@pytest.mark.parametrize("split", [False, True])
def test_the_losses_of_three_pairs(split: bool) -> None:
    G, D, alone = Flat(PRIOR.size), Columns(1, CLASSES), Columns()
    players = matching_players(G, D, *optimizers(G, D), Generator(0, "wrong"), alone if split else None)
    assert players[0].nets == ([D, alone] if split else [D])
    (d_loss, d_logs), (g_loss, g_logs) = updates(players)
    at, w, u = Drawn(G), D.weight.array, D.of_label.array
    other = wrong_labels(at.y, CLASSES, Generator(0, "wrong"))
    fits, fits_not, fake_fits = at.x @ w + u[at.y], at.x @ w + u[other], at.fakes @ w + u[at.c]
    assert d_logs["d_wrong"] == pytest.approx(sigmoid(fits_not).mean())
    expected = softplus(-fits).mean() + (softplus(fits_not).mean() + softplus(fake_fits).mean()) / 2
    if not split:
        assert g_loss == pytest.approx(softplus(-fake_fits).mean())
        real, fake = fits, fake_fits
    else:
        real, fake = at.x @ alone.weight.array, at.fakes @ alone.weight.array
        expected += softplus(-real).mean() + softplus(fake).mean()
        assert g_loss == pytest.approx(softplus(-fake_fits).mean() + softplus(-fake).mean())
    assert d_loss == pytest.approx(expected)
    assert (d_logs["d_real"], d_logs["d_fake_before"]) == pytest.approx((sigmoid(real).mean(), sigmoid(fake).mean()))
    assert g_logs == pytest.approx({"d_fake_after": sigmoid(fake).mean()})


@given(st.integers(2, 12), st.integers(0, 1000))
def test_wrong_labels_are_wrong(classes: int, seed: int) -> None:
    labels = Generator(seed, "labels").integers(classes, 40)
    found = wrong_labels(labels, classes, Generator(seed, "wrong"))
    assert (found != labels).all()
    assert found.min() >= 0
    assert found.max() < classes


def test_all_wrong_labels_are_alike() -> None:
    counts = np.bincount(wrong_labels(np.full(9000, 2), 4, Generator(0, "wrong")), minlength=4)
    assert counts[2] == 0
    np.testing.assert_allclose(counts[[0, 1, 3]], 3000, rtol=0.06)


@pytest.mark.parametrize(("weight", "from_fakes"), [(1.0, True), (0.3, True), (1.0, False)])
def test_the_losses_of_two_heads(weight: float, from_fakes: bool) -> None:
    G, D = Flat(PRIOR.size), Columns(1 + CLASSES)
    (d_loss, d_logs), (g_loss, g_logs) = updates(auxiliary_players(G, D, *optimizers(G, D), weight, from_fakes))
    at = Drawn(G)
    of_real, of_fake = at.x @ D.weight.array, at.fakes @ D.weight.array
    real, fake = of_real[:, 0], of_fake[:, 0]
    of_labels, of_codes = surprise_of(of_real[:, 1:], at.y), surprise_of(of_fake[:, 1:], at.c)
    reading = of_labels + of_codes if from_fakes else of_labels
    assert d_loss == pytest.approx(softplus(-real).mean() + softplus(fake).mean() + weight * reading)
    assert g_loss == pytest.approx(softplus(-fake).mean() + weight * of_codes)
    assert d_logs["class_real"] == (of_real[:, 1:].argmax(1) == at.y).mean()
    assert d_logs["class_fake"] == (of_fake[:, 1:].argmax(1) == at.c).mean()
    assert g_logs.keys() == {"d_fake_after"}


def test_the_losses_with_information() -> None:
    prior = Latent(NOISE, (3, 2), 2)
    G, D = Flat(prior.size), Columns(1 + 3 + 2 + 2)
    (d_loss, d_logs), (g_loss, _) = updates(info_players(G, D, *optimizers(G, D), 0.7), prior)
    at = Drawn(G, prior)
    real, of_fake = (at.x @ D.weight.array)[:, 0], at.fakes @ D.weight.array
    categories = sum(
        surprise_of(of_fake[:, columns], prior.labels(at.codes, which))
        for which, columns in enumerate((slice(1, 4), slice(4, 6)))
    )
    squares = (of_fake[:, 6:] - at.codes[:, -2:]) ** 2
    lost = categories + 0.5 * squares.sum(1).mean()
    assert d_loss == pytest.approx(softplus(-real).mean() + softplus(of_fake[:, 0]).mean() + 0.7 * lost)
    assert g_loss == pytest.approx(softplus(-of_fake[:, 0]).mean() + 0.7 * lost)
    assert d_logs["information"] == pytest.approx(log(6) - categories)
    assert d_logs["code_error"] == pytest.approx(squares.mean())


@given(st.integers(2, 10), st.integers(0, 3), st.integers(0, 1000), st.floats(0, 30))
def test_information_is_at_most_the_entropy(values: int, uniform: int, seed: int, scale: float) -> None:
    """Whatever D guesses; a guess that is sure and right reaches it, and one that knows nothing is at 0."""
    prior = Latent(2, (values,), uniform)
    codes = prior.draw(Generator(seed, "codes"), 20)
    guess = np.float32(scale) * Generator(seed, "guess").normal((20, values + uniform))
    assert information_loss(prior, Tensor(codes), Tensor(guess))[1]["information"] <= log(values) + 1e-6
    sure = 100 * codes[:, 2:]
    assert information_loss(prior, Tensor(codes), Tensor(sure))[1]["information"] == pytest.approx(log(values))
    assert information_loss(prior, Tensor(codes), Tensor(0 * guess))[1]["information"] == pytest.approx(0, abs=1e-6)


def test_information_is_what_a_noisy_image_tells() -> None:
    """An image that shows its category with probability .8: the best guess finds I(c; x), any other less."""
    K, right, count = 3, 0.8, 30_000
    prior, rng = Latent(1, (K,)), Generator(0, "channel")
    codes = prior.draw(rng, count)
    c = prior.labels(codes)
    seen = np.where(rng.uniform(count) < right, c, (c + 1 + rng.integers(K - 1, count)) % K)
    channel = np.full((K, K), (1 - right) / (K - 1))
    np.fill_diagonal(channel, right)
    mutual = log(K) + (channel[0] * np.log(channel[0])).sum()
    best = information_loss(prior, Tensor(codes), Tensor(np.log(channel)[seen]))[1]["information"]
    assert best == pytest.approx(mutual, abs=0.01)
    for power in (0.5, 2.0):
        assert (
            information_loss(prior, Tensor(codes), Tensor(power * np.log(channel)[seen]))[1]["information"]
            < best - 0.01
        )


@pytest.mark.parametrize("prior", [64, Latent(64), Latent(8, (), 2)])
def test_codes_without_a_category_are_refused(prior: Latent | int) -> None:
    G, D = Flat(prior if isinstance(prior, int) else prior.size), Columns(1, CLASSES)
    text = f"a conditional GAN needs codes with a category, Latent(noise, (classes,)), not {prior}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        conditional_players(G, D, NON_SATURATING, *optimizers(G, D))[0].loss(game(prior))


def test_a_game_without_labels_is_refused() -> None:
    G, D = Flat(PRIOR.size), Columns(1, CLASSES)
    without = replace(game(), labels_of_batch=None)
    with pytest.raises(ValueError, match="^these images have no labels, which a conditional GAN needs; "):
        conditional_players(G, D, NON_SATURATING, *optimizers(G, D))[0].loss(without)
