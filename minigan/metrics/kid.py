"""The kernel distance of two sets of features: unlike the Fréchet distance, of no bias, and without Gaussians."""

from math import nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .frechet import check_features

Array = NDArray[Any]

ROWS = 1_000
"""Samples at a time, against all others."""


class KernelDistance(NamedTuple):
    """`value` is 0 in expectation where both sets are of one distribution, so often below 0 then.

    error: the standard error of the value, over the subsets; NaN where there is only one.
    """

    value: float
    error: float


def kid(features_a: Array, features_b: Array, subset: int = 1000) -> KernelDistance:
    """The unbiased MMD^2 of the kernel (x y / D + 1)^3, features (N_a, D) and (N_b, D) of any net.

    M. Binkowski et al., "Demystifying MMD GANs", 2018. The first N = min(N_a, N_b) rows of both, which must be in
    random order, fall into N // subset pairs of disjoint parts (one if N is less): each of `subset` rows, or a few
    more, so that none of the N is left out. The value is the mean over the pairs. The paper draws its subsets with
    replacement, so that they share rows; these are independent, and their standard error means what it says.
    ValueError if a set is not (N, D) with N > 1 and finite numbers, if the D differ, if `subset` is below 2, or if the
    numbers are too large for their sixth powers.
    """
    if subset < 2:
        raise ValueError(f"kid: a subset must have 2 or more samples, not {subset}")
    check_features("kid", features_a, features_b)
    N = min(len(features_a), len(features_b))
    parts = max(N // subset, 1)
    pairs = zip(np.array_split(features_a[:N], parts), np.array_split(features_b[:N], parts), strict=True)
    with np.errstate(all="ignore"):
        values = np.array([_mmd2(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs])
    if not np.isfinite(values).all():
        largest = max(np.abs(features_a).max(), np.abs(features_b).max())
        raise ValueError(f"kid: features of up to {largest:g} are too large for their sixth powers; scale them down")
    return KernelDistance(float(values.mean()), float(values.std(ddof=1)) / sqrt(parts) if parts > 1 else nan)


def _mmd2(a: Array, b: Array) -> float:
    """Of a (n, D) and b (n, D). No sample meets itself: that would be the bias."""
    n = len(a)
    within = sum(_total(x, x) - ((x * x).mean(1) + 1) @ ((x * x).mean(1) + 1) ** 2 for x in (a, b)) / (n * (n - 1))
    return float(within - 2 * _total(a, b) / n**2)


def _total(a: Array, b: Array) -> float:
    """The sum of the kernel over all pairs, some rows at a time."""
    total = 0.0
    for start in range(0, len(a), ROWS):
        k = a[start : start + ROWS] @ b.T
        k /= a.shape[1]
        k += 1
        total += float(np.einsum("ij,ij,ij->", k, k, k))
    return total
