"""Runs that were killed end bit for bit as runs that were not, however many loader processes."""

import multiprocessing
import os
import runpy
import signal
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch

import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_json_lines
from src.artifacts.paths import RunFolder
from src.sampling.loader import batches_of, make_loader
from src.training import run_folder
from src.training.learner import Learner
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


def run_scripts(jobs: list[tuple]) -> list[int]:
    """Run scripts side by side, each in its own process; return their exit codes."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=run_script, args=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def run_script(stage: str, data: Path, model_dir: Path, workers: int, flags: str, kill_after=None):
    """Run a script as the shell would; what it prints goes to printed.txt.

    kill_after: step in which SIGKILL comes, from inside: however busy the machine is, it hits
        the moment that is meant.
    """
    torch.set_num_threads(1)
    run_folder.draw_progress = lambda *_: None  # it would take most of the time
    if kill_after is not None:
        Learner.step = partialmethod(step_or_die, step=Learner.step, after=kill_after)
    printed = os.open(model_dir / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1), os.dup2(printed, 2)
    script = str(ROOT / f"train_{stage}.py")
    sys.argv = [script, *FLAGS[stage].split(), *flags.split(), "--device", "cpu"]
    sys.argv += ["--data-dir", str(data), "--model-dir", str(model_dir), "--workers", str(workers)]
    runpy.run_path(script, run_name="__main__")


def step_or_die(learner: Learner, losses: list, step, after: int) -> torch.Tensor:
    if learner.steps == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(learner, losses)


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


@pytest.mark.timeout(600)  # 6 processes a stage; a few seconds where nothing else runs
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_4_epochs_are_2_and_a_kill_and_a_resume_in_a_new_process(
    tiny, tmp_path, stage, clean_process
):
    """Whatever the number of loader processes: 0, 1 and 2 of them end as 2 that nothing stopped."""
    runs = new_runs(stage, tiny, tmp_path, ("straight", *WORKERS))
    killed, resumed = [], []
    for n in WORKERS:
        (tmp_path / str(n)).mkdir(exist_ok=True)
        job = (stage, tiny.root, tmp_path / str(n), n)
        killed.append((*job, "--epochs 4", KILLED_AFTER[stage][n]))
        resumed.append((*job, "--epochs 4 --resume"))
    assert clean_process.submit(run_scripts, killed) == [-signal.SIGKILL] * 3
    for n in WORKERS:
        assert read_checkpoint(runs[n].last(stage), ())["epoch"] == 2
    assert clean_process.submit(run_scripts, resumed) == [0] * 3
    train_here(stage, tiny.root, tmp_path / "straight", 2, 4)
    for n in WORKERS:
        assert "resuming after epoch 2 of 4" in (tmp_path / str(n) / "printed.txt").read_text()
        assert_same_run(runs[n], runs["straight"], stage)


class Rows(list):
    """A data set of `length` samples, each its own row."""

    def __init__(self, length: int):
        super().__init__(range(length))

    def __getitem__(self, key: tuple[int, int]) -> dict[str, int]:
        return {"index": key[1]}


def test_a_loader_leaves_the_global_random_numbers_alone():
    """Else what is drawn after it, such as dropout, depends on the number of its processes."""
    for workers in (0, 1):
        loader = make_loader(Rows(6), 2, workers, shuffle_seed=1)
        before = torch.get_rng_state()
        for _ in range(2):
            assert len(list(batches_of(loader))) == 3
            assert torch.equal(torch.get_rng_state(), before)
