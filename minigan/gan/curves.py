"""What metrics.jsonl says as curves: of one run its columns, of several runs one column each in a chart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Literal

import numpy as np

from ..tensor import Array
from .charts import Axes, Curve, chart
from .records import Row, rates
from .run_folder import running_mean, running_median

Smooth = Callable[[Any], Array]


@dataclass(frozen=True)
class Panel:
    """A chart: its axes, the columns that it shows, how they are smoothed (None: few points, as they are)."""

    axes: Axes
    columns: tuple[str, ...]
    smooth: Smooth | None


SPEED = "images_per_second"
"""A column that is computed from two others."""

PANELS = (
    Panel(Axes("Losses", "They say who is ahead, not how good the pictures are."), ("d_loss", "g_loss"), running_mean),
    Panel(
        Axes(
            "Mean sigmoid(D)",
            "How real D takes real images to be, and fakes before and after its update: stay away from 1 and 0.",
            low=0,
            high=1,
        ),
        ("d_real", "d_fake_before", "d_fake_after"),
        running_mean,
    ),
    Panel(
        Axes("Mean D", "What D makes of real images and of fakes, before its update: fakes should catch up."),
        ("score_real", "score_fake"),
        running_mean,
    ),
    Panel(
        Axes(
            "BEGAN's balance",
            "Its measure of convergence falls; k, between 0 and 1, says how much D cares for fakes.",
            low=0,
        ),
        ("measure", "k"),
        running_mean,
    ),
    Panel(
        Axes(
            "Reconstruction and code",
            "How badly images are rebuilt; of a VAE, also what their codes tell, in nats: kl near 0 is nothing.",
            low=0,
        ),
        ("reconstruction", "kl"),
        running_mean,
    ),
    Panel(
        Axes("Labels read right", "The share of real images and of fakes whose label D reads.", low=0, high=1),
        ("class_real", "class_fake"),
        running_mean,
    ),
    Panel(
        Axes("Information", "What D reads of a code's categories in an image, in nats.", low=0),
        ("information",),
        running_mean,
    ),
    Panel(
        Axes(
            "Wasserstein estimate",
            "By how much the critic scores real images above samples: it rises while the critic learns, then falls.",
        ),
        ("w_estimate",),
        running_median,
    ),
    Panel(
        Axes(
            "|dD/dx|",
            "The slope of D. WGAN-GP's and DRAGAN's penalties draw it to 1, R1 and R2 to 0; clipping leaves it small.",
        ),
        ("grad_norm",),
        running_median,
    ),
    Panel(
        Axes("Gradient penalty", "What D's loss has added for slopes that its penalty does not want.", low=0, log=True),
        ("penalty",),
        running_mean,
    ),
    Panel(
        Axes("Weights at the clip", "The share of D's weights at +-clip. Near 1, D is a sum of signs.", low=0, high=1),
        ("clip_share",),
        running_mean,
    ),
    Panel(
        Axes("Gradient of G", "Its Euclidean norm over all weights. Near 0, G learns nothing.", low=0, log=True),
        ("g_grad_norm",),
        running_median,
    ),
    Panel(
        Axes(
            "Spread of the samples",
            "Their mean distance from each other, by that of real images: near 0, all look alike.",
            low=0,
            mark=(1.0, "real images"),
        ),
        ("spread",),
        None,
    ),
    Panel(
        Axes("FID", "By minigan's own classifier; it was measured while the run trained (evaluate_every).", low=0),
        ("fid",),
        None,
    ),
    Panel(Axes("Throughput", "Real images that D sees in a second.", "images/s", low=0), (SPEED,), running_median),
)


def of_run(rows: Sequence[Row], floors: Mapping[str, Any]) -> str:
    """Charts of one run; "" if there is nothing to draw. floors: metrics.json, for fid_floor."""
    if not rows:
        return ""
    steps, charts = _column(rows, "step"), []
    for i, panel in enumerate(PANELS):
        curves = [_curve(rows, steps, key, colour, panel.smooth) for colour, key in enumerate(panel.columns)]
        axes = panel.axes
        if panel.columns == ("fid",) and (floor := floors.get("fid_floor")) is not None:
            axes = replace(axes, mark=(float(floor), "test images"))
        charts.append(chart(f"chart-{i}", axes, curves))
    return _charts(charts)


def of_runs(names: Sequence[str], runs: Sequence[Sequence[Row]], by: Literal["step", "seconds"]) -> str:
    """The same for several: a chart for each column, a colour for each run."""
    where = [_column(rows, by) for rows in runs]
    charts = []
    for panel in PANELS:
        for key in panel.columns:
            curves = [
                _curve(rows, x, key, i, panel.smooth, name)
                for i, (name, rows, x) in enumerate(zip(names, runs, where, strict=True))
            ]
            axes = replace(panel.axes, x_label="step" if by == "step" else "seconds of training")
            if len(panel.columns) > 1:
                axes = replace(axes, title=key, meaning="")
            charts.append(chart(f"{by}-{key.replace('_', '-')}", axes, curves))
    return _charts(charts, f" by-{by}")


def _charts(charts: Sequence[str], look: str = "") -> str:
    text = "\n".join(filter(None, charts))
    return text and f'<div class="charts{look}">\n{text}\n</div>'


def _curve(
    rows: Sequence[Row], x: Array, key: str, colour: int, smooth: Smooth | None, name: str | None = None
) -> Curve:
    """Of the rows that have the column; NaN in one is a gap, a row without it is none."""
    if key == SPEED:
        y = np.array([nan, *rates(rows)][: len(rows)])
        there = np.isfinite(y)
    else:
        y = _column(rows, key)
        there = np.array([key in row for row in rows], bool)
    return Curve(name or key, x[there], y[there], colour, smooth)


def _column(rows: Sequence[Row], key: str) -> Array:
    return np.array([row.get(key, nan) for row in rows], np.float64)
