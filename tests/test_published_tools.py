"""The imported published weights in the tools that run networks, on small images."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import eval_end_to_end
from src.artifacts.paths import RunFolder
from src.artifacts.tables import read_fold
from src.dicom import open_series
from src.inference.ensemble import Predictor
from src.labels import LABELS
from src.progress import Clock
from tests.published_network import Published
from tools import export_onnx, import_published, kaggle_server, predict

ENCODER = "test_convnext"
SMALL = import_published.IMAGES | {"image_size": 96, "crop_size": 80}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """Fold 0 with the head of stage 1, fold 1 without."""
    files = Published(ENCODER).save(tmp_path_factory.mktemp("downloads"))
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_published, "IMAGES", SMALL)
        import_published.main(import_published.Config(files[:2], 1, 0, folder, ENCODER))
        import_published.main(import_published.Config(files[2:], 1, 1, folder, ENCODER))
    return folder


@pytest.fixture(scope="module")
def series(tiny):
    """The folder of a series of fold 0."""
    return tiny.series(read_fold(tiny, 0)[1].SeriesInstanceUID[0])


def run_predict(model_dir, series, out, fold, onnx=False):
    """Return the probabilities (14,), the json and the page of one series."""
    folds = {"folds": (fold,), "onnx": onnx, "threshold": 0.0}
    predictions, _ = predict.main(
        predict.Config((series,), out, model_dir, "published", device="cpu", **folds)
    )
    (row,) = predictions[list(LABELS)].to_numpy()
    numbers = json.loads((out / f"{series.name}.json").read_text())
    return row, numbers, (out / f"{series.name}.html").read_text()


def test_predict_and_its_page(model_dir, series, tmp_path):
    known, numbers, page = run_predict(model_dir, series, tmp_path / "0", 0)
    assert numbers["localised"] and numbers["findings"]
    assert len(numbers["slices"]["probabilities"]["Basilar Tip"]) == len(numbers["slices"]["slice"])
    assert "do not judge single slices" not in page and "<polyline" in page
    unknown, numbers, page = run_predict(model_dir, series, tmp_path / "1", 1)
    np.testing.assert_allclose(unknown, known, atol=1e-6)
    assert not numbers["localised"] and numbers["findings"] == []
    assert numbers["slices"]["probabilities"] is None
    assert page.count("Not available: these weights do not judge single slices.") == 2
    assert "<polyline" not in page and "Slices with the highest" not in page


def test_end_to_end_says_that_the_networks_may_know_the_series(
    model_dir, tiny, series, monkeypatch, capsys
):
    """Arrays of other size and window do not matter: none is read."""
    config = eval_end_to_end.Config(tiny.root, model_dir, encoder="published", device="cpu")
    eval_end_to_end.main(config)
    printed = capsys.readouterr().out
    assert "fold 0: these networks were trained elsewhere; if they saw some of these" in printed
    assert "fold 0: step 1, weight of stage 1 0 (chosen on nothing)" in printed
    assert "end to end, fold 0 (networks trained elsewhere): 8 series" in printed
    table = pd.read_csv(RunFolder(model_dir, "published", 0).predictions("end_to_end"))
    row = table.set_index("SeriesInstanceUID").loc[series.name, list(LABELS)]
    predictor = Predictor(model_dir, "published", (0,), torch.device("cpu"))
    prepared = predictor.prepare(open_series(series))
    ((_, expected),) = predictor.predict([("", prepared)], 16, Clock())
    np.testing.assert_allclose(row.astype(float), expected, atol=1e-5)


def test_onnx_files_say_the_same(model_dir, series, tmp_path, monkeypatch):
    """At lengths other than the one that was traced, and with an input that nothing reads."""
    monkeypatch.setattr(export_onnx, "BATCHES", (1, 3))
    monkeypatch.setattr(export_onnx, "LENGTHS", (1, 150))
    differences = export_onnx.main(export_onnx.Config(model_dir, 0, encoder="published"))
    assert max(differences.values()) < export_onnx.CLOSE
    expected, _, _ = run_predict(model_dir, series, tmp_path / "torch", 0)
    found, numbers, _ = run_predict(model_dir, series, tmp_path / "onnx", 0, onnx=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not numbers["localised"] and numbers["slices"]["probabilities"] is not None


def test_the_server_of_the_challenge_loads_them(model_dir, series):
    config = kaggle_server.Config(model_dir, encoder="published", folds=(0, 1), device="cpu")
    predictor = kaggle_server.load(config)
    prepared = predictor.prepare(open_series(series))
    ((_, probabilities),) = predictor.predict([("", prepared)], 16, Clock())
    np.testing.assert_array_equal(kaggle_server.checked(probabilities), probabilities)
    assert kaggle_server.checked(predictor.prior).argmax() == LABELS.index("Aneurysm Present")
