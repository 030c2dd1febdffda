"""How files of a series break, each way with the reason that stage 1 gives for it."""

import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

BOMB = 400  # MiB that a deflated header unpacks to
HTML = b"<html>sign in</html>" * 50


def rewrite(change: Callable[[bytes], bytes], folder: Path) -> None:
    """Change the bytes of each file of a series."""
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))


def edit(change: Callable[[Dataset], None], folder: Path) -> None:
    """Change the tags of each file of a series."""
    for path in folder.iterdir():
        data = dcmread(path)
        change(data)
        data.save_as(path)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def link_to_nowhere(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.unlink()
        path.symlink_to(folder / "nowhere")


def invert_header(whole: bytes) -> bytes:
    """Flip all bits of the first 400 bytes, the magic word's too."""
    return bytes(byte ^ 0xFF for byte in whole[:400]) + whole[400:]


def nest(whole: bytes) -> bytes:
    """Put 400 sequences, each in an item of the one before, ahead of all other tags."""
    start = 144 + struct.unpack("<I", whole[140:144])[0]
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return whole[:start] + (sequence + item) * 400 + ends * 400 + whole[start:]


def plant_bomb(folder: Path) -> None:
    """Leave one small file, whose deflated header unpacks to a huge one."""
    first, *others = sorted(folder.iterdir())
    for path in others:
        path.unlink()
    data = dcmread(first)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.add_new((0x0009, 0x0010), "OB", bytes(BOMB << 20))
    data.save_as(first)


def write_noise(syntax: str, data: Dataset, **tags) -> None:
    """Put noise in place of compressed frames, and set tags."""
    data.file_meta.TransferSyntaxUID = syntax
    frame = np.random.default_rng(0).bytes(500)
    data.PixelData = encapsulate([frame] * int(data.get("NumberOfFrames", 1)))
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.update(tags)


def noise(syntax: str, **tags) -> Callable[[Path], None]:
    return partial(edit, partial(write_noise, syntax, **tags))


def tags(**values) -> Callable[[Path], None]:
    return partial(edit, lambda data: data.update(values))


WAYS = {  # name: (what breaks the folder of a series, the reason with which it is refused)
    "missing folder": (shutil.rmtree, "missing"),
    "empty folder": (empty, "no_dicom"),
    "files of zero bytes": (partial(rewrite, lambda _: b""), "empty"),
    "text": (partial(rewrite, lambda _: HTML), "not_dicom"),
    "text behind the magic word": (
        partial(rewrite, lambda _: b"x" * 128 + b"DICM" + HTML),
        "not_dicom",
    ),
    "headers cut": (partial(rewrite, lambda whole: whole[:400]), "truncated"),
    "pixels cut": (partial(rewrite, lambda whole: whole[:-1]), "truncated"),
    "flipped headers": (partial(rewrite, invert_header), "not_dicom"),
    "nested sequences": (partial(rewrite, nest), "too_deep"),
    "huge images": (noise(RLELossless, Rows=32767, Columns=32767), "too_large"),
    "too many frames": (noise(RLELossless, NumberOfFrames=500000), "too_large"),
    "noise for JPEG 2000": (noise(JPEG2000Lossless), "decode_error"),
    "noise for RLE": (noise(RLELossless), "decode_error"),
    "syntax without a decoder": (noise("1.2.840.10008.1.2.4.100"), "missing_decoder"),
    "deflate bomb": (plant_bomb, "truncated"),
    "colour": (tags(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour"),
    "another modality": (tags(Modality="PT"), "other_modality"),
    "links to nowhere": (link_to_nowhere, "unreadable"),
}
