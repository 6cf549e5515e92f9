"""What was measured, as rows of JSON, as a table, as geometric means and as a picture."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median
from typing import Any

from cases import KINDS, MEMORY, MIDDLE, Case
from matplotlib.figure import Figure
from rival import LAYOUTS

Row = dict[str, Any]
Machine = dict[str, Any]
Times = dict[str, float]
"""Contender -> milliseconds, of a row in one round: "ours", "fresh" and PyTorch's memory formats."""

FIELDS = {
    "name": "image size, operation, channels in -> channels out or shape of the feature map; batch 64, float32",
    "image_size": "of the net's images, pixels",
    "width": "of the net: channels of the largest feature map of D",
    "kind": ", ".join(KINDS),
    "algorithm": "kernels.conv_algorithm's choice; null for whatever is no convolution",
    "ours_ms": "median over the rounds, transformed weights kept",
    "torch_nchw_ms": "median; of Adam, which has no memory format, the only one",
    "torch_channels_last_ms": "median",
    "ratio": "median over the rounds of PyTorch's time / ours, in the memory format of the lower median",
    "gflops": "GFLOP/s, counted as a direct convolution",
    "percent_of_peak": "of machine.peak_gflops",
    "gbps": "GB/s, each array counted once",
    "error": "largest absolute error / largest absolute value, against float64",
    "torch_error": "the same, in PyTorch's better memory format",
    "compile_ms": "the first call's time beyond ours_ms; from a filled Numba cache the time to load the kernel",
    "weight_ms": "median of what a call takes longer with a new version of the weight; null where none is transformed",
    "flops": "of the direct convolution",
    "bytes": "each array counted once",
}


@dataclass(frozen=True)
class Checked:
    """What the validation of a row found: errors by contender, and the time of our very first call."""

    errors: dict[str, float]
    first_ms: float


def row(name: str, case: Case, checked: Checked, times: Sequence[Times], peak_gflops: float) -> Row:
    """`times` has an item for each round, at least one."""
    medians = {contender: median(t[contender] for t in times) for contender in times[0]}
    ours = medians["ours"]
    layout = min((layout for layout in LAYOUTS if layout in medians), key=medians.__getitem__, default=None)
    gflops = case.flops / ours / 1e6 if case.flops else None
    values = {
        "name": name,
        "image_size": case.size,
        "width": case.width,
        "kind": case.kind,
        "algorithm": case.algorithm,
        "ours_ms": ours,
        **{f"torch_{each}_ms": medians.get(each) for each in LAYOUTS},
        "ratio": median(t[layout] / t["ours"] for t in times) if layout else None,
        "gflops": gflops,
        "percent_of_peak": gflops and 100 * gflops / peak_gflops,
        "gbps": case.bytes / ours / 1e6,
        "error": checked.errors["ours"],
        "torch_error": checked.errors[layout] if layout else None,
        "compile_ms": max(0.0, checked.first_ms - ours),
        "weight_ms": max(0.0, median(t["fresh"] - t["ours"] for t in times)) if "fresh" in medians else None,
        "flops": case.flops,
        "bytes": case.bytes,
    }
    assert values.keys() == FIELDS.keys()
    return values


# ---- text --------------------------------------------------------------------------------------------------------

COLUMNS = {
    "ours ms": ("ours_ms", ".3f"),
    "NCHW ms": ("torch_nchw_ms", ".3f"),
    "NHWC ms": ("torch_channels_last_ms", ".3f"),
    "ratio": ("ratio", ".2f"),
    "GFLOP/s": ("gflops", ".0f"),
    "% peak": ("percent_of_peak", ".0f"),
    "GB/s": ("gbps", ".1f"),
    "error": ("error", ".1e"),
    "PyTorch's": ("torch_error", ".1e"),
    "compile ms": ("compile_ms", ".0f"),
    "weight ms": ("weight_ms", ".3f"),
    "algorithm": ("algorithm", ""),
}


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def table(rows: Iterable[Row]) -> str:
    """All of it, for a wide terminal."""
    cells = [[r["name"], *(_cell(r[field], form) for field, form in COLUMNS.values())] for r in rows]
    return _aligned([["", *COLUMNS], *cells])


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(text).rstrip() for text in texts)


def markdown(rows: Iterable[Row]) -> str:
    """The table of docs/performance.md."""
    titles = "", "ours, ms", "weight, ms", "PyTorch, ms", "ratio", "% of peak", "error", "PyTorch's"
    lines = [f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for r in rows:
        rival = min((t for t in (r[f"torch_{layout}_ms"] for layout in LAYOUTS) if t is not None), default=None)
        cells = (
            *((r["ours_ms"], ".2f"), (r["weight_ms"], ".2f"), (rival, ".2f"), (r["ratio"], ".2f")),
            *((r["percent_of_peak"], ".0f"), (r["error"], ".0e"), (r["torch_error"], ".0e")),
        )
        lines.append(f"| {' | '.join([r['name'], *(_cell(*cell) for cell in cells)])} |")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """Geometric mean and minimum of the ratios of each net and kind of layer; "" without PyTorch."""
    rows = [r for r in rows if r["ratio"] is not None]
    if not rows:
        return ""
    lines = [["PyTorch's time / ours, geometric mean (minimum)", "convolutions", *KINDS]]
    for size, width in dict.fromkeys((r["image_size"], r["width"]) for r in rows):
        net = [r for r in rows if (r["image_size"], r["width"]) == (size, width)]
        kinds = ([r for r in net if r["kind"] == kind] for kind in KINDS)
        cells = map(_mean, ([r for r in net if r["kind"] != MEMORY], *kinds))
        lines.append([f"{size}px width {width}", *cells])
    chosen = [r for r in rows if (r["image_size"], r["width"], r["kind"]) == (64, 64, MIDDLE)]
    chosen = [r for r in chosen if " conv2d " in r["name"]]
    if chosen:
        lines.append(["64px middle layers width 64, conv2d", _mean(chosen), *[""] * len(KINDS)])
        name = "  the same, a new version of the weight in every call"
        lines.append([name, _mean(chosen, fresh=True), *[""] * len(KINDS)])
    return _aligned(lines)


def _mean(rows: Sequence[Row], fresh: bool = False) -> str:
    """`fresh`: with the time that transforming the weight takes."""
    ratios = [r["ratio"] * r["ours_ms"] / (r["ours_ms"] + fresh * (r["weight_ms"] or 0)) for r in rows]
    return f"{geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else "-"


# ---- picture -----------------------------------------------------------------------------------------------------

MARKS = dict(zip(KINDS, "o^s", strict=False))
OURS, PYTORCH = "tab:red", "tab:blue"
SPREAD = 1.25


def roofline(rows: Iterable[Row], machine: Machine, path: str, kind_of_file: str) -> None:
    """Draws into `path` the convolutions under the machine's roof (Williams, Waterman, Patterson 2009)."""
    peak, bandwidth = machine["peak_gflops"], machine["copy_gbps"]
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    points = list(_points(rows))
    left, right = min(x for x, *_ in points) / 2, max(x for x, *_ in points) * 2
    ridge = peak / bandwidth
    roof = [(left, left * bandwidth), (ridge, peak), (max(right, 2 * ridge), peak)]
    axes.plot(*zip(*roof, strict=True), color="black", label=f"{bandwidth:.0f} GB/s copied, {peak:.0f} GFLOP/s")
    for x, ours, rival, kind in points:
        if rival:
            axes.plot([x, x], [rival, ours], color="gray", linewidth=0.6, zorder=1)
            axes.plot(x, rival, MARKS[kind], color=PYTORCH, markersize=5, markerfacecolor="white")
        axes.plot(x, ours, MARKS[kind], color=OURS, markersize=5)
    for kind in (kind for kind in MARKS if any(kind == other for *_, other in points)):
        axes.plot([], [], MARKS[kind], color=OURS, label=f"minigan, {kind}")
        if any(rival for _, _, rival, _ in points):
            axes.plot([], [], MARKS[kind], color=PYTORCH, markerfacecolor="white", label=f"PyTorch, {kind}")
    axes.set(xscale="log", yscale="log", xlabel="FLOP / byte of the direct convolution, each array moved once")
    axes.set_ylabel("effective GFLOP/s: FLOP of the direct convolution / time")
    axes.set_title(f"Convolutions of the DCGANs, batch 64, float32\n{machine['cpu']}, {machine['threads']} threads")
    axes.grid(which="both", linewidth=0.3)
    axes.legend(loc="lower right", fontsize="small")
    caption = (
        "Each line joins minigan and PyTorch, in its better memory format, on one pass of one layer; passes of one "
    )
    caption += "intensity stand side by side.\nPoints above the flat roof are what Winograd's algorithm buys: it needs "
    caption += "fewer multiplications than are counted."
    figure.supxlabel(caption, fontsize="small")
    figure.savefig(path, dpi=120, format=kind_of_file)


def _points(rows: Iterable[Row]) -> Iterator[tuple[float, float, float | None, str]]:
    """(FLOP / byte, GFLOP/s of ours, of PyTorch's better memory format, kind) of the convolutions.

    A layer's passes are of one intensity: those that coincide stand side by side, within SPREAD.
    """
    same: dict[float, list[Row]] = {}
    for r in rows:
        if r["flops"]:
            same.setdefault(r["flops"] / r["bytes"], []).append(r)
    for intensity, together in same.items():
        for i, r in enumerate(together):
            times = [r[f"torch_{layout}_ms"] for layout in LAYOUTS]
            rival = r["flops"] / min(times) / 1e6 if None not in times else None
            yield intensity * SPREAD ** ((i + 0.5) / len(together) - 0.5), r["gflops"], rival, r["kind"]
