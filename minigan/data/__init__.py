"""Data sets, as NumPy arrays."""

from .batches import batches, enlarge
from .mnist import load_mnist, read_idx

__all__ = ["batches", "enlarge", "load_mnist", "read_idx"]
