"""Many training runs: in processes of their own, finished ones skipped, scores over seeds."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from src.evaluation import metrics
from src.progress import progress
from src.worker_pool import clean_context

SCORES = ("score", "present", "locations")


def run_all(
    function: Callable, config, jobs: Iterable[tuple], output_of: Callable, fresh: bool = False
) -> None:
    """Call function(config, *job) for each job whose output_of(config, *job) does not exist yet.

    config.workers: number of processes, of one thread each.
    fresh: start a new process for each job, which may then change modules.
    """
    todo = [job for job in jobs if not output_of(config, *job).exists()]
    with ProcessPoolExecutor(
        config.workers,
        clean_context(function.__module__),
        initializer=torch.set_num_threads,
        initargs=(1,),
        max_tasks_per_child=1 if fresh else None,
    ) as pool:
        running = [pool.submit(function, config, *job) for job in todo]
        for job in progress(as_completed(running), "runs", " runs", total=len(running)):
            job.result()


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Return where the runs of a variant or model with one seed are kept."""
    return out / name.replace(" ", "_").replace(",", "") / str(seed)


def scores_of(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the SCORES: weighted score, AUC of presence, mean AUC of the locations."""
    scores = metrics.weighted_score(truth, probabilities)
    values = [scores["score"], scores["present"], metrics.mean_location(scores)]
    return np.array(values, float)  # NaN where nothing is known


def mean_and_extremes(values: np.ndarray, sign: str = "") -> str:
    """Return the mean over the seeds as text, with its extremes. sign: "+" shows that of each."""
    mean, low, high = (
        f"{value:{sign}.3f}" for value in (values.mean(), values.min(), values.max())
    )
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"
