"""The challenge's score: half the AUC of `Aneurysm Present`, half the mean of the 13 location AUCs; and its table."""

import warnings

import numpy as np
import pandas as pd

from src.labels import LABELS, LOCATIONS, PRESENT, PRESENT_WEIGHT
from src.script import UserError


class MetricError(UserError):
    """The score is not defined on these labels or predictions."""


def auc(truth: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve from average ranks (Mann-Whitney U); None where a class is missing. Both (N,)."""
    positive = truth.astype(bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    ranks = pd.Series(scores, dtype=np.float64).rank().to_numpy()
    return float(
        (ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    )


def weighted_score(truth: np.ndarray, probabilities: np.ndarray) -> dict:
    """{"score", "present", "locations": {label: auc or None}}; both arrays (N, 14).

    A location without both classes is left out of the mean. Raises MetricError where a probability is not finite, and where
    presence, or every location, lacks a class.
    """
    broken = ~np.isfinite(probabilities).all(axis=1)
    if broken.any():
        raise MetricError(
            f"{int(broken.sum())} of {len(broken)} predictions are not finite, the first in row {int(np.argmax(broken))}"
        )
    present = auc(truth[:, PRESENT], probabilities[:, PRESENT])
    locations = {label: auc(truth[:, k], probabilities[:, k]) for k, label in enumerate(LOCATIONS)}
    known = [value for value in locations.values() if value is not None]
    if present is None or not known:
        raise MetricError(
            f"no score from {len(truth)} rows: presence and at least one location need both classes; take larger folds"
        )
    score = PRESENT_WEIGHT * present + (1 - PRESENT_WEIGHT) * float(np.mean(known))
    return {"score": score, "present": present, "locations": locations}


def mean_location(scores: dict) -> float:
    """Mean of the location AUCs that are defined."""
    return float(np.mean([value for value in scores["locations"].values() if value is not None]))


def join_by_uid(
    truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities (N, 14) of the same rows, joined by `keys`, never by position. Raises what `joined` raises."""
    return label_arrays(joined(truth, predictions, keys))


def joined(truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows of `truth` with all their columns, and their predictions as 14 columns more.

    A duplicate, a row without its partner, or a prediction that is not finite raises MetricError with the UID.
    """
    for table, name in ((truth, "labels"), (predictions, "predictions")):
        repeated = table.duplicated(keys)
        if repeated.any():
            raise MetricError(f"the {name} hold {table[repeated].iloc[0][keys[0]]} twice")
    both = truth.merge(
        predictions, on=keys, how="outer", suffixes=("", " predicted"), indicator=True
    )
    alone = both[both["_merge"] != "both"]
    if len(alone):
        raise MetricError(
            f"{len(alone)} rows have labels or predictions but not both, the first is {alone.iloc[0][keys[0]]}"
        )
    broken = ~np.isfinite(label_arrays(both)[1]).all(axis=1)
    if broken.any():
        raise MetricError(f"the prediction of {both[broken].iloc[0][keys[0]]} is not finite")
    return both.drop(columns="_merge")


def label_arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 and probabilities float64, both (N, 14), of a table that `joined` made."""
    return table[list(LABELS)].to_numpy(np.int64), table[
        [f"{label} predicted" for label in LABELS]
    ].to_numpy(np.float64)


def intervals(truth: np.ndarray, probabilities: np.ndarray, draws: int, seed: int = 0) -> dict:
    """95 % bootstrap intervals of `weighted_score`, in its form, and of `mean_location`: the 2.5th and 97.5th percentile over draws of as many rows
    with replacement (Efron 1979). A location without both classes in a draw is left out of that draw. Both arrays (N, 14)."""
    counts = drawn_counts(len(truth), draws, seed)  # (draws, N)
    drawn = np.stack(
        [weighted_auc(truth[:, k], probabilities[:, k], counts) for k in range(len(LABELS))], axis=1
    )  # (draws, 14)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # a column without any number is a label without an interval
        mean = np.nanmean(drawn[:, :PRESENT], axis=1)
        score = PRESENT_WEIGHT * drawn[:, PRESENT] + (1 - PRESENT_WEIGHT) * mean
        ends = np.nanpercentile(
            np.column_stack([drawn, mean, score]), (2.5, 97.5), axis=0
        ).T  # (16, 2)
    listed = [None if np.isnan(pair).any() else pair.tolist() for pair in ends]
    return {
        "score": listed[-1],
        "present": listed[PRESENT],
        "mean_location": listed[-2],
        "locations": dict(zip(LOCATIONS, listed, strict=False)),
    }


def drawn_counts(length: int, draws: int, seed: int) -> np.ndarray:
    """How often each row occurs in each sample of as many rows with replacement: (draws, length) float64."""
    return (
        np.random.default_rng(seed)
        .multinomial(length, np.full(length, 1 / length), size=draws)
        .astype(np.float64)
    )


def weighted_auc(truth: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`auc` of samples in which row i occurs counts[:, i] times: (draws,), NaN where a class is missing. truth, scores: (N,); counts: (draws, N)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of runs of equal scores
    positive = truth[order].astype(bool)
    ordered = counts[:, order]
    positives, negatives = (
        np.add.reduceat(ordered * chosen, starts, axis=1) for chosen in (positive, ~positive)
    )  # (draws, runs)
    won = (positives * (negatives.cumsum(axis=1) - negatives / 2)).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def roc_points(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates, both (K + 1,) from 0 to 1: the first point at (0, 0), then one for each of K distinct scores as the threshold,
    the highest first. Rows of equal score pass it together (Fawcett 2006). NaN where a class is missing. truth, scores: (N,)."""
    false, true = _weighted_roc(truth, scores, np.ones((1, len(truth))))
    return false[0], true[0]


def roc_band(
    truth: np.ndarray, scores: np.ndarray, grid: np.ndarray, draws: int, seed: int = 0
) -> np.ndarray:
    """95 % bootstrap band of the true positive rate at the false positive rates `grid` (G,): (2, G), the 2.5th and 97.5th percentile over draws of
    as many rows with replacement ("vertical averaging", Fawcett 2006). Draws without both classes are left out; NaN where there are no others."""
    false, true = _weighted_roc(
        truth, scores, drawn_counts(len(truth), draws, seed)
    )  # (draws, K + 1)
    whole = np.isfinite(false[:, -1]) & np.isfinite(true[:, -1])
    if not whole.any():
        return np.full((2, len(grid)), np.nan)
    rates = [np.interp(grid, x, y) for x, y in zip(false[whole], true[whole], strict=True)]
    return np.percentile(rates, (2.5, 97.5), axis=0)


def _weighted_roc(
    truth: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`roc_points` of samples in which row i occurs counts[:, i] times: both (draws, K + 1)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))  # of runs of equal scores
    rates = []
    for chosen in (truth[order] == 0, truth[order] != 0):
        passed = np.add.reduceat(counts[:, order] * chosen, starts, axis=1).cumsum(
            axis=1
        )  # (draws, K)
        passed = np.pad(passed, ((0, 0), (1, 0)))
        total = passed[:, -1:]
        rates.append(np.divide(passed, total, out=np.full(passed.shape, np.nan), where=total > 0))
    return rates[0], rates[1]
