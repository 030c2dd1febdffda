import numpy as np
import pandas as pd
import pytest
import torch

from src.artifacts.files import array_layout, read_array, write_array
from src.artifacts.paths import ArtifactError, RunFolder
from src.labels import LABELS
from src.sampling.loader import make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import STEPS


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


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 6, 1), (1, 4, 6), (3, 4, 6), (2, 3, 6)])
@pytest.mark.parametrize("kind", ["feature", "logit"])
def test_a_file_of_another_shape_is_named(features, shape, kind):
    run, series, geometry = features
    path = getattr(run, kind)("1.1")
    write_array(path, np.zeros(shape, np.float16))
    array_layout.cache_clear()
    with pytest.raises(ArtifactError, match=r"1\.1\.npy holds \(.*not 2 steps of 4 slices"):
        SequenceDataset(run, series, geometry, 192, 0, 1)


@pytest.mark.parametrize("cut", [2, 50, 192])
def test_evaluated_sequences_equal_the_slow_definition(features, cut):
    run, series, geometry = features
    for step in STEPS:
        dataset = SequenceDataset(run, series, geometry, cut, seed=0, step=step)
        assert (len(dataset), dataset.channels) == (2, 6)
        for index, (uid, length) in enumerate((("1.1", 4), ("1.2", 400))):
            tokens = list(range(0, length, max(1, length // cut)))
            sample = dataset[5, index]
            stored = read_array(run.feature(uid))[step - 1]
            logits = read_array(run.logit(uid))[step - 1]
            assert sample["index"] == index
            np.testing.assert_array_equal(sample["features"], [stored[k] for k in tokens])
            np.testing.assert_allclose(sample["positions"], [0.5 * k for k in tokens])
            highest = [max(float(logits[k, label]) for k in tokens) for label in range(14)]
            assert sample["highest"].tolist() == highest
            assert sample["present"].tolist() == [True] * len(tokens)
            assert sample["labels"].tolist() == [index] * 14
            for name in ("positions", "highest", "labels"):
                assert sample[name].dtype == np.float32


def test_a_drawn_sequence_depends_on_seed_epoch_and_index(features):
    run, series, geometry = features
    twice = pd.concat([series.iloc[[1]]] * 2)
    datasets = [SequenceDataset(run, twice, geometry, 20, seed, None) for seed in (0, 0, 1)]

    def tokens(dataset, epoch, index):
        return dataset[epoch, index]["positions"].tobytes()

    keys = [(epoch, index) for epoch in range(6) for index in range(2)]
    first, again, other = ([tokens(dataset, *key) for key in keys] for dataset in datasets)
    assert first == again != other
    assert len(set(first)) > 6


def test_one_sequence_alone_is_a_batch(features):
    run, series, geometry = features
    dataset = SequenceDataset(run, series, geometry, cut=192, seed=0, step=1)
    batch = pad_sequences([dataset[0, 0]])
    assert batch["features"].shape == (1, 4, 6)
    assert batch["present"].tolist() == [[True] * 4]


def test_labels_may_be_written_to(features):
    """Torch warns about memory that it may not write to, as that of a table is."""
    run, series, geometry = features
    dataset = SequenceDataset(run, series, geometry, cut=192, seed=0, step=1)
    assert dataset[0, 0]["labels"].flags.writeable


def test_sequences_are_padded_with_zeros_to_the_longest():
    generator = np.random.default_rng(0)
    samples = [
        {
            "index": length,
            "features": generator.random((length, 2)).astype(np.float16),
            "positions": generator.random(length).astype(np.float32),
            "present": np.ones(length, bool),
            "labels": generator.random(14).astype(np.float32),
        }
        for length in (3, 1, 5)
    ]
    batch = pad_sequences(samples)
    assert batch["index"].tolist() == [3, 1, 5]
    for name, dtype in (("features", torch.float32), ("positions", torch.float32)):
        assert batch[name].dtype == dtype
    for k, sample in enumerate(samples):
        length = sample["index"]
        np.testing.assert_array_equal(batch["labels"][k], sample["labels"])
        for name in ("features", "positions", "present"):
            assert batch[name].shape[:2] == (3, 5)
            np.testing.assert_array_equal(batch[name][k, :length], sample[name])
            assert not batch[name][k, length:].any()
