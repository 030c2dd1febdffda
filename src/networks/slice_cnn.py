"""The 2.5D CNN: a timm encoder over three neighbouring slices, an auxiliary heatmap of where the aneurysm is, 14 logits."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.labels import LABELS, PRESENT
from src.networks.class_activation import class_activation
from src.networks.encoder import load_encoder, map_indices
from src.script import UserError

MEAN = 2.5  # subtracted from the prepared intensities, which run from 0 to 5
HEAT_CHANNELS = 64  # of the finest map
HEAD_CHANNELS = 256  # between the two linear layers of the joined head
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
        self.smooth = nn.Sequential(
            nn.Conv2d(HEAT_CHANNELS, HEAT_CHANNELS, 3, padding=1), nn.GELU()
        )
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

    def __init__(
        self,
        encoder: str,
        heatmap: bool,
        pretrained: bool = False,
        checkpoint: Path | None = None,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.encoder = load_encoder(encoder, pretrained, checkpoint)
        self.taps = map_indices(self.encoder)
        channels = self.encoder.head_hidden_size
        self.heatmap = None
        if heatmap:
            self.heatmap = HeatmapHead(
                [self.encoder.feature_info[tap]["num_chs"] for tap in self.taps]
            )
            channels += HEAT_CHANNELS + 2
        self.channels = channels  # C of the features
        self.head = (
            _joined_head(channels, dropout)
            if heatmap
            else nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, len(LABELS)))
        )

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
        return out, None if activation is None else activation.relu() / activation.amax(
            dim=(1, 2), keepdim=True
        ).clamp(min=1e-6)

    def _maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.encoder.forward_intermediates(
            images - MEAN, indices=self.taps, output_fmt="NCHW"
        )

    def _output(self, final: Tensor, maps: list[Tensor]) -> SliceOutput:
        features = self.encoder.forward_head(final).float()  # (B, C)
        heat = None
        if self.heatmap is not None:
            heat, pointed = self.heatmap(maps)
            features = torch.cat([features, pointed], dim=1)
        return SliceOutput(self.head(features).float(), features, heat)


def _joined_head(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(channels, HEAD_CHANNELS),
        nn.GELU(),
        nn.Linear(HEAD_CHANNELS, len(LABELS)),
    )


def build_slice_cnn(settings: dict, weights: dict[str, Tensor], device: torch.device) -> SliceCNN:
    """The trained network of a checkpoint, ready to predict."""
    model = SliceCNN(settings["encoder"], heatmap=settings["heatmap_weight"] > 0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights do not fit the encoder {settings['encoder']}: {str(error).splitlines()[0]}"
        ) from error
    return model.to(device, memory_format=torch.channels_last).eval()
