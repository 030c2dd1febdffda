"""Hard negatives (tools/mine_hard_negatives.py): from the own fold, safe, over the threshold."""

import shutil

import numpy as np
import pytest

from src.artifacts.files import read_pickle, write_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_folds
from src.labels import LABELS
from src.sampling.spot_dataset import read_spot_tables
from src.script import UserError
from tools import mine_hard_negatives
from tools.mine_hard_negatives import Config

ENCODER = "test_convnext"


@pytest.fixture
def predicted(tiny, tmp_path):
    """The tiny set with random logits of each series in its own fold, and in no other."""
    data = DataFolder(tmp_path / "data")
    shutil.copytree(tiny.root, data.root)
    logits = {}
    for row in read_folds(data).itertuples():
        generator, uid = np.random.default_rng(len(logits)), row.SeriesInstanceUID
        drawn = generator.normal(-3, 1.5, (2, row.length, len(LABELS)))
        logits[uid] = drawn.astype(np.float16)
        run = RunFolder(tmp_path / "model", ENCODER, row.fold)
        write_array(run.logit(uid), logits[uid])
    return data, Config(data.root, tmp_path / "model", ENCODER, threshold=0.4, montage=5), logits


def test_it_finds_what_the_slow_definition_finds(predicted):
    data, config, logits = predicted
    mine_hard_negatives.main(config)
    hard, safe = read_pickle(data.hard_slices), read_pickle(data.safe_slices)
    expected = {}
    for uid, both in logits.items():
        probabilities = 1 / (1 + np.exp(-both.astype(np.float64)))
        over = []
        for k in safe.get(uid, ()):
            if max((probabilities[0, k] + probabilities[1, k]) / 2) >= 0.4:
                over.append(k)
        if over:
            expected[uid] = over
    assert {uid: slices.tolist() for uid, slices in hard.items()} == expected
    assert len(expected) > 5
    assert all(slices.dtype == np.int64 for slices in hard.values())
    assert data.hard_picture.read_bytes().startswith(b"\x89PNG")
    assert read_spot_tables(data).hard.keys() == expected.keys()  # training reads it


def test_nothing_over_the_threshold_is_said_and_leaves_no_file(predicted):
    data, config, _ = predicted
    config.threshold = 1.0
    with pytest.raises(UserError, match="lower --threshold"):
        mine_hard_negatives.main(config)
    assert not data.hard_slices.exists()


def test_a_fold_that_is_not_extracted_is_named(predicted):
    _, config, _ = predicted
    shutil.rmtree(RunFolder(config.model_dir, ENCODER, 2).root)
    with pytest.raises(UserError, match=r"fold-2.*extract_features\.py first"):
        mine_hard_negatives.main(config)
