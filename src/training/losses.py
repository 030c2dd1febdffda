"""Focal loss on logits, and the auxiliary heatmap's target and loss."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from src import distributed

SMALLEST_SIGMA = 0.7  # cells of the heatmap; a narrower Gaussian would fall between the cells


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the mean focal loss without alpha (Lin et al. 2017, eq. 4) of the known targets.

    Divided by the mean number of known targets a rank, at least 1 in all.
    logits, targets: same shape, targets in 0..1 or NaN, which nobody knows.
    """
    known = ~targets.isnan()
    losses = focal_losses(logits, targets.nan_to_num(0.0), gamma).where(known, 0.0)
    count = distributed.total(known.sum()).clamp(min=1) / distributed.world()
    return losses.sum() / count


def focal_losses(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return |t - p|^gamma * cross entropy of each element (Li et al. 2020, eq. 5)."""
    error = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** gamma * error


def heat_target(points: Tensor, sigma: Tensor, cells: tuple[int, int], crop: int) -> Tensor:
    """Return Gaussians of height 1 at the aneurysms of each crop, 0 elsewhere: (B, h, w) float32.

    points: (B, K, 2) x, y in pixels of the crop; NaN pads crops with fewer than K.
    sigma: (B, 2) x, y in pixels.
    cells: h, w of the heatmap, which covers crop x crop pixels.
    """
    rows, columns = cells
    x = (torch.arange(columns, device=points.device) + 0.5) * crop / columns - 0.5  # (w,) pixels
    y = (torch.arange(rows, device=points.device) + 0.5) * crop / rows - 0.5  # (h,) pixels
    sigma_x = sigma[:, 0].clamp(min=SMALLEST_SIGMA * crop / columns)[:, None, None]  # (B, 1, 1)
    sigma_y = sigma[:, 1].clamp(min=SMALLEST_SIGMA * crop / rows)[:, None, None]  # (B, 1, 1)
    along_x = torch.exp(-0.5 * ((x - points[..., :1]) / sigma_x) ** 2)  # (B, K, w)
    along_y = torch.exp(-0.5 * ((y - points[..., 1:]) / sigma_y) ** 2)  # (B, K, h)
    spots = along_y[..., :, None] * along_x[..., None, :]  # (B, K, h, w)
    return spots.nan_to_num(0.0).amax(dim=1)  # (B, h, w)


def heatmap_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the quality focal loss (Li et al. 2020, eq. 5) of heatmaps, both (B, h, w).

    Summed over pixels, divided by the mean number of maps with an aneurysm a rank, at least 1
    map in all.
    """
    occupied = distributed.total((target.flatten(1).amax(dim=1) > 0.1).sum()).clamp(min=1)
    return focal_losses(logits, target, gamma).sum() / (occupied / distributed.world())
