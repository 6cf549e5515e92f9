"""Four GANs on Gaussians in the plane, to be watched as they train: python examples/toy_gaussians.py

Writes a folder; its toy.png is drawn anew as the training goes on. See --help for the options.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read by NumPy; on nets this small a second thread only waits

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

import minigan
from minigan import gan
from minigan.data import GRID25, RING8, Mixture
from minigan.gan.run_folder import RunFolder
from minigan.metrics import dual_bound, exact_w1, mixture_score
from minigan.nn import Linear, Module, ReLU, Sequential, init
from minigan.optim import Adam, Optimizer, RMSprop
from minigan.random import Generator

BATCH, LATENT, WIDTH = 256, 2, 128
SCORED, PAIRED = 2500, 1000  # fakes for the modes; the first of them for the Wasserstein distance
EDGE = 2.2  # of the pictures
MIXTURES = {mixture.name: mixture for mixture in (RING8, GRID25)}
Row = dict[str, float]


class Recipe(NamedTuple):
    """The optimizers' step size falls to 0 in equal steps."""

    objective: gan.Objective
    optimizer: Callable[[Module], Optimizer]
    steps: int  # updates of G
    d_updates: int = 1
    clip: float | None = None
    penalty: float | None = None


RECIPES = {
    "gan": Recipe(gan.NON_SATURATING, lambda net: Adam(net.parameters(), 1e-3, (0.5, 0.999)), 6000),
    "minimax": Recipe(gan.MINIMAX, lambda net: Adam(net.parameters(), 1e-3, (0.5, 0.999)), 6000),
    "wgan-clip": Recipe(gan.WASSERSTEIN, lambda net: RMSprop(net.parameters(), 5e-4), 2000, 5, clip=0.1),
    "wgan-gp": Recipe(gan.WASSERSTEIN, lambda net: Adam(net.parameters(), 3e-3, (0.5, 0.9)), 3000, 3, penalty=0.1),
}


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train GANs on a mixture of Gaussians in the plane.")
    parser.add_argument("--mixture", choices=list(MIXTURES), default="grid25", help="(%(default)s)")
    parser.add_argument("--objective", choices=[*RECIPES, "all"], default="wgan-gp", help="(%(default)s)")
    parser.add_argument("--steps", type=positive, default=None, help="updates of G (2,000 to 6,000, by objective)")
    parser.add_argument("--every", type=positive, default=None, help="steps from picture to picture (a tenth of all)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    parser.add_argument("--out", default=None, metavar="FOLDER", help="a new folder (next runs/toy-0001)")
    return parser.parse_args()


def mlp(outputs: int, generator: Generator) -> Sequential:
    """(N, 2) -> (N, outputs), by three hidden layers of ReLU."""
    sizes = (2, WIDTH, WIDTH, WIDTH, outputs)
    layers: list[Module] = []
    for c_in, c_out in pairwise(sizes):
        layer = Linear(c_in, c_out)
        init.kaiming_uniform_(layer.weight, generator=generator)
        init.constant_(layer.bias, 0)
        layers += [layer, ReLU()]
    return Sequential(*layers[:-1])


def compute(net: Module, x: Any) -> Any:
    """net(x) as an array, without a graph."""
    with minigan.no_grad():
        return net(minigan.Tensor(x)).array


def evaluate(mixture: Mixture, fakes: Any, x: Any, critic: Module | None = None) -> Row:
    """Scores of fakes (SCORED, 2); the distance of the first from x (PAIRED, 2), and what the critic makes of it."""
    row, near = mixture_score(fakes, mixture), fakes[: len(x)]
    with suppress(ImportError):  # of scipy; main has said so
        row["w1"] = exact_w1(x, near)
    if critic is not None:
        real, fake = compute(critic, x)[:, 0], compute(critic, near)[:, 0]
        row |= {"critic": float(real.mean() - fake.mean()), "bound": dual_bound(x, near, real, fake)}
    return row


def run_one(name: str, args: argparse.Namespace, run: RunFolder, floor: float) -> tuple[Row, Module, Module]:
    """One training, from the same start as all others: its last row, G and D."""
    recipe, mixture = RECIPES[name], MIXTURES[args.mixture]
    steps, weight = args.steps or recipe.steps, recipe.penalty
    start, data, latent, mix, judge = (Generator(args.seed, s) for s in ("init", "data", "latent", "mix", "judge"))
    G, D = mlp(2, start), mlp(1, start)
    optimizers = [recipe.optimizer(G), recipe.optimizer(D)]
    lr = optimizers[0].lr
    players = gan.two_player(
        G, D, recipe.objective, *optimizers, clip=recipe.clip, d_updates=gan.critic_updates(recipe.d_updates),
        penalty=None if weight is None else lambda D, x, fake: gan.gradient_penalty(D, x, fake, mix, weight),
    )  # fmt: skip
    rows: list[Row] = []
    started = time.perf_counter()

    def look(step: int, logs: Row) -> None:
        bar.update()
        for optimizer in optimizers:
            optimizer.lr = lr * (1 - step / steps)
        if step % (args.every or -(-steps // 10)) and step != steps:
            return
        critic = D if recipe.objective.critic else None
        fakes = compute(G, judge.normal((SCORED, LATENT)))
        row = {"step": step, **evaluate(mixture, fakes, mixture.sample(PAIRED, judge), critic)}
        if critic:
            row["slope"] = logs["grad_norm"]
        rows.append(row)
        figure = Figure(figsize=(12, 5.5))
        left, right = figure.subplots(1, 2)
        landscape(left, mixture, name, row, fakes, D)
        curves(right, mixture, rows, floor)
        for file in ("toy.png", f"samples/{name}.png") if step == steps else ("toy.png",):
            run.write(file, lambda part: figure.savefig(part, dpi=80, format="png"))
        row["seconds"] = time.perf_counter() - started
        run.log({"objective": name, **logs, **row})

    with tqdm(total=steps, desc=name, unit="step", dynamic_ncols=True) as bar:
        real = (mixture.sample(BATCH, data) for _ in count())
        gan.train(gan.Game(real, latent, LATENT, BATCH), players, steps, [look])
    return rows[-1], G, D


def landscape(axes: Axes, mixture: Mixture, name: str, row: Row, fakes: Any, D: Module) -> None:
    """Real points in white and fakes in red on D's outputs, bright where it takes points for real."""
    ticks = np.linspace(-EDGE, EDGE, 64, dtype=np.float32)
    outputs = compute(D, np.stack(np.meshgrid(ticks, ticks), axis=-1))[..., 0]
    axes.contourf(ticks, ticks, outputs, levels=16, cmap="viridis")
    axes.scatter(*mixture.sample(500, Generator(0, "picture")).T, s=5, color="white", linewidths=0)
    axes.scatter(*fakes[:PAIRED].T, s=4, color="red", linewidths=0, alpha=0.6)
    title = "{}, step {step}: {modes_filled} modes filled, {high_quality:.0%} on target".format(name, **row)
    axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), aspect="equal", title=title)


def curves(axes: Axes, mixture: Mixture, rows: list[Row], floor: float) -> None:
    """Distances on the left axis, with the floor of W1; modes on the right one."""
    lines = {"W1, exact": [row.get("w1", np.nan) for row in rows]}
    if "critic" in rows[0]:
        lines["critic / mean slope"] = [row["critic"] / row["slope"] for row in rows]
        lines["critic / steepest slope"] = [row["bound"] for row in rows]
    steps, modes = [row["step"] for row in rows], axes.twinx()
    for label, values in lines.items():
        axes.plot(steps, values, ".-", label=label)
    axes.axhline(floor, linestyle="--", linewidth=1, label="W1, exact, of real points")
    modes.plot(steps, [row["modes_filled"] for row in rows], ".:", color="grey", label="modes filled (right)")
    modes.set(ylabel="modes filled", ylim=(0, len(mixture.means) + 0.5))
    axes.set(xlabel="step", ylabel="distance")
    axes.legend(handles=[*axes.lines, *modes.lines])


def table(rows: dict[str, Row]) -> str:
    """A line for each sampler; a dash for what was not measured."""
    columns = {
        "modes": "d", "modes_filled": "d", "high_quality": ".1%", "kl": ".3f", "std_ratio": ".2f",
        "w1": ".3f", "critic": ".3f", "slope": ".2f", "bound": ".3f", "seconds": ".0f",
    }  # fmt: skip
    lines = ["".join(f"{key:>13}" for key in ("", *columns))]
    for name, row in rows.items():
        cells = [format(row[key], kind) if key in row else "-" for key, kind in columns.items()]
        lines.append("".join(f"{cell:>13}" for cell in (name, *cells)))
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    mixture, fresh = MIXTURES[args.mixture], Generator(args.seed, "fresh")
    run = RunFolder(args.out, "toy")
    run.write_json("config.json", {**vars(args), "out": str(run.path), "minigan": minigan.__version__})
    print(f"{mixture.name}: {len(mixture.means)} modes of sigma {mixture.sigma:.4f}; watch {run.path}/toy.png")
    if minigan.kernels.first_run():
        print("The first step compiles the kernels, once: about half a minute.")
    x, perfect = mixture.sample(PAIRED, fresh), mixture.sample(SCORED, fresh)
    try:
        exact_w1(x[:1], x[:1])
    except ImportError as error:
        print(f"The column w1 is left out: {error}")
    untrained = compute(mlp(2, Generator(args.seed, "init")), fresh.normal((SCORED, LATENT)))
    rows = {"perfect": evaluate(mixture, perfect, x), "untrained": evaluate(mixture, untrained, x)}
    ends = {}
    try:
        for name in RECIPES if args.objective == "all" else [args.objective]:
            rows[name], *ends[name] = run_one(name, args, run, rows["perfect"].get("w1", np.nan))
    finally:  # even if interrupted
        run.close()
        run.write_json("metrics.json", rows)
        print(table(rows))
    print(
        "modes: with a sample within 3 sigma; filled: with a quarter of their due; high_quality: share within 3 sigma"
    )
    print("kl: of the modes' shares from equal ones, in nats; std_ratio: spread within the modes, 1 is right")
    print(f"w1: exact, of {PAIRED} points each; the perfect sampler's is the floor, what so few points leave of 0")
    print("critic: E D(x) - E D(G(z)) on the same points; slope: D's mean slope, as its training sees it")
    print("bound: critic / D's steepest slope between these points, which proves that w1 is at least that")
    if len(ends) > 1:
        figure = Figure(figsize=(6 * len(ends), 6), layout="constrained")
        for axes, (name, (G, D)) in zip(figure.subplots(1, len(ends)), ends.items(), strict=True):
            landscape(axes, mixture, name, rows[name], compute(G, fresh.normal((PAIRED, LATENT))), D)
        run.write("toy.png", lambda part: figure.savefig(part, dpi=80, format="png"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, gan.NotFiniteError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
