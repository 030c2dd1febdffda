"""The report's worst errors: which series, and what they look like."""

import cv2
import numpy as np
import pandas as pd

from src.artifacts.files import read_array, read_layout, read_slices
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.artifacts.tables import read_spots
from src.labels import LABELS, LOCATIONS, NOTHING, PRESENT
from src.preprocess.intensity import TOP
from src.sampling.slices import resized_point
from src.sampling.spots import PUBLISHED_SIDE
from src.sampling.view import extent_mm
from tools.figures.canvas import BRIGHTER
from tools.figures.contact_sheet import prepared_point
from tools.pages.render import data_uri
from tools.pages.report_calibration import PLACE
from tools.pages.report_inputs import UID, Pooled
from tools.pages.report_scores import PRESENCE

SIDE = 320  # pixels, the longer one of a picture
RING, CROSS = (255, 224, 86), (0, 159, 230)  # blue, green, red: of an aneurysm, of a finding
PREDICTED = [f"{label} predicted" for label in LABELS]


def section(
    data: DataFolder, runs: dict[int, RunFolder], judged: Pooled, found: pd.DataFrame, count: int
) -> dict:
    """Return the `count` worst false alarms and the worst misses.

    runs: by fold. found: findings of `read_findings`.
    """
    presence, given = judged.table[PRESENCE], f"{PRESENCE} predicted"
    alarms = judged.table[presence == 0].nlargest(count, given)
    missed = judged.table[presence == 1].nsmallest(count, given)
    spots = read_spots(data)
    spots = spots[spots.location != NOTHING]
    errors = {"alarms": [], "missed": []}
    for kind, table in (("alarms", alarms), ("missed", missed)):
        for _, series in table.iterrows():
            run = runs[int(series.fold)]
            errors[kind].append(error_of(data, run, series, spots, found, kind == "missed"))
    shown = [error["picture"] for kind in errors.values() for error in kind]
    return errors | {"pictures": any(shown), "all": all(shown)}


def error_of(
    data: DataFolder,
    run: RunFolder,
    series: pd.Series,
    spots: pd.DataFrame,
    found: pd.DataFrame,
    missed: bool,
) -> dict:
    """Return what the page says and shows of a series."""
    probabilities = series[PREDICTED].to_numpy(np.float64)
    if missed:
        named = [k for k, label in enumerate(LOCATIONS) if series[label] == 1]
    else:
        named = [int(probabilities[:PRESENT].argmax())]
    here = spots[spots[UID] == series[UID]]
    theirs = found[found[UID] == series[UID]].sort_values("probability", ascending=False)
    theirs = theirs.dropna(subset=PLACE)
    if missed and len(here):
        slice_ = int(here.f.iloc[0])
    elif len(theirs):
        slice_ = int(theirs.slice.iloc[0])
    else:
        slice_ = top_slice(run, series)
    about = [str(series[name]) for name in ("Modality", "plane") if pd.notna(series.get(name))]
    return {
        "uid": series[UID],
        "about": ", ".join([*about, f"fold {series.fold}"]),
        "present": probabilities[PRESENT],
        "locations": [(LABELS[k], probabilities[k]) for k in named],
        "slice": slice_,
        "picture": picture(data, series, slice_, here, theirs),
    }


def top_slice(run: RunFolder, series: pd.Series) -> int:
    """Return the slice on which stage 1 is surest of an aneurysm; the middle one without logits."""
    try:
        logits = read_array(run.logit(series[UID]))  # (2, n, 14)
        return int(logits[..., PRESENT].astype(np.float32).mean(axis=0).argmax())
    except ArtifactError:
        return int(series.get("length", 1)) // 2


def picture(
    data: DataFolder, series: pd.Series, slice_: int, spots: pd.DataFrame, found: pd.DataFrame
) -> str | None:
    """Return a slice as the source of an <img>, or None if the data folder does not hold it.

    A ring marks each spot on the slice, a cross the first finding if it is there.
    """
    path = data.sequence(series[UID])
    try:
        layout = read_layout(path)
        image = read_slices(path, np.array([slice_]), layout=layout)[0].astype(np.float32)
    except (ArtifactError, OSError):
        return None
    width, height = size_of(series)
    grey = (np.clip(image / TOP, 0, 1) ** BRIGHTER * 255).astype(np.uint8)
    shown = cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC)
    shown = cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR)

    def place(x: float, y: float) -> tuple[int, int]:
        across = resized_point(x, PUBLISHED_SIDE, width)
        return round(across), round(resized_point(y, PUBLISHED_SIDE, height))

    for spot in spots[spots.f == slice_].itertuples():
        cv2.circle(shown, place(spot.x_512, spot.y_512), 14, RING, 2, cv2.LINE_AA)
    for row in found[:1][found[:1].slice == slice_].itertuples():
        at = place(*prepared_point(row.column, row.row, series))
        cv2.drawMarker(shown, at, CROSS, cv2.MARKER_CROSS, 18, 2, cv2.LINE_AA)
    coded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return data_uri(coded.tobytes(), "jpeg")


def size_of(series: pd.Series) -> tuple[int, int]:
    """Return width and height in pixels of a picture that is true to scale."""
    if not {"h", "w", "orientation"} <= set(series.index):
        return SIDE, SIDE
    spacing = series.get("row_spacing"), series.get("column_spacing")
    across, down = extent_mm((series.h, series.w), spacing, series.orientation)
    pixel = max(across, down) / SIDE
    return max(1, round(across / pixel)), max(1, round(down / pixel))
