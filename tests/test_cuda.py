"""On a GPU: the whole way, its precisions, its waits, and numbers that equal the CPU's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import eval_end_to_end
import extract_features
import src.device
import train_stage1
import train_stage2
from src.artifacts.files import read_array, read_json_lines
from src.artifacts.paths import RunFolder
from src.sampling.loader import make_loader
from src.training import learner as learning
from src.training.losses import focal_loss
from src.training.optim import Mars, MovingAverage
from tests.conftest import CROP
from tests.networks import ENCODER, write_both, write_random_features, write_stage1
from tests.small_run import Batches, batches, loss_of, new_learner
from tests.test_optim_traffic import layers, set_gradients

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
GPU = torch.device("cuda", 0)
STAGE1 = dict(encoder="test_resnet", pretrained=False, crop_size=CROP, batch_size=8, workers=2)


def losses_of(run: RunFolder, stage: str) -> list[float]:
    return [row["loss"] for row in read_json_lines(run.metrics(stage))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])  # the latter: older GPUs
def test_stage_1_trains_in_either_half_precision(tiny, tmp_path, monkeypatch, dtype):
    for module in (src.device, learning, train_stage1):
        monkeypatch.setattr(module, "precision", lambda _: dtype)
    config = train_stage1.Config(tiny.root, tmp_path, device="cuda", epochs=2, **STAGE1)
    train_stage1.main(config)
    assert np.isfinite(losses_of(RunFolder(tmp_path, "test_resnet", 0), "stage1")).all()


def test_stage_2_trains(tiny, tmp_path, monkeypatch):
    write_random_features(tiny, tmp_path)
    monkeypatch.setattr(train_stage2, "join", lambda *_: None)
    config = train_stage2.Config(tiny.root, tmp_path, encoder="made_up", width=16, device="cuda")
    train_stage2.main(config)
    assert np.isfinite(losses_of(RunFolder(tmp_path, "made_up", 0), "stage2")).all()


def test_features_are_the_cpu_s(tiny, tmp_path):
    found = []
    for device in ("cpu", "cuda"):
        run = write_stage1(tiny, tmp_path / device)
        config = extract_features.Config(
            tiny.root, tmp_path / device, encoder=ENCODER, device=device, series="held-out"
        )
        extract_features.main(config)
        paths = sorted(Path(run.features).glob("*.npy"))
        found.append([read_array(path).astype(np.float32) for path in paths])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05, rtol=0.05)


def test_both_stages_predict_what_the_cpu_does(tiny, tmp_path):
    write_both(tiny, tmp_path)
    tables = []
    for device in ("cpu", "cuda"):
        config = eval_end_to_end.Config(
            tiny.root, tmp_path, encoder=ENCODER, device=device, both_steps=True, mirror=True
        )
        eval_end_to_end.main(config)
        tables.append(RunFolder(tmp_path, ENCODER, 0).predictions("end_to_end").read_text())
    one, other = [np.array(numbers_in(table)) for table in tables]
    np.testing.assert_allclose(one, other, atol=0.02)


def numbers_in(table: str) -> list[list[float]]:
    rows = [line.split(",")[1:] for line in table.splitlines()[1:]]
    return [[float(cell) for cell in row] for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_pinned_memory(workers):
    class Rows(list):
        def __getitem__(self, key):
            return {"images": torch.zeros(3, 4, 4)}

    loader = make_loader(Rows(range(6)), 2, workers, shuffle_seed=0)
    assert all(batch["images"].is_pinned() for batch in loader)


def test_mars_gives_the_cpu_s_numbers():
    here, there = layers(), layers().to(GPU)
    for model in (here, there):
        optimizer = Mars(model.parameters(), 1e-3, 0.01)
        for step in range(5):
            set_gradients(model, step, 1.0)
            for parameter in model.parameters():
                parameter.grad = parameter.grad.to(parameter.device)
            optimizer.step()
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-5, atol=1e-6)


def test_the_moving_average_gives_the_cpu_s_numbers():
    found = []
    for device in ("cpu", "cuda"):
        model = layers().to(device)
        average = MovingAverage(model, 0.9)
        for _ in range(4):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1)
            average.update(model)
        found.append([value.cpu() for value in average.module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_in_steady_state_waits_for_nothing(monkeypatch, dtype):
    for module in (src.device, learning):
        monkeypatch.setattr(module, "precision", lambda _: dtype)
    learner = new_learner(device=GPU)
    pinned = [batch.pin_memory() for batch in batches()]

    def step(batch: torch.Tensor) -> None:
        there = batch.to(GPU, non_blocking=True)
        targets = torch.ones_like(there[:, 0])
        learner.step([lambda: focal_loss(learner.network(there)[:, 0], targets)])

    for batch in pinned:
        step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in pinned[:4]:  # the tenth asks whether losses are finite
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learner.steps == 9


def test_a_run_is_resumed_on_a_gpu():
    learner = new_learner(device=GPU)
    for batch in Batches(batches()):
        learner.step([lambda batch=batch: loss_of(learner.network, batch.to(GPU))])
    again = new_learner(device=GPU)
    again.load_state_dict(learner.state_dict())
    for each in (learner, again):
        torch.manual_seed(1)
        each.step([lambda each=each: loss_of(each.network, batches()[0].to(GPU))])
    for one, other in zip(learner.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_ranks_meet_over_nccl(tmp_path):
    """One rank: the backend, the wrapped network and the sum over ranks."""
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1, device_id=GPU
    )
    try:
        network = nn.parallel.DistributedDataParallel(nn.Linear(4, 2).to(GPU), [0])
        network(torch.ones(3, 4, device=GPU)).sum().backward()
        assert network.module.weight.grad.cpu().tolist() == [[3.0] * 4] * 2
    finally:
        torch.distributed.destroy_process_group()
