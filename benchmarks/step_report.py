"""What benchmarks/train_step.py measured: rows of JSON and two tables."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from step_rows import Row

Ready = dict[str, Any]
"""What a contender found in its first steps (step_worker.py)."""
Turns = dict[str, dict[str, Any]]
"""Contender -> {"ms", "faults"} of a step, in one round."""
Figures = dict[str, Any]

FIELDS = {
    "name": "of the row: image size, objective, what is updated, width of the nets, batch",
    "objective": "as in examples/dcgan_mnist.py",
    "image_size": "pixels; null for points in the plane",
    "width": "channels of the layer next to the image, or of all hidden layers",
    "batch": "images, or points",
    "ours_ms": "median over the rounds, of one step: replayed, as `train` does where nobody says capture=False",
    "images_per_s": "batch / ours_ms: of the data, D's fakes not counted",
    "eager_ms": "median of ours under capture=False: the same kernels, called by Python and its graph",
    "eager_ratio": "median over the rounds of eager_ms / ours_ms in the same round",
    "torch_ms": "median of the fair rival, in the variant of the lowest median",
    "torch_layout": "that variant: a memory format; of points, which have none, a number of threads",
    "torch_variants_ms": "median of each variant",
    "torch_adam": "the optimizer's implementation that was fastest: fused, foreach or for-loop; with clip, RMSprop's",
    "ratio": "median over the rounds of torch_ms / ours_ms in the same round",
    "torch_as_written_ms": "median: NCHW, default optimizer, one G(z) for both players, D not frozen in G's step",
    "as_written_ratio": "the same ratio of that",
    "torch_compile_ms": "median of the fair rival under torch.compile; null unless --all-rivals",
    "compile_ratio": "the same ratio of that",
    "torch_bf16_ms": "median of the fair rival under bf16 autocast; null unless --all-rivals",
    "bf16_ratio": "the same ratio of that",
    "not_run": "contender -> why it did not start, of torch.compile and bf16",
    "outside": "share of ours_ms outside of kernels and what they call, by minigan.profile(), of 5 steps by themselves",
    "eager_outside": "the same of eager_ms: graph, tensors, the functions of the players",
    "arrays_mb": "MB of memory that Python, so NumPy, has asked for at the highest point of a later step, by "
    "tracemalloc, beyond that after building nets and optimizers: planned memory, what is kept, and scratch",
    "eager_arrays_mb": "the same under capture=False: arrays that a graph holds, new ones, and scratch",
    "replays": "steps in which replay_faults were counted: as many as fit in a second for each round, 1,000 at most",
    "replay_faults": "minor page faults of all of them together; null where the system does not count them",
    "peak_mb": "MB by which the first steps' highest use of memory exceeds that after building nets and optimizers; of "
    "ours the steps that record are among them",
    "eager_peak_mb": "the same under capture=False",
    "torch_peak_mb": "the same, of the variant in torch_layout",
    "faults": "minor page faults of one step, median over the rounds",
    "torch_faults": "the same, of the variant in torch_layout",
}

FAIR = ("nchw", "channels_last", "all threads", "one thread")
OTHERS = {"as written": "as_written", "torch.compile": "compile", "bf16": "bf16"}
"""Contender -> its name in FIELDS."""


def figures(
    name: str,
    row: Row,
    ready: Mapping[str, Ready],
    inside: Mapping[str, Ready],
    turns: Sequence[Turns],
    not_run: Mapping[str, str],
) -> Figures:
    """A row of the JSON file. inside: of ours and eager, what step_worker.py says. `turns` has an item for each round,
    at least one.
    """
    ms = {contender: median(turn[contender]["ms"] for turn in turns) for contender in ready}
    variants = {contender: ms[contender] for contender in FAIR if contender in ms}
    best = min(variants, key=variants.__getitem__, default=None)

    def ratio(contender: str | None) -> float | None:
        return median(turn[contender]["ms"] / turn["ours"]["ms"] for turn in turns) if contender in ms else None

    def faults(contender: str | None) -> float | None:
        found = [turn[contender]["faults"] for turn in turns if contender in turn]
        return None if not found or None in found else median(found)

    values = {
        "name": name,
        "objective": row.objective,
        "image_size": row.size,
        "width": row.width,
        "batch": row.batch,
        "ours_ms": ms["ours"],
        "images_per_s": 1e3 * row.batch / ms["ours"],
        "eager_ms": ms["eager"],
        "eager_ratio": ratio("eager"),
        "torch_ms": best and ms[best],
        "torch_layout": best,
        "torch_variants_ms": variants,
        "torch_adam": best and ready[best]["optimizer"],
        "ratio": ratio(best),
        **{f"torch_{field}_ms": ms.get(contender) for contender, field in OTHERS.items()},
        **{f"{field}_ratio": ratio(contender) for contender, field in OTHERS.items()},
        "not_run": dict(not_run),
        "outside": inside["ours"]["outside"],
        "eager_outside": inside["eager"]["outside"],
        "arrays_mb": inside["ours"]["arrays_mb"],
        "eager_arrays_mb": inside["eager"]["arrays_mb"],
        "replays": inside["ours"]["replays"],
        "replay_faults": inside["ours"]["replay_faults"],
        "peak_mb": ready["ours"]["peak_mb"],
        "eager_peak_mb": ready["eager"]["peak_mb"],
        "torch_peak_mb": best and ready[best]["peak_mb"],
        "faults": faults("ours"),
        "torch_faults": faults(best),
    }
    return {field: values[field] for field in FIELDS}


COLUMNS = {
    "ours ms": ("ours_ms", ".1f"),
    "images/s": ("images_per_s", ".0f"),
    "eager ms": ("eager_ms", ".1f"),
    "eager/ours": ("eager_ratio", ".2f"),
    "PyTorch ms": ("torch_ms", ".1f"),
    "ratio": ("ratio", ".2f"),
    "variant": ("torch_layout", ""),
    "optimizer": ("torch_adam", ""),
    "as written": ("torch_as_written_ms", ".1f"),
    "compiled": ("torch_compile_ms", ".1f"),
    "bf16": ("torch_bf16_ms", ".1f"),
    "bf16 ratio": ("bf16_ratio", ".2f"),
    "outside": ("outside", ".0%"),
    "eager outside": ("eager_outside", ".0%"),
    "arrays MB": ("arrays_mb", ".1f"),
    "eager arrays": ("eager_arrays_mb", ".1f"),
    "MB": ("peak_mb", ".0f"),
    "eager MB": ("eager_peak_mb", ".0f"),
    "PyTorch MB": ("torch_peak_mb", ".0f"),
    "replays": ("replays", ".0f"),
    "their faults": ("replay_faults", ".0f"),
    "faults": ("faults", ".0f"),
    "PyTorch's": ("torch_faults", ".0f"),
}


def _cell(row: Figures, field: str, form: str) -> str:
    return "-" if row[field] is None else format(row[field], form)


def table(rows: Sequence[Figures]) -> str:
    """All of it, for a wide terminal."""
    left = max(len(row["name"]) for row in rows)
    lines = [" " * left + "".join(f"{title:>15}" for title in COLUMNS)]
    for row in rows:
        cells = (_cell(row, *column) for column in COLUMNS.values())
        lines.append(f"{row['name']:{left}}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def markdown(rows: Sequence[Figures]) -> str:
    """The table of the README; without the column of a rival that was not asked for."""
    columns = {
        "ours, ms": "ours ms",
        "images/s": "images/s",
        "not captured, ms": "eager ms",
        "PyTorch, ms": "PyTorch ms",
        "ratio": "ratio",
        "PyTorch as written, ms": "as written",
        "bf16 autocast, ms": "bf16",
        "outside of kernels": "outside",
        "the same, not captured": "eager outside",
    }
    shown = {title: column for title, column in columns.items() if any(_cell(r, *COLUMNS[column]) != "-" for r in rows)}
    lines = [
        f"| {' | '.join(['step', *shown, 'ours/PyTorch memory, MB'])} |",
        "|---" + "|---:" * (len(shown) + 1) + "|",
    ]
    for row in rows:
        cells = [_cell(row, *COLUMNS[column]) for column in shown.values()]
        memory = " / ".join(_cell(row, *COLUMNS[column]) for column in ("MB", "PyTorch MB"))
        lines.append(f"| {' | '.join([row['name'], *cells, memory])} |")
    return "\n".join(lines)
