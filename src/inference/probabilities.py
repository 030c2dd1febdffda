"""Probabilities of a batch by either stage, and of all samples of a loader."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from src import distributed
from src.device import autocast, to_device
from src.labels import LABELS
from src.progress import progress
from src.sampling.augment import crops
from src.sampling.loader import batches_of
from src.script import UserError

BROKEN_WEIGHTS = "the weights are broken, train again with a lower --lr"


class NotFinite(UserError):
    """The networks say of a series what is no number."""


@torch.inference_mode()
def predict(
    loader,
    values_of: Callable[[dict], Tensor],
    device: torch.device,
    what: str,
    rows: tuple[int, ...] = (),
) -> np.ndarray:
    """Return probabilities or logits (N, *rows, 14) float32 of a loader's samples, in their order.

    Ranks share the work, and each gets the whole. Raise NotFinite if one is inf or NaN.

    values_of: batch -> (B, *rows, 14).
    what: the name of the progress bar.
    """
    out = torch.zeros(len(loader.dataset), *rows, len(LABELS), device=device)
    for batch in progress(batches_of(loader), what, " batches", total=len(loader), leave=False):
        out[batch["index"].to(device)] = values_of(batch).float()
    found = distributed.total(out).cpu().numpy()
    broken = np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(axis=1))
    if len(broken):
        raise NotFinite(
            f"series {loader.dataset.uid_of(broken[0])}: its probabilities are not finite, as are "
            f"those of {len(broken)} of {len(found)} {what}: {BROKEN_WEIGHTS}"
        )
    return found


def predict_spots(
    model: torch.nn.Module, batch: dict, crop_size: int, device: torch.device
) -> Tensor:
    """Return the probabilities (B, 14) of spots by stage 1."""
    images = crops(to_device(batch, device), crop_size)  # (B, 3, crop, crop)
    with autocast(device):
        return model(images).logits.sigmoid()


def predict_series(
    model: torch.nn.Module, batch: dict, stage1_weight: float, device: torch.device
) -> Tensor:
    """Return the probabilities (B, 14) of series by stage 2, joined with stage 1."""
    return joined(series_logits(model, to_device(batch, device)), stage1_weight)


def series_logits(transformer: Callable[..., Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Return (B, 2, 14): the transformer's logits of series, and stage 1's highest.

    batch: what SequenceTransformer reads, and `highest` (B, 14), stage 1's highest logits.
    """
    with autocast(batch["features"].device):
        logits = transformer(batch["features"], batch["positions"], batch["present"])  # (B, 14)
    return torch.stack([logits, batch["highest"]], dim=1)


def joined(logits: Tensor, stage1_weight: float) -> Tensor:
    """Return the probabilities (B, 14) of series: both stages' logits averaged, then sigmoid.

    The two err differently. Stage 1's highest logit over the slices knows the places better,
    as it learned them from many slices; the transformer knows better whether there is an aneurysm.
    They are joined only here: on the series that stage 1 was fitted on its logits are too good,
    and a transformer that trains with them learns little.

    logits: (B, 2, 14) of `series_logits`.
    stage1_weight: weight of stage 1's highest logits in the mean, 0..1.
    """
    return torch.lerp(logits[:, 0], logits[:, 1], stage1_weight).sigmoid()
