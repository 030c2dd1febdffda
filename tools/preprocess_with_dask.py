"""Stage 1 of 8 on dask workers. Needs: pip install "dask[distributed]"

Reads and writes what preprocess_data.py does, byte for byte. All machines hold this repository
at the same version and see --data-dir under the same path. Only paths, UIDs, settings, numbers
of slices and reasons of failures go over the network: no pixels, nothing of the patient.

Each series is read in a process of its own, under --time-limit and --memory-limit.
A series whose dask worker dies is tried again on another. Start the workers in this repository:

    DASK_DISTRIBUTED__WORKER__DAEMON=False python -m dask worker tcp://HOST:8786 --nthreads 1
"""

import importlib.util
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import preprocess_data
from src.artifacts.paths import DataFolder, require
from src.preprocess.series_job import Job
from src.script import OK, SOME_FAILED, UserError, run_script
from src.worker_pool import RETRIES, Failure, Limits, interrupts_held, run_in_workers

PATIENCE = 60  # seconds, for the scheduler and the first worker
LOCAL = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.CRITICAL}
SETTINGS = {  # of dask, for workers on this machine
    "distributed.worker.daemon": False,
    "distributed.scheduler.allowed-failures": RETRIES,
    # one task a worker at a time: one that kills its worker harms no other
    "distributed.scheduler.worker-saturation": 1.0,
}


@dataclass
class Config(preprocess_data.Config):
    # tcp://HOST:8786 of a running scheduler; without, --workers dask workers on this machine
    scheduler: str | None = None


def main(config: Config) -> pd.DataFrame:
    """Return the failed series, as preprocess_data.py does."""
    if config.check:
        raise UserError(
            "--check is not for dask, its report would send patient IDs over the network: "
            "run preprocess_data.py --check"
        )
    config = replace(config, data_dir=config.data_dir.resolve())
    train = require(DataFolder(config.data_dir).train)
    with connected(config) as client:
        check_workers(client, train)
        return preprocess_data.main(config, partial(run_on_dask, client))


@contextmanager
def connected(config: Config) -> Iterator[Any]:
    """Connect to the scheduler, or to workers on this machine, and wait for the first worker."""
    try:
        import dask

        import distributed
    except ImportError as error:
        raise UserError(
            'dask is not installed: pip install "dask[distributed]", or run preprocess_data.py'
        ) from error
    with ExitStack() as stack:
        cluster = config.scheduler
        if not cluster:
            stack.enter_context(dask.config.set(SETTINGS))
            with interrupts_held():  # workers get no interrupts: this process ends them
                own = distributed.LocalCluster(n_workers=config.workers, **LOCAL)
            cluster = stack.enter_context(own)
        try:
            client = distributed.Client(cluster, timeout=PATIENCE)
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise UserError(
                f"no dask worker at {config.scheduler or 'this machine'} after {PATIENCE} s: "
                "start scheduler and workers first"
            ) from error
        with client:
            yield client


def check_workers(client, train: Path) -> None:
    """Raise UserError if a dask worker could not read the series."""
    for address, problem in client.run(problem_of, train, on_error="return").items():
        if problem:
            raise UserError(f"dask worker {address}: {problem}")


def problem_of(train: Path) -> str | None:
    """Return why the dask worker that runs this could not read the series."""
    if multiprocessing.current_process().daemon:
        return "it may not start processes: start it with DASK_DISTRIBUTED__WORKER__DAEMON=False"
    if not importlib.util.find_spec("src"):
        return "it cannot import this project: start it in the repository's folder"
    if not train.exists():
        return f"it does not see {train}: the data must be on a shared disk, same path everywhere"
    return None


def run_on_dask(
    client, function: Callable[[Job], dict | Failure], jobs: list[Job], _: int, limits: Limits
) -> Iterator[tuple[Job, dict | Failure]]:
    """Yield (job, result or Failure) in order of completion, as `run_in_workers` does."""
    from distributed import KilledWorker, as_completed

    # All at once: dask holds them back until a worker is free.
    submitted = client.map(partial(in_own_process, function, limits), jobs, pure=False)
    job_of = dict(zip(submitted, jobs, strict=True))
    died = Failure("crashed", "the dask workers that had it died: see their logs")
    try:
        for future in as_completed(submitted):
            was_killed = isinstance(future.exception(), KilledWorker)
            yield job_of[future], died if was_killed else future.result()
    finally:
        client.cancel(submitted)


def in_own_process(
    function: Callable[[Job], dict | Failure], limits: Limits, job: Job
) -> dict | Failure:
    """Do the job in a process that may crash. The metadata is on disk: return only the length."""
    [(_, outcome)] = run_in_workers(function, [job], 1, limits)
    return outcome if isinstance(outcome, Failure) else {"length": outcome["length"]}


if __name__ == "__main__":
    failed_series = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failed_series) else OK)
