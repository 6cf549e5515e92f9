"""Where compiled code is kept between runs: in the user's cache, or nowhere."""

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from pathlib import Path


def folder(name: str) -> Path:
    """~/.cache/minigan/<name>, or under XDG_CACHE_HOME; where no home can be written to, a folder of this process."""
    return _folder(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), name)


@functools.cache
def _folder(base: str, name: str) -> Path:
    path = Path(base, "minigan", name)
    if path.is_absolute():  # else there is no home, and "~" would become a folder right here
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
            if os.access(path, os.W_OK):
                return path
    temporary = tempfile.mkdtemp(prefix=f"minigan-{name}-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)
