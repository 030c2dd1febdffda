"""Padding is background: it decides no window, and it is never bright."""

import numpy as np
import pydicom
import pytest

from src.dicom import open_series, read_series
from src.preprocess.images import prepare
from tests.dicom_files import dataset, head_in_hu, padded, save, volume, write_axial
from tests.reference import plain_images

CT = {"modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
SCATTERED = "the padding value is scattered over the images like any other: it was ignored"


def tagged(folder, images, value, limit=None, vr=None, **tags):
    """Write images (n, h, w) whose header names padding, by its own type or by `vr`."""
    vr = vr or ("SS" if images.dtype.kind == "i" else "US")
    write_axial(folder, images, **tags)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.add_new(0x00280120, vr, value)
        if limit is not None:
            data.add_new(0x00280121, vr, limit)
        save(data, path)
    return folder


def prepared(folder, size=24):
    return prepare(open_series(folder), size, "percentile").in_memory().images


def strip(images, value):
    """Return the images with `value` in their first six columns."""
    images = images.copy()
    images[:, :, :6] = value
    return images


@pytest.mark.parametrize(
    ("dtype", "value", "limit", "vr"),
    [
        (np.int16, -32768, None, None),
        (np.int16, -2000, None, None),
        (np.int16, 63536, None, "US"),  # -2000 by PixelRepresentation
        (np.uint16, 65535, None, None),
        (np.uint16, 0, None, None),
        (np.uint16, 65500, 65530, None),
        (np.uint16, 65530, 65500, None),
        (np.int16, -2010, -1990, None),
    ],
)
@pytest.mark.parametrize("size", [24, 40])
def test_the_window_of_mr_knows_no_padding(dtype, value, limit, vr, size, tmp_path):
    truth = volume((5, 24, 24), low=100).astype(dtype)
    inside = {63536: -2000}.get(value, value)
    stored = inside if limit is None else (value + limit) // 2
    tagged(tmp_path / "padded", strip(truth, stored), value, limit, vr)
    write_axial(tmp_path / "cut", truth[:, :, 6:])
    images = prepared(tmp_path / "padded", size)
    if vr is None:
        expected = plain_images(read_series(tmp_path / "padded"), size, "percentile")
        assert np.array_equal(images, expected)
    if size == 24:
        window = np.percentile(truth[:, :, 6:], (1, 99.8))
        expected = np.clip((truth[:, :, 6:] - window[0]) * 5 / (window[1] - window[0]), 0, 5)
        np.testing.assert_allclose(images[:, :, 6:], expected, atol=0.01)
        assert not images[:, :, :6].any()


def test_without_the_tag_the_window_is_another(tmp_path):
    """So that the test above can fail."""
    truth = strip(volume((5, 24, 24), low=100).astype(np.int16), -32768)
    assert prepared(write_axial(tmp_path, truth))[:, :, 6:].min() > 4


@pytest.mark.parametrize("limit", [None, 4000])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_high_padding_of_ct_is_no_brighter_than_air(dtype, limit, tmp_path):
    truth = np.maximum(head_in_hu(side=64), -1024)
    stored = padded(truth + np.int16(1024), 4095).astype(dtype)
    tagged(tmp_path, stored, 4095, limit, BitsStored=12 if dtype == np.uint16 else 16,
           HighBit=11 if dtype == np.uint16 else 15, **CT)  # fmt: skip
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, padded(truth, -1000)) and not series.warnings
    images = prepared(tmp_path, 64)
    assert np.array_equal(images, plain_images(series, 64, "percentile"))
    assert images[:, 0, 0].max() == 0


@pytest.mark.parametrize("stored_as", [-2000, -1024])
def test_low_padding_of_ct_stays_what_it_is(stored_as, tmp_path):
    """As SimpleITK and dcm2niix give it."""
    truth = padded(head_in_hu(), stored_as - 1024)
    series = read_series(tagged(tmp_path, truth + np.int16(1024), stored_as, **CT))
    assert np.array_equal(series.pixels, truth) and not series.warnings


def test_a_value_of_tissue_that_is_named_as_padding(tmp_path):
    truth = head_in_hu()
    folder = tagged(tmp_path, truth, 35, modality="CT", RescaleSlope=1, RescaleIntercept=0)
    series = read_series(folder)
    assert np.array_equal(series.pixels, truth) and series.warnings == [SCATTERED]


def test_a_series_that_is_nothing_but_padding(tmp_path):
    folder = tagged(tmp_path, np.full((3, 24, 24), 7, np.uint16), 7)
    assert read_series(folder).pixels.max() == 0
    assert not prepared(folder).any()


def test_padding_of_32_bits_and_of_floats(tmp_path):
    truth = volume((1, 24, 24), low=100)[0]
    wide = dataset(strip(truth[None].astype(np.int32), -30000)[0])
    wide.add_new(0x00280120, "SS", -30000)
    save(wide, tmp_path / "wide" / "file")
    pixels = strip(truth[None].astype(np.float32), 1e9)[0]
    data = dataset(truth, PixelData=None, BitsAllocated=32, FloatPixelData=pixels.tobytes())
    del data.BitsStored, data.HighBit, data.PixelRepresentation
    data.FloatPixelPaddingValue = float(np.float32(1e9))
    save(data, tmp_path / "float" / "file")
    window = np.percentile(truth[:, 6:], (1, 99.8))
    expected = np.clip((truth[:, 6:] - window[0]) * 5 / (window[1] - window[0]), 0, 5)
    for kind in ("wide", "float"):
        images = prepared(tmp_path / kind)
        np.testing.assert_allclose(images[0, :, 6:], expected, atol=0.01)
        assert not images[:, :, :6].any()


def test_padding_of_inverted_mr_is_dark(tmp_path):
    truth = strip(volume((4, 24, 24), low=100, high=4000), 0)
    tagged(tmp_path, truth, 0, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    series = read_series(tmp_path)
    assert series.pixels[:, :, :6].max() == 0
    assert np.array_equal(series.pixels[:, :, 6:], 4095 - truth[:, :, 6:].astype(int))
    assert not prepared(tmp_path)[:, :, :6].any()
