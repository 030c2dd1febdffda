"""The report's operating points: what a threshold finds, misses and calls by mistake."""

import numpy as np

from src.evaluation import calibration, metrics, scoring
from src.evaluation.resampling import fraction_interval
from src.labels import LOCATIONS, PRESENT
from tools.pages.report_calibration import parts_of
from tools.pages.report_inputs import Pooled
from tools.pages.report_scores import Cell

YOUDEN = "highest Youden index"  # sensitivity + specificity - 1
GOALS = {  # name: (which of both must reach it, how much)
    YOUDEN: ("both", 0.0),
    "sensitivity of 0.95": ("sensitivity", 0.95),
    "sensitivity of 0.90": ("sensitivity", 0.9),
    "specificity of 0.90": ("specificity", 0.9),
    "specificity of 0.95": ("specificity", 0.95),
}


def section(judged: Pooled) -> dict:
    """Return the rows of presence at thresholds and goals, and of the locations at one threshold.

    That is the YOUDEN of all locations together, because most of them are rare.
    """
    truth, probabilities = judged.arrays()
    truth, patients = truth.astype(np.float64), judged.table.patient.to_numpy()
    parts = parts_of(judged.table)
    present = truth[:, PRESENT], probabilities[:, PRESENT]
    rows, locations = [], []
    for threshold in scoring.THRESHOLDS:
        called = present[1] >= threshold
        rows.append(["given threshold", f"{threshold:g}", *cells_of(present[0], called, patients)])
    for goal in GOALS:
        called = crossfitted(*present, parts, goal)
        cells = [None] * 6 if called is None else cells_of(present[0], called, patients)
        rows.append([goal, shown(*present, goal), *cells])
    together = truth[:, :PRESENT].ravel(), probabilities[:, :PRESENT].ravel()
    called = crossfitted(*together, np.repeat(parts, PRESENT))
    if called is not None:
        called = called.reshape(-1, PRESENT)
        for k, label in enumerate(LOCATIONS):
            locations.append([label, *cells_of(truth[:, k], called[:, k], patients)])
    return {
        "rows": rows,
        "locations": locations,
        "threshold": shown(*together, YOUDEN),
        "goal": YOUDEN,
    }


def shown(truth: np.ndarray, probabilities: np.ndarray, goal: str) -> str | None:
    """Return the threshold that reaches a goal on all rows, for the page."""
    if not calibration.can_fit(truth):
        return None
    threshold = chosen(truth, probabilities, goal)
    return f"{threshold:.3f}" if np.isfinite(threshold) else "above all"


def crossfitted(
    truth: np.ndarray, probabilities: np.ndarray, parts: np.ndarray, goal: str = YOUDEN
) -> np.ndarray | None:
    """Return which rows (N,) are called positive, by the threshold chosen on the other parts.

    None if those hold too few of either class. truth: 0, 1 or NaN; parts: number of each row's.
    """
    called = np.zeros(len(truth), bool)
    for part in np.unique(parts):
        inside = parts == part
        if not calibration.can_fit(truth[~inside]):
            return None
        threshold = chosen(truth[~inside], probabilities[~inside], goal)
        called[inside] = probabilities[inside] >= threshold
    return called


def chosen(truth: np.ndarray, probabilities: np.ndarray, goal: str) -> float:
    """Return the threshold that reaches the goal and is best for the other of both.

    Infinite if only calling nothing reaches it. truth: 0, 1 or NaN, with both classes.
    """
    known = ~np.isnan(truth)
    false, true = metrics.roc_points(truth[known], probabilities[known])  # from (0, 0) on
    thresholds = np.append(np.inf, np.unique(probabilities[known])[::-1])
    of, least = GOALS[goal]
    if of == "sensitivity":
        best = np.argmax(true >= least)  # the first, with the fewest false ones
    elif of == "specificity":
        best = np.argmax(np.where(1 - false >= least, true, -1))
    else:
        best = np.argmax(true - false)
    return float(thresholds[best])


def cells_of(truth: np.ndarray, called: np.ndarray, patients: np.ndarray) -> list:
    """Return sensitivity, specificity, both predictive values, how many are missed and false.

    All arrays (N,); called: bool; an unknown truth is left out.
    """
    rates = scoring.at_threshold(truth, called.astype(float), 0.5, patients)
    cells = []
    for name in ("sensitivity", "specificity"):
        cells.append(Cell(rates[name], rates[f"{name}_interval"]))
    known = ~np.isnan(truth)
    for value in (True, False):
        rows = known & (called == value)
        right = truth[rows] == value
        ends = fraction_interval(right, patients[rows])
        cells.append(Cell(float(right.mean()) if rows.any() else None, ends))
    missed, false = (truth == 1) & ~called, (truth == 0) & called
    counts = [f"{missed.sum()} of {rates['positives']}", f"{false.sum()} of {rates['negatives']}"]
    return cells + counts
