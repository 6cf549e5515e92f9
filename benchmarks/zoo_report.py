"""What zoo.py found: a section of docs/results.md and a picture for each table, and docs/zoo.md of all of them."""

import inspect
import json
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import sections
from quality_report import rank_correlation
from sections import markdown, spread
from zoo_rows import BASELINES, FIGURES, PAPER_FID, ROUNDS, TABLES, TOY_UPDATES, TOYS, UPDATES, slug

from minigan.files import named, replace
from minigan.gan.compare import table as aligned
from minigan.gan.toys import PAIRED, SCORED

Results = dict[str, Any]

ROOT = Path(__file__).parent.parent

HEADLINES = ("fid", "label_accuracy", "triangle_f1", "modes_filled", "high_quality")
"""The figures that docs/zoo.md shows."""

ALONE = "without a game"
"""The heading of rows that are no recipes."""

CLASSIFIED = (
    "FID is of {fakes:,} samples against 10,000 training images by the features of minigan's own classifier, so it "
    "compares with no published one; where there are no labels, by those of an untrained net. Precision and recall "
    "(k = 3) and the leave-one-out accuracy of one nearest neighbour (0.5 is ideal) are of 5,000 a side, by the same "
    "features ([metrics.md](metrics.md)). *Rarest class* is the share of the rarest one among the samples, as the "
    "classifier reads them. *Test images* is what real images get."
)
LABELLED = (
    "*Label accuracy* is the share of the samples that the classifier reads as what they were asked to be; *nearest-"
    "label error* the share of test images whose nearest sample, in pixels, has another label. Categories that nobody "
    "taught, as InfoGAN's, are each taken for the label that fits best, one to one, on the samples that it scores."
)
TRIANGLES = (
    "*Triangles: precision* is the share of 2,000 samples that are nearly a triangle, *recall* the share of 300 test "
    "triangles that G can come near to, by gradient descent on its codes; *distance* is the median sample's from the "
    "nearest triangle, as a share of its ink."
)
IN_THE_PLANE = (
    f"{SCORED:,} samples a run. A sample is *on target* within 3 sigma of a mode. *Modes* have at least one of these, "
    "*filled* ones a quarter of their due. *KL* is that of the modes' shares from equal ones, in nats; *spread* the "
    f"deviation within the modes by the true one; *W1* the exact Wasserstein distance of {PAIRED:,} samples from as "
    "many points. *Perfect* is what points of the mixture itself get. All have the same nets, and start from the same "
    "weights; step sizes, and updates of D for each of G, are their own (minigan/gan/toys.py)."
)


LOST = "\N{DAGGER}"
"""Beside a mean of the runs that did not fail."""

OWN_SETTINGS = ", by the recipes' own settings but for the keys that stand in the row"


def marks_of(name: str) -> sections.Marks:
    return sections.marks(f"benchmarks/zoo.py {name}")


def of(results: Results, row: str, data: str) -> list[dict[str, Any]]:
    return [run for run in results["runs"] if (run["task"]["row"], run["task"]["data"]) == (row, data)]


def values(results: Results, row: str, data: str, key: str) -> list[float]:
    """One number a run, NaN of those that failed or do not have it."""
    return [run["figures"].get(key, nan) for run in of(results, row, data)]


def mean(results: Results, row: str, data: str, key: str) -> float:
    """Over the runs that have it; NaN if none has."""
    known = [value for value in values(results, row, data, key) if value == value]
    return float(np.mean(known)) if known else nan


def failed(results: Results, row: str, data: str) -> int:
    """How many of the runs."""
    return sum(run["failed"] is not None for run in of(results, row, data))


def cell(results: Results, row: str, data: str, key: str) -> str:
    """Mean and deviation of the runs that have the figure, marked where others failed; "-" if none has it."""
    text = spread(values(results, row, data, key), FIGURES[key][1])
    return text + LOST if failed(results, row, data) and text != "-" else text


def figures_of(results: Results, data: str) -> list[str]:
    """Which there are, in the order of FIGURES."""
    found = {key for run in results["runs"] if run["task"]["data"] == data for key in run["figures"]}
    return [key for key in FIGURES if key in found]


def floors(results: Results, data: str) -> dict[str, float]:
    """What real images get: measured by themselves, or by every run beside its own figures."""
    found = dict(results["floors"].get(data, {}))
    for run in results["runs"]:
        if run["task"]["data"] == data:
            for ending in ("_floor", "_of_real"):
                found |= {k.removesuffix(ending): v for k, v in run["figures"].items() if k.endswith(ending)}
    return found


def ends(results: Results, data: str) -> tuple[list[str], list[list[str]]]:
    """The table of one of the data sets."""
    keys = figures_of(results, data)
    head = ["system", "updates of G", "seconds", *(FIGURES[key][0] for key in keys), "failed"]
    rows = []
    for row in results["rows"]:
        runs = of(results, row, data)
        steps = runs[0]["task"]["steps"]
        effort = "" if steps is None else f"{steps:,}"
        seconds = [run["seconds"] for run in runs if run["seconds"] is not None]
        cells = [f"{np.mean(seconds):.1f}" if seconds else "-", *(cell(results, row, data, key) for key in keys)]
        rows.append([f"`{row}`", effort, *cells, f"{failed(results, row, data)} of {len(runs)}"])
    if found := floors(results, data):
        cells = [format(found[key], FIGURES[key][1]) if key in found else "" for key in keys]
        rows.append(["test images", "", "", *cells, ""])
    return head, rows


def ranks(results: Results, data: str) -> tuple[list[str], list[list[str]]]:
    """Of the rows that have an FID here and in the paper, and of which no run failed: both, and their ranks."""
    whole = [row for row in results["rows"] if row in PAPER_FID and not failed(results, row, data)]
    here = {row: mean(results, row, data, "fid") for row in whole}
    here = {row: value for row, value in here.items() if value == value}
    there = {row: float(PAPER_FID[row].split()[0]) for row in here}
    ours, theirs = sorted(here, key=here.__getitem__), sorted(there, key=there.__getitem__)
    head = ["system", "our FID", "rank", "FID in the paper (recalled)", "rank there"]
    return head, [
        [f"`{row}`", f"{here[row]:.2f}", str(ours.index(row) + 1), PAPER_FID[row], str(theirs.index(row) + 1)]
        for row in ours
    ]


def rank_paragraphs(results: Results) -> list[str]:
    """Our order beside the paper's, where the images are MNIST's."""
    if results["table"] != "comparison" or "MNIST" not in results["images"]:
        return []
    head, rows = ranks(results, "MNIST")
    if len(rows) < 3:
        return []
    left = [f"`{row}`" for row in results["rows"] if row in PAPER_FID and failed(results, row, "MNIST")]
    order = rank_correlation(*(np.array([float(row[i]) for row in rows]) for i in (2, 4)))
    return [
        "Lucic et al., *Are GANs created equal?*, 2018, give each system large nets, many settings, and Inception's "
        "features, and report the best FID of each. Their figures on MNIST, recalled, beside ours; only the order may "
        f"be compared: Spearman's coefficient of the two is {order:.2f}."
        + (f" No rank, since runs failed: {', '.join(left)}." if left else ""),
        markdown(head, rows),
    ]


def failures(results: Results) -> list[str]:
    """Which runs failed, and why."""
    found = [(run["task"], run["failed"]) for run in results["runs"] if run["failed"] is not None]
    lines = [f"* `{task['row']}`, {task['data']}, seed {task['seed']}: {why}" for task, why in found]
    return ["Failed:", "\n".join(lines)] if lines else []


def in_words(results: Results) -> str:
    """For a terminal."""
    parts = []
    for data in results["images"]:
        head, rows = ends(results, data)
        parts.append("\n".join([data, *aligned(head, rows, left=1)]))
    return "\n\n".join([*parts, *failures(results)])


def method(results: Results) -> str:
    """How the runs were made, in one paragraph."""
    here, seeds = results["machine"], results["seeds"]
    machine = f"Machine: {here['cpu']}. Mean ± standard deviation over the seeds"
    machine += f"; {LOST}: of those that did not fail." if any(run["failed"] for run in results["runs"]) else "."
    runs = f"{counted(seeds, 'run')} of each system"
    plane = results["table"] == TOYS
    rounds, turn = ROUNDS, TOY_UPDATES if plane else UPDATES
    return (
        f"{runs}, each for {counted(results['seconds'], 'second')} of training in a process with one thread, on "
        f"{' and '.join(results['images'])}"
        f"{'' if plane else OWN_SETTINGS}. The "
        f"seconds are counted in updates: beforehand all systems took turns, {rounds} turns of {turn} updates of G "
        "each, and the median time of the processor says how many updates fit. With these numbers, which are in the "
        "JSON, runs come out the same again, on however busy a machine; measured anew they differ by some percent, as "
        "they do between systems whose updates cost the same. *Seconds* is what the runs then took. "
        f"{machine}"
    )


def counted(number: int, thing: str) -> str:
    """In words: "1 second", "2 seconds"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def paragraphs(results: Results) -> list[str]:
    """For docs/results.md."""
    name = results["table"]
    about, keys = TABLES[name], {key for data in results["images"] for key in figures_of(results, data)}
    text = [f"## {about.heading}", about.question, f"    {results['command']}", method(results)]
    text += [IN_THE_PLANE] if name == TOYS else [CLASSIFIED.format(fakes=results["fakes"])]
    text += [LABELLED] if "label_accuracy" in keys else []
    text += [TRIANGLES] if "triangle_f1" in keys else []
    for data in results["images"]:
        text += [f"**{data}**", markdown(*ends(results, data))]
    titles = ", ".join(FIGURES[key][0] for _, key in panels_of(results))
    return [
        *text,
        *rank_paragraphs(results),
        *failures(results),
        *([f"![{titles}: a dot a run, a cross one that failed](images/zoo-{name}.png)"] if titles else []),
        f"Samples: [zoo.md](zoo.md). All figures: [benchmarks/results/zoo-{name}.json]"
        f"(../benchmarks/results/zoo-{name}.json).",
    ]


def panels_of(results: Results) -> list[tuple[str, str]]:
    """The data and the figure of each panel of the picture, of those that were measured."""
    names = list(results["images"])
    panels = [(names[i], key) for i, key in TABLES[results["table"]].panels if i < len(names)]
    return [(data, key) for data, key in panels if key in figures_of(results, data)]


def picture(results: Results, path: Path) -> None:
    """A line a row, a dot a run, at the edge a cross one that failed, real images dashed; no file of no figures."""
    from matplotlib.figure import Figure

    panels, rows = panels_of(results), results["rows"]
    if not panels:
        with named(path):
            path.unlink(missing_ok=True)  # of an earlier table
        return
    figure = Figure(figsize=(5 * len(panels) + 1, 0.28 * len(rows) + 1.2), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (data, key) in zip(every, panels, strict=True):
        for i, row in enumerate(rows):
            found = values(results, row, data, key)
            axes.plot(found, [i] * len(found), "o", color="C0", alpha=0.5, markersize=5)
            axes.plot(mean(results, row, data, key), i, "|", color="black", markersize=12)
            edge = [0.98 - 0.03 * n for n in range(failed(results, row, data))]  # in parts of the panel
            axes.plot(edge, [i] * len(edge), "x", color="C3", transform=axes.get_yaxis_transform())
        real = floors(results, data).get(key)
        if real is not None and key != "fid":  # so far from all others that these would stand in one line
            axes.axvline(real, color="grey", linestyle="--", linewidth=1)
        axes.set(title=f"{FIGURES[key][0]}, {data}", yticks=range(len(rows)), yticklabels=rows)
        axes.grid(alpha=0.3)
        if key == "fid":
            axes.set_xscale("log")
    every[0].invert_yaxis()
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, lambda part: figure.savefig(part, dpi=90, format="png"))


# ---- docs/zoo.md ---------------------------------------------------------------------------------------------------


def expected(tables: list[Results]) -> dict[str, str]:
    """What each recipe should say was measured of it: by the first row of its own settings, else by one with keys."""
    from minigan.gan.recipes import RECIPES
    from minigan.options import to_json

    found = dict[str, tuple[bool, str]]()
    for results in tables:
        data = next(iter(results["images"]))
        for row in results["rows"]:
            name, *keys = row.split()
            figures = [f"{FIGURES[key][0]} {cell(results, row, data, key)}" for key in ("fid", "label_accuracy")]
            figures = [text for text in figures if not text.endswith(" -")]
            if results["table"] == TOYS or name not in RECIPES or not figures:
                continue
            settings, defaults = of(results, row, data)[0]["task"].get("settings"), to_json(RECIPES[name].settings())
            own = settings is not None and defaults | settings == defaults  # it does not have the newest ones
            text = f"{', '.join(figures).replace(LOST, '')} on {data} in {results['seconds']} s of one core"
            lost = failed(results, row, data)
            text += f" ({lost} of {results['seeds']} failed)" if lost else ""
            if name not in found or (own and not found[name][0]):
                found[name] = own, f"{' '.join(keys)}: {text}" if keys and not own else text
    return {name: text for name, (_, text) in found.items()}


def read_tables(docs: Path) -> list[Results]:
    """All tables that are there."""
    paths = [docs / f"benchmarks/results/zoo-{name}.json" for name in TABLES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def write_page(docs: Path) -> None:
    """docs/zoo.md of all tables that are there. ValueError if one has a recipe or toy that is not here any more."""
    path = docs / "docs/zoo.md"
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, lambda part: Path(part).write_text(page(read_tables(docs), docs)))


def page(tables: list[Results], docs: Path) -> str:
    from minigan.gan.recipes import RECIPES

    pictured = [results for results in tables if results["table"] != TOYS]
    known = dict.fromkeys(row for results in pictured for row in results["rows"])
    names = [*(recipe.family for recipe in RECIPES.values()), ALONE]
    families: dict[str, list[list[str]]] = {name: [] for name in names}
    for row in known:
        name, cells = row.split()[0], [pictures(pictured, row, docs), "", measured(pictured, row)]
        if name in BASELINES:
            cells[1] = f"`{row}`: {BASELINES[row]}<br>[baselines.py](../minigan/gan/baselines.py)"
            families[ALONE].append([*cells, ""])
            continue
        if name not in RECIPES:
            raise ValueError(f"zoo: the results have a recipe {name!r} that is not here; have their table made anew")
        recipe = RECIPES[name]
        formula = f"<br>`{escaped(recipe.formula)}`" if recipe.formula else ""
        cells[1] = f"`{row}`: {escaped(recipe.summary)}{formula}<br>{file_of(recipe.build)}"
        families[recipe.family].append([*cells, escaped(recipe.paper)])
    text = [
        "# The zoo",
        "Every system that minigan trains, and some without a game beside them: samples of the first seed, what is "
        "minimised, where that stands, what was measured, and who had the idea. `minigan train` takes what stands "
        "first in a cell, but for what is *without a game* or *in the plane*, where no recipe stands. This page is "
        "written by `python benchmarks/zoo.py page` from the tables of [results.md](results.md), which say how "
        "everything was measured.",
        *(f"    {results['command']}" for results in tables),
    ]
    head = ["samples", "system", "measured", "paper"]
    for family, rows in families.items():
        if rows:
            text += [f"## {family[:1].upper()}{family[1:]}", markdown(head, rows)]
    for results in tables:
        if results["table"] == TOYS:
            text += list(plane(results, docs))
    return "\n\n".join(text) + "\n"


def plane(results: Results, docs: Path) -> Iterator[str]:
    """The section of the systems in the plane."""
    from minigan.gan.toys import TOYS as TRAINED

    yield "## In the plane"
    yield (
        f"{SCORED:,} samples on {' and on '.join(results['images'])} ([toys.py](../minigan/gan/toys.py)); to watch one "
        "train: `python examples/toy_gaussians.py --objective gan`."
    )
    rows = []
    for row in results["rows"]:
        if row not in BASELINES and row not in TRAINED:
            raise ValueError(f"zoo: the results have a toy {row!r} that is not here; have their table made anew")
        about = f": {BASELINES[row]}" if row in BASELINES else ""
        rows.append([pictures([results], row, docs), f"`{row}`{about}", measured([results], row)])
    yield markdown(["samples", "system", "measured"], rows)


def pictures(tables: list[Results], row: str, docs: Path) -> str:
    """Of the first table that has some of the row, one for each of the data."""
    for results in tables:
        names = [f"{slug(results['table'], row, Path(data).name)}.png" for data in results["images"]]
        found = [name for name in names if (docs / "docs/images/zoo" / name).exists()]
        if row in results["rows"] and found:
            return " ".join(f"![{row}](images/zoo/{name})" for name in found)
    return ""


def measured(tables: list[Results], row: str) -> str:
    """The headlines of all tables that have the row."""
    lines = []
    for results in tables:
        for data in results["images"] if row in results["rows"] else ():
            keys = [key for key in HEADLINES if key in figures_of(results, data)]
            cells = [(key, cell(results, row, data, key)) for key in keys]
            found = [f"{FIGURES[key][0]} {text}" for key, text in cells if text != "-"]
            lost = failed(results, row, data)
            found += [f"{lost} of {results['seeds']} failed"] if lost else []
            length = f" in {results['seconds']} s" if results["seconds"] else ""
            lines.append(f"{data}{length}: {', '.join(found)}")
    return "<br>".join(lines)


def escaped(text: str) -> str:
    """For a cell of a Markdown table."""
    return text.replace("|", "\\|")


def file_of(build: Any) -> str:
    """A link to where a recipe is built."""
    path = Path(inspect.getsourcefile(inspect.unwrap(build)) or "").resolve().relative_to(ROOT)
    return f"[{path.name}](../{path.as_posix()})"
