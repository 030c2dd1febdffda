"""Which slices make a volume, and in which order."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from src.dicom import open_series, read_series
from tests.dicom_files import AXES, dataset, places, save, volume, write_axial, write_slices


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


@pytest.mark.parametrize(
    ("index", "instance"), [(4, 99), (0, 15)], ids=["last", "right after the first"]
)
def test_duplicates(index, instance, tmp_path):
    """The first by instance number is kept; a repeat at one position begins no other pass."""
    write_axial(tmp_path, volume())
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.InstanceNumber *= 10
        save(data, path)
    shutil.copy(tmp_path / "002.dcm", tmp_path / "copy.dcm")
    again = pydicom.dcmread(tmp_path / f"{index:03d}.dcm")
    again.SOPInstanceUID, again.InstanceNumber, again.PixelData = (
        "1.2.3.77",
        instance,
        bytes(len(again.PixelData)),
    )
    save(again, tmp_path / "again.dcm")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == [("again.dcm", "duplicate"), ("copy.dcm", "duplicate")]
    assert series.warnings == ["1 slices repeat a position: the first at each position is taken"]


def test_mixed_series_sizes_orientations_and_spacings(tmp_path):
    write_axial(tmp_path, volume())
    point = [0.0, 0.0, 4.0]
    odd = {
        "other_series": dataset(
            volume()[0],
            SeriesInstanceUID="1.9",
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ),
        "other_size": dataset(
            volume((1, 8, 8))[0],
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ),
        "other_orientation": dataset(
            volume()[0], ImagePositionPatient=point, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
        ),
        "other_spacing": dataset(
            volume()[0],
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1],
        ),
        "other_modality": dataset(volume()[0], modality="PT"),
    }
    for number, (name, data) in enumerate(odd.items()):
        data.SOPInstanceUID = f"1.2.3.9{number}"
        save(data, tmp_path / name)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == sorted((name, name) for name in odd)


@pytest.mark.parametrize(
    "fault",
    ["no position", "same position", "no orientation", "few without position", "nothing at all"],
)
def test_order_without_positions(fault, tmp_path):
    images = volume()
    write_axial(tmp_path, images, order=[0, 1, 2, 3, 4, 5, 6], names=list("gbadfec"))
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        if fault in ("no position", "nothing at all") or (
            fault == "few without position" and path.name == "d"
        ):
            del data.ImagePositionPatient
        elif fault == "same position":
            data.ImagePositionPatient = [1, 2, 3]
        if fault == "no orientation":
            del data.ImageOrientationPatient
        if fault == "nothing at all":
            del data.InstanceNumber
        data.save_as(path)
    series = read_series(tmp_path)
    notes = {
        "no position": "no positions: ordered by instance number and stored frame",
        "nothing at all": "no positions: ordered by SOP UID",
        "same position": "all positions are the same: ordered by instance number and stored frame",
        "no orientation": "no orientation: ordered along the patient's z axis",
        "few without position": "1 gaps of up to 5.00 mm, the median distance is 2.50 mm",
    }
    assert series.warnings[0] == notes[fault]
    if fault == "few without position":
        assert series.dropped == [("d", "no_position")] and np.array_equal(
            series.pixels, np.delete(images, 3, axis=0)
        )
    else:
        assert np.array_equal(series.pixels, images) and not series.dropped
        assert (series.positions is None) == (
            fault in ("no position", "same position", "nothing at all")
        )


@pytest.mark.parametrize("size", [7e-4, 2e-3])
def test_directions_that_jitter_are_one_stack(size, tmp_path):
    """SimpleITK reads all of them, too."""
    sitk = pytest.importorskip("SimpleITK")
    images = volume((20, 12, 10))
    jitter = np.random.default_rng(1).uniform(-size, size, 20).round(6).tolist()
    points = places(AXES["axial"], 20)
    for k, error in enumerate(jitter):
        directions = [1, error, 0, -error, 1, 0]
        write_slices(tmp_path, images[k : k + 1], points[k : k + 1], directions, names=[f"{k}"])
        data = pydicom.dcmread(tmp_path / f"{k}")
        data.SOPInstanceUID = f"1.2.{k}"
        save(data, tmp_path / f"{k}")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, images) and not series.dropped and not series.warnings
    assert np.diff(series.positions) == pytest.approx(2.5, abs=1e-3)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    assert [Path(name).name for name in names] == [f"{k}" for k in range(20)]


@pytest.mark.parametrize("degrees", [1, 5])
def test_a_second_orientation_is_another_stack(degrees, tmp_path):
    write_axial(tmp_path, volume())
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    for k in range(5):
        data = pydicom.dcmread(tmp_path / f"{k:03d}.dcm")
        data.ImageOrientationPatient = [1, 0, 0, 0, c, s]
        data.SOPInstanceUID = f"1.9.{k}"
        save(data, tmp_path / f"b{k}")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == [(f"b{k}", "other_orientation") for k in range(5)]


def test_two_orientations_that_jitter(tmp_path):
    """Each slice that is left out has a reason."""
    rng = np.random.default_rng(1)
    for k in range(28):
        error = rng.uniform(-2e-3, 2e-3)
        lean = 0.0 if k < 20 else 0.0872  # 5 degrees
        header = {
            "ImagePositionPatient": [0, 0, float(k)],
            "ImageOrientationPatient": [1, error, 0, -error, (1 - lean**2) ** 0.5, lean],
            "SOPInstanceUID": f"1.2.{k}",
        }
        save(dataset(volume()[0], **header), tmp_path / f"{k:02d}")
    series = open_series(tmp_path)
    assert len(series.slices) == 20
    assert sorted(series.dropped) == [(f"{k}", "other_orientation") for k in range(20, 28)]
