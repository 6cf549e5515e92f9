"""What the numbers about a set of generated images say in words."""

from collections.abc import Mapping, Sequence
from typing import Any


def describe(metrics: Mapping[str, Any]) -> str:
    """What `Reference.evaluate` found, a line a family; what was not measured has no line.

    In brackets stands what as many test images get.
    """

    def has(*keys: str) -> bool:
        return all(metrics.get(key) is not None for key in keys)

    def shown(key: str, form: str) -> str:
        floor = f" ({metrics[f'{key}_floor']:{form}})" if has(f"{key}_floor") else ""
        return f"{metrics[key]:{form}}{floor}"

    n, n_reference, few = (f"{metrics[key]:,}" if has(key) else "?" for key in ("n", "n_reference", "n_neighbours"))
    sizes = f"{n} samples against {n_reference} training images"
    lines = []
    if any(key.endswith("_floor") for key in metrics):
        lines += ["In brackets: what as many test images get"]
    elif has("n"):
        lines += ["There are no test images: no floors to compare these numbers with"]
    if has("fid"):
        lines += [f"FID (own features, {sizes}): {shown('fid', '.2f')}"]
    if has("classifier_accuracy"):
        lines += [
            f"The features are of a classifier of 28 pixels that gets {metrics['classifier_accuracy']:.1%} of the test "
            "images right; this FID compares with no published one"
        ]
    if has("kid"):
        error = f", standard error {metrics['kid_error']:.4f}" if has("kid_error") else ""
        lines += [f"KID (own features, {sizes}): {shown('kid', '.4f')}{error}"]
    if has("fid_random", "kid_random"):
        lines += [
            f"By the features of an untrained net, {sizes}: FID {shown('fid_random', '.4f')}, "
            f"KID {shown('kid_random', '.5f')}"
        ]
    if has("inception_score", "marginal_entropy", "conditional_entropy"):
        lines += [
            f"Inception score (own classifier, {n} samples): {shown('inception_score', '.2f')}; entropy "
            f"of the classes {shown('marginal_entropy', '.3f')}, of one sample {shown('conditional_entropy', '.3f')}"
        ]
    if has("precision", "recall", "density", "coverage"):
        parts = (f"{key} {shown(key, '.3f')}" for key in ("precision", "recall", "density", "coverage"))
        lines += [f"Neighbourhoods of {few} samples and {few} training images: {', '.join(parts)}"]
    if has("two_sample_accuracy", "two_sample_accuracy_real", "two_sample_accuracy_fake"):
        lines += [
            f"Told apart by the nearest other, {few} samples and {few} training images: "
            f"{shown('two_sample_accuracy', '.1%')}, 50% is ideal; of training images "
            f"{shown('two_sample_accuracy_real', '.1%')}, of samples {shown('two_sample_accuracy_fake', '.1%')}"
        ]
    if has("mean_pairwise_distance"):
        lines += [f"Mean distance between {few} samples: {shown('mean_pairwise_distance', '.2f')}"]
    if has("triangle_precision", "triangle_recall", "triangle_f1", "triangle_delta", "triangle_distance"):
        parts = (f"{key} {shown(f'triangle_{key}', '.3f')}" for key in ("precision", "recall"))
        lines += [
            f"Triangles, within {metrics['triangle_delta']:.2f}: {', '.join(parts)}, F1 {shown('triangle_f1', '.3f')}; "
            f"the median sample is {shown('triangle_distance', '.3f')} from the nearest triangle"
        ]
    if has("label_accuracy", "nearest_label_error"):
        lines += [
            f"Labels: the classifier reads {shown('label_accuracy', '.1%')} of samples as asked (categories that "
            f"nobody taught: as the labels that fit best); {shown('nearest_label_error', '.1%')} of test images have a "
            "nearest sample of another label"
        ]
    if has("label_histogram", "classes_present"):
        counts = metrics["label_histogram"]
        lines += [
            f"Classes among {sum(counts):,} samples, by nearest training image: {_counts(counts)}; "
            f"{metrics['classes_present']} of {number_of_classes(metrics)} present"
        ]
    if has("predicted_histogram"):
        counts = metrics["predicted_histogram"]
        lines += [
            f"Classes among {sum(counts):,} samples, by the classifier: {_counts(counts)}; "
            f"the rarest has {rarest_share(metrics):.1%}"
        ]
    if has("nearest_ratio"):
        lines += [
            f"Nearest training image: {metrics['nearest_ratio']:.2f} times as far as from test images "
            "(far below 1: memorised)"
        ]
    elif metrics.get("nearest_train_of_test") == 0:
        lines += ["Nearest training image: as near as copies are, for test images too"]
    elif has("nearest_train"):
        lines += [f"Nearest training image: {metrics['nearest_train']:.2f} away, near 0 would be copies"]
    return "\n".join(lines)


def number_of_classes(metrics: Mapping[str, Any]) -> int | None:
    """Of real images; of runs that do not say, the classifier's."""
    real: Sequence[int] = metrics.get("reference_histogram") or []
    known = real or metrics.get("predicted_histogram") or metrics.get("label_histogram") or []
    return sum(count > 0 for count in real) or len(known) or None


def rarest_share(metrics: Mapping[str, Any]) -> float | None:
    """The least share of a class among the samples, as the classifier reads them, of those that real images have."""
    found: Sequence[int] = metrics.get("predicted_histogram") or []
    real: Sequence[int] = metrics.get("reference_histogram") or []
    if len(real) == len(found):
        found = [count for count, among_real in zip(found, real, strict=True) if among_real]
    return min(found) / sum(found) if sum(found) else None


def _counts(histogram: Sequence[int]) -> str:
    return " ".join(f"{label}:{count}" for label, count in enumerate(histogram))
