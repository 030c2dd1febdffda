"""NIfTI files for tests, and what independent readers say of the DICOM made from them."""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from src.worker_pool import Failure
from tools.nifti.job import Job, import_scan
from tools.nifti.scans import LeftOut, Scan

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (24, 20, 12)
TILT = np.radians(12)


def affine(code: str = "RAS", spacing=(0.5, 0.6, 0.8), turn=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return an affine (4, 4), voxel -> mm right, front, head, turned by angles about x, y, z.

    code: the direction of each axis of the array, as nibabel names them
    """
    axes = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        plus, minus = "RAS".find(letter), "LPI".find(letter)
        axes[max(plus, minus), axis] = 1 if plus >= 0 else -1
    for axis, angle in enumerate(turn):
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.eye(3)
        first, second = [k for k in range(3) if k != axis]
        rotation[[first, first, second, second], [first, second, first, second]] = (
            cos,
            -sin,
            sin,
            cos,
        )
        axes = rotation @ axes
    result = np.eye(4)
    result[:3, :3] = axes * spacing
    result[:3, 3] = [11.25, -7.5, 30.125]
    return result


def picture(shape=SHAPE, seed: int = 0) -> np.ndarray:
    """Return a volume int16 in which no two lines are alike."""
    return np.random.default_rng(seed).integers(0, 1500, shape).astype(np.int16)


def ball(shape=SHAPE, centre=(8, 9, 5), radius: float = 2.0, value: int = 1) -> np.ndarray:
    """Return a mask uint8 of a ball; centre and radius in voxels."""
    away = np.stack(np.indices(shape), -1) - centre
    return (np.linalg.norm(away, axis=-1) <= radius).astype(np.uint8) * np.uint8(value)


def save(path: Path, array: np.ndarray, to_ras: np.ndarray, codes=(1, 1), scale=None) -> Path:
    """Write a NIfTI file. codes: of sform and qform. scale: scl_slope and scl_inter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, to_ras, dtype=array.dtype)
    image.set_sform(to_ras, codes[0])
    image.set_qform(to_ras if codes[1] else None, codes[1])
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    if scale:  # nibabel would fit them to the values
        content = path.read_bytes()
        path.write_bytes(content[:112] + struct.pack("<2f", *scale) + content[120:])
    return path


def job(out: Path, image: Path, *masks: Path, modality: str = "MRA", **known) -> Job:
    known = {"present": None, "patient": "p1"} | known
    scan = Scan(name=image.name, image=image, masks=masks, **known)
    return Job(scan, "set", modality, out)


def imported(task: Job) -> dict:
    record = import_scan(task)
    assert isinstance(record, dict), record
    return record


def refused(task: Job) -> Failure:
    failure = import_scan(task)
    assert isinstance(failure, Failure), failure
    assert failure.reason != "unexpected" and failure.detail.count(". ") == 0, failure
    assert not task.series.exists() and not task.record.exists()
    return failure


def left_out(task: Job) -> str:
    outcome = import_scan(task)
    assert isinstance(outcome, LeftOut), outcome
    return outcome.reason


def as_itk_reads(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return values (columns, rows, slices) of a DICOM series and its affine (4, 4), LPS."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names, sitk.sitkFloat64)
    result = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    result[:3, :3], result[:3, 3] = directions * image.GetSpacing(), image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), result


def indices_of(shape) -> np.ndarray:
    """Return (n, 4) the indices of all voxels, and 1."""
    indices = np.stack(np.indices(shape), -1).reshape(-1, 3)
    return np.column_stack([indices, np.ones(len(indices))])
