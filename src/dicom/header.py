"""Read the header of one DICOM file: checked metadata of its slices, without touching a pixel."""

import math
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from src.dicom.behind_pixels import read_on
from src.dicom.coding import ModalityLut, modality_lut_of, padding_of
from src.dicom.errors import named_errors, require
from src.dicom.fields import (
    DEFLATED,
    NATIVE,
    PER_FRAME,
    PIXEL_TAGS,
    SEQUENCES,
    SHARED,
    TABLES,
    UNDEFINED_LENGTH,
    PixelElement,
    dimension_pointers,
    group_fields,
    integer,
    read_fields,
    uid_name,
    vector,
)
from src.dicom.tags import COLOURS, MODALITIES, POSITION_TAGS

MAX_SIDE = 8192  # rows or columns
MAX_FRAMES = 4096  # frames a file
MAX_PIXELS = 1 << 30  # pixels of a file, and of a series
FARTHEST = 1e5  # mm from the origin; no scanner is as large
SPACINGS = (1e-3, 100)  # mm, of pixels and slices; others are mistakes


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Metadata of one file: identity, and where and how its pixels are stored."""

    path: Path
    study_uid: str
    series_uid: str
    sop_uid: str
    patient_id: str
    modality: str  # CT or MR
    description: str  # of the series, as somebody typed it
    syntax: str  # transfer syntax UID
    offset: int  # of the first pixel byte (in the inflated bytes of a deflated file)
    length: int  # of the pixel element in bytes, as the file says it
    in_words: bool  # the type of the pixel element is OW
    rows: int
    columns: int
    frames: int
    allocated: int  # bits a pixel takes
    stored: int  # bits of it that are used
    high_bit: int  # the highest of them
    signed: bool
    is_float: bool
    monochrome1: bool  # 0 is shown white
    padding: tuple[float, float] | None  # stored values from, to (inclusive) that are padding
    modality_lut: ModalityLut | None  # in place of slope and intercept
    offset_table: tuple[bytes, bytes] | None  # extended offsets and lengths of encapsulated frames

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.allocated // 8

    @property
    def inverted(self) -> bool:
        """Inverting concerns the display only (PS3.3 C.7.6.3.1.2): HU stay what they are."""
        return self.monochrome1 and self.modality != "CT"


@dataclass(frozen=True, slots=True)
class Slice:
    """One image: a frame of a file, with its geometry.

    Patient coordinates are in mm: x to the left, y to the back, z to the head.
    """

    file: FileHeader
    frame: int  # 0-based stored frame, -1 for single-frame files
    tags: dict[str, str | int | bytes] = field(compare=False)  # all fields, by keyword
    number: tuple  # order within a scan: instance number, parts of the SOP UID, stored frame
    instance: int | None
    position: tuple[float, ...] | None  # centre of the first pixel (3)
    orientation: tuple[float, ...] | None  # direction along a row, then down a column (6)
    pixel_spacing: tuple[float, ...] | None  # between rows, between columns
    slice_spacing: float | None  # as the file says it
    slope: float
    intercept: float
    rescaled: bool  # slope or intercept is in the header

    @property
    def thickness(self) -> float | None:
        """Mm, as the file says it."""
        found = _lengths(self.tags, "SliceThickness", 1)
        return found[0] if found else None

    @property
    def location(self) -> float | None:
        """SliceLocation: mm along the normal, but of either sign."""
        found = vector(self.tags, "SliceLocation", 1)
        return found[0] if found and abs(found[0]) <= FARTHEST else None


def read_header(path: Path) -> list[Slice]:
    """Return the slices of one file in stored order. Raise DicomError and nothing else."""
    with named_errors(path, "bad_header"):
        # Opening a pipe would wait for ever.
        require(stat.S_ISREG(os.stat(path).st_mode), "not_dicom", "not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            fields, element = read_on(file, *read_fields(file, size))
        header = _file_header(path, fields, element)
        if header.syntax in NATIVE:
            _check_length(header, size)
        return _slices(fields, header)


def _file_header(path: Path, fields: dict, element: PixelElement) -> FileHeader:
    photometric = fields.get("PhotometricInterpretation", "MONOCHROME2").upper()
    tables = tuple(fields.get(name, b"") for name in TABLES)
    allocated = fields.get("BitsAllocated", 16)
    stored = fields.get("BitsStored", allocated)
    signed, bits_of_float = fields.get("PixelRepresentation", 0) == 1, PIXEL_TAGS[element.tag]
    header = FileHeader(
        path=path,
        study_uid=fields.get("StudyInstanceUID", ""),
        series_uid=fields.get("SeriesInstanceUID", ""),
        sop_uid=fields.get("SOPInstanceUID", ""),
        patient_id=fields.get("PatientID", ""),
        modality=_modality(fields),
        description=fields.get("SeriesDescription", ""),
        syntax=fields["TransferSyntaxUID"],
        offset=element.offset,
        length=element.length,
        in_words=element.in_words,
        rows=fields.get("Rows", 0),
        columns=fields.get("Columns", 0),
        frames=_frames(fields),
        allocated=allocated,
        stored=stored,
        # Below the stored bits it makes no sense, and other readers do not use it.
        high_bit=max(fields.get("HighBit", stored - 1), stored - 1),
        signed=signed,
        is_float=bits_of_float > 0,
        monochrome1=photometric == "MONOCHROME1",
        padding=padding_of(fields, bits_of_float, signed),
        modality_lut=modality_lut_of(fields, signed),
        offset_table=tables if all(tables) else None,
    )
    monochrome = photometric in ("MONOCHROME1", "MONOCHROME2")
    grey = monochrome and fields.get("SamplesPerPixel", 1) == 1
    quoted = photometric if photometric in COLOURS else "what it holds"
    require(grey, "colour", f"{quoted} is not a grey image")
    if header.is_float:
        plain = allocated == bits_of_float and header.syntax in NATIVE
        claim = f"float pixels of {allocated} bits in {uid_name(header.syntax)}"
        require(plain, "bad_header", claim)
    _check_sizes(header)
    return header


def _frames(fields: dict) -> int:
    """Return the number of frames; some writers put 0 into files of one image."""
    if "NumberOfFrames" not in fields:
        return 1
    frames = integer(fields, "NumberOfFrames")
    return -1 if frames is None else frames or 1


def _modality(fields: dict) -> str:
    """Return CT or MR. If the tag is missing, the class or the unit decides."""
    modality = fields.get("Modality", "").upper()
    known = modality in ("CT", "MR", "")
    quoted = f"modality {modality}" if modality in MODALITIES else "its modality"
    require(known, "other_modality", f"{quoted} is neither CT nor MR")
    if modality:
        return modality
    is_ct_class = "CT Image" in uid_name(fields.get("SOPClassUID", ""))
    return "CT" if is_ct_class or fields.get("RescaleType") == "HU" else "MR"


def _check_sizes(header: FileHeader) -> None:
    rows, columns, frames = header.rows, header.columns, header.frames
    claim = f"it claims {frames} frames of {rows} x {columns} pixels"
    require(min(rows, columns, frames) >= 1, "bad_header", claim)
    small = max(rows, columns) <= MAX_SIDE and frames <= MAX_FRAMES
    require(small and rows * columns * frames <= MAX_PIXELS, "too_large", claim)
    if header.is_float:
        return
    allocated, stored, high_bit = header.allocated, header.stored, header.high_bit
    require(allocated in (8, 16, 32), "unsupported_bits", f"{allocated} bits a pixel")
    nested = 1 <= stored <= high_bit + 1 <= allocated
    require(nested, "bad_header", f"bits {stored} up to {high_bit} of {allocated}")


def _check_length(header: FileHeader, size: int) -> None:
    """Raise DicomError unless all pixels are in their element and in the file of `size` bytes."""
    needed = header.frame_bytes * header.frames
    encapsulated = header.length == UNDEFINED_LENGTH
    require(not encapsulated, "decode_error", "compressed pixels in an uncompressed syntax")
    claim = f"{header.length} bytes of pixels, its size needs {needed}"
    require(needed <= header.length, "truncated", claim)
    whole = header.syntax == DEFLATED or header.offset + needed <= size
    require(whole, "truncated", "the file ends before its pixels do")


def _slices(fields: dict, header: FileHeader) -> list[Slice]:
    """Return one slice a frame.

    Fields of a frame's own group win over those of the shared group, and these over the top level.
    """
    if header.frames == 1 and not {PER_FRAME, SHARED} & fields.keys():
        return [_slice(fields, header, 0)]
    pointers = dimension_pointers(fields)
    per_frame, shared = fields.get(PER_FRAME, []), fields.get(SHARED, [])
    common = fields | group_fields(shared, 0)
    for name in SEQUENCES:
        common.pop(name, None)
    slices = []
    for index in range(header.frames):
        of_frame = common | group_fields(per_frame, index)
        of_frame["DimensionIndexValues"] = _dimensions(of_frame, pointers)
        slices.append(_slice(of_frame, header, index))
    return slices


def _dimensions(fields: dict, pointers: list[int]) -> str:
    """Return a frame's dimension indices, without those that count positions."""
    values = fields.get("DimensionIndexValues", "").split("\\")
    if len(values) != len(pointers):
        return ""
    kept = [k for k in range(len(values)) if pointers[k] not in POSITION_TAGS]
    return "\\".join(values[k] for k in kept)


def _slice(fields: dict, header: FileHeader, index: int) -> Slice:
    slope, intercept = _rescale(fields, header)
    instance = integer(fields, "InstanceNumber")
    # As numbers: 1.9 comes before 1.10.
    uid_parts = tuple(int(part) for part in header.sop_uid.split(".") if part.isdecimal())
    spacing = _lengths(fields, "PixelSpacing", 2) or _lengths(fields, "ImagerPixelSpacing", 2)
    between = _lengths(fields, "SpacingBetweenSlices", 1) or _lengths(fields, "SliceThickness", 1)
    position = vector(fields, "ImagePositionPatient", 3)
    near = position is not None and max(map(abs, position)) <= FARTHEST
    return Slice(
        file=header,
        frame=index if header.frames > 1 else -1,
        tags=fields,
        number=(instance or 0, uid_parts, index),
        instance=instance,
        position=position if near else None,
        orientation=_orientation(fields),
        pixel_spacing=spacing,
        slice_spacing=between[0] if between else None,
        slope=slope,
        intercept=intercept,
        rescaled="RescaleSlope" in fields or "RescaleIntercept" in fields,
    )


def _lengths(fields: dict, name: str, count: int) -> tuple[float, ...] | None:
    """Return `count` lengths in mm, or None if they cannot be true."""
    lengths = vector(fields, name, count)
    true = lengths is not None and SPACINGS[0] <= min(lengths) and max(lengths) <= SPACINGS[1]
    return lengths if true else None


def _rescale(fields: dict, header: FileHeader) -> tuple[float, float]:
    """Return slope and intercept. Raise DicomError if rescaled pixels could overflow float32."""
    slope = _number(fields, "RescaleSlope", 1.0)
    intercept = _number(fields, "RescaleIntercept", 0.0)
    largest_stored = 1.0 if header.is_float else 2.0**header.stored
    finite = abs(slope) * largest_stored + abs(intercept) < 1e37
    require(finite, "bad_rescale", f"slope {slope} and intercept {intercept} go beyond all numbers")
    return slope, intercept


def _number(fields: dict, name: str, default: float) -> float:
    """Return a finite number, or the default if the field is missing or empty. 0 is a value."""
    if name not in fields or fields[name] == "":
        return default
    number = vector(fields, name, 1)
    require(number is not None, "bad_rescale", f"{name} is not a number")
    return number[0]


def _orientation(fields: dict) -> tuple[float, ...] | None:
    """Return two directions of length 1 at right angles (nearly), or None."""
    directions = vector(fields, "ImageOrientationPatient", 6)
    if directions is None:
        return None
    row, column = directions[:3], directions[3:]
    skew = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    error = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1), skew)
    return directions if error < 0.1 else None
