"""all: every stage against the plain loop and its floor, its memory, and how its time grows.

In each round all ways and all sizes of a stage take turns, so that a slow phase of the machine
slows all of them.
"""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from src.progress import progress
from src.script import UserError
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case, NetworkOptions, measure, ratio
from tools.benchmarks.inference import EndToEnd, Extract, end_to_end_case, extract_case
from tools.benchmarks.memory import resident
from tools.benchmarks.preprocess import Preprocess, preprocess_case
from tools.benchmarks.training import Loader, Stage2, Train, loader_case, stage2_case, train_case

Stage = Preprocess | Loader | Train | Extract | Stage2 | EndToEnd
CASES = {
    Preprocess: preprocess_case,
    Loader: loader_case,
    Train: train_case,
    Extract: extract_case,
    Stage2: stage2_case,
    EndToEnd: end_to_end_case,
}
GROWTH = (0.5, 1, 2)  # times the usual number of series, of slices
PERIOD = 0.02  # seconds between two looks at the memory


@dataclass(kw_only=True)
class All(NetworkOptions):
    """Every stage: against the plain loop and its floor, memory, growth."""

    encoder: str = "test_resnet"  # with random weights
    image_size: int = 256  # pixels, of the DICOM images and of the prepared ones
    crop_size: int = 224  # pixels
    width: int = 256  # of the transformer's tokens
    workers: int = 2  # processes of preprocessing


@contextmanager
def open_case(stage: Stage) -> Iterator[Case]:
    """Make a stage's data in a temporary folder, and delete them at the end."""
    with tempfile.TemporaryDirectory(dir=stage.folder, prefix="benchmark-") as folder:
        case = CASES[type(stage)](stage, Path(folder))
        try:
            yield case
        finally:
            case.close()


def stages_of(config: All) -> dict[str, Stage]:
    """Return each stage at its usual size."""
    images = {"image_size": config.image_size, "crop_size": config.crop_size}
    device = {"device": config.device}
    network = images | device | {"encoder": config.encoder}
    stages = {
        "preprocess": Preprocess(matrix=config.image_size, series=12, workers=config.workers),
        "loader": Loader(series=16, slices=60, samples=64, **images),
        "train": Train(series=8, slices=60, samples=16, batch_size=16, workers=0, **network),
        "extract": Extract(series=6, slices=40, **network),
        "stage2": Stage2(channels=162, width=config.width, series=64, slices=96, **device),
        "end_to_end": EndToEnd(series=4, slices=96, **network),
    }
    return {name: replace(stage, folder=config.folder) for name, stage in stages.items()}


def measure_all(config: All) -> pd.DataFrame:
    """Print and return a table with one row a stage."""
    rows = []
    for name, stage in progress(stages_of(config).items(), "measuring", " stages"):
        rows.append({"stage": name} | measure_stage(stage, config.repeats))
    table = pd.DataFrame(rows)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(table.to_string(index=False))
    print(f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {config.repeats} rounds")
    return table


def measure_stage(stage: Stage, repeats: int) -> dict:
    """Return the stage's row of the table: all ways at its usual size, this pipeline at others."""
    peaks = [peak_memory(resized(stage, "series", factor)) for factor in GROWTH]
    with ExitStack() as stack:
        usual = stack.enter_context(open_case(stage))
        turns = usual.turns()
        for dimension in ("series", "slices"):
            for factor in GROWTH:
                case = stack.enter_context(open_case(resized(stage, dimension, factor)))
                turns[dimension, factor] = partial(case.seconds, OURS)
        times = measure(turns, repeats)
    return {
        "a second": f"{usual.work / np.median(times[OURS]):,.0f} {usual.unit}",
        "x plain loop": f"{ratio(times[PLAIN], times[OURS]):.2f}",
        "x floor": f"{ratio(times[OURS], times[FLOOR]):.2f}",
        "peak MiB": peaks[GROWTH.index(1)],
        "growth with series": exponent([times["series", factor] for factor in GROWTH]),
        "growth with slices": exponent([times["slices", factor] for factor in GROWTH]),
        "MiB with series": " ".join(map(str, peaks)),
    }


def resized(stage: Stage, dimension: str, factor: float) -> Stage:
    """Return the stage with `factor` times as many series or slices."""
    return replace(stage, **{dimension: round(getattr(stage, dimension) * factor)})


def exponent(times: list[list[float]]) -> float:
    """Return the median over the rounds of the exponent in time ~ size ** exponent.

    times: seconds of each size in GROWTH, in each round.
    """
    slopes = np.polyfit(np.log(GROWTH), np.log(times), 1)[0]  # (rounds,)
    return round(float(np.median(slopes)), 2)


def peak_memory(stage: Stage) -> int:
    """Return the MiB that a stage and its workers take together at most, in a fresh process."""
    process = multiprocessing.get_context("spawn").Process(target=do_once, args=(stage,))
    process.start()
    peak = 0
    try:
        while process.is_alive():
            peak = max(peak, resident(process.pid) >> 20)
            process.join(PERIOD)
    finally:  # an interrupt does not reach the group
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    if process.exitcode:
        raise UserError(f"{stage} could not be measured: see above")
    return peak


def do_once(stage: Stage) -> None:
    os.setsid()  # so that the process and its workers are a group
    with open_case(stage) as case:
        case.seconds(OURS)
