"""Checkpoints come back to the bit or not at all: after crashes, full disks and flipped bits."""

import builtins
import errno
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as pack

from minigan import checkpoint
from minigan.checkpoint import ARRAYS, DTYPES, STATE, CheckpointError, Checkpoints, load, save

ROOT = Path(__file__).parent.parent
SMALL = {"w": np.arange(3, dtype=np.float32), "step": np.array(7)}


def same(a: Any, b: Any) -> bool:
    """Names, dtypes, shapes and bytes."""
    return a.keys() == b.keys() and all(
        (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes()) for k in a
    )


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def reseal(folder: Path, **changes: Any) -> None:
    """Changes state.json as a program with a bug would: with the right checksum."""
    document = json.loads((folder / STATE).read_text()) | changes
    document = {k: v for k, v in document.items() if v is not ... and k != "sha256"}
    (folder / STATE).write_text(json.dumps(document | {"sha256": checkpoint._checksum(document)}))


# ---- round trip -----------------------------------------------------------------------------------------------------


def test_arrays_come_back_to_the_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {dtype: np.frombuffer(random.bytes(48), np.uint8).view(dtype) for dtype in DTYPES if dtype != "bool"}
    arrays |= {
        "bool": np.array([True, False]),
        "0-d": np.array(-0.0),
        "scalar": np.float32(1.5),
        "empty": np.zeros((0, 3), np.int64),
        "NaN": np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x80000000], np.uint32).view(np.float32),
        "a name. ü": np.ones(1),
        "": np.ones(2),
    }
    save(tmp_path / "step-1", arrays, {})
    loaded, state = load(tmp_path / "step-1")
    assert same(loaded, arrays)
    assert state == {}
    for array in loaded.values():
        array[...] = 0  # they can be written to
    assert names(tmp_path) == ["step-1"]


def test_any_layout(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "transposed": x.T,
        "strided": x[:, ::2, 1::2],
        "backwards": x[::-1],
        "broadcast": np.broadcast_to(x[:1], (5, 3, 4)),
        "Fortran": np.asfortranarray(x),
        "big-endian": x.astype(">f4"),
    }
    save(tmp_path / "step-1", arrays, {})
    loaded, _ = load(tmp_path / "step-1")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=name != "big-endian")
    assert loaded["big-endian"].dtype == np.float32


def test_state(tmp_path: Path) -> None:
    state = {
        "z": [1, 2.5, -0.0, 1 / 3, 5e-324, None, True, "\ud800 ü\n", {"": []}],
        "a": {"key": 2**64 - 1, "betas": (0.5, 0.999)},
        "sha256": "a name like any other",
    }
    save(tmp_path / "step-1", {}, state)
    arrays, loaded = load(tmp_path / "step-1")
    assert arrays == {}
    assert loaded == json.loads(json.dumps(state))
    assert repr(loaded["z"]) == repr(state["z"])
    assert list(loaded) == list(state)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({1: 2}, TypeError, "state has the key 1, and JSON's keys are strings"),
        ({"a": [{"b": np.float32(1)}]}, TypeError, "state['a'][0]['b'] is of type float32, which JSON does not hold"),
        ({"lr": float("nan")}, ValueError, "state['lr'] is nan, which JSON does not hold; an array does"),
    ],
)
def test_state_that_json_does_not_hold(tmp_path: Path, state: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'checkpoint: {message}')}$"):
        save(tmp_path / "step-1", SMALL, state)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x", np.array([None]), f"x must be a NumPy array of {', '.join(DTYPES)}, not object"),
        ("x", np.zeros(2, np.complex128), f"x must be a NumPy array of {', '.join(DTYPES)}, not complex128"),
        ("x", [1.0], f"x must be a NumPy array of {', '.join(DTYPES)}, not list"),
        ("__metadata__", np.zeros(2), "an array cannot be named '__metadata__'"),
        (
            "\ud800",
            np.zeros(2),
            "the arrays do not fit into one safetensors file: "
            r"'utf-8' codec can't encode character '\ud800' in position 0: surrogates not allowed",
        ),
    ],
)
def test_arrays_that_would_not_come_back(tmp_path: Path, name: str, array: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(f'checkpoint: {message}')}$"):
        save(tmp_path / "step-1", {name: array}, {})
    assert names(tmp_path) == []


def test_a_checkpoint_is_replaced_and_leftovers_go(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "and deeper" / "step-00000002"
    save(folder, SMALL, {"n": 1})
    beside = folder.parent
    for leftover in (".step-00000001.part", ".step-00000002.part", ".step-00000002.old"):
        (beside / leftover).mkdir()
        (beside / leftover / ARRAYS).write_bytes(b"half")
    (beside / ".notes.part").write_text("somebody else's")
    save(folder, {}, {"n": 2})
    assert load(folder) == ({}, {"n": 2})
    assert names(beside) == [".notes.part", "step-00000002"]


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "step-1", SMALL, {"lr": 0.1})
    return tmp_path / "step-1"


def refuses(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        load(folder)


@pytest.mark.parametrize("name", [ARRAYS, STATE])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refuses(folder, f"{folder / name} is missing")
    (folder / name).mkdir()
    refuses(folder, f"cannot read {folder / name}: Is a directory")


def test_a_missing_folder(tmp_path: Path) -> None:
    refuses(tmp_path / "no", f"{tmp_path / 'no' / STATE} is missing")


def test_truncated(folder: Path) -> None:
    data, text = (folder / ARRAYS).read_bytes(), (folder / STATE).read_text()
    (folder / ARRAYS).write_bytes(data[:-3])
    size = len(data)
    refuses(
        folder, f"{folder / ARRAYS} has {size - 3} bytes, but state.json tells of {size}: it is truncated or damaged"
    )
    (folder / STATE).write_text(text[:-3])
    refuses(folder, f"{folder / STATE} is not JSON: it is truncated or damaged")


def test_a_flipped_bit(folder: Path) -> None:
    data = bytearray((folder / ARRAYS).read_bytes())
    data[-1] ^= 1
    (folder / ARRAYS).write_bytes(data)
    refuses(folder, f"{folder / ARRAYS} is damaged: its checksum is not the one in state.json")
    text = (folder / STATE).read_text()
    (folder / STATE).write_text(text.replace("0.1", "0.3"))
    refuses(folder, f"{folder / STATE} is damaged: its checksum is not that of its content")


@pytest.mark.parametrize("text", ["", "\x80", "[" * 100_000, '{"format": 1, "score": NaN}', '{"a": 1e999}', "\0" * 50])
def test_not_json(folder: Path, text: str) -> None:
    (folder / STATE).write_text(text, encoding="latin-1")
    refuses(folder, f"{folder / STATE} is not JSON: it is truncated or damaged")


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"format": true}', '{"format": "1"}', '{"format": 1.0}'])
def test_json_of_something_else(folder: Path, text: str) -> None:
    (folder / STATE).write_text(text)
    refuses(folder, f"{folder / STATE} is not the state of a checkpoint: it has no format number")


def test_a_newer_format(folder: Path) -> None:
    (folder / STATE).write_text('{"format": 2, "what": "is in it, nobody knows"}')
    refuses(folder, f"{folder / STATE} is of format 2, newer than 1, which this minigan reads: update it")


@pytest.mark.parametrize(
    "changes",
    [
        *({"format": 0}, {"state": []}, {"state": ...}, {"score": "1"}, {"score": ...}, {"arrays": 3}, {"arrays": ...}),
        *({"arrays": {"bytes": 1.0, "sha256": ""}}, {"arrays": {"bytes": 1, "sha256": 2}}, {"arrays": {"bytes": 1}}),
    ],
)
def test_wrong_types(folder: Path, changes: dict[str, Any]) -> None:
    reseal(folder, **changes)
    refuses(folder, f"{folder / STATE} is not the state of a checkpoint: a field is missing or of another type")


@pytest.mark.parametrize("data", [b"no safetensors", pack({"a": np.zeros(2)}).replace(b"F64", b"X64")])
def test_arrays_that_are_none(folder: Path, data: bytes) -> None:
    (folder / ARRAYS).write_bytes(data)
    reseal(folder, arrays={"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(
        CheckpointError, match=rf"^{re.escape(str(folder / ARRAYS))} is no safetensors file of NumPy ar"
    ):
        load(folder)


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, Any]:
    """(which file, what is done to its bytes)."""
    name = draw(st.sampled_from([ARRAYS, STATE]))
    where, junk = draw(st.floats(0, 1, exclude_max=True)), draw(st.binary(min_size=1, max_size=40))
    kind = draw(st.sampled_from(["cut", "flip", "overwrite", "insert", "delete", "append", "replace"]))
    bit = draw(st.integers(0, 7))

    def damage(data: bytes) -> bytes:
        i = int(where * len(data))
        return {
            "cut": data[:i],
            "flip": data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :],
            "overwrite": data[:i] + junk + data[i + len(junk) :],
            "insert": data[:i] + junk + data[i:],
            "delete": data[:i] + data[i + len(junk) :],
            "append": data + junk,
            "replace": junk,
        }[kind]

    return name, damage


@settings(max_examples=400)
@given(damages())
def test_no_damage_loads_as_something_else(damage: tuple[str, Any]) -> None:
    state = {"lr": 0.1, "key": 2**63, "names": ["a", "b"]}
    contents = dict(zip((ARRAYS, STATE), checkpoint._packed(SMALL, state, 1.5), strict=True))
    name, change = damage
    contents[name] = change(contents[name])
    with tempfile.TemporaryDirectory() as folder:
        for file, content in contents.items():
            (Path(folder) / file).write_bytes(content)
        try:
            loaded, told = load(Path(folder))
        except CheckpointError as error:
            message = str(error)
        else:
            assert same(loaded, SMALL)
            assert told == state
            return
    assert f"{folder}/{name}" in message
    assert "\n" not in message


# ---- which are kept, which is the latest ----------------------------------------------------------------------------


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.steps() == []
    assert checkpoints.best() is None
    kept = []
    for step, score in [(0, 9.0), (10, 2.0), (20, 3.0), (30, None), (40, float("nan")), (50, 2.0), (60, 1), (70, 5.0)]:
        checkpoints.save(step, SMALL, {"step": step}, score)
        kept.append((checkpoints.steps(), checkpoints.best()))
    assert kept == [
        ([0], 0),
        ([0, 10], 10),
        ([10, 20], 10),
        ([10, 20, 30], 10),
        ([10, 30, 40], 10),
        ([10, 40, 50], 10),
        ([50, 60], 60),
        ([60, 70], 60),
    ]
    assert names(checkpoints.folder) == ["step-00000060", "step-00000070"]
    assert Checkpoints(checkpoints.folder).best() == 60  # it is on the disk
    checkpoints.save(100_000_000, SMALL, {})
    assert checkpoints.latest()[0] == 100_000_000
    assert load(checkpoints.path(60))[1] == {"step": 60}


def test_later_checkpoints_of_a_training_that_went_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (10, 20, 30):
        Checkpoints(tmp_path).save(step, SMALL, {})
    checkpoints.save(15, SMALL, {})
    assert checkpoints.steps() == [15, 20, 30]
    checkpoints.save(30, SMALL, {})
    assert checkpoints.steps() == [30]


def test_latest_skips_what_does_not_load_and_says_why(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=f"^there is no checkpoint in {re.escape(str(tmp_path))}$"):
        checkpoints.latest()
    for step in (1, 2, 3):
        checkpoints.save(step, SMALL, {"step": step}, score=step)
    with warnings.catch_warnings(record=True) as caught:
        step, arrays, state = checkpoints.latest()
    assert (step, state, same(arrays, SMALL), caught) == (3, {"step": 3}, True, [])

    third, second, first = (checkpoints.path(step) / STATE for step in (3, 2, 1))
    third.unlink()
    second.write_text("{")
    reasons = f"{third} is missing; {second} is not JSON: it is truncated or damaged"
    with pytest.warns(RuntimeWarning) as record:
        assert checkpoints.latest()[0] == 1
    assert [str(w.message) for w in record] == [f"going back to step 1 in {tmp_path}: {reasons}"]
    assert record[0].filename == __file__
    assert checkpoints.best() == 1

    first.write_text("[]")
    reasons += f"; {first} is not the state of a checkpoint: it has no format number"
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'no checkpoint in {tmp_path} loads: {reasons}')}$"):
        checkpoints.latest()
    assert checkpoints.best() is None


def test_a_reader_beside_a_training_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was about to read was removed, since a newer one is there."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, SMALL, {"n": 1})

    def slowly(folder: Path) -> Any:
        monkeypatch.undo()
        checkpoints.save(2, SMALL, {"n": 2})
        return load(folder)

    monkeypatch.setattr(checkpoint, "load", slowly)
    assert Checkpoints(tmp_path).latest()[::2] == (2, {"n": 2})


def test_other_names_do_not_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(12, SMALL, {})
    for name in ("step-12", "step-000000012", "step-00000013-copy", "step-٠٠٠٠٠٠١٣", ".step-00000014.part", "samples"):
        (tmp_path / name).mkdir()
    assert checkpoints.steps() == [12]


def test_between_two_renames_the_old_one_counts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, SMALL, {"n": 1})
    os.rename(tmp_path / "step-00000001", tmp_path / ".step-00000001.old")
    assert checkpoints.latest()[::2] == (1, {"n": 1})
    assert load(checkpoints.path(1))[1] == {"n": 1}
    checkpoints.save(1, SMALL, {"n": 2})
    assert checkpoints.latest()[::2] == (1, {"n": 2})
    os.rename(tmp_path / "step-00000001", tmp_path / ".step-00000001.old")
    Checkpoints(tmp_path, keep=2).save(2, SMALL, {"n": 3})
    assert names(tmp_path) == [".step-00000001.old", "step-00000002"]
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, SMALL, {"n": 4})
    assert names(tmp_path) == ["step-00000003"]


def test_bad_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Checkpoints: keep must be at least 1, not 0$"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match=r"^Checkpoints: step must be at least 0, not -1$"):
        Checkpoints(tmp_path).save(-1, SMALL, {})
    (tmp_path / "file").write_text("")
    message = f"cannot read {tmp_path / 'file'}: Not a directory"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        Checkpoints(tmp_path / "file").latest()


# ---- crashes and full disks -----------------------------------------------------------------------------------------

# Each round a child saves until it is killed. It counts its saves; three in a row are of the same step.
CRASHES = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import numpy as np
import safetensors.numpy
from minigan.checkpoint import Checkpoints

warnings.simplefilter("error")  # latest() must have nothing to skip
random.seed(0)
checkpoints, done = Checkpoints(sys.argv[1], keep=2), 0
for _ in range(8):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        while True:
            done += 1
            arrays = {str(i): np.full(size, done) for i, size in enumerate((50_000, 3, 0))}
            checkpoints.save(done // 3, arrays, {"done": done})
            os.write(writer, b".")
    os.close(writer)
    done += len(os.read(reader, 1))
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done += len(os.read(reader, 65536))
    step, arrays, state = checkpoints.latest()
    assert done <= state["done"] <= done + 1 and step == state["done"] // 3, (done, step, state)
    assert [a.size for a in arrays.values()] == [50_000, 3, 0]
    assert all((a == state["done"]).all() for a in arrays.values())
    print(done, *sorted(p.name for p in Path(sys.argv[1]).glob(".*")))
    done = state["done"]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_at_any_moment(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CRASHES, str(tmp_path / "checkpoints")],
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stderr
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(10**6, SMALL, {})
    assert len(names(checkpoints.folder)) == 2  # and nothing of the eight crashes


CALLS = ("mkdir", "fsync", "rename", "unlink", "rmdir", "open", "listdir")


@contextmanager
def failing(at: int, lasting: bool) -> Iterator[list[str]]:
    """The call of this number, and all later ones if `lasting`, finds the disk full. Yields the names of the calls."""
    calls: list[str] = []

    def fails(name: str) -> bool:
        calls.append(name)
        return len(calls) - 1 == at or (lasting and len(calls) > at)

    def faulty(name: str) -> Any:
        original = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if fails(name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **kwargs)

        return call

    def faulty_open(path: Path, mode: str) -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        write = file.write

        def half(data: bytes) -> int:
            if fails("write"):
                write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(data)

        file.write = half  # type: ignore[method-assign]
        return file

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, faulty(name))
        patch.setattr(checkpoint, "open", faulty_open, raising=False)
        yield calls


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path: Path) -> None:
    save(tmp_path / "step-1", SMALL, {})
    with failing(10**6, False) as calls:
        save(tmp_path / "step-1", SMALL, {})
    written = [
        "listdir",
        "mkdir",
        "write",
        "fsync",
        "write",
        "fsync",
        "open",
        "fsync",
        "rename",
        "rename",
        "open",
        "fsync",
    ]
    assert calls[calls.index("listdir") :][: len(written)] == written


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("step", [2, 3], ids=["the same step", "a new step"])
def test_a_disk_that_is_full_at_any_call(tmp_path: Path, step: int, lasting: bool) -> None:
    failed = []
    for at in itertools.count():
        checkpoints = Checkpoints(tmp_path / str(at), keep=1)
        for n in (1, 2):
            checkpoints.save(n, SMALL, {"n": n})
        with failing(at, lasting) as calls:
            try:
                checkpoints.save(step, SMALL, {"n": 3})
            except OSError as error:
                message = str(error)
            else:
                message = ""
        found, arrays, state = checkpoints.latest()
        assert same(arrays, SMALL)
        assert (found, state["n"]) in [(2, 2), (step, 3)], calls
        if len(calls) <= at:
            break
        if message:
            folder = re.escape(str(checkpoints.folder))
            assert re.fullmatch(
                rf"cannot ((write|remove) {folder}(/\S+)?: No space left on device; what was written before is intact: "
                rf"make room, or choose another place|read {folder}: No space left on device)",
                message,
            )
            failed.append(calls[at])
            if calls[at] == "write" and not lasting:
                assert names(checkpoints.folder) == ["step-00000002"]  # the half file takes no room
        else:
            assert state["n"] == 3
        checkpoints.save(step + 1, SMALL, {"n": 4})
        assert names(checkpoints.folder) == [f"step-{step + 1:08d}"], calls
    assert state["n"] == 3
    assert {"mkdir", "fsync", "rename", "write", "listdir", "unlink", "rmdir"} <= set(failed)
    assert failed.count("write") == 2


@pytest.mark.parametrize("damage", ["state", "arrays", "newer"])
def test_what_cannot_be_read_is_neither_the_best_nor_removed(tmp_path: Path, damage: str) -> None:
    """It may be readable again; and it must not stand in front of the best that is whole."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"x": np.arange(9.0)}, {}, score=0.1)
    name = "arrays.safetensors" if damage == "arrays" else "state.json"
    file = checkpoints.path(1) / name
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"format": 1', b'"format": 2') if damage == "newer" else whole[:-5])
    checkpoints.save(2, {"x": np.arange(9.0)}, {}, score=0.2)
    checkpoints.save(3, {"x": np.arange(9.0)}, {}, score=0.9)
    assert (checkpoints.steps(), checkpoints.best()) == ([1, 2, 3], 2)
    file.write_bytes(whole)
    assert checkpoints.best() == 1
