import shutil
import sys
import time
import types

import numpy as np
import pandas as pd
import pytest

from src.artifacts.checkpoints import read_joined
from src.artifacts.paths import RunFolder
from src.labels import LABELS
from src.script import UserError
from tests.networks import ENCODER, write_both
from tools import kaggle_server
from tools.kaggle_server import Config, Server


@pytest.fixture(scope="module")
def networks(tiny, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("model")
    return write_both(tiny, model_dir).root.parents[1]


def config(networks, tmp_path, **options) -> Config:
    return Config(networks, ENCODER, device="cpu", temporary=tmp_path / "shared", **options)


def spoil(folder, number: int) -> None:
    """One of several ways in which a series can be broken."""
    files = sorted(folder.iterdir())
    if number % 4 == 0:
        shutil.rmtree(folder)
    elif number % 4 == 1:
        for path in files:
            path.unlink()
    elif number % 4 == 2:
        for path in files:
            path.write_bytes(path.read_bytes()[:700])
    else:
        for path in files:
            path.write_text("no image")


@pytest.fixture
def gateway(monkeypatch):
    """A stand-in for Kaggle's package: its gateway sends these folders and keeps the rows."""

    class RSNAInferenceServer:
        folders, rows = (), ()

        def __init__(self, predict):
            self.predict = predict

        def run_local_gateway(self):
            type(self).rows = [self.predict(str(folder)) for folder in self.folders]

        def serve(self):
            type(self).rows = "served"

    package, module = (
        types.ModuleType("kaggle_evaluation"),
        types.ModuleType("kaggle_evaluation.rsna_inference_server"),
    )
    module.RSNAInferenceServer = RSNAInferenceServer
    monkeypatch.setitem(sys.modules, "kaggle_evaluation", package)
    monkeypatch.setitem(sys.modules, "kaggle_evaluation.rsna_inference_server", module)
    return RSNAInferenceServer


def test_thirty_series_a_third_of_them_broken_are_thirty_valid_rows_in_order(
    tiny, networks, gateway, tmp_path
):
    uids = [path.name for path in sorted((tiny.root / "series").iterdir())]
    gateway.folders, broken = [], []
    for number in range(30):
        folder = tmp_path / "series" / f"{number}"
        shutil.copytree(tiny.series(uids[number % len(uids)]), folder)
        if number % 3 == 1:
            spoil(folder, number // 3)
            broken.append(number)
        gateway.folders.append(folder)
    (tmp_path / "shared").mkdir()
    kaggle_server.main(config(networks, tmp_path))
    assert len(gateway.rows) == 30
    table = pd.concat(gateway.rows, ignore_index=True)
    assert list(table.columns) == list(LABELS) and all(len(row) == 1 for row in gateway.rows)
    assert (
        np.isfinite(table).all(axis=None)
        and table.min(axis=None) >= 0
        and table.max(axis=None) <= 1
    )
    prior = read_joined(RunFolder(networks, ENCODER, 0))["prior"]
    assert [number for number in range(30) if np.allclose(table.loc[number], prior)] == broken
    alone = Server(config(networks, tmp_path)).predict(str(gateway.folders[0]))
    np.testing.assert_allclose(table.loc[[0]], alone, atol=1e-6)
    np.testing.assert_allclose(table.loc[24], table.loc[0], atol=1e-6)  # the same series again
    assert not (tmp_path / "shared").exists()


def test_in_the_real_run_it_serves(networks, gateway, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    kaggle_server.main(config(networks, tmp_path))
    assert gateway.rows == "served"


def test_a_series_that_takes_too_long_gets_the_prior_and_the_next_its_own(tiny, networks, tmp_path):
    server = Server(config(networks, tmp_path))
    folder = str(next((tiny.root / "series").iterdir()))
    expected = server.predict(folder)
    real, server.config.seconds = server._probabilities, 0.2
    server._probabilities = lambda path: time.sleep(1)
    assert np.allclose(server.predict(folder), server.predictor.prior)
    server._probabilities, server.config.seconds = real, 60
    np.testing.assert_allclose(server.predict(folder), expected)


def test_without_networks_there_is_still_a_row(tmp_path):
    row = Server(config(tmp_path / "nothing", tmp_path)).predict("anywhere")
    assert row.shape == (1, 14) and (row == 0.5).all(axis=None)


def test_without_kaggles_package_it_is_one_sentence(networks, tmp_path):
    with pytest.raises(UserError, match=r"tools/predict\.py"):
        kaggle_server.main(config(networks, tmp_path))
