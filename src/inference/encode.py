"""Slices of many series through stage 1, in full batches."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.device import autocast
from src.networks.slice_cnn import SliceCNN
from src.sampling.resample import seen_volume
from src.sampling.view import View

# Of a batch on the CPU: what stays in its caches takes half to three quarters of the time.
CACHED_IMAGES = 32  # images
CACHED_PIXELS = 800_000  # pixels of all its images together


def as_volume(images: np.ndarray, view: View, device: torch.device) -> Tensor:
    """Return what the network sees of prepared images (n, S, S) float16: (n, crop, crop) float16.

    Without a view in mm it is a view of their memory; for a GPU a copy in pinned memory, so that
    the upload does not wait.
    """
    volume = seen_volume(torch.from_numpy(images), view, device)
    if view.in_mm or device.type == "cpu":
        return volume
    return torch.empty(volume.shape, dtype=volume.dtype, pin_memory=True).copy_(volume)


def encode(
    model: SliceCNN, volume: Tensor, triplets: np.ndarray, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return features (k, C) and logits (k, 14) of one series; see `encode_series`."""
    ((_, features, logits),) = encode_series(model, [(None, volume, triplets)], batch_size)
    return features, logits


@torch.inference_mode()
def encode_series(
    model: SliceCNN,
    series: Iterable[tuple[Any, Tensor, np.ndarray]],
    batch_size: int,
    pad_last: bool = False,
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield (key, features (k, C), logits (k, 14)) of each (key, volume, triplets), in order.

    The results are float32 on the model's device. Batches run on across series, so that those
    of short series are full, too; on the CPU they are cut down to what its caches hold.

    volume: (n, crop, crop) float16, uploaded once.
    triplets: (k, 3), the slices that make the three channels (see `sampling.slices.neighbours`).
    pad_last: fill up the last batch, so that the bits of a slice's features do not depend on which
        series came before it.
    """
    device = device_of(model)
    waiting: deque[tuple[Any, int]] = deque()  # key and number of slices, not yielded yet
    encoded: list[tuple[Tensor, Tensor]] = []  # features and logits of their slices so far
    images: list[Tensor] = []  # (b, 3, crop, crop) float16, of the next batch
    filled = 0  # images in the next batch
    for key, volume, triplets in series:
        volume = volume.to(device, non_blocking=True)
        waiting.append((key, len(triplets)))
        index = torch.from_numpy(triplets).to(device)
        batch_size = fitting_batch(batch_size, volume)
        while len(index):
            part, index = index.tensor_split([batch_size - filled])
            images.append(volume[part])
            filled += len(part)
            if filled == batch_size:
                encoded.append(_encode_batch(model, images))
                images, filled = [], 0
        del volume  # its slices of the next batch are copies
        yield from _complete_series(waiting, encoded)
    if images:
        if pad_last:
            images.append(images[0].new_zeros(batch_size - filled, *images[0].shape[1:]))
        features, logits = _encode_batch(model, images)
        encoded.append((features[:filled], logits[:filled]))
    yield from _complete_series(waiting, encoded)


@torch.inference_mode()
def encode_with_heat(
    model: SliceCNN, volume: Tensor, triplets: np.ndarray, batch_size: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return features (k, C), logits (k, 14) and heat (k, h, w) in 0..1 of one series.

    The heat is where the network looks, or None if it cannot tell (see `SliceCNN.locate`).
    """
    volume = volume.to(device_of(model), non_blocking=True)
    index = torch.from_numpy(triplets).to(volume.device)
    features, logits, heats = [], [], []
    for part in index.split(fitting_batch(batch_size, volume)):
        batch = _as_batch([volume[part]])
        with autocast(batch.device):
            out, heat = model.locate(batch)
        features.append(out.features)
        logits.append(out.logits)
        heats.append(heat)
    known = all(heat is not None for heat in heats)
    return torch.cat(features), torch.cat(logits), torch.cat(heats) if known else None


@torch.inference_mode()
def logits_at(
    model: SliceCNN, volume: Tensor, triplets: Tensor, places: Tensor, batch_size: int
) -> Tensor | None:
    """Return the logits (k, 14) of a place on each slice, or None (see `SliceCNN.logits_at`).

    volume: (n, crop, crop) float16; triplets: (k, 3), both on the model's device.
    places: (k, 2) x and y in pixels of the crop.
    """
    found = []
    size = fitting_batch(batch_size, volume)
    for part, points in zip(triplets.split(size), places.split(size), strict=True):
        batch = _as_batch([volume[part]])
        with autocast(batch.device):
            logits = model.logits_at(batch, points.to(batch.device))
        if logits is None:
            return None
        found.append(logits)
    return torch.cat(found)


def device_of(model: Any) -> torch.device:
    """Return where a network computes; one in an ONNX file says so itself."""
    return next(model.parameters()).device if isinstance(model, nn.Module) else model.device


def fitting_batch(batch_size: int, volume: Tensor) -> int:
    """Return the batch size; on the CPU at most what its caches hold."""
    if volume.device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, CACHED_IMAGES, CACHED_PIXELS // volume[0].numel()))


def _as_batch(images: list[Tensor]) -> Tensor:
    return torch.cat(images).float().contiguous(memory_format=torch.channels_last)  # (B, 3, H, W)


def _encode_batch(model: SliceCNN, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    batch = _as_batch(images)
    with autocast(batch.device):
        out = model(batch)
    return out.features, out.logits


def _complete_series(
    waiting: deque[tuple[Any, int]], encoded: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield and forget the series that are encoded to their last slice."""
    while waiting and waiting[0][1] <= sum(len(features) for features, _ in encoded):
        key, count = waiting.popleft()
        features = torch.cat([features for features, _ in encoded])
        logits = torch.cat([logits for _, logits in encoded])
        encoded[:] = [(features[count:], logits[count:])] if len(features) > count else []
        yield key, features[:count], logits[:count]
