"""Preprocessing on dask workers writes what one process writes.

A worker that dies costs at most the series it had.
"""

import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

import preprocess_data
from src.artifacts.paths import DataFolder
from src.preprocess.series_job import prepare_series
from src.script import UserError
from tests.test_preprocess_data import contents, make_data, write_train
from tools import preprocess_with_dask
from tools.preprocess_with_dask import Config, check_workers, problem_of


def marked(job):
    """Do `prepare_series`, but let a mark in the series' folder end the dask worker.

    "kill" does so each time, "kill once" the first time.
    """
    for mark in DataFolder(job.data_dir).series(job.uid).glob("kill*"):
        if mark.name == "kill once":
            mark.unlink()
        psutil.Process().parent().parent().kill()  # between them is the server that forks processes
        os._exit(1)
    return prepare_series(job)


def test_two_dask_workers_write_what_one_process_writes(tmp_path):
    uids = make_data(tmp_path / "one", 6)
    write_train(tmp_path / "one", [*uids, "1.9"])  # one is missing
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    preprocess_data.main(
        preprocess_data.Config(data_dir=tmp_path / "one", image_size=20, workers=1)
    )
    failed = preprocess_with_dask.main(Config(data_dir=tmp_path / "two", image_size=20, workers=2))
    assert failed.reason.tolist() == ["missing"]
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    failures = [
        table.pop("failed_series.csv").decode().replace(str(tmp_path / name), "")
        for table, name in ((one, "one"), (two, "two"))
    ]
    assert one == two and len(one) > 30 and failures[0] == failures[1]


@pytest.mark.skipif(
    not Path("/proc").exists(), reason="looks for the dask worker among its parents"
)
def test_a_dask_worker_that_dies_costs_at_most_one_series(tmp_path, monkeypatch):
    uids = make_data(tmp_path, 6)
    for uid, mark in ((uids[1], "kill"), (uids[3], "kill once")):
        (tmp_path / "series" / uid / mark).touch()
    monkeypatch.setattr(preprocess_data, "prepare_series", marked)
    failed = preprocess_with_dask.main(Config(data_dir=tmp_path, image_size=20, workers=2))
    assert failed[["SeriesInstanceUID", "reason"]].to_numpy().tolist() == [[uids[1], "crashed"]]
    assert len(pd.read_csv(tmp_path / "train_meta.csv")) == 5


def test_only_lengths_and_reasons_come_back(tmp_path):
    [uid] = make_data(tmp_path, 1)
    limits = preprocess_data.Limits(60, 8)
    jobs = [preprocess_data.Job(tmp_path, name, 20, "percentile", False) for name in (uid, "1.9")]
    done, missing = [
        preprocess_with_dask.in_own_process(prepare_series, limits, job) for job in jobs
    ]
    assert done == {"length": 4} and missing.reason == "missing"


def test_what_cannot_work_is_refused_in_one_sentence(tmp_path, monkeypatch):
    make_data(tmp_path, 1)
    with pytest.raises(UserError, match="patient IDs"):
        preprocess_with_dask.main(Config(data_dir=tmp_path, check=True))
    monkeypatch.setattr(preprocess_with_dask, "PATIENCE", 1)
    with pytest.raises(UserError, match=r"no dask worker at tcp://127\.0\.0\.1:9 after 1 s"):
        preprocess_with_dask.main(Config(data_dir=tmp_path, scheduler="tcp://127.0.0.1:9"))
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(UserError, match="pip install"):
        preprocess_with_dask.main(Config(data_dir=tmp_path))


class Cluster:
    """Stands for a client whose one worker is this process."""

    def run(self, function, *arguments, on_error):
        return {"tcp://here": function(*arguments)}


def test_a_worker_that_does_not_see_the_data_is_refused(tmp_path):
    check_workers(Cluster(), tmp_path)
    with pytest.raises(
        UserError,
        match=r"tcp://here: it does not see .*/train.csv: the data must be on a shared disk",
    ):
        check_workers(Cluster(), tmp_path / "train.csv")
    assert problem_of(Path(os.devnull)) is None
