"""A series that holds several acquisitions or reconstructions: one of them, never a mixture."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dicom import open_series, read_series
from tests.dicom_files import dataset, save, volume

COUNT = 9  # slices of an acquisition
Tags = Callable[[int, int], dict]  # (acquisition, slice) -> tags of a file


def write(
    folder: Path, tags: Tags, acquisitions: int = 3, place=lambda a, k: k, seed: int = 0, **options
) -> Path:
    """Write one file for each slice of each acquisition, in random order of names and UIDs.

    place: (acquisition, slice) -> mm along z, or None to leave the slice out
    """
    shuffled = random.Random(seed)
    numbers = list(range(acquisitions * COUNT))
    shuffled.shuffle(numbers)
    for acquisition in range(acquisitions):
        images = volume((COUNT, 6, 8), seed=acquisition)
        for k, image in enumerate(images):
            number = numbers.pop()
            where = place(acquisition, k)
            if where is None:
                continue
            header = {
                "ImagePositionPatient": [0.0, 0.0, float(where)],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "SOPInstanceUID": f"1.2.{shuffled.randrange(10**9)}",
                "SliceThickness": 1,
            }
            data = dataset(image, **header | options)
            for name, value in tags(acquisition, k).items():
                if isinstance(name, str):
                    setattr(data, name, value)
                else:
                    data.add_new(name[0], name[1], value)
            save(data, folder / f"{number:04d}")
    return folder


def is_acquisition(folder: Path, acquisition: int) -> bool:
    """Return whether the volume of a folder is the whole of one acquisition."""
    expected = volume((COUNT, 6, 8), seed=acquisition)
    return np.array_equal(read_series(folder).pixels, expected)


def minutes(acquisition: int) -> str:
    return f"12{acquisition:02d}00.0000"


def instants(acquisition: int, k: int) -> str:
    """Return a time that no other slice has; slices are acquired one after the other."""
    return f"12{acquisition:02d}{k:02d}.2500"


# name -> (tags of acquisition a, slice k; words of the warning)
TRAITS: dict[str, tuple[Tags, str]] = {
    "b-value": (lambda a, k: {"DiffusionBValue": 500.0 * a}, "3 b-values: 0 s/mm2 is taken"),
    "direction": (
        lambda a, k: {
            "DiffusionBValue": 1e3,
            "DiffusionGradientOrientation": [1.0 - a, 0, 0.5],
            "AcquisitionTime": instants(a, k),
        },
        "3 diffusion directions",
    ),
    "Siemens b-value": (lambda a, k: {(0x0019100C, "IS"): str(500 * a)}, "3 b-values"),
    "GE b-value": (lambda a, k: {(0x00431039, "IS"): [10**9 + 500 * a, 8, 0]}, "3 b-values"),
    "Philips b-value": (lambda a, k: {(0x20011003, "FL"): 500.0 * a}, "3 b-values"),
    "echo time": (lambda a, k: {"EchoTime": 5 + 7.5 * a}, "3 echo times: 5 ms is taken"),
    "echo number": (lambda a, k: {"EchoNumbers": a + 1}, "3 echoes"),
    "inversion time": (lambda a, k: {"InversionTime": 100 + 300 * a}, "3 inversion times"),
    "flip angle": (lambda a, k: {"FlipAngle": 2 + 5 * a}, "3 flip angles"),
    "tube voltage": (lambda a, k: {"KVP": 80 + 30 * a}, "3 tube voltages: 80 kV is taken"),
    "kernel": (
        lambda a, k: {"ConvolutionKernel": ("H30s", "B20f", "H70h")[a], "InstanceNumber": a + 1},
        "3 reconstruction kernels",
    ),
    "thickness": (lambda a, k: {"SliceThickness": 1 + a}, "3 slice thicknesses: 1 mm is taken"),
    "component": (
        lambda a, k: {"ImageType": ["ORIGINAL", "PRIMARY", "MPI"[a]], "InstanceNumber": 9 - a},
        "3 image types: the magnitude is taken",
    ),
    "temporal position": (
        lambda a, k: {"TemporalPositionIdentifier": a + 1},
        "3 time points by temporal position: the first is taken, 18 slices left out",
    ),
    "acquisition number": (lambda a, k: {"AcquisitionNumber": a + 1}, "by acquisition number"),
    "one number a slice": (lambda a, k: {"AcquisitionNumber": a * COUNT + k}, "3 acquisitions"),
    "acquisition time": (
        lambda a, k: {"AcquisitionTime": minutes(a)},
        "3 time points by acquisition time: the first is taken, 18 slices left out",
    ),
    "one time a slice": (lambda a, k: {"AcquisitionTime": instants(a, k)}, "by acquisition time"),
    "position by position": (
        lambda a, k: {"AcquisitionTime": instants(k, a)},
        "3 time points by acquisition time",
    ),
    "acquisition date": (
        lambda a, k: {"AcquisitionDateTime": f"2020010{a + 1}235959.5+0100"},
        "3 time points by acquisition time",
    ),
    "content time": (lambda a, k: {"ContentTime": instants(a, k)}, "by content time"),
    "trigger time": (
        # Each slice has a heart beat of its own length.
        lambda a, k: {"TriggerTime": 40.5 * a + 3 * (k % 4), "InstanceNumber": 3 * k + a},
        "3 cardiac phases by trigger time",
    ),
    "instance number": (lambda a, k: {"InstanceNumber": a * COUNT + k}, "3 passes by instance"),
    "description": (
        lambda a, k: {"SeriesDescription": "abc"[a], "InstanceNumber": a},
        "3 series descriptions",
    ),
}


@pytest.mark.parametrize("name", TRAITS)
def test_what_tells_acquisitions_apart(name, tmp_path):
    tags, words = TRAITS[name]
    write(tmp_path, tags)
    assert is_acquisition(tmp_path, 0)
    series = open_series(tmp_path)
    assert words in series.warnings[0] and len(series.dropped) == 2 * COUNT
    assert {reason for _, reason in series.dropped} <= {"other_pass", "other_reconstruction"}


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(sorted(TRAITS)), seed=st.integers(0, 10**6), data=st.data())
def test_any_order_of_files_gives_the_same_acquisition(name, seed, data, tmp_path_factory):
    """Some slices are missing, but not all of one position: what is left is no mixture."""
    missing = data.draw(st.sets(st.tuples(st.sampled_from([0, 1]), st.integers(0, 8)), max_size=2))
    kept = None
    for shuffle in (seed, seed + 1):
        folder = tmp_path_factory.mktemp("order")
        write(
            folder,
            TRAITS[name][0],
            place=lambda a, k: None if (a, k) in missing else k,
            seed=shuffle,
        )
        pixels = read_series(folder).pixels
        shutil.rmtree(folder)
        found = [same(pixels, acquisition) for acquisition in range(3)]
        assert sorted(found)[:2] == [0, 0] and max(found) == len(pixels)
        kept = found if kept is None else kept
        assert found == kept


def same(pixels: np.ndarray, acquisition: int) -> int:
    """Return how many slices are of an acquisition."""
    images = {image.tobytes() for image in volume((COUNT, 6, 8), seed=acquisition).astype("f4")}
    return sum(image.tobytes() in images for image in pixels)


def test_two_traits_at_once(tmp_path):
    """Three echoes, each as magnitude and phase, with phase images first."""

    def tags(a: int, k: int) -> dict:
        return {"EchoTime": 5.0 * (a // 2 + 1), "ImageType": ["ORIGINAL", "PRIMARY", "PM"[a % 2]]}

    write(tmp_path, tags, acquisitions=6)
    assert is_acquisition(tmp_path, 1)
    assert [note.split(":")[0] for note in open_series(tmp_path).warnings] == [
        "2 image types",
        "3 echo times",
    ]


def test_the_first_complete_one(tmp_path):
    write(
        tmp_path,
        lambda a, k: {"DiffusionBValue": 1000.0 * a},
        place=lambda a, k: None if a == 0 and k in (2, 5) else k,
    )
    assert is_acquisition(tmp_path, 1)
    assert "1000 s/mm2 is taken" in open_series(tmp_path).warnings[0]


def test_weightings_are_never_mixed_even_where_no_position_repeats(tmp_path):
    write(
        tmp_path,
        lambda a, k: {"DiffusionBValue": 1000.0 * a},
        acquisitions=2,
        place=lambda a, k: k if (k < 7) == (a == 0) else None,
    )
    assert same(read_series(tmp_path).pixels, 0) == 7 and len(open_series(tmp_path).dropped) == 2


def test_a_table_that_goes_to_and_fro(tmp_path):
    """Perfusion of two regions in turn: each pass is two acquisitions."""

    def tags(a: int, k: int) -> dict:
        later = (k >= 5) == (a % 2 == 0)
        return {"AcquisitionNumber": 2 * a + 1 + later}

    write(tmp_path, tags, acquisitions=4)
    assert is_acquisition(tmp_path, 0)


def test_nothing_tells_them_apart(tmp_path):
    write(tmp_path, lambda a, k: {}, acquisitions=2)
    assert "nothing tells acquisitions apart" in open_series(tmp_path).warnings[0]


ONE_VOLUME: dict[str, tuple[Tags, Callable[[int, int], float]]] = {
    # tags, place of slice k of part a: three parts of 9 slices
    "times of each slice": (
        lambda a, k: {
            "AcquisitionTime": instants(a, k),
            "ContentTime": instants(a, k),
            "TriggerTime": 7.5 * k + a,
            "InstanceNumber": 9 * a + k,
            "KVP": 119 + (5 * k + a) % 3,
            "XRayTubeCurrent": 100 + k,
        },
        lambda a, k: 9 * a + k,
    ),
    "times of irregular slices": (
        lambda a, k: {"AcquisitionTime": instants(a, k), "ContentTime": instants(k, a)},
        lambda a, k: 9 * a + k + 0.3 * (k % 2),
    ),
    "every third slice": (
        lambda a, k: {"AcquisitionNumber": a + 1, "AcquisitionTime": minutes(a)},
        lambda a, k: 3 * k + a,
    ),
    "slabs": (lambda a, k: {"AcquisitionTime": minutes(a)}, lambda a, k: 9 * a + k),
    "thicker above": (
        lambda a, k: {"SliceThickness": a + 1, "AcquisitionNumber": a + 1},
        lambda a, k: (a + 1) * k + (0, 9, 27)[a],
    ),
}


@pytest.mark.parametrize("name", ONE_VOLUME)
def test_one_volume_is_not_torn_apart(name, tmp_path):
    tags, place = ONE_VOLUME[name]
    write(tmp_path, tags, place=place, SpacingBetweenSlices=1)
    series = open_series(tmp_path)
    assert len(series.slices) == 3 * COUNT and not series.dropped


def test_overlapping_slabs_are_one_volume(tmp_path):
    """Time of flight in three slabs: two slices of each are also in the next."""
    write(tmp_path, lambda a, k: {"AcquisitionTime": minutes(a)}, place=lambda a, k: 7 * a + k)
    pixels = read_series(tmp_path).pixels
    slabs = [volume((COUNT, 6, 8), seed=a) for a in range(3)]
    assert np.array_equal(pixels, np.concatenate([slabs[0], slabs[1][2:], slabs[2][2:]]))
    assert {reason for _, reason in open_series(tmp_path).dropped} == {"duplicate"}


@pytest.mark.parametrize("shift", [0.4, 0.5, 0.05])
@pytest.mark.parametrize("name", ["acquisition number", "one time a slice", "tube voltage"])
def test_passes_that_are_shifted(name, shift, tmp_path):
    write(tmp_path, TRAITS[name][0], acquisitions=2, place=lambda a, k: k + shift * a)
    assert is_acquisition(tmp_path, 0)
    assert {reason for _, reason in open_series(tmp_path).dropped} == {"other_acquisition"}


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_thick_slices_beside_thin_ones(start, tmp_path):
    write(
        tmp_path,
        lambda a, k: {"SliceThickness": (4, 1)[a]},
        acquisitions=2,
        place=lambda a, k: k if a else (4 * k + start if k < 3 else None),
    )
    assert is_acquisition(tmp_path, 1)
    assert {reason for _, reason in open_series(tmp_path).dropped} == {"other_reconstruction"}


@pytest.mark.parametrize("images", [1, 9])
def test_images_that_time_the_contrast(images, tmp_path):
    """One thick slice, taken again and again between two slices of the scan."""
    write(
        tmp_path,
        lambda a, k: {"SliceThickness": (1, 10)[a == 3], "ContentTime": instants(a, k)},
        acquisitions=4,
        place=lambda a, k: 9 * a + k if a < 3 else (12.3 if k < images else None),
    )
    series = open_series(tmp_path)
    assert len(series.slices) == 27 and len(series.dropped) == images
    assert all(slice_.thickness == 1 for slice_ in series.slices)
