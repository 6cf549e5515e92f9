"""Penalties: independent oracles of their gradients, the points that they look at, and what goes wrong elsewhere."""

from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigan as mg
from minigan import nn
from minigan.gan import (
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    critic_updates,
    dcgan_discriminator,
    dcgan_generator,
    train,
    two_player,
)
from minigan.gan.penalties import (
    Penalty,
    dragan,
    grad_x,
    gradient_penalty,
    interpolates,
    norm_per_sample,
    r1,
    r2,
    sum_of,
    surroundings,
)
from minigan.optim import Adam, RMSprop
from minigan.random import Generator

Array = np.ndarray[Any, Any]


def draw(name: str, *shape: int) -> Array:
    return Generator(0, name).normal(shape, np.float64)


def penalties() -> dict[str, Penalty]:
    """All of them, with generators at their beginning."""
    return {
        "wgan-gp": partial(gradient_penalty, generator=Generator(0, "e")),
        "wgan-lp": partial(gradient_penalty, generator=Generator(0, "e"), one_sided=True),
        "dragan": partial(dragan, generator=Generator(0, "e")),
        "r1": r1,
        "r2": r2,
        "r1 + r2": sum_of(r1, r2),
    }


NAMES = pytest.mark.parametrize("name", penalties())


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


@pytest.mark.parametrize("length", [0.5, 1.5])
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_linear_critics_of_all_penalties(length: float, weight: float) -> None:
    """D(x) = <w, x>: every penalty is a function of |w|, with a gradient along w."""
    real, fake = draw("real", 3, 4), draw("fake", 3, 4)
    direction = draw("w", 4) / np.sqrt((draw("w", 4) ** 2).sum())
    excess = max(length - 1, 0.0)
    wanted = {
        "wgan-gp": ((length - 1) ** 2, 2 * (length - 1)),
        "wgan-lp": (excess**2, 2 * excess),
        "dragan": ((length - 1) ** 2, 2 * (length - 1)),
        "r1": (length**2 / 2, length),
        "r2": (length**2 / 2, length),
        "r1 + r2": (length**2, 2 * length),
    }
    for name, penalty in penalties().items():
        w = mg.Tensor(length * direction, requires_grad=True)
        if name == "r1 + r2":
            penalty = sum_of(partial(r1, weight=weight), partial(r2, weight=weight))
        else:
            penalty = partial(penalty, weight=weight)
        term, logs = penalty(lambda x, w=w: (x * w).sum(axis=1), real, fake)
        value, slope = wanted[name]
        assert term.item() == pytest.approx(weight * value, abs=1e-9), name
        assert logs == {"penalty": term.item(), "grad_norm": pytest.approx(length)}
        term.backward()
        np.testing.assert_allclose(w.grad, weight * slope * direction, atol=1e-9, err_msg=name)


@NAMES
def test_quadratic_critics(name: str) -> None:
    """D(x) = a |x|^2 / 2: the gradient is a x, so that the penalty shows at which points it was taken."""
    real, fake = draw("real", 5, 2, 3), 3 + draw("fake", 5, 2, 3)

    def norms(x: Array) -> Array:
        return np.asarray(0.5 * np.sqrt((x**2).sum(axis=(1, 2))))

    between, around = interpolates(real, fake, Generator(0, "e")), surroundings(real, Generator(0, "e"))
    points = {"wgan-gp": between, "wgan-lp": between, "dragan": around, "r1": real, "r2": fake}
    wanted = {
        "wgan-gp": 10 * ((norms(between) - 1) ** 2).mean(),
        "wgan-lp": 10 * (np.maximum(norms(between) - 1, 0) ** 2).mean(),
        "dragan": 10 * ((norms(around) - 1) ** 2).mean(),
        "r1": 5 * (norms(real) ** 2).mean(),
        "r2": 5 * (norms(fake) ** 2).mean(),
    }
    wanted["r1 + r2"] = wanted["r1"] + wanted["r2"]
    norm = norms(points[name]).mean() if name in points else (norms(real).mean() + norms(fake).mean()) / 2
    term, logs = penalties()[name](lambda x: 0.25 * (x * x).sum(axis=(1, 2)), real, fake)
    assert term.item() == pytest.approx(wanted[name])
    assert logs == {"penalty": term.item(), "grad_norm": pytest.approx(norm)}


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


@NAMES
def test_penalty_of_smooth_critics_by_differences(name: str) -> None:
    """Finite differences of the whole penalty, by each weight of a critic without kinks."""
    D = nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), nn.Tanh(), nn.LayerNorm(2), nn.Flatten(), nn.Linear(18, 1)).astype(
        np.float64
    )
    real, fake = draw("real", 3, 3, 3, 1), draw("fake", 3, 3, 3, 1)
    weights = [3 * p.array for p in D.parameters()]  # so steep that the one-sided penalty is not 0

    def penalty(*values: mg.Tensor) -> mg.Tensor:
        conv, conv_bias, gain, shift, linear, linear_bias = values

        def critic(x: mg.Tensor) -> mg.Tensor:
            h = mg.ops.layer_norm(mg.ops.tanh(mg.ops.conv2d(x, conv, conv_bias, padding=1)), gain, shift)
            return mg.ops.linear(h.reshape(3, -1), linear, linear_bias)

        return penalties()[name](critic, real, fake)[0]

    assert penalty(*map(mg.Tensor, weights)).item() > 1e-3
    mg.gradcheck(penalty, weights)


@NAMES
def test_gradients_of_penalties_by_differences(name: str) -> None:
    """The gradient of a penalty can be differentiated once more."""
    real, fake = draw("real", 3, 2), draw("fake", 3, 2)

    def penalty(hidden: mg.Tensor, out: mg.Tensor) -> mg.Tensor:
        return penalties()[name](lambda x: mg.ops.tanh(x @ hidden) @ out, real, fake)[0]

    weights = [2 * draw("hidden", 2, 3), 2 * draw("out", 3, 1)]
    assert penalty(*map(mg.Tensor, weights)).item() > 1e-3
    mg.gradcheck(penalty, weights)
    mg.gradgradcheck(penalty, weights)


@NAMES
def test_against_pytorch(name: str) -> None:
    """The penalty as its authors write it, and its gradient by each weight."""
    torch = pytest.importorskip("torch")
    D = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    for i, p in enumerate(D.parameters()):
        nn.init.normal_(p, 0.0, 0.6, Generator(i, "init"))
    D.astype(np.float64)
    real, fake = draw("real", 7, 6), 1 + draw("fake", 7, 6)
    weights = [torch.tensor(p.array, requires_grad=True) for p in D.parameters()]

    def theirs(points: Array) -> Any:
        x = torch.tensor(points, requires_grad=True)
        h = torch.nn.functional.softplus(x @ weights[0] + weights[1])
        h = torch.nn.functional.leaky_relu(h @ weights[2] + weights[3], 0.2)
        score = h @ weights[4] + weights[5]
        return torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)[0]

    e = Generator(0, "e").uniform((7, 1)).astype(np.float64)
    between = e * real + (1 - e) * fake
    one = Generator(0, "e")
    noisy = real + 0.5 * real.std() * one.uniform((7, 6)).astype(np.float64)
    share = one.uniform((7, 1)).astype(np.float64)
    around = real + share * (noisy - real)
    wanted = {
        "wgan-gp": lambda: 10 * ((theirs(between).norm(2, dim=1) - 1) ** 2).mean(),
        "wgan-lp": lambda: 10 * (torch.clamp(theirs(between).norm(2, dim=1) - 1, min=0) ** 2).mean(),
        "dragan": lambda: 10 * ((theirs(around).norm(2, dim=1) - 1) ** 2).mean(),
        "r1": lambda: 5 * theirs(real).pow(2).sum(dim=1).mean(),
        "r2": lambda: 5 * theirs(fake).pow(2).sum(dim=1).mean(),
        "r1 + r2": lambda: 5 * (theirs(real).pow(2).sum(dim=1) + theirs(fake).pow(2).sum(dim=1)).mean(),
    }[name]()
    term, _ = penalties()[name](D, real, fake)
    assert term.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert term.item() > 1e-3
    wanted.backward()
    for mine, their in zip(gradients_of(term, D), weights, strict=True):
        np.testing.assert_allclose(mine, 0 if their.grad is None else their.grad.numpy(), rtol=1e-8, atol=1e-10)


@NAMES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_all_zero_critic_gives_no_nan(dtype: Any, name: str) -> None:
    """|g| = 0 everywhere, where sqrt has no derivative: the penalty is lambda or 0, and no weight gets a NaN."""
    D = conv_critic().astype(dtype)
    for p in D.parameters():
        nn.init.constant_(p, 0.0)
    real, fake = draw("real", 4, 8, 8, 1).astype(dtype), draw("fake", 4, 8, 8, 1).astype(dtype)
    penalty, logs = penalties()[name](D, real, fake)
    np.testing.assert_allclose(penalty.item(), 10 if name in ("wgan-gp", "dragan") else 0, rtol=1e-5)
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


def test_the_surroundings_of_reals() -> None:
    """x + e s u / 2: one e a sample, one u a number, never below x, and s of the whole batch."""
    real = 5 * np.eye(2000, 3) + draw("real", 2000, 3)
    step = surroundings(real, Generator(0, "e")) - real
    share = step / (real.std() / 2)
    assert share.min() >= 0
    assert 0.95 < share.max() < 1
    e = share.max(axis=1)
    assert len(np.unique(e)) == 2000
    np.testing.assert_allclose([share.mean(), share.std()], [1 / 4, np.sqrt(1 / 9 - 1 / 16)], atol=0.01)
    assert np.corrcoef(share[:, 0], share[:, 1])[0, 1] == pytest.approx((1 / 48) / (7 / 144), abs=0.05)  # they share e
    np.testing.assert_array_equal(surroundings(np.ones((4, 2)), Generator(0, "e")), np.ones((4, 2)))


def test_points_are_the_same_in_both_precisions() -> None:
    real, fake = draw("real", 6, 3).astype(np.float32), draw("fake", 6, 3).astype(np.float32)
    for make in (partial(interpolates, real, fake), partial(surroundings, real)):
        assert make(Generator(0, "e")).dtype == np.float32
    double = real.astype(np.float64)
    np.testing.assert_allclose(
        surroundings(real, Generator(0, "e")), surroundings(double, Generator(0, "e")), rtol=1e-5, atol=1e-6
    )


@NAMES
def test_who_is_not_looked_at(name: str) -> None:
    """DRAGAN and R1 never read the fakes, R2 never reads the reals."""
    real, nothing = draw("real", 4, 3), np.full((4, 3), np.nan)

    def square(x: mg.Tensor) -> mg.Tensor:
        return (x * x).sum(axis=1)

    values = [penalties()[name](square, *pair)[0].item() for pair in ((real, nothing), (nothing, real))]
    assert list(np.isfinite(values)) == [name in ("dragan", "r1"), name == "r2"]


@NAMES
def test_one_random_stream(name: str) -> None:
    """Chance comes from the generator that was given, and from no other; R1 and R2 need none."""
    real, fake, generator = draw("real", 4, 3), draw("fake", 4, 3), Generator(0, "e")
    penalty = penalties()[name]
    chance = isinstance(penalty, partial)
    if isinstance(penalty, partial):
        penalty = partial(penalty, generator=generator)
    mg.manual_seed(0)
    before = {key: mg.random.stream(key).counter for key in ("init", "dropout")}
    w = mg.Tensor(2 * draw("w", 3, 1))

    def D(x: mg.Tensor) -> mg.Tensor:  # noqa: N802
        return mg.ops.tanh(x @ w) * 2

    drawn = [penalty(D, real, fake)[0].item() for _ in range(2)]
    assert (drawn[0] != drawn[1]) == chance == (generator.counter > 0)
    assert {key: mg.random.stream(key).counter for key in before} == before
    if chance:
        generator.load_state_dict(Generator(0, "e").state_dict())
        assert [penalty(D, real, fake)[0].item() for _ in range(2)] == drawn


def test_scores_of_either_shape() -> None:
    w = mg.Tensor(draw("w", 6, 1))
    x = draw("x", 5, 6)
    column, row = grad_x(lambda x: x @ w, x), grad_x(lambda x: (x @ w).reshape(-1), x)
    np.testing.assert_array_equal(column.array, row.array)
    np.testing.assert_allclose(column.array, np.repeat(w.array.T, 5, 0))


@NAMES
def test_a_critic_with_batch_norm_is_refused(name: str) -> None:
    images = np.zeros((2, 28, 28, 1), np.float32)
    message = (
        "gradient penalty: module 3 of the critic is BatchNorm2d, which makes a score depend on the whole batch, so "
        "that no sample has a gradient of its own; leave it out; in place of a batch norm take LayerNorm, or none "
        r"\(dcgan_discriminator\(..., batch_norm=False\)\)"
    )
    with pytest.raises(ValueError, match=message):
        penalties()[name](dcgan_discriminator(28, 1, 2), images, images)
    for allowed in (dcgan_discriminator(28, 1, 2, batch_norm=False), nn.Sequential(nn.LayerNorm(1), nn.Flatten())):
        assert np.isfinite(penalties()[name](allowed, images, images)[0].item())


# ---- in training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dragan", "r1", "r1 + r2"])
def test_penalties_of_logits_in_training(name: str) -> None:
    """An ordinary GAN whose D is penalized: everything is logged, and D's loss contains the penalty."""
    mg.manual_seed(0)
    G, D, data = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), Generator(0, "data")
    game = Game((data.normal((16, 2)) for _ in repeat(None)), Generator(0, "latent"), 2, 16)
    players = two_player(
        G, D, NON_SATURATING, Adam(G.parameters()), Adam(D.parameters(), 0.0), penalty=penalties()[name]
    )
    rows: list[dict[str, float]] = []
    train(game, players, 2, [lambda step, logs: rows.append(logs)])
    assert set(rows[0]) == {"d_loss", "g_loss", "d_real", "d_fake_before", "d_fake_after", "penalty", "grad_norm"}
    assert all(row["d_loss"] - row["penalty"] == pytest.approx(1.4, abs=0.3) for row in rows)
    assert all(row["penalty"] > 0 for row in rows)


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
