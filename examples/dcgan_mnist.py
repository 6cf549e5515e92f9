"""Trains a GAN, a WGAN or a WGAN-GP on images: python examples/dcgan_mnist.py

Writes a folder with sample pictures, loss curves, metrics and weights; see --help for the options.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import minigan
from minigan.data import DataSet, batches, load
from minigan.gan import (
    MINIMAX,
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    NotFiniteError,
    Player,
    critic_updates,
    dcgan_discriminator,
    dcgan_generator,
    gradient_penalty,
    slerp,
    train,
    two_player,
)
from minigan.gan.run_folder import RunFolder, check_new, running_median
from minigan.metrics import describe, evaluate, train_classifier
from minigan.nn import Module
from minigan.optim import Adam, Optimizer, RMSprop
from minigan.random import Generator
from minigan.tensor import Array


@dataclass(frozen=True)
class Settings:
    """One training. `steps`, updates of G, or `epochs` of D is None."""

    objective: str
    steps: int | None = 3000
    epochs: int | None = None
    image_size: int = 28
    width: int = 32
    batch_size: int = 64
    latent: int = 64
    rmsprop: bool = False  # in place of Adam
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    n_critic: int = 1
    long_phases: bool = False
    clip: float | None = None
    gp_lambda: float | None = None


OBJECTIVES = {"gan": NON_SATURATING, "minimax": MINIMAX, "wgan-clip": WASSERSTEIN, "wgan-gp": WASSERSTEIN}
QUICK = {
    "gan": Settings("gan"),
    "minimax": Settings("minimax"),
    "wgan-clip": Settings("wgan-clip", steps=2500, rmsprop=True, n_critic=5, clip=0.01),
    "wgan-gp": Settings("wgan-gp", steps=2500, betas=(0.5, 0.9), n_critic=5, gp_lambda=10.0),
}
PAPER_LR = {"wgan-clip": 5e-5, "wgan-gp": 1e-4}  # for long trainings
PRESETS = {
    "quick": QUICK,
    "tutorial-64": {
        name: replace(
            s, steps=None, epochs=10, image_size=64, width=64, batch_size=32, latent=100, lr=PAPER_LR.get(name, s.lr)
        )
        for name, s in QUICK.items()
    },
}
ONLY_FOR = {
    "n_critic": ("wgan-clip", "wgan-gp"),
    "long_phases": ("wgan-clip", "wgan-gp"),
    "clip": ("wgan-clip",),
    "gp_lambda": ("wgan-gp",),
}

SAMPLE_EVERY = 100  # steps
FAKES = 10_000  # images that are evaluated at the end


def positive(kind: type) -> Any:
    """An argparse type: a number above 0."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {what} above 0")
        return value

    return parse


def arguments(words: Sequence[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """The preset with what the command line changes, and the rest of the command line."""
    parser = argparse.ArgumentParser(
        description="Train a GAN on MNIST or other images.",
        epilog="example: python examples/dcgan_mnist.py --objective wgan-gp --steps 500 --out runs/first",
    )
    parser.add_argument(
        "--objective", choices=list(OBJECTIVES), default="gan", help="what the players minimise (%(default)s)"
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="quick",
        help="quick: 28 pixels, minutes; tutorial-64: 64 pixels, width 64, batch 32, 10 epochs, hours (%(default)s)",
    )  # fmt: skip
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive(int), help="updates of the generator")
    length.add_argument("--epochs", type=positive(int), help="passes of D over the data, in place of --steps")
    parser.add_argument("--image-size", type=int, choices=(28, 32, 64), help="pixels; the data are resized")
    parser.add_argument("--width", type=positive(int), help="channels of the layers next to the image")
    parser.add_argument("--batch-size", type=positive(int), help="images an update")
    parser.add_argument("--lr", type=positive(float), help="the optimizers' step size")
    parser.add_argument("--n-critic", type=positive(int), help="updates of the critic for each of the generator")
    parser.add_argument(
        "--long-phases", action="store_true", default=None, help="100 critic updates in the first 25 steps, each 500th"
    )
    parser.add_argument("--clip", type=positive(float), help="bound of the critic's weights (wgan-clip)")
    parser.add_argument("--gp-lambda", type=positive(float), help="weight of the gradient penalty (wgan-gp)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    parser.add_argument(
        "--data", metavar="SOURCE",
        help='a folder of IDX files (MNIST, Fashion-MNIST), a .npy or .npz file, a folder of PNG or JPEG pictures, or '
        '"drawn" (MINIGAN_DATA, or MNIST, which is downloaded once)',
    )  # fmt: skip
    parser.add_argument("--out", metavar="FOLDER", help="a new folder (next runs/OBJECTIVE-0001)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "emulator"), default="cpu",
        help="cuda: a GPU, through CuPy; emulator: the CUDA kernels on the CPU, slowly (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-metrics", action="store_true", help="do not measure the result at the end")
    args = parser.parse_args(words)
    given = {f.name: value for f in fields(Settings) if (value := getattr(args, f.name, None)) is not None}
    for option, objectives in ONLY_FOR.items():
        if option in given and args.objective not in objectives:
            name = option.replace("_", "-")
            parser.error(f"--{name} is an option of {' and '.join(objectives)}, not of {args.objective}")
    if args.steps or args.epochs:
        given |= {"steps": args.steps, "epochs": args.epochs}
    return replace(PRESETS[args.preset][args.objective], **given), args


def get_data(source: str | None, image_size: int) -> DataSet:
    """What --data names; drawn digits where nothing is named and MNIST cannot be downloaded."""
    try:
        data = load(source, image_size)
    except ConnectionError:
        print("MNIST is not here and cannot be downloaded, so this trains on drawn digits (--data names other images).")
        data = load("drawn")
    N, H, W, C = data.images.shape
    print(f"{N:,} images of {data.name}, {H}x{W} pixels, {'grey' if C == 1 else 'in colour'}")
    return data


def get_players(s: Settings, channels: int, seed: int, device: str) -> tuple[Module, Module, list[Player]]:
    """G, D and how they are trained. They start equal on every device."""
    init = Generator(seed, "init")
    G = dcgan_generator(s.image_size, channels, s.width, s.latent, init).to(device)
    D = dcgan_discriminator(s.image_size, channels, s.width, init, batch_norm=s.gp_lambda is None).to(device)
    penalty = None
    if s.gp_lambda is not None:
        penalty = partial(gradient_penalty, generator=Generator(seed, "penalty"), weight=s.gp_lambda)

    def optimizer(net: Module) -> Optimizer:
        return RMSprop(net.parameters(), s.lr) if s.rmsprop else Adam(net.parameters(), s.lr, s.betas)

    players = two_player(
        G, D, OBJECTIVES[s.objective], optimizer(G), optimizer(D), penalty=penalty, clip=s.clip,
        d_updates=critic_updates(s.n_critic, s.long_phases),
    )  # fmt: skip
    return G, D, players


def updates_of_d(s: Settings, images: int) -> list[int]:
    """For each step of the run; of whole epochs, as many steps as it takes D to see them."""
    updates = critic_updates(s.n_critic, s.long_phases)
    plan: list[int] = []
    if s.steps is not None:
        return [updates(step) for step in range(1, s.steps + 1)]
    while sum(plan) < (s.epochs or 1) * (images // s.batch_size):
        plan.append(updates(len(plan) + 1))
    return plan


def connect(device: str) -> None:
    """Ends the program with one sentence if the device cannot be used here."""
    try:
        minigan.kernels.connect(device)
    except (ImportError, RuntimeError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


def main() -> int:
    s, args = arguments()
    if args.device != "cpu":
        connect(args.device)
    elif minigan.kernels.first_run():
        print("The first step compiles the kernels, once: about half a minute.")
    if args.out:
        check_new(Path(args.out))
    data = get_data(args.data, s.image_size)
    G, D, players = get_players(s, data.images.shape[3], args.seed, args.device)
    real = batches(data.images, s.batch_size, Generator(args.seed, "data"), s.image_size)
    game = Game(real, Generator(args.seed, "latent"), s.latent, s.batch_size, args.device)
    fixed_z = Generator(args.seed, "samples").normal((64, s.latent))
    images = [s.batch_size * updates for updates in updates_of_d(s, len(data.images))]  # that D sees in each step
    steps = len(images)

    def generate(z: Array) -> Array:
        with minigan.no_grad():
            zs = [minigan.Tensor(z[i : i + 250]).to(args.device) for i in range(0, len(z), 250)]
            parts = [G.eval()(z).to("cpu").array for z in zs]
        G.train()
        return np.concatenate(parts)

    run = RunFolder(args.out, s.objective)
    run.write_json(
        "config.json",
        {
            **asdict(s),
            "steps": steps,
            "seed": args.seed,
            "device": args.device,
            "data": args.data or os.environ.get("MINIGAN_DATA"),
            "trained_on": data.name,
            "out": str(run.path),
            "minigan": minigan.__version__,
        },
    )
    print(f"{s.objective}: G has {count(G):,} parameters, D {count(D):,}; writing to {run.path}")
    started = time.perf_counter()
    done = seen = 0

    def log(step: int, logs: dict[str, float]) -> None:
        nonlocal done, seen
        seen += images[step - 1]
        run.log({"step": step, "images": seen, "seconds": time.perf_counter() - started, **logs})
        done = step
        bar.update(images[step - 1])
        bar.set_postfix_str(in_short(logs), refresh=False)
        if step % SAMPLE_EVERY == 0 or step == steps:
            run.save_samples(step, generate(fixed_z))

    trouble = ""
    with tqdm(total=sum(images), unit="image", dynamic_ncols=True) as bar:
        try:
            train(game, players, steps, [log])
        except KeyboardInterrupt:
            trouble = f"Interrupted after step {done} of {steps}."
        except (NotFiniteError, OSError) as error:
            trouble = f"Stopped: {error}."
    weights = run.save_weights(G=G, D=D)
    if trouble:  # said first: on a full disk what follows fails, too
        print(f"{trouble} The weights as they are now are in {weights}.")
    run.close()
    if done:
        run.plot_losses()
    seconds = time.perf_counter() - started
    if trouble:
        if done:
            run.save_samples(done, generate(fixed_z))
        return 130 if trouble.startswith("Interrupted") else 1
    t = np.linspace(0, 1, 10, dtype=np.float32)
    walks = [slerp(a, b, t) for a, b in zip(fixed_z[:8], fixed_z[8:16], strict=True)]
    run.save_interpolation(generate(np.concatenate(walks)))
    print(f"{steps} steps in {seconds:.0f} s, {seen / seconds:.0f} images/s; look at {run.path}/samples")

    metrics: dict[str, Any] = {"steps": steps, "images": seen, "seconds": seconds}
    if OBJECTIVES[s.objective].critic:
        metrics |= read_estimate(run)
    run.write_json("metrics.json", metrics)
    if not args.no_metrics:
        fakes = generate(Generator(args.seed, "evaluation").normal((FAKES, s.latent)))
        run.write_json("metrics.json", metrics | measure(fakes, data))
    return 0


def read_estimate(run: RunFolder) -> dict[str, float]:
    """Says how far the Wasserstein estimate fell."""
    estimate = running_median([row["w_estimate"] for row in run.rows()])
    peak = int(estimate.argmax())
    high, end = float(estimate[peak]), float(estimate[-1])
    print(f"Wasserstein estimate, running median: {high:.3g} at step {peak + 1}, {end:.3g} at the end")
    return {"w_estimate_peak": high, "w_estimate_end": end}


def measure(fakes: Array, data: DataSet) -> dict[str, Any]:
    """Says how good the fakes are; nothing where the data do not allow to tell."""
    if data.labels is None or data.test_images is None or data.test_labels is None:
        print("These images come without labels or without a test set, so nothing classifies them: no FID.")
        return {}
    print("Measuring by a classifier, which is trained once for each data set (--no-metrics leaves it out).")
    try:
        classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
        metrics = evaluate(fakes, data.images, data.labels, data.test_images, classifier)
    except ValueError as error:
        print(f"Not measured: {error}.")
        return {}
    except KeyboardInterrupt:
        print("Not measured, but the run is complete.")
        raise
    print(describe(metrics))
    return metrics


def in_short(logs: dict[str, float]) -> str:
    """What the progress bar shows."""
    if "w_estimate" in logs:
        return "W {w_estimate:.3g} |dD/dx| {grad_norm:.3g}".format(**logs)
    return "D(x) {d_real:.2f} D(G(z)) {d_fake_before:.2f} -> {d_fake_after:.2f}".format(**logs)


def count(net: Module) -> int:
    return sum(p.size for p in net.parameters())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except MemoryError as error:
        sys.exit(f"{Path(__file__).name}: out of memory: {error} (--batch-size, --width)")
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
