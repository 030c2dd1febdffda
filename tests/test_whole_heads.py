"""Synthetic series of whole heads: fields of view, sizes of series, surroundings."""

from functools import cache
from itertools import islice

import numpy as np
import pytest

from src.labels import MODALITIES
from tools.make_demo_data import Config, draw_head, locate, render
from tools.phantom.body import HEAD_CENTRE, NECK_BEGINS
from tools.phantom.render import CTA, MRA, T1POST, T2
from tools.phantom.whole_grid import FULL

SMALL = Config(whole_heads=True, matrix=96)
LABEL = 6  # anterior communicating artery: in the midline


@cache
def head(index, matrix):
    return draw_head(Config(whole_heads=True, matrix=matrix), index, [LABEL])


def heads(count=150, matrix=FULL):
    return [head(index, matrix) for index in range(count)]


def of_modality(modality):
    return [head for head in heads() if head.scan.modality == modality]


def size(head):
    return np.array(head.scan.grid.shape) * head.scan.grid.spacing


def axial(modality):
    """Return small heads of a modality, one after the other."""
    for index, full in enumerate(heads()):
        if full.scan.modality == modality and abs(full.scan.grid.axes[0, 2]) > 0.9:
            yield head(index, SMALL.matrix)


def test_every_place_of_an_aneurysm_is_inside_every_picture():
    for head in heads() + heads(30, 256):
        points = np.array([site.point for site in head.anatomy.sites])
        at = head.scan.grid.to_index(head.scan.pose.to_patient(points))
        millimetres = np.array(head.scan.grid.spacing)
        assert (at * millimetres > 5).all()
        assert ((np.array(head.scan.grid.shape) - 1 - at) * millimetres > 5).all()


def test_fields_are_those_of_whole_heads_off_centre():
    offsets = []
    for head in heads():
        assert 130 < size(head)[1:].max() < 330
        grid = head.scan.grid
        centre = grid.to_index(head.scan.pose.to_patient(np.array([HEAD_CENTRE])))[0]
        middle = (np.array(grid.shape) - 1) / 2
        offsets.append(((centre - middle) * grid.spacing)[1:])
    assert 7 < np.std(offsets) < 14
    assert np.abs(offsets).max() > 25


@pytest.mark.parametrize(("modality", "slices"), [(CTA, 400), (MRA, 175), (T2, 150), (T1POST, 35)])
def test_at_full_size_series_are_as_long_as_real_ones(modality, slices):
    lengths = [head.scan.grid.shape[0] for head in of_modality(modality)]
    assert 0.75 * slices < np.median(lengths) < 1.25 * slices


def test_slices_are_as_thin_and_as_thick_as_real_ones_at_full_size():
    gaps = np.array([head.scan.grid.spacing[0] for head in heads()])
    assert gaps.min() >= 0.5
    assert 4 < gaps.max() <= 6
    assert np.mean(gaps < 1) > 0.5


def test_a_smaller_matrix_makes_pixels_and_thin_slices_alike_coarser():
    for whole, small in zip(heads(30), heads(30, 256), strict=True):
        full, half = whole.scan.grid, small.scan.grid
        assert half.shape[2] == full.shape[2] / 2
        if full.spacing[0] < 1:
            np.testing.assert_allclose(half.spacing[0], 2 * full.spacing[0], atol=2e-4)
        else:
            assert half.spacing[0] >= full.spacing[0]


def test_some_mr_pixels_are_not_square():
    stretched = [
        h for h in heads() if abs(h.scan.grid.spacing[1] / h.scan.grid.spacing[2] - 1) > 0.02
    ]
    assert 3 < len(stretched) < 30
    assert CTA not in {head.scan.modality for head in stretched}


@pytest.mark.parametrize("modality", MODALITIES)
def test_outside_the_body_is_air(modality):
    head = next(axial(modality))
    image = render(SMALL, 0, head)
    top = image[-1] if head.scan.grid.axes[0, 2] > 0 else image[0]
    corners = np.stack([top[:4, :4], top[:4, -4:]])
    inside = image[image.shape[0] // 2, 30:60, 30:60]
    assert np.median(corners) < np.median(inside) - 20


def test_a_long_cta_shows_neck_vessels_and_shoulders():
    longest = max(islice(axial(CTA), 20), key=lambda h: size(h)[0])
    image = render(SMALL, 0, longest)
    grid, pose = longest.scan.grid, longest.scan.pose
    carotid = next(tube for tube in longest.body.arteries if tube.name == "L neck ICA")
    at = np.rint(grid.to_index(pose.to_patient(carotid.points[1:3]))).astype(int)
    for k, i, j in at:
        around = image[k, i - 2 : i + 3, j - 2 : j + 3]
        assert around.max() > 150  # HU
    shoulder = np.rint(grid.to_index(pose.to_patient(np.array([[65, 30, -190.0]])))).astype(int)[0]
    assert shoulder[0] >= 0
    assert image[tuple(np.minimum(shoulder, np.array(image.shape) - 1))] > -200


def test_the_vessels_of_the_neck_continue_those_of_the_head():
    head = heads(5)[0]
    starts = [tube.points[0] for tube in head.anatomy.arteries + head.anatomy.veins]
    joined = [tube for tube in head.body.arteries + head.body.veins if "external" not in tube.name]
    assert len(joined) == 6
    for tube in joined:
        assert min(np.abs(tube.points[-1] - start).max() for start in starts) == 0
        assert tube.points[0, 2] < NECK_BEGINS - 100


def test_the_label_changes_the_aneurysm_alone():
    index = next(k for k, head in enumerate(heads(20)) if head.scan.modality == CTA)
    positive, negative = draw_head(SMALL, index, [LABEL]), draw_head(SMALL, index, [])
    assert positive.scan.grid.shape == negative.scan.grid.shape
    changed = render(SMALL, index, positive) != render(SMALL, index, negative)
    spot = locate(positive)[0]
    far = np.argwhere(changed) - (spot.slice, spot.y, spot.x)
    distance = np.linalg.norm(far * positive.scan.grid.spacing, axis=1)
    assert 0 < distance.max() < 25
