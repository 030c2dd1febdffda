"""Probabilities of the samples of a loader, by either stage."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from src import distributed
from src.device import autocast, to_device
from src.inference.both_stages import series_probabilities
from src.labels import LABELS
from src.progress import progress
from src.sampling.augment import crops
from src.sampling.loader import batches_of


@torch.inference_mode()
def predict(
    loader, probabilities_of: Callable[[dict], Tensor], device: torch.device, what: str
) -> np.ndarray:
    """Probabilities (N, 14) float32 of all samples of a loader, in the order of its rows; ranks share the work and all get the whole."""
    out = torch.zeros(len(loader.dataset), len(LABELS), device=device)
    for batch in progress(batches_of(loader), what, " batches", total=len(loader), leave=False):
        out[batch["index"].to(device)] = probabilities_of(batch).float()
    return distributed.total(out).cpu().numpy()


def predict_spots(
    model: torch.nn.Module, batch: dict, crop_size: int, device: torch.device
) -> torch.Tensor:
    """Probabilities (B, 14) of spots."""
    images = crops(to_device(batch, device), crop_size)
    with autocast(device):
        return model(images).logits.sigmoid()


def predict_series(
    model: torch.nn.Module, batch: dict, share: float, device: torch.device
) -> torch.Tensor:
    """Probabilities (B, 14) of series."""
    return series_probabilities(model, to_device(batch, device), share)
