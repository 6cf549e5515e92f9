"""benchmarks/quality.py trains for equal seconds, goes on where it was, and writes what it found."""

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from math import isnan, nan
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from minigan.data.sources import DataSet
from minigan.random import Generator

ROOT = Path(__file__).parent.parent
MACHINE = {
    "cpu": "a CPU", "cores": 2, "threads": 2, "load": 0.1, "threading_layer": "omp", "peak_gflops": 9.0,
    "copy_gbps": 1.0, "versions": {"torch": "2.13.0"},
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

    def run(self, where: Path) -> list[dict[str, Any]]:
        self.judged.append(where.name)
        run = json.loads((where / "run.json").read_text())
        for row in run["points"]:
            if row["failed"] is None:
                row |= {**FLOOR, "fid": 100 / row["seconds"]}
                if run["system"].startswith("wgan"):
                    row["w_estimate"] = row["seconds"] if run["system"] == "wgan-clip" else row["fid"] ** 2
        return list(run["points"])


@pytest.fixture
def acted(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The words of a small table, with actors in place of all that takes time; a machine is described."""
    monkeypatch.setattr(Actor, "asked", [], raising=False)
    monkeypatch.setattr(Judge, "judged", [], raising=False)
    monkeypatch.setattr(Judge, "made", 0)
    monkeypatch.setattr(bench, "Worker", Actor)
    monkeypatch.setattr(bench, "Judge", Judge)
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "machine.json").write_text(json.dumps(MACHINE))
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    return ["--seconds", "10", "--seeds", "2", "--points", "4", "--out", f"{tmp_path}/runs", "--docs", str(tmp_path)]


def test_runs_take_turns_and_go_on(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    (tmp_path / "docs" / "results.md").write_text("# Results\n\nOlder.\n")
    assert bench.main(acted) == 0
    assert Actor.asked[:5] == [
        ("gan, seed 0", 2.5), ("PyTorch gan, seed 0", 2.5), ("wgan-clip, seed 0", 2.5), ("wgan-gp, seed 0", 2.5),
        ("gan, seed 0", 5.0),
    ]  # fmt: skip
    assert Actor.asked[16][0] == "PyTorch gan, seed 1"  # somebody else is first
    assert (len(Actor.asked), len(Judge.judged), Judge.made) == (32, 8, 1)
    text = (tmp_path / "docs" / "results.md").read_text()
    results = json.loads((tmp_path / "benchmarks" / "results" / "quality.json").read_text())
    assert len(results["runs"]) == 8
    assert (tmp_path / "docs" / "images" / "quality.png").read_bytes().startswith(b"\x89PNG")

    # What is complete is neither trained nor measured again; what is not, is.
    (tmp_path / "runs" / "wgan-gp-0" / "run.json").unlink()
    (tmp_path / "runs" / "wgan-gp-0" / "measured.json").unlink()
    (tmp_path / "runs" / "gan-1" / "measured.json").unlink()
    Actor.asked.clear()
    Judge.judged.clear()
    assert bench.main(acted) == 0
    assert Actor.asked == [("wgan-gp, seed 0", seconds) for seconds in (2.5, 5.0, 7.5, 10.0)]
    assert sorted(Judge.judged) == ["gan-1", "wgan-gp-0"]
    assert (tmp_path / "docs" / "results.md").read_text() == text  # the section took its own place
    assert text.startswith("# Results\n\nOlder.\n\n<!-- written by benchmarks/quality.py -->\n")


def test_what_is_written(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    assert bench.main(acted) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "    python benchmarks/quality.py --seconds 10 --seeds 2 --points 4\n" in text
    assert "| gan | 100 ± 0 | 10.00 ± 0.00 | 0.800 ± 0.000 | 0.700 ± 0.000 | 0.500 ± 0.000 | 0 of 2 |" in text
    assert "| wgan-gp | 100 ± 0 | 10.00 | 0.800 | 0.700 | 0.500 | 1 of 2 |" in text
    assert "| test images |  | 0.10 | 0.800 | 0.700 | 0.500 |  |" in text
    assert "| system | FID at 2 s | FID at 5 s | FID at 10 s | seconds to FID 20 |" in text
    assert "| gan | 40.00 ± 0.00 | 20.00 ± 0.00 | 10.00 ± 0.00 | 5, 5 | 10, 10 | -, - |" in text
    assert "| wgan-gp | 40.00 ± 0.00 | 20.00 ± 0.00 | 10.00 | 5, 5 | 10, - | -, - |" in text
    assert "minigan's `gan` takes 2.00 times as many steps as PyTorch's (by seed: 2.00, 2.00)" in text
    assert "| wgan-clip | -1.00, -1.00 |" in text
    assert "| wgan-gp | 1.00, - |" in text  # two points have no order to speak of


def test_another_table_is_refused(
    bench: ModuleType, acted: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(acted) == 0
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"{tmp_path}/runs/gan-0 has seconds 10, here it is 20: they do not belong into one table; name another "
            "folder by --out, or remove that one"
        ),
    ):
        bench.main([*acted, "--seconds", "20"])
    (tmp_path / "runs" / "gan-0" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=re.escape("gan-0/run.json is damaged (") + ".*remove its folder"):
        bench.main(acted)


def test_a_section_keeps_its_place(bench: ModuleType, acted: list[str], tmp_path: Path) -> None:
    report = sys.modules["quality_report"]
    path = tmp_path / "docs" / "results.md"
    path.write_text(f"# Results\n\n{report.BEGIN}\nold\n{report.END}\n\n## Others\n\nText.\n")
    assert bench.main(acted) == 0
    text = path.read_text()
    assert text.startswith(f"# Results\n\n{report.BEGIN}\n\n## The three GANs at equal seconds\n")
    assert text.endswith(f"{report.END}\n\n## Others\n\nText.\n")
    assert "\nold\n" not in text
    path.write_text(text.replace(report.END, ""))
    with pytest.raises(ValueError, match="has only one of the marks"):
        bench.main(acted)
    assert report.END not in path.read_text()


def test_spearman(bench: ModuleType) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = Generator(0, "a").normal((2, 20))
    a[3], b[7] = nan, nan
    known = np.isfinite(a + b)
    found = sys.modules["quality_report"].rank_correlation(a, b)
    assert found == pytest.approx(stats.spearmanr(a[known], b[known]).statistic)
    assert isnan(sys.modules["quality_report"].rank_correlation(a[:2], b[:2]))


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


def test_the_estimate_is_of_batches_as_in_training(bench: ModuleType, few: DataSet) -> None:
    from minigan import nn

    x = few.images.astype(np.float32) / 127.5 - 1
    mean = nn.Sequential(nn.Flatten(), nn.Linear(784, 1))
    mean.load_state_dict({"1.weight": np.full((784, 1), 1 / 784, np.float32), "1.bias": np.zeros(1, np.float32)})
    found = bench.estimate(mean, x, x - 0.25, 64)
    assert found == pytest.approx(0.25, abs=1e-5)
