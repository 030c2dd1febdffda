"""What to run after a stage, for its last line."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from src import distributed

STAGES = (
    "preprocess_data.py", "create_folds.py", "train_stage1.py", "eval_stage1.py",
    "extract_features.py", "train_stage2.py", "eval_stage2.py", "eval_end_to_end.py",
    "tools/report.py",
)  # fmt: skip
EVERYWHERE = ("data_dir", "model_dir", "encoder")
TAKES = {  # flags that a stage takes over from the one before
    "tools/report.py": EVERYWHERE,
    "tools/mine_hard_negatives.py": EVERYWHERE,
    "tools/predict.py path/to/dicom": ("model_dir", "encoder", "train_on_all", "device"),
}
OF_STAGES = (*EVERYWHERE, "fold", "train_on_all", "device")


def after(script: str) -> Callable[[Any], str]:
    """Return what says, given the Config of a script that ended, what to run next."""
    stage = Path(script).name

    def following(config: Any) -> str:
        if not distributed.first() or getattr(config, "shard", None):
            return ""
        if getattr(config, "check", False):
            return f"next: {command(stage, config)}"
        if getattr(config, "series", "all") == "held-out":
            mine = command("tools/mine_hard_negatives.py", config)
            return f"next, when all folds have these features: {mine}"
        return f"next: {command(_next(stage, getattr(config, 'train_on_all', False)), config)}"

    return following


def _next(stage: str, train_on_all: bool) -> str:
    if train_on_all and stage == "train_stage1.py":
        return "extract_features.py"  # nothing is held out to be scored
    if train_on_all and stage == "train_stage2.py":
        return "tools/predict.py path/to/dicom"
    return STAGES[STAGES.index(stage) + 1]


def command(script: str, config: Any) -> str:
    """Return the command of a script, with those flags that it shares with a Config."""
    name, *words = script.split()
    words = ["python", os.path.join(os.path.dirname(sys.argv[0]), name), *words]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in TAKES.get(script, OF_STAGES) and value != field.default:
            words.append(f"--{field.name.replace('_', '-')}")
            words += [] if value is True else [str(value)]
    return shlex.join(words)
