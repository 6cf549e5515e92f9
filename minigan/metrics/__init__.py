"""How good generated samples are: pure functions of arrays, without anything downloaded.

Only classifier.py knows nets: it trains the one whose features are compared. reference.py puts all together.
"""

from .classifier import Classifier, train_classifier, untrained
from .diversity import mean_pairwise_distance
from .frechet import fid, frechet_distance
from .inception import InceptionScore, inception_score
from .kid import KernelDistance, kid
from .labels import assignment, label_accuracy, label_scores, matched_labels
from .manifold import density_coverage, precision_recall, two_sample_accuracy
from .mixtures import mixture_score, perfect_score
from .neighbours import memorisation, nearest, nearest_image, nearest_label_error
from .reference import Reference
from .report import describe
from .wasserstein import dual_bound, exact_w1

__all__ = [
    "Classifier",
    "InceptionScore",
    "KernelDistance",
    "Reference",
    "assignment",
    "density_coverage",
    "describe",
    "dual_bound",
    "exact_w1",
    "fid",
    "frechet_distance",
    "inception_score",
    "kid",
    "label_accuracy",
    "label_scores",
    "matched_labels",
    "mean_pairwise_distance",
    "memorisation",
    "mixture_score",
    "nearest",
    "nearest_image",
    "nearest_label_error",
    "perfect_score",
    "precision_recall",
    "train_classifier",
    "two_sample_accuracy",
    "untrained",
]
