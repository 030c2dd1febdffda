"""What an evaluation writes and prints: predictions, scores with intervals, scores of groups."""

from typing import Any

import pandas as pd

from src.artifacts.files import write_json
from src.artifacts.paths import RunFolder
from src.artifacts.provenance import write_predictions
from src.evaluation import metrics, scoring
from src.evaluation.choice import Chosen
from src.evaluation.resampling import patient_numbers
from src.labels import LABELS, PRESENT

DRAWS = 1000  # of the bootstrap
WIDTH = max(len(label) for label in LABELS)  # characters of a table's first column
GROUPS = ("Modality", "plane")  # columns; the series of each of their values are scored, too


def report_spots(
    run: RunFolder,
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    title: str,
    weights: dict[int, dict[str, str]] | None = None,
) -> dict:
    """Score spots, print the table and write predictions_stage1.csv and scores_stage1.json.

    weights: what made them, as `provenance.write_predictions` takes it.
    """
    write_predictions(run.predictions("stage1"), predictions, weights)
    scores, _ = scored(truth, predictions, ["SeriesInstanceUID", "slice"])
    write_json(run.scores("stage1"), scores)
    print(score_table(scores, f"{title}: {len(truth)} rows of {scores['n_series']} series"))
    _say_written(run, "stage1")
    return scores


def report_series(
    run: RunFolder,
    evaluation: str,
    truth: pd.DataFrame,
    predictions: pd.DataFrame,
    title: str,
    chosen: dict[int, Chosen] | None = None,
    weights: dict[int, dict[str, str]] | None = None,
) -> dict:
    """Do the same for series, with 95 % intervals and the scores of each modality and plane.

    chosen: step and weight of stage 1 that were used, of each fold, if the caller has any.
    """
    write_predictions(run.predictions(evaluation), predictions, weights)
    scores, both = scored(truth, predictions, ["SeriesInstanceUID"])
    patients = patient_numbers(both.get("patient_id", [""] * len(both)))
    scores["intervals"] = scoring.intervals(*metrics.label_arrays(both), patients, DRAWS)
    scores["groups"] = {column: grouped_scores(truth, predictions, column) for column in GROUPS}
    if chosen:
        scores["chosen"] = {str(fold): pair.as_json() for fold, pair in chosen.items()}
    write_json(run.scores(evaluation), scores)
    for fold, pair in (chosen or {}).items():
        print(f"fold {fold}: {pair}")
    for column in GROUPS:
        print(group_table(scores["groups"][column], column), end="\n\n")
    print(score_table(scores, f"{title}: {scores['n_series']} series"))
    _say_written(run, evaluation)
    return scores


def _say_written(run: RunFolder, evaluation: str) -> None:
    print(f"wrote {run.scores(evaluation)} and {run.predictions(evaluation).name}")


def scored(
    truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str]
) -> tuple[dict, pd.DataFrame]:
    """Return the scores with the number of series, and both tables as `metrics.joined` has them."""
    both = metrics.joined(truth, predictions, keys)
    labels, probabilities = metrics.label_arrays(both)
    scores = metrics.weighted_score(labels, probabilities)
    scores |= {"n_series": truth.SeriesInstanceUID.nunique()}
    scores |= metrics.known_counts(labels)
    return scores, both


def grouped_scores(truth: pd.DataFrame, predictions: pd.DataFrame, column: str) -> dict[str, dict]:
    """Return the scores of each value of a column; without `score` if it has too few series."""
    groups = {}
    for value, rows in truth.fillna({column: ""}).groupby(column):
        theirs = predictions[predictions.SeriesInstanceUID.isin(rows.SeriesInstanceUID)]
        try:
            groups[str(value)], _ = scored(rows, theirs, ["SeriesInstanceUID"])
        except metrics.MetricError:
            groups[str(value)] = {"n_series": rows.SeriesInstanceUID.nunique()}
    return groups


def title_of(config: Any, evaluation: str, chosen: dict[int, Chosen] | None = None) -> str:
    """Return a table's title: its folds, and whether its epoch was chosen on the same series.

    chosen: step and weight of stage 1 that were used, of each fold, if the caller has any.
    """
    folds = "all folds, pooled" if config.fold == "all" else f"fold {config.fold}"
    if config.select == "last":
        return f"{evaluation}, {folds} (last epoch of stage 2, step 1: not chosen)"
    if chosen and all(pair.on == "nothing" for pair in chosen.values()):
        return f"{evaluation}, {folds} (networks trained elsewhere)"
    if config.fold == "all":
        return f"{evaluation}, {folds} (epoch chosen on the held-out series)"
    return f"{evaluation}, {folds} (epoch, step and weight chosen on the held-out series)"


def score_table(scores: dict, title: str) -> str:
    """Return the 14 AUCs and the weighted score, with their intervals if known, as a text table."""
    ends = scores.get("intervals", {"locations": {}})
    locations = ends["locations"]
    rows = [_row(name, value, locations.get(name)) for name, value in scores["locations"].items()]
    rows.append(_row(LABELS[PRESENT], scores["present"], ends.get("present")))
    line = "-" * (WIDTH + (24 if "intervals" in scores else 8))
    final = _row("weighted score", scores["score"], ends.get("score"))
    return "\n".join([title, *unknown_lines(scores), line, *rows, line, final])


def unknown_lines(scores: dict) -> list[str]:
    """Return what unknown labels mean for the scores, nothing if all are known."""
    if "n_known" not in scores:
        return []
    counts = scores["n_known"].values()
    lines = [f"unknown labels are left out: {min(counts)} to {max(counts)} rows a label are known"]
    if "score_of" in scores:
        half = {"present": "presence", "locations": "the locations"}[scores["score_of"]]
        lines.append(f"the weighted score is that of {half} alone: nothing else is known")
    return lines


def _row(name: str, value: float | None, ends: list[float] | None) -> str:
    shown = "   n/a" if value is None else f"{value:6.3f}"
    text = f"{name:<{WIDTH}}  {shown}"
    return f"{text}  {ends[0]:.3f} to {ends[1]:.3f}" if ends else text


def group_table(groups: dict[str, dict], column: str) -> str:
    """Return a line for each group: series, weighted score, AUC of presence, mean location AUC."""
    lines = [f"{column:<14}  series   score  present  locations"]
    for name, scores in groups.items():
        shown = ["n/a"] * 3
        if "score" in scores:
            values = (scores["score"], scores["present"], metrics.mean_location(scores))
            shown = ["n/a" if value is None else f"{value:.3f}" for value in values]
        score, present, locations = shown
        count = scores["n_series"]
        lines.append(f"{name:<14}  {count:6d}  {score:>6}  {present:>7}  {locations:>9}")
    return "\n".join(lines)
