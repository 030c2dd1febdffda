"""Numbers in artifacts that nothing real can have: refused by series and file as they are read."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.files import read_pickle, reading
from src.artifacts.paths import ArtifactError, DataFolder, remedy
from src.artifacts.ranges import FARTHEST, SPACINGS
from src.labels import LABELS, NEGATIVE
from src.text import printable

HEADS = ("head_x", "head_y")  # fractions of the image
INFINITY, NEGATIVE_INFINITY = 0x7C00, 0xFC00  # float16; what has a larger code is NaN


def all_finite(values: np.ndarray) -> bool:
    """Return whether no value is inf or NaN.

    float16 is compared as integers, in whose order inf and NaN come last among the positive and
    among the negative values: 15 times as fast as np.isfinite.
    """
    if values.dtype != np.float16 or not values.size:
        return bool(np.isfinite(values).all())
    positive = values.view(np.int16).max() < INFINITY
    return bool(positive and values.view(np.uint16).max() < NEGATIVE_INFINITY)


def require_finite(values: np.ndarray, path: Path) -> np.ndarray:
    """Return values that were read from {uid}.npy; raise ArtifactError if one is inf or NaN."""
    if all_finite(values):
        return values
    raise ArtifactError(
        f"series {path.stem}: {path} holds values that are not finite: delete it and {remedy(path)}"
    )


def read_geometry(data: DataFolder) -> dict[str, dict[str, np.ndarray]]:
    """Return {uid: {"positions" (n,) mm, "frames" (n,)}}; unknown positions are NaN.

    Raise ArtifactError if a position is infinite or farther away than any scanner reaches.
    """
    geometry = read_pickle(data.geometry)
    with reading(data.geometry, "the slices' geometry"):
        for uid, series in geometry.items():
            distances = np.abs(np.asarray(series["positions"], float))
            if (distances > FARTHEST).any():
                raise ArtifactError(
                    f"series {uid}: {data.geometry} holds a position {np.nanmax(distances):.3g} mm "
                    f"from the scanner's origin: {_again(data, uid)}"
                )
    return geometry


def require_plausible(series: pd.DataFrame, data: DataFolder, path: Path) -> pd.DataFrame:
    """Return a table of series that was read from `path`.

    Raise ArtifactError if a label is not 0, 1 or empty, or a spacing neither empty nor plausible.
    """
    for label in LABELS:
        wrong = series[label].notna() & ~series[label].isin([0, 1])
        if wrong.any():
            row = series[wrong].iloc[0]
            raise ArtifactError(
                f"series {row.SeriesInstanceUID}: {path} holds {printable(row[label], 20)} as "
                f"{label!r}, neither 0 nor 1: run create_folds.py again"
            )
    for column, limits in SPACINGS.items():
        if column not in series:
            continue
        spacing = pd.to_numeric(series[column], errors="coerce")
        wrong = series[column].notna() & ~spacing.between(*limits)
        if wrong.any():
            row = series[wrong].iloc[0]
            raise ArtifactError(
                f"series {row.SeriesInstanceUID}: {path} holds {column} "
                f"{printable(row[column], 20)} mm: {_again(data, row.SeriesInstanceUID)}"
            )
    for column in HEADS:
        if column not in series:
            continue
        place = pd.to_numeric(series[column], errors="coerce")
        wrong = series[column].notna() & ~place.between(0, 1)
        if wrong.any():
            row = series[wrong].iloc[0]
            raise ArtifactError(
                f"series {row.SeriesInstanceUID}: {path} holds {printable(row[column], 20)} as "
                f"{column}, no fraction of an image: {_again(data, row.SeriesInstanceUID)}"
            )
    return series


def require_points(spots: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a table of spots; raise ArtifactError if an aneurysm's point is inf or NaN."""
    columns = ["f", "x_512", "y_512"]
    wrong = (spots.class_id != NEGATIVE) & ~np.isfinite(spots[columns].astype(float)).all(axis=1)
    if wrong.any():
        uid = spots.SeriesInstanceUID[wrong].iloc[0]
        raise ArtifactError(
            f"series {uid}: {path} holds an aneurysm without a finite point: "
            "run create_folds.py again"
        )
    return spots


def _again(data: DataFolder, uid: str) -> str:
    """Return how to have a series read again, by the checks of today."""
    return f"delete {data.facts(uid)} and run preprocess_data.py and create_folds.py again"
