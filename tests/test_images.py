"""The quick way from stored words to prepared images equals the plain one, pixel for pixel."""

import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.dicom import open_series, read_series
from src.preprocess.images import prepare
from src.preprocess.intensity import percentile_window
from src.preprocess.series_job import Job, metadata_of, prepare_series
from tests.dicom_files import (
    AXES,
    SPACING,
    dataset,
    places,
    save,
    stored_as,
    tilted,
    volume,
    write_axial,
    write_frames,
    write_slices,
)
from tests.reference import plain_images


def write_kind(folder, kind: str) -> None:
    images, axes = volume((5, 24, 24), high=4096), AXES["axial"]
    if kind == "CT":
        write_axial(
            folder,
            images,
            modality="CT",
            RescaleSlope=1,
            RescaleIntercept=-1024,
            BitsStored=12,
            HighBit=11,
        )
    elif kind == "slopes":
        write_frames(
            folder / "one",
            images,
            places(axes, 5),
            [*axes[2], *axes[1]],
            slopes=[1.5, 0.3, 2.25, 0.7, 1.1],
        )
    elif kind == "8 bit":
        write_axial(folder, (images // 16).astype(np.uint8))
    elif kind == "32 bit":
        write_axial(folder, images.astype(np.int32) * 70 - 9000)
    elif kind == "signed":
        write_axial(folder, images.astype(np.int16) - 2000, PhotometricInterpretation="MONOCHROME1")
    elif kind == "float":
        point = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        data = dataset(
            images[0],
            PixelData=None,
            BitsAllocated=32,
            FloatPixelData=(images[0] / np.float32(7)).tobytes(),
            **point,
        )
        del data.BitsStored, data.HighBit, data.PixelRepresentation
        save(data, folder / "one")


def test_a_slice_that_is_not_finite_costs_only_itself(tmp_path):
    """The same for both ways."""
    folder, images = tmp_path / "series" / "1.2.3", volume((5, 8, 8)).astype(np.float32)
    images[2, 3, 4] = np.nan
    for k, point in enumerate(places(AXES["axial"], 5).tolist()):
        place = {
            "ImagePositionPatient": point,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "SOPInstanceUID": f"1.2.3.{k}",
        }
        data = dataset(images[k], PixelData=None, FloatPixelData=images[k].tobytes(), **place)
        del data.BitsStored, data.HighBit, data.PixelRepresentation
        save(data, folder / str(k))
    series = read_series(folder)
    assert np.array_equal(series.pixels, images[[0, 1, 3, 4]]) and series.dropped == [
        ("2", "non_finite")
    ]
    facts = prepare_series(Job(tmp_path, "1.2.3", 8, "percentile", False))
    head = facts.pop("head")
    assert facts == metadata_of(series) and (head is None or len(head) == 2)
    assert np.array_equal(
        np.load(tmp_path / "npy_sequence" / "1.2.3.npy"), plain_images(series, 8, "percentile")
    )


def test_memory_does_not_grow_with_the_arrays(tmp_path):
    """600 files: 79 MB are written, image by image."""
    folder = tmp_path / "series" / "1.2.3"
    whole = (
        write_axial(folder, volume((1, 12, 12)), SOPInstanceUID="1.2.3.10000")
        .joinpath("000.dcm")
        .read_bytes()
    )
    position = b"-30.0\\-20.0\\10.0"
    assert position in whole and whole.count(b"1.2.3.10000") == 2
    for k in range(600):
        content = whole.replace(b"1.2.3.10000", f"1.2.3.{10000 + k}".encode()).replace(
            position, f"-30.0\\-20.0\\{1000 + k}".encode()
        )
        (folder / f"{k:03d}.dcm").write_bytes(content)
    tracemalloc.start()
    facts = prepare_series(Job(tmp_path, "1.2.3", 256, "percentile", False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts["length"] == 600 and not facts["dropped"] and peak < 25e6


@pytest.mark.parametrize("size", [24, 40, 16])
@pytest.mark.parametrize("kind", ["CT", "slopes", "8 bit", "32 bit", "signed", "float"])
def test_equals_the_plain_way(kind, size, tmp_path):
    write_kind(tmp_path, kind)
    series = open_series(tmp_path)
    for mr_window in ("percentile", "fixed"):
        quick = np.stack(list(prepare(series, size, mr_window).images))
        assert (
            quick.dtype == np.float16
            and quick.flags["C_CONTIGUOUS"]
            and quick.min() >= 0
            and quick.max() <= 5
        )
        assert np.array_equal(quick, plain_images(read_series(tmp_path), size, mr_window))


def test_ct_in_numbers(tmp_path):
    hu = np.array([[-1000, 0, 60], [120, 599, 600], [601, 3000, -1024]], np.int16)
    write_axial(
        tmp_path, (hu + np.int16(1024))[None], modality="CT", RescaleSlope=1, RescaleIntercept=-1024
    )
    series = open_series(tmp_path)
    (image,) = prepare(series, 3, "percentile").images
    assert np.array_equal(image, (np.clip(hu, 0, 600) / 120).astype(np.float16))


@pytest.mark.parametrize("plane", AXES)
@pytest.mark.parametrize("code", ["X", "Y", "T", "TXY"])
def test_directions_of_storage_do_not_change_the_prepared_array(plane, code, tmp_path):
    y, x = np.mgrid[:30, :26]
    images = np.stack(
        [1000 + 400 * np.sin(x / 5 + k) + 300 * np.cos(y / 4) for k in range(3)]
    ).astype(np.uint16)
    axes = tilted(AXES[plane])
    arrays = []
    for name in ("", code):
        write_slices(tmp_path / f"as {name}", *stored_as(images, axes, places(axes, 3), name))
        series = open_series(tmp_path / f"as {name}")
        arrays.append(prepare(series, 48, "percentile").in_memory().images)
    np.testing.assert_allclose(arrays[1].astype(float), arrays[0], atol=0.004)


def rewritten(source: Path, target: Path, reverse: bool) -> Path:
    """A copy with left and right swapped, or with columns stored from the other side."""
    series = open_series(source)
    files = {piece.file.path: pydicom.dcmread(piece.file.path) for piece in series.slices}
    stored = {path: data.pixel_array.reshape(-1, *series.shape[1:]) for path, data in files.items()}
    images = [
        stored[piece.file.path][piece.frame] for piece in series.slices
    ]  # frame -1 is the only one
    images = np.flip(
        images,
        2
        if reverse
        else 0
        if series.plane == "sagittal"
        else 1
        if "T" in series.orientation
        else 2,
    )
    turned = {path: np.empty_like(array) for path, array in stored.items()}
    for piece, image in zip(series.slices, images, strict=True):
        turned[piece.file.path][piece.frame] = image
        if reverse:
            row, data = np.array(piece.orientation[:3]), files[piece.file.path]
            corner = np.array(piece.position) + (series.shape[2] - 1) * piece.pixel_spacing[1] * row
            place, direction = data, data
            if piece.frame >= 0:
                place = data.PerFrameFunctionalGroupsSequence[piece.frame].PlanePositionSequence[0]
                direction = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
            place.ImagePositionPatient = [f"{value:.9g}" for value in corner]
            direction.ImageOrientationPatient = [
                f"{value:.9g}" for value in (*-row, *piece.orientation[3:])
            ]
    for path, data in files.items():
        data.PixelData = turned[path].tobytes()
        save(data, target / path.name)
    return target


def more_series(root: Path) -> list[Path]:
    """What a small demo set may lack: sagittal and multi-frame series, tilted, a folder each."""
    for plane in AXES:
        axes = tilted(AXES[plane])
        images, points, orientation, _ = stored_as(volume((6, 24, 24)), axes, places(axes, 6), "TY")
        write_slices(root / plane / "files", images, points, orientation, spacing=SPACING[:0:-1])
        write_frames(root / plane / "frames" / "one", images[::-1], points[::-1], orientation)
    return sorted(root.glob("*/*"))


def test_the_demo_set_mirrored_and_stored_from_the_other_side(tiny_dicom, tmp_path):
    demo = sorted((tiny_dicom / "series").iterdir())
    for number, folder in enumerate([*demo[:6], *more_series(tmp_path / "more")]):
        series = open_series(folder)
        size = max(series.shape[1:])
        copies = (
            rewritten(folder, tmp_path / f"{number}-{reverse}", reverse)
            for reverse in (False, True)
        )
        plain, mirrored, other = (
            plain_images(read_series(path), size, "percentile") for path in (folder, *copies)
        )
        tolerance = 0 if series.shape[1:] == (size, size) else 0.004  # of a resize
        np.testing.assert_allclose(
            mirrored,
            plain[::-1] if series.plane == "sagittal" else plain[:, :, ::-1],
            rtol=0,
            atol=tolerance,
        )
        np.testing.assert_allclose(other, plain, rtol=0, atol=tolerance)
        assert not np.allclose(mirrored, plain, atol=0.1)


def test_percentiles_equal_numpy():
    generator = np.random.default_rng(0)
    for size in (1, 7, 1000, 4321):
        pixels = generator.integers(-50, 300, size)
        low, high = percentile_window(*np.unique(pixels, return_counts=True))
        expected = np.percentile(pixels, (1, 99.8))
        assert (low, high) == pytest.approx((expected[0], max(expected[1], expected[0] + 1e-6)))


def test_facts_are_plain(tmp_path):
    write_axial(tmp_path, volume((3, 6, 5)), PatientID="someone")
    facts = metadata_of(open_series(tmp_path))
    spacings = {
        "slice_spacing": SPACING[0],
        "row_spacing": SPACING[1],
        "column_spacing": SPACING[2],
    }
    expected = {
        "length": 3,
        "h": 6,
        "w": 5,
        "mod": "MR",
        "plane": "axial",
        "orientation": "",
        "patient_id": "someone",
        **spacings,
    }
    assert {name: facts[name] for name in expected} == expected
    assert (
        facts["sop_uids"] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
        and facts["frames"] == [-1] * 3
        and facts["positions"] == [10, 12.5, 15]
    )
