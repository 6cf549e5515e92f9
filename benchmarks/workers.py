"""Processes that take turns: each waits for a line, works, and answers with a line of JSON."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

PROGRAM = Path(__file__).with_name("step_worker.py")


class WorkerError(Exception):
    """A process ended without an answer."""


class Worker:
    """A program with a task, until the `with` block ends. `label` is what errors call it."""

    def __init__(
        self, label: str, task: Mapping[str, Any], environment: Mapping[str, str], program: Path = PROGRAM
    ) -> None:
        self.label = label
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (__exit__ closes it)
        self.process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
            start_new_session=True,  # a Ctrl-C is the parent's to answer
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with suppress(BrokenPipeError):
            self.process.communicate()
        self.errors.close()

    def answer(self) -> Any:
        """The next one. WorkerError, with the last line of stderr, if there is none."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line:
            try:
                return json.loads(line)
            except ValueError:
                raise WorkerError(f"{self.label}: its process printed {line.strip()!r} in place of an answer") from None
        code = self.process.wait()
        self.errors.seek(0)
        *_, last = ["it wrote no error", *filter(None, map(str.strip, self.errors))]
        raise WorkerError(f"{self.label}: its process ended with exit status {code}: {last}")

    def ask(self, question: object) -> Any:
        assert self.process.stdin
        with suppress(BrokenPipeError):  # whoever is gone does not answer
            print(question, file=self.process.stdin, flush=True)
        return self.answer()


def environment(blas_threads: int | None) -> dict[str, str]:
    """This process's own, in which NumPy's BLAS has so many threads unless the user has chosen."""
    chosen = {} if blas_threads is None else {"OPENBLAS_NUM_THREADS": str(blas_threads)}
    return {**chosen, **os.environ}
