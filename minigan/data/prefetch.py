"""Work that a background thread does while its consumer is busy."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """As map(function, items), but while the consumer works on one result a thread computes the next.

    `items` is read in the consumer's thread; `function` must be plain NumPy, since a kernel would take the cores from
    the consumer's. Its exceptions are raised where the result is due. The thread ends with the iterator, whether that
    is exhausted, closed or dropped, or with the interpreter. RuntimeError in a process forked while it was in use.
    """
    process = os.getpid()
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        futures = (thread.submit(function, item) for item in items)
        due = next(futures, None)
        while due is not None:
            if os.getpid() != process:  # threads do not survive a fork: the result would never come
                raise RuntimeError("prefetch: this iterator was begun before a fork; make a new one in this process")
            following = next(futures, None)
            yield due.result()
            due = following
    finally:
        thread.shutdown(wait=False)  # a collector may drop the iterator within the thread, which cannot await itself
