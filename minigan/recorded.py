"""What a captured step recorded, to be read and to be looked at: a list of its calls, and a map of its memory.

The list is a program, a call a line, as graph.py prints graphs. The map has a rectangle for each result: as wide as it
is needed, as high as it is large, and where no other rectangle is.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import named, replace
from .kernels.plan import Value
from .kernels.recording import Call, Plan, Use, flattened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = ("#", "call", "from", "makes", "KB", "at KB", "line")
SHOWN = 3  # arrays of a list: an optimizer's gradients are many
SOURCE = 64  # letters of a line of the program

FAMILIES = {
    "live": ("what is called live", "#d8a200"),
    "ahead": ("what is called ahead", "#b3b300"),
    "random": ("random numbers", "#8c6d1f"),
    "linear": ("matrix products", "#3f6aa3"),
    "conv2d": ("convolutions", "#2a3f7a"),
    "batch_norm": ("batch norm", "#9d755d"),
    "activation": ("activations", "#4a9a94"),
    "elementwise": ("sums, products, ... of elements", "#cf7373"),
    "loss": ("losses and penalties", "#a3474f"),
    "reduce": ("sums over axes", "#9a5f8b"),
    "indexing": ("copies and slices", "#8d8580"),
    "optimizer": ("optimizers", "#54a24b"),
}
"""Name and colour, by the folder of a kernel."""
CALL, HEIGHT, LETTER = 0.165, 4.6, 0.06  # inches: a call's width, the height of a map, a small letter


def text(plan: Plan) -> str:
    """The calls of a step: what each is given, what it makes, where that lies, and which line asked for it.

    "#3" is what call 3 made, a shape by itself an array from outside of the step. KB are of 1,000 bytes, "at KB" counts
    from the beginning of the memory that the results share; what outlasts the step is "kept", in memory of its own, and
    each device has its own of both. A line of the program is written once for all calls in a row that it asked for.
    """
    calls = plan.tape.calls
    rows = [HEAD, *(_row(plan, number, call) for number, call in enumerate(calls))]
    again = [False, False, *(a.line == b.line for a, b in pairwise(calls))]
    rows = [(*row[:-1], "" if known else row[-1]) for row, known in zip(rows, again, strict=True)]
    return "\n".join([*_aligned(rows, "><<<>><"), "", *_aligned(_sums(plan), "<>")])


def draw(plans: Sequence[Plan], path: str | Path) -> None:
    """The map as a PNG, one for each way that the step goes below each other. OSError if it cannot be written."""
    from matplotlib.figure import Figure

    calls = max(len(plan.replayed) for plan in plans)
    figure = Figure(figsize=(CALL * calls + 4, (HEIGHT + 4) * len(plans)), layout="constrained")
    for axes, plan in zip(figure.subplots(len(plans), squeeze=False)[:, 0], plans, strict=True):
        _map(axes, plan)
    with named(Path(path)):
        replace(Path(path), lambda part: figure.savefig(part, dpi=100, format="png"))


# ---- the list ------------------------------------------------------------------------------------------------------


def _row(plan: Plan, number: int, call: Call) -> tuple[str, ...]:
    values = [plan.tape.values[i] for i in call.results]
    name = f"{call.name} ({call.kind})" if call.kind in ("live", "ahead") else call.name
    given = ", ".join(_named(plan, arg) for arg in call.args if _arrays(arg))
    makes, size, at = ", ".join(str(v.shape) for v in values), "", ""
    if call.kind == "view":
        makes = "a view"
    elif call.idle:
        alias = values[0].alias
        makes = "nothing: unread" if alias is None else f"nothing: {_number(plan, alias)} will do"
    elif values:
        size = _kb(sum(v.nbytes for v in values))
        at = ", ".join(f"{_block(v)}{_kb(v.offset)}" for v in values)
    elif (out := call.options.get("out")) is not None:
        makes = f"into {_named(plan, out)}"
    return f"{number}", name, given, makes, size, at, _source(call.line)


def _named(plan: Plan, arg: Any) -> str:
    """The arrays of an argument: which results they are, or lie in, and their shapes."""
    uses = _arrays(arg)
    if len(uses) > SHOWN:
        return f"{len(uses)} arrays"
    return ", ".join(f"{use.shape}" if use.value is None else f"{_number(plan, use.value)} {use.shape}" for use in uses)


def _number(plan: Plan, value: int) -> str:
    born = plan.tape.values[value].born
    others = plan.tape.calls[born].results
    return f"#{born}" if len(others) == 1 else f"#{born}[{others.index(value)}]"


def _arrays(arg: Any) -> list[Use]:
    return [part for part in flattened(arg) if isinstance(part, Use)]


def _sums(plan: Plan) -> list[tuple[str, str]]:
    return [
        ("calls of a replay", f"{len(plan.replayed)}"),
        ("of them live", f"{sum(call.kind == 'live' for call in plan.replayed)}"),
        ("of them ahead of kernels", f"{sum(call.kind == 'ahead' for call in plan.replayed)}"),
        ("memory that the results share, KB", _kb(plan.peak)),
        ("the least that they need at once, KB", _kb(plan.least)),
        ("what they would take without sharing, KB", _kb(plan.sum)),
        ("kept after the step, KB", _kb(plan.kept)),
        ("given ahead, KB", _kb(plan.sent)),
    ]


def _block(value: Value) -> str:
    """Which memory it lies in, where that is not the results' own on the CPU."""
    where = [value.device] if value.device != "cpu" else []
    return "".join(f"{word} " for word in (where if value.block == "shared" else [*where, value.block]))


def _aligned(rows: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    """Columns, each to the left, <, or to the right, >."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def _kb(nbytes: int) -> str:
    return f"{nbytes / 1e3:,.1f}"


def _source(line: str) -> str:
    """folder/file.py:12: text, without the folder, and not too long."""
    place, _, source = line.partition(": ")
    shown = f"{Path(place).name}: {source}"
    return shown if len(shown) <= SOURCE else f"{shown[: SOURCE - 3]}..."


# ---- the map -------------------------------------------------------------------------------------------------------


def _map(axes: "Axes", plan: Plan) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    calls = plan.tape.calls
    run = [number for number, call in enumerate(calls) if call.replayed]
    before = [0, *accumulate(call.replayed for call in calls), len(run)]  # so many replayed calls before each
    top, bases, base = max(plan.peak, 1) / 1e3, dict[str, int](), 0
    for (device, block), size in plan.sizes.items():
        if block == "shared":  # devices' memories above each other
            bases[device], base = base, base + size
    for value in plan.tape.values:
        if value.block != "shared" or value.alias is not None or not calls[value.born].replayed:
            continue
        left, bottom = before[value.born], (bases[value.device] + value.offset) / 1e3
        width, height = before[value.last + 1] - left, value.nbytes / 1e3
        colour = FAMILIES[_family(calls[value.born])][1]
        inches = width * CALL, height / top * HEIGHT
        edge = 0.5 if inches[1] > LETTER else 0.0  # which would cover what is thin
        axes.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, edgecolor="white", linewidth=edge))
        label = "×".join(map(str, value.shape)) or "1"
        if len(label) * LETTER < inches[0] and 2 * LETTER < inches[1]:
            middle = left + width / 2, bottom + height / 2
            axes.text(*middle, label, fontsize=7, color="white", ha="center", va="center_baseline")
    _bands(axes, [calls[number].line for number in run])
    axes.axhline(plan.least / 1e3, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, len(run)), ylim=(0, top * 1.03), ylabel="KB of planned memory", xlabel="calls of a replay")
    axes.set_xticks([i + 0.5 for i in range(len(run))], [f"{calls[n].name} {n}" for n in run], rotation=90, fontsize=7)
    families = sorted({_family(calls[number]) for number in run}, key=[*FAMILIES].index)
    handles = [Patch(color=FAMILIES[family][1], label=FAMILIES[family][0]) for family in families]
    least = Line2D([], [], color="black", linewidth=0.8, linestyle="--", label=f"{_kb(plan.least)} KB, needed at once")
    title = (
        "A rectangle is what a call makes:\nfrom that call to the last that reads\nit, where it lies in memory.\n\n"
        f"{len(run)} calls share {_kb(plan.peak)} KB;\nwithout sharing it would be {_kb(plan.sum)}.\n"
    )
    axes.legend(
        handles=[*handles, least], title=title, bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8,
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _bands(axes: "Axes", lines: Sequence[str]) -> None:
    """Behind the calls that one line of the program asked for, and above them the line."""
    start = 0
    for i, (line, group) in enumerate(groupby(lines)):
        end = start + len(list(group))
        axes.axvspan(start, end, color="#eeeeee" if i % 2 == 0 else "white", zorder=-1)
        axes.annotate(
            _source(line), ((start + end) / 2, 1), (0, 3), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", rotation=40, rotation_mode="anchor", fontsize=7, annotation_clip=False,
        )  # fmt: skip
        start = end


def _family(call: Call) -> str:
    return call.kind if call.kind in ("live", "ahead") else str(call.function.folder)
