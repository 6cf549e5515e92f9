"""What a recipe is, and what all of them share: the settings of a run, DCGAN's nets, hooks around the updates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...kernels.conv2d.precision import PRECISIONS
from ...kernels.device import NAMES as DEVICES
from ...nn import Module, Sequential
from ...options import OptionError, option, parse
from ...random import Generator
from ..hooks import EMA, ClipGradients, GradientNorm, LinearDecay
from ..latent import Latent
from ..models import BASES, dcgan_discriminator, dcgan_generator
from ..train import Player


@dataclass(frozen=True)
class Settings:
    """One training on images. Every field is a key of `minigan train NAME key=value` and a line of config.json."""

    preset: str = option("quick", "what the other keys start from: quick, minutes on two cores, or tutorial-64, hours")
    steps: int | None = option(3000, "updates of G", above=0, below=10_000_000)
    epochs: int | None = option(None, "passes of D over the data, in place of steps", above=0, below=10_000)
    image_size: int = option(28, "pixels; the data are resized", choices=tuple(BASES))
    width: int = option(32, "channels of the layers next to the image", above=0)
    batch_size: int = option(64, "images an update", above=0)
    latent: int = option(64, "length of a latent vector", above=0)
    lr: float = option(2e-4, "step size of the optimizers", above=0)
    lr_schedule: str = option("constant", "linear: lr falls in a line, to 0 at the end", choices=("constant", "linear"))
    clip_norm: float | None = option(None, "scales gradients down to this norm, for each player", above=0)
    ema: float = option(0.0, "decay of the average of G that makes the samples; 0: G itself", at_least=0, below=1)
    seed: int = option(0, "of all random numbers")
    data: str | None = option(
        None,
        "images: a folder of IDX files or pictures, .npy, .npz, drawn, or triangles (none: $MINIGAN_DATA, or MNIST)",
    )
    device: str = option("cpu", "cuda: a GPU; emulator: its kernels on the CPU, slowly", choices=DEVICES)
    precision: str = option("tf32", "of a GPU's convolutions: tf32, bf16, or fp32 in full", choices=PRECISIONS)
    sample_every: int = option(100, "steps from sample picture to sample picture", above=0)
    checkpoint_seconds: float = option(30.0, "time between checkpoints; 0: after every step", at_least=0)
    keep: int = option(3, "checkpoints that are kept, beside the one of the lowest FID", above=0)
    evaluate_every: int | None = option(None, "steps from FID to FID; each is a checkpoint", above=0)
    metrics: bool = option(True, "measure the result at the end")
    capture: bool = option(True, "replay recorded updates, to the same bits; false runs each in Python, to debug it")
    out: str | None = option(None, "a new folder (none: the next runs/NAME-0001)")

    def check_length(self, where: str) -> None:
        """OptionError unless either steps or epochs say how long to train."""
        if (self.steps is None) == (self.epochs is None):
            both = "are both none" if self.steps is None else "both say how long to train"
            raise OptionError(f"{where}: steps and epochs {both}; give one of them")


FREE = frozenset(
    {"preset", "steps", "epochs", "data", "device", "out"}
    | {"sample_every", "checkpoint_seconds", "keep", "evaluate_every", "metrics", "capture"}
)
"""Settings that may change when a run goes on: what a step computes does not depend on them, but for the last bits on
another device (and what `precision` rounds off there)."""


class Parts(NamedTuple):
    """What a recipe makes of its settings."""

    nets: dict[str, Module]  # "G" makes the samples
    players: list[Player]  # the first is who looks at the data
    generators: dict[str, Generator]  # that steps draw from, beside those for data and codes
    state: dict[str, Module] = {}  # noqa: RUF012 - nobody writes to it; what else must be there to go on exactly


@dataclass(frozen=True)
class Recipe:
    """build(settings, channels of the images) returns nets and players, equal on every device."""

    name: str
    summary: str  # half a line
    paper: str
    settings: type[Settings]
    build: Callable[[Any, int], Parts]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # beside "quick", which are the defaults
    family: str = "objectives"  # the heading that it stands under
    formula: str = ""  # what is minimised, in one line
    expected: str = ""  # what was measured of it, by benchmarks/zoo.py, which docs/zoo.md has with all else
    latent: Callable[[Any], Latent] = lambda s: Latent(s.latent)
    conditional: bool = False  # needs labels; the first category of a code is one, of settings.classes

    def parse(self, words: Sequence[str], where: str) -> Settings:
        """The settings that `key=value` words make of a preset. OptionError, which begins with `where`."""
        given = {word.partition("=")[0] for word in words}
        presets = {"quick": {}, **self.presets}
        name = parse(self.settings, [word for word in words if word.startswith("preset=")], where).preset
        if name not in presets:
            raise OptionError(f"{where}: there is no preset {name!r}; choose {' or '.join(presets)}")
        length = dict.fromkeys(("steps", "epochs")) if given & {"steps", "epochs"} else {}
        settings = parse(self.settings(**{"preset": name, **presets[name], **length}), words, where)
        settings.check_length(where)
        return settings


TUTORIAL_64: dict[str, Any] = {
    "steps": None, "epochs": 10, "image_size": 64, "width": 64, "batch_size": 32, "latent": 100,
}  # fmt: skip
"""What tutorials on DCGANs train, whatever the objective."""


def dcgan(s: Settings, channels: int, batch_norm: bool = True) -> tuple[Sequential, Sequential]:
    """G and D on the device; batch_norm is D's."""
    init = Generator(s.seed, "init")
    G = dcgan_generator(s.image_size, channels, s.width, s.latent, init)
    D = dcgan_discriminator(s.image_size, channels, s.width, init, batch_norm)
    return G.to(s.device), D.to(s.device)


class Hooks(NamedTuple):
    """Of those that any recipe has, the ones that a run looks at: the average of G, if there is one; G's gradient."""

    average: EMA | None
    gradient: GradientNorm


def add_hooks(s: Settings, parts: Parts, steps: int) -> Hooks:
    """What the settings say of any recipe."""
    G = parts.nets["G"]
    average, gradient = EMA(G, s.ema) if s.ema else None, GradientNorm(G.parameters())
    for player in parts.players:
        if G in player.nets:
            player.before = [*player.before, gradient]  # before it is clipped
        if s.clip_norm is not None:
            player.before = [*player.before, ClipGradients(player.optimizer.params, s.clip_norm)]
        if s.lr_schedule == "linear":
            updates = sum(player.updates(step) for step in range(1, steps + 1))
            player.after = [*player.after, LinearDecay(player.optimizer, updates)]
        if average is not None and G in player.nets:
            player.after = [*player.after, average]
    return Hooks(average, gradient)


def images_of_steps(s: Settings, players: Sequence[Player], images: int) -> list[int]:
    """For each step of the run how many images D sees: of whole epochs, as many steps as it takes D to see them."""
    d = players[0]
    s.check_length("settings")
    if s.epochs is None:
        assert s.steps is not None
        return [s.batch_size * d.updates(step) for step in range(1, s.steps + 1)]
    due, plan = s.epochs * (images // s.batch_size) * s.batch_size, list[int]()
    while due > 0:
        plan.append(s.batch_size * d.updates(len(plan) + 1))
        due -= plan[-1]
    return plan
