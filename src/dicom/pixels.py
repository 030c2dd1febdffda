"""Pixels of a DICOM file: stored values, and their meaning in HU or rescaled units.

A stored value is one pixel's bits, unsigned, before anything is done to it. `values` gives it its
meaning: unused bits, sign, MONOCHROME1, slope and intercept. A lookup table is `values` of all
stored values, so that pixels and tables cannot differ.
"""

import os
import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from pydicom.pixels import get_decoder

from src.dicom.errors import DicomError, named_errors, require
from src.dicom.fields import (
    BIG_ENDIAN,
    DEFLATED,
    NATIVE,
    inflate,
    read_meta,
    uid_name,
)
from src.dicom.header import UNDEFINED_LENGTH, FileHeader, Slice

RLE = "1.2.840.10008.1.2.5"
ITEM, END_OF_ITEMS, END_OF_IMAGE = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xd9"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG, then of JPEG-LS
JPEG_FAMILY = "1.2.840.10008.1.2.4."
DECODERS = {  # what to install -> transfer syntaxes of the JPEG family that it decodes
    "pillow": ("50", "90", "91"),
    "pylibjpeg pylibjpeg-libjpeg": ("51", "57", "70"),
    "pyjpegls": ("80", "81"),
    "pylibjpeg pylibjpeg-openjpeg": ("201", "202", "203"),
}


def iter_words(slices: list[Slice]) -> Iterator[np.ndarray]:
    """Yield the stored values (h, w) of slices of one file, which come in stored order.

    They are unsigned, or floats that stay finite when rescaled. Raise DicomError and nothing else.
    """
    file = slices[0].file
    frames = [max(slice_.frame, 0) for slice_ in slices]
    with named_errors(file.path, "decode_error"):
        images = _native(file, frames) if file.syntax in NATIVE else _decoded(file, frames)
        for slice_, stored in zip(slices, images, strict=True):
            if file.is_float:
                finite = bool(np.isfinite(values(stored, slice_)).all())
                require(finite, "non_finite", "pixels that are not finite")
            yield stored


def values(stored: np.ndarray, slice_: Slice, out: np.ndarray | None = None) -> np.ndarray:
    """Return stored values of a slice, any shape, as float32 in HU or rescaled units.

    out: float32 array to write into; a new one if None
    """
    file, slope, intercept = slice_.file, slice_.slope, slice_.intercept
    if file.inverted:
        slope, intercept = -slope, intercept + slope * _lowest_plus_highest(file)
    used = stored if file.is_float else _used_bits(stored, file)
    # Floats may become infinite here: `iter_words` refuses them.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.multiply(used, slope, out=out, dtype=np.float32, casting="same_kind")
        scaled += np.float32(intercept)
    return scaled


def lookup_table(slice_: Slice) -> np.ndarray | None:
    """Return `values` (1-d, float32) of all stored values of 8 or 16 bits; None for more bits."""
    bits = slice_.file.allocated
    return None if bits > 16 else values(np.arange(1 << bits, dtype=f"u{bits // 8}"), slice_)


def check_decoder(file: FileHeader) -> None:
    """Raise DicomError, with the line that installs it, if the file's decoder is missing."""
    if file.syntax in NATIVE:
        return
    try:
        available = get_decoder(file.syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        name = f"{uid_name(file.syntax)} ({file.syntax})"
        message = f"{file.path.name}: no decoder for {name}: {_remedy(file.syntax)}"
        raise DicomError("missing_decoder", message)


def _remedy(syntax: str) -> str:
    # pydicom's Decoder.missing_dependencies names no pip packages, and gdcm for every syntax.
    for packages, numbers in DECODERS.items():
        if syntax.removeprefix(JPEG_FAMILY) in numbers:
            return f"pip install {packages}"
    return "convert the files to an uncompressed transfer syntax"


def _lowest_plus_highest(file: FileHeader) -> float:
    """Return the sum of the lowest and the highest value that a pixel can hold; 0 for floats."""
    if file.is_float:
        return 0.0
    return -1.0 if file.signed else 2.0**file.stored - 1


def _used_bits(stored: np.ndarray, file: FileHeader) -> np.ndarray:
    """Drop the bits beyond BitsStored, or fill them with the sign."""
    spare = file.allocated - file.stored
    if file.signed:
        stored = stored.view(f"i{file.allocated // 8}")
    if not spare:
        return stored
    if file.signed:
        return (stored << (file.allocated - 1 - file.high_bit)) >> spare
    mask = stored.dtype.type((1 << file.stored) - 1)
    return (stored >> (file.high_bit + 1 - file.stored)) & mask


def _native(file: FileHeader, frames: list[int]) -> Iterator[np.ndarray]:
    """Yield uncompressed frames (h, w)."""
    order = ">" if file.syntax == BIG_ENDIAN else "<"
    dtype = np.dtype(f"{order}{'f' if file.is_float else 'u'}{file.allocated // 8}")
    with open(file.path, "rb", buffering=0) as stream:
        if file.syntax == DEFLATED:
            read_meta(stream, os.fstat(stream.fileno()).st_size)  # what follows is deflated
            stream = BytesIO(inflate(stream.read(), file.offset + file.frame_bytes * file.frames))
        for frame in frames:
            stream.seek(file.offset + frame * file.frame_bytes)
            data = stream.read(file.frame_bytes)
            whole = len(data) == file.frame_bytes
            require(whole, "truncated", "the file ends before its pixels do")
            pixels = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
            yield pixels.reshape(file.rows, file.columns)


def _decoded(file: FileHeader, frames: list[int]) -> Iterator[np.ndarray]:
    """Yield compressed frames (h, w), decoded."""
    check_decoder(file)
    require(file.length == UNDEFINED_LENGTH, "decode_error", "compressed pixels without items")
    with open(file.path, "rb") as stream:
        stream.seek(file.offset)
        encapsulated = stream.read()
    _check_items(encapsulated, file)
    decoded = get_decoder(file.syntax).iter_array(
        encapsulated,
        indices=frames,
        raw=True,
        validate=False,
        rows=file.rows,
        columns=file.columns,
        number_of_frames=file.frames,
        samples_per_pixel=1,
        bits_allocated=file.allocated,
        bits_stored=file.stored,
        pixel_representation=int(file.signed),
        photometric_interpretation="MONOCHROME1" if file.inverted else "MONOCHROME2",
        extended_offsets=file.offset_table,
    )
    for array, _ in decoded:
        yield array.view(f"u{file.allocated // 8}")


def _check_items(encapsulated: bytes, file: FileHeader) -> None:
    """Raise DicomError if compressed frames are cut off or of another size than the header says.

    Decoders fill what is cut off with grey, and make images as large as a damaged stream claims.
    """
    at, items = 0, 0
    while encapsulated[at : at + 4] == ITEM and at + 8 <= len(encapsulated):
        same_size = _stream_size(encapsulated, at + 8) in (None, (file.rows, file.columns))
        claim = f"the compressed image is not {file.rows} x {file.columns}"
        require(same_size, "decode_error", claim)
        at += 8 + struct.unpack_from("<I", encapsulated, at + 4)[0]
        items += 1
    end = encapsulated[at : at + 4]
    whole = end == END_OF_ITEMS
    if not whole and at <= len(encapsulated) and END_OF_ITEMS.startswith(end):
        # Some writers leave out the end: then the last frame must be whole.
        last = encapsulated[at - 3 : at].rstrip(b"\0")
        whole = file.syntax == RLE or last.endswith(END_OF_IMAGE)
    reason = "truncated" if at + 4 > len(encapsulated) else "decode_error"
    require(whole, reason, "the compressed pixels are not whole")
    found = items - 1  # the first item is the table of offsets
    claim = f"{file.frames} frames are claimed, {found} are there"
    require(found >= file.frames, "truncated", claim)


def _stream_size(data: bytes, start: int) -> tuple[int, int] | None:
    """Return rows and columns of the JPEG, JPEG-LS or JPEG 2000 stream at `start`, else None."""
    if data[start : start + 4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        grey = data[start + 40 : start + 42] == b"\0\1"
        return (bottom - top, right - left) if grey else (0, 0)  # (0, 0) is refused
    at = start + 2 if data[start : start + 2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker in FRAME_MARKERS:
            return struct.unpack_from(">HH", data, at + 5)
        at += 2 + length
    return None
