"""How many loader processes there is shared memory for; docker gives a container 64 MB of it."""

import os
import shutil
import sys
from functools import cache
from pathlib import Path

from torch import Tensor

from src import distributed

SHARED_MEMORY = Path("/dev/shm")
PAGE = 4096  # bytes; each tensor and each semaphore takes whole pages
SEMAPHORES = 1 << 20  # bytes, of all loaders of a script
PREFETCHED = 2  # batches a process, torch's default


def fitting_workers(workers: int, batch: dict[str, Tensor], kept: int) -> int:
    """Return how many of `workers` there is shared memory for; say so if these are fewer.

    Samples do not depend on it. With too little, a process would die of a bus error.
    batch: one of those that will be loaded.
    kept: batches that wait outside the loader.
    """
    if not SHARED_MEMORY.is_dir():
        return workers
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # on this machine
    free = shutil.disk_usage(SHARED_MEMORY).free // ranks
    fitting = workers
    while fitting and bytes_needed(fitting, batch, kept) > free:
        fitting -= 1
    if fitting < workers and distributed.first():
        needed = ranks * bytes_needed(workers, batch, kept)
        _say(workers, fitting, ranks * free // 2**20, needed // 2**20 + 1)
    return fitting


@cache  # not for each loader of a script
def _say(workers: int, fitting: int, free: int, needed: int) -> None:
    print(
        f"{SHARED_MEMORY} has {free} MB free, and --workers {workers} may need {needed} MB: "
        f"--workers {fitting} is taken, with the same samples but perhaps slower. "
        f"In docker, give --shm-size {needed}m",
        file=sys.stderr,
    )


def bytes_needed(workers: int, batch: dict[str, Tensor], kept: int) -> int:
    """Return the bytes of shared memory that a loader needs at most."""
    pages = sum(-(-tensor.nbytes // PAGE) for tensor in batch.values())
    return SEMAPHORES + (PREFETCHED * workers + kept) * pages * PAGE
