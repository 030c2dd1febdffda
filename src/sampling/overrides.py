"""Labels that people corrected, data/overrides.csv: in place of those of train.csv."""

import numpy as np
import pandas as pd

from src.artifacts.csv_cells import lines_text
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_overrides
from src.labels import LABELS, LOCATIONS, PRESENT

OVERRIDDEN = "overridden"  # why a localizer is dropped


def apply(
    data: DataFolder, meta: pd.DataFrame, localizers: pd.DataFrame, among: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the series with corrected labels, the localizers that are left, and the dropped ones.

    A localizer is dropped if its label, or presence, is overridden to 0. Print how many lines
    changed something, and which belong to no series.

    meta: a row per series. localizers: as read_localizers returns them.
    among: what `meta` holds, for messages.
    dropped: SeriesInstanceUID, line, reason.

    Raise ArtifactError if no line belongs to a series, or if `Aneurysm Present` would be 0 beside a
    location that is 1.
    """
    lines = read_overrides(data)
    known = lines.SeriesInstanceUID.isin(meta.SeriesInstanceUID)
    if len(lines) and not known.any():
        raise ArtifactError(
            f"{data.overrides}: none of its {len(lines)} lines names a series of {among}: "
            "correct the UIDs, or delete the file"
        )
    ours = lines[known]
    corrected = _corrected(meta, ours)
    _require_no_contradiction(data, corrected, ours)
    zero = ours[ours.value == 0]
    gone = _is_overridden(localizers, zero)
    dropped = localizers.loc[gone, ["SeriesInstanceUID", "line"]].assign(reason=OVERRIDDEN)
    if data.overrides.exists():
        changed = _changed(meta, corrected)
        print(
            f"{data.overrides}: {len(lines)} lines change {int(changed.sum())} labels of "
            f"{int((changed.sum(axis=1) > 0).sum())} series"
        )
    if not known.all():
        print(
            f"{data.overrides}: {int((~known).sum())} of {len(lines)} lines name no series of "
            f"{among}: {lines_text(lines.index[~known].tolist())}"
        )
    return corrected, localizers[~gone].reset_index(drop=True), dropped


def _corrected(meta: pd.DataFrame, lines: pd.DataFrame) -> pd.DataFrame:
    corrected = meta.copy()
    for label, rows in lines.groupby("label"):
        values = rows.set_index("SeriesInstanceUID").value
        uids = meta.SeriesInstanceUID
        column = meta[label].astype(float).mask(uids.isin(values.index), uids.map(values))
        corrected[label] = column if column.isna().any() else column.astype(int)
    return corrected


def _changed(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Return which labels differ (N, 14); NaN equals NaN."""
    old, new = (table[list(LABELS)].to_numpy(float) for table in (before, after))
    return (old != new) & ~(np.isnan(old) & np.isnan(new))


def _require_no_contradiction(data: DataFolder, meta: pd.DataFrame, lines: pd.DataFrame) -> None:
    somewhere = (meta[list(LOCATIONS)] == 1).any(axis=1)
    uids = meta.SeriesInstanceUID[somewhere & (meta[LABELS[PRESENT]] == 0)]
    wrong = lines.index[lines.SeriesInstanceUID.isin(uids)].tolist()
    if wrong:
        raise ArtifactError(
            f"{data.overrides}, {lines_text(wrong)}: after these {LABELS[PRESENT]!r} is 0, but a "
            "location is 1: override both"
        )


def _is_overridden(localizers: pd.DataFrame, zero: pd.DataFrame) -> np.ndarray:
    """Return for each localizer whether its label, or presence, is among the lines of 0: (N,)."""
    pairs = set(zip(zero.SeriesInstanceUID, zero.label, strict=True))
    found = []
    for uid, location in zip(localizers.SeriesInstanceUID, localizers.location, strict=True):
        found.append((uid, location) in pairs or (uid, LABELS[PRESENT]) in pairs)
    return np.array(found, bool)
