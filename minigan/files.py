"""Files that are written whole or not at all, and the folder for what is made once."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def replace(path: Path, write: Callable[[str], object]) -> None:
    """Calls write(temporary name), then renames, so that no reader ever meets half a file. OSError as it comes.

    The content is on the disk before the name, and both are when this returns: a power cut leaves no empty file.
    """
    part = f"{path}.{os.getpid()}.part"
    try:
        write(part)
        flush(part)
        os.replace(part, path)
        flush(os.path.dirname(part) or ".")
    finally:
        if os.path.exists(part):
            os.unlink(part)


def flush(path: str | Path) -> None:
    """Puts a file, or a folder's entries, on the disk: a rename is not lasting before."""
    if os.name == "nt":  # cannot open folders, and flushes files that are open for writing only
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named(path: Path, verb: str = "write") -> Iterator[None]:
    """An OSError inside names the file, and what to do where one was to be changed."""
    try:
        yield
    except OSError as error:
        advice = "; what was written before is intact: make room, or choose another place"
        message = f"cannot {verb} {path}: {error.strerror or error}{'' if verb == 'read' else advice}"
        raise OSError(message) from error


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/minigan, or ~/.cache/minigan. It need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "minigan"


def keep(path: Path, write: Callable[[str], object]) -> None:
    """`replace` for a cache: where nothing can be written, a RuntimeWarning says so and the program goes on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, write)
    except OSError as error:
        warnings.warn(
            f"cannot keep {path} ({error.strerror or error}), so it is made anew each time; make room, or set "
            "XDG_CACHE_HOME to another folder",
            RuntimeWarning,
            stacklevel=2,
        )
