"""Competitors of the sequence transformer: models of (features, positions, present).

Each is made from (channels of the features, width of the tokens).
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from src.labels import LABELS
from src.networks.sequence_transformer import SequenceTransformer, gem_pool


class AttentionPooling(nn.Module):
    """A weighted mean over the slices for each label, by gated attention (Ilse et al. 2018)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(channels, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(0.15)
        )
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.weight, self.head = nn.Linear(width, len(LABELS)), nn.Linear(width, len(LABELS))

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        x = self.project(features)  # (B, T, W)
        weight = self.weight(self.value(x).tanh() * self.gate(x).sigmoid())  # (B, T, 14)
        weight = weight.masked_fill(~present[..., None], float("-inf")).softmax(dim=1)
        return (weight * self.head(x)).sum(dim=1)  # (B, 14)


class Recurrent(nn.Module):
    """Two layers of a GRU in both directions, GeM pooling, the transformer's head."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(channels, width), nn.LayerNorm(width), nn.Dropout(0.15)
        )
        self.gru = nn.GRU(width, width // 2, 2, batch_first=True, bidirectional=True, dropout=0.15)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.15),
            nn.Linear(width, len(LABELS)),
        )

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.project(features), present.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        x, _ = pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=features.shape[1]
        )  # (B, T, W)
        return self.head(gem_pool(x, present, self.power))  # (B, 14)


class Noisy(nn.Module):
    """A model whose features have noise in training: a fraction of their spread in the batch."""

    def __init__(self, model: nn.Module, fraction: float):
        super().__init__()
        self.model, self.fraction = model, fraction

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        if self.training:
            spread = self.fraction * features[present].std(dim=0)  # (C,)
            features = features + spread * torch.randn_like(features)  # (B, T, C)
        return self.model(features, positions, present)  # (B, 14)


def transformer(channels: int, width: int) -> SequenceTransformer:
    return SequenceTransformer(
        channels, width, layers=3, heads=1, dropout=0.15, attention_dropout=0.05
    )


def noisy_transformer(channels: int, width: int) -> Noisy:
    return Noisy(transformer(channels, width), 0.3)
