"""Workers that crash, hang or eat memory cost the task they had in hand and nothing else."""

import os
import signal
import sys
import time

import numpy as np
import pytest

import preprocess_data  # noqa: F401  its workers read the same modules as those of this test
from src.script import UserError
from src.worker_pool import Failure, Limits, attempt, run_in_workers

LIMITS = Limits(seconds=60, gigabytes=8)


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no memory limit elsewhere")
def test_memory_is_capped(tmp_path):
    assert run([("eat", 0, tmp_path)]) == {0: 3 << 30}
    assert run([("eat", 0, tmp_path)], limits=Limits(60, 2)) == {0: "refused"}


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
