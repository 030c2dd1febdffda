"""The voxels of a NIfTI volume, as the 16-bit numbers that DICOM stores."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.valuerep import format_number_as_ds

from tools.nifti.errors import damaged, require
from tools.nifti.grid import Grid

INT16, UINT16 = np.iinfo(np.int16), np.iinfo(np.uint16)
LARGEST = 1e30  # of a value; float32 holds it with room to spare
CHUNK = 1 << 20  # bytes
STEPS = 65534  # of numbers that are scaled to 16 bits


@dataclass(frozen=True)
class Voxels:
    """value = slope * stored + intercept"""

    stored: np.ndarray  # (columns, rows, slices) int16 or uint16
    slope: float
    intercept: float
    exact: bool  # otherwise every value is within half a slope of the file's


def read_voxels(path: Path, image: Any, grid: Grid) -> Voxels:
    """Return the voxels of an opened volume, turned."""
    raw, slope, intercept = _raw(path, image, grid)
    whole = raw.dtype.kind != "f" or bool((raw == np.rint(raw)).all())
    low, high = float(raw.min()), float(raw.max())
    for limits in (INT16, UINT16):
        if whole and limits.min <= low and high <= limits.max:
            return Voxels(raw.astype(limits.dtype), _decimal(slope), _decimal(intercept), True)
    step = _decimal((high - low) / STEPS * slope)
    middle = _decimal((high + low) / 2 * slope + intercept)
    stored = raw.astype(np.float64) * slope + intercept
    stored -= middle
    stored /= step or np.inf
    np.rint(stored, out=stored)
    fits = step != 0 and -INT16.max <= stored.min() and stored.max() <= INT16.max
    message = f"{path.name}: its values differ too little for the 16 characters of DICOM's decimals"
    require(bool(fits), "bad_scale", message)
    return Voxels(stored.astype(np.int16), step, middle, False)


def _check_sum(path: Path) -> None:
    """Read a compressed file to its end: only there is the check sum, and nibabel stops before."""
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass


def _decimal(number: float) -> float:
    """Return a number as DICOM writes it, in 16 characters."""
    return float(format_number_as_ds(number))


def read_mask(path: Path, image: Any, grid: Grid) -> np.ndarray:
    """Return the values of a mask (columns, rows, slices), turned, uint16."""
    raw, slope, intercept = _raw(path, image, grid)
    values = raw
    if (slope, intercept) != (1, 0):
        values = raw.astype(np.float64) * slope + intercept
    is_mask = bool((values == np.rint(values)).all() and values.min() >= 0)
    is_mask = is_mask and values.max() <= UINT16.max
    require(is_mask, "not_a_mask", f"{path.name} is no mask: its values are not 0, 1, 2 and so on")
    return values.astype(np.uint16)


def _raw(path: Path, image: Any, grid: Grid) -> tuple[np.ndarray, float, float]:
    """Return the stored numbers, turned, with slope and intercept of the file."""
    with damaged(path, "voxels"):
        _check_sum(path)
        raw = np.asarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    if raw.dtype.kind == "f":
        count = int(raw.size - np.isfinite(raw).sum())
        advice = "replace them by the value of air"
        require(
            count == 0, "not_finite", f"{path.name}: {count} voxels are NaN or infinite, {advice}"
        )
    largest = max(abs(float(raw.min())), abs(float(raw.max()))) * abs(slope) + abs(intercept)
    require(largest < LARGEST, "not_finite", f"{path.name}: its values reach {largest:.0e}")
    raw = raw.reshape(grid.stored_shape)  # without axes of length 1 at the end
    return grid.turned(raw), slope, intercept
