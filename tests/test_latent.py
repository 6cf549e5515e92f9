"""Walks between latent vectors, and normal numbers without tails."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigan import Tensor
from minigan.gan.latent import Latent, lerp, slerp, truncated, walks
from minigan.random import Generator

Array = Any

# ---- walks ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 100), st.integers(0, 5))
def test_a_walk_has_even_steps_on_a_sphere(size: int, seed: int) -> None:
    a, b = Generator(seed, "latent").normal((2, size), np.float64)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    walk = slerp(a, b, np.linspace(0, 1, 11))
    np.testing.assert_allclose(walk[[0, -1]], [a, b], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), np.linalg.norm(a))
    steps = np.linalg.norm(np.diff(walk, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0])


def test_the_length_goes_from_one_to_the_other() -> None:
    walk = slerp(np.array([1.0, 0.0]), np.array([0.0, 3.0]), np.linspace(0, 1, 5))
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), [1, 1.5, 2, 2.5, 3])
    np.testing.assert_allclose(walk[2], [np.sqrt(2), np.sqrt(2)])


def test_vectors_on_one_line_are_joined_by_it() -> None:
    a = np.array([1.0, 2.0], np.float32)
    t = np.linspace(0, 1, 3, dtype=np.float32)
    np.testing.assert_allclose(slerp(a, 2 * a, t), [a, 1.5 * a, 2 * a], rtol=1e-6)
    np.testing.assert_allclose(slerp(a, -a, t), [a, 0 * a, -a], atol=1e-6)
    np.testing.assert_allclose(slerp(a, 0 * a, t), [a, 0.5 * a, 0 * a], atol=1e-6)
    assert slerp(a, a[::-1], t).dtype == np.float32


def test_a_straight_line() -> None:
    a, b = np.array([1, 0], np.float32), np.array([0, 4], np.float32)
    line = lerp(a, b, np.linspace(0, 1, 5, dtype=np.float32))
    np.testing.assert_array_equal(line, [[1, 0], [0.75, 1], [0.5, 2], [0.25, 3], [0, 4]])
    assert line.dtype == np.float32


@pytest.mark.parametrize("path", [lerp, slerp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_half_goes_to_the_second(path: Any, dtype: Any) -> None:
    z = Generator(0, "latent").normal((6, 5), dtype)
    points = walks(z, 4, path)
    assert points.shape == (3, 4, 5)
    assert points.dtype == dtype
    t = np.linspace(0, 1, 4, dtype=dtype)
    for i in range(3):
        np.testing.assert_array_equal(points[i], path(z[i], z[3 + i], t))
    if path is slerp:
        np.testing.assert_array_equal(walks(z, 4), points)
    np.testing.assert_allclose(points[:, [0, -1]], np.stack([z[:3], z[3:]], axis=1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2), (0, 2), (4,)])
def test_walks_need_pairs(shape: tuple[int, ...]) -> None:
    text = f"walks: z must be (2 P, latent), a start and an end for each of P walks, not {shape}"
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        walks(np.zeros(shape), 4)


def test_walks_have_two_ends() -> None:
    assert walks(np.ones((2, 3)), 2, lerp).shape == (1, 2, 3)
    text = "walks: steps must be at least 2, since both ends are among them, not 1"
    with pytest.raises(ValueError, match=rf"^{text}$"):
        walks(np.ones((2, 3)), 1, slerp)


# ---- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_none_is_beyond_the_threshold(threshold: float, dtype: Any) -> None:
    z = truncated(Generator(0, "latent"), (64, 100), threshold, dtype)
    assert z.shape == (64, 100)
    assert z.dtype == dtype
    assert 0.99 * threshold < abs(z).max() <= threshold
    assert abs(z.mean()) < 0.02 * threshold


@pytest.mark.parametrize(("threshold", "deviation"), [(0.5, 0.283784), (1.0, 0.539560), (2.0, 0.879626)])
def test_the_rest_is_normal(threshold: float, deviation: float) -> None:
    """The deviation of a normal number, given that it is inside: 1 - 2 a f(a) / (F(a) - F(-a)), the root of it."""
    z = truncated(Generator(1, "latent"), 100_000, threshold)
    np.testing.assert_allclose(z.std(dtype=np.float64), deviation, rtol=0.01)


def test_what_is_inside_stays_at_every_threshold() -> None:
    free = Generator(3, "latent").normal((50, 20))
    before = free
    for threshold in (10.0, 3.0, 2.0, 1.0, 0.5):
        z = truncated(Generator(3, "latent"), (50, 20), threshold)
        inside = abs(free) <= threshold
        np.testing.assert_array_equal(z[inside], free[inside])
        assert (z[~inside] != free[~inside]).all()
        assert ((z != before) <= (abs(before) > threshold) | ~inside).all()
        before = z
    np.testing.assert_array_equal(truncated(Generator(3, "latent"), (50, 20), 10.0), free)


def test_the_same_state_of_the_generator_gives_the_same_numbers() -> None:
    generator = Generator(0, "latent")
    generator.normal(7)
    state = generator.state_dict()
    first, second = (truncated(generator, (9, 4), 0.7) for _ in range(2))
    assert (first != second).all()
    generator.load_state_dict(state)
    np.testing.assert_array_equal(truncated(generator, (9, 4), 0.7), first)
    np.testing.assert_array_equal(truncated(generator, (9, 4), 0.7), second)


@pytest.mark.parametrize("threshold", [0.0, 0.0099, -1.0, float("inf"), float("nan")])
def test_thresholds_that_make_no_sense(threshold: float) -> None:
    text = (
        f"truncated: threshold must be finite and at least 0.01, not {threshold}: of the numbers drawn for 0.01, 1 in "
        "125 is inside, and for less hardly any"
    )
    generator = Generator(0, "latent")
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        truncated(generator, (2, 3), threshold)
    assert generator.counter == 0


# ---- codes ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 4), st.lists(st.integers(1, 5), max_size=3), st.integers(0, 3), st.integers(0, 6))
def test_a_code_is_made_of_its_parts(noise: int, categories: list[int], uniform: int, n: int) -> None:
    prior = Latent(noise, tuple(categories), uniform)
    codes = prior.draw(Generator(0, "codes"), n)
    assert (codes.shape, codes.dtype) == ((n, noise + sum(categories) + uniform), np.float32)
    z, chosen, u = prior.split(codes)
    assert (z.shape[1], [part.shape[1] for part in chosen], u.shape[1]) == (noise, categories, uniform)
    np.testing.assert_array_equal(z, Generator(0, "codes").normal((n, noise)))
    assert ((u >= -1) & (u < 1)).all()
    for which, part in enumerate(chosen):
        np.testing.assert_array_equal(part, np.eye(categories[which])[prior.labels(codes, which)])


def test_plain_noise_is_the_normal_numbers_of_its_stream() -> None:
    np.testing.assert_array_equal(Latent(5).draw(Generator(3, "z"), 7), Generator(3, "z").normal((7, 5)))
    cut = Latent(5, (2,)).draw(Generator(3, "z"), 7, threshold=0.5)
    np.testing.assert_array_equal(cut[:, :5], truncated(Generator(3, "z"), (7, 5), 0.5))


def test_every_value_of_a_category_comes_up_equally_often() -> None:
    prior = Latent(2, (4,), 1)
    codes = prior.draw(Generator(0, "many"), 8000)
    assert (abs(np.bincount(prior.labels(codes)) - 2000) < 200).all()
    assert abs(codes[:, -1].mean()) < 0.03
    assert abs(codes[:, -1].var() - 1 / 3) < 0.02


def test_a_relabelled_code_differs_in_its_label_only() -> None:
    prior = Latent(2, (3, 4), 1)
    codes = prior.draw(Generator(0, "codes"), 6)
    before, labels = codes.copy(), np.array([0, 1, 2, 3, 0, 1])
    other = prior.relabel(codes, labels, which=1)
    np.testing.assert_array_equal(codes, before)
    np.testing.assert_array_equal(prior.labels(other, 1), labels)
    np.testing.assert_array_equal(other[:, [0, 1, 2, 3, 4, 9]], codes[:, [0, 1, 2, 3, 4, 9]])


def test_codes_of_tensors_split_as_those_of_arrays() -> None:
    prior = Latent(2, (3,), 1)
    codes = prior.draw(Generator(0, "codes"), 4)
    z, (label,), u = prior.split(Tensor(codes))
    for part, array in ((z, codes[:, :2]), (label, codes[:, 2:5]), (u, codes[:, 5:])):
        np.testing.assert_array_equal(part.array, array)


def test_codes_of_another_prior_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Latent: codes must be \(N, 6\), but are \(4, 5\)$"):
        Latent(2, (3,), 1).labels(np.zeros((4, 5), np.float32))


def test_walks_change_the_noise_and_keep_the_label() -> None:
    prior = Latent(3, (2,), 1)
    codes = prior.draw(Generator(0, "codes"), 4)
    between = prior.walks(codes, 5)
    np.testing.assert_array_equal(between[..., :3], walks(codes[:, :3], 5))
    np.testing.assert_array_equal(between[..., 3:], np.repeat(codes[:2, None, 3:], 5, axis=1))
