"""The comparison of sequence models (tools/experiments/compare_sequence_models.py) runs."""

import numpy as np
import pandas as pd
import pytest
import torch

import extract_features
from src.artifacts.tables import read_folds
from src.labels import LABELS
from tests.conftest import FOLDS
from tests.networks import ENCODER, write_stage1
from tools.experiments import compare_sequence_models
from tools.experiments.compare_sequence_models import MODELS, POOLED, output_of
from tools.experiments.sequence_models import AttentionPooling, Recurrent


@pytest.mark.parametrize("make", [AttentionPooling, Recurrent])
def test_padding_is_invisible_to_the_competitors_too(make):
    torch.manual_seed(0)
    model = make(6, 8).eval()
    features, positions = torch.randn(2, 9, 6), torch.zeros(2, 9)
    present = torch.ones(2, 9, dtype=torch.bool)
    present[0, 5:] = False
    expected = model(features[:1, :5], positions[:1, :5], present[:1, :5])
    features[0, 5:] = 99.0
    found = model(features, positions, present)[:1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_every_model_is_trained_on_every_fold_and_judged_on_all(tiny, tmp_path, capsys):
    for fold in range(FOLDS):
        write_stage1(tiny, tmp_path, fold)
        extract_features.main(extract_features.Config(tiny.root, tmp_path, fold, "cpu", ENCODER))
    config = compare_sequence_models.Config(
        tiny.root, tmp_path, ENCODER, tmp_path / "out", width=8, epochs=1, seeds=(1,), workers=1
    )
    table = compare_sequence_models.main(config)
    assert table.model.tolist() == [*POOLED, *MODELS]
    series = read_folds(tiny)
    for name in MODELS:
        paths = [output_of(config, name, 1, fold) for fold in range(FOLDS)]
        pooled = pd.concat([pd.read_csv(path) for path in paths])
        assert sorted(pooled.SeriesInstanceUID) == sorted(series.SeriesInstanceUID)
        assert np.isfinite(pooled[list(LABELS)]).all(axis=None)
    assert "on stage 1's training series" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("fold-*.csv")}
    assert compare_sequence_models.main(config).equals(table)
    assert before == {path: path.stat().st_mtime_ns for path in before}  # finished: not done again
