"""Slices of a DICOM file -> raw words as they are stored -> HU or rescaled units.

A word is one pixel's bits, unsigned, before anything is done to it. `values` gives a word its meaning: unused bits, sign, MONOCHROME1,
slope and intercept. Applied to all words of 8 or 16 bits it makes a lookup table, so pixels and tables cannot differ.
"""

import os
import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from pydicom.pixels import get_decoder

from src.dicom.fields import BIG_ENDIAN, DEFLATED, DicomError, inflate, read_meta, require, uid_name
from src.dicom.header import NATIVE, UNDEFINED_LENGTH, FileHeader, Slice

RLE = "1.2.840.10008.1.2.5"
ITEM, END_OF_ITEMS, END_OF_IMAGE = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xd9"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG, then of JPEG-LS
PIP = {  # transfer syntax -> what decodes it
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.57": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.70": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pillow",
    "1.2.840.10008.1.2.4.91": "pillow",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}


def iter_words(slices: list[Slice]) -> Iterator[np.ndarray]:
    """Raw words (h, w) of slices of one file, which come in stored order: unsigned integers, or floats whose values are finite.
    Raises DicomError and nothing else."""
    file = slices[0].file
    frames = [max(piece.frame, 0) for piece in slices]
    try:
        for piece, words in zip(
            slices,
            _native(file, frames) if file.syntax in NATIVE else _decoded(file, frames),
            strict=True,
        ):
            require(
                not file.is_float or bool(np.isfinite(values(words, piece)).all()),
                "non_finite",
                "pixels that are not finite",
            )
            yield words
    except DicomError as error:
        raise DicomError(error.reason, f"{file.path.name}: {error}") from None
    except MemoryError:
        raise DicomError(
            "too_large", f"{file.path.name}: its pixels do not fit into memory"
        ) from None
    except OSError as error:
        raise DicomError(
            "unreadable" if error.errno else "decode_error",
            f"{file.path.name}: {error.strerror or error}",
        ) from None
    except (
        Exception
    ) as error:  # on damaged streams decoders raise anything from StopIteration to RuntimeError
        raise DicomError(
            "decode_error", f"{file.path.name}: {type(error).__name__}: {error}"
        ) from None


def values(words: np.ndarray, piece: Slice, out: np.ndarray | None = None) -> np.ndarray:
    """Words of a slice, any shape -> float32 HU or rescaled units."""
    file = piece.file
    slope, intercept = piece.slope, piece.intercept
    if file.inverted:
        lowest_plus_highest = (
            0.0 if file.is_float else -1.0 if file.signed else 2.0**file.stored - 1
        )
        slope, intercept = -slope, intercept + slope * lowest_plus_highest
    stored = words if file.is_float else _used_bits(words, file)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # `iter_words` refuses floats that become infinite
        scaled = np.multiply(stored, slope, out=out, dtype=np.float32, casting="same_kind")
        scaled += np.float32(intercept)
    return scaled


def lookup_table(piece: Slice) -> np.ndarray | None:
    """`values` of every word (1-d) the slice may hold, float32; None where words have more than 16 bits."""
    if piece.file.allocated > 16:
        return None
    return values(
        np.arange(1 << piece.file.allocated, dtype=f"u{piece.file.allocated // 8}"), piece
    )


def check_decoder(file: FileHeader) -> None:
    """DicomError where no decoder for the file's transfer syntax is installed, with the line that installs it."""
    if file.syntax in NATIVE:
        return
    name = f"{uid_name(file.syntax)} ({file.syntax})"
    remedy = (
        f"pip install {PIP[file.syntax]}"
        if file.syntax in PIP
        else "convert the files to an uncompressed transfer syntax"
    )
    try:
        available = get_decoder(file.syntax).is_available
    except NotImplementedError:
        available = False
    require(available, "missing_decoder", f"{file.path.name}: no decoder for {name}: {remedy}")


def _used_bits(words: np.ndarray, file: FileHeader) -> np.ndarray:
    """Bits beyond BitsStored are dropped, or filled with the sign."""
    spare = file.allocated - file.stored
    if not file.signed:
        return (
            words
            if not spare
            else (words >> (file.high_bit + 1 - file.stored))
            & words.dtype.type((1 << file.stored) - 1)
        )
    signed = words.view(f"i{file.allocated // 8}")
    return signed if not spare else (signed << (file.allocated - 1 - file.high_bit)) >> spare


def _native(file: FileHeader, frames: list[int]) -> Iterator[np.ndarray]:
    order = ">" if file.syntax == BIG_ENDIAN else "<"
    dtype = np.dtype(f"{order}{'f' if file.is_float else 'u'}{file.allocated // 8}")
    with open(file.path, "rb", buffering=0) as stream:
        if file.syntax == DEFLATED:
            read_meta(stream, os.fstat(stream.fileno()).st_size)  # what follows is deflated
            stream = BytesIO(inflate(stream.read(), file.offset + file.frame_bytes * file.frames))
        for frame in frames:
            stream.seek(file.offset + frame * file.frame_bytes)
            data = stream.read(file.frame_bytes)
            require(
                len(data) == file.frame_bytes, "truncated", "the file ends before its pixels do"
            )
            yield (
                np.frombuffer(data, dtype)
                .astype(dtype.newbyteorder("="), copy=False)
                .reshape(file.rows, file.columns)
            )


def _decoded(file: FileHeader, frames: list[int]) -> Iterator[np.ndarray]:
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
        **({"extended_offsets": file.offset_table} if file.offset_table else {}),
    )
    for array, _ in decoded:
        yield array.view(f"u{file.allocated // 8}")


def _check_items(encapsulated: bytes, file: FileHeader) -> None:
    """Decoders fill what is cut off with grey, and make images as large as a damaged stream claims: neither may reach them."""
    at, items = 0, 0
    while encapsulated[at : at + 4] == ITEM and at + 8 <= len(encapsulated):
        size = stream_size(encapsulated, at + 8)
        require(
            size in (None, (file.rows, file.columns)),
            "decode_error",
            f"the compressed image is not {file.rows} x {file.columns}",
        )
        at += 8 + struct.unpack_from("<I", encapsulated, at + 4)[0]
        items += 1
    end = encapsulated[at : at + 4]
    last_is_whole = file.syntax == RLE or encapsulated[at - 3 : at].rstrip(b"\0").endswith(
        END_OF_IMAGE
    )
    whole = end == END_OF_ITEMS or (
        at <= len(encapsulated) and END_OF_ITEMS.startswith(end) and last_is_whole
    )  # some writers leave out the end
    require(
        whole,
        "truncated" if at + 4 > len(encapsulated) else "decode_error",
        "the compressed pixels are not whole",
    )
    require(
        items - 1 >= file.frames,
        "truncated",
        f"{file.frames} frames are claimed, {items - 1} are there",
    )


def stream_size(data: bytes, start: int) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream beginning at `start` claims for its grey image; None for anything else."""
    if data[start : start + 4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
        return (bottom - top, right - left) if data[start + 40 : start + 42] == b"\0\1" else (0, 0)
    at = start + 2 if data[start : start + 2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker in FRAME_MARKERS:
            return struct.unpack_from(">HH", data, at + 5)
        at += 2 + length
    return None
