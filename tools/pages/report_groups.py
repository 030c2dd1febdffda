"""The report's groups: modality, plane, sex, age, and the size of the largest aneurysm."""

import numpy as np
import pandas as pd

from src.artifacts.csv_cells import read_cells
from src.artifacts.paths import DataFolder, EncoderFolder
from src.artifacts.tables import LOCALIZER_COLUMNS
from src.evaluation import scoring
from src.labels import PRESENT
from tools.pages import report_figures, report_points, report_scores
from tools.pages.report_calibration import parts_of
from tools.pages.report_figures import saved
from tools.pages.report_inputs import UID, Pooled
from tools.pages.report_scores import Cell
from tools.scoring.cases import SIZES
from tools.scoring.points import radii_of
from tools.scoring.tables import AGE, UNKNOWN, groups_of, ranges

COLUMNS = {"Modality": "Modality", "Plane": "plane", "Sex": "PatientSex", "Age": AGE}
AGES = (40.0, 60.0)  # years at which a group begins, as tools/score.py


def section(folder: EncoderFolder, data: DataFolder, judged: Pooled, draws: int) -> dict:
    """Return the scores of each group of series, as a picture and as tables."""
    rows = {}
    for name, column in COLUMNS.items():
        groups = groups_of(texts_of(judged.table, column), column, AGES)
        for group, inside in groups.items():
            row = report_scores.group_row(group, judged.table[inside], draws)
            rows.setdefault(name, []).append(row)
    return {
        "picture": saved(folder, "groups", report_figures.draw_groups, rows),
        "rows": rows,
        "sizes": size_rows(judged, largest(data), draws),
    }


def texts_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of texts, empty where nothing is known."""
    cells = table[column] if column in table else pd.Series("", table.index)
    return cells.astype(object).fillna("").astype(str).str.strip().to_frame(column)


def largest(data: DataFolder) -> pd.Series:
    """Return the diameter in mm of each series' largest aneurysm; empty if no size is known."""
    if not data.localizers.exists():
        return pd.Series(dtype=np.float64)
    cells = read_cells(data.localizers, LOCALIZER_COLUMNS)
    diameters = 2 * radii_of(data.localizers, cells)
    return diameters.groupby(cells[UID]).max().dropna()


def size_rows(judged: Pooled, diameters: pd.Series, draws: int) -> list[list]:
    """Return name, series with an aneurysm of the size, AUC of presence, sensitivity.

    The AUC is against all series without an aneurysm. diameters: mm, by series.
    """
    truth, probabilities = judged.arrays()
    truth, patients = truth.astype(np.float64), judged.table.patient.to_numpy()
    of_each = judged.table[UID].map(diameters).to_numpy(np.float64)
    positive, negative = truth[:, PRESENT] == 1, truth[:, PRESENT] == 0
    if np.isnan(of_each[positive]).all():
        return []
    column = truth[:, PRESENT], probabilities[:, PRESENT]
    called = report_points.crossfitted(*column, parts_of(judged.table))
    rows = []
    for name, inside in ranges(of_each, SIZES, "mm").items():
        inside &= positive
        if not inside.any():
            continue
        compared = inside | negative
        own = pd.factorize(patients[compared])[0]
        scores = scoring.scores_of(truth[compared], probabilities[compared], own, draws)
        found = Cell(None, None)
        if called is not None:
            found = report_points.cells_of(truth[inside, PRESENT], called[inside], patients[inside])
            found = found[0]
        area = Cell(scores["present"], scores["intervals"]["present"])
        name = f"size {UNKNOWN}" if name == UNKNOWN else name
        rows.append([name, int(inside.sum()), area, found])
    return rows
