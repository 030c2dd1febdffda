"""Each way of breaking costs the series, kills end all processes, differences are noticed."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.artifacts.checkpoints import write_checkpoint
from src.artifacts.files import append_line, temporary, write_array, write_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_table, read_train, write_table
from src.labels import LABELS
from src.preprocess.series_job import Job, prepare_series
from src.script import UserError
from src.worker_pool import Failure
from tests.dicom_files import AXES, places, volume, write_axial, write_frames
from tools.benchmarks.memory import resident
from tools.experiments import soak, soak_compare, soak_stages, soak_ways
from tools.experiments.soak import ENCODER, Config
from tools.experiments.soak_stages import Watched
from tools.experiments.soak_ways import WAYS

linux = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_costs_the_series(way, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(
        soak_ways, "BOMB", 40
    )  # MiB: beyond what is unpacked of a header, and quicker to pack
    images, axes = volume((5, 24, 20)), AXES["axial"]
    folder = tmp_path / "series" / "1.2.3"
    if frames:
        write_frames(folder / "file.dcm", images, places(axes, 5), [*axes[2], *axes[1]])
    else:
        write_axial(folder, images)
    job = Job(tmp_path, "1.2.3", 32, "percentile", False)
    assert prepare_series(job)["length"] == 5
    breaks, reason = WAYS[way]
    breaks(folder)
    outcome = prepare_series(job)
    assert isinstance(outcome, Failure) and outcome.reason == reason


def test_the_broken_are_chosen_by_the_seed_in_every_way():
    uids = [f"1.{k}" for k in range(1000)]
    chosen = soak.choose_broken(Config(), uids)
    assert len(chosen) == 50 and set(chosen.values()) == set(WAYS)
    assert (
        soak.choose_broken(Config(), uids[::-1])
        == chosen
        != soak.choose_broken(Config(seed=1), uids)
    )


def test_the_undisturbed_set_holds_the_good_series_alone(tmp_path):
    uids = [f"1.{k}" for k in range(6)]
    source, good = DataFolder(tmp_path / "source"), DataFolder(tmp_path / "good")
    for uid in uids:
        write_axial(source.series(uid), volume((3, 16, 12)))
    write_table(
        source.train,
        pd.DataFrame({"SeriesInstanceUID": uids, "Modality": "MRA", **dict.fromkeys(LABELS, 0)}),
    )
    write_table(
        source.localizers,
        pd.DataFrame({"SeriesInstanceUID": uids[::2], "coordinates": "{'x': 1, 'y': 2}"}),
    )
    soak.link_good(source.root, good.root, {"1.0", "1.3"})
    left = ["1.1", "1.2", "1.4", "1.5"]
    assert (
        read_train(good).SeriesInstanceUID.tolist()
        == sorted(path.name for path in good.series("1.1").parent.iterdir())
        == left
    )
    assert read_table(good.localizers).SeriesInstanceUID.tolist() == ["1.2", "1.4"]
    assert prepare_series(Job(good.root, "1.1", 32, "percentile", False))["length"] == 3


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        soak.main(Config(out=tmp_path))


STAGE = """
import pathlib, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1], "pid").write_text(str(other.pid))
pathlib.Path(sys.argv[1], "1.npy").touch()
time.sleep(60 if sys.argv[2] == "long" else 0.2)
other.kill()
"""


def watch_stage(folder: Path, length: str, delay: float = float("inf")) -> Watched:
    (folder / "stage.py").write_text(STAGE)
    with open(folder / "log", "a") as log:
        return soak_stages.watch(
            [sys.executable, str(folder / "stage.py"), str(folder), length],
            log,
            partial(soak_stages.count_arrays, folder),
            (1, delay),
        )


@linux
def test_a_kill_comes_after_the_first_output_and_ends_every_process(tmp_path):
    start = time.monotonic()
    seen = watch_stage(tmp_path, "long", 0.3)
    assert (
        seen.code == -9
        and seen.done == 1
        and seen.first + 0.3 <= seen.seconds < time.monotonic() - start + 0.1 < 50
    )
    assert seen.peak > 5 and not is_alive((tmp_path / "pid").read_text())


@linux
def test_a_stage_that_ends_by_itself_is_left_alone(tmp_path):
    assert watch_stage(tmp_path, "short").code == 0
    assert watch_stage(tmp_path, "short", 40).code == 0  # the kill would have come too late


def test_a_kill_falls_into_the_work_that_can_be_counted():
    whole = Watched(seconds=70.0, first=10.0, last=69.0, done=6)
    assert soak_stages.kill_moment(whole, 0.5) == (
        3,
        5.0,
    )  # half of the fourth epoch, at 10 s an epoch
    assert soak_stages.kill_moment(Watched(seconds=80.0), 0.5) == (0, 60.0)


def is_alive(pid: str) -> bool:
    stat = Path("/proc", pid, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@linux
def test_memory_is_that_of_all_processes():
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytes(50_000_000); print(1, flush=True); input()"],
        stdin=-1,
        stdout=-1,
        start_new_session=True,
    )
    child.stdout.readline()
    megabytes = resident(child.pid) / 1e6
    child.communicate(b"\n")
    assert megabytes > 5 and resident(child.pid) == 0 and resident(os.getpgid(0)) > 0


def test_memory_that_grows_is_reported():
    seen = [(1.0, 50.0), (3.0, 100.0), (6.0, 300.0), (9.0, 105.0), (10.5, 200.0)]
    steady = Watched(first=2.0, last=10.0, megabytes=seen)
    assert soak_stages.quarters(steady) == [100.0, 105.0]
    rows = [{"stage": "extract_features", "quarters_mb": [100.0, 120.0]}]
    assert soak.growth(rows, "extract_features", 0.3) == "" and "120 MB" in soak.growth(
        rows, "extract_features", 0.1
    )


def write_side(side: Path) -> tuple[DataFolder, RunFolder]:
    """What the eight stages leave, in small."""
    data, run = DataFolder(side / "data"), RunFolder(side / "model", ENCODER, 0)
    for path in (data.sequence("1.2"), run.feature("1.2"), run.logit("1.2")):
        write_array(path, np.arange(6.0))
    for path in (
        data.train_meta,
        data.folds(5),
        data.spots(5),
        data.slice_uids,
        data.geometry,
        data.labels,
        data.safe_slices,
    ):
        path.write_text("the same")
    for evaluation in soak_compare.EVALUATIONS:
        write_json(run.scores(evaluation), {"score": 0.75, "present": 0.5})
        run.predictions(evaluation).write_text("the same")
    for stage in ("stage1", "stage2"):
        weights = {"layer": torch.arange(3.0)}
        write_checkpoint(run.best(stage), {"weights": weights, "settings": {}, "epoch": 1})
        write_checkpoint(
            run.last(stage),
            {"learner": {"average": {"module": weights}}, "settings": {}, "epoch": 2},
        )
        append_line(run.metrics(stage), '{"epoch": 1, "loss": 0.5, "seconds": 3}')
    data.failed_series.write_text("SeriesInstanceUID,reason,detail\n")
    return data, run


def one_weight(data: DataFolder, run: RunFolder) -> None:
    weights = {"layer": torch.tensor([0.0, 1.0, np.nextafter(np.float32(2), np.float32(3))])}
    write_checkpoint(
        run.last("stage2"),
        {"learner": {"average": {"module": weights}}, "settings": {}, "epoch": 2},
    )


CHANGES = {  # what must be noticed: how it comes about
    "prepared arrays": lambda data, run: write_array(data.sequence("1.2"), np.arange(6.0) + 1e-12),
    "tables, folds and spots": lambda data, run: data.folds(5).write_text("another"),
    "features": lambda data, run: run.feature("1.2").write_bytes(b"cut"),
    "logits of stage 1": lambda data, run: write_array(run.logit("1.3"), np.arange(6.0)),
    "predictions": lambda data, run: run.predictions("end_to_end").write_text("another"),
    "names of files": lambda data, run: temporary(run.best("stage1")).touch(),
    "weights of stage2": one_weight,
    "loss and scores of stage1": lambda data, run: run.metrics("stage1").write_text(
        '{"epoch": 1, "loss": 0.6, "seconds": 3}\n'
    ),
    "scores of stage2": lambda data, run: write_json(
        run.scores("stage2"), {"score": 0.75, "present": 0.51}
    ),
    "failed series": lambda data, run: data.failed_series.write_text(
        "SeriesInstanceUID,reason,detail\n1.9,truncated,\n"
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_differs_is_noticed(what, tmp_path):
    write_side(tmp_path / "calm")
    data, run = write_side(tmp_path / "wild")
    assert not any(soak_compare.compare(tmp_path / "calm", tmp_path / "wild", ENCODER, {}).values())
    CHANGES[what](data, run)
    found = soak_compare.compare(tmp_path / "calm", tmp_path / "wild", ENCODER, {})
    assert (
        found[what]
        and [
            other
            for other, difference in found.items()
            if difference and other not in (what, "names of files")
        ]
        == []
    )


def test_a_broken_series_that_did_not_fail_is_noticed(tmp_path):
    for side in ("calm", "wild"):
        write_side(tmp_path / side)
    found = soak_compare.compare(
        tmp_path / "calm", tmp_path / "wild", ENCODER, {"1.9": "not_dicom"}
    )
    assert "1.9: not_dicom expected, missing found" in found["failed series"]


def test_a_difference_is_one_line_with_both_values():
    assert soak_compare.difference({"a": 1, "b": 2}, {"a": 1, "b": 2}) == ""
    assert (
        soak_compare.difference({"a": 1, "b": 2}, {"a": 1, "b": 3})
        == "1 of 2 differ, the first is b: 2 expected, 3 found"
    )
    assert (
        soak_compare.difference({}, {"c": 1})
        == "1 of 1 differ, the first is c: missing expected, 1 found"
    )
