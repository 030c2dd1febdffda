import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.artifacts.files import array_layout, read_array, write_array
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.labels import LABELS, MIRROR, PRESENT
from src.sampling.augment import Augmentation
from src.sampling.loader import make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import STEPS, neighbours, slice_positions, thin
from src.sampling.spot_dataset import (
    SpotDataset,
    held_out_rows,
    pixel_sigma,
    read_spot_tables,
    training_rows,
)
from tests.conftest import CROP, IMAGE_SIZE


@pytest.fixture(scope="module")
def tables(tiny):
    return read_spot_tables(tiny)


@pytest.fixture(scope="module")
def training(tables):
    return SpotDataset(
        tables, training_rows(tables.spots, 0), CROP, seed=1, augmentation=Augmentation()
    )


def test_positives_are_oversampled_once_and_the_held_out_fold_is_left_out(tables):
    rows, spots = training_rows(tables.spots, 0), tables.spots
    outside = spots[spots.fold != 0]
    assert len(rows) == len(outside) + (outside.class_id != PRESENT).sum()
    assert (rows.fold != 0).all()
    held_out = held_out_rows(spots, 0)
    assert (held_out.fold == 0).all()
    assert (held_out.f >= 0).all()


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
        dataset = SpotDataset(
            tables, pd.DataFrame([row]), CROP, seed=0, augmentation=Augmentation()
        )
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
    still = {"affine": 0, "spoil": 0, "drift": 0}
    plain, mirrored = (
        SpotDataset(
            tables, rows, IMAGE_SIZE, seed=0, augmentation=Augmentation(mirror=mirror, **still)
        )
        for mirror in (0, 1)
    )
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
        dataset = SpotDataset(
            tables, rows, CROP, seed=0, augmentation=Augmentation(mirror=1, affine=0, spoil=0)
        )
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


@given(st.integers(1, 3000), st.integers(1, 192))
def test_thinning_in_evaluation_is_every_kth_slice_from_the_first(length, cut):
    stride = length // cut if length // cut >= 2 else 1
    assert thin(length, cut).tolist() == list(range(0, length, stride))


def test_thinning_in_training_draws_every_stride_and_start():
    drawn = [thin(900, 192, np.random.default_rng(k)) for k in range(300)]
    seen = {(int(indices[1] - indices[0]), int(indices[0])) for indices in drawn}
    assert seen == {(stride, start) for stride in range(1, 5) for start in range(stride)}


def test_positions_fall_back_to_slice_numbers():
    assert slice_positions(np.array([1.5, 2.5, 4.0]), np.array([0, 2])).tolist() == [1.5, 4.0]
    assert slice_positions(np.array([np.nan] * 3), np.array([0, 2])).tolist() == [0.0, 2.0]


@pytest.fixture
def features(tmp_path):
    run = RunFolder(tmp_path, "test_convnext", 0)
    series = pd.DataFrame(
        {"SeriesInstanceUID": ["1.1", "1.2"], **{label: [0, 1] for label in LABELS}}
    )
    geometry = {}
    for uid, length in (("1.1", 4), ("1.2", 400)):
        write_array(
            run.feature(uid),
            np.random.default_rng(length).random((2, length, 6)).astype(np.float16),
        )
        write_array(
            run.logit(uid),
            np.random.default_rng(length + 1).random((2, length, len(LABELS))).astype(np.float16),
        )
        geometry[uid] = {"positions": np.arange(length) * 0.5, "frames": np.full(length, -1)}
    return run, series, geometry


@pytest.mark.parametrize("step", STEPS)
def test_sequences_are_thinned_and_padded_to_the_longest(features, step):
    run, series, geometry = features
    dataset = SequenceDataset(run, series, geometry, cut=192, seed=0, step=step)
    batch = next(iter(make_loader(dataset, 2, 0, collate=pad_sequences)))
    assert batch["features"].shape == (2, 200, 6)
    assert batch["present"].sum(1).tolist() == [4, 200]
    stored = read_array(run.feature("1.2"))[STEPS.index(step)]
    np.testing.assert_array_equal(batch["features"][1], stored[::2].astype(np.float32))
    np.testing.assert_allclose(batch["positions"][1], np.arange(0, 400, 2) * 0.5)
    assert not batch["features"][0, 4:].any()
    for row, (uid, stride) in enumerate((("1.1", 1), ("1.2", 2))):
        np.testing.assert_array_equal(
            batch["highest"][row],
            read_array(run.logit(uid))[STEPS.index(step), ::stride].max(axis=0).astype(np.float32),
        )


def test_features_of_another_length_or_width_are_refused(features):
    run, series, geometry = features
    geometry["1.1"]["positions"] = np.arange(5.0)
    with pytest.raises(ArtifactError, match="steps of 5 slices"):
        SequenceDataset(run, series, geometry, 192, 0, 1)
    geometry["1.1"]["positions"] = np.arange(4.0)
    array_layout.cache_clear()
    write_array(run.feature("1.1"), np.zeros((2, 4, 7), np.float16))
    with pytest.raises(ArtifactError, match=r"widths \[6, 7\]"):
        SequenceDataset(run, series, geometry, 192, 0, 1)
    array_layout.cache_clear()
    run.logit("1.2").unlink()
    with pytest.raises(ArtifactError, match=r"logits.1\.2\.npy"):
        SequenceDataset(run, series, geometry, 192, 0, 1)


def test_training_samples_are_their_neighbours_labels_and_points(training, tables):
    """By the slow definition, from the draws that are repeated here; both orders of the neighbours and both steps occur."""
    seen = set()
    plain = Augmentation(mirror=0, affine=0, spoil=0, drift=0)
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
    assert pixel_sigma(meta, 50).tolist() == pytest.approx(expected)


def test_training_sequences_draw_step_and_thinning(features):
    run, series, geometry = features
    dataset = SequenceDataset(run, series, geometry, cut=192, seed=0, step=None)
    stored = read_array(run.feature("1.2"))
    seen = set()
    for epoch in range(40):
        sample = dataset[epoch, 1]
        chosen = np.rint(sample["positions"] / 0.5).astype(int)
        (step,) = [
            k for k in STEPS if np.array_equal(sample["features"], stored[STEPS.index(k)][chosen])
        ]
        seen.add((step, int(chosen[1] - chosen[0]), int(chosen[0])))
    assert seen == {(step, *rest) for step in STEPS for rest in ((1, 0), (2, 0), (2, 1))}
