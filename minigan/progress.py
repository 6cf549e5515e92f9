"""How far something is: tqdm's bar on a terminal, else a plain line now and then, for logs and pipes."""

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS = 10.0
"""From one plain line to the next; the first one comes after a tenth of it, since it says that all is well."""


class Progress:
    """Of `total` units, of which `initial` are done already; to be used as a context manager. To stderr by default."""

    def __init__(self, total: int, unit: str, initial: int = 0, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._unit, self._done, self._total, self._text = unit, initial, total, ""
        self._since: tuple[float, int] | None = None  # after the first advance, which may have compiled kernels
        self._next = time.monotonic() + SECONDS / 10
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True, file=self._stream)

    def advance(self, units: int, text: str) -> None:
        """So many more are done; `text` says how it looks. OSError, BrokenPipeError for one, where nobody reads."""
        self._done, self._text = self._done + units, text
        self._since = self._since or (time.monotonic(), self._done)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(units)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS
            self._print()

    def _print(self) -> None:
        """12,800 of 192,000 images, 2,310/s, 78 s left: D(x) 0.61 D(G(z)) 0.42 -> 0.38"""
        parts = [f"{self._done:,} of {self._total:,} {_plural(self._unit)}"]
        if self._since is not None:
            seconds, units = time.monotonic() - self._since[0], self._done - self._since[1]
            if seconds > 0 and units > 0:
                parts.append(f"{units / seconds:,.0f}/s")
                if self._done < self._total:
                    parts.append(f"{(self._total - self._done) * seconds / units:.0f} s left")
        print(f"{', '.join(parts)}: {self._text}", file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._text:
            self._print()


def _plural(unit: str) -> str:
    """images; steps of the classifier."""
    first, space, rest = unit.partition(" ")
    return f"{first}s{space}{rest}"
