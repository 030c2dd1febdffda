"""From localizers to spots: the slice and point of each aneurysm, labels, safe slices."""

import ast
import math

import numpy as np
import pandas as pd

from src.labels import (
    LABELS,
    LOCATIONS,
    NEGATIVE,
    NOT_LOCATED,
    NOTHING,
    PRESENT,
    SOMEWHERE,
    UNKNOWN,
)
from src.orientation import canonical_point, canonical_shape
from src.sampling.folds import seeded_order
from src.sampling.slices import resized_point

PUBLISHED_SIDE = 512  # pixels, side of the images that x_512 and y_512 refer to
DRAWN = -1  # f of a negative spot whose slice is drawn in training, each epoch another
UNKNOWN_LOCATION = "unknown location"
NO_LOCATION = ("", "unknown", "n/a", "na", "nan", "none", "?", "-")  # of a localizer, in lower case
LOCATED = "SeriesInstanceUID SOPInstanceUID coordinates location class_id f x y x_512 y_512".split()
COLUMNS = (  # of train_stage1_{N}_folds.csv
    "SeriesInstanceUID SOPInstanceUID coordinates location fold length x y f f_rel class_id "
    "h w x_512 y_512 mod"
).split()


def parse_coordinates(text: str) -> tuple[float, float, int | None]:
    """Return x, y and the stored frame, or None, of a text like "{'f': 3, 'x': 258.3, 'y': 261.4}".

    The text is read as data, never executed. Raise ValueError if it is anything else.
    """
    if not isinstance(text, str) or len(text) > 200:
        raise ValueError("coordinates are not a short text")
    try:
        values = ast.literal_eval(text.strip())
        x, y, frame = float(values["x"]), float(values["y"]), values.get("f")
        whole = None if frame is None else int(frame)
    except Exception as error:  # a strange text raises one of eight kinds
        raise ValueError("coordinates are not a mapping with numbers x and y, perhaps f") from error
    if not (math.isfinite(x) and math.isfinite(y)) or isinstance(frame, bool) or frame != whole:
        raise ValueError("coordinates are not finite, or f is not a whole number")
    return x, y, whole


def locate(row: pd.Series, meta: pd.DataFrame, slice_uids: dict, geometry: dict) -> dict:
    """Return the spot of one row of train_localizers.csv; `meta` is indexed by SeriesInstanceUID.

    x and y are pixels of the stored image, x_512 and y_512 of the prepared one.
    Raise ValueError with the reason if the row must be dropped.
    """
    uid = row.SeriesInstanceUID
    if row.location not in LOCATIONS and not is_nowhere(row.location):
        raise ValueError(UNKNOWN_LOCATION)
    if uid not in meta.index:
        raise ValueError("series without arrays")
    series = meta.loc[uid]
    if row.location not in LOCATIONS and not has_unknown_location(series):
        raise ValueError(UNKNOWN_LOCATION)
    x, y, frame = parse_coordinates(row.coordinates)
    same_sop = np.flatnonzero(np.asarray(slice_uids[uid]) == row.SOPInstanceUID)
    f = slice_of(same_sop, geometry[uid]["frames"][same_sop], frame)
    if not (-0.5 <= x <= series.w - 0.5 and -0.5 <= y <= series.h - 0.5):
        raise ValueError("point outside the image")
    prepared_x, prepared_y = canonical_point(x, y, series.orientation, series.h, series.w)
    height, width = canonical_shape(series.h, series.w, series.orientation)
    located = row.location in LOCATIONS
    return {
        "SeriesInstanceUID": uid,
        "SOPInstanceUID": row.SOPInstanceUID,
        "coordinates": row.coordinates,
        "location": row.location if located else SOMEWHERE,
        "class_id": LOCATIONS.index(row.location) if located else NOT_LOCATED,
        "f": f,
        "x": x,
        "y": y,
        "x_512": resized_point(prepared_x, width, PUBLISHED_SIDE),
        "y_512": resized_point(prepared_y, height, PUBLISHED_SIDE),
    }


def is_nowhere(location: str) -> bool:
    """Return whether the cell of a localizer says that nobody knows the artery."""
    return not isinstance(location, str) or location.strip().lower() in NO_LOCATION


def has_unknown_location(series: pd.Series) -> bool:
    """Return whether one of the 13 locations of a row of train_meta.csv is unknown."""
    return bool(series.reindex(LOCATIONS).isna().any())


def slice_of(slices: np.ndarray, frames: np.ndarray, frame: int | None) -> int:
    """Choose among the slices (k,) with the localizer's SOPInstanceUID. frames: (k,), -1 = none."""
    if len(slices) == 0:
        raise ValueError("SOPInstanceUID not in the series")
    if frames.min() >= 0 and (len(slices) > 1 or frame is not None):
        slices = slices[frames == (-1 if frame is None else frame)]
        if len(slices) == 0:
            raise ValueError("no such frame")
    if len(slices) > 1:
        raise ValueError("several slices have this SOPInstanceUID")
    return int(slices[0])


def locate_all(
    localizers: pd.DataFrame, meta: pd.DataFrame, slice_uids: dict, geometry: dict
) -> tuple[list[dict], pd.DataFrame]:
    """Return the spots and the dropped rows: SeriesInstanceUID, line of the csv, reason.

    localizers: if it has no column `line`, its rows begin at line 2.
    """
    found, dropped = [], []
    lines = localizers.get("line", range(2, len(localizers) + 2))
    for line, (_, row) in zip(lines, localizers.iterrows(), strict=True):
        try:
            found.append(locate(row, meta, slice_uids, geometry))
        except ValueError as error:
            dropped.append((row.SeriesInstanceUID, line, str(error)))
    return found, pd.DataFrame(dropped, columns=["SeriesInstanceUID", "line", "reason"])


def slices_of(points: pd.DataFrame, slice_uids: dict, geometry: dict) -> dict[str, list[int]]:
    """Return {uid: slices} of the rows of train_ignored.csv that point to one."""
    found: dict[str, list[int]] = {}
    for row in points.itertuples():
        uid = row.SeriesInstanceUID
        same_sop = np.flatnonzero(np.asarray(slice_uids.get(uid, [])) == row.SOPInstanceUID)
        try:
            _, _, frame = parse_coordinates(row.coordinates)
            f = slice_of(same_sop, geometry[uid]["frames"][same_sop], frame)
        except (KeyError, ValueError):
            continue
        found.setdefault(uid, []).append(f)
    return found


def slice_labels(length: int, spots: list[dict], series: np.ndarray | None = None) -> np.ndarray:
    """Return the labels of each slice, (length, 14) uint8: 1 on the slices of the spots, else 0.

    UNKNOWN where neither a spot nor the series says: in the columns that the series does not know,
    and on the slice of a spot without location at all locations that the series may have.
    series: its labels (14,) 0, 1 or NaN.
    """
    labels = np.zeros((length, len(LABELS)), np.uint8)
    series = np.zeros(len(LABELS)) if series is None else np.asarray(series, float)
    labels[:, np.isnan(series)] = UNKNOWN
    possible = np.flatnonzero(series[:PRESENT] != 0)  # NaN is
    for spot in spots:
        if spot["class_id"] == NOT_LOCATED:
            labels[spot["f"], possible] = UNKNOWN
    for spot in spots:
        labels[spot["f"], PRESENT] = 1
        if spot["class_id"] != NOT_LOCATED:
            labels[spot["f"], spot["class_id"]] = 1
    return labels


def window_labels(labels: np.ndarray, slice_: int, step: int) -> np.ndarray:
    """Return the labels (14,) that occur between slice - step and slice + step; labels: (n, 14).

    UNKNOWN where no slice has the label and one may have it.
    """
    window = labels[max(0, slice_ - step) : slice_ + step + 1]
    unknown = window == UNKNOWN
    occur = np.where(unknown, 0, window).max(axis=0)
    return np.where(unknown.any(axis=0) & (occur == 0), UNKNOWN, occur).astype(labels.dtype)


def with_nan(labels: np.ndarray) -> np.ndarray:
    """Return labels of slices for tables: as they are, or float64 with NaN for UNKNOWN."""
    unknown = labels == UNKNOWN
    return np.where(unknown, np.nan, labels) if unknown.any() else labels


def safe_slices(
    length: int, aneurysm_slices: list[int], margin: int, fraction: float
) -> np.ndarray:
    """Return the slices (k,) further than max(margin, fraction * length) from all aneurysms."""
    slices = np.arange(length)
    if not aneurysm_slices:
        return slices
    distance = np.abs(slices[:, None] - np.asarray(aneurysm_slices)).min(axis=1)  # (length,)
    return slices[distance > max(margin, fraction * length)]


def negative_slice(uid: str, length: int, positive_f_rel: np.ndarray, seed: int) -> int:
    """Return a healthy series' evaluated slice: at a positive's f_rel, chosen by (seed, uid)."""
    if len(positive_f_rel) == 0:
        return length // 2
    relative = np.sort(positive_f_rel)[seeded_order(uid, seed) % len(positive_f_rel)]
    return min(round(float(relative) * length), length - 1)


def spot_table(
    found: list[dict], meta: pd.DataFrame, slice_uids: dict, safe: dict, seed: int
) -> pd.DataFrame:
    """Return one row a spot: the positives, a negative (f = -1) beside each if slices are safe,
    and a negative for each series without aneurysm, unless a localizer contradicts that.
    """
    lengths = meta.length
    f_rel = np.array([spot["f"] / lengths[spot["SeriesInstanceUID"]] for spot in found])
    nothing = {"location": NOTHING, "class_id": NEGATIVE}
    rows = list(found)
    for spot in found:
        if spot["SeriesInstanceUID"] in safe:
            rows.append({"SeriesInstanceUID": spot["SeriesInstanceUID"], "f": DRAWN} | nothing)
    contradicted = {spot["SeriesInstanceUID"] for spot in found}
    healthy = (meta[LABELS[PRESENT]] == 0) & meta.index.isin(list(safe.keys() - contradicted))
    for uid, length in lengths[healthy].items():
        f = negative_slice(uid, length, f_rel, seed)
        sop_uid = slice_uids[uid][f]
        rows.append({"SeriesInstanceUID": uid, "SOPInstanceUID": sop_uid, "f": f} | nothing)

    table = pd.DataFrame(rows, columns=LOCATED)
    for name in ("fold", "length", "h", "w", "mod"):
        table[name] = meta.loc[table.SeriesInstanceUID, name].to_numpy()
    table["f_rel"] = (table.f / table.length).where(table.f >= 0)
    by = ["SeriesInstanceUID", "class_id", "f"]
    return table[COLUMNS].sort_values(by, kind="stable", ignore_index=True)
