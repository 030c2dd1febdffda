"""Data that name no arteries, as open data do: all locations are empty, all stages run."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import create_folds
import eval_end_to_end
import eval_stage1
import eval_stage2
import extract_features
import preprocess_data
import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, read_joined
from src.artifacts.files import read_json_lines, read_pickle
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_folds, read_spots
from src.labels import LABELS, LOCATIONS, NOT_LOCATED, PRESENT, UNKNOWN
from tests.conftest import CROP, FOLDS, IMAGE_SIZE
from tests.networks import ENCODER
from tools import mine_hard_negatives


@pytest.fixture(scope="module")
def data(tiny, tmp_path_factory) -> DataFolder:
    """The tiny set without the names of arteries, unknown in two ways; arrays know no labels."""
    root = tmp_path_factory.mktemp("open") / "data"
    shutil.copytree(tiny.root, root)
    train = pd.read_csv(root / "train.csv", dtype=str)
    train[list(LOCATIONS)] = ""
    train.to_csv(root / "train.csv", index=False)
    localizers = pd.read_csv(root / "train_localizers.csv", dtype=str)
    localizers["location"] = np.where(np.arange(len(localizers)) % 2, "", "Unknown")
    localizers.to_csv(root / "train_localizers.csv", index=False)
    settings = {"image_size": IMAGE_SIZE, "write_slices": False, "workers": 1}
    preprocess_data.main(preprocess_data.Config(data_dir=root, **settings))
    create_folds.main(create_folds.Config(data_dir=root, folds=FOLDS))
    return DataFolder(root)


@pytest.fixture(scope="module")
def walked(data, tmp_path_factory) -> RunFolder:
    """Stages 3 to 8 on fold 0."""
    model_dir = tmp_path_factory.mktemp("model")
    place = (data.root, model_dir, 0, "cpu", ENCODER)
    stage1 = {"pretrained": False, "crop_size": CROP, "batch_size": 16, "workers": 0}
    train_stage1.main(train_stage1.Config(*place, **stage1, epochs=2, lr=1e-3))
    eval_stage1.main(eval_stage1.Config(*place, workers=0))
    extract_features.main(extract_features.Config(*place))
    stage2 = {"width": 16, "epochs": 2, "batch_size": 8, "lr": 1e-3}
    train_stage2.main(train_stage2.Config(*place, **stage2))
    eval_stage2.main(eval_stage2.Config(*place))
    eval_end_to_end.main(eval_end_to_end.Config(*place))
    return RunFolder(model_dir, ENCODER, 0)


def test_every_localizer_is_a_spot_with_presence_and_unknown_locations(data, tiny):
    spots, named = read_spots(data), read_spots(tiny)
    ours = spots[spots.class_id == NOT_LOCATED]
    theirs = named[named.class_id < PRESENT]
    assert len(ours) == len(theirs) > 5
    places = ["SeriesInstanceUID", "f", "x_512", "y_512"]
    pd.testing.assert_frame_equal(
        ours[places].sort_values(places).reset_index(drop=True),
        theirs[places].sort_values(places).reset_index(drop=True),
    )
    labels = read_pickle(data.labels)
    for uid, of_slices in labels.items():
        assert of_slices.dtype == np.uint8
        assert (of_slices[:, :PRESENT] == UNKNOWN).all()
        known = read_pickle(tiny.labels)[uid]
        np.testing.assert_array_equal(of_slices[:, PRESENT], known[:, PRESENT])


def test_both_stages_are_chosen_and_scored_by_presence(walked, capsys):
    for evaluation in ("stage1", "stage2", "end_to_end"):
        scores = json.loads(walked.scores(evaluation).read_text())
        assert scores["score"] == scores["present"] and scores["score_of"] == "present"
        assert list(scores["locations"].values()) == [None] * 13
        known = scores["n_known"]
        assert known["Basilar Tip"] == 0 < known[LABELS[PRESENT]]
    for stage in ("stage1", "stage2"):
        rows = read_json_lines(walked.metrics(stage))
        assert all(0 <= row["scores"]["score"] <= 1 for row in rows)
        assert "locations n/a" in walked.log(stage).read_text()
        assert read_checkpoint(walked.best(stage), ())["score"] > 0


def test_the_intervals_are_those_of_presence(walked):
    intervals = json.loads(walked.scores("stage2").read_text())["intervals"]
    assert intervals["score"] == intervals["present"] is not None
    assert intervals["mean_location"] is None


def test_the_prior_of_what_nobody_knows_is_a_half(data, walked):
    prior = read_joined(walked)["prior"]
    outside = read_folds(data)
    outside = outside[outside.fold != 0]
    assert prior[:PRESENT] == [0.5] * 13
    assert prior[PRESENT] == pytest.approx(outside[LABELS[PRESENT]].mean())


def test_the_table_says_what_is_known(data, walked, capsys):
    model_dir = walked.root.parents[1]
    eval_stage2.main(eval_stage2.Config(data.root, model_dir, 0, "cpu", ENCODER))
    printed = capsys.readouterr().out
    assert "unknown labels are left out: 0 to 8 rows a label are known" in printed
    assert "the weighted score is that of presence alone" in printed
    assert printed.count("n/a") >= 13


def test_a_high_probability_of_what_nobody_knows_is_no_hard_slice(data, tmp_path):
    model_dir = tmp_path / "model"
    series = read_folds(data)
    for row in series.itertuples():
        run = RunFolder(model_dir, ENCODER, row.fold)
        run.logits.mkdir(parents=True, exist_ok=True)
        logits = np.full((2, row.length, 14), 9, np.float16)  # of all locations
        logits[..., PRESENT] = -9
        logits[:, 0, PRESENT] = 9
        np.save(run.logit(row.SeriesInstanceUID), logits)
    config = mine_hard_negatives.Config(data.root, model_dir, ENCODER, montage=0)
    hard = mine_hard_negatives.main(config)
    data.hard_slices.unlink()
    assert hard and all(slices.tolist() == [0] for slices in hard.values())
