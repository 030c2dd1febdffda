"""Both stages train in bfloat16, and in float16 with its loss scale, as they do in float32.

What a GPU does, on the CPU: autocast and GradScaler are the same code there.
"""

import json
from pathlib import Path

import pytest
import torch

import src.device
import train_stage1
import train_stage2
from src.artifacts.paths import RunFolder
from src.training import learner
from tests.conftest import CROP
from tests.networks import write_random_features
from tests.small_run import batches, loss_of, new_learner, one_thread  # noqa: F401

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture
def compute_in(monkeypatch):
    """Call it with a precision, to pretend that the CPU is a GPU of that precision."""

    def choose(dtype: torch.dtype) -> None:
        for module in (src.device, learner):
            monkeypatch.setattr(module, "precision", lambda _: dtype)

    return choose


def losses_of(run: RunFolder, stage: str) -> list[float]:
    rows = [json.loads(line) for line in run.metrics(stage).read_text().splitlines()]
    return [row["loss"] for row in rows]


def train_1(data, model_dir: Path) -> list[float]:
    config = train_stage1.Config(
        data_dir=data.root,
        model_dir=model_dir,
        encoder="test_resnet",
        pretrained=False,
        crop_size=CROP,
        dropout=0.0,
        epochs=1,  # of six steps, which lower the loss by far more than 1 %
        batch_size=4,
        lr=1e-4,
        workers=0,
        device="cpu",
    )
    train_stage1.main(config)
    return losses_of(RunFolder(model_dir, "test_resnet", 0), "stage1")


def train_2(data, model_dir: Path) -> list[float]:
    write_random_features(data, model_dir)
    config = train_stage2.Config(
        data_dir=data.root,
        model_dir=model_dir,
        encoder="made_up",
        width=32,
        dropout=0.0,
        attention_dropout=0.0,
        epochs=2,
        batch_size=4,
        lr=1e-3,
        device="cpu",
    )
    train_stage2.main(config)
    return losses_of(RunFolder(model_dir, "made_up", 0), "stage2")


@pytest.mark.parametrize("train", [train_1, train_2])
def test_losses_agree_within_1_percent(train, tiny, tmp_path, compute_in, monkeypatch):
    monkeypatch.setattr(train_stage2, "join", lambda *_: None)
    exact = train(tiny, tmp_path / "float32")
    for dtype in HALVES:
        compute_in(dtype)
        found = train(tiny, tmp_path / str(dtype))
        assert found == pytest.approx(exact, rel=0.01)
        assert found != exact  # it did compute in another precision


def test_a_loss_scale_that_overflows_is_lowered_and_training_goes_on(compute_in):
    """The first steps are skipped, and the run's end is that of float32 without them."""
    exact = new_learner()
    compute_in(torch.float16)
    half = new_learner()
    assert half.scaler.is_enabled() and not exact.scaler.is_enabled()
    half.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    searched = 0
    while half.optimizer.param_groups[0]["updates"] == 0:
        half.step([lambda: loss_of(half.network, batches()[0])])
        searched += 1
    assert 1 < searched < 150 and half.broken == searched - 1
    exact.step([lambda: loss_of(exact.network, batches()[0])])
    assert half.scaler.get_scale() == 2.0 ** (127 - searched + 1)
