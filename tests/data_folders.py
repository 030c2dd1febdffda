"""Small data folders for tests of preprocess_data.py, and the script run on them."""

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

import preprocess_data
from preprocess_data import Config
from src.labels import LABELS
from tests.dicom_files import (
    volume,
    write_axial,
)

SCRIPT = Path(__file__).resolve().parents[1] / "preprocess_data.py"
TEMPORARY = "**/.*.tmp"
SERIES = 500  # of a run that is interrupted


def write_train(root: Path, uids: list[str]) -> None:
    table = pd.DataFrame(
        {"SeriesInstanceUID": uids, "PatientAge": 60, "PatientSex": "Female", "Modality": "MRA"}
    )
    root.mkdir(parents=True, exist_ok=True)
    table.assign(**dict.fromkeys(LABELS, 0)).to_csv(root / "train.csv", index=False)


def make_data(root: Path, count: int, shape=(4, 16, 14)) -> list[str]:
    uids = [f"1.2.{k}" for k in range(1, count + 1)]
    for k, uid in enumerate(uids):
        write_axial(
            root / "series" / uid,
            volume(shape, seed=k),
            SeriesInstanceUID=uid,
            PatientID=f"patient {k // 2}",
        )
    write_train(root, uids)
    return uids


def script(root: Path, *flags: str, **options) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), "--data-dir", str(root), "--image-size", "20", *flags]
    options.setdefault(
        "preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )  # a shell's background job ignores it
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "series/" not in str(path)
    }


def run(root: Path, **options):
    return preprocess_data.main(Config(**{"data_dir": root, "image_size": 20} | options))
