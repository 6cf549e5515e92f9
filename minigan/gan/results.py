"""What metrics.json holds, in groups: how each number is written, which way is better, and what it means."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .compare import text_of


class Measure(NamedTuple):
    """A number of metrics.json, beside `<key>_floor`. better: which values are; ideal: said where there is no floor."""

    key: str
    title: str
    form: str
    better: Literal["lower", "higher", "near the floor", "at 50 %"] | None
    meaning: str
    ideal: str = ""


DISTANCE = "by features of minigan's own classifier; it compares only with runs on the same data with as many samples"

GROUPS: dict[str, tuple[Measure, ...]] = {
    "Distance from real images": (
        Measure("fid", "FID", ".2f", "lower", f"How far samples are from training images, {DISTANCE}."),
        Measure("kid", "KID", ".3g", "lower", "The same by a kernel, without FID's bias for few samples."),
        Measure(
            "fid_random", "FID, random features", ".3g", "lower", "A second opinion: by a net that nobody trained."
        ),
        Measure(
            "kid_random", "KID, random features", ".3g", "lower", "A second opinion: by a net that nobody trained."
        ),
    ),
    "Fidelity and variety": (
        Measure("precision", "Precision", ".1%", "higher", "The share of samples that lie among real images."),
        Measure("recall", "Recall", ".1%", "higher", "The share of real images that lie among samples."),
        Measure("density", "Density", ".3f", "higher", "How thickly real images surround samples; more than 1 can be."),
        Measure("coverage", "Coverage", ".1%", "higher", "The share of real images with a sample near by."),
        Measure(
            "two_sample_accuracy",
            "Two-sample accuracy",
            ".1%",
            "at 50 %",
            "How often a nearest neighbour tells samples from real images. Above 50 %, they differ, or some kinds are "
            "missing; below, samples sit on single real images.",
            "ideal: 50 %",
        ),
        Measure(
            "inception_score",
            "Inception score",
            ".2f",
            "higher",
            "By the own classifier: at most the number of classes. Sure of each sample, and all classes alike.",
        ),
        Measure(
            "mean_pairwise_distance",
            "Mean pairwise distance",
            ".2f",
            "near the floor",
            "Of samples from each other, in pixels of [-1, 1]. Far below real images', they are all alike.",
        ),
    ),
    "Labels": (
        Measure(
            "label_accuracy",
            "Label accuracy",
            ".1%",
            "higher",
            "The share of samples that the own classifier reads as the label that they were made for. Categories that "
            "nobody taught are each taken for the label that fits best, on the samples that it scores.",
        ),
        Measure(
            "nearest_label_error",
            "Nearest-label error",
            ".1%",
            "lower",
            "The share of test images whose nearest sample, in pixels, was made for another label. Low only if samples "
            "are right and varied.",
        ),
    ),
    "Copies": (
        Measure(
            "nearest_ratio",
            "Nearest training image",
            ".2f",
            None,
            "The median distance of samples to their nearest training image, by that of test images. Far below 1, "
            "training images were memorised.",
            "test images: 1",
        ),
    ),
    "Triangles": (
        Measure("triangle_precision", "Precision", ".1%", "higher", "The share of samples that are triangles."),
        Measure("triangle_recall", "Recall", ".1%", "higher", "The share of triangles that G can make."),
        Measure("triangle_f1", "F1", ".3f", "higher", "The harmonic mean of both."),
        Measure(
            "triangle_distance",
            "Distance",
            ".3f",
            "lower",
            "The median distance of samples to the nearest triangle, as a share of its ink.",
        ),
    ),
}

MEASURES: dict[str, Measure] = {measure.key: measure for group in GROUPS.values() for measure in group}


def value_of(measure: Measure, metrics: Mapping[str, Any]) -> str:
    """As it is written, with its standard error where that is known; or a dash."""
    error = metrics.get(f"{measure.key}_error")
    beside = "" if error is None else f" \N{PLUS-MINUS SIGN} {error:.2g}"
    return text_of(metrics.get(measure.key), measure.form) + beside


def floor_of(measure: Measure, metrics: Mapping[str, Any]) -> str:
    """What real images get, in words; "" where that is not known."""
    floor = metrics.get(f"{measure.key}_floor")
    return measure.ideal if floor is None else f"floor {format(floor, measure.form)}"


def best(measure: Measure, values: Sequence[float | None], floors: Sequence[float | None]) -> list[bool]:
    """Which of several runs are best. None is where fewer than two have the number, or nothing says which is better."""
    rank: dict[str | None, Callable[[float, float | None], float | None]] = {
        "lower": lambda value, floor: max(value, 0.0),  # KID is unbiased: below 0 there is nothing to win
        "higher": lambda value, floor: -value,
        "near the floor": lambda value, floor: None if floor is None else abs(value - floor),
        "at 50 %": lambda value, floor: abs(value - 0.5),
        None: lambda value, floor: None,
    }
    ranks = [
        None if value is None else rank[measure.better](value, floor)
        for value, floor in zip(values, floors, strict=True)
    ]
    known = [r for r in ranks if r is not None]
    return [len(known) > 1 and min(known) < max(known) and r == min(known) for r in ranks]
