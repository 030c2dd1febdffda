"""Acquisitions that overlap in part, or whose times and frames are hard to tell apart."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from src.dicom import open_series, read_series
from tests.dicom_files import AXES, dataset, places, save, volume, write_frames

AXIAL = [1, 0, 0, 0, 1, 0]


def write(folder: Path, name: str, images: np.ndarray, start: float = 0.0, tags=None, **common):
    """Write slices 1 mm apart. tags: slice -> tags of its file."""
    for k, image in enumerate(images):
        header = {
            "ImagePositionPatient": [0.0, 0.0, start + k],
            "ImageOrientationPatient": AXIAL,
            "SOPInstanceUID": f"1.2.{len(name)}.{k}",
            "SliceThickness": 1,
        }
        of_slice = tags(k) if tags else {}
        save(dataset(image, **header | common | of_slice), folder / f"{name}{k:03d}")


@pytest.mark.parametrize("overlap", [4, 7])
@pytest.mark.parametrize("shift", [0.3, 0.5])
def test_scans_that_overlap_in_part_do_not_alternate(shift, overlap, tmp_path):
    """A table that moved: the later scan goes on where the earlier one ends."""
    first, second = volume((20, 6, 8), seed=1), volume((20, 6, 8), seed=2)
    write(tmp_path, "a", first, AcquisitionNumber=1, InstanceNumber=1)
    write(tmp_path, "bb", second, 20 - overlap + shift, AcquisitionNumber=2, InstanceNumber=2)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels[:20], first)
    assert np.array_equal(series.pixels[20:], second[overlap:])
    assert len(series.dropped) == overlap
    assert np.diff(series.positions).min() > 0.9
    note = "acquisitions by acquisition number overlap"
    assert series.warnings[0] == f"{note}: {overlap} slices between those of another left out"


def test_slices_that_overlap_keep_together_whatever_their_content_times(tmp_path):
    """5 mm thick, 1 mm apart, stored by several processes."""
    images = volume((40, 6, 8))
    rng = np.random.default_rng(5)
    for _ in range(6):
        seconds = rng.permutation(40)
        write(tmp_path, "a", images, tags=lambda k, seconds=seconds: {
            "SliceThickness": 5, "ContentTime": f"1200{seconds[k]:02d}", "InstanceNumber": 40 - k,
        })  # fmt: skip
        series = read_series(tmp_path)
        assert np.array_equal(series.pixels, images) and not series.dropped


@pytest.mark.parametrize("name", ["AcquisitionTime", "ContentTime"])
def test_time_points_around_midnight(name, tmp_path):
    points = [volume((9, 6, 8), seed=a) for a in range(3)]
    for a, images in enumerate(points):

        def at(k: int, a=a) -> dict:
            seconds = (86_385 + 10 * a + k) % 86_400  # the second point ends after midnight
            hour, minute, second = seconds // 3600, seconds // 60 % 60, seconds % 60
            return {name: f"{hour:02d}{minute:02d}{second:02d}"}

        write(tmp_path, "a" * (a + 1), images, tags=at, InstanceNumber=1)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, points[0])
    assert series.warnings[0].startswith("3 time points")


def test_repetition_times(tmp_path):
    """T1 and T2 of one series, between each other."""
    t1, t2 = volume((9, 6, 8), seed=1), volume((9, 6, 8), seed=2)
    write(tmp_path, "a", t1, RepetitionTime=500)
    write(tmp_path, "bb", t2, 0.5, RepetitionTime=4000)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, t1)
    assert series.warnings == ["2 repetition times: 500 ms is taken, 9 slices left out"]


FRAMES = {  # sequence of a frame's group, tag -> value of repeat a
    ("TemporalPositionSequence", "TemporalPositionTimeOffset"): lambda a: 2.0 * a,
    ("MRVelocityEncodingSequence", "VelocityEncodingDirection"): lambda a: [1.0 - a, float(a), 0.0],
    ("FrameContentSequence", "FrameReferenceDateTime"): lambda a: f"20200101120{a}00",
    ("FrameContentSequence", "FrameLabel"): lambda a: "",  # only stored order tells
}


@pytest.mark.parametrize("macro", FRAMES)
def test_frames_at_one_position(macro, tmp_path):
    """The first point lacks a frame: a second one that is whole is the volume."""
    axes, points = AXES["axial"], [volume((7, 6, 8), seed=a) for a in range(2)]
    path = write_frames(
        tmp_path / "a",
        np.concatenate([points[0][:3], points[0][4:], points[1]]),
        np.concatenate([np.delete(places(axes, 7), 3, axis=0), places(axes, 7)]),
        [*axes[2], *axes[1]],
    )
    data = pydicom.dcmread(path)
    for k, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        setattr(item, macro[1], FRAMES[macro](int(k > 5)))
        setattr(group, macro[0], Sequence([item]))
    save(data, path)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, points[1])
    assert "they may be mixed" not in str(open_series(tmp_path).warnings)


def test_fields_of_view_of_one_pixel_spacing(tmp_path):
    """Two reconstructions with different centres."""
    left, right = volume((9, 6, 8), seed=1), volume((9, 6, 8), seed=2)
    for seed, images in enumerate((left, right)):
        numbers = np.random.default_rng(seed).permutation(9)

        def tags(k: int, seed=seed, numbers=numbers) -> dict:
            uid = f"1.2.{numbers[k]}.{seed}"
            return {"ImagePositionPatient": [40.0 * seed, 0.0, k], "SOPInstanceUID": uid}

        write(tmp_path, "a" * (seed + 1), images, tags=tags)
    pixels = read_series(tmp_path).pixels
    assert np.array_equal(pixels, left) or np.array_equal(pixels, right)
    assert open_series(tmp_path).warnings == [
        "2 fields of view: the first is taken, 9 slices left out"
    ]
