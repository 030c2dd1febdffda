"""The sequence transformer: features of the slices of a series -> 14 logits."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from src.labels import LABELS
from src.script import UserError

DISTANCE_KNOTS = 32  # learned values of the relative position term
FARTHEST = 200.0  # mm; beyond, all distances count as this one
FADING = 20.0  # mm over which the first bias falls by 1
FINEST = 2.0  # mm; below, the knots are evenly spaced, above they thin out as the logarithm


class DistanceBias(nn.Module):
    """A learned attention bias of the signed distance in mm, linear between knots that lie dense at short distances.

    It begins as a slope, nearer slices counting more (Press et al. 2022): at the published rate of 1e-5 it would hardly leave zero.
    """

    def __init__(self) -> None:
        super().__init__()
        reach = math.asinh(FARTHEST / FINEST)
        knots = FINEST * torch.sinh(torch.linspace(-reach, reach, DISTANCE_KNOTS))  # mm
        self.values = nn.Parameter(-knots.abs() / FADING)

    def forward(self, positions: Tensor) -> Tensor:
        """positions: (B, T) mm -> (B, T, T), the bias of token j for the query i."""
        distance = positions[:, None, :] - positions[:, :, None]
        place = (torch.asinh(distance / FINEST) / math.asinh(FARTHEST / FINEST)).clamp(
            -1, 1
        )  # -1..1
        place = (place + 1) / 2 * (DISTANCE_KNOTS - 1)
        left = place.floor().clamp(max=DISTANCE_KNOTS - 2)
        share = place - left
        left = left.long()
        low, high = (
            self.values.index_select(0, at.flatten()).view_as(at) for at in (left, left + 1)
        )  # unlike values[left], bit for bit repeatable
        return low * (1 - share) + high * share


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
        query, key, value = (
            self.query_key_value(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        rate = self.attention_dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), dropout_p=rate
        )
        x = self.norms[0](
            x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        )
        return self.norms[1](x + self.dropout(self.feed_forward(x)))


class NeighbourConvolution(nn.Module):
    """A convolution of kernel 3 along the slices, added to what the first layer made (as in DeBERTa-v2, He et al. 2021)."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, before: Tensor, after: Tensor, present: Tensor) -> Tensor:
        """before, after: (B, T, W), the input and output of the first layer; present: (B, T), False at padding."""
        masked = (before * present[..., None]).transpose(1, 2)
        return self.norm(after + self.dropout(self.conv(masked).transpose(1, 2).relu()))


def gem_pool(x: Tensor, present: Tensor, power: Tensor) -> Tensor:
    """Generalised mean over the tokens that are present (Radenovic et al. 2018, eq. 3): (B, T, W) -> (B, W), in float32."""
    powered = x.float().clamp(min=1e-6) ** power * present[..., None]
    return (powered.sum(1) / present.sum(1, keepdim=True)).clamp(min=1e-30) ** (1 / power)


class SequenceTransformer(nn.Module):
    """Slice features (B, T, C), positions (B, T) in mm and which tokens are present (B, T) -> logits (B, 14).

    Padding is invisible: the logits of a series do not depend on how far it is padded.
    """

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
        """features: (B, T, C); positions: (B, T) mm; present: (B, T) bool. Logits (B, 14) float32."""
        batch, length, _ = features.shape
        x = torch.cat(
            [self.cls.expand(batch, 1, -1), self.project(features)], dim=1
        )  # (B, 1 + T, W)
        everywhere = torch.cat([present.new_ones(batch, 1), present], dim=1)  # (B, 1 + T)
        bias = x.new_zeros(batch, 1 + length, 1 + length)
        bias[:, 1:, 1:] = self.distance_bias(positions)
        bias = bias.masked_fill(~everywhere[:, None, :], float("-inf"))[
            :, None
        ]  # (B, 1, 1 + T, 1 + T)

        for number, layer in enumerate(self.layers):
            after = layer(x, bias)
            x = self.convolution(x, after, everywhere) if number == 0 else after

        pooled = gem_pool(x[:, 1:], present, self.power)
        return self.head(torch.cat([x[:, 0].float(), pooled], dim=1)).float()


def build_transformer(
    settings: dict, weights: dict[str, Tensor], device: torch.device
) -> SequenceTransformer:
    """The trained network of a checkpoint, ready to predict."""
    model = new_transformer(settings)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights do not fit the sequence transformer: {str(error).splitlines()[0]}"
        ) from error
    return model.to(device).eval()


def new_transformer(settings: dict) -> SequenceTransformer:
    """An untrained network from the settings of train_stage2.py and the `channels` of the features."""
    names = ("channels", "width", "layers", "heads", "dropout", "attention_dropout")
    return SequenceTransformer(**{name: settings[name] for name in names})
