"""The last line of a stage: the command to run next, with the flags that it shares."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.artifacts.next_stage import STAGES, after


@dataclass
class Config:
    data_dir: Path = Path("data")
    model_dir: Path = Path("model")
    fold: int | str = 0
    device: str = "auto"
    encoder: str = "net"
    lr: float = 1e-3
    train_on_all: bool = False
    shard: str | None = None
    series: str = "all"
    check: bool = False


@pytest.mark.parametrize(
    ("stage", "settings", "said"),
    [
        ("preprocess_data", {"data_dir": Path("my data")}, "create_folds.py --data-dir 'my data'"),
        ("preprocess_data", {"check": True}, "preprocess_data.py"),
        ("train_stage1", {"fold": 3, "lr": 1.0}, "eval_stage1.py --fold 3"),
        ("train_stage1", {"train_on_all": True}, "extract_features.py --train-on-all"),
        (
            "train_stage2",
            {"train_on_all": True, "data_dir": Path("d"), "encoder": "x"},
            "tools/predict.py path/to/dicom --encoder x --train-on-all",
        ),
        ("eval_stage2", {"fold": "all"}, "eval_end_to_end.py --fold all"),
        ("eval_end_to_end", {"fold": "all", "encoder": "x"}, "tools/report.py --encoder x"),
    ],
)
def test_the_next_command_takes_over_what_it_shares(monkeypatch, stage, settings, said):
    for place in ("", "../code/"):
        monkeypatch.setattr(sys, "argv", [f"{place}{stage}.py"])
        line = after(f"/anywhere/{stage}.py")(Config(**settings))
        assert line == f"next: python {place}{said}"


def test_where_nothing_comes_next_nothing_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a.py"])
    assert after("extract_features.py")(Config(shard="1/2")) == ""
    mined = after("extract_features.py")(Config(series="held-out"))
    assert mined.endswith(": python tools/mine_hard_negatives.py")
    monkeypatch.setenv("RANK", "1")
    assert after("train_stage1.py")(Config()) == ""


def test_all_scripts_of_the_top_level_are_stages():
    root = Path(__file__).resolve().parents[1]
    assert {path.name for path in root.glob("*.py")} == set(STAGES[:-1])
