"""Trains the mission's GANs for equal seconds and measures how good they get: python benchmarks/quality.py

Of each seed the GAN, WGAN with clipping, WGAN-GP and PyTorch's GAN, which has the same nets and starts from the same
weights, take turns on the machine, so that whatever slows it down slows all of them. After each turn the nets are
saved; they are measured when all are trained. The clock runs only while a run trains: what is compiled before, and
what is saved and measured, does not count.

Interrupted, it goes on where it was: a seed that is trained is not trained again, nor a run measured again. At the
end it writes its section of docs/results.md, a picture, and all figures as JSON.

PyTorch has all images in memory as float32 before its clock starts, and reads back two losses a step; minigan makes its
batches while the clock runs, and logs what its recipes log.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rival  # noqa: F401 - PyTorch before Numba, see there
from kept import get, put, refuse_other
from options import NO_TORCH, positive, present
from quality_report import MARKS, SYSTEMS, Results, in_words, picture, write_section
from sections import check_marks
from tqdm import tqdm
from workers import Worker, WorkerError, environment

from minigan.files import named

WORKER = Path(__file__).with_name("quality_worker.py")
ROOT = Path(__file__).parent.parent
FAKES = 10_000
"""Samples that each FID is of."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train GAN, WGAN and WGAN-GP, and PyTorch's GAN, for equal seconds; write docs/results.md.",
        epilog="Example: python benchmarks/quality.py --seconds 40 --seeds 1 --points 4 --out build/try --docs /tmp",
    )
    parser.add_argument("--seconds", type=positive, default=200, help="of training, each run (%(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each system (%(default)s)")
    parser.add_argument(
        "--points", type=positive, default=20, help="times at which a run is measured, a multiple of 4 (%(default)s)"
    )
    parser.add_argument("--data", default=None, metavar="SOURCE", help="as of minigan train (MINIGAN_DATA, or MNIST)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/quality"), metavar="DIR", help="where it goes on from (%(default)s)"
    )
    parser.add_argument(
        "--docs", type=Path, default=ROOT, metavar="DIR", help="where docs/ and benchmarks/results/ are (this tree)"
    )
    args = parser.parse_args(words)
    if args.points % 4:
        parser.error(f"--points {args.points}: must be a multiple of 4, so that one is at each quarter of the time")
    return args


# ---- what is kept ------------------------------------------------------------------------------------------------
#
# table.json             what all runs have in common, and the machine
# seed-0.json            the four runs of a seed, when all of them are trained
# gan-0/001.safetensors  the nets of a run after its first turn
# gan-0/measured.json    its figures, when all of its points are measured


def agree(args: argparse.Namespace, systems: Sequence[str]) -> dict[str, Any]:
    """table.json, written the first time. ValueError if it is of another table."""
    import machine
    import numba
    from quality_worker import settings_of

    from minigan import __version__
    from minigan.data import load
    from minigan.gan.run import description

    s, trained_on = settings_of("gan", 0), description(load(args.data))
    table = {
        "seconds": args.seconds, "points": args.points, "systems": list(systems), "minigan": __version__,
        "trained_on": trained_on["name"], "sha256": trained_on["sha256"], "image_size": s.image_size, "width": s.width,
        "batch_size": s.batch_size,
    }  # fmt: skip
    path = args.out / "table.json"
    there = get(path) if path.exists() else None
    threads = numba.config.NUMBA_NUM_THREADS
    if there is None:
        there = {**table, "machine": machine.describe(threads)}
        put(path, there)
    refuse_other(args.out, there, {**table, **machine.identity(threads)})
    return there


def folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    where: Path = args.out / f"{name.replace(' ', '-')}-{seed}"
    return where


# ---- training ----------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace, seed: int, systems: Sequence[str]) -> None:
    """The runs of a seed, all at once: they take turns."""
    if (args.out / f"seed-{seed}.json").exists():
        return
    names = [*systems[seed % len(systems) :], *systems[: seed % len(systems)]]  # nobody is always first
    points: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers, options = {}, {}
        for name in names:
            framework, recipe = SYSTEMS[name]
            where = folder(args, name, seed)
            shutil.rmtree(where, ignore_errors=True)  # of a run that was interrupted
            where.mkdir(parents=True)
            task = {"framework": framework, "recipe": recipe, "seed": seed, "data": args.data, "folder": str(where)}
            worker = Worker(f"{name}, seed {seed}", task, environment(None), WORKER)
            workers[name] = stack.enter_context(worker)
            options[name] = workers[name].answer()
        for point in tqdm(range(1, args.points + 1), f"seed {seed}", unit="round of turns"):
            for name, worker in workers.items():
                points[name].append(worker.ask(args.seconds * point / args.points))
    runs = {name: {"options": options[name], "points": points[name]} for name in systems}
    put(args.out / f"seed-{seed}.json", runs)


# ---- measuring ---------------------------------------------------------------------------------------------------


class Judge:
    """Measures what a run saved, all by the same real images."""

    def __init__(self, data: str | None, size: int) -> None:
        from minigan.data import load
        from minigan.metrics import Reference, train_classifier
        from minigan.metrics.images import pixels

        images = load(data)
        if images.labels is None or images.test_images is None or images.test_labels is None:
            raise ValueError(f"{images.name} has no labels or no test images, so that nothing can classify them")
        classifier = train_classifier(images.images, images.labels, images.test_images, images.test_labels)
        self.reference = Reference(images.images, images.test_images, size, images.labels, classifier)
        self.tests = pixels(images.test_images, size)
        everything = self.reference.evaluate(self.tests[:FAKES])
        self.floor = {key.removesuffix("_floor"): v for key, v in everything.items() if key.endswith("_floor")}
        self.floor["n_neighbours"] = everything["n_neighbours"]

    def run(self, system: str, seed: int, where: Path, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The points of a run with their figures; without any from where it failed on."""
        import numpy as np
        from quality_worker import settings_of
        from safetensors.numpy import load_file

        from minigan.gan.recipes import RECIPES
        from minigan.gan.sampling import generate, latent_vectors

        _, recipe = SYSTEMS[system]
        settings = settings_of(recipe, seed)
        nets = RECIPES[recipe].build(settings, self.tests.shape[3]).nets
        z, failed, rows = latent_vectors(RECIPES[recipe], settings, "evaluation", FAKES), None, []
        for number, point in enumerate(tqdm(points, where.name, unit="point"), 1):
            failed = failed or point["failed"]
            if failed is None:
                arrays = load_file(where / f"{number:03d}.safetensors")
                if not all(np.isfinite(array).all() for array in arrays.values()):
                    failed = f"after {point['step']} steps its weights are not finite"
            if failed is not None:
                rows.append({**point, "failed": failed})
                continue
            for name, net in nets.items():
                own = {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}
                net.load_state_dict(own)
            fakes, last = generate(nets["G"], z), number == len(points)
            row = {**point, **(self.reference.evaluate(fakes) if last else self.reference.quick(fakes))}
            if recipe != "gan":
                row["w_estimate"] = estimate(nets["D"], self.tests, fakes, settings.batch_size)
            rows.append(row)
        return rows


def estimate(D: Any, tests: Any, fakes: Any, batch: int) -> float:
    """E D(x) - E D(G(z)) of test images, in batches as D was trained with, whose statistics it may use."""
    import numpy as np

    from minigan import Tensor
    from minigan.autograd import no_grad

    D.train()
    with no_grad():
        differences = [
            D(Tensor.of(tests[i : i + batch])).array.mean() - D(Tensor.of(fakes[i : i + batch])).array.mean()
            for i in range(0, min(len(tests), len(fakes)) // batch * batch, batch)
        ]
    return float(np.mean(differences))


def measure(args: argparse.Namespace, table: dict[str, Any]) -> Results:
    """All figures, from those that are measured already and those that are not."""
    judge, runs, floor = None, [], {}
    for seed in range(args.seeds):
        for system, trained in get(args.out / f"seed-{seed}.json").items():
            where = folder(args, system, seed)
            path = where / "measured.json"
            if not path.exists():
                judge = judge or Judge(args.data, table["image_size"])
                put(path, {"floor": judge.floor, "points": judge.run(system, seed, where, trained["points"])})
            found = get(path)
            if floor and found["floor"] != floor:
                raise ValueError(f"{path} was measured in another way than those before it; remove it to measure anew")
            floor = found["floor"]
            runs.append({"system": system, "seed": seed, "options": trained["options"], "points": found["points"]})
    return {**table, "data": args.data, "seeds": args.seeds, "fakes": FAKES, "floor": floor, "runs": runs}


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    systems = [name for name, (framework, _) in SYSTEMS.items() if framework == "ours" or find_spec("torch")]
    if len(systems) < len(SYSTEMS):
        print(NO_TORCH, file=sys.stderr)
    results, document = args.docs / "benchmarks/results/quality.json", args.docs / "docs/results.md"
    check_marks(document, MARKS)
    for path in (results, document):  # what cannot be written at the end, is better known now
        with named(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
    table = agree(args, systems)
    present(table["machine"])
    for seed in range(args.seeds):
        train(args, seed, systems)
    found = measure(args, table)
    print(in_words(found))
    put(results, found)
    picture(found, args.docs / "docs/images/quality.png")
    write_section(found, document)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError, WorkerError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
