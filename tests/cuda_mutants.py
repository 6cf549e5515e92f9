"""Mutants of the CUDA kernels: each barrier taken out, each condition made to hold, each clamp lifted, one at a time.

    python tests/cuda_mutants.py reduce/reduce.cu

prints one JSON line for each mutant of that file: how it was caught, or "" for a survivor. The text is compiled once
with all mutants in it; the environment variable MUTANT selects one at run time. Each runs in a forked process of its
own, in check mode, on the examples of the .cu file and on the calls of kernel_cases.py for its rows of the table.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from kernel_cases import CASES, assert_equal, copies, results

from minigan.kernels import KERNELS, cuda, emulator
from minigan.kernels.device import connect

LIMIT = 20  # seconds for a mutant: without its guard a loop may not end
NOTICED = {
    signal.SIGALRM: "did not end",
    signal.SIGSEGV: "read or wrote where there is no memory",
    signal.SIGFPE: "divided by zero",
}
BROKEN = "the test itself failed: "
LARGEST = 20_000  # elements of a call: mutants are many

PRELUDE = """
extern "C" char* getenv(const char*);
extern "C" int atoi(const char*);
__attribute__((no_sanitize("thread"), noinline)) static bool mutant(int number) {
  const char* chosen = getenv("MUTANT");
  return chosen && atoi(chosen) == number;
}
"""


class Site(NamedTuple):
    """Where a mutant differs."""

    number: int
    file: str
    line: int
    kind: str  # "barrier", "condition" or "clamp"
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
    bare = re.sub(r"//[^\n]*|^[ \t]*#define[^\n]*", lambda found: " " * len(found[0]), text, flags=re.MULTILINE)
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


def calls(source: cuda.Source) -> list[tuple[str, Any, Any, list[np.ndarray]]]:
    """(row, dtype, call, expected) for the rows of the source's folder, small ones."""
    found = []
    for name, kernel in KERNELS.items():
        if kernel.folder != source.file.parent.name or name not in CASES:
            continue
        for dtype in (np.float32, np.float64):
            for arguments, scalars in CASES[name](np.random.default_rng(0), dtype):
                arrays = [a for a in arguments if isinstance(a, np.ndarray)]
                if max((a.size for a in arrays), default=0) <= LARGEST and not any(
                    isinstance(a, int) and LARGEST < a < 1 << 62 for a in arguments[2:]
                ):
                    reference = kernel.implementation("reference")
                    expected = results(name, reference, (copies(arguments), scalars))
                    found.append((name, dtype, (arguments, scalars), expected))
    return found


def trial(source: cuda.Source, expected: list[tuple[str, Any, Any, list[np.ndarray]]]) -> str:
    """How the mutant in force is caught; nothing for a survivor."""
    from test_cuda_kernels import on_device

    device = connect("emulator")
    with emulator.running(order="reverse", check=True):
        try:
            for example in dict.fromkeys(source.examples.values()):
                example(device)
            for name, dtype, call, desired in expected:
                assert_equal(name, on_device(name, call), desired, dtype)
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
        signal.alarm(LIMIT)
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
    text, sites = instrument(source.text)
    vars(source)["text"] = text  # in place of the cached property
    expected = calls(source)
    if trial(source, expected):  # also: compiles, before the forks
        sys.exit(f"{file} fails without any mutant: {trial(source, expected)}")
    for site in sites:
        os.environ["MUTANT"] = str(site.number)
        print(json.dumps({**site._asdict(), "caught": in_a_fork(lambda: trial(source, expected))}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
