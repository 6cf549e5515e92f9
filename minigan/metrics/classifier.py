"""A small net that tells the classes apart: its features are what the Fréchet distance compares.

Nothing is downloaded: minigan trains it, once for each data set; README.md has its accuracy. Convolutions of stride 2
bring 28 pixels to 4, one of 4x4 sees all of these and gives 64 features, one of 1x1 the logits. Linear layers would do
the same, but the threads of BLAS and those of the kernels would wait for each other.
"""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .._version import __version__
from ..autograd import no_grad
from ..files import cache_folder, keep
from ..nn import BatchNorm2d, Conv2d, Flatten, Module, ReLU, Sequential, init
from ..ops import cross_entropy
from ..optim import Adam
from ..progress import Progress
from ..random import Generator, stream
from ..tensor import Tensor
from . import images as images_module
from .images import pixels

Array = NDArray[Any]

SIZE = 28  # pixels; images of other sizes are resized
FEATURES = 64
BATCH = 128
EPOCHS = 4
MIN_STEPS = 200  # for data of which 4 epochs are fewer
LR = 3e-3  # of Adam, falling to 0 in a straight line
SHIFT = 1  # pixels by which a training image is moved at most, in both directions

RECIPE = np.frombuffer(b"".join(Path(file).read_bytes() for file in (__file__, images_module.__file__)), np.uint8)
"""A net that was trained by other code is not taken from the cache."""


class Classifier(Module):
    """`images` are uint8, or floats in [-1, 1], (N, H, W, C); of another size than 28 they are resized.

    accuracy: the share of the test images that it gets right.
    """

    accuracy: float

    def __init__(self, channels: int, classes: int, generator: Generator) -> None:
        weights = stream("init")
        before = weights.state_dict()
        layers: list[Module] = []
        for c_in, c_out, window, stride, padding in (
            (channels, 16, 4, 2, 1),  # 28 -> 14 pixels
            (16, 32, 4, 2, 1),  # 14 -> 7
            (32, 64, 3, 2, 1),  # 7 -> 4
            (64, FEATURES, 4, 1, 0),  # 4 -> 1
        ):
            layers += [Conv2d(c_in, c_out, window, stride, padding, bias=False), BatchNorm2d(c_out), ReLU()]
        self.body = Sequential(*layers, Flatten())
        self.head = Conv2d(FEATURES, classes, 1, bias=False)
        weights.load_state_dict(before)  # the layers drew from it: nobody shall notice
        for parameter in self.parameters():
            if parameter.ndim == 4:
                init.kaiming_normal_(parameter, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, 28, 28, C) in [-1, 1] -> logits (N, K)."""
        return self.logits(self.body(x))

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, 64) -> logits (N, K)."""
        return self.head(features.reshape(-1, 1, 1, FEATURES)).flatten(1)

    def features(self, images: Array) -> Array:
        """float32 (N, 64): what the logits are computed from."""
        self.eval()
        with no_grad():
            parts = [
                self.body(Tensor.of(pixels(images[start : start + 500], SIZE))).array
                for start in range(0, len(images), 500)
            ]
        return np.concatenate([np.empty((0, FEATURES), np.float32), *parts])

    def probabilities(self, features: Array) -> Array:
        """Of the classes, float64 (N, K), from features (N, 64): the softmax of the logits."""
        with no_grad():
            logits = self.logits(Tensor.of(features)).array.astype(np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))  # the largest is 1: nothing overflows
        probabilities: Array = powers / powers.sum(1, keepdims=True)
        return probabilities

    def predict(self, images: Array) -> Array:
        """The likeliest label of each image (N,)."""
        labels: Array = self.probabilities(self.features(images)).argmax(1)
        return labels


def untrained(channels: int, seed: int = 0) -> Classifier:
    """The same net with random weights: its features are a second opinion that no label had a part in."""
    return Classifier(channels, 2, Generator(seed, "untrained classifier"))


def train_classifier(
    images: Array, labels: Array, test_images: Array, test_labels: Array, seed: int = 0, progress: bool = True
) -> Classifier:
    """Trained on `images` uint8 (N, H, W, C) and `labels`, integers (N,) in 0 .. 255; `.accuracy` is on the test set.

    A seed fixes the result on one machine and number of threads. It is kept in the cache folder under a hash of this
    file, of minigan's version, of the seed and of the training data; a damaged file is replaced. `progress` shows one
    on stderr while it trains.
    ValueError if there are fewer than 2 images or 2 classes, or images and labels do not fit each other.
    """
    for kind, x, y in (("training", images, labels), ("test", test_images, test_labels)):
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or len(x) < 2:
            raise ValueError(
                f"train_classifier: {kind} images must be N > 1 of uint8 (N, H, W, C), but are {x.dtype} {x.shape}"
            )
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0 or y.max() > 255:
            raise ValueError(
                f"train_classifier: the {kind} labels must be {len(x)} integers in 0 .. 255, one for each image, "
                f"but are {y.dtype} {y.shape}" + (f" from {y.min()} to {y.max()}" if y.size else "")
            )
    if labels.min() == labels.max():
        raise ValueError(f"train_classifier: all labels are {labels[0]}: with one class there is nothing to tell apart")
    version = np.frombuffer(__version__.encode(), np.uint8)
    key = _digest({"recipe": RECIPE, "version": version, "seed": np.array(seed), "images": images, "labels": labels})
    path = cache_folder() / f"classifier-{key.hex()[:16]}.safetensors"
    channels = images.shape[3] if images.ndim == 4 else 1
    classifier = Classifier(channels, int(labels.max()) + 1, Generator(seed, "classifier weights"))
    try:
        state = load(path.read_bytes())
        if _digest(state, leave_out="sha256") != state.pop("sha256").tobytes():
            raise ValueError("damaged")
        classifier.load_state_dict(state)
    except (OSError, KeyError, ValueError, SafetensorError):  # not there, or no longer what was written
        _train(classifier, images, labels, Generator(seed, "classifier data"), progress)
        state = classifier.state_dict()
        state["sha256"] = np.frombuffer(_digest(state), np.uint8)
        keep(path, lambda file: Path(file).write_bytes(save(state)))
    classifier.accuracy = float((classifier.predict(test_images) == test_labels).mean())
    return classifier


def _train(classifier: Classifier, images: Array, labels: Array, generator: Generator, progress: bool) -> None:
    """Adam on the cross entropy, every image moved a little."""
    batch = min(BATCH, len(images))
    steps = max(len(images) // batch * EPOCHS, MIN_STEPS)
    optimizer = Adam(classifier.parameters(), LR)
    order = np.zeros(0, np.int64)
    with Progress(steps, "step of the classifier") if progress else nullcontext() as bar:
        for step in range(steps):
            if len(order) < batch:
                order = generator.permutation(len(images))
            rows, order = order[:batch], order[batch:]
            optimizer.lr = LR * (1 - step / steps)
            optimizer.zero_grad()
            x = _moved(pixels(images[rows], SIZE), generator)
            loss = cross_entropy(classifier(Tensor.of(x)), labels[rows])
            loss.backward()
            optimizer.step()
            if bar is not None:
                bar.advance(1, f"loss {loss.item():.3f}")


def _moved(x: Array, generator: Generator) -> Array:
    """Each image (H, W, C) of x by up to SHIFT pixels; its edge is repeated."""
    N, H, W, _ = x.shape
    dy, dx = generator.integers(2 * SHIFT + 1, (2, N, 1)) - SHIFT
    rows, columns = np.clip(np.arange(H) + dy, 0, H - 1), np.clip(np.arange(W) + dx, 0, W - 1)  # (N, H), (N, W)
    moved: Array = x[np.arange(N)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def _digest(arrays: Mapping[str, Array], leave_out: str = "") -> bytes:
    """sha256 of names, dtypes, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(arrays.keys() - {leave_out}):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.digest()
