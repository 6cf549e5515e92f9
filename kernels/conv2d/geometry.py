"""The sizes of a convolution, stated once and carried through all three of its operations."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Stride S, padding P, window (KH, KW) and input size (H, W), each a pair (vertical, horizontal).

    A transposed convolution has the geometry of the convolution that it transposes, so that `x_size` is the size
    that it *produces*: nothing has to be guessed back from a stride that leaves rows over.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    window: tuple[int, int]
    x_size: tuple[int, int]

    @property
    def y_size(self) -> tuple[int, int]:
        """(OH, OW) = floor((size + 2 P - K) / S) + 1."""
        (sh, sw), (ph, pw), (kh, kw), (h, w) = self
        return (h + 2 * ph - kh) // sh + 1, (w + 2 * pw - kw) // sw + 1
