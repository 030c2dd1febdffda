"""Scripts that start at once: as forks of a process that has imported all and computed nothing.

In a new Python each would import torch first, for 2 to 4 s of CPU. What a fork computes is the
same: no thread, no random number and no file of the process that it comes from is in use.
"""

import gc
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = (
    "timm",  # by the first network
    "torch._dynamo",  # by the first step of each optimizer
    "scipy.optimize",  # by the first calibration
    "matplotlib.backends.backend_agg",  # by the first picture
    *"train_stage1 eval_stage1 extract_features train_stage2 eval_stage2 eval_end_to_end".split(),
)
FORKS: dict[int, BaseProcess] = {}  # in the clean process


class Script:
    """A script that runs; as a subprocess.Popen."""

    def __init__(self, pool: ProcessPoolExecutor, pid: int, printed: Path):
        self.pool, self.pid, self.printed = pool, pid, printed
        self.returncode: int | None = None

    def poll(self, patience: float | None = 0.0) -> int | None:
        """Wait so many seconds, None: until it ends; return the exit code, None while it runs."""
        self.returncode = self.pool.submit(exit_code, self.pid, patience).result()
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; return what it printed on stdout and stderr."""
        self.poll(patience=None)
        return self.texts()

    def texts(self) -> tuple[str, str]:
        """Return what it has printed on stdout and stderr so far."""
        out, err = (self.printed / name for name in ("stdout", "stderr"))
        return out.read_text(), err.read_text()


class CleanProcess:
    """The process that scripts are forked from; use it where no test needs a new Python."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path):
        self.pool, self.folder, self.count = pool, folder, 0

    def start(self, script: str, *flags, cwd: Path = ROOT, **environment: str) -> Script:
        """Start `{script}.py` as the shell would, in a session of its own."""
        words = [str(ROOT / f"{script}.py"), *map(str, flags)]
        return self.begin(be_script, words, str(cwd), environment)

    def begin(self, function: Callable, *arguments) -> Script:
        """Begin to call a function in a fork."""
        self.count += 1
        printed = self.folder / f"{self.count}"
        printed.mkdir()
        for name in ("stdout", "stderr"):
            (printed / name).touch()  # the fork may open them later than `texts` is asked
        return Script(self.pool, self.submit(fork, printed, function, arguments), printed)

    def run(self, script: str, *flags, **options) -> subprocess.CompletedProcess:
        """Run `{script}.py`; return its exit code and what it printed."""
        return finished(self.start(script, *flags, **options))

    def call(self, function: Callable, *arguments) -> subprocess.CompletedProcess:
        """Call a function in a fork; return its exit code and what it printed."""
        return finished(self.begin(function, *arguments))

    def submit(self, function, *arguments):
        """Return function(*arguments) of the clean process, which must compute nothing itself."""
        return self.pool.submit(function, *arguments).result()


def finished(script: Script) -> subprocess.CompletedProcess:
    """Wait for the end of a script; return its exit code and what it printed."""
    out, err = script.communicate()
    return subprocess.CompletedProcess((), script.returncode, out, err)


@contextmanager
def new_clean_process(folder: Path) -> Iterator[CleanProcess]:
    """Start the process that scripts are forked from. folder: for what they print."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=import_all) as pool:
        yield CleanProcess(pool, folder)


def import_all() -> None:
    gc.disable()  # it would go through half a million objects again and again
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # nor need forks, which would copy what they go through
    gc.enable()


def fork(printed: Path, function: Callable, arguments: tuple) -> int:
    """Call a function in a fork of this process; return its process ID. printed: a folder."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=call, args=(printed, function, arguments))
    process.start()
    FORKS[process.pid] = process
    return process.pid


def exit_code(pid: int, patience: float | None) -> int | None:
    """Return the exit code of a fork, None if it runs on after `patience` s."""
    FORKS[pid].join(patience)
    return FORKS[pid].exitcode


def call(printed: Path, function: Callable, arguments: tuple) -> None:
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(printed / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    function(*arguments)


def be_script(words: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
