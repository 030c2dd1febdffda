"""A run of a small network, for the tests of the learner and of the run's folder."""

from pathlib import Path

import pytest
import torch
from torch import nn

from src.labels import LOCATIONS
from src.training.learner import Learner, fit
from src.training.run_folder import RunLog

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Make results independent of the number of threads, which a forked process does not have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Batches(list):
    """A loader of fixed batches."""

    num_workers = 0

    class sampler:
        epoch = 0


def new_learner(model=None, lr=1e-2, weight_decay=0.01, warmup_steps=3, ema_decay=0.99, device=CPU):
    torch.manual_seed(0)
    if model is None:
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    return Learner(model, device, lr, weight_decay, warmup_steps, ema_decay, ema_every=3)


def batches():
    generator = torch.Generator().manual_seed(9)
    return Batches(torch.randn(8, 4, generator=generator) for _ in range(5))


def loss_of(model, batch):
    return (model(batch)[:, 0] - batch.sum(1)).square().mean()


def scores(value):
    return {"score": value, "present": value, "locations": dict.fromkeys(LOCATIONS, value)}


def train(folder, epochs, values=(0.6, 0.7, 0.65, 0.8), resume=False, **settings):
    """Train with one held-out score an epoch, None where there is none."""
    learner = new_learner()
    settings = {"seed": 3} | settings
    run = RunLog(folder, "stage1", settings, Path(__file__), resume, {"ema_every": 3})

    def evaluate(_):
        value = values[run.epoch]
        return (scores(value) if value else None), {"step": 1}

    return learner, fit(learner, run, batches(), epochs, 1, loss_of, evaluate)


def assert_same(first, second, where=""):
    """Nested states are equal bit for bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first.nan_to_num(-1), second.nan_to_num(-1)), where
    else:
        assert first == second, where
