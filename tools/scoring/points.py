"""Findings and aneurysms of tools/score.py: where they are, in millimetres.

A point is given in the patient (x, y, z in mm: to the left, to the back, to the head, as DICOM and
3D Slicer's LPS have it), or as a pixel of a slice; then the DICOM files of its series say where.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.files import read_json
from src.artifacts.paths import ArtifactError
from src.dicom import DicomError, Series, open_series
from src.sampling.slices import spacing_or_default
from src.sampling.spots import parse_coordinates, slice_of
from src.script import UserError
from tools.scoring.tables import UID, numbers, read_some_cells

SOP = "SOPInstanceUID"
PLACE, PIXEL = ["x", "y", "z"], ["column", "row"]  # mm in the patient; of the stored image
COLUMNS = [UID, SOP, "frame", *PIXEL, *PLACE]  # NaN, or an empty text, where not given
FARTHEST = 1e5  # mm or pixels


class NoPlace(Exception):
    """Points of a series cannot be put in millimetres. The message says why."""


def read_aneurysms(path: Path) -> pd.DataFrame:
    """Return COLUMNS, radius (mm, NaN if unknown), counted (True) of each aneurysm of a table."""
    cells = read_some_cells(path, (UID,))
    points = points_of(path, cells).assign(radius=radii_of(path, cells), counted=True)
    return points.reset_index(drop=True)


def with_ignored(aneurysms: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return aneurysms, and those of a table that do not count, if it exists."""
    if not path.exists():
        return aneurysms
    return pd.concat([aneurysms, read_aneurysms(path).assign(counted=False)], ignore_index=True)


def radii_of(path: Path, cells: pd.DataFrame) -> pd.Series:
    """Return radius_mm of each row; else that of a ball of volume_mm3; else NaN."""
    radii = pd.Series(np.nan, cells.index)
    if "volume_mm3" in cells:
        volumes = numbers(path, cells["volume_mm3"], 0, FARTHEST, empty=True)
        radii = np.cbrt(3 * volumes / (4 * np.pi))
    if "radius_mm" in cells:
        radii = numbers(path, cells["radius_mm"], 0, FARTHEST, empty=True).fillna(radii)
    return radii


def read_findings(path: Path, uids: list[str]) -> pd.DataFrame:
    """Return COLUMNS and probability of the findings of these series.

    path: a folder of tools/predict.py, or a csv. Raise UserError if no series has any finding.
    """
    if path.is_dir():
        table = pd.concat([read_json_findings(path, uid) for uid in uids], ignore_index=True)
    else:
        cells = read_some_cells(path, (UID, "probability"))
        table = points_of(path, cells)
        table["probability"] = numbers(path, cells["probability"], 0, 1)
        table = table[table[UID].isin(uids)].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{path} holds no finding of any series that is scored: check the path")
    return table


def read_json_findings(folder: Path, uid: str) -> pd.DataFrame:
    """Return the findings that tools/predict.py wrote for a series."""
    path = folder / f"{uid}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: run tools/predict.py on this series with --out")
    rows = []
    for finding in read_json(path, {"findings": list})["findings"]:
        try:
            rows.append([uid, *json_values(finding)])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} holds a finding that is none of tools/predict.py: predict again"
            ) from error
    return pd.DataFrame(rows, columns=[*COLUMNS, "probability"])


def json_values(finding: dict) -> list:
    """Return what COLUMNS name behind the series, and the probability; raise if one is strange."""
    patient = [np.nan] * 3 if finding["patient"] is None else finding["patient"]
    places = [float(value) for value in patient]
    pixel = [float(finding[name]) for name in ("frame", "x", "y")]
    probability = float(finding["probability"])
    if len(places) != 3 or not 0 <= probability <= 1:
        raise ValueError("not three coordinates, or no probability")
    return [str(finding["sop_uid"]), *pixel, *places, probability]


def points_of(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """Return COLUMNS of a table of points. index: lines. Raise ArtifactError if it has none."""
    unknown = pd.Series(np.nan, cells.index)
    found = {UID: cells[UID], SOP: cells.get(SOP, "")}
    found |= dict.fromkeys(("frame", *PIXEL, *PLACE), unknown)
    if set(PLACE) <= set(cells):
        for name in PLACE:
            found[name] = numbers(path, cells[name], -FARTHEST, FARTHEST)
    elif {SOP, "coordinates"} <= set(cells):
        found |= pixels_of(path, cells["coordinates"])
    elif {SOP, "x", "y"} <= set(cells):
        for name, given in zip(PIXEL, "xy", strict=True):
            found[name] = numbers(path, cells[given], -FARTHEST, FARTHEST)
    elif {SOP, "frame", *PIXEL} <= set(cells):  # of tools/measure_findings.py
        for name in ("frame", *PIXEL):
            found[name] = numbers(path, cells[name], -FARTHEST, FARTHEST)
    else:
        raise ArtifactError(
            f"{path} has no places: name columns x, y, z (mm in the patient: left, back, head), "
            f"or {SOP} and coordinates, or {SOP} and x, y (column and row)"
        )
    return pd.DataFrame(found, cells.index)


def pixels_of(path: Path, texts: pd.Series) -> dict[str, pd.Series]:
    """Return column, row and stored frame (NaN if none) of coordinates. index: lines."""
    rows = []
    for line, text in texts.items():
        try:
            column, row, frame = parse_coordinates(text)
        except ValueError as error:
            raise ArtifactError(f"{path}, line {line}: {error}: correct them") from error
        rows.append((column, row, np.nan if frame is None else float(frame)))
    table = pd.DataFrame(rows, texts.index, [*PIXEL, "frame"], dtype=np.float64)
    return {name: table[name] for name in table}


def places_of(uid: str, root: Path, *tables: pd.DataFrame) -> list[np.ndarray]:
    """Return the places (k, 3) in mm of each table of points of a series, all in one system.

    Headers below `root` are read only if points are pixels. Raise NoPlace with the reason.
    """
    points = pd.concat(tables, ignore_index=True)
    places = points[PLACE].to_numpy(np.float64)
    if np.isnan(places).any():
        places = _from_headers(open_one(root / uid), points)
    ends = np.cumsum([len(table) for table in tables])[:-1]
    return np.split(places, ends)


def open_one(folder: Path) -> Series:
    try:
        return open_series(folder)
    except DicomError as error:
        raise NoPlace(f"its DICOM files cannot be read ({error.reason})") from error


def _from_headers(series: Series, points: pd.DataFrame) -> np.ndarray:
    """Return places in the patient; in the image if the series tells no place in the patient."""
    in_patient, in_image = [], []
    for point in points.to_dict("records"):
        place = tuple(point[name] for name in PLACE)
        given = not np.isnan(place[0])
        index = None if np.isnan(point["column"]) else index_of(series, point)
        x, y = point["column"], point["row"]
        in_image.append(None if index is None else image_point(series, index, x, y))
        in_patient.append(place if given else series.patient_point(index, x, y))
    for places in (in_patient, in_image):
        if all(place is not None for place in places):
            return np.array(places, np.float64).reshape(-1, 3)
    raise NoPlace("its DICOM files tell no place in the patient")


def index_of(series: Series, point: dict) -> int:
    """Return the slice of a point that names its SOP Instance UID and perhaps a stored frame."""
    same = np.flatnonzero(np.asarray(series.sop_uids) == point[SOP])
    frame = None if np.isnan(point["frame"]) or point["frame"] < 0 else int(point["frame"])
    try:
        return slice_of(same, series.frames[same], frame)
    except ValueError as error:
        raise NoPlace(str(error)) from error


def image_point(series: Series, index: int, x: float, y: float) -> np.ndarray:
    """Return a point of the stored image as (3,) mm: across, down, along the normal."""
    between, row_spacing, column_spacing = spacing_or_default(series.spacing)
    along = index * between if series.positions is None else series.positions[index]
    return np.array([x * column_spacing, y * row_spacing, along])
