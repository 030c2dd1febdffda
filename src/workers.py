"""Tasks for strangers' files: worker processes that may crash, hang or eat memory, and cost only the task they had in hand.

Workers start from a clean process without torch. The system ends a worker that exceeds its time (an alarm) or its memory (an address
space limit), even where it is stuck in a decoder or where the parent is gone. A worker that dies is replaced.
"""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

RETRIES = 1  # of a task whose worker died, in a fresh worker; a task that ran out of time is not tried again


@dataclass(frozen=True)
class Lost:
    """What became of a task that took its worker along. reason: "timeout" or "crashed"."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Limits:
    """What one task may use."""

    seconds: int
    gigabytes: float


def run_in_workers(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int, limits: Limits) -> Iterator[tuple[Any, Any]]:
    """(task, function(task) or Lost) in order of completion; what `function` raises is raised here. All workers end with the iteration."""
    waiting = [(task, 0) for task in reversed(list(tasks))]
    context = _context(function.__module__)
    crew: list[_Worker] = []
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                crew.append(_Worker(context, function, limits))
                crew[-1].give(*waiting.pop())
            for connection in wait([worker.connection for worker in crew]):
                worker = next(worker for worker in crew if worker.connection is connection)
                task, attempt, outcome = worker.take()
                if isinstance(outcome, Lost):
                    crew.remove(worker)
                elif waiting:
                    worker.give(*waiting.pop())
                else:
                    crew.remove(worker.dismiss())
                if isinstance(outcome, Lost) and outcome.reason == "crashed" and attempt < RETRIES:
                    waiting.append((task, attempt + 1))
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    yield task, outcome
    finally:
        for worker in crew:
            worker.kill()


class _Worker:
    def __init__(self, context: multiprocessing.context.BaseContext, function: Callable, limits: Limits):
        self.connection, theirs = context.Pipe()
        self.limits = limits
        self.process = context.Process(target=_work, args=(theirs, function, limits), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends when the worker does

    def give(self, task: Any, attempt: int) -> None:
        self.task, self.attempt = task, attempt
        with suppress(OSError):  # it died: `take` finds out
            self.connection.send(task)

    def take(self) -> tuple[Any, int, Any]:
        """(task, attempt, what came of it), once the connection is ready."""
        try:
            return self.task, self.attempt, self.connection.recv()
        except (EOFError, OSError):
            return self.task, self.attempt, self._lost()

    def _lost(self) -> Lost:
        self.process.join()
        code = self.process.exitcode
        self.connection.close()
        if sys.platform != "win32" and code == -signal.SIGALRM:
            return Lost("timeout", f"not done after {self.limits.seconds} s")
        return Lost("crashed", f"the process that read it ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}")

    def dismiss(self) -> "_Worker":
        self.connection.close()
        self.process.join()
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _context(module: str) -> multiprocessing.context.BaseContext:
    """Forks of a server that has imported what workers need; a fresh interpreter each where there is no fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _work(connection: Connection, function: Callable[[Any], Any], limits: Limits) -> None:
    """Do tasks until the connection ends. Interrupts are the parent's business: it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit_memory(limits.gigabytes)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        _set_alarm(limits.seconds)
        try:
            outcome = function(task)
        except Exception as error:
            outcome = error
        _set_alarm(0)
        try:
            connection.send(outcome)
        except OSError:
            return


def _limit_memory(gigabytes: float) -> None:
    if sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), int(gigabytes * 2**30)))


def _set_alarm(seconds: int) -> None:
    """Nobody handles the alarm: it ends the process, whatever it is doing. 0 switches it off."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
