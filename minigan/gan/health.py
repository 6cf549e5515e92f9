"""What a run's files say is wrong with it: a title, the figures, and one sentence of advice each.

Bounds lie beyond what healthy runs of minigan had, as each says, and where there were broken ones, between. Curves are
judged by the median over the last fifth of the run, so that neither one bad batch nor the beginning counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from .records import Record, Row, rates

LEAST = 500
"""Rows below which no curve is judged: in its first 300 steps a healthy run looks collapsed, and D sure of itself."""
LAST = 5
"""A run's last part is a fifth of it."""
SURE = 0.01
"""D is sure when d_real is above 1 - SURE and d_fake_after below it. Healthy runs had 0.77 to 0.93 and 0.05 to 0.23 at
28 pixels, 0.87 to 0.94 and 0.05 to 0.12 at 64; a minimax run that never got away had 0.9999 and 0.0005."""
ALIKE = 0.5
"""Of `spread`: healthy runs had 0.84 to 1.04 at their end, collapsed ones 0.3 and less."""
ONE_BLUR = 0.25
"""The same without a D, where samples are blurred, and so nearer to each other: healthy autoencoders and VAEs had 0.35
to 0.51, a VAE that ignored its codes (sigma=8) 0.13."""
RARE = 0.01
"""Of the share that a class has among real images: healthy runs had a fifth and more of it."""
DUE = 5
"""So many samples must be due of a class, of those whose neighbours are looked up, before none is a surprise."""
UNCOVERED = {"recall": 0.25, "coverage": 0.05, "triangle_recall": 0.05}
"""Of what test images get: a healthy run had 0.68 of their recall, but only 0.25 of their coverage."""
SLOPE = 2.0
"""With a gradient penalty |dD/dx| is to be 1; healthy runs had 1.04, and up to 1.7 in their first hundred steps."""
PENALTY = 1.0
"""Of gp_lambda: the penalty where slopes are wrong by 1; healthy runs had 0.007 of it, and 0.5 at their beginning."""
FLAT = 1e-4
"""Of |dD/dx| under clipping: healthy runs had 0.013; at 1e-6 nothing reaches G."""
CLIPPED = 0.85
"""Of clip_share: healthy runs had 0.11 at their end, and up to 0.72 in their first 200 steps; a broken one 0.92."""
FADED = 0.1
"""Of the median of g_grad_norm over the first fifth: healthy runs of 500 steps and more kept a sixth at least, two
minimax runs that stuck a thirteenth and a fourteenth."""
COPIED = 0.3
"""Of nearest_ratio: test images have 1, healthy runs had 1.3 to 1.4, copies have 0, plain or thin images in between."""
NEAREST = 0.35
"""Of 1-NN accuracy: 0.5 is ideal, below it samples sit on single real images, as copies do. Test images had 0.53."""
SLOWED = 0.5
"""Of the throughput over the first fifth: undisturbed runs had 0.7 to 1.2, a machine shared with others went to 0.2."""


class Finding(NamedTuple):
    """What is wrong, the figures that say so, and what to do. Texts, not yet escaped."""

    title: str
    evidence: str
    advice: str


def warnings(record: Record, rows: Sequence[Row], metrics: Mapping[str, Any]) -> list[Finding]:
    """All that is wrong with a run, the gravest first; [] where nothing is, or nothing is known.

    rows: of metrics.jsonl, any columns; metrics: metrics.json, {} where it is not complete; both as records.py reads
    them. Of `record` the recipe, the settings and the numbers of steps and of training images count.
    """
    found = [_not_finite(rows), _incomplete(record, rows, metrics)]
    if len(rows) >= LEAST:
        found += [
            _sure(record, rows), _spread(record, rows), _slope(record, rows), _flat(rows), _clipped(rows),
            _faded(record, rows), _slowed(rows),
        ]  # fmt: skip
    found += _classes(record, metrics)
    found += _covered(record, metrics)
    found += [_copies(record, metrics)]
    return [finding for finding in found if finding is not None]


def told(findings: Sequence[Finding]) -> str:
    """One line for a terminal: "2 warnings: mode collapse; D is sure of everything"; "no warnings"."""
    if not findings:
        return "no warnings"
    count = f"{len(findings)} warning{'s' if len(findings) > 1 else ''}"
    return f"{count}: {'; '.join(finding.title for finding in findings)}"


def _not_finite(rows: Sequence[Row]) -> Finding | None:
    bad = [(row["step"], key, row[key]) for row in rows for key in row if not isfinite(row[key])]
    if not bad:
        return None
    step, key, value = bad[0]
    return Finding(
        "Numbers are not finite",
        f"{key} is {value} at step {step:,}; {_count(len({step for step, *_ in bad}), 'step')} of {len(rows):,} have "
        "such a number.",
        "Train again with a lower lr=, or with clip_norm=1.",
    )


def _incomplete(record: Record, rows: Sequence[Row], metrics: Mapping[str, Any]) -> Finding | None:
    if metrics:
        return None
    step = rows[-1]["step"] if rows else 0
    return Finding(
        "The run is not complete",
        f"It has {step:,} of {record.steps:,} steps, and was not measured.",
        "Go on with minigan resume, unless it is running at this moment.",
    )


def _sure(record: Record, rows: Sequence[Row]) -> Finding | None:
    real, fake = _end(rows, "d_real"), _end(rows, "d_fake_after")
    if real is None or fake is None or real <= 1 - SURE or fake >= SURE:
        return None
    other = "Train with the recipe gan, whose loss does not saturate" if record.recipe == "minimax" else _try(record)
    return Finding(
        "D is sure of everything",
        f"Over the last fifth, mean sigmoid(D) is {real:.4f} on real images and {fake:.4f} on samples.",
        f"{other}, or give D less of a lead: a lower lr=, or another seed=.",
    )


def _spread(record: Record, rows: Sequence[Row]) -> Finding | None:
    spread, judged = _end(rows, "spread"), _has_d(rows)
    if spread is None or spread >= (ALIKE if judged else ONE_BLUR):
        return None
    if not judged:
        return Finding(
            "Samples are blurred, and all alike",
            f"Over the last fifth, samples are {spread:.2f} times as far from each other as real images (healthy "
            "without a D: 0.35 to 0.5).",
            f"Train with {'a lower sigma=, or ' if 'sigma' in record.settings else ''}more steps=.",
        )
    return Finding(
        "Samples look alike: mode collapse",
        f"Over the last fifth, samples are {spread:.2f} times as far from each other as real images (healthy: 0.8 to "
        "1.1).",
        f"{_try(record)}, with a lower lr=, or another seed=.",
    )


def _classes(record: Record, metrics: Mapping[str, Any]) -> Iterator[Finding]:
    found, near, real = (
        list[int](metrics.get(f"{kind}_histogram") or []) for kind in ("predicted", "label", "reference")
    )
    real = real or [1] * len(found or near)  # older runs do not say
    total = sum(real)
    if not total or not all(len(counts) == len(real) for counts in (found, near) if counts):
        return
    rare = [i for i, count in enumerate(found) if real[i] and count < RARE * sum(found) * real[i] / total]
    missing = [i for i, count in enumerate(near) if not count and sum(near) * real[i] / total >= DUE]
    evidence = []
    if rare:
        shares = ", ".join(f"{i} ({found[i] / max(sum(found), 1):.2%})" for i in rare)
        evidence.append(f"Classes that the classifier hardly sees among {sum(found):,} samples: {shares}.")
    if missing:
        evidence.append(f"No sample's nearest training image is of class {', '.join(map(str, missing))}.")
    if evidence:
        yield Finding("Classes are missing", " ".join(evidence), f"Train longer, or {_try(record, 'try')}.")


def _covered(record: Record, metrics: Mapping[str, Any]) -> Iterator[Finding]:
    low = [
        (key, value, limit)
        for key, share in UNCOVERED.items()
        if (key.startswith("triangle") or metrics.get("fid") is not None)  # bounds for random features are not known
        and (value := metrics.get(key)) is not None
        and (limit := metrics.get(f"{key}_floor")) is not None
        and value < share * limit
    ]
    if low:
        yield Finding(
            "Much of the data is not covered",
            "; ".join(f"{_word(key)} is {value:.1%}, of test images {limit:.1%}" for key, value, limit in low) + ".",
            f"Train longer; if that does not help, G makes too few kinds of images: {_try(record, 'try')}, or a wider "
            "net.",
        )


def _slope(record: Record, rows: Sequence[Row]) -> Finding | None:
    slope, penalty, weight = _end(rows, "grad_norm"), _end(rows, "penalty"), record.settings.get("gp_lambda")
    if slope is None or penalty is None or isinstance(weight, (str, bool, type(None))):
        return None
    one_sided = record.settings.get("one_sided") is True
    least, wanted = (0.0, "at most 1") if one_sided else (1 / SLOPE, "1")
    if least <= slope <= SLOPE and penalty <= PENALTY * weight:
        return None
    return Finding(
        "The penalty does not hold D's slope",
        f"Over the last fifth, |dD/dx| is {slope:.3g} where it should be {wanted}, and the penalty {penalty:.3g} with "
        f"gp_lambda={weight:g}.",
        f"Train with {'gp_lambda=10 and ' if weight < 10 else ''}a lower lr=, or longer if this is the beginning.",
    )


def _flat(rows: Sequence[Row]) -> Finding | None:
    slope = _end(rows, "grad_norm")
    if slope is None or _end(rows, "clip_share") is None or slope >= FLAT:
        return None
    return Finding(
        "The critic is flat",
        f"Over the last fifth, |dD/dx| is {slope:.2g} (healthy under clipping: about 0.01), so nothing reaches G.",
        "Give a larger clip=, or use wgan-gp, which does not clip.",
    )


def _clipped(rows: Sequence[Row]) -> Finding | None:
    share = _end(rows, "clip_share")
    if share is None or share <= CLIPPED:
        return None
    return Finding(
        "The critic's weights are stuck at the clip",
        f"Over the last fifth, {share:.0%} of them lie at the clip (healthy: about 11 %).",
        "Lower lr=, or use wgan-gp, which does not clip.",
    )


def _faded(record: Record, rows: Sequence[Row]) -> Finding | None:
    now, early = _end(rows, "g_grad_norm"), _begin(rows, "g_grad_norm")
    if now is None or early is None or (now > 0 and now >= FADED * early):
        return None
    if not _has_d(rows):  # then it may just have learnt all that there is
        return None
    return Finding(
        "G hardly gets a gradient",
        f"The norm of its gradient is {now:.2g} in the last fifth and was {early:.2g} in the first.",
        f"{_try(record)}, whose loss does not saturate, with a lower lr= so that D does not run away.",
    )


def _copies(record: Record, metrics: Mapping[str, Any]) -> Finding | None:
    ratio, accuracy = metrics.get("nearest_ratio"), metrics.get("two_sample_accuracy")
    if (metrics.get("n_neighbours") or 0) < record.trained_on["shape"][0]:
        accuracy = None  # the images that were copied may not be among those that are looked at
    evidence = []
    if ratio is not None and ratio < COPIED:
        evidence.append(f"Samples are {ratio:.2f} times as far from the nearest training image as test images are.")
    if accuracy is not None and accuracy < NEAREST:
        evidence.append(f"A nearest neighbour tells samples from real images in {accuracy:.0%} of cases, below chance.")
    if not evidence:
        return None
    return Finding(
        "Training images may be memorised",
        " ".join(evidence),
        "Look at samples beside their nearest training images; train on more images, or for fewer steps.",
    )


def _slowed(rows: Sequence[Row]) -> Finding | None:
    speed = rates(rows)
    speed = speed[np.isfinite(speed)]
    part = len(speed) // LAST
    if part == 0:
        return None
    early, now = (float(np.median(values)) for values in (speed[:part], speed[-part:]))
    if now >= SLOWED * early:
        return None
    return Finding(
        "Training became slow",
        f"{now:,.0f} images a second in the last fifth, {early:,.0f} in the first.",
        "See what else ran on the machine; the result is not affected.",
    )


def _end(rows: Sequence[Row], key: str) -> float | None:
    """The median of a column over the last fifth of the rows; None where it is not there."""
    return _median(rows[-max(len(rows) // LAST, 1) :], key)


def _begin(rows: Sequence[Row], key: str) -> float | None:
    return _median(rows[: len(rows) // LAST], key)


def _median(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if key in row and isfinite(row[key])]
    return float(np.median(np.array(values, np.float64))) if values else None


def _has_d(rows: Sequence[Row]) -> bool:
    """Whether somebody judged the samples: not in autoencoders and VAEs."""
    return _end(rows, "d_loss") is not None


def _try(record: Record, verb: str = "Try") -> str:
    """Advice to take another recipe than the run's own; of those with labels, one that has them, too."""
    stable, other = ("projection", "cgan") if "classes" in record.settings else ("wgan-gp", "gan")
    return f"{verb} the recipe {other if record.recipe == stable else stable}"


def _word(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"
