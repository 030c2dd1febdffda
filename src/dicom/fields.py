"""Parse one DICOM file with pydicom: its raw fields, and where its pixels are stored.

Nothing in a file is trusted: whatever is wrong with it becomes a DicomError with a reason code.
"""

import math
import os
import re
import struct
import zlib
from collections import deque
from collections.abc import Iterable
from io import BytesIO
from typing import BinaryIO, NamedTuple

from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.uid import UID

from src.dicom.errors import DicomError, require
from src.dicom.foreign import NOT_DICOM, format_hint
from src.dicom.tags import BINARY, DIMENSIONS, MACROS, POINTER, PRIVATE_TRAITS, TRAITS

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)  # syntaxes with uncompressed pixels
MAX_HEADER = 16 << 20  # bytes that are inflated to find the header of a deflated file

UNDEFINED_LENGTH = 0xFFFFFFFF  # of the pixel element if pixels are compressed
FLOAT_PIXELS = 0x7FE00008  # the first tag that holds pixels
PIXEL_TAGS = {0x7FE00010: 0, FLOAT_PIXELS: 32, 0x7FE00009: 64}  # -> bits of a float, 0: integers
LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")  # explicit types of a pixel element

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
SHORTS = (
    "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip
RAW = (  # src/dicom/coding.py gives these their meaning
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "ModalityLUTSequence",
)  # fmt: skip
SEQUENCES = (PER_FRAME, SHARED, DIMENSIONS)
TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
TEXTS = (
    "TransferSyntaxUID", "MediaStorageSOPClassUID", "SOPClassUID", "SOPInstanceUID",
    "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "SeriesDescription",
    "AcquisitionNumber", "InstanceNumber", "TemporalPositionIdentifier", "EchoNumbers",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "PhotometricInterpretation", "NumberOfFrames",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "BodyPartExamined",
)  # fmt: skip
NAMES = (*TEXTS, *SHORTS, *RAW, *TABLES, *TRAITS, *SEQUENCES)
WANTED = {tag_for_keyword(name): name for name in NAMES} | PRIVATE_TRAITS
NOT_TEXT = {*SEQUENCES, *SHORTS, *RAW, *TABLES, *BINARY}
MACRO_TAGS = {tag_for_keyword(name) for name in MACROS}


class PixelElement(NamedTuple):
    """The element that holds the pixels."""

    tag: int
    offset: int  # of its value, in inflated bytes if the file is deflated
    length: int  # of its value in bytes, as the file says it
    in_words: bool  # its type is OW: numbers of two bytes


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
    if (
        element.tag not in PIXEL_TAGS
        or not {"Rows", "SOPClassUID", "MediaStorageSOPClassUID"} & fields.keys()
    ):
        past_end = file.tell() > size
        raise DicomError(_why_no_pixels(fields, past_end), "there are no pixels in it")
    return fields, element


def read_elements(file: BinaryIO, syntax: str) -> tuple[dict, PixelElement]:
    """Return {keyword: value} up to the next pixels or the end, and the element found there."""
    little = syntax != BIG_ENDIAN
    implicit = not _has_types(skip_commands(file))  # the syntax says it wrong in some files
    elements = data_element_generator(file, implicit, little, _header_ends, specific_tags=WANTED)
    return _values(elements), _pixel_element(file, implicit, little)


def group_fields(groups: list[Dataset], index: int) -> dict:
    """Return the fields of functional group `index`; an empty dict if there is no such group."""
    return _macro_fields(groups[index]) if index < len(groups) else {}


def _macro_fields(group: Dataset) -> dict:
    """Return the fields in the first item of each sequence of a group, and of theirs."""
    fields = {}
    for tag in MACRO_TAGS & group.keys():
        items = group[tag].value
        if items:
            fields |= _values(items[0].values()) | _macro_fields(items[0])
    return fields


def dimension_pointers(fields: dict) -> list[int]:
    """Return the tag that each of a frame's dimension indices counts."""
    return [int(item.get(POINTER, 0)) for item in fields.get(DIMENSIONS, [])]


def uid_name(uid: str) -> str:
    """Return the standard's name of a UID, or the UID itself if the standard has none."""
    return UID(uid, validation_mode=IGNORE).name


def vector(fields: dict, name: str, length: int) -> tuple[float, ...] | None:
    """Return the finite numbers of a field, or None if there are not exactly `length`."""
    try:
        # Some writers put a comma where the standard has a decimal point, or end with a separator.
        text = fields.get(name, "").replace(",", ".").rstrip("\\ ")
        numbers = tuple(map(float, text.split("\\")))
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
    return _meta_fields(file)


def skip_commands(file: BinaryIO) -> bytes:
    """Go past elements of groups 0 to 7, parts of a network message that some writers store.

    Return the first bytes after them.
    """
    head = _peek(file, 6)
    if head[1:2] != b"\0" or head[:1] >= b"\x08":
        return head
    types = _has_types(head)
    deque(data_element_generator(file, not types, True, _commands_end, specific_tags=WANTED), 0)
    return _peek(file, 6)


def _meta_fields(file: BinaryIO) -> dict:
    elements = data_element_generator(file, False, True, _meta_ends, specific_tags=WANTED)
    meta = _values(elements)
    if "TransferSyntaxUID" not in meta:
        return meta | _guess_syntax(file)
    is_uid = re.fullmatch(r"[0-9.]{1,64}", meta["TransferSyntaxUID"])
    require(is_uid is not None, "bad_header", "its transfer syntax is not a UID")
    return meta


def _guess_meta(file: BinaryIO, head: bytes) -> dict:
    """Return the meta information of a file without preamble, or guess its syntax."""
    file.seek(0)
    if head[:6] == b"\2\0\0\0UL":
        return _meta_fields(file)
    cut = len(head) < 132 and not head[:128].strip(b"\0") and b"DICM".startswith(head[128:])
    require(not cut, "truncated", NOT_DICOM)
    require(len(head) == 144, "not_dicom", NOT_DICOM + format_hint(head))
    return _guess_syntax(file)


def _guess_syntax(file: BinaryIO) -> dict:
    """Guess the syntax of a data set from its first element, one of group 8 (or of a command)."""
    head = _peek(file, 512)
    types = _has_types(head)
    if head[:2] == b"\0\x08" and types:
        return {"TransferSyntaxUID": BIG_ENDIAN}
    command = head[:8] in (b"\0\0\0\0UL\4\0", b"\0\0\0\0\4\0\0\0")
    known = head[:2] == b"\x08\0" or command
    require(known, "not_dicom", NOT_DICOM + format_hint(head))
    return {"TransferSyntaxUID": EXPLICIT if types else IMPLICIT}


def _peek(file: BinaryIO, count: int) -> bytes:
    """Return up to `count` bytes and go back to where the file was."""
    head = file.read(count)
    file.seek(-len(head), os.SEEK_CUR)
    return head


def _has_types(head: bytes) -> bool:
    """Return whether the element that begins with these bytes has an explicit type."""
    return head[4:6].isalpha() and head[4:6].isupper()


def _values(elements: Iterable[RawDataElement | DataElement]) -> dict:
    """Return {keyword: value} of the wanted elements that are not empty."""
    fields = {}
    for element in elements:
        name, value = WANTED.get(element.tag), element.value
        if not name or not value:
            continue
        if name in NOT_TEXT:
            fields[name] = _value(name, element)
        elif type(value) is bytes:
            fields[name] = value.decode("latin-1").strip(" \0")
    return fields


def _value(name: str, element: RawDataElement | DataElement) -> str | int | bytes | list[Dataset]:
    if name in SEQUENCES:
        is_raw = not isinstance(element, DataElement)
        return convert_raw_data_element(element).value if is_raw else element.value
    if name in RAW:
        return element
    if name in SHORTS:
        return int.from_bytes(element.value[:2], "little" if element.is_little_endian else "big")
    if name in BINARY:
        return _numbers(element, BINARY[name]) if type(element.value) is bytes else ""
    return element.value


def _numbers(element: RawDataElement, kind: str) -> str:
    """Return binary numbers as text, separated as DICOM separates them; "" if they are not."""
    count = len(element.value) // struct.calcsize(kind)
    whole = count * struct.calcsize(kind) == len(element.value)
    order = "<" if element.is_little_endian else ">"
    numbers = struct.unpack(f"{order}{count}{kind}", element.value) if whole else ()
    return "\\".join(map(repr, numbers))


def _meta_ends(tag: int, *_) -> bool:
    return int(tag) >> 16 != 2


def _commands_end(tag: int, *_) -> bool:
    return int(tag) >> 16 >= 8


def _header_ends(tag: int, *_) -> bool:
    """Stop at the pixels, or where an element cannot belong to a header any more."""
    tag = int(tag)  # comparing plain integers is 5 times faster
    return tag >= FLOAT_PIXELS or tag < 0x00080000


def _pixel_element(file: BinaryIO, implicit: bool, little: bool) -> PixelElement:
    """Return the element at which the header ended, whatever it is."""
    start = file.tell()
    head = file.read(12).ljust(12, b"\0")
    order = "<" if little else ">"
    group, element = struct.unpack(order + "HH", head[:4])
    # Some writers fall back to implicit types here.
    explicit = not implicit and head[4:6] in LONG_VRS
    length_at = 8 if explicit else 4
    (length,) = struct.unpack(order + "I", head[length_at : length_at + 4])
    in_words = explicit and head[4:6] == b"OW"
    return PixelElement(group << 16 | element, start + length_at + 4, length, in_words)


def _why_no_pixels(fields: dict, past_end: bool) -> str:
    sop_class = fields.get("SOPClassUID") or fields.get("MediaStorageSOPClassUID", "")
    name = uid_name(sop_class)
    has_image = "Rows" in fields and "Spectroscopy" not in name
    if past_end or has_image or "Image Storage" in name:
        return "truncated"
    return "no_pixels" if sop_class else "not_dicom"
