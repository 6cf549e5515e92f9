"""Trains the mission's GANs for equal seconds and measures how good they get: python benchmarks/quality.py

Of each seed the GAN, WGAN with clipping, WGAN-GP and PyTorch's GAN, which has the same nets and starts from the same
weights, take turns on the machine, so that whatever slows it down slows all of them. After each turn the nets are
saved; they are measured when all are trained. The clock runs only while a run trains: what is compiled before, and
what is saved and measured, does not count.

Interrupted, it goes on where it was: a seed that is trained is not trained again, nor a run measured again. At the
end it writes docs/results.md, its picture, and all figures as JSON.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rival  # noqa: F401 - PyTorch before Numba, see there
from options import NO_TORCH, positive, present, write
from quality_report import SYSTEMS, Results, picture, table, write_section
from tqdm import tqdm
from workers import Worker, WorkerError, environment

WORKER = Path(__file__).with_name("quality_worker.py")
ROOT = Path(__file__).parent.parent
FAKES = 10_000
"""Samples that each FID is of."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train GAN, WGAN and WGAN-GP, and PyTorch's GAN, for equal seconds; write docs/results.md.",
        epilog="Example: python benchmarks/quality.py --seconds 30 --seeds 1 --points 3 --out /tmp/try --docs /tmp/try",
    )
    parser.add_argument("--seconds", type=positive, default=200, help="of training, each run (%(default)s)")
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each system (%(default)s)")
    parser.add_argument("--points", type=positive, default=20, help="times at which a run is measured (%(default)s)")
    parser.add_argument("--data", default=None, metavar="SOURCE", help="as of minigan train (MINIGAN_DATA, or MNIST)")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--docs", type=Path, default=ROOT, metavar="DIR", help="where docs/ and benchmarks/results/ are (this tree)"
    )
    return parser.parse_args(words)


# ---- training ----------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace, seed: int, systems: Sequence[str]) -> None:
    """The runs of a seed that are not complete; a folder of each, with run.json as its last file."""
    names = [name for name in systems if not (folder(args, name, seed) / "run.json").exists()]
    if not names:
        return
    names = names[seed % len(names) :] + names[: seed % len(names)]  # nobody is always first
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers, options = {}, {}
        for name in names:
            framework, recipe = SYSTEMS[name]
            folder(args, name, seed).mkdir(parents=True, exist_ok=True)
            task = {
                "framework": framework, "recipe": recipe, "seed": seed, "data": args.data,
                "folder": str(folder(args, name, seed)),
            }  # fmt: skip
            worker = Worker(f"{name}, seed {seed}", task, environment(None), WORKER)
            workers[name] = stack.enter_context(worker)
            options[name] = workers[name].answer()
        for point in tqdm(range(1, args.points + 1), f"seed {seed}", unit="round of turns"):
            for name, worker in workers.items():
                rows[name].append(worker.ask(args.seconds * point / args.points))
    for name in names:
        run = {"system": name, "seed": seed, **asked(args), "options": options[name], "points": rows[name]}
        put(folder(args, name, seed) / "run.json", run)


def folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    where: Path = args.out / f"{name.replace(' ', '-')}-{seed}"
    return where


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What all runs of a table must have in common."""
    return {"seconds": args.seconds, "of": args.points, "data": args.data}


def put(path: Path, values: Mapping[str, Any]) -> None:
    write(path, lambda part: Path(part).write_text(json.dumps(values, indent=1) + "\n"))


def get(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); remove its folder to have that run again") from error
    return values


def refuse_others(args: argparse.Namespace, systems: Sequence[str]) -> None:
    """ValueError if there are runs of another table where these shall go."""
    for name in systems:
        for seed in range(args.seeds):
            path = folder(args, name, seed) / "run.json"
            for key, value in asked(args).items() if path.exists() else ():
                if (there := get(path)[key]) != value:
                    raise ValueError(
                        f"{path.parent} has {key} {there!r}, here it is {value!r}: they do not belong into one "
                        "table; name another folder by --out, or remove that one"
                    )


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

    def run(self, where: Path) -> list[dict[str, Any]]:
        """A row for each point of a run; without figures from where it failed on."""
        from quality_worker import settings_of
        from safetensors.numpy import load_file

        from minigan.gan.recipes import RECIPES
        from minigan.gan.sampling import generate, latent_vectors

        run = get(where / "run.json")
        _, recipe = SYSTEMS[run["system"]]
        settings = settings_of(recipe, run["seed"])
        nets = RECIPES[recipe].build(settings, self.tests.shape[3]).nets
        z, rows = latent_vectors(settings, "evaluation", FAKES), []
        for number, row in enumerate(tqdm(run["points"], where.name, unit="point"), 1):
            if row["failed"] is not None:
                rows.append(row)
                continue
            arrays = load_file(where / f"{number:03d}.safetensors")
            for name, net in nets.items():
                own = {key.removeprefix(f"{name}."): a for key, a in arrays.items() if key.startswith(f"{name}.")}
                net.load_state_dict(own)
            fakes = generate(nets["G"], z)
            row |= self.reference.evaluate(fakes) if number == len(run["points"]) else self.reference.quick(fakes)
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


def measure(args: argparse.Namespace, systems: Sequence[str]) -> Results:
    """All figures, from those that are measured already and those that are not."""
    judge, runs = None, []
    places = [folder(args, name, seed) for seed in range(args.seeds) for name in systems]
    for where in places:
        path = where / "measured.json"
        if not path.exists():
            judge = judge or Judge(args.data, 28)
            put(path, {"floor": judge.floor, "points": judge.run(where)})
        run, found = get(where / "run.json"), get(path)
        runs.append({"system": run["system"], "seed": run["seed"], "options": run["options"], **found})
    return {
        "machine": get(args.out / "machine.json"),
        "seconds": args.seconds, "seeds": args.seeds, "fakes": FAKES,
        "floor": runs[0]["floor"], "runs": runs,
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    args = arguments(words)
    systems = [name for name, (framework, _) in SYSTEMS.items() if framework == "ours" or find_spec("torch")]
    if len(systems) < len(SYSTEMS):
        print(NO_TORCH, file=sys.stderr)
    refuse_others(args, systems)
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "machine.json").exists():
        import machine
        import numba

        put(args.out / "machine.json", machine.describe(numba.config.NUMBA_NUM_THREADS))
    present(get(args.out / "machine.json"))
    for seed in range(args.seeds):
        train(args, seed, systems)
    results = measure(args, systems)
    print(table(results))
    put(args.docs / "benchmarks/results/quality.json", results)
    picture(results, args.docs / "docs/images/quality.png")
    write_section(results, args.docs / "docs/results.md")
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
