"""The meaning of stored values, pixel by pixel in plain Python."""

import numpy as np
import pytest

from src.dicom.coding import ModalityLut
from src.dicom.errors import DicomError
from src.dicom.fields import BIG_ENDIAN, IMPLICIT
from src.dicom.pixels import background, every_stored_value, is_padding, iter_words, values
from tests.slices_in_memory import a_slice


def meaning(bits: int, slice_) -> float:
    """Return what one pixel means, by its bits as text."""
    file = slice_.file
    text = f"{bits:0{file.allocated}b}"
    lowest = file.allocated - 1 - file.high_bit  # of the text, the highest bit comes first
    used = text[lowest : lowest + file.stored]
    number = int(used, 2)
    if file.signed and used[0] == "1":
        number -= 2**file.stored
    found = number * slice_.slope + slice_.intercept
    if file.monochrome1 and file.modality != "CT":
        ends = (-(2 ** (file.stored - 1)), 2 ** (file.stored - 1) - 1)
        ends = ends if file.signed else (0, 2**file.stored - 1)
        found = (sum(ends) - number) * slice_.slope + slice_.intercept
    if file.padding and file.padding[0] <= number <= file.padding[1]:
        found = min(found, -1000.0 if file.modality == "CT" else slice_.intercept)
    return found


FORMS = {
    "16 bits": {},
    "8 bits": {"allocated": 8, "stored": 8, "high_bit": 7},
    "7 of 8 bits": {"allocated": 8, "stored": 7, "high_bit": 6},
    "12 low bits": {"stored": 12, "high_bit": 11},
    "12 high bits": {"stored": 12, "high_bit": 15},
    "12 bits between": {"stored": 12, "high_bit": 13},
    "1 bit": {"stored": 1, "high_bit": 0},
}


@pytest.mark.parametrize("padding", [None, (3, 5), (7, 7)])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("monochrome1", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_values_are_those_of_the_standard(form, signed, monochrome1, modality, padding):
    kind = {"signed": signed, "monochrome1": monochrome1, "modality": modality, "padding": padding}
    slice_ = a_slice(slope=2.0, intercept=-9.0, **FORMS[form], **kind)
    stored = every_stored_value(slice_.file)
    assert stored.tolist() == list(range(2**slice_.file.allocated))
    step = 61 if len(stored) > 256 else 1
    some = [*range(0, len(stored), step), *range(min(160, len(stored))), len(stored) - 1]
    expected = [meaning(bits, slice_) for bits in some]
    assert values(stored[some], slice_).tolist() == expected
    out = np.empty(len(some), np.float32)
    assert values(stored[some], slice_, out) is out and out.tolist() == expected


def test_what_is_padding():
    words = np.arange(10, dtype=np.uint16)
    assert not is_padding(words, a_slice().file).any()
    assert is_padding(words, a_slice(padding=(3, 5)).file).nonzero()[0].tolist() == [3, 4, 5]
    high = a_slice(padding=(3, 5), stored=12, high_bit=15).file
    assert is_padding(words << 4, high).nonzero()[0].tolist() == [3, 4, 5]
    signed = a_slice(padding=(-2, -1), signed=True).file
    assert is_padding(words - 3, signed).nonzero()[0].tolist() == [1, 2]
    floats = a_slice(padding=(0.5, 0.5), is_float=True, allocated=32, stored=32).file
    assert is_padding(np.array([0.0, 0.5, 1.0], np.float32), floats).tolist() == [0, 1, 0]


def test_padding_becomes_air_or_what_a_stored_zero_means():
    lut = ModalityLut(0, np.array([5, 9], np.float32).tobytes(), "US")
    assert background(a_slice(modality="CT", intercept=-24.0)) == -1000
    assert background(a_slice(intercept=-24.0)) == -24
    assert background(a_slice(intercept=-24.0, modality_lut=lut)) == 0
    assert background(a_slice(modality="CT", modality_lut=lut)) == -1000


@pytest.mark.parametrize("monochrome1", [False, True])
def test_a_table_in_place_of_slope_and_intercept(monochrome1):
    """Inverted about its lowest and highest entry."""
    entries = [5.0, 9.0, -3.0]
    lut = ModalityLut(2, np.array(entries, np.float32).tobytes(), "US")
    slice_ = a_slice(slope=7.0, intercept=1.0, modality_lut=lut, monochrome1=monochrome1)
    plain = [5.0, 5.0, 5.0, 9.0, -3.0, -3.0]
    expected = [6.0 - value for value in plain] if monochrome1 else plain
    assert values(np.arange(6, dtype=np.uint16), slice_).tolist() == expected


def test_floats_are_inverted_about_zero():
    kind = {"is_float": True, "allocated": 32, "stored": 32, "high_bit": 31}
    slice_ = a_slice(slope=2.0, intercept=1.0, monochrome1=True, **kind)
    assert values(np.array([0.5, -3.0], np.float32), slice_).tolist() == [0.0, 7.0]


def stored_frames(tmp_path, pixels: np.ndarray, frames: list[int], head: bytes, **changes):
    """Return the frames of a file that holds these bytes after its head."""
    path = tmp_path / "file"
    path.write_bytes(head + pixels.tobytes())
    of_file = {"path": path, "offset": len(head), "frames": len(pixels), "uid": "1.5"}
    of_file |= {"rows": pixels.shape[1], "columns": pixels.shape[2]}
    slices = [a_slice(frame=frame, **of_file | changes) for frame in frames]
    return list(iter_words(slices))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("allocated", [8, 16, 32])
@pytest.mark.parametrize("frames", [[-1], [0, 1, 2, 3], [2], [1, 3]])
def test_frames_of_an_uncompressed_file(frames, allocated, big, tmp_path):
    generator = np.random.default_rng(1)
    dtype = f"{'>' if big else '<'}u{allocated // 8}"
    pixels = generator.integers(1, 250, (4, 3, 5)).astype(dtype) * (allocated // 8)
    form = {"allocated": allocated, "stored": allocated, "high_bit": allocated - 1}
    syntax = BIG_ENDIAN if big else IMPLICIT
    found = stored_frames(
        tmp_path,
        pixels.astype(dtype),
        frames,
        b"head",
        syntax=syntax,
        in_words=allocated > 8,
        **form,
    )
    assert len(found) == len(frames)
    for frame, image in zip(frames, found, strict=True):
        assert image.tolist() == pixels[max(frame, 0)].tolist()
        assert image.dtype == np.dtype(f"u{allocated // 8}") and image.dtype.isnative


@pytest.mark.parametrize("frames", [[0, 1, 2, 3], [1], [3], [2, 3]])
def test_bytes_in_swapped_words(frames, tmp_path):
    """Frames of 15 pixels begin in the middle of a word."""
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 3, 5)
    swapped = pixels.reshape(-1, 2)[:, ::-1].reshape(4, 3, 5)
    form = {"allocated": 8, "stored": 8, "high_bit": 7, "syntax": BIG_ENDIAN}
    found = stored_frames(tmp_path, swapped, frames, b"head", in_words=True, **form)
    assert np.array_equal(found, pixels[frames])
    plain = stored_frames(tmp_path, pixels, frames, b"head", in_words=False, **form)
    assert np.array_equal(plain, pixels[frames])
    little = form | {"syntax": IMPLICIT}
    plain = stored_frames(tmp_path, pixels, frames, b"head", in_words=True, **little)
    assert np.array_equal(plain, pixels[frames])


@pytest.mark.parametrize("in_words", [False, True])
def test_a_file_that_ends_too_early(in_words, tmp_path):
    pixels = np.zeros((1, 3, 5), np.uint8)
    form = {"allocated": 8, "stored": 8, "high_bit": 7, "syntax": BIG_ENDIAN, "rows": 4}
    with pytest.raises(DicomError) as caught:
        stored_frames(tmp_path, pixels, [0], b"", in_words=in_words, **form)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(("pixel", "finite"), [(1e30, True), (1e38, False), (np.nan, False)])
def test_floats_stay_finite_when_they_are_rescaled(pixel, finite, tmp_path):
    pixels = np.array([[[1.0, pixel]]], "<f4")
    form = {"is_float": True, "allocated": 32, "stored": 32, "high_bit": 31, "slope": 10.0}
    if finite:
        assert np.array_equal(stored_frames(tmp_path, pixels, [-1], b"", **form), pixels)
        return
    with pytest.raises(DicomError) as caught:
        stored_frames(tmp_path, pixels, [-1], b"", **form)
    assert caught.value.reason == "non_finite"


def test_compressed_pixels_are_in_items(tmp_path):
    pixels = np.zeros((1, 3, 5), np.uint8)
    with pytest.raises(DicomError, match="compressed pixels without items") as caught:
        stored_frames(tmp_path, pixels, [0], b"", syntax="1.2.840.10008.1.2.5", length=15)
    assert caught.value.reason == "decode_error"
