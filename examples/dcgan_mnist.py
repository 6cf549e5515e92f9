"""Trains a DCGAN on MNIST: python examples/dcgan_mnist.py

Writes a folder with sample pictures, loss curves, metrics and weights; see --help for the options.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

import minigan
from minigan.data import batches, load_mnist
from minigan.gan import (
    NON_SATURATING,
    Game,
    NotFiniteError,
    dcgan_discriminator,
    dcgan_generator,
    train,
    two_player,
)
from minigan.gan.run_folder import RunFolder
from minigan.optim import Adam
from minigan.random import Generator

LATENT = {28: 64, 32: 64, 64: 100}
BETAS = (0.5, 0.999)
SAMPLE_EVERY = 100


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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a DCGAN on MNIST.",
        epilog="example: python examples/dcgan_mnist.py --image-size 32 --steps 500 --out runs/first",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive(int), default=3000, help="updates of each net (%(default)s)")
    length.add_argument("--epochs", type=positive(int), default=None, help="passes over the data, in place of --steps")
    parser.add_argument("--image-size", type=int, default=28, choices=sorted(LATENT), help="pixels (%(default)s)")
    parser.add_argument(
        "--width", type=positive(int), default=32, help="channels of the layers next to the image (%(default)s)"
    )
    parser.add_argument("--batch-size", type=positive(int), default=64, help="images a step (%(default)s)")
    parser.add_argument("--lr", type=positive(float), default=2e-4, help="Adam's step size (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    parser.add_argument("--data", default=None, metavar="FOLDER", help="of MNIST's IDX files (MINIGAN_DATA)")
    parser.add_argument("--out", default=None, metavar="FOLDER", help="a new folder (next runs/dcgan-0001)")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    images, _ = load_mnist(args.data)
    steps = args.steps if args.epochs is None else args.epochs * (len(images) // args.batch_size)
    latent = LATENT[args.image_size]
    real = batches(images, args.batch_size, Generator(args.seed, "data"), args.image_size)
    init = Generator(args.seed, "init")
    G = dcgan_generator(args.image_size, 1, args.width, latent, init)
    D = dcgan_discriminator(args.image_size, 1, args.width, init)
    game = Game(real, Generator(args.seed, "latent"), latent, args.batch_size)
    players = two_player(
        G, D, NON_SATURATING, Adam(G.parameters(), args.lr, BETAS), Adam(D.parameters(), args.lr, BETAS)
    )
    fixed_z = minigan.Tensor(Generator(args.seed, "samples").normal((64, latent)))

    run = RunFolder(args.out, "dcgan")
    run.write_config(
        {
            **vars(args),
            "data": args.data or os.environ.get("MINIGAN_DATA"),
            "out": str(run.path),
            "steps": steps,
            "latent": latent,
            "betas": BETAS,
            "objective": NON_SATURATING.name,
            "minigan": minigan.__version__,
        }
    )
    print(f"G has {count(G):,} parameters, D {count(D):,}; writing to {run.path}")
    if minigan.kernels.first_run():
        print("The first step compiles the kernels, once: up to half a minute.")
    started = time.perf_counter()
    done = 0

    def sample(step: int) -> Path:
        with minigan.no_grad():
            pictures = G.eval()(fixed_z)
        G.train()
        return run.save_samples(step, pictures.array)

    def log(step: int, logs: dict[str, float]) -> None:
        nonlocal done
        done = step
        run.log({"step": step, "images": step * args.batch_size, "seconds": time.perf_counter() - started, **logs})
        bar.update(args.batch_size)
        bar.set_postfix_str(
            "D(x) {d_real:.2f} D(G(z)) {d_fake_before:.2f} -> {d_fake_after:.2f}".format(**logs), refresh=False
        )
        if step % SAMPLE_EVERY == 0 or step == steps:
            sample(step)

    trouble = ""
    with tqdm(total=steps * args.batch_size, unit="image", dynamic_ncols=True) as bar:
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
    rate = steps * args.batch_size / seconds
    print(f"{steps} steps in {seconds:.0f} s, {rate:.0f} images/s; look at {run.path}/samples")
    return 0


def count(net: minigan.nn.Module) -> int:
    return sum(p.size for p in net.parameters())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
