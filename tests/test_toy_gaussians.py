"""Gaussians in the plane: the mixtures, what is measured on them, and the example that trains on them."""

import json
import os
import subprocess
import sys
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minigan.data import GRID25, RING8, Mixture
from minigan.metrics import dual_bound, exact_w1, mixture_score
from minigan.metrics.mixtures import PERFECT_SHARE
from minigan.random import Generator

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "toy_gaussians.py"
BOTH = pytest.mark.parametrize("mixture", [RING8, GRID25], ids=lambda mixture: mixture.name)


def normal(*shape: int, name: str = "test") -> Any:
    return Generator(0, name).normal(shape)


# ---- the mixtures ---------------------------------------------------------------------------------------------------


def test_means_and_sigmas_are_those_of_wgan_gp() -> None:
    d = 2 / 1.414 / np.sqrt(2)
    ring = [(2 / 1.414, 0), (d, d), (0, 2 / 1.414), (-d, d), (-2 / 1.414, 0), (-d, -d), (0, -2 / 1.414), (d, -d)]
    np.testing.assert_allclose(RING8.means, ring, atol=5e-4)
    ticks = [-2, -1, 0, 1, 2]
    np.testing.assert_allclose(GRID25.means, [(2 * x / 2.828, 2 * y / 2.828) for x in ticks for y in ticks], atol=5e-4)
    assert RING8.sigma == pytest.approx(0.02 / 1.414, rel=1e-3)
    assert GRID25.sigma == pytest.approx(0.05 / 2.828, rel=1e-3)


@BOTH
def test_samples_are_of_the_mixture_and_repeatable(mixture: Mixture) -> None:
    points = mixture.sample(20_000, Generator(3, "data"))
    assert points.shape == (20_000, 2)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, mixture.sample(20_000, Generator(3, "data")))
    mode = np.linalg.norm(points[:, None] - mixture.means, axis=2).argmin(axis=1)
    due = len(points) / len(mixture.means)
    np.testing.assert_allclose(np.bincount(mode), due, atol=5 * np.sqrt(due))
    offset = points - mixture.means[mode]
    np.testing.assert_allclose(np.cov(offset.T), mixture.sigma**2 * np.eye(2), atol=0.05 * mixture.sigma**2)


# ---- the score ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_perfect_sampler(mixture: Mixture) -> None:
    K = len(mixture.means)
    found = mixture_score(mixture.sample(10_000, Generator(0, "perfect")), mixture)
    assert PERFECT_SHARE == pytest.approx(0.98889, abs=1e-5)
    assert found["modes"] == found["modes_filled"] == K
    assert found["high_quality"] == pytest.approx(PERFECT_SHARE, abs=0.005)
    assert found["std_ratio"] == pytest.approx(1, abs=0.02)
    assert 0 < found["kl"] < 3 * (K - 1) / 20_000
    assert 0 < found["reverse_kl"] < 3 * (K - 1) / 20_000


@BOTH
def test_a_collapsed_sampler(mixture: Mixture) -> None:
    K = len(mixture.means)
    found = mixture_score(np.tile(mixture.means[3], (1000, 1)), mixture)
    assert found["modes"] == found["modes_filled"] == found["high_quality"] == 1
    assert found["kl"] == pytest.approx(log(K))
    lost = log((1000 + K) / K)  # of a mode that only has the one sample added to each
    assert found["reverse_kl"] == pytest.approx(((K - 1) * lost + log((1000 + K) / K / 1001)) / K)
    assert found["std_ratio"] == 0


def test_a_sampler_that_favours_one_mode_and_shrinks_it() -> None:
    few = RING8.means + 0.5 * np.float32(RING8.sigma) * normal(10, 8, 2)
    many = RING8.means[0] + 0.5 * np.float32(RING8.sigma) * normal(9920, 2, name="many")
    found = mixture_score(np.concatenate([few.reshape(-1, 2), many]), RING8)
    assert (found["modes"], found["modes_filled"]) == (8, 1)
    assert found["std_ratio"] == pytest.approx(0.5 / 0.9747, abs=0.01)


def test_a_sampler_that_meets_no_mode() -> None:
    found = mixture_score(np.zeros((100, 2)), RING8)
    assert (found["modes"], found["modes_filled"], found["high_quality"], found["std_ratio"]) == (0, 0, 0, 0)
    assert all(type(value) in (int, float) for value in found.values())  # json takes them


def test_mixture_score_refuses() -> None:
    points = RING8.sample(100, Generator(0, "data"))
    points[[2, 5]] = np.nan, np.inf
    with pytest.raises(
        ValueError, match=r"^mixture_score: 2 of 100 samples are not finite; the training has diverged$"
    ):
        mixture_score(points, RING8)
    for shape in ((0, 2), (5, 3), (5,)):
        with pytest.raises(ValueError, match=r"^mixture_score: samples must be \(N, 2\), N at least 1, but are \("):
            mixture_score(np.zeros(shape), RING8)


# ---- the Wasserstein distance ---------------------------------------------------------------------------------------


def test_exact_w1_on_a_line_pairs_the_sorted_points() -> None:
    a, b = normal(200, 1), normal(200, 1, name="b") * 2
    assert exact_w1(a, b) == pytest.approx(np.abs(np.sort(a[:, 0]) - np.sort(b[:, 0])).mean(), rel=1e-5)


def test_exact_w1_of_a_translation_is_its_length() -> None:
    a = normal(100, 2)
    assert exact_w1(a, (a + np.float32([0.3, -0.4]))[::-1]) == pytest.approx(0.5, rel=1e-5)
    assert exact_w1(a, a[::-1]) == 0


def test_dual_bound_is_exact_for_the_best_scores_of_any_scale() -> None:
    a, theta = normal(100, 2), np.float32([3, 4])
    b = a - theta  # a translation: the way along theta is the best score
    for scale in (1e-3, 1, 70):
        bound = dual_bound(a, b, scale * a @ theta, scale * b @ theta)
        assert bound == pytest.approx(5, rel=1e-5)
        assert bound == pytest.approx(exact_w1(a, b), rel=1e-5)
    line = np.sort(normal(50, 1), axis=0)
    assert dual_bound(line + 2, line, 70 * (line[:, 0] + 2), 70 * line[:, 0]) == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_dual_bound_never_exceeds_the_distance(seed: int) -> None:
    g = Generator(seed, "scores")
    a, b = RING8.sample(60, g), RING8.sample(60, g)
    weight = 20 * g.normal((2, 3))
    assert dual_bound(a, b, np.sin(a @ weight).sum(axis=1), np.sin(b @ weight).sum(axis=1)) <= exact_w1(a, b)


def test_dual_bound_of_scores_that_say_nothing() -> None:
    a = normal(10, 2)
    assert dual_bound(a, a + 1, np.zeros(10), np.zeros(10)) == 0
    assert dual_bound(a, a, np.ones(10), np.zeros(10)) == 0  # an infinite slope


def test_distances_refuse() -> None:
    with pytest.raises(ValueError, match=r"^exact_w1: takes two clouds .* not \(4, 2\), \(5, 2\)$"):
        exact_w1(normal(4, 2), normal(5, 2))
    with pytest.raises(ValueError, match=r"^exact_w1: a point is not finite$"):
        exact_w1(normal(4, 2), np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match=r"^dual_bound: 4 points each, but scores \(4, 1\) and \(4,\)$"):
        dual_bound(normal(4, 2), normal(4, 2), normal(4, 1), normal(4))


def test_without_scipy_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"^exact_w1: .* install it with: pip install scipy$"):
        exact_w1(normal(4, 2), normal(4, 2))


# ---- the example ----------------------------------------------------------------------------------------------------


def run(cwd: Path, *args: str, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *args],
        cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_example_trains_several_objectives(tmp_path: Path) -> None:
    names = ["ragan", "wgan-gp"]
    done = run(tmp_path, "--mixture", "ring8", "--objective", *names, "--steps", "3", "--out", "toy", "--every", "9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ring8: 8 modes of sigma 0.0141; watch toy/toy.png\n")
    folder = tmp_path / "toy"
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == [
        "config.json", "metrics.json", "metrics.jsonl", *(f"toy-{name}.gif" for name in sorted(names)), "toy.png",
    ]  # fmt: skip
    pictures = [folder / "toy.png", *(folder / "samples" / f"{name}.png" for name in names)]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["perfect", "untrained", *names]
    assert metrics["perfect"]["modes_filled"] == 8
    assert 0.02 < metrics["perfect"]["w1"] < 0.3 < metrics["untrained"]["w1"]
    for name in names:
        assert ("critic" in metrics[name]) == name.startswith("wgan")
        with Image.open(folder / f"toy-{name}.gif") as animation:
            assert (animation.n_frames, animation.size) == (3, (360, 360))
            animation.seek(2)
            assert animation.info["duration"] == 2000
            colours = {tuple(colour) for _, colour in animation.convert("RGB").getcolors()}
            assert {(255, 255, 255), (255, 0, 0), (0, 0, 0)} < colours
            assert 10 < len(colours) <= 19
    assert metrics["wgan-gp"]["bound"] <= metrics["wgan-gp"]["w1"]
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["objective"], row["step"]) for row in log] == [(name, 3) for name in names]
    for name, row in metrics.items():
        (line,) = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == [name]]
        assert line[1:3] == [str(row["modes"]), str(row["modes_filled"])]
        assert line[6] == f"{row['w1']:.3f}"


def test_the_example_goes_on_without_scipy(tmp_path: Path) -> None:
    hidden, cwd = tmp_path / "hidden", tmp_path / "cwd"
    hidden.mkdir()
    cwd.mkdir()
    (hidden / "scipy.py").write_text("raise ImportError('hidden')")
    done = run(cwd, "--objective", "wgan-gp", "--steps", "3", "--every", "2", path=f"{hidden}{os.pathsep}{ROOT}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install scipy") == 1
    folder = cwd / "runs" / "toy-0001"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["perfect", "untrained", "wgan-gp"]
    assert not any("w1" in row for row in metrics.values())
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [2, 3]
    assert log[-1]["bound"] == metrics["wgan-gp"]["bound"]


def test_the_example_refuses(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    cases = {
        ("--out", "mine"): "toy_gaussians.py: mine exists already; choose another name, or an empty folder",
        ("--steps", "0"): "toy_gaussians.py: error: argument --steps: '0' is not a whole number above 0",
        ("--objective", "gan", "vae"): "toy_gaussians.py: error: argument --objective: invalid choice: 'vae'",
    }
    for args, message in cases.items():
        done = run(tmp_path, *args)
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1].startswith(message)
    assert [p.name for p in tmp_path.rglob("*")] == ["mine"]
