"""DICOM files of a synthetic series, with the tags that the challenge keeps.

A series is a folder of classic slices, or one enhanced multi-frame file.
"""

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from tools.phantom.render import CTA
from tools.phantom.scan import Scan, to_stored


def write_series(
    folder: Path, image: np.ndarray, scan: Scan, header: dict[str, str], entropy: str
) -> list[tuple[str, int]]:
    """Write the picture (n, h, w); return SOPInstanceUID and stored frame of each grid slice.

    The frame is -1 in files of one slice.

    header: tags that all files of the series share
    entropy: text that the SOP UIDs are made from
    """
    folder.mkdir(parents=True)
    stored = to_stored(image, scan)
    common = _common(scan, header)
    count = 1 if scan.multi_frame else len(stored)
    uids = [generate_uid(entropy_srcs=[entropy, str(place)]) for place in range(count)]
    places = np.argsort(scan.order).tolist()
    if scan.multi_frame:
        _write_frames(folder, stored, scan, common, uids[0])
        return [(uids[0], place) for place in places]
    _write_slices(folder, stored, scan, common, uids)
    return [(uids[place], -1) for place in places]


def _common(scan: Scan, header: dict[str, str]) -> Dataset:
    data = Dataset()
    for tag, value in header.items():
        setattr(data, tag, value)
    data.Modality = "CT" if scan.modality == CTA else "MR"
    data.Rows, data.Columns = scan.grid.shape[1:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, scan.bits, scan.bits - 1
    data.PixelRepresentation = int(scan.signed)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def _write_slices(
    folder: Path, stored: np.ndarray, scan: Scan, data: Dataset, sop_uids: list[str]
) -> None:
    data.SOPClassUID = CTImageStorage if scan.modality == CTA else MRImageStorage
    _set_measures(data, scan)
    data.ImageOrientationPatient = _orientation(scan)
    _set_rescale(data, scan)
    for place, pixels in enumerate(stored):
        data.SOPInstanceUID, data.InstanceNumber = sop_uids[place], place + 1
        data.ImagePositionPatient = _position(scan, scan.order[place])
        data.PixelData = pixels.tobytes()
        path = folder / f"{sop_uids[place]}.dcm"
        data.save_as(path, enforce_file_format=True)
        if place == 0:
            data = dcmread(path)  # elements that were read are not encoded again: twice as fast


def _write_frames(
    folder: Path, stored: np.ndarray, scan: Scan, data: Dataset, sop_uid: str
) -> None:
    """Write one file; geometry is in the functional groups alone, as in the challenge's files."""
    data.SOPClassUID, data.SOPInstanceUID, data.InstanceNumber = EnhancedMRImageStorage, sop_uid, 1
    data.NumberOfFrames = len(stored)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    _set_measures(measures, scan)
    orientation.ImageOrientationPatient = _orientation(scan)
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence([_frame(scan, k) for k in scan.order])
    data.PixelData = stored.tobytes()
    data.save_as(folder / f"{sop_uid}.dcm", enforce_file_format=True)


def _frame(scan: Scan, k: int) -> Dataset:
    frame, position, rescale = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = _position(scan, k)
    frame.PlanePositionSequence = Sequence([position])
    if _set_rescale(rescale, scan):
        frame.PixelValueTransformationSequence = Sequence([rescale])
    return frame


def _set_measures(data: Dataset, scan: Scan) -> None:
    gap, row, column = scan.grid.spacing
    data.PixelSpacing, data.SliceThickness = [row, column], scan.thickness
    if scan.modality != CTA:
        data.SpacingBetweenSlices = gap


def _set_rescale(data: Dataset, scan: Scan) -> bool:
    """Set rescale tags as scanners do: always in CT, in MR unless the slope is 1; return if set."""
    if scan.modality != CTA and scan.slope == 1:
        return False
    data.RescaleSlope, data.RescaleIntercept = scan.slope, scan.intercept
    data.RescaleType = "HU" if scan.modality == CTA else "US"
    return True


def _position(scan: Scan, k: int) -> list[float]:
    return [round(float(v), 4) for v in scan.grid.to_patient(np.array([k, 0, 0]))]


def _orientation(scan: Scan) -> list[float]:
    """Return the direction along a row, then down a column."""
    return [round(float(v), 8) for v in (*scan.grid.axes[2], *scan.grid.axes[1])]
