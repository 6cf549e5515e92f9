"""Walks between latent vectors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigan.gan import slerp
from minigan.random import Generator


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
