"""Scores of tools/report.py, in the form in which its tables and pictures show them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.evaluation import metrics
from src.labels import LABELS, PRESENT
from tools.pages.report_inputs import Pooled, best_epoch

MEAN, SCORE = "mean of the locations", "weighted score"
Cell = tuple[float | None, list[float] | None]  # an AUC and its 95 % interval


@dataclass
class Group:
    """The series of one modality or plane."""

    name: str
    series: int
    positives: int
    cells: dict[str, Cell]  # as cells_of; empty if the group is too small for a score


def scores_of(table: pd.DataFrame, draws: int) -> dict:
    """Return the weighted score with its parts, and 95 % intervals unless draws is 0."""
    labels, probabilities = metrics.label_arrays(table)
    scores = metrics.weighted_score(labels, probabilities)
    if draws:
        scores["intervals"] = metrics.intervals(labels, probabilities, draws)
    return scores


def cells_of(scores: dict) -> dict[str, Cell]:
    """Return {label, MEAN or SCORE: (AUC, interval)} in the order of the rows of the page."""
    ends = scores.get("intervals", {"locations": {}})
    cells = {
        label: (area, ends["locations"].get(label)) for label, area in scores["locations"].items()
    }
    cells[LABELS[PRESENT]] = scores["present"], ends.get("present")
    cells[MEAN] = metrics.mean_location(scores), ends.get("mean_location")
    cells[SCORE] = scores["score"], ends.get("score")
    return cells


def group_of(name: str, table: pd.DataFrame, draws: int) -> Group:
    positives = int(table[LABELS[PRESENT]].sum())
    try:
        cells = cells_of(scores_of(table, draws))
    except metrics.MetricError:
        cells = {}
    return Group(name, len(table), positives, cells)


def score_table(evaluations: dict[str, Pooled], cells: dict[str, dict[str, Cell]]) -> list[list]:
    """Return a row a label, the mean and the score; a column an evaluation."""
    series = list(evaluations.values())[-1]
    rows = []
    for name in (*LABELS, MEAN, SCORE):
        positives = int(series.table[name].sum()) if name in LABELS else ""
        rows.append([name, positives, *(column[name] for column in cells.values())])
    return rows


def fold_table(evaluations: dict[str, Pooled], histories: dict, folds: list[int]) -> list[list]:
    """Return a row a fold: series, weighted score by its own network, kept epochs."""
    rows = []
    for fold in folds:
        groups = {
            name: group_of(name, pooled.of_fold(fold), 0) for name, pooled in evaluations.items()
        }
        series = max(group.series for name, group in groups.items() if name != "stage1")
        scores = [group.cells[SCORE][0] if group.cells else None for group in groups.values()]
        best = [best_epoch(logs.get(fold, [])) for logs in histories.values()]
        epochs = [epoch and epoch["epoch"] for epoch in best]
        rows.append([f"fold {fold}", series, *scores, *epochs])
    return rows


def mean_row(rows: list[list], columns: int) -> list[list]:
    """Return the mean of the scores of `fold_table` as a row, or no row if a column has none."""
    table = pd.DataFrame([row[2 : 2 + columns] for row in rows], dtype=np.float64)
    means = table.mean()
    return [] if means.isna().any() else [["mean", "", *means.tolist(), "", ""]]
