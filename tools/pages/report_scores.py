"""The numbers of tools/report.py, in the form in which its tables and pictures show them."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from src.evaluation import metrics, scoring
from src.labels import LABELS, LOCATIONS, PRESENT
from tools.pages.report_inputs import Pooled, best_epoch

PRESENCE, MEAN, SCORE = LABELS[PRESENT], "mean of the locations", "weighted score"


class Cell(NamedTuple):
    """An AUC, or None without both classes, and its 95 % interval, or None."""

    value: float | None
    ends: list[float] | None


def scores_of(table: pd.DataFrame, draws: int) -> dict:
    """Return the weighted score with its parts, and 95 % intervals by patient unless draws is 0."""
    labels, probabilities = metrics.label_arrays(table)
    scores = metrics.weighted_score(labels, probabilities) | metrics.known_counts(labels)
    if draws:
        patients = pd.factorize(table.patient)[0]  # a group has some of them
        scores["intervals"] = scoring.intervals(labels, probabilities, patients, draws)
    return scores


def cells_of(scores: dict) -> dict[str, Cell]:
    """Return one cell a label, MEAN and SCORE of what `scores_of` returns."""
    ends = scores.get("intervals", {"locations": {}})
    cells = {}
    for label, area in scores["locations"].items():
        cells[label] = Cell(area, ends["locations"].get(label))
    cells[PRESENCE] = Cell(scores["present"], ends.get("present"))
    cells[MEAN] = Cell(metrics.mean_location(scores), ends.get("mean_location"))
    cells[SCORE] = Cell(scores["score"], ends.get("score"))
    return cells


def group_row(name: str, table: pd.DataFrame, draws: int) -> list:
    """Return name, series, positives, weighted score, presence, mean and number of the locations.

    The scores are None if the rows are too few for them.
    """
    row = [name, len(table), int(table[PRESENCE].sum())]
    try:
        cells = cells_of(scores_of(table, draws))
    except metrics.MetricError:
        return [*row, None, None, None, 0]
    known = [label for label in LOCATIONS if cells[label].value is not None]
    return [*row, cells[SCORE], cells[PRESENCE], cells[MEAN], f"{len(known)} of {len(LOCATIONS)}"]


def fold_rows(evaluations: dict[str, Pooled], histories: dict, folds: list[int]) -> list[list]:
    """Return a row a fold (series, scores by its own network, kept epochs) and their mean."""
    rows, scores = [], []
    for fold in folds:
        groups = {}
        for name, pooled in evaluations.items():
            groups[name] = group_row(name, pooled.table[pooled.table.fold == fold], 0)
        scores.append([cell and cell.value for _, _, _, cell, *_ in groups.values()])
        series = max(group[1] for name, group in groups.items() if name != "stage1")
        epochs = [best_epoch(logs.get(fold, [])) for logs in histories.values()]
        rows.append([f"fold {fold}", series, *scores[-1], *epochs])
    means = pd.DataFrame(scores, dtype=np.float64).mean()
    if means.notna().all():
        rows.append(["mean", "", *means.tolist(), "", ""])
    return rows
