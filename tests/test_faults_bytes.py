"""Files that are cut or damaged: the reader gives the volume or a named reason, nothing else."""

import resource
import struct
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dicom import DicomError, open_series, read_series
from tests.compressed_files import HTJ2K, JPEG, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, KINDS, encoded
from tests.dicom_files import AXES, dataset, places, reason, save, volume, write_frames


@pytest.mark.parametrize(
    "content",
    [
        b"<html>sign in</html>" * 50,
        b"x" * 128 + b"DICM" + b"<html>sign in</html>" * 50,
        b"\x08\x00 hm",
        b"a note",
    ],
)
def test_text_saved_as_dicom(content, tmp_path):
    (tmp_path / "page.dcm").write_bytes(content)
    assert reason(tmp_path) == "not_dicom"


@pytest.mark.parametrize(
    "kept",
    [40, 131, 140, 200, 0.5, -1],
    ids=["preamble", "magic", "meta", "meta end", "header", "pixels"],
)
def test_a_file_that_is_cut(kept, tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "whole.dcm").read_bytes()
    header = len(whole) - volume()[0].nbytes
    (tmp_path / "whole.dcm").write_bytes(whole[: int(header * kept) if 0 < kept < 1 else kept])
    assert reason(tmp_path) == "truncated"


def test_a_sequence_that_is_cut(tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "file").read_bytes()
    meta_end = 144 + struct.unpack("<I", whole[140:144])[0]
    (tmp_path / "file").write_bytes(
        whole[:meta_end] + struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    )
    assert reason(tmp_path) == "truncated"


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_the_whole_or_a_reason(kind, tmp_path):
    path = save(encoded(kind), tmp_path / "file")
    whole, truth = path.read_bytes(), read_series(tmp_path).pixels
    results = set()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        try:
            assert np.array_equal(read_series(tmp_path).pixels, truth)
            results.add("equal")
        except DicomError as error:
            results.add(error.reason)
    assert results <= {
        "equal",
        "empty",
        "truncated",
        "not_dicom",
        "no_pixels",
        "decode_error",
        "bad_header",
    }
    assert "truncated" in results


REASONS = set(
    "truncated not_dicom no_pixels decode_error bad_header bad_rescale too_large too_deep "
    "colour unsupported_bits other_modality missing_decoder".split()
)


MEANING = (
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
)


@pytest.fixture(scope="module")
def flipped_files(tmp_path_factory) -> dict[str, tuple]:
    """Return {kind: (path, its bytes, offset of its first pixel or item, its pixels)}.

    "memory" is the most that the process has held so far.
    """
    folder = tmp_path_factory.mktemp("flips")
    axes = AXES["axial"]
    paths = {kind: save(encoded(kind), folder / kind / "file") for kind in KINDS}
    paths["frames"] = write_frames(
        folder / "frames" / "file", volume((3, 4, 4)), places(axes, 3), [*axes[2], *axes[1]]
    )
    files = {
        kind: (
            path,
            path.read_bytes(),
            open_series(path).slices[0].file.offset,
            read_series(path).pixels,
        )
        for kind, path in paths.items()
    }
    return files | {"memory": peak_memory()}


def peak_memory() -> int:
    """Return the most bytes that this process has held at once, decoders included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


@settings(max_examples=800, deadline=5000)
@given(
    kind=st.sampled_from([*KINDS, "frames"]),
    in_pixels=st.booleans(),
    at=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_flipped_bytes(kind, in_pixels, at, value, flipped_files):
    """A flip in a pixel or a number goes unnoticed: then the result is finite, and pydicom's."""
    path, whole, pixels_start, truth = flipped_files[kind]
    start, end = (
        (pixels_start, len(whole))
        if in_pixels and kind != "deflated"
        else (132, pixels_start if kind != "deflated" else len(whole))
    )
    offset = start + int(at * (end - start))
    path.write_bytes(whole[:offset] + bytes([value]) + whole[offset + 1 :])
    try:
        series = read_series(path.parent)
    except DicomError as error:
        assert error.reason in REASONS
    else:
        assert np.isfinite(series.pixels).all()
        if offset >= pixels_start and kind in ("plain", "frames"):
            assert series.pixels.shape == truth.shape and (series.pixels != truth).sum() <= 1
        elif kind != "frames" and (expected := by_pydicom(path, whole, truth[0])) is not None:
            assert np.array_equal(series.pixels[0], expected)
    assert peak_memory() < flipped_files["memory"] + (300 << 20)


def by_pydicom(path: Path, whole: bytes, truth: np.ndarray) -> np.ndarray | None:
    """Return what pydicom makes of a damaged file, or the truth if its pixels are undamaged.

    None if pydicom refuses it, or if a flipped tag gives the pixels another meaning.
    """
    with suppress(Exception):
        data, before = pydicom.dcmread(path), pydicom.dcmread(BytesIO(whole))
        if all(data.get(name) == before.get(name) for name in MEANING):
            syntax = data.file_meta.TransferSyntaxUID
            if syntax in (JPEG_LOSSLESS, JPEG_LS, HTJ2K):  # each decoder makes its own of damage
                return truth if data.PixelData == before.PixelData else None
            # Pillow decodes with the same libraries: others round lossy JPEG in their own way.
            is_pillows = syntax in (JPEG, JPEG_2000)
            data.pixel_array_options(decoding_plugin="pillow" if is_pillows else "")
            return data.pixel_array
    return None


def test_an_element_shorter_than_its_image(tmp_path):
    """Bytes behind the pixel element are not read as pixels."""
    data = dataset(volume()[0], Rows=24)
    data.add_new(0xFFFCFFFC, "OB", bytes(2000))
    save(data, tmp_path / "file")
    assert reason(tmp_path) == "truncated"


def test_nested_sequences(tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "file").read_bytes()
    item, end_item, end = (
        struct.pack("<HHI", 0xFFFE, tag, length)
        for tag, length in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))
    )
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    meta_end = 144 + struct.unpack("<I", whole[140:144])[0]
    nested = (sequence + item) * 400 + (end_item + end) * 400
    (tmp_path / "file").write_bytes(whole[:meta_end] + nested + whole[meta_end:])
    assert reason(tmp_path) == "too_deep"
