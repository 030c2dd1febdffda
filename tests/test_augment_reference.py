"""What is drawn, taken apart again; and the warp against loops over pixels in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import train_stage1
from src.sampling.augment import Draw, draw, warp
from tests.test_augment import collate

PUBLISHED = train_stage1.augmentation_of(train_stage1.Config())
STILL = replace(PUBLISHED, mirror=0, affine=0, occlude=0, brightness=0)
SIZE = 40


def many(settings, count=400, size=SIZE, crop=SIZE):
    """Return draws that differ in their generator only."""
    return [draw(settings, np.random.default_rng(k), size, crop, True) for k in range(count)]


def to_crop(drawn):
    """Return the matrix (3, 3) from image pixels to crop pixels, without distortion."""
    return np.linalg.inv(np.vstack([drawn.matrix.astype(np.float64), [0, 0, 1]]))


@pytest.mark.parametrize("mirror", [0, 1])
def test_scale_rotation_and_shift_are_about_the_centre_and_fill_their_ranges(mirror):
    """Nothing is cropped, so that all of the shift is drawn and none of it is the corner."""
    scales, angles, shifts = [], [], []
    for drawn in many(replace(STILL, affine=1, mirror=mirror)):
        matrix = to_crop(drawn)
        if mirror:
            matrix = matrix @ np.diag([-1, 1, 1])
        scale = np.hypot(matrix[0, 0], matrix[1, 0])
        rigid = matrix[:2, :2] / scale
        np.testing.assert_allclose(rigid @ rigid.T, np.eye(2), atol=1e-5)  # no shear
        scales.append(scale)
        angles.append(np.degrees(np.arctan2(rigid[1, 0], rigid[0, 0])))
        centre = (SIZE - 1) / 2
        shifts.append((to_crop(drawn) @ [centre, centre, 1])[:2] - centre)
    shifts = np.array(shifts) / SIZE
    for values, middle, reach in (
        (scales, 1, 0.1),
        (angles, 0, 5),
        (shifts[:, 0], 0, 0.06),
        (shifts[:, 1], 0, 0.06),
    ):
        assert np.min(values) == pytest.approx(middle - reach, abs=0.03 * reach)
        assert np.max(values) == pytest.approx(middle + reach, abs=0.03 * reach)
        assert np.mean(values) == pytest.approx(middle, abs=0.15 * reach)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.2


def test_a_crop_begins_at_each_pixel_that_leaves_room():
    draws = many(STILL, 300, SIZE, SIZE - 3)
    for drawn in draws:
        np.testing.assert_array_equal(drawn.matrix[:, :2], np.eye(2))
    corners = {tuple(drawn.matrix[:, 2].tolist()) for drawn in draws}
    assert corners == {(x, y) for x in range(4) for y in range(4)}


def test_the_crop_is_turned_about_its_own_centre():
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    seen = set()
    for seed in range(30):
        drawn, still = (
            draw(settings, np.random.default_rng(seed), SIZE, SIZE - 7, True)
            for settings in (replace(STILL, quarter_turns=True), STILL)
        )
        crop, turned = (warp(image, collate([each])) for each in (still, drawn))
        turns = [k for k in range(4) if torch.allclose(turned, crop.rot90(-k, (-2, -1)), atol=1e-4)]
        seen |= set(turns)
        assert len(turns) == 1
    assert seen == {0, 1, 2, 3}


def test_quarter_turns_are_exact_and_drawn_as_often():
    turns = [drawn.matrix[:, :2].tolist() for drawn in many(replace(STILL, quarter_turns=True))]
    expected = [[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]]
    often = [np.mean([turn == each for turn in turns]) for each in expected]
    np.testing.assert_allclose(often, [0.25] * 4, atol=0.06)


def occluded(**changes):
    """Return draws of grids, holes and distortions; what they change tells which is which."""
    kinds = {"grid": [], "holes": [], "distortion": []}
    for drawn in many(replace(STILL, occlude=1, **changes), 600):
        count = drawn.hole_rows.any(axis=1).sum()
        kinds["distortion" if count == 0 else "grid" if count == 1 else "holes"].append(drawn)
    return kinds


def test_each_kind_of_occlusion_is_drawn_as_often():
    kinds = occluded()
    for draws in kinds.values():
        assert len(draws) == pytest.approx(200, abs=40)
    for drawn in kinds["grid"] + kinds["holes"]:
        np.testing.assert_array_equal(drawn.columns, np.arange(SIZE))
        np.testing.assert_array_equal(drawn.rows, np.arange(SIZE))
    for drawn in kinds["distortion"]:
        assert not drawn.hole_columns.any()


@pytest.mark.parametrize(("ratio", "cells"), [(0.4, 5), (0.25, 4)])
def test_a_grid_hides_the_same_part_of_every_cell(ratio, cells):
    cell, phases = SIZE // cells, []
    for drawn in occluded(grid_ratio=ratio, grid_cells=cells)["grid"]:
        for hidden in (drawn.hole_columns[0], drawn.hole_rows[0]):
            pattern = hidden.reshape(cells, cell)
            assert (pattern == pattern[0]).all()
            assert pattern[0].sum() in (np.floor(ratio * cell), np.ceil(ratio * cell))
            assert np.abs(np.diff(pattern[0], append=pattern[0, 0])).sum() == 2  # one run
            phases.append(tuple(pattern[0]))
        assert not drawn.hole_columns[1:].any()
    ends = [np.argmax(np.roll(phase, -1) < phase) for phase in phases]
    often = np.bincount(ends, minlength=cell) / len(ends)
    np.testing.assert_allclose(often, np.full(cell, 1 / cell), atol=0.06)
    assert np.mean(phases) == pytest.approx(ratio, abs=0.02)
    pairs = [phases[k] == phases[k + 1] for k in range(0, len(phases), 2)]
    assert np.mean(pairs) < 0.5  # rows and columns differ


def test_holes_are_boxes_of_10_to_20_percent_all_inside():
    counts, sides, starts, ends = [], [], [], []
    for drawn in occluded()["holes"]:
        assert drawn.hole_rows.shape == drawn.hole_columns.shape == (25, SIZE)
        used = drawn.hole_rows.any(axis=1)
        np.testing.assert_array_equal(used, drawn.hole_columns.any(axis=1))
        assert not used[used.sum() :].any()
        counts.append(used.sum())
        for along in (drawn.hole_columns[used], drawn.hole_rows[used]):
            sides.append(along.sum(axis=1))
            starts.append(along.argmax(axis=1))
            ends.append(SIZE - 1 - along[:, ::-1].argmax(axis=1))
    assert set(counts) == set(range(10, 26))
    wide, tall = np.concatenate(sides[::2]), np.concatenate(sides[1::2])
    left, top = np.concatenate(starts[::2]), np.concatenate(starts[1::2])
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.1
    starts, ends = np.concatenate(starts), np.concatenate(ends)
    np.testing.assert_array_equal(ends - starts + 1, np.concatenate(sides))  # without gaps
    for side in (wide, tall):
        assert (side.min(), side.max()) == (4, 8)  # of 40
        assert side.mean() == pytest.approx(6, abs=0.1)
    assert abs(np.corrcoef(wide, tall)[0, 1]) < 0.1
    assert (starts.min(), ends.max()) == (1, SIZE - 1)  # of the centres 0, 1, ... in 0 to SIZE
    assert (starts + ends).mean() == pytest.approx(SIZE - 1, abs=1)
    assert abs(np.corrcoef(starts, np.concatenate(sides))[0, 1]) < 0.2


def test_a_distortion_changes_the_widths_of_even_cells():
    settings = replace(PUBLISHED, distortion_cells=3, distortion=0.3)
    knots, ratios = [0, 13, 26, 39], []
    for drawn in occluded(distortion_cells=3, distortion=0.3)["distortion"]:
        assert not np.array_equal(drawn.columns, drawn.rows)
        for moved in (drawn.columns, drawn.rows):
            at = moved[knots].astype(np.float64)
            assert (at[0], at[-1]) == (0, SIZE - 1)
            np.testing.assert_allclose(moved, np.interp(np.arange(SIZE), knots, at), atol=1e-5)
            ratios.append(np.diff(at)[0] / np.diff(at)[1])
            assert moved.dtype == np.float32
    limit = (1 + settings.distortion) / (1 - settings.distortion)
    assert max(ratios) == pytest.approx(limit, rel=0.1) and max(ratios) < limit
    assert min(ratios) == pytest.approx(1 / limit, rel=0.1)
    assert np.mean(np.log(ratios)) == pytest.approx(0, abs=0.05)


def drawn_at_random(seed, size, crop):
    """Return a draw with every piece: matrix, distortion, holes and brightness."""
    generator = np.random.default_rng(seed)
    matrix = np.eye(2, 3) + generator.uniform(-0.2, 0.2, (2, 3))
    matrix[:, 2] = generator.uniform(-6, size - crop + 6, 2)
    columns, rows = np.sort(generator.uniform(0, crop - 1, (2, crop)), axis=1)
    holes = generator.random((2, 3, crop)) < 0.3
    arrays = (matrix.astype(np.float32), columns.astype(np.float32), rows.astype(np.float32))
    return Draw(*arrays, *holes, np.float32(generator.uniform(-1, 1)), False)


def plain_warp(image, drawn):
    """Return one image (3, S, S) warped pixel by pixel: bilinear, background outside."""
    size, crop = image.shape[-1], len(drawn.columns)
    lowest = image.min(axis=(1, 2))  # of each slice
    padded = np.tile(lowest[:, None, None], (1, size + 60, size + 60))
    padded[:, 30 : 30 + size, 30 : 30 + size] = image
    out = np.empty((3, crop, crop))
    for row in range(crop):
        for column in range(crop):
            x, y = drawn.matrix.astype(float) @ [drawn.columns[column], drawn.rows[row], 1] + 30
            left, top = int(x), int(y)
            across, down = x - left, y - top
            four = padded[:, top : top + 2, left : left + 2]
            value = np.array([1 - down, down]) @ four @ np.array([1 - across, across])
            if any(drawn.hole_rows[k, row] and drawn.hole_columns[k, column] for k in range(3)):
                value = lowest
            out[:, row, column] = value + drawn.brightness
    return out


@pytest.mark.parametrize(("seed", "size", "crop"), [(0, 24, 16), (1, 15, 15), (2, 33, 20)])
def test_the_warp_equals_loops_over_the_pixels(seed, size, crop):
    images = np.random.default_rng(seed).random((4, 3, size, size)) * 5 + 1
    draws = [drawn_at_random(10 * seed + k, size, crop) for k in range(4)]
    warped = warp(torch.from_numpy(images).float(), collate(draws)).numpy()
    for k in range(4):
        np.testing.assert_allclose(warped[k], plain_warp(images[k], draws[k]), atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_points_are_where_the_warp_reads_them(seed):
    """Inside the crop the mapping is undone; beyond its ends the distortion has slope 1."""
    drawn = drawn_at_random(seed, 30, 20)
    places = np.random.default_rng(seed).uniform(-8, 28, (40, 2))  # pixels of the crop
    points = []
    for x, y in places:
        moved = []
        for along, place in ((drawn.columns, x), (drawn.rows, y)):
            beyond = place - np.clip(place, 0, 19)
            moved.append(np.interp(place, np.arange(20), along) + beyond)
        points.append(drawn.matrix.astype(float) @ [*moved, 1])
    points.insert(3, [np.nan, np.nan])
    found = drawn.move(np.array(points, np.float32))
    assert found.dtype == np.float32
    assert np.isnan(found[3]).all()
    np.testing.assert_allclose(np.delete(found, 3, axis=0), places, atol=2e-3)
    nothing = np.full((2, 2), np.nan, np.float32)
    assert drawn.move(nothing).shape == (2, 2) and np.isnan(drawn.move(nothing)).all()


def test_brightness_fills_its_range_evenly():
    values = np.array([drawn.brightness for drawn in many(replace(STILL, brightness=0.2))])
    assert values.dtype == np.float32
    assert (values.min(), values.max()) == pytest.approx((-0.2, 0.2), abs=0.005)
    assert values.mean() == pytest.approx(0, abs=0.02)
