"""Stage 1 of 8 on the workers of a dask cluster: preprocess_data.py, but other machines read the series. Needs: pip install "dask[distributed]"

Reads and writes what preprocess_data.py does, byte for byte. All machines see --data-dir under the same path; they hold this repository at the same version.
Over the network go paths, UIDs and settings, and back how many slices a series has or why it failed: no pixels, nothing of the patient.

Each series is read in a process of its own, under --time-limit and --memory-limit. One whose dask worker dies is tried again on another.
Start the dask workers in the repository's folder: DASK_DISTRIBUTED__WORKER__DAEMON=False python -m dask worker tcp://HOST:8786 --nthreads 1
"""

import importlib.util
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
LOCAL = {  # settings of dask for a cluster of our own; one task a worker at a time, so that one that kills its worker harms no other
    "distributed.worker.daemon": False,
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.scheduler.worker-saturation": 1.0,
}


@dataclass
class Config(preprocess_data.Config):
    scheduler: str | None = (
        None  # tcp://HOST:8786 of a running one; without, --workers dask workers on this machine
    )


def main(config: Config) -> pd.DataFrame:
    if config.check:
        raise UserError(
            "--check is not for dask, its report would send patient IDs over the network: run preprocess_data.py --check"
        )
    config = replace(config, data_dir=config.data_dir.resolve())
    train = require(DataFolder(config.data_dir).train)
    with connected(config) as client:
        check_workers(client, train)
        return preprocess_data.main(config, partial(run_on_dask, client))


@contextmanager
def connected(config: Config) -> Iterator[Any]:
    """A client of the scheduler, or of workers on this machine; it has at least one worker."""
    try:
        import dask

        from distributed import Client
    except ImportError as error:
        raise UserError(
            'dask is not installed: pip install "dask[distributed]", or run preprocess_data.py, which does without'
        ) from error
    with (
        dask.config.set(LOCAL),
        nullcontext(config.scheduler)
        if config.scheduler
        else local_cluster(config.workers) as cluster,
    ):
        try:
            client = Client(cluster, timeout=PATIENCE)
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise UserError(
                f"no dask worker at {config.scheduler or 'this machine'} after {PATIENCE} s: start scheduler and workers first"
            ) from error
        with client:
            yield client


def local_cluster(workers: int) -> Any:
    """Dask worker processes on this machine. They get no interrupts: it is ours to end them."""
    from distributed import LocalCluster

    with interrupts_held():
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )


def check_workers(client, train: Path) -> None:
    """Refuse a cluster with a worker that could not do its part."""
    for address, problem in client.run(problem_of, train, on_error="return").items():
        if problem:
            raise UserError(f"dask worker {address}: {problem}")


def problem_of(train: Path) -> str | None:
    """Why a dask worker could not do its part, as it sees it."""
    if multiprocessing.current_process().daemon:
        return "it may not start processes: start it with DASK_DISTRIBUTED__WORKER__DAEMON=False"
    if not importlib.util.find_spec("src"):
        return "it cannot import this project: start it in the repository's folder"
    return (
        None
        if train.exists()
        else f"it does not see {train}: the data must lie on a shared disk, under the same path everywhere"
    )


def run_on_dask(
    client, function: Callable[[Job], dict | Failure], jobs: list[Job], _: int, limits: Limits
) -> Iterator[tuple[Job, dict | Failure]]:
    """(job, what came of it) in order of completion, as from `run_in_workers`."""
    from distributed import KilledWorker, as_completed

    in_turn = client.map(
        partial(in_own_process, function, limits), jobs, pure=False
    )  # all at once: dask then holds them back until a worker is free
    futures = dict(zip(in_turn, jobs, strict=True))
    try:
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, KilledWorker):
                yield (
                    futures[future],
                    Failure("crashed", "the dask workers that had it died: see their logs"),
                )
            else:
                yield futures[future], future.result()
    finally:
        client.cancel(list(futures))


def in_own_process(
    function: Callable[[Job], dict | Failure], limits: Limits, job: Job
) -> dict | Failure:
    """On a dask worker: do the job in a process that it may ruin. The facts of the series are on the disk: only its length goes back."""
    [(_, outcome)] = run_in_workers(function, [job], 1, limits)
    return outcome if isinstance(outcome, Failure) else {"length": outcome["length"]}


if __name__ == "__main__":
    failed_series = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failed_series) else OK)
