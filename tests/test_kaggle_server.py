import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.artifacts.checkpoints import read_joined
from src.artifacts.paths import RunFolder
from src.dicom import open_series
from src.labels import LABELS
from src.progress import Clock
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
    predictor = kaggle_server.load(config(networks, tmp_path))  # in this process
    series = [("", predictor.prepare(open_series(gateway.folders[0])))]
    ((_, alone),) = predictor.predict(series, 128, Clock())
    np.testing.assert_allclose(table.loc[0], alone, atol=1e-6)
    np.testing.assert_allclose(table.loc[24], table.loc[0], atol=1e-6)  # the same series again
    assert not (tmp_path / "shared").exists()


def test_in_the_real_run_it_serves(networks, gateway, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    kaggle_server.main(config(networks, tmp_path))
    assert gateway.rows == "served"


def with_forks(function, *arguments) -> None:
    """Run this in a fork of the clean process: a server starts its processes at once, as forks."""
    fork = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kaggle_server.multiprocessing, "get_context", lambda _: fork)
        function(*arguments)


def test_a_process_that_hangs_or_dies_costs_one_series_and_is_gone(
    tiny, networks, tmp_path, clean_process
):
    folder = next((tiny.root / "series").iterdir())
    given = config(networks, tmp_path), str(folder)
    done = clean_process.call(with_forks, hang_and_die, *given)
    assert done.returncode == 0, done.stderr


def hang_and_die(config: Config, folder: str) -> None:
    server = Server(config)
    expected = server.predict(folder)
    prior = read_joined(RunFolder(config.model_dir, ENCODER, 0))["prior"]
    assert not np.allclose(expected, prior)
    first, server.config.seconds = server.child.process.pid, 2
    os.kill(first, signal.SIGSTOP)
    start = time.monotonic()
    assert np.allclose(server.predict(folder), prior)
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    server.config.seconds = 120
    np.testing.assert_allclose(server.predict(folder), expected)
    assert server.child.process.pid != first
    server.child.process.kill()
    assert np.allclose(server.predict(folder), prior)
    assert server.child is None


@pytest.mark.parametrize("path", ["", "nowhere", None, 3, "\0", "\udc80", "\x1b[31m"])
def test_what_is_no_folder_is_not_read(path, tmp_path, capsys, monkeypatch):
    """Least of all the current folder."""
    monkeypatch.setattr(kaggle_server, "Child", None)
    monkeypatch.chdir(tmp_path)
    row = Server(config(tmp_path, tmp_path)).predict(path)
    assert row.shape == (1, 14) and (row == 0.5).all(axis=None)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 1 and "\x1b" not in shown


class Replies:
    """Stands for the process: what it sends, whatever is asked."""

    def __init__(self, *replies):
        self.connection, self.replies = self, list(replies)
        self.process = self
        self.send = self.kill = lambda *_: None
        self.poll = lambda _: True
        self.recv = lambda: self.replies.pop(0)


GOOD = ("probabilities", np.full(14, 0.25))
PRIOR = ("prior", np.full(14, 0.125))


@pytest.mark.parametrize(
    ("replies", "value"),
    [
        ([GOOD], 0.25),
        ([PRIOR, GOOD], 0.25),
        ([PRIOR, ("error", "DicomError: no")], 0.125),
        ([PRIOR, ("probabilities", np.full(13, 0.25))], 0.125),
        ([PRIOR, ("probabilities", np.full((1, 14), 0.25))], 0.125),
        ([PRIOR, ("probabilities", np.full(14, np.nan))], 0.125),
        ([PRIOR, ("probabilities", np.full(14, 1.01))], 0.125),
        ([("prior", np.full(14, np.inf))], 0.5),
        ([("prior", ["a"] * 14)], 0.5),
    ],
)
def test_a_row_is_always_valid(replies, value, tmp_path, monkeypatch):
    monkeypatch.setattr(kaggle_server, "Child", lambda _: Replies(*replies))
    row = Server(config(tmp_path, tmp_path)).predict(str(tmp_path))
    assert row.shape == (1, 14) and (row == value).all(axis=None)


def test_a_log_that_nobody_reads_costs_nothing(tmp_path, monkeypatch):
    closed, full = io.StringIO(), open("/dev/full", "w")  # noqa: SIM115
    closed.close()
    for stream in (closed, full, None):
        monkeypatch.setattr(sys, "stdout", stream)
        row = Server(config(tmp_path, tmp_path)).predict("")
        assert (row == 0.5).all(axis=None)


def in_killed_fork() -> str:
    """Run this in the clean process: return the process ID of the child of a server now killed."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve_and_die, args=(theirs,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return str(ours.recv())


def serve_and_die(connection) -> None:
    connection.send(kaggle_server.Child(Config()).process.pid)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for a process in /proc")
def test_with_its_server_the_process_ends(clean_process):
    """Killed without a chance to say goodbye."""
    child = clean_process.submit(in_killed_fork)
    deadline = time.monotonic() + 120  # it imports torch before it looks
    while Path("/proc", child, "cmdline").exists() and Path("/proc", child, "cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_networks_there_is_still_a_row(tmp_path, clean_process):
    done = clean_process.call(with_forks, predict_without, config(tmp_path / "none", tmp_path))
    assert done.returncode == 0, done.stderr
    assert "ArtifactError" in done.stdout


def predict_without(config: Config) -> None:
    row = Server(config).predict(str(config.model_dir.parent))
    assert row.shape == (1, 14) and (row == 0.5).all(axis=None)


def test_without_kaggles_package_it_is_one_sentence(networks, tmp_path):
    with pytest.raises(UserError, match=r"tools/predict\.py"):
        kaggle_server.main(config(networks, tmp_path))
