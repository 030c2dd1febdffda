"""Scores of series whose labels may be unknown, with intervals by patient.

Labels are float64, NaN where unknown: each label is scored on the rows where it is known.
"""

import warnings

import numpy as np

from src.evaluation import calibration
from src.evaluation.metrics import score_of, weighted_auc
from src.evaluation.resampling import auc_interval, fraction_interval, patient_counts
from src.labels import LABELS, LOCATIONS, PRESENT, PRESENT_WEIGHT

THRESHOLDS = (0.1, 0.25, 0.5)  # that nobody chose on the series that are scored
FEWEST = 5  # patients of either class from which the bootstrap of an AUC means something
MEAN, SCORE = len(LABELS), len(LABELS) + 1  # columns of `drawn_scores`, behind the labels


def drawn_scores(truth: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the AUC of each label, the mean of the locations, the weighted score: (draws, 16).

    NaN where a class is missing; such a location is left out of the mean.
    truth, probabilities: (N, 14). counts: (draws, N), how often each row occurs.
    """
    scores = np.full((len(counts), len(LABELS) + 2), np.nan)
    for k in range(len(LABELS)):
        scores[:, k] = weighted_auc(truth[:, k], probabilities[:, k], counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any location
        scores[:, MEAN] = np.nanmean(scores[:, :PRESENT], axis=1)
    halves = {"present": scores[:, PRESENT], "locations": scores[:, MEAN]}
    weighted = PRESENT_WEIGHT * halves["present"] + (1 - PRESENT_WEIGHT) * halves["locations"]
    scores[:, SCORE] = halves.get(score_of(truth), weighted)
    return scores


def scores_of(
    truth: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, draws: int
) -> dict:
    """Return {"score", "present", "mean_location", "locations": {label: auc}, "intervals"}.

    What is not defined is None; "score_of" says which half the score is, if it is one alone.
    truth, probabilities: (N, 14). patients: (N,) numbers.
    """
    once = drawn_scores(truth, probabilities, np.ones((1, len(truth))))[0]
    ends = intervals(truth, probabilities, patients, draws)
    half = {} if score_of(truth) == "both" else {"score_of": score_of(truth)}
    return _named([_number(value) for value in once]) | half | {"intervals": ends}


def intervals(
    truth: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, draws: int, seed: int = 0
) -> dict:
    """Return 95 % bootstrap intervals in the form of `scores_of`: percentiles over patients drawn.

    A label with fewer than FEWEST patients of either class, or with all or no pairs in order, has
    `auc_interval` instead: the bootstrap would say that nothing else can happen. For the same
    reason, ends that are equal are None, and with few patients so is the weighted score.
    """
    once = drawn_scores(truth, probabilities, np.ones((1, len(truth))))[0]
    ends = _ends(drawn_scores(truth, probabilities, patient_counts(patients, draws, seed)))
    for k, area in enumerate(once[: len(LABELS)]):
        counts = class_patients(truth[:, k], patients)
        if min(counts) and (min(counts) < FEWEST or area in (0, 1)):
            ends[k] = auc_interval(area, *counts)
    if score_of(truth) == "present":
        ends[SCORE] = ends[PRESENT]
    elif score_of(truth) == "both" and min(class_patients(truth[:, PRESENT], patients)) < FEWEST:
        ends[SCORE] = None
    return _named([pair if pair and pair[0] < pair[1] else None for pair in ends])


def class_patients(labels: np.ndarray, patients: np.ndarray) -> list[int]:
    """Return how many patients have a positive row, and how many a negative one. Both (N,)."""
    return [len(np.unique(patients[labels == value])) for value in (1, 0)]


def differences(
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray,
    draws: int,
    seed: int = 0,
) -> dict:
    """Return the scores of `first` less those of `second`, and their paired 95 % intervals.

    Both are scored on the same drawn patients. The form is that of `scores_of`; no interval for a
    label with fewer than FEWEST patients of either class.
    truth, first, second: (N, 14). patients: (N,) numbers.
    """
    once = np.ones((1, len(truth)))
    counts = patient_counts(patients, draws, seed)
    ours, theirs = (drawn_scores(truth, each, once)[0] for each in (first, second))
    drawn = drawn_scores(truth, first, counts) - drawn_scores(truth, second, counts)
    ends = _ends(drawn)
    for k in range(len(LABELS)):
        if min(class_patients(truth[:, k], patients)) < FEWEST:
            ends[k] = None
    found = _named([_number(value) for value in ours - theirs])
    return found | {"intervals": _named(ends)}


def at_threshold(
    truth: np.ndarray, probabilities: np.ndarray, threshold: float, patients: np.ndarray
) -> dict:
    """Return sensitivity and specificity of one label, with intervals and how many rows they have.

    A probability that equals the threshold is positive. All arrays (N,); unknown labels are left
    out.
    """
    found = {"threshold": threshold}
    called = probabilities >= threshold
    for name, rows_name, value in (
        ("sensitivity", "positives", 1),
        ("specificity", "negatives", 0),
    ):
        rows = truth == value
        right = called[rows] == bool(value)
        found[rows_name] = int(rows.sum())
        found[name] = float(right.mean()) if rows.any() else None
        found[f"{name}_interval"] = fraction_interval(right, patients[rows])
    return found


def calibration_of(truth: np.ndarray, probabilities: np.ndarray) -> dict | None:
    """Return how well probabilities mean what they say; None without a known label.

    Both arrays have any shape; unknown labels are left out. The curve has a row a bin: mean
    probability, fraction of positives, its Wilson interval's ends, number of rows.
    """
    known = ~np.isnan(truth)
    if not known.any():
        return None
    labels, given = truth[known], probabilities[known]
    predicted, observed, counts = calibration.reliability(labels, given)
    low, high = calibration.wilson(observed, counts)
    return {
        "rows": len(labels),
        "positives": int(labels.sum()),
        "brier": float(np.mean((given - labels) ** 2)),
        "log_loss": calibration.log_loss(labels, calibration.logit(given)),
        "error": calibration.calibration_error(labels, given),
        "error_by_chance": calibration.chance_error(given),
        "curve": np.column_stack([predicted, observed, low, high, counts]).tolist(),
    }


def _ends(drawn: np.ndarray) -> list[list[float] | None]:
    """Return the ends of the middle 95 % of each column of (draws, 16); None if all are NaN."""
    ends: list[list[float] | None] = []
    for column in drawn.T:
        defined = column[~np.isnan(column)]
        ends.append(np.percentile(defined, (2.5, 97.5)).tolist() if len(defined) else None)
    return ends


def _named(values: list) -> dict:
    """Give the 16 columns of `drawn_scores` their names."""
    found = {"score": values[SCORE], "present": values[PRESENT], "mean_location": values[MEAN]}
    return found | {"locations": dict(zip(LOCATIONS, values, strict=False))}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
