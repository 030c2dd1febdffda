from statistics import median

import pytest
import torch
from torch import nn

from src.optim import AutoClip, mars, moving_average, ramped_decay, warmup


def test_moving_average_follows_its_formula():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = moving_average(model, decay=0.9)
    expected = None
    for n, value in enumerate([1.0, 2.0, 5.0, -3.0, 4.0, 4.0, 0.0]):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(10 * value)
            model[1].num_batches_tracked.fill_(n)
        average.update_parameters(model)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module[0].weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.module[1].running_mean.item() == pytest.approx(10 * expected, rel=1e-5)
        assert average.module[1].num_batches_tracked.item() == n


def test_decay_ramps_up_to_its_limit():
    assert [ramped_decay(0.999, n) for n in (0, 1, 90)] == pytest.approx([0.1, 2 / 11, 0.91])
    assert ramped_decay(0.999, 10**6) == 0.999


def parameter_with_gradient(norm):
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), norm / 2)
    return parameter


def test_autoclip_clips_to_the_median_of_the_norms_before():
    clip = AutoClip()
    norms = [float((7 * k) % 23 + 0.5) for k in range(400)]
    for step, norm in enumerate(norms):
        limit = 5.0 if step < 50 else min(max(median(norms[max(0, step - 256) : step]), 1.0), 100.0)
        parameter = parameter_with_gradient(norm)
        assert clip.clip([parameter]) == pytest.approx(norm)
        assert parameter.grad.norm().item() == pytest.approx(min(norm, limit), rel=1e-4)


@pytest.mark.parametrize(("norm", "limit"), [(0.01, 1.0), (1000.0, 100.0)])
def test_autoclip_stays_within_1_and_100(norm, limit):
    clip = AutoClip()
    for _ in range(60):
        clip.clip([parameter_with_gradient(norm)])
    assert clip.limit() == limit


def test_autoclip_forgets_norms_that_are_not_finite_and_its_state_comes_back():
    clip = AutoClip()
    for norm in (3.0, float("nan"), float("inf"), 4.0):
        clip.clip([parameter_with_gradient(norm)])
    again = AutoClip()
    again.load_state_dict(clip.state_dict())
    assert list(again.norms) == pytest.approx([3.0, 4.0])
    assert again.steps == 2


def test_warmup_rises_and_stays():
    optimizer = mars(nn.Linear(2, 1), lr=1.0, weight_decay=0.0)
    schedule = warmup(optimizer, 4)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_mars_finds_the_minimum():
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x = torch.randn(200, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    optimizer = mars(model, lr=0.05, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
