"""Stage 8 of 8: score both stages joined on the held-out fold, straight from DICOM.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)
        data/series/{uid}/, data/train_{N}_folds.csv

Writes  model/{encoder}/fold-{k}/scores_end_to_end.json, predictions_end_to_end.csv
        model/{encoder}/fold-{k}/failed_series_end_to_end.csv   series that could not be read

With --fold all, all folds pooled, into fold-all/.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from src.artifacts.checkpoints import ELSEWHERE
from src.artifacts.next_stage import after
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import weights_of
from src.artifacts.tables import folds_of, read_fold, require_held_out, write_table
from src.device import choose_device, use_compiler
from src.dicom import open_series
from src.evaluation.choice import Choice
from src.evaluation.score_report import report_series, title_of
from src.inference.ensemble import Predictor
from src.inference.probabilities import BROKEN_WEIGHTS
from src.inference.sources import chosen_pairs
from src.labels import LABELS
from src.preprocess.images import PreparedSeries
from src.progress import Clock, in_thread, progress
from src.script import OK, SOME_FAILED, UserError, run_script
from src.worker_pool import Failure, attempt

SEEN = (
    "these networks were trained elsewhere; if they saw some of these series, the score is too high"
)
NO_PREDICTION = Failure("no_prediction", f"its probabilities are not finite: {BROKEN_WEIGHTS}")


@dataclass
class Config:
    data_dir: Path = Path("data")  # series/ and the folds
    model_dir: Path = Path("model")  # trained networks
    fold: int | Literal["all"] = 0  # held out; all: each series by the networks that never saw it
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained

    select: Literal["best", "last"] = "best"  # epoch of stage 2; last: not chosen on the fold
    both_steps: bool = False  # mean over neighbours at step 1 and at step 2; doubles the work
    mirror: bool = False  # mean with the mirrored head, left and right swapped; doubles the work
    prior: bool = False  # predict unreadable series by the labels' frequencies, not leave them out
    train_on_all: bool = False  # refused: nothing was held out
    batch_size: int = 128  # slices per batch
    compile: bool = False  # torch.compile: minutes at the start, again for the last batch


def main(config: Config) -> tuple[dict, pd.DataFrame]:
    require_held_out(config)
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    clock = Clock()
    folds = folds_of(data, config.fold)
    runs = {fold: RunFolder(config.model_dir, config.encoder, fold) for fold in folds}
    weights = {fold: weights_of(run, "end_to_end", config.select) for fold, run in runs.items()}
    chosen = chosen_pairs(config.model_dir, config.encoder, folds, config.select)
    tables = [predict_fold(config, data, fold, chosen[fold].pair, device, clock) for fold in folds]
    truth, predictions, failed = (
        pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True)
    )
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    write_table(run.failed_series(), failed)
    for reason, count in failed.reason.value_counts().items():
        print(f"{count} series failed: {reason}{', predicted by the prior' * config.prior}")
    if len(failed) == len(truth):
        raise UserError(
            f"none of the {len(truth)} series could be predicted: {run.failed_series()} says why"
        )
    print(time_line(clock, len(truth)))
    read = truth[truth.SeriesInstanceUID.isin(predictions.SeriesInstanceUID)]
    ways = ", both steps" * config.both_steps + ", mirrored" * config.mirror
    title = title_of(config, f"end to end{ways}", chosen)
    return report_series(run, "end_to_end", read, predictions, title, chosen, weights), failed


def predict_fold(
    config: Config,
    data: DataFolder,
    fold: int,
    pair: Choice,
    device: torch.device,
    clock: Clock,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the series of one held-out fold, their probabilities, and the failures."""
    predictor = Predictor(
        config.model_dir,
        config.encoder,
        (fold,),
        device,
        select=config.select,
        both_steps=config.both_steps,
        mirror=config.mirror,
        pair=pair,
    )
    if predictor.settings.get("held_out") == ELSEWHERE:
        print(f"fold {fold}: {SEEN}")
    if config.compile:
        for model in predictor.models:
            use_compiler(model.slice_cnn)
    _, held_out = read_fold(data, fold, predictor.settings)
    failed: dict[str, Failure] = {}
    uids = held_out.SeriesInstanceUID.tolist()
    predicted = predict_all(predictor, data, uids, config.batch_size, clock, failed)
    rows = [(uid, *probabilities) for uid, probabilities in predicted]
    if config.prior:
        rows += [(uid, *predictor.prior) for uid in failed]
    failures = [(uid, failure.reason, failure.detail) for uid, failure in failed.items()]
    return (
        held_out,
        pd.DataFrame(rows, columns=["SeriesInstanceUID", *LABELS]),
        pd.DataFrame(failures, columns=["SeriesInstanceUID", "reason", "detail"]),
    )


def predict_all(
    predictor: Predictor,
    data: DataFolder,
    uids: list[str],
    batch_size: int,
    clock: Clock,
    failed: dict[str, Failure],
) -> list[tuple]:
    """Return (uid, probabilities (14,)) of the series that can be predicted; fill `failed`."""

    def read(uid: str) -> PreparedSeries:
        with clock.part("read"):
            opened = predictor.read(open_series(data.series(uid)))
        with clock.part("prepare"):
            return opened.in_memory()

    def readable() -> Iterator[tuple[str, PreparedSeries]]:
        outcomes = in_thread(lambda uid: (uid, attempt(read, uid)), uids)
        shown = progress(outcomes, "end to end", " series", total=len(uids))
        for uid, outcome in clock.waiting("waiting", shown):
            if isinstance(outcome, Failure):
                failed[uid] = outcome
            else:
                yield uid, outcome

    predicted = []
    with clock.part("all"):
        for uid, probabilities in predictor.predict(readable(), batch_size, clock):
            if np.isfinite(probabilities).all():
                predicted.append((uid, probabilities))
            else:
                failed[uid] = NO_PREDICTION
    return predicted


def time_line(clock: Clock, count: int) -> str:
    """Return what a series took, in seconds; reading goes on in a thread beside the networks."""
    seconds = Counter({name: value / count for name, value in clock.seconds.items()})
    encode = seconds["all"] - seconds["waiting"] - seconds["sequence"]
    return (
        f"{seconds['all']:.3f} s/series: encode {encode:.3f}, "
        f"sequence {seconds['sequence']:.3f}, wait for reading {seconds['waiting']:.3f}; "
        f"in the thread beside, read {seconds['read']:.3f}, prepare {seconds['prepare']:.3f}"
    )


if __name__ == "__main__":
    _, failed_series = run_script(main, Config, __doc__, following=after(__file__))
    sys.exit(SOME_FAILED if len(failed_series) else OK)
