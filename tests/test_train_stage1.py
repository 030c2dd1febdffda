"""Stage 1's own: what its loss is made of, its published settings, and what ends it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

import train_stage1
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.paths import RunFolder
from src.sampling.spot_dataset import SpotDataset, held_out_rows, read_spot_tables
from src.script import UserError
from src.training.losses import focal_loss, heat_target, heatmap_loss
from tests.conftest import CROP
from train_stage1 import Config

CPU = torch.device("cpu")


def small(tiny, model_dir, **options) -> Config:
    fixed = {
        "encoder": "test_convnext",
        "pretrained": False,
        "crop_size": CROP,
        "epochs": 1,
        "batch_size": 8,
        "lr": 1e-3,
        "workers": 0,
        "device": "cpu",
    }
    return Config(**{"data_dir": tiny.root, "model_dir": model_dir} | fixed | options)


def test_the_published_settings_are_the_defaults():
    published = {
        "encoder": "convnext_base.dinov3_lvd1689m",
        "pretrained": True,
        "crop_size": 448,
        "dropout": 0.1,
        "epochs": 20,
        "batch_size": 32,
    }
    published |= {
        "lr": 3e-5,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
        "ema_decay": 0.999,
        "seed": 44,
        "heatmap_weight": 0.3,
        "sigma_mm": 3.0,
        "ema_every": 3,
        "mirror": 0.5,
        "affine": 0.5,
        "shift": 0.06,
        "scale": 0.10,
        "rotate": 5.0,
        "occlude": 0.5,
        "grid_ratio": 0.4,
        "grid_cells": 10,
        "holes": (10, 25),
        "hole_size": (0.10, 0.20),
        "distortion": 0.3,
        "distortion_cells": 5,
        "brightness": 0.01,
    }
    assert {name: getattr(Config(), name) for name in published} == published


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_the_loss_is_that_of_the_labels_and_of_the_heatmap(tiny, tmp_path, weight):
    config = small(tiny, tmp_path, heatmap_weight=weight, dropout=0.0)
    tables = read_spot_tables(tiny)
    rows = held_out_rows(tables.spots, 0)
    dataset = SpotDataset(tables, rows, CROP, 0, augmentation=None, sigma_mm=config.sigma_mm)
    batch = dataset.__getitems__([(0, k) for k in range(6)])
    assert batch["labels"][:, :13].any() and batch["points"].isfinite().any()
    model = train_stage1.make_network(config).eval()
    margin = (batch["images"].shape[-1] - CROP) // 2
    out = model(batch["images"].float()[..., margin : margin + CROP, margin : margin + CROP])
    expected = focal_loss(out.logits, batch["labels"])
    if weight:
        target = heat_target(batch["points"], batch["sigma"], out.heatmap.shape[-2:], CROP)
        assert target.max() > 0.5
        expected = expected + weight * heatmap_loss(out.heatmap, target)
    assert (out.heatmap is None) == (weight == 0)
    assert train_stage1.batch_loss(model, batch, config, CPU).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.fixture(scope="module")
def checkpointed(tiny, tmp_path_factory) -> Path:
    """The model folder of a run that computes activations twice."""
    folder = tmp_path_factory.mktemp("checkpointed")
    train_stage1.main(small(tiny, folder, dropout=0.0, checkpointing=True))
    return folder


def test_going_on_does_not_ask_for_the_pretrained_weights(tiny, checkpointed, tmp_path):
    with pytest.raises(UserError, match="pretrained False, not True"):
        train_stage1.main(small(tiny, checkpointed, dropout=0.0, pretrained=True, resume=True))
    network = train_stage1.make_network(
        small(tiny, tmp_path, checkpoint=Path("not there")), resumed=True
    )
    assert network.channels > 0


def test_checkpointing_changes_nothing(tiny, checkpointed, tmp_path):
    """Computing activations twice gives the same weights but for rounding."""
    train_stage1.main(small(tiny, tmp_path, dropout=0.0))
    usual, twice = (
        read_checkpoint(RunFolder(folder, "test_convnext", 0).best("stage1"), ("weights",))
        for folder in (tmp_path, checkpointed)
    )
    for key, value in usual["weights"].items():
        torch.testing.assert_close(twice["weights"][key], value, atol=3e-3, rtol=0.02, msg=key)


def test_a_killed_loader_process_ends_the_run_and_keeps_its_state(tiny, tmp_path, clean_process):
    flags = f"--encoder test_convnext --no-pretrained --crop-size {CROP} --epochs 1000"
    flags += " --batch-size 4 --workers 1 --device cpu"
    place = ["--data-dir", tiny.root, "--model-dir", tmp_path]
    process = clean_process.start("train_stage1", *place, *flags.split())
    folder = RunFolder(tmp_path, "test_convnext", 0)
    while not folder.metrics("stage1").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("error: a process that loads samples died")
    assert "Traceback" not in out + err
    assert read_checkpoint(folder.last("stage1"), ("learner",))["epoch"] >= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "hf-hub:timm/resnet10t"}, "timm knows no encoder"),
        ({"encoder": "test_maxvit", "crop_size": 100}, "such as 96 or 128"),
        ({"encoder": "pit_ti_224", "crop_size": 224, "checkpointing": True}, "--accumulate 4"),
    ],
)
def test_an_encoder_that_cannot_be_used_ends_it_before_data_are_opened(tmp_path, options, says):
    nothing = tmp_path / "no such folder"
    with pytest.raises(UserError, match=says):
        train_stage1.main(Config(data_dir=nothing, model_dir=tmp_path / "model", **options))
    assert not list(tmp_path.iterdir())


def test_a_fold_that_was_never_dealt_is_named(tiny, tmp_path):
    with pytest.raises(UserError, match=r"fold 9 is none of .* 0 to 2"):
        train_stage1.main(small(tiny, tmp_path, fold=9))
