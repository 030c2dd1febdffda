"""What tools/report.py reads: the predictions of all evaluated folds, each joined with its labels, and the logs of their training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.files import read_json_lines, read_pickle
from src.artifacts.paths import ArtifactError, DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_folds, read_spots, read_table
from src.evaluation import metrics
from src.labels import LABELS, PRESENT
from src.sampling.spot_dataset import held_out_rows
from src.sampling.spots import window_labels
from src.script import UserError

EVALUATIONS = {
    "stage1": ("stage 1", "spots"),
    "stage2": ("stage 2", "series"),
    "end_to_end": ("end to end", "series"),
}  # name, what a row is


@dataclass
class Pooled:
    """The out-of-fold predictions of one evaluation: each row by the network that never saw it."""

    name: str  # of the evaluation, for people
    unit: str  # what a row is: spots or series
    table: pd.DataFrame  # as metrics.joined makes it; of series with fold, Modality and plane
    dealt: int  # folds that there are, evaluated or not
    left_out: int  # series of these folds without a prediction: they could not be read

    @property
    def folds(self) -> list[int]:
        return sorted(map(int, self.table.fold.unique()))

    @property
    def series(self) -> int:
        return int(self.table.SeriesInstanceUID.nunique())

    @property
    def present(self) -> pd.Series:
        """0 or 1 of each row: whether there is an aneurysm."""
        return self.table[LABELS[PRESENT]]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and probabilities (N, 14)."""
        return metrics.label_arrays(self.table)


def read_evaluations(data: DataFolder, model_dir: Path, encoder: str) -> dict[str, Pooled]:
    """Those of EVALUATIONS of which predictions are found, {name: all its folds}. Refused where none is of series."""
    found = {}
    series = read_folds(data)
    for evaluation, names in EVALUATIONS.items():
        truth_of = _spot_truth(data) if evaluation == "stage1" else _series_truth(series)
        parts = [
            part
            for fold in sorted(series.fold.unique())
            if (part := _read_fold(evaluation, series, truth_of, int(fold), model_dir, encoder))
        ]
        if parts:
            tables, left_out = zip(*parts, strict=True)
            table = pd.concat(tables).sort_values(
                "SeriesInstanceUID", kind="stable", ignore_index=True
            )  # as --fold all: the same draws
            found[evaluation] = Pooled(*names, table, series.fold.nunique(), sum(left_out))
    if not found.keys() & {"stage2", "end_to_end"}:
        raise UserError(
            f"{EncoderFolder(model_dir, encoder).root} holds no predictions of series: run eval_stage2.py or eval_end_to_end.py of a fold first"
        )
    return found


def _read_fold(
    evaluation: str,
    series: pd.DataFrame,
    truth_of: Callable,
    fold: int,
    model_dir: Path,
    encoder: str,
) -> tuple[pd.DataFrame, int] | None:
    """The joined table of one fold and how many of its series are not in it; None where the fold was not evaluated.

    From the fold's own predictions; where there are none, from those of --fold all.
    """
    held_out = set(series.SeriesInstanceUID[series.fold == fold])
    keys = ["SeriesInstanceUID", "slice"] if evaluation == "stage1" else ["SeriesInstanceUID"]
    for name in (fold, "all"):
        path = RunFolder(model_dir, encoder, name).predictions(evaluation)
        if not path.exists():
            continue
        predictions = read_table(path, (*keys, *LABELS))
        strangers = set(predictions.SeriesInstanceUID) - (
            held_out if name == fold else set(series.SeriesInstanceUID)
        )
        if strangers:
            raise ArtifactError(
                f"{path} holds series {min(strangers)}, which is not of fold {name}: the folds were dealt anew, train and evaluate again"
            )
        predictions = predictions[predictions.SeriesInstanceUID.isin(held_out)]
        if predictions.empty:
            continue
        truth = truth_of(fold)
        if (
            evaluation != "stage1"
        ):  # a series that cannot be read has no prediction; a spot always has one
            truth = truth[truth.SeriesInstanceUID.isin(predictions.SeriesInstanceUID)]
        left_out = 0 if evaluation == "stage1" else len(held_out) - len(truth)
        return metrics.joined(truth, predictions[[*keys, *LABELS]], keys).assign(
            fold=fold
        ), left_out
    return None


def _series_truth(series: pd.DataFrame) -> Callable[[int], pd.DataFrame]:
    columns = ["SeriesInstanceUID", "Modality", "plane", *LABELS]
    return lambda fold: series.loc[series.fold == fold, columns]


def _spot_truth(data: DataFolder) -> Callable[[int], pd.DataFrame]:
    """The rows that eval_stage1.py judges, with their labels."""

    def truth_of(fold: int) -> pd.DataFrame:
        rows = held_out_rows(read_spots(data), fold)
        labels = read_pickle(data.labels)
        windows = [
            window_labels(labels[row.SeriesInstanceUID], int(row.f), 1) for row in rows.itertuples()
        ]
        keys = pd.DataFrame(
            {"SeriesInstanceUID": rows.SeriesInstanceUID, "slice": rows.f.astype(int)}
        )
        return pd.concat(
            [keys, pd.DataFrame(np.reshape(windows, (-1, len(LABELS))), columns=list(LABELS))],
            axis=1,
        )

    return truth_of


def read_histories(
    model_dir: Path, encoder: str, folds: list[int]
) -> dict[str, dict[int, list[dict]]]:
    """{stage: {fold: one dict an epoch}} of the logs that are there."""
    logs = {
        stage: {fold: RunFolder(model_dir, encoder, fold).metrics(stage) for fold in folds}
        for stage in ("stage1", "stage2")
    }
    return {
        stage: {fold: read_json_lines(path) for fold, path in paths.items() if path.exists()}
        for stage, paths in logs.items()
    }


def best_epoch(rows: list[dict]) -> dict | None:
    """The epoch that was kept: the first with the highest held-out score; None where none was scored."""
    return max(
        (row for row in rows if row["scores"]), key=lambda row: row["scores"]["score"], default=None
    )
