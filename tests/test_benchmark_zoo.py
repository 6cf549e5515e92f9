"""benchmarks/zoo.py counts seconds in updates, goes on run by run, counts failures, and writes what it found."""

import argparse
import importlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from minigan import __version__
from minigan.data import DataSet
from minigan.data.sources import TRIANGLES
from minigan.gan.recipes import RECIPES
from minigan.metrics import Classifier
from minigan.random import Generator

ROOT = Path(__file__).parent.parent
MACHINE = {
    "cpu": "a CPU", "cores": 2, "threads": 1, "load": 0.1, "threading_layer": "omp", "peak_gflops": 9.0,
    "copy_gbps": 1.0, "versions": {},
}  # fmt: skip
TRICK = "improved smoothing=0.9"


@pytest.fixture(scope="module")
def zoo() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("zoo")


@pytest.fixture(scope="module")
def worker(zoo: ModuleType) -> ModuleType:
    return importlib.import_module("zoo_worker")


@pytest.fixture(scope="module")
def report(zoo: ModuleType) -> ModuleType:
    return importlib.import_module("zoo_report")


class Actor:
    """A Worker that starts no process. An FID is 10, half of that with a trick, plus the seed."""

    asked: ClassVar[list[str]]
    costs: ClassVar[dict[str, Any]]
    ends: ClassVar[dict[str, BaseException | str]]  # by the name of a run: what is raised; or why it failed
    process = argparse.Namespace(kill=lambda: None)

    def __init__(self, label: str, task: dict[str, Any], environment: dict[str, str], program: Path) -> None:
        self.label, self.task = label, task
        assert program.name == "zoo_worker.py"
        assert environment["NUMBA_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"

    def __enter__(self) -> "Actor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def answer(self) -> dict[str, Any]:
        self.asked.append(self.label)
        if self.task["job"] == "floor":
            return {"fid": 0.1, "recall": 0.9, "precision": 0.8}
        if self.task["job"] == "calibrate":
            return {row: self.costs[row] for row in self.task["rows"]}
        path, task = Path(self.task["path"]), self.task["task"]
        end = self.ends.get(path.stem)
        if isinstance(end, BaseException):
            raise end
        fid = (5.0 if " " in task["row"] else 10.0) + task["seed"]
        figures = {} if end else {"fid": fid, "precision": 0.5, "recall": 0.25, "label_accuracy_floor": 0.75}
        if not end:
            Image.new("L", (4, 4)).save(path.with_suffix(".png"))
        path.write_text(json.dumps({"task": task, "failed": end, "seconds": None if end else 9.9, "figures": figures}))
        return {"failed": end}


@pytest.fixture
def words(zoo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Of a small table, with actors in place of all that takes time."""
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "describe", lambda threads: {**MACHINE, **machine.identity(threads)})
    monkeypatch.setattr(Actor, "asked", [], raising=False)
    monkeypatch.setattr(Actor, "costs", {"gan": {"seconds": 0.05}, TRICK: {"seconds": 0.08}}, raising=False)
    monkeypatch.setattr(Actor, "ends", {}, raising=False)
    monkeypatch.setattr(zoo, "Worker", Actor)
    monkeypatch.setattr(zoo, "picture", lambda results, path: None)  # but where a test puts it back
    np.save(tmp_path / "noise.npy", np.zeros((4, 28, 28), np.uint8))
    return [
        *("tricks", "--rows", f"gan,{TRICK}", "--seconds", "10", "--seeds", "2", "--jobs", "1"),
        *("--data", f"{tmp_path}/noise.npy", "--out", f"{tmp_path}/runs", "--docs", f"{tmp_path}/tree"),
    ]


RUNS = [f"{row}-noise.npy-{seed}" for seed in (0, 1) for row in ("gan", "improved-smoothing-0.9")]


def document(tmp_path: Path) -> str:
    return (tmp_path / "tree/docs/results.md").read_text()


def test_seconds_become_updates(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    assert [zoo.updates(*pair) for pair in ((10, 0.05), (10, 0.08), (1, 0.06), (1, 7.0))] == [200, 125, 16, 1]
    assert zoo.main(words) == 0
    assert Actor.asked == [f"floors of {tmp_path}/noise.npy", "calibration", *RUNS]
    results = json.loads((tmp_path / "tree/benchmarks/results/zoo-tricks.json").read_text())
    assert [run["task"]["steps"] for run in results["runs"]] == [200, 125] * 2
    assert results["command"] == (
        f'python benchmarks/zoo.py tricks --seconds 10 --seeds 2 --rows "gan,{TRICK}" --data {tmp_path}/noise.npy'
    )


def test_a_row_that_comes_later_is_timed_beside_the_first(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    """The machine is half as fast by then, which costs the new row nothing."""
    zoo.main([*words, "--rows", "gan"])
    Actor.costs.update({"gan": {"seconds": 0.1}, TRICK: {"seconds": 0.16}})
    Actor.asked.clear()
    zoo.main(words)
    assert Actor.asked == ["calibration", RUNS[1], RUNS[3]]
    costs = json.loads((tmp_path / "runs/tricks/table.json").read_text())["calibration"]
    assert {row: cost["seconds"] for row, cost in costs.items()} == {"gan": 0.05, TRICK: pytest.approx(0.08)}
    refused = {"failed": "no"}
    Actor.asked.clear()
    Actor.costs.update({"gan": refused, TRICK: {"seconds": 0.4}, "sngan": {"seconds": 0.8}})  # the first anchor is gone
    zoo.main([*words, "--rows", "sngan"])
    table = tmp_path / "runs/tricks/table.json"
    assert Actor.asked[:2] == ["calibration", "calibration"]
    assert json.loads(table.read_text())["calibration"]["sngan"]["seconds"] == pytest.approx(0.16)
    Actor.costs.update({TRICK: refused, "ragan": {"seconds": 0.7}, "sngan": {"seconds": 0.9}})
    known = {"gan": {"seconds": 0.05}, TRICK: {"seconds": 0.08}}
    assert zoo.calibrated("tricks", ["ragan"], known, None) == {
        "gan": refused, TRICK: refused, "ragan": {"seconds": 0.7},
    }  # fmt: skip
    assert zoo.scaled({"a": {"seconds": 2.0}, "b": refused}, "a", {"a": {"seconds": 1.0}}) == {"b": refused}


def test_a_recipe_with_new_settings_is_timed_anew(
    zoo: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the runs that were made with the old ones are no part of the table."""
    zoo.main(words)
    Actor.asked.clear()
    known = zoo.settings_of
    monkeypatch.setattr(
        zoo, "settings_of", lambda table, row: known(table, row) | ({"width": 7} if row == TRICK else {})
    )
    with pytest.raises(
        ValueError, match="improved-smoothing-0.9-noise.npy-0.json is of a run of width 32, here it is 7"
    ):
        zoo.main(words)
    assert Actor.asked == ["calibration"]


def test_an_interrupted_table_goes_on(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    Actor.ends[RUNS[2]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        zoo.main(words)
    assert not (tmp_path / "tree/docs/results.md").exists()
    Actor.ends.clear()
    Actor.asked.clear()
    assert zoo.main(words) == 0
    assert Actor.asked[0] == RUNS[2]
    assert not {*RUNS[:2], "calibration"} & set(Actor.asked)
    text = document(tmp_path)
    Actor.asked.clear()
    assert zoo.main(words) == 0
    assert (Actor.asked, document(tmp_path)) == ([], text)


def test_a_lost_process_does_not_stop_the_others(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    Actor.ends[RUNS[0]] = zoo.WorkerError(f"{RUNS[0]}: its process ended with exit status -9: it wrote no error")
    with pytest.raises(zoo.WorkerError, match="ended with exit status -9"):
        zoo.main(words)
    assert Actor.asked[-3:] == RUNS[1:]
    assert not (tmp_path / "tree/docs/results.md").exists()


def test_processes_end_with_the_program(zoo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sleep.py"
    program.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(zoo, "WORKER", program)
    started = threading.Event()

    def interrupted(*_: object, **__: object) -> Any:
        time.sleep(0.2)
        started.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "tqdm", interrupted)
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        zoo.work(2, {Path(f"{i}.json"): {} for i in range(4)})
    assert started.is_set()
    assert time.perf_counter() - start < 10


def test_failed_runs_are_counted(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    """One that diverged; and those of a row that was refused before, for which no process is started."""
    Actor.ends[RUNS[2]] = "step 7: the loss of d is nan"
    Actor.costs[TRICK] = {"failed": "smoothed: no"}
    zoo.main(words)
    assert Actor.asked[2:] == [RUNS[0], RUNS[2]]
    text = document(tmp_path)
    assert "| `gan` | 200 | 9.9 | 10.00† | 0.500† | 0.250† | 1 of 2 |" in text
    assert "over the seeds; †: of those that did not fail." in text
    assert f"| `{TRICK}` |  | - | - | - | - | 2 of 2 |" in text
    assert "| test images |  |  | 0.10 | 0.800 | 0.900 |  |" in text
    assert f"* `gan`, {tmp_path}/noise.npy, seed 1: step 7: the loss of d is nan\n" in text
    assert f"* `{TRICK}`, {tmp_path}/noise.npy, seed 0: smoothed: no\n" in text
    page = (tmp_path / "tree/docs/zoo.md").read_text()
    assert "noise.npy in 10 s: FID 10.00†, 1 of 2 failed" in page
    assert "noise.npy in 10 s: 2 of 2 failed" in page


def test_all_may_fail(
    zoo: ModuleType, report: ModuleType, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then pictures of an earlier table are gone."""
    monkeypatch.setattr(zoo, "picture", report.picture)
    zoo.main(words)
    images = tmp_path / "tree/docs/images"
    assert [len(list(folder.glob("*.png"))) for folder in (images, images / "zoo")] == [1, 2]
    for path in (tmp_path / "runs/tricks").glob("*-*.*"):
        path.unlink()
    Actor.ends.update(dict.fromkeys(RUNS[:1], "no"))
    zoo.main(words)
    assert [path.name for path in (images / "zoo").iterdir()] == ["tricks-improved-smoothing-0.9-noise.npy.png"]
    for path in (tmp_path / "runs/tricks").glob("*.json"):
        if path.name != "table.json":
            path.unlink()  # samples of these runs are still there
    Actor.ends.update(dict.fromkeys(RUNS, "no"))
    zoo.main(words)
    assert f"| `{TRICK}` | 125 | - | 2 of 2 |" in document(tmp_path)
    assert "zoo-tricks.png" not in document(tmp_path)
    assert [list(folder.glob("*.png")) for folder in (images, images / "zoo")] == [[], []]


def test_what_is_written(
    zoo: ModuleType, report: ModuleType, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "picture", report.picture)
    zoo.main(words)
    tree = tmp_path / "tree"
    text = document(tmp_path)
    assert text.startswith("# Results\n\n<!-- written by benchmarks/zoo.py tricks -->\n\n## Tricks, one at a time")
    assert "2 runs of each system, each for 10 seconds of training in a process with one thread" in text
    assert "over the seeds." in text
    assert "†" not in text
    assert "FID is of 10,000 samples against 10,000 training images" in text
    assert "| `gan` | 200 | 9.9 | 10.50 ± 0.71 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0 of 2 |" in text
    assert f"| `{TRICK}` | 125 | 9.9 | 5.50 ± 0.71 |" in text
    assert (tree / "docs/images/zoo-tricks.png").read_bytes().startswith(b"\x89PNG")
    pictures = sorted(path.name for path in (tree / "docs/images/zoo").iterdir())
    assert pictures == ["tricks-gan-noise.npy.png", "tricks-improved-smoothing-0.9-noise.npy.png"]


def test_failed_runs_are_crosses(
    zoo: ModuleType, report: ModuleType, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the edge of their row."""
    from matplotlib.axes import Axes

    crosses: list[tuple[list[float], list[int]]] = []
    plot = Axes.plot

    def noted(axes: Axes, x: Any, y: Any, mark: str, **style: Any) -> Any:
        if mark == "x" and x:
            crosses.append((x, y))
        return plot(axes, x, y, mark, **style)

    monkeypatch.setattr(Axes, "plot", noted)
    monkeypatch.setattr(zoo, "picture", report.picture)
    Actor.ends.update({RUNS[1]: "no", RUNS[3]: "no"})
    zoo.main(words)
    assert crosses == [([0.98, 0.95], [1, 1])] * 2  # in both panels
    assert "a dot a run, a cross one that failed](images/zoo-tricks.png)" in document(tmp_path)


def test_some_of_the_rows_are_only_printed(
    zoo: ModuleType,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They would replace the whole table."""
    monkeypatch.setattr(zoo, "ROOT", tmp_path / "tree")
    assert zoo.main(words[: words.index("--docs")]) == 0
    told = capsys.readouterr()
    assert "10.50 ± 0.71" in told.out
    assert "Some of the rows: only printed; name a folder by --docs to have it written.\n" in told.err
    assert not (tmp_path / "tree").exists()
    assert zoo.arguments(["tricks"]).writes
    assert zoo.arguments(["page"]).writes


def test_sections_keep_their_places(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    zoo.main(words)
    path = tmp_path / "tree/docs/results.md"
    before, own, after = (
        "# Results\n\nOlder.\n\n",
        document(tmp_path).split("# Results\n\n")[1],
        "\n## Later\n\nText.\n",
    )
    path.write_text(before + own.replace("10.50", "99.99") + after)
    zoo.main(words)
    assert path.read_text() == before + own + after
    begin, end = zoo.marks_of("tricks")
    path.write_text(own.replace(end, ""))
    Actor.asked.clear()
    with pytest.raises(ValueError, match=re.escape(f"{path} should have {begin} once and {end} once")):
        zoo.main([*words, "--seeds", "3"])
    assert Actor.asked == []


def test_another_table_is_refused(zoo: ModuleType, words: list[str], tmp_path: Path) -> None:
    """Before anything is trained."""
    zoo.main(words)
    Actor.asked.clear()
    np.save(tmp_path / "other.npy", np.ones((4, 28, 28), np.uint8))
    for more, sentence in (
        (["--seconds", "20"], "has runs of seconds 10, here it is 20: they do not belong into one table"),
        (["--data", f"{tmp_path}/other.npy"], f"has runs of images {{'{tmp_path}/noise.npy'"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/runs/tricks {sentence}")):
            zoo.main([*words, *more])
    table, path = tmp_path / "runs/tricks/table.json", tmp_path / f"runs/tricks/{RUNS[0]}.json"
    for file, old, new, sentence in (
        (
            table,
            f'"minigan": "{__version__}"',
            '"minigan": "0"',
            f"has runs of minigan '0', here it is '{__version__}'",
        ),
        (
            path,
            '"steps": 200',
            '"steps": 9',
            f"{path} is of a run of steps 9, here it is 200; remove it to have that run",
        ),
        (path, '"row": "gan"', '"row": "lsgan"', "is of a run of row 'lsgan', here it is 'gan'"),
        (path, '"lr": 0.0002', '"lr": 0.1', "is of a run of lr 0.1, here it is 0.0002; remove it"),
        (path, "{", "", f"{path} is damaged ("),
    ):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=re.escape(sentence)):
            zoo.main(words)
        file.write_text(text)
    assert Actor.asked == []


def test_rows_are_known(zoo: ModuleType, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for more, sentence in (
        (["--rows", "gan,lsgam"], "--rows: tricks has no row lsgam; it has gan, gan lr=1e-3, improved "),
        (["--jobs", "0"], "'0' is not a whole number above 0"),
    ):
        with pytest.raises(SystemExit):
            zoo.main([*words, *more])
        assert sentence in capsys.readouterr().err
    with pytest.raises(SystemExit):
        zoo.arguments(["toys", "--data", "drawn"])
    assert "toys: takes no --data: these systems live in the plane" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is no recipe for hat x=1, cat; leave them out by --rows"):
        zoo.check_recipes(["gan", "hat x=1", "naive-bayes", "cat"])
    with pytest.raises(
        ValueError, match=r"a row is refused: gan wdth=3: .*width.*; put it right in benchmarks/zoo_rows.py"
    ):
        zoo.check_recipes(["gan wdth=3"])


def test_all_rows_are_recipes(zoo: ModuleType) -> None:
    rows = importlib.import_module("zoo_rows")
    for name in rows.TABLES:
        found = rows.rows_of(name)
        assert len(found) == len({rows.slug(row) for row in found})
        if name != rows.TOYS:
            zoo.check_recipes(found)
    assert all("gan lr=1e-3" in rows.TABLES[name].rows for name in ("comparison", "tricks"))
    steps = {row: zoo.settings_of("tricks", row)["lr"] for row in rows.TABLES["tricks"].rows}
    high = ["gan lr=1e-3", "improved equalized=true lr=1e-3", "sagan", "vae-gan"]  # as the question says
    assert [row for row, lr in steps.items() if lr != 2e-4] == high
    assert {steps[row] for row in high} == {1e-3}


def results_of(fids: dict[str, float], table: str = "comparison", data: str = "MNIST") -> dict[str, Any]:
    """As zoo.py writes them, of one seed."""
    runs = [
        {
            "task": {"row": row, "data": data, "seed": 0, "steps": 7},
            "failed": None,
            "seconds": 1.0,
            "figures": {"fid": fid},
        }
        for row, fid in fids.items()
    ]
    return {
        "table": table, "command": f"python benchmarks/zoo.py {table}", "seconds": 60, "seeds": 1, "fakes": 10_000,
        "images": {data: "00"}, "machine": MACHINE, "floors": {}, "rows": list(fids), "runs": runs,
    }  # fmt: skip


def test_ranks_beside_the_paper(report: ModuleType) -> None:
    results = results_of({"minimax": 9.0, "gan": 3.0, "wgan-clip": 4.0, "vae": 50.0})
    text = "\n".join(report.paragraphs(results))
    assert "| `gan` | 3.00 | 1 | 6.8 ± 0.5 | 2 |\n| `wgan-clip` | 4.00 | 2 | 6.7 ± 0.4 | 1 |" in text
    assert "recalled" in text
    assert "Spearman's coefficient of the two is 0.80." in text
    results["runs"][2]["failed"] = "no"
    text = "\n".join(report.paragraphs(results))
    assert "| `wgan-clip` | 4.00 |" not in text
    assert "Spearman's coefficient of the two is 1.00. No rank, since runs failed: `wgan-clip`.\n" in text
    beside = results_of({"minimax": 9.0, "gan": 3.0, "vae": 50.0, "gan lr=1e-3": 1.0})
    assert "| `gan` | 3.00 | 1 | 6.8 ± 0.5 | 1 |" in "\n".join(report.paragraphs(beside))
    elsewhere = results_of({"minimax": 9.0, "gan": 3.0, "vae": 50.0}, data="drawn digits")
    assert "Lucic" not in "\n".join(report.paragraphs(elsewhere))


def test_one_second(report: ModuleType) -> None:
    text = report.method(results_of({"gan": 1.0}) | {"seconds": 1})
    assert text.startswith("1 run of each system, each for 1 second of training in a process")


def test_the_page_has_every_row_of_the_results(zoo: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks/results"
    folder.mkdir(parents=True)
    every = dict.fromkeys([*RECIPES, "naive-bayes"], 8.0)
    toys = results_of({"gan": 1.0, "perfect": 1.0}, "toys", "ring8") | {"seconds": None}
    toys["runs"][0]["figures"] = {"modes_filled": 8, "high_quality": 0.5}
    tables = results_of(every), results_of({"gan": 5.0, "improved noise=0.1": 4.0}, "tricks"), toys
    for results in tables:
        (folder / f"zoo-{results['table']}.json").write_text(json.dumps(results))
    assert zoo.main(["page", "--docs", str(tmp_path)]) == 0
    page = (tmp_path / "docs/zoo.md").read_text()
    for row in (*every, "improved noise=0.1", "perfect"):
        assert f"| `{row}`" in page
    for results in tables:
        assert f"    {results['command']}\n" in page
    families = list(dict.fromkeys(f"{recipe.family[0].upper()}{recipe.family[1:]}" for recipe in RECIPES.values()))
    assert re.findall("^## (.*)$", page, re.MULTILINE) == [*families, "Without a game", "In the plane"]
    assert "MNIST in 60 s: FID 8.00<br>MNIST in 60 s: FID 5.00 |" in page  # of gan, in two tables
    assert "[minimax.py](../minigan/gan/recipes/minimax.py)" in page
    assert "| `gan` | ring8: filled 8.0, on target 50.0% |" in page
    for line in page.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5), line  # a | of a formula is escaped
    (folder / "zoo-comparison.json").write_text(json.dumps(results_of({"gone": 1.0})))
    with pytest.raises(
        ValueError, match="the results have a recipe 'gone' that is not here; have their table made anew"
    ):
        zoo.main(["page", "--docs", str(tmp_path)])


# ---- the process of a run ------------------------------------------------------------------------------------------


@pytest.fixture
def few(worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """Few images, judged by a classifier that knows nothing."""
    generator = Generator(0, "images")
    images = generator.integers(256, (60, 28, 28, 1)).astype(np.uint8)
    labels = (np.arange(60) % 10).astype(np.uint8)
    data = DataSet("noise", images, labels, images[:40], labels[:40])
    classifier = Classifier(1, 10, Generator(0, "classifier"))
    classifier.accuracy = 0.5
    monkeypatch.setattr(worker, "load", lambda source: data)
    monkeypatch.setattr(worker, "train_classifier", lambda *arrays: classifier)
    monkeypatch.setattr(worker, "FAKES", 40)
    return data


def task_of(row: str, **more: Any) -> dict[str, Any]:
    return {"table": "conditional", "row": row, "data": "noise", "seed": 0, "steps": 2, **more}


def outcome(worker: ModuleType, path: Path, task: dict[str, Any]) -> dict[str, Any]:
    worker.run(str(path), None, task)
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["task"] == task
    return found


SMALL = "width=4 batch_size=8"


@pytest.mark.parametrize("row", ["gan", "cgan", "infogan", "naive-bayes"])
def test_a_run_is_measured(worker: ModuleType, few: DataSet, tmp_path: Path, row: str) -> None:
    """Twice the same; of labels only where it was asked for some."""
    task = task_of(row if row == "naive-bayes" else f"{row} {SMALL}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (outcome(worker, tmp_path / name / "run.json", task) for name in ("a", "b"))
    assert first["failed"] is None
    assert first["seconds"] > 0
    assert first["figures"] == second["figures"]
    assert (tmp_path / "a/run.png").read_bytes() == (tmp_path / "b/run.png").read_bytes()
    assert {"fid", "precision", "recall", "rarest"} <= first["figures"].keys()
    assert ("label_accuracy" in first["figures"]) == (row != "gan")
    if row == "infogan":  # which reads its categories so that most agree: all of them are taken for one label
        assert first["figures"]["label_accuracy"] >= 0.1
    with Image.open(tmp_path / "a/run.png") as picture:
        columns = 8 if row == "gan" else 10
        assert (picture.mode, picture.size) == ("L", (29 * columns - 1, 29 * 4 - 1))


def test_a_run_that_fails_says_why(worker: ModuleType, few: DataSet, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.with_suffix(".png").touch()  # of an earlier run
    with np.errstate(all="ignore"):
        found = outcome(worker, path, task_of(f"gan {SMALL} lr=1e30", steps=9))
    assert "is nan" in found["failed"] or "not finite" in found["failed"]
    assert (found["figures"], path.with_suffix(".png").exists()) == ({}, False)
    assert "batch size 99" in outcome(worker, path, task_of("gan width=4 batch_size=99"))["failed"]


@pytest.mark.parametrize("where", ["load", "Turns", "label_scores"])
def test_a_fault_is_no_failure(
    worker: ModuleType, few: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A ValueError of anything but the recipe's refusal ends the process, and leaves no result."""

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr(worker, where, broken)
    path = tmp_path / "run.json"
    with pytest.raises(ValueError, match="a bug"):
        worker.run(str(path), None, task_of(f"cgan {SMALL}"))
    assert not path.exists()


def test_triangles_are_looked_for(
    worker: ModuleType, few: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "load", lambda source: DataSet(TRIANGLES, few.images, None, few.test_images, None))
    monkeypatch.setattr(worker, "measure_triangles", lambda G, size, *arrays: {"triangle_f1": size})
    figures = outcome(worker, tmp_path / "run.json", task_of(f"gan {SMALL} latent=6"))["figures"]
    assert figures["triangle_f1"] == 6
    assert "fid_random" in figures
    assert "fid" not in figures
    monkeypatch.setattr(worker, "load", lambda source: DataSet("few", few.images))
    with pytest.raises(ValueError, match="few has no test images, which everything is compared with"):
        worker.floor(None, 28)


def test_rows_take_turns_to_be_timed(worker: ModuleType, few: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is refused does not stop the others; those that diverge begin anew, and are timed all the same."""
    turns: list[tuple[str, int]] = []
    begun: list[str] = []

    class Trainee:
        def __init__(self, row: str, *_: Any) -> None:
            if row == "refused":
                raise worker.Refused("no such nets")
            self.row, self.done, self.seconds = row, 0, 0.0
            begun.append(row)

        def steps(self, count: int) -> None:
            turns.append((self.row, count))
            end = {"gan": 99, "early": 1, "late": 20}[self.row]  # its last update
            taken = min(count, end - self.done)
            self.done += taken
            self.seconds += {"gan": 0.02, "early": 0.03, "late": 0.04}[self.row] * (taken + (taken < count))
            self.seconds += 9 * (self.done > 40)  # somebody disturbed the last turns
            if taken < count:
                raise FloatingPointError("nan")

    monkeypatch.setattr(worker, "Trainee", Trainee)
    found = worker.calibrate("tricks", ["gan", "refused", "early", "late"], None)
    assert found == {
        "gan": {"seconds": pytest.approx(0.02)}, "late": {"seconds": pytest.approx(0.04)},
        "refused": {"failed": "no such nets"}, "early": {"seconds": pytest.approx(0.03)},
    }  # fmt: skip
    assert turns[:6] == [("gan", 3), ("early", 3), ("late", 3), ("gan", 8), ("early", 8), ("late", 8)]
    assert len(turns) == 3 * 7
    assert [begun.count(row) for row in ("gan", "late", "early")] == [1, 3, 8]


def test_steps_go_on(worker: ModuleType, few: DataSet) -> None:
    """Some now and some later are as many at once."""
    ends = []
    for counts in ((1, 2), (3,)):
        trainee = worker.Trainee(f"gan {SMALL}", few, 0, 3)
        for count in counts:
            trainee.steps(count)
        assert trainee.done == 3
        assert trainee.seconds > 0
        ends.append(trainee.training.sampler.state_dict())
    for key, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][key])


@pytest.mark.parametrize("row", ["perfect", "em", "untrained", "wgan-gp"])
def test_in_the_plane(worker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    toys = importlib.import_module("minigan.gan.toys")
    monkeypatch.setattr(toys, "PAIRED", 50)
    monkeypatch.setattr(worker, "FAKES", 500)
    found = outcome(worker, tmp_path / "run.json", task_of(row, table="toys", data="ring8"))
    assert found["failed"] is None
    assert (found["figures"]["modes_filled"] == 8) == (row in ("perfect", "em"))
    assert ("critic" in found["figures"]) == (row == "wgan-gp")


def test_pictures(worker: ModuleType) -> None:
    images = np.linspace(-1, 1, 3, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)
    grid = worker.grid(images, 2)
    assert grid.shape == (5, 5, 1)
    assert [int(grid[0, 0, 0]), int(grid[0, 2, 0]), int(grid[0, 3, 0]), int(grid[3, 0, 0])] == [0, 128, 128, 248]
    assert len(np.unique(worker.grid(np.linspace(-1, 1, 1024, dtype=np.float32).reshape(1, 32, 32, 1), 1))) == 32
    marks = worker.scatter(np.array([[-2.19, -2.19], [2.19, 2.19], [5.0, 0.0]], np.float32))
    assert [tuple(map(int, place)) for place in np.argwhere(marks[..., 0] == 0)] == [(0, 115), (115, 0)]


def test_every_recipe_says_what_was_measured_of_it(report: ModuleType) -> None:
    """A recipe that nobody measured has no place in the list."""
    measured = report.expected(report.read_tables(ROOT))
    assert {name: recipe.expected for name, recipe in RECIPES.items()} == {name: measured.get(name) for name in RECIPES}
