"""A process of benchmarks/zoo.py: python zoo_worker.py TASK

TASK is JSON: {"job": one of JOBS, ...: what that function takes}. It answers with a line of JSON. Seconds are of the
processor, not of the clock on the wall, so that other programs on the machine do not count.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from zoo_rows import FAKES, ROUNDS, TOY_UPDATES, TOYS, UPDATES

from minigan.data import RING8, DataSet, Mixture, load
from minigan.data.sources import TRIANGLES
from minigan.files import replace
from minigan.gan.inversion import measure_triangles
from minigan.gan.pictures import to_bytes
from minigan.gan.recipes import RECIPES
from minigan.gan.run import Training
from minigan.gan.sampling import latent_vectors, shown_codes
from minigan.gan.train import Turns
from minigan.metrics import Reference, label_scores, train_classifier
from minigan.metrics.images import pixels
from minigan.metrics.report import rarest_share
from minigan.nn import Module
from minigan.random import Generator

Array = NDArray[Any]
Answer = dict[str, Any]

WARM = 3
"""Updates of G before any is timed."""

SHOWN_ROWS = 4
GREYS = 32
"""Shades in a picture of samples: as good to look at as 256, in half the bytes."""


class Refused(Exception):
    """A recipe does not take these data: like numbers that are not finite, a result of a run. No other error is."""


class Trainee:
    """A training that takes some steps now, and some later. `done`: how many it took; `seconds`: of the processor."""

    def __init__(self, row: str, data: DataSet, seed: int, steps: int) -> None:
        name, *words = row.split()
        recipe = RECIPES[name]
        settings = recipe.parse([*words, f"seed={seed}", f"steps={steps}"], row)
        try:
            self.training = Training(recipe, settings, data)
        except ValueError as error:
            raise Refused(str(error)) from error
        self.turns = Turns(self.training.game, self.training.parts.players)
        self.done, self.seconds = 0, 0.0

    def steps(self, count: int) -> None:
        """Takes so many. FloatingPointError if a loss is not finite."""
        start = time.process_time()
        try:
            for _ in range(count):
                self.turns.step(self.done + 1)
                self.done += 1
        finally:
            self.seconds += time.process_time() - start


class Samples(NamedTuple):
    """What is left of a run, to be measured."""

    seconds: float
    fakes: Array  # (FAKES, H, W, C) in [-1, 1]
    shown: Array  # some for a picture
    columns: int
    labels: Array | None = None  # that the fakes were asked to have
    training: Training | None = None


class Points(NamedTuple):
    """The same of a run in the plane."""

    seconds: float
    fakes: Array  # (SCORED, 2)
    real: Array  # (PAIRED, 2)
    mixture: Mixture
    critic: Module | None = None


# ---- before the runs -----------------------------------------------------------------------------------------------


def calibrate(table: str, rows: Sequence[str], source: str | None) -> Answer:
    """Row -> {"seconds": of an update of G}, or {"failed": why} if it is refused, whatever the seed.

    All take turns, so that all meet the same machine. A training that diverges begins anew, and goes on taking turns:
    that it fails, only its runs say.
    """
    if table == TOYS:
        return {row: {"seconds": seconds} for row, seconds in calibrated_toys(rows).items()}
    data, found, trainees = load(source), dict[str, Any](), dict[str, Trainee]()
    for row in rows:
        try:
            trainees[row] = Trainee(row, data, 0, WARM + ROUNDS * UPDATES)
        except Refused as error:
            found[row] = {"failed": str(error)}
    times = {row: list[float]() for row in trainees}
    for turn in range(ROUNDS + 1):
        for row, trainee in trainees.items():
            seconds, done = trainee.seconds, trainee.done
            try:
                trainee.steps(UPDATES if turn else WARM)
                taken = trainee.done - done
            except FloatingPointError:
                taken = trainee.done - done + 1  # the last of them as far as it came
                trainees[row] = Trainee(row, data, 0, WARM + ROUNDS * UPDATES)
            if turn:  # in the first, kernels are loaded
                times[row].append((trainee.seconds - seconds) / taken)
    return found | {row: {"seconds": median(seconds)} for row, seconds in times.items()}


def calibrated_toys(rows: Sequence[str]) -> dict[str, float]:
    """Each turn is the beginning of a training."""
    from minigan.gan.toys import play

    times = {row: list[float]() for row in rows}
    for turn in range(ROUNDS + 1):
        for row in rows:
            start = time.process_time()
            play(row, RING8, 0, steps=TOY_UPDATES)
            if turn:  # in the first, kernels are loaded
                times[row].append((time.process_time() - start) / TOY_UPDATES)
    return {row: median(seconds) for row, seconds in times.items()}


class Judge:
    """Compares images of a size with the real ones, by a classifier where the data allow for one."""

    def __init__(self, data: DataSet, size: int) -> None:
        if data.test_images is None:
            raise ValueError(f"{data.name} has no test images, which everything is compared with; take other --data")
        self.classifier, self.classes = None, 0
        if data.labels is not None and data.test_labels is not None:
            self.classifier = train_classifier(data.images, data.labels, data.test_images, data.test_labels)
            self.classes = int(data.labels.max()) + 1
        self.tests = pixels(data.test_images[:FAKES], size)
        self.reference = Reference(data.images, data.test_images, size, data.labels, self.classifier)

    def figures(self, images: Array) -> Answer:
        found = self.reference.quick(images)
        if self.classifier is not None:
            predicted = self.classifier.predict(images)
            found["predicted_histogram"] = np.bincount(predicted, minlength=self.classes).tolist()
            found["rarest"] = rarest_share(found)
        return found


def floor(source: str | None, size: int) -> Answer:
    """The figures of test images. The classifier is in the cache from here on."""
    judge = Judge(load(source), size)
    return judge.figures(judge.tests)


# ---- a run ---------------------------------------------------------------------------------------------------------


def run(path: str, source: str | None, task: Answer) -> Answer:
    """Trains, measures, writes a picture beside `path`, and then `path`: all that zoo.py wants to know of it.

    A training that is refused, or that diverges, is a result. Any other error is a fault, which leaves no file.
    """
    result: Answer = {"task": task, "failed": None, "seconds": None, "figures": {}}
    data, image = None if task["table"] == TOYS else load(source), Path(path).with_suffix(".png")
    try:
        samples = toy(task) if data is None else from_images(data, task)
    except (FloatingPointError, Refused) as error:
        result["failed"] = str(error)
        image.unlink(missing_ok=True)  # there may be one of an earlier run
    else:
        result["seconds"], (result["figures"], picture) = samples.seconds, measured(data, samples)
        replace(image, lambda part: _save(picture, part))
    replace(Path(path), lambda part: Path(part).write_text(json.dumps(result, indent=1) + "\n"))
    return {"failed": result["failed"]}


def from_images(data: DataSet, task: Answer) -> Samples:
    """Refused; FloatingPointError if the training, or what it makes, is not finite."""
    if task["row"] == "naive-bayes":
        return naive_bayes(data, task)
    trainee = Trainee(task["row"], data, task["seed"], task["steps"])
    trainee.steps(task["steps"])
    training = trainee.training
    recipe, settings = training.recipe, training.settings
    codes, prior = latent_vectors(recipe, settings, "evaluation", FAKES), recipe.latent(settings)
    some, columns = shown_codes(recipe, settings)
    fakes, shown = training.generate(codes), training.generate(some[: SHOWN_ROWS * columns])
    if not np.isfinite(fakes).all():
        raise FloatingPointError(f"step {task['steps']}: G makes images that are not finite")
    labels = prior.labels(codes) if prior.categories and data.labels is not None else None
    return Samples(trainee.seconds, fakes, shown, columns, labels, training)


def naive_bayes(data: DataSet, task: Answer) -> Samples:
    from minigan.gan.baselines import naive_bayes_pixels

    start = time.process_time()
    fakes, labels = naive_bayes_pixels(data.images, data.labels).sample(FAKES, Generator(task["seed"], "naive bayes"))
    seconds, classes = time.process_time() - start, np.unique(labels)
    places = [np.flatnonzero(labels == label) for label in classes]
    some = [place[row % len(place)] for row in range(SHOWN_ROWS) for place in places]
    return Samples(seconds, fakes, fakes[some], len(classes), labels if data.labels is not None else None)


def toy(task: Answer) -> Points:
    """A system in the plane. FloatingPointError as `from_images`."""
    from minigan.gan import toys
    from minigan.gan.baselines import em_gaussian_mixture

    row, seed = task["row"], task["seed"]
    mixture, judge = toys.MIXTURES[task["data"]], Generator(seed, "zoo")
    mixture.sample(1, judge)  # loads the kernels; and so does a step, below
    if row in toys.TOYS:
        toys.play(row, mixture, seed, steps=1)
    start, critic = time.process_time(), None
    if row == "perfect":
        fakes = mixture.sample(toys.SCORED, judge)
    elif row == "em":
        points = mixture.sample(FAKES, Generator(seed, "data"))
        fakes = em_gaussian_mixture(points, len(mixture.means), Generator(seed, "em")).sample(toys.SCORED, judge)
    else:
        if row == "untrained":
            G: Module = toys.mlp(2, Generator(seed, "init"))
        else:
            G, D = toys.play(row, mixture, seed, task["steps"])
            critic = D if toys.TOYS[row].objective.critic else None
        fakes = toys.compute(G, judge.normal((toys.SCORED, toys.LATENT)))
    seconds = time.process_time() - start
    if not np.isfinite(fakes).all():
        raise FloatingPointError("G makes points that are not finite")
    return Points(seconds, fakes, mixture.sample(toys.PAIRED, judge), mixture, critic)


# ---- what is measured of it ----------------------------------------------------------------------------------------


def measured(data: DataSet | None, samples: Samples | Points) -> tuple[Answer, Array]:
    """Figures, and a picture."""
    if isinstance(samples, Points):
        from minigan.gan.toys import evaluate

        return evaluate(samples.mixture, samples.fakes, samples.real, samples.critic), scatter(samples.fakes)
    assert data is not None
    assert data.test_images is not None  # a Judge refuses others
    fakes, training = samples.fakes, samples.training
    judge = Judge(data, fakes.shape[1])
    found = judge.figures(fakes)
    if samples.labels is not None and judge.classifier is not None:
        assert data.labels is not None
        assert data.test_labels is not None
        tests, taught = (data.test_images, data.test_labels), training is None or training.recipe.conditional
        found |= label_scores(fakes, samples.labels, data.images, data.labels, *tests, judge.classifier, taught)
    if data.name == TRIANGLES and training is not None:
        size = training.recipe.latent(training.settings).size
        found |= measure_triangles(training.sampler, size, fakes, data.images, data.test_images)
    return found, grid(samples.shown, samples.columns)


# ---- pictures ------------------------------------------------------------------------------------------------------


def grid(images: Array, columns: int) -> Array:
    """Bytes (height, width, C) of images (N, H, W, C), row by row, a pixel apart, in GREYS shades."""
    shades = to_bytes(images) // (256 // GREYS) * (255 // (GREYS - 1))
    N, H, W, C = shades.shape
    rows = -(-N // columns)
    out = np.full((rows, H + 1, columns, W + 1, C), 128, np.uint8)
    for i, image in enumerate(shades):
        out[i // columns, :H, i % columns, :W] = image
    return out.reshape(rows * (H + 1), columns * (W + 1), C)[:-1, :-1]


def scatter(points: Array, edge: float = 2.2, size: int = 116) -> Array:
    """Bytes (size, size, 1): points (N, 2) in black on white, the vertical axis upwards."""
    cells = np.floor((points + edge) / (2 * edge) * size).astype(int)
    x, y = cells[((cells >= 0) & (cells < size)).all(axis=1)].T
    out = np.full((size, size, 1), 255, np.uint8)
    out[size - 1 - y, x] = 0
    return out


def _save(picture: Array, part: str) -> None:
    from PIL import Image

    image = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(image).save(part, format="png", optimize=True)


JOBS: dict[str, Callable[..., Answer]] = {"calibrate": calibrate, "floor": floor, "run": run}

if __name__ == "__main__":
    words = json.loads(sys.argv[1])
    print(json.dumps(JOBS[words.pop("job")](**words)), flush=True)
