"""Score predictions of your own test set, without folds or training.

    python tools/score.py data/train.csv predictions/predictions.csv predictions
    python tools/score.py truth.csv mine.csv --against other.csv --out scores.json

Reads   TRUTH        csv: SeriesInstanceUID, the 14 labels (0, 1, or empty if unknown), and if
                     you have them PatientID, Modality, Plane, PatientSex, PatientAge
        PREDICTIONS  csv: SeriesInstanceUID and the 14 probabilities
        FINDINGS     optional: the folder of tools/predict.py, or a csv: SeriesInstanceUID,
                     probability, and x, y, z (mm in the patient: left, back, head), or
                     SOPInstanceUID, x, y (column, row of the stored image)
        LOCALIZERS   beside FINDINGS: csv of the aneurysms with places as in FINDINGS or as in
                     train_localizers.csv, and if you have them radius_mm or volume_mm3
        IGNORED      csv of treated aneurysms and the like: neither hit nor missed, and no finding
                     on them is false
        SERIES/{uid} DICOM files, only where a place is a pixel

Prints, and writes to --out as json: weighted score and AUCs with 95 % intervals by patient;
calibration; sensitivity and specificity at --thresholds; scores of groups; the paired difference
from --against; and the FROC: which fraction of the aneurysms is hit at a number of false findings a
case, where a hit is within 10 mm, or within the aneurysm's own radius, and by size.

docs/scoring.md says how each figure is made. Exit code 3 if a series had to be left out of the FROC
because its points have no place.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import write_json
from src.artifacts.paths import DataFolder
from src.evaluation import froc, scoring
from src.evaluation.resampling import patient_numbers
from src.labels import LABELS, PRESENT
from src.progress import progress
from src.script import OK, SOME_FAILED, UserError, run_script
from tools.scoring import cases, output, points, tables


def named(word: str) -> tuple:
    """Return what makes a field an argument without a flag, with this name in the help."""
    return tyro.conf.Positional, tyro.conf.arg(metavar=word)


@dataclass
class Config:
    truth: Annotated[Path, *named("TRUTH")]  # csv of labels
    predictions: Annotated[Path, *named("PREDICTIONS")]  # csv of probabilities
    findings: Annotated[Path | None, *named("[FINDINGS]")] = None  # folder or csv
    localizers: Path | None = None  # csv of aneurysms; else train_localizers.csv beside TRUTH
    ignored: Path | None = None  # csv of aneurysms; else train_ignored.csv beside TRUTH
    series: Path | None = None  # folder of DICOM folders; else series/ beside TRUTH
    patients: Path | None = None  # csv: SeriesInstanceUID, PatientID; else a column of TRUTH
    against: Path | None = None  # csv of other probabilities of the same series
    out: Path | None = None  # json for all figures
    only_predicted: bool = False  # leave out series of TRUTH without prediction, in either file

    thresholds: tuple[float, ...] = scoring.THRESHOLDS  # a probability from here on is positive
    rates: tuple[float, ...] = froc.RATES  # false findings a case
    sizes: tuple[float, ...] = cases.SIZES  # mm, diameters at which a new group begins
    ages: tuple[float, ...] = (40.0, 60.0)  # years at which a new group begins
    draws: int = 1000  # of the bootstrap


def main(config: Config) -> dict:
    check_settings(config)
    truth = tables.read_truth(config.truth)
    predictions = tables.read_probabilities(config.predictions)
    others = tables.read_probabilities(config.against) if config.against else predictions
    if config.only_predicted:
        predictions = predictions[predictions[tables.UID].isin(others[tables.UID])]
    table, probabilities = tables.joined(
        truth, predictions, config.only_predicted, config.predictions
    )
    _, other = tables.joined(table, others, False, config.against)
    table = tables.with_patients(table, config.patients)
    patients = patient_numbers(table[tables.PATIENT])
    found = cases_of(config, table) if config.findings else None

    parts = {
        "scores": lambda: series_figures(config, table, probabilities, patients),
        "groups": lambda: group_figures(config, table, probabilities, patients, found),
    }
    if config.against:
        labels = table[list(LABELS)].to_numpy(np.float64)
        arrays = labels, probabilities, other, patients
        parts["against"] = lambda: scoring.differences(*arrays, config.draws)
    if found:
        settings = config.draws, config.rates, config.sizes
        parts["froc"] = lambda: cases.froc_figures(found, patients, *settings)
    made = {name: make() for name, make in progress(parts.items(), "scores", " tables")}
    figures = counts_of(truth, predictions, table, patients) | made.pop("scores") | made
    if config.out:
        write_json(config.out, figures)
    print(output.text(figures))
    return figures


def check_settings(config: Config) -> None:
    """Raise UserError for the first flag that makes no sense."""
    if config.draws < 1:
        raise UserError("--draws must be at least 1")
    if not all(0 <= threshold <= 1 for threshold in config.thresholds):
        raise UserError("--thresholds must be from 0 to 1: they are probabilities")
    if not config.rates or not all(rate > 0 for rate in config.rates):
        raise UserError("--rates must be above 0, at least one: they are false findings a case")
    for name in ("sizes", "ages"):
        limits = getattr(config, name)
        if list(limits) != sorted(set(limits)):
            raise UserError(f"--{name} must rise: each is where the next group begins")


def counts_of(
    truth: pd.DataFrame, predictions: pd.DataFrame, table: pd.DataFrame, patients: np.ndarray
) -> dict:
    """Return how many series there are, and how many of each file are not scored."""
    return {
        "n_series": len(table),
        "n_patients": int(patients.max()) + 1,
        "patients_known": bool(table[tables.PATIENT].any()),
        "truth_not_scored": len(truth) - len(table),
        "predictions_not_scored": len(predictions) - len(table),
    }


def series_figures(
    config: Config, table: pd.DataFrame, probabilities: np.ndarray, patients: np.ndarray
) -> dict:
    """Return scores, calibration, sensitivities and specificities of the series."""
    truth = table[list(LABELS)].to_numpy(np.float64)
    figures = scoring.scores_of(truth, probabilities, patients, config.draws)
    rows = {"labels": {}, "calibration": {}, "thresholds": {}}
    for k, label in enumerate(LABELS):
        column = truth[:, k], probabilities[:, k]
        values, counts = np.unique(column[0], return_counts=True)
        known = dict(zip(values.tolist(), counts.tolist(), strict=True))
        rows["labels"][label] = {"positive": known.get(1.0, 0), "negative": known.get(0.0, 0)}
        rows["calibration"][label] = scoring.calibration_of(*column)
        rows["thresholds"][label] = [
            scoring.at_threshold(*column, threshold, patients) for threshold in config.thresholds
        ]
    together = scoring.calibration_of(truth[:, :PRESENT], probabilities[:, :PRESENT])
    rows["calibration"][output.TOGETHER] = together
    return figures | rows


def group_figures(
    config: Config,
    table: pd.DataFrame,
    probabilities: np.ndarray,
    patients: np.ndarray,
    found: cases.Cases | None,
) -> dict[str, dict]:
    """Return the scores of the series of each modality, plane, sex and age, and their FROC."""
    judged = found.judged(patients) if found else None
    truth = table[list(LABELS)].to_numpy(np.float64)
    groups = {}
    for column in tables.GROUPS:
        for name, rows in tables.groups_of(table, column, config.ages).items():
            own = pd.factorize(patients[rows])[0]
            scores = scoring.scores_of(truth[rows], probabilities[rows], own, config.draws)
            scores["n_series"] = int(rows.sum())
            scores["positive"] = int((truth[rows, PRESENT] == 1).sum())
            if found:
                part = judged.of_cases(rows[found.rows])
                scores["froc"] = froc.froc(part, config.draws, config.rates)
            groups.setdefault(column, {})[name] = scores
    return groups


def cases_of(config: Config, table: pd.DataFrame) -> cases.Cases:
    """Return the findings and aneurysms of the scored series."""
    beside = DataFolder(config.truth.parent)
    localizers = config.localizers or beside.localizers
    if not localizers.exists():
        raise UserError(f"{localizers} is missing: name the csv of the aneurysms: --localizers")
    root = config.series or beside.root / "series"
    findings = points.read_findings(config.findings, table[tables.UID].tolist())
    if config.ignored and not config.ignored.exists():
        raise UserError(f"{config.ignored} is missing: check --ignored")
    aneurysms = points.with_ignored(
        points.read_aneurysms(localizers), config.ignored or beside.ignored
    )
    return cases.make_cases(table, findings, aneurysms, root)


if __name__ == "__main__":
    figures = run_script(main, Config, __doc__, interrupted="run it again")
    failed = set(figures.get("froc", {}).get("left_out", {})) - {cases.NO_POINT}
    sys.exit(SOME_FAILED if failed else OK)
