"""The 2.5D CNN: a timm encoder over three neighbouring slices, an auxiliary heatmap of where the aneurysm is, 14 logits."""

import socket
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import getproxies

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.engine import autocast
from src.labels import LABELS, PRESENT
from src.runtime import UserError
from src.volume import centre_crop

MEAN = 2.5  # subtracted from the prepared intensities, which run from 0 to 5
STRIDES = (8, 16, 32)  # of the encoder's maps that the heatmap head reads
HEAT_CHANNELS = 64  # of the finest map
HEAD_CHANNELS = 256  # between the two linear layers of the joined head
CACHED_IMAGES, CACHED_PIXELS = 32, 800_000  # of a batch on the CPU, and of all its images together
RARE = -4.0  # first bias of the heatmap: a probability of 2 % everywhere


class SliceOutput(NamedTuple):
    """What the network makes of a batch."""

    logits: Tensor  # (B, 14)
    features: Tensor  # (B, C), what stage 2 reads
    heatmap: Tensor | None  # (B, h, w) logits at the finest stride


class HeatmapHead(nn.Module):
    """Lateral 1x1 convolutions added top-down, one 3x3 convolution, one channel of heat (a small feature pyramid, Lin et al. 2017)."""

    def __init__(self, channels: list[int]):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, HEAT_CHANNELS, 1) for c in channels)
        self.smooth = nn.Sequential(nn.Conv2d(HEAT_CHANNELS, HEAT_CHANNELS, 3, padding=1), nn.GELU())
        self.heat = nn.Conv2d(HEAT_CHANNELS, 1, 1)
        nn.init.constant_(self.heat.bias, RARE)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps from fine to coarse -> heat logits (B, h, w) and the features they point at (B, HEAT_CHANNELS + 2)."""
        merged = self.laterals[-1](maps[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            merged = lateral(finer) + interpolate(merged, size=finer.shape[-2:], mode="nearest")
        finest = self.smooth(merged)  # (B, D, h, w)
        heat = self.heat(finest)[:, 0].float()  # (B, h, w)
        weights = heat.flatten(1).softmax(dim=1).view_as(heat)
        with torch.autocast(heat.device.type, enabled=False):
            pooled = torch.einsum("bhw,bdhw->bd", weights, finest.float())
        return heat, torch.cat([pooled, expected_position(weights)], dim=1)


def expected_position(weights: Tensor) -> Tensor:
    """Mean x, y in -1..1 under weights (B, h, w) that sum to 1: (B, 2)."""
    rows, columns = weights.shape[-2:]
    x = (torch.arange(columns, device=weights.device) * 2 + 1) / columns - 1
    y = (torch.arange(rows, device=weights.device) * 2 + 1) / rows - 1
    return torch.stack([(weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)], dim=1)


class SliceCNN(nn.Module):
    """(B, 3, H, W) prepared intensities 0..5 -> SliceOutput.

    With `heatmap` the features are the encoder's pooled ones joined by the heat-weighted finest map and the expected position,
    and a small head makes the logits; without, it is the published network: pooled features, dropout, one linear layer.
    """

    def __init__(self, encoder: str, heatmap: bool, pretrained: bool = False, checkpoint: Path | None = None, dropout: float = 0.1):
        super().__init__()
        self.encoder = load_encoder(encoder, pretrained, checkpoint)
        self.taps = map_indices(self.encoder)
        channels = self.encoder.head_hidden_size
        self.heatmap = None
        if heatmap:
            self.heatmap = HeatmapHead([self.encoder.feature_info[tap]["num_chs"] for tap in self.taps])
            channels += HEAT_CHANNELS + 2
        self.channels = channels  # C of the features
        self.head = _joined_head(channels, dropout) if heatmap else nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, len(LABELS)))

    def forward(self, images: Tensor) -> SliceOutput:
        """images: (B, 3, H, W) float32 in 0..5."""
        return self._output(*self._maps(images))

    def locate(self, images: Tensor) -> tuple[SliceOutput, Tensor | None]:
        """The same, and where it looks: (B, h, w) in 0..1; the heatmap, else the class activation map of the most probable location, None
        where the encoder has none."""
        final, maps = self._maps(images)
        out = self._output(final, maps)
        if out.heatmap is not None:
            return out, out.heatmap.sigmoid()
        with torch.autocast(images.device.type, enabled=False):
            activation = class_activation(self, final, out.logits[:, :PRESENT].argmax(dim=1))
        return out, None if activation is None else activation.relu() / activation.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)

    def _maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.encoder.forward_intermediates(images - MEAN, indices=self.taps, output_fmt="NCHW")

    def _output(self, final: Tensor, maps: list[Tensor]) -> SliceOutput:
        features = self.encoder.forward_head(final).float()  # (B, C)
        heat = None
        if self.heatmap is not None:
            heat, pointed = self.heatmap(maps)
            features = torch.cat([features, pointed], dim=1)
        return SliceOutput(self.head(features).float(), features, heat)


def class_activation(model: SliceCNN, final: Tensor, labels: Tensor) -> Tensor | None:
    """What each place adds to a logit (Zhou et al. 2016): (B, h, w), whose mean and the linear layer's bias make the logit of `labels` (B,).

    final: (B, C, h, w). The published head is linear in the pooled features: logit = w . N(mean of x) + b, where N is nothing, or a LayerNorm
    z -> g (z - m) / s + c with m and s of the pooled features. Both are affine once m and s are known, so w . N(x) of each place, with those
    m and s, has exactly the mean w . N(mean of x). None for other heads (those of ViTs read a token of its own).
    """
    if model.heatmap is not None or final.dim() != 4:
        return None
    final = final.float()
    pooled = final.mean(dim=(2, 3))  # (B, C)
    features = model.encoder.forward_head(final)
    norm = getattr(getattr(model.encoder, "head", None), "norm", None)
    places = final.permute(0, 2, 3, 1)  # (B, h, w, C)
    if not torch.allclose(pooled, features, atol=1e-3, rtol=1e-3):
        if not isinstance(norm, nn.LayerNorm):
            return None
        mean, spread = pooled.mean(dim=1), (pooled.var(dim=1, unbiased=False) + norm.eps).sqrt()
        places = (places - mean[:, None, None, None]) / spread[:, None, None, None] * norm.weight + norm.bias
        if not torch.allclose(places.mean(dim=(1, 2)), features, atol=1e-2, rtol=1e-2):
            return None
    return torch.einsum("bhwc,bc->bhw", places, model.head[-1].weight[labels])


def _joined_head(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, HEAD_CHANNELS), nn.GELU(), nn.Linear(HEAD_CHANNELS, len(LABELS)))


def map_indices(encoder: nn.Module) -> list[int]:
    """Which of the encoder's maps have stride 8, 16 and 32, from fine to coarse; of several with one stride the deepest."""
    deepest = {info["reduction"]: index for index, info in enumerate(encoder.feature_info)}
    return [deepest[stride] for stride in STRIDES if stride in deepest]


def load_encoder(name: str, pretrained: bool, checkpoint: Path | None) -> nn.Module:
    """A timm encoder without classifier; weights from the hub, from a local file, or random."""
    import timm  # here, as it takes longer to import than all else together, and only this needs it
    from huggingface_hub import constants

    overlay = {"file": str(checkpoint)} if checkpoint else None
    if pretrained and not checkpoint and not _answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True  # the local cache or nothing, instead of a minute of retries
    try:
        return timm.create_model(name, pretrained=pretrained or checkpoint is not None, num_classes=0, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        if "nknown model" in str(error):
            raise UserError(f"timm knows no encoder {name!r}: choose one of timm.list_models()") from error
        reason = str(error).splitlines()[0][:200]
        remedy = "name a local file with --checkpoint, or start from random weights with --no-pretrained"
        raise UserError(f"the weights of {name} could not be loaded ({reason}): {remedy}") from error


def _answers(endpoint: str) -> bool:
    """Whether the hub of pretrained weights can be reached; behind a proxy that is left to the download itself."""
    if getproxies():
        return True
    try:
        socket.create_connection((urlparse(endpoint).hostname, 443), timeout=3).close()
    except OSError:
        return False
    return True


def build_slice_cnn(settings: dict, weights: dict[str, Tensor], device: torch.device) -> SliceCNN:
    """The trained network of a checkpoint, ready to predict."""
    model = SliceCNN(settings["encoder"], heatmap=settings["heatmap_weight"] > 0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the weights do not fit the encoder {settings['encoder']}: {str(error).splitlines()[0]}") from error
    return model.to(device, memory_format=torch.channels_last).eval()


def as_volume(prepared: np.ndarray, crop: int, device: torch.device) -> Tensor:
    """Prepared slices (n, S, S) float16 -> their centre (n, crop, crop), a view; for a GPU a copy in memory from which it fetches by itself."""
    view = torch.from_numpy(centre_crop(prepared, crop))
    return view if device.type == "cpu" else torch.empty(view.shape, dtype=view.dtype, pin_memory=True).copy_(view)


def encode(model: SliceCNN, volume: Tensor, triplets: np.ndarray, batch_size: int) -> tuple[Tensor, Tensor]:
    """Features (k, C) and logits (k, 14) of the slices of one series; see `encode_series`."""
    ((_, features, logits),) = encode_series(model, [(None, volume, triplets)], batch_size)
    return features, logits


@torch.inference_mode()
def encode_series(
    model: SliceCNN, series: Iterable[tuple[Any, Tensor, np.ndarray]], batch_size: int, fixed: bool = False, heat: bool = False
) -> Iterator[tuple]:
    """(key, features (k, C), logits (k, 14)), float32 on the model's device, of each (key, volume, triplets), in order.

    volume: (n, crop, crop) float16, uploaded once; triplets: (k, 3), the slices that make the three channels (volume.neighbours).
    Batches run on across series, so that those of short series are full, too; on the CPU they are cut down to what its caches hold.
    fixed: fill up the last one as well, so that the bits of a slice's features do not depend on which series came before it.
    heat: also hand out where the network looks, (k, h, w) in 0..1, or None where it cannot tell (SliceCNN.locate).
    """
    device = device_of(model)
    waiting: deque[tuple[Any, int]] = deque()  # (key, number of slices) of the series that are not handed out yet
    encoded: list[tuple[Tensor | None, ...]] = []  # their features, logits (and heat) so far, in order
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


def _whole_series(waiting: deque[tuple[Any, int]], encoded: list[tuple[Tensor | None, ...]]) -> Iterator[tuple]:
    """Take the series out of `waiting`, and their part out of `encoded`, that are encoded to their last slice."""
    while waiting and waiting[0][1] <= sum(len(parts[0]) for parts in encoded):
        key, count = waiting.popleft()
        joined = [None if any(part is None for part in parts) else torch.cat(parts) for parts in zip(*encoded, strict=True)]
        rest = len(joined[0]) - count
        encoded[:] = [tuple(_part(part, count, count + rest) for part in joined)] if rest else []
        yield key, *(_part(part, 0, count) for part in joined)


def _part(part: Tensor | None, first: int, last: int) -> Tensor | None:
    return None if part is None else part[first:last]
