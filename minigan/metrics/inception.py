"""The inception score: whether samples are of one class each, and all together of every class."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class InceptionScore(NamedTuple):
    """score = exp(marginal - conditional), from 1 to the number of classes K.

    marginal: H(y), the entropy of the mean of all probabilities: log K if all classes are equally frequent.
    conditional: E H(y|x), the mean entropy of one sample's: 0 if the classifier is sure of each. Both in nats.
    """

    score: float
    marginal: float
    conditional: float


def inception_score(probabilities: NDArray[Any]) -> InceptionScore:
    """Of a classifier's `probabilities` (N, K), in float64: exp(H(y) - E H(y|x)).

    T. Salimans et al., "Improved techniques for training GANs", 2016, who take an Inception net, and the mean score
    of ten parts; here all N are one part, which a score needs to see rare classes. One sharp image of each class gets
    the best score, so look at the entropies, and at other measures. It is biased downwards, the more the smaller N is.
    ValueError unless N and K are at least 1 and each row is of probabilities: none below 0, 1 together.
    """
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(f"inception_score: probabilities must be (N, K), N and K above 0, not {probabilities.shape}")
    p = probabilities.astype(np.float64)
    sums = p.sum(1)
    wrong = ~((np.abs(sums - 1) < 1e-3) & (p >= 0).all(1))  # NaN is not below it
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"inception_score: row {row} of the probabilities has a least of {p[row].min():g} and a sum of "
            f"{sums[row]:g}; take a softmax of the logits first"
        )
    p /= sums[:, None]
    marginal, conditional = float(_entropy(p.mean(0))), float(_entropy(p).mean())
    return InceptionScore(float(np.exp(marginal - conditional)), marginal, conditional)


def _entropy(p: NDArray[Any]) -> Any:
    """Along the last axis, in nats; 0 log 0 = 0."""
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
