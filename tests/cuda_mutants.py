"""Mutants of the CUDA kernels: a barrier taken out, a wait cut short, a condition made to hold, a clamp lifted.

    python tests/cuda_mutants.py reduce/reduce.cu

prints one JSON line for each mutant of that file: how it was caught, or "" for a survivor; without a file, of all. The
text is compiled once with all mutants in it; the environment variable MUTANT selects one at run time. Each runs in a
forked process of its own, in check mode, on the examples of the .cu file and on the calls of kernel_cases.py for its
rows of the table; those of tensor cores on convolutions of their own. A run of all tests begins with that at once,
beside the tests that come before (`begin`).
"""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from kernel_cases import CASES, assert_equal, copies, results

from minigan import kernels
from minigan.kernels import KERNELS, Geometry, cuda, emulator
from minigan.kernels.device import connect

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
LIMIT = 5  # seconds of computing for a mutant: without its guard a loop may not end
NOTICED = {
    signal.SIGVTALRM: "did not end",
    signal.SIGSEGV: "read or wrote where there is no memory",
    signal.SIGFPE: "divided by zero",
}
BROKEN = "the test itself failed: "
LARGEST = 20_000  # elements of a call: mutants are many

PRELUDE = """
extern "C" char* getenv(const char*);
extern "C" int atoi(const char*);
__attribute__((no_sanitize("thread"), noinline)) static bool mutant(int number) {
  static int in_force = -1;
  if (in_force < 0)
    if (const char* chosen = getenv("MUTANT")) in_force = atoi(chosen);
  return in_force == number;
}
"""


NO_CODE = r"//[^\n]*|^[ \t]*#define[^\n]*|\bconstexpr\b[^;]*"
"""What is left alone: also what the compiler must know, and no mutant can change at run time."""


class Site(NamedTuple):
    """Where a mutant differs."""

    number: int
    file: str
    line: int
    kind: str  # "barrier", "wait", "condition" or "clamp"
    text: str
    instead: str


class Change(NamedTuple):
    """What takes the place of text[start:end]: one of `instead`, by the number of the mutant, or nothing new."""

    start: int
    end: int
    kind: str
    instead: list[str]


def closing(text: str, at: int) -> int:
    """The index of the bracket that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    raise ValueError(f"no closing bracket for {text[at : at + 40]!r}")


def conjuncts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of text[start:end] that && or || join, outside of brackets."""
    depth, first = 0, start
    for i in range(start, end):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[i], 0)
        if not depth and text[i : i + 2] in ("&&", "||"):
            yield first, i
            first = i + 2
    yield first, end


def before(text: str, question: int) -> int:
    """Where the condition in front of a `?` begins."""
    depth = 0
    for i in range(question - 1, -1, -1):
        depth += {")": 1, "]": 1, "(": -1, "[": -1}.get(text[i], 0)
        assignment = text[i] == "=" and text[i - 1] not in "=<>!" and text[i + 1] != "="
        if depth < 0 or (not depth and (text[i] in ",;{:?" or assignment)):
            return i + 1
        if not depth and text[i - 5 : i + 1] == "return":
            return i + 1
    raise ValueError("a ? without a beginning")


def changes(text: str) -> Iterator[Change]:
    """All mutations of a text without comments."""
    for found in re.finditer(r"\b__sync(threads|warp)\(\)", text):
        yield Change(*found.span(), "barrier", ["(void)0"])
    for found in re.finditer(r"\bcp_async_(commit|wait<([^>]*)>)\(\)(?=;)", text):
        instead = f"cp_async_wait<{found[2]} + 1>()" if found[2] else "(void)0"  # one group more may be on its way
        yield Change(*found.span(), "wait", [instead])
    for found in re.finditer(r"\bif \(", text):
        end = closing(text, found.end() - 1)
        leaves = re.match(r"\)\s*(return|continue|break)\b", text[end:])
        for first, last in conjuncts(text, found.end(), end):
            yield Change(first, last, "condition", ["false" if leaves else "true"])
    for found in re.finditer(r"\bfor \([^;]*;", text):  # its end is a guard where it has more than one part
        end = text.index(";", found.end())
        parts = list(conjuncts(text, found.end(), end))
        yield from (Change(*part, "condition", ["true"]) for part in parts if len(parts) > 1)
    for found in re.finditer(r"\bbool \w+ = ", text):
        end = text.index(";", found.end())
        parts = list(conjuncts(text, found.end(), end))
        yield from (Change(*part, "condition", ["true"]) for part in parts if len(parts) > 1)
    for found in re.finditer(r" \? ", text):
        for first, last in conjuncts(text, before(text, found.start()), found.start()):
            yield Change(first, last, "condition", ["true"])
    for found in re.finditer(r"\b(min|max)\(", text):
        end = closing(text, found.end() - 1)
        call = text[found.start() : end + 1]
        yield Change(
            found.start(), end + 1, "clamp", [f"decltype({call})({side})" for side in arguments(text, found.end(), end)]
        )


def arguments(text: str, start: int, end: int) -> list[str]:
    """What commas outside of brackets separate in text[start:end]."""
    depth, found = 0, [""]
    for character in text[start:end]:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found]


def instrument(text: str) -> tuple[str, list[Site]]:
    """The text with every mutant in it, and where they are."""
    bare = re.sub(NO_CODE, lambda found: " " * len(found[0]), text, flags=re.MULTILINE)
    found = sorted(changes(bare), key=lambda change: (change.start, -change.end))
    outermost = [c for i, c in enumerate(found) if not any(o.start <= c.start and c.end <= o.end for o in found[:i])]
    sites: list[Site] = []
    pieces, at = [PRELUDE], 0
    for change in outermost:
        original = " ".join(bare[change.start : change.end].split())
        file, line = place(text, change.start)
        choice = f"bool({original})" if change.kind == "condition" else original
        for instead in change.instead:
            choice = f"(mutant({len(sites)}) ? {instead} : {choice})"
            sites.append(Site(len(sites), file, line, change.kind, original, instead))
        lost = text[change.start : change.end].count("\n")
        pieces += [text[at : change.start], " ", choice, "\n" * lost]
        at = change.end
    return "".join([*pieces, text[at:]]), sites


def place(text: str, at: int) -> tuple[str, int]:
    """(file, line), by the #line marks."""
    file, line = "", 0
    for row in text[:at].split("\n"):
        mark = re.match(r'#line (\d+) "(.*)"', row)
        file, line = (mark[2], int(mark[1]) - 1) if mark else (file, line + 1)
    return file, line


class Case(NamedTuple):
    """A call of a row of the table, with what it gives, and the precision of convolutions meanwhile."""

    row: str
    dtype: Any
    call: Any
    expected: list[np.ndarray]
    precision: str = "fp32"


def cases(source: cuda.Source) -> Iterator[Case]:
    """Small calls of the rows of the source's folder."""
    for name, kernel in KERNELS.items():
        if kernel.folder != source.file.parent.name or name not in CASES:
            continue
        reference = kernel.implementation("reference")
        for dtype in (np.float32, np.float64):
            for arguments, scalars in CASES[name](np.random.default_rng(0), dtype):
                arrays = [a for a in arguments if isinstance(a, np.ndarray)]
                if max((a.size for a in arrays), default=0) <= LARGEST and not any(
                    isinstance(a, int) and LARGEST < a < 1 << 62 for a in arguments[2:]
                ):
                    expected = results(name, reference, (copies(arguments), scalars))
                    yield Case(name, dtype, (arguments, scalars), expected)


TRIO = {"conv2d": "xw", "conv_transpose2d": "yw", "conv2d_weight": "xy"}
CONVOLUTIONS = {  # geometry, images, channels of x and of y, precision; and whether there is an epilogue, too
    "conv2d/tensor.cu": [  # small ones first: they catch most
        (Geometry((3, 4), (0, 1), (2, 3), (9, 9)), 3, 6, 7, "tf32", True),  # by ones; no tap reaches some phases
        (Geometry((2, 2), (1, 1), (4, 4), (8, 10)), 1, 8, 12, "bf16", False),
        (Geometry((1, 1), (1, 1), (4, 4), (4, 5)), 2, 36, 36, "tf32", False),  # sums that several blocks share
        (Geometry((1, 1), (0, 0), (1, 1), (13, 13)), 4, 8, 8, "tf32", False),  # and those of conv2d_weight
        (Geometry((2, 2), (1, 1), (4, 4), (8, 10)), 4, 20, 68, "tf32", True),
    ],
    "linear/tensor.cu": [
        (Geometry((1, 1), (0, 0), (2, 3), (2, 3)), 68, 12, 68, "tf32", False),
        (Geometry((1, 1), (0, 0), (4, 4), (4, 4)), 20, 36, 20, "bf16", False),
    ],
}


def on_tensor_cores(file: str) -> Iterator[Case]:
    """Convolutions that reach that file. Rows of x that windows leave out are NaN."""
    from test_cuda_tensor import rounded

    rng = np.random.default_rng(0)
    for g, n, c, o, precision, epilogue in CONVOLUTIONS[file]:
        given = {
            letter: rng.standard_normal(shape).astype(np.float32)
            for letter, shape in (("x", (n, *g.x_size, c)), ("w", (*g.window, c, o)), ("y", (n, *g.y_size, o)))
        }
        left_out = [h for h in range(g.x_size[0]) if (h + g.padding[0]) % g.stride[0] >= g.window[0]]
        given["x"][:, left_out] = np.nan
        if not epilogue:  # else all moments would be NaN, too
            given["x"][0, 0, 0, 0] = np.uint32(0x7FFFFFFF).view(np.float32)  # NaN, of which a carry would make -0
        for row, (first, second) in TRIO.items():
            factors = [rounded(given[letter], precision) for letter in (first, second)]
            b = rng.standard_normal(c if row == "conv_transpose2d" else o).astype(np.float32)
            rows: dict[str, list[Any]] = {row: []}
            if epilogue and row != "conv2d_weight":
                rows |= {f"{row}_bias_act": [b, 0.2], f"{row}_statistics": []}
            for name, more in rows.items():
                expected = results(name, KERNELS[name].implementation("reference"), ([*factors, *more, g], {}))
                yield Case(name, np.float32, ([given[first], given[second], *more, g], {}), expected, precision)


def reaching(source: cuda.Source, tried: Iterable[Case]) -> list[Case]:
    """Those that launch a kernel of the file: a folder's rows have several."""
    launched: set[cuda.Source] = set()
    launch = cuda.Source.launch

    def note(self: cuda.Source, *args: Any, **options: Any) -> None:
        launched.add(self)
        launch(self, *args, **options)

    found = []
    with mock.patch.object(cuda.Source, "launch", note), emulator.running(order="reverse", check=True):
        for case in tried:
            launched.clear()
            compute(case)
            found += [case] * (source in launched)
    return found


def compute(case: Case) -> list[np.ndarray]:
    """What the device makes of it."""
    from test_cuda_kernels import on_device

    with kernels.set_conv_precision(case.precision):
        return on_device(case.row, case.call)


def trial(source: cuda.Source, tried: list[Case]) -> str:
    """How the mutant in force is caught; nothing for a survivor."""
    device = connect("emulator")
    with emulator.running(order="reverse", check=True):
        try:
            for case in tried:
                assert_equal(case.row, compute(case), case.expected, case.dtype)
            for example in dict.fromkeys(source.examples.values()):
                example(device)
        except emulator.EmulatorError as error:
            return str(error).splitlines()[0]
        except AssertionError:
            return "wrong values"
    return ""


def in_a_fork(run: Callable[[], str]) -> str:
    """What `run` returns, or how its process ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
        try:
            text = run()
        except BaseException as error:
            text = f"{BROKEN}{type(error).__name__}: {error}"
        os.write(writer, text.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if text.startswith(BROKEN):  # nothing that a mutant does
        sys.exit(text)
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        if number not in NOTICED:
            sys.exit(f"a mutant's process died of {number.name}")
        return NOTICED[number]
    return text


def main(file: str) -> None:
    (source,) = [s for s in cuda.sources() if s.file == cuda.KERNELS_FOLDER / file]
    kernels.set_conv_precision("fp32")  # of examples, as in tests
    text, sites = instrument(source.text)
    vars(source)["text"] = text  # in place of the cached property
    tried = reaching(source, on_tensor_cores(file) if file in CONVOLUTIONS else cases(source))
    if trial(source, tried):  # also: compiles, before the forks
        sys.exit(f"{file} fails without any mutant: {trial(source, tried)}")
    for site in sites:
        os.environ["MUTANT"] = str(site.number)
        print(json.dumps({**site._asdict(), "caught": in_a_fork(lambda: trial(source, tried))}), flush=True)


_process: subprocess.Popen[bytes] | None = None
_folder = tempfile.TemporaryDirectory(prefix="mutants-")


def every_file() -> list[str]:
    """All .cu files, relative to the folder kernels/."""
    return [source.file.relative_to(cuda.KERNELS_FOLDER).as_posix() for source in cuda.sources()]


def begin() -> None:
    """Starts to try the mutants of all files, if kernels can be emulated here."""
    global _process
    if emulator.available():
        with Path(_folder.name, "found").open("wb") as output:
            _process = subprocess.Popen([sys.executable, __file__], env=ENVIRONMENT, cwd=ROOT, stdout=output)
        atexit.register(_process.kill)


def mutants(file: str) -> list[dict[str, Any]]:
    """Of one file."""
    command = [sys.executable, __file__, file]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def mutants_of_all_files() -> list[dict[str, Any]]:
    """Those that `begin` has begun with; else all of them, on all cores."""
    if _process is not None and _process.wait() == 0:
        return [json.loads(line) for line in Path(_folder.name, "found").read_text().splitlines()]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [mutant for of_file in threads.map(mutants, every_file()) for mutant in of_file]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        for name in every_file():
            subprocess.run([sys.executable, __file__, name], check=True)  # mutants stay in what a process has compiled
