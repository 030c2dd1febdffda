import json

import numpy as np
import pytest
import torch
from torch import nn

from src import artifacts, engine
from src.artifacts import ArtifactError, RunFolder
from src.labels import LOCATIONS
from src.runtime import UserError


def scores(value):
    return {"score": value, "present": value, "locations": dict.fromkeys(LOCATIONS, value)}


class Batches(list):
    """A loader of fixed batches."""

    class sampler:
        epoch = 0


def new_learner(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    return engine.Learner(model, torch.device("cpu"), lr=1e-2, weight_decay=0.01, warmup_steps=3, ema_decay=0.99)


def batches():
    generator = torch.Generator().manual_seed(9)
    return Batches(torch.randn(8, 4, generator=generator) for _ in range(5))


def loss_of(model, batch):
    return (model(batch)[:, 0] - batch.sum(1)).square().mean()


def train(folder, epochs, values=(0.6, 0.7, 0.65, 0.8), resume=False, seed=3):
    learner = new_learner()
    run = engine.Run(folder, "stage1", {"seed": seed}, __import__("pathlib").Path(__file__), resume)
    best = engine.fit(learner, run, batches(), epochs, loss_of, lambda _: (scores(values[run.epoch]) if values[run.epoch] else None, {"step": 1}))
    return learner, best


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    straight, stopped = RunFolder(tmp_path, "straight", 0), RunFolder(tmp_path, "stopped", 0)
    expected, _ = train(straight, 4)
    train(stopped, 2)
    resumed, _ = train(stopped, 4, resume=True)
    first, second = expected.state_dict(), resumed.state_dict()
    for part in ("model", "average"):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name
    assert first["optimizer"]["state"].keys() == second["optimizer"]["state"].keys()
    for key, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second["optimizer"]["state"][key][name]))
    assert first["clip"] == second["clip"]
    rows = [[json.loads(line) for line in folder.metrics("stage1").read_text().splitlines()] for folder in (straight, stopped)]
    assert [(row["epoch"], row["loss"], row["scores"]) for row in rows[0]] == [(row["epoch"], row["loss"], row["scores"]) for row in rows[1]]


def test_the_best_epoch_is_the_best_and_not_the_last(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    _, best = train(folder, 4, (0.6, 0.9, 0.7, 0.8))
    assert best == {"score": 0.9, "epoch": 2}
    checkpoint = artifacts.read_checkpoint(folder.best("stage1"), ("weights", "settings"))
    assert checkpoint["epoch"] == 2
    assert checkpoint["settings"] == {"seed": 3, "step": 1}


def test_a_missing_score_never_wins_and_never_loses_the_weights(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    assert train(folder, 4, (None, 0.4, None, 0.3))[1]["epoch"] == 2
    other = RunFolder(tmp_path, "other", 0)
    train(other, 2, (None, None))
    assert other.best("stage1").exists()


def test_a_folder_with_a_run_is_not_taken_unasked(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    with pytest.raises(ArtifactError, match="--resume"):
        train(folder, 1)


def test_a_run_does_not_go_on_with_other_settings(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    with pytest.raises(ArtifactError, match="seed 3, not 4"):
        train(folder, 2, resume=True, seed=4)


def test_a_loss_that_is_not_finite_changes_nothing_and_many_stop_the_run():
    learner = new_learner()
    learner.step(loss_of(learner.model, batches()[0]))
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    poisoned = batches()[0]
    poisoned[0, 0] = float("nan")
    learner.model.eval()  # batch norm keeps its statistics
    learner.step(loss_of(learner.model, poisoned))
    assert learner.broken == 1
    for name, value in learner.model.named_parameters():
        assert torch.equal(value, before[name])
    with pytest.raises(UserError, match="not finite"):
        for _ in range(engine.MOST_BROKEN_STEPS):
            learner.step(loss_of(learner.model, poisoned))


def test_cpu_runs_in_float32_and_a_missing_gpu_is_said(monkeypatch):
    assert engine.precision(torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device"):
        engine.choose_device("cuda")


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_gpus_run_in_the_half_precision_that_they_have(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert engine.precision(torch.device("cuda")) == dtype


def test_scores_or_none():
    truth = np.zeros((4, 14), int)
    assert engine.scores_or_none(truth, np.full((4, 14), 0.5)) is None
    truth[:2] = 1
    assert engine.scores_or_none(truth, np.full((4, 14), 0.5))["score"] == 0.5
