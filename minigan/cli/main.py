"""Which command it is, and how each ends: exit code 0, 1 for what went wrong, 2 for what makes no sense, each with one
sentence on stderr; 130, 143 and 129 for SIGINT, SIGTERM and SIGHUP, 141 where nobody reads what it prints."""

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Any

from .._version import __version__
from ..options import OptionError
from .words import CLOSED, HELP, Ended, Terminated, UsageError

COMMANDS = {
    "train": ("train", "train a GAN: minigan train gan steps=500 out=runs/first"),
    "resume": ("train", "go on with a run that was stopped, killed, or shall become longer"),
    "list": ("info", "what can be trained"),
    "sample": ("look", "images of a run's generator: a grid, single PNGs, a .npz file"),
    "interpolate": ("look", "walks between latent vectors: a strip and an animation"),
    "traverse": ("look", "one part of the code through its values: all classes, a number, truncation"),
    "evaluate": ("measure", "how good a run's samples are"),
    "compare": ("measure", "several runs side by side: results and what was set otherwise"),
    "report": ("measure", "a run as one HTML page that needs no network"),
    "doctor": ("info", "what works on this machine"),
}
"""Name -> (module here that has a function of that name, what it does)."""

USAGE = "usage: minigan COMMAND ...\n\n{commands}\n\nminigan COMMAND --help has examples and all settings."


def main(words: Sequence[str] | None = None) -> int:
    """Runs `words`, or the command line's; returns the exit code."""
    command, *rest = list(sys.argv[1:] if words is None else words) or [""]
    return guarded(f"minigan {command}" if command in COMMANDS else "minigan", lambda: _run(command, rest))


def _run(command: str, rest: Sequence[str]) -> int | None:
    if command in ("", "help", *HELP):
        print(USAGE.format(commands="\n".join(f"  {name:<13}{text}" for name, (_, text) in COMMANDS.items())))
    elif command in ("--version", "-V"):
        print(f"minigan {__version__}")
    elif command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"minigan: there is no command {command!r}; {advice}")
    else:
        module = importlib.import_module(f".{COMMANDS[command][0]}", __package__)
        if not set(HELP) & set(rest):
            code: int | None = getattr(module, command)(rest)
            return code
        print(module.help_on(command, rest))
    return None


def guarded(where: str, run: Callable[[], int | None]) -> int:
    """The exit code of `run`, whose errors become one sentence on stderr that says where."""
    _let_everything_be_printed()
    try:
        with _ending_by_exception(), _warnings_as_notes():
            code = int(run() or 0)
            sys.stdout.flush()
            return code
    except (UsageError, OptionError) as error:
        return _say(str(error), 2)
    except Ended as error:
        return _say(f"{where}: {error}", error.code)
    except KeyboardInterrupt:
        return _say(f"{where}: interrupted", 130)
    except Terminated as error:
        return _say(f"{where}: {error}", error.code)
    except BrokenPipeError:  # whoever read our output has gone
        return CLOSED
    except MemoryError as error:
        return _say(f"{where}: out of memory: {error}; make batch_size, width or count smaller", 1)
    except (OSError, ValueError, ImportError, RuntimeError, FloatingPointError) as error:
        text = str(error)
        return _say(text if text.startswith(where) else f"{where}: {text}", 1)
    finally:
        _drop_what_nobody_reads()


def _say(text: str, code: int) -> int:
    """On one line, whatever the names in it hold."""
    with suppress(OSError):  # where nobody reads stderr, the exit code tells
        print(" ".join(map(str.strip, text.splitlines())), file=sys.stderr)
    return code


@contextmanager
def _ending_by_exception() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end blocks in order, so that nothing half-written is left; nohup's SIGHUP is ignored."""

    def end(number: int, frame: object) -> None:
        raise Terminated(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # only there signals can be taken
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has but one
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """A warning of minigan's is a sentence; where in the code it was given is nobody's business here."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, RuntimeWarning):
                print(f"Note: {message}.", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = note
        yield


def _let_everything_be_printed() -> None:
    """Where stdout or stderr was closed before the start, print would fail, or take the other one."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the program runs
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of folders can be any bytes


def _drop_what_nobody_reads() -> None:
    """Python flushes both streams at its end, and would complain, or end with exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
