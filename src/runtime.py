"""How a script runs: command line to Config, errors to one sentence and an exit code, and the first lines of its log. No torch here: help is quick."""

import platform
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import tyro
from tqdm import tqdm

OK, FAILED, USAGE, SOME_FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143  # exit codes
TRACED_PACKAGES = ("torch", "timm", "numpy", "pydicom")


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what, where, what to do."""


def run_script(main: Callable, config_type: type, description: str) -> Any:
    """Parse the command line into `config_type`, call `main` with it and return its result; end the process on an error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        return main(tyro.cli(config_type, description=description))
    except KeyboardInterrupt:
        _stop("interrupted; what is finished is kept: training goes on with --resume, stages 1 and 5 when they are started again", INTERRUPTED)
    except UserError as error:
        _stop(f"error: {error}", FAILED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _stop("error: the device ran out of memory: lower --batch-size, or in training keep it and take --accumulate 4 or --checkpointing", FAILED)


def _stop(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def progress(items: Iterable | None, what: str, unit: str, total: int | None = None, leave: bool = True) -> tqdm:
    """A progress bar with rate and time left, on stderr; in a log instead of a terminal a line every half minute."""
    patience = 0.5 if sys.stderr.isatty() else 30.0  # seconds
    return tqdm(items, desc=what, unit=unit, total=total, leave=leave, mininterval=patience, delay=patience, dynamic_ncols=True)


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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about results."""
    found = {"python": platform.python_version()}
    for package in TRACED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
