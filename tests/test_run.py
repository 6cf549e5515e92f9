"""Runs that are killed at any moment, or meet a full disk, go on to the bit; those that cannot go on say why.

The tests that need hundreds of runs do them in a process of their own, which imports everything once and forks:

    python tests/test_run.py FOLDER 'killed gan' 'faults train'
"""

import builtins
import errno
import importlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from minigan import kernels
from minigan.checkpoint import ARRAYS, STATE, CheckpointError, Checkpoints, load, save
from minigan.cli.main import main
from minigan.data import load as load_data
from minigan.gan.latent import slerp, walks
from minigan.gan.pictures import save_grid, to_bytes
from minigan.gan.recipes import RECIPES, Parts
from minigan.gan.records import Record
from minigan.gan.run import Run, Stopped, Training
from minigan.gan.run_folder import RunFolder
from minigan.gan.sampling import SHOWN, generate, latent_vectors, recipe_of, trained_generator
from minigan.metrics import mean_pairwise_distance
from minigan.options import fields_of
from minigan.progress import Progress

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("clean_environment")
TINY = ("width=1", "batch_size=4", "latent=2", "checkpoint_seconds=0", "sample_every=5", "metrics=false")
STEPS = 9
KILLS = 20
HOOKS = ("ema=0.9", "lr_schedule=linear", "clip_norm=1")
RUNS = {
    **{name: (name,) for name in ("gan", "wgan-clip", "wgan-gp")},
    "hooks": ("gan", *HOOKS),
    "evaluated": ("gan", "evaluate_every=5", "data=labelled.npz", "keep=1"),
    "tricks": ("improved", "replay=6", "noise=0.1"),
    "labels": ("cgan", "classes=2", "data=labelled.npz"),
}
"""Name -> words after `minigan train`. test_recipes.py resumes all recipes, within one process."""


def words_of(name: str, steps: int = STEPS) -> list[str]:
    """Of the command that begins a run; critics get one update a step."""
    recipe, *more = RUNS.get(name) or (name, *(["classes=2", "data=labelled.npz"] if RECIPES[name].conditional else []))
    few = ["n_critic=1"] if "n_critic" in {option.name for option in fields_of(RECIPES[recipe].settings)} else []
    data = [] if any(word.startswith("data=") for word in more) else ["data=plain.npz"]
    return [recipe, f"steps={steps}", *TINY, *few, *data, *more]


def seldom_saved(name: str) -> list[str]:
    """The same, but for checkpoints of single steps."""
    return [word.replace("checkpoint_seconds=0", "checkpoint_seconds=1000") for word in words_of(name)]


def write_data(folder: Path) -> None:
    """Bright and dark noise: plain.npz, labelled.npz, and others.npz, of which one pixel is another."""
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 2
    images = rng.integers(0, 128, (30, 28, 28)) + 100 * labels[:, None, None]
    images = images.astype(np.uint8)
    np.savez(folder / "plain.npz", images[:26])  # no whole number of batches
    np.savez(folder / "labelled.npz", x_train=images[:20], y_train=labels[:20], x_test=images[20:], y_test=labels[20:])
    images[3, 4, 5] ^= 1
    np.savez(folder / "others.npz", images[:26])


def few_samples(patch: pytest.MonkeyPatch) -> None:
    """A FID of 10 test images needs no 10,000 samples."""
    for module in ("minigan.gan.run", "minigan.cli.train"):
        patch.setattr(f"{module}.FAKES", 40)
    patch.setattr("minigan.metrics.classifier.MIN_STEPS", 8)
    patch.setattr("minigan.cli.measure.latent_vectors", lambda *which: latent_vectors(*which[:3], 40))


def without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def quick_curves(patch: pytest.MonkeyPatch) -> None:
    """losses.png is still a file, but is not drawn, which takes longer than all else."""
    patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **options: Path(file).write_bytes(b"png"))


def result(folder: Path) -> dict[str, Any]:
    """All that a run has made, by name, but the time that it took, where it lies, and the curves as a picture."""
    step, arrays, state = Checkpoints(folder / "checkpoints").latest()
    config = json.loads((folder / "config.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "config.json": {
            **config,
            "settings": without(config["settings"], "out", "data"),
        },
        "metrics.jsonl": [without(row, "seconds") for row in rows],
        "metrics.json": without(json.loads((folder / "metrics.json").read_text()), "seconds"),
        "checkpoint": (step, {**state, "extra": without(state["extra"], "seconds")}),
        "checkpoints": Checkpoints(folder / "checkpoints").steps(),
        **{name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()},
        **{
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in [folder / "weights.safetensors", folder / "interpolation.png", *folder.glob("samples/*.png")]
        },
    }


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what is not the same to the bit."""
    return sorted(key for key in found.keys() | wanted.keys() if key not in found or found[key] != wanted.get(key))


def tear(run: Path) -> None:
    """The line that was written when the power went."""
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "d_lo')


def litter(folder: Path) -> list[str]:
    """What writes have left that did not come to their end."""
    return sorted(str(path) for path in folder.rglob("*") if path.name.endswith((".part", ".old")))


# ---- forked runs ----------------------------------------------------------------------------------------------------


def forked(words: list[str], prepare: Callable[[], object] = lambda: None) -> int:
    """The process that runs `minigan` with these words; stdout and stderr go to files named so."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        for name, number in (("stdout", 1), ("stderr", 2)):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        prepare()
        code = main(words)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Its exit code; -9 where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def completed(words: list[str]) -> None:
    code = ended(forked(words))
    assert code == 0, (words, code, Path("stderr").read_text())


def begin(words: list[str], folder: Path) -> list[str]:
    """The command that goes on with a run, or begins it where there is none."""
    if (folder / "config.json").exists():
        return ["resume", str(folder)]
    return ["train", *words, f"out={folder}"]


def killed(name: str) -> None:
    """KILLS children die at random moments; each run that comes to its end is the one that was left alone."""
    chance, words = random.Random(name), words_of(name)
    patch = pytest.MonkeyPatch()
    quick_curves(patch)
    few_samples(patch)
    assert main(["train", *words, "out=warm"]) == 0  # kernels, fonts, the classifier
    began = time.monotonic()
    completed(["train", *words, "out=straight"])
    life, wanted = time.monotonic() - began, result(Path("straight"))
    runs, stories = [Path("killed-0")], [list[str]()]
    while sum(map(len, stories)) < KILLS or stories[-1]:
        pid = forked(begin(words, runs[-1]))
        if sum(map(len, stories)) < KILLS:
            time.sleep(chance.uniform(0, life))
            os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        if code == -signal.SIGKILL:
            stories[-1].append(state_of(runs[-1]))
            continue
        assert code == 0, Path("stderr").read_text()
        assert differences(result(runs[-1]), wanted) == [], (runs[-1], stories[-1])
        assert litter(runs[-1]) == []
        runs, stories = [*runs, Path(f"killed-{len(runs)}")], [*stories, []]
    print(f"{len(runs) - 1} runs, {life:.2f} s each when not killed")
    for story in stories[:-1]:
        print(*story, "complete", sep="; ")


def state_of(run: Path) -> str:
    return Record.read(run).state() if (run / "config.json").exists() else "not there"


# ---- faulty disks ---------------------------------------------------------------------------------------------------

CALLS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync")
KILL = 0
"""In the place of an error's number: kill -9."""


class Fault:
    """Notes where the calls come from; at the one of number `at` it strikes. A full disk does not get emptier."""

    def __init__(self, at: int = -1, number: int = KILL) -> None:
        self.at, self.number, self.sites = at, number, list[str]()

    def comes(self, call: str) -> bool:
        """Whether this call is to fail."""
        frames = [frame for frame in traceback.extract_stack() if str(ROOT / "minigan") in frame.filename]
        self.sites.append(" > ".join([*(f"{Path(f.filename).stem}.{f.name}:{f.lineno}" for f in frames), call]))
        now = len(self.sites) - 1
        full = self.number == errno.ENOSPC and call not in ("unlink", "remove", "rmdir")
        return now == self.at or (full and 0 <= self.at < now)

    def strike(self) -> None:
        if self.number == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.number, os.strerror(self.number))


class FaultyFile(io.FileIO):
    """Writes half of what comes when the fault does."""

    fault: Fault

    def write(self, data: Any) -> int:
        if self.fault.comes("write"):
            super().write(memoryview(data)[: len(data) // 2])
            self.fault.strike()
        return super().write(data)


def plant(fault: Fault, patch: pytest.MonkeyPatch) -> None:
    """Makes every call that changes the disk ask the fault."""

    os_mkdir = os.mkdir

    def faulty(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            no_change = original is os_mkdir and os.path.isdir(args[0])
            if not no_change and fault.comes(original.__name__):
                fault.strike()
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, faulty(getattr(os, name)))
    plain = builtins.open

    def faulty_open(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if not set("wax+") & set(mode) or isinstance(file, int):
            return plain(file, mode, buffering, *args, **kwargs)
        if fault.comes("open"):
            fault.strike()
        raw = FaultyFile(file, mode.replace("b", "").replace("t", ""))
        raw.fault = fault
        binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *args, **kwargs)

    for module in (builtins, io):
        patch.setattr(module, "open", faulty_open)


PROGRESS = re.compile(r"[\d,]+ of [\d,]+ images[,:] ")


def sentence(command: str, begun: bool) -> str:
    """What the last child said on stderr, beside the progress: one line that says where, what, and what to do.

    begun: the first step could be taken, so that there is something to go on with.
    """
    lines = [line for line in Path("stderr").read_text().splitlines() if not PROGRESS.match(line)]
    assert len(lines) == 1, lines
    wanted = rf"minigan {command}\b.*: cannot (write|remove) run\S*: [A-Z].*; .*(make room|choose)"
    assert re.match(wanted, lines[0]), lines
    assert not begun or lines[0].endswith("; then go on with: minigan resume run"), lines
    return lines[0]


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


ERRORS = (KILL, errno.ENOSPC, errno.EIO, errno.EACCES)
FAULTY = {
    "train": ["train", *words_of("evaluated", 2), "ema=0.5", "out=run"],
    "resume": ["resume", "run"],
    "sample": ["sample", "run", "count=3"],
    "interpolate": ["interpolate", "run", "walks=2", "steps=3"],
    "traverse": ["traverse", "run", "rows=2", "steps=3"],
    "evaluate": ["evaluate", "run"],
    "report": ["report", "run"],
}
MADE = {
    "sample": "sampled-*/**/*", "interpolate": "walks-*/*", "traverse": "traversed-*/*", "evaluate": "metrics.json",
    "report": "report.html",
}  # fmt: skip


def faults(command: str) -> None:
    """One fault in each child, at each place that changes the disk, the errors in turn; then the disk works again."""
    words, run, pattern = FAULTY[command], Path("run"), MADE.get(command)
    patch = pytest.MonkeyPatch()
    quick_curves(patch)
    few_samples(patch)
    assert main(FAULTY["train"]) == 0
    straight = result(run)
    run.rename("whole")
    if command == "resume":
        with interrupted(2):
            assert main(FAULTY["train"]) == 130
        tear(run)
        run.rename("half")
    template = {"train": None, "resume": Path("half")}.get(command, Path("whole"))

    def again() -> None:
        shutil.rmtree(run, ignore_errors=True)
        if template is not None:
            shutil.copytree(template, run)

    def made() -> dict[str, Any]:
        if pattern is None:
            return result(run)
        newest = sorted(run.glob(pattern.split("/")[0]))[-1]
        return {"": newest.read_bytes()} if newest.is_file() else tree(newest)

    if template is not None:
        again()
        assert main(words) == 0  # compiles what this command needs
    again()
    fault = Fault()
    with pytest.MonkeyPatch.context() as inner:
        plant(fault, inner)
        assert main(words) == 0
    wanted, errors = made(), itertools.cycle(ERRORS)
    assert pattern is not None or differences(wanted, straight) == []
    print(f"{len(fault.sites)} calls, from {len(set(fault.sites))} places")
    for at, site in enumerate(fault.sites):
        if site in fault.sites[:at] and at % 8:
            continue  # the same place in the program as before: a few of those
        number = next(errors)
        again()
        code = ended(forked(words, partial(plant, Fault(at, number), patch)))
        assert code == (-signal.SIGKILL if number == KILL else 1), (site, number, code)
        if number != KILL:
            print(sentence(command, "_complete:" in site))
        if pattern is not None:
            assert number == KILL or litter(run) == [], (site, number, litter(run))
            changed = [name for name, data in tree(Path("whole")).items() if (run / name).read_bytes() != data]
            assert not set(changed) - {pattern}, (site, number)
        assert main(begin(words[1:-1], run) if pattern is None else words) == 0, (site, number)
        assert differences(made(), wanted) == [], (site, number)
        assert pattern is not None or litter(run) == [], (site, number)


@contextmanager
def interrupted(step: int) -> Iterator[None]:
    """A training is interrupted in this step, after it was logged and before it is saved."""
    steps = itertools.count(1)

    def advance(bar: Progress, units: int, text: str) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "advance", advance)
        yield


JOBS = [*(f"killed {name}" for name in RUNS), *(f"faults {command}" for command in FAULTY)]


def work(folder: Path, jobs: list[str]) -> None:
    """Does jobs, each in a folder of its own; prints a line of JSON for each: what it is, what it says, what failed.

    Numba has a lock that forked processes share, which one that is killed may hold for ever: theirs is a copy.
    """
    with suppress(ImportError):
        importlib.import_module("numba.np.ufunc.parallel")._backend_init_process_lock = threading.RLock()
    for job in jobs:
        Path(folder, job).mkdir()
        os.chdir(folder / job)
        write_data(Path())
        said, failed = io.StringIO(), ""
        began = time.monotonic()
        with redirect_stdout(said):
            try:
                {"killed": killed, "faults": faults}[job.split()[0]](job.split()[1])
            except Exception:
                failed = traceback.format_exc()
        print(json.dumps([job, said.getvalue(), failed, time.monotonic() - began]), flush=True)


@pytest.fixture(scope="module", autouse=True)
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clean_environment: None
) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that do the jobs of all tests that were chosen, while other tests run."""
    chosen = [item.callspec.params.get("job") for item in request.session.items if hasattr(item, "callspec")]
    jobs = [job for job in JOBS if job in chosen]
    folder = tmp_path_factory.mktemp("jobs")
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OPENBLAS_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue",  # survives a fork
    }  # fmt: skip
    processes = []
    for i, part in enumerate(filter(None, (jobs[::2], jobs[1::2]))):
        with open(folder / f"stderr-{i}", "w") as file:
            command = [sys.executable, __file__, str(folder), *part]
            processes.append(subprocess.Popen(command, env=environment, stdout=PIPE, stderr=file, text=True))
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def outcomes(workers: list[subprocess.Popen[str]]) -> dict[str, tuple[str, str, float]]:
    """What was said and what failed, by job."""
    lines = [json.loads(line) for process in workers for line in process.communicate(timeout=300)[0].splitlines()]
    return {job: (said, failed, seconds) for job, said, failed, seconds in lines}


# ---- in this process ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def handlers_are_left_as_found() -> Iterator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_curves(monkeypatch)
    few_samples(monkeypatch)


LENGTH, DONE = 10, 6  # steps of a whole run, and those saved of one that was interrupted in the next


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Path:
    """A folder with data, and with a run of WGAN-GP: whole, half, and 5 steps longer."""
    folder = tmp_path_factory.mktemp("templates")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        quick_curves(patch)
        patch.chdir(folder)
        words = ["train", *words_of("wgan-gp", LENGTH)]
        assert main([*words, "out=whole"]) == 0
        assert main(["train", *words_of("wgan-gp", LENGTH + 5), "out=long"]) == 0
        with interrupted(DONE + 1):
            assert main([*words, "out=half"]) == 130
    return folder


@pytest.fixture
def folder(templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as working directory; `half` finds its data there."""
    folder = tmp_path / "work"
    shutil.copytree(templates, folder)
    monkeypatch.chdir(folder)
    change(Path("half/config.json"), "settings", data=str(folder / "plain.npz"))
    return folder


def change(path: Path, *keys: str, **values: Any) -> None:
    """Of a file of JSON, the object that is found by keys."""
    document = inner = json.loads(path.read_text())
    for key in keys:
        inner = inner[key]
    inner.update(values)
    path.write_text(json.dumps(document))


class Says:
    """What a command says: its exit code, stdout, and stderr without the progress."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main(words)
        out, err = self.capsys.readouterr()
        return code, out, "".join(line for line in err.splitlines(keepends=True) if not PROGRESS.match(line))


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    return Says(capsys)


def refused(says: Says, *words: str, code: int = 1) -> str:
    """The sentence of a command that changes nothing in `half`."""
    before = tree(Path("half"))
    found, _, err = says(*words)
    assert (found, err.count("\n")) == (code, 1), err
    assert tree(Path("half")) == before
    return err.rstrip("\n")


def goes_on(says: Says, *words: str) -> str:
    """Resumes `half`, which becomes the whole run; what was said, first on stderr."""
    code, out, err = says("resume", "half", *words)
    assert code == 0, err
    assert all(line.startswith("Note: ") for line in err.splitlines())
    assert differences(result(Path("half")), result(Path("whole"))) == []
    assert litter(Path("half")) == []
    return err + out


def last(run: str = "half") -> Path:
    """Of the checkpoints, the last."""
    return max(Path(run, "checkpoints").glob("step-*"))


def test_half_a_run_goes_on(folder: Path, says: Says) -> None:
    """What was done after the last checkpoint is done again, and logged once."""
    assert [row["step"] for row in Record.read("half").rows()] == [*range(1, DONE + 2)]
    assert last().name == f"step-{DONE:08d}"
    tear(Path("half"))
    assert f"wgan-gp: going on after step {DONE} of {LENGTH} in half\n" in goes_on(says)


def test_another_config_is_refused(folder: Path, says: Says) -> None:
    change(folder / "half/config.json", "settings", width=2)
    wanted = f"minigan resume: half/checkpoints/step-{DONE:08d} is of another training: width=1 there, 2 here"
    assert refused(says, "resume", "half") == wanted
    change(folder / "half/config.json", format=2)
    assert "half/config.json is of format 2, newer than 1, which this minigan reads: update" in refused(
        says, "resume", "half"
    )


def test_other_data_are_refused(folder: Path, says: Says) -> None:
    """One pixel of them. Of the same data elsewhere the run goes on."""
    assert re.search(
        r"half was trained on other images: on 26 of plain\.npz, 28x28x1, SHA-256 \w{8}, but here are 26 of "
        r"others\.npz, .*; name the right ones by data=$",
        refused(says, "resume", "half", "data=others.npz"),
    )
    Path("plain.npz").rename("moved.npz")
    goes_on(says, "data=moved.npz")
    assert json.loads(Path("half/config.json").read_text())["settings"]["data"] == str(folder / "moved.npz")


def test_vanished_data_lose_nothing(folder: Path, says: Says) -> None:
    Path("plain.npz").rename("gone.npz")
    text = refused(says, "resume", "half")
    assert str(folder / "plain.npz") in text
    assert text.endswith("; where the images of this run have moved to, data= says")
    Path("gone.npz").rename("plain.npz")
    goes_on(says)


def test_another_runs_checkpoint_is_refused(folder: Path, says: Says) -> None:
    assert says("train", *words_of("wgan-gp", LENGTH), "seed=1", "out=other")[0] == 0
    shutil.copytree(last("other"), last("half").with_name(last("other").name))
    assert refused(says, "resume", "half") == (
        f"minigan resume: half/checkpoints/step-{LENGTH:08d} is of another training: seed=1 there, 0 here"
    )
    shutil.rmtree(last())
    goes_on(says)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path / ARRAYS, 1000),
    "a bit flipped": lambda path: (path / ARRAYS).write_bytes(flipped((path / ARRAYS).read_bytes())),
    "no arrays": lambda path: (path / ARRAYS).unlink(),
    "empty state": lambda path: (path / STATE).write_bytes(b""),
    "a bit of the state flipped": lambda path: (path / STATE).write_bytes(flipped((path / STATE).read_bytes())),
}


def flipped(data: bytes) -> bytes:
    """With another bit in the middle."""
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


@pytest.mark.filterwarnings("default:going back:RuntimeWarning")  # where it is no error, it becomes a note
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_not_the_last(folder: Path, says: Says, damage: str) -> None:
    DAMAGES[damage](last())
    out = goes_on(says)
    assert re.search(rf"^Note: going back to step {DONE - 1} in half/checkpoints: half/\S*-{DONE:08d}/.*\.$", out, re.M)


def test_without_a_good_checkpoint_nothing_goes_on(folder: Path, says: Says) -> None:
    for path in Path("half/checkpoints").iterdir():
        DAMAGES["truncated"](path)
    text = refused(says, "resume", "half")
    assert text.startswith("minigan resume: no checkpoint in half/checkpoints loads: half/checkpoints/step-")
    assert text.count("it is truncated or damaged") == 3


def test_a_folder_in_use_is_left_alone(folder: Path, says: Says) -> None:
    with RunFolder.open("half"):
        assert re.fullmatch(
            "minigan resume: half is in use.* by another process.*; wait for .*", refused(says, "resume", "half")
        )
    goes_on(says)


def test_a_complete_run_stays_as_it_is(folder: Path, says: Says) -> None:
    before = tree(Path("whole"))
    for words in ([], ["keep=1"], [f"steps={LENGTH}"]):
        assert says("resume", "whole", *words) == (
            0, f"whole is complete, with {LENGTH} steps; steps= makes it longer\n", ""
        )  # fmt: skip
    assert tree(Path("whole")) == before


@pytest.mark.parametrize("run", ["half", "whole"])
def test_a_run_becomes_longer(folder: Path, says: Says, run: str) -> None:
    """It is the one that was long from the start."""
    code, _, err = says("resume", run, f"steps={LENGTH + 5}")
    assert (code, err) == (0, "")
    assert differences(result(Path(run)), result(Path("long"))) == []


def test_a_run_with_a_schedule_has_its_length(folder: Path, says: Says) -> None:
    assert says("train", *words_of("hooks", 2), "out=fading")[0] == 0
    code, _, err = says("resume", "fading", "steps=3")
    wanted = "minigan resume fading: the learning rate of this run falls to 0 at its last step, so "
    assert (code, err[: len(wanted)], err.count("\n")) == (2, wanted, 1)


def test_what_a_step_computes_cannot_change(folder: Path, says: Says) -> None:
    for key, value in {"lr": "1e-3", "seed": "0", "gp_lambda": "1", "batch_size": "2", "out": "there"}.items():
        assert f"{key} cannot change when a run goes on" in refused(says, "resume", "half", f"{key}={value}", code=2)


def test_what_is_only_kept_can_change(folder: Path, says: Says) -> None:
    code, _, err = says("resume", "half", "keep=1", "sample_every=1", "checkpoint_seconds=30", "device=cpu")
    assert (code, err) == (0, "")
    found, wanted = result(Path("half")), result(Path("whole"))
    pictures = [f"samples/step_{step:06d}.png" for step in range(DONE + 1, LENGTH)]
    assert differences(found, wanted) == sorted(["config.json", "checkpoints", "metrics.jsonl", *pictures])
    rows, expected = ([without(row, "spread") for row in r["metrics.jsonl"]] for r in (found, wanted))
    assert rows == expected  # more pictures, of which more is said
    assert found["checkpoints"] == [LENGTH]


def test_another_device_or_number_of_threads_is_told(folder: Path, says: Says) -> None:
    """Here the bits are the same all the same: config.json tells of a run that was elsewhere."""
    change(folder / "half/config.json", "settings", device="emulator")
    change(folder / "half/config.json", threads=99)
    out = goes_on(says, "device=cpu")
    for there, here in (("device emulator", "cpu"), ("threads 99", str(kernels.threads()))):
        assert f"Note: the run had {there}, here it is {here}, so that the last bits may differ.\n" in out


def test_a_moved_run_goes_on(folder: Path, says: Says) -> None:
    Path("elsewhere").mkdir()
    Path("half").rename("elsewhere/renamed")
    assert says("resume", "elsewhere/renamed")[0] == 0
    assert differences(result(Path("elsewhere/renamed")), result(Path("whole"))) == []


def test_data_are_found_from_anywhere(folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupted(DONE + 1):
        assert says("train", *words_of("wgan-gp", LENGTH), "out=near")[0] == 130
    Path("deep/down").mkdir(parents=True)
    monkeypatch.chdir("deep/down")
    assert says("resume", "../../near")[0] == 0
    assert differences(result(folder / "near"), result(folder / "whole")) == []


# ---- older runs, lost files, signals between two lines --------------------------------------------------------------


def test_a_run_from_before_a_setting_existed_goes_on(folder: Path, says: Says) -> None:
    """Its config.json and its checkpoints do not have the key, which had its default then."""
    for path in (Path("half/config.json"), *Path("half/checkpoints").glob("step-*")):
        if path.suffix:
            config = json.loads(path.read_text())
            del config["settings"]["ema"], config["settings"]["beta2"]
            path.write_text(json.dumps(config))
        else:
            arrays, state = load(path)
            del state["extra"]["settings"]["ema"], state["extra"]["settings"]["beta2"]
            save(path, arrays, state)
    goes_on(says)


def test_a_setting_out_of_its_range_is_damage(folder: Path, says: Says) -> None:
    change(folder / "half/config.json", "settings", width=-4)
    assert refused(says, "resume", "half") == (
        f"minigan resume: {Path('half/config.json')}: width is -4, not a whole number above 0: the file is damaged or "
        "was changed by hand"
    )


def test_lost_lines_of_the_log_are_told(folder: Path, says: Says) -> None:
    log = Path("half/metrics.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], "damaged\n", *lines[2:]]))
    code, _, err = says("resume", "half")
    gap = f"Note: half/metrics.jsonl has no line for 1 of the first {DONE} steps: the curves have gaps, the training "
    assert (code, err.count("\n"), err[: len(gap)]) == (0, 1, gap)
    assert differences(result(Path("half")), result(Path("whole"))) == ["metrics.jsonl"]


def test_without_its_log_a_run_still_ends(folder: Path, says: Says) -> None:
    for name in ("metrics.jsonl", "metrics.json", "losses.png"):
        (Path("whole") / name).unlink()
    code, _, err = says("resume", "whole")
    assert (code, err.count("\n")) == (0, 1)
    assert f"has no line for {LENGTH} of the first {LENGTH} steps" in err
    assert Record.read("whole").metrics()["step"] == LENGTH


def test_a_log_without_checkpoints_is_kept(folder: Path, says: Says) -> None:
    shutil.rmtree("half/checkpoints")
    assert refused(says, "resume", "half") == "minigan resume: there is no checkpoint in half/checkpoints"


def test_samples_of_an_earlier_checkpoint_are_told(folder: Path, says: Says) -> None:
    DAMAGES["truncated"](last())
    code, out, err = says("sample", "half", "count=2")
    assert code == 0
    assert f"2 samples of half after step {DONE - 1}: " in out
    assert err.startswith(f"Note: going back to step {DONE - 1} in half/checkpoints: ")
    assert err.count("\n") == 1


def test_a_signal_while_it_saves_waits_for_the_next_step(
    folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when it has been decided not to save this step."""
    save_samples = RunFolder.save_samples

    def interrupt(run: RunFolder, step: int, images: Any, columns: int) -> Path:
        if step == 5:
            signal.raise_signal(signal.SIGTERM)
        return save_samples(run, step, images, columns)

    monkeypatch.setattr(RunFolder, "save_samples", interrupt)
    code, _, err = says("train", *seldom_saved("gan"), "out=stopped")
    assert (code, err) == (
        143, f"minigan train: SIGTERM after step 6 of {STEPS}; go on with: minigan resume stopped\n"
    )  # fmt: skip
    assert Checkpoints("stopped/checkpoints").steps() == [0, 6]


def test_handlers_and_warnings_are_put_back(says: Says) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], warnings.showwarning
    assert says("list")[0] == 0
    assert ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], warnings.showwarning) == before


@pytest.mark.parametrize("words", [["steps=none"], ["epochs=none", "steps=none"], ["steps=3", "epochs=1"]])
def test_a_run_has_one_length(folder: Path, says: Says, words: list[str]) -> None:
    both = "are both none" if "steps=none" in words else "both say how long to train"
    for command in (["train", "gan"], ["resume", "half"]):
        code, _, err = says(*command, *words)
        where = f"minigan {' '.join(command)}"
        assert (code, err) == (2, f"{where}: steps and epochs {both}; give one of them\n")


def test_what_cannot_be_evaluated_does_not_begin(folder: Path, says: Says) -> None:
    images, labels = np.zeros((8, 28, 28), np.uint8), np.zeros(8, np.uint8)
    np.savez("one.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for data, why in {"one.npz": "all labels are 0", "plain.npz": "needs images with labels and a test set"}.items():
        code, _, err = says("train", "gan", *TINY, "evaluate_every=1", f"data={data}", "out=none")
        assert (code, err.count("\n"), why in err) == (1, 1, True), err
        assert not Path("none").exists()


def test_offline_a_run_does_not_go_on_with_other_digits(
    folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any) -> None:
        raise ConnectionError("MNIST is not here")

    monkeypatch.setattr("minigan.cli.train.load", offline)
    assert refused(says, "resume", "half") == (
        "minigan resume: MNIST is not here; where the images of this run have moved to, data= says"
    )


def test_the_best_stays_the_best_when_a_run_is_spoilt(
    folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good state was saved, and evaluated, already."""
    recipe = RECIPES["gan"]

    def build(settings: Any, channels: int) -> Parts:
        parts = recipe.build(settings, channels)
        player = parts.players[-1]

        def spoil() -> None:
            if player.optimizer.steps == 5:
                player.optimizer.lr = np.nan

        player.before = [spoil]
        return parts

    monkeypatch.setitem(RECIPES, "gan", replace(recipe, build=build))
    code, _, err = says("train", *seldom_saved("evaluated"), "out=spoilt")
    assert (code, "is the state after step 5, the last good one" in err) == (1, True), err
    assert Checkpoints("spoilt/checkpoints").best() == 5


def tiny_run(folder: Path, name: str, *words: str) -> Run:
    """In a folder of that name, which the caller closes."""
    recipe = RECIPES["gan"]
    settings = recipe.parse([*seldom_saved("gan")[1:], *words, f"out={name}"], "test")
    return Run.start(Training(recipe, settings, load_data(folder / "plain.npz")))


def test_a_signal_in_the_last_save_is_heard(folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    save_it = Run.save

    def interrupt(run: Run, score: float | None = None) -> None:
        if run.step == STEPS:
            signal.raise_signal(signal.SIGTERM)
        save_it(run, score)

    monkeypatch.setattr(Run, "save", interrupt)
    code, _, err = says("train", *words_of("gan"), "out=stopped")
    again = "go on with: minigan resume stopped\n"
    assert (code, err) == (143, f"minigan train: SIGTERM after step {STEPS} of {STEPS}; {again}")
    monkeypatch.setattr(Run, "save", save_it)
    assert says("resume", "stopped")[0] == 0
    assert Record.read("stopped").state() == "complete"


def test_a_closed_pipe_and_then_a_signal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a connection breaks: both ask for the same, and the signal may come while it is done."""
    run = tiny_run(folder, "cut")
    save_it = Run.save

    def interrupt(run: Run, score: float | None = None) -> None:
        signal.raise_signal(signal.SIGTERM)
        save_it(run, score)

    def report(images: int, logs: Any) -> None:
        if run.step == 3:
            raise BrokenPipeError(errno.EPIPE, "")

    monkeypatch.setattr(Run, "save", interrupt)
    with run.folder, pytest.raises(Stopped, match="its output was closed"):
        run.train(report)
    assert run.checkpoints.steps() == [0, 3]


def test_from_within_a_step_no_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = tiny_run(folder, "torn")
    with run.folder:
        with monkeypatch.context() as patch:
            patch.setattr(run.training.parts.players[1].optimizer, "step", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run.train()
        message = "the last training in torn ended within a step: go on by Run.resume"
        with pytest.raises(RuntimeError, match=f"^{message}$"):
            run.train()


def test_a_schedule_is_part_of_a_training(folder: Path) -> None:
    run = tiny_run(folder, "fading", "lr_schedule=linear")
    run.folder.close()
    longer = replace(run.training.settings, steps=STEPS + 1)
    training = Training(run.training.recipe, longer, run.training.data)
    message = rf"is of another training: steps={STEPS} there, {STEPS + 1} here$"
    with RunFolder.open("fading") as again, pytest.raises(CheckpointError, match=message):
        Run.resume(training, again)


def test_only_the_last_state_replaces_a_result(folder: Path, says: Says) -> None:
    """Where the last checkpoint is damaged, what is evaluated is an earlier one."""
    assert says("train", *words_of("evaluated"), "out=run")[0] == 0
    assert says("evaluate", "run")[0] == 0
    measured = Record.read("run").metrics()
    assert {"fid", "step"} <= measured.keys()
    DAMAGES["truncated"](last("run"))
    code, out, _ = says("evaluate", "run")
    assert (code, "samples of run after step 5" in out) == (0, True)
    assert Record.read("run").metrics() == measured


# ---- NaN ------------------------------------------------------------------------------------------------------------


def without_notes(said: tuple[int, str, str]) -> tuple[int, str]:
    """Exit code and stderr, but for NumPy's remarks on overflow, which batches of matrix products make."""
    return said[0], "".join(line for line in said[2].splitlines(True) if " encountered in " not in line)


@pytest.mark.parametrize("name", ["gan", "wgan-clip", "wgan-gp", "began", "sagan", "projection", "vae-gan"])
def test_nan_ends_a_run_in_its_last_good_state(folder: Path, says: Says, name: str) -> None:
    """Again and again: nothing is lost, and nothing spoilt is saved."""
    rates = [f"{key}=1e30" for key in ("lr", "d_lr") if key in {o.name for o in fields_of(RECIPES[name].settings)}]
    code, err = without_notes(says("train", *words_of(name), *rates, "out=spoilt"))
    assert (code, err.count("\n")) == (1, 1), err
    wanted = r"(step (\d+), player [deg]: .+); what is in spoilt is the state after step (\d+), the last good one\n"
    match = re.fullmatch(rf"minigan train: {wanted}", err)
    assert match, err
    good = int(match[3])
    assert int(match[2]) == good + 1
    where = r"'s (forward|backward) pass produced (NaN|an infinity) \(shape|after the (update by|forward pass)"
    assert re.search(where, match[1])
    checkpoints = Checkpoints("spoilt/checkpoints")
    assert checkpoints.steps()[-1] == good
    for step in checkpoints.steps():
        assert all(np.isfinite(array).all() for array in load(checkpoints.path(step))[0].values())
    assert all(np.isfinite(array).all() for array in load_file("spoilt/weights.safetensors").values())
    assert without_notes(says("resume", "spoilt")) == (1, err.replace("minigan train", "minigan resume"))
    assert checkpoints.steps()[-1] == good


def test_nan_in_weights_is_not_saved(folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no loss tells of it: the last player's hook spoils its net in step 4."""
    recipe = RECIPES["gan"]

    def build(settings: Any, channels: int) -> Parts:
        parts = recipe.build(settings, channels)
        player, weight = parts.players[-1], next(parts.nets["G"].parameters())

        def spoil() -> None:
            if player.optimizer.steps == 4:
                with weight.writing() as array:
                    array[...] = np.nan

        player.after = [spoil]
        return parts

    monkeypatch.setitem(RECIPES, "gan", replace(recipe, build=build))
    code, _, err = says("train", *words_of("gan"), "out=spoilt")
    assert code == 1
    assert re.match(r"minigan train: step 4, player g: nets\.G\.\S+ holds NaN after the hook .*spoil; look for it", err)
    assert Checkpoints("spoilt/checkpoints").steps() == [1, 2, 3]
    monkeypatch.setitem(RECIPES, "gan", recipe)
    assert says("resume", "spoilt")[0] == 0
    assert says("train", *words_of("gan"), "out=sound")[0] == 0
    assert differences(result(Path("spoilt")), result(Path("sound"))) == ["samples/step_000003.png"]


# ---- averages and the best ------------------------------------------------------------------------------------------


def test_an_average_makes_the_samples(folder: Path, says: Says) -> None:
    assert says("train", *words_of("hooks"), "out=averaged")[0] == 0
    weights = load_file("averaged/weights.safetensors")
    G, average = ({k.removeprefix(p): a for k, a in weights.items() if k.startswith(p)} for p in ("G.", "G_average."))
    assert G.keys() == average.keys()
    assert any((G[key] != average[key]).any() for key in G)
    record = Record.read("averaged")
    step, net = trained_generator(record)
    assert step == STEPS
    assert all((net.state_dict()[key] == array).all() for key, array in average.items())
    z = latent_vectors(*recipe_of(record), "samples", SHOWN)
    save_grid("samples.png", generate(net, z))
    save_grid("walks.png", generate(net, walks(z[:16], 10, slerp).reshape(80, -1)), columns=10)
    assert Path("samples.png").read_bytes() == Path(f"averaged/samples/step_{STEPS:06d}.png").read_bytes()
    assert Path("walks.png").read_bytes() == Path("averaged/interpolation.png").read_bytes()

    assert says("sample", "averaged", "out=sampled")[0] == 0
    with np.load("sampled/samples.npz") as arrays:
        z, images = arrays["z"], arrays["images"]
    assert (to_bytes(generate(net, z)) == images).all()
    net.load_state_dict(G)
    assert (to_bytes(generate(net, z)) != images).any()


def test_the_best_is_kept(folder: Path, says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([3.0, 1.0, 2.0, 1.5])
    monkeypatch.setattr("minigan.gan.run.train_classifier", lambda *data: object())
    monkeypatch.setattr("minigan.gan.run.Reference.fid", lambda *what: next(scores))
    words = [word for word in words_of("evaluated") if "evaluate_every" not in word]
    assert says("train", *words, "evaluate_every=2", "out=measured")[0] == 0
    rows = {row["step"]: row.get("fid") for row in Record.read("measured").rows()}
    assert [rows[step] for step in range(1, STEPS + 1)] == [None, 3.0, None, 1.0, None, 2.0, None, 1.5, None]
    assert Checkpoints("measured/checkpoints").steps() == [4, STEPS]
    assert " after step 4: " in says("sample", "measured", "checkpoint=best", "count=2", "out=best")[1]


def test_rows_say_how_the_generator_fares(folder: Path, says: Says) -> None:
    """Its gradient in each row, before it is clipped; how different its samples are where there is a picture."""
    assert says("train", *words_of("gan"), "clip_norm=1e-6", "out=watched")[0] == 0
    rows = Record.read("watched").rows()
    assert all(row["g_grad_norm"] > 1e-5 for row in rows)
    assert [row["step"] for row in rows if "spread" in row] == [5]
    net = Training(RECIPES["gan"], RECIPES["gan"].parse(words_of("gan")[1:], "test"), load_data("plain.npz"))
    shown = np.asarray(Image.open("watched/samples/step_000005.png"), np.float64)
    cells = shown[1:, 1:, 0].reshape(8, 29, 8, 29)[:, :28, :, :28]  # lines of a pixel between the images
    grid = cells.swapaxes(1, 2).reshape(64, 784) / 127.5 - 1
    assert rows[4]["spread"] == pytest.approx(mean_pairwise_distance(grid) / net.real_distance, abs=0.01)


# ---- killed, and without room ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_lost(outcomes: dict[str, tuple[str, str, float]], job: str) -> None:
    """Whatever kills a process, and whichever call fails."""
    said, failed, seconds = outcomes[job]
    print(f"{seconds:.1f} s", said, sep="\n")
    assert not failed, failed


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
