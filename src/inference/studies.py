"""The studies of predicted series."""

import pandas as pd

from src.artifacts.paths import UID
from src.dicom import Series
from src.labels import LABELS, PRESENT


def study_of(series: Series) -> str:
    """Return the UID of the series' study, "" if it has none, or text that is no UID."""
    uid = series.slices[0].file.study_uid
    return uid if UID.fullmatch(uid) else ""


def study_table(predictions: pd.DataFrame, studies: list[str]) -> pd.DataFrame:
    """Return a row for each study: of each probability the highest of its series.

    studies: of each row of `predictions`, "" if unknown: such a series is a study of its own.
    """
    known = pd.Series(studies, predictions.index, dtype=str)
    groups = predictions.groupby(known.where(known != "", predictions.SeriesInstanceUID))
    table = groups[list(LABELS)].max()
    highest = groups[LABELS[PRESENT]].idxmax()
    table.insert(0, "StudyInstanceUID", known[highest].to_numpy())
    table.insert(1, "series", groups.size())
    table.insert(2, "highest", predictions.SeriesInstanceUID[highest].to_numpy())
    return table.sort_values(LABELS[PRESENT], ascending=False, ignore_index=True)
