"""What a header says of stored values besides slope and intercept: padding, a Modality LUT."""

import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from src.dicom.errors import DicomError

PADDING = {  # bits of float pixels, 0: whole numbers -> value, limit, type of the number
    0: ("PixelPaddingValue", "PixelPaddingRangeLimit", "H"),
    32: ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "f"),
    64: ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit", "d"),
}


class ModalityLut(NamedTuple):
    """A table in place of slope and intercept."""

    first: int  # the stored value that the first entry belongs to
    entries: bytes  # float32, one for each stored value from `first` on
    unit: str  # of the entries: HU, US (unspecified) and others

    def values(self, stored: np.ndarray) -> np.ndarray:
        """Return the entries (float32) of stored values; beyond its ends the table goes on flat."""
        table = np.frombuffer(self.entries, np.float32)
        return table[np.clip(stored.astype(np.int64) - self.first, 0, len(table) - 1)]


def padding_of(fields: dict, bits_of_float: int, signed: bool) -> tuple[float, float] | None:
    """Return the lowest and the highest stored value that is padding (PS3.3 C.7.5.1.1.2), or None.

    PixelRepresentation decides on the sign, whatever type the element has.
    """
    name, limit, code = PADDING[bits_of_float]
    if code == "H" and signed:
        code = "h"
    ends = [_number(fields[key], code) for key in (name, limit) if key in fields]
    known = name in fields and None not in ends
    return (min(ends), max(ends)) if known else None


def modality_lut_of(fields: dict, signed: bool) -> ModalityLut | None:
    """Return the first Modality LUT of a header (PS3.3 C.11.1.1.1), None if it has none.

    It leaves `fields`, because it is large; files with the same table share one.
    """
    element = fields.pop("ModalityLUTSequence", None)
    if element is None:
        return None
    try:
        return _first_equal(_lut_of_item(_sequence(element)[0], signed))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error):
        raise DicomError("bad_rescale", "its Modality LUT Sequence cannot be read") from None


@lru_cache(maxsize=16)
def _first_equal(lut: ModalityLut) -> ModalityLut:
    return lut


def _sequence(element: DataElement | RawDataElement) -> Sequence:
    is_raw = not isinstance(element, DataElement)
    return convert_raw_data_element(element).value if is_raw else element.value


def _lut_of_item(item: Dataset, signed: bool) -> ModalityLut:
    descriptor, data = item.get_item("LUTDescriptor"), item.get_item("LUTData")
    order = "<" if descriptor.is_little_endian else ">"
    count, first = struct.unpack_from(f"{order}H{'h' if signed else 'H'}", descriptor.value)
    entries = _entries(data, order, count or 1 << 16).astype(np.float32)
    return ModalityLut(first, entries.tobytes(), str(item.get("ModalityLUTType", "")))


def _entries(data: RawDataElement, order: str, count: int) -> np.ndarray:
    """Return the entries (count,). They have 8 bits if there are no bytes for 16."""
    if len(data.value) >= 2 * count:
        return np.frombuffer(data.value, f"{order}u2", count)
    content = data.value
    if order == ">" and data.VR in ("OW", "US", "SS"):
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    return np.frombuffer(content, np.uint8, count)


def _number(element: RawDataElement, code: str) -> float | None:
    """Return the first number of an element, None if it is too short."""
    if len(element.value) < struct.calcsize(code):
        return None
    order = "<" if element.is_little_endian else ">"
    return struct.unpack_from(order + code, element.value)[0]
