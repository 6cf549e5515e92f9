"""Whole trainings: recorded losses, and the example as a user runs it."""

import json
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from safetensors.numpy import load_file

import minigan as mg
from minigan.data import batches
from minigan.gan import (
    MINIMAX,
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    critic_updates,
    dcgan_discriminator,
    dcgan_generator,
    gradient_penalty,
    train,
    two_player,
)
from minigan.gan.recipes import RECIPES
from minigan.gan.recipes.recipe import images_of_steps
from minigan.optim import Adam, RMSprop
from minigan.random import Generator

ROOT = Path(__file__).parent.parent
RECORDED = Path(__file__).parent / "recorded_losses.json"


class GameOf(Game):
    """A game whose latent vectors have the dtype of the nets."""

    dtype = np.float32

    def z(self) -> mg.Tensor:
        return super().z().astype(self.dtype)


SETTINGS = {
    "gan": NON_SATURATING,
    "minimax": MINIMAX,
    "wgan-clip": WASSERSTEIN,
    "wgan-gp": WASSERSTEIN,
}


def ten_steps(setting: str, dtype: Any) -> list[list[float]]:
    """(d_loss, g_loss) of ten steps of a narrow DCGAN on blurred noise."""
    noise = Generator(0, "images").integers(256, (64, 7, 7)).astype(np.uint8)
    images = noise.repeat(4, 1).repeat(4, 2)
    init = Generator(0, "init")
    G = dcgan_generator(28, 1, 4, 16, init).astype(dtype)
    D = dcgan_discriminator(28, 1, 4, init, batch_norm=setting != "wgan-gp").astype(dtype)
    real = (x.astype(dtype) for x in batches(images, 16, Generator(0, "data")))
    game = GameOf(real, Generator(0, "latent"), 16, 16)
    game.dtype = dtype
    if setting == "wgan-clip":
        optimizers = [RMSprop(net.parameters(), 1e-3) for net in (G, D)]
    else:
        optimizers = [Adam(net.parameters(), 2e-3, (0.5, 0.999)) for net in (G, D)]
    players = two_player(
        G,
        D,
        SETTINGS[setting],
        *optimizers,
        penalty=partial(gradient_penalty, generator=Generator(0, "penalty")) if setting == "wgan-gp" else None,
        clip=0.02 if setting == "wgan-clip" else None,
        d_updates=critic_updates(2 if setting.startswith("wgan") else 1),
    )
    losses: list[list[float]] = []
    train(game, players, 10, [lambda step, logs: losses.append([logs["d_loss"], logs["g_loss"]])])
    return losses


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("reference", np.float64, 1e-9), ("reference", np.float32, 1e-2), ("auto", np.float32, 1e-2)],
    ids=["reference-float64", "reference-float32", "auto-float32"],
)
def test_recorded_losses(setting: str, backend: str, dtype: Any, tolerance: float) -> None:
    """To record anew after a deliberate change: python tests/test_training.py"""
    recorded = json.loads(RECORDED.read_text())[setting]
    with mg.kernels.use(backend):
        np.testing.assert_allclose(ten_steps(setting, dtype), recorded, rtol=tolerance)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert ten_steps("wgan-gp", np.float32) == ten_steps("wgan-gp", np.float32)


# ---- the example ------------------------------------------------------------------------------------------------


def write_idx(folder: Path, split: str, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """Images and labels in MNIST's format."""
    N = len(pixels)
    (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes())
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, N) + labels.tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 pictures in MNIST's format, half of them bright, and 64 to test."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, n in (("train", 256), ("t10k", 64)):
        labels = rng.integers(0, 2, n).astype(np.uint8)
        pixels = rng.integers(0, 128, (n, 28, 28)).astype(np.uint8) + 100 * labels[:, None, None]
        write_idx(folder, split, pixels, labels)
    return folder


pytestmark = pytest.mark.usefixtures("clean_environment")


def start(tmp_path: Path, *options: str, before: str = "") -> subprocess.Popen[str]:
    """examples/dcgan_mnist.py in an empty folder."""
    program = (
        f"{before}\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        f"import runpy; runpy.run_path({str(ROOT / 'examples' / 'dcgan_mnist.py')!r}, run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


LOGS = {
    "gan": {"d_real", "d_fake_before", "d_fake_after"},
    "minimax": {"d_real", "d_fake_before", "d_fake_after"},
    "wgan-clip": {"w_estimate", "grad_norm", "clip_share"},
    "wgan-gp": {"w_estimate", "grad_norm", "penalty"},
}
TINY = ("--width", "2", "--batch-size", "8")


@pytest.mark.parametrize("objective", LOGS)
def test_the_example_writes_what_it_promises(tmp_path: Path, data: Path, objective: str) -> None:
    measured = objective == "wgan-gp"
    options = ("--objective", objective, "--steps", "101", *TINY, "--seed", "3", "--data", str(data))
    code, out, err = finish(start(tmp_path, *options, *([] if measured else ["--no-metrics"])))
    assert code == 0, err
    run = tmp_path / "runs" / f"{objective}-0001"
    critic = objective.startswith("wgan")
    assert f"256 images of {data}, 28x28 pixels, grey" in out
    assert f"writing to {run.relative_to(tmp_path)}" in out
    assert re.search(rf"101 steps in \d+ s, \d+ images/s; look at runs/{objective}-0001/samples", out)
    assert ("W " if critic else "D(x) 0.") in err  # the progress bar
    assert critic == ("Wasserstein estimate, running median: " in out)
    assert measured == bool(re.search(r"FID \(own features, \d+ samples against 256 training images\): ", out))

    files = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
    samples = ["samples/step_000100.png", "samples/step_000101.png"]
    written = ["interpolation.png", "losses.png", "metrics.json", "metrics.jsonl"]
    assert [f for f in files if not f.startswith("checkpoints/")] == [
        "config.json", *written, *samples, "weights.safetensors"
    ]  # fmt: skip
    assert "checkpoints/step-00000101/state.json" in files
    assert imread(run / samples[0]).shape[:2] == (8 * 29 + 1, 8 * 29 + 1)
    assert imread(run / "interpolation.png").shape[:2] == (8 * 29 + 1, 10 * 29 + 1)
    config = json.loads((run / "config.json").read_text())
    settings = config["settings"]
    assert (config["steps"], settings["width"], settings["seed"], settings["image_size"]) == (101, 2, 3, 28)
    assert (config["recipe"], config["trained_on"]["name"]) == (objective, str(data))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 102))
    assert rows[-1]["images"] == 101 * 8 * (5 if critic else 1)
    always = {"step", "images", "seconds", "d_loss", "g_loss", "g_grad_norm", *LOGS[objective]}
    assert [set(row) - always for row in rows] == [*[set()] * 99, {"spread"}, set()]
    assert all(always <= row.keys() for row in rows)
    metrics = json.loads((run / "metrics.json").read_text())
    if measured:
        assert metrics["n"] == 64  # as many as there are test images
        assert metrics["fid"] > metrics["fid_floor"] >= 0
        assert sum(metrics["label_histogram"]) == 1000
    assert metrics["step"] == 101
    assert ("w_estimate_peak" in metrics) == critic
    weights = load_file(run / "weights.safetensors")
    G = dcgan_generator(28, 1, 2, 64)
    G.load_state_dict({name[2:]: array for name, array in weights.items() if name.startswith("G.")})
    assert {name[:2] for name in weights} == {"G.", "D."}

    code, _, err = finish(start(tmp_path, *options, "--out", str(run)))
    assert code == 1
    assert err.strip() == f"dcgan_mnist.py: {run} exists already; choose another name, or an empty folder"


@pytest.mark.parametrize("objective", ["gan", "wgan-gp"])
def test_the_example_in_colour_at_other_sizes(tmp_path: Path, objective: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 20, 20, 3)).astype(np.uint8)
    np.savez(tmp_path / "colours.npz", images=colours)
    options = ("--objective", objective, "--steps", "2", *TINY, "--image-size", "32", "--data", "colours.npz")
    code, out, err = finish(start(tmp_path, *options, "--out", "run"))
    assert code == 0, err
    assert "32 images of colours.npz, 20x20 pixels, in colour" in out
    assert "These images come without labels or without a test set, so nothing classifies them: " in out
    assert "By the features of an untrained net, 10,000 samples against 32 training images: FID " in out
    picture = imread(tmp_path / "run" / "samples" / "step_000002.png")
    assert picture.shape[:2] == (8 * 33 + 1, 8 * 33 + 1)
    assert (picture[..., 0] != picture[..., 1]).any()


def test_without_mnist_and_network_the_example_draws_digits(tmp_path: Path) -> None:
    """Name lookups fail, as without a network. Fewer digits are drawn than usual."""
    offline = (
        "import socket, minigan.data.drawn as drawn\n"
        "def fail(*_, **__): open('asked', 'w').close(); raise socket.gaierror(-3, 'Temporary failure')\n"
        "socket.getaddrinfo = fail\n"
        "drawn.COUNTS.update(train=300, test=100)"
    )
    code, out, err = finish(start(tmp_path, "--steps", "2", *TINY, before=offline))
    assert code == 0, err
    assert (tmp_path / "asked").exists()
    line, counted = out.splitlines()[:2]
    assert line == (
        "MNIST is not here and cannot be downloaded, so this trains on drawn digits (data=, or --data, names other "
        "images)."
    )
    assert counted == "300 images of drawn digits, 28x28 pixels, grey"
    config = json.loads((tmp_path / "runs" / "gan-0001" / "config.json").read_text())
    assert (config["trained_on"]["name"], config["settings"]["data"]) == ("drawn digits", "drawn")


EXAMPLE = runpy.run_path(str(ROOT / "examples" / "dcgan_mnist.py"))
WORDS = {
    "": {"steps": 3000, "epochs": None, "image_size": 28, "lr": 2e-4, "metrics": True, "preset": "quick"},
    "--epochs 2 --width 16 --no-metrics": {"steps": None, "epochs": 2, "width": 16, "metrics": False},
    "--objective wgan-gp": {"steps": 2500, "n_critic": 5, "gp_lambda": 10.0, "beta1": 0.5, "beta2": 0.9},
    "--objective wgan-clip --n-critic 3 --clip 0.02 --long-phases": {"n_critic": 3, "clip": 0.02, "long_phases": True},
    "--preset tutorial-64": {"steps": None, "epochs": 10, "image_size": 64, "width": 64, "batch_size": 32, "lr": 2e-4},
    "--preset tutorial-64 --objective wgan-clip": {"epochs": 10, "latent": 100, "lr": 5e-5, "clip": 0.01},
    "--preset tutorial-64 --steps 7": {"steps": 7, "epochs": None, "image_size": 64},
    "--preset tutorial-64 --objective wgan-gp --lr 0.1": {"lr": 0.1, "epochs": 10},
}


@pytest.mark.parametrize("words", WORDS)
def test_settings(words: str) -> None:
    objective, settings = EXAMPLE["arguments"](words.split())
    assert objective == (re.findall(r"--objective (\S+)", words) or ["gan"])[0]
    for key, value in WORDS[words].items():
        assert getattr(settings, key) == value, key


@pytest.mark.parametrize(
    ("words", "images", "plan"),
    [
        ("--steps 3", 10, [1] * 3),
        ("--epochs 2 --batch-size 4", 10, [1] * 4),
        ("--epochs 1 --batch-size 4 --objective wgan-gp", 44, [5] * 3),  # 11 batches
        ("--epochs 1 --batch-size 4 --objective wgan-gp", 4, [5]),
        ("--epochs 1 --batch-size 4 --objective wgan-clip --long-phases", 802, [100] * 2),
        ("--preset tutorial-64", 60_000, [1] * 18_750),
        ("--preset tutorial-64 --objective wgan-clip", 60_000, [5] * 3750),
    ],
)
def test_epochs_are_passes_of_d(words: str, images: int, plan: list[int]) -> None:
    objective, settings = EXAMPLE["arguments"](words.split())
    players = RECIPES[objective].build(replace(settings, width=1), 1).players
    updates = [count // settings.batch_size for count in images_of_steps(settings, players, images)]
    assert updates == plan


def test_what_cannot_be_measured_loses_nothing(tmp_path: Path, data: Path) -> None:
    """One class only: the classifier has nothing to learn. The run's own figures are there all the same."""
    pixels = np.zeros((16, 28, 28), np.uint8)
    for split in ("train", "t10k"):
        write_idx(tmp_path, split, pixels, np.zeros(16, np.uint8))
    code, out, err = finish(start(tmp_path, "--epochs", "1", *TINY, "--data", ".", "--out", "run"))
    assert code == 0, err
    assert "2 steps in" in out
    assert "No classifier: train_classifier: all labels are 0" in out
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["step"] == 2
    assert found["fid_random"] > 0
    assert "fid" not in found


def test_the_example_runs_without_numba(tmp_path: Path, data: Path) -> None:
    blocked = "import sys, warnings; sys.modules['numba'] = None; warnings.simplefilter('ignore', RuntimeWarning)"
    options = ("--steps", "2", *TINY, "--no-metrics", "--data", str(data))
    code, out, err = finish(start(tmp_path, *options, before=blocked))
    assert code == 0, err
    assert "2 steps in" in out


def test_an_interrupted_example_saves(tmp_path: Path, data: Path) -> None:
    process = start(tmp_path, "--steps", "100000", *TINY, "--data", str(data))
    metrics = tmp_path / "runs" / "gan-0001" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert re.fullmatch(
        r"dcgan_mnist\.py: SIGINT after step \d+ of 100000; go on with: minigan resume runs/gan-0001",
        err.splitlines()[-1],
    )
    assert load_file(metrics.parent / "weights.safetensors")
    assert (metrics.parent / "losses.png").exists()
    assert list((metrics.parent / "samples").iterdir())


def test_interrupted_while_it_measures_the_example_has_saved(tmp_path: Path, data: Path) -> None:
    stop = "import minigan.cli.measure as m\ndef stop(*_): raise KeyboardInterrupt\nm.train_classifier = stop"
    code, _, err = finish(start(tmp_path, "--steps", "2", *TINY, "--data", str(data), "--out", "run", before=stop))
    said = "dcgan_mnist.py: not measured, but the run is complete: minigan evaluate run"
    assert (code, err.splitlines()[-1]) == (130, said)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 2
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_the_first_run_ever_says_that_it_compiles(tmp_path: Path) -> None:
    """Before anything is compiled, so also before data are looked for."""
    empty = "import os; os.environ['XDG_CACHE_HOME'] = 'empty'"
    _, out, err = finish(start(tmp_path, "--data", "nowhere", before=empty))
    assert out.strip() == "The first step compiles the kernels, once: about half a minute."
    assert "there is no nowhere" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "error: --steps 0: '0' is not a whole number above 0"),
        (["--lr", "nan"], "error: --lr nan: 'nan' is not a number above 0"),
        (["--steps", "1", "--epochs", "1"], "error: steps and epochs both say how long to train; give one of them"),
        (["--image-size", "48"], "error: --image-size 48: '48' is not one of 28, 32, 64"),
        (["--preset", "tutorial"], "error: there is no preset 'tutorial'; choose quick or tutorial-64"),
        (["--batch-size", "257"], "dcgan_mnist.py: batches: batch size 257 must be in 1 .. 256, the number of images"),
        (["--data", "nowhere"], "dcgan_mnist.py: load: there is no nowhere; choose"),
        (["--objective", "biggan"], "argument --objective: invalid choice: 'biggan'"),
        (["--clip", "0.01"], "--clip is not an option of gan; of its own it has --beta1, --beta2"),
        (["--objective", "wgan-gp", "--gp-lambda", "0"], "error: --gp-lambda 0: '0' is not a number above 0"),
        (
            ["--lr", "1e30"],
            "train again with a lower lr=, now 1e+30, or with clip_norm=; what is in runs/gan-0001 is the state after "
            "step 0, the last good one",
        ),
    ],
)
def test_wrong_options_get_one_sentence(tmp_path: Path, data: Path, options: list[str], message: str) -> None:
    if "--data" not in options:
        options = ["--data", str(data), *options]
    if "--steps" not in options:
        options = ["--width", "2", *options]
    code, _, err = finish(start(tmp_path, *options))
    assert code != 0
    assert "Traceback" not in err
    assert message in err


if __name__ == "__main__":
    with mg.kernels.use("reference"):
        RECORDED.write_text(
            json.dumps({setting: ten_steps(setting, np.float64) for setting in SETTINGS}, indent=1) + "\n"
        )
