"""A stage that lies ready in a process of its own, to be timed when asked, and how much memory it takes."""

import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Self

from src.script import UserError
from tools.benchmarks.inference import EndToEnd, Extract, end_to_end_case, extract_case
from tools.benchmarks.memory import resident
from tools.benchmarks.preprocess import Preprocess, preprocess_case
from tools.benchmarks.training import Loader, Stage2, Train, loader_case, stage2_case, train_case

CASES = {
    Preprocess: preprocess_case,
    Loader: loader_case,
    Train: train_case,
    Extract: extract_case,
    Stage2: stage2_case,
    EndToEnd: end_to_end_case,
}
Stage = Preprocess | Loader | Train | Extract | Stage2 | EndToEnd
GLANCE = 0.02  # seconds between two looks at the memory


class Apart:
    """A stage at one size; a context manager, which ends its processes. Raises UserError where it cannot be measured."""

    def __init__(self, stage: Stage):
        self.stage, self.peak_mib = (
            stage,
            0,
        )  # MiB in memory at most, of all its processes, as often as it was looked at

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=in_child, args=(self.stage, theirs))
        self.process.start()
        theirs.close()
        return self

    def __exit__(self, *_) -> None:
        self.connection.close()
        self.process.join()
        with suppress(ProcessLookupError):  # workers that an interrupt has left
            os.killpg(self.process.pid, signal.SIGKILL)

    def ready(self) -> dict:
        """Wait until its data lie there: {"names" of its ways, "work", "unit", "floor"}."""
        return self._answer(watch=True)

    def seconds(self, name: str, watch: bool) -> float:
        """One way, timed once. watch: look at the memory meanwhile, which takes time."""
        self.connection.send(name)
        return self._answer(watch)

    def _answer(self, watch: bool):
        while not self.connection.poll(GLANCE if watch else None):
            self.peak_mib = max(self.peak_mib, round(resident(self.process.pid) / 2**20))
        try:
            return self.connection.recv()
        except EOFError:
            raise UserError(f"{self.stage} could not be measured: see above") from None


def in_child(stage: Stage, connection: Connection) -> None:
    os.setsid()
    with CASES[type(stage)](stage) as case:
        connection.send(
            {"names": case.names(), "work": case.work, "unit": case.unit, "floor": case.floor}
        )
        with suppress(EOFError, BrokenPipeError):  # nobody asks any more, or waits for an answer
            while True:
                connection.send(case.seconds(connection.recv()))
