"""Slices of many series through stage 1 in full batches."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.device import autocast
from src.networks.slice_cnn import SliceCNN
from src.sampling.slices import centre_crop

CACHED_IMAGES, CACHED_PIXELS = 32, 800_000  # of a batch on the CPU, and of all its images together


def as_volume(prepared: np.ndarray, crop: int, device: torch.device) -> Tensor:
    """Prepared slices (n, S, S) float16 -> their centre (n, crop, crop), a view; for a GPU a copy in memory from which it fetches by itself."""
    view = torch.from_numpy(centre_crop(prepared, crop))
    return (
        view
        if device.type == "cpu"
        else torch.empty(view.shape, dtype=view.dtype, pin_memory=True).copy_(view)
    )


def encode(
    model: SliceCNN, volume: Tensor, triplets: np.ndarray, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Features (k, C) and logits (k, 14) of the slices of one series; see `encode_series`."""
    ((_, features, logits),) = encode_series(model, [(None, volume, triplets)], batch_size)
    return features, logits


@torch.inference_mode()
def encode_series(
    model: SliceCNN,
    series: Iterable[tuple[Any, Tensor, np.ndarray]],
    batch_size: int,
    fixed: bool = False,
    heat: bool = False,
) -> Iterator[tuple]:
    """(key, features (k, C), logits (k, 14)), float32 on the model's device, of each (key, volume, triplets), in order.

    volume: (n, crop, crop) float16, uploaded once; triplets: (k, 3), the slices that make the three channels (volume.neighbours).
    Batches run on across series, so that those of short series are full, too; on the CPU they are cut down to what its caches hold.
    fixed: fill up the last one as well, so that the bits of a slice's features do not depend on which series came before it.
    heat: also hand out where the network looks, (k, h, w) in 0..1, or None where it cannot tell (SliceCNN.locate).
    """
    device = device_of(model)
    waiting: deque[tuple[Any, int]] = (
        deque()
    )  # (key, number of slices) of the series that are not handed out yet
    encoded: list[
        tuple[Tensor | None, ...]
    ] = []  # their features, logits (and heat) so far, in order
    images: list[Tensor] = []  # (b, 3, crop, crop) float16, of the next batch
    filled = 0  # so many of them
    for key, volume, triplets in series:
        volume = volume.to(device, non_blocking=True)
        waiting.append((key, len(triplets)))
        index = torch.from_numpy(triplets).to(device)
        batch_size = fitting_batch(batch_size, volume)
        while len(index):
            piece, index = index.tensor_split([batch_size - filled])
            images.append(volume[piece])
            filled += len(piece)
            if filled == batch_size:
                encoded.append(_encode_batch(model, images, heat))
                images, filled = [], 0
        del volume  # its slices of the next batch are copies
        yield from _whole_series(waiting, encoded)
    if images:
        last = _encode_batch(model, _filled(images, batch_size - filled) if fixed else images, heat)
        encoded.append(tuple(_part(part, 0, filled) for part in last))
    yield from _whole_series(waiting, encoded)


def device_of(model: Any) -> torch.device:
    """Where a network computes: a module where its weights lie, an ONNX file as it says (onnx_model.py)."""
    return next(model.parameters()).device if isinstance(model, nn.Module) else model.device


def fitting_batch(batch_size: int, volume: Tensor) -> int:
    """The batch size itself; on the CPU no more than stays in its caches: small batches take half to three quarters of the time there."""
    if volume.device.type != "cpu":
        return batch_size
    return max(1, min(batch_size, CACHED_IMAGES, CACHED_PIXELS // volume[0].numel()))


def _filled(images: list[Tensor], room: int) -> list[Tensor]:
    """The images and as many more without anything in them."""
    return [*images, images[0].new_zeros(room, *images[0].shape[1:])]


def _encode_batch(model: SliceCNN, images: list[Tensor], heat: bool) -> tuple[Tensor | None, ...]:
    batch = torch.cat(images).float().contiguous(memory_format=torch.channels_last)
    with autocast(batch.device):
        if not heat:
            out = model(batch)
            return out.features, out.logits
        out, where = model.locate(batch)
    return out.features, out.logits, where


def _whole_series(
    waiting: deque[tuple[Any, int]], encoded: list[tuple[Tensor | None, ...]]
) -> Iterator[tuple]:
    """Take the series out of `waiting`, and their part out of `encoded`, that are encoded to their last slice."""
    while waiting and waiting[0][1] <= sum(len(parts[0]) for parts in encoded):
        key, count = waiting.popleft()
        joined = [
            None if any(part is None for part in parts) else torch.cat(parts)
            for parts in zip(*encoded, strict=True)
        ]
        rest = len(joined[0]) - count
        encoded[:] = [tuple(_part(part, count, count + rest) for part in joined)] if rest else []
        yield key, *(_part(part, 0, count) for part in joined)


def _part(part: Tensor | None, first: int, last: int) -> Tensor | None:
    return None if part is None else part[first:last]
