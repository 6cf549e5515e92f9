"""Several runs as a page: strict HTML, what is best, and a file that is written whole or not at all."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pages import Page, check, needs_browser, pictures, rendered
from PIL import Image

from minigan.cli.main import main
from minigan.gan.compare import Contents, contents
from minigan.gan.compare_page import page, write_comparison
from minigan.gan.records import Record
from minigan.gan.report import write_report
from minigan.gan.results import MEASURES, best

CONFIG: dict[str, Any] = {
    "format": 1,
    "recipe": "gan",
    "settings": {"steps": 100, "lr": 2e-4, "out": "somewhere"},
    "steps": 100,
    "trained_on": {"name": "drawn digits", "shape": [60000, 28, 28, 1], "sha256": "ab" * 32},
    "minigan": "0.1.0",
    "threads": 2,
}
METRICS: dict[str, Any] = {"step": 100, "n": 10000, "fid": 7.2, "fid_floor": 0.11, "two_sample_accuracy": 0.8}


def run(folder: Path, config: Any = CONFIG, metrics: Any = METRICS, steps: int = 100, **columns: float) -> Contents:
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [{"step": i, "images": 64 * i, "seconds": i / 10, "d_loss": 1 / i, **columns} for i in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("L", (50, 40), 200).save(folder / "samples" / "step_000100.png")
    return contents(Record.read(folder))


@pytest.fixture
def runs(tmp_path: Path) -> list[Contents]:
    other = {**CONFIG, "recipe": "wgan-gp", "settings": {"steps": 100, "lr": 1e-3}}
    return [
        run(tmp_path / "first"),
        run(tmp_path / "second", other, {**METRICS, "fid": 5.1, "two_sample_accuracy": 0.4}, w_estimate=2.0),
    ]


def bests(found: Page) -> list[str]:
    return [attributes["class"] for attributes in found.all("td") if attributes.get("class") == "best"]


def test_two_runs(runs: list[Contents]) -> None:
    text = page(runs)
    found = check(text)
    assert [s["id"] for s in found.all("section")] == ["runs", "results", "settings", "curves", "samples"]
    assert pictures(found) == [(50, 40)] * 2
    assert re.findall(r'class="best">([0-9.%]+) best', text) == ["5.10", "40.0%"]
    for words in ("2 runs compared", "first, second", "5.10", "floor 0.11", "lower is better", "lr0.00020.001"):
        assert words in found.text, words
    assert "somewhere" not in found.text
    assert len(found.all("svg")) == 2 * 3  # d_loss, w_estimate, throughput; by step and by seconds
    assert [(i["id"], "checked" in i) for i in found.all("input")] == [("by-step", True), ("by-seconds", False)]


def test_warnings_are_those_of_each(tmp_path: Path) -> None:
    found = check(page([run(tmp_path / "a"), run(tmp_path / "b", steps=500, d_real=0.9999, d_fake_after=0.001)]))
    assert "D is sure of everything. Over the last fifth" in found.text
    assert len(found.all("li")) == 1


def test_images_of_other_sizes_have_no_best(tmp_path: Path) -> None:
    sizes = [{**CONFIG, "settings": {**CONFIG["settings"], "image_size": size}} for size in (28, 64)]
    found = [run(tmp_path / f"r{i}", config, {**METRICS, "fid": 5.0 + i}) for i, config in enumerate(sizes)]
    page_of = check(page(found))
    assert bests(page_of) == []
    note = "Trained on images of different sizes, so their numbers do not compare: r0 of 28; r1 of 64 pixels."
    assert note in page_of.text


def test_more_runs_than_curves_can_be_told_apart(runs: list[Contents]) -> None:
    found = check(page([*runs, *runs[:1] * 11]))
    assert "Of the first 12 runs." in found.text
    assert len(found.all("th")) > 13


def test_other_data_and_other_numbers_of_samples_have_no_best(tmp_path: Path) -> None:
    other = {**CONFIG, "trained_on": {**CONFIG["trained_on"], "sha256": "cd" * 32}}
    better = {**METRICS, "fid": 1.0}
    found = check(page([run(tmp_path / "a"), run(tmp_path / "b", other, better)]))
    assert bests(found) == []
    assert "Trained on different data, so their FIDs do not compare: a on drawn digits (abababab)" in found.text
    found = check(page([run(tmp_path / "c"), run(tmp_path / "d", CONFIG, {**better, "n": 500})]))
    assert bests(found) == []
    unmeasured = run(tmp_path / "e", other, {"step": 100})
    found = check(page([run(tmp_path / "f"), run(tmp_path / "g", CONFIG, better), unmeasured]))
    assert bests(found) == ["best"]


@pytest.mark.parametrize(
    ("key", "values", "floors", "expected"),
    [
        ("fid", [3, 1, None], [0, 0, None], [False, True, False]),
        ("recall", [0.3, 0.1], [0.8, 0.8], [True, False]),
        ("two_sample_accuracy", [0.9, 0.3], [None, None], [False, True]),
        ("mean_pairwise_distance", [25, 19], [20, 20], [False, True]),
        ("mean_pairwise_distance", [25, 19], [None, None], [False, False]),
        ("kid", [-0.001, 0.0, 0.002], [None] * 3, [True, True, False]),
        ("nearest_ratio", [1, 2], [None, None], [False, False]),
        ("fid", [3, None], [0, None], [False, False]),
        ("fid", [3, 3], [0, 0], [False, False]),
    ],
)
def test_the_best(key: str, values: list[Any], floors: list[Any], expected: list[bool]) -> None:
    assert best(MEASURES[key], values, floors) == expected


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\0\x1b\ud800'&amp;"]
)
def test_everything_is_escaped(tmp_path: Path, hostile: str) -> None:
    def tags(text: str, place: str) -> list[str]:
        config = {**CONFIG, "recipe": text, "settings": {text: text}}
        return [
            tag
            for tag, _ in check(page([run(tmp_path / place / "<b>&"), run(tmp_path / place / "y", config)])).elements
        ]

    assert tags(hostile, "1") == tags("harmless", "2")


def test_one_run_and_runs_without_anything(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(CONFIG))
    bare = contents(Record.read(tmp_path / "bare"))
    found = check(page([bare]))
    assert "Not measured." in found.text
    assert [s["id"] for s in found.all("section")] == ["runs", "results", "warnings"]
    assert "Their settings are the same." in check(page([bare, bare])).text


def test_the_same_files_give_the_same_bytes(runs: list[Contents]) -> None:
    assert page(runs) == page(runs)


def test_damaged_pictures_are_named(runs: list[Contents]) -> None:
    (runs[0].record.path / "samples" / "step_000100.png").write_bytes(b"?")
    found = check(page(runs))
    assert "step_000100.png is no whole PNG file, left out." in found.text
    assert len(pictures(found)) == 1


def test_the_file(runs: list[Contents], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert write_comparison(runs, path) == path
    write_comparison(runs[:1], path)  # its own is written anew
    assert path.read_text() == page(runs[:1])

    def refusal(path: Path) -> str:
        with pytest.raises(OSError, match="^cannot write") as info:
            write_comparison(runs, path)
        return str(info.value).partition("; what was")[0]

    (tmp_path / "notes.html").write_text("<p>mine")
    assert refusal(tmp_path / "notes.html") == (
        f"cannot write {tmp_path}/notes.html: there is another file, which minigan compare did not write"
    )
    assert (tmp_path / "notes.html").read_text() == "<p>mine"
    report, _ = write_report(runs[0].record)
    assert "which minigan compare did not write" in refusal(report)  # nor any run's own page
    os.mkfifo(tmp_path / "pipe")
    assert "which minigan compare did not write" in refusal(tmp_path / "pipe")
    assert refusal(tmp_path) == f"cannot write {tmp_path}: it is a folder; name a file"
    assert refusal(tmp_path / "no" / "page.html") == f"cannot write {tmp_path}/no/page.html: No such file or directory"
    assert sorted(name for name in os.listdir(tmp_path) if "part" in name) == []


def test_the_command(runs: list[Contents], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders, path = [str(run.record.path) for run in runs], tmp_path / "page.html"
    assert main(["compare", *folders, f"out={path}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"written: {path}"
    assert out[0].split()[:3] == ["run", "recipe", "state"]
    assert path.read_text() == page(runs)
    assert main(["compare", *folders, f"out={path}", "--json"]) == 0
    streams = capsys.readouterr()
    assert [row["fid"] for row in json.loads(streams.out)] == [7.2, 5.1]
    assert streams.err == f"written: {path}\n"
    for words in (["out="], ["out=a.html", "out=b.html"], ["steps=3"]):
        assert main(["compare", *folders, *words]) == 2
        streams = capsys.readouterr()
        sentence = f"minigan compare: takes no {words[0]} here; the only key is out=FILE.html, once\n"
        assert (streams.out, streams.err) == ("", sentence)


@needs_browser
def test_a_browser_shows_it(runs: list[Contents], tmp_path: Path) -> None:
    image = rendered(write_comparison(runs, tmp_path / "page.html"), tmp_path)
    assert len(image.getcolors(1 << 22) or ()) > 100
