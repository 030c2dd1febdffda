"""The quick way from stored words to prepared images equals the plain one, pixel for pixel."""

import numpy as np
import pydicom
import pytest

from src.dicom import open_series, read_series, read_words
from src.series_arrays import facts_of, prepared_images
from src.volume import percentile_window, prepare
from tests.dicom_files import AXES, SPACING, dataset, places, save, stored_as, tilted, volume, write_axial, write_frames, write_slices


def write_kind(folder, kind: str) -> None:
    images, axes = volume((5, 24, 24), high=4096), AXES["axial"]
    if kind == "CT":
        write_axial(folder, images, modality="CT", RescaleSlope=1, RescaleIntercept=-1024, BitsStored=12, HighBit=11)
    elif kind == "slopes":
        write_frames(folder / "one", images, places(axes, 5), [*axes[2], *axes[1]], slopes=[1.5, 0.3, 2.25, 0.7, 1.1])
    elif kind == "8 bit":
        write_axial(folder, (images // 16).astype(np.uint8))
    elif kind == "32 bit":
        write_axial(folder, images.astype(np.int32) * 70 - 9000)
    elif kind == "signed":
        write_axial(folder, images.astype(np.int16) - 2000, PhotometricInterpretation="MONOCHROME1")
    elif kind == "float":
        point = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        data = dataset(images[0], PixelData=None, BitsAllocated=32, FloatPixelData=(images[0] / np.float32(7)).tobytes(), **point)
        del data.BitsStored, data.HighBit, data.PixelRepresentation
        save(data, folder / "one")


@pytest.mark.parametrize("size", [24, 40, 16])
@pytest.mark.parametrize("kind", ["CT", "slopes", "8 bit", "32 bit", "signed", "float"])
def test_equals_the_plain_way(kind, size, tmp_path):
    write_kind(tmp_path, kind)
    series = open_series(tmp_path)
    words = read_words(series)
    for mr_window in ("percentile", "fixed"):
        quick = np.stack(list(prepared_images(series, words, size, mr_window)))
        assert quick.dtype == np.float16 and quick.flags["C_CONTIGUOUS"] and quick.min() >= 0 and quick.max() <= 5
        assert np.array_equal(quick, prepare(read_series(tmp_path), size, mr_window))


def test_ct_in_numbers(tmp_path):
    hu = np.array([[-1000, 0, 60], [120, 599, 600], [601, 3000, -1024]], np.int16)
    write_axial(tmp_path, (hu + np.int16(1024))[None], modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    series = open_series(tmp_path)
    (image,) = prepared_images(series, read_words(series), 3, "percentile")
    assert np.array_equal(image, (np.clip(hu, 0, 600) / 120).astype(np.float16))


@pytest.mark.parametrize("plane", AXES)
@pytest.mark.parametrize("code", ["X", "Y", "T", "TXY"])
def test_directions_of_storage_do_not_change_the_prepared_array(plane, code, tmp_path):
    y, x = np.mgrid[:30, :26]
    images = np.stack([1000 + 400 * np.sin(x / 5 + k) + 300 * np.cos(y / 4) for k in range(3)]).astype(np.uint16)
    axes = tilted(AXES[plane])
    arrays = []
    for name in ("", code):
        write_slices(tmp_path / f"as {name}", *stored_as(images, axes, places(axes, 3), name))
        series = open_series(tmp_path / f"as {name}")
        arrays.append(np.stack(list(prepared_images(series, read_words(series), 48, "percentile"))))
    np.testing.assert_allclose(arrays[1].astype(float), arrays[0], atol=0.004)


def rewritten(source, target, reverse: bool):
    """A copy of a series of many files: with left and right of the patient swapped, or the same stored from the other side."""
    axis = -2 if "T" in open_series(source).orientation else -1
    for path in source.iterdir():
        data = pydicom.dcmread(path)
        axis_here = -1 if reverse else axis
        data.PixelData = np.flip(data.pixel_array, axis_here).tobytes()
        if reverse:
            row = np.array(data.ImageOrientationPatient[:3], float)
            corner = np.array(data.ImagePositionPatient, float) + (data.Columns - 1) * float(data.PixelSpacing[1]) * row
            data.ImagePositionPatient = [f"{value:.9g}" for value in corner]
            data.ImageOrientationPatient = [*(-row), *data.ImageOrientationPatient[3:]]
        save(data, target / path.name)
    return target


def test_the_demo_set_mirrored_and_stored_from_the_other_side(tiny_dicom, tmp_path):
    done = 0
    for folder in sorted((tiny_dicom / "series").iterdir()):
        series = open_series(folder)
        if series.frames[0] >= 0 or series.plane == "sagittal" or done == 6:
            continue
        done += 1
        mirrored, other = rewritten(folder, tmp_path / f"m{done}", reverse=False), rewritten(folder, tmp_path / f"r{done}", reverse=True)
        plain, mirrored, other = (prepare(read_series(path), max(series.shape[1:]), "percentile") for path in (folder, mirrored, other))
        np.testing.assert_allclose(mirrored, plain[:, :, ::-1], atol=0.004)
        np.testing.assert_allclose(other, plain, atol=0.004)
        assert not np.allclose(mirrored, plain, atol=0.1)
    assert done == 6


def test_percentiles_equal_numpy():
    generator = np.random.default_rng(0)
    for size in (1, 7, 1000, 4321):
        pixels = generator.integers(-50, 300, size)
        low, high = percentile_window(*np.unique(pixels, return_counts=True))
        expected = np.percentile(pixels, (1, 99.8))
        assert (low, high) == pytest.approx((expected[0], max(expected[1], expected[0] + 1e-6)))


def test_facts_are_plain(tmp_path):
    write_axial(tmp_path, volume((3, 6, 5)), PatientID="someone")
    facts = facts_of(open_series(tmp_path))
    spacings = {"slice_spacing": SPACING[0], "row_spacing": SPACING[1], "column_spacing": SPACING[2]}
    expected = {"length": 3, "h": 6, "w": 5, "mod": "MR", "plane": "axial", "orientation": "", "patient_id": "someone", **spacings}
    assert {name: facts[name] for name in expected} == expected
    assert facts["sop_uids"] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"] and facts["frames"] == [-1] * 3 and facts["positions"] == [10, 12.5, 15]
