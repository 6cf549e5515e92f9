"""Old fakes for D, so that it does not forget what G did before."""

from math import prod

import numpy as np

from .. import kernels
from ..creation import zeros
from ..nn import Module
from ..random import Generator
from ..tensor import Array, Tensor


class Replay(Module):
    """A pool of `size` past fakes of `shape`, (H, W, C), for `two_player` (Shrivastava et al. 2017, section 2.3).

    Called with fakes (N, *shape), an array, it returns as many, on the same device. Until the pool is full, they are
    the fakes themselves, of which the first go into the pool. From then on half of them, N / 2 rounded down but at
    most `size`, change places with images of the pool: which ones, and with which, is drawn from `generator`. So no
    image leaves the pool twice, and half of each batch is old, as in Shrivastava et al.; the exchange is that of
    CycleGAN (Zhu et al. 2017), whose pool of 50 decides for each image by a coin.

    Pool and count are buffers: with them and the generator a training goes on exactly. Labels are not kept: it is of
    no use to a conditional GAN.
    """

    def __init__(self, size: int, shape: tuple[int, ...], generator: Generator) -> None:
        if size < 1 or prod(shape) < 1:
            raise ValueError(f"Replay: needs size >= 1 and images that are not empty, but they are {size} and {shape}")
        self.images, self.seen = zeros((size, *shape)), Tensor(np.zeros((), np.int64))
        self.generator = generator

    def __call__(self, fakes: Array) -> Array:  # type: ignore[override]
        shape, dtype = self.images.shape[1:], self.images.dtype
        if fakes.ndim == 0 or len(fakes) == 0 or (fakes.shape[1:], fakes.dtype) != (shape, dtype):
            raise ValueError(
                f"Replay: fakes must be {dtype} (N, {', '.join(map(str, shape))}), but are {fakes.dtype} {fakes.shape}"
            )
        N, device = len(fakes), kernels.name_of(fakes)
        self.to(device)
        places: Array = kernels.ahead(self._places, N, device=device)
        both = kernels.concatenate([fakes, self.images.array], 0)
        shown: Array = kernels.take(both, places[:N])
        with self.images.writing() as images:
            kernels.take(both, places[N:], out=images)
        return shown

    def _places(self, N: int) -> Array:
        """Where N fakes and the pool, one behind the other, have those that are shown and then those that are kept."""
        size, before = len(self.images), int(self.seen.item())
        shown, kept = np.arange(N), np.arange(N, N + size)
        if before < size:
            kept[before : before + N] = shown[: size - before]
        else:
            half = min(N // 2, size)
            rows, slots = (self.generator.permutation(n)[:half] for n in (N, size))
            shown[rows], kept[slots] = kept[slots], shown[rows]
        with self.seen.writing() as seen:
            seen += N
        return np.concatenate([shown, kept])

    def options(self) -> str:
        return f"{len(self.images)} of {self.images.shape[1:]}"
