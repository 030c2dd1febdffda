"""What tools/report.py reads: predictions of all evaluated folds with labels, and training logs."""

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

UID = "SeriesInstanceUID"


@dataclass
class Pooled:
    """The predictions of one evaluation, each row by the network that never saw it."""

    name: str  # of the evaluation, on the page
    unit: str  # what a row is: spots or series
    table: pd.DataFrame  # as metrics.joined makes it, with fold; of series also Modality and plane
    dealt: int  # number of folds, evaluated or not
    left_out: int  # series of the evaluated folds without a prediction: they could not be read

    @property
    def folds(self) -> list[int]:
        return sorted(map(int, self.table.fold.unique()))

    @property
    def series(self) -> int:
        return int(self.table[UID].nunique())

    @property
    def positives(self) -> int:
        return int(self.table[LABELS[PRESENT]].sum())

    def of_fold(self, fold: int) -> pd.DataFrame:
        return self.table[self.table.fold == fold]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and probabilities (N, 14)."""
        return metrics.label_arrays(self.table)


def read_evaluations(data: DataFolder, model_dir: Path, encoder: str) -> dict[str, Pooled]:
    """Return the evaluations with predictions; raise UserError if none of them is of series."""
    found = {}
    series = read_folds(data)
    fold_of = series.set_index(UID).fold
    for evaluation, name in (("stage2", "stage 2"), ("end_to_end", "end to end")):
        predictions = _read_predictions(evaluation, [UID], fold_of, model_dir, encoder)
        if len(predictions):
            expected = series[fold_of[series[UID]].isin(fold_of[predictions[UID]]).to_numpy()]
            # A series that could not be read has no prediction.
            truth = expected[expected[UID].isin(predictions[UID])]
            table = _joined(truth[[UID, "Modality", "plane", *LABELS]], predictions, [UID], fold_of)
            left_out = len(expected) - len(truth)
            found[evaluation] = Pooled(name, "series", table, fold_of.nunique(), left_out)
    if not found:
        raise UserError(
            f"{EncoderFolder(model_dir, encoder).root} holds no predictions of series: "
            "run eval_stage2.py or eval_end_to_end.py of a fold first"
        )
    keys = [UID, "slice"]
    predictions = _read_predictions("stage1", keys, fold_of, model_dir, encoder)
    if len(predictions):
        truth = _spot_truth(data, fold_of[predictions[UID]].unique())
        table = _joined(truth, predictions, keys, fold_of)
        found = {"stage1": Pooled("stage 1", "spots", table, fold_of.nunique(), 0)} | found
    return found


def _read_predictions(
    evaluation: str, keys: list[str], fold_of: pd.Series, model_dir: Path, encoder: str
) -> pd.DataFrame:
    """Return each fold's predictions by its own evaluation, else its part of those of --fold all.

    Raises ArtifactError if a file holds series of other folds.
    """
    columns = [*keys, *LABELS]
    tables = [pd.DataFrame(columns=columns)]
    for fold in sorted(fold_of.unique()):
        held_out = fold_of.index[fold_of == fold]
        for name, expected in ((fold, held_out), ("all", fold_of.index)):
            path = RunFolder(model_dir, encoder, name).predictions(evaluation)
            table = read_table(path, columns)[columns] if path.exists() else tables[0]
            strangers = set(table[UID]) - set(expected)
            if strangers:
                raise ArtifactError(
                    f"{path} holds series {min(strangers)}, which is not of fold {name}: "
                    "the folds have changed, train and evaluate again"
                )
            table = table[table[UID].isin(held_out)]
            if len(table):
                tables.append(table)
                break
    return pd.concat(tables[1:] or tables)


def _joined(
    truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str], fold_of: pd.Series
) -> pd.DataFrame:
    """Join by `keys`; sorted as --fold all of the eval scripts, so that the draws are the same."""
    table = metrics.joined(truth, predictions, keys)
    table["fold"] = table[UID].map(fold_of)
    return table.sort_values(UID, kind="stable", ignore_index=True)


def _spot_truth(data: DataFolder, folds: np.ndarray) -> pd.DataFrame:
    """Return the rows that eval_stage1.py judges, with their labels."""
    spots, labels = read_spots(data), read_pickle(data.labels)
    rows = pd.concat([held_out_rows(spots, fold) for fold in folds], ignore_index=True)
    places = zip(rows[UID], rows.f.astype(int), strict=True)
    windows = [window_labels(labels[uid], slice_, 1) for uid, slice_ in places]
    truth = pd.DataFrame(np.reshape(windows, (-1, len(LABELS))), columns=list(LABELS))
    return truth.assign(**{UID: rows[UID], "slice": rows.f.astype(int)})


def read_histories(
    model_dir: Path, encoder: str, folds: list[int]
) -> dict[str, dict[int, list[dict]]]:
    """Return {stage: {fold: one dict an epoch}} of the training logs that exist."""
    histories = {"stage1": {}, "stage2": {}}
    for stage, history in histories.items():
        for fold in folds:
            path = RunFolder(model_dir, encoder, fold).metrics(stage)
            if path.exists():
                history[fold] = read_json_lines(path)
    return histories


def best_epoch(rows: list[dict]) -> int | None:
    """Return the kept epoch, the first with the highest held-out score; None if none was scored."""
    scored = [row for row in rows if row["scores"]]
    best = max(scored, key=lambda row: row["scores"]["score"], default={"epoch": None})
    return best["epoch"]
