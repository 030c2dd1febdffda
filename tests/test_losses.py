import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from src import distributed
from src.training.losses import SMALLEST_SIGMA, focal_loss, heat_target, heatmap_loss


def plain_focal(logit, target, gamma=2.0):
    """Focal loss of one number in float64, hard or soft target."""
    p = 1 / (1 + np.exp(-logit))
    cross_entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    return abs(target - p) ** gamma * cross_entropy


def plain_heatmap_loss(logits, targets, maps=None):
    """Sum over all pixels, divided by how many maps have an aneurysm (at least 1)."""
    if maps is None:
        maps = max(1, sum(target.any() for target in targets))
    pairs = zip(logits.ravel(), targets.ravel(), strict=True)
    return sum(plain_focal(logit, target) for logit, target in pairs) / maps


def heatmaps(seed, count=4):
    """Return logits (count, 5, 6) and targets: of half the maps empty."""
    generator = np.random.default_rng(seed)
    targets = generator.random((count, 5, 6)) ** 4
    targets[::2] = 0
    return generator.normal(0, 2, targets.shape), targets


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


@pytest.mark.parametrize("seed", range(3))
def test_both_losses_equal_the_slow_reference(seed):
    logits, targets = heatmaps(seed)
    ours = focal_loss(torch.tensor(logits), torch.tensor(targets)).item()
    pairs = zip(logits.ravel(), targets.ravel(), strict=True)
    expected = np.mean([plain_focal(logit, target) for logit, target in pairs])
    assert ours == pytest.approx(expected, rel=1e-9)
    ours = heatmap_loss(torch.tensor(logits), torch.tensor(targets)).item()
    assert ours == pytest.approx(plain_heatmap_loss(logits, targets), rel=1e-9)


HEIGHTS = [
    ((0.05, 0.02), 1),
    ((0.09, 0.11), 1),
    ((0.09, 0.9), 1),
    ((0.1, 0.9), 1),
    ((0.11, 0.9), 2),
]


@pytest.mark.parametrize(("heights", "maps"), HEIGHTS)
def test_a_faint_edge_of_a_spot_is_no_map_with_an_aneurysm(heights, maps):
    logits, _ = heatmaps(0, 2)
    targets = np.zeros_like(logits)
    targets[:, 2, 3] = heights
    ours = heatmap_loss(torch.tensor(logits), torch.tensor(targets)).item()
    assert ours == pytest.approx(plain_heatmap_loss(logits, targets, maps), rel=1e-9)


def test_the_mean_over_ranks_is_the_loss_of_the_whole_batch(monkeypatch):
    logits, targets = heatmaps(1, 6)
    parts = [slice(0, 2), slice(2, 6)]  # 1 and 2 maps with an aneurysm
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda own: torch.tensor(3))
    losses = [heatmap_loss(torch.tensor(logits[p]), torch.tensor(targets[p])) for p in parts]
    assert np.mean(losses) == pytest.approx(plain_heatmap_loss(logits, targets), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 3.0])
def test_another_gamma_is_another_power_of_the_distance(gamma):
    logits, targets = heatmaps(2)
    pairs = list(zip(logits.ravel(), targets.ravel(), strict=True))
    total = sum(plain_focal(logit, target, gamma) for logit, target in pairs)
    ours = focal_loss(torch.tensor(logits), torch.tensor(targets), gamma).item()
    assert ours == pytest.approx(total / len(pairs), rel=1e-9)
    ours = heatmap_loss(torch.tensor(logits), torch.tensor(targets), gamma).item()
    assert ours == pytest.approx(total / 2, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_heat_targets_equal_the_slow_reference(seed):
    """Random points and widths; a cell counts for the nearest, by the widths, of the points."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(-10, 60, (3, 4, 2))
    points[0, 2:], points[1] = np.nan, np.nan
    sigma = generator.uniform(1, 20, (3, 2))
    ours = heat_target(torch.tensor(points), torch.tensor(sigma), (7, 4), 50)
    assert ours.shape == (3, 7, 4)
    for sample in range(3):
        wide = max(sigma[sample, 0], 0.7 * 50 / 4)
        tall = max(sigma[sample, 1], 0.7 * 50 / 7)
        for row in range(7):
            for column in range(4):
                x, y = (column + 0.5) * 50 / 4 - 0.5, (row + 0.5) * 50 / 7 - 0.5
                expected = 0.0
                for point_x, point_y in points[sample]:
                    if np.isfinite(point_x):
                        across, down = (x - point_x) / wide, (y - point_y) / tall
                        expected = max(expected, np.exp(-(across**2 + down**2) / 2))
                assert ours[sample, row, column] == pytest.approx(expected, abs=1e-6)
