"""Focal loss on logits, and the auxiliary heatmap's target and loss."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from src import distributed

SMALLEST_SIGMA = 0.7  # cells of the heatmap; a narrower Gaussian would fall between the cells


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss without alpha (Lin et al. 2017, eq. 4), mean over all elements. logits, targets: same shape, targets in 0..1."""
    error = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrongness = (targets - logits.sigmoid()).abs()
    return (wrongness**gamma * error).mean()


def heat_target(points: Tensor, sigma: Tensor, cells: tuple[int, int], crop: int) -> Tensor:
    """Gaussians of height 1 at the aneurysms of each crop: (B, h, w) float32, 0 where there is none.

    points: (B, K, 2) x, y in pixels of the crop, NaN where there are fewer than K; sigma: (B, 2) x, y in pixels; cells: h, w of
    the heatmap, which covers crop x crop pixels.
    """
    rows, columns = cells
    x = (
        torch.arange(columns, device=points.device) + 0.5
    ) * crop / columns - 0.5  # (w,) cell centres in pixels
    y = (torch.arange(rows, device=points.device) + 0.5) * crop / rows - 0.5  # (h,)
    sigma_x = sigma[:, 0].clamp(min=SMALLEST_SIGMA * crop / columns)[:, None, None]
    sigma_y = sigma[:, 1].clamp(min=SMALLEST_SIGMA * crop / rows)[:, None, None]
    along_x = torch.exp(-0.5 * ((x - points[..., :1]) / sigma_x) ** 2)  # (B, K, w)
    along_y = torch.exp(-0.5 * ((y - points[..., 1:]) / sigma_y) ** 2)  # (B, K, h)
    spots = along_y[..., :, None] * along_x[..., None, :]  # (B, K, h, w)
    return spots.nan_to_num(0.0).amax(dim=1)


def heatmap_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal-style pixel loss for soft targets: |t - p|^gamma * cross entropy (Li et al. 2020, quality focal loss, eq. 5).

    logits, target: (B, h, w). Summed over the pixels and divided by the number of maps with an aneurysm, at least 1, of all ranks.
    """
    error = binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixel_losses = (target - logits.sigmoid()).abs() ** gamma * error
    occupied = (
        distributed.total((target.flatten(1).amax(dim=1) > 0.1).sum()).clamp(min=1)
        / distributed.world()
    )
    return pixel_losses.sum() / occupied
