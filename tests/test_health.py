"""Warnings: none for healthy runs, its own for each trouble, with its figures and one sentence of advice."""

from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from minigan.gan.health import LEAST, Finding, told, warnings
from minigan.gan.records import Record

HEALTHY: dict[str, dict[str, float]] = {  # medians over the last fifth of real runs
    "gan": {"d_loss": 0.57, "g_loss": 1.66, "d_real": 0.77, "d_fake_before": 0.225, "d_fake_after": 0.224},
    "minimax": {"d_loss": 0.415, "g_loss": -0.185, "d_real": 0.837, "d_fake_before": 0.16, "d_fake_after": 0.16},
    "wgan-clip": {"d_loss": -0.0092, "w_estimate": 0.0092, "grad_norm": 0.0139, "clip_share": 0.12},
    "wgan-gp": {"d_loss": -0.97, "w_estimate": 1.04, "grad_norm": 1.04, "penalty": 0.07},
    "vae": {"g_loss": 233.0, "reconstruction": 210.0, "kl": 23.1, "spread": 0.35},
    "autoencoder": {"g_loss": 65.7, "reconstruction": 65.7, "spread": 0.51},
}
MEASURED: dict[str, Any] = {
    "step": 100, "n": 10000, "predicted_histogram": [1000] * 8 + [1700, 300], "classes_present": 10,
    "n_neighbours": 5000, "fid": 7.2, "nearest_ratio": 1.33, "recall": 0.5, "recall_floor": 0.8, "coverage": 0.24,
    "coverage_floor": 0.957, "two_sample_accuracy": 0.8,
}  # fmt: skip


def record(recipe: str, **settings: Any) -> Record:
    trained_on = {"name": "MNIST", "shape": [60000, 28, 28, 1], "sha256": "ab" * 32}
    return Record(Path("run"), recipe, {"gp_lambda": 10.0, **settings}, 600, trained_on, "0.1.0", 2)


def rows_of(recipe: str = "gan", steps: int = 600, end: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """Of a healthy run, but for what `end` says of its last fifth."""
    rows = [
        {"step": i, "images": 64 * i, "seconds": i / 10, **HEALTHY[recipe], "g_grad_norm": 2.0}
        | ({"spread": HEALTHY[recipe].get("spread", 0.9)} if i % 5 == 0 else {})
        for i in range(1, steps + 1)
    ]
    for row in rows[steps - steps // 5 :]:
        row |= end or {}
    return rows


def found(recipe: str = "gan", metrics: Any = MEASURED, settings: Any = None, **end: float) -> list[Finding]:
    return warnings(record(recipe, **(settings or {})), rows_of(recipe, end=end), metrics)


@pytest.mark.parametrize("recipe", list(HEALTHY))
def test_healthy_runs_have_none(recipe: str) -> None:
    assert found(recipe) == []
    assert warnings(record(recipe), [], MEASURED) == []
    assert warnings(record(recipe), rows_of(recipe), {"step": 100}) == []


SURE = {"d_real": 0.9999, "d_fake_after": 0.0005}
TROUBLES: dict[str, tuple[list[Finding], str, str]] = {
    "sure": (
        found(**SURE),
        "D is sure of everything",
        "Over the last fifth, mean sigmoid(D) is 0.9999 on real images and 0.0005 on samples. "
        "Try the recipe wgan-gp, or give D less of a lead: a lower lr=, or another seed=.",
    ),
    "alike": (
        found(spread=0.1),
        "Samples look alike: mode collapse",
        "Over the last fifth, samples are 0.10 times as far from each other as real images (healthy: 0.8 to 1.1). "
        "Try the recipe wgan-gp, with a lower lr=, or another seed=.",
    ),
    "steep": (
        found("wgan-gp", grad_norm=428.0, penalty=182.0, settings={"gp_lambda": 0.001}),
        "The penalty does not hold D's slope",
        "Over the last fifth, |dD/dx| is 428 where it should be 1, and the penalty 182 with gp_lambda=0.001. "
        "Train with gp_lambda=10 and a lower lr=, or longer if this is the beginning.",
    ),
    "flat": (
        found("wgan-clip", grad_norm=1.2e-6),
        "The critic is flat",
        "Over the last fifth, |dD/dx| is 1.2e-06 (healthy under clipping: about 0.01), so nothing reaches G. "
        "Give a larger clip=, or use wgan-gp, which does not clip.",
    ),
    "clipped": (
        found("wgan-clip", clip_share=0.923),
        "The critic's weights are stuck at the clip",
        "Over the last fifth, 92% of them lie at the clip (healthy: about 11 %). "
        "Lower lr=, or use wgan-gp, which does not clip.",
    ),
    "faded": (
        found("minimax", g_grad_norm=0.015),
        "G hardly gets a gradient",
        "The norm of its gradient is 0.015 in the last fifth and was 2 in the first. Try the recipe wgan-gp, whose "
        "loss does not saturate, with a lower lr= so that D does not run away.",
    ),
    "classes": (
        found(metrics={**MEASURED, "predicted_histogram": [5000, 4995, 5], "label_histogram": [600, 400, 0]}),
        "Classes are missing",
        "Classes that the classifier hardly sees among 10,000 samples: 2 (0.05%). No sample's nearest training image "
        "is of class 2. Train longer, or try the recipe wgan-gp.",
    ),
    "covered": (
        found(metrics={**MEASURED, "recall": 0.01}),
        "Much of the data is not covered",
        "Recall is 1.0%, of test images 80.0%. Train longer; if that does not help, G makes too few kinds of images: "
        "try the recipe wgan-gp, or a wider net.",
    ),
    "copies": (
        found(metrics={**MEASURED, "nearest_ratio": 0.1, "two_sample_accuracy": 0.2, "n_neighbours": 60000}),
        "Training images may be memorised",
        "Samples are 0.10 times as far from the nearest training image as test images are. A nearest neighbour tells "
        "samples from real images in 20% of cases, below chance. Look at samples beside their nearest training images; "
        "train on more images, or for fewer steps.",
    ),
    "incomplete": (
        found(metrics={}),
        "The run is not complete",
        "It has 600 of 600 steps, and was not measured. Go on with minigan resume, unless it is "
        "running at this moment.",
    ),
}


@pytest.mark.parametrize("name", list(TROUBLES))
def test_each_trouble_has_its_own(name: str) -> None:
    findings, title, text = TROUBLES[name]
    assert [(f.title, f"{f.evidence} {f.advice}") for f in findings] == [(title, text)]
    assert findings[0].advice.count(".") == 1


def test_minimax_is_told_of_the_other_loss() -> None:
    assert "the recipe gan, whose loss does not saturate" in found("minimax", **SURE)[0].advice


@pytest.mark.parametrize(
    "end",
    [
        {"d_real": 0.98, "d_fake_after": 0.033},
        {"g_grad_norm": 0.33},
        {"d_real": 0.9999},
        {"d_fake_after": 0.0001},
        {"spread": 0.52},
    ],
)
def test_what_is_near_a_bound_and_no_trouble(end: dict[str, float]) -> None:
    assert found(**end) == []


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_numbers_that_are_not_finite(value: float) -> None:
    rows = rows_of()
    rows[36]["d_loss"] = rows[90]["d_loss"] = value
    (finding,) = warnings(record("gan"), rows, MEASURED)
    assert finding.title == "Numbers are not finite"
    assert finding.evidence == f"d_loss is {value} at step 37; 2 steps of 600 have such a number."


def test_throughput_that_fell() -> None:
    rows = rows_of()
    for i in range(360, 600):
        rows[i]["seconds"] = rows[i - 1]["seconds"] + 0.21
    (finding,) = warnings(record("gan"), rows, MEASURED)
    assert finding.title == "Training became slow"
    assert finding.evidence == "305 images a second in the last fifth, 640 in the first."
    for row in rows:
        del row["images"]
    assert warnings(record("gan"), rows, MEASURED) == []


def test_the_beginning_and_single_steps_do_not_count() -> None:
    rows = rows_of()
    for row in [*rows[:240], rows[580]]:
        row |= SURE
    assert warnings(record("gan"), rows, MEASURED) == []
    short = rows_of(steps=LEAST - 1, end=SURE)
    assert warnings(record("gan"), short, MEASURED) == []
    assert len(warnings(record("gan"), rows_of(steps=LEAST, end=SURE), MEASURED)) == 1


@pytest.mark.parametrize(
    "metrics",
    [
        {**MEASURED, "predicted_histogram": [0, 0]},
        {**MEASURED, "recall": 0.01, "recall_floor": None},
        {**MEASURED, "recall": 0.2, "recall_floor": 0.3},
        dict.fromkeys(MEASURED),
    ],
)
def test_what_is_not_known_is_no_trouble(metrics: dict[str, Any]) -> None:
    assert found(metrics=metrics) == []
    assert found("wgan-gp", settings={"gp_lambda": "x"}, grad_norm=9.0) == []


def test_no_run_is_told_to_take_its_own_recipe() -> None:
    for recipe in HEALTHY:
        for end in (SURE, {"spread": 0.1}, {"g_grad_norm": 0.0}):
            for finding in found(recipe, **end):
                assert f"the recipe {recipe}," not in finding.advice


def test_classes_that_real_images_do_not_have_are_not_missed() -> None:
    """Labels from 1 on; a class that is rare among real images, too."""
    real = {"reference_histogram": [0, 5000, 4990, 10], "label_histogram": [0, 600, 400, 0]}
    assert found(metrics={**MEASURED, **real, "predicted_histogram": [0, 5000, 4995, 5]}) == []
    (finding,) = found(metrics={**MEASURED, **real, "predicted_histogram": [0, 9999, 1, 0]})
    assert finding.evidence == "Classes that the classifier hardly sees among 10,000 samples: 2 (0.01%), 3 (0.00%)."
    (finding,) = found(metrics={**MEASURED, **real, "label_histogram": [0, 1000, 0, 0], "predicted_histogram": None})
    assert finding.evidence == "No sample's nearest training image is of class 2."


def test_a_gradient_that_was_never_there() -> None:
    rows = [{**row, "g_grad_norm": 0.0} for row in rows_of()]
    assert [finding.title for finding in warnings(record("gan"), rows, MEASURED)] == ["G hardly gets a gradient"]


def test_pictures_that_are_far_between() -> None:
    """One in the last fifth of the rows counts; without any, nothing is known."""
    rows = rows_of()
    for row in rows:
        row.pop("spread", None)
    rows[100]["spread"] = 0.1
    assert warnings(record("gan"), rows, MEASURED) == []
    rows[500]["spread"] = 0.1
    (finding,) = warnings(record("gan"), rows, MEASURED)
    assert finding.title == "Samples look alike: mode collapse"


def test_who_has_the_usual_weight_is_not_told_to_take_it() -> None:
    (finding,) = found("wgan-gp", grad_norm=9.0, penalty=640.0)
    assert finding.advice == "Train with a lower lr=, or longer if this is the beginning."


def test_few_of_many_images_cannot_show_copies() -> None:
    assert found(metrics={**MEASURED, "two_sample_accuracy": 0.2}) == []
    assert found(metrics={**MEASURED, "nearest_ratio": 0.5}) == []  # as thin digits are


def test_by_the_features_of_an_untrained_net_no_bound_is_known() -> None:
    assert found(metrics={**MEASURED, "recall": 0.01, "fid": None}) == []


def test_all_in_a_line() -> None:
    assert told([]) == "no warnings"
    assert told(found(**SURE)) == "1 warning: D is sure of everything"
    both = found(metrics={}, **SURE)
    assert told(both) == "2 warnings: The run is not complete; D is sure of everything"


def test_without_a_d_samples_may_be_blurred() -> None:
    """0.13: of a VAE that ignored its codes. Nobody is told of a D, nor that the gradient fell with the loss."""
    (finding,) = found("vae", spread=0.13, settings={"sigma": 8.0})
    assert finding == Finding(
        "Samples are blurred, and all alike",
        "Over the last fifth, samples are 0.13 times as far from each other as real images (healthy without a D: 0.35 "
        "to 0.5).",
        "Train with a lower sigma=, or more steps=.",
    )
    assert found("autoencoder", spread=0.1)[0].advice == "Train with more steps=."
    assert found("vae", g_grad_norm=0.01) == []
    with_d = [row | {"reconstruction": 9.0} for row in rows_of("gan", end={"spread": 0.35})]  # as VAE-GAN has
    assert [f.title for f in warnings(record("vae-gan"), with_d, MEASURED)] == ["Samples look alike: mode collapse"]


def test_a_run_with_labels_is_sent_where_there_are_some() -> None:
    rows = rows_of(end={"spread": 0.1})
    for recipe, other in {"cgan": "projection", "acgan": "projection", "projection": "cgan"}.items():
        (finding,) = warnings(record(recipe, classes=10), rows, MEASURED)
        assert finding.advice == f"Try the recipe {other}, with a lower lr=, or another seed=."


def test_a_one_sided_penalty_allows_small_slopes() -> None:
    small = {"grad_norm": 0.3, "penalty": 0.001}
    assert found("wgan-gp", settings={"one_sided": True}, **small) == []
    assert len(found("wgan-gp", settings={"one_sided": False}, **small)) == 1
    (finding,) = found("wgan-gp", settings={"one_sided": True}, grad_norm=3.0, penalty=40.0)
    assert finding.evidence.startswith("Over the last fifth, |dD/dx| is 3 where it should be at most 1, and the ")
