"""The folder of one training run. Its files are written whole or not at all; metrics.jsonl grows by whole lines.

config.json           what the run was started with, and what it was trained on
metrics.jsonl         one line a step
samples/step_*.png    8x8 images of the same codes; of codes with a category, 8 rows and a column for each of its values
interpolation.png     walks from one latent vector to another, 10 images a row
losses.png            what metrics.jsonl says, as curves
metrics.json          what the result was measured to be; there when the run is complete
weights.safetensors   each net under its name: keys G.*, and D.*, E.* or others as the recipe has them
checkpoints/          what the run goes on from (checkpoint.py)
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

from ..files import flush, named, replace
from ..nn import Module
from ..tensor import Array
from .pictures import save_grid
from .records import read_rows

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """Creates `path`; without one the next free `runs/<name>-0001`. FileExistsError if there is something in `path`.

    One process at a time: BlockingIOError if another one has the folder. Close it, or use it as a context manager.
    """

    def __init__(self, path: str | Path | None, name: str) -> None:
        if path is None:
            self.path = next_free(Path("runs"), name)
        else:
            self.path = Path(path)
            check_new(self.path)
            with named(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                flush(self.path.parent)
        self._metrics: TextIO | None = None
        self._lock = _locked(self.path)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """One that is there."""
        folder = cls.__new__(cls)
        folder.path, folder._metrics = Path(path), None
        folder._lock = _locked(folder.path)
        return folder

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """config.json or metrics.json."""
        text = json.dumps(values, indent=2) + "\n"
        self.write(name, lambda file: Path(file).write_text(text))

    def write(self, name: str, write: Callable[[str], object]) -> Path:
        """The file `name`, by write(temporary name): whole or not at all. An OSError says which file it was."""
        path = self.path / name
        with named(path):
            path.parent.mkdir(exist_ok=True)
            replace(path, write)
        return path

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl, which the system has before the next step: kill -9 does not take it."""
        path = self.path / "metrics.jsonl"
        with named(path):
            if self._metrics is None:
                self._metrics = open(path, "a")  # noqa: SIM115 - closed by close()
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()

    def close(self) -> None:
        """Lets other processes have the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        self.close_log()

    def close_log(self) -> None:
        """Closes metrics.jsonl; `log` opens it again."""
        file, self._metrics = self._metrics, None
        if file is not None:
            with named(self.path / "metrics.jsonl"):
                file.close()

    def flush(self) -> None:
        """Puts metrics.jsonl on the disk, where a checkpoint of its last step is about to be."""
        if self._metrics is not None:
            with named(self.path / "metrics.jsonl"):
                os.fsync(self._metrics.fileno())

    def rewind(self, step: int) -> int:
        """Takes back what was logged after `step`, and what a kill has torn; metrics.json with it.

        Returns how many of the steps up to then have no line, which somebody must have damaged or removed.
        """
        self.close_log()
        path = self.path / "metrics.jsonl"
        rows, kept = self.rows(), b""
        if path.exists():
            kept = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step).encode()
            if kept != path.read_bytes():
                self.write("metrics.jsonl", lambda file: Path(file).write_bytes(kept))
        with named(self.path / "metrics.json"):
            (self.path / "metrics.json").unlink(missing_ok=True)
        return step - len({row["step"] for row in rows if row["step"] <= step})

    def sweep(self) -> None:
        """Removes what killed processes have left half-written."""
        for name in ("", "samples"):
            for path in (self.path / name).glob("*"):
                if re.search(r"\.\d+\.part$", path.name) and not path.name.startswith("report") and path.is_file():
                    with named(path):
                        path.unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The good rows of metrics.jsonl."""
        return read_rows(self.path / "metrics.jsonl")[0]

    def save_samples(self, step: int, images: Array, columns: int = 8) -> Path:
        """samples/step_000100.png from images (N, H, W, C) in [-1, 1]."""
        path = self.path / f"samples/step_{step:06d}.png"
        with named(path):
            path.parent.mkdir(exist_ok=True)
        save_grid(path, images, columns)
        return path

    def save_interpolation(self, images: Array) -> Path:
        """interpolation.png from images (10 rows, H, W, C) in [-1, 1]."""
        path = self.path / "interpolation.png"
        save_grid(path, images, columns=10)
        return path

    def save_weights(self, **nets: Module) -> Path:
        """weights.safetensors: the state of each net under its name and a dot."""
        return self.write("weights.safetensors", lambda file: Path(file).write_bytes(to_safetensors(nets)))

    def plot_losses(self) -> Path | None:
        """losses.png from metrics.jsonl, if that has any: a panel for each of PANELS of which it has a column."""
        from matplotlib.figure import Figure

        rows = self.rows()
        steps = [row["step"] for row in rows]
        first = rows[0] if rows else {}
        every = [(label, smooth, [key for key in keys if key in first]) for label, smooth, *keys in PANELS]
        panels = [panel for panel in every if panel[2]]
        if not panels:
            return None
        figure = Figure(figsize=(8, 3 * len(panels)), layout="constrained")
        for axes, (label, smooth, keys) in zip(
            np.ravel(figure.subplots(len(panels), 1, sharex=True)), panels, strict=True
        ):
            for i, key in enumerate(keys):
                values = np.array([row.get(key, np.nan) for row in rows])
                axes.plot(steps, values, color=f"C{i}", alpha=0.2, linewidth=0.8)
                axes.plot(steps, smooth(values), color=f"C{i}", label=key, linewidth=1.5)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
            axes.grid(alpha=0.3)
            axes.set_ylabel(label)
            if label in SHARES:
                axes.set_ylim(0, 1)
        axes.set_xlabel("step")
        return self.write("losses.png", lambda file: figure.savefig(file, dpi=110, format="png"))


def to_safetensors(nets: Mapping[str, Module]) -> bytes:
    """The state of each net under its name and a dot, as a file of safetensors holds it."""
    from safetensors.numpy import save  # save_file has errors of its own

    return save(
        {
            f"{name}.{key}": np.asarray(array, order="C")  # safetensors writes the wrong bytes of any other layout
            for name, net in nets.items()
            for key, array in net.state_dict().items()
        }
    )


AT_ONCE = 10_000
"""Windows whose medians are computed together: each is copied, which for all of a long run takes a gigabyte."""


def running_mean(values: ArrayLike) -> Array:
    """Over about a fiftieth of the curve, fewer steps at both ends."""
    values = np.asarray(values)
    window = np.ones(max(1, len(values) // 50))
    return np.convolve(values, window, mode="same") / np.convolve(np.ones(len(values)), window, mode="same")


def running_median(values: ArrayLike) -> Array:
    """Over 101 steps, fewer at both ends and in runs under 1,010: as the authors of WGAN smooth their estimate."""
    values = np.asarray(values)
    half = min(101, len(values) // 10) // 2
    edges = [*range(half), *range(max(half, len(values) - half), len(values))]
    median = np.empty(len(values))
    median[edges] = [np.median(values[max(0, i - half) : i + half + 1]) for i in edges]
    if len(values) > 2 * half:
        windows = sliding_window_view(values, 2 * half + 1)
        for start in range(0, len(windows), AT_ONCE):
            part = np.median(windows[start : start + AT_ONCE], axis=1)
            median[half + start : half + start + len(part)] = part
    return median


PANELS: tuple[Any, ...] = (
    ("loss", running_mean, "d_loss", "g_loss"),
    ("mean sigmoid(D)", running_mean, "d_real", "d_fake_before", "d_fake_after"),
    ("mean D", running_mean, "score_real", "score_fake"),
    ("E D(x) - E D(G(z))", running_median, "w_estimate"),
    ("BEGAN's balance", running_mean, "measure", "k"),
    ("reconstruction and code", running_mean, "reconstruction", "kl"),
    ("labels read right", running_mean, "class_real", "class_fake"),
    ("information, nats", running_mean, "information"),
    ("|dD / dx|", running_median, "grad_norm"),
    ("weights at the clip", running_mean, "clip_share"),
)
"""Of losses.png: what is plotted, how it is smoothed, the columns of metrics.jsonl."""

SHARES = ("mean sigmoid(D)", "weights at the clip", "labels read right")


def check_new(path: Path) -> None:
    """FileExistsError if a run is there, or anything but the first file of one whose start was killed."""
    if path.is_dir() and all(re.fullmatch(r"config\.json\.\d+\.part", file.name) for file in path.iterdir()):
        return
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another name, or an empty folder")


def _locked(path: Path) -> int | None:
    """A descriptor of the folder that keeps other processes out until it is closed, kill -9 included.

    None where the system or its network disk has no such locks.
    """
    if fcntl is None:
        return None
    with named(path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BlockingIOError(
            f"{path} is in use, by another process or by this one; wait for its end, or stop it"
        ) from error
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def next_free(parent: Path, name: str) -> Path:
    """Makes parent/name-0001, or the next number; two runs that start at once get two folders."""
    with named(parent):
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
            raise OSError(f"cannot write {path}: {error.strerror}; choose another name") from error
