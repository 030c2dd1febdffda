"""The challenge's score: half the AUC of `Aneurysm Present`, half the mean of the 13 location AUCs; and its table."""

import numpy as np
import pandas as pd

from src.labels import LABELS, LOCATIONS, PRESENT, PRESENT_WEIGHT
from src.runtime import UserError


class MetricError(UserError):
    """The score is not defined on these labels or predictions."""


def auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve from average ranks (Mann-Whitney U); None where a class is missing. Both (N,)."""
    positive = truth.astype(bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    ranks = pd.Series(scores, dtype=np.float64).rank().to_numpy()
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def weighted_score(truth: np.ndarray, probabilities: np.ndarray) -> dict:
    """{"score", "present", "locations": {label: auc or None}}; both arrays (N, 14).

    A location without both classes is left out of the mean. Raises MetricError where a probability is not finite, and where
    presence, or every location, lacks a class.
    """
    broken = ~np.isfinite(probabilities).all(axis=1)
    if broken.any():
        raise MetricError(f"{int(broken.sum())} of {len(broken)} predictions are not finite, the first in row {int(np.argmax(broken))}")
    present = auc(truth[:, PRESENT], probabilities[:, PRESENT])
    locations = {label: auc(truth[:, k], probabilities[:, k]) for k, label in enumerate(LOCATIONS)}
    known = [value for value in locations.values() if value is not None]
    if present is None or not known:
        raise MetricError(f"no score from {len(truth)} rows: presence and at least one location need both classes; take larger folds")
    score = PRESENT_WEIGHT * present + (1 - PRESENT_WEIGHT) * float(np.mean(known))
    return {"score": score, "present": present, "locations": locations}


def mean_location(scores: dict) -> float:
    """Mean of the location AUCs that are defined."""
    return float(np.mean([value for value in scores["locations"].values() if value is not None]))


def join_by_uid(truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities (N, 14) of the same rows, joined by `keys`, never by position.

    A duplicate, a row without its partner, or a prediction that is not finite raises MetricError with the UID.
    """
    for table, name in ((truth, "labels"), (predictions, "predictions")):
        repeated = table.duplicated(keys)
        if repeated.any():
            raise MetricError(f"the {name} hold {table[repeated].iloc[0][keys[0]]} twice")
    both = truth.merge(predictions, on=keys, how="outer", suffixes=("", " predicted"), indicator=True)
    alone = both[both["_merge"] != "both"]
    if len(alone):
        raise MetricError(f"{len(alone)} rows have labels or predictions but not both, the first is {alone.iloc[0][keys[0]]}")
    probabilities = both[[f"{label} predicted" for label in LABELS]].to_numpy(np.float64)
    broken = ~np.isfinite(probabilities).all(axis=1)
    if broken.any():
        raise MetricError(f"the prediction of {both[broken].iloc[0][keys[0]]} is not finite")
    return both[list(LABELS)].to_numpy(np.int64), probabilities


def score_table(scores: dict, title: str) -> str:
    """The 14 AUCs and the weighted score, as text for a terminal."""
    width = max(len(label) for label in LABELS)
    lines = [title, "-" * (width + 8)]
    for label, value in (*scores["locations"].items(), (LABELS[PRESENT], scores["present"])):
        lines.append(f"{label:<{width}}  {'   n/a' if value is None else f'{value:6.3f}'}")
    lines += ["-" * (width + 8), f"{'weighted score':<{width}}  {scores['score']:6.3f}"]
    return "\n".join(lines)
