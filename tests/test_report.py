"""report.html: strict HTML that needs nothing but itself, and says what the run's files say."""

import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pages import Page, check, needs_browser, pictures, rendered
from PIL import Image

from minigan.gan.compare import contents
from minigan.gan.curves import PANELS, SPEED, of_run
from minigan.gan.records import Record, RecordError
from minigan.gan.report import evenly, page, write_report
from minigan.gan.results import GROUPS

CONFIG: dict[str, Any] = {
    "format": 1,
    "recipe": "wgan-gp",
    "settings": {"steps": 300, "epochs": None, "lr": 2e-4, "data": "drawn", "device": "cpu"},
    "steps": 300,
    "trained_on": {"name": "drawn digits", "shape": [70000, 28, 28, 1], "sha256": "ab" * 32},
    "minigan": "0.1.0",
    "threads": 2,
}
METRICS: dict[str, Any] = {
    "step": 300,
    "images": 96000,
    "seconds": 4000.0,
    "n": 10000,
    "fid": 5.0961,
    "fid_floor": 0.041,
    "predicted_histogram": [1000] * 8 + [1900, 100],
    "classes_present": 10,
    "nearest_ratio": 1.359,
}


def draw(path: Path, width: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("L", (width, 5), width % 256).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with everything. The pictures differ in width: the step's number, and 2000."""
    folder = tmp_path / "wgan-gp-0001"
    folder.mkdir()
    write(folder, "config.json", CONFIG)
    write(folder, "metrics.json", METRICS)
    rows = [
        {"step": i, "images": 320 * i, "seconds": i / 2, "d_loss": 0.1, "w_estimate": 9 - i / 50} for i in range(1, 301)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(20, 301, 20):
        draw(folder / "samples" / f"step_{step:06d}.png", step)
    draw(folder / "interpolation.png", 2000)
    return folder


def write(folder: Path, name: str, values: Any) -> None:
    (folder / name).write_text(json.dumps(values))


def read(folder: Path) -> Page:
    return check(page(contents(Record.read(folder))))


def test_a_whole_run(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    path, findings = write_report(Record.read(folder))
    assert findings == []
    assert path == folder / "report.html"
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p != path} == before
    page = check(path.read_text(encoding="utf-8"))
    assert [width for width, _ in pictures(page)] == [300, 20, 60, 100, 140, 180, 220, 260, 2000]
    sections = ["run", "results", "curves", "samples", "interpolation", "settings"]
    assert [section["id"] for section in page.all("section")] == sections
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in sections]
    assert page.all("img")[0]["alt"] == "Generated samples after step 300"
    for text in (
        "wgan-gp on drawn digits: complete", "300 of 300", "96,000", "67 min", "Images a second, median640",
        "drawn digits: 70,000 images, 28x28, grey", "minigan 0.1.0, 2 threads", "5.10",
        "floor 0.04", "Of 10,000 samples.", "10 of 10", "1.0%", "10.0% if all were equal", "19.0%", "1.36",
        "3.15", "8.83 at its highest", "lr0.0002", "epochsnone",
    ):  # fmt: skip
        assert text in page.text, text
    assert "Damaged" not in page.text


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    first = write_report(Record.read(folder))[0].read_bytes()
    assert write_report(Record.read(folder))[0].read_bytes() == first


def test_a_run_that_has_not_begun(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = read(folder)
    assert page.all("img") == []
    assert [section["id"] for section in page.all("section")] == ["warnings", "run", "results", "settings"]
    for text in ("not begun", "- of 300", "Not measured."):
        assert text in page.text


def test_a_run_that_stopped(folder: Path) -> None:
    (folder / "metrics.json").unlink()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 301, "d_l')
    page = read(folder)
    assert "at step 300 of 300" in page.text
    assert "Wasserstein estimate" in page.text
    assert "FID" not in page.text
    assert "Damaged" not in page.text


def test_one_grid_only(folder: Path) -> None:
    for path in sorted((folder / "samples").iterdir())[1:]:
        path.unlink()
    assert [width for width, _ in pictures(read(folder))] == [20, 2000]


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;'\"&amp;</style>"]
)
def test_everything_from_files_is_escaped(folder: Path, hostile: str) -> None:
    def tags(text: str) -> list[str]:
        (folder / "config.json").write_text(
            json.dumps(
                {
                    **CONFIG,
                    "recipe": text,
                    "settings": {"data": text, text: "x"},
                    "trained_on": {**CONFIG["trained_on"], "name": text},
                    "minigan": text,
                }
            )
        )
        return [tag for tag, _ in read(folder).elements]

    assert tags(hostile) == tags("harmless")
    tags(hostile)
    assert read(folder).text.count(hostile) == 8
    named = folder.with_name("<b>&amp;")
    folder.rename(named)
    assert read(named).text.count("<b>&amp;") == 2


def test_control_characters_are_named_in_letters(folder: Path) -> None:
    write(folder, "config.json", {**CONFIG, "settings": {"data": "a\0b\x1b\ud800"}})
    text = write_report(Record.read(folder))[0].read_bytes().decode()
    assert r"a\x00b\x1b\ud800" in check(text).text


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("interpolation.png", b""),
        ("interpolation.png", b"\x89PNG\r\n\x1a\n" + b"IEND\xaeB`\x82"),
        ("interpolation.png", b"GIF89a"),
        ("samples/step_000300.png", None),
    ],
)
def test_damaged_pictures_are_left_out_and_named(folder: Path, name: str, data: bytes | None) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-3] if data is None else data)
    page = read(folder)
    assert len(pictures(page)) == 8
    assert f"Damaged: {path.name} is no whole PNG file, left out." in page.text


def test_damaged_lines_are_counted(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("?\n" * 1200)
    assert "Damaged: 1,200 damaged lines of metrics.jsonl left out." in read(folder).text


def test_pictures_that_cannot_be_read_are_named(folder: Path) -> None:
    (folder / "interpolation.png").unlink()
    (folder / "interpolation.png").mkdir()
    assert "Damaged: interpolation.png cannot be read (Is a directory), left out." in read(folder).text


def test_damaged_results_stop_it(folder: Path) -> None:
    (folder / "metrics.json").write_text('{"fid": NaN}')
    with pytest.raises(RecordError, match=r"^.*metrics\.json holds NaN, which JSON does not have: write null$"):
        write_report(Record.read(folder))
    assert not (folder / "report.html").exists()


def test_a_full_disk_keeps_the_old_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record.read(folder)
    path = write_report(record)[0]
    before, names = path.read_bytes(), sorted(os.listdir(folder))

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        OSError, match=rf"^cannot write {path}: No space left on device; what was written before is int"
    ):
        write_report(record)
    assert path.read_bytes() == before
    assert sorted(os.listdir(folder)) == names


@pytest.mark.parametrize("count", range(30))
def test_evenly(count: int) -> None:
    chosen = evenly(range(count), 8)
    assert len(chosen) == len(set(chosen)) == min(count, 8)
    assert chosen == sorted(chosen)
    if count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        assert max((b - a for a, b in itertools.pairwise(chosen)), default=0) <= -(-count // 7)


@needs_browser
@pytest.mark.parametrize("width", [1000, 500])
def test_a_browser_shows_it(folder: Path, tmp_path: Path, width: int) -> None:
    image = rendered(write_report(Record.read(folder))[0], tmp_path, width)
    assert len(image.getcolors(1 << 22) or ()) > 100


def test_all_numbers_have_their_floors(folder: Path) -> None:
    keys = [measure.key for group in GROUPS.values() for measure in group]
    metrics = {**METRICS, "marginal_entropy": 2.25, "conditional_entropy": 0.125}
    metrics |= dict.fromkeys(keys, 0.25) | {f"{key}_floor": 0.5 for key in keys}
    metrics |= {
        "kid_error": 0.0123,
        "n_neighbours": 5000,
        "marginal_entropy_floor": 2.5,
        "conditional_entropy_floor": 0.0625,
    }
    write(folder, "metrics.json", metrics)
    text = read(folder).text
    assert text.count("floor 50.0%") == sum(m.form == ".1%" for group in GROUPS.values() for m in group) > 3
    for words in (
        "FID\n0.25\nfloor 0.50",
        "2.25, 0.12\nfloor 2.50 and 0.06",
        "KID\n0.25 ± 0.012\nfloor 0.5",
        "Triangles",
        "of 5,000 samples and as many training images",
    ):
        assert words in text, words
    write(folder, "metrics.json", {**metrics, "fid_floor": None, "kid": None, "two_sample_accuracy_floor": None})
    text = read(folder).text
    for words in ("FID\n0.25\nHow far", "ideal: 50 %"):
        assert words in text, words
    assert "KID\n" not in text.replace("KID, random", "")


def test_warnings_come_first(folder: Path) -> None:
    write(folder, "metrics.json", {**METRICS, "nearest_ratio": 0.1})
    path, findings = write_report(Record.read(folder))
    assert [finding.title for finding in findings] == ["Training images may be memorised"]
    page = check(path.read_text(encoding="utf-8"))
    assert page.all("section")[0]["id"] == "warnings"
    assert f"{findings[0].title}. {findings[0].evidence} {findings[0].advice}" in page.text


def test_a_run_without_the_newest_columns(folder: Path) -> None:
    page = read(folder)
    assert [h3.partition(" by step")[0] for h3 in re.findall(r"[A-Z][^\n]* by step", page.text)[::2]] == [
        "Losses", "Wasserstein estimate", "Throughput images/s ·"
    ]  # fmt: skip


def test_columns_of_any_name_are_escaped(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 301, "<b>\\u0000": NaN}\n')
    assert "'<b>\\x00 is nan at step 301; 1 step of 301 have such a number.'" in read(folder).text


def test_curves_say_what_is_true_of_every_recipe() -> None:
    """R1 draws slopes to 0, a one-sided penalty to 1 at most; VAE-GAN's errors are in no nats."""
    rows = [{"step": i, "grad_norm": 0.2, "penalty": 0.1, "reconstruction": 9.0, "kl": 2.0} for i in range(1, 9)]
    text = of_run(rows, {})
    for title in ("|dD/dx|", "Gradient penalty", "Reconstruction and code"):
        assert title in text
    assert "R1 and R2 to 0" in text
    for lie in ("holds it near 1", "gp_lambda", "nats an image"):
        assert lie not in text


def test_each_column_of_a_curve_is_explained() -> None:
    text = (Path(__file__).parent.parent / "docs" / "gans.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {key for panel in PANELS for key in panel.columns} - {SPEED} <= set(re.findall(r"`(\w+)`", " ".join(rows)))
