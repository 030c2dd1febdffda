"""What a person sees of a long loop, a thread beside it, and a stopwatch for its parts."""

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
    """A progress bar with rate and time left, on stderr; in a log instead of a terminal a line every half minute."""
    patience = 0.5 if sys.stderr.isatty() else 30.0  # seconds
    return tqdm(
        items,
        desc=what,
        unit=unit,
        total=total,
        leave=leave,
        mininterval=patience,
        delay=patience,
        dynamic_ncols=True,
    )


def in_thread(function: Callable, items: Iterable) -> Iterator:
    """function(item) of each item, in order, in a thread beside the caller's: one item ahead of it where it reads, one behind where it writes."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque()
        try:
            for item in items:
                waiting.append(thread.submit(function, item))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()


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
        """The items, counting the time until each is there."""
        items = iter(items)
        while True:
            with self.part(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
