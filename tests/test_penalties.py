"""The gradient penalty: three independent oracles of its gradient, and what goes wrong elsewhere."""

from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigan as mg
from minigan import nn
from minigan.gan import WASSERSTEIN, Game, critic_updates, dcgan_discriminator, dcgan_generator, train, two_player
from minigan.gan.penalties import grad_x, gradient_penalty, interpolates, norm_per_sample
from minigan.optim import Adam, RMSprop
from minigan.random import Generator

Array = np.ndarray[Any, Any]


def draw(name: str, *shape: int) -> Array:
    return Generator(0, name).normal(shape, np.float64)


# ---- the gradient of the penalty -----------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.floats(0.1, 20))
def test_linear_critic_in_closed_form(n: int, size: int, channels: int, weight: float) -> None:
    """D(x) = <w, x>: the penalty is lambda (|w| - 1)^2 whatever x is, its gradient 2 lambda (|w| - 1) w / |w|."""
    shape = (size, size, channels)
    w = mg.Tensor(draw("w", *shape), requires_grad=True)
    penalty, logs = gradient_penalty(
        lambda x: (x * w).sum(axis=(1, 2, 3)),
        draw("real", n, *shape),
        draw("fake", n, *shape),
        Generator(0, "e"),
        weight,
    )
    norm = float(np.sqrt((w.array**2).sum()))
    np.testing.assert_allclose(penalty.item(), weight * (norm - 1) ** 2, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(logs["grad_norm"], norm, rtol=1e-9)
    assert logs["penalty"] == penalty.item()
    penalty.backward()
    np.testing.assert_allclose(w.grad, 2 * weight * (norm - 1) * w.array / norm, rtol=1e-8, atol=1e-8)


def conv_critic(channels: int = 1) -> nn.Sequential:
    """Piecewise linear, 8x8 images, with gradients of norms around 1."""
    D = nn.Sequential(
        nn.Conv2d(channels, 3, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(3, 5, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(5, 1, 2), nn.Flatten(),
    )  # fmt: skip
    for i, p in enumerate(D.parameters()):
        nn.init.normal_(p, 0.0, 0.3, Generator(i, "init"))
    return D.astype(np.float64)


def gradients_of(loss: mg.Tensor, D: nn.Module) -> list[Array]:
    D.zero_grad()
    loss.backward()
    return [np.zeros(p.shape) if p.grad is None else p.grad for p in D.parameters()]


@pytest.mark.parametrize("channels", [1, 3])
def test_penalty_by_frozen_masks(channels: int) -> None:
    """d D / d x of a piecewise-linear net, written forwards: transposed convolutions and constant masks.

    Its penalty needs first-order differentiation only, and must have the gradient that double backward gives.
    """
    D = conv_critic(channels)
    x = draw("x", 4, 8, 8, channels)
    masks, h = [], mg.Tensor(x)
    for layer in D:
        if isinstance(layer, nn.LeakyReLU):
            masks.append(mg.Tensor(np.where(h.array > 0, 1.0, 0.2)))
        h = layer(h)
    first, second, last = D[0].weight, D[2].weight, D[4].weight
    g = mg.ops.conv_transpose2d(mg.Tensor(np.ones((4, 1, 1, 1))), last, stride=1) * masks[1]
    g = mg.ops.conv_transpose2d(g, second, stride=2, padding=1) * masks[0]
    g = mg.ops.conv_transpose2d(g, first, stride=2, padding=1)
    np.testing.assert_allclose(grad_x(D, x).array, g.array, rtol=1e-12, atol=1e-14)

    wanted = gradients_of(((norm_per_sample(g) - 1) ** 2).mean(), D)
    got = gradients_of(((norm_per_sample(grad_x(D, x)) - 1) ** 2).mean(), D)
    assert max(abs(a).max() for a in wanted) > 1e-2
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-13)


def test_norm_by_two_forward_passes() -> None:
    """With v = g / |g| held, d |g| / d theta = d/d theta (D(x + h v) - D(x - h v)) / 2h: exact where D is linear."""
    D, x, h = conv_critic(), draw("x", 4, 8, 8, 1), 1e-6
    g = grad_x(D, x).array
    v = g / np.sqrt((g**2).sum((1, 2, 3), keepdims=True))
    wanted = gradients_of((D(mg.Tensor(x + h * v)) - D(mg.Tensor(x - h * v))).sum() / (2 * h), D)
    got = gradients_of(norm_per_sample(grad_x(D, x)).sum(), D)
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)


def test_penalty_of_smooth_critics_by_differences() -> None:
    """Finite differences of the whole penalty, by each weight of a critic without kinks."""
    D = nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), nn.Tanh(), nn.LayerNorm(2), nn.Flatten(), nn.Linear(18, 1)).astype(
        np.float64
    )
    real, fake = draw("real", 3, 3, 3, 1), draw("fake", 3, 3, 3, 1)
    weights = [p.array.copy() for p in D.parameters()]

    def penalty(*values: mg.Tensor) -> mg.Tensor:
        conv, conv_bias, gain, shift, linear, linear_bias = values

        def critic(x: mg.Tensor) -> mg.Tensor:
            h = mg.ops.layer_norm(mg.ops.tanh(mg.ops.conv2d(x, conv, conv_bias, padding=1)), gain, shift)
            return mg.ops.linear(h.reshape(3, -1), linear, linear_bias)

        return gradient_penalty(critic, real, fake, Generator(0, "e"))[0]

    mg.gradcheck(penalty, weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_all_zero_critic_gives_no_nan(dtype: Any) -> None:
    """|g| = 0 everywhere, where sqrt has no derivative: the penalty is lambda, and no weight gets a NaN."""
    D = conv_critic().astype(dtype)
    for p in D.parameters():
        nn.init.constant_(p, 0.0)
    real, fake = draw("real", 4, 8, 8, 1).astype(dtype), draw("fake", 4, 8, 8, 1).astype(dtype)
    penalty, logs = gradient_penalty(D, real, fake, Generator(0, "e"))
    np.testing.assert_allclose(penalty.item(), 10, rtol=1e-5)
    assert logs["grad_norm"] < 1e-5
    for g in gradients_of(penalty, D):
        assert np.isfinite(g).all()
    Adam(D.parameters()).step()
    assert all(np.isfinite(p.array).all() for p in D.parameters())


# ---- what the penalty looks at ---------------------------------------------------------------------------------------


def test_the_norm_is_over_all_pixels_of_a_sample() -> None:
    g = draw("g", 5, 4, 4, 3)
    wanted = np.sqrt((g**2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(norm_per_sample(mg.Tensor(g)).array, wanted, rtol=1e-9)


@given(st.integers(1, 8), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_one_epsilon_a_sample(n: int, shape: list[int]) -> None:
    real, fake = np.ones((n, *shape)), np.zeros((n, *shape))
    e = interpolates(real, fake, Generator(0, "e")).reshape(n, -1)
    assert (e == e[:, :1]).all()
    assert ((e >= 0) & (e < 1)).all()
    assert len(np.unique(e[:, 0])) == n


def test_interpolates_lie_between() -> None:
    real, fake = draw("real", 1000, 1), draw("fake", 1000, 1)
    x = interpolates(real, fake, Generator(0, "e"))
    share = (x - fake) / (real - fake)
    np.testing.assert_allclose([share.mean(), share.std()], [0.5, np.sqrt(1 / 12)], atol=0.03)
    with pytest.raises(ValueError, match=r"real samples are \(1000, 1\), but fakes are \(999, 1\); draw equally many"):
        interpolates(real, fake[1:], Generator(0, "e"))


def test_scores_of_either_shape() -> None:
    w = mg.Tensor(draw("w", 6, 1))
    x = draw("x", 5, 6)
    column, row = grad_x(lambda x: x @ w, x), grad_x(lambda x: (x @ w).reshape(-1), x)
    np.testing.assert_array_equal(column.array, row.array)
    np.testing.assert_allclose(column.array, np.repeat(w.array.T, 5, 0))


def test_a_critic_with_batch_norm_is_refused() -> None:
    images = np.zeros((2, 28, 28, 1), np.float32)
    message = (
        "gradient penalty: module 3 of the critic is BatchNorm2d, which makes a score depend on the whole batch, so "
        r"that no sample has a gradient of its own; leave it out \(dcgan_discriminator\(..., batch_norm=False\)\) or "
        "take LayerNorm"
    )
    with pytest.raises(ValueError, match=message):
        gradient_penalty(dcgan_discriminator(28, 1, 2), images, images, Generator(0, "e"))
    for allowed in (dcgan_discriminator(28, 1, 2, batch_norm=False), nn.Sequential(nn.LayerNorm(1), nn.Flatten())):
        assert np.isfinite(gradient_penalty(allowed, images, images, Generator(0, "e"))[0].item())


# ---- in training ---------------------------------------------------------------------------------------------------


def wgan(size: int, channels: int, penalized: bool = True) -> tuple[Game, nn.Sequential, nn.Sequential, Any]:
    init, data = Generator(0, "init"), Generator(0, "data")
    G = dcgan_generator(size, channels, 2, 8, init)
    D = dcgan_discriminator(size, channels, 2, init, batch_norm=not penalized)
    game = Game((data.normal((4, size, size, channels)) for _ in repeat(None)), Generator(0, "latent"), 8, 4)
    if penalized:
        g, d = Adam(G.parameters(), 1e-3, (0.5, 0.9)), Adam(D.parameters(), 1e-3, (0.5, 0.9))
        rule = {"penalty": partial(gradient_penalty, generator=Generator(0, "e"))}
    else:
        g, d = RMSprop(G.parameters(), 1e-3), RMSprop(D.parameters(), 1e-3)
        rule = {"clip": 0.01}
    return game, G, D, two_player(G, D, WASSERSTEIN, g, d, d_updates=critic_updates(5), **rule)


@pytest.mark.parametrize("penalized", [True, False], ids=["wgan-gp", "wgan-clip"])
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [28, 64])
def test_grey_and_colour(size: int, channels: int, penalized: bool) -> None:
    game, G, D, players = wgan(size, channels, penalized)
    rows: list[dict[str, float]] = []
    train(game, players, 2, [lambda step, logs: rows.append(logs)])
    extra = {"penalty"} if penalized else {"clip_share"}
    assert set(rows[-1]) == {"d_loss", "g_loss", "w_estimate", "grad_norm"} | extra
    assert np.isfinite([list(row.values()) for row in rows]).all()
    last = rows[-1]
    np.testing.assert_allclose(last["d_loss"], last.get("penalty", 0.0) - last["w_estimate"], rtol=1e-4, atol=1e-6)
    if not penalized:
        assert max(abs(p.array).max() for p in D.parameters()) <= np.float32(0.01)
        assert max(abs(p.array).max() for p in G.parameters()) > 0.01
