"""GANs on Gaussians in the plane, to be watched as they train: python examples/toy_gaussians.py --objective gan lsgan

Writes a folder; its toy.png is drawn anew as the training goes on, and at the end toy-NAME.gif shows it again: samples
in red, real points in white, D's landscape, and arrows, where G's loss pushes a sample, as long as the push up to 1.
See --help for the options; minigan/gan/toys.py for what is trained.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read by NumPy; on nets this small a second thread only waits

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from tqdm import tqdm

import minigan
from minigan import gan
from minigan.data import Mixture
from minigan.gan.run_folder import RunFolder
from minigan.gan.toys import LATENT, MIXTURES, PAIRED, SCORED, TOYS, compute, evaluate, field, mlp, play
from minigan.metrics import exact_w1
from minigan.nn import Module
from minigan.random import Generator

EDGE = 2.2  # of the pictures
FRAMES, SIDE, LEVELS, ARROWS = 40, 360, 16, 20  # of an animation; pixels, shades of D's output, arrows a side
Row = dict[str, float]


def positive(text: str) -> int:
    """An argparse type: a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train GANs on a mixture of Gaussians in the plane.")
    parser.add_argument("--mixture", choices=list(MIXTURES), default="grid25", help="(%(default)s)")
    parser.add_argument(
        "--objective", choices=[*TOYS, "all"], nargs="+", default=["wgan-gp"], metavar="NAME",
        help=f"one or more of {', '.join(TOYS)}, or all (wgan-gp)",
    )  # fmt: skip
    parser.add_argument("--steps", type=positive, default=None, help="updates of G (500 to 6,000, by objective)")
    parser.add_argument("--every", type=positive, default=None, help="steps from picture to picture (a tenth of all)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    parser.add_argument("--out", default=None, metavar="FOLDER", help="a new folder (next runs/toy-0001)")
    return parser.parse_args()


def run_one(name: str, args: argparse.Namespace, run: RunFolder, floor: float) -> tuple[Row, Module, Module]:
    """One training, from the same start as all others: its last row, G and D."""
    toy, mixture = TOYS[name], MIXTURES[args.mixture]
    steps, judge = args.steps or toy.steps, Generator(args.seed, "judge")
    z = Generator(args.seed, "frames").normal((500, LATENT))
    rows: list[Row] = []
    frames: list[Image.Image] = []
    started = time.perf_counter()

    def look(step: int, logs: Row, G: Module, D: Module) -> None:
        bar.update()
        if step % -(-steps // FRAMES) == 0 or step == steps:
            frames.append(frame(mixture, f"{name}, step {step}", toy.objective, compute(G, z), D))
        if step % (args.every or -(-steps // 10)) and step != steps:
            return
        critic = D if toy.objective.critic else None
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
        G, D = play(name, mixture, args.seed, steps, look)
    shown = [100] * (len(frames) - 1) + [2000]  # milliseconds
    run.write(
        f"toy-{name}.gif",
        lambda part: frames[0].save(
            part, format="gif", save_all=True, append_images=frames[1:], duration=shown, loop=0
        ),
    )
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


def frame(mixture: Mixture, title: str, objective: gan.Objective, fakes: Any, D: Module) -> Image.Image:
    """One picture of an animation: the same without axes, and the field of G's loss."""
    ticks = np.linspace(-EDGE, EDGE, 90, dtype=np.float32)
    outputs = compute(D, np.stack(np.meshgrid(ticks, ticks[::-1]), axis=-1))[..., 0]
    smooth = np.asarray(Image.fromarray(outputs).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    height = (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-12)
    picture = Image.fromarray(np.minimum(LEVELS * height, LEVELS - 1).astype(np.uint8))
    shades = (255 * colormaps["viridis"](np.linspace(0, 1, LEVELS))[:, :3]).astype(np.uint8)
    picture.putpalette(np.concatenate([shades, np.uint8([[255] * 3, [255, 0, 0], [0] * 3])]).tobytes())
    white, red, black = LEVELS, LEVELS + 1, LEVELS + 2
    draw = ImageDraw.Draw(picture)
    real = mixture.sample(500, Generator(0, "picture"))
    at = EDGE * (2 * (np.arange(ARROWS, dtype=np.float32) + 0.5) / ARROWS - 1)
    tails = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    push = field(objective, D, tails, real, fakes)
    push = push / np.maximum(np.linalg.norm(push, axis=1, keepdims=True), 1)
    for tail, tip in zip(pixels(tails), pixels(tails + 1.8 * EDGE / ARROWS * push), strict=True):
        draw.line([*tail, *tip], fill=black)
        draw.rectangle([*tip, *(tip + 1)], fill=black)  # the head
    for points, colour in ((real, white), (fakes, red)):
        for x, y in pixels(points):
            draw.rectangle([x, y, x + 1, y + 1], fill=colour)
    draw.text((6, 4), title, fill=white)
    return picture


def pixels(points: Any) -> Any:
    """Where points (N, 2) of the plane are in a frame, whole numbers (N, 2)."""
    shares = (np.clip(points, -2 * EDGE, 2 * EDGE) * [1, -1] + EDGE) / (2 * EDGE)
    return (shares * SIDE).astype(int)


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
    width = 1 + max(map(len, (*rows, *columns)))
    lines = ["".join(f"{key:>{width}}" for key in ("", *columns))]
    for name, row in rows.items():
        cells = [format(row[key], kind) if key in row else "-" for key, kind in columns.items()]
        lines.append("".join(f"{cell:>{width}}" for cell in (name, *cells)))
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
    ends, failed = {}, []
    try:
        for name in TOYS if "all" in args.objective else dict.fromkeys(args.objective):
            try:
                rows[name], *ends[name] = run_one(name, args, run, rows["perfect"].get("w1", np.nan))
            except gan.NotFiniteError as error:  # some do; the others go on
                failed.append(f"{name}: {error}")
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
        lines = -(-len(ends) // 4)
        figure = Figure(figsize=(6 * min(len(ends), 4), 6 * lines), layout="constrained")
        panels = figure.subplots(lines, min(len(ends), 4), squeeze=False).ravel()
        for axes, (name, (G, D)) in zip(panels, ends.items(), strict=False):
            landscape(axes, mixture, name, rows[name], compute(G, fresh.normal((PAIRED, LATENT))), D)
        for axes in panels[len(ends) :]:
            axes.set_axis_off()
        run.write("toy.png", lambda part: figure.savefig(part, dpi=80, format="png"))
    if failed:
        raise gan.NotFiniteError("; ".join(failed))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, gan.NotFiniteError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
