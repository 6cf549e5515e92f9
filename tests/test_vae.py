"""The autoencoders among the recipes: their losses by other routes, and whom each gradient reaches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minigan.data import DataSet
from minigan.gan import train
from minigan.gan.recipes import RECIPES
from minigan.gan.recipes.autoencoder import squared_error
from minigan.gan.recipes.vae import kl_divergence, posterior, sampled_codes
from minigan.gan.run import Training
from minigan.gan.train import Logs
from minigan.random import Generator
from minigan.tensor import Array, Tensor

rng = np.random.default_rng(0)
DATA = DataSet("noise", rng.integers(0, 256, (30, 28, 28, 1)).astype(np.uint8), None, None, None)


def training(*words: str, data: DataSet = DATA) -> Training:
    name, *more = words
    tiny = ["width=2", "batch_size=4", "latent=3", "steps=10", *more]
    return Training(RECIPES[name], RECIPES[name].parse(tiny, "test"), data)


def trained(t: Training, steps: int) -> list[Logs]:
    rows: list[Logs] = []
    train(t.game, t.parts.players, steps, [lambda step, logs: rows.append(logs)])
    return rows


def normal_log_density(x: Array, mean: Array, covariance: Array) -> Array:
    """(N,) of rows x (N, n)."""
    d = x - mean
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    density: Array = -0.5 * (log_determinant + (d @ np.linalg.inv(covariance) * d).sum(-1))
    return density


def test_divergence_is_that_of_gaussians() -> None:
    """E_q [log q(z) - log p(z)], over 400,000 draws."""
    mean, log_variance = Tensor(np.array([[0.5, -1.0, 2.0]])), Tensor(np.array([[-1.0, 0.3, -3.0]]))
    z = mean.array + np.exp(log_variance.array / 2) * np.random.default_rng(1).normal(size=(400_000, 3))
    log_q = normal_log_density(z, mean.array, np.diag(np.exp(log_variance.array[0])))
    log_p = normal_log_density(z, np.zeros(3), np.eye(3))
    assert kl_divergence(mean, log_variance).item() == pytest.approx((log_q - log_p).mean(), abs=0.01)
    zero = Tensor(np.zeros((5, 3)))
    assert kl_divergence(zero, zero).item() == 0


def test_divergence_is_the_mean_over_images() -> None:
    a, b = Tensor(rng.normal(size=(4, 3))), Tensor(rng.normal(size=(4, 3)))
    rows = [kl_divergence(a[i : i + 1], b[i : i + 1]).item() for i in range(4)]
    assert kl_divergence(a, b).item() == pytest.approx(np.mean(rows))


def test_drawn_codes_have_mean_and_variance() -> None:
    N = 20_000
    mean, log_variance = Tensor(np.tile([1.0, -2.0], (N, 1))), Tensor(np.tile([0.0, np.log(0.25)], (N, 1)))
    z = sampled_codes(mean, log_variance, Generator(0, "test")).array
    assert z.mean(0) == pytest.approx([1, -2], abs=0.03)
    assert z.std(0) == pytest.approx([1, 0.5], abs=0.02)


def test_gradients_reach_both_halves_of_the_posterior() -> None:
    """d z / d mean = 1 and d z / d log variance = (z - mean) / 2."""
    mean, log_variance = Tensor(np.ones((3, 2)), requires_grad=True), Tensor(np.full((3, 2), -1.0), requires_grad=True)
    z = sampled_codes(mean, log_variance, Generator(0, "test"))
    z.sum().backward()
    assert np.array_equal(mean.grad, np.ones((3, 2)))
    assert log_variance.grad == pytest.approx((z.array - 1) / 2)


def test_squared_error_is_a_gaussians_log_likelihood() -> None:
    x, y = rng.normal(size=(2, 5, 28, 28, 1))
    by_density = [-normal_log_density(a.ravel(), b.ravel(), np.eye(784)) for a, b in zip(x, y, strict=True)]
    constant = 784 / 2 * np.log(2 * np.pi)
    assert squared_error(Tensor(x), Tensor(y)).item() == pytest.approx(np.mean(by_density) - constant, rel=1e-9)


def elbo_of(x: Array, W: Array, sigma: float, mean: Array, log_variance: Array) -> float:
    """By the recipe's functions and 200,000 codes: of one x (n,) under x = W z + sigma e, and a posterior (2,)."""
    N = 200_000
    m, v = Tensor(np.tile(mean, (N, 1))), Tensor(np.tile(log_variance, (N, 1)))
    z = sampled_codes(m, v, Generator(0, "elbo"))
    error = squared_error(Tensor(np.tile(x, (N, 1))), z @ Tensor(W.T)) / sigma**2
    constant = len(x) / 2 * np.log(2 * np.pi * sigma**2)
    return -(error + kl_divergence(m, v)).item() - float(constant)


def test_elbo_is_below_the_likelihood_and_meets_it_at_the_posterior() -> None:
    """In a model whose likelihood is known: p(x) = N(0, W W' + sigma^2 I). W's columns are orthogonal, so that the
    posterior is diagonal."""
    sigma, W = 0.5, np.array([[1.0, 1.0], [2.0, -0.5], [0.0, 0.7]])
    assert W[:, 0] @ W[:, 1] == 0
    x = np.array([0.4, -1.0, 0.8])
    likelihood = float(normal_log_density(x[None], np.zeros(3), W @ W.T + sigma**2 * np.eye(3))[0])
    variance = 1 / (1 + (W**2).sum(0) / sigma**2)
    mean = variance * (x @ W) / sigma**2
    assert elbo_of(x, W, sigma, mean, np.log(variance)) == pytest.approx(likelihood, abs=0.01)
    for shift, scale in ((0.3, 1.0), (0.0, 2.0), (-0.2, 0.5)):
        gap = 0.5 * (scale - 1 - np.log(scale) + shift**2 / variance).sum()  # KL(q, posterior)
        found = elbo_of(x, W, sigma, mean + shift, np.log(variance * scale))
        assert found == pytest.approx(likelihood - gap, abs=0.03)
        assert found < likelihood


def by_hand(t: Training, codes: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Reconstruction and KL of the first batch, by NumPy; the nets' buffers move."""
    x = Tensor.of(t.game.images())
    mean, log_variance = posterior(t.parts.nets["E"], x)
    rebuilt = t.parts.nets["G"](codes(mean, log_variance)).array.astype(float)
    m, v = mean.array.astype(float), log_variance.array.astype(float)
    return (
        float(((x.array - rebuilt) ** 2).sum() / 2 / len(rebuilt)),
        float((m**2 + np.exp(v) - v - 1).sum() / 2 / len(rebuilt)),
    )


def test_vae_minimises_minus_the_elbo() -> None:
    (row,) = trained(training("vae", "sigma=0.5"), 1)
    stream = Generator(0, "posterior")
    error, kl = by_hand(training("vae", "sigma=0.5"), lambda m, v: sampled_codes(m, v, stream))
    assert row["reconstruction"] == pytest.approx(4 * error, rel=1e-4)
    assert row["kl"] == pytest.approx(kl, rel=1e-3)
    assert row["g_loss"] == pytest.approx(row["reconstruction"] + row["kl"], rel=1e-6)


def test_vae_learns_to_rebuild() -> None:
    flat = np.broadcast_to(rng.integers(0, 256, (30, 1, 1, 1)), (30, 28, 28, 1)).astype(np.uint8)
    rows = trained(training("vae", "lr=0.01", data=DATA._replace(images=flat)), 60)
    assert np.mean([row["g_loss"] for row in rows[-5:]]) < 0.5 * rows[0]["g_loss"]


def weights_after(t: Training, steps: int = 1) -> dict[str, dict[str, Any]]:
    trained(t, steps)
    return {name: {k: p.array.copy() for k, p in net.named_parameters()} for name, net in t.parts.nets.items()}


def test_vae_gans_gradients_go_where_the_paper_sends_them() -> None:
    """The weight of the error is in G's loss only."""
    light, heavy = weights_after(training("vae-gan")), weights_after(training("vae-gan", "error_weight=1000"))
    start = weights_after(training("vae-gan"), 0)
    for name in ("D", "E"):
        assert all(np.array_equal(light[name][key], heavy[name][key]) for key in light[name])
        assert any(not np.array_equal(light[name][key], start[name][key]) for key in light[name])
    assert any(not np.array_equal(light["G"][key], heavy["G"][key]) for key in light["G"])


def test_vae_gans_losses_by_hand() -> None:
    """D tells images from both kinds of fakes. E has the error, in D's features, and the KL divergence. G has the
    error, by its weight, and shall fool D by both kinds."""
    t = training("vae-gan", "error_weight=0.3")
    for net in t.parts.nets.values():
        for p in net.parameters():
            with p.writing() as array:
                array *= 2  # no term is small beside the others
    G, D, E = (t.parts.nets[name] for name in "GDE")
    codes, latent = Generator(0, "posterior"), Generator(0, "latent")
    x = next(training("vae-gan").real)
    found = [player.loss(t.game) for player in t.parts.players]

    def outputs() -> tuple[float, float, dict[str, Array]]:
        """Of one player's turn: error, KL divergence, and D's outputs for each kind of images."""
        mean, log_variance = posterior(E, Tensor.of(x))
        images = {"real": Tensor.of(x), "rebuilt": G(sampled_codes(mean, log_variance, codes))}
        maps = dict(images)
        for layer in D.layers[:-2]:  # type: ignore[attr-defined]
            maps = {kind: layer(value) for kind, value in maps.items()}
        a, b = (value.array.astype(float) for value in maps.values())
        m, v = mean.array.astype(float), log_variance.array.astype(float)
        logits = {kind: D(value).array.astype(float) for kind, value in images.items()}
        return ((a - b) ** 2).sum() / 2 / 4, (m**2 + np.exp(v) - v - 1).sum() / 2 / 4, logits

    def surprise(logits: Array) -> float:
        """The mean of -log sigmoid."""
        return float(np.logaddexp(0, -logits).mean())

    def fakes() -> Array:
        return D(G(Tensor.of(latent.normal((4, 3))))).array.astype(float)

    _, _, seen = outputs()
    d_loss = surprise(seen["real"]) + surprise(-seen["rebuilt"]) + surprise(-fakes())
    error, kl, _ = outputs()
    assert found[1][1] == pytest.approx({"reconstruction": error, "kl": kl}, rel=1e-5)
    e_loss = error + kl
    error, _, seen = outputs()
    g_loss = 0.3 * error + surprise(seen["rebuilt"]) + surprise(fakes())
    assert [player.name for player in t.parts.players] == ["d", "e", "g"]
    assert [loss.item() for loss, _ in found] == pytest.approx([d_loss, e_loss, g_loss], rel=1e-5)


def test_autoencoder_has_no_random_codes_in_training() -> None:
    t = training("autoencoder")
    trained(t, 3)
    assert t.game.latent.counter == 0
    assert t.generate(t.game.z().array).shape == (4, 28, 28, 1)
