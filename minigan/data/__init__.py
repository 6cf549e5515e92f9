"""Data sets, as NumPy arrays."""

from .batches import batches, resize
from .drawn import drawn_digits
from .mixtures import GRID25, RING8, Mixture
from .mnist import load_mnist, read_idx
from .sources import DataSet, load
from .triangles import drawn_triangles

__all__ = [
    "GRID25",
    "RING8",
    "DataSet",
    "Mixture",
    "batches",
    "drawn_digits",
    "drawn_triangles",
    "load",
    "load_mnist",
    "read_idx",
    "resize",
]
