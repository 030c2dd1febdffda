"""One volume, stored in every way, is read as the same volume."""

import random
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.dicom import read_series
from src.orientation import canonical, canonical_point
from tests.dicom_files import (
    AXES,
    SPACING,
    places,
    stored_as,
    tilted,
    volume,
    write_axial,
    write_frames,
    write_slices,
)

CODES = ("", "X", "Y", "XY", "T", "TX", "TY", "TXY")


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
    """Swapping left and right in the patient mirrors the volume; storing it mirrored does not."""
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


def test_one_slice_and_as_many_as_the_longest(tmp_path):
    write_axial(tmp_path / "one", volume((1, 4, 4)))
    assert read_series(tmp_path / "one").pixels.shape == (1, 4, 4)
    images, axes = volume((1100, 4, 4)), AXES["axial"]
    write_frames(tmp_path / "many" / "file", images, places(axes, 1100, 0.5), [*axes[2], *axes[1]])
    assert np.array_equal(read_series(tmp_path / "many").pixels, images)
