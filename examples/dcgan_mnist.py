"""Trains a GAN, a WGAN or a WGAN-GP on images: python examples/dcgan_mnist.py

Writes a folder with sample pictures, loss curves, metrics and weights; see --help for the options.
"""

import argparse
import os
import sys
import time
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
from minigan.gan.run_folder import RunFolder, running_median
from minigan.metrics import describe, evaluate, train_classifier
from minigan.nn import Module
from minigan.optim import Adam, Optimizer, RMSprop
from minigan.random import Generator

# What each objective changes, and what the presets do. An option on the command line goes before both.
COMMON = {"image_size": 28, "width": 32, "batch_size": 64, "latent": 64, "optimizer": "adam", "betas": (0.5, 0.999)}
QUICK = {
    "gan": {"lr": 2e-4, "n_critic": 1, "steps": 3000},
    "minimax": {"lr": 2e-4, "n_critic": 1, "steps": 3000},
    "wgan-clip": {"optimizer": "rmsprop", "lr": 2e-4, "n_critic": 5, "clip": 0.01, "steps": 2500},
    "wgan-gp": {"lr": 2e-4, "betas": (0.5, 0.9), "n_critic": 5, "gp_lambda": 10.0, "steps": 2500},
}
TUTORIAL = {"image_size": 64, "width": 64, "batch_size": 32, "latent": 100, "epochs": 10}
TUTORIAL_LR = {"wgan-clip": 5e-5, "wgan-gp": 1e-4}  # the papers' own
OBJECTIVES = {"gan": NON_SATURATING, "minimax": MINIMAX, "wgan-clip": WASSERSTEIN, "wgan-gp": WASSERSTEIN}
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


def settings() -> dict[str, Any]:
    """The command line, and the defaults of the preset and the objective for what it leaves out."""
    parser = argparse.ArgumentParser(
        description="Train a GAN on MNIST or other images.",
        epilog="example: python examples/dcgan_mnist.py --objective wgan-gp --steps 500 --out runs/first",
    )
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="gan", help="what the players minimise (%(default)s)"
    )
    parser.add_argument(
        "--preset", choices=("quick", "tutorial-64"), default="quick",
        help="quick: 28 pixels, minutes; tutorial-64: 64 pixels, width 64, batch 32, 10 epochs, hours (%(default)s)",
    )  # fmt: skip
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive(int), help="updates of the generator")
    length.add_argument("--epochs", type=positive(int), help="passes over the data, in place of --steps")
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
    parser.add_argument("--no-metrics", action="store_true", help="do not measure the result at the end")
    given = {key: value for key, value in vars(parser.parse_args()).items() if value is not None}
    objective, preset = given["objective"], given["preset"]
    for option, objectives in ONLY_FOR.items():
        if option in given and objective not in objectives:
            parser.error(f"--{option.replace('_', '-')} is an option of {' and '.join(objectives)}, not of {objective}")
    found = {**COMMON, **QUICK[objective]}
    if preset == "tutorial-64":
        found |= TUTORIAL | {"lr": TUTORIAL_LR.get(objective, found["lr"])}
    if "steps" in given or "epochs" in given:
        found = {key: value for key, value in found.items() if key not in ("steps", "epochs")}
    return {"data": os.environ.get("MINIGAN_DATA"), **found, **given}


def get_data(s: dict[str, Any]) -> DataSet:
    """What --data names; drawn digits where nothing is named and MNIST cannot be had."""
    try:
        data = load(s["data"], s["image_size"])
    except OSError:
        if s["data"]:
            raise
        print("MNIST is not here and cannot be downloaded, so this trains on drawn digits (--data names other images).")
        data = load("drawn")
    N, H, W, C = data.images.shape
    print(f"{N:,} images of {data.name}, {H}x{W} pixels, {'grey' if C == 1 else 'in colour'}")
    return data


def get_players(s: dict[str, Any], channels: int) -> tuple[Module, Module, list[Player]]:
    """G, D and how they are trained."""
    init = Generator(s["seed"], "init")
    G = dcgan_generator(s["image_size"], channels, s["width"], s["latent"], init)
    D = dcgan_discriminator(s["image_size"], channels, s["width"], init, batch_norm="gp_lambda" not in s)
    penalty = None
    if "gp_lambda" in s:
        penalty = partial(gradient_penalty, generator=Generator(s["seed"], "penalty"), weight=s["gp_lambda"])

    def optimizer(net: Module) -> Optimizer:
        if s["optimizer"] == "rmsprop":
            return RMSprop(net.parameters(), s["lr"])
        return Adam(net.parameters(), s["lr"], s["betas"])

    players = two_player(
        G, D, OBJECTIVES[s["objective"]], optimizer(G), optimizer(D), penalty=penalty, clip=s.get("clip"),
        d_updates=critic_updates(s["n_critic"], s.get("long_phases", False)),
    )  # fmt: skip
    return G, D, players


def main() -> int:
    s = settings()
    data = get_data(s)
    channels = data.images.shape[3]
    G, D, players = get_players(s, channels)
    updates = players[0].updates
    s.setdefault("steps", s.get("epochs", 0) * (len(data.images) // s["batch_size"]) // s["n_critic"])
    steps, size, latent = s["steps"], s["batch_size"], s["latent"]
    real = batches(data.images, size, Generator(s["seed"], "data"), s["image_size"])
    game = Game(real, Generator(s["seed"], "latent"), latent, size)
    fixed_z = Generator(s["seed"], "samples").normal((64, latent))

    def generate(z: np.ndarray) -> np.ndarray:
        with minigan.no_grad():
            parts = [G.eval()(minigan.Tensor(z[i : i + 250])).array for i in range(0, len(z), 250)]
        G.train()
        return np.concatenate(parts)

    run = RunFolder(s.get("out"), s["objective"])
    run.write_json("config.json", {**s, "out": str(run.path), "trained_on": data.name, "minigan": minigan.__version__})
    print(f"{s['objective']}: G has {count(G):,} parameters, D {count(D):,}; writing to {run.path}")
    if minigan.kernels.first_run():
        print("The first step compiles the kernels, once: up to half a minute.")
    started = time.perf_counter()
    done = seen = 0

    def log(step: int, logs: dict[str, float]) -> None:
        nonlocal done, seen
        done, seen = step, seen + size * updates(step)
        run.log({"step": step, "images": seen, "seconds": time.perf_counter() - started, **logs})
        bar.update(size * updates(step))
        bar.set_postfix_str(in_short(logs), refresh=False)
        if step % SAMPLE_EVERY == 0 or step == steps:
            run.save_samples(step, generate(fixed_z))

    trouble = ""
    with tqdm(total=size * sum(map(updates, range(1, steps + 1))), unit="image", dynamic_ncols=True) as bar:
        try:
            train(game, players, steps, [log])
        except KeyboardInterrupt:
            trouble = f"Interrupted after step {done} of {steps}."
        except (NotFiniteError, OSError) as error:
            trouble = f"Stopped: {error}."
    run.close()
    weights = run.save_weights(G=G, D=D)
    if done:
        run.plot_losses()
    seconds = time.perf_counter() - started
    if trouble:
        print(f"{trouble} The weights as they are now are in {weights}.")
        return 130 if trouble.startswith("Interrupted") else 1
    walks = [
        slerp(a, b, np.linspace(0, 1, 10, dtype=np.float32)) for a, b in zip(fixed_z[:8], fixed_z[8:16], strict=True)
    ]
    run.save_interpolation(generate(np.concatenate(walks)))
    print(f"{steps} steps in {seconds:.0f} s, {seen / seconds:.0f} images/s; look at {run.path}/samples")

    metrics: dict[str, Any] = {"steps": steps, "images": seen, "seconds": seconds}
    if OBJECTIVES[s["objective"]].critic:
        estimate = running_median([row["w_estimate"] for row in run.rows()])
        peak = int(estimate.argmax())
        metrics |= {"w_estimate_peak": float(estimate[peak]), "w_estimate_end": float(estimate[-1])}
        print(
            f"Wasserstein estimate, running median: {estimate[peak]:.3g} at step {peak + 1}, "
            f"{estimate[-1]:.3g} at the end"
        )
    if not s["no_metrics"]:
        if data.labels is None or data.test_images is None or data.test_labels is None:
            print("These images come without labels or without a test set, so nothing classifies them: no FID.")
        else:
            classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
            fakes = generate(Generator(s["seed"], "evaluation").normal((FAKES, latent)))
            metrics |= evaluate(fakes, data.images, data.labels, data.test_images, classifier)
            print(describe(metrics))
    run.write_json("metrics.json", metrics)
    return 0


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
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
