"""Stage 8 of 8: score both stages joined on the held-out fold, straight from DICOM.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py), data/series/{uid}/, data/train_{N}_folds.csv

Writes  model/{encoder}/fold-{k}/  scores_end_to_end.json, predictions_end_to_end.csv,
        failed_series_end_to_end.csv (series that could not be read, and why); with --fold all, all folds pooled: fold-all/
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from src.artifacts.checkpoints import read_joined, read_trained
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import folds_of, read_fold, write_table
from src.device import choose_device
from src.dicom import DicomError, open_series
from src.evaluation.score_report import report_series, title_of
from src.inference.both_stages import BothStages, UsedSlices
from src.labels import LABELS
from src.preprocess.images import prepared_images, read_words_of, stacked
from src.progress import Clock, in_thread, progress
from src.script import OK, SOME_FAILED, UserError, run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # series/ and the folds
    model_dir: Path = Path("model")  # trained networks
    fold: int | Literal["all"] = (
        0  # held out; all: each series by the networks that never saw it, pooled
    )
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    select: Literal["best", "last"] = (
        "best"  # epoch of stage 2; the last one is not chosen on the held-out fold
    )
    both_steps: bool = False  # mean over neighbours at step 1 and at step 2; doubles the work
    mirror: bool = False  # mean with the mirrored head, left and right exchanged; doubles the work
    prior: bool = False  # predict series that cannot be read by the frequencies of the labels, instead of leaving them out
    batch_size: int = 128  # slices


def main(config: Config) -> tuple[dict, pd.DataFrame]:
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    clock = Clock()
    tables = [
        predict_fold(config, data, fold, device, clock) for fold in folds_of(data, config.fold)
    ]
    truth, predictions, failed = (
        pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True)
    )
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    write_table(run.failed_series(), failed)
    for reason, count in failed.reason.value_counts().items():
        print(f"{count} series failed: {reason}{', predicted by the prior' * config.prior}")
    if len(failed) == len(truth):
        raise UserError(
            f"none of the {len(truth)} series could be read: {run.failed_series()} says why"
        )
    print(time_line(clock, len(truth)))
    read = truth[truth.SeriesInstanceUID.isin(predictions.SeriesInstanceUID)]
    ways = ", both steps" * config.both_steps + ", mirrored" * config.mirror
    return report_series(
        run, "end_to_end", read, predictions, title_of(config, f"end to end{ways}")
    ), failed


def predict_fold(
    config: Config, data: DataFolder, fold: int, device: torch.device, clock: Clock
) -> tuple[pd.DataFrame, ...]:
    """Of one held-out fold: its series, their probabilities, and which could not be read and why."""
    run = RunFolder(config.model_dir, config.encoder, fold)
    joined = joined_weights(run, config.select)
    model = BothStages(joined, device, config.both_steps, config.mirror)
    _, held_out = read_fold(data, fold, model.stage1)
    failed: list[tuple[str, str, str]] = []
    predicted = predict_all(
        model, data, held_out.SeriesInstanceUID.tolist(), config.batch_size, clock, failed
    )
    predictions = pd.DataFrame(predicted, columns=["SeriesInstanceUID", *LABELS])
    if config.prior:
        rows = [(uid, *joined["prior"]) for uid, _, _ in failed]
        predictions = pd.concat(
            [predictions, pd.DataFrame(rows, columns=predictions.columns)], ignore_index=True
        )
    return (
        held_out,
        predictions,
        pd.DataFrame(failed, columns=["SeriesInstanceUID", "reason", "detail"]),
    )


def predict_all(
    model: BothStages,
    data: DataFolder,
    uids: list[str],
    batch_size: int,
    clock: Clock,
    failed: list[tuple[str, str, str]],
) -> list[tuple]:
    """(SeriesInstanceUID, 14 probabilities) of the series that can be read; the others are appended to `failed` with reason and detail."""

    def read(uid: str) -> tuple[str, UsedSlices | tuple[str, str]]:
        try:
            return uid, read_used(model, data.series(uid), clock)
        except DicomError as error:
            return uid, (error.reason, str(error))
        except Exception as error:  # no series may stop the others
            return uid, ("unexpected", f"{type(error).__name__}: {error}")

    def readable() -> Iterator[tuple[str, UsedSlices]]:
        for uid, found in clock.waiting(
            "waiting", progress(in_thread(read, uids), "end to end", " series", total=len(uids))
        ):
            if isinstance(found, UsedSlices):
                yield uid, found
            else:
                failed.append((uid, *found))

    with clock.part("all"):
        return [
            (uid, *probabilities)
            for uid, probabilities in model.predict(readable(), batch_size, clock)
        ]


def read_used(model: BothStages, folder: Path, clock: Clock) -> UsedSlices:
    """What the networks read of the series in a folder of DICOM files. Raises DicomError where there is no volume."""
    with clock.part("read"):
        series = open_series(folder)
        words, needed = read_words_of(series, model.stage1["mr_window"], model.needed)
    with clock.part("prepare"):
        images = prepared_images(
            series, words, model.stage1["image_size"], model.stage1["mr_window"], needed
        )
        return model.used_slices(
            stacked(images, len(needed)), needed, series.positions, len(series.slices), series.plane
        )


def joined_weights(run: RunFolder, select: str) -> dict:
    """Content of weights_inference.pth, or the same with the transformer of the last epoch."""
    joined = read_joined(run)
    if select == "last":
        stage2 = read_trained(run, "stage2", select)
        joined |= {"stage2": stage2["weights"], "stage2_settings": stage2["settings"]}
    return joined


def time_line(clock: Clock, count: int) -> str:
    """Seconds a series, and of what: reading goes on in a thread beside the networks."""
    seconds = Counter({name: value / count for name, value in clock.seconds.items()})
    encode = seconds["all"] - seconds["waiting"] - seconds["sequence"]
    return (
        f"{seconds['all']:.3f} s/series: encode {encode:.3f}, sequence {seconds['sequence']:.3f}, wait for reading {seconds['waiting']:.3f}; "
        f"in the thread beside, read {seconds['read']:.3f}, prepare {seconds['prepare']:.3f}"
    )


if __name__ == "__main__":
    _, failed_series = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failed_series) else OK)
