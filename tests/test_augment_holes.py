"""Holes and grids never cover an aneurysm, and nothing else about them changes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train_stage1
from src.sampling import augment
from src.sampling.augment import draw
from src.sampling.spot_dataset import read_spot_tables
from tests.conftest import CROP

PUBLISHED = train_stage1.augmentation_of(train_stage1.Config())
ALWAYS = replace(PUBLISHED, occlude=1)
SIDES = {448: 512, 88: 96, 56: 64}  # of the image, by that of the crop
MARGINS = {448: 6.7, 88: 2.5, 56: 1.5}  # pixels
NOTHING = np.full((2, 2), np.nan, np.float32)


def drawn_for(crop, seed, points=None, augmentation=ALWAYS):
    generator = np.random.default_rng(seed)
    size, margin = SIDES[crop], MARGINS[crop]
    return draw(augmentation, generator, size, crop, True, points=points, margin=margin)


def hidden(drawn) -> np.ndarray:
    """Return which pixels (crop, crop) of the crop are hidden."""
    rows, columns = drawn.hole_rows.astype(np.float32), drawn.hole_columns.astype(np.float32)
    return rows.T @ columns > 0


def around(mask, x, y, reach) -> np.ndarray:
    """Return the pixels of a mask that are at most `reach` from x and from y."""
    rows, columns = np.arange(len(mask)), np.arange(len(mask))
    return mask[np.abs(rows - y) <= reach][:, np.abs(columns - x) <= reach]


def kind_of(drawn) -> str:
    holes = drawn.hole_rows.any(axis=1).sum()
    return "none" if holes == 0 else "grid" if holes == 1 else "holes"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SIDES)), st.integers(1, 3), st.booleans())
def test_no_hole_covers_a_point_in_the_crop(seed, crop, count, turned):
    points = np.full((4, 2), np.nan, np.float32)
    points[:count] = np.random.default_rng(seed).uniform(0, SIDES[crop], (count, 2))
    drawn = drawn_for(crop, seed, points, replace(ALWAYS, quarter_turns=turned))
    assert drawn.hole_columns.dtype == drawn.hole_rows.dtype == bool
    mask = hidden(drawn)
    reach = MARGINS[crop]
    if kind_of(drawn) == "grid":
        reach = min(reach, 0.6 * crop / 10 / 4)
    for x, y in drawn.move(points[:count]):
        assert not around(mask, x, y, max(reach, 1)).any()


@pytest.mark.parametrize("crop", SIDES)
def test_without_an_aneurysm_all_is_drawn_as_before(crop):
    for seed in range(60):
        expected = vars(drawn_for(crop, seed))
        for name, value in vars(drawn_for(crop, seed, NOTHING)).items():
            np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("crop", SIDES)
def test_a_draw_that_hides_no_aneurysm_is_kept_and_a_moved_one_keeps_its_kind(crop):
    size, moved = SIDES[crop], {"none": 0, "grid": 0, "holes": 0}
    for seed in range(300):
        points = np.random.default_rng([1, seed]).uniform(0.3, 0.7, (1, 2)).astype(np.float32)
        points *= size
        before, after = drawn_for(crop, seed), drawn_for(crop, seed, points)
        assert kind_of(after) == kind_of(before)
        sizes = [
            np.sort(each.hole_rows.sum(1) * 1000 + each.hole_columns.sum(1))
            for each in (before, after)
        ]
        if kind_of(after) != "grid":
            np.testing.assert_array_equal(*sizes)
        same = np.array_equal(hidden(before), hidden(after))
        moved[kind_of(after)] += not same
        for name in ("matrix", "columns", "rows", "brightness", "mirrored"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        x, y = before.move(points)[0]
        if not around(hidden(before), x, y, max(MARGINS[crop], 1)).any():
            assert same
    assert moved["none"] == 0 and moved["grid"] > 20 and moved["holes"] > 20


def test_away_from_the_aneurysm_as_much_is_hidden_as_before():
    """Over the whole crop, and beside the aneurysm, where holes come to that had covered it."""
    before, after = [], []
    for seed in range(1500):
        points = np.random.default_rng([2, seed]).uniform(25, 39, (1, 2)).astype(np.float32)
        for masks, spots in ((before, None), (after, points)):
            masks.append(hidden(drawn_for(56, seed, spots)).mean())
    assert np.mean(after) == pytest.approx(np.mean(before), rel=0.01)
    assert np.std(after) == pytest.approx(np.std(before), rel=0.02)


def test_a_grid_stays_whole():
    """A cell without its bar would show where the aneurysm is."""
    for seed in range(200):
        points = np.random.default_rng([3, seed]).uniform(20, 44, (2, 2)).astype(np.float32)
        drawn = drawn_for(56, seed, points)
        if kind_of(drawn) != "grid":
            continue
        for side in (drawn.hole_rows[0], drawn.hole_columns[0]):
            starts = np.flatnonzero(np.diff(side.astype(int)) == 1)
            assert set(np.diff(starts)) <= {5, 6}  # cells of 5.6 pixels


def test_holes_that_find_no_place_are_left_out():
    points = np.stack(np.meshgrid(np.arange(0, 64, 2), np.arange(0, 64, 2)), axis=-1)
    points = points.reshape(-1, 2).astype(np.float32)
    kinds = {kind_of(drawn_for(56, seed)) for seed in range(20)}
    assert kinds == {"grid", "holes", "none"}
    for seed in range(20):
        assert not hidden(drawn_for(56, seed, points)).any()


def samples(data) -> list[tuple]:
    """Return the training samples of some epochs, with holes, and what is hidden of each."""
    config = train_stage1.Config(data.root, crop_size=CROP, occlude=1.0)
    dataset = train_stage1.make_datasets(config, read_spot_tables(data))[0]
    found = []
    for epoch in range(8):
        for row in range(len(dataset)):
            sample = dataset[epoch, row]
            names = augment.Draw.__annotations__
            drawn = augment.Draw(**{name: sample[name] for name in names})
            found.append((sample, hidden(drawn)))
    return found


def test_the_samples_of_training_show_their_aneurysms(tiny, monkeypatch):
    ours = samples(tiny)
    monkeypatch.setattr(augment, "uncover", lambda *_, **__: None)
    positives = covered = 0
    for (sample, mask), (before, mask_before) in zip(ours, samples(tiny), strict=True):
        np.testing.assert_array_equal(sample["points"], before["points"])
        points = sample["points"][np.isfinite(sample["points"][:, 0])]
        if not len(points):
            np.testing.assert_array_equal(mask, mask_before)
        reach = max(1, min(sample["sigma"].max(), 0.6 * CROP / 10 / 4))
        for x, y in points:
            assert not around(mask, x, y, reach).any()
            covered += around(mask_before, x, y, 0.5).any()
        positives += len(points)
    assert positives > 100 and covered > 0.1 * positives
