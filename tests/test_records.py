"""What is read of a run's folder: good files as they are, others refused in a sentence; runs beside each other."""

import json
import os
import time
from collections.abc import Callable
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import check

from minigan.gan.compare import Contents, contents, describe_all, duration, shown, summary
from minigan.gan.compare_page import page as comparison
from minigan.gan.records import TAIL, Record, RecordError, read_json, read_rows, throughput
from minigan.gan.report import page

CONFIG: dict[str, Any] = {
    "format": 1,
    "recipe": "gan",
    "settings": {"steps": 3000, "epochs": None, "lr": 2e-4, "ema": 0.999, "data": "drawn", "out": "runs/gan-0001"},
    "steps": 3000,
    "trained_on": {"name": "MNIST", "shape": [60000, 28, 28, 1], "sha256": "1a2b3c4d" * 8},
    "minigan": "0.1.0",
    "threads": 2,
}
METRICS: dict[str, Any] = {
    "step": 3000,
    "images": 192000,
    "seconds": 80.4,
    "n": 10000,
    "fid": 7.214,
    "fid_floor": 0.112,
    "predicted_histogram": [150, 50, 100, 100, 100, 100, 100, 100, 100, 100],
    "classes_present": 10,
    "nearest_ratio": 1.33,
}


def rows_of(steps: int, **more: float) -> list[dict[str, Any]]:
    """A tenth of a second a step of 64 images; the first takes ten."""
    return [{"step": i, "images": 64 * i, "seconds": 10 + i / 10, "d_loss": 1 / i, **more} for i in range(1, steps + 1)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write(folder: Path, config: Any = CONFIG, rows: bytes | None = None, metrics: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in (("config.json", config), ("metrics.json", metrics)):
        if values is not None:
            (folder / name).write_bytes(values if isinstance(values, bytes) else json.dumps(values).encode())
    if rows is not None:
        (folder / "metrics.jsonl").write_bytes(rows)
    return folder


def refusal(call: Callable[[], object]) -> str:
    """What the RecordError says, which must be one line."""
    with pytest.raises(RecordError) as info:
        call()
    text = str(info.value)
    assert text.isprintable()
    return text


def read(folder: Path) -> Contents:
    return contents(Record.read(folder))


def changed(key: str, value: Any) -> dict[str, Any]:
    """CONFIG, with another value under a key or under trained_on.key."""
    outer, _, inner = key.partition(".")
    return {**CONFIG, outer: {**CONFIG[outer], inner: value} if inner else value}


# ---- JSON -----------------------------------------------------------------------------------------------------------


def test_json_is_read_as_it_is(tmp_path: Path) -> None:
    values = {"a": [1, 2.5, -3e-5, True, None, {"b": "ä\n"}], "big": 10**300}
    (tmp_path / "f").write_text(json.dumps(values))
    assert read_json(tmp_path / "f") == values


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is not JSON (Expecting value, line 1, column 1): it is truncated or damaged"),
        (b'{"a": 1,\n "b"', "is not JSON (Expecting ':' delimiter, line 2, column 5): it is truncated or damaged"),
        (b'{"a": "\xff"}', "is not JSON (no UTF-8 at byte 7): it is damaged"),
        (b'{"a": NaN}', "holds NaN, which JSON does not have: write null"),
        (b'{"a": [-Infinity]}', "holds -Infinity, which JSON does not have: write null"),
        (b'{"a": 1e999}', "holds 1e999, a number too large to be one of a run"),
        (b'{"a": -1' + b"0" * 400 + b"}", "holds -10000000000...0000000000000, a number too large to be one of a run"),
        (b"[1, 2]", "holds [1, 2], but should hold an object, {...}"),
        (b"null", "holds None, but should hold an object, {...}"),
        (b"[" * 100_000, "is nested too deeply: it is damaged"),
        (b'{"a":' * 100_000, "is nested too deeply: it is damaged"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else "",
)
def test_json_that_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    assert refusal(lambda: read_json(path)) == f"{path} {text}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(lambda: read_json(tmp_path / "no")) == f"{tmp_path}/no is missing"
    assert refusal(lambda: read_json(tmp_path)) == f"cannot read {tmp_path}: Is a directory"
    assert refusal(lambda: read_rows(tmp_path)) == f"cannot read {tmp_path}: Is a directory"


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == ([], 0)
    path.write_bytes(b"")
    assert read_rows(path) == ([], 0)
    rows = [*rows_of(3), {"step": 4, "d_loss": inf, "g_loss": -inf}]
    path.write_bytes(lines(rows))
    assert read_rows(path) == (rows, 0)
    path.write_bytes(lines([{"step": 1, "d_loss": nan}]))
    assert isnan(read_rows(path)[0][0]["d_loss"])


def test_a_torn_last_line_is_nothing_to_tell_of(tmp_path: Path) -> None:
    path, rows = tmp_path / "metrics.jsonl", rows_of(5)
    data = lines(rows)
    begins = len(lines(rows[:4]))
    for cut in range(begins, len(data)):
        path.write_bytes(data[:cut])
        assert read_rows(path) == (rows if cut == len(data) - 1 else rows[:4], 0)


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"[]", b"7", b"null", b'"step"', b"{}", b'{"step": 0}', b'{"step": -1}', b'{"step": 2.0}',
        b'{"step": true}', b'{"step": "2"}', b'{"step": 2, "fid": null}', b'{"step": 2, "fid": true}',
        b'{"step": 2, "fid": "7"}', b'{"step": 2, "fid": [7]}', b'{"step": 2, "n": 1' + b"0" * 30 + b"}",
        b'{"step": 2, "n": 1' + b"0" * 5000 + b"}", b'{"step": 2, "\xff": 1}', b"[" * 100_000, b"\x00" * 9, b" ",
        b'{"step": 2, "d_lo{"step": 3, "d_loss": 1}',
    ],
    ids=lambda line: repr(line[:26])
)  # fmt: skip
def test_bad_lines_are_left_out_and_counted(tmp_path: Path, line: bytes) -> None:
    path, rows = tmp_path / "metrics.jsonl", rows_of(3)
    path.write_bytes(lines(rows[:1]) + line + b"\n" + lines(rows[1:]))
    assert read_rows(path) == (rows, 1)


def test_a_hundred_thousand_lines_are_quick(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = b', "images": 64, "seconds": 0.342030113999499, "d_loss": 1.0114831924438477, "d_real": 0.7126176357269287}\n'
    path.write_bytes(b"".join(b'{"step": %d' % i + row for i in range(1, 100_001)))
    began = time.process_time()
    rows, bad = read_rows(path)
    assert (len(rows), bad) == (100_000, 0)
    assert time.process_time() - began < 5  # it takes half a second


def test_throughput_is_a_median_without_the_first_step() -> None:
    rows = rows_of(9)
    assert throughput(rows) == pytest.approx(640)
    went_back = [{"step": i, "images": 64 * i, "seconds": s} for i, s in enumerate((5, 1, 0.5, 0.6), 1)]
    assert throughput(went_back) == pytest.approx(640)
    assert throughput(rows[:1]) is None
    assert throughput([]) is None
    assert throughput([{"step": 1}, {"step": 2}]) is None
    assert throughput([{"step": i, "images": inf, "seconds": nan} for i in (1, 2, 3)]) is None


# ---- a run ----------------------------------------------------------------------------------------------------------


def test_a_record_is_what_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "gan-0001")
    record = Record.read(str(folder))
    assert record == Record(folder, "gan", CONFIG["settings"], 3000, CONFIG["trained_on"], "0.1.0", 2)
    assert record.name == "gan-0001"
    assert (record.rows(), record.metrics(), record.samples(), record.state()) == ([], {}, [], "not begun")
    monkeypatch.chdir(folder)
    assert Record.read(".").name == "gan-0001"
    write(folder, {**CONFIG, "a later field": 1})
    assert Record.read(folder) == record


def test_how_far_a_run_is(tmp_path: Path) -> None:
    record = Record.read(write(tmp_path / "run", rows=b'{"step": 1'))
    assert record.state() == "not begun"
    write(record.path, rows=lines(rows_of(312)) + b'{"step": 313, "ima')
    assert record.state() == "at step 312 of 3000"
    assert record.rows() == rows_of(312)
    write(record.path, rows=lines(rows_of(1300)))
    assert (record.path / "metrics.jsonl").stat().st_size > TAIL
    assert record.state() == "at step 1300 of 3000"
    write(record.path, metrics=METRICS)
    assert record.state() == "complete"
    assert record.metrics() == METRICS


def test_samples_are_sorted_by_step(tmp_path: Path) -> None:
    folder = write(tmp_path / "run")
    (folder / "samples").mkdir()
    names = ["step_000100.png", "step_1000000.png", "step_000020.png"]
    for name in (*names, "step_000100.png.12.part", "step_5.png", "other.png"):
        (folder / "samples" / name).touch()
    record = Record.read(folder)
    assert record.samples() == [(s, folder / "samples" / f"step_{s:06d}.png") for s in (20, 100, 1000000)]
    (tmp_path / "other").mkdir()
    other = Record.read(write(tmp_path / "other"))
    (other.path / "samples").touch()
    assert refusal(other.samples) == f"cannot read {other.path}/samples: Not a directory"


def test_what_is_no_folder_of_a_run(tmp_path: Path) -> None:
    assert refusal(lambda: Record.read(tmp_path)) == f"{tmp_path} has no config.json: name the folder of a run"
    path = tmp_path / "no"
    assert refusal(lambda: Record.read(path)) == f"there is no folder {path}: name the folder of a run"
    path.touch()
    assert refusal(lambda: Record.read(path)) == f"cannot read {path}/config.json: Not a directory"


def test_runs_of_other_versions_are_named_and_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "old", {"objective": "gan", "steps": 3000, "trained_on": "MNIST", "betas": [0.5, 0.9]})
    assert refusal(lambda: Record.read(folder)) == (
        f"{folder} was written by a minigan that kept no checkpoints; it can be neither resumed nor sampled: "
        "train again"
    )
    folder = write(tmp_path / "new", {"format": 2})
    assert refusal(lambda: Record.read(folder)) == (
        f"{folder}/config.json is of format 2, newer than 1, which this minigan reads: update minigan"
    )


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("format", "1", "a whole number above 0"),
        ("format", 0, "a whole number above 0"),
        ("recipe", 7, "a text"),
        ("recipe", "", "a text"),
        ("settings", [1], "an object of numbers, texts, true, false and null"),
        ("settings", {"betas": [0.5, 0.9]}, "an object of numbers, texts, true, false and null"),
        ("steps", "3000", "a whole number above 0"),
        ("steps", 3000.0, "a whole number above 0"),
        ("steps", True, "a whole number above 0"),
        ("trained_on", "MNIST", "an object"),
        ("trained_on.name", None, "a text"),
        ("trained_on.shape", [60000, 28, 28], "a list of 4 whole numbers above 0"),
        ("trained_on.shape", [60000, 28, 28, 0], "a list of 4 whole numbers above 0"),
        ("trained_on.shape", "28x28", "a list of 4 whole numbers above 0"),
        ("trained_on.sha256", 12, "a text"),
        ("minigan", 0.1, "a text"),
        ("threads", -2, "a whole number above 0"),
    ],
)
def test_fields_of_other_types(tmp_path: Path, key: str, value: Any, wanted: str) -> None:
    path = write(tmp_path / "run", changed(key, value)) / "config.json"
    assert refusal(lambda: Record.read(path.parent)) == (
        f"{path}: {key} is {value!r}, but should be {wanted}: the file is damaged or was changed by hand"
    )


@pytest.mark.parametrize("key", list(CONFIG))
def test_missing_fields(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "run", {k: v for k, v in CONFIG.items() if k != key}) / "config.json"
    assert refusal(lambda: Record.read(path.parent)) == (
        f"{path} has no {key}: it is damaged, or not the config of a run"
    )


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("step", 3.5, "a whole number, 0 or above"),
        ("fid", "7.2", "a number"),
        ("fid", True, "a number"),
        ("classes_present", -1, "a whole number, 0 or above"),
        ("predicted_histogram", [], "a list of whole numbers, 0 or above"),
        ("predicted_histogram", [1, -2], "a list of whole numbers, 0 or above"),
    ],
)
def test_results_of_other_types(tmp_path: Path, key: str, value: Any, wanted: str) -> None:
    record = Record.read(write(tmp_path / "run", metrics={**METRICS, key: value}))
    assert refusal(record.metrics) == (
        f"{record.path}/metrics.json: {key} is {value!r}, but should be {wanted}: the file is damaged or was changed "
        "by hand"
    )
    write(record.path, metrics={**METRICS, key: None})
    assert record.metrics()[key] is None


# ---- whatever the files hold ----------------------------------------------------------------------------------------


def read_all(folder: Path) -> None:
    """All that reads a run's folder gives something, or a RecordError of one line."""
    record = told(lambda: Record.read(folder))
    if record is not None:
        for call in (record.rows, record.metrics, record.samples, record.state, lambda: json_of(record)):
            told(call)


def told(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except RecordError as error:
        text = str(error)
    assert text.isprintable()
    return None


def json_of(record: Record) -> None:
    run = contents(record)
    json.dumps(summary(run), allow_nan=False)
    assert describe_all([run, run]).encode()
    for text in (page(run), comparison([run, run])):
        assert check(text).elements


WHOLE = {
    "config.json": json.dumps(CONFIG).encode(),
    "metrics.json": json.dumps(METRICS).encode(),
    "metrics.jsonl": lines(rows_of(4, w_estimate=1.5)),
}
names = st.sampled_from(list(WHOLE))
numbers = st.integers() | st.floats() | st.just(10**400)
values = st.recursive(st.none() | st.booleans() | numbers | st.text(max_size=5), lambda v: st.lists(v, max_size=3))
few = settings(max_examples=40)


def spoil(folder: Path, name: str, data: bytes) -> None:
    for other, whole in WHOLE.items():
        (folder / other).write_bytes(data if other == name else whole)
    read_all(folder)


@few
@given(name=names, data=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> None:
    spoil(tmp_path_factory.getbasetemp(), name, data)


@few
@given(name=names, cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=3))
def test_truncations_and_flipped_bits(
    tmp_path_factory: pytest.TempPathFactory, name: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(WHOLE[name])
    for place, bit in flips:
        data[int(place * (len(data) - 1))] ^= 1 << bit
    spoil(tmp_path_factory.getbasetemp(), name, bytes(data[: round(len(data) * cut)] if cut < 0.7 else data))


@few
@given(name=names, data=st.data())
def test_any_values_under_the_right_keys(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    whole = [json.loads(line) for line in WHOLE[name].splitlines()]
    for document in whole:
        document |= {key: data.draw(values) for key in data.draw(st.sets(st.sampled_from(list(document)), max_size=2))}
        if isinstance(document.get("settings"), dict):
            document["settings"] |= data.draw(st.dictionaries(st.text(max_size=5), values, max_size=2))
    spoil(tmp_path_factory.getbasetemp(), name, lines(whole))


# ---- runs beside each other -----------------------------------------------------------------------------------------


def test_a_summary_has_what_is_known(tmp_path: Path) -> None:
    run = summary(read(write(tmp_path / "run", rows=lines(rows_of(40)) + b"?\n", metrics=METRICS)))
    assert run == {
        "name": "run", "path": str(tmp_path / "run"), "recipe": "gan", "state": "complete", "steps": 3000,
        "step": 3000, "images": 192000, "seconds": 80.4, "images_per_second": pytest.approx(640), "fid": 7.214,
        "fid_floor": 0.112, "n": 10000, "classes_present": 10, "classes": 10, "rarest_share": 0.05,
        "predicted_histogram": METRICS["predicted_histogram"], "nearest_ratio": 1.33, "w_estimate_peak": None,
        "w_estimate_end": None, "trained_on": CONFIG["trained_on"], "lines_left_out": 1, "settings": CONFIG["settings"],
        "metrics": METRICS, "warnings": [],
    }  # fmt: skip
    run = summary(read(write(tmp_path / "other")))
    assert {run[key] for key in ("step", "seconds", "images_per_second", "fid", "classes", "rarest_share")} == {None}


def test_the_estimate_is_that_of_the_smoothed_curve(tmp_path: Path) -> None:
    estimate = np.r_[np.linspace(0, 30, 100), np.linspace(30, 1, 900)]
    estimate[50] = 1e6  # an outlier
    rows = [{"step": i + 1, "w_estimate": w} for i, w in enumerate(estimate)]
    run = summary(read(write(tmp_path / "run", rows=lines(rows))))
    assert run["w_estimate_peak"] == pytest.approx(29, abs=1)
    assert run["w_estimate_end"] == pytest.approx(1.8, abs=0.3)
    write(tmp_path / "run", rows=lines([{"step": 1, "w_estimate": nan}, {"step": 2, "w_estimate": inf}]))
    run = summary(read(tmp_path / "run"))
    assert (run["w_estimate_peak"], run["w_estimate_end"]) == (None, None)


def test_two_runs_in_words(tmp_path: Path) -> None:
    write(tmp_path / "gan-0001", rows=lines(rows_of(40)), metrics=METRICS)
    settings = {**CONFIG["settings"], "lr": 1e-4, "clip": 0.01, "epochs": 2, "out": "elsewhere"}
    data = {"name": "drawn digits", "shape": [70000, 28, 28, 1], "sha256": "99887766" * 8}
    config = {**CONFIG, "recipe": "wgan-clip", "settings": settings, "trained_on": data}
    write(tmp_path / "wgan-0001", config, rows=b"oops\n" + lines(rows_of(312, w_estimate=0.0089)))
    text = describe_all([read(tmp_path / name) for name in ("gan-0001", "wgan-0001")])
    assert (
        text
        == """\
run        recipe     state                steps  time  images/s   FID  floor   classes  rarest  W estimate
gan-0001   gan        complete             3,000  80 s       640  7.21   0.11  10 of 10    5.0%           -
wgan-0001  wgan-clip  at step 312 of 3000    312  41 s       640     -      -         -       -      0.0089

setting  gan-0001  wgan-0001
epochs       none          2
lr         0.0002     0.0001
clip            -       0.01

Trained on different data, so their FIDs do not compare: gan-0001 on MNIST (1a2b3c4d); \
wgan-0001 on drawn digits (99887766).
wgan-0001: 1 damaged line of metrics.jsonl left out.
wgan-0001: 1 warning: The run is not complete."""
    )


def test_equal_names_numbers_of_samples_and_equal_settings(tmp_path: Path) -> None:
    folders = [tmp_path / parent / "gan-0001" for parent in ("a", "b")]
    for folder, n in zip(folders, (10000, 5000), strict=True):
        folder.parent.mkdir()
        write(folder, metrics={**METRICS, "n": n})
    text = describe_all([read(folder) for folder in folders])
    assert text.splitlines()[1].startswith(str(folders[0]))
    assert text.endswith(f"""

Their settings are the same.

Measured by different numbers of samples, so their FIDs do not compare: {folders[0]} by 10,000; \
{folders[1]} by 5,000.""")
    assert len(describe_all([read(folders[0])]).splitlines()) == 2


def test_reading_changes_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", rows=lines(rows_of(4)) + b"torn", metrics=METRICS)
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    read_all(folder)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (80.4, "80 s"), (599, "599 s"), (600, "10 min"), (7000, "117 min"), (18720, "5 h 12 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (True, "true"), (2e-4, "0.0002"), (64, "64"), ("drawn", "drawn"), ("", "''"), ("a\nb", r"'a\nb'"),
     ("\x1b[31m", r"'\x1b[31m'"), ("\ud800", r"'\ud800'")],
)  # fmt: skip
def test_settings_are_shown_in_one_line(value: Any, text: str) -> None:
    assert shown(value) == text
