"""Curves as inline SVG: a function of the numbers, with axes, a legend and a text for those who cannot see them.

However many points there are, a curve is drawn from at most BINS of them: in pale what lies between the least and the
greatest value of a bin, in full the smoothed curve. What is not finite leaves a gap.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDTH, HEIGHT = 480, 232
LEFT, RIGHT, TOP, BOTTOM = 50, 472, 10, 204  # of what the axes enclose
BINS = 220  # about two pixels each
COLOURS = 6  # --c0 .. of page.py; later curves repeat them, dashed
LARGEST = 1e30  # what is beyond it counts as not finite, so that no sum or difference overflows
DECADES = 2.0  # a log axis, where it is allowed, from as many on


@dataclass(frozen=True)
class Curve:
    """x, y: (N,) numbers, not necessarily finite or sorted; smooth: of finite values, or None for few points."""

    name: str
    x: Array
    y: Array
    colour: int
    smooth: Callable[[Array], Array] | None = None


@dataclass(frozen=True)
class Axes:
    """What a chart shows. low, high: ends of the y axis that are given; mark: a dashed line at a value, and its name.

    log: a logarithmic y axis where all values are above 0 and span two decades.
    """

    title: str
    meaning: str = ""
    unit: str = ""
    x_label: str = "step"
    low: float | None = None
    high: float | None = None
    log: bool = False
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class _Drawn:
    """A curve in its bins: (n,) each."""

    curve: Curve
    x: Array
    least: Array
    greatest: Array
    line: Array


def chart(name: str, axes: Axes, curves: Sequence[Curve], headline: str = "h3") -> str:
    """A figure of HTML: title, legend, the curves. `name` begins its ids. "" where nothing finite is to be drawn."""
    drawn = [found for curve in curves if (found := _binned(curve)) is not None]
    if not drawn:
        return ""
    log, low, high = _range(axes, drawn)
    ticks = _decades(low, high) if log else nice_ticks(low, high)
    last = max(float(d.x.max()) for d in drawn)
    first = min(0.0, *(float(d.x.min()) for d in drawn))
    right = last if last > first else first + max(1.0, abs(first))

    def across(x: Array | float) -> Any:
        return LEFT + (np.asarray(x) - first) / (right - first) * (RIGHT - LEFT)

    def up(y: Array | float) -> Any:
        y = np.clip(y, low, high)
        share = np.log(y / low) / np.log(high / low) if log else (y - low) / (high - low)
        return BOTTOM - share * (BOTTOM - TOP)

    parts = [
        f'<path class="grid" d="{"".join(f"M{LEFT} {_short(up(y))}H{RIGHT}" for y in ticks)}"/>',
        f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>',
        *(f'<text x="{LEFT - 6}" y="{_short(up(y) + 4)}" text-anchor="end">{number(y)}</text>' for y in ticks),
        *(_below(x, float(across(x))) for x in nice_ticks(first, right, 5)),
        *(_paths(d, across(d.x), up) for d in drawn),
    ]
    if axes.mark is not None and low <= axes.mark[0] <= high:
        y, text = float(up(axes.mark[0])), axes.mark[1]
        place = y - 5 if y > TOP + 18 else y + 14
        parts += [
            f'<path class="mark" d="M{LEFT} {_short(y)}H{RIGHT}"/>',
            f'<text class="mark-name" x="{RIGHT - 2}" y="{_short(place)}" text-anchor="end">{escape(text)}</text>',
        ]
    scale = ", logarithmic" if log else ""
    unit = " · ".join(escape(t) for t in (axes.unit, "logarithmic" if log else "", f"by {axes.x_label}") if t)
    legend = "".join(f'<span class="key {_look(d.curve.colour)}">{escape(d.curve.name)}</span>' for d in drawn)
    meaning = f"\n<figcaption>{escape(axes.meaning)}</figcaption>" if axes.meaning else ""
    body = "\n".join(parts)
    return f"""<figure class="chart">
<{headline}>{escape(axes.title)} <small>{unit}</small></{headline}>
<p class="legend">{legend}</p>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">
<title id="{name}-title">{escape(axes.title)} by {escape(axes.x_label)}</title>
<desc id="{name}-desc">{escape(" ".join(_told(d) for d in drawn))} y axis from {number(low)} to {number(high)}{scale}.</desc>
{body}
</svg>{meaning}
</figure>"""  # noqa: E501 - one line of HTML


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten within [low, high], low < high."""
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda s: abs(log10(s / rough)))
    return [0.0 + round(i * step, 12 - floor(log10(step))) for i in range(ceil(low / step), floor(high / step) + 1)]


def number(value: float) -> str:
    """As short as it is on an axis: 0.25, 12,000, 3e+06."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _binned(curve: Curve) -> _Drawn | None:
    with np.errstate(invalid="ignore"):
        known = np.abs(curve.x) <= LARGEST
    x, y = (np.asarray(values, np.float64)[known] for values in (curve.x, curve.y))
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    with np.errstate(invalid="ignore"):
        finite = np.abs(y) <= LARGEST
    if not finite.any():
        return None
    y = np.where(finite, y, np.nan)
    line = y.copy()
    if curve.smooth is not None:
        line[finite] = curve.smooth(y[finite])
    bins = min(BINS, len(x) if curve.smooth is None else ceil(len(x) / 2))
    starts = np.arange(bins) * len(x) // bins
    sizes = np.diff([*starts, len(x)])
    centres = np.add.reduceat(x, starts) / sizes
    centres[[0, -1]] = x[[0, -1]] if bins > 1 else centres  # the axis goes from the first point to the last
    least, greatest = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    if np.isnan(least).all():  # gaps everywhere would hide what there is
        return _binned(replace(curve, x=x[finite], y=y[finite]))
    return _Drawn(curve, centres, least, greatest, np.add.reduceat(line, starts) / sizes)


def _range(axes: Axes, drawn: Sequence[_Drawn]) -> tuple[bool, float, float]:
    """(log, low, high): all of the smoothed curves, and of the raw ones what single outliers leave."""
    lines = np.concatenate([d.line for d in drawn])
    raw = np.concatenate([values for d in drawn for values in (d.least, d.greatest)])
    near = [*np.quantile(raw[np.isfinite(raw)], [0.02, 0.98]), *lines[np.isfinite(lines)]]
    low, high = min(near), max(near)
    if axes.log and low > 0 and high / low >= 10**DECADES:
        return True, 10.0 ** floor(log10(low)), 10.0 ** ceil(log10(high))
    if axes.mark is not None:
        low, high = min(low, axes.mark[0]), max(high, axes.mark[0])
    room = (high - low) * 0.05
    if room < 1e-9 * max(abs(low), abs(high), 1e-3):  # flat, but for rounding
        room = max(abs(low), abs(high), 1e-3) * 0.5
    low = low - room if axes.low is None else axes.low
    high = high + room if axes.high is None else axes.high
    return False, float(low), float(high if high > low else low + 1)


def _decades(low: float, high: float) -> list[float]:
    first, last = round(log10(low)), round(log10(high))
    return [10.0**i for i in range(first, last + 1, ceil((last - first) / 5))]


def _below(x: float, place: float) -> str:
    anchor = "end" if place > RIGHT - 16 else "middle"
    return f'<text x="{_short(place)}" y="{BOTTOM + 19}" text-anchor="{anchor}">{number(x)}</text>'


def _paths(drawn: _Drawn, x: Array, up: Callable[[Array], Array]) -> str:
    """The pale band and the line of one curve."""
    band = ""
    if drawn.curve.smooth is not None:
        for part in _pieces(drawn.least):
            there = _points(x[part], up(drawn.greatest[part]))
            back = _points(x[part][::-1], up(drawn.least[part][::-1]))
            band += f"M{there}L{back}Z"
    line = "".join(f"M{_points(x[part], up(drawn.line[part]))}" for part in _pieces(drawn.line))
    pale = f'<path class="band" d="{band}"/>' if band else ""
    return f'<g class="{_look(drawn.curve.colour)}">{pale}<path class="line" d="{line}"/></g>'


def _pieces(values: Array) -> Iterator[slice]:
    """Where values are finite: from .. to."""
    edges = np.flatnonzero(np.diff(np.isfinite(values), prepend=False, append=False))
    for start, end in edges.reshape(-1, 2):
        yield slice(start, end)


def _points(x: Array, y: Array) -> str:
    """A single one twice, which is a dot."""
    points = [f"{_short(a)} {_short(b)}" for a, b in zip(x, y, strict=True)]
    return "L".join(points if len(points) > 1 else points * 2)


def _short(value: float) -> str:
    return f"{float(value):.1f}".removesuffix(".0")


def _look(colour: int) -> str:
    return f"c{colour % COLOURS}" + (" dashed" if colour % (2 * COLOURS) >= COLOURS else "")


def _told(drawn: _Drawn) -> str:
    """A curve in words."""
    line = drawn.line[np.isfinite(drawn.line)]
    begin, end, least, most = (number(float(v)) for v in (line[0], line[-1], line.min(), line.max()))
    return f"{drawn.curve.name}: from {begin} to {end}, between {least} and {most}."
