"""Curves as SVG: what is drawn lies where the numbers say, whatever the numbers are."""

import re
from collections.abc import Sequence
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import check

from minigan.gan.charts import BINS, BOTTOM, LEFT, RIGHT, TOP, Axes, Curve, chart, nice_ticks, number
from minigan.gan.curves import of_run, of_runs
from minigan.gan.page import document
from minigan.gan.run_folder import running_mean


def drawn(y: Sequence[float], x: Sequence[float] | None = None, smooth: Any = None, **axes: Any) -> str:
    places = np.arange(1, len(y) + 1) if x is None else np.array(x, float)
    text = chart("c", Axes("A curve", **axes), [Curve("y", places, np.array(y, float), 0, smooth)])
    check(document("minigan", "a", "a", "a", {"Curves": text}))
    return text


def line(text: str) -> list[list[tuple[float, float]]]:
    """The pieces of the one line."""
    (path,) = re.findall(r'class="line" d="([^"]*)"', text)
    return [[(float(x), float(y)) for x, y in (p.split() for p in piece.split("L"))] for piece in path.split("M")[1:]]


def texts(text: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)<", text)


def test_points_are_where_they_belong() -> None:
    (points,) = line(drawn([0, 1, 0.5], [0, 50, 100], low=0, high=1))
    middle = (TOP + BOTTOM) / 2
    assert points == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, TOP), (RIGHT, middle)]


def test_a_logarithmic_axis() -> None:
    text = drawn([10, 100, 1000], [0, 50, 100], log=True)
    assert [y for _, y in line(text)[0]] == [BOTTOM, (TOP + BOTTOM) / 2, TOP]
    assert "logarithmic" in text
    assert [t for t in texts(text) if t in ("10", "100", "1,000")][:3] == ["10", "100", "1,000"]
    for values in ([1, 10], [0, 10, 100]):  # too few decades; 0 has no logarithm
        assert "logarithmic" not in drawn(values, log=True)


@pytest.mark.parametrize("bad", [nan, inf, -inf, 1e31])
def test_what_is_not_finite_leaves_a_gap(bad: float) -> None:
    text = drawn([1, 2, bad, 4, bad, 6, 7, 8])
    assert [len(piece) for piece in line(text)] == [2, 2, 3]
    assert line(text)[1][0] == line(text)[1][1]  # a dot
    assert drawn([bad, bad]) == drawn([]) == ""


def test_long_curves_are_thinned_between_least_and_greatest() -> None:
    y = np.tile([1.0, 3.0], 50_000)
    text = drawn(list(y), smooth=lambda values: 0 * values + 2, low=0, high=4)
    assert len(text) < 20_000
    (points,) = line(text)
    assert len(points) == BINS
    assert (points[0][0], points[-1][0]) == (LEFT, RIGHT)
    (band,) = re.findall(r'class="band" d="M([^"]*)Z"', text)
    heights = [float(point.split()[1]) for point in band.split("L")]
    quarter = (BOTTOM - TOP) / 4
    assert heights == pytest.approx([TOP + quarter] * BINS + [BOTTOM - quarter] * BINS, abs=0.1)


def test_one_outlier_does_not_flatten_the_rest() -> None:
    y = np.r_[np.linspace(1, 2, 400), 1e9, np.linspace(2, 1, 400)]
    text = drawn(list(y), smooth=lambda values: np.minimum(values, 2))
    heights = [height for _, height in line(text)[0]]
    assert max(heights) - min(heights) > (BOTTOM - TOP) / 2


def test_gaps_do_not_hide_a_curve() -> None:
    y = [1.0, nan] * 500
    assert len(line(drawn(y, smooth=running_mean))[0]) == BINS


def test_points_are_sorted_and_a_single_one_is_a_dot() -> None:
    assert line(drawn([3, 1, 2], [30, 10, 20])) == line(drawn([1, 2, 3], [10, 20, 30]))
    assert [len(piece) for piece in line(drawn([5]))] == [2]


def test_it_is_told_to_who_cannot_see_it() -> None:
    text = drawn([4, 9, 1, 2])
    assert '<title id="c-title">A curve by step</title>' in text
    assert "y: from 4 to 2, between 1 and 9." in text


def test_names_are_escaped() -> None:
    curve = Curve("<b>&", np.arange(3), np.arange(3), 7)
    text = chart("c", Axes("<i>", "<u>", mark=(1, "<s>")), [curve])
    assert not re.search("<[bius]>", text)
    assert 'class="key c1 dashed"' in text  # the eighth curve looks like the second, dashed


number_ = st.floats() | st.integers(-(2**63), 2**63 - 1).map(float)


@given(st.lists(st.tuples(number_, number_), max_size=30), st.booleans(), st.booleans())
def test_any_numbers(points: list[tuple[float, float]], log: bool, smooth: bool) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    with np.errstate(all="raise", under="ignore"):
        drawn(y, x, running_mean if smooth else None, log=log, mark=(1.0, "one"))


@given(st.floats(-1e30, 1e30), st.floats(1e-9, 1e30))
def test_ticks_are_few_and_within(low: float, width: float) -> None:
    high = low + width
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert all(low - width * 1e-6 <= tick <= high + width * 1e-6 for tick in ticks)


def test_ticks_and_numbers() -> None:
    assert nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert nice_ticks(-3, 7) == [-2, 0, 2, 4, 6]
    assert nice_ticks(0, 3000, 5) == [0, 500, 1000, 1500, 2000, 2500, 3000]
    assert [number(v) for v in (0, 0.25, -2, 12000, 3e6)] == ["0", "0.25", "\N{MINUS SIGN}2", "12,000", "3e+06"]


ROWS = [
    {"step": i, "images": 64 * i, "seconds": i / 10, "d_loss": 1 / i, "g_loss": 2.0, "w_estimate": 3.0}
    | ({"spread": 0.9} if i % 100 == 0 else {})
    for i in range(1, 501)
]


def titles(text: str) -> list[str]:
    return re.findall(r"<title[^>]*>([^<]*)<", text)


def test_a_run_has_the_charts_that_its_columns_give() -> None:
    assert titles(of_run(ROWS, {})) == [
        "Losses by step", "Wasserstein estimate by step", "Spread of the samples by step", "Throughput by step"
    ]  # fmt: skip
    (spread,) = re.findall(
        r'class="line" d="([^"]*)"', of_run(ROWS[:200], {}).partition("Spread")[2].partition("</svg>")[0]
    )
    assert (spread.count("M"), spread.count("L")) == (1, 1)  # two points, no gaps
    assert "images_per_second: from 640 to 640" in of_run(ROWS, {})
    assert of_run([], {}) == of_run(ROWS[:0], {}) == ""
    fid = [{**row, "fid": 9.0} for row in ROWS]
    assert "test images" in of_run(fid, {"fid_floor": 0.1})
    assert "test images" not in of_run(fid, {})


def test_runs_share_a_chart_of_each_column() -> None:
    text = of_runs(["one", "two"], [ROWS, ROWS[:100]], "seconds")
    assert titles(text)[:3] == [
        f"{name} by seconds of training" for name in ("d_loss", "g_loss", "Wasserstein estimate")
    ]
    assert text.count('<span class="key c1">two</span>') == text.count("<svg")


def test_a_long_run_stays_small() -> None:
    rng = np.random.default_rng(0)
    keys = ("d_loss", "g_loss", "d_real", "d_fake_before", "d_fake_after", "grad_norm", "g_grad_norm", "w_estimate")
    values = rng.normal(size=(100_000, len(keys)))
    rows = [
        {"step": i + 1, "images": 64 * i, "seconds": i / 10, **dict(zip(keys, row, strict=True))}
        for i, row in enumerate(values.tolist())
    ]
    assert len(of_run(rows, {})) < 200_000
