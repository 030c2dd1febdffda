import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from src.training.losses import SMALLEST_SIGMA, focal_loss, heat_target, heatmap_loss


def test_focal_loss_equals_torchvision():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 14, generator=generator) * 4
    targets = (torch.rand(50, 14, generator=generator) < 0.3).float()
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(focal_loss(logits, targets), expected)


def test_focal_loss_is_finite_at_extreme_logits():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_heat_target_is_the_gaussian_pixel_by_pixel():
    points = torch.tensor([[[20.0, 50.0], [float("nan"), float("nan")]], [[float("nan")] * 2] * 2])
    sigma = torch.tensor([[12.0, 9.0], [12.0, 9.0]])
    target = heat_target(points, sigma, (8, 10), 80).numpy()
    for row in range(8):
        for column in range(10):
            x, y = (column + 0.5) * 8 - 0.5, (row + 0.5) * 10 - 0.5
            expected = np.exp(-0.5 * (((x - 20) / 12) ** 2 + ((y - 50) / 9) ** 2))
            assert target[0, row, column] == pytest.approx(expected, abs=1e-6)
    assert (target[1] == 0).all()


def test_a_narrow_spot_between_two_cells_is_still_seen():
    points, sigma = torch.tensor([[[31.5, 31.5]]]), torch.full((1, 2), 0.1)
    assert heat_target(points, sigma, (8, 8), 64).max() == pytest.approx(
        np.exp(-0.25 / SMALLEST_SIGMA**2), rel=1e-5
    )


def test_heatmap_loss_is_least_at_the_target_and_defined_without_aneurysm():
    target = heat_target(torch.tensor([[[20.0, 30.0]]]), torch.full((1, 2), 8.0), (8, 8), 64)
    best = heatmap_loss(torch.logit(target.clamp(1e-6, 1 - 1e-6)), target)
    assert best < heatmap_loss(torch.zeros_like(target), target)
    assert best < heatmap_loss(torch.logit(target.flip(-1).clamp(1e-6, 1 - 1e-6)), target)
    assert torch.isfinite(heatmap_loss(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)))
