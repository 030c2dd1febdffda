"""The head's centre against the phantom's anatomy, at edges, and in real series."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from src.preprocess.head import SIDE, head_centre, sample_slices
from tests.dicom_files import AXES, places, stored_as, write_slices
from tools.experiments.measure_head_centre import Config, case_of, centre_of, draw

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdicom"
SQUARE = (240.0, 240.0)  # mm


@cache
def cases(plane, count=2):
    config = Config(heads=count, matrix=64, seed=7)
    return [case_of(config, *drawn) for drawn in draw(config, plane)]


def ellipse(x=0.5, y=0.5, half=(70, 90), size=SQUARE, count=20, bright=1.0):
    """Return images (count, SIDE, SIDE) of a head without a neck, the largest in the middle."""
    rows, columns = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    across, down = (columns - x) * size[1] / half[0], (rows - y) * size[0] / half[1]
    grow = np.sqrt(1 - np.linspace(-0.8, 0.8, count) ** 2)[:, None, None]
    return (np.hypot(across, down) < grow).astype(np.float32) * bright


def centre(images, plane="axial", modality="CT", size=SQUARE, gap=8.0):
    return head_centre(images, np.arange(len(images)) * gap, plane, modality, size)


def millimetres(found, truth, size=SQUARE):
    return np.hypot(*((np.array(found) - truth) * size[::-1]))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_centre_is_near_that_of_the_phantom(plane):
    """A few heads; tools/experiments/measure_head_centre.py measures many."""
    for case in cases(plane):
        assert np.hypot(*case.error()) < 8


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.4, 0.55), (0.62, 0.45)])
def test_the_centre_of_an_ellipse_is_exact(modality, place):
    found = centre(ellipse(*place), modality=modality)
    assert millimetres(found, place) < 1.5


@pytest.mark.parametrize("side", [(0.25, 0.5), (0.75, 0.5), (0.5, 0.3), (0.5, 0.7), (0.28, 0.35)])
def test_a_head_that_is_cut_off_keeps_its_centre(side):
    assert millimetres(centre(ellipse(*side)), side) < 8


def test_pixels_that_are_not_square_change_nothing():
    size = (240.0, 180.0)
    assert millimetres(centre(ellipse(0.45, 0.55, size=size), size=size), (0.45, 0.55), size) < 1.5


@pytest.mark.parametrize("shift", [(5, 0), (0, 7), (-6, 4)])
def test_the_centre_moves_with_the_head(shift):
    padded = np.pad(ellipse(half=(50, 65)), ((0, 0), (20, 20), (20, 20)))
    x, y = shift
    moved = padded[:, 20 - y : 20 - y + SIDE, 20 - x : 20 - x + SIDE]
    before, after = centre(padded[:, 20:-20, 20:-20]), centre(moved)
    np.testing.assert_allclose((np.array(after) - before) * SIDE, shift, atol=0.4)


def test_the_mirrored_head_has_the_mirrored_centre():
    for case in cases("axial"):
        arguments = (case.positions, case.plane, case.modality, case.size)
        x, y = head_centre(case.images, *arguments)
        mirrored_x, mirrored_y = head_centre(case.images[..., ::-1].copy(), *arguments)
        assert abs(mirrored_x - (1 - x)) * case.size[1] < 1.5
        assert abs(mirrored_y - y) * case.size[0] < 1.5


def test_the_head_holder_is_not_the_head():
    """A shell of foam below the head, brighter than air and not joined to it."""
    images = ellipse(0.5, 0.42, half=(60, 75))
    rows, columns = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE * SQUARE[0]
    radius = np.hypot(columns - 120, rows - 100)
    images[:, (np.abs(radius - 108) < 4) & (rows > 120)] = 1.0
    assert millimetres(centre(images), (0.5, 0.42)) < 2


def test_the_neck_below_an_axial_head_is_left_out():
    neck = ellipse(0.5, 0.75, half=(45, 45), count=30)
    neck[:] = neck[15]
    images = np.concatenate([neck, ellipse(0.5, 0.5, count=30)])
    assert millimetres(centre(images), (0.5, 0.5)) < 2


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "unknown"])
def test_an_empty_image_has_no_head(plane, modality):
    assert centre(np.zeros((5, SIDE, SIDE), np.float32), plane, modality) is None


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "unknown"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("images", [ellipse(count=3)[1:2], np.full((4, SIDE, SIDE), 3.0)])
def test_a_single_slice_and_a_full_field_have_the_middle(plane, modality, images):
    found = centre(images.astype(np.float32), plane, modality)
    assert millimetres(found, (0.5, 0.5)) < 8


@pytest.mark.parametrize("rows", [30, 70])
def test_a_field_inside_the_head_has_no_centre_at_its_edge(rows):
    """Tissue to all sides, and something dark that could be taken for air beside a head."""
    images = np.full((16, SIDE, SIDE), 2.0, np.float32)
    images[:, :rows, :70] = 0
    assert centre(images, modality="MR", size=(110.0, 110.0), gap=5.0) is None


def test_a_small_thing_is_no_head():
    assert centre(ellipse(half=(15, 15))) is None


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 1100])
def test_slices_are_spread_evenly_and_include_both_ends(length):
    numbers = sample_slices(length)
    assert numbers[0] == 0 and numbers[-1] == length - 1 and len(numbers) == min(length, 32)
    assert np.ptp(np.diff(numbers)) <= 1 if length > 2 else True


@pytest.mark.parametrize("code", ["Y", "X", "YXT"])
def test_how_a_series_is_stored_does_not_move_the_centre(code, tmp_path):
    images = (ellipse(0.4, 0.54)[:, ::2] * 1000).astype(np.uint16)  # (20, SIDE / 2, SIDE)
    spacing = (SQUARE[0] / SIDE * 2, SQUARE[1] / SIDE)
    points = places(AXES["axial"], len(images), 8.0)
    plain = stored_as(images, AXES["axial"], points, "", spacing)
    other = stored_as(images, AXES["axial"], points, code, spacing)
    centres = [
        centre_of(write_slices(tmp_path / str(k), *stored))[2]
        for k, stored in enumerate([plain, other])
    ]
    np.testing.assert_allclose(centres[1], centres[0], atol=0.1)
    assert np.hypot(*(np.array(centres[0]) - np.array([0.4, 0.54]) * SQUARE)) < 3


# Series, and its head's centre in mm from the canonical image's corner, from the edges of the skin
# read off on drawings with a grid: halfway between front and back (left and right); down, halfway,
# too, or in sagittal images 99 mm below the top.
JUDGED = {
    "ct_head_phantom_5mm": ((44 + 181) / 2, (17 + 199) / 2),
    "mr_enhanced_reversed": ((61 + 246) / 2, 10 + 99),
    "mr_sagittal_mprage": ((22 + 203) / 2, 21 + 99),
    "t1post_axial_320x260": ((2 + 178) / 2, (4 + 215) / 2),
}


@pytest.mark.skipif(not REAL.exists(), reason="the real series are not here")
@pytest.mark.parametrize("name", JUDGED)
def test_real_heads_have_the_centre_that_eyes_see(name):
    assert np.hypot(*(np.array(centre_of(REAL / name)[2]) - JUDGED[name])) < 10
