"""Whole trainings: recorded losses, and the example as a user runs it."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from safetensors.numpy import load_file

import minigan as mg
from minigan.data import batches
from minigan.gan import NON_SATURATING, Game, Objective, dcgan_discriminator, dcgan_generator, train, two_player
from minigan.optim import Adam
from minigan.random import Generator

ROOT = Path(__file__).parent.parent
RECORDED = Path(__file__).parent / "recorded_losses.json"


class GameOf(Game):
    """A game whose latent vectors have the dtype of the nets."""

    dtype = np.float32

    def z(self) -> mg.Tensor:
        return super().z().astype(self.dtype)


def ten_steps(objective: Objective, dtype: Any) -> list[list[float]]:
    """(d_loss, g_loss) of ten steps of a narrow DCGAN on blurred noise."""
    noise = Generator(0, "images").integers(256, (64, 7, 7)).astype(np.uint8)
    images = noise.repeat(4, 1).repeat(4, 2)
    init = Generator(0, "init")
    G = dcgan_generator(28, 1, 4, 16, init).astype(dtype)
    D = dcgan_discriminator(28, 1, 4, init).astype(dtype)
    real = (x.astype(dtype) for x in batches(images, 16, Generator(0, "data")))
    game = GameOf(real, Generator(0, "latent"), 16, 16)
    game.dtype = dtype
    players = two_player(
        G, D, objective, Adam(G.parameters(), 2e-3, (0.5, 0.999)), Adam(D.parameters(), 2e-3, (0.5, 0.999))
    )
    losses: list[list[float]] = []
    train(game, players, 10, [lambda step, logs: losses.append([logs["d_loss"], logs["g_loss"]])])
    return losses


OBJECTIVES = [NON_SATURATING]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("reference", np.float64, 1e-9), ("reference", np.float32, 1e-2), ("auto", np.float32, 1e-2)],
    ids=["reference-float64", "reference-float32", "auto-float32"],
)
def test_recorded_losses(objective: Objective, backend: str, dtype: Any, tolerance: float) -> None:
    """To record anew after a deliberate change: python tests/test_training.py"""
    recorded = json.loads(RECORDED.read_text())[objective.name]
    with mg.kernels.use(backend):
        np.testing.assert_allclose(ten_steps(objective, dtype), recorded, rtol=tolerance)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert ten_steps(NON_SATURATING, np.float32) == ten_steps(NON_SATURATING, np.float32)


# ---- the example ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 pictures in MNIST's format."""
    folder = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 28, 28)).astype(np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, 256, 28, 28) + pixels.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 256) + bytes(256))
    return folder


def start(tmp_path: Path, *options: str, before: str = "") -> subprocess.Popen[str]:
    """examples/dcgan_mnist.py on data that are not MNIST, in an empty folder."""
    program = (
        f"{before}\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "import functools, runpy, minigan.data as data\n"
        "data.load_mnist = functools.partial(data.load_mnist, verify=False)\n"  # other data, other checksums
        f"runpy.run_path({str(ROOT / 'examples' / 'dcgan_mnist.py')!r}, run_name='__main__')"
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


def test_the_example_writes_what_it_promises(tmp_path: Path, data: Path) -> None:
    options = ("--steps", "101", "--width", "2", "--batch-size", "8", "--seed", "3", "--data", str(data))
    code, out, err = finish(start(tmp_path, *options))
    assert code == 0, err
    run = tmp_path / "runs" / "dcgan-0001"
    assert f"writing to {run.relative_to(tmp_path)}" in out
    assert re.search(r"101 steps in \d+ s, \d+ images/s; look at runs/dcgan-0001/samples", out)
    assert "D(x) 0." in err  # the progress bar

    files = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
    samples = ["samples/step_000100.png", "samples/step_000101.png"]
    assert files == ["config.json", "losses.png", "metrics.jsonl", *samples, "weights.safetensors"]
    assert imread(run / samples[0]).shape[:2] == (8 * 29 + 1, 8 * 29 + 1)
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["width"], config["seed"], config["image_size"]) == (101, 2, 3, 28)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 102))
    assert rows[-1]["images"] == 101 * 8
    fields = {"step", "images", "seconds", "d_loss", "g_loss", "d_real", "d_fake_before", "d_fake_after"}
    assert all(set(row) == fields for row in rows)
    weights = load_file(run / "weights.safetensors")
    G = dcgan_generator(28, 1, 2, 64)
    G.load_state_dict({name[2:]: array for name, array in weights.items() if name.startswith("G.")})
    assert {name[:2] for name in weights} == {"G.", "D."}

    code, _, err = finish(start(tmp_path, *options, "--out", str(run)))
    assert code == 1
    assert err.strip() == f"dcgan_mnist.py: {run} exists already; a run needs a new folder: choose another --out"


def test_the_example_runs_without_numba(tmp_path: Path, data: Path) -> None:
    blocked = "import sys, warnings; sys.modules['numba'] = None; warnings.simplefilter('ignore', RuntimeWarning)"
    options = ("--steps", "2", "--width", "2", "--batch-size", "8", "--data", str(data))
    code, out, err = finish(start(tmp_path, *options, before=blocked))
    assert code == 0, err
    assert "2 steps in" in out


def test_an_interrupted_example_saves(tmp_path: Path, data: Path) -> None:
    process = start(tmp_path, "--steps", "100000", "--width", "2", "--batch-size", "8", "--data", str(data))
    metrics = tmp_path / "runs" / "dcgan-0001" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, _ = finish(process)
    assert code == 130
    weights = "runs/dcgan-0001/weights.safetensors"
    assert re.search(rf"Interrupted after step \d+ of 100000\. The weights as they are now are in {weights}\.", out)
    assert load_file(metrics.parent / "weights.safetensors")
    assert (metrics.parent / "losses.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "argument --steps: '0' is not a whole number above 0"),
        (["--lr", "nan"], "argument --lr: 'nan' is not a number above 0"),
        (["--steps", "1", "--epochs", "1"], "argument --epochs: not allowed with argument --steps"),
        (["--image-size", "48"], "argument --image-size: invalid choice: 48 (choose from 28, 32, 64)"),
        (["--batch-size", "257"], "dcgan_mnist.py: batches: batch size 257 must be in 1 .. 256, the number of images"),
        (["--data", "nowhere"], "nowhere"),
        (
            ["--lr", "1e30"],
            "lower the learning rate, or run inside minigan.detect_anomaly() to see which op is to blame",
        ),
    ],
)
def test_wrong_options_get_one_sentence(tmp_path: Path, data: Path, options: list[str], message: str) -> None:
    if "--data" not in options:
        options = ["--data", str(data), *options]
    if "--steps" not in options:
        options = ["--width", "2", *options]
    code, out, err = finish(start(tmp_path, *options))
    assert code != 0
    assert "Traceback" not in err
    assert message in re.sub(r"'(\d+)'", r"\1", err) + err + out


if __name__ == "__main__":
    with mg.kernels.use("reference"):
        RECORDED.write_text(json.dumps({o.name: ten_steps(o, np.float64) for o in OBJECTIVES}, indent=1) + "\n")
