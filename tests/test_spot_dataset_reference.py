"""Samples of stage 1 from small tables made by hand, against slow plain definitions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import default_collate

import train_stage1
from src.artifacts.files import array_layout, write_array
from src.artifacts.paths import ArtifactError, DataFolder
from src.labels import LABELS, MIRROR, PRESENT
from src.sampling.spot_dataset import (
    SpotDataset,
    SpotTables,
    held_out_rows,
    pixel_sigma,
    training_rows,
)
from src.sampling.view import view_of_row

SIDE, CROP = 16, 10
MANY, ONE, NONE = "4", "1", "0"  # UIDs, by how many aneurysms
PUBLISHED = train_stage1.augmentation_of(train_stage1.Config())
STILL = replace(PUBLISHED, mirror=0, affine=0, occlude=0, brightness=0)
POINTS = {  # f, class_id, x_512, y_512 of each aneurysm
    MANY: [
        (0, 3, 100.0, 200.0),
        (2, 8, 300.0, 50.0),
        (2, 4, 10.0, 500.0),
        (3, 0, 77.0, 88.0),
        (7, 3, 400.0, 400.0),
    ],
    ONE: [(4, 11, 255.5, 64.0)],
    NONE: [],
}
LENGTHS = {MANY: 9, ONE: 5, NONE: 12}
PLANES = {MANY: "axial", ONE: "sagittal", NONE: "coronal"}


@pytest.fixture
def tables(tmp_path):
    """Three series of 9, 5 and 12 slices: five aneurysms, one and none."""
    data = DataFolder(tmp_path)
    rows, labels, safe = [], {}, {}
    for seed, (uid, length) in enumerate(LENGTHS.items()):
        images = np.random.default_rng(seed).random((length, SIDE, SIDE)) * 5
        write_array(data.sequence(uid), images.astype(np.float16))
        labels[uid] = np.zeros((length, len(LABELS)), np.uint8)
        safe[uid] = np.array([0, 3, 4])
        for f, class_id, x, y in POINTS[uid]:
            labels[uid][f, [class_id, PRESENT]] = 1
            rows.append((uid, "place", seed, length, f, class_id, x, y))
        rows.append((uid, "Nothing", seed, length, -1 if POINTS[uid] else 6, PRESENT, np.nan, 1.0))
    names = "SeriesInstanceUID location fold length f class_id x_512 y_512".split()
    meta = pd.DataFrame({"SeriesInstanceUID": list(LENGTHS), "plane": list(PLANES.values())})
    meta = meta.assign(h=20, w=40, row_spacing=2.0, column_spacing=0.5)
    meta = meta.assign(slice_spacing=1.0, orientation="")
    meta = meta.set_index("SeriesInstanceUID", drop=False)
    return SpotTables(data, pd.DataFrame(rows, columns=names), labels, safe, {}, meta)


def dataset(tables, augmentation, crop=CROP, rows=None, **options):
    rows = tables.spots if rows is None else rows
    return SpotDataset(tables, rows, crop, 1, augmentation, **options)


def volume(tables, uid):
    return np.load(tables.data.sequence(uid))


def test_evaluated_samples_equal_the_slow_definition(tables):
    rows = tables.spots[tables.spots.f >= 0]
    found = dataset(tables, None, rows=rows)
    assert len(found) == 7
    for index, row in enumerate(rows.itertuples()):
        uid, f = row.SeriesInstanceUID, row.f
        sample = found[3, index]
        last = LENGTHS[uid] - 1
        images = volume(tables, uid)[[max(f - 1, 0), f, min(f + 1, last)]]
        np.testing.assert_array_equal(sample["images"], images)
        labels, points = np.zeros(len(LABELS)), []
        for other, class_id, x, y in POINTS[uid]:
            if abs(other - f) <= 1:
                labels[[class_id, PRESENT]] = 1
                in_image = (x + 0.5) * SIDE / 512 - 0.5, (y + 0.5) * SIDE / 512 - 0.5
                points.append([in_image[0] - 3, in_image[1] - 3])  # crop 10 of 16
        assert sample["labels"].tolist() == labels.tolist()
        assert sample["points"].shape == (5, 2)  # as many as the series with the most
        np.testing.assert_allclose(sample["points"][: len(points)], points or np.empty((0, 2)))
        assert np.isnan(sample["points"][len(points) :]).all()
        assert sample["index"] == index
        assert sample.keys() == {"index", "points", "labels", "images"}
        dtypes = {name: sample[name].dtype for name in ("points", "labels", "images")}
        assert dtypes == {"points": np.float32, "labels": np.float32, "images": np.float16}
        truth = found.truth().loc[index]
        assert truth.tolist() == [uid, f, *labels.astype(int)]


def test_points_are_padded_to_the_most_of_any_series_or_one(tables):
    tables.spots = tables.spots[tables.spots.SeriesInstanceUID == NONE]
    assert dataset(tables, None)[0, 0]["points"].shape == (1, 2)


def test_a_batch_is_the_collated_samples(tables):
    found = dataset(tables, PUBLISHED, sigma_mm=3.0)
    keys = [(2, index) for index in (5, 0, 3)]
    batch, expected = found.__getitems__(keys), default_collate([found[key] for key in keys])
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(batch[name].nan_to_num(-9), torch.as_tensor(values).nan_to_num(-9)), name


def test_a_sample_depends_on_seed_epoch_and_index(tables):
    rows = tables.spots.iloc[[1, 1]]
    first, other = (
        dataset(tables, PUBLISHED, rows=rows),
        SpotDataset(tables, rows, CROP, 2, PUBLISHED),
    )
    samples = [first[0, 0], first[1, 0], first[0, 1], other[0, 0]]
    assert len({sample["matrix"].tobytes() for sample in samples}) == 4
    assert first[0, 0]["matrix"].tobytes() == samples[0]["matrix"].tobytes()


def counted(drawn):
    """Return {value: how often, of all}."""
    values, counts = np.unique(drawn, return_counts=True)
    return dict(zip(values.tolist(), (counts / len(drawn)).tolist(), strict=True))


@pytest.mark.parametrize(
    ("f", "expected"),
    [(4, {3: 1 / 6, 4: 2 / 3, 5: 1 / 6}), (0, {0: 5 / 6, 1: 1 / 6}), (8, {7: 1 / 6, 8: 5 / 6})],
)
def test_a_positive_is_shifted_half_the_time_and_stays_in_the_series(tables, f, expected):
    found, row = dataset(tables, PUBLISHED), tables.spots.iloc[0].to_dict() | {"f": f}
    drawn = [found.draw_slice(row, np.random.default_rng(k)) for k in range(1500)]
    assert counted([slice_ for slice_, _ in drawn]) == pytest.approx(expected, abs=0.04)
    assert counted([step for _, step in drawn]) == pytest.approx({1: 0.5, 2: 0.5}, abs=0.04)
    joint = counted([10 * step + slice_ - f for slice_, step in drawn])
    assert len(joint) == 2 * len(expected)


@pytest.mark.parametrize(
    ("hard", "expected"),
    [
        (None, {0: 1 / 3, 3: 1 / 3, 4: 1 / 3}),
        ([3], {0: 1 / 6, 3: 2 / 3, 4: 1 / 6}),
        ([2, 3, 4], {0: 1 / 6, 3: 5 / 12, 4: 5 / 12}),  # 2 is not safe
        ([2], {0: 1 / 3, 3: 1 / 3, 4: 1 / 3}),  # none is
    ],
)
def test_half_the_negatives_are_hard_slices_that_are_safe(tables, hard, expected):
    tables.hard = {} if hard is None else {MANY: np.array(hard)}
    found, row = dataset(tables, PUBLISHED), tables.spots.iloc[5].to_dict()
    drawn = [found.draw_slice(row, np.random.default_rng(k))[0] for k in range(1500)]
    assert counted(drawn) == pytest.approx(expected, abs=0.05)


def test_training_swaps_the_neighbours_half_the_time(tables):
    rows = tables.spots.iloc[[1]]
    found, swapped = dataset(tables, STILL, SIDE, rows), []
    for epoch in range(300):
        first, middle, last = found[epoch, 0]["images"]
        place = [
            int(np.argmax((volume(tables, MANY) == image).all((1, 2))))
            for image in (first, middle, last)
        ]
        assert abs(place[0] - place[1]) in (1, 2) or place[1] in (0, 1)
        swapped.append(place[0] > place[2])
    assert np.mean(swapped) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("uid", "mirrored"), [(MANY, True), (ONE, False), (NONE, True)])
def test_a_mirrored_sample_has_mirrored_labels_and_points(tables, uid, mirrored):
    """Axial and coronal series are mirrored, the sagittal one is not."""
    rows = tables.spots[(tables.spots.SeriesInstanceUID == uid) & (tables.spots.f >= 0)].head(1)
    found = dataset(tables, replace(STILL, mirror=1), SIDE, rows)
    plain = dataset(tables, STILL, SIDE, rows)
    for epoch in range(5):
        ours, theirs = found[epoch, 0], plain[epoch, 0]
        assert ours["mirrored"] == mirrored
        order = list(MIRROR) if mirrored else list(range(len(LABELS)))
        assert ours["labels"].tolist() == theirs["labels"][order].tolist()
        x = theirs["points"][:, 0]
        x = SIDE - 1 - x if mirrored else x
        np.testing.assert_allclose(ours["points"][:, 0], x, atol=1e-4)
        np.testing.assert_allclose(ours["points"][:, 1], theirs["points"][:, 1], atol=1e-4)


def test_sigma_is_in_the_sample_where_it_is_asked_for(tables):
    sample = dataset(tables, STILL, sigma_mm=3.0)[0, 0]
    np.testing.assert_allclose(sample["sigma"], [3 * SIDE / (40 * 0.5), 3 * SIDE / (20 * 2.0)])
    assert sample["sigma"].dtype == np.float32
    assert "sigma" not in dataset(tables, STILL)[0, 0]


def test_sigma_without_a_spacing_is_of_half_millimetres():
    meta = {"w": 200, "h": 100, "column_spacing": np.nan, "row_spacing": None, "orientation": ""}
    meta = pd.Series(meta)
    sigma = pixel_sigma(meta, view_of_row(meta, 50, 40), 3.0)
    assert sigma.tolist() == pytest.approx([1.5, 3.0])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((9, SIDE, SIDE), np.float32),
        ((9, SIDE, SIDE + 1), np.float16),
        ((8, SIDE, SIDE), np.float16),
        ((9, SIDE, SIDE, 1), np.float16),
        ((9, SIDE), np.float16),
    ],
)
def test_an_array_that_does_not_fit_is_named(tables, shape, dtype):
    write_array(tables.data.sequence(MANY), np.zeros(shape, dtype))
    array_layout.cache_clear()
    with pytest.raises(ArtifactError, match=r"4.npy holds \(.*not 9 square slices float16"):
        dataset(tables, None)


def test_the_crop_fits_all_arrays_of_one_width(tables):
    assert dataset(tables, None, SIDE)[0, 0]["images"].shape == (3, SIDE, SIDE)
    with pytest.raises(ArtifactError, match=r"are \[16\] pixels wide and the crop is 17"):
        dataset(tables, None, SIDE + 1)
    write_array(tables.data.sequence(MANY), np.zeros((9, 20, 20), np.float16))
    array_layout.cache_clear()
    with pytest.raises(ArtifactError, match=r"are \[16, 20\] pixels wide"):
        dataset(tables, None)


def test_the_rows_of_training_and_of_evaluation(tables):
    """Fold 0 has five aneurysms, two on one slice; a spot on slice 0 is evaluated."""
    spots = tables.spots
    assert len(spots) == 9
    training = training_rows(spots, 0)
    assert training.class_id.tolist() == [11, 11, PRESENT, PRESENT]
    assert training.index.tolist() == [0, 1, 2, 3]
    expected = [(uid, f) for uid, f in ((MANY, 0), (MANY, 2), (MANY, 3), (MANY, 7))]
    held_out = held_out_rows(spots, 0)
    assert list(zip(held_out.SeriesInstanceUID, held_out.f, strict=True)) == expected
    assert held_out.index.tolist() == [0, 1, 2, 3]
    assert list(held_out.columns) == list(training.columns) == list(spots.columns)
    spots.loc[spots.SeriesInstanceUID == ONE, "fold"] = 0
    spots.loc[spots.f == 4, "f"] = 7
    assert len(held_out_rows(spots, 0)) == 5  # slice 7 of two series
