"""One DICOM file -> its raw fields and the place of its pixels, by pydicom's parser, with damaged files told apart.

Nothing in a file is trusted. Whatever is wrong with it becomes a DicomError with a short reason code.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from io import BytesIO
from typing import BinaryIO

from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.uid import UID

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_HEADER = 16 << 20  # bytes of a deflated file that are inflated to find its header

FLOAT_PIXELS = 0x7FE00008
PIXEL_TAGS = {
    0x7FE00010: 0,
    FLOAT_PIXELS: 32,
    0x7FE00009: 64,
}  # -> bits of a float, 0 where pixels are integers
MACROS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)
PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
SHORTS = (
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
TEXTS = (
    "TransferSyntaxUID", "MediaStorageSOPClassUID", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality",
    "SeriesDescription",
    "AcquisitionNumber", "InstanceNumber", "TemporalPositionIdentifier", "EchoNumbers", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "RescaleType",
)  # fmt: skip


class DicomError(Exception):
    """A file or folder that cannot be read; `reason` is a short code for tables, the message is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both, so that it survives pickling between processes
        self.reason = reason
        self.message = message.encode(
            "utf-8", "backslashreplace"
        ).decode()  # file names may hold what is no UTF-8

    def __str__(self) -> str:
        return self.message


def require(holds: bool, reason: str, message: str) -> None:
    """DicomError unless the condition holds."""
    if not holds:
        raise DicomError(reason, message)


def inflate(compressed: bytes, limit: int) -> bytes:
    """At most `limit` bytes of a deflated data set: a bomb costs no more than what its header claims."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, limit)
    except zlib.error as error:
        raise DicomError("decode_error", f"deflated data cannot be inflated: {error}") from None


def read_fields(file: BinaryIO, size: int) -> tuple[dict, tuple[int, int, int]]:
    """(keyword -> value, (tag, offset, length) of the pixel element) of a file of `size` bytes; for a deflated file of what it holds."""
    require(size > 0, "empty", "the file has no bytes")
    meta = read_meta(file, size)
    syntax = meta["TransferSyntaxUID"]
    if syntax == DEFLATED:
        file = BytesIO(inflate(file.read(), MAX_HEADER))
        size = MAX_HEADER
    fields = meta | _values(_elements(file, syntax == IMPLICIT, syntax != BIG_ENDIAN, _header_ends))
    element = _pixel_element(file, syntax)
    require(
        element[0] in PIXEL_TAGS,
        _why_no_pixels(fields, file.tell() > size),
        "there are no pixels in it",
    )
    return fields, element


def group_fields(groups: list[Dataset], index: int) -> dict:
    """Fields of functional group `index`, one macro of one item after the other; none where there is no such group."""
    fields = {}
    if index < len(groups):
        for name in MACROS:
            items = groups[index].get(name)
            fields |= _values(items[0].values()) if items else {}
    return fields


def _elements(
    file: BinaryIO, implicit: bool, little: bool, stop_when: Callable
) -> Iterator[RawDataElement | DataElement]:
    return data_element_generator(
        file, implicit, little, stop_when=stop_when, specific_tags=_wanted()
    )


def _values(elements: Iterable[RawDataElement | DataElement]) -> dict:
    """Keyword -> text, integer, table or sequence of the wanted fields that are there and not empty."""
    fields = {}
    for element in elements:
        name, value = _wanted().get(element.tag), element.value
        if not name or not value:
            continue
        if name in (PER_FRAME, SHARED):
            fields[name] = (
                value
                if isinstance(element, DataElement)
                else convert_raw_data_element(element).value
            )
        elif name in SHORTS:
            fields[name] = int.from_bytes(
                value[:2], "little" if element.is_little_endian else "big"
            )
        else:
            fields[name] = value if name in TABLES else value.decode("latin-1").strip(" \0")
    return fields


def uid_name(uid: str) -> str:
    """What the standard calls a UID; the UID itself where it does not know it."""
    return UID(uid, validation_mode=IGNORE).name


def vector(fields: dict, name: str, length: int) -> tuple[float, ...] | None:
    """The finite numbers of a field, or None where there are not exactly `length`."""
    try:
        numbers = tuple(float(part) for part in fields.get(name, "").split("\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == length and all(map(math.isfinite, numbers)) else None


def integer(fields: dict, name: str) -> int | None:
    """A field as a whole number, None where it is none."""
    number = vector(fields, name, 1)
    return int(number[0]) if number else None


def read_meta(file: BinaryIO, size: int) -> dict:
    """Transfer syntax and class as the file meta information says them; leaves the file at the first element of the data set."""
    head = file.read(144)
    if head[128:132] != b"DICM":
        return _guess_meta(file, head)
    length_told = head[132:138] == b"\2\0\0\0UL"
    cut = size < 144 or (length_told and 144 + struct.unpack("<I", head[140:])[0] > size)
    require(not cut, "truncated", "the file ends inside its meta information")
    file.seek(132)
    meta = _values(_elements(file, False, True, lambda tag, *_: int(tag) >> 16 != 2))
    require("TransferSyntaxUID" in meta, "not_dicom", "no transfer syntax in its meta information")
    return meta


def _guess_meta(file: BinaryIO, head: bytes) -> dict:
    """Files without preamble: a bare data set begins with group 8, and its first element shows its syntax."""
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if (
        len(head) < 144
        or head[:2] not in (b"\x08\x00", b"\x00\x08")
        or (head[0] == 0 and not explicit)
    ):
        cut = len(head) < 132 and not head[:128].strip(b"\0") and b"DICM".startswith(head[128:])
        raise DicomError("truncated" if cut else "not_dicom", "it is not a DICOM file")
    file.seek(0)
    return {"TransferSyntaxUID": BIG_ENDIAN if head[0] == 0 else EXPLICIT if explicit else IMPLICIT}


@cache
def _wanted() -> dict[int, str]:
    return {tag_for_keyword(name): name for name in (*TEXTS, *SHORTS, *TABLES, PER_FRAME, SHARED)}


def _header_ends(tag: int, *_) -> bool:
    """At the pixels, or where the elements cannot be a header's any more."""
    tag = int(tag)  # comparing plain integers is 5 times faster
    return tag >= FLOAT_PIXELS or tag < 0x00080000


def _pixel_element(file: BinaryIO, syntax: str) -> tuple[int, int, int]:
    """Tag of the element at which the header ended, offset and length of its value."""
    start = file.tell()
    head = file.read(12).ljust(12, b"\0")
    order = ">" if syntax == BIG_ENDIAN else "<"
    group, element = struct.unpack(order + "HH", head[:4])
    explicit = syntax != IMPLICIT and head[4:6] in (
        b"OB",
        b"OW",
        b"OF",
        b"OD",
        b"UN",
    )  # some writers fall back to implicit
    before = 8 if explicit else 4  # bytes from the tag's first to the length's
    (length,) = struct.unpack(order + "I", head[before : before + 4])
    return group << 16 | element, start + before + 4, length


def _why_no_pixels(fields: dict, past_end: bool) -> str:
    sop_class = fields.get("SOPClassUID") or fields.get("MediaStorageSOPClassUID", "")
    if past_end or "Rows" in fields or "Image Storage" in uid_name(sop_class):
        return "truncated"
    return "no_pixels" if sop_class else "not_dicom"
