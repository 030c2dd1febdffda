"""Parse one DICOM file with pydicom: its raw fields, and where its pixels are stored.

Nothing in a file is trusted: whatever is wrong with it becomes a DicomError with a reason code.
"""

import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.uid import UID

from src.text import printable

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)  # syntaxes with uncompressed pixels
MAX_HEADER = 16 << 20  # bytes that are inflated to find the header of a deflated file

UNDEFINED_LENGTH = 0xFFFFFFFF  # of the pixel element if pixels are compressed
FLOAT_PIXELS = 0x7FE00008  # the first tag that holds pixels
PIXEL_TAGS = {0x7FE00010: 0, FLOAT_PIXELS: 32, 0x7FE00009: 64}  # -> bits of a float, 0: integers
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")  # explicit types of a pixel element

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
MACROS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
)  # fmt: skip
SHORTS = (
    "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip
RAW = (  # src/dicom/coding.py gives these their meaning
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "ModalityLUTSequence",
)  # fmt: skip
TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
TEXTS = (
    "TransferSyntaxUID", "MediaStorageSOPClassUID", "SOPClassUID", "SOPInstanceUID",
    "SeriesInstanceUID", "PatientID", "Modality", "SeriesDescription", "AcquisitionNumber",
    "InstanceNumber", "TemporalPositionIdentifier", "EchoNumbers", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope",
    "RescaleIntercept", "RescaleType",
)  # fmt: skip
NAMES = (*TEXTS, *SHORTS, *RAW, *TABLES, PER_FRAME, SHARED)
WANTED = {tag_for_keyword(name): name for name in NAMES}


class DicomError(Exception):
    """A file or folder that cannot be read: `reason` is a short code, `message` is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both, so that it survives pickling between processes
        self.reason = reason
        self.message = printable(message, 1000)

    def __str__(self) -> str:
        return self.message


class PixelElement(NamedTuple):
    """The element that holds the pixels."""

    tag: int
    offset: int  # of its value, in inflated bytes if the file is deflated
    length: int  # of its value in bytes, as the file says it
    in_words: bool  # its type is OW: numbers of two bytes


def require(holds: bool, reason: str, message: str) -> None:
    """Raise DicomError unless the condition holds."""
    if not holds:
        raise DicomError(reason, message)


@contextmanager
def named_errors(path: Path, damaged: str) -> Iterator[None]:
    """Turn any exception into a DicomError that names the file.

    damaged: the reason where a parser or decoder stumbles over the bytes
    """
    try:
        yield
    except DicomError as error:
        raise DicomError(error.reason, f"{path.name}: {error}") from None
    except EOFError:
        raise DicomError("truncated", f"{path.name}: the file ends inside its header") from None
    except RecursionError:
        raise DicomError("too_deep", f"{path.name}: sequences are nested too deeply") from None
    except MemoryError:
        raise DicomError("too_large", f"{path.name}: it does not fit into memory") from None
    except OSError as error:
        # The system's errors have a number; pydicom raises its own without one where a file ends.
        reason = "unreadable" if error.errno else "truncated"
        raise DicomError(reason, f"{path.name}: {error.strerror or error}") from None
    except Exception as error:
        # Damaged bytes make parsers and decoders raise anything, even StopIteration.
        raise DicomError(damaged, f"{path.name}: {type(error).__name__}: {error}") from None


def inflate(compressed: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes of a deflated data set, so that a bomb costs no more."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed, limit)
    except zlib.error as error:
        raise DicomError("decode_error", f"deflated data cannot be inflated: {error}") from None


def read_fields(file: BinaryIO, size: int) -> tuple[dict, PixelElement]:
    """Return {keyword: value} and the pixel element of a file of `size` bytes."""
    require(size > 0, "empty", "the file has no bytes")
    meta = read_meta(file, size)
    syntax = meta["TransferSyntaxUID"]
    if syntax == DEFLATED:
        file = BytesIO(inflate(file.read(), MAX_HEADER))
        size = MAX_HEADER
    found, element = read_elements(file, syntax)
    fields = meta | found
    if element.tag not in PIXEL_TAGS:
        past_end = file.tell() > size
        raise DicomError(_why_no_pixels(fields, past_end), "there are no pixels in it")
    return fields, element


def read_elements(file: BinaryIO, syntax: str) -> tuple[dict, PixelElement]:
    """Return {keyword: value} up to the next pixels or the end, and the element found there."""
    implicit, little = syntax == IMPLICIT, syntax != BIG_ENDIAN
    elements = data_element_generator(file, implicit, little, _header_ends, specific_tags=WANTED)
    return _values(elements), _pixel_element(file, syntax)


def group_fields(groups: list[Dataset], index: int) -> dict:
    """Return the fields of functional group `index`; an empty dict if there is no such group."""
    fields = {}
    if index < len(groups):
        for name in MACROS:
            items = groups[index].get(name)
            fields |= _values(items[0].values()) if items else {}
    return fields


def uid_name(uid: str) -> str:
    """Return the standard's name of a UID, or the UID itself if the standard has none."""
    return UID(uid, validation_mode=IGNORE).name


def vector(fields: dict, name: str, length: int) -> tuple[float, ...] | None:
    """Return the finite numbers of a field, or None if there are not exactly `length`."""
    try:
        numbers = tuple(map(float, fields.get(name, "").split("\\")))
    except ValueError:
        return None
    return numbers if len(numbers) == length and all(map(math.isfinite, numbers)) else None


def integer(fields: dict, name: str) -> int | None:
    """Return a field as a whole number, or None if it is not one number."""
    number = vector(fields, name, 1)
    return int(number[0]) if number else None


def read_meta(file: BinaryIO, size: int) -> dict:
    """Return the fields of the file meta information, transfer syntax included.

    `file` is left at the first element of the data set.
    """
    head = file.read(144)
    if head[128:132] != b"DICM":
        return _guess_meta(file, head)
    has_length = head[132:138] == b"\2\0\0\0UL"
    cut = size < 144 or (has_length and 144 + struct.unpack("<I", head[140:])[0] > size)
    require(not cut, "truncated", "the file ends inside its meta information")
    file.seek(132)
    elements = data_element_generator(file, False, True, _meta_ends, specific_tags=WANTED)
    meta = _values(elements)
    require("TransferSyntaxUID" in meta, "not_dicom", "no transfer syntax in its meta information")
    return meta


def _guess_meta(file: BinaryIO, head: bytes) -> dict:
    """Guess the syntax of a file without preamble from its first element, one of group 8."""
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    big_endian = head[:2] == b"\x00\x08" and explicit
    if len(head) < 144 or not (head[:2] == b"\x08\x00" or big_endian):
        cut = len(head) < 132 and not head[:128].strip(b"\0") and b"DICM".startswith(head[128:])
        raise DicomError("truncated" if cut else "not_dicom", "it is not a DICOM file")
    file.seek(0)
    if big_endian:
        return {"TransferSyntaxUID": BIG_ENDIAN}
    return {"TransferSyntaxUID": EXPLICIT if explicit else IMPLICIT}


def _values(elements: Iterable[RawDataElement | DataElement]) -> dict:
    """Return {keyword: value} of the wanted elements that are not empty."""
    fields = {}
    for element in elements:
        name = WANTED.get(element.tag)
        if name and element.value:
            fields[name] = _value(name, element)
    return fields


def _value(name: str, element: RawDataElement | DataElement) -> str | int | bytes | list[Dataset]:
    if name in (PER_FRAME, SHARED):
        is_raw = not isinstance(element, DataElement)
        return convert_raw_data_element(element).value if is_raw else element.value
    if name in RAW:
        return element
    if name in SHORTS:
        return int.from_bytes(element.value[:2], "little" if element.is_little_endian else "big")
    return element.value if name in TABLES else element.value.decode("latin-1").strip(" \0")


def _meta_ends(tag: int, *_) -> bool:
    return int(tag) >> 16 != 2


def _header_ends(tag: int, *_) -> bool:
    """Stop at the pixels, or where an element cannot belong to a header any more."""
    tag = int(tag)  # comparing plain integers is 5 times faster
    return tag >= FLOAT_PIXELS or tag < 0x00080000


def _pixel_element(file: BinaryIO, syntax: str) -> PixelElement:
    """Return the element at which the header ended, whatever it is."""
    start = file.tell()
    head = file.read(12).ljust(12, b"\0")
    order = ">" if syntax == BIG_ENDIAN else "<"
    group, element = struct.unpack(order + "HH", head[:4])
    # Some writers fall back to implicit types here.
    explicit = syntax != IMPLICIT and head[4:6] in LONG_VRS
    length_at = 8 if explicit else 4
    (length,) = struct.unpack(order + "I", head[length_at : length_at + 4])
    in_words = explicit and head[4:6] == b"OW"
    return PixelElement(group << 16 | element, start + length_at + 4, length, in_words)


def _why_no_pixels(fields: dict, past_end: bool) -> str:
    sop_class = fields.get("SOPClassUID") or fields.get("MediaStorageSOPClassUID", "")
    if past_end or "Rows" in fields or "Image Storage" in uid_name(sop_class):
        return "truncated"
    return "no_pixels" if sop_class else "not_dicom"
