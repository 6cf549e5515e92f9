"""How far something is: a bar on a terminal, plain lines elsewhere."""

import contextlib
import io
import os
from types import SimpleNamespace

import pytest

from minigan import progress
from minigan.progress import SECONDS, Progress


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    """A terminal whose window was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.there = True

    def write(self, text: str) -> int:
        if not self.there:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock))
    return clock


def test_lines_come_after_a_second_then_every_ten_and_at_the_end(clock: Clock) -> None:
    stream, seen = io.StringIO(), list[int]()
    with Progress(4000, "image", stream=stream) as bar:
        for step in range(40):
            clock.now += 0.75
            before = stream.getvalue()
            bar.advance(100, f"step {step}")
            if stream.getvalue() != before:
                seen.append(step)
    assert (SECONDS, seen) == (10.0, [1, 15, 29])
    assert stream.getvalue().splitlines() == [
        "200 of 4,000 images, 133/s, 28 s left: step 1",
        "1,600 of 4,000 images, 133/s, 18 s left: step 15",
        "3,000 of 4,000 images, 133/s, 8 s left: step 29",
        "4,000 of 4,000 images, 133/s: step 39",
    ]


def test_neither_what_was_done_before_nor_the_first_step_counts_as_speed(clock: Clock) -> None:
    """The first one may compile kernels for half a minute."""
    stream = io.StringIO()
    with Progress(1000, "step of the classifier", initial=900, stream=stream) as bar:
        clock.now += 30
        bar.advance(10, "loss 2")
        clock.now += 10
        bar.advance(40, "loss 1")
        assert stream.getvalue().splitlines() == [
            "910 of 1,000 steps of the classifier: loss 2",
            "950 of 1,000 steps of the classifier, 4/s, 12 s left: loss 1",
        ]


def test_a_clock_that_stands_still_or_goes_back_and_more_units_than_there_are(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(10, "image", stream=stream) as bar:
        clock.now += 1
        bar.advance(4, "first")
        clock.now += SECONDS
        bar.advance(0, "no units")
        bar._since = clock.now + 100, 0  # no monotonic clock goes back, but no division may depend on it
        clock.now += SECONDS
        bar.advance(3, "back")
        bar._since = clock.now, 4
        clock.now += SECONDS
        bar.advance(9, "too many")
    assert stream.getvalue().splitlines() == [
        "4 of 10 images: first",
        "4 of 10 images: no units",
        "7 of 10 images: back",
        *["16 of 10 images, 1/s: too many"] * 2,  # nothing is left, and not less
    ]


def test_no_progress_is_no_line(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(10, "image", initial=10, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_a_single_step_has_no_speed(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(10, "image", stream=stream) as bar:
        bar.advance(10, "done")
    assert stream.getvalue() == "10 of 10 images: done\n"


def test_an_error_is_not_followed_by_a_line(clock: Clock) -> None:
    stream = io.StringIO()
    with contextlib.suppress(KeyError), Progress(10, "image", stream=stream) as bar:
        bar.advance(3, "a")
        raise KeyError
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with Progress(40, "image", initial=10, stream=stream) as bar:
        bar.advance(30, "D(x) 0.61")
    first, *_, last = stream.getvalue().split("\r")
    assert first == ""
    assert last.startswith("100%|")
    assert "| 40/40 [" in last
    assert "image/s, D(x) 0.61]" in last
    assert stream.getvalue().count("\n") == 1


def test_stderr_is_where_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, "step") as bar:
        bar.advance(1, "a")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "1 of 1 steps: a\n")


def test_a_closed_pipe_is_told(clock: Clock) -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    bar = Progress(10, "image", stream=stream)
    clock.now += 2
    with pytest.raises(BrokenPipeError):
        bar.advance(1, "a")
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_terminal_that_has_gone_is_no_error() -> None:
    """SIGHUP tells of it."""
    stream = Gone()
    with Progress(10, "image", stream=stream) as bar:
        stream.there = False
        bar.advance(10, "a")
