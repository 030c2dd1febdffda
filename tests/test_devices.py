"""Every tensor is where the network is: the scripts walk through on a device that computes nothing.

Without a GPU, a test on the CPU cannot see a tensor that was left behind.
"""

import numpy as np
import pytest
import torch

import eval_end_to_end
import extract_features
import train_stage1
import train_stage2
from src.dicom import open_series
from src.inference.ensemble import Predictor
from src.training.losses import focal_loss
from src.training.optim import Mars
from tests.conftest import CROP
from tests.networks import ENCODER, write_both, write_random_features, write_stage1
from tests.other_device import AWAY, WrongDevice, other_device
from tests.small_run import batches, new_learner

THERE = torch.device(AWAY)
pytestmark = pytest.mark.filterwarnings("ignore:.*non-meta parameter")


def test_training_of_stage_1(tiny, tmp_path, monkeypatch):
    config = train_stage1.Config(
        data_dir=tiny.root,
        model_dir=tmp_path,
        encoder="test_resnet",
        pretrained=False,
        crop_size=CROP,
        epochs=1,
        batch_size=4,
        accumulate=2,
        workers=0,
        device=AWAY,
    )
    with other_device(monkeypatch) as device:
        train_stage1.main(config)
    assert device.operations > 1000


def test_training_of_stage_2(tiny, tmp_path, monkeypatch):
    write_random_features(tiny, tmp_path)
    config = train_stage2.Config(
        data_dir=tiny.root,
        model_dir=tmp_path,
        encoder="made_up",
        width=16,
        epochs=1,
        batch_size=4,
        device=AWAY,
    )
    monkeypatch.setattr(train_stage2, "join", lambda *_: None)
    with other_device(monkeypatch) as device:
        train_stage2.main(config)
    assert device.operations > 500


def test_extraction(tiny, tmp_path, monkeypatch):
    write_stage1(tiny, tmp_path)
    config = extract_features.Config(tiny.root, tmp_path, encoder=ENCODER, device=AWAY)
    with other_device(monkeypatch) as device:
        extract_features.main(config)
    assert device.operations > 500


def test_end_to_end_and_findings(tiny, tmp_path, monkeypatch):
    write_both(tiny, tmp_path)
    config = eval_end_to_end.Config(
        tiny.root, tmp_path, encoder=ENCODER, device=AWAY, both_steps=True, mirror=True
    )
    with other_device(monkeypatch) as device:
        eval_end_to_end.main(config)
        predictor = Predictor(tmp_path, ENCODER, (0,), THERE, mirror=True)
        series = sorted((tiny.root / "series").iterdir())[0]
        prepared, model = predictor.prepare(open_series(series)), predictor.models[0]
        model.explain(prepared, batch_size=8)
        assert model.locations_at(prepared, np.array([0, 2]), np.ones((2, 2)), 1).shape == (2, 13)
    assert device.operations > 500


def step(learner, batch: torch.Tensor) -> None:
    def loss_of() -> torch.Tensor:
        there = batch.to(THERE, non_blocking=True)
        return focal_loss(learner.network(there)[:, 0], torch.ones_like(there[:, 0]))

    learner.step([loss_of])


def test_a_step_waits_for_nothing_and_a_resumed_one_neither(monkeypatch):
    """But the first, and every tenth, which asks whether the losses are finite."""
    with other_device(monkeypatch) as device:
        learner = new_learner(device=THERE)
        for count in range(2):
            step(learner, batches()[count])
        device.waits.clear()
        for batch in batches():
            step(learner, batch)
        assert learner.steps == 7 and device.waits == []
        learner.load_state_dict(new_learner().state_dict())
        step(learner, batches()[0])
        device.waits.clear()
        step(learner, batches()[0])
        assert device.waits == []
        for batch in batches() * 2:
            step(learner, batch)
        assert device.waits == ["int of a tensor"]


def test_an_optimizer_alone_finds_its_device(monkeypatch):
    with other_device(monkeypatch):
        weight = torch.nn.Parameter(torch.zeros(2, 3, device=THERE))
        optimizer = Mars([weight], 1e-3, 0.0)
        weight.grad = torch.zeros_like(weight)
        optimizer.step()


def test_the_watch_sees_what_a_gpu_would_not_say(monkeypatch):
    there, here = torch.zeros(4, device=THERE), torch.zeros(4)
    with other_device(monkeypatch) as device:
        with pytest.raises(WrongDevice):
            there + here
        with pytest.raises(WrongDevice):  # torch would copy the index, and wait
            there[torch.tensor([0, 2])]
        with torch.inference_mode(), pytest.raises(WrongDevice):
            torch.nn.functional.linear(here, there[None])
        assert device.waits == []
        here.to(THERE, non_blocking=True)
        assert device.waits == []
        assert there.cpu().tolist() == [0.5] * 4 and bool(there[0] > 0)
        assert device.waits == ["copy from meta to cpu", "bool of a tensor"]
