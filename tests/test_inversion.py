"""Inverting generators: one whose best answer has a closed form, and small ones whose own images are the targets."""

import json
import re
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minigan as mg
from minigan.cli.measure import measure
from minigan.data import DataSet, triangles
from minigan.gan import dcgan_generator, inversion
from minigan.gan.inversion import invert, measure_triangles
from minigan.gan.recipes import RECIPES
from minigan.gan.recipes.gan import Settings
from minigan.gan.sampling import generate
from minigan.metrics.triangles import DELTA
from minigan.nn import BatchNorm2d, ConvTranspose2d, Linear, Module, ReLU, Sequential, Tanh, Unflatten
from minigan.random import Generator

Array = np.typing.NDArray[Any]


class Plane(Module):
    """z (N, latent) -> images (N, size, size, 1), linear."""

    def __init__(self, rows: Array, size: int, offset: Any = 0.0) -> None:
        self.linear = Linear(len(rows), size * size)
        self.linear.load_state_dict({"weight": rows, "bias": np.broadcast_to(np.float32(offset), size * size)})
        self.size = size

    def forward(self, *args: Any, **kwargs: Any) -> mg.Tensor:
        y: mg.Tensor = self.linear(args[0])
        return y.reshape(-1, self.size, self.size, 1)


def tiny(latent: int = 3) -> Sequential:
    """To images of 8x8 pixels."""
    mg.manual_seed(1)
    return Sequential(
        Unflatten(1, 1, latent),
        ConvTranspose2d(latent, 8, 4, bias=False),
        BatchNorm2d(8),
        ReLU(),
        ConvTranspose2d(8, 1, 4, 2, 1),
        Tanh(),
    )


def test_a_plane_is_met_in_its_nearest_point() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(3, 16)).astype(np.float32) / 4
    targets = draw.uniform(-1, 1, (6, 4, 4, 1)).astype(np.float32)
    flat = targets.reshape(6, 16).T
    best, *_ = np.linalg.lstsq(rows.T, flat, rcond=None)
    assert np.linalg.norm(best, axis=0).max() < 3**0.5 + 2.5  # within the ball
    z, distance = invert(Plane(rows, 4), targets, 3)
    assert (z.shape, z.dtype, distance.dtype) == ((6, 3), np.float32, np.float64)
    np.testing.assert_allclose(distance, np.linalg.norm(rows.T @ best - flat, axis=0), rtol=1e-4)
    np.testing.assert_allclose(z, best.T, atol=0.02)


def test_z_stays_where_the_prior_draws() -> None:
    z, distance = invert(Plane(np.full((1, 16), 1e-2, np.float32), 4), np.ones((2, 4, 4, 1)), 1)
    np.testing.assert_allclose(z, 3.5, rtol=1e-5)
    np.testing.assert_allclose(distance, 4 * (1 - 0.035), rtol=1e-5)


def test_own_samples_are_found_again() -> None:
    G = tiny()
    sample = generate(G, Generator(0, "own").normal((40, 3)))
    z, distance = invert(G, sample, 3)
    apart = np.linalg.norm((sample - sample[::-1]).reshape(40, -1), axis=1)
    assert np.median(distance) < 0.02 * np.median(apart)
    again = np.linalg.norm((generate(G, z) - sample).reshape(40, -1), axis=1)
    np.testing.assert_allclose(distance, again, atol=1e-5)


def test_more_restarts_and_steps_find_more() -> None:
    G, targets = tiny(), np.random.default_rng(0).uniform(-1, 1, (20, 8, 8, 1))
    least, some, most = (invert(G, targets, 3, *n)[1].mean() for n in ((1, 1), (1, 40), (8, 40)))
    assert most < some < least


def test_the_same_arguments_give_the_same_bits_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    G, targets = tiny(4), np.random.default_rng(0).uniform(-1, 1, (9, 8, 8, 1))
    first = invert(G, targets, 4, 2, 5)
    for generator in (None, Generator(0, "inversion")):
        for a, b in zip(first, invert(G, targets, 4, 2, 5, generator=generator), strict=True):
            np.testing.assert_array_equal(a, b)
    other = invert(G, targets, 4, 2, 5, generator=Generator(1, "inversion"))
    assert not np.array_equal(first[0], other[0])
    monkeypatch.setattr(inversion, "AT_ONCE", 4)  # two targets at once
    for a, b in zip(first, invert(G, targets, 4, 2, 5), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


class Broken(Sequential):
    def forward(self, *args: Any, **kwargs: Any) -> mg.Tensor:
        raise RuntimeError("out of order")


@pytest.mark.parametrize("kind", [Sequential, Broken])
def test_the_net_is_left_as_found(kind: type[Sequential]) -> None:
    G = tiny()
    G = kind(*G.layers) if hasattr(G, "layers") else kind(*[child for _, child in G.named_children()])
    modules, parameters = list(G.modules()), list(G.parameters())
    modules[2].eval()
    parameters[1].requires_grad = False
    before, state = [module.training for module in modules], G.state_dict()
    with pytest.raises(RuntimeError, match="^out of order$") if kind is Broken else nullcontext():
        invert(G, np.zeros((2, 8, 8, 1)), 3, 1, 2)
    assert [module.training for module in modules] == before
    assert [p.requires_grad for p in parameters] == [i != 1 for i in range(len(parameters))]
    assert all(p.grad is None for p in parameters)
    for name, array in G.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def refused(targets: Array, **options: Any) -> str:
    with pytest.raises(ValueError, match=r"^invert: ") as caught:
        invert(tiny(), targets, **{"latent": 3, **options})
    return str(caught.value)


def test_each_wrong_argument_is_one_sentence() -> None:
    good = np.zeros((2, 8, 8, 1))
    for wrong in (good[0], good[:0], good.astype(np.uint8)):
        expected = f"targets must be N > 0 float images (N, H, W, C), but are {wrong.dtype} {wrong.shape}"
        assert refused(wrong) == f"invert: {expected}"
    assert re.fullmatch(
        r"invert: targets must be in \[-1, 1\], but go from 0 to 255; scale .*",
        refused(good + [[[255]]] * np.eye(8)[0][:, None]),
    )
    assert refused(good * np.nan).startswith("invert: targets must be in [-1, 1], but go from nan to nan;")
    for options, shown in (
        ({"restarts": 0}, "3, 0, 100 and 1.0"),
        ({"steps": 0}, "3, 4, 0 and 1.0"),
        ({"latent": 0}, "0, 4, 100 and 1.0"),
        ({"lr": -1.0}, "3, 4, 100 and -1.0"),
    ):
        message = f"invert: latent, restarts and steps must be 1 or more and lr above 0, but are {shown}"
        assert refused(good, **options) == message


# ---- recall of triangles --------------------------------------------------------------------------------------------


def measured(monkeypatch: pytest.MonkeyPatch, G: Module, fakes: Array, tests: Array, images: Array) -> dict[str, Any]:
    monkeypatch.setattr(inversion, "TARGETS", 5)
    found = measure_triangles(G, 5, fakes, images, tests, restarts=2, steps=400)
    assert json.loads(json.dumps(found)) == found
    return found


def test_a_generator_of_the_targets_has_recall_1(monkeypatch: pytest.MonkeyPatch) -> None:
    tests = triangles.draw(triangles.random_angles(40, Generator(0, "tests")))[..., None]
    rows = (tests[:5].reshape(5, 784) / 127.5 - 1).astype(np.float32)
    fakes = (tests / 127.5 - 1).astype(np.float32)
    found = measured(monkeypatch, Plane(rows, 28), fakes, tests, tests)
    assert found["triangle_delta"] == DELTA
    assert found["triangle_distance"] == pytest.approx(found["triangle_distance_floor"], abs=1e-5)
    for name in ("precision", "recall", "f1"):
        assert found[f"triangle_{name}"] == found[f"triangle_{name}_floor"] == 1
    for name in ("orientation", "area", "smallest_angle"):
        assert found[f"triangle_{name}_ks"] == pytest.approx(found[f"triangle_{name}_ks_floor"])
        assert found[f"triangle_{name}_ks"] < 0.3


@pytest.mark.parametrize(("far", "recall"), [(0.2, 1), (0.3, 0)])
def test_distances_are_shares_of_the_ink(monkeypatch: pytest.MonkeyPatch, far: float, recall: int) -> None:
    """Paper that is a shade darker: by so much in all, which pixels from -1 to 1 over ink from 0 to 1 would double."""
    tests = np.repeat(triangles.draw(triangles.random_angles(1, Generator(0, "one")))[..., None], 8, axis=0)
    real = tests[0].ravel() / 127.5 - 1
    shade = far * np.linalg.norm((1 - real) / 2) / np.sqrt((real == 1).sum())
    G = Plane(np.zeros((5, 784), np.float32), 28, np.where(real == 1, 1 - 2 * shade, real))
    found = measured(monkeypatch, G, generate(G, np.zeros((8, 5), np.float32)), tests, tests)
    assert found["triangle_recall"] == found["triangle_precision"] == recall
    assert found["triangle_distance"] == pytest.approx(far, rel=0.05)


def test_a_generator_of_noise_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has a set of training images that are far from the test images."""
    tests = triangles.draw(triangles.random_angles(40, Generator(0, "tests")))[..., None]
    draw = np.random.default_rng(0)
    G = Plane(draw.uniform(-0.1, 0.1, (5, 784)).astype(np.float32), 28)
    fakes = draw.uniform(-1, 1, (20, 28, 28, 1)).astype(np.float32)
    found = measured(monkeypatch, G, fakes, tests, 255 - tests)
    assert found["triangle_precision_floor"] == 1
    for name in ("precision", "recall", "f1", "recall_floor", "f1_floor"):
        assert found[f"triangle_{name}"] == 0
    assert found["triangle_distance"] > 1
    with pytest.raises(ValueError, match=r"^triangles: fakes must be \(N, 28, 28, 1\), .* but are \(20, 14, 56, 1\)$"):
        measured(monkeypatch, G, fakes.reshape(20, 14, 56, 1), tests, tests)


def test_the_command_line_measures_triangles_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what it says of any images without labels."""
    monkeypatch.setattr(inversion, "FITS", 20)
    monkeypatch.setattr(inversion, "TARGETS", 2)
    images = triangles.draw(triangles.random_angles(60, Generator(0, "here")))[..., None]
    net, said = dcgan_generator(28, 1, 1, 2), list[str]()
    run, z = (RECIPES["gan"], Settings(latent=2)), Generator(0, "z").normal((24, 2))
    data = DataSet("drawn triangles", images[:40], test_images=images[40:])
    found = measure(*run, net, z, data, said.append)
    assert (found["n"], found["triangle_delta"], found["triangle_precision"]) == (20, DELTA, 0)
    assert found["triangle_precision_floor"] == 1
    assert found["triangle_distance"] > 0.9 > 0.05 > found["triangle_distance_floor"]
    assert re.search(
        rf"Triangles, within {DELTA}: precision 0\.000 \(1\.000\), recall 0\.000 \(\d\.\d\d\d\), "
        r"F1 0\.000 \(\d\.\d\d\d\); "
        r"the median sample is \d+\.\d\d\d \(0\.\d\d\d\) from the nearest triangle",
        said[-1],
    )
    assert "triangle_delta" not in measure(*run, net, z, data._replace(name="others"), said.append)
