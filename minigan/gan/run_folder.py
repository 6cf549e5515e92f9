"""The folder of one training run. Its files are written whole or not at all; metrics.jsonl grows by whole lines.

config.json           what the run was started with, and what it was trained on
metrics.jsonl         one line a step
samples/step_*.png    8x8 images of the same 64 latent vectors
interpolation.png     walks from one latent vector to another, 10 images a row
losses.png            what metrics.jsonl says, as curves
metrics.json          what the result was measured to be
weights.safetensors   keys G.* and D.*
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import ArrayLike

from ..files import replace
from ..nn import Module
from ..tensor import Array


class RunFolder:
    """Creates `path`; without one the next free `runs/<name>-0001`. FileExistsError if `path` exists."""

    def __init__(self, path: str | Path | None, name: str) -> None:
        if path is None:
            self.path = _next_free(Path("runs"), name)
        else:
            self.path = Path(path)
            check_new(self.path)
            with _named(self.path):
                self.path.mkdir(parents=True)
        with _named(self.path):
            (self.path / "samples").mkdir()
        self._metrics: TextIO | None = None

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """config.json or metrics.json."""
        text = json.dumps(values, indent=2) + "\n"
        self.write(name, lambda file: Path(file).write_text(text))

    def write(self, name: str, write: Callable[[str], object]) -> Path:
        """The file `name`, by write(temporary name): whole or not at all. An OSError says which file it was."""
        path = self.path / name
        with _named(path):
            replace(path, write)
        return path

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl, complete on disk before the next step."""
        path = self.path / "metrics.jsonl"
        with _named(path):
            if self._metrics is None:
                self._metrics = open(path, "a")  # noqa: SIM115 - closed by close()
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()

    def close(self) -> None:
        """Closes metrics.jsonl."""
        file, self._metrics = self._metrics, None
        if file is not None:
            with _named(self.path / "metrics.jsonl"):
                file.close()

    def rows(self) -> list[dict[str, Any]]:
        """metrics.jsonl, read back."""
        file = self.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def save_samples(self, step: int, images: Array) -> Path:
        """samples/step_000100.png from images (N, H, W, C) in [-1, 1]."""
        return self.write(f"samples/step_{step:06d}.png", lambda file: save_grid(file, images))

    def save_interpolation(self, images: Array) -> Path:
        """interpolation.png from images (10 rows, H, W, C) in [-1, 1]."""
        return self.write("interpolation.png", lambda file: save_grid(file, images, columns=10))

    def save_weights(self, **nets: Module) -> Path:
        """weights.safetensors: the state of each net under its name and a dot."""
        from safetensors.numpy import save

        arrays = {
            f"{name}.{key}": np.ascontiguousarray(array)  # safetensors writes the wrong bytes of any other layout
            for name, net in nets.items()
            for key, array in net.state_dict().items()
        }
        # save_file has errors of its own
        return self.write("weights.safetensors", lambda file: Path(file).write_bytes(save(arrays)))

    def plot_losses(self) -> Path:
        """losses.png from metrics.jsonl: a panel for each of PANELS of which it has a column."""
        from matplotlib.figure import Figure

        rows = self.rows()
        steps = [row["step"] for row in rows]
        panels = [(label, smooth, keys) for label, smooth, *keys in PANELS if keys[0] in rows[0]]
        figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
        for axes, (label, smooth, keys) in zip(
            np.ravel(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True
        ):
            for i, key in enumerate(keys):
                values = np.array([row[key] for row in rows])
                axes.plot(steps, values, color=f"C{i}", alpha=0.2, linewidth=0.8)
                axes.plot(steps, smooth(values), color=f"C{i}", label=key, linewidth=1.5)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
            axes.grid(alpha=0.3)
            axes.set_ylabel(label)
            if label in SHARES:
                axes.set_ylim(0, 1)
        axes.set_xlabel("step")
        return self.write("losses.png", lambda file: figure.savefig(file, dpi=110, format="png"))


def save_grid(path: str | Path, images: Array, columns: int = 8) -> None:
    """A PNG of images (N, H, W, C) in [-1, 1], one pixel apart, row by row."""
    from matplotlib.image import imsave

    N, H, W, C = images.shape
    rows = -(-N // columns)
    sheet = np.full((rows * (H + 1) + 1, columns * (W + 1) + 1, C), 0.5)
    for i, image in enumerate(images):
        top, left = i // columns * (H + 1) + 1, i % columns * (W + 1) + 1
        sheet[top : top + H, left : left + W] = (image + 1) / 2
    pixels = np.repeat(np.rint(255 * np.clip(sheet, 0, 1)).astype(np.uint8), 3 // C, axis=2)  # grey as RGB
    imsave(path, pixels, format="png")


def running_mean(values: ArrayLike) -> Array:
    """Over about a fiftieth of the curve, fewer steps at both ends."""
    values = np.asarray(values)
    window = np.ones(max(1, len(values) // 50))
    return np.convolve(values, window, mode="same") / np.convolve(np.ones(len(values)), window, mode="same")


def running_median(values: ArrayLike) -> Array:
    """Over 101 steps, fewer at both ends and in runs under 1,010: as the authors of WGAN smooth their estimate."""
    values = np.asarray(values)
    half = min(101, len(values) // 10) // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


PANELS: tuple[Any, ...] = (
    ("loss", running_mean, "d_loss", "g_loss"),
    ("mean sigmoid(D)", running_mean, "d_real", "d_fake_before", "d_fake_after"),
    ("E D(x) - E D(G(z))", running_median, "w_estimate"),
    ("|dD / dx|", running_median, "grad_norm"),
    ("weights at the clip", running_mean, "clip_share"),
)
"""Of losses.png: what is plotted, how it is smoothed, the columns of metrics.jsonl."""

SHARES = ("mean sigmoid(D)", "weights at the clip")


def check_new(path: Path) -> None:
    """FileExistsError if a run is there, or anything else."""
    if path.exists():
        raise FileExistsError(f"{path} exists already; a run needs a new folder: choose another --out")


def _next_free(parent: Path, name: str) -> Path:
    """Makes parent/name-0001, or the next number; two runs that start at once get two folders."""
    with _named(parent):
        parent.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for p in parent.iterdir() if (m := re.fullmatch(rf"{re.escape(name)}-(\d+)", p.name))]
    number = max(taken, default=0) + 1
    while True:
        path = parent / f"{name}-{number:04d}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}; choose another --out") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An OSError inside names the file and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = (
            f"cannot write {path}: {reason}; what was written before is intact: make room, or choose another --out"
        )
        raise OSError(message) from error
