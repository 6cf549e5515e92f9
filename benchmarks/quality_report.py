"""What quality.py found, as a table, a picture and a section of docs/results.md."""

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import sections
from numpy.typing import NDArray
from sections import markdown, spread

from minigan.files import named, replace
from minigan.gan.compare import table

Results = dict[str, Any]

SYSTEMS = {
    "gan": ("ours", "gan"),
    "PyTorch gan": ("torch", "gan"),
    "wgan-clip": ("ours", "wgan-clip"),
    "wgan-gp": ("ours", "wgan-gp"),
}
"""Name -> whose, and the recipe."""

FIGURES = {
    "fid": ("FID", ".2f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "two_sample_accuracy": ("1-NN accuracy", ".3f"),
}
"""What is measured at each point: its column, and its format."""

TARGETS = (20, 10, 7)
"""FIDs whose first time is noted."""

RIVAL = (
    "*PyTorch gan* has the same nets, starts from the same weights and takes the same Adam, in its fastest memory "
    "format and optimizer, with all images in memory as floats before its clock starts; minigan makes its batches, "
    "and computes what it logs, while the clock runs. "
)

BEGIN, END = MARKS = sections.marks("benchmarks/quality.py")


def of(results: Results, system: str) -> list[dict[str, Any]]:
    return [run for run in results["runs"] if run["system"] == system]


def whole(results: Results, system: str) -> list[dict[str, Any]]:
    """The runs that did not fail."""
    return [run for run in of(results, system) if run["points"][-1]["failed"] is None]


def systems(results: Results) -> list[str]:
    return [name for name in SYSTEMS if of(results, name)]


def curve(run: dict[str, Any], key: str) -> NDArray[np.float64]:
    """A figure at each point; NaN, of seconds too, from where the run had failed on."""
    return np.array([point.get(key, nan) if point["failed"] is None else nan for point in run["points"]], np.float64)


def when(run: dict[str, Any], target: float) -> float:
    """Seconds at the first point whose FID is at most the target; NaN if there is none."""
    reached = curve(run, "seconds")[curve(run, "fid") <= target]
    return float(reached[0]) if len(reached) else nan


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's, of the points that have both; equal values share a rank. NaN of fewer than 3, and of a constant."""
    both = np.isfinite(a) & np.isfinite(b)
    ranks = [_ranks(values[both]) for values in (a, b)]
    if both.sum() < 3 or any(rank.min() == rank.max() for rank in ranks):
        return nan
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of equal values the mean of their places."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles: NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return middles[which]


def ends(results: Results) -> tuple[list[str], list[list[str]]]:
    """The table of how good each system is at the end."""
    head = ["system", "updates of G", *(name for name, _ in FIGURES.values()), "failed"]
    rows = []
    for name in systems(results):
        runs, all_runs = whole(results, name), of(results, name)
        cells = [spread([curve(run, key)[-1] for run in runs], form) for key, (_, form) in FIGURES.items()]
        updates = spread([run["points"][-1]["step"] for run in runs], ",.0f")
        rows.append([name, updates, *cells, f"{len(all_runs) - len(runs)} of {len(all_runs)}"])
    floor = [format(results["floor"][key], form) for key, (_, form) in FIGURES.items()]
    return head, [*rows, ["test images", "", *floor, ""]]


def times(results: Results) -> tuple[list[str], list[list[str]]]:
    """The table of when each system was how good, by seed."""
    shares = (0.25, 0.5, 1)
    head = [
        "system", *(f"FID at {share * results['seconds']:.0f} s" for share in shares),
        *(f"seconds to FID {target}" for target in TARGETS),
    ]  # fmt: skip
    rows = []
    for name in systems(results):
        runs = of(results, name)
        points = [int(share * results["points"]) - 1 for share in shares]
        cells = [spread([curve(run, "fid")[point] for run in runs], ".2f") for point in points]
        for target in TARGETS:
            found = [when(run, target) for run in runs]
            cells.append(", ".join("-" if t != t else f"{t:.0f}" for t in found))
        rows.append([name, *cells])
    return head, rows


def correlations(results: Results) -> tuple[list[str], list[list[str]]]:
    """The table of Spearman's coefficients, one a seed."""
    rows = []
    for name in systems(results):
        found = [rank_correlation(curve(run, "w_estimate"), curve(run, "fid")) for run in of(results, name)]
        if any(value == value for value in found):
            rows.append([name, ", ".join("-" if v != v else f"{v:.2f}" for v in found)])
    return ["critic", "Spearman of its estimate with FID, by seed"], rows


def in_words(results: Results) -> str:
    """For a terminal."""
    parts = (part(results) for part in (ends, times, correlations))
    return "\n\n".join("\n".join(table(head, rows, left=len(head))) for head, rows in parts)


def ratios(results: Results) -> list[float]:
    """For each seed whose runs did not fail, our updates of G by PyTorch's in the same seconds."""
    ours, theirs = (
        {run["seed"]: run["points"][-1]["step"] for run in whole(results, name)} for name in ("gan", "PyTorch gan")
    )
    return [ours[seed] / theirs[seed] for seed in sorted(ours.keys() & theirs)]


def paragraphs(results: Results) -> list[str]:
    """For docs/results.md."""
    here, seeds, points, floor = (results[key] for key in ("machine", "seeds", "points", "floor"))
    source = f" --data {results['data']}" if results["data"] else ""
    text = [
        "## The three GANs at equal seconds",
        f"    python benchmarks/quality.py --seconds {results['seconds']} --seeds {seeds} --points {points}{source}",
        f"trains each system {seeds} times for {results['seconds']} seconds on {results['trained_on']}, "
        f"{results['image_size']} pixels, width {results['width']}, batch {results['batch_size']}, by the recipes' own "
        "settings. The runs of a seed take turns on the machine, so that what slows it down slows all of them. "
        f"{RIVAL if of(results, 'PyTorch gan') else ''}"
        f"Machine: {here['cpu']}, {here['threads']} threads, PyTorch "
        f"{here['versions']['torch'] or 'not installed'}. Mean ± standard deviation over the seeds; a run that failed "
        "has no figures from then on, and is counted.",
        f"FID is of {results['fakes']:,} samples against as many training images by the classifier's features; "
        "precision and recall (k = 3) and the leave-one-out accuracy of one nearest neighbour between samples and real "
        f"images (0.5 is ideal) are of {floor['n_neighbours']:,} a side, by the same features "
        "([metrics.md](metrics.md)). *Test images* is what real images get.",
        markdown(*ends(results)),
        "The same over time. Seconds are those of the first measured point that is good enough, one number a seed.",
        markdown(*times(results)),
    ]
    if found := ratios(results):
        text.append(
            f"In the same seconds minigan's `gan` takes {np.median(found):.2f} times as many steps as PyTorch's "
            f"(by seed: {', '.join(f'{ratio:.2f}' for ratio in found)})."
        )
    if correlations(results)[1]:
        text += [
            "Does the Wasserstein estimate tell quality? E D(x) - E D(G(z)) on test images against the FID, over the "
            f"{points} points of each run; 1 would be the same order.",
            markdown(*correlations(results)),
        ]
    picture = "![FID, precision, recall and 1-NN accuracy over seconds of training](images/quality.png)"
    figures = "All figures: [benchmarks/results/quality.json](../benchmarks/results/quality.json)."
    return [*text, picture, figures]


def write_section(results: Results, path: Path) -> None:
    """In docs/results.md. ValueError as `check_marks`."""
    sections.write_section(path, MARKS, paragraphs(results))


def picture(results: Results, path: Path) -> None:
    """A panel for each figure: a pale line a run, the mean over the seeds bold, the test images dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (key, (name, _)) in zip(figure.subplots(2, 2).flat, FIGURES.items(), strict=True):
        for i, system in enumerate(systems(results)):
            curves = [(curve(run, "seconds"), curve(run, key)) for run in of(results, system)]
            for seconds, values in curves:
                axes.plot(seconds, values, color=f"C{i}", alpha=0.3, linewidth=0.8)
            middle = _mean([seconds for seconds, _ in curves]), _mean([values for _, values in curves])
            axes.plot(*middle, color=f"C{i}", linewidth=2, label=system)
        axes.axhline(results["floor"][key], color="grey", linestyle="--", linewidth=1, label="test images")
        axes.set(title=name, xlabel="seconds of training")
        axes.grid(alpha=0.3)
        if key == "fid":
            axes.set_yscale("log")
            axes.legend()
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, lambda part: figure.savefig(part, dpi=90, format="png"))


def _mean(curves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Over the runs that have a figure, point by point."""
    known = ~np.isnan(curves)
    total: Callable[..., NDArray[np.float64]] = np.nansum
    return np.where(known.any(0), total(curves, axis=0) / np.maximum(known.sum(0), 1), nan)
