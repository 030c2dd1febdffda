"""DICOM files for tests: one volume, written in any way a scanner might store it."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

from src.dicom import DicomError, read_series

SERIES_UID = "1.2.3"
SPACING = (2.5, 0.75, 0.5)  # mm between slices, rows, columns
AXES = {  # plane -> canonical directions along the normal, down the rows, along the columns
    "axial": np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float),
    "coronal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], float),
    "sagittal": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float),
}


def tilted(axes: np.ndarray, degrees: float = 14.0) -> np.ndarray:
    """Return axes turned about two of the patient's axes."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return (
        axes
        @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    )


def volume(shape=(7, 12, 10), seed: int = 0, low: int = 0, high: int = 4000) -> np.ndarray:
    """Return (n, h, w) uint16 in which no two slices, rows or columns are alike."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint16)


def places(axes: np.ndarray, count: int, spacing: float = SPACING[0]) -> np.ndarray:
    """Return patient coordinates (n, 3) of the first pixel of each slice."""
    return np.array([-30.0, -20.0, 10.0]) + np.arange(count)[:, None] * spacing * axes[0]


def stored_as(
    images: np.ndarray, axes: np.ndarray, points: np.ndarray, code: str, spacing=SPACING[1:]
) -> tuple:
    """Return the same slices as a scanner with other directions in the plane stores them.

    They are images, points, orientation (6), and spacing of rows and columns.

    code: mirror rows (Y) and columns (X), then transpose (T): what `canonical` undoes
    """
    height, width = images.shape[1:]
    down, across = axes[1], axes[2]
    row_spacing, column_spacing = spacing
    if "Y" in code:
        images, points, down = images[:, ::-1], points + (height - 1) * row_spacing * down, -down
    if "X" in code:
        images, points, across = (
            images[:, :, ::-1],
            points + (width - 1) * column_spacing * across,
            -across,
        )
    if "T" in code:
        images, down, across, row_spacing, column_spacing = (
            images.swapaxes(1, 2),
            across,
            down,
            column_spacing,
            row_spacing,
        )
    return images, points, [*across, *down], (row_spacing, column_spacing)


def dataset(pixels: np.ndarray, modality: str = "MR", **tags) -> Dataset:
    """Return one image (h, w), or frames (n, h, w), with the tags that pixels need.

    tags: set on top; None removes a tag
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    data.Modality, data.PatientID, data.SeriesInstanceUID, data.SOPInstanceUID = (
        modality,
        "p1",
        SERIES_UID,
        f"{SERIES_UID}.1",
    )
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[-2:]
    bits = pixels.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelSpacing = list(SPACING[1:])
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def raw_text(data: Dataset, keyword: str, text: str) -> None:
    """Set a decimal to exactly this text, even if it is no number."""
    tag = Tag(keyword)
    data[tag] = RawDataElement(tag, "DS", len(text), text.encode(), 0, False, True)


def save(data: Dataset, path: Path) -> Path:
    """Write the file, whatever pydicom thinks of its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_slices(
    folder: Path,
    images: np.ndarray,
    points,
    orientation,
    spacing=SPACING[1:],
    names=None,
    order=None,
    **tags,
) -> Path:
    """Write one file a slice.

    order: index of the slice that was acquired k-th
    names: file name of each slice
    """
    order = range(len(images)) if order is None else order
    for instance, k in enumerate(order, 1):
        position = None if points is None else list(map(float, points[k]))
        geometry = (
            {}
            if position is None
            else {
                "ImagePositionPatient": position,
                "ImageOrientationPatient": list(map(float, orientation)),
            }
        )
        data = dataset(
            images[k],
            **{
                "InstanceNumber": instance,
                "SOPInstanceUID": f"{SERIES_UID}.{k + 1}",
                "PixelSpacing": list(spacing),
            }
            | geometry
            | tags,
        )
        save(data, folder / (f"{k:03d}.dcm" if names is None else names[k]))
    return folder


def write_axial(folder: Path, images: np.ndarray, **options) -> Path:
    """Write plain axial slices, which are canonical as they are."""
    axes = AXES["axial"]
    return write_slices(folder, images, places(axes, len(images)), [*axes[2], *axes[1]], **options)


def write_frames(path: Path, images: np.ndarray, points, orientation, slopes=None, **tags) -> Path:
    """Write one enhanced multi-frame file; images come in stored order.

    Slope and intercept are in the functional groups only.
    """
    data = dataset(
        images,
        SOPClassUID=EnhancedMRImageStorage,
        NumberOfFrames=len(images),
        PixelSpacing=None,
        **tags,
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence(
        [_item(PixelSpacing=list(SPACING[1:]), SliceThickness=SPACING[0])]
    )
    shared.PlaneOrientationSequence = Sequence(
        [_item(ImageOrientationPatient=list(map(float, orientation)))]
    )
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for k, point in enumerate(points):
        group = _item(
            PlanePositionSequence=Sequence([_item(ImagePositionPatient=list(map(float, point)))])
        )
        slope = 1 if slopes is None else slopes[k]
        group.PixelValueTransformationSequence = Sequence(
            [_item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")]
        )
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return save(data, path)


def head_in_hu(seed: int = 0, radius: float = 0.8, side: int = 48, slices: int = 9) -> np.ndarray:
    """Return (slices, side, side) int16: air, a thin skull and brain.

    radius: of the skull; 1 is half the side
    """
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    distance = np.hypot(x, y) / radius
    head = np.where(distance < 0.95, 35, np.where(distance < 1, 1050, -1000))
    return (head + np.random.default_rng(seed).normal(0, 12, (slices, side, side))).astype(np.int16)


def padded(images: np.ndarray, value: int) -> np.ndarray:
    """Return images (n, s, s) with `value` outside the circle that a scanner reconstructs."""
    y, x = np.mgrid[-1 : 1 : len(images[0]) * 1j, -1 : 1 : len(images[0]) * 1j]
    return np.where(np.hypot(x, y) > 1, np.int16(value), images)


def _item(**tags) -> Dataset:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return item


def reason(folder: Path) -> str:
    """Return the reason why a folder is refused."""
    with pytest.raises(DicomError) as caught:
        read_series(folder)
    assert str(caught.value) and "Traceback" not in str(caught.value)
    return caught.value.reason
