"""Each way of breaking costs the series, kills end all processes, differences are noticed."""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from src.artifacts.atomic import temporary
from src.artifacts.checkpoints import write_checkpoint
from src.artifacts.files import append_line, write_array, write_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_table, read_train, write_table
from src.labels import LABELS
from src.preprocess.series_job import Job, prepare_series
from src.script import UserError
from src.worker_pool import Failure
from tests.dicom_files import AXES, places, volume, write_axial, write_frames
from tools.experiments import soak, soak_compare, soak_stages, soak_ways
from tools.experiments.soak import ENCODER, Config
from tools.experiments.soak_stages import Watched
from tools.experiments.soak_ways import WAYS

linux = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


@pytest.mark.parametrize("frames", [False, True], ids=["slices", "frames"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way_costs_the_series(way, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(soak_ways, "BOMB", 40)  # MiB: more than a header may have, soon packed
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
    assert soak.choose_broken(Config(), uids[::-1]) == chosen
    assert soak.choose_broken(Config(seed=1), uids) != chosen


def test_the_undisturbed_set_holds_the_good_series_alone(tmp_path):
    uids = [f"1.{k}" for k in range(6)]
    source, good = DataFolder(tmp_path / "source"), DataFolder(tmp_path / "good")
    for uid in uids:
        write_axial(source.series(uid), volume((3, 16, 12)))
    train = pd.DataFrame({"SeriesInstanceUID": uids, "Modality": "MRA", **dict.fromkeys(LABELS, 0)})
    write_table(source.train, train)
    points = pd.DataFrame({"SeriesInstanceUID": uids[::2], "coordinates": "{'x': 1, 'y': 2}"})
    write_table(source.localizers, points)
    soak.link_good(source.root, good.root, {"1.0", "1.3"})
    left = ["1.1", "1.2", "1.4", "1.5"]
    assert read_train(good).SeriesInstanceUID.tolist() == left
    assert sorted(path.name for path in good.series("1.1").parent.iterdir()) == left
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
    script = folder / "stage.py"
    script.write_text(STAGE)
    done = partial(soak_stages.count_arrays, folder)
    with open(folder / "log", "a") as log:
        command = [sys.executable, str(script), str(folder), length]
        return soak_stages.watch(command, log, done, (1, delay))


@linux
def test_a_kill_comes_after_the_first_output_and_ends_every_process(tmp_path):
    start = time.monotonic()
    seen = watch_stage(tmp_path, "long", 0.3)
    assert seen.code == -9 and seen.done == 1
    assert seen.first + 0.3 <= seen.seconds < time.monotonic() - start + 0.1 < 50
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


def test_memory_that_grows_is_reported():
    seen = [(1.0, 50.0), (3.0, 100.0), (6.0, 300.0), (9.0, 105.0), (10.5, 200.0)]
    steady = Watched(first=2.0, last=10.0, megabytes=seen)
    assert soak_stages.quarters(steady) == [100.0, 105.0]
    rows = [{"stage": "extract_features", "quarters_mb": [100.0, 120.0]}]
    assert soak.growth(rows, "extract_features", 0.3) == ""
    assert "120 MB" in soak.growth(rows, "extract_features", 0.1)


def write_side(side: Path) -> tuple[DataFolder, RunFolder]:
    """What the eight stages leave, in small."""
    data, run = DataFolder(side / "data"), RunFolder(side / "model", ENCODER, 0)
    for path in (data.sequence("1.2"), run.feature("1.2"), run.logit("1.2")):
        write_array(path, np.arange(6.0))
    tables = [data.train_meta, data.slice_uids, data.geometry, data.labels, data.safe_slices]
    for path in (*tables, data.folds(5), data.spots(5)):
        path.write_text("the same")
    for evaluation in soak_compare.EVALUATIONS:
        write_json(run.scores(evaluation), {"score": 0.75, "present": 0.5})
        run.predictions(evaluation).write_text("the same")
    for stage in ("stage1", "stage2"):
        weights = {"layer": torch.arange(3.0)}
        write_checkpoint(run.best(stage), {"weights": weights, "settings": SETTINGS, "epoch": 1})
        write_last(run, stage, weights)
        append_line(run.metrics(stage), '{"epoch": 1, "loss": 0.5, "seconds": 3}')
    data.failed_series.write_text(FAILED)
    return data, run


def write_last(run: RunFolder, stage: str, weights: dict) -> None:
    state = {"average": {"module": weights}}
    write_checkpoint(run.last(stage), {"learner": state, "settings": SETTINGS, "epoch": 2})


def one_bit(run: RunFolder) -> None:
    other = np.nextafter(np.float32(2), np.float32(3))
    write_last(run, "stage2", {"layer": torch.tensor([0.0, 1.0, other])})


SETTINGS = {"encoder": "net", "heatmap_weight": 0.3, "crop_size": 8}  # of stage 1, then of stage 2
SETTINGS |= {"channels": 3, "width": 4, "layers": 1, "heads": 1, "dropout": 0, "step": 1}
SETTINGS |= {"attention_dropout": 0, "stage1_share": 0, "cut": 5}
FAILED = "SeriesInstanceUID,reason,detail\n"
OTHER_SCORES = {"score": 0.75, "present": 0.51}
OTHER_LOSS = '{"epoch": 1, "loss": 0.6, "seconds": 3}\n'
CHANGES = {  # what must be noticed: how it comes about
    "prepared arrays": lambda data, run: write_array(data.sequence("1.2"), np.arange(6.0) + 1e-12),
    "tables, folds and spots": lambda data, run: data.folds(5).write_text("another"),
    "features": lambda data, run: run.feature("1.2").write_bytes(b"cut"),
    "logits of stage 1": lambda data, run: write_array(run.logit("1.3"), np.arange(6.0)),
    "predictions": lambda data, run: run.predictions("end_to_end").write_text("another"),
    "names of files": lambda data, run: temporary(run.best("stage1")).touch(),
    "weights of stage2": lambda data, run: one_bit(run),
    "loss and scores of stage1": lambda data, run: run.metrics("stage1").write_text(OTHER_LOSS),
    "scores of stage2": lambda data, run: write_json(run.scores("stage2"), OTHER_SCORES),
    "failed series": lambda data, run: data.failed_series.write_text(FAILED + "1.9,truncated,\n"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_differs_is_noticed(what, tmp_path):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    write_side(calm)
    data, run = write_side(wild)
    assert not any(soak_compare.compare(calm, wild, ENCODER, {}).values())
    CHANGES[what](data, run)
    found = soak_compare.compare(calm, wild, ENCODER, {})
    wrong = {other for other, difference in found.items() if difference}
    assert what in wrong and wrong <= {what, "names of files"}


def test_a_broken_series_that_did_not_fail_is_noticed(tmp_path):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    write_side(calm)
    write_side(wild)
    found = soak_compare.compare(calm, wild, ENCODER, {"1.9": "not_dicom"})
    assert "1.9: not_dicom expected, missing found" in found["failed series"]


def test_a_difference_is_one_line_with_both_values():
    difference = soak_compare.difference
    same = {"a": 1, "b": 2}
    assert difference(same, {"a": 1, "b": 2}) == ""
    found = difference(same, {"a": 1, "b": 3})
    assert found == "1 of 2 differ, the first is b: 2 expected, 3 found"
    found = difference({}, {"c": 1})
    assert found == "1 of 1 differ, the first is c: missing expected, 1 found"
