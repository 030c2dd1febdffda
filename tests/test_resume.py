"""Runs that were killed end bit for bit as runs that were not, however many loader processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_json_lines
from src.artifacts.paths import RunFolder
from src.sampling.loader import batches_of, make_loader
from tests.conftest import CROP, ROOT
from tests.networks import write_random_features
from tests.small_run import assert_same, one_thread  # noqa: F401

WORKERS = (0, 1, 2)
# Dropout is on: its rates are the defaults. 26 samples of stage 1 are 6 steps, 16 series are 4.
FLAGS = {
    "stage1": f"--encoder test_resnet --no-pretrained --crop-size {CROP} --batch-size 4 --lr 1e-3",
    "stage2": "--encoder made_up --width 16 --batch-size 4 --lr 1e-3",
}
ENCODERS = {"stage1": "test_resnet", "stage2": "made_up"}
KILLED_AFTER = {"stage1": {0: 13, 1: 15, 2: 17}, "stage2": {0: 9, 1: 10, 2: 11}}  # steps
# SIGKILL from inside hits the moment that is meant, however busy the machine is.
KILL = """
import os, runpy, signal, sys
from src.training.learner import Learner
script, after = sys.argv.pop(1), int(sys.argv.pop(1))
step = Learner.step
def step_or_die(learner, losses):
    if learner.steps == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(learner, losses)
Learner.step = step_or_die
sys.argv[0] = script
runpy.run_path(script, run_name="__main__")
"""


def start(stage: str, data: Path, model_dir: Path, workers: int, *flags, kill_after=None):
    script = ROOT / f"train_{stage}.py"
    program = [script] if kill_after is None else ["-c", KILL, script, kill_after]
    flags = [*FLAGS[stage].split(), "--workers", workers, "--device", "cpu", *flags]
    command = [sys.executable, *program, "--data-dir", data, "--model-dir", model_dir, *flags]
    return subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(process: subprocess.Popen, code: int) -> str:
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == code, printed
    return printed


def assert_same_run(folder: RunFolder, expected: RunFolder, stage: str) -> None:
    """State, best weights, and the log's numbers but for the seconds."""
    for path in (RunFolder.last, RunFolder.best):
        states = [read_checkpoint(path(run, stage), ()) for run in (folder, expected)]
        for state in states:
            del state["settings"]  # model_dir, workers and resume differ
            state.pop("lines", None)  # compared below
        assert_same(*states, f"{path(folder, stage)}")
    histories = [read_json_lines(run.metrics(stage)) for run in (folder, expected)]
    for row in (row for history in histories for row in history):
        del row["seconds"]
    assert histories[0] == histories[1]


def train_here(stage: str, data: Path, model_dir: Path, workers: int, epochs: int) -> None:
    fixed = {"data_dir": data, "model_dir": model_dir, "encoder": ENCODERS[stage]}
    fixed |= {"epochs": epochs, "batch_size": 4, "lr": 1e-3, "device": "cpu", "workers": workers}
    if stage == "stage1":
        train_stage1.main(train_stage1.Config(**fixed, pretrained=False, crop_size=CROP))
    else:
        train_stage2.main(train_stage2.Config(**fixed, width=16))


def new_runs(stage: str, tiny, root: Path, names: tuple) -> dict[object, RunFolder]:
    """Run folders of these names; for stage 2 with what it reads."""
    if stage == "stage2":
        for name in names:
            write_random_features(tiny, root / str(name), ENCODERS[stage])
    return {name: RunFolder(root / str(name), ENCODERS[stage], 0) for name in names}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_4_epochs_are_2_and_a_kill_and_a_resume_in_a_new_process(tiny, tmp_path, stage):
    runs = new_runs(stage, tiny, tmp_path, ("straight", *WORKERS))

    def start_all(*flags, kill_after=None):
        return {
            n: start(
                stage,
                tiny.root,
                tmp_path / str(n),
                n,
                *flags,
                kill_after=kill_after and kill_after[n],
            )
            for n in WORKERS
        }

    killed = start_all("--epochs", 4, kill_after=KILLED_AFTER[stage])
    train_here(stage, tiny.root, tmp_path / "straight", 2, 4)
    for workers, process in killed.items():
        ends(process, -signal.SIGKILL)
        assert read_checkpoint(runs[workers].last(stage), ())["epoch"] == 2
    for workers, process in start_all("--epochs", 4, "--resume").items():
        assert "resuming after epoch 2 of 4" in ends(process, 0)
        assert_same_run(runs[workers], runs["straight"], stage)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_3_epochs_do_not_depend_on_the_number_of_loader_processes(tiny, tmp_path, stage):
    runs = new_runs(stage, tiny, tmp_path, WORKERS)
    for workers in WORKERS:
        train_here(stage, tiny.root, tmp_path / str(workers), workers, 3)
        assert_same_run(runs[workers], runs[0], stage)


class Keys(list):
    """A data set of `length` samples, each its own row."""

    def __init__(self, length: int):
        super().__init__(range(length))

    def __getitem__(self, key: tuple[int, int]) -> int:
        return key[1]


def test_a_loader_leaves_the_global_random_numbers_alone():
    """Else what is drawn after it, such as dropout, depends on the number of its processes."""
    for workers in (0, 1):
        loader = make_loader(Keys(6), 2, workers, shuffle_seed=1)
        before = torch.get_rng_state()
        for _ in range(2):
            assert len(list(batches_of(loader))) == 3
            assert torch.equal(torch.get_rng_state(), before)
