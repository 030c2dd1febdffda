from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import train_stage1
from src.artifacts.files import read_array, write_array, write_pickle
from src.artifacts.paths import ArtifactError, DataFolder
from src.labels import LABELS, MIRROR, PRESENT
from src.sampling.loader import make_loader
from src.sampling.slices import STEPS, neighbours
from src.sampling.spot_dataset import (
    SpotDataset,
    held_out_rows,
    pixel_sigma,
    read_spot_tables,
    training_rows,
)
from src.sampling.view import view_of_row
from tests.conftest import CROP, IMAGE_SIZE

PUBLISHED = train_stage1.augmentation_of(train_stage1.Config())
SIGMA = train_stage1.Config().sigma_mm


@pytest.fixture(scope="module")
def tables(tiny):
    return read_spot_tables(tiny)


@pytest.fixture(scope="module")
def training(tables):
    return SpotDataset(tables, training_rows(tables.spots, 0), CROP, 1, PUBLISHED, SIGMA)


def test_positives_are_oversampled_once_and_the_held_out_fold_is_left_out(tables):
    rows, spots = training_rows(tables.spots, 0), tables.spots
    outside = spots[spots.fold != 0]
    assert len(rows) == len(outside) + (outside.class_id != PRESENT).sum()
    assert (rows.fold != 0).all()
    held_out = held_out_rows(spots, 0)
    assert (held_out.fold == 0).all()
    assert (held_out.f >= 0).all()


@pytest.mark.parametrize("view_mm", [0.0, 40.0, 1000.0])
def test_aneurysms_outside_the_crop_are_counted(view_mm, tables):
    rows = tables.spots[tables.spots.class_id != PRESENT]
    dataset = SpotDataset(tables, rows, CROP, 1, augmentation=None, view_mm=view_mm)
    hidden = set()
    for key, row in enumerate(dataset.rows):  # the slice of a spot shows its aneurysms, or not
        points = dataset[0, key]["points"]
        for x, y in points[~np.isnan(points).any(axis=1)].tolist():
            if min(x, y) < -0.5 or max(x, y) > CROP - 0.5:
                hidden.add((row["SeriesInstanceUID"], round(x, 3), round(y, 3)))
    outside, count = dataset.outside()
    assert count == len(rows) and outside == len(hidden)
    assert view_mm != 1000.0 or outside == 0
    assert view_mm != 40.0 or outside > 0


def test_held_out_samples_are_the_slice_and_its_neighbours_at_step_1(tables):
    dataset = SpotDataset(tables, held_out_rows(tables.spots, 0), CROP, seed=1, augmentation=None)
    truth = dataset.truth()
    for k, row in enumerate(dataset.rows):
        uid, f = row["SeriesInstanceUID"], int(row["f"])
        volume = read_array(tables.data.sequence(uid))
        sample = dataset[0, k]
        np.testing.assert_array_equal(sample["images"], volume[neighbours(f, 1, len(volume))])
        window = tables.labels[uid][max(0, f - 1) : f + 2].max(axis=0)
        np.testing.assert_array_equal(sample["labels"], window)
        np.testing.assert_array_equal(truth.loc[k, list(LABELS)], window)


def test_samples_do_not_depend_on_the_number_of_workers(training):
    def keys_and_values(workers):
        loader = make_loader(training, 8, workers, shuffle_seed=3)
        loader.sampler.epoch = 2
        return list(loader)

    expected = keys_and_values(0)
    for workers in (1, 2):
        for ours, others in zip(expected, keys_and_values(workers), strict=True):
            assert ours.keys() == others.keys()
            for name in ours:
                torch.testing.assert_close(ours[name], others[name], rtol=0, atol=0, equal_nan=True)


def test_samples_differ_between_epochs_and_not_within(training):
    first, again, next_epoch = training[0, 3], training[0, 3], training[1, 3]
    np.testing.assert_array_equal(first["matrix"], again["matrix"])
    assert not np.array_equal(first["matrix"], next_epoch["matrix"])


def test_drawn_slices_stay_at_the_spot_or_in_the_safe_zone(training, tables):
    generator = np.random.default_rng(0)
    seen = set()
    for row in training.rows * 5:
        slice_, step = training.draw_slice(row, generator)
        assert step in STEPS
        if row["class_id"] == PRESENT:
            assert slice_ in tables.safe[row["SeriesInstanceUID"]]
        else:
            seen.add(slice_ - row["f"])
            assert abs(slice_ - row["f"]) <= 1
    assert seen == {-1, 0, 1}


def test_hard_slices_are_drawn_half_the_time_and_only_the_safe_ones(tables):
    row = next(row for row in tables.spots.to_dict("records") if row["f"] == -1)
    uid = row["SeriesInstanceUID"]
    aneurysm = int(np.argmax(tables.labels[uid][:, PRESENT]))
    safe = tables.safe[uid]
    tables.hard[uid] = np.array([aneurysm, safe[0]])
    try:
        dataset = SpotDataset(tables, pd.DataFrame([row]), CROP, seed=0, augmentation=PUBLISHED)
        drawn = [dataset.draw_slice(row, np.random.default_rng(k))[0] for k in range(400)]
    finally:
        del tables.hard[uid]
    assert aneurysm not in drawn
    expected = 0.5 + 0.5 / len(safe)
    assert np.mean(np.array(drawn) == safe[0]) == pytest.approx(expected, abs=0.08)


def test_mirrored_samples_have_mirrored_labels_and_points(tables):
    spots = tables.spots
    upright = tables.meta.plane.isin(["axial", "coronal"])
    rows = spots[(spots.class_id != PRESENT) & spots.SeriesInstanceUID.map(upright)].head(4)
    still = replace(PUBLISHED, mirror=0, affine=0, occlude=0, brightness=0)
    plain = SpotDataset(tables, rows, IMAGE_SIZE, seed=0, augmentation=still)
    mirrored = SpotDataset(tables, rows, IMAGE_SIZE, seed=0, augmentation=replace(still, mirror=1))
    for k in range(len(rows)):
        ours, theirs = plain[0, k], mirrored[0, k]
        np.testing.assert_array_equal(ours["images"], theirs["images"])
        assert np.isfinite(ours["points"]).any()
        np.testing.assert_array_equal(theirs["labels"], ours["labels"][list(MIRROR)])
        np.testing.assert_allclose(
            theirs["points"][:, 0], IMAGE_SIZE - 1 - ours["points"][:, 0], atol=1e-3
        )
        np.testing.assert_allclose(theirs["points"][:, 1], ours["points"][:, 1], atol=1e-3)


def test_sagittal_series_are_never_mirrored(tables):
    sagittal = tables.meta.assign(plane="sagittal")
    rows = training_rows(tables.spots, 0).head(5)
    original, tables.meta = tables.meta, sagittal
    try:
        certain = replace(PUBLISHED, mirror=1, affine=0, occlude=0)
        dataset = SpotDataset(tables, rows, CROP, seed=0, augmentation=certain)
        assert all(dataset[0, k]["matrix"][0, 0] > 0 for k in range(len(rows)))
    finally:
        tables.meta = original


@pytest.mark.parametrize("fault", ["missing", "short", "dtype"])
def test_a_faulty_array_is_named_before_training(tiny, tmp_path, fault):
    root = tmp_path / "data"
    root.mkdir()
    for path in tiny.root.iterdir():
        if path.is_file():
            (root / path.name).write_bytes(path.read_bytes())
    (root / "npy_sequence").mkdir()
    for path in tiny.sequences.iterdir():
        (root / "npy_sequence" / path.name).hardlink_to(path)
    data = DataFolder(root)
    tables = read_spot_tables(data)
    uid = tables.spots.SeriesInstanceUID.iloc[0]
    array = read_array(data.sequence(uid))
    data.sequence(uid).unlink()
    if fault != "missing":
        write_array(
            data.sequence(uid), array[:-1] if fault == "short" else array.astype(np.float32)
        )
    with pytest.raises(ArtifactError, match=uid):
        SpotDataset(tables, tables.spots, CROP, seed=0, augmentation=None)


def test_training_samples_are_their_neighbours_labels_and_points(training, tables):
    """By the slow definition, with the draws repeated; both orders and both steps occur."""
    seen = set()
    plain = replace(PUBLISHED, mirror=0, affine=0, occlude=0, brightness=0)
    dataset = SpotDataset(
        tables, pd.DataFrame(training.rows), IMAGE_SIZE, seed=1, augmentation=plain
    )
    spots = tables.spots[tables.spots.class_id != PRESENT]
    for epoch in range(4):
        for index, row in enumerate(dataset.rows):
            uid, length = row["SeriesInstanceUID"], row["length"]
            slice_, step = dataset.draw_slice(row, np.random.default_rng([1, epoch, index]))
            volume = read_array(tables.data.sequence(uid))
            expected = [max(slice_ - step, 0), slice_, min(slice_ + step, length - 1)]
            sample = dataset[epoch, index]
            swapped = not np.array_equal(sample["images"], volume[expected])
            np.testing.assert_array_equal(
                sample["images"], volume[expected[::-1] if swapped else expected]
            )
            near = spots[
                (spots.SeriesInstanceUID == uid)
                & (spots.f >= slice_ - step)
                & (spots.f <= slice_ + step)
            ]
            labels = np.zeros(len(LABELS))
            labels[near.class_id.tolist()] = 1
            labels[PRESENT] = len(near) > 0
            np.testing.assert_array_equal(sample["labels"], labels)
            assert np.isfinite(sample["points"]).all(axis=1).sum() == len(near)
            for x, y in sample["points"][: len(near)]:
                distance = np.hypot(
                    (near.x_512 + 0.5) * IMAGE_SIZE / 512 - 0.5 - x,
                    (near.y_512 + 0.5) * IMAGE_SIZE / 512 - 0.5 - y,
                )
                assert distance.min() < 1e-3
            seen.add((swapped, step))
    assert seen == {(False, 1), (True, 1), (False, 2), (True, 2)}


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ("", (3 * 50 / (200 * 0.5), 3 * 50 / (100 * 2.0))),
        ("T", (3 * 50 / (100 * 2.0), 3 * 50 / (200 * 0.5))),
    ],
)
def test_sigma_is_3_mm_along_each_axis(orientation, expected):
    meta = pd.Series(
        {"w": 200, "h": 100, "column_spacing": 0.5, "row_spacing": 2.0, "orientation": orientation}
    )
    sigma = pixel_sigma(meta, view_of_row(meta, 50, 40), 3.0)
    assert sigma.tolist() == pytest.approx(expected)


def test_hard_slices_are_read_where_they_were_made(tiny):
    assert read_spot_tables(tiny).hard == {}
    try:
        write_pickle(tiny.hard_slices, {"1": np.array([2])})
        assert read_spot_tables(tiny).hard["1"].tolist() == [2]
    finally:
        tiny.hard_slices.unlink()
