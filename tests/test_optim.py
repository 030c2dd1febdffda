from statistics import median

import pytest
import timm.optim
import torch
from torch import nn

from src.training.optim import AutoClip, Mars, MovingAverage, warmup

CPU = torch.device("cpu")


def test_moving_average_ramps_up_to_its_decay_and_copies_counters():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = MovingAverage(model, decay=0.9)
    expected = None
    for n, value in enumerate([1.0, 2.0, 5.0, -3.0, *range(100)]):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(10 * value)
            model[1].num_batches_tracked.fill_(n)
        average.update(model)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module[0].weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.module[1].running_mean.item() == pytest.approx(10 * expected, rel=1e-5)
        assert average.module[1].num_batches_tracked.item() == n
    assert not average.module.training


def parameter_with_gradient(norm):
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), norm / 2)
    return parameter


def test_autoclip_clips_to_the_median_of_the_norms_before():
    clip = AutoClip(CPU)
    norms = [float((7 * k) % 23 + 0.5) for k in range(400)]
    for step, norm in enumerate(norms):
        limit = 5.0 if step < 50 else min(max(median(norms[max(0, step - 256) : step]), 1.0), 100.0)
        parameter = parameter_with_gradient(norm)
        assert clip.clip([parameter]).item() == pytest.approx(norm)
        assert parameter.grad.norm().item() == pytest.approx(min(norm, limit), rel=1e-4)


@pytest.mark.parametrize(("norm", "limit"), [(0.01, 1.0), (1000.0, 100.0)])
def test_autoclip_stays_within_1_and_100(norm, limit):
    clip = AutoClip(CPU)
    for _ in range(60):
        clip.clip([parameter_with_gradient(norm)])
    assert clip.limit().item() == limit


def test_autoclip_forgets_norms_that_are_not_finite_and_its_state_comes_back():
    clip = AutoClip(CPU)
    for norm in (3.0, float("nan"), float("inf"), 4.0):
        clip.clip([parameter_with_gradient(norm)])
    again = AutoClip(CPU)
    again.load_state_dict(clip.state_dict())
    assert again.norms[:2].tolist() == pytest.approx([3.0, 4.0]) and again.norms[2:].isnan().all()
    assert again.steps.item() == 2


def test_warmup_rises_and_stays():
    optimizer = Mars(nn.Linear(2, 1).parameters(), lr=1.0, weight_decay=0.0)
    schedule = warmup(optimizer, 4)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["params"][0].grad = torch.zeros(1, 2)
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def small_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 2))


def gradients(model, step, scale):
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


# Below and above the unit norm that the corrected gradient is clipped to.
@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_mars_equals_timm_s(scale):
    ours, theirs = small_network(), small_network()
    our_optimizer = Mars(ours.parameters(), lr=3e-3, weight_decay=0.05)
    their_optimizer = timm.optim.Mars(theirs.parameters(), lr=3e-3, weight_decay=0.05)
    for step in range(30):
        gradients(ours, step, scale)
        our_optimizer.step()
        gradients(theirs, step, scale)
        their_optimizer.step()
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_usable_never_happened():
    """Whatever its gradients were; the first step, too."""
    disturbed, plain = small_network(), small_network()
    for model in (disturbed, plain):
        optimizer = Mars(model.parameters(), lr=3e-3, weight_decay=0.05)
        for step in range(6):
            if step in (0, 3) and model is disturbed:
                gradients(model, 99, float("nan"))
                optimizer.step(torch.tensor(False))
            gradients(model, step, 1.0)
            optimizer.step(torch.tensor(True))
    for parameter, expected in zip(disturbed.parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, expected)
