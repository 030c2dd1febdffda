"""Run tasks on untrusted files in worker processes: a crash or a hang costs only that task.

Workers start from a clean process without torch. The system ends a worker that exceeds its time
(an alarm) or its memory (an address space limit), even if it is stuck in a decoder or its parent
is gone. A worker that dies is replaced.
"""

import math
import mmap
import multiprocessing
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import Any

from src.script import UserError
from src.text import printable

# Slices are read three times faster into memory of huge pages.
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824"
LONGEST = 1000  # characters of a detail
RETRIES = 1  # of a task whose worker died, in a fresh worker; none after a timeout
LEAST_MEMORY = 64 << 20  # bytes that a worker must have left when it starts
NO_MEMORY = 71  # exit code of a worker that has less


@dataclass(frozen=True)
class Failure:
    """Why a task has no result. reason: "timeout" or "crashed" if its worker died."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Limits:
    """What one task may use."""

    seconds: int
    gigabytes: float


def run_in_workers(
    function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, limits: Limits
) -> Iterator[tuple[Any, Any]]:
    """Yield (task, function(task) or Failure) in order of completion.

    What `function` raises is raised here. All workers end with the iteration.
    function: must belong to a module, not to the script.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: give --workers 1 or more")
    if limits.seconds < 1:
        raise UserError(f"--time-limit {limits.seconds}: give --time-limit 1 or more")
    if not limits.gigabytes > 0:
        raise _no_memory(limits.gigabytes)
    waiting = [(task, 0) for task in reversed(list(tasks))]
    context = clean_context(function.__module__)
    crew: dict[Connection, _Worker] = {}
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                with interrupts_held(), _script_hidden():
                    worker = _Worker(context, function, limits)
                    crew[worker.connection] = worker
                worker.give(*waiting.pop())
            for connection in wait(list(crew)):
                worker = crew[connection]
                task, attempt, outcome = worker.take()
                if waiting and not worker.lost:
                    worker.give(*waiting.pop())
                else:
                    del crew[connection]
                    worker.dismiss()
                if worker.lost and outcome.reason == "crashed" and attempt < RETRIES:
                    waiting.append((task, attempt + 1))
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    yield task, outcome
    finally:
        for worker in crew.values():
            worker.process.kill()
        for worker in crew.values():
            worker.process.join()


class _Worker:
    def __init__(self, context: BaseContext, function: Callable, limits: Limits):
        self.connection, theirs = context.Pipe()
        self.limits = limits
        self.lost = False
        self.process = context.Process(target=_work, args=(theirs, function, limits), daemon=True)
        try:
            self.process.start()
        except (EOFError, ConnectionError) as error:  # the server of processes cannot even start
            raise _no_memory(limits.gigabytes) from error
        theirs.close()  # so that the connection ends when the worker does

    def give(self, task: Any, attempt: int) -> None:
        self.task, self.attempt = task, attempt
        with suppress(OSError):  # if it died, `take` finds out
            self.connection.send(task)

    def take(self) -> tuple[Any, int, Any]:
        """Return (task, attempt, result or Failure), once the connection is ready."""
        try:
            return self.task, self.attempt, self.connection.recv()
        except (EOFError, OSError):
            self.lost = True
            return self.task, self.attempt, self._why_lost()

    def _why_lost(self) -> Failure:
        self.process.join()
        code = self.process.exitcode
        if code == NO_MEMORY:
            raise _no_memory(self.limits.gigabytes)
        if code == -signal.SIGALRM:
            return Failure("timeout", f"not done after {self.limits.seconds} s")
        end = signal.Signals(-code).name if code < 0 else f"code {code}"
        return Failure("crashed", f"the process that read it ended with {end}")

    def dismiss(self) -> None:
        self.connection.close()
        self.process.join()


def _no_memory(gigabytes: float) -> UserError:
    """Return the error that says which limit leaves too little memory for a worker."""
    if not gigabytes * 2**30 > _system_limit():
        return UserError(f"--memory-limit {gigabytes:g} is too little for a worker: raise it")
    return UserError(
        f"the system allows {_system_limit() / 2**30:.2f} GiB of address space, which is too "
        "little for a worker: raise `ulimit -v`"
    )


def clean_context(module: str) -> BaseContext:
    """Return a context whose processes are forked from a server that has only `module` imported.

    A fork of this process would hang: it has threads (cv2, torch).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    before = os.environ.copy()
    # The C library reads it when the server starts.
    os.environ.setdefault("GLIBC_TUNABLES", HUGE_PAGES)
    # Otherwise the server would import what happens to be in the current folder.
    os.environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    try:
        with interrupts_held():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold interrupts back until the block ends; processes started inside never get one.

    They would die of it before they can ignore it.
    """
    resource_tracker.ensure_running()  # started inside the block, it would let interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep processes started inside from importing the running script, which they do not need."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _work(connection: Connection, function: Callable[[Any], Any], limits: Limits) -> None:
    """Do tasks until the connection ends. The parent handles interrupts: it ends its workers."""
    warnings.simplefilter("ignore")  # the result names what is wrong with a file
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit_memory(limits.gigabytes)
    with suppress(EOFError, OSError):  # the parent closes the connection, or is gone
        while True:
            task = connection.recv()
            signal.alarm(limits.seconds)  # nobody handles it: it ends the process
            try:
                outcome = function(task)
            except Exception as error:
                outcome = error
            signal.alarm(0)
            connection.send(outcome)


def _limit_memory(gigabytes: float) -> None:
    """Take the smaller of --memory-limit and the system's limit; exit if that is too little."""
    if not sys.platform.startswith("linux"):
        return
    size = min(gigabytes * 2**30, _system_limit())
    try:
        if size < math.inf:
            resource.setrlimit(resource.RLIMIT_AS, (int(size), int(size)))
        mmap.mmap(-1, LEAST_MEMORY).close()
    except (OSError, ValueError):
        os._exit(NO_MEMORY)


def _system_limit() -> float:
    """Return the bytes of address space that the system allows this process."""
    limits = resource.getrlimit(resource.RLIMIT_AS)  # soft and hard
    return min(math.inf if limit == resource.RLIM_INFINITY else limit for limit in limits)


def attempt(work: Callable[[Any], Any], item: Any) -> Any:
    """Return work(item), or the Failure of this item: no series stops the others.

    An error that would be the same for the next item is raised: a UserError (a full disk,
    wrong weights) and a device that is out of memory.
    """
    try:
        return work(item)
    except UserError:
        raise
    except MemoryError:
        return Failure("too_large", "it does not fit into memory")
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; no torch here
            raise
        if type(error).__name__ == "DicomError":  # of src.dicom, which lies above this module
            return Failure(error.reason, printable(error, LONGEST))
        return Failure("unexpected", printable(f"{type(error).__name__}: {error}", LONGEST))
