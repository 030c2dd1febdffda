"""Pixels of a DICOM file: stored values, and their meaning in HU or rescaled units.

A stored value is one pixel's bits, unsigned, before anything is done to it. `values` gives it its
meaning: unused bits, sign, MONOCHROME1, slope and intercept or a Modality LUT, padding. A lookup
table is `values` of all stored values, so that pixels and tables cannot differ.
"""

import os
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

import numpy as np

from src.dicom.decoders import iter_frames
from src.dicom.errors import named_errors, require
from src.dicom.fields import (
    BIG_ENDIAN,
    DEFLATED,
    NATIVE,
    UNDEFINED_LENGTH,
    inflate,
    read_meta,
)
from src.dicom.header import FileHeader, Slice

AIR = np.float32(-1000)  # HU
MAX_TABLE_BITS = 16  # of stored values that lookup tables are made for


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
    file = slice_.file
    used = stored if file.is_float else _used_bits(stored, file)
    scaled = _rescaled(used, slice_, out)
    if file.padding is not None:
        at = _in_range(used, file.padding)
        scaled[at] = np.minimum(scaled[at], background(slice_))
    return scaled


def is_padding(stored: np.ndarray, file: FileHeader) -> np.ndarray:
    """Return where stored values, any shape, are padding: nothing of the patient."""
    if file.padding is None:
        return np.zeros(stored.shape, bool)
    return _in_range(stored if file.is_float else _used_bits(stored, file), file.padding)


def background(slice_: Slice) -> np.float32:
    """Return what padding is set to where it is brighter: air, or what a stored 0 stands for."""
    file = slice_.file
    if file.modality == "CT":
        return AIR
    if file.modality_lut is not None:
        return np.float32(0)
    return np.float32(slice_.intercept)


def every_stored_value(file: FileHeader) -> np.ndarray:
    """Return all stored values (1-d) of a file of 8 or 16 bits, to make a lookup table of."""
    return np.arange(1 << file.allocated, dtype=f"u{file.allocated // 8}")


def _rescaled(used: np.ndarray, slice_: Slice, out: np.ndarray | None) -> np.ndarray:
    file, slope, intercept = slice_.file, slice_.slope, slice_.intercept
    if file.modality_lut is not None:
        used, slope, intercept = file.modality_lut.values(used), 1.0, 0.0
    if file.inverted:
        slope, intercept = -slope, intercept + slope * _lowest_plus_highest(file)
    # Floats may become infinite here: `iter_words` refuses them.
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.multiply(used, slope, out=out, dtype=np.float32, casting="same_kind")
        scaled += np.float32(intercept)
    return scaled


def _in_range(used: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    lowest, highest = ends
    return (used >= lowest) & (used <= highest)


def _lowest_plus_highest(file: FileHeader) -> float:
    """Return the sum of the lowest and the highest value that a pixel can hold; 0 for floats."""
    if file.is_float:
        return 0.0
    if file.modality_lut is not None:
        table = np.frombuffer(file.modality_lut.entries, np.float32)
        return float(table.min() + table.max())
    return -1.0 if file.signed else 2.0**file.stored - 1


def _used_bits(stored: np.ndarray, file: FileHeader) -> np.ndarray:
    """Drop the bits beyond BitsStored, or fill them with the sign."""
    spare = file.allocated - file.stored
    if file.signed:
        stored = stored.view(f"i{file.allocated // 8}")
    if not spare:
        return stored
    unused_below = max(file.high_bit + 1 - file.stored, 0)
    if file.signed:
        return (stored << (spare - unused_below)) >> spare
    mask = stored.dtype.type((1 << file.stored) - 1)
    return (stored >> unused_below) & mask


def _native(file: FileHeader, frames: list[int]) -> Iterator[np.ndarray]:
    """Yield uncompressed frames (h, w)."""
    order = ">" if file.syntax == BIG_ENDIAN else "<"
    dtype = np.dtype(f"{order}{'f' if file.is_float else 'u'}{file.allocated // 8}")
    with open(file.path, "rb", buffering=0) as stream:
        if file.syntax == DEFLATED:
            read_meta(stream, os.fstat(stream.fileno()).st_size)  # what follows is deflated
            stream = BytesIO(inflate(stream.read(), file.offset + file.frame_bytes * file.frames))
        for frame in frames:
            data = _frame(stream, file, frame)
            whole = len(data) == file.frame_bytes
            require(whole, "truncated", "the file ends before its pixels do")
            pixels = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
            yield pixels.reshape(file.rows, file.columns)


def _frame(stream: BinaryIO, file: FileHeader, frame: int) -> bytes:
    """Return the bytes of an uncompressed frame, fewer if the file ends before."""
    start = frame * file.frame_bytes
    if not (file.syntax == BIG_ENDIAN and file.in_words and file.allocated == 8):
        stream.seek(file.offset + start)
        return stream.read(file.frame_bytes)
    # Pixels of 8 bits in words of 16, whose bytes are stored in the wrong order (PS3.5 8.1.1).
    odd = start % 2
    stream.seek(file.offset + start - odd)
    words = stream.read(file.frame_bytes + odd + 1)
    swapped = np.frombuffer(words[: len(words) // 2 * 2], ">u2").astype("<u2").tobytes()
    return swapped[odd : odd + file.frame_bytes]


def _decoded(file: FileHeader, frames: list[int]) -> Iterator[np.ndarray]:
    """Yield compressed frames (h, w), decoded."""
    require(file.length == UNDEFINED_LENGTH, "decode_error", "compressed pixels without items")
    with open(file.path, "rb") as stream:
        stream.seek(file.offset)
        encapsulated = stream.read()
    yield from iter_frames(encapsulated, file, frames)
