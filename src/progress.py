"""A progress bar for long loops, a thread beside a loop, and a stopwatch for its parts."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tqdm import tqdm


def progress(
    items: Iterable | None, what: str, unit: str, total: int | None = None, leave: bool = True
) -> tqdm:
    """Return a progress bar with rate and time left, on stderr.

    In a log instead of a terminal it prints a line every half minute.
    """
    if sys.stderr is None:  # it is closed, and this is no script
        return tqdm(items, total=total, disable=True)
    patience = 0.5 if sys.stderr.isatty() else 30.0  # seconds
    timing = {"mininterval": patience, "delay": patience}
    return Bar(items, what, total, leave, unit=unit, dynamic_ncols=True, **timing)


class Bar(tqdm):
    """A bar that writes 2.40s/step, not 2.40s/ step."""

    @staticmethod
    def format_meter(*args, **settings) -> str:
        return tqdm.format_meter(*args, **settings).replace("s/ ", "s/")


def duration(seconds: float) -> str:
    """Return a time in its largest unit, such as 40 s, 5 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def in_thread(function: Callable, items: Iterable) -> Iterator:
    """Yield function(item) of each item in order, computed in a thread one item ahead."""
    thread, waiting = ThreadPoolExecutor(1), deque()
    try:
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Whoever stops the loop does not wait for an item that nobody wants any more.
        thread.shutdown(wait=False, cancel_futures=True)


class Clock:
    """Seconds spent in the named parts of a loop."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def waiting(self, name: str, items: Iterable) -> Iterator:
        """Yield the items, counting the time until each is there."""
        items = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
