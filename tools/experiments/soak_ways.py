"""How files of a series break, each way with the reason that stage 1 gives for it."""

import shutil
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

BOMB = 400  # MiB that a deflated header unpacks to


def rewrite(change: Callable[[bytes], bytes], folder: Path) -> None:
    """Other bytes in each file of a series."""
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))


def edit(change: Callable[[Dataset], None], folder: Path) -> None:
    """Other tags in each file of a series."""
    for path in folder.iterdir():
        data = dcmread(path)
        change(data)
        data.save_as(path)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def links_to_nowhere(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.unlink()
        path.symlink_to(folder / "nowhere")


def inverted_header(whole: bytes) -> bytes:
    """All bits of the first 400 bytes flipped, the magic word's too."""
    return bytes(byte ^ 0xFF for byte in whole[:400]) + whole[400:]


def nested(whole: bytes) -> bytes:
    """400 sequences, each in an item of the one before, ahead of all other tags."""
    start = 144 + struct.unpack("<I", whole[140:144])[0]
    opened = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return whole[:start] + opened * 400 + closed * 400 + whole[start:]


def bomb(folder: Path) -> None:
    """One file is left, whose small deflated header unpacks to a huge one."""
    first, *others = sorted(folder.iterdir())
    for path in others:
        path.unlink()
    data = dcmread(first)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(first)
    whole = first.read_bytes()
    start = 144 + struct.unpack("<I", whole[140:144])[0]
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    parts = (
        struct.pack("<HH2sHI", 0x0009, 0x0010, b"OB", 0, BOMB << 20),
        *[bytes(1 << 20)] * BOMB,
        zlib.decompress(whole[start:], -zlib.MAX_WBITS),
    )
    first.write_bytes(whole[:start] + b"".join(map(packer.compress, parts)) + packer.flush())


def noise(syntax: str, data: Dataset, **tags) -> None:
    """Noise in place of compressed frames; `tags` come on top."""
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate(
        [np.random.default_rng(0).bytes(500)] * int(data.get("NumberOfFrames", 1))
    )
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.update(tags)


def tags(data: Dataset, **values) -> None:
    data.update(values)


HTML = b"<html>sign in</html>" * 50
WAYS: dict[
    str, tuple[Callable[[Path], None], str]
] = {  # name: (what is done to the folder of a series, the reason with which it is refused)
    "missing folder": (shutil.rmtree, "missing"),
    "empty folder": (emptied, "no_dicom"),
    "files of zero bytes": (partial(rewrite, lambda _: b""), "empty"),
    "text": (partial(rewrite, lambda _: HTML), "not_dicom"),
    "text behind the magic word": (
        partial(rewrite, lambda _: b"x" * 128 + b"DICM" + HTML),
        "not_dicom",
    ),
    "headers cut": (partial(rewrite, lambda whole: whole[:400]), "truncated"),
    "pixels cut": (partial(rewrite, lambda whole: whole[:-1]), "truncated"),
    "flipped headers": (partial(rewrite, inverted_header), "not_dicom"),
    "nested sequences": (partial(rewrite, nested), "too_deep"),
    "huge images": (
        partial(edit, partial(noise, RLELossless, Rows=32767, Columns=32767)),
        "too_large",
    ),
    "too many frames": (
        partial(edit, partial(noise, RLELossless, NumberOfFrames=500000)),
        "too_large",
    ),
    "noise for JPEG 2000": (partial(edit, partial(noise, JPEG2000Lossless)), "decode_error"),
    "noise for RLE": (partial(edit, partial(noise, RLELossless)), "decode_error"),
    "syntax without a decoder": (
        partial(edit, partial(noise, "1.2.840.10008.1.2.4.100")),
        "missing_decoder",
    ),
    "deflate bomb": (bomb, "truncated"),
    "colour": (
        partial(edit, partial(tags, SamplesPerPixel=3, PhotometricInterpretation="RGB")),
        "colour",
    ),
    "another modality": (partial(edit, partial(tags, Modality="PT")), "other_modality"),
    "links to nowhere": (links_to_nowhere, "unreadable"),
}
