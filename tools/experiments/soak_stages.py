"""One of the eight scripts as a process group that is watched, and killed on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from src.script import UserError
from tools.benchmarks.memory import resident

ROOT = Path(__file__).resolve().parents[2]
PERIOD = 0.05  # seconds between two looks at a stage
PATIENCE = 30.0  # seconds that the processes of a stage may take to end after it
NEVER = (0, float("inf"))  # a moment as kill_moment gives it


@dataclass(frozen=True)
class Stage:
    """One of the eight scripts as it is run on one side."""

    script: str
    flags: list
    done: Callable[[], int] = lambda: 0  # finished series or epochs; 0: not counted
    again: tuple[str, ...] = ()  # further flags after a kill


@dataclass
class Watched:
    """What was seen of one run of a stage."""

    code: int = 0  # exit code, negative after a signal
    seconds: float = 0.0
    first: float = 0.0  # seconds until the first series or epoch was finished; 0: not counted
    last: float = 0.0  # the same for the last one
    done: int = 0  # series or epochs that were finished at the end
    megabytes: list[tuple[float, float]] = field(
        default_factory=list
    )  # (seconds, of all processes)

    @property
    def peak(self) -> float:
        return max((megabytes for _, megabytes in self.megabytes), default=0.0)


def count_arrays(folder: Path) -> int:
    return len(list(folder.glob("*.npy")))


def count_epochs(metrics: Path) -> int:
    return metrics.read_text().count("\n") if metrics.exists() else 0


def run_to_end(stage: Stage, log: IO, code: int, again: bool = False) -> Watched:
    """Run a stage. Raises UserError if it ends with another exit code."""
    seen = watch(command_of(stage, again), log, stage.done)
    require_code(stage, log, code, seen)
    return seen


def require_code(stage: Stage, log: IO, code: int, seen: Watched) -> None:
    if seen.code != code:
        raise UserError(
            f"{stage.script}.py ended with {seen.code} instead of {code}: {log.name} says why"
        )


def kill_moment(whole: Watched, fraction: float) -> tuple[int, float]:
    """Return how much of a stage to wait for: (finished series or epochs, seconds after these).

    fraction: of the work of the undisturbed run, if it can be counted.
    """
    if not whole.done:
        return 0, (1 + fraction) / 2 * whole.seconds  # the first half goes into imports
    work = 1 + fraction * (whole.done - 1)
    return int(work), work % 1 * (whole.seconds - whole.first) / whole.done


def kill_and_repeat(
    stage: Stage, log: IO, code: int, moment: tuple[int, float]
) -> tuple[Watched, Watched | None]:
    """Return the run that was killed and the one after it, None if it ended before the kill."""
    killed = watch(command_of(stage), log, stage.done, moment)
    if killed.code == -signal.SIGKILL:
        return killed, run_to_end(stage, log, code, again=True)
    require_code(stage, log, code, killed)
    print(f"{stage.script}.py ended before its kill", file=log, flush=True)
    return killed, None


def command_of(stage: Stage, again: bool = False) -> list[str]:
    flags = [*stage.flags, *stage.again] if again else stage.flags
    return [sys.executable, str(ROOT / f"{stage.script}.py"), *map(str, flags)]


def watch(
    command: list[str],
    log: IO,
    count_done: Callable[[], int],
    moment: tuple[int, float] = NEVER,
) -> Watched:
    """Run a command in a process group of its own, and kill all of it at the moment."""
    print("\n$", *command, file=log, flush=True)
    wanted, delay = moment
    seen, now, reached = Watched(), 0.0, None
    start = time.monotonic()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
    )
    try:
        while child.poll() is None and (reached is None or now < reached + delay):
            time.sleep(PERIOD)
            now = time.monotonic() - start
            done = count_done()
            if done > seen.done:
                seen.done, seen.last = done, now
                seen.first = seen.first or now
            if done >= wanted and reached is None:
                reached = now
            seen.megabytes.append((now, resident(child.pid) / 1e6))
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    seen.seconds = time.monotonic() - start
    wait_for_group(child.pid, command)
    seen.code, seen.done = child.returncode, count_done()
    return seen


def wait_for_group(group: int, command: list[str]) -> None:
    """Wait until all processes of a group have ended. Raises UserError if they do not."""
    deadline = time.monotonic() + PATIENCE
    while resident(group):
        if time.monotonic() > deadline:
            raise UserError(f"{Path(command[1]).name} left processes behind, in group {group}")
        time.sleep(PERIOD)


def quarters(run: Watched) -> list[float]:
    """Return the peak memory in MB of the first and of the last quarter of a stage's work.

    The work is the time from the first finished series to the last.
    """
    quarter = (run.last - run.first) / 4
    early = [megabytes for at, megabytes in run.megabytes if run.first <= at <= run.first + quarter]
    late = [megabytes for at, megabytes in run.megabytes if run.last - quarter <= at <= run.last]
    return [max(early, default=0.0), max(late, default=0.0)]
