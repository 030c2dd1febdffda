"""The 2.5D CNN: three neighbouring slices -> a heatmap of where the aneurysm is, and 14 logits."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from src.labels import LABELS
from src.networks.class_activation import locate, logits_at
from src.networks.encoder import load_encoder, plan_encoder
from src.networks.trained import with_weights
from src.text import printable

MEAN = 2.5  # subtracted from the prepared intensities, which run from 0 to 5
HEAT_CHANNELS = 64  # of the finest map
HEAD_CHANNELS = 256  # between the two linear layers of the joined head
RARE = -4.0  # first bias of the heatmap: a probability of 2 % everywhere
FIRST_SHARPNESS = 3.0  # what HeatmapHead.sharpness starts from


class SliceOutput(NamedTuple):
    """What the network returns for a batch."""

    logits: Tensor  # (B, 14)
    features: Tensor  # (B, C), what stage 2 reads
    heatmap: Tensor | None  # (B, h, w) logits at the finest stride


class HeatmapHead(nn.Module):
    """A small feature pyramid (Lin et al. 2017) that ends in one channel of heat.

    The features are pooled with softmax(sharpness * heat) over the n cells of the map. If the heat
    of k cells is higher by d than that of all others, they get the weight
    sigmoid(sharpness * d - log(n / k - 1)). The loss of the heat makes d, about 5 when trained,
    whatever n is; the logarithm is 5 for 1 of 11 x 11 cells and 8 for 1 of 56 x 56. So at a
    sharpness of 1 the number of cells decides how much of the aneurysm is seen, at 3 it no longer
    does. From there it is learned; weight decay takes 2 % of it in a whole run.
    """

    def __init__(self, channels: list[int]):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, HEAT_CHANNELS, 1) for c in channels)
        convolution = nn.Conv2d(HEAT_CHANNELS, HEAT_CHANNELS, 3, padding=1)
        self.smooth = nn.Sequential(convolution, nn.GELU())
        self.heat = nn.Conv2d(HEAT_CHANNELS, 1, 1)
        nn.init.constant_(self.heat.bias, RARE)
        self.sharpness = nn.Parameter(torch.tensor(FIRST_SHARPNESS))

    def forward(self, maps: list[Tensor], places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps from fine to coarse -> heat logits (B, h, w), features (B, HEAT_CHANNELS + 2).

        places: (B, 2) x and y in 0..1 of the map; only the cells around them are pooled.
        """
        merged = self.laterals[-1](maps[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(maps[:-1]), strict=True):
            merged = lateral(finer) + interpolate(merged, size=finer.shape[-2:], mode="nearest")
        finest = self.smooth(merged)  # (B, D, h, w)
        with torch.autocast(finest.device.type, enabled=False):  # the softmax magnifies rounding
            finest = finest.float()
            heat = self.heat(finest)[:, 0]  # (B, h, w)
            sharp = self.sharpness * heat  # (B, h, w)
            if places is not None:
                sharp = sharp.masked_fill(~cells_around(places, *heat.shape[1:]), -torch.inf)
            weights = sharp.flatten(1).softmax(dim=1).view_as(heat)  # (B, h, w)
            pooled = torch.einsum("bhw,bdhw->bd", weights, finest)  # (B, D)
        return heat, torch.cat([pooled, expected_position(weights)], dim=1)


def cells_around(places: Tensor, rows: int, columns: int) -> Tensor:
    """Return which cells (B, rows, columns) touch the one that holds a place, itself among them.

    places: (B, 2) x and y in 0..1 of the map.
    """
    size = torch.tensor([columns, rows], device=places.device)
    column, row = (places * size).floor().clamp(0).minimum(size - 1).T[..., None]  # (B, 1)
    near_rows = (torch.arange(rows, device=places.device) - row).abs() <= 1  # (B, h)
    near_columns = (torch.arange(columns, device=places.device) - column).abs() <= 1  # (B, w)
    return near_rows[:, :, None] & near_columns[:, None, :]


def expected_position(weights: Tensor) -> Tensor:
    """Return the mean x, y in -1..1, (B, 2), under weights (B, h, w) that sum to 1."""
    rows, columns = weights.shape[-2:]
    x = (torch.arange(columns, device=weights.device) * 2 + 1) / columns - 1  # (w,)
    y = (torch.arange(rows, device=weights.device) * 2 + 1) / rows - 1  # (h,)
    return torch.stack([(weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)], dim=1)


class SliceCNN(nn.Module):
    """(B, 3, H, W) prepared intensities 0..5 -> SliceOutput.

    With `heatmap`, the heat-weighted finest map and the expected position join the pooled features.
    Without, it is the published network: pooled features, dropout, one linear layer.
    """

    def __init__(
        self,
        encoder: str,
        heatmap: bool,
        pretrained: bool = False,
        checkpoint: Path | None = None,
        dropout: float = 0.1,
        crop_size: int | None = None,
    ):
        """Build the network. Raise UserError if the encoder cannot be used.

        pretrained: load the encoder's weights from the hub, or else from the file `checkpoint`.
        dropout: rate before the head.
        crop_size: H and W, pixels; only encoders of fixed size need it, as theirs may be another.
        """
        super().__init__()
        self.plan = plan_encoder(encoder, crop_size)
        self.encoder = load_encoder(encoder, self.plan, pretrained, checkpoint)
        self.channels = self.plan.features  # C of the features
        self.heatmap = None
        head = [nn.Dropout(dropout)]
        if heatmap:
            self.heatmap = HeatmapHead(self.plan.channels)
            self.channels += HEAT_CHANNELS + 2
            head += [nn.Linear(self.channels, HEAD_CHANNELS), nn.GELU()]
        head += [nn.Linear(HEAD_CHANNELS if heatmap else self.channels, len(LABELS))]
        self.head = nn.Sequential(*head)

    def forward(self, images: Tensor) -> SliceOutput:
        return self.output(*self.maps(images))

    def locate(self, images: Tensor) -> tuple[SliceOutput, Tensor | None]:
        """Return also where the network looks, (B, h, w) in 0..1; see class_activation.locate."""
        return locate(self, images)

    def logits_at(self, images: Tensor, places: Tensor) -> Tensor | None:
        """Return the logits (B, 14) of one place on each slice, or None if it cannot tell.

        The head reads the features of that place, as if the heat were nowhere else; without
        heatmap see class_activation.logits_at.

        places: (B, 2) x and y in pixels of the images; centres are integers.
        """
        final, maps = self.maps(images)
        fractions = (places + 0.5) / images.shape[-1]  # (B, 2), the images are square
        if self.heatmap is None:
            with torch.autocast(images.device.type, enabled=False):
                return logits_at(self, final, fractions)
        return self.output(final, maps, fractions).logits

    def maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the encoder's final output, in its own layout, and its maps, each (B, C, h, w)."""
        shifted = images - MEAN  # (B, 3, H, W)
        taps = self.plan.taps
        return self.encoder.forward_intermediates(shifted, indices=taps, output_fmt="NCHW")

    def output(
        self, final: Tensor, maps: list[Tensor], places: Tensor | None = None
    ) -> SliceOutput:
        """Return the network's output from what `maps` returned; places: see HeatmapHead."""
        features = self.encoder.forward_head(final).float()  # (B, C)
        heat = None
        if self.heatmap is not None:
            heat, pointed = self.heatmap(maps, places)  # (B, h, w), (B, HEAT_CHANNELS + 2)
            features = torch.cat([features, pointed], dim=1)
        with torch.autocast(features.device.type, enabled=False):  # else positions are rounded
            logits = self.head(features)  # (B, 14)
        return SliceOutput(logits, features, heat)


def build_slice_cnn(settings: dict, weights: dict[str, Tensor], device: torch.device) -> SliceCNN:
    """Return the trained network of a checkpoint. Raise UserError if the weights do not fit."""
    name, heatmap = settings["encoder"], settings["heatmap_weight"] > 0
    if heatmap:  # networks of before, whose weights lack the sharpness, had 1
        weights = {"heatmap.sharpness": torch.ones(())} | weights
    model = with_weights(
        lambda: SliceCNN(name, heatmap, crop_size=settings["crop_size"]),
        weights,
        f"the encoder {printable(name, 80)}",
    )
    return model.to(device, memory_format=torch.channels_last).eval()
