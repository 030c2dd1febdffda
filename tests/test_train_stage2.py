"""Stage 2's own: its published settings, and that two ranks train what one would."""

import pytest
import torch
import tyro

import train_stage2
from src.artifacts.files import read_json_lines
from src.artifacts.paths import RunFolder
from src.training.losses import focal_loss
from tests.networks import write_random_features
from train_stage2 import Config

ENCODER = "made_up"


@pytest.fixture
def extracted(tiny, tmp_path):
    """Random features of the tiny set in two folders."""
    for name in ("one", "two"):
        write_random_features(tiny, tmp_path / name, ENCODER)
    return tmp_path


def losses(folder):
    rows = read_json_lines(RunFolder(folder, ENCODER, 0).metrics("stage2"))
    return [row["loss"] for row in rows]


def test_the_published_settings_are_the_defaults():
    published = {"width": 1024, "layers": 3, "heads": 1, "cut": 192}
    published |= {"dropout": 0.15, "attention_dropout": 0.05, "seed": 42}
    published |= {"epochs": 12, "batch_size": 32, "lr": 1e-5, "weight_decay": 0.01}
    published |= {"warmup_epochs": 1.0, "ema_decay": 0.999, "ema_every": 3}
    assert {name: getattr(Config(), name) for name in published} == published


def test_two_ranks_train_as_one_process(tiny, extracted, clean_process):
    """An epoch is one batch, so its loss is one step's; dropout masks differ between ranks."""
    flags = f"--encoder {ENCODER} --device cpu --width 16 --epochs 4 --batch-size 16 --lr 1e-3"
    flags = [*flags.split(), "--dropout", "0", "--attention-dropout", "0"]
    flags += ["--data-dir", str(tiny.root)]
    one, two = ([*flags, "--model-dir", str(extracted / name)] for name in ("one", "two"))
    train_stage2.main(tyro.cli(Config, args=one))
    for ended in clean_process.run_ranks("train_stage2", *two):
        assert ended.returncode == 0, ended.stderr
    expected = losses(extracted / "one")
    assert len(expected) == 4 and losses(extracted / "two") == pytest.approx(expected, abs=1e-4)
    assert RunFolder(extracted / "two", ENCODER, 0).inference.exists()


def test_the_loss_of_stage_2_leaves_unknown_labels_out():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 14, generator=generator)
    targets = (torch.rand(6, 14, generator=generator) < 0.5).float()
    targets[3] = torch.nan

    def model(features, positions, present):
        return logits

    inputs = dict.fromkeys(("features", "positions", "present"), torch.zeros(6))
    loss = train_stage2.batch_loss(model, inputs | {"labels": targets}, torch.device("cpu"))
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(loss, focal_loss(logits[others], targets[others]))
