"""How good generated images are: pure functions of arrays, without anything downloaded.

Only classifier.py knows nets: it trains the one whose features the Fréchet distance compares.
"""

from .classifier import Classifier, train_classifier
from .frechet import fid, frechet_distance
from .neighbours import nearest
from .report import describe, evaluate

__all__ = ["Classifier", "describe", "evaluate", "fid", "frechet_distance", "nearest", "train_classifier"]
