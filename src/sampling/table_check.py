"""Do the labels and the localizers of a data set fit each other? Counts, doubts, or a stop."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.artifacts.csv_cells import closest, lines_text
from src.artifacts.paths import ArtifactError
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling.spots import UNKNOWN_LOCATION, is_nowhere, parse_coordinates
from src.text import printable

SPELLED = "docs/own_data.md says how to write it"
QUOTED = 3  # texts that a message quotes
SHOWN = 60  # characters of a cell in a message
STRANGE = "series not in the table of series"
NO_LOCALIZER, LABEL_ZERO = "without localizer", "where it is 0"  # columns of `count_table`


def report(path: Path, localizers: pd.DataFrame, series: pd.DataFrame, counts: bool = True) -> None:
    """Print counts and doubts. Raise ArtifactError if no localizer is left.

    path: the table of localizers. series: a row per series with its labels.
    """
    checked = with_faults(localizers, series)
    if counts:
        print(f"{len(series)} series, {len(checked)} localizers")
        print(count_table(checked, series).to_string())
    require_positives(path, checked, series)
    for sentence in doubts(checked, series):
        print(f"warning: {sentence}")


def with_faults(localizers: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return the localizers with a column `fault`: why one cannot be used, or ""."""
    known = set(series.SeriesInstanceUID)
    unlocated = set(series.SeriesInstanceUID[series[list(LOCATIONS)].isna().any(axis=1)])
    faults = [_fault(row, known, unlocated) for row in localizers.itertuples()]
    return localizers.assign(fault=faults)


def _fault(row: Any, known: set[str], unlocated: set[str]) -> str:
    """unlocated: series with an unknown location, whose localizers may do without one."""
    may_lack = row.SeriesInstanceUID in unlocated and is_nowhere(row.location)
    if row.location not in LOCATIONS and not may_lack:
        return UNKNOWN_LOCATION
    try:
        parse_coordinates(row.coordinates)
    except ValueError as error:
        return str(error)
    return "" if row.SeriesInstanceUID in known else STRANGE


def count_table(checked: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """Return a row per label: positive series, those without localizer, localizers, those at 0.

    With a column for the series whose label is unknown, if there are any.
    checked: what `with_faults` returns.
    """
    good = checked[checked.fault == ""]
    rows = []
    for label in LABELS:
        positive = series.SeriesInstanceUID[series[label] == 1]
        here = good if label == LABELS[PRESENT] else good[good.location == label]
        without = ~positive.isin(here.SeriesInstanceUID)
        at_zero = here.SeriesInstanceUID.isin(series.SeriesInstanceUID[series[label] == 0])
        rows.append((len(positive), without.sum(), len(here), at_zero.sum()))
    names = ["positive series", NO_LOCALIZER, "localizers", LABEL_ZERO]
    table = pd.DataFrame(rows, index=list(LABELS), columns=names)
    unknown = series[list(LABELS)].isna().sum()
    return table.assign(unknown=unknown) if unknown.any() else table


def doubts(checked: pd.DataFrame, series: pd.DataFrame) -> list[str]:
    """Return what people should look at, one line each."""
    found = [_left_out(checked, fault) for fault in checked.fault.unique() if fault]
    counts, of_all = count_table(checked, series), f"of {len(checked)} localizers"
    positives, without = counts["positive series"], counts[NO_LOCALIZER]
    if without.any():
        found.append(
            f"{without.iloc[:PRESENT].sum()} of {positives.iloc[:PRESENT].sum()} positive "
            f"locations and {without.iloc[PRESENT]} of {positives.iloc[PRESENT]} positive series "
            "without localizer: stage 1 cannot learn these"
        )
    zero = _at_label_zero(checked, series)
    if len(zero):
        healthy = counts[LABEL_ZERO].iloc[PRESENT]
        found.append(
            f"{len(zero)} {of_all} at a location whose label is 0, {healthy} of them in series "
            f"without aneurysm: {lines_text(zero.line.tolist())}"
        )
    repeated = checked[checked.drop(columns="line").duplicated()].line.tolist()
    if repeated:
        found.append(f"{len(repeated)} {of_all} written before: {lines_text(repeated)}")
    return found + _label_doubts(series)


def _label_doubts(series: pd.DataFrame) -> list[str]:
    present = series[LABELS[PRESENT]] == 1
    nowhere = present & (series[list(LOCATIONS)] == 0).all(axis=1)
    found = _unknown_labels(series)
    if nowhere.any():
        found.append(f"{nowhere.sum()} of {len(series)} series with an aneurysm at no location")
    if not present.any():
        found.append("no series has an aneurysm: networks cannot be trained on these")
    return found


def _unknown_labels(series: pd.DataFrame) -> list[str]:
    """Return how many labels are unknown, and of which series all are."""
    unknown = series[list(LABELS)].isna()
    if not unknown.any(axis=None):
        return []
    found = [
        f"{unknown.sum().sum()} of {unknown.size} labels are unknown (empty cells), in "
        f"{unknown.any(axis=1).sum()} of {len(series)} series: these are neither learned nor scored"
    ]
    nothing = series.SeriesInstanceUID[unknown.all(axis=1)].tolist()
    if nothing:
        found.append(
            f"{len(nothing)} of {len(series)} series without any label, "
            f"the first is {nothing[0]}: stage 2 learns nothing from them"
        )
    return found


def _at_label_zero(checked: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    labels = series.set_index("SeriesInstanceUID")
    good = checked[checked.fault == ""]
    good = good[good.location.isin(LOCATIONS)]
    zero = [labels.at[row.SeriesInstanceUID, row.location] == 0 for row in good.itertuples()]
    return good[np.array(zero, bool)]


def _left_out(checked: pd.DataFrame, fault: str) -> str:
    """Return how many localizers have a fault, in which lines, and what is written there."""
    faulty = checked[checked.fault == fault]
    said = f"{len(faulty)} of {len(checked)} localizers left out, {fault}: "
    if fault == STRANGE:
        return said + lines_text(faulty.line.tolist())
    column = "location" if fault == UNKNOWN_LOCATION else "coordinates"
    lines_of = faulty.groupby(column, sort=False).line.agg(list)
    quoted = [_quoted(cell, lines, column) for cell, lines in lines_of.iloc[:QUOTED].items()]
    more = f"; and {len(lines_of) - QUOTED} other texts" if len(lines_of) > QUOTED else ""
    return said + "; ".join(quoted) + more


def _quoted(cell: str, lines: list[int], column: str) -> str:
    guess = closest(cell, LOCATIONS) if column == "location" else None
    question = f", did you mean '{guess}'?" if guess else ""
    return f"'{printable(cell, SHOWN)}' ({lines_text(lines)}{question})"


def require_positives(path: Path, checked: pd.DataFrame, series: pd.DataFrame) -> None:
    """Raise ArtifactError if no localizer can be used although there should be some.

    path: the table of localizers.
    """
    positives = int(series[LABELS[PRESENT]].sum())
    if (checked.fault == "").any() or not (positives or len(checked)):
        return
    if checked.empty:
        raise ArtifactError(f"{path} has no rows, but {positives} series have an aneurysm")
    fault = checked.fault.value_counts().index[0]
    advice = "" if fault == STRANGE else f"; {SPELLED}"
    raise ArtifactError(
        f"{path} leaves no aneurysm to train on, {_left_out(checked, fault)}{advice}"
    )
