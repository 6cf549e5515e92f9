"""Named generators: streams that do not disturb each other, and that go on exactly where they were."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import minigan as mg
from minigan.random import Generator, stream

DRAWS: dict[str, Any] = {
    "uniform": lambda g, n: g.uniform(n),
    "uniform float64": lambda g, n: g.uniform((n,), np.float64),
    "normal": lambda g, n: g.normal(n),
    "normal float64": lambda g, n: g.normal((1, n), np.float64),
    "integers": lambda g, n: g.integers(10, n),
    "permutation": lambda g, n: g.permutation(n),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)

# Blocks of four words that n = 5 numbers take: float64 and the keys of a permutation are two words each, and normal
# numbers come in pairs.
BLOCKS = {"uniform": 2, "uniform float64": 3, "normal": 2, "normal float64": 3, "integers": 2, "permutation": 3}


@each_draw
def test_seed_and_name_say_it_all(draw: Any) -> None:
    first = draw(Generator(3, "latent"), 50)
    np.testing.assert_array_equal(draw(Generator(3, "latent"), 50), first)
    assert (draw(Generator(4, "latent"), 50) != first).any()
    assert (draw(Generator(3, "data"), 50) != first).any()


def test_a_stream_is_the_same_in_every_release() -> None:
    generator = Generator(0, "init")
    assert generator.key == 0x5C71B990E2A3292A  # the first 8 bytes of the sha256 of "0/init"
    np.testing.assert_array_equal(generator.integers(1000, 4), [268, 673, 136, 212])


@each_draw
def test_draws_go_on_and_do_not_repeat(draw: Any) -> None:
    generator = Generator(0, "latent")
    assert (draw(generator, 50) != draw(generator, 50)).any()


@pytest.mark.parametrize("name", DRAWS)
def test_counter_advances_by_whole_blocks(name: str) -> None:
    generator = Generator(0, "latent")
    DRAWS[name](generator, 5)
    assert generator.counter == BLOCKS[name]
    DRAWS[name](generator, 0)
    assert generator.counter == BLOCKS[name]
    assert repr(generator) == f"Generator('latent', counter={BLOCKS[name]})"


def test_streams_do_not_shift_each_other() -> None:
    alone = Generator(1, "latent").normal(7)
    other, latent = Generator(1, "data"), Generator(1, "latent")
    other.permutation(100)
    np.testing.assert_array_equal(latent.normal(7), alone)

    mg.manual_seed(5)
    expected = stream("init").normal(7)
    mg.manual_seed(5)
    stream("dropout").uniform(1000)
    np.testing.assert_array_equal(stream("init").normal(7), expected)


@each_draw
@pytest.mark.parametrize("before", [0, 3, 8])
def test_state_goes_on_bit_for_bit(draw: Any, before: int) -> None:
    generator = Generator(2, "latent")
    draw(generator, before)
    state = generator.state_dict()
    expected = draw(generator, 9)
    other = Generator(99, "latent")
    other.load_state_dict(state)
    np.testing.assert_array_equal(draw(other, 9), expected)
    assert other.state_dict() == generator.state_dict()


def test_state_of_another_stream_is_refused() -> None:
    generator = Generator(0, "latent")
    with pytest.raises(ValueError, match="Generator: the state of stream 'data' does not fit stream 'latent'"):
        generator.load_state_dict(Generator(0, "data").state_dict())
    assert generator.state_dict() == Generator(0, "latent").state_dict()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [0, 1, 3, (), (0, 2), (3, 5), (2, 3, 4)])
def test_shapes_and_dtypes(shape: Any, dtype: Any) -> None:
    for values in (Generator(0, "a").uniform(shape, dtype), Generator(0, "a").normal(shape, dtype)):
        assert type(values) is np.ndarray
        assert values.shape == ((shape,) if isinstance(shape, int) else shape)
        assert values.dtype == dtype
        assert values.flags.writeable
    assert Generator(0, "a").integers(7, shape).shape == ((shape,) if isinstance(shape, int) else shape)


def test_default_dtype_is_float32() -> None:
    assert Generator(0, "a").uniform(1).dtype == Generator(0, "a").normal(1).dtype == np.float32


def test_other_dtypes_are_refused_and_draw_nothing() -> None:
    generator = Generator(0, "a")
    for draw in (generator.uniform, generator.normal):
        with pytest.raises(TypeError, match="draws float32 or float64, not int64; convert the result instead"):
            draw(4, np.int64)
    assert generator.counter == 0


def test_an_odd_number_of_normals_is_the_start_of_an_even_one() -> None:
    np.testing.assert_array_equal(Generator(0, "a").normal(5), Generator(0, "a").normal(6)[:5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distributions(dtype: Any) -> None:
    u, z = Generator(0, "a").uniform(20_000, dtype), Generator(0, "b").normal(20_000, dtype)
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[0::2], z[1::2])[0, 1]) < 0.04  # the two halves of Box-Muller


@settings(max_examples=20)
@given(n=st.integers(0, 200), seed=st.integers(-(2**70), 2**70))
def test_permutation_holds_every_number_once(n: int, seed: int) -> None:
    order = Generator(seed, "data").permutation(n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_every_permutation_is_equally_likely() -> None:
    generator = Generator(0, "data")
    counts = np.zeros((4, 4, 4))
    for _ in range(2400):
        counts[tuple(generator.permutation(4)[:3])] += 1
    assert np.count_nonzero(counts) == 24
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3


@settings(max_examples=20)
@given(high=st.integers(1, 2**32), seed=st.integers(0, 100))
def test_integers_stay_below_high(high: int, seed: int) -> None:
    values = Generator(seed, "a").integers(high, 50)
    assert values.dtype == np.int64
    assert values.min() >= 0
    assert values.max() < high


def test_integers_are_equally_likely() -> None:
    assert stats.chisquare(np.bincount(Generator(0, "a").integers(6, 6000), minlength=6)).pvalue > 1e-3
    assert Generator(0, "a").integers(2**32, 1000).max() > 2**31


@pytest.mark.parametrize("high", [0, -1, 2**32 + 1])
def test_integers_refuses_an_impossible_range(high: int) -> None:
    with pytest.raises(ValueError, match=rf"^integers: high must be in 1 .. 2\*\*32, not {high}$"):
        Generator(0, "a").integers(high, 3)


def test_manual_seed_starts_the_default_streams_anew() -> None:
    mg.manual_seed(7)
    first = stream("init").normal(3), stream("dropout").uniform(3)
    assert stream("init") is stream("init")
    assert stream("init").counter == 1
    mg.manual_seed(7)
    np.testing.assert_array_equal(stream("init").normal(3), first[0])
    np.testing.assert_array_equal(stream("dropout").uniform(3), first[1])
    np.testing.assert_array_equal(Generator(7, "init").normal(3), first[0])
    mg.manual_seed(8)
    assert (stream("init").normal(3) != first[0]).any()
