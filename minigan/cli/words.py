"""The words of a command line: names and folders, key=value pairs, and flags."""

import re
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from .. import kernels

HELP = ("--help", "-h")
CLOSED = 141
"""Exit code where stdout or stderr is a pipe that nobody reads any more: that of programs that SIGPIPE ends."""

Say = Callable[[str], None]


class UsageError(Exception):
    """What was asked for makes no sense: one sentence, exit code 2."""


class Ended(Exception):
    """What was begun came to an end before its time: one sentence, and the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Terminated(BaseException):
    """SIGTERM or SIGHUP came while nothing took it: blocks end in order, then the program, with this exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


class Words(NamedTuple):
    """names: everything that is not one of the others, in order."""

    names: list[str]
    pairs: list[str]
    flags: set[str]


def split(words: Sequence[str], where: str, flags: Collection[str] = ()) -> Words:
    """UsageError for a flag that is not among `flags`. A folder that looks like a pair is written ./a=b."""
    found = Words([], [], set())
    for word in words:
        if word in flags:
            found.flags.add(word)
        elif word.startswith("-") and word != "-":
            raise UsageError(f"{where}: {_unknown_flag(word, flags)}")
        elif re.match(r"[\w-]*=", word):
            found.pairs.append(word)
        else:
            found.names.append(word)
    return found


def _unknown_flag(word: str, flags: Collection[str]) -> str:
    name, _, value = word.lstrip("-").partition("=")
    if near := get_close_matches(word, [*flags, "--help"], 1, 0.7):
        return f"there is no {word}; did you mean {near[0]}?"
    return f"there is no {word}; settings are written {name.replace('-', '_') or 'key'}={value or 'value'}, no dashes"


def one_name(words: Words, where: str, what: str) -> str:
    """The only name. UsageError if there is none, or a second one."""
    if len(words.names) != 1:
        many = f"{' and '.join(map(repr, words.names))} are too many: " if words.names else ""
        raise UsageError(f"{where}: {many}name {what} (see {where} --help)")
    return words.names[0]


def speaker(as_json: bool) -> Say:
    """Says things on stdout, or on stderr where JSON goes to stdout."""
    return lambda text: print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def use_device(device: str, say: Say) -> None:
    """ImportError or RuntimeError, in one sentence, where it cannot be used."""
    if device != "cpu":
        kernels.connect(device)
    elif kernels.first_run():
        say("The first step compiles the kernels, once: about half a minute.")
