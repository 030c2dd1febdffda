"""The challenge's score: half the AUC of `Aneurysm Present`, half the mean of the 13 location AUCs; and its table."""

import warnings

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


def intervals(truth: np.ndarray, probabilities: np.ndarray, draws: int, seed: int = 0) -> dict:
    """95 % bootstrap intervals of `weighted_score`, in its form: the 2.5th and 97.5th percentile over draws of as many rows with replacement
    (Efron 1979). A location without both classes in a draw is left out of that draw. Both arrays (N, 14)."""
    length = len(truth)
    counts = np.random.default_rng(seed).multinomial(length, np.full(length, 1 / length), size=draws).astype(np.float64)  # (draws, N)
    drawn = np.stack([weighted_auc(truth[:, k], probabilities[:, k], counts) for k in range(len(LABELS))], axis=1)  # (draws, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any number is a label without an interval
        score = PRESENT_WEIGHT * drawn[:, PRESENT] + (1 - PRESENT_WEIGHT) * np.nanmean(drawn[:, :PRESENT], axis=1)
        ends = np.nanpercentile(np.column_stack([drawn, score]), (2.5, 97.5), axis=0).T  # (15, 2)
    listed = [None if np.isnan(pair).any() else pair.tolist() for pair in ends]
    return {"score": listed[-1], "present": listed[PRESENT], "locations": dict(zip(LOCATIONS, listed, strict=False))}


def weighted_auc(truth: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`auc` of samples in which row i occurs counts[:, i] times: (draws,), NaN where a class is missing. truth, scores: (N,); counts: (draws, N)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of runs of equal scores
    positive = truth[order].astype(bool)
    ordered = counts[:, order]
    positives, negatives = (np.add.reduceat(ordered * chosen, starts, axis=1) for chosen in (positive, ~positive))  # (draws, runs)
    won = (positives * (negatives.cumsum(axis=1) - negatives / 2)).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
