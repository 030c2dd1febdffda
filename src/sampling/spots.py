"""From localizers to spots: where each aneurysm lies in the prepared arrays, the labels of each slice, slices safe for negatives."""

import ast
import math

import numpy as np
import pandas as pd

from src.labels import LABELS, LOCATIONS, NOTHING, PRESENT
from src.orientation import canonical_point
from src.sampling.folds import seeded_order
from src.sampling.slices import resized_point

PUBLISHED_SIDE = 512  # pixels, of the images that x_512 and y_512 refer to
SAFE_SLICES, SAFE_SHARE = (
    5,
    0.05,
)  # a negative lies further than the larger of both from every aneurysm
FEWEST_SAFE = 5  # a series with no more safe slices gives no negatives
DRAWN = -1  # f of a negative spot whose slice is drawn anew in training


def parse_coordinates(text: str) -> tuple[float, float, int | None]:
    """x, y and the stored frame (None where not given) of a text like "{'f': 3, 'x': 258.3, 'y': 261.4}".

    Read as data, never executed. Raises ValueError where it is anything else.
    """
    if not isinstance(text, str) or len(text) > 200:
        raise ValueError("coordinates are not a short text")
    try:
        values = ast.literal_eval(text.strip())
        point, frame = (float(values["x"]), float(values["y"])), values.get("f")
        whole = None if frame is None else int(frame)
    except (
        ValueError,
        OverflowError,
        SyntaxError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(
            f"coordinates {text[:60]!r} are not a mapping with numbers x and y, perhaps f"
        ) from error
    if not all(map(math.isfinite, point)) or isinstance(frame, bool) or frame != whole:
        raise ValueError(f"coordinates {text[:60]!r} are not finite, or f is not a whole number")
    return *point, whole


def locate(row: pd.Series, meta: pd.DataFrame, slice_uids: dict, geometry: dict) -> dict:
    """The spot of one row of train_localizers.csv. Raises ValueError with the reason for which the row is dropped.

    meta: train_meta.csv by SeriesInstanceUID. x, y, h, w of the spot belong to the stored image, x_512 and y_512 to the prepared one.
    """
    uid = row.SeriesInstanceUID
    if row.location not in LOCATIONS:
        raise ValueError("unknown location")
    if uid not in meta.index:
        raise ValueError("series without arrays")
    x, y, frame = parse_coordinates(row.coordinates)
    matches = np.flatnonzero(np.asarray(slice_uids[uid]) == row.SOPInstanceUID)
    if len(matches) == 0:
        raise ValueError("SOPInstanceUID not in the series")
    stored = geometry[uid]["frames"][matches]
    if stored.min() >= 0 and (len(matches) > 1 or frame is not None):
        matches = matches[stored == frame] if frame is not None else matches[:0]
        if len(matches) == 0:
            raise ValueError("no such frame")
    if len(matches) > 1:
        raise ValueError("several slices have this SOPInstanceUID")
    facts = meta.loc[uid]
    if not (-0.5 <= x <= facts.w - 0.5 and -0.5 <= y <= facts.h - 0.5):
        raise ValueError("point outside the image")
    prepared_x, prepared_y = canonical_point(x, y, facts.orientation, facts.h, facts.w)
    width, height = (facts.h, facts.w) if "T" in facts.orientation else (facts.w, facts.h)
    return {
        "location": row.location,
        "class_id": LOCATIONS.index(row.location),
        "f": int(matches[0]),
        "SOPInstanceUID": row.SOPInstanceUID,
        "coordinates": row.coordinates,
        "x": x,
        "y": y,
        "x_512": resized_point(prepared_x, width, PUBLISHED_SIDE),
        "y_512": resized_point(prepared_y, height, PUBLISHED_SIDE),
        "SeriesInstanceUID": uid,
    }


def locate_all(
    localizers: pd.DataFrame, meta: pd.DataFrame, slice_uids: dict, geometry: dict
) -> tuple[list[dict], pd.DataFrame]:
    """(spots, dropped rows: SeriesInstanceUID, line of the csv, reason)."""
    found, dropped = [], []
    for number, (_, row) in enumerate(localizers.iterrows()):
        try:
            found.append(locate(row, meta, slice_uids, geometry))
        except ValueError as error:
            dropped.append(
                {
                    "SeriesInstanceUID": row.SeriesInstanceUID,
                    "line": number + 2,
                    "reason": str(error),
                }
            )
    return found, pd.DataFrame(dropped, columns=["SeriesInstanceUID", "line", "reason"])


def slice_labels(length: int, spots: list[dict]) -> np.ndarray:
    """Labels of each slice, (length, 14) uint8: 1 on the slices on which the localizers put an aneurysm."""
    labels = np.zeros((length, len(LABELS)), np.uint8)
    for spot in spots:
        labels[spot["f"], [spot["class_id"], PRESENT]] = 1
    return labels


def window_labels(labels: np.ndarray, slice_: int, step: int) -> np.ndarray:
    """(14,): any label on the slices that the network sees, both neighbours included. labels: (n, 14), of each slice."""
    return labels[max(0, slice_ - step) : slice_ + step + 1].max(axis=0)


def safe_slices(length: int, aneurysm_slices: list[int]) -> np.ndarray:
    """Slices further than max(5, 5 % of the series) from every aneurysm: (k,) int; the first and the last slice count."""
    slices = np.arange(length)
    if not aneurysm_slices:
        return slices
    distance = np.abs(slices[:, None] - np.asarray(aneurysm_slices)).min(axis=1)
    return slices[distance > max(SAFE_SLICES, SAFE_SHARE * length)]


def negative_slice(uid: str, length: int, positive_f_rel: np.ndarray, seed: int) -> int:
    """The evaluated slice of a series without aneurysm: its relative position is one of the positives', chosen by (seed, uid)."""
    if len(positive_f_rel) == 0:
        return length // 2
    relative = np.sort(positive_f_rel)[seeded_order(uid, seed) % len(positive_f_rel)]
    return min(round(float(relative) * length), length - 1)


def spot_table(
    found: list[dict], meta: pd.DataFrame, slice_uids: dict, safe: dict, seed: int
) -> pd.DataFrame:
    """One row a spot: the positives, one more negative (f = -1) for each in a series that has safe slices, and one negative for
    each series without aneurysm (but none where a localizer contradicts that). meta: train_meta.csv with fold, by SeriesInstanceUID."""
    positives = pd.DataFrame(
        found,
        columns=[
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "coordinates",
            "location",
            "class_id",
            "f",
            "x",
            "y",
            "x_512",
            "y_512",
        ],
    )
    f_rel = (positives.f / positives.SeriesInstanceUID.map(meta.length)).to_numpy(float)
    nothing = {"location": NOTHING, "class_id": PRESENT}
    beside = [
        {"SeriesInstanceUID": uid, "f": DRAWN, **nothing}
        for uid in positives.SeriesInstanceUID
        if uid in safe
    ]
    healthy = []
    for uid, facts in meta[(meta[LABELS[PRESENT]] == 0) & meta.index.isin(list(safe))].iterrows():
        f = negative_slice(uid, facts.length, f_rel, seed)
        healthy.append(
            {"SeriesInstanceUID": uid, "SOPInstanceUID": slice_uids[uid][f], "f": f, **nothing}
        )
    table = pd.concat([positives, pd.DataFrame(beside), pd.DataFrame(healthy)], ignore_index=True)
    facts = meta.loc[table.SeriesInstanceUID, ["fold", "length", "h", "w", "mod"]].reset_index(
        drop=True
    )
    table = pd.concat([table, facts], axis=1)
    table["f_rel"] = (table.f / table.length).where(table.f >= 0)
    order = "SeriesInstanceUID SOPInstanceUID coordinates location fold length x y f f_rel class_id h w x_512 y_512 mod".split()
    return table[order].sort_values(
        ["SeriesInstanceUID", "class_id", "f"], kind="stable", ignore_index=True
    )
