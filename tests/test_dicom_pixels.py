"""Stored values become HU or rescaled units."""

import shutil
import warnings

import numpy as np
import pytest

from src.dicom import read_series
from tests.dicom_files import (
    dataset,
    head_in_hu,
    padded,
    raw_text,
    reason,
    save,
    volume,
    write_axial,
)

INTERCEPT = {"modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


@pytest.mark.parametrize("padding", [None, -2048])
def test_ct_that_is_in_hu_already(padding, tmp_path):
    truth = head_in_hu() if padding is None else padded(head_in_hu(), padding)
    write_axial(tmp_path / "false", np.maximum(truth, -1024), **INTERCEPT)
    series = read_series(tmp_path / "false")
    assert np.array_equal(series.pixels, np.maximum(truth, -1024)) and series.warnings == [
        "CT stored in HU: its rescale intercept was ignored"
    ]
    write_axial(tmp_path / "true", truth + np.int16(1024), **INTERCEPT)
    series = read_series(tmp_path / "true")
    assert np.array_equal(series.pixels, truth) and not series.warnings


@pytest.mark.parametrize("radius", [0.8, 0.4, 0.25])
def test_a_small_head_in_a_padded_field_is_rescaled(radius, tmp_path):
    """Padding that is stored as -1024 is no air."""
    truth = padded(head_in_hu(radius=radius, side=120, slices=3), -2048)
    series = read_series(write_axial(tmp_path, truth + np.int16(1024), **INTERCEPT))
    assert np.array_equal(series.pixels, truth) and not series.warnings


def test_reading_is_quiet(tmp_path, recwarn):
    write_axial(tmp_path / "noise", volume())
    write_axial(tmp_path / "nothing", np.zeros((3, 4, 4), np.int16), **INTERCEPT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_series(tmp_path / "noise")
        read_series(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        ("0", "7", lambda x: 0 * x + 7),
        ("", "", lambda x: x),
        (None, "-1024", lambda x: x - 1024),
        ("2", None, lambda x: 2 * x),
        ("-1", "0", lambda x: -x),
        ("1.5E-3", "-4096", lambda x: x * 1.5e-3 - 4096),
        ("nan", "0", "bad_rescale"),
        ("1", "inf", "bad_rescale"),
        ("one", "0", "bad_rescale"),
        ("1\\2", "0", "bad_rescale"),
        ("1e38", "0", "bad_rescale"),
    ],
)
def test_rescale(slope, intercept, expected, tmp_path):
    data = dataset(volume()[0])
    for tag, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is not None:
            raw_text(data, tag, value)
    save(data, tmp_path / "file")
    if isinstance(expected, str):
        assert reason(tmp_path) == expected
    else:
        np.testing.assert_allclose(
            read_series(tmp_path).pixels[0], expected(volume()[0].astype(float)), rtol=1e-6
        )


def test_slope_and_intercept_of_each_slice(tmp_path):
    images = volume()
    for k in range(7):
        write_axial(tmp_path / f"{k}", images, RescaleSlope=k + 1, RescaleIntercept=-k)
        shutil.move(tmp_path / f"{k}" / f"{k:03d}.dcm", tmp_path / f"{k}.dcm")
        shutil.rmtree(tmp_path / f"{k}")
    numbers = np.arange(7)[:, None, None]
    assert np.array_equal(read_series(tmp_path).pixels, images * (numbers + 1.0) - numbers)


def test_forms_of_pixels(tmp_path):
    stored = np.array([[0, 1, 2047], [2048, 4095, 65535]], np.uint16)
    cases = {
        "8 bit": (dataset(np.array([[0, 255]], np.uint8)), [[0, 255]]),
        "32 bit": (dataset(np.array([[0, 70000]], np.uint32)), [[0, 70000]]),
        "16 bit signed": (dataset(np.array([[-5, 7]], np.int16)), [[-5, 7]]),
        "12 bit in 16": (
            dataset(stored, BitsStored=12, HighBit=11),
            [[0, 1, 2047], [2048, 4095, 4095]],
        ),
        "signed 12 bit in 16": (
            dataset(stored, BitsStored=12, HighBit=11, PixelRepresentation=1),
            [[0, 1, 2047], [-2048, -1, -1]],
        ),
        "12 high bits": (
            dataset(np.array([[0x1230, 0xFFFF]], np.uint16), BitsStored=12, HighBit=15),
            [[0x123, 0xFFF]],
        ),
        "MONOCHROME1": (
            dataset(stored, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1"),
            [[4095, 4094, 2048], [2047, 0, 0]],
        ),
    }
    for name, (data, expected) in cases.items():
        save(data, tmp_path / name / "file")
        assert read_series(tmp_path / name).pixels[0].tolist() == expected, name


LOW, HIGH = "the low bits are read", "the high bits are read, the low ones are empty"


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(
    ("bits", "high_bit", "shift", "note"),
    [(12, 15, 0, LOW), (12, 13, 0, LOW), (11, 11, 0, LOW), (12, 15, 4, HIGH), (12, 13, 2, HIGH)],
)
def test_a_high_bit_that_is_too_high(bits, high_bit, shift, note, signed, tmp_path):
    """Low bits are read as GDCM, dcm2niix and pydicom do; they make noise of true high ones."""
    truth = volume((3, 12, 10), high=1 << bits)
    truth[:, :8] = 0 if not signed else 1 << (bits - 1)  # most pixels are stored as 0
    if signed:
        truth = truth.astype(np.int16) - np.int16(1 << (bits - 1))
    pixels = truth << shift if shift else truth & ((1 << bits) - 1)
    tags = {"BitsStored": bits, "HighBit": high_bit, "PixelRepresentation": signed}
    series = read_series(write_axial(tmp_path, pixels.astype(np.uint16), **tags))
    assert np.array_equal(series.pixels, truth)
    warning = f"HighBit is {high_bit}, but BitsStored is {bits}: {note}"
    assert series.warnings[-1] == warning
    if not shift:
        sitk = pytest.importorskip("SimpleITK")
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "000.dcm")))[0]
        assert np.array_equal(series.pixels[0], image)


def test_pixels_that_are_not_grey_or_not_plain(tmp_path):
    colour = dataset(
        np.zeros((4, 12), np.uint8),
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        Columns=4,
    )
    palette = dataset(np.zeros((4, 4), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    odd = dataset(volume()[0], BitsAllocated=12, BitsStored=12, HighBit=11)
    for name, data, expected in (
        ("rgb", colour, "colour"),
        ("palette", palette, "colour"),
        ("odd", odd, "unsupported_bits"),
    ):
        save(data, tmp_path / name / "file")
        assert reason(tmp_path / name) == expected


@pytest.mark.parametrize("bits", [32, 64])
def test_float_pixels(bits, tmp_path):
    for name, bad in (("good", 1.5), ("nan", np.nan), ("inf", np.inf)):
        data = dataset(volume((2, 2)))
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.BitsAllocated = bits
        setattr(
            data,
            "FloatPixelData" if bits == 32 else "DoubleFloatPixelData",
            np.array([0, -2.25, bad, 3], f"f{bits // 8}").tobytes(),
        )
        save(data, tmp_path / name / "file")
    assert read_series(tmp_path / "good").pixels[0].tolist() == [[0, -2.25], [1.5, 3]]
    assert reason(tmp_path / "nan") == reason(tmp_path / "inf") == "non_finite"
