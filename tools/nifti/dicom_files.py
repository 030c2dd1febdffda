"""Write a volume as a series of DICOM files, one a slice, without any name of a patient."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from tools.nifti.grid import Grid, dicom_affine
from tools.nifti.voxels import Voxels

ROOT = uuid.UUID("6f0d3a52-7b1c-5a7e-9f43-2f1f6a0c5d10")  # of all UIDs made here
SEXES = {"male": "M", "female": "F"}


@dataclass(frozen=True)
class Header:
    """What all files of a series share."""

    series_uid: str
    patient_id: str
    modality: str  # as in train.csv: CTA is CT, all others are MR
    age: str  # years, or ""
    sex: str  # Male, Female, or ""


def uid_of(*names: str) -> str:
    """Return a UID made of names, the same in every run."""
    return f"2.25.{uuid.uuid5(ROOT, '/'.join(names)).int}"


def slice_uid(series_uid: str, index: int) -> str:
    """Return the SOPInstanceUID of a slice, counted from the feet."""
    return uid_of(series_uid, str(index))


def write_slices(folder: Path, voxels: Voxels, grid: Grid, header: Header) -> None:
    """Write {SOPInstanceUID}.dcm of each slice into a folder, from the feet to the head."""
    data = _common(voxels, grid, header)
    affine = dicom_affine(grid)
    for index in range(grid.shape[2]):
        data.SOPInstanceUID = slice_uid(header.series_uid, index)
        data.InstanceNumber = index + 1
        data.ImagePositionPatient = _decimals(affine[:3, 2] * index + affine[:3, 3])
        # DICOM stores row after row.
        data.PixelData = np.ascontiguousarray(voxels.stored[:, :, index].T).tobytes()
        data.save_as(folder / f"{data.SOPInstanceUID}.dcm", enforce_file_format=True)


def _common(voxels: Voxels, grid: Grid, header: Header) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    is_ct = header.modality == "CTA"
    data.SOPClassUID = CTImageStorage if is_ct else MRImageStorage
    data.Modality = "CT" if is_ct else "MR"
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if is_ct else "OTHER"]
    data.SeriesInstanceUID = header.series_uid
    data.StudyInstanceUID = uid_of(header.series_uid, "study")
    data.FrameOfReferenceUID = uid_of(header.series_uid, "frame of reference")
    data.PatientID, data.PatientSex = header.patient_id, SEXES.get(header.sex.lower(), "")
    if header.age:
        data.PatientAge = f"{int(header.age):03d}Y"
    data.BodyPartExamined, data.SeriesNumber = "HEAD", 1
    _set_unknown(data, is_ct)
    _set_geometry(data, grid, is_ct)
    _set_pixels(data, voxels, grid, is_ct)
    return data


def _set_unknown(data: Dataset, is_ct: bool) -> None:
    """Add what the standard asks for and NIfTI does not tell, empty where that is allowed."""
    names = ["PatientName", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID"]
    names += ["AccessionNumber", "ReferringPhysicianName", "Manufacturer", "PatientPosition"]
    names += ["PositionReferenceIndicator", "AcquisitionNumber"]
    if is_ct:
        names += ["KVP"]
    else:
        names += ["ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength"]
        names += ["RepetitionTime"]
        data.ScanningSequence, data.SequenceVariant = "RM", "NONE"  # research mode
    for name in names:
        setattr(data, name, None)


def _set_geometry(data: Dataset, grid: Grid, is_ct: bool) -> None:
    across, down, between = grid.spacing
    data.PixelSpacing = _decimals([down, across])
    data.SliceThickness = format_number_as_ds(float(between))
    if not is_ct:
        data.SpacingBetweenSlices = format_number_as_ds(float(between))
    data.ImageOrientationPatient = _decimals(grid.directions[:, :2].T.ravel())


def _set_pixels(data: Dataset, voxels: Voxels, grid: Grid, is_ct: bool) -> None:
    data.Columns, data.Rows = grid.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(voxels.stored.dtype.kind == "i")
    if is_ct or (voxels.slope, voxels.intercept) != (1, 0):
        data.RescaleSlope = format_number_as_ds(voxels.slope)
        data.RescaleIntercept = format_number_as_ds(voxels.intercept)
        data.RescaleType = "HU" if is_ct else "US"


def _decimals(numbers: np.ndarray | list[float]) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]
