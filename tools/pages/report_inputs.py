"""What tools/report.py reads: predictions of all evaluated folds with labels, and training logs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.files import read_json, read_json_lines, read_pickle
from src.artifacts.paths import ALL_DATA, ArtifactError, DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_folds, read_spots, read_table
from src.evaluation import metrics
from src.evaluation.resampling import patient_numbers
from src.labels import LABELS
from src.sampling.slices import step_counts
from src.sampling.spot_dataset import held_out_rows
from src.sampling.spots import window_labels, with_nan
from src.script import UserError
from tools.pages.report_weights import WeightsCheck

UID = "SeriesInstanceUID"
# Evaluation: its name on the page, what a row is, its key.
EVALUATIONS = {
    "stage1": ("stage 1", "spots", [UID, "slice"]),
    "stage2": ("stage 2", "series", [UID]),
    "end_to_end": ("end to end", "series", [UID]),
}
# What else is known of a series, for groups and for the list of errors.
ABOUT = [UID, "Modality", "plane", "patient_id", "PatientSex", "PatientAge", "length", "h", "w"]
ABOUT += ["orientation", "row_spacing", "column_spacing"]


@dataclass
class Pooled:
    """The predictions of one evaluation, each row by the network that never saw it."""

    name: str  # of the evaluation, on the page
    unit: str  # what a row is: spots or series
    table: pd.DataFrame  # of metrics.joined, fold, patient; of series also Modality and plane
    dealt: int  # number of folds, evaluated or not
    left_out: int  # series of the evaluated folds without a prediction: they could not be read

    @property
    def folds(self) -> list[int]:
        return sorted(map(int, self.table.fold.unique()))

    @property
    def series(self) -> int:
        return int(self.table[UID].nunique())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and probabilities (N, 14)."""
        return metrics.label_arrays(self.table)


def read_evaluations(
    data: DataFolder, model_dir: Path, encoder: str, check: WeightsCheck
) -> dict[str, Pooled]:
    """Return the evaluations with predictions; raise UserError if none of them is of series.

    check: learns which weights made them.
    """
    found = {}
    series = read_folds(data)
    fold_of = series.set_index(UID).fold
    for evaluation, (name, unit, keys) in EVALUATIONS.items():
        predictions = _read_predictions(evaluation, keys, fold_of, model_dir, encoder, check)
        if predictions.empty:
            continue
        folds = predictions[UID].map(fold_of).unique()
        left_out = 0
        if evaluation == "stage1":
            truth = _spot_truth(data, series, folds, model_dir, encoder)
        else:
            known = series.columns.intersection([*ABOUT, *LABELS])
            expected = series.loc[series.fold.isin(folds), known]
            truth = expected[expected[UID].isin(predictions[UID])]  # the others were not readable
            left_out = len(expected) - len(truth)
        table = metrics.joined(truth, predictions, keys)
        table["fold"] = table[UID].map(fold_of)
        # Sorted as --fold all of the eval scripts, so that the bootstrap draws are the same.
        table = table.sort_values(UID, kind="stable", ignore_index=True)
        table["patient"] = patient_numbers(table.get("patient_id", [""] * len(table)))
        found[evaluation] = Pooled(name, unit, table, fold_of.nunique(), left_out)
    if not found.keys() & {"stage2", "end_to_end"}:
        raise UserError(
            f"{EncoderFolder(model_dir, encoder).root} holds no predictions of series: "
            "run eval_stage2.py or eval_end_to_end.py of a fold first"
        )
    return found


def _read_predictions(
    evaluation: str,
    keys: list[str],
    fold_of: pd.Series,
    model_dir: Path,
    encoder: str,
    check: WeightsCheck,
) -> pd.DataFrame:
    """Return each fold's part of the predictions of --fold all or of its own, the newer of both.

    --fold all takes each fold's step and weight of stage 1 from the other folds.
    Raises ArtifactError if a file holds series of other folds.
    """
    columns = [*keys, *LABELS]
    tables = []
    for fold in sorted(fold_of.unique()):
        held_out = fold_of.index[fold_of == fold]
        written = []
        for name, expected in (("all", fold_of.index), (fold, held_out)):
            path = RunFolder(model_dir, encoder, name).predictions(evaluation)
            if path.exists():
                written.append((path, name, expected))
        written.sort(key=lambda each: each[0].stat().st_mtime_ns, reverse=True)
        for path, name, expected in written:
            table = read_table(path, columns)[columns]
            strangers = set(table[UID]) - set(expected)
            if strangers:
                raise ArtifactError(
                    f"{path} holds series {min(strangers)}, which is not of fold {name}: "
                    "the folds have changed, train and evaluate again"
                )
            table = table[table[UID].isin(held_out)]
            if len(table):
                tables.append(table)
                run = RunFolder(model_dir, encoder, fold)
                check.look(path, run, int(fold), f"eval_{evaluation}.py")
                break
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def _spot_truth(
    data: DataFolder, series: pd.DataFrame, folds: np.ndarray, model_dir: Path, encoder: str
) -> pd.DataFrame:
    """Return the rows that eval_stage1.py judges, with their labels."""
    spots, labels = read_spots(data), read_pickle(data.labels)
    spacing = series.set_index(UID).reindex(columns=["slice_spacing"]).slice_spacing
    tables = []
    for fold in folds:
        rows = held_out_rows(spots, fold)
        table = pd.DataFrame({UID: rows[UID], "slice": rows.f.astype(int)})
        step_mm = _step_mm(RunFolder(model_dir, encoder, fold))
        windows = []
        for uid, slice_ in table.to_numpy():
            step, _ = step_counts(step_mm, spacing[uid])
            windows.append(window_labels(labels[uid], slice_, step))
        known = with_nan(np.array(windows))
        tables.append(table.join(pd.DataFrame(known, columns=list(LABELS), index=table.index)))
    return pd.concat(tables, ignore_index=True)


def _step_mm(run: RunFolder) -> tuple[float, float]:
    """Return the mm to the neighbours that stage 1 was trained with; 0 as published."""
    path = run.settings("stage1")
    settings = read_json(path) if path.exists() else {}
    first, second = settings.get("step_mm", (0.0, 0.0))
    return first, second


def read_histories(
    model_dir: Path, encoder: str, folds: list[int]
) -> dict[str, dict[int | str, list[dict]]]:
    """Return {stage: {fold: one dict an epoch}} of the training logs that exist.

    The fold of --train-on-all is ALL_DATA.
    """
    histories = {"stage1": {}, "stage2": {}}
    for stage, history in histories.items():
        for fold in (*folds, ALL_DATA):
            path = RunFolder(model_dir, encoder, fold).metrics(stage)
            if path.exists():
                history[fold] = read_json_lines(path)
    return histories


def best_epoch(rows: list[dict]) -> int | None:
    """Return the kept epoch, the first with the highest held-out score; None if none was scored."""
    scored = [row for row in rows if row["scores"]]
    best = max(scored, key=lambda row: row["scores"]["score"], default={"epoch": None})
    return best["epoch"]
