"""What the tables of benchmarks/zoo.py compare. A row is what follows `minigan train`: a recipe and its keys."""

import re
from typing import Any, NamedTuple


class Table(NamedTuple):
    heading: str
    question: str  # what the table tells, a sentence
    rows: tuple[str, ...]
    seeds: int
    seconds: int  # of training, each run
    more_data: tuple[str, ...] = ()  # beside --data
    panels: tuple[tuple[int, str], ...] = ()  # of the picture: which of the data, and which figure


BASELINES = {
    "naive-bayes": "pixels that are independent, given the class: each is that pixel of a random image of the class",
    "perfect": "points of the mixture itself",
    "em": "as many Gaussians as there are modes, fitted by expectation maximisation",
    "untrained": "G before its first step",
}
"""Rows that are no recipes, and what they are."""

TOYS = "toys"

TABLES = {
    TOYS: Table(
        "Systems on Gaussians in the plane, at equal seconds",
        "Which modes are found, and how well, where all can be counted.",
        ("perfect", "em", "untrained"),  # and all of minigan.gan.toys.TOYS
        seeds=5,
        seconds=12,
        panels=((0, "modes_filled"), (1, "modes_filled")),
    ),
    "comparison": Table(
        "Objectives at equal seconds",
        "Which objective gets furthest in equal seconds, with the same nets where it can have them. The step size is "
        "the recipe's own, 2e-4 but for BEGAN's; `gan lr=1e-3` is there to show how much that alone decides.",
        ("minimax", "gan", "gan lr=1e-3", "lsgan", "wgan-clip", "wgan-gp", "dragan", "began", "vae"),
        seeds=3,
        seconds=60,
        more_data=("triangles",),
        panels=((0, "fid"), (1, "triangle_f1")),
    ),
    "conditional": Table(
        "Conditional systems at equal seconds",
        "Whether samples are of the class that was asked for.",
        ("cgan", "matching", "matching split=true", "acgan", "infogan", "projection", "naive-bayes"),
        seeds=3,
        seconds=60,
        panels=((0, "fid"), (0, "label_accuracy")),
    ),
    "tricks": Table(
        "Tricks, one at a time, at equal seconds",
        "What each trick adds to `gan`, which has none of them, when it has to pay for its own time. Rows of "
        "`improved` are `gan` with one key changed (`equalized=true` wants another step size with it); those from "
        "`sngan` on are systems of their own. `improved equalized=true`, `sagan`'s G and `vae-gan` take steps of 1e-3, "
        "and their fair neighbour is `gan lr=1e-3`; D's are 4e-4 in `sagan` and in `improved d_lr=4e-4`; all others "
        "are 2e-4, as in `gan`. So short a training tells what begins quickly, not what ends well.",
        (
            "gan",
            "gan lr=1e-3",
            "improved d_norm=spectral",
            "improved smoothing=0.9",
            "improved noise=0.1",
            "improved replay=50",
            "improved feature_matching=true",
            "improved minibatch=discrimination",
            "improved minibatch=std",
            "improved d_norm=none",
            "improved g_norm=virtual",
            "improved d_lr=4e-4",
            "improved g_norm=pixel",
            "improved equalized=true lr=1e-3",
            "improved attention=true",
            "improved g_norm=self-modulated",
            "sngan",
            "ragan",
            "fgan divergence=kl",
            "fgan divergence=pearson",
            "gan-r1",
            "sagan",
            "autoencoder",
            "vae-gan",
        ),
        seeds=3,
        seconds=40,
        panels=((0, "fid"), (0, "recall")),
    ),
}  # fmt: skip

FAKES = 10_000
"""Samples that the figures of images are of."""

ROUNDS, UPDATES, TOY_UPDATES = 6, 8, 50
"""To say what an update costs: how often each system has its turn; updates of G a turn, of images and in the plane."""

FIGURES = {
    "modes": ("modes", ".1f"),
    "modes_filled": ("filled", ".1f"),
    "high_quality": ("on target", ".1%"),
    "kl": ("KL", ".3f"),
    "std_ratio": ("spread", ".2f"),
    "w1": ("W1", ".3f"),
    "fid": ("FID", ".2f"),
    "fid_random": ("FID, untrained net", ".3f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "two_sample_accuracy": ("1-NN accuracy", ".3f"),
    "rarest": ("rarest class", ".1%"),
    "label_accuracy": ("label accuracy", ".1%"),
    "nearest_label_error": ("nearest-label error", ".1%"),
    "triangle_precision": ("triangles: precision", ".3f"),
    "triangle_recall": ("triangles: recall", ".3f"),
    "triangle_f1": ("F1", ".3f"),
    "triangle_distance": ("distance", ".3f"),
}
"""What may be measured: its column, and its format."""

PAPER_FID = {
    "minimax": "9.8 ± 0.9", "gan": "6.8 ± 0.5", "lsgan": "7.8 ± 0.6", "wgan-clip": "6.7 ± 0.4",
    "wgan-gp": "20.3 ± 5.0", "dragan": "7.6 ± 0.4", "began": "13.1 ± 1.0", "vae": "23.8 ± 0.6",
}  # fmt: skip
"""On MNIST, by Inception's features, the best of many settings: Lucic et al. 2018 (recalled)."""


def rows_of(name: str) -> tuple[str, ...]:
    """All rows of a table."""
    if name != TOYS:
        return TABLES[name].rows
    from minigan.gan.toys import TOYS as TRAINED

    return (*TABLES[name].rows, *TRAINED)


def slug(*parts: Any) -> str:
    """The name of a file: "improved-smoothing-0.9-mnist-0"."""
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", str(part).lower()).strip("-.") for part in parts)
