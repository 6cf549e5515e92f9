"""MNIST's loader against a tiny MNIST, damaged files, and a local server that stalls, cuts and lies."""

import fcntl
import gzip
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigan.data import load_mnist, mnist, read_idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
COUNTS = {"train": 30, "test": 7}
MIRRORS = mnist.MIRRORS


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the variables, the cache, the proxy or the network of this machine."""
    monkeypatch.delenv("MINIGAN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(mnist, "MIRRORS", ())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Name -> IDX bytes of a data set of random images whose hashes stand in for MNIST's."""
    rng, files = np.random.default_rng(0), {}
    for split, (images, labels) in mnist.SPLITS.items():
        files[images] = idx(rng.integers(0, 256, (COUNTS[split], 28, 28), np.uint8))
        files[labels] = idx(rng.integers(0, 10, COUNTS[split], np.uint8))
    monkeypatch.setattr(mnist, "SHA256", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
    return files


def put(folder: Path, files: dict[str, bytes], spell: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / spell.format(name)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


# Reading IDX files


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
def test_read_idx_returns_a_writable_array(
    tmp_path: Path, pack: Callable[[bytes], bytes], shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "file").write_bytes(pack(idx(array)))
    read = read_idx(str(tmp_path / "file"))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8
    assert read.flags.writeable


GOOD = idx(np.arange(2 * 28 * 28).reshape(2, 28, 28).astype(np.uint8))
HUGE = bytes.fromhex("00000803") + b"\xff" * 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file: it starts with nothing, not with 00000801 (labels) or 00000803 (images)"),
        (b"PNG\r", "is not an IDX file: it starts with 504e470d, not with"),
        (b"\0\0\x0d\x03" + GOOD[4:], "it starts with 00000d03, not with"),
        (GOOD[:9], "holds 9 bytes, but its header alone takes 16"),
        (GOOD[:-16], "holds 1568 bytes, but its header (2, 28, 28) asks for 1584"),
        (GOOD + b"\0\0", "holds 1586 bytes, but its header (2, 28, 28) asks for 1584"),
        (bytes.fromhex("0000080100000000"), "holds no data: its header says (0,)"),
        (
            HUGE + bytes(99),
            "holds 115 bytes, but its header (4294967295, 4294967295, 4294967295) asks for "
            "79228162458924105385300197391",
        ),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_each_fault_of_an_idx_file_is_one_sentence(
    tmp_path: Path, pack: Callable[[bytes], bytes], content: bytes, message: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(pack(content))
    with pytest.raises(ValueError, match=re.escape(f"{path} {message}" if message[:2] != "it" else message)):
        read_idx(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    path, packed = tmp_path / "file.gz", gzip.compress(GOOD)
    path.write_bytes(packed[:-20])
    with pytest.raises(ValueError, match=r"file\.gz is damaged and cannot be unpacked \(Compressed file ended"):
        read_idx(path)
    for at in range(2, len(packed)):
        path.write_bytes(packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :])
        result = outcome(path)
        assert result == GOOD or str(result).startswith(f"{path} ")  # a flip in the time stamp is harmless


def outcome(path: Path) -> bytes | str:
    """The IDX bytes of the array that was read, or the complaint."""
    try:
        return idx(read_idx(path))
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


heads = st.sampled_from([b"", b"\x1f\x8b\x08", GOOD[:4], GOOD[:16], HUGE, bytes.fromhex("00000801")])


@settings(max_examples=200, deadline=None)
@given(head=heads, tail=st.binary(max_size=200), packed=st.booleans())
def test_random_bytes_give_an_array_or_a_value_error(scratch: Path, head: bytes, tail: bytes, packed: bool) -> None:
    content = head + tail
    scratch.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    result = outcome(scratch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result == content or str(result).startswith(f"{scratch} ")
    assert peak < 10e6


def test_a_file_that_unpacks_to_far_more_than_its_header_asks_is_counted_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(GOOD[:16] + bytes(40_000_000), 1))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"holds 40000016 bytes, but its header \(2, 28, 28\) asks for 1584"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


# Finding the files


def test_splits(tiny: dict[str, bytes], tmp_path: Path) -> None:
    put(tmp_path, tiny)
    for split, count in COUNTS.items():
        images, labels = load_mnist(tmp_path, split)
        assert (images.shape, labels.shape) == ((count, 28, 28), (count,))
        assert images.dtype == labels.dtype == np.uint8
        assert idx(images) == tiny[mnist.SPLITS[split][0]]
    with pytest.raises(ValueError, match="load_mnist: there is no split 'valid'; choose train or test"):
        load_mnist(tmp_path, "valid")


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
def test_layouts_of_a_named_folder(
    tiny: dict[str, bytes], tmp_path: Path, place: str, suffix: str, dotted: bool
) -> None:
    files = {name.replace("-idx", ".idx") if dotted else name: data for name, data in tiny.items()}
    put(tmp_path / place, files, "{}" + suffix)
    assert len(load_mnist(str(tmp_path))[1]) == 30


def test_argument_before_variable_before_cache(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three data sets of 1, 2 and 3 images stand in the three places."""
    sizes = {"argument": 1, "variable": 2, "cache/minigan/mnist": 3}
    for place, n in sizes.items():
        files = {IMAGES: idx(np.ones((n, 28, 28), np.uint8)), LABELS: idx(np.ones(n, np.uint8))}
        put(tmp_path / place, files)
    assert len(load_mnist(verify=False)[0]) == 3
    monkeypatch.setenv("MINIGAN_DATA", "")
    assert len(load_mnist(verify=False)[0]) == 3
    monkeypatch.setenv("MINIGAN_DATA", str(tmp_path / "variable"))
    assert len(load_mnist(verify=False)[0]) == 2
    assert len(load_mnist(tmp_path / "argument", verify=False)[0]) == 1
    monkeypatch.delenv("MINIGAN_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put(tmp_path / "home/.cache/minigan/mnist", tiny)
    assert len(load_mnist()[0]) == 30
    put(tmp_path / "home/mine", tiny)
    assert len(load_mnist("~/mine")[0]) == 30


def test_a_named_folder_that_lacks_a_file_is_an_error_and_no_download(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "urlopen", None)
    put(tmp_path / "half", {IMAGES: tiny[IMAGES]})
    put(tmp_path / "cache/minigan/mnist", tiny)
    spellings = f"{LABELS}, {LABELS}.gz, train-labels.idx1-ubyte, train-labels.idx1-ubyte.gz"
    message = (
        f"load_mnist: {tmp_path / 'half'} holds no {LABELS}: looked there, in mnist/ and in MNIST/raw/ for "
        f"{spellings}; put the file there, or name no folder to have MNIST downloaded"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load_mnist(tmp_path / "half")
    monkeypatch.setenv("MINIGAN_DATA", str(tmp_path / "none"))
    message = f"{tmp_path / 'none'} (which MINIGAN_DATA names) is not a folder, so it holds no {IMAGES}: looked"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_mnist()


def test_other_content_needs_verify_false(tiny: dict[str, bytes], tmp_path: Path) -> None:
    other = idx(np.zeros((30, 28, 28), np.uint8))
    put(tmp_path, tiny | {IMAGES: other})
    message = (
        f"{tmp_path / IMAGES} is not MNIST's {IMAGES}: unpacked it has the sha256 "
        f"{hashlib.sha256(other).hexdigest()}, MNIST's has {mnist.SHA256[IMAGES]}; replace it, or pass "
        "verify=False to load it all the same"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_mnist(tmp_path)
    assert not load_mnist(tmp_path, verify=False)[0].any()


def test_images_and_labels_must_belong_together(tiny: dict[str, bytes], tmp_path: Path) -> None:
    put(tmp_path, tiny | {LABELS: idx(np.zeros(29, np.uint8))})
    message = f"{IMAGES} holds 30 images, but {tmp_path / LABELS} holds labels of shape (29,); take both files"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_mnist(tmp_path, verify=False)
    put(tmp_path, {IMAGES: idx(np.zeros((30, 32, 32), np.uint8))})
    with pytest.raises(ValueError, match=r"holds \(30, 32, 32\), but MNIST's images are \(N, 28, 28\)"):
        load_mnist(tmp_path, verify=False)


# Downloading


class Server(ThreadingHTTPServer):
    """Serves /MODE/FILE in the way that MODE says, and writes down what was asked for."""

    daemon_threads = False  # so that server_close() waits for them, and no socket outlives its test

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.closing = threading.Event()

    def mirrors(self, *modes: str) -> tuple[str, ...]:
        return tuple(f"http://127.0.0.1:{self.server_port}/{mode}/" for mode in modes)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        _, mode, name = self.path.split("/")
        body, byte_range = self.server.files[name], self.headers["Range"]
        self.server.requests.append((mode, name, byte_range))
        if mode == "silent":
            self.server.closing.wait()
            return
        if mode in ("404", "500"):
            self.send_error(int(mode))
            return
        if mode == "lies":
            body = gzip.compress(idx(np.zeros((30, 28, 28), np.uint8)))
        if mode == "garbage":
            body = b"<html>please log in</html>"
        start = int(byte_range[6:-1]) if byte_range and mode not in ("ignores", "lies", "garbage") else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if mode != "unsized":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        half = (start + len(body)) // 2
        try:
            self.send(body[start:half])
            if mode == "stalls":
                self.server.closing.wait()
            if mode == "slow":
                time.sleep(0.3)
            if mode not in ("cuts", "stalls"):
                self.send(body[half:])
        except ConnectionError:
            pass  # the client has gone away

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent += len(data)


@pytest.fixture
def server(tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(mnist, "STALL_SECONDS", 1.0)
    with Server(tiny) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/minigan/mnist"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.mark.parametrize("mode", ["right", "unsized"])
def test_download_fills_the_cache_once(
    server: Server, tiny: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors(mode, "404"))
    for _ in range(2):
        images, labels = load_mnist()
        assert (idx(images), idx(labels)) == (tiny[IMAGES], tiny[LABELS])
        assert server.requests == [(mode, f"{IMAGES}.gz", None), (mode, f"{LABELS}.gz", None)]
        assert names_in(cache) == {f"{IMAGES}.gz", f"{LABELS}.gz"}


def test_progress_goes_to_stderr(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("404", "slow"))
    load_mnist()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(rf"{IMAGES}.gz: 100%\|.*kB/s", shown.err)
    assert "0.00B" not in shown.err  # no bar for a mirror that sent nothing


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("404", "HTTP 404 Not Found"),
        ("500", "HTTP 500 Internal Server Error"),
        ("silent", "not a byte for 1 s"),
        ("stalls", "not a byte for 1 s"),
        ("cuts", "the connection closed after "),
        ("lies", "deleted as wrong, sha256 "),
        ("garbage", "deleted as wrong, "),
    ],
)
def test_a_bad_mirror_is_reported_and_the_next_one_tried(
    server: Server,
    tiny: dict[str, bytes],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    message: str,
) -> None:
    first, second = server.mirrors(mode, "404")
    monkeypatch.setattr(mnist, "MIRRORS", (first, second))
    begun = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        load_mnist()
    assert time.monotonic() - begun < 2 * mnist.STALL_SECONDS + 2
    text = str(caught.value)
    assert text.startswith("load_mnist: MNIST could not be downloaded (")
    assert f"({first}{IMAGES}.gz: {message}" in text
    assert f"; {second}{IMAGES}.gz: HTTP 404 Not Found); put {IMAGES}, {LABELS}, " in text
    assert text.endswith(
        f", plain or .gz, into {cache}, or into any folder and name it with --data FOLDER or MINIGAN_DATA=FOLDER"
    )
    kept = len(server.files[f"{IMAGES}.gz"]) // 2 if mode in ("stalls", "cuts") else 0
    assert names_in(cache) == {f"{IMAGES}.gz.part"}
    assert (cache / f"{IMAGES}.gz.part").stat().st_size == kept

    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors(mode, "right"))
    assert idx(load_mnist()[0]) == tiny[IMAGES]
    assert names_in(cache) == {f"{IMAGES}.gz", f"{LABELS}.gz"}


def test_the_next_mirror_continues_what_the_first_one_cut(
    server: Server, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("cuts", "right"))
    assert idx(load_mnist()[0]) == tiny[IMAGES]
    whole = server.files[f"{IMAGES}.gz"]
    assert server.requests[1] == ("right", f"{IMAGES}.gz", f"bytes={len(whole) // 2}-")
    assert server.sent == len(whole) + len(server.files[f"{LABELS}.gz"])


@pytest.mark.parametrize("part", ["half", "whole", "wrong", "longer"])
@pytest.mark.parametrize("mode", ["right", "ignores"])
def test_a_partial_file_left_behind(
    server: Server, tiny: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch, part: str, mode: str
) -> None:
    """Half or whole it is continued; where it proves wrong, the second mirror starts again."""
    whole = server.files[f"{IMAGES}.gz"]
    left = {"half": whole[:5000], "whole": whole, "wrong": b"?" * 5000, "longer": whole + whole}[part]
    cache.mkdir(parents=True)
    (cache / f"{IMAGES}.gz.part").write_bytes(left)
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors(mode, "right"))
    assert idx(load_mnist()[0]) == tiny[IMAGES]
    assert names_in(cache) == {f"{IMAGES}.gz", f"{LABELS}.gz"}
    assert server.requests[0] == (mode, f"{IMAGES}.gz", f"bytes={len(left)}-")
    labels = len(server.files[f"{LABELS}.gz"])
    if mode == "right" and part in ("half", "whole"):
        assert server.sent == len(whole) - len(left) + labels
    elif mode == "ignores":
        assert server.sent == len(whole) + labels


def test_without_a_network_it_gives_up_within_ten_seconds() -> None:
    assert len(MIRRORS) * mnist.STALL_SECONDS <= 9
    assert len(MIRRORS) == 2


def test_connection_refused(tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but it does not listen
        port = unused.getsockname()[1]
        monkeypatch.setattr(mnist, "MIRRORS", (f"http://127.0.0.1:{port}/a/", f"http://127.0.0.1:{port}/b/"))
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match=rf"b/{IMAGES}.gz: Connection refused\); put {IMAGES}"):
            load_mnist()
    assert time.monotonic() - begun < 2


def test_name_lookup_that_fails_or_hangs(tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def lookup(host: str, *_: object) -> None:
        if host == "hangs.invalid":
            over.wait()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(mnist, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(mnist, "MIRRORS", ("http://hangs.invalid/", "http://fails.invalid/"))
    begun = time.monotonic()
    message = (
        f"(http://hangs.invalid/{IMAGES}.gz: not a byte for 0.3 s; "
        f"http://fails.invalid/{IMAGES}.gz: Name or service not known)"
    )
    with pytest.raises(ConnectionError, match=re.escape(message)):
        load_mnist()
    over.set()
    assert time.monotonic() - begun < 2


DOWNLOAD = """
import sys
from minigan.data import mnist
mnist.MIRRORS, mnist.SHA256, mnist.STALL_SECONDS = ({mirror!r},), {sha256!r}, 30
mnist.load_mnist()
"""


def test_kill_in_the_middle_leaves_only_a_part_that_the_next_run_continues(
    server: Server, tiny: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.files[f"{IMAGES}.gz"]
    part = cache / f"{IMAGES}.gz.part"
    code = DOWNLOAD.format(mirror=server.mirrors("stalls")[0], sha256=mnist.SHA256)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as process:
        for _ in range(2000):
            if part.exists() and part.stat().st_size == len(whole) // 2:
                break
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert names_in(cache) == {part.name}

    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("right"))
    assert idx(load_mnist()[0]) == tiny[IMAGES]
    assert server.requests[1] == ("right", f"{IMAGES}.gz", f"bytes={len(whole) // 2}-")
    assert names_in(cache) == {f"{IMAGES}.gz", f"{LABELS}.gz"}


def test_the_part_of_another_process_at_work_is_left_alone(
    server: Server, tiny: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    part = cache / f"{IMAGES}.gz.part"
    part.write_bytes(b"of another process")
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("right"))
    with open(cache / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert idx(load_mnist()[0]) == tiny[IMAGES]
    assert part.read_bytes() == b"of another process"
    assert names_in(cache) == {f"{IMAGES}.gz", f"{LABELS}.gz", part.name}


def test_two_downloads_at_once(
    server: Server, tiny: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("slow"))
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(idx(load_mnist()[0]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tiny[IMAGES]] * 3
    assert names_in(cache) == {f"{IMAGES}.gz", f"{LABELS}.gz"}


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a regular file, since chmod does not stop root."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("right"))
    message = (
        f"load_mnist: cannot keep MNIST in {tmp_path / 'file/minigan/mnist'} (Not a directory); make room, set "
        "XDG_CACHE_HOME to another folder, or name the folder of your own copy with --data FOLDER or "
        "MINIGAN_DATA=FOLDER"
    )
    with pytest.raises(OSError, match=re.escape(message)) as caught:
        load_mnist()
    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_disk_full(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True)
    (cache / f"{IMAGES}.gz.part").symlink_to("/dev/full")
    monkeypatch.setattr(mnist, "MIRRORS", server.mirrors("right"))
    with pytest.raises(OSError, match=r"cannot keep MNIST in .* \(No space left on device\); make room"):
        load_mnist()


# The real one

HERE = os.environ.get("MINIGAN_DATA")


@pytest.mark.skipif(not HERE, reason="MINIGAN_DATA does not name a folder with MNIST")
def test_the_real_mnist() -> None:
    images, labels = load_mnist(HERE, "train")
    assert (images.shape, labels.shape) == ((60000, 28, 28), (60000,))
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    images, labels = load_mnist(HERE, "test")
    assert (images.shape, labels.shape) == ((10000, 28, 28), (10000,))
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
