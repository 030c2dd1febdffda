"""Made-up folds, spots, labels and predictions, as the scripts leave them for tools/report.py."""

import json

import numpy as np
import pandas as pd

from src.artifacts.files import append_line, read_pickle, write_pickle
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_spots, write_table
from src.evaluation import calibration, scoring
from src.evaluation.metrics import drawn_counts
from src.labels import LABELS, NOTHING, PRESENT
from tools.pages.report_inputs import UID
from tools.report import Config

SERIES, LENGTH = 120, 12


def make_tables(data: DataFolder) -> pd.DataFrame:
    """Three folds. Coronal series all have an aneurysm; the first location occurs 4 times."""
    generator = np.random.default_rng(0)
    labels = (generator.random((SERIES, len(LABELS))) < 0.2).astype(int)
    labels[:, 0] = np.isin(np.arange(SERIES), (0, 3, 4, 5))
    labels[:, PRESENT] = generator.random(SERIES) < 0.5
    labels[:10, PRESENT] = 1
    series = pd.DataFrame(labels, columns=list(LABELS))
    series.insert(0, UID, [f"1.{k}" for k in range(SERIES)])
    series["fold"] = np.arange(SERIES) % 3
    series["length"] = LENGTH
    series["Modality"] = ["CTA", "MRA"] * (SERIES // 2)
    series["PatientSex"] = ["F", "F", None] * (SERIES // 3)
    series["PatientAge"] = [35, 40, 59.0, 70] * (SERIES // 4)
    series["plane"] = ["coronal"] * 10 + ["axial"] * (SERIES - 10)
    write_table(data.folds(3), series)

    spots = series[[UID, "fold", "length"]].assign(location=NOTHING, class_id=PRESENT)
    spots = spots.assign(f=generator.integers(-1, LENGTH, SERIES), x_512=0.0, y_512=0.0)
    write_table(data.spots(3), spots)
    slices = generator.random((SERIES, LENGTH, len(LABELS))) < 0.2
    write_pickle(data.labels, dict(zip(series[UID], slices.astype(np.uint8), strict=True)))
    return series


def write_predictions(run: RunFolder, evaluation: str, truth: pd.DataFrame, seed: int) -> None:
    """Write probabilities that know a little about the labels, in another order than these."""
    generator = np.random.default_rng(seed)
    table = truth.copy()
    logits = generator.normal(1.5 * truth[list(LABELS)] - 1.5, 1)
    table[list(LABELS)] = calibration.sigmoid(logits)
    write_table(run.predictions(evaluation), table.sample(frac=1, random_state=seed))


def evaluate(config: Config, series: pd.DataFrame, fold, evaluations=("stage2", "end_to_end")):
    """Write what training and the eval scripts leave of a fold."""
    held_out = series if fold == "all" else series[series.fold == fold]
    run = RunFolder(config.model_dir, config.encoder, fold)
    for evaluation in evaluations:
        seed = 7 if fold == "all" else fold
        write_predictions(run, evaluation, held_out[[UID, *LABELS]], seed)
    for stage in ("stage1", "stage2"):
        for epoch in (1, 2, 3):
            scores = None if epoch == 1 else {"score": 0.9 - epoch / 10, "present": 0.5}
            row = json.dumps({"epoch": epoch, "loss": 1 / epoch, "scores": scores})
            append_line(run.metrics(stage), row)


def evaluate_spots(config: Config, fold: int) -> pd.DataFrame:
    """Write predictions_stage1.csv of a fold; return its true labels by the slow definition."""
    data = DataFolder(config.data_dir)
    spots, labels, rows = read_spots(data), read_pickle(data.labels), []
    for row in spots[(spots.fold == fold) & (spots.f >= 0)].itertuples():
        near = [k for k in (row.f - 1, row.f, row.f + 1) if 0 <= k < LENGTH]
        found = labels[row.SeriesInstanceUID][near].any(axis=0).astype(int)
        rows.append([row.SeriesInstanceUID, row.f, *found])
    truth = pd.DataFrame(rows, columns=[UID, "slice", *LABELS])
    write_predictions(RunFolder(config.model_dir, config.encoder, fold), "stage1", truth, fold)
    return truth


def percentiles(truth, probabilities, draws, seed=0):
    """Return the bootstrap's percentiles over rows, as `scoring.intervals` has them of patients.

    Without what replaces them where patients are few.
    """
    counts = drawn_counts(len(truth), draws, seed)
    return scoring._named(scoring._ends(scoring.drawn_scores(truth, probabilities, counts)))
