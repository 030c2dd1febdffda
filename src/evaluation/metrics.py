"""The challenge's score: half the AUC of presence, half the mean AUC of the locations."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from src.labels import LABELS, LOCATIONS, PRESENT, PRESENT_WEIGHT
from src.script import UserError


class MetricError(UserError):
    """The score is not defined on these labels or predictions."""


def auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the area under the ROC curve of the known rows, None if a class is missing.

    truth, scores: (N,); a truth of NaN is unknown.
    """
    area = float(weighted_auc(truth, scores, np.ones((1, len(truth))))[0])
    return None if np.isnan(area) else area


def weighted_score(truth: np.ndarray, probabilities: np.ndarray) -> dict:
    """Return {"score", "present", "locations": {label: auc or None}}. Both arrays (N, 14).

    A location without both classes is left out of the mean. Labels may be NaN, unknown: where that
    leaves no location, or no presence, the score is the other half alone, and `score_of` says so.
    Raise MetricError if a probability is not finite, or if presence or every location lacks a class
    although all its labels are known, or both halves do.
    """
    broken = ~np.isfinite(probabilities).all(axis=1)
    if broken.any():
        raise MetricError(
            f"{int(broken.sum())} of {len(broken)} predictions are not finite, "
            f"the first in row {int(np.argmax(broken))}"
        )
    present = auc(truth[:, PRESENT], probabilities[:, PRESENT])
    locations = {label: auc(truth[:, k], probabilities[:, k]) for k, label in enumerate(LOCATIONS)}
    found = {"present": present, "locations": locations}
    half = {"present": present, "locations": _mean(locations.values())}
    left = score_of(truth)
    if left == "both" and None in half.values():
        raise MetricError(
            f"no score from {len(truth)} rows: presence and at least one location "
            "need both classes; take larger folds"
        )
    if left != "both":
        return {"score": half[left], **found, "score_of": left}
    score = PRESENT_WEIGHT * present + (1 - PRESENT_WEIGHT) * half["locations"]
    return {"score": score, **found}


def score_of(truth: np.ndarray) -> str:
    """Return what the weighted score is made of: "both" halves, "present" or "locations".

    One half alone counts where unknown labels leave the other without both classes. truth: (N, 14).
    """
    both_classes = (truth == 0).any(axis=0) & (truth == 1).any(axis=0)  # (14,)
    unknown = np.isnan(truth).any(axis=0)
    present, locations = both_classes[PRESENT], both_classes[:PRESENT].any()
    if present and not locations and unknown[:PRESENT].any():
        return "present"
    if locations and not present and unknown[PRESENT]:
        return "locations"
    return "both"


def mean_location(scores: dict) -> float | None:
    """Return the mean of the location AUCs that are defined, None if none is."""
    return _mean(scores["locations"].values())


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def join_by_uid(
    truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities (N, 14) of the same rows; raise what `joined` raises."""
    return label_arrays(joined(truth, predictions, keys))


def joined(truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the rows of `truth`, with their 14 predictions as further columns.

    Rows are joined by `keys`, never by position. Raise MetricError with the UID for a duplicate,
    a row without its partner, or a prediction that is not finite.
    """
    for table, name in ((truth, "labels"), (predictions, "predictions")):
        repeated = table.duplicated(keys)
        if repeated.any():
            raise MetricError(f"the {name} hold {table[repeated].iloc[0][keys[0]]} twice")
    suffixes = ("", " predicted")
    both = truth.merge(predictions, how="outer", on=keys, suffixes=suffixes, indicator=True)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        raise MetricError(
            f"{len(alone)} rows have labels or predictions but not both, "
            f"the first is {alone.iloc[0][keys[0]]}"
        )
    broken = ~np.isfinite(label_arrays(both)[1]).all(axis=1)
    if broken.any():
        raise MetricError(f"the prediction of {both[broken].iloc[0][keys[0]]} is not finite")
    return both.drop(columns="_merge")


def label_arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and probabilities float64, both (N, 14), of a table from `joined`.

    The labels are int64, or float64 where one is NaN.
    """
    predicted = [f"{label} predicted" for label in LABELS]
    labels = table[list(LABELS)].to_numpy(np.float64)
    labels = labels if np.isnan(labels).any() else labels.astype(np.int64)
    return labels, table[predicted].to_numpy(np.float64)


def known_counts(labels: np.ndarray) -> dict:
    """Return {"n_known": {label: rows}} of labels (N, 14), {} if none is NaN."""
    known = (~np.isnan(labels)).sum(axis=0).tolist()
    return {"n_known": dict(zip(LABELS, known, strict=True))} if min(known) < len(labels) else {}


def drawn_counts(length: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each row occurs in each bootstrap sample: (draws, length) float64."""
    fractions = np.full(length, 1 / length)
    return np.random.default_rng(seed).multinomial(length, fractions, draws).astype(np.float64)


def weighted_auc(truth: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return `auc` of samples with row i counts[:, i] times: (draws,), NaN if a class is missing.

    truth, scores: (N,); counts: (draws, N).
    """
    false, true = _weighted_roc(truth, scores, counts)
    with np.errstate(invalid="ignore"):
        # In counts instead of rates the area is exact: a sum of multiples of one half.
        return np.trapezoid(true, false) / (false[:, -1] * true[:, -1])


def roc_points(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the false and true positive rates of K distinct scores as thresholds: both (K + 1,).

    They rise from (0, 0); NaN if a class is missing (Fawcett 2006). truth, scores: (N,).
    """
    false, true = _weighted_roc(truth, scores, np.ones((1, len(truth))))
    with np.errstate(invalid="ignore"):
        return false[0] / false[0, -1], true[0] / true[0, -1]


def roc_band(
    truth: np.ndarray, scores: np.ndarray, grid: np.ndarray, draws: int, seed: int = 0
) -> np.ndarray:
    """Return the 95 % bootstrap band of the true positive rate at false positive rates: (2, G).

    grid: (G,) false positive rates ("vertical averaging", Fawcett 2006). Draws without both
    classes are left out; NaN if there are no others.
    """
    false, true = _weighted_roc(truth, scores, drawn_counts(len(truth), draws, seed))
    defined = false[:, -1] * true[:, -1] > 0
    if not defined.any():
        return np.full((2, len(grid)), np.nan)
    false, true = false[defined] / false[defined, -1:], true[defined] / true[defined, -1:]
    rates = [np.interp(grid, x, y) for x, y in zip(false, true, strict=True)]
    return np.percentile(rates, (2.5, 97.5), axis=0)


def _weighted_roc(
    truth: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many negatives and positives reach each threshold: both (draws, K + 1).

    The highest threshold comes first; rows of equal score reach it together. Row i occurs
    counts[:, i] times, never where its truth is NaN.
    """
    known = ~np.isnan(truth)
    if not known.all():
        truth, scores, counts = truth[known], scores[known], counts[:, known]
    if not len(truth):
        return np.zeros((len(counts), 1)), np.zeros((len(counts), 1))
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))  # of runs of equal scores
    positives = counts[:, order] * (truth[order] != 0)  # (draws, N)
    negatives = counts[:, order] - positives
    reached = []
    for chosen in (negatives, positives):
        totals = np.add.reduceat(chosen, starts, axis=1).cumsum(axis=1)  # (draws, K)
        reached.append(np.pad(totals, ((0, 0), (1, 0))))
    return reached[0], reached[1]
