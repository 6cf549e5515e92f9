"""benchmarks/quality.py trains for equal seconds, goes on where it was, and writes what it found."""

import importlib
import importlib.util
import io
import json
import re
import sys
from collections.abc import Iterator
from math import isnan, nan
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numba
import numpy as np
import pytest

from minigan import __version__, nn
from minigan.data import DataSet, load
from minigan.gan.run import description
from minigan.random import Generator

ROOT = Path(__file__).parent.parent
MACHINE = {
    "cpu": "a CPU", "cores": 2, "threads": 2, "load": 0.1, "threading_layer": "omp", "peak_gflops": 9.0,
    "copy_gbps": 1.0, "versions": {"torch": "2.13.0"},
}  # fmt: skip
TABLE = {
    "seconds": 10, "points": 4, "systems": ["gan", "PyTorch gan", "wgan-clip", "wgan-gp"], "minigan": __version__,
    "trained_on": "noise", "image_size": 28, "width": 32, "batch_size": 64,
}  # fmt: skip
FLOOR = {"fid": 0.1, "precision": 0.8, "recall": 0.7, "two_sample_accuracy": 0.5, "n_neighbours": 5000}


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("quality")


class Actor:
    """A Worker that starts no process: each training takes 10 steps a second; WGAN-GP's of seed 1 diverges."""

    asked: ClassVar[list[tuple[str, float]]]

    def __init__(self, label: str, task: dict[str, Any], environment: dict[str, str], program: Path) -> None:
        self.label, self.task, self.points = label, task, 0
        assert program.name == "quality_worker.py"

    def __enter__(self) -> "Actor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def answer(self) -> dict[str, Any]:
        return {"built": True}

    def ask(self, seconds: float) -> dict[str, Any]:
        self.asked.append((self.label, seconds))
        self.points += 1
        failed = "after 3 steps: NaN" if self.label == "wgan-gp, seed 1" and seconds > 5 else None
        if failed is None:
            Path(self.task["folder"], f"{self.points:03d}.safetensors").touch()
        steps = int(seconds * (5 if self.task["framework"] == "torch" else 10))
        return {"seconds": seconds, "step": steps, "images": 64 * steps, "failed": failed}


class Judge:
    """Finds an FID of 100 / seconds, and a critic's estimate that falls with it, but for WGAN with clipping."""

    floor = FLOOR
    made = 0
    judged: ClassVar[list[str]]

    def __init__(self, data: str | None, size: int) -> None:
        type(self).made += 1

    def run(self, system: str, seed: int, where: Path, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.judged.append(where.name)
        rows = []
        for i, point in enumerate(points, 1):
            row = dict(point)
            if row["failed"] is None:
                assert (where / f"{i:03d}.safetensors").exists()
                row |= {**FLOOR, "n": 10_000, "fid": 100 / row["seconds"]}
                if system.startswith("wgan"):
                    row["w_estimate"] = row["seconds"] if system == "wgan-clip" else row["fid"] ** 2
            rows.append(row)
        return rows


@pytest.fixture
def acted(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The words of a small table, with actors in place of all that takes time; a machine is described."""
    monkeypatch.setattr(Actor, "asked", [], raising=False)
    monkeypatch.setattr(Judge, "judged", [], raising=False)
    monkeypatch.setattr(Judge, "made", 0)
    monkeypatch.setattr(bench, "Worker", Actor)
    monkeypatch.setattr(bench, "Judge", Judge)
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    data = tmp_path / "noise.npy"
    np.save(data, np.zeros((4, 28, 28), np.uint8))
    found = description(load(data))
    (tmp_path / "runs").mkdir()
    here = {
        **MACHINE,
        **importlib.import_module("machine").identity(numba.config.NUMBA_NUM_THREADS),
    }
    table = {**TABLE, "trained_on": found["name"], "sha256": found["sha256"], "machine": here}
    (tmp_path / "runs" / "table.json").write_text(json.dumps(table))
    return [
        *("--seconds", "10", "--seeds", "2", "--points", "4", "--data", str(data)),
        *("--out", f"{tmp_path}/runs", "--docs", f"{tmp_path}/tree"),
    ]


def test_runs_take_turns_and_go_on(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    docs = tmp_path / "tree" / "docs"
    docs.mkdir(parents=True)
    (docs / "results.md").write_text("# Results\n\nOlder.\n")
    assert bench.main(acted) == 0
    assert Actor.asked[:5] == [
        ("gan, seed 0", 2.5), ("PyTorch gan, seed 0", 2.5), ("wgan-clip, seed 0", 2.5), ("wgan-gp, seed 0", 2.5),
        ("gan, seed 0", 5.0),
    ]  # fmt: skip
    assert Actor.asked[16][0] == "PyTorch gan, seed 1"  # somebody else is first
    assert (len(Actor.asked), len(Judge.judged), Judge.made) == (32, 8, 1)
    text = (docs / "results.md").read_text()
    results = json.loads((tmp_path / "tree" / "benchmarks" / "results" / "quality.json").read_text())
    assert len(results["runs"]) == 8
    assert (docs / "images" / "quality.png").read_bytes().startswith(b"\x89PNG")

    # What is complete is neither trained nor measured again; what is not, is. Of a seed all take turns again.
    (tmp_path / "runs" / "seed-0.json").unlink()
    (tmp_path / "runs" / "gan-1" / "measured.json").unlink()
    (tmp_path / "runs" / "gan-0" / "099.safetensors").touch()  # left by the interrupted one
    Actor.asked.clear()
    Judge.judged.clear()
    assert bench.main(acted) == 0
    assert (len(Actor.asked), {label.partition(", ")[2] for label, _ in Actor.asked}) == (16, {"seed 0"})
    assert sorted(Judge.judged) == ["PyTorch-gan-0", "gan-0", "gan-1", "wgan-clip-0", "wgan-gp-0"]
    assert not (tmp_path / "runs" / "gan-0" / "099.safetensors").exists()
    assert (docs / "results.md").read_text() == text  # the section took its own place
    assert text.startswith("# Results\n\nOlder.\n\n<!-- written by benchmarks/quality.py -->\n")


def test_what_is_written(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    assert bench.main(acted) == 0
    text = (tmp_path / "tree" / "docs" / "results.md").read_text()
    assert f"    python benchmarks/quality.py --seconds 10 --seeds 2 --points 4 --data {tmp_path}/noise.npy\n" in text
    assert "*PyTorch gan* has the same nets" in text
    assert "for 10 seconds on " + f"{tmp_path}/noise.npy, 28 pixels, width 32, batch 64, " in text
    assert "| gan | 100 ± 0 | 10.00 ± 0.00 | 0.800 ± 0.000 | 0.700 ± 0.000 | 0.500 ± 0.000 | 0 of 2 |" in text
    assert "| wgan-gp | 100 | 10.00 | 0.800 | 0.700 | 0.500 | 1 of 2 |" in text
    assert "| test images |  | 0.10 | 0.800 | 0.700 | 0.500 |  |" in text
    assert "| system | FID at 2 s | FID at 5 s | FID at 10 s | seconds to FID 20 |" in text
    assert "| gan | 40.00 ± 0.00 | 20.00 ± 0.00 | 10.00 ± 0.00 | 5, 5 | 10, 10 | -, - |" in text
    assert "| wgan-gp | 40.00 ± 0.00 | 20.00 ± 0.00 | 10.00 | 5, 5 | 10, - | -, - |" in text
    assert "minigan's `gan` takes 2.00 times as many steps as PyTorch's (by seed: 2.00, 2.00)" in text
    assert "| wgan-clip | -1.00, -1.00 |" in text
    assert "| wgan-gp | 1.00, - |" in text  # two points have no order to speak of


def test_another_table_is_refused(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    """Before anything is trained."""
    np.save(tmp_path / "other.npy", np.ones((4, 28, 28), np.uint8))
    for words, sentence in (
        (["--seconds", "20"], "seconds 10, here it is 20"),
        (["--points", "8"], "points 4, here it is 8"),
        (["--data", f"{tmp_path}/other.npy"], f"trained_on '{tmp_path}/noise.npy', here it is '{tmp_path}/other.npy'"),
    ):
        with pytest.raises(
            ValueError,
            match=re.escape(
                f"{tmp_path}/runs has runs of {sentence}: they do not belong into one table; name another folder by "
                "--out, or remove that one"
            ),
        ):
            bench.main([*acted, *words])
    path = tmp_path / "runs" / "table.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "machine": {**table["machine"], "threads": 99}}))
    with pytest.raises(ValueError, match=r"has runs of threads 99, here it is \d+: they do not belong into one table"):
        bench.main(acted)
    path.write_text("{")
    with pytest.raises(ValueError, match=re.escape("table.json is damaged (") + ".*remove it to have that again"):
        bench.main(acted)
    assert Actor.asked == []


def test_points_are_at_the_quarters(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.arguments(["--points", "10"])
    assert stop.value.code == 2
    assert "--points 10: must be a multiple of 4, so that one is at each quarter" in capsys.readouterr().err


def test_a_section_keeps_its_place(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    report = sys.modules["quality_report"]
    path = tmp_path / "tree" / "docs" / "results.md"
    path.parent.mkdir(parents=True)
    path.write_text(f"# Results\n\n{report.BEGIN}\nold\n{report.END}\n\n## Others\n\nText.\n")
    assert bench.main(acted) == 0
    text = path.read_text()
    assert text.startswith(f"# Results\n\n{report.BEGIN}\n\n## The three GANs at equal seconds\n")
    assert text.endswith(f"{report.END}\n\n## Others\n\nText.\n")
    assert "\nold\n" not in text
    for wrong in (text.replace(report.END, ""), report.END + report.BEGIN):
        path.write_text(wrong)
        with pytest.raises(
            ValueError, match=re.escape(f"{path} should have {report.BEGIN} once and {report.END} once")
        ):
            bench.main(acted)
        assert path.read_text() == wrong


def test_spearman(bench: ModuleType) -> None:
    stats, correlation = pytest.importorskip("scipy.stats"), sys.modules["quality_report"].rank_correlation
    a, b = Generator(0, "a").normal((2, 20)).astype(np.float64)
    a[3], b[7] = nan, nan
    a[5] = a[6] = a[8]  # a tie
    known = np.isfinite(a + b)
    assert correlation(a, b) == pytest.approx(stats.spearmanr(a[known], b[known]).statistic)
    assert isnan(correlation(a[:2], b[:2]))
    assert isnan(correlation(np.ones(5), b[:5]))


@pytest.fixture(scope="module")
def few() -> DataSet:
    images = Generator(0, "images").integers(256, (130, 28, 28, 1)).astype(np.uint8)
    return DataSet("noise", images, None, images[:70], None)


def test_both_frameworks_train_the_same_nets(bench: ModuleType, few: DataSet) -> None:
    pytest.importorskip("torch")
    worker = importlib.import_module("quality_worker")
    ours, theirs = worker.Ours("gan", 3, few), worker.Theirs("gan", 3, few, {"layout": "channels_last"})
    assert ours.images == theirs.images == 64
    before = {name: net.state_dict() for name, net in ours.nets().items()}
    for name, net in theirs.nets().items():
        for key, array in net.state_dict().items():
            np.testing.assert_array_equal(array, before[name][key])
    first = ours.step(), theirs.step()
    assert [len(losses) for losses in first] == [2, 2]
    theirs.step(), theirs.step()  # 130 images are two batches; the third step begins a new order
    assert len(theirs.order) == 66
    for run in (ours, theirs):
        assert not np.array_equal(run.nets()["G"].state_dict()["1.weight"], before["G"]["1.weight"])
    theirs.rival.G[1].weight.data.fill_(nan)
    with pytest.raises(FloatingPointError, match="the losses are"):
        theirs.step()


def test_a_process_trains_for_so_long(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its clock stands still while it waits and saves; from where a run fails on, nothing is saved."""
    worker = importlib.import_module("quality_worker")

    class Stub:
        images, done = 64, 0

        def step(self) -> list[float]:
            self.done += 1
            clock[0] += 0.3
            if self.done == 9:
                raise FloatingPointError("the losses are [nan]")
            return [1.0]

        def nets(self) -> dict[str, Any]:
            clock[0] += 100
            return {"G": nn.Linear(1, 1)}

    clock = [5.0]
    monkeypatch.setattr(worker, "build", lambda *task: (Stub(), {"layout": "nchw"}))
    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n2\n3\n4\n"))
    worker.main("ours", "gan", 0, None, str(tmp_path))
    built, *points = map(json.loads, capsys.readouterr().out.splitlines())
    assert built == {"built": True, "layout": "nchw"}
    assert [round(point.pop("seconds"), 6) for point in points] == [1.2, 2.1, 2.7, 2.7]
    failed = "after 8 steps: the losses are [nan]"
    assert points == [
        {"step": step, "images": 64 * step, "failed": text}
        for step, text in ((4, None), (7, None), (8, failed), (8, failed))
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001.safetensors", "002.safetensors"]


def test_the_estimate_is_of_batches_as_in_training(bench: ModuleType, few: DataSet) -> None:
    x = few.images.astype(np.float32) / 127.5 - 1
    mean = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    mean.load_state_dict({"1.weight": np.full((784, 1), 1 / 784, np.float32), "1.bias": np.zeros(1, np.float32)})
    found = bench.estimate(mean, x, x - 0.25, 64)
    assert found == pytest.approx(0.25, abs=1e-5)


def test_spoilt_weights_are_a_failure(bench: ModuleType, few: DataSet, tmp_path: Path) -> None:
    """From there on, and not the end of the benchmark."""

    class Few:
        """Of a Reference: neither floors nor neighbours."""

        def quick(self, fakes: Any) -> dict[str, Any]:
            return {"fid": float(np.abs(fakes).mean())}

        evaluate = quick

    worker = importlib.import_module("quality_worker")
    judge = object.__new__(bench.Judge)
    judge.reference, judge.tests = Few(), few.images[:64].astype(np.float32) / 127.5 - 1
    run = worker.Ours("wgan-gp", 0, few)
    for i in range(1, 4):
        if i == 2:
            run.nets()["D"][0].weight.array[...] = nan
        worker.save(tmp_path / f"{i:03d}.safetensors", run.nets())
        if i == 2:
            run.nets()["D"][0].weight.array[...] = 0
    points = [{"seconds": 1.0 * i, "step": i, "images": 64 * i, "failed": None} for i in range(1, 4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "FAKES", 128)
        rows = judge.run("wgan-gp", 0, tmp_path, points)
    assert rows[0]["fid"] > 0
    assert isinstance(rows[0]["w_estimate"], float)
    assert [row["failed"] for row in rows] == [None, *["after 2 steps its weights are not finite"] * 2]
    assert "fid" not in rows[2]
