"""Stage 2's own: its published settings, and that two ranks train what one would."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import train_stage2
from src.artifacts.checkpoints import write_checkpoint
from src.artifacts.files import write_array, write_json
from src.artifacts.paths import RunFolder
from src.artifacts.provenance import fingerprint
from src.artifacts.tables import fold_settings, read_fold
from src.labels import LABELS
from tests.conftest import ROOT
from train_stage2 import Config

ENCODER = "made up"


@pytest.fixture
def extracted(tiny, tmp_path):
    """A stage 1 that never was, with random features and logits of the tiny set."""
    series, held_out = read_fold(tiny, 0)
    for name in ("one", "two"):
        run = RunFolder(tmp_path / name, ENCODER, 0)
        generator = np.random.default_rng(0)
        for row in series.itertuples():
            for path, width in (
                (run.feature(row.SeriesInstanceUID), 12),
                (run.logit(row.SeriesInstanceUID), len(LABELS)),
            ):
                write_array(path, generator.normal(size=(2, row.length, width)).astype(np.float16))
        write_checkpoint(
            run.best("stage1"), {"weights": {}, "settings": fold_settings(tiny, held_out)}
        )
        write_json(run.feature_settings, {"weights": fingerprint(run.best("stage1"))})
    return tmp_path


def losses(folder):
    return [
        json.loads(line)["loss"]
        for line in RunFolder(folder, ENCODER, 0).metrics("stage2").read_text().splitlines()
    ]


def test_the_published_settings_are_the_defaults():
    published = {
        "width": 1024,
        "layers": 3,
        "heads": 1,
        "dropout": 0.15,
        "attention_dropout": 0.05,
        "cut": 192,
        "epochs": 12,
        "batch_size": 32,
    }
    published |= {
        "lr": 1e-5,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
        "ema_decay": 0.999,
        "seed": 42,
    }
    assert {name: getattr(Config(), name) for name in published} == published


def test_two_ranks_train_as_one_process(tiny, extracted):
    """A batch is an epoch here, so that each epoch's loss is that of one step; without dropout, whose masks are drawn rank by rank."""
    options = {
        "width": 16,
        "epochs": 4,
        "batch_size": 16,
        "lr": 1e-3,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    train_stage2.main(
        Config(
            data_dir=tiny.root,
            model_dir=extracted / "one",
            encoder=ENCODER,
            device="cpu",
            **options,
        )
    )
    flags = [
        word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    places = [
        "--data-dir",
        tiny.root,
        "--model-dir",
        extracted / "two",
        "--encoder",
        ENCODER,
        "--device",
        "cpu",
    ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        ROOT / "train_stage2.py",
        *places,
        *flags,
    ]
    ended = subprocess.run(
        [str(word) for word in command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert losses(extracted / "one") == pytest.approx(losses(extracted / "two"), abs=1e-4)
    assert (
        len(losses(extracted / "one")) == 4
        and RunFolder(extracted / "two", ENCODER, 0).inference.exists()
    )
