"""--train-on-all: nothing is held out, the last epoch's moving average is kept, everything runs."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import eval_end_to_end
import eval_stage1
import eval_stage2
import extract_features
import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, read_joined, write_checkpoint
from src.artifacts.files import read_json_lines
from src.artifacts.paths import ALL_DATA, EncoderFolder, RunFolder
from src.artifacts.tables import read_folds
from src.inference.ensemble import Predictor
from src.labels import LABELS
from src.progress import Clock
from src.script import UserError
from src.training.curves import draw_progress
from tests.conftest import CROP
from tests.networks import ENCODER, write_both, write_stage1
from tools import kaggle_server, predict, report
from tools.pages.report_inputs import read_histories

CPU = torch.device("cpu")
STAGE1 = {"pretrained": False, "crop_size": CROP, "batch_size": 16, "lr": 1e-3, "workers": 0}
STAGE2 = {"width": 16, "batch_size": 8, "lr": 1e-3, "cut": 4, "ema_decay": 0.5}


def train(tiny, model_dir, epochs=(2,), **stage2) -> RunFolder:
    """Train both stages to each number of epochs, resumed."""
    place = (tiny.root, model_dir, 0, "cpu", ENCODER)
    both = {"resume": True, "train_on_all": True}
    for count in epochs:
        train_stage1.main(train_stage1.Config(*place, **STAGE1, **both, epochs=count))
    extract_features.main(extract_features.Config(*place, train_on_all=True))
    for count in epochs:
        train_stage2.main(train_stage2.Config(*place, **STAGE2 | both | stage2, epochs=count))
    return RunFolder(model_dir, ENCODER, ALL_DATA)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Both stages, one epoch and then another, beside nothing."""
    model_dir = tmp_path_factory.mktemp("model")
    return train(tiny, model_dir, epochs=(1, 2))


def test_the_last_epochs_average_is_kept_beside_the_folds(tiny, trained):
    assert trained.root.name == ALL_DATA
    assert not list(trained.root.parent.glob("fold-*"))
    for stage in ("stage1", "stage2"):
        best, last = (read_checkpoint(path(stage), ()) for path in (trained.best, trained.last))
        average = last["learner"]["average"]["module"]
        assert best["epoch"] == last["epoch"] == 2
        assert all(torch.equal(best["weights"][name], average[name]) for name in average)
        rows = read_json_lines(trained.metrics(stage))
        assert [row["scores"] for row in rows] == [None, None]
        assert "best" not in trained.log(stage).read_text().splitlines()[-2]


def test_every_series_is_trained_on(tiny, trained):
    series = read_folds(tiny)
    assert "24 training series, 0 held out" in trained.log("stage2").read_text()
    prior = read_joined(trained)["prior"]
    np.testing.assert_allclose(prior, series[list(LABELS)].mean())
    assert len(list(trained.features.glob("*.npy"))) == len(series)


def test_a_resumed_run_is_the_whole_run(tiny, trained, tmp_path):
    whole = train(tiny, tmp_path)
    for stage in ("stage1", "stage2"):
        ours, theirs = (read_checkpoint(run.best(stage), ())["weights"] for run in (whole, trained))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_folds_nothing_has_chosen_step_and_weight(trained):
    settings = read_joined(trained)["stage2_settings"]
    assert (settings["step"], settings["stage1_weight"]) == (1, 0.6)
    assert "step 1, weight of stage 1 0.6, which nothing has chosen" in (
        trained.log("stage2").read_text()
    )


@pytest.mark.parametrize(
    ("given", "expected"), [({}, (2, 0.2)), ({"stage1_weight": 0.8}, (1, 0.8))]
)
def test_folds_choose_step_and_weight_for_all(given, expected, tiny, tmp_path):
    tables = ([[2, 0.2, 0.9], [1, 0.8, 0.6], [2, 0.8, 0.5]], [[2, 0.2, 0.7], [1, 0.8, 0.8]])
    for fold, table in enumerate(tables):
        run = write_both(tiny, tmp_path, fold)
        checkpoint = read_checkpoint(run.best("stage2"), ())
        checkpoint["settings"] = {**checkpoint["settings"], "choices": table}
        write_checkpoint(run.best("stage2"), checkpoint)
    run = train(tiny, tmp_path, epochs=(1,), **given)
    settings = read_joined(run)["stage2_settings"]
    assert (settings["step"], settings["stage1_weight"]) == expected
    assert "by the scores of 2 folds" in run.log("stage2").read_text()


@pytest.mark.parametrize("script", [eval_stage1, eval_stage2, eval_end_to_end])
def test_evaluations_refuse_in_a_sentence(script, tiny, trained):
    model_dir = trained.root.parents[1]
    config = script.Config(tiny.root, model_dir, 0, "cpu", ENCODER, train_on_all=True)
    with pytest.raises(UserError, match=r"^nothing was held out"):
        script.main(config)


@pytest.mark.parametrize("script", [eval_stage1, eval_stage2, eval_end_to_end])
def test_evaluations_are_not_deceived_by_a_renamed_folder(script, tiny, trained):
    model_dir = trained.root.parents[1]
    fold = trained.root.with_name("fold-0")
    trained.root.rename(fold)
    try:
        with pytest.raises(UserError, match=r"^nothing was held out"):
            script.main(script.Config(tiny.root, model_dir, 0, "cpu", ENCODER))
    finally:
        fold.rename(trained.root)


def test_the_held_out_series_of_nothing_are_refused(tiny, trained):
    place = (tiny.root, trained.root.parents[1], 0, "cpu", ENCODER)
    with pytest.raises(UserError, match=r"^nothing was held out"):
        extract_features.main(extract_features.Config(*place, "held-out", train_on_all=True))


def test_prediction_and_the_server_run_with_it(tiny_dicom, trained, tmp_path):
    model_dir, out = trained.root.parents[1], tmp_path / "out"
    folder = sorted((tiny_dicom / "series").iterdir())[0]
    config = predict.Config((folder,), out, model_dir, ENCODER, device="cpu", train_on_all=True)
    table, failed = predict.main(config)
    assert failed.empty and table[list(LABELS)].stack().between(0, 1).all()
    assert json.loads((out / f"{folder.name}.json").read_text())["networks"]["train_on_all"]
    served = kaggle_server.load(
        kaggle_server.Config(model_dir, ENCODER, device="cpu", train_on_all=True)
    )
    from src.dicom import open_series

    series = [("", served.prepare(open_series(folder)))]
    ((_, probabilities),) = served.predict(series, 16, Clock())
    np.testing.assert_allclose(probabilities, table[list(LABELS)].iloc[0], atol=1e-5)
    assert isinstance(served, Predictor)


def test_the_report_shows_its_training(trained):
    histories = read_histories(trained.root.parents[1], ENCODER, [0])
    assert list(histories["stage2"]) == [ALL_DATA]
    figure = report.report_figures.draw_training(histories)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["all data"]


def test_a_picture_without_scores_is_the_loss_alone(trained, tmp_path):
    import cv2

    draw_progress(trained.metrics("stage2"), tmp_path / "picture.png")
    picture = cv2.imread(str(tmp_path / "picture.png"))
    assert picture.shape[:2] == (300, 800)
    assert EncoderFolder(trained.root.parents[1], ENCODER).root == trained.root.parent
    assert pd.read_json(trained.metrics("stage2"), lines=True).loss.notna().all()


def test_the_fold_runs_stay_where_they_are(tiny, tmp_path):
    assert write_stage1(tiny, tmp_path).root.name == "fold-0"
