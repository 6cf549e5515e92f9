"""The command line as a user meets it: what it prints and where, how it ends, and what is left."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minigan import doctor
from minigan.cli import info, look, measure
from minigan.cli import train as training
from minigan.cli.main import COMMANDS, main
from minigan.data import load
from minigan.gan.recipes import RECIPES
from minigan.gan.run_folder import RunFolder
from minigan.metrics import classifier
from minigan.options import fields_of

ROOT = Path(__file__).parent.parent
TINY = ("width=1", "batch_size=4", "latent=2")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def quick_measures(clean_environment: None) -> Iterator[None]:
    """A classifier of few steps, and few samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "MIN_STEPS", 8)
        patch.setattr(training, "FAKES", 100)
        yield


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Those of a terminal's programs before each test, and afterwards those that were there."""
    before = [signal.signal(SIGNALS[0], signal.default_int_handler)]
    before += [signal.signal(number, signal.SIG_DFL) for number in SIGNALS[1:]]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelled.npz: 64 pictures, half of them bright, and 16 to test; plain.npz: 16 that have no labels."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    labels = np.arange(80, dtype=np.uint8) % 2
    pixels = rng.integers(0, 128, (80, 28, 28)).astype(np.uint8) + 100 * labels[:, None, None]
    parts = {"x_train": pixels[:64], "y_train": labels[:64], "x_test": pixels[64:], "y_test": labels[64:]}
    np.savez(folder / "labelled.npz", **parts)
    np.savez(folder / "plain.npz", images=pixels[:16])
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A folder with two runs on the labelled pictures, `first` and `second`, and `bare` on the others."""
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for name, words in {
            "first": ("gan", f"data={images / 'labelled.npz'}", "evaluate_every=2"),
            "second": ("wgan-gp", f"data={images / 'labelled.npz'}", "metrics=false", "lr=1e-3"),
            "bare": ("gan", f"data={images / 'plain.npz'}"),
        }.items():
            assert main(["train", *words, *TINY, "steps=4", f"out={folder / name}"]) == 0
    return folder


@pytest.fixture
def here(finished: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs, as the working directory; its metrics.json are put back."""
    monkeypatch.chdir(finished)
    return finished


def ask(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(words)
    return code, *capsys.readouterr()


def fine(capsys: Capture, *words: str) -> str:
    """What a command that works prints."""
    code, out, err = ask(capsys, *words)
    assert code == 0, err
    return out


def refused(capsys: Capture, *words: str) -> tuple[int, str]:
    """Exit code and sentence of one that does not: one line on stderr, and nothing on stdout."""
    code, out, err = ask(capsys, *words)
    assert code != 0
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    return code, err[:-1]


# ---- as a process -------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
{before}
import runpy
sys.argv[0] = "minigan"
runpy.run_module("minigan", run_name="__main__", alter_sys=True)
"""


def start(*words: str, cwd: Path, before: str = "", **streams: Any) -> "subprocess.Popen[bytes]":
    """python -m minigan ..."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(before=before), *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"},
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def wait_for_steps(run: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until two steps are logged."""
    log = run / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def to_the_end(capsys: Capture, run: Path, *words: str) -> None:
    """The run is whole: it can be resumed, a few steps on from where it was stopped, and then it is complete."""
    done = len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0
    steps = done + 2
    printed = fine(capsys, "resume", str(run), f"steps={steps}", "metrics=false", *words)
    assert f"going on after step {done} of {steps} in {run}" in printed
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert json.loads((run / "metrics.json").read_text())["step"] == steps
    assert not [p.name for p in run.rglob("*") if p.name.endswith((".part", ".old"))]


def without_first_run(out: str) -> str:
    """Where nothing was compiled yet, a line says that it will be."""
    return out.removeprefix("The first step compiles the kernels, once: about half a minute.\n")


def test_off_a_terminal_a_run_prints_plain_lines(tmp_path: Path, images: Path) -> None:
    data = images / "plain.npz"
    code, out, err = finish(start("train", "gan", *TINY, "steps=3", f"data={data}", "out=run", cwd=tmp_path))
    assert code == 0, err
    said, counted, ended, unclassified, *measured = without_first_run(out).splitlines()
    assert said == f"16 images of {data}, 28x28 pixels, grey"
    assert re.fullmatch(r"gan: parameters of G [\d,]+, D [\d,]+; writing to run", counted)
    assert re.fullmatch(r"3 steps in \d+ s, \d+ images/s; look at run/samples", ended)
    assert unclassified.endswith("so nothing classifies them: measured by the features of an untrained net.")
    assert measured[0].startswith("There are no test images")
    assert measured[1].startswith(
        "By the features of an untrained net, 10,000 samples against 16 training images: FID "
    )
    assert re.fullmatch(r"(\d+ of 12 images[^\r\x1b\n]*: D\(x\) [^\r\x1b\n]*\n)+", err), err


def open_terminal() -> tuple[int, int]:
    """Our side and a program's, of 24 lines of 100 columns: without any columns a bar has no room."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    return ours, theirs


OWN_TERMINAL = "import fcntl, termios; os.setsid(); fcntl.ioctl(2, termios.TIOCSCTTY, 0)"


def test_on_a_terminal_a_bar_and_ctrl_c(tmp_path: Path, images: Path, capsys: Capture) -> None:
    """The key itself is typed: the terminal makes SIGINT of it."""
    ours, theirs = open_terminal()
    words = ("train", "gan", *TINY, "steps=100000", f"data={images / 'plain.npz'}", "out=run")
    process = start(*words, cwd=tmp_path, before=OWN_TERMINAL, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_for_steps(tmp_path / "run", process)
    os.write(ours, b"\x03")
    parts = list[bytes]()
    with contextlib.suppress(OSError):  # Linux: EIO at the end
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    os.close(ours)
    assert process.wait(120) == 130
    printed = b"".join(parts).decode()
    assert "%|" in printed
    assert "/400000 [" in printed
    assert re.search(
        r"\nminigan train: SIGINT after step \d+ of 100000; go on with: minigan resume run\r\n$", printed
    ), printed[-500:]
    to_the_end(capsys, tmp_path / "run")


def test_a_terminal_that_is_closed(tmp_path: Path, images: Path, capsys: Capture) -> None:
    """SIGHUP comes, and nobody reads the bar any more."""
    ours, theirs = open_terminal()
    words = ("train", "gan", *TINY, "steps=100000", f"data={images / 'plain.npz'}", "out=run")
    process = start(*words, cwd=tmp_path, before=OWN_TERMINAL, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_for_steps(tmp_path / "run", process)
    os.close(ours)
    assert process.wait(120) == 128 + signal.SIGHUP
    to_the_end(capsys, tmp_path / "run")


def test_sigterm(tmp_path: Path, images: Path, capsys: Capture) -> None:
    words = ("train", "wgan-gp", *TINY, "steps=100000", f"data={images / 'plain.npz'}", "--json")
    process = start(*words, cwd=tmp_path)
    wait_for_steps(tmp_path / "runs" / "wgan-gp-0001", process)
    process.terminate()
    code, out, err = finish(process)
    assert (code, out) == (143, "")
    assert re.fullmatch(
        r"minigan train: SIGTERM after step \d+ of 100000; go on with: minigan resume runs/wgan-gp-0001",
        err.splitlines()[-1],
    )
    to_the_end(capsys, tmp_path / "runs" / "wgan-gp-0001")


@pytest.fixture
def nobody_reads() -> Iterator[int]:
    """The writing end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_that_nobody_reads(tmp_path: Path, images: Path, capsys: Capture, nobody_reads: int, stream: str) -> None:
    """stdout: the first line cannot be printed, before there is a folder. stderr: the first line of the progress."""
    words = ("train", "gan", *TINY, "steps=100000", f"data={images / 'plain.npz'}", "out=run")
    code, out, err = finish(start(*words, cwd=tmp_path, **{stream: nobody_reads}))
    assert code == 141
    if stream == "stdout":
        assert err == ""
        assert not (tmp_path / "run").exists()
    else:
        assert "writing to run" in out
        to_the_end(capsys, tmp_path / "run")


def test_a_list_that_nobody_reads(tmp_path: Path, nobody_reads: int) -> None:
    """As of `minigan list | head -0`."""
    assert finish(start("list", cwd=tmp_path, stdout=nobody_reads)) == (141, "", "")


def test_streams_that_were_closed_before_the_start(tmp_path: Path) -> None:
    """An error goes nowhere, above all not to the other stream."""
    command = [sys.executable, "-m", "minigan"]
    for close, word, code in ((">&-", "list", 0), ("2>&-", "lisst", 2)):
        shell = ["sh", "-c", f'exec "$@" {close}', "sh", *command, word]
        done = subprocess.run(shell, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_the_console_script_is_declared() -> None:
    lines = [line.replace(" ", "") for line in (ROOT / "setup.cfg").read_text().splitlines()]
    script = lines[lines.index("console_scripts=") + 1]
    assert script == "minigan=minigan.cli:main"  # tests/test_packaging.py runs it
    assert lines[lines.index("console_scripts=") - 1] == "[options.entry_points]"


# ---- signals, wherever they come ----------------------------------------------------------------------------------


def raiser(*numbers: int, after: int = 1) -> Callable[..., Any]:
    """A function whose call number `after` is interrupted by these signals; before that it returns some text."""
    calls = list[int]()

    def call(*arguments: Any, **_: Any) -> str:
        calls.append(1)
        if len(calls) == after:
            for number in numbers:
                signal.raise_signal(number)
        return "text"

    return call


@pytest.fixture
def run(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A command line for main, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ("train", "gan", *TINY, "steps=6", f"data={images / 'labelled.npz'}", "out=a run")


@pytest.mark.parametrize(("number", "name", "code"), [(2, "SIGINT", 130), (15, "SIGTERM", 143), (1, "SIGHUP", 129)])
def test_a_signal_in_a_step(
    run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: int, name: str, code: int
) -> None:
    """The step is finished; the sentence can be pasted into a shell."""
    with monkeypatch.context() as patch:
        patch.setattr(training, "in_short", raiser(number, after=3))
        ended, _, err = ask(capsys, *run)
    assert ended == code
    sentence = f"minigan train: {name} after step 3 of 6; go on with: minigan resume 'a run'"
    assert err.splitlines()[-1] == sentence
    assert (Path("a run") / "weights.safetensors").exists()
    assert (Path("a run") / "samples" / "step_000003.png").exists()
    to_the_end(capsys, Path("a run"))


def test_a_second_signal_does_not_wait(run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "in_short", raiser(signal.SIGINT, signal.SIGINT, after=3))
        code, _, err = ask(capsys, *run)
    assert code == 130
    assert err.splitlines()[-1].startswith("minigan train: interrupted within step ")
    assert err.splitlines()[-1].endswith("; go on with: minigan resume 'a run'")
    assert "6 steps in" in fine(capsys, "resume", "a run", "metrics=false")  # from the checkpoint before
    assert len((Path("a run") / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_signal_that_was_ignored_stays_ignored(
    run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nohup does so to SIGHUP, a shell's & to SIGINT."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    monkeypatch.setattr(training, "in_short", raiser(signal.SIGHUP, signal.SIGINT, after=3))
    assert "6 steps in" in fine(capsys, *run, "metrics=false")


@pytest.mark.parametrize(
    ("number", "said", "code"), [(2, "interrupted", 130), (15, "ended by SIGTERM", 143), (1, "ended by SIGHUP", 129)]
)
def test_a_signal_while_data_are_loaded(
    run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: int, said: str, code: int
) -> None:
    monkeypatch.setattr(training, "load", raiser(number))
    assert ask(capsys, *run)[::2] == (code, f"minigan train: {said}\n")
    assert not Path("a run").exists()


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_a_signal_while_it_measures(
    run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(measure, "train_classifier", raiser(number))
        ended, _, err = ask(capsys, *run, "--json")
    assert ended == code
    sentence = "minigan train: not measured, but the run is complete: minigan evaluate 'a run'"
    assert err.splitlines()[-1] == sentence
    metrics = Path("a run") / "metrics.json"
    assert json.loads(metrics.read_text())["step"] == 6
    assert fine(capsys, "resume", "a run").startswith("a run is complete, with 6 steps")


@pytest.mark.parametrize(("number", "said", "code"), [(2, "interrupted", 130), (15, "ended by SIGTERM", 143)])
def test_a_signal_while_results_are_written(
    run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: int, said: str, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "plot_losses", raiser(number))
        ended, _, err = ask(capsys, *run)
    assert ended == code
    sentence = f"minigan train: {said} after the last step; go on with: minigan resume 'a run'"
    assert err.splitlines()[-1] == sentence
    assert "going on after step 6 of 6" in fine(capsys, "resume", "a run", "metrics=false")
    assert (Path("a run") / "losses.png").exists()


def test_output_that_closes_when_the_run_is_over(
    run: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `minigan train ... | head -2`: the third line cannot be printed."""
    lines = list[str]()

    def say(text: str) -> None:
        if len(lines) == 2:
            raise BrokenPipeError(32, "Broken pipe")
        lines.append(text)

    with monkeypatch.context() as patch:
        patch.setattr(training, "speaker", lambda _: say)
        patch.setattr(training, "use_device", lambda *_: None)
        code, _, err = ask(capsys, *run)
    assert code == 141
    sentence = "minigan train: its output was closed; go on with: minigan resume 'a run'"
    assert err.splitlines()[-1] == sentence
    assert "going on after step 6 of 6" in fine(capsys, "resume", "a run", "metrics=false")


# ---- help, and words that make no sense ---------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys: Capture, command: str, word: str) -> None:
    """Wherever the word stands, and whatever else is wrong."""
    text = fine(capsys, command, word)
    assert text.startswith(f"usage: minigan {command}")
    assert re.search(rf"^  (for name in .*)?minigan {command}", text, re.MULTILINE)
    assert all(len(line) <= 120 for line in text.splitlines())
    assert fine(capsys, command, "--nonsense", "=", word, "a=b") == text


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_without_a_command_all_are_listed(capsys: Capture, words: list[str]) -> None:
    text = fine(capsys, *words)
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", text, re.MULTILINE)


@pytest.mark.parametrize("name", RECIPES)
def test_help_of_a_recipe_has_all_its_keys(capsys: Capture, name: str) -> None:
    text = fine(capsys, "train", name, "--help")
    recipe = RECIPES[name]
    about = f"of {name}:\n\n{recipe.summary} ({recipe.paper})\n{recipe.formula}\n"
    assert about in text
    assert (f"measured: {recipe.expected}\n" in text) == (recipe.expected > "")
    assert f"NAME, one of {', '.join(RECIPES)}, and" in " ".join(text.split())
    for option in fields_of(RECIPES[name].settings):
        assert re.search(rf"^  {option.name}=\S+ +\w", text, re.MULTILINE), option.name
    for preset in RECIPES[name].presets:
        assert preset in text


def test_help_on_resume_has_whole_sentences(capsys: Capture) -> None:
    text = fine(capsys, "resume", "--help")
    keys = re.findall(r"^  (\w+)=", text, re.MULTILINE)
    assert keys == [
        "steps", "epochs", "data", "device", "sample_every", "checkpoint_seconds", "keep", "evaluate_every", "metrics",
        "capture",
    ]  # fmt: skip
    assert text.count("(") == text.count(")")


def test_version(capsys: Capture) -> None:
    assert re.fullmatch(r"minigan \d+\.\d+\.\d+\n", fine(capsys, "--version"))
    assert fine(capsys, "-V") == fine(capsys, "--version")


NAMES = f"name what to train: {', '.join(RECIPES)} (see minigan train --help)"
FOLDER = "name the folder of a run (see minigan {0} --help)"
SENSELESS = {
    "trian": "minigan: there is no command 'trian'; did you mean 'train'?",
    "fly": f"minigan: there is no command 'fly'; there are {', '.join(COMMANDS)}",
    "--json list": f"minigan: there is no command '--json'; there are {', '.join(COMMANDS)}",
    "train": f"minigan train: {NAMES}",
    "train gan minimax": f"minigan train: 'gan' and 'minimax' are too many: {NAMES}",
    "train gan |": f"minigan train: 'gan' and '' are too many: {NAMES}",
    "train gann": "minigan train: there is no recipe 'gann'; did you mean 'gan'?",
    "train xyz": f"minigan train: there is no recipe 'xyz'; there are {', '.join(RECIPES)}",
    "train gan --steps=5": "minigan train: there is no --steps=5; settings are written steps=5, no dashes",
    "train gan --batch-size 5": "minigan train: there is no --batch-size; settings are written batch_size=value, "
    "no dashes",
    "train gan --jsno": "minigan train: there is no --jsno; did you mean --json?",
    "train gan --": "minigan train: there is no --; settings are written key=value, no dashes",
    "train gan stpes=5": "minigan train gan: there is no key 'stpes'; did you mean 'steps'?",
    "train gan n_critic=5": "minigan train gan: there is no key 'n_critic'; the keys are preset, steps, ",
    "train gan steps=abc": "minigan train gan: steps=abc: 'abc' is not a whole number above 0 and below 10000000, or",
    "train gan steps=": "minigan train gan: steps=: '' is not a whole number above 0 and below 10000000, or none",
    "train gan steps=5 steps=6": "minigan train gan: steps is given twice, as '5' and '6'; leave one out",
    "train gan steps=5 epochs=3": "minigan train gan: steps and epochs both say how long to train; give one of them",
    "train gan preset=big": "minigan train gan: there is no preset 'big'; choose quick or tutorial-64",
    "train gan device=gpu": "minigan train gan: device=gpu: 'gpu' is not one of cpu, cuda, emulator; "
    "did you mean 'cpu'?",
    "train gan größe=3": "minigan train gan: there is no key 'größe'; the keys are preset, ",
    "resume first lr=1": "minigan resume first: lr cannot change when a run goes on, it would be another training; "
    "begin one with minigan train lr=...",
    "resume first steps=5 epochs=2": "minigan resume first: steps and epochs both say how long to train; give one",
    "resume first --keep=2": "minigan resume: there is no --keep=2; settings are written keep=2, no dashes",
    "list gan": "minigan list: takes --names or --json and nothing else",
    "list --names --json": "minigan list: takes --names or --json and nothing else",
    "doctor gan": "minigan doctor: takes --json and nothing else",
    "sample first second": f"minigan sample: 'first' and 'second' are too many: {FOLDER.format('sample')}",
    "sample first count=0": "minigan sample: count=0: '0' is not a whole number above 0",
    "sample first class=x": "minigan sample: class=x: 'x' is not a whole number of at least 0, or none",
    "sample first class=1 label=1": "minigan sample: label is given twice, as '1' and '1'; leave one out",
    "interpolate first path=spline": "minigan interpolate: path=spline: 'spline' is not one of slerp, lerp",
    "interpolate first steps=1": "minigan interpolate: steps=1: '1' is not a whole number of at least 2",
    "evaluate first count=1": "minigan evaluate: count=1: '1' is not a whole number of at least 2",
    "compare": "minigan compare: name the folders of runs (see minigan compare --help)",
    "compare first steps=3": "minigan compare: takes no steps=3 here; the only key is out=FILE.html, once",
    "report first width=2": "minigan report: takes the folder of a run and nothing else",
    "report first --json": "minigan report: there is no --json; settings are written json=value, no dashes",
    **{
        command: f"minigan {command}: {FOLDER.format(command)}"
        for command in ("resume", "sample", "interpolate", "evaluate", "report")
    },
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", SENSELESS)
def test_what_makes_no_sense_gets_one_sentence(capsys: Capture, words: str) -> None:
    code, sentence = refused(capsys, *(word.replace("|", "") for word in words.split()))
    assert sentence.startswith(SENSELESS[words])
    assert code == 2


WRONG = {
    "train gan out=first": "minigan train: first exists already; choose another name, or an empty folder",
    "train gan data=nowhere": "minigan train: load: there is no nowhere; choose",
    "resume second out=third": "minigan resume second: out cannot change when a run goes on, it would be another "
    "training; begin one with minigan train ...",
    "sample first checkpoint=3": "minigan sample: there is no checkpoint '3' in first/checkpoints; there are those of "
    "0, 2, 4",
    "sample first checkpoint=-1": "minigan sample: there is no checkpoint '-1' in first/checkpoints; there are",
    "sample second checkpoint=best": "minigan sample: no checkpoint in second/checkpoints was evaluated "
    "(evaluate_every=); take the latest",
    "sample first out=second": "minigan sample: second exists already; choose another name, or an empty folder",
    "sample first class=7": "minigan sample: class=7: the labels of ",
    "sample bare class=1": "minigan sample: class=1 needs labels and a test set, which ",
    "interpolate first out=second": "minigan interpolate: second exists already; choose another name",
    "evaluate first data=nowhere": "minigan evaluate: load: there is no nowhere; choose",
    **{
        f"{command} {what}": f"minigan {command}: {said}"
        for command in ("resume", "sample", "interpolate", "evaluate", "compare", "report")
        for what, said in {
            "nowhere": "there is no folder nowhere: name the folder of a run",
            ".": ". has no config.json: name the folder of a run",
            "old": "old was written by a minigan that kept no checkpoints; it can be neither resumed nor sampled: "
            "train again",
            "new": "new/config.json is of format 99, newer than 1, which this minigan reads: update minigan",
            "torn": "torn/config.json is not JSON (",
            "bitten": "bitten/config.json has no recipe: it is damaged, or not the config of a run",
            "./a=b": "there is no folder a=b: name the folder of a run",
        }.items()
    },
}


@pytest.fixture
def damaged(here: Path) -> None:
    """Folders that are no runs, or not any more."""
    config = json.loads((here / "first" / "config.json").read_text())
    texts = {
        "old": json.dumps({"objective": "gan", "steps": 3, "width": 32}),
        "new": json.dumps({**config, "format": 99}),
        "torn": json.dumps(config)[:99],
        "bitten": json.dumps({key: value for key, value in config.items() if key != "recipe"}),
    }
    for name, text in texts.items():
        (here / name).mkdir(exist_ok=True)
        (here / name / "config.json").write_text(text)


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize("words", WRONG)
def test_what_goes_wrong_gets_one_sentence_and_leaves_nothing(here: Path, capsys: Capture, words: str) -> None:
    before = sorted(here.rglob("*"))
    code, sentence = refused(capsys, *words.split())
    assert sentence.startswith(WRONG[words]), sentence
    assert code == (2 if " out cannot change" in sentence else 1)
    assert sorted(here.rglob("*")) == before


def test_other_data_are_refused(here: Path, images: Path, capsys: Capture) -> None:
    code, sentence = refused(capsys, "evaluate", "first", f"data={images / 'plain.npz'}")
    assert code == 1
    assert re.fullmatch(
        r"minigan evaluate: first was trained on other images: on 64 of \S+labelled.npz, 28x28x1, SHA-256 \w{8}, but "
        r"here are 16 of \S+plain.npz, 28x28x1, SHA-256 \w{8}; name the right ones by data=",
        sentence,
    )


def test_a_run_cannot_become_shorter(here: Path, capsys: Capture) -> None:
    before = (here / "second" / "config.json").read_text()
    code, _, err = ask(capsys, "resume", "second", "steps=3")
    assert (code, err) == (
        1,
        "minigan resume: second has 4 steps already, so it cannot end at 3; give more, or nothing\n",
    )
    assert (here / "second" / "config.json").read_text() == before
    assert (here / "second" / "metrics.json").exists()


# ---- commands that work -------------------------------------------------------------------------------------------


def test_list(capsys: Capture) -> None:
    lines = fine(capsys, "list").splitlines()
    families = list(dict.fromkeys(recipe.family for recipe in RECIPES.values()))
    assert [line for line in lines if not line.startswith(" ")] == families
    for line, recipe in zip([line for line in lines if line.startswith(" ")], RECIPES.values(), strict=True):
        assert line.split()[0] == recipe.name
        assert recipe.summary in line
        assert recipe.paper in line
    assert fine(capsys, "list", "--names").split() == list(RECIPES)
    rows = json.loads(fine(capsys, "list", "--json"))
    assert [row["name"] for row in rows] == list(RECIPES)
    assert rows[0]["settings"]["width"] == 32
    assert rows[0]["presets"] == ["quick", "tutorial-64"]
    assert (rows[0]["family"], rows[0]["formula"]) == (RECIPES["gan"].family, RECIPES["gan"].formula)


def test_json_is_all_that_train_prints(run: tuple[str, ...], capsys: Capture) -> None:
    code, out, err = ask(capsys, *run, "--json")
    assert code == 0
    metrics = json.loads(out)
    assert metrics == json.loads((Path("a run") / "metrics.json").read_text())
    assert (metrics["step"], metrics["images"]) == (6, 24)
    assert {"fid", "fid_floor", "classifier_accuracy"} <= metrics.keys()
    assert "writing to a run" in err
    assert json.loads(fine(capsys, "resume", "a run", "--json")) == metrics  # nothing to do, and still one document


def test_a_complete_run_is_left_alone(here: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in (here / "first").rglob("*") if path.is_file()}
    assert fine(capsys, "resume", "first") == "first is complete, with 4 steps; steps= makes it longer\n"
    assert {path: path.read_bytes() for path in (here / "first").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["ein Lauf/größer", "日本", "a b  c", "./x=y", "-"])
def test_folders_of_any_name(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "gan", *TINY, "steps=1", "metrics=false", f"data={images / 'plain.npz'}", f"out={name}")
    assert f"writing to {Path(name)}\n" in fine(capsys, *words)
    assert fine(capsys, "report", name) == f"{Path(name) / 'report.html'}\n"
    assert "1 steps" not in refused(capsys, "train", "gan", f"out={name}")[1]


def test_samples(here: Path, images: Path, tmp_path: Path, capsys: Capture) -> None:
    """The same seed gives the same pictures, and both forms of them can be trained on."""
    out, again, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    printed = fine(capsys, "sample", "first", "count=5", f"out={out}")
    assert printed == f"5 samples of first after step 4: {out}/grid.png, {out}/samples.npz, {out}/images\n"
    fine(capsys, "sample", "first", "count=5", "seed=0", f"out={again}")
    fine(capsys, "sample", "first", "count=5", "seed=1", f"out={other}")
    arrays = [np.load(folder / "samples.npz") for folder in (out, again, other)]
    assert arrays[0]["images"].shape == (5, 28, 28, 1)
    assert arrays[0]["z"].shape == (5, 2)
    np.testing.assert_array_equal(arrays[0]["images"], arrays[1]["images"])
    assert (arrays[0]["z"] != arrays[2]["z"]).all()
    pictures = sorted((out / "images").iterdir())
    assert [p.name for p in pictures] == [f"{i:06}.png" for i in range(5)]
    with Image.open(out / "grid.png") as grid:
        assert grid.size == (3 * 29 + 1, 2 * 29 + 1)
    for source in (out / "images", out / "samples.npz"):
        np.testing.assert_array_equal(load(str(source), 28).images, arrays[0]["images"])


def test_default_folders_are_numbered(here: Path, capsys: Capture) -> None:
    for command, name, count in (("sample", "sampled", "count=1"), ("interpolate", "walks", "walks=1")):
        for number in (1, 2):
            found = json.loads(fine(capsys, command, "first", count, "--json"))
            assert {Path(file).parent for file in found["files"]} == {Path(f"first/{name}-{number:04}")}
            assert all(Path(file).exists() for file in found["files"])
            assert found["step"] == 4


def test_samples_of_a_truncated_normal(here: Path, tmp_path: Path, capsys: Capture) -> None:
    fine(capsys, "sample", "first", "count=100", "truncation=0.5", f"out={tmp_path / 'a'}")
    z = np.load(tmp_path / "a" / "samples.npz")["z"]
    assert 0.3 < np.abs(z).max() <= 0.5
    assert len(np.unique(z)) == z.size  # drawn anew, not cut off


def test_samples_of_one_class(
    here: Path, images: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the classifier takes for it; a class that G does not make ends after a while, with one sentence."""
    bright = SimpleNamespace(predict=lambda x: (x.mean((1, 2, 3)) > np.median(x.mean((1, 2, 3)))).astype(int))
    monkeypatch.setattr(look, "train_classifier", lambda *_: bright)
    fine(capsys, "sample", "first", "count=3", "class=1", f"out={tmp_path / 'a'}")
    fine(capsys, "sample", "first", "count=3", "label=0", f"out={tmp_path / 'b'}")
    light, dark = (np.load(tmp_path / name / "samples.npz") for name in "ab")
    assert len(light["images"]) == len(light["z"]) == 3
    assert light["images"].mean() > dark["images"].mean()

    monkeypatch.setattr(look, "train_classifier", lambda *_: SimpleNamespace(predict=lambda x: np.zeros(len(x))))
    monkeypatch.setattr(look, "TRIES", 100)
    code, sentence = refused(capsys, "sample", "first", "count=3", "class=1", f"out={tmp_path / 'c'}")
    wanted = "minigan sample: class=1: of 500 samples only 0 look like it, not 3; the generator does not make them"
    assert (code, sentence) == (1, wanted)
    assert not (tmp_path / "c").exists()


def test_samples_of_other_checkpoints(here: Path, tmp_path: Path, capsys: Capture) -> None:
    found = {}
    for which in ("0", "2", "4", "latest", "best"):
        words = ("sample", "first", "count=2", f"checkpoint={which}", f"out={tmp_path / which}", "--json")
        step = json.loads(fine(capsys, *words))["step"]
        found[which] = step, np.load(tmp_path / which / "samples.npz")["images"].tobytes()
    assert [found[which][0] for which in ("0", "2", "4", "latest")] == [0, 2, 4, 4]
    rows = map(json.loads, (here / "first" / "metrics.jsonl").read_text().splitlines())
    fids = {row["step"]: row["fid"] for row in rows if "fid" in row}
    assert found["best"][0] == min(fids, key=lambda step: fids[step])
    assert found["latest"] == found["4"]
    assert len({pictures for _, pictures in found.values()}) == 3


def test_walks(here: Path, tmp_path: Path, capsys: Capture) -> None:
    """Great circles and lines have the same ends; there and back, an animation leaves out its ends."""
    strips = {}
    for path in ("slerp", "lerp"):
        out = tmp_path / path
        fine(capsys, "interpolate", "first", "walks=3", "steps=5", f"path={path}", f"out={out}")
        with Image.open(out / "interpolation.png") as strip, Image.open(out / "interpolation.gif") as animation:
            strips[path] = np.array(strip.convert("L"))
            assert getattr(animation, "n_frames", 1) == 5 + 3
            assert animation.size == (3 * 29 + 1, 29 + 1)
    assert strips["slerp"].shape == (3 * 29 + 1, 5 * 29 + 1)
    different = (strips["slerp"] != strips["lerp"]).any(0).reshape(-1)
    assert not different[:30].any()
    assert not different[-30:].any()
    assert different[30:-30].any()


def test_evaluate_writes_what_it_measures(here: Path, images: Path, capsys: Capture) -> None:
    path = here / "second" / "metrics.json"
    before = path.read_text()
    assert "fid" not in json.loads(before)
    sample = json.loads(fine(capsys, "evaluate", "second", "count=20", "--json"))  # too few to be the run's result
    assert (sample["step"], sample["samples"], sample["n"]) == (4, 20, 16)
    assert path.read_text() == before
    try:
        printed = fine(capsys, "evaluate", "second", f"data={images / 'labelled.npz'}")
        assert "10,000 samples of second after step 4" in printed
        assert "FID (own features, 16 samples against 64 training images): " in printed
        after = json.loads(path.read_text())
        assert json.loads(before).items() < after.items()
        assert sum(after["predicted_histogram"]) == 10_000
    finally:
        path.write_text(before)


def test_evaluate_without_labels(here: Path, capsys: Capture) -> None:
    """By the features of an untrained net; nothing that needs labels or test images."""
    printed = fine(capsys, "evaluate", "bare", "count=2")
    assert "nothing classifies them: measured by the features of an untrained net.\n" in printed
    found = json.loads(fine(capsys, "evaluate", "bare", "count=2", "--json"))
    assert found.keys() == {
        "step", "samples", "seed", "n", "n_reference", "fid_random", "kid_random", "nearest_train"
    }  # fmt: skip


def test_compare(here: Path, capsys: Capture) -> None:
    head, first, second, gap, *settings = fine(capsys, "compare", "first", "second").splitlines()
    assert head.split()[:3] == ["run", "recipe", "state"]
    assert (first.split()[:3], second.split()[:3]) == (["first", "gan", "complete"], ["second", "wgan-gp", "complete"])
    assert gap == ""
    assert ["lr", "0.0002", "0.001"] in [line.split() for line in settings]
    assert not any(line.startswith(("seed", "out", "width")) for line in settings)
    rows = json.loads(fine(capsys, "compare", "first", "second", "--json"))
    assert [(row["name"], row["step"], row["settings"]["width"]) for row in rows] == [("first", 4, 1), ("second", 4, 1)]


@pytest.mark.usefixtures("damaged")
def test_compare_names_the_damaged_one(capsys: Capture) -> None:
    """And shows the others."""
    code = main(["compare", "first", "torn", "second"])
    out, err = capsys.readouterr()
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("minigan compare: left out: torn/config.json is not JSON (")
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["run", "first", "second"]
    code, sentence = refused(capsys, "compare", "torn")
    assert (code, sentence.startswith("minigan compare: torn/config.json is not JSON (")) == (1, True)


def test_report(here: Path, capsys: Capture) -> None:
    assert fine(capsys, "report", "first") == "first/report.html\n"
    page = (here / "first" / "report.html").read_text()
    assert "<h1>first</h1>" in page
    assert page.count("data:image/png;base64,") >= 2
    assert "<svg" in page
    assert "Damaged" not in page


def test_doctor(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the CPU only: tests/test_doctor.py asks the others."""
    monkeypatch.setattr(doctor, "describers", lambda: {"cpu": doctor._cpu})
    found = json.loads(fine(capsys, "doctor", "--json"))
    assert {"device": "cpu", "works": True}.items() <= found["devices"][0].items()
    assert "numpy" in found


# ---- anything at all ----------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_characters="\0", exclude_categories=[]), max_size=12)
pairs = st.builds(
    "{}={}".format,
    st.sampled_from(["steps", "seed", "data", "out", "count", "class", "path", "checkpoint", "keep", "preset", "lr"])
    | text,
    st.sampled_from(["1", "0", "-1", "none", "1e9", "1e400", "best", "quick", "true", ""]) | text,
)
words = (
    st.sampled_from(["first", "bare", "gan", "wgan-gp", "--json", "--names", "-h", "--", "-", ".", ""]) | pairs | text
)


@settings(max_examples=400)
@given(command=st.sampled_from([*COMMANDS]) | text, rest=st.lists(words, max_size=4))
def test_no_words_raise(finished: Path, command: str, rest: list[str]) -> None:
    """Everything that would take long is left out."""

    def stop(*_: Any) -> Any:
        raise ValueError("here the work\nbegins")

    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(finished)
        for module, name in ((training, "start"), (training, "_get_data"), (look, "_prepared")):
            patch.setattr(module, name, stop)
        for module, name in ((measure, "trained_generator"), (measure, "write_report"), (doctor, "main")):
            patch.setattr(module, name, stop)
        for module in (training, measure):
            patch.setattr(module, "use_device", lambda *_: None)
        assert info.examination is doctor
        code = main([command, *rest])
    assert code in (0, 1, 2)
    if code:
        assert len(err.getvalue().splitlines()) == 1
        assert err.getvalue().startswith("minigan")
        assert out.getvalue() == "" or command == "compare"  # which shows the good ones
    else:
        assert out.getvalue() != ""
        assert err.getvalue() == ""
