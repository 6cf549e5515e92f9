"""The examples run as a reader runs them, print what is true, and leave nothing behind."""

import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from minigan.gan.recipes import RECIPES
from minigan.options import fields_of

ROOT = Path(__file__).parent.parent


def run(example: str, cwd: Path, *args: str, path: str = str(ROOT), strict: bool = True) -> str:
    """What examples/`example` prints. It must succeed, warn of nothing and, without arguments, write nothing."""
    done = subprocess.run(
        [sys.executable, *(["-W", "error"] if strict else []), str(ROOT / "examples" / example), *args],
        cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not strict or not done.stderr
    assert args or not list(cwd.iterdir()), "the example left something behind"
    return done.stdout


def figure(output: str, line: str) -> float:
    """The number at the end of the line that starts like this."""
    (found,) = re.findall(rf"^ *{re.escape(line)}.*?(-?\d+\.\d+)$", output, re.MULTILINE)
    return float(found)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run("autograd_tour.py", tmp_path_factory.mktemp("tour"))


def test_tour_derives_as_by_hand(tour: str) -> None:
    by_hand = re.findall(r"by hand +(\S+)", tour)
    assert by_hand == re.findall(r"by engine +(\S+)", tour) == ["0.855341023743", "1.209464475240"]
    assert tour.count("equal     True") == 2


def test_tour_shows_the_graph(tour: str) -> None:
    assert re.search(r"^x  = leaf +\(\)\n%1 = tanh\(x\) +\(\)$", tour, re.MULTILINE)
    assert re.search(r"^f' = add\(%2, %6\) +\(\)$", tour, re.MULTILINE)


def test_tour_proves_the_trilinear_identity(tour: str) -> None:
    value = figure(tour, "<conv2d(x, w), y>")
    assert figure(tour, "<x, conv_transpose2d(y, w)>") == pytest.approx(value, rel=1e-9)
    assert figure(tour, "<w, conv2d_weight(x, y)>") == pytest.approx(value, rel=1e-9)
    assert re.findall(r"^dT/d(.) is .*: +True$", tour, re.MULTILINE) == ["x", "w"]


def test_tour_computes_the_gradient_penalty(tour: str) -> None:
    # 6.06613 and 3.97871 are PyTorch's, in float64
    assert figure(tour, "penalty  ") == pytest.approx(6.06613, abs=2e-3)
    assert figure(tour, "norm of d penalty / d first weight") == pytest.approx(3.97871, abs=2e-3)
    assert figure(tour, "the same by two values along it") == pytest.approx(3.97871, abs=2e-2)


def test_tour_shows_the_mistakes(tour: str) -> None:
    assert "multiply: its input of shape (2, 1) was modified in place after the forward pass" in tour
    assert "multiply: what it saved was freed when its graph was differentiated" in tour


def test_tour_is_short_and_deterministic(tour: str, tmp_path: Path) -> None:
    assert len(tour.splitlines()) < 60
    assert run("autograd_tour.py", tmp_path) == tour


def test_tour_draws_the_graph_where_it_is_told_to(tmp_path: Path) -> None:
    drawing = tmp_path / "graph.svg"
    assert f"drawn in {drawing}" in run("autograd_tour.py", tmp_path, "--svg", str(drawing))
    assert ET.parse(drawing).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert list(tmp_path.iterdir()) == [drawing]


def check_the_checks(output: str) -> None:
    """swish passes all of them; each of the two mistakes is found by one."""
    assert output.count("kernel = reference in float") == output.count(": True") == 2
    right, wrong_sign, wrong_definition = output.split("\n\n")[1:4]
    assert re.findall(r"(\w+) +passed", right) == ["gradcheck", "gradgradcheck", "check_recorded"]
    assert re.search(r"gradcheck: input 0 of shape \(2, 3\): relative error \S+ is above 1e-06", wrong_sign)
    assert re.findall(r"(\w+) +passed", wrong_definition) == ["gradcheck", "gradgradcheck"]
    assert re.search(r"check_recorded: input 0 of shape \(2, 3\): relative error \S+ is above 1e-10", wrong_definition)


def test_the_added_op_passes_the_checks_and_its_wrong_versions_do_not(tmp_path: Path) -> None:
    output = run("add_an_op.py", tmp_path)
    assert output.startswith("The kernel is compiled by Numba.")
    check_the_checks(output)


def test_the_added_op_works_without_numba(tmp_path: Path) -> None:
    hidden, cwd = tmp_path / "hidden", tmp_path / "cwd"
    hidden.mkdir()
    cwd.mkdir()
    (hidden / "numba.py").write_text("raise ImportError('hidden')")
    output = run("add_an_op.py", cwd, path=f"{hidden}{os.pathsep}{ROOT}", strict=False)  # minigan warns that it is slow
    assert output.startswith("The kernel is the reference: Numba is not installed.")
    check_the_checks(output)


@pytest.mark.parametrize("example", ["autograd_tour.py", "add_an_op.py", "capture.py"])
def test_help(example: str, tmp_path: Path) -> None:
    assert run(example, tmp_path, "--help").startswith(f"usage: {example} [-h]")
    assert not list(tmp_path.iterdir())


DCGAN = runpy.run_path(str(ROOT / "examples" / "dcgan_mnist.py"))


def asked(words: str, capsys: pytest.CaptureFixture[str], code: int) -> tuple[str, str]:
    """What dcgan_mnist.py prints of words that start no training."""
    with pytest.raises(SystemExit) as exit_:
        DCGAN["arguments"](words.split())
    assert exit_.value.code == code
    return capsys.readouterr()


WRONG = {
    "--objective wgan-clip --beta1 0": "--beta1 is not an option of wgan-clip; of its own it has --n-critic, "
    "--long-phases, --clip",
    "--one-sided": "--one-sided is not an option of gan; of its own it has --beta1, --beta2",
    "--lr nan": "--lr nan: 'nan' is not a number above 0",
    "--steps 1 --epochs 1": "steps and epochs both say how long to train; give one of them",
    "--objective improved --equalized --d-norm spectral": "--equalized and --d-norm spectral: the spectral norm "
    "divides out the scale that the other sets; take one of them",
    "--objective improved --replay 50 --minibatch std": "--replay 50 and --minibatch std: D would judge how alike the "
    "fakes of a batch are, half of which are not from this G; take one of them",
    "--objective improved --minibatch std --batch-size 10": "--minibatch std compares groups of 4 images, which do not "
    "divide --batch-size 10; give --batch-size 8",
    "--objective improved --noise 0.1 --epochs 3": "--noise 0.1 falls to 0 over the run's steps, which --epochs 3 does "
    "not say; give steps in place of epochs, or, to a new run, --noise-steps",
}


@pytest.mark.parametrize("words", WRONG)
def test_dcgan_answers_in_flags_and_in_two_lines(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = asked(words, capsys, 2)
    assert (out, err.splitlines()) == (
        "",
        [
            "usage: dcgan_mnist.py [-h] [--objective NAME] [--OPTION VALUE ...]; --help lists all",
            f"dcgan_mnist.py: error: {WRONG[words]}",
        ],
    )


def test_dcgan_translates_keys_only() -> None:
    as_flags, options = DCGAN["as_flags"], {option.name: option for option in fields_of(RECIPES["gan"].settings)}
    text = "metrics=false, clip_norm=: out=a/b;c with other=1 and steps of the data"
    assert as_flags(text, options) == "--no-metrics, --clip-norm: --out a/b;c with other=1 and steps of the data"


def test_dcgan_says_where_a_key_means_something_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    out, _ = asked("--help", capsys, 0)
    said = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.startswith("  --")}
    assert said["--lr"].endswith(
        "step size of the optimizers; sagan: step size of G's optimizer; infogan: step size of D's optimizer"
    )
    assert said["--d-lr"].endswith(
        "step size of D's optimizer (none: lr) (improved); sagan: step size of D's optimizer"
    )
    assert "(wgan-clip, wgan-gp); sngan: updates of D for each of G" in said["--n-critic"]
    assert said["--clip"].endswith("bound of the critic's weights (wgan-clip)")
    flags = {flag for name in options_of_all() for flag in (f"--{name}", f"--no-{name}")}
    assert {*said} - {"--objective"} <= flags
    assert len(said) == len(options_of_all()) + 1


def options_of_all() -> set[str]:
    return {option.name.replace("_", "-") for recipe in RECIPES.values() for option in fields_of(recipe.settings)}
