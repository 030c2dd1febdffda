"""Workers that crash, hang or eat memory cost the task they had in hand and nothing else."""

import os
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest

import preprocess_data  # noqa: F401  its workers read the same modules as those of this test
from src import worker_pool
from src.script import UserError
from src.worker_pool import Failure, Limits, attempt, run_in_workers
from tests.data_folders import make_data

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Limits(seconds=60, gigabytes=8)


@pytest.fixture(scope="module", autouse=True)
def new_server():
    """Workers are forked from a server that no other test has made, with what that imports."""
    forkserver._forkserver._stop()


def behave(task):
    """Runs in a worker."""
    kind, number, path = task
    if kind == "kill" or (kind == "kill once" and not path.exists()):
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        signal.pause()
    if kind == "eat":
        try:
            return np.empty(3 << 30, np.uint8).nbytes  # no page of it is touched
        except MemoryError:
            return "refused"
    if kind == "limit":
        return resource.getrlimit(resource.RLIMIT_AS)
    if kind == "raise":
        raise ValueError("a message")
    return number * 2, "torch" in sys.modules


def run(tasks, workers=2, limits=LIMITS):
    return {task[1]: outcome for task, outcome in run_in_workers(behave, tasks, workers, limits)}


def test_results_and_no_torch(tmp_path):
    assert run([("", k, tmp_path) for k in range(20)]) == {k: (2 * k, False) for k in range(20)}
    assert run([]) == {}


def test_a_killed_worker_is_replaced_and_its_task_tried_once_more(tmp_path):
    tasks = [
        ("kill" if k == 3 else "kill once" if k == 5 else "", k, tmp_path / str(k))
        for k in range(8)
    ]
    results = run(tasks)
    assert results.pop(3) == Failure("crashed", "the process that read it ended with SIGKILL")
    assert results == {k: (2 * k, False) for k in range(8) if k != 3}


def test_a_hanging_worker_is_ended(tmp_path):
    start = time.monotonic()
    results = run([("hang" if k == 0 else "", k, tmp_path) for k in range(5)], limits=Limits(1, 8))
    assert results.pop(0) == Failure("timeout", "not done after 1 s") and len(results) == 4
    assert time.monotonic() - start < 10


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no memory limit elsewhere")


def python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)


@linux
def test_memory_is_capped(tmp_path):
    assert run([("eat", 0, tmp_path)]) == {0: 3 << 30}
    assert run([("eat", 0, tmp_path)], limits=Limits(60, 2)) == {0: "refused"}


LIMITED = """
import os, resource, sys
from tests.test_worker_pool import LIMITED_BY, run, Limits
for soft, hard, flag, _ in LIMITED_BY:
    if os.fork() == 0:
        sizes = [int(size * 2**30) or resource.RLIM_INFINITY for size in (soft, hard)]
        resource.setrlimit(resource.RLIMIT_AS, sizes)
        print(run([("limit", 0, None)], 1, Limits(60, flag)), flush=True)
        break
    os.wait()
"""
LIMITED_BY = [(5, 6, 8, 5), (5, 6, 3, 3), (5, 0, 8, 5), (7, 7, 6.5, 6.5)]


@linux
def test_the_smallest_limit_of_memory_holds():
    """(soft, hard, flag, taken) in GiB, 0: none; each in a process of its own."""
    done = python(LIMITED)
    sizes = [int(taken * 2**30) for *_, taken in LIMITED_BY]
    expected = [str({0: (size, size)}) for size in sizes]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers, tmp_path):
    with pytest.raises(UserError, match="--workers 1"):
        run([("", 0, tmp_path)], workers=workers)


def test_an_error_ends_all(tmp_path):
    with pytest.raises(ValueError, match="a message"):
        run([("raise" if k == 1 else "", k, tmp_path) for k in range(50)])


def test_a_detail_is_one_clean_line():
    def broken(_):
        raise ValueError(f"{object()}\n\x1b[31mred")

    failure = attempt(broken, None)
    assert failure == Failure("unexpected", "ValueError: <object object> \\x1b[31mred")


@pytest.mark.parametrize(
    ("limits", "flag"),
    [
        (Limits(0, 8), "--time-limit 0"),
        (Limits(60, 0), "--memory-limit 0"),
        (Limits(60, -3), "--memory-limit -3"),
        (Limits(60, float("nan")), "--memory-limit nan"),
        (Limits(60, 0.01), r"--memory-limit 0\.01"),
    ],
)
@linux
def test_limits_under_which_no_worker_can_start_are_refused(limits, flag, tmp_path):
    with pytest.raises(UserError, match=flag):
        run([("", k, tmp_path) for k in range(3)], limits=limits)


@linux
def test_a_limit_of_the_system_that_is_too_low_is_named(tmp_path, monkeypatch):
    """The limit of this process would be the server's, too, which cannot start then."""
    monkeypatch.setattr(worker_pool, "_system_limit", lambda: 100 << 20)
    with pytest.raises(UserError, match=r"0\.10 GiB .*`ulimit -v`"):
        run([("", k, tmp_path) for k in range(3)], limits=Limits(60, 0.2))


def test_workers_import_this_repository_whatever_the_current_folder_holds(tmp_path):
    make_data(tmp_path / "data", 1)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("print('imported')")
    flags = ["--data-dir", "data", "--image-size", "20", "--workers", "1"]
    command = [sys.executable, ROOT / "preprocess_data.py", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 series are ready" in done.stdout and "imported" not in done.stdout


def test_the_environment_stays_as_it_was():
    code = (
        "import os; from tests.test_worker_pool import run; before = dict(os.environ)\n"
        "run([('', 3, None)], 1); print(before == dict(os.environ))"
    )
    assert python(code).stdout == "True\n"
