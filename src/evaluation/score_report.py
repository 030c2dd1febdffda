"""What an evaluation shows and leaves: predictions, scores with their intervals, by modality and plane."""

from typing import Any

import pandas as pd

from src.artifacts.files import write_json
from src.artifacts.paths import RunFolder
from src.artifacts.tables import write_table
from src.evaluation import metrics
from src.labels import LABELS, PRESENT

DRAWS = 1000  # of the bootstrap
GROUPS = ("Modality", "plane")  # columns by which series are also scored apart


def report_spots(
    run: RunFolder, truth: pd.DataFrame, predictions: pd.DataFrame, title: str
) -> dict:
    """Join, score, print the table, and write predictions_stage1.csv and scores_stage1.json; returns the scores."""
    labels, probabilities = _write_and_join(
        run, "stage1", truth, predictions, ["SeriesInstanceUID", "slice"]
    )
    scores = _with_count(metrics.weighted_score(labels, probabilities), truth)
    write_json(run.scores("stage1"), scores)
    print(score_table(scores, f"{title}: {len(labels)} rows of {scores['n_series']} series"))
    return scores


def report_series(
    run: RunFolder, evaluation: str, truth: pd.DataFrame, predictions: pd.DataFrame, title: str
) -> dict:
    """The same for series, with 95 % intervals, and the scores of each modality and plane."""
    labels, probabilities = _write_and_join(
        run, evaluation, truth, predictions, ["SeriesInstanceUID"]
    )
    scores = _with_count(metrics.weighted_score(labels, probabilities), truth)
    scores["intervals"] = metrics.intervals(labels, probabilities, DRAWS)
    scores["groups"] = {column: grouped_scores(truth, predictions, column) for column in GROUPS}
    write_json(run.scores(evaluation), scores)
    for column in GROUPS:
        print(group_table(scores["groups"][column], column), end="\n\n")
    print(score_table(scores, f"{title}: {scores['n_series']} series"))
    return scores


def _write_and_join(
    run: RunFolder, evaluation: str, truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]
):
    write_table(run.predictions(evaluation), predictions)
    return metrics.join_by_uid(truth[[*keys, *LABELS]], predictions, keys)


def _with_count(scores: dict, truth: pd.DataFrame) -> dict:
    return scores | {"n_series": int(truth.SeriesInstanceUID.nunique())}


def grouped_scores(truth: pd.DataFrame, predictions: pd.DataFrame, column: str) -> dict[str, dict]:
    """The scores of the series of each value of a column; without `score` where there are too few of them."""
    found = {}
    for value, rows in truth.fillna({column: ""}).groupby(column):
        theirs = predictions[predictions.SeriesInstanceUID.isin(rows.SeriesInstanceUID)]
        labels, probabilities = metrics.join_by_uid(
            rows[["SeriesInstanceUID", *LABELS]], theirs, ["SeriesInstanceUID"]
        )
        try:
            scores = metrics.weighted_score(labels, probabilities)
        except metrics.MetricError:
            scores = {}
        found[str(value)] = _with_count(scores, rows)
    return found


def title_of(config: Any, evaluation: str) -> str:
    """Which folds and epochs a table is of, and whether these were chosen on the very series that it scores."""
    folds = "all folds, pooled" if config.fold == "all" else f"fold {config.fold}"
    chosen = (
        "epoch and step chosen on the held-out series"
        if config.select == "best"
        else "last epoch of stage 2, step 1: not chosen"
    )
    return f"{evaluation}, {folds} ({chosen})"


def score_table(scores: dict, title: str) -> str:
    """The 14 AUCs and the weighted score, with intervals where there are any, as text for a terminal."""
    ends = scores.get("intervals")
    rows = [
        (label, value, ends and ends["locations"][label])
        for label, value in scores["locations"].items()
    ]
    rows.append((LABELS[PRESENT], scores["present"], ends and ends["present"]))
    width = max(len(label) for label in LABELS)
    line = "-" * (width + (24 if ends else 8))
    final = _row("weighted score", scores["score"], ends and ends["score"], width)
    return "\n".join([title, line, *(_row(*row, width) for row in rows), line, final])


def _row(name: str, value: float | None, ends: list[float] | None, width: int) -> str:
    text = f"{name:<{width}}  {'   n/a' if value is None else f'{value:6.3f}'}"
    return f"{text}  {ends[0]:.3f} to {ends[1]:.3f}" if ends else text


def group_table(groups: dict[str, dict], column: str) -> str:
    """A line for each group: series, weighted score, AUC of presence, mean AUC of the locations."""
    lines = [f"{column:<14}  series   score  present  locations"]
    for name, scores in groups.items():
        values = (
            (scores["score"], scores["present"], metrics.mean_location(scores))
            if "score" in scores
            else (None, None, None)
        )
        shown = ["n/a" if value is None else f"{value:.3f}" for value in values]
        lines.append(
            f"{name:<14}  {scores['n_series']:6d}  {shown[0]:>6}  {shown[1]:>7}  {shown[2]:>9}"
        )
    return "\n".join(lines)
