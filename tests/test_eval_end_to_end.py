import shutil
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import eval_end_to_end
import eval_stage2
import extract_features
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_fold, read_folds
from src.dicom import series
from src.inference.ensemble import Predictor
from src.labels import LABELS, MIRROR
from src.preprocess.images import PreparedSeries
from src.progress import Clock
from src.script import UserError
from tests.conftest import FOLDS
from tests.dicom_files import volume, write_axial
from tests.networks import ENCODER, write_both


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Networks of all folds, random, with step 2 and thinning to every other slice."""
    model_dir = tmp_path_factory.mktemp("model")
    return model_dir, [write_both(tiny, model_dir, fold, seed=fold, cut=7) for fold in range(FOLDS)]


def evaluate(data, model_dir, **options):
    return eval_end_to_end.main(
        eval_end_to_end.Config(data.root, model_dir, encoder=ENCODER, device="cpu", **options)
    )


def predictions_of(run) -> pd.DataFrame:
    return pd.read_csv(run.predictions("end_to_end")).set_index("SeriesInstanceUID")[list(LABELS)]


@pytest.fixture(scope="module")
def predicted(tiny, trained):
    """Call it with a fold and other options: scores, failed series, predictions; made once."""

    @cache
    def predict(fold, **options):
        scores, failed = evaluate(tiny, trained[0], fold=fold, **options)
        return scores, failed, predictions_of(RunFolder(trained[0], ENCODER, fold))

    return predict


def test_all_folds_pooled_each_series_by_the_network_that_never_saw_it(predicted):
    scores, failed, pooled = predicted("all")
    assert scores["n_series"] == len(pooled) == 24
    assert failed.empty
    for fold in range(FOLDS):
        *_, alone = predicted(fold)
        np.testing.assert_allclose(pooled.loc[alone.index], alone, atol=1e-5)


def test_the_same_as_stage_2_from_arrays(tiny, trained, predicted):
    model_dir, _ = trained
    for fold in range(FOLDS):
        extract_features.main(
            extract_features.Config(tiny.root, model_dir, fold, "cpu", ENCODER, series="held-out")
        )
    eval_stage2.main(eval_stage2.Config(tiny.root, model_dir, "all", "cpu", ENCODER))
    run = RunFolder(model_dir, ENCODER, "all")
    stage2 = pd.read_csv(run.predictions("stage2")).set_index("SeriesInstanceUID")[list(LABELS)]
    assert len(stage2) == 24
    np.testing.assert_allclose(predicted("all")[2].loc[stage2.index], stage2, atol=1e-4)


def test_only_slices_that_are_used_are_read(tiny, trained, monkeypatch):
    """CT with its fixed window: at step 2 and a stride of 2, every other file.

    MR: all, for the window of the series.
    """
    model_dir, _ = trained
    pixels = Counter()
    real = series.iter_words
    monkeypatch.setattr(
        series,
        "iter_words",
        lambda slices: pixels.update([slices[0].file.modality] * len(slices)) or real(slices),
    )
    evaluate(tiny, model_dir, fold="all")
    folds = read_folds(tiny)
    slices = folds.groupby("mod").length.sum()
    looked_at = 8 * (folds["mod"] == "CT").sum()  # to judge an intercept, at most
    assert pixels["MR"] == slices["MR"]
    assert slices["CT"] / 2 <= pixels["CT"] <= slices["CT"] / 2 + looked_at


def test_both_steps_and_the_mirror_are_means_over_views(tiny, trained, predicted):
    """Against a view made by hand: the same network read from another weights file."""
    model_dir, runs = trained
    run = runs[0]
    joined = read_checkpoint(run.inference, ())
    whole = run.inference.read_bytes()
    by_step = {2: predicted(0)[2]}
    settings = joined["stage2_settings"]
    assert settings["step"] == 2
    write_checkpoint(run.inference, joined | {"stage2_settings": settings | {"step": 1}})
    evaluate(tiny, model_dir)
    by_step[1] = predictions_of(run)
    run.inference.write_bytes(whole)
    evaluate(tiny, model_dir, both_steps=True)
    np.testing.assert_allclose(predictions_of(run), (by_step[1] + by_step[2]) / 2, atol=1e-5)
    mirrored = 2 * predicted(0, mirror=True)[2] - by_step[2]  # what the second view must have said
    plane = read_folds(tiny).set_index("SeriesInstanceUID").plane[mirrored.index]
    same = np.isclose(mirrored, by_step[2], atol=1e-5).all(axis=1)
    assert same[plane == "sagittal"].all()  # left and right are no axis of the image
    assert not same[plane == "axial"].any()


def test_the_mirrored_view_of_a_mirrored_head_is_the_head(tiny, trained, predicted, monkeypatch):
    """Mirrored images with exchanged labels give the same mean."""
    model_dir, runs = trained
    *_, straight = predicted(0, mirror=True)
    real = PreparedSeries.in_memory

    def mirrored(self):
        prepared = real(self)
        return replace(prepared, images=np.ascontiguousarray(prepared.images[..., ::-1]))

    monkeypatch.setattr(PreparedSeries, "in_memory", mirrored)
    evaluate(tiny, model_dir, mirror=True)
    other = predictions_of(runs[0]).to_numpy()[:, list(MIRROR)]
    axial = (
        read_folds(tiny).set_index("SeriesInstanceUID").plane[straight.index] == "axial"
    ).to_numpy()
    np.testing.assert_allclose(other[axial], straight.to_numpy()[axial], atol=1e-5)


@pytest.fixture
def spoilt(tiny, tmp_path) -> DataFolder:
    """The tiny data set of which two held-out series of fold 0 cannot be read."""
    data = DataFolder(tmp_path / "data")
    shutil.copytree(tiny.root, data.root)
    first, second = read_fold(data, 0)[1].SeriesInstanceUID[:2]
    shutil.rmtree(data.series(first))
    for path in data.series(second).iterdir():
        path.write_text("not an image")
    return data


def test_a_bad_series_is_a_row_with_a_reason(spoilt, trained, capsys):
    model_dir, runs = trained
    scores, failed = evaluate(spoilt, model_dir)
    _, held_out = read_fold(spoilt, 0)
    assert failed.SeriesInstanceUID.tolist() == held_out.SeriesInstanceUID.tolist()[:2]
    assert failed.reason.tolist() == ["missing", "not_dicom"]
    assert scores["n_series"] == len(held_out) - 2
    assert pd.read_csv(runs[0].failed_series()).reason.tolist() == ["missing", "not_dicom"]
    assert "s/series" in capsys.readouterr().out


def test_a_bad_series_is_predicted_by_the_prior_where_asked(spoilt, trained):
    model_dir, runs = trained
    scores, failed = evaluate(spoilt, model_dir, prior=True)
    series, held_out = read_fold(spoilt, 0)
    assert scores["n_series"] == len(held_out)
    expected = series[series.fold != 0][list(LABELS)].mean()
    np.testing.assert_allclose(
        predictions_of(runs[0]).loc[failed.SeriesInstanceUID], [expected] * 2
    )


def test_all_series_bad_is_an_error_not_a_score(spoilt, trained):
    for uid in read_fold(spoilt, 0)[1].SeriesInstanceUID:
        shutil.rmtree(spoilt.series(uid), ignore_errors=True)
    with pytest.raises(UserError, match="none of the"):
        evaluate(spoilt, trained[0])


@pytest.mark.parametrize("length", [1, 2, 1100])
def test_series_of_any_length(length, trained, tmp_path):
    data, model_dir = DataFolder(tmp_path / "data"), tmp_path / "model"
    joined = read_checkpoint(trained[1][0].inference, ())
    joined["stage2_settings"] = joined["stage2_settings"] | {"cut": 192}
    write_checkpoint(RunFolder(model_dir, ENCODER, 0).inference, joined)
    predictor = Predictor(model_dir, ENCODER, (0,), torch.device("cpu"))
    write_axial(data.series("1.2"), volume((length, 12, 12)))
    failed = {}
    ((uid, probabilities),) = eval_end_to_end.predict_all(
        predictor, data, ["1.2"], 64, Clock(), failed
    )
    assert failed == {}
    assert uid == "1.2"
    assert np.isfinite(probabilities).all() and len(probabilities) == 14
