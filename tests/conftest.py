"""A tiny data set, made once for all tests that read arrays and tables."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import cv2
import pytest

import create_folds
import preprocess_data
from src.artifacts import DataFolder
from tools import make_demo_data

cv2.setNumThreads(1)  # a forked process hangs in cv2 where its parent had used its threads

ROOT = Path(__file__).resolve().parents[1]
FOLDS, IMAGE_SIZE, CROP = 3, 48, 40


@cache
def help_of(script: str, *subcommand: str) -> str:
    """What `python {script} {subcommand} --help` prints."""
    return subprocess.run([sys.executable, ROOT / script, *subcommand, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def tiny_dicom(tmp_path_factory) -> Path:
    """24 synthetic series as DICOM, with their tables; read only."""
    out = tmp_path_factory.mktemp("tiny") / "data"
    make_demo_data.main(make_demo_data.Config(out=out, series=24, matrix=48, slices=14, workers=2, seed=5))
    return out


@pytest.fixture(scope="session")
def tiny(tiny_dicom, tmp_path_factory) -> DataFolder:
    """The tiny data set, preprocessed and dealt into folds; read only."""
    root = tmp_path_factory.mktemp("prepared") / "data"
    shutil.copytree(tiny_dicom, root)
    preprocess_data.main(preprocess_data.Config(data_dir=root, image_size=IMAGE_SIZE, write_slices=False, workers=1))
    create_folds.main(create_folds.Config(data_dir=root, folds=FOLDS))
    return DataFolder(root)
