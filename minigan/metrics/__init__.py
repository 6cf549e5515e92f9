"""How good generated samples are: pure functions of arrays, without anything downloaded.

Only classifier.py knows nets: it trains the one whose features the Fréchet distance compares.
"""

from .classifier import Classifier, train_classifier
from .frechet import fid, frechet_distance
from .mixtures import mixture_score
from .neighbours import nearest
from .report import describe, evaluate, own_fid
from .wasserstein import dual_bound, exact_w1

__all__ = [
    "Classifier",
    "describe",
    "dual_bound",
    "evaluate",
    "exact_w1",
    "fid",
    "frechet_distance",
    "mixture_score",
    "nearest",
    "own_fid",
    "train_classifier",
]
