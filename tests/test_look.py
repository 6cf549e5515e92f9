"""What `minigan sample` and `minigan traverse` make of codes with labels, categories and uniform numbers."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minigan.cli import look
from minigan.cli.main import main
from minigan.gan.latent import Latent
from minigan.gan.pictures import to_bytes
from minigan.gan.records import Record
from minigan.gan.sampling import generate, trained_generator
from minigan.random import Generator

Capture = pytest.CaptureFixture[str]
LATENT = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> Path:
    """One of each kind, after 3 steps on noise."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    labels = np.arange(16, dtype=np.uint8) % 4
    np.savez(folder / "noise.npz", images=rng.integers(0, 256, (16, 28, 28)).astype(np.uint8), labels=labels)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for name, words in {"gan": [], "cgan": ["classes=4"], "infogan": ["categories=4"]}.items():
            tiny = ["width=2", "batch_size=4", f"latent={LATENT}", "steps=3", f"data={folder / 'noise.npz'}"]
            assert main(["train", name, *tiny, *words, "metrics=false", f"out={folder / name}"]) == 0
    return folder


@pytest.fixture
def here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


def ask(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(words)
    return code, *capsys.readouterr()


def fine(capsys: Capture, *words: str) -> str:
    code, out, err = ask(capsys, *words)
    assert code == 0, err
    return out


def cells(path: Path, rows: int, columns: int) -> Any:
    """The images (rows, columns, 28, 28) of a grid."""
    with Image.open(path) as picture:
        pixels = np.array(picture.convert("L"))
    assert pixels.shape == (29 * rows + 1, 29 * columns + 1)
    return pixels[1:, 1:].reshape(rows, 29, columns, 29)[:, :28, :, :28].swapaxes(1, 2)


def made(run: str, codes: Any) -> Any:
    """The bytes that a run's generator makes of codes (..., size)."""
    net = trained_generator(Record.read(run))[1]
    return to_bytes(generate(net, codes.reshape(-1, codes.shape[-1])))[..., 0].reshape(*codes.shape[:-1], 28, 28)


@pytest.mark.usefixtures("here")
def test_samples_of_a_label_are_told_it(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is classified; the noise is that of samples without a label."""
    monkeypatch.setattr(look, "train_classifier", None)
    fine(capsys, "sample", "cgan", "count=20", "class=2", f"out={tmp_path / 'told'}")
    fine(capsys, "sample", "cgan", "count=20", f"out={tmp_path / 'any'}")
    told, other = (np.load(tmp_path / name / "samples.npz") for name in ("told", "any"))
    prior = Latent(LATENT, (4,))
    assert set(prior.labels(told["z"])) == {2}
    assert set(prior.labels(other["z"])) == {0, 1, 2, 3}
    np.testing.assert_array_equal(told["z"][:, :LATENT], other["z"][:, :LATENT])
    same = prior.labels(other["z"]) == 2
    np.testing.assert_array_equal((told["images"] == other["images"]).all((1, 2, 3)), same)
    np.testing.assert_array_equal(told["images"][..., 0], made("cgan", told["z"]))


@pytest.mark.usefixtures("here")
def test_labels_that_were_not_taught(capsys: Capture) -> None:
    """Named as they were asked for."""
    for key in ("label", "class"):
        code, out, err = ask(capsys, "sample", "cgan", f"{key}=4")
        assert (code, out) == (1, "")
        assert err == f"minigan sample: {key}=4: this generator was taught the labels 0 to 3\n"
        assert ask(capsys, "sample", "cgan", f"{key}=-1") == (
            2, "", f"minigan sample: {key}=-1: '-1' is not a whole number of at least 0, or none\n",
        )  # fmt: skip
        code, _, err = ask(capsys, "sample", "gan", f"{key}=7")
        assert (code, err[: err.index("needs")]) == (1, f"minigan sample: {key}=7 ")


def test_a_column_for_each_class(here: Path, tmp_path: Path, capsys: Capture) -> None:
    """A row has one noise; truncation has its own picture, whose rows have the codes of the other."""
    said = fine(capsys, "traverse", "cgan", "rows=3", "seed=5", f"out={tmp_path / 'a'}")
    assert said.splitlines() == [
        "3 codes of cgan after step 3, in columns:",
        f"{tmp_path / 'a'}/class.png: 0, 1, 2, 3",
        f"{tmp_path / 'a'}/truncation.png: 0.5, 1, 1.5, 2, any",
    ]
    prior = Latent(LATENT, (4,))
    codes = prior.draw(Generator(5, "traverse"), 3)
    told = np.stack([prior.relabel(codes, np.full(3, label)) for label in range(4)], axis=1)
    np.testing.assert_array_equal(cells(tmp_path / "a" / "class.png", 3, 4), made("cgan", told))
    within = np.stack([prior.draw(Generator(5, "traverse"), 3, threshold=t) for t in (0.5, 1, 1.5, 2)], axis=1)
    within[:, :, LATENT:] = codes[:, None, LATENT:]
    shown = cells(tmp_path / "a" / "truncation.png", 3, 5)
    np.testing.assert_array_equal(shown, made("cgan", np.concatenate([within, codes[:, None]], 1)))


def test_numbers_walk(here: Path, tmp_path: Path, capsys: Capture) -> None:
    prior = Latent(LATENT, (4,), 2)
    codes = prior.draw(Generator(0, "traverse"), 2)
    for code, column in (("uniform-1", LATENT + 5), ("noise-2", 2)):
        out = tmp_path / code
        said = fine(capsys, "traverse", "infogan", f"code={code}", "rows=2", "steps=3", "reach=1.5", f"out={out}")
        assert said.startswith("2 codes of infogan ")
        assert said.splitlines()[1:] == [f"{out / code}.png: -1.5, 0, 1.5"]
        rows = codes[:, None].repeat(3, axis=1)
        rows[:, :, column] = [-1.5, 0, 1.5]
        np.testing.assert_array_equal(cells(out / f"{code}.png", 2, 3), made("infogan", rows))


def test_what_is_shown_by_default(here: Path, capsys: Capture) -> None:
    names = {
        "gan": ["truncation"],
        "cgan": ["class", "truncation"],
        "infogan": ["class", "uniform-0", "uniform-1", "truncation"],
    }
    for run, expected in names.items():
        found = json.loads(fine(capsys, "traverse", run, "rows=2", "steps=3", "--json"))
        columns = {
            "class": ["0", "1", "2", "3"], "uniform-0": ["-2", "0", "2"], "uniform-1": ["-2", "0", "2"],
            "truncation": ["0.5", "1", "1.5", "2", "any"],
        }  # fmt: skip
        assert found == {
            "step": 3, "rows": 2, "columns": {name: columns[name] for name in expected},
            "files": [f"{run}/traversed-0001/{name}.png" for name in expected],
        }  # fmt: skip
        assert all(Path(file).exists() for file in found["files"])
    found = json.loads(fine(capsys, "traverse", "infogan", "truncation=1", "rows=2", "--json"))
    assert [Path(file).stem for file in found["files"]] == expected[:-1]


@pytest.mark.usefixtures("here")
def test_one_code(tmp_path: Path, capsys: Capture) -> None:
    assert fine(capsys, "traverse", "cgan", "rows=1", f"out={tmp_path / 'a'}").startswith("1 code of cgan ")


REFUSED = {
    "cgan code=uniform-0": "code=uniform-0: the codes of cgan have class, noise-0 to noise-2; or take truncation",
    "gan code=class": "code=class: the codes of gan have noise-0 to noise-2; or take truncation",
    "infogan code=noise-3": "code=noise-3: the codes of infogan have class, uniform-0, uniform-1, noise-0 to noise-2; "
    "or take truncation",
    "gan truncation=1": "truncation=1 and a picture of truncation contradict each other; give another code=, or leave "
    "truncation= out",
    "cgan truncation=1 code=truncation": "truncation=1 and a picture of truncation contradict each other; give another "
    "code=, or leave truncation= out",
    "cgan out=gan": "gan exists already; choose another name, or an empty folder",
    "cgan rows=0": "rows=0: '0' is not a whole number above 0",
    "cgan steps=1": "steps=1: '1' is not a whole number of at least 2",
    "cgan gan": "'cgan' and 'gan' are too many: name the folder of a run (see minigan traverse --help)",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", REFUSED)
def test_what_makes_no_sense(words: str, capsys: Capture) -> None:
    before = set(Path().rglob("*"))
    code, out, err = ask(capsys, "traverse", *words.split())
    assert code in (1, 2)
    assert (out, err) == ("", f"minigan traverse: {REFUSED[words]}\n")
    assert set(Path().rglob("*")) == before
