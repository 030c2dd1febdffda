"""A predicted series whose one finding is a bright spot, at a place that is known beforehand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.dicom import open_series
from src.inference.ensemble import Prediction
from src.inference.findings import FindingRules, find, findings_at
from src.labels import LABELS, PRESENT
from src.preprocess.images import PreparedSeries, prepare
from src.sampling.resample import seen_volume
from src.sampling.view import extent_mm, view_of
from tests.dicom_files import (
    AXES,
    SPACING,
    places,
    stored_as,
    tilted,
    volume,
    write_frames,
    write_slices,
)

SIZE, CROP = 96, 80  # pixels
SHAPE, SPOT = (8, 40, 48), (4, 17, 28)  # slices, rows, columns; where the spot is
LABEL = 4  # of the finding
STUDY = {
    "PatientName": "Müller^Jane",
    "PatientBirthDate": "19500203",
    "PatientSex": "F",
    "StudyInstanceUID": "1.2.826.77",
    "StudyDate": "20260102",
    "StudyTime": "101112",
    "StudyID": "S1",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Doe^John",
    "FrameOfReferenceUID": "1.2.826.78",
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientComments": "Müller is a baker",
}


@dataclass
class Predicted:
    folder: Path  # of its DICOM files
    prepared: PreparedSeries
    prediction: Prediction
    place: np.ndarray  # (3,) mm of the bright spot to the left, back and head


def predicted(
    folder: Path,
    plane: str = "axial",
    code: str = "",
    storage: str = "files",
    oblique: bool = False,
    view_mm: float = 0.0,
    stride: int = 1,
    missing: int | None = None,
    tilt: float = 0.0,
    placed: bool = True,
    localised: bool = True,
    **tags,
) -> Predicted:
    """Write a volume and return what networks would say that see its bright spot.

    stride: of the slices that are looked at. missing: a slice that is not written.
    tilt: mm that each slice is further down than the one before, as under a tilted gantry.
    placed: whether the files say where they are in the patient.
    tags: of the files, on top of STUDY; None leaves one out.
    """
    axes = tilted(AXES[plane]) if oblique else AXES[plane]
    points = places(axes, SHAPE[0]) + np.arange(SHAPE[0])[:, None] * tilt * axes[1]
    place = points[SPOT[0]] + SPOT[1] * SPACING[1] * axes[1] + SPOT[2] * SPACING[2] * axes[2]
    images = volume(SHAPE, high=900)
    slice_, row, column = SPOT
    images[slice_, row - 1 : row + 2, column - 1 : column + 2] = 4000
    images, points, orientation, spacing = stored_as(images, axes, points, code)
    tags = {name: value for name, value in (STUDY | tags).items() if value is not None}
    points = points if placed else None
    if storage == "frames":
        order = np.arange(SHAPE[0])[::-1]
        path = folder / "a.dcm"
        write_frames(path, images[order], points[order], orientation, **tags)
    else:
        write_slices(folder, images, points, orientation, spacing, **tags)
    if missing is not None:
        (folder / f"{missing:03d}.dcm").unlink()
    prepared = prepare(open_series(folder), SIZE, "fixed").in_memory()
    return Predicted(folder, prepared, _prediction(prepared, view_mm, stride, localised), place)


def _prediction(
    prepared: PreparedSeries, view_mm: float, stride: int, localised: bool
) -> Prediction:
    series = prepared.series
    extent = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
    view = view_of(extent, SIZE, CROP, view_mm, head=(0.55, 0.45))
    tokens = np.arange(0, len(series.slices), stride)
    seen = seen_volume(torch.from_numpy(prepared.images[tokens]), view, torch.device("cpu"))
    bright = (seen.float() - 2.5).clamp(min=0)
    heat = torch.nn.functional.avg_pool2d(bright, 10, stride=2, padding=4)  # (T, 40, 40)
    heat /= heat.max()
    brightest = int(heat.amax(dim=(1, 2)).argmax())
    slices = np.full((len(tokens), len(LABELS)), 0.1)
    slices[brightest, [LABEL, PRESENT]] = 0.9
    rules = FindingRules(threshold=0.15, peaks=3, reach=12.0)
    findings = []
    if localised:
        peaks = find(series, tokens, slices[:, PRESENT], heat, view, rules)
        findings = findings_at(series, tokens, peaks, slices[peaks.token, :PRESENT], view)
    heat = heat if localised else None
    return Prediction(slices.max(axis=0), tokens, slices, heat, findings, view)
