"""The reader against real files, against SimpleITK and pydicom, and against one volume stored in every way."""

import os
import random
import shutil
import warnings
from itertools import cycle
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dicom import DicomError, open_series, read_series
from src.orientation import canonical, canonical_point
from tests.dicom_files import (
    AXES,
    SPACING,
    dataset,
    head_in_hu,
    padded,
    places,
    save,
    stored_as,
    tilted,
    volume,
    write_axial,
    write_frames,
    write_slices,
)

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdicom"
PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CODES = ("", "X", "Y", "XY", "T", "TX", "TY", "TXY")

# folder, slices, rows, columns, plane, first and last position, first and last sum, lowest and highest value
TRUTH = [
    (
        "ct_head_phantom_5mm",
        28,
        512,
        512,
        "axial",
        696.21,
        831.21,
        -225928747,
        -251570255,
        -1024,
        782,
    ),
    ("t1post_axial_320x260", 24, 320, 260, "axial", -74.445, 75.055, 65545296, 13535821, 0, 2505),
    ("mr_sagittal_mprage", 64, 256, 256, "sagittal", -26.332, 30.368, 6938884, 6645661, 0, 625),
    ("mr_enhanced_reversed", 96, 128, 128, "sagittal", -100.424, 89.576, 179328, 172241, 0, 2927),
    (
        "slope_per_frame",
        8,
        256,
        256,
        "sagittal",
        91.894,
        100.294,
        35458058.3,
        35435392.7,
        0,
        1081.748,
    ),
    ("slope_per_slice", 4, 28, 64, "axial", None, None, None, None, 33.443825, 96.467984),
    ("classic_and_enhanced", 7, 512, 512, "axial", None, None, None, None, -1024, 334),
]
real_only = pytest.mark.skipif(not REAL.exists(), reason="the real series are not here")


@real_only
@pytest.mark.parametrize("row", TRUTH, ids=lambda row: row[0])
def test_real_series(row):
    folder, slices, rows, columns, plane, first, last, first_sum, last_sum, lowest, highest = row
    series = read_series(REAL / folder)
    assert series.pixels.shape == (slices, rows, columns) and series.pixels.dtype == np.float32
    assert series.plane == plane and np.all(np.diff(series.positions) > 0)
    assert series.pixels.min() == pytest.approx(
        lowest, abs=1e-3
    ) and series.pixels.max() == pytest.approx(highest, abs=1e-3)
    if first is not None:
        assert series.positions[[0, -1]] == pytest.approx([first, last], abs=1e-3)
        assert series.pixels[[0, -1]].sum(axis=(1, 2), dtype=float) == pytest.approx(
            [first_sum, last_sum], rel=1e-7
        )


@real_only
def test_real_names_and_frames():
    assert [piece.file.path.name for piece in open_series(REAL / "ct_head_phantom_5mm").slices][
        ::27
    ] == ["I10", "I280"]
    assert open_series(REAL / "ct_head_phantom_5mm").dropped == [("DIRFILE", "no_pixels")]
    assert [piece.file.path.name for piece in open_series(REAL / "slope_per_slice").slices] == [
        f"00{k}.dcm" for k in range(1, 5)
    ]
    assert open_series(REAL / "mr_sagittal_mprage").slices[0].file.path.name.startswith("0123-")
    assert open_series(REAL / "mr_enhanced_reversed").frames.tolist() == list(range(96))
    assert open_series(REAL / "slope_per_frame").frames.tolist() == list(range(7, -1, -1))


@real_only
def test_the_same_slices_as_files_and_as_frames(tmp_path):
    both = read_series(REAL / "classic_and_enhanced")
    assert len(both.pixels) == 7 and len(both.dropped) == 7
    shutil.copytree(
        REAL / "classic_and_enhanced", tmp_path / "files", ignore=shutil.ignore_patterns("volume*")
    )
    files, frames = (
        read_series(tmp_path / "files"),
        read_series(REAL / "classic_and_enhanced" / "volume.dcm"),
    )
    assert np.array_equal(files.pixels, frames.pixels) and np.array_equal(files.pixels, both.pixels)


@real_only
@pytest.mark.parametrize(
    "folder",
    [
        "ct_head_phantom_5mm",
        "t1post_axial_320x260",
        "mr_sagittal_mprage",
        "slope_per_slice",
        "classic_and_enhanced",
    ],
)
def test_equals_simpleitk(folder, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    shutil.copytree(
        REAL / folder, tmp_path / "series", ignore=shutil.ignore_patterns("volume*", "DIRFILE")
    )
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    expected = (
        sitk.GetArrayFromImage(sitk.ReadImage(names))
        if folder != "slope_per_slice"
        else _one_by_one(sitk, names)
    )
    series = read_series(tmp_path / "series")
    direction = np.array(pydicom.dcmread(names[0]).ImageOrientationPatient, float)
    normal = np.cross(direction[:3], direction[3:])
    if normal[np.abs(normal).argmax()] < 0:  # SimpleITK goes along it as it is
        names, expected = names[::-1], expected[::-1]
    assert [piece.file.path.name for piece in series.slices] == [Path(name).name for name in names]
    np.testing.assert_allclose(series.pixels, expected, rtol=1e-6)


def _one_by_one(sitk, names) -> np.ndarray:
    """SimpleITK takes one slope for a whole series."""
    return np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(name)) for name in names])


GREY = [
    "693_J2KI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small.dcm",
    "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm", "examples_overlay.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", GREY)
def test_equals_pydicom(name):
    data = pydicom.dcmread(PYDICOM_FILES / name)
    expected = data.pixel_array * float(data.get("RescaleSlope", 1)) + float(
        data.get("RescaleIntercept", 0)
    )
    np.testing.assert_allclose(read_series(PYDICOM_FILES / name).pixels[0], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_every_other_file_of_pydicom_gives_a_reason():
    reasons = {}
    for path in sorted(PYDICOM_FILES.iterdir()):
        if path.is_file() and path.name not in GREY:
            with pytest.raises(DicomError) as caught:
                read_series(path)
            reasons[path.name] = caught.value.reason
    assert (
        reasons["MR_truncated.dcm"] == "truncated"
        and reasons["README.txt"] == "not_dicom"
        and reasons["reportsi.dcm"] == "no_pixels"
    )
    assert (
        reasons["rtdose.dcm"] == "other_modality"
        and reasons["SC_jpeg_no_color_transform.dcm"] == "colour"
    )
    assert set(reasons.values()) == {
        "truncated",
        "not_dicom",
        "no_pixels",
        "other_modality",
        "colour",
    }


@pytest.mark.parametrize("tilt", [False, True], ids=["straight", "tilted"])
@pytest.mark.parametrize("plane", AXES)
def test_every_way_to_store_a_volume_gives_the_same(plane, tilt, tmp_path):
    images = volume((4, 7, 5))
    axes = tilted(AXES[plane]) if tilt else AXES[plane]
    for number, (code, order) in enumerate(
        zip(CODES, cycle([(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]), strict=False)
    ):
        stored, points, orientation, spacing = stored_as(
            images, axes, places(axes, len(images)), code
        )
        folder = tmp_path / str(number)
        write_slices(
            folder,
            stored,
            points,
            orientation,
            spacing,
            order=order,
            names=[f"f{k}" for k in np.random.default_rng(number).permutation(len(images))],
        )
        series = read_series(folder)
        assert (series.plane, series.orientation) == (plane, code)
        assert np.array_equal(canonical(series.pixels, series.orientation), images)
        assert series.sop_uids == [f"1.2.3.{k + 1}" for k in range(len(images))]
        assert series.spacing == pytest.approx((SPACING[0], *spacing))
        assert np.all(series.frames == -1) and not series.dropped and not series.warnings


@pytest.mark.parametrize(
    "order",
    [range(7), range(6, -1, -1), (0, 2, 4, 6, 1, 3, 5)],
    ids=["ascending", "reversed", "interleaved"],
)
@pytest.mark.parametrize("plane", AXES)
def test_frames_are_sorted_by_their_own_positions(plane, order, tmp_path):
    images, axes, order = volume(), AXES[plane], list(order)
    stored, points, orientation, _ = stored_as(images, axes, places(axes, len(images)), "X")
    write_frames(
        tmp_path / "one.dcm",
        stored[order],
        points[order],
        orientation,
        slopes=[2 + k for k in range(len(order))],
    )
    series = read_series(tmp_path)
    slopes = 2 + np.argsort(order)
    assert np.array_equal(
        canonical(series.pixels, series.orientation), images * slopes[:, None, None]
    )
    assert series.frames.tolist() == np.argsort(order).tolist()
    assert series.spacing == pytest.approx(SPACING) and set(series.sop_uids) == {"1.2.3.1"}


def test_several_multi_frame_files_are_one_volume(tmp_path):
    images, axes = volume(), AXES["axial"]
    points, orientation = places(axes, 7), [*axes[2], *axes[1]]
    write_frames(
        tmp_path / "b.dcm", images[::2], points[::2], orientation, SOPInstanceUID="1.2.3.8"
    )
    write_frames(
        tmp_path / "a.dcm", images[1::2], points[1::2], orientation, SOPInstanceUID="1.2.3.9"
    )
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, images)
    assert series.frames.tolist() == [0, 0, 1, 1, 2, 2, 3] and series.sop_uids[:2] == [
        "1.2.3.8",
        "1.2.3.9",
    ]


@pytest.mark.parametrize("code", CODES)
def test_a_point_goes_where_its_pixel_goes(code):
    image = np.zeros((5, 8))
    image[1, 6] = 1
    x, y = canonical_point(6, 1, code, 5, 8)
    assert canonical(image, code)[y, x] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_names_order_and_directions_do_not_matter(seed, tmp_path_factory):
    chance = random.Random(seed)
    images, plane = volume((5, 6, 4)), chance.choice(list(AXES))
    axes = tilted(AXES[plane], chance.uniform(-20, 20))
    stored, points, orientation, spacing = stored_as(
        images, axes, places(axes, 5), chance.choice(CODES)
    )
    names = chance.sample(["1", "02", "b.IMA", "a c", "ü.DCM", "i003.MRDC.1", "zz.dcm"], 5)
    folder = tmp_path_factory.mktemp("any")
    write_slices(
        folder, stored, points, orientation, spacing, names=names, order=chance.sample(range(5), 5)
    )
    series = read_series(folder)
    assert np.array_equal(canonical(series.pixels, series.orientation), images)


def test_mirrored_and_reversed_copies(tmp_path):
    """A patient with left and right swapped differs by a mirror; the same patient stored from right to left not at all."""
    images, axes = volume(), tilted(AXES["axial"])
    points = places(axes, len(images))
    for name, code, pixels in (
        ("as is", "", images),
        ("mirrored", "", images[:, :, ::-1]),
        ("reversed", "X", images),
    ):
        write_slices(tmp_path / name, *stored_as(pixels, axes, points, code))
    plain, mirrored, reverse = (
        (s := read_series(tmp_path / name)) and canonical(s.pixels, s.orientation)
        for name in ("as is", "mirrored", "reversed")
    )
    assert (
        np.array_equal(plain[:, :, ::-1], mirrored)
        and np.array_equal(plain, reverse)
        and not np.array_equal(plain, mirrored)
    )


def test_gaps_are_told(tmp_path):
    write_axial(tmp_path, volume())
    (tmp_path / "003.dcm").unlink()
    assert open_series(tmp_path).warnings == [
        "1 gaps of up to 5.00 mm, the median distance is 2.50 mm"
    ]


def test_positions_that_the_orientation_denies_are_ordered_where_they_spread(tmp_path):
    write_slices(
        tmp_path,
        volume(),
        places(AXES["sagittal"], 7),
        [1, 0, 0, 0, 1, 0],
        order=[3, 0, 6, 1, 5, 2, 4],
    )
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume()) and np.all(np.diff(series.positions) > 0)
    assert series.warnings == [
        "the positions do not spread along the slice normal: ordered along the patient's x axis"
    ]


def test_one_sop_uid_for_all_files(tmp_path):
    write_axial(tmp_path, volume(), SOPInstanceUID="1.2.3.4")
    shutil.copy(tmp_path / "002.dcm", tmp_path / "copy.dcm")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume()) and series.dropped == [("copy.dcm", "duplicate")]


@pytest.mark.parametrize(
    "top",
    [{}, {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}],
    ids=["none", "one"],
)
def test_frames_without_positions_of_their_own_stay_as_stored(top, tmp_path):
    save(dataset(volume(), NumberOfFrames=7, **top), tmp_path / "one.dcm")
    series = read_series(tmp_path)
    assert (
        np.array_equal(series.pixels, volume())
        and series.frames.tolist() == list(range(7))
        and series.positions is None
    )
    assert (
        series.warnings[0]
        == ("all positions are the same" if top else "no positions")
        + ": ordered by instance number and stored frame"
    )


def test_missing_spacings_are_told(tmp_path):
    save(dataset(volume()[0], PixelSpacing=None), tmp_path / "one")
    series = read_series(tmp_path)
    assert (
        series.spacing == (None, None, None)
        and series.plane == "unknown"
        and series.orientation == ""
        and series.positions is None
    )
    assert series.warnings == ["no pixel spacing", "no distance between slices"]


@pytest.mark.parametrize(
    "passes",
    [
        "one after the other",
        "position by position",
        "restarted numbers",
        "first one incomplete",
        "first one without its first",
    ],
)
def test_of_several_passes_the_first_complete_one(passes, tmp_path):
    first, second = volume(seed=1), volume(seed=2)
    count = len(first)
    numbers = {
        "position by position": (range(1, 99, 2), range(2, 99, 2)),
        "restarted numbers": (range(1, 99), range(1, 99)),
    }
    missing = {"first one incomplete": 3, "first one without its first": 0}.get(passes)
    for number, images in enumerate((first, second)):
        instances = numbers.get(passes, (range(1, 99), range(50, 99)))[number]
        for k in range(count):
            if number == 0 and k == missing:
                continue
            tags = {
                "InstanceNumber": instances[k],
                "SOPInstanceUID": f"1.2.3.{number}.{k}",
                "AcquisitionNumber": number,
            }
            _one(tmp_path, number, k, images, tags)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, first if missing is None else second)
    assert {reason for _, reason in series.dropped} == {"other_pass"} and len(
        series.dropped
    ) == count - (missing is not None)


def _one(folder: Path, number: int, k: int, images: np.ndarray, tags: dict) -> None:
    point = places(AXES["axial"], k + 1)[k].tolist()
    save(
        dataset(
            images[k],
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            **tags,
        ),
        folder / f"{number}-{k}",
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


def test_a_folder_that_may_not_be_entered_is_said(tmp_path, monkeypatch):
    write_axial(tmp_path / "study", volume((3, 12, 10)))
    (tmp_path / "study" / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert open_series(tmp_path / "study").dropped == [("locked", "unreadable")]
    with pytest.raises(DicomError) as error:
        open_series(tmp_path / "study" / "locked")
    assert error.value.reason == "unreadable"
