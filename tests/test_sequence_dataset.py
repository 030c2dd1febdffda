import numpy as np
import pandas as pd
import pytest

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
