"""The numbers of tools/report.py, in the form in which its tables and pictures show them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from src.evaluation import metrics
from src.labels import LABELS, LOCATIONS, PRESENT
from tools.pages.report_inputs import Pooled, best_epoch

PRESENCE, MEAN, SCORE = LABELS[PRESENT], "mean of the locations", "weighted score"


class Cell(NamedTuple):
    """An AUC, or None without both classes, and its 95 % interval, or None."""

    value: float | None
    ends: list[float] | None


@dataclass
class Group:
    """The series of one modality, plane or fold."""

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
    """Return one cell a label, MEAN and SCORE of what `scores_of` returns."""
    ends = scores.get("intervals", {"locations": {}})
    cells = {}
    for label, area in scores["locations"].items():
        cells[label] = Cell(area, ends["locations"].get(label))
    cells[PRESENCE] = Cell(scores["present"], ends.get("present"))
    cells[MEAN] = Cell(metrics.mean_location(scores), ends.get("mean_location"))
    cells[SCORE] = Cell(scores["score"], ends.get("score"))
    return cells


def group_of(name: str, table: pd.DataFrame, draws: int) -> Group:
    try:
        cells = cells_of(scores_of(table, draws))
    except metrics.MetricError:
        cells = {}
    return Group(name, len(table), int(table[PRESENCE].sum()), cells)


def group_row(group: Group) -> list:
    """Return a row of the tables of modalities and planes."""
    row = [group.name, group.series, group.positives]
    if not group.cells:
        return [*row, None, None, None, 0]
    known = [label for label in LOCATIONS if group.cells[label].value is not None]
    cells = [group.cells[name] for name in (SCORE, PRESENCE, MEAN)]
    return [*row, *cells, f"{len(known)} of {len(LOCATIONS)}"]


def fold_rows(evaluations: dict[str, Pooled], histories: dict, folds: list[int]) -> list[list]:
    """Return a row a fold (series, scores by its own network, kept epochs) and their mean."""
    rows, scores = [], []
    for fold in folds:
        tables = {name: each.table[each.table.fold == fold] for name, each in evaluations.items()}
        groups = [group_of(name, table, 0) for name, table in tables.items()]
        series = max(group.series for group in groups if group.name != "stage1")
        scores.append([group.cells[SCORE].value if group.cells else None for group in groups])
        epochs = [best_epoch(logs.get(fold, [])) for logs in histories.values()]
        rows.append([f"fold {fold}", series, *scores[-1], *epochs])
    means = pd.DataFrame(scores, dtype=np.float64).mean()
    if means.notna().all():
        rows.append(["mean", "", *means.tolist(), "", ""])
    return rows
