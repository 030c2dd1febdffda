"""One DICOM file -> the checked facts of its slices, without touching a pixel: what follows can rely on them."""

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from src.dicom.fields import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    PER_FRAME,
    PIXEL_TAGS,
    SHARED,
    TABLES,
    DicomError,
    group_fields,
    integer,
    read_fields,
    require,
    uid_name,
    vector,
)

MAX_SIDE = 8192  # rows or columns
MAX_FRAMES = 4096  # frames a file
MAX_PIXELS = 1 << 30  # pixels of a file, and of a series

UNDEFINED_LENGTH = 0xFFFFFFFF  # of the pixel element where pixels are compressed
NATIVE = (
    IMPLICIT,
    EXPLICIT,
    BIG_ENDIAN,
    DEFLATED,
)  # transfer syntaxes whose pixels lie there as they are


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What is said once a file: whose it is, where its pixels lie and how they are stored."""

    path: Path
    series_uid: str
    sop_uid: str
    patient_id: str
    modality: str  # CT or MR
    description: str  # of the series, as somebody typed it
    syntax: str  # transfer syntax UID
    offset: int  # of the first pixel byte (in the inflated bytes of a deflated file)
    length: int  # of the pixel element in bytes, as the file says it
    rows: int
    columns: int
    frames: int
    allocated: int  # bits a pixel takes
    stored: int  # bits of it that are used
    high_bit: int  # the highest of them
    signed: bool
    is_float: bool
    inverted: bool  # MONOCHROME1
    offset_table: tuple[bytes, bytes] | None  # extended offsets and lengths of encapsulated frames

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.allocated // 8


@dataclass(frozen=True, slots=True)
class Slice:
    """One image: a frame of a file, with its geometry in patient coordinates (mm; x to the left, y to the back, z to the head)."""

    file: FileHeader
    frame: int  # 0-based stored frame, -1 for single-frame files
    acquired: tuple  # sorts by time point, acquisition, echo, instance number, SOP UID, frame
    instance: int | None
    position: tuple[float, ...] | None  # centre of the first pixel (3)
    orientation: tuple[float, ...] | None  # direction along a row, then down a column (6)
    pixel_spacing: tuple[float, ...] | None  # between rows, between columns
    slice_spacing: float | None  # as the file says it
    slope: float
    intercept: float


def read_header(path: Path) -> list[Slice]:
    """The slices of one file in stored order. Raises DicomError and nothing else."""
    try:
        require(
            stat.S_ISREG(os.stat(path).st_mode), "not_dicom", "not a regular file"
        )  # opening a pipe would wait for ever
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            fields, element = read_fields(file, size)
        header = _file_header(path, fields, element)
        if header.syntax in NATIVE:
            _check_length(header, size)
        return _slices(fields, header)
    except DicomError as error:
        raise DicomError(error.reason, f"{path.name}: {error}") from None
    except EOFError:
        raise DicomError("truncated", f"{path.name}: the file ends inside its header") from None
    except RecursionError:
        raise DicomError("too_deep", f"{path.name}: sequences are nested too deeply") from None
    except MemoryError:
        raise DicomError("too_large", f"{path.name}: the header does not fit into memory") from None
    except OSError as error:
        raise DicomError(
            "unreadable" if error.errno else "truncated", f"{path.name}: {error.strerror or error}"
        ) from None  # pydicom's have no errno
    except (
        Exception
    ) as error:  # on damaged bytes the parser raises anything from StopIteration to struct.error
        raise DicomError("bad_header", f"{path.name}: {type(error).__name__}: {error}") from None


def _file_header(path: Path, fields: dict, element: tuple[int, int, int]) -> FileHeader:
    tag, offset, length = element
    photometric = fields.get("PhotometricInterpretation", "MONOCHROME2")
    tables = tuple(fields.get(name, b"") for name in TABLES)
    header = FileHeader(
        path=path,
        series_uid=fields.get("SeriesInstanceUID", ""),
        sop_uid=fields.get("SOPInstanceUID", ""),
        patient_id=fields.get("PatientID", ""),
        modality=_modality(fields),
        description=fields.get("SeriesDescription", ""),
        syntax=fields["TransferSyntaxUID"],
        offset=offset,
        length=length,
        rows=fields.get("Rows", 0),
        columns=fields.get("Columns", 0),
        frames=1 if "NumberOfFrames" not in fields else integer(fields, "NumberOfFrames") or 0,
        allocated=(allocated := fields.get("BitsAllocated", 16)),
        stored=(stored := fields.get("BitsStored", allocated)),
        high_bit=fields.get("HighBit", stored - 1),
        signed=fields.get("PixelRepresentation", 0) == 1,
        is_float=PIXEL_TAGS[tag] > 0,
        inverted=photometric == "MONOCHROME1",
        offset_table=tables if all(tables) else None,
    )
    grey = fields.get("SamplesPerPixel", 1) == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    require(grey, "colour", f"{photometric} is not a grey image")
    plain_floats = allocated == PIXEL_TAGS[tag] and header.syntax in NATIVE
    require(
        not header.is_float or plain_floats,
        "bad_header",
        f"float pixels of {allocated} bits in {uid_name(header.syntax)}",
    )
    _check_sizes(header)
    return header


def _check_sizes(header: FileHeader) -> None:
    rows, columns, frames, allocated, stored = (
        header.rows,
        header.columns,
        header.frames,
        header.allocated,
        header.stored,
    )
    claim = f"it claims {frames} frames of {rows} x {columns} pixels"
    require(min(rows, columns, frames) >= 1, "bad_header", claim)
    require(
        max(rows, columns) <= MAX_SIDE
        and frames <= MAX_FRAMES
        and rows * columns * frames <= MAX_PIXELS,
        "too_large",
        claim,
    )
    if not header.is_float:
        require(allocated in (8, 16, 32), "unsupported_bits", f"{allocated} bits a pixel")
        require(
            1 <= stored <= header.high_bit + 1 <= allocated,
            "bad_header",
            f"bits {stored} up to {header.high_bit} of {allocated}",
        )


def _check_length(header: FileHeader, size: int) -> None:
    """Uncompressed pixels are all there: in their element, and in the file of `size` bytes."""
    needed = header.frame_bytes * header.frames
    require(
        header.length != UNDEFINED_LENGTH,
        "decode_error",
        "compressed pixels although the transfer syntax is an uncompressed one",
    )
    require(
        needed <= header.length,
        "truncated",
        f"{header.length} bytes of pixels, its size needs {needed}",
    )
    require(
        header.syntax == DEFLATED or header.offset + needed <= size,
        "truncated",
        "the file ends before its pixels do",
    )


def _modality(fields: dict) -> str:
    """CT or MR; where the tag is missing, the class or the unit tells."""
    modality = fields.get("Modality", "")
    require(
        modality in ("CT", "MR", ""), "other_modality", f"modality {modality} is neither CT nor MR"
    )
    is_ct = (
        "CT Image" in uid_name(fields.get("SOPClassUID", "")) or fields.get("RescaleType") == "HU"
    )
    return modality or ("CT" if is_ct else "MR")


def _slices(fields: dict, header: FileHeader) -> list[Slice]:
    """One slice a frame; fields of its own group come before those of the shared one, and these before the top level's."""
    shared, per_frame = fields.get(SHARED, []), fields.get(PER_FRAME, [])
    fields = fields | group_fields(shared, 0)
    return [
        _slice(fields | group_fields(per_frame, index), header, index)
        for index in range(header.frames)
    ]


def _slice(fields: dict, header: FileHeader, index: int) -> Slice:
    slope, intercept = (
        _rescale(fields, "RescaleSlope", 1.0),
        _rescale(fields, "RescaleIntercept", 0.0),
    )
    reach = abs(slope) * (1.0 if header.is_float else 2.0**header.stored) + abs(intercept)
    require(
        reach < 1e37,
        "bad_rescale",
        f"slope {slope} and intercept {intercept} go beyond all numbers",
    )
    instance = integer(fields, "InstanceNumber")
    passes = [
        integer(fields, name) or 0
        for name in ("TemporalPositionIdentifier", "AcquisitionNumber", "EchoNumbers")
    ]
    uid_order = tuple(
        int(part) for part in header.sop_uid.split(".") if part.isdecimal()
    )  # 1.9 before 1.10
    spacing = vector(fields, "PixelSpacing", 2) or vector(fields, "ImagerPixelSpacing", 2)
    between = (
        vector(fields, "SpacingBetweenSlices", 1) or vector(fields, "SliceThickness", 1) or (0.0,)
    )
    return Slice(
        file=header,
        frame=index if header.frames > 1 else -1,
        acquired=(*passes, instance or 0, uid_order, index),
        instance=instance,
        position=vector(fields, "ImagePositionPatient", 3),
        orientation=_orientation(fields),
        pixel_spacing=spacing if spacing and min(spacing) > 0 else None,
        slice_spacing=abs(between[0]) or None,
        slope=slope,
        intercept=intercept,
    )


def _rescale(fields: dict, name: str, default: float) -> float:
    """0 is a value; a missing or empty field means the default; anything that is no finite number is refused."""
    if name not in fields or fields[name] == "":
        return default
    number = vector(fields, name, 1)
    require(number is not None, "bad_rescale", f"{name} is {fields[name][:40]!r}")
    return number[0]


def _orientation(fields: dict) -> tuple[float, ...] | None:
    """Two directions of length 1 at right angles (nearly), else None."""
    directions = vector(fields, "ImageOrientationPatient", 6)
    if directions is None:
        return None
    row, column = directions[:3], directions[3:]
    skew = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    return (
        directions
        if max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1), skew) < 0.1
        else None
    )
