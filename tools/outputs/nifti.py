"""{name}.nii.gz: the heat of all slices that the networks looked at, in patient space.

A voxel is a pixel of the heatmap, as deep as these slices are apart: nothing is interpolated.
"""

import gzip
from pathlib import Path

import numpy as np

from src.artifacts.files import atomic
from src.dicom import Series
from src.inference.ensemble import Prediction
from src.inference.findings import stored_place
from src.labels import PRESENT
from src.preprocess.images import PreparedSeries
from tools.nifti.errors import nibabel
from tools.outputs.source import NOTICE, OutputError, require_localised, require_places

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
STEPS = 1024  # from 0 to 1
APART = 0.25  # voxels that a voxel's centre may be away from where the grid has it


def write(out: Path, name: str, prepared: PreparedSeries, prediction: Prediction) -> None:
    """Write the heat times the probability of an aneurysm on the slice, float32 in 0..1.

    Its highest values are the findings' probabilities. Rounded, it is a small file.
    """
    require_localised(prediction)
    affine = LPS_TO_RAS @ grid_affine(prepared.series, prediction)
    heat = prediction.heat.float().numpy() * prediction.slices[:, PRESENT, None, None]  # (T, h, w)
    heat = (heat.transpose(2, 1, 0) * STEPS).round() / STEPS
    image = nibabel().Nifti1Image(heat.astype(np.float32), affine)
    image.set_sform(affine, code=1)  # 1: of the scanner
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"aneurysm heat; {NOTICE}".encode()
    with atomic(out / f"{name}.nii.gz", sync=False) as file:
        file.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def grid_affine(series: Series, prediction: Prediction) -> np.ndarray:
    """Return the affine (4, 4) from column, row and token of the heat to mm left, back and head.

    Its axes are exactly perpendicular, as programs based on ITK demand.
    Raise OutputError if no such grid fits all slices.
    """
    require_places(series)
    height, width = prediction.heat.shape[1:]
    last = np.array([width, height, len(prediction.tokens)]) - 1
    if not last.all():
        raise OutputError("a volume needs two slices, and heatmaps of two pixels a side")
    columns, rows, tokens = np.meshgrid([0, last[0]], [0, last[1]], range(last[2] + 1))
    grid = np.stack([columns.ravel(), rows.ravel(), tokens.ravel(), np.ones(columns.size)])
    places = np.array([heat_place(series, prediction, *voxel) for voxel in grid[:3].T]).T

    first = heat_place(series, prediction, 0, 0, 0)
    ends = [heat_place(series, prediction, *(np.eye(3, dtype=int)[k] * last)) for k in range(3)]
    steps = (np.array(ends) - first).T / last  # (3, 3) mm of a voxel's sides, one a column
    spacing = np.linalg.norm(steps, axis=0)
    if not spacing.all():
        raise OutputError("its slices are all at one place")
    left, _, right = np.linalg.svd(steps / spacing)
    affine = np.eye(4)
    affine[:3, :3] = left @ right * spacing
    affine[:3, 3] = places.mean(axis=1) - affine[:3, :3] @ grid[:3].mean(axis=1)
    apart = np.linalg.inv(affine)[:3] @ np.vstack([places, np.ones(columns.size)]) - grid[:3]
    if np.abs(apart).max() > APART:
        raise OutputError("no grid fits its slices: their spacing is irregular, or they are tilted")
    return affine


def heat_place(
    series: Series, prediction: Prediction, column: int, row: int, token: int
) -> np.ndarray:
    """Return where a pixel of the heatmap is in the patient: (3,) mm left, back and head."""
    crop = prediction.view.crop
    height, width = prediction.heat.shape[1:]
    x, y = (column + 0.5) * crop / width - 0.5, (row + 0.5) * crop / height - 0.5
    number = int(prediction.tokens[int(token)])
    place = series.patient_point(number, *stored_place(series, x, y, prediction.view))
    if place is None:
        raise OutputError("some of its slices do not say where they are in the patient")
    return np.array(place)
