"""Decode compressed frames with imagecodecs, which needs no library under the GPL.

A stream says its own size: it is compared with the header before anything is decoded.
"""

import struct
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
from pydicom.encaps import generate_frames

from src.dicom.errors import require
from src.dicom.fields import NATIVE, uid_name
from src.dicom.header import FileHeader

RLE = "1.2.840.10008.1.2.5"
JPEG_FAMILY = "1.2.840.10008.1.2.4."
CODECS = {  # codec of imagecodecs -> transfer syntaxes of the JPEG family that it decodes
    "jpeg8": ("50", "51", "57", "70"),
    "jpegls": ("80", "81"),
    # OpenJPEG reads high-throughput streams, too. OpenJPH ends the process at damaged ones.
    "jpeg2k": ("90", "91", "201", "202", "203"),
}
ITEM, END_OF_ITEMS, END_OF_IMAGE = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xd9"
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG, then of JPEG-LS
JPEG_2000 = b"\xff\x4f\xff\x51"  # how a codestream begins
MAX_BOXES = 4096  # bytes before the codestream of a JP2 file
MAX_TAIL = 1024  # bytes in which the end of an image is looked for: padding may follow it


class StreamSize(NamedTuple):
    """What the head of a compressed stream says."""

    rows: int
    columns: int
    samples: int  # a pixel: 1 if the image is grey
    precision: int  # bits a sample


def check_decoder(file: FileHeader) -> None:
    """Raise DicomError, with what to do, if nothing here decodes the file."""
    if file.syntax in NATIVE:
        return
    name = f"{uid_name(file.syntax)} ({file.syntax})"
    start = f"{file.path.name}: no decoder for {name}"
    remedy = "convert the files to an uncompressed transfer syntax"
    require(codec_of(file.syntax) is not None, "missing_decoder", f"{start}: {remedy}")
    require(_imagecodecs() is not None, "missing_decoder", f"{start}: pip install imagecodecs")


def codec_of(syntax: str) -> str | None:
    """Return which codec of imagecodecs decodes a transfer syntax, None if there is none."""
    if syntax == RLE:
        return "dicomrle"
    for codec, numbers in CODECS.items():
        if syntax.startswith(JPEG_FAMILY) and syntax.removeprefix(JPEG_FAMILY) in numbers:
            return codec
    return None


def iter_frames(encapsulated: bytes, file: FileHeader, wanted: list[int]) -> Iterator[np.ndarray]:
    """Yield the stored values (h, w) of the frames `wanted`, which ascend.

    encapsulated: the items of the pixel element, as the file holds them
    """
    _check_items(encapsulated, file)
    streams = generate_frames(
        encapsulated, number_of_frames=file.frames, extended_offsets=file.offset_table
    )
    chosen, last = set(wanted), wanted[-1]
    for index, stream in enumerate(streams):
        if index in chosen:
            yield _decode(stream, file)
        if index == last:
            return


def listed_frames(file: FileHeader) -> int:
    """Return how many compressed frames the file's table of offsets lists, 0 if there is none."""
    if file.offset_table is not None:
        return len(file.offset_table[0]) // 8
    try:
        with open(file.path, "rb") as stream:
            stream.seek(file.offset)
            head = stream.read(8)
    except OSError:
        return 0  # it is named when the pixels are read
    return int.from_bytes(head[4:], "little") // 4 if head.startswith(ITEM) else 0


def _imagecodecs() -> ModuleType | None:
    """Import it when it is needed: files without compression do not need it."""
    try:
        import imagecodecs
    except ImportError:
        return None
    return imagecodecs


def _decode(stream: bytes, file: FileHeader) -> np.ndarray:
    """Return one frame (h, w) as unsigned integers of the bits that the header says."""
    codec, dtype = codec_of(file.syntax), np.dtype(f"u{file.allocated // 8}")
    decoder = getattr(_imagecodecs(), f"{codec}_decode")
    if codec == "dicomrle":
        frame = bytearray(file.frame_bytes)
        written = decoder(stream, dtype, out=frame)
        require(len(written) == len(frame), "decode_error", "too few pixels")
        return np.frombuffer(frame, dtype).reshape(file.rows, file.columns)
    precision = _checked_precision(stream, codec, file)
    image = decoder(stream)
    same_shape = image.shape == (file.rows, file.columns)
    require(same_shape, "decode_error", "the compressed image has another shape")
    return image.astype(dtype) if codec == "jpeg8" else _as_stored(image, precision, file)


def _checked_precision(stream: bytes, codec: str, file: FileHeader) -> int:
    """Return the bits of a stream's pixels. Raise DicomError if the header says something else."""
    size = _stream_size(stream)
    require(size is not None, "decode_error", "no compressed image where one should be")
    same = (size.rows, size.columns, size.samples) == (file.rows, file.columns, 1)
    claim = f"the compressed image is not {file.rows} x {file.columns}"
    require(same, "decode_error", claim)
    claim = f"compressed pixels of {size.precision} bits, the header says {file.allocated}"
    require(size.precision <= file.allocated, "decode_error", claim)
    # libjpeg fills what is cut off with grey, CharLS searches for minutes.
    ends = codec == "jpeg2k" or END_OF_IMAGE in stream[-MAX_TAIL:]
    require(ends, "truncated", "the compressed image is cut off")
    return size.precision


def _as_stored(image: np.ndarray, precision: int, file: FileHeader) -> np.ndarray:
    """Return decoded pixels with the sign that the header says.

    JPEG-LS streams know no sign, and that of some JPEG 2000 streams is wrong: then the highest
    bit of the stream's precision is the sign.
    """
    unsigned = f"u{file.allocated // 8}"
    stored = image.astype(unsigned)
    spare = file.allocated - precision
    if spare and file.signed != (image.dtype.kind == "i"):
        as_said = stored.view(f"i{file.allocated // 8}") if file.signed else stored
        stored = ((as_said << spare) >> spare).view(unsigned)
    return stored


def _check_items(encapsulated: bytes, file: FileHeader) -> None:
    """Raise DicomError if compressed frames are cut off: decoders fill the rest with grey."""
    at, items = 0, 0
    while encapsulated[at : at + 4] == ITEM and at + 8 <= len(encapsulated):
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


def _stream_size(stream: bytes) -> StreamSize | None:
    """Return what a JPEG, JPEG-LS or JPEG 2000 stream says of itself; None if it is none."""
    start = max(stream.find(JPEG_2000, 0, MAX_BOXES), 0)
    if stream.startswith(JPEG_2000, start):
        return _jpeg_2000_size(stream[start : start + 43])
    at = 2 if stream.startswith(b"\xff\xd8") else len(stream)
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", stream, at + 1)
        if marker in FRAME_MARKERS:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", stream, at + 4)
            return StreamSize(rows, columns, samples, precision)
        at += 2 + length
    return None


def _jpeg_2000_size(head: bytes) -> StreamSize | None:
    if len(head) < 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", head, 8)
    (samples,) = struct.unpack_from(">H", head, 40)
    precision = (head[42] & 0x7F) + 1  # the highest bit is the sign
    return StreamSize(bottom - top, right - left, samples, precision)
