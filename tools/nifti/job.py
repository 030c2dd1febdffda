"""What a worker of tools/import_nifti.py does with one scan: NIfTI in, DICOM and a record out."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts.atomic import temporary, unwritable
from src.artifacts.files import read_json, write_json
from src.artifacts.paths import ArtifactError, DataFolder
from src.worker_pool import Failure, attempt
from tools.nifti.dicom_files import Header, slice_uid, uid_of, write_slices
from tools.nifti.errors import NiftiError, require
from tools.nifti.grid import Grid, offset_in, open_volume
from tools.nifti.lesions import Lesion, lesion_at, lesions_of
from tools.nifti.scans import LeftOut, Scan
from tools.nifti.voxels import Voxels, read_mask, read_voxels

VERSION = 2  # of what is written; a series of another one is written again
PLAIN = re.compile(r"[A-Za-z0-9 ._-]{1,64}")  # text that DICOM can hold as it is
NEEDED = {  # of a record
    "set": str,
    "scan": str,
    "made_from": str,
    "patient_id": str,
    "modality": str,
    "age": str,
    "sex": str,
    "annotated": bool,
    "present": int,
    "slices": int,
    "localizers": list,
    "treated": list,
    "notes": list,
}


@dataclass(frozen=True)
class Job:
    """A scan to import, and where to."""

    scan: Scan
    set_name: str
    modality: str  # as in train.csv
    out: Path

    @property
    def uid(self) -> str:
        return uid_of(self.set_name, self.scan.name)

    @property
    def patient_id(self) -> str:
        """What stands for the patient in the files: a name of one's own files may be a person's."""
        patient = f"{self.set_name} {self.scan.patient}"
        if self.scan.is_pseudonym and PLAIN.fullmatch(patient):
            return patient
        return hashlib.sha256(patient.encode()).hexdigest()[:16]

    @property
    def record(self) -> Path:
        return records_folder(self.out) / f"{self.uid}.json"

    @property
    def series(self) -> Path:
        return DataFolder(self.out).series(self.uid)


@dataclass
class Annotated:
    """The lesions of a scan: untreated aneurysms, and treated ones."""

    lesions: list[Lesion] = field(default_factory=list)
    treated: list[Lesion] = field(default_factory=list)


def records_folder(out: Path) -> Path:
    return out / "imported"


def import_scan(job: Job) -> dict | LeftOut | Failure:
    """Write the series of a scan, then its record; return the record."""
    return _attempt(_import, job)


def check_scan(job: Job) -> dict | Failure:
    """Return what the headers say of a scan; no voxel is read."""
    return _attempt(_check, job)


def _attempt(work: Callable[[Job], Any], job: Job) -> Any:
    return attempt(partial(_named, work), job)


def _named(work: Callable[[Job], Any], job: Job) -> Any:
    """Return work(job), or the Failure that names what is wrong with the scan's files."""
    try:
        return work(job)
    except NiftiError as error:
        return Failure(error.reason, str(error))


def is_done(job: Job) -> bool:
    """Return whether the series of a scan is complete and made from the files as they are."""
    try:
        record = read_json(job.record, NEEDED)
    except ArtifactError:
        return False
    files = sum(1 for _ in job.series.glob("*.dcm")) if job.series.is_dir() else 0
    return record["made_from"] == made_from(job) and files == record["slices"]


def made_from(job: Job) -> str:
    """Return a hash of what a series depends on: what is known, sizes and times of the files."""
    known = asdict(job.scan)
    paths = [known.pop("image"), *known.pop("masks")]
    files = []
    for path in paths:
        found = path.stat() if path.exists() else None
        files.append([path.name, found and found.st_size, found and found.st_mtime_ns])
    text = json.dumps([VERSION, job.set_name, job.modality, known, files])
    return hashlib.sha256(text.encode()).hexdigest()


def _import(job: Job) -> dict | LeftOut:
    scan, made = job.scan, made_from(job)
    require(not scan.problem, "bad_table", scan.problem)
    image, grid = open_volume(scan.image)
    annotated = _annotated(scan, grid)
    present = _present(scan, annotated)
    if present is None and scan.annotated:
        return LeftOut(scan.name, "treated: its aneurysms are all treated")
    voxels = read_voxels(scan.image, image, grid)
    _write_series(job, voxels, grid)
    record = {
        "set": job.set_name,
        "scan": scan.name,
        "made_from": made,
        "patient_id": job.patient_id,
        "modality": job.modality,
        "age": scan.age,
        "sex": scan.sex,
        "annotated": scan.annotated,
        "present": int(bool(present)),
        "slices": grid.shape[2],
        "localizers": [_localizer(job.uid, lesion) for lesion in annotated.lesions],
        "treated": [_localizer(job.uid, lesion) for lesion in annotated.treated],
        "notes": _notes(annotated, voxels),
    }
    write_json(job.record, record)
    return record


def _write_series(job: Job, voxels: Voxels, grid: Grid) -> None:
    """Write all files of a series into a folder that gets its name when it is complete."""
    scan, unfinished = job.scan, temporary(job.series)
    header = Header(job.uid, job.patient_id, job.modality, scan.age, scan.sex)
    try:
        unfinished.mkdir(parents=True)
        write_slices(unfinished, voxels, grid, header)
        if job.series.exists():
            shutil.rmtree(job.series)
        os.replace(unfinished, job.series)
    except OSError as error:
        raise unwritable(job.series, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _annotated(scan: Scan, grid: Grid) -> Annotated:
    """Return the lesions of a scan's masks, of its points if it has no masks."""
    annotated = Annotated()
    for path in scan.masks:
        image, mask_grid = open_volume(path)
        offset = _offset(scan, path, grid, mask_grid)
        mask = read_mask(path, image, mask_grid)
        if scan.treated:
            treated = np.where(mask == scan.treated, mask, 0)
            annotated.treated += lesions_of(treated, grid, offset, path.name)
            mask[mask == scan.treated] = 0
        found = lesions_of(mask, grid, offset, path.name)
        empty = scan.present and not found
        require(not empty, "empty_mask", f"{path.name} marks no aneurysm, although there is one")
        annotated.lesions += found
    if not scan.masks:
        annotated.lesions = [lesion_at(point[:3], point[3], grid) for point in scan.points]
    return annotated


def _offset(scan: Scan, path: Path, grid: Grid, mask: Grid) -> tuple[int, int, int]:
    """Return the voxel of the image where a mask begins. Raise NiftiError if its grid differs."""
    offset = offset_in(grid, mask)
    fits = offset is not None and (scan.may_be_part or mask.shape == grid.shape)
    message = f"{path.name} has another grid than its image {scan.image.name}: resample it to that"
    require(fits, "other_grid", message)
    return offset


def _present(scan: Scan, annotated: Annotated) -> bool | None:
    """Return whether a scan has an untreated aneurysm.

    None if all that it has are treated, or if nobody says.
    """
    if not scan.annotated:
        return None
    found = bool(annotated.lesions)
    contradicts = scan.present is False and found
    message = f"{scan.name} is called healthy, but a lesion is marked: correct one of them"
    require(not contradicts, "contradiction", message)
    if scan.present is not None:
        return scan.present
    return None if annotated.treated and not found else found


def _localizer(series_uid: str, lesion: Lesion) -> dict:
    radius, volume = lesion.radius_mm, lesion.volume_mm3
    return {
        "sop_uid": slice_uid(series_uid, lesion.slice),
        "x": round(lesion.x, 4),
        "y": round(lesion.y, 4),
        "radius_mm": None if radius is None else round(radius, 3),
        "volume_mm3": None if volume is None else round(volume, 3),
    }


def _notes(annotated: Annotated, voxels: Voxels) -> list[str]:
    """Return what people should know of a series, a sentence each."""
    notes = []
    moved = sum(lesion.moved for lesion in annotated.lesions)
    if moved:
        notes.append(f"{moved} bent: its centroid is outside of it, its nearest voxel was taken")
    if annotated.treated:
        notes.append("treated aneurysms beside untreated ones: in train_ignored.csv")
    if not voxels.exact:
        notes.append("scaled to 16 bits: every value is within half a step of the file's")
    return notes


def _check(job: Job) -> dict:
    scan = job.scan
    require(not scan.problem, "bad_table", scan.problem)
    _, grid = open_volume(scan.image)
    for path in scan.masks:
        _offset(scan, path, grid, open_volume(path)[1])
    for point in scan.points:
        lesion_at(point[:3], point[3], grid)
    return {"shape": grid.shape, "spacing": grid.spacing.tolist(), "patient_id": job.patient_id}
