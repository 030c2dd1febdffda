"""Step and weight of stage 1 in use: of folds together, of an ensemble, of a fold alone."""

import json
import shutil

import pandas as pd
import pytest
import torch

import eval_end_to_end
import eval_stage2
import extract_features
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.paths import RunFolder
from src.inference.ensemble import Predictor
from src.labels import LABELS
from tests.conftest import FOLDS
from tests.networks import ENCODER, write_both
from tools import measure_findings

TABLES = (  # rows (step, weight, score) of folds 0, 1, 2
    [[1, 0.8, 0.6], [2, 0.0, 0.8], [2, 0.4, 0.9]],
    [[1, 0.8, 0.9], [2, 0.0, 0.7], [2, 0.4, 0.1]],
    [[1, 0.8, 0.7], [2, 0.0, 0.8], [2, 0.4, 0.1]],
)
OUT_OF_FOLD = {0: (1, 0.8), 1: (2, 0.0), 2: (2, 0.0)}  # 0.8 > 0.75; 0.8 > 0.65; 0.75 = 0.75


@pytest.fixture(scope="module")
def model_dir(tiny, tmp_path_factory):
    """Networks of all folds with a table each, and their features."""
    folder = tmp_path_factory.mktemp("model")
    for fold in range(FOLDS):
        run = write_both(tiny, folder, fold, seed=fold, cut=7)
        set_stage2(run, choices=TABLES[fold])
        config = extract_features.Config(tiny.root, folder, fold, "cpu", ENCODER, "held-out")
        extract_features.main(config)
    return folder


def set_stage2(run: RunFolder, **settings) -> None:
    for path, name in ((run.best("stage2"), "settings"), (run.inference, "stage2_settings")):
        checkpoint = read_checkpoint(path, ())
        checkpoint[name] = {**checkpoint[name], **settings}
        write_checkpoint(path, checkpoint)


def predictions(evaluation, tiny, folder, fold) -> pd.DataFrame:
    script, name = evaluation
    script.main(script.Config(tiny.root, folder, fold, "cpu", ENCODER))
    table = pd.read_csv(RunFolder(folder, ENCODER, fold).predictions(name))
    return table.set_index("SeriesInstanceUID")[list(LABELS)]


@pytest.fixture(scope="module")
def by_their_own(tiny, model_dir) -> pd.DataFrame:
    """What each fold says with the choice in its own file, by stage 2; end to end says the same."""
    evaluation = (eval_stage2, "stage2")
    return pd.concat([predictions(evaluation, tiny, model_dir, fold) for fold in range(FOLDS)])


@pytest.mark.parametrize("evaluation", [(eval_stage2, "stage2"), (eval_end_to_end, "end_to_end")])
def test_folds_together_are_each_judged_with_the_others_choice(
    evaluation, tiny, model_dir, by_their_own, tmp_path
):
    pooled = predictions(evaluation, tiny, model_dir, "all")
    scores = json.loads(RunFolder(model_dir, ENCODER, "all").scores(evaluation[1]).read_text())
    mark = RunFolder(model_dir, ENCODER, "all").root / f"predictions_{evaluation[1]}.weights.json"
    weights = json.loads(mark.read_text())["weights"]
    assert len(weights) == len({str(made_by) for made_by in weights.values()}) == FOLDS
    shutil.copytree(model_dir, tmp_path / "model")
    for fold in range(FOLDS):
        chosen = scores["chosen"][str(fold)]
        assert chosen["chosen_on"] == "other folds"
        step, weight = chosen["step"], chosen["stage1_weight"]
        assert (step, weight) == OUT_OF_FOLD[fold]
        run = RunFolder(tmp_path / "model", ENCODER, fold)
        set_stage2(run, step=step, stage1_weight=weight, choices=[])
        alone = predictions(evaluation, tiny, tmp_path / "model", fold)
        pd.testing.assert_frame_equal(pooled.loc[alone.index], alone, atol=1e-5)
        assert (alone - by_their_own.loc[alone.index]).abs().max(axis=None) > 1e-3


def test_an_ensemble_takes_one_pair_and_a_single_fold_its_own(model_dir):
    cpu = torch.device("cpu")
    together = Predictor(model_dir, ENCODER, (0, 1, 2), cpu)
    pairs = {(model.stage2["step"], model.stage2["stage1_weight"]) for model in together.models}
    assert pairs == {(2, 0.0)}  # means 0.73, 0.77, 0.37
    assert {model.steps for model in together.models} == {(2,)}
    (alone,) = Predictor(model_dir, ENCODER, (1,), cpu).models
    assert (alone.stage2["step"], alone.stage2["stage1_weight"]) == (2, 0.4)  # as in its file


def test_findings_of_all_folds_are_made_with_the_others_choice(tiny, model_dir, monkeypatch):
    used = {}
    real = Predictor.__init__

    def noted(self, folder, encoder, folds, device, **options):
        real(self, folder, encoder, folds, device, **options)
        used[folds[0]] = self.models[0].steps[0]

    monkeypatch.setattr(Predictor, "__init__", noted)
    config = measure_findings.Config(tiny.root, model_dir, ENCODER, "all", "cpu", threshold=0.0)
    measure_findings.main(config)
    assert used == {0: 1, 1: 2, 2: 2}


def test_a_fold_alone_says_that_it_has_chosen(tiny, model_dir, capsys):
    predictions((eval_stage2, "stage2"), tiny, model_dir, 1)
    printed = capsys.readouterr().out
    assert "fold 1: step 2, weight of stage 1 0.4 (chosen on the held-out fold)" in printed
