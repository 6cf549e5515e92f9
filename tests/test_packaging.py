"""The house rules that a machine can check: who imports whom, and what an installed minigan consists of."""

import ast
import configparser
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "kernels").rglob("*.py"), *(p for p in (ROOT / "minigan").rglob("*.py"))])


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    package = ("minigan", *path.relative_to(ROOT).parent.parts)
    package = package[1:] if package[1] == "minigan" else package  # kernels/ is minigan.kernels
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def in_kernels(path: Path) -> bool:
    return "kernels" in path.relative_to(ROOT).parts


def test_kernels_never_import_minigan() -> None:
    for path in filter(in_kernels, SOURCES):
        for name in imports(path):
            assert not name.startswith("minigan") or name.startswith("minigan.kernels"), f"{path} imports {name}"


def test_only_kernels_import_numba_or_cupy() -> None:
    for path in SOURCES:
        if not in_kernels(path):
            assert not {"numba", "llvmlite", "cupy"} & {name.partition(".")[0] for name in imports(path)}, path


def test_ops_ask_for_kernels_by_name() -> None:
    for path in (ROOT / "minigan" / "ops").glob("*.py"):
        for name in imports(path):
            assert not name.startswith("minigan.kernels.") or name == "minigan.kernels.Geometry", (
                f"{path} imports {name}"
            )


def test_ops_compute_through_the_table() -> None:
    """NumPy in an op: wrapping, views and index arithmetic. Everything that makes new numbers is a kernel."""
    views = {"asarray", "broadcast_to", "squeeze"}
    bookkeeping = {"arange", "argsort", "array", "bool_", "cumsum", "dtype", "float32", "ndarray", "number"} | {
        *("floating", "integer", "intp"),  # kinds of numbers
    }
    for path in (ROOT / "minigan" / "ops").glob("*.py"):
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
        }
        assert used <= views | bookkeeping, path


def test_only_gan_knows_gans() -> None:
    for path in SOURCES:
        if not {"gan", "cli"} & set(path.relative_to(ROOT).parts[1:]):
            assert not any(name.startswith("minigan.gan") for name in imports(path)), path


def test_every_package_is_listed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES if p.name == "__init__.py"}
    assert listed == {name if name.startswith("minigan") else f"minigan.{name}" for name in found}


def test_tables_of_contents_have_no_logic() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            for node in ast.parse(path.read_text()).body:
                assert isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)), f"{path}:{node.lineno}"


def run(command: list[Any], cwd: Path | None = None) -> str:
    """What the command prints; without PYTHONPATH, which would show it the source tree."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("minigan", "kernels"):  # a copy: setuptools leaves build/ and *.egg-info where it builds
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    # Isolated, the build downloads setuptools; where a new enough one is installed already, it need not.
    installed = {d.name: d.version for d in metadata.distributions() if d.name in ("setuptools", "wheel")}
    isolation = [] if int(installed.get("setuptools", "0").partition(".")[0]) < 77 else ["--no-isolation"]
    run([sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", out, tree])
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    suffixes = {".py", ".cu", ".cuh", ".h", ".cpp"}
    files = [p for top in ("minigan", "kernels") for p in (ROOT / top).rglob("*") if "__pycache__" not in p.parts]
    tree = {p.relative_to(ROOT).as_posix() for p in files if p.suffix in suffixes or p.name == "py.typed"}
    assert packed == {name if name.startswith("minigan/") else f"minigan/{name}" for name in tree}


def test_the_wheel_runs_outside_of_the_repository(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    dependencies = [p for p in sys.path if p.endswith("site-packages")]  # those of this run, in place of a download
    run([python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel])
    program = (
        f"import sys; sys.path += {dependencies!r}\n"
        "import minigan as mg\n"
        "x = mg.Tensor([[1.0, 2.0]], requires_grad=True)\n"
        "print(mg.grad((x * x).sum(), x).array.tolist(), mg.__file__, mg.kernels.__file__)"
    )
    printed = run([python, "-c", program], cwd=tmp_path)
    assert printed.startswith("[[2.0, 4.0]] ")
    assert f"{ROOT}/" not in printed
