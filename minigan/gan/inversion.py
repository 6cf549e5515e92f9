"""What a generator can make: images are inverted, by gradient descent on its latent vectors; recall follows from that.

M. Lucic et al., "Are GANs created equal? A large-scale study", 2018, measure recall so where the manifold of the data
is known: as the share of held-out images that G can come near enough to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import kernels
from ..data import triangles
from ..metrics.images import pixels
from ..metrics.neighbours import nearest_image
from ..metrics.triangles import DELTA, fit, relative, shape_distances
from ..nn import Module, Parameter
from ..optim import Adam
from ..random import Generator
from ..tensor import Array, Tensor

LR = 1.0
"""In 100 steps 1, 2 and 4 came equally near to triangles, to 6 %; 0.6 and less stopped short. 1 is the gentlest."""
AT_ONCE = 256  # latent vectors
FITS = 2_000  # fakes, and as many test images, whose distance to the manifold is measured
TARGETS = 300  # test images that are inverted: a share of them is known to 3 % at worst, one deviation


def invert(
    G: Module,
    targets: Array,
    latent: int,
    restarts: int = 4,
    steps: int = 100,
    generator: Generator | None = None,
    lr: float = LR,
    device: str = "cpu",
) -> tuple[Array, Array]:
    """The z (N, latent) found for each x of `targets` (N, H, W, C) with the least |G(z) - x|, and that distance (N,).

    targets: floats in [-1, 1]. The distance, float64, is Euclidean over all pixels in [-1, 1]: twice as many as in
    [0, 1]. From `restarts` normal z each, drawn from `generator` (none: always the same), Adam takes `steps` steps
    whose length `lr` falls to 0 in a straight line; the best z of all is kept. Each is held within the ball that the
    prior fills, of radius sqrt(latent) + 2.5, beyond which less than one draw in 1,000 lies: far outside, G makes
    images that it never makes when it is asked for samples.
    G is in eval mode meanwhile, its weights get no gradient; both are as before afterwards, after an error too.
    All of z is taken for normal noise: of codes with categories or uniform numbers, values that are never drawn are
    tried, too.
    ValueError for other targets, or numbers that are out of range.
    """
    if targets.ndim != 4 or targets.dtype.kind != "f" or not len(targets):
        raise ValueError(
            f"invert: targets must be N > 0 float images (N, H, W, C), but are {targets.dtype} {targets.shape}"
        )
    if not np.abs(targets).max() <= 1.001:  # what resizing may round to; NaN is not <= either
        raise ValueError(
            f"invert: targets must be in [-1, 1], but go from {targets.min():g} to {targets.max():g}; scale them as "
            "training images are"
        )
    if min(latent, restarts, steps) < 1 or not lr > 0:
        raise ValueError(
            f"invert: latent, restarts and steps must be 1 or more and lr above 0, but are {latent}, {restarts}, "
            f"{steps} and {lr}"
        )
    generator = generator or Generator(0, "inversion")
    found, distance = np.empty((len(targets), latent), np.float32), np.empty(len(targets))
    few = max(AT_ONCE // restarts, 1)
    with _frozen(G):
        for start in range(0, len(targets), few):
            x = np.repeat(targets[start : start + few].astype(np.float32), restarts, axis=0)
            z, squares = _descend(G, x, generator.normal((len(x), latent)), steps, lr, device)
            best = squares.reshape(-1, restarts).argmin(1) + np.arange(0, len(x), restarts)
            found[start : start + few], distance[start : start + few] = z[best], np.sqrt(squares[best])
    return found, distance


def _descend(G: Module, x: Array, start: Array, steps: int, lr: float, device: str) -> tuple[Array, Array]:
    """From each z of `start` (N, latent): the best that was met on the way, and its |G(z) - x|^2 (N,)."""
    z, target = Parameter(kernels.move(start, device)), Tensor.of(kernels.move(x, device))
    radius = start.shape[1] ** 0.5 + 2.5
    optimizer = Adam([z], lr, betas=(0.9, 0.99))
    best, least = start.copy(), np.full(len(x), np.inf)
    for step in range(steps + 1):
        error = G(z) - target
        squares = (kernels.to_host(error.array).reshape(len(x), -1).astype(np.float64) ** 2).sum(1)
        better = squares < least
        here = kernels.to_host(z.array)
        best[better], least[better] = here[better], squares[better]
        if step < steps:
            optimizer.lr = lr * (1 - step / steps)
            optimizer.zero_grad()
            (error * error).sum().backward()
            optimizer.step()
            length = np.sqrt((kernels.to_host(z.array) ** 2).sum(1, keepdims=True))
            with z.writing() as array:
                array *= kernels.move(np.minimum(1, radius / length.clip(1e-6)), device)
    return best, least


@contextmanager
def _frozen(net: Module) -> Iterator[None]:
    """Inside, the net is in eval mode and none of its parameters gets a gradient; then all is as before."""
    modes = [(module, module.training) for module in net.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    net.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, value in wanted:
            parameter.requires_grad = value


def measure_triangles(
    G: Module,
    latent: int,
    fakes: Array,
    images: Array,
    test_images: Array,
    restarts: int = 4,
    steps: int = 100,
    device: str = "cpu",
) -> dict[str, Any]:
    """Precision and recall of a generator of triangles, as json.dumps takes them.

    fakes: what G made, floats in [-1, 1], (N, 28, 28, 1); the first 2,000 are measured. images, test_images: the data
    set's, uint8 (M, 28, 28, 1). Distances are `relative`. ValueError for fakes of another size: resizing
    would blur them, but not the real ones.

    triangle_precision: the share of fakes whose `relative` distance from the manifold of triangles is below
        triangle_delta; _floor: of as many test images, so the share of real ones whose nearest triangle is found.
    triangle_distance: their median distance to it, which tells more where the share is 0; _floor as before.
    triangle_recall: the share of 300 test images that G comes so near to, by their own ink, by `invert`, which may
        miss some: more restarts and steps can only find more. _floor: the share with so near a training image, which
        is the recall of a G that has these by heart. With far more latent numbers than the 3 degrees of freedom, G can
        come near to triangles that it hardly ever draws: a high recall says little where the precision is low.
    triangle_f1: the harmonic mean of the two; of their floors.
    triangle_orientation_ks, triangle_area_ks, triangle_smallest_angle_ks: `shape_distances` of the triangles nearest
        to the fakes from 10,000 triangles as they are drawn; _floor: of the test images.
    """
    if fakes.shape[1:] != test_images.shape[1:]:
        raise ValueError(f"triangles: fakes must be (N, 28, 28, 1), as the test images are, but are {fakes.shape}")
    n = min(len(fakes), len(test_images), FITS)
    real = triangles.on_circle(triangles.random_angles(10_000, Generator(0, "triangles, shapes")))
    vertices, far = fit(fakes[:n])
    test_vertices, test_far = fit(test_images[:n])

    targets = pixels(test_images[:TARGETS], triangles.SIZE)
    ink = np.sqrt(((1 - targets.astype(np.float64)) ** 2).sum((1, 2, 3)))  # of [-1, 1], as what follows
    missed = invert(G, targets, latent, restarts, steps, device=device)[1] / ink
    copied = nearest_image(targets, images)[1] / ink

    measured = {"triangle_delta": DELTA}
    from_triangles = relative(vertices, far), relative(test_vertices, test_far)
    for ending, from_manifold, from_target in zip(("", "_floor"), from_triangles, (missed, copied), strict=True):
        precision, recall = float((from_manifold < DELTA).mean()), float((from_target < DELTA).mean())
        measured |= {
            f"triangle_distance{ending}": float(np.median(from_manifold)),
            f"triangle_precision{ending}": precision,
            f"triangle_recall{ending}": recall,
            f"triangle_f1{ending}": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        }
    for ending, found in (("", vertices), ("_floor", test_vertices)):
        measured |= {f"triangle_{name}_ks{ending}": value for name, value in shape_distances(found, real).items()}
    return measured
