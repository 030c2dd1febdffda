"""The tables of tools/score.py, read and checked: each fault is one sentence with its line."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.csv_cells import check_not_scientific, check_uids, lines_text, read_cells
from src.artifacts.paths import ArtifactError
from src.labels import LABELS, LOCATIONS, PRESENT
from src.script import UserError
from src.text import printable

UID = "SeriesInstanceUID"
PATIENT = "PatientID"
AGE = "PatientAge"
GROUPS = ("Modality", "Plane", "PatientSex", AGE)  # columns that TRUTH may have
UNKNOWN = "unknown"  # group of an empty cell
YEARS = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}  # units of an age, of which a year has so many
AGE_TEXT = re.compile(r"([0-9]+\.?[0-9]*)\s*([YMWD]?)", re.IGNORECASE)


def read_truth(path: Path) -> pd.DataFrame:
    """Return SeriesInstanceUID, the 14 labels as float64, and PATIENT and GROUPS, as texts.

    A label in an empty cell is unknown: NaN. A text that is not given is empty. Sorted by series.
    """
    cells = read_series_cells(path, LABELS)
    table = cells[[UID]].copy()
    for label in LABELS:
        table[label] = label_values(path, cells[label])
    contradicts = (table[list(LOCATIONS)] == 1).any(axis=1) & (table[LABELS[PRESENT]] == 0)
    if contradicts.any():
        raise ArtifactError(
            f"{path}, {lines_text(table.index[contradicts])}: {LABELS[PRESENT]!r} is 0, "
            "but a location is 1: correct one of them"
        )
    for name in (PATIENT, *GROUPS):
        table[name] = optional_column(cells, name)
    return table.sort_values(UID, kind="stable", ignore_index=True)


def read_probabilities(path: Path) -> pd.DataFrame:
    """Return SeriesInstanceUID and the 14 probabilities 0 to 1."""
    cells = read_series_cells(path, LABELS)
    table = cells[[UID]].copy()
    for label in LABELS:
        table[label] = numbers(path, cells[label], 0, 1)
    return table.reset_index(drop=True)


def read_patients(path: Path) -> pd.Series:
    """Return the patient of each series, by SeriesInstanceUID."""
    cells = read_series_cells(path, ())
    found = optional_column(cells, PATIENT)
    if not found.any():
        raise ArtifactError(f"{path} has no column {PATIENT!r} with any content: name it so")
    return pd.Series(found.to_numpy(), cells[UID])


def read_series_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a csv with a row a series, as texts. index: lines.

    Raise ArtifactError if a column is missing or a series appears twice.
    """
    cells = read_some_cells(path, (UID, *columns))
    if cells.empty:
        raise ArtifactError(f"{path} has no rows: it needs one for each series")
    check_uids(path, cells[UID])
    for line in cells.index[cells[UID].duplicated()]:
        first = cells.index[cells[UID] == cells[UID][line]][0]
        raise ArtifactError(
            f"{path}, line {line}: series {cells[UID][line]} appears twice, "
            f"first in line {first}: delete one"
        )
    return cells


def read_some_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return the cells of a csv as texts; its SOP Instance UIDs are no numbers. index: lines."""
    if not path.exists():
        raise UserError(f"{path} is missing: check the path")
    if path.is_file() and not path.read_bytes().strip():
        raise ArtifactError(f"{path} is empty: it needs a line with the names of its columns")
    cells = read_cells(path, columns)
    for name in cells.columns.intersection([UID, "SOPInstanceUID"]):
        check_not_scientific(path, cells[name])
    return cells


def optional_column(cells: pd.DataFrame, name: str) -> pd.Series:
    """Return the texts of a column, also if it is spelled `patient_id` or `Patient ID`."""
    for column in cells.columns:
        if re.sub(r"[ _]", "", column).lower() == name.lower():
            return cells[column]
    return pd.Series("", cells.index)


def label_values(path: Path, cells: pd.Series) -> pd.Series:
    """Return labels as float64; empty cells as NaN."""
    truths = {"false": "0", "true": "1"}
    texts = cells.map(lambda cell: truths.get(cell.lower(), cell))
    values = numbers(path, texts, 0, 1, empty=True)
    for line in cells.index[values.notna() & ~values.isin([0, 1])]:
        raise ArtifactError(
            f"{path}, column {cells.name!r}, line {line}: {values[line]:g} is neither 0 nor 1 "
            "nor empty (unknown): correct it"
        )
    return values


def numbers(
    path: Path, cells: pd.Series, low: float, high: float, empty: bool = False
) -> pd.Series:
    """Return the numbers of a column; raise ArtifactError for the first that is out of its range.

    What is no number is not quoted: it may be anything. empty: empty cells are NaN, and no fault.
    """
    values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    fine = values.between(low, high) | (empty & (cells == ""))
    for line in cells.index[~fine]:
        found = "an empty cell" if cells[line] == "" else "what is written there"
        if np.isfinite(values[line]):
            found = f"{values[line]:g}"
        raise ArtifactError(
            f"{path}, column {cells.name!r}, line {line}: {found} is no number "
            f"from {low:g} to {high:g}: correct it"
        )
    return values


def joined(
    truth: pd.DataFrame, predictions: pd.DataFrame, only_predicted: bool, path: Path
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows of `truth` that are scored, and their probabilities (N, 14).

    Rows without any known label are left out, and predictions of other series. Raise UserError if
    no series is left, or one has no prediction unless only_predicted. path: of the predictions.
    """
    known = truth[truth[list(LABELS)].notna().any(axis=1)]
    if known.empty:
        raise UserError("TRUTH has no label that is known: every cell of the 14 columns is empty")
    predicted = known[UID].isin(predictions[UID])
    if not predicted.any():
        raise UserError(
            f"{path} and TRUTH have no series in common: compare their {UID}, that of TRUTH "
            f"begins with {known[UID].iloc[0]}"
        )
    if not predicted.all() and not only_predicted:
        raise UserError(
            f"{path} has no row for {int((~predicted).sum())} of {len(known)} series of TRUTH, "
            f"the first is {known[UID][~predicted].iloc[0]}: predict them, or take "
            "--only-predicted to score the others"
        )
    scored = known[predicted].reset_index(drop=True)
    probabilities = predictions.set_index(UID).loc[scored[UID], list(LABELS)]
    return scored, probabilities.to_numpy(np.float64)


def with_patients(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    """Return the table with the patients of a file, if there is one."""
    if path is None:
        return table
    patients = read_patients(path)
    missing = ~table[UID].isin(patients.index)
    if missing.any():
        raise UserError(
            f"{path} has no row for {int(missing.sum())} of {len(table)} series of TRUTH, "
            f"the first is {table[UID][missing].iloc[0]}: add them"
        )
    return table.assign(**{PATIENT: patients.loc[table[UID]].to_numpy()})


def groups_of(table: pd.DataFrame, column: str, ages: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Return which rows are in each group of a column, (N,) bool; nothing if it has no content.

    ages: years at which a new group begins.
    """
    cells = table[column]
    if not cells.any():
        return {}
    if column == AGE:
        return ranges(np.array([years_of(cell) for cell in cells]), ages, "years")
    names = cells.map(lambda cell: printable(cell, 24) or UNKNOWN)
    return {name: (names == name).to_numpy() for name in sorted(set(names))}


def years_of(cell: str) -> float:
    """Return the years of an age such as 63, 63.0, 063Y or 011M; NaN if it is none."""
    found = AGE_TEXT.fullmatch(cell)
    return float(found[1]) / YEARS[found[2].upper()] if found else np.nan


def ranges(values: np.ndarray, limits: tuple[float, ...], unit: str) -> dict[str, np.ndarray]:
    """Return which values are in each range that holds any, as "under 40 years", in order.

    A value that equals a limit is in the next range. NaN is UNKNOWN, the last.
    """
    ends = [-np.inf, *limits, np.inf]
    found = {}
    for low, high in pairwise(ends):
        name = f"{low:g} to {high:g} {unit}"
        if np.isinf(high):
            name = f"{low:g} {unit} or more" if limits else f"any {unit}"
        elif np.isinf(low):
            name = f"under {high:g} {unit}"
        found[name] = (values >= low) & (values < high)
    found[UNKNOWN] = np.isnan(values)
    return {name: chosen for name, chosen in found.items() if chosen.any()}
