"""MNIST: handwritten digits, 60,000 to train and 10,000 to test, from a folder or downloaded once.

Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits"; licence CC BY-SA 3.0.

A download grows in a `.part` file, which the next run continues by an HTTP Range request. It takes its final
name when its sha256 is right, by one atomic rename, so that a kill never leaves half a file under that name.
"""

import gzip
import hashlib
import math
import os
import tempfile
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from struct import pack, unpack
from typing import Literal, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..files import cache_folder

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Tried in this order; each has the four .gz files under their original names."""

STALL_SECONDS = 4.0
"""A mirror that sends no byte for so long is given up. Without a network that is 8 s for both."""

SPLITS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""Of the unpacked files: the same bytes packed by another gzip are as good."""


def load_mnist(
    folder: str | Path | None = None, split: Literal["train", "test"] = "train", verify: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 28, 28), 0 for paper to 255 for ink, and labels (N,), 0 to 9, both uint8.

    N is 60,000 for "train", 10,000 for "test". `folder` holds the IDX files, plain or .gz, or is the folder
    above theirs (`mnist/`, `MNIST/raw/`). Without it the environment variable MINIGAN_DATA names the folder.
    Without both, the files are those of the cache ($XDG_CACHE_HOME or ~/.cache, then minigan/mnist), and what
    is missing there is downloaded; nothing is ever downloaded in place of a folder that was named.
    `verify=False` takes files of other content: a subset, Fashion-MNIST.

    Raises FileNotFoundError if a named folder lacks a file, ConnectionError if no mirror delivers, OSError if
    the cache cannot be written, ValueError if a file is damaged or is not MNIST's.
    Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", CC BY-SA 3.0.
    """
    if split not in SPLITS:
        raise ValueError(f"load_mnist: there is no split {split!r}; choose train or test")
    names = SPLITS[split]
    variable = os.environ.get("MINIGAN_DATA")
    if folder is not None:
        paths = [find_named(Path(folder), name) for name in names]
    elif variable:
        paths = [find_named(Path(variable), name, " (which MINIGAN_DATA names)") for name in names]
    else:
        paths = _find_or_download(names)

    images, labels = (read_idx(path) for path in paths)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{paths[0]} holds {images.shape}, but MNIST's images are (N, 28, 28)")
    check_pair(paths, images, labels)
    for path, name, array in zip(paths, names, (images, labels), strict=True):
        if verify and sha256(array) != SHA256[name]:
            raise ValueError(
                f"{path} is not MNIST's {name}: unpacked it has the sha256 {sha256(array)}, MNIST's has "
                f"{SHA256[name]}; replace it, or pass verify=False to load it all the same"
            )
    return images, labels


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, plain or gzip: images (N, H, W) or labels (N,).

    The format: 00 00, the type 08, the number of dimensions, each dimension as big-endian uint32, the bytes.
    Raises ValueError for whatever is not that, and OSError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with gzip.open(file) if packed else file as stream:
                magic = stream.read(4)
                if magic not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
                    raise ValueError(
                        f"{path} is not an IDX file: it starts with {magic.hex() or 'nothing'}, "
                        "not with 00000801 (labels) or 00000803 (images)"
                    )
                header = stream.read(4 * magic[3])
                if len(header) < 4 * magic[3]:
                    raise ValueError(
                        f"{path} holds {4 + len(header)} bytes, but its header alone takes {4 + 4 * magic[3]}"
                    )
                shape = unpack(f">{magic[3]}I", header)
                # The header may ask for terabytes, or the file hold more than asked: keep only the lesser.
                data, held, asked = bytearray(), 0, math.prod(shape)
                while chunk := stream.read(1 << 20):
                    held += len(chunk)
                    if held <= asked:
                        data += chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged and cannot be unpacked ({error}); replace it") from error
    if held != asked:
        head = 4 + len(header)
        raise ValueError(f"{path} holds {head + held} bytes, but its header {shape} asks for {head + asked}")
    if not asked:
        raise ValueError(f"{path} holds no data: its header says {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def check_pair(paths: list[Path], images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """ValueError unless the images of paths[0] have the labels of paths[1], one each."""
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{paths[0]} holds {len(images)} images, but {paths[1]} holds labels of shape {labels.shape}; "
            "take both files from the same data set"
        )


def sha256(array: NDArray[np.uint8]) -> str:
    """Of the IDX file that holds `array`: its shape and bytes determine the whole file."""
    digest = hashlib.sha256(pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape))
    digest.update(array.data)
    return digest.hexdigest()


def _spellings(name: str) -> list[str]:
    dotted = name.replace("-idx", ".idx")
    return [name, f"{name}.gz", dotted, f"{dotted}.gz"]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for spelling in _spellings(name) if (path := folder / spelling).is_file()), None)


def find_below(folder: Path, name: str) -> Path | None:
    """The file `name`, plain or .gz, in the folder or in the places below it where other libraries keep it."""
    places = (folder, folder / "mnist", folder / "MNIST" / "raw")
    return next((path for place in places if (path := _find(place, name))), None)


def find_named(folder: Path, name: str, origin: str = "") -> Path:
    """`find_below`, or FileNotFoundError with the places and the spellings that were tried."""
    folder = Path(os.path.expanduser(folder))
    if path := find_below(folder, name):
        return path
    raise FileNotFoundError(
        f"load_mnist: {folder}{origin} {'holds' if folder.is_dir() else 'is not a folder, so it holds'} no "
        f"{name}: looked there, in mnist/ and in MNIST/raw/ for {', '.join(_spellings(name))}; put the file "
        "there, or name no folder to have MNIST downloaded"
    )


def _find_or_download(names: tuple[str, ...]) -> list[Path]:
    cache = cache_folder() / "mnist"
    try:
        return [_find(cache, name) or _download(name, cache, names) for name in names]
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            f"load_mnist: cannot keep MNIST in {cache} ({error.strerror or error}); make room, set "
            "XDG_CACHE_HOME to another folder, or name the folder of your own copy with --data FOLDER or "
            "MINIGAN_DATA=FOLDER"
        ) from error


def _download(name: str, cache: Path, names: tuple[str, ...]) -> Path:
    """Bring `name`, one of the `names` that are needed, into the cache from the first mirror that delivers it."""
    target, failures = cache / f"{name}.gz", []
    with _workplace(cache) as folder:
        part = folder / f"{name}.gz.part"
        for mirror in MIRRORS:
            url = mirror + target.name
            try:
                _receive(url, part)
                if (found := sha256(read_idx(part))) != SHA256[name]:
                    raise ValueError(f"sha256 {found} instead of {SHA256[name]}")
                os.replace(part, target)
                return target
            except ConnectionError as error:
                failures.append(f"{url}: {error}")
            except ValueError as error:
                part.unlink()
                failures.append(f"{url}: deleted as wrong, {error}")
    raise ConnectionError(
        f"load_mnist: MNIST could not be downloaded ({'; '.join(failures)}); put {', '.join(names)}, "
        f"plain or .gz, into {cache}, or into any folder and name it with --data FOLDER or "
        "MINIGAN_DATA=FOLDER"
    )


@contextmanager
def _workplace(cache: Path) -> Iterator[Path]:
    """The folder for the partial file: the cache, or a temporary one while another process works there.

    The system releases the lock when its holder is killed, and the next process continues the partial file.
    Where there are no such locks, nothing is shared and nothing continued.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "wb") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except (ImportError, OSError):
            alone = False
        if alone:
            yield cache
        else:
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                yield Path(folder)


class _Arrival(NamedTuple):
    position: int  # of the first byte of `chunk` in the file
    total: int | None  # bytes of the whole file, if the server says so
    chunk: bytes  # empty: the end


def _receive(url: str, part: Path) -> None:
    """Append to `part` what it lacks of `url`, with progress on stderr; ConnectionError if that fails."""
    with (
        open(part, "ab") as file,
        closing(_arrivals(url, file.tell())) as arrivals,
        tqdm(desc=part.stem, initial=file.tell(), unit="B", unit_scale=True, delay=0.1) as bar,
    ):
        for position, total, chunk in arrivals:
            if position < file.tell():  # the server ignores Range and sends everything
                file.seek(position)
                file.truncate()
            file.write(chunk)
            file.flush()  # a kill loses nothing that has arrived
            bar.total = total
            bar.update(file.tell() - bar.n)
        os.fsync(file.fileno())


def _arrivals(url: str, start: int) -> Generator[_Arrival, None, None]:
    """What `url` holds from byte `start` on, as it arrives; ConnectionError if it stops early or stalls.

    A thread does the reading, since no timeout of a socket covers a name lookup, a host of many dead
    addresses, or an answer whose head trickles in.
    """
    arrivals: SimpleQueue[_Arrival | Exception] = SimpleQueue()
    abandoned = threading.Event()
    threading.Thread(target=_read, args=(url, start, arrivals, abandoned), daemon=True).start()
    try:
        while True:
            try:
                arrival = arrivals.get(timeout=STALL_SECONDS)
            except Empty:
                arrival = TimeoutError()
            if isinstance(arrival, Exception):
                raise ConnectionError(_reason(arrival)) from arrival
            if not arrival.chunk:
                return
            yield arrival
    finally:
        abandoned.set()


def _read(url: str, start: int, arrivals: "SimpleQueue[_Arrival | Exception]", abandoned: threading.Event) -> None:
    """Put the answer of `url` into the queue, piece by piece; an empty piece or an exception is the last."""
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=STALL_SECONDS) as response:
            position = start if response.status == 206 else 0
            total = None if response.length is None else position + response.length
            while (chunk := response.read1(1 << 16)) and not abandoned.is_set():
                arrivals.put(_Arrival(position, total, chunk))
                position += len(chunk)
            if total and position < total:
                raise ConnectionError(f"the connection closed after {position} of {total} bytes")
            arrivals.put(_Arrival(position, total, b""))
    except HTTPError as error:
        error.close()
        # 416: nothing follows byte `start`. Whether the partial file is whole, then, its sha256 will tell.
        arrivals.put(_Arrival(start, start, b"") if error.code == 416 else error)
    except (OSError, HTTPException, ValueError) as error:
        arrivals.put(error)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"not a byte for {STALL_SECONDS:g} s"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
