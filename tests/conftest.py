"""A tiny data set, made once for all tests that read arrays and tables."""

import fcntl
import gc
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import cv2
import pytest

import create_folds
import preprocess_data
from src.artifacts.paths import DataFolder
from src.ending import SIGNALS
from tests.clean_process import CleanProcess, new_clean_process
from tools import make_demo_data

cv2.setNumThreads(1)  # a forked process hangs in cv2 where its parent had used its threads
gc.disable()  # until all is imported: a fifth of the time would go into half a million objects

ROOT = Path(__file__).resolve().parents[1]
FOLDS, IMAGE_SIZE, CROP = 3, 48, 40
LONGEST = (
    "preprocess_data_stopped stopped encoder_names distributed preprocess_data faults_bytes resume "
    "kaggle_server ending benchmark hostile_files pipeline open_data preprocess_with_dask "
    "eval_end_to_end extract_features train_stage1 train_stage2 ablate compare_sequence_models"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that the processes of pytest-xdist end together.

    pytest-xdist deals whole files, and without --no-loadscope-reorder those of most tests first.
    """
    order = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@cache
def help_of(script: str, *subcommand: str) -> str:
    """Return what `python {script} {subcommand} --help` prints.

    It runs in this process, which has imported most of it already.
    """
    printed, arguments = StringIO(), sys.argv
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    sys.argv = [str(ROOT / script), *subcommand, "--help"]
    try:
        with redirect_stdout(printed), pytest.raises(SystemExit) as stop:
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = arguments
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not stop.value.code
    return printed.getvalue()


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """Let runs draw no picture of their progress, which takes longer than a small epoch.

    Return the function that draws it, None where nothing trains.
    """
    run_folder = sys.modules.get("src.training.run_folder")
    if run_folder is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        draw = run_folder.draw_progress
        patch.setattr(run_folder, "draw_progress", lambda *_: None)
        yield draw


@pytest.fixture
def pictures(no_pictures, monkeypatch):
    """Let runs draw their progress, as they do for users."""
    monkeypatch.setattr("src.training.run_folder.draw_progress", no_pictures)


@pytest.fixture(scope="session")
def clean_process(tmp_path_factory) -> Iterator[CleanProcess]:
    """A process that scripts are forked from, where a test needs no new Python."""
    with new_clean_process(tmp_path_factory.mktemp("printed")) as process:
        yield process


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the first of the processes that run the tests makes for all of them."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of this run, and of nothing else
    folder, done = base / name, base / f"{name}-is-made"
    with open(base / f"{name}-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another process failed to make it
            make(folder)
            done.touch()
    return folder


def make_tiny_dicom(folder: Path) -> None:
    make_demo_data.main(
        make_demo_data.Config(folder / "data", series=24, matrix=48, slices=14, workers=2, seed=5)
    )


@pytest.fixture(scope="session")
def tiny_dicom(tmp_path_factory) -> Path:
    """24 synthetic series as DICOM, with their tables; read only."""
    return made_once("tiny", make_tiny_dicom, tmp_path_factory) / "data"


@pytest.fixture(scope="session")
def tiny(tiny_dicom, tmp_path_factory) -> DataFolder:
    """The tiny data set, preprocessed and dealt into folds; read only."""

    def make(folder: Path) -> None:
        root = folder / "data"
        shutil.copytree(tiny_dicom, root)
        fixed = {"image_size": IMAGE_SIZE, "write_slices": False, "workers": 2}
        preprocess_data.main(preprocess_data.Config(data_dir=root, **fixed))
        create_folds.main(create_folds.Config(data_dir=root, folds=FOLDS))

    return DataFolder(made_once("prepared", make, tmp_path_factory) / "data")


@pytest.fixture
def copied(tiny, tmp_path) -> DataFolder:
    """The tiny data set without DICOM, to spoil."""
    root = tmp_path / "data"
    shutil.copytree(tiny.root, root, ignore=shutil.ignore_patterns("series"))
    return DataFolder(root)
