"""Two learning rates: of a trained encoder, and of the heads that start from random weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm.optim
import torch
import tyro
from torch import nn

import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import read_json_lines
from src.artifacts.paths import RunFolder
from src.networks.slice_cnn import SliceCNN
from src.script import UserError
from src.training.learner import Learner
from src.training.optim import Mars, parameter_groups, warmup
from tests.conftest import CROP
from tests.networks import write_random_features
from tests.small_run import assert_same, one_thread  # noqa: F401
from train_stage1 import Config, rates

ENCODER = "test_resnet"
RANDOM = "--no-pretrained"


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.manual_seed(7)
    torch.save(SliceCNN(ENCODER, heatmap=False).encoder.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", (3e-5, 3e-4)),  # a pretrained encoder
        ("--lr 1e-3", (1e-3, 1e-2)),
        ("--head-lr 3e-5", (3e-5, 3e-5)),  # as published
        ("--head-lr None", (3e-5, 3e-4)),
        ("--no-pretrained --checkpoint encoder.pth", (3e-5, 3e-4)),
        (RANDOM, (3e-5, 3e-5)),  # all starts from random weights
        (f"{RANDOM} --lr 3e-3", (3e-3, 3e-3)),
        (f"{RANDOM} --lr 3e-3 --head-lr 1e-2", (1e-2, 1e-2)),
    ],
)
def test_the_rates_that_flags_ask_for(flags, expected):
    assert rates(tyro.cli(Config, args=flags.split())) == expected


def test_every_parameter_is_in_one_group():
    model = SliceCNN("test_convnext", heatmap=True)
    encoder, heads = parameter_groups(model, 1.0, 2.0)
    assert (encoder["lr"], heads["lr"]) == (1.0, 2.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[each].split(".")[0] for each in encoder["params"]} == {"encoder"}
    assert {names[each].split(".")[0] for each in heads["params"]} == {"heatmap", "head"}
    assert "heatmap.sharpness" in {names[each] for each in heads["params"]}
    both = encoder["params"] + heads["params"]
    assert len(both) == len(names) and set(both) == set(names)
    (alone,) = parameter_groups(model, 1.0, 1.0)
    assert [names[each] for each in alone["params"]] == list(names.values())


class Two(nn.Module):
    """A network whose encoder is known."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7))
        self.head = nn.Linear(7, 2)


def test_both_groups_move_as_two_optimizers_of_timm():
    ours, theirs = Two(), Two()
    optimizer = Mars(parameter_groups(ours, 1e-3, 2e-2), lr=1e-3, weight_decay=0.05)
    schedule = warmup(optimizer, 10)
    alone = [
        timm.optim.Mars(part.parameters(), lr=lr, weight_decay=0.05)
        for part, lr in ((theirs.encoder, 1e-3), (theirs.head, 2e-2))
    ]
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            our.grad = torch.randn(our.shape, generator=generator)
            their.grad = our.grad.clone()
        optimizer.step()
        schedule.step()
        for each, lr in zip(alone, (1e-3, 2e-2), strict=True):
            each.param_groups[0]["lr"] = lr * min(1, (step + 1) / 10)
            each.step()
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-6)


def small(tiny, model_dir: Path, **options) -> Config:
    fixed = {"encoder": ENCODER, "crop_size": CROP, "batch_size": 8, "workers": 0, "device": "cpu"}
    fixed |= {"data_dir": tiny.root, "model_dir": model_dir, "epochs": 1, "lr": 1e-3}
    return Config(**fixed | options)


def state_of(model_dir: Path) -> dict:
    return read_checkpoint(RunFolder(model_dir, ENCODER, 0).last("stage1"), ())


def test_a_run_with_two_rates_says_both_and_is_resumed_bit_for_bit(tiny, tmp_path, encoder_file):
    given = {"checkpoint": encoder_file, "pretrained": False, "epochs": 2}
    straight = small(tiny, tmp_path / "straight", **given)
    train_stage1.main(straight)
    stopped = small(tiny, tmp_path / "stopped", **given)
    train_stage1.main(replace(stopped, epochs=1))
    train_stage1.main(replace(stopped, resume=True))
    states = [state_of(config.model_dir)["learner"] for config in (straight, stopped)]
    assert_same(*states)
    groups = states[0]["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [1e-3, 1e-2]

    folder = RunFolder(tmp_path / "straight", ENCODER, 0)
    assert json.loads(folder.settings("stage1").read_text())["head_lr"] == 1e-2
    assert [row["head_lr"] for row in read_json_lines(folder.metrics("stage1"))] == [1e-2] * 2
    text = folder.log("stage1").read_text()
    assert "learning rate 0.001, of the heads 0.01" in text and "lr 1.0e-03, heads 1.0e-02" in text

    with pytest.raises(UserError, match=r"different head_lr: .* 0.01, not 0.02; give --head-lr"):
        train_stage1.main(replace(stopped, resume=True, head_lr=2e-2))


def make_older(model_dir: Path) -> None:
    """Turn a run into one of before: one rate, no sharpness."""
    state = state_of(model_dir)
    del state["settings"]["head_lr"]
    learner = state["learner"]
    for weights in (learner["model"], learner["average"]["module"]):
        weights.pop("heatmap.sharpness", None)
    write_checkpoint(RunFolder(model_dir, ENCODER, 0).last("stage1"), state)


def test_a_run_of_before_is_refused_by_a_sentence_or_continues(tiny, tmp_path, encoder_file):
    heated = small(tiny, tmp_path / "heated", pretrained=False)
    train_stage1.main(heated)
    make_older(heated.model_dir)
    with pytest.raises(UserError, match=r"does not fit this network \(.*\): delete it") as caught:
        train_stage1.main(replace(heated, resume=True, epochs=2))
    assert "\n" not in str(caught.value)

    published = small(tiny, tmp_path / "published", pretrained=False, heatmap_weight=0.0)
    train_stage1.main(replace(published, epochs=2))
    expected = state_of(published.model_dir)["learner"]
    published = replace(published, model_dir=tmp_path / "again")
    train_stage1.main(published)
    make_older(published.model_dir)
    with pytest.raises(UserError, match=r"different head_lr: .* 0.001, not 0.01; give --head-lr"):
        train_stage1.main(replace(published, resume=True, head_lr=0.01))
    train_stage1.main(replace(published, resume=True, epochs=2))
    assert_same(state_of(published.model_dir)["learner"], expected)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_without_warmup_the_first_step_has_the_whole_rate(tiny, tmp_path, monkeypatch, stage):
    seen, step = [], Learner.step

    def watched(learner: Learner, losses: list) -> torch.Tensor:
        seen.append([group["lr"] for group in learner.optimizer.param_groups])
        return step(learner, losses)

    monkeypatch.setattr(Learner, "step", watched)
    flags = f"--data-dir {tiny.root} --model-dir {tmp_path} --encoder {ENCODER} --device cpu "
    flags += "--epochs 1 --batch-size 4 --lr 1e-3 --workers 0 --warmup-epochs "
    script, more = train_stage2, " --width 16"
    if stage == "stage1":
        script, more = train_stage1, f" --no-pretrained --crop-size {CROP}"
    else:
        write_random_features(tiny, tmp_path, ENCODER)
    for epochs in ("1", "0"):
        script.main(tyro.cli(script.Config, args=(flags + epochs + more).split()))
        RunFolder(tmp_path, ENCODER, 0).last(stage).unlink()
    steps = len(seen) // 2
    rising, constant = np.array(seen[:steps]), np.array(seen[steps:])
    assert steps > 2 and rising[0] < 0.5e-3 and rising[-1] == 1e-3
    assert (constant == 1e-3).all()
