"""The sequence transformer: features of the slices of a series -> 14 logits."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from src.labels import LABELS
from src.networks.deberta import PublishedTransformer
from src.networks.pooling import gem_pool
from src.networks.trained import with_weights

DISTANCE_KNOTS = 32  # learned values of the relative position term
FARTHEST = 200.0  # mm; beyond, all distances count as this one
FADING = 20.0  # mm over which the first bias falls by 1
FINEST = 2.0  # mm; the knots are even below, logarithmic above
REACH = math.asinh(FARTHEST / FINEST)


class DistanceBias(nn.Module):
    """A learned attention bias of the signed distance in mm, linear between its knots."""

    def __init__(self) -> None:
        super().__init__()
        knots = FINEST * torch.sinh(torch.linspace(-REACH, REACH, DISTANCE_KNOTS))  # mm
        # a slope that favours near slices (Press et al. 2022): at the published rate of 1e-5 the
        # bias would hardly leave zero
        self.values = nn.Parameter(-knots.abs() / FADING)

    def forward(self, positions: Tensor) -> Tensor:
        """Return the bias (B, T, T) of token j for query i; positions: (B, T) mm."""
        distance = positions[:, None, :] - positions[:, :, None]  # (B, T, T)
        place = (torch.asinh(distance / FINEST) / REACH).clamp(-1, 1)  # (B, T, T)
        place = (place + 1) / 2 * (DISTANCE_KNOTS - 1)  # (B, T, T), 0 is the first knot
        left = place.floor().clamp(max=DISTANCE_KNOTS - 2)  # (B, T, T)
        fraction = place - left  # (B, T, T)
        index = left.long().clamp(0, DISTANCE_KNOTS - 2)  # NaN has no index; its bias stays NaN
        low, high = self._lookup(index), self._lookup(index + 1)  # (B, T, T)
        return low * (1 - fraction) + high * fraction

    def _lookup(self, index: Tensor) -> Tensor:
        """Return values[index], but with gradients that repeat bit for bit."""
        return self.values.index_select(0, index.flatten()).view_as(index)


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, T, W); bias: (B, 1, T, T), -inf where a key is padding."""
        batch, length, width = x.shape
        joined = self.query_key_value(x)  # (B, T, 3 W)
        split = joined.view(batch, length, 3, self.heads, -1)  # (B, T, 3, heads, W / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (B, heads, T, W / heads) each
        rate = self.attention_dropout if self.training else 0.0
        mask = bias.to(query.dtype)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)  # (B, T, W)
        x = self.norms[0](x + self.dropout(self.out(mixed)))  # (B, T, W)
        return self.norms[1](x + self.dropout(self.feed_forward(x)))


class NeighbourConvolution(nn.Module):
    """A convolution over 3 slices, added to the first layer (as in DeBERTa-v2, He et al. 2021)."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, before: Tensor, after: Tensor, present: Tensor) -> Tensor:
        """before, after: (B, T, W), input and output of the first layer; present: (B, T) bool."""
        masked = (before * present[..., None]).transpose(1, 2)  # (B, W, T)
        mixed = self.conv(masked).transpose(1, 2).relu()  # (B, T, W)
        return self.norm(after + self.dropout(mixed))


class SequenceTransformer(nn.Module):
    """The features of a series' slices -> 14 logits, which do not depend on the padding."""

    def __init__(
        self,
        channels: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        attention_dropout: float,
    ):
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(channels, width), nn.LayerNorm(width), nn.Dropout(dropout)
        )
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.distance_bias = DistanceBias()
        self.layers = nn.ModuleList(
            Layer(width, heads, dropout, attention_dropout) for _ in range(layers)
        )
        self.convolution = NeighbourConvolution(width, dropout)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * width),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, len(LABELS)),
        )

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        """features: (B, T, C); positions: (B, T) mm; present: (B, T) bool -> (B, 14)."""
        batch, length, _ = features.shape
        cls = self.cls.expand(batch, 1, -1)  # (B, 1, W)
        x = torch.cat([cls, self.project(features)], dim=1)  # (B, 1 + T, W)
        everywhere = torch.cat([present.new_ones(batch, 1), present], dim=1)  # (B, 1 + T)
        bias = x.new_zeros(batch, 1 + length, 1 + length)
        bias[:, 1:, 1:] = self.distance_bias(positions)
        bias = bias.masked_fill(~everywhere[:, None, :], float("-inf"))  # (B, 1 + T, 1 + T)
        bias = bias[:, None]  # (B, 1, 1 + T, 1 + T)
        for number, layer in enumerate(self.layers):
            after = layer(x, bias)  # (B, 1 + T, W)
            x = self.convolution(x, after, everywhere) if number == 0 else after
        pooled = gem_pool(x[:, 1:], present, self.power)  # (B, W)
        return self.head(torch.cat([x[:, 0].float(), pooled], dim=1)).float()


def new_transformer(settings: dict) -> SequenceTransformer | PublishedTransformer:
    """Return an untrained network from the settings of stage 2, with `channels` of the features.

    With the setting `network` "deberta" it is the published one, as wide as the features.
    """
    names = ["channels", "layers", "heads", "dropout", "attention_dropout"]
    if settings.get("network") == "deberta":
        return PublishedTransformer(**{name: settings[name] for name in names})
    return SequenceTransformer(**{name: settings[name] for name in [*names, "width"]})


def build_transformer(
    settings: dict, weights: dict[str, Tensor], device: torch.device
) -> SequenceTransformer | PublishedTransformer:
    """Return the trained network of a checkpoint. Raise UserError if the weights do not fit."""
    build = partial(new_transformer, settings)
    model = with_weights(build, weights, "the sequence transformer")
    return model.to(device).eval()
