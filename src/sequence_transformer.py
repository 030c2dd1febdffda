"""The sequence transformer: features of the slices of a series -> 14 logits; what it makes of them with stage 1; both stages joined for inference."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from src.artifacts import RunFolder
from src.datasets import MIRRORABLE, STEPS, slice_positions, thin
from src.engine import autocast
from src.labels import LABELS, MIRROR
from src.onnx_model import OnnxSliceCNN, OnnxTransformer, digest
from src.runtime import Clock, UserError
from src.slice_cnn import as_volume, build_slice_cnn, device_of, encode_series
from src.volume import neighbours

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
        place = (torch.asinh(distance / FINEST) / math.asinh(FARTHEST / FINEST)).clamp(-1, 1)  # -1..1
        place = (place + 1) / 2 * (DISTANCE_KNOTS - 1)
        left = place.floor().clamp(max=DISTANCE_KNOTS - 2)
        share = place - left
        left = left.long()
        low, high = (self.values.index_select(0, at.flatten()).view_as(at) for at in (left, left + 1))  # unlike values[left], bit for bit repeatable
        return low * (1 - share) + high * share


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, T, W); bias: (B, 1, T, T), -inf where a key is padding."""
        batch, length, width = x.shape
        query, key, value = self.query_key_value(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.attention_dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), dropout_p=rate)
        x = self.norms[0](x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, width))))
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

    def __init__(self, channels: int, width: int, layers: int, heads: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width), nn.Dropout(dropout))
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.distance_bias = DistanceBias()
        self.layers = nn.ModuleList(Layer(width, heads, dropout, attention_dropout) for _ in range(layers))
        self.convolution = NeighbourConvolution(width, dropout)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, len(LABELS))
        )

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        """features: (B, T, C); positions: (B, T) mm; present: (B, T) bool. Logits (B, 14) float32."""
        batch, length, _ = features.shape
        x = torch.cat([self.cls.expand(batch, 1, -1), self.project(features)], dim=1)  # (B, 1 + T, W)
        everywhere = torch.cat([present.new_ones(batch, 1), present], dim=1)  # (B, 1 + T)
        bias = x.new_zeros(batch, 1 + length, 1 + length)
        bias[:, 1:, 1:] = self.distance_bias(positions)
        bias = bias.masked_fill(~everywhere[:, None, :], float("-inf"))[:, None]  # (B, 1, 1 + T, 1 + T)

        for number, layer in enumerate(self.layers):
            after = layer(x, bias)
            x = self.convolution(x, after, everywhere) if number == 0 else after

        pooled = gem_pool(x[:, 1:], present, self.power)
        return self.head(torch.cat([x[:, 0].float(), pooled], dim=1)).float()


def series_probabilities(transformer: Callable[..., Tensor], batch: dict[str, Tensor], share: float) -> Tensor:
    """(B, 14) of series: sigmoid of a weighted mean of the transformer's logits and of stage 1's highest logits over the slices.

    batch: features, positions and present as SequenceTransformer reads them, `highest` (B, 14). share: weight of the latter in 0..1. Both err
    differently: the highest logit knows the places better (stage 1 learned them from many slices), the transformer whether there is an aneurysm.
    They are joined only here: on the series that stage 1 was fitted on its logits are too good, and a transformer trained with them learns little.
    """
    with autocast(batch["features"].device):
        logits = transformer(batch["features"], batch["positions"], batch["present"])
    return torch.lerp(logits, batch["highest"], share).sigmoid()


def build_transformer(settings: dict, weights: dict[str, Tensor], device: torch.device) -> SequenceTransformer:
    """The trained network of a checkpoint, ready to predict."""
    model = new_transformer(settings)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"the weights do not fit the sequence transformer: {str(error).splitlines()[0]}") from error
    return model.to(device).eval()


def new_transformer(settings: dict) -> SequenceTransformer:
    """An untrained network from the settings of train_stage2.py and the `channels` of the features."""
    names = ("channels", "width", "layers", "heads", "dropout", "attention_dropout")
    return SequenceTransformer(**{name: settings[name] for name in names})


@dataclass
class UsedSlices:
    """What both stages read of a series."""

    prepared: np.ndarray  # (k, S, S) float16, in 0..TOP
    triplets: np.ndarray  # (V, T, 3) indices into prepared: for each step, each token's slice and its neighbours
    positions: np.ndarray  # (T,) float32 mm, of the tokens
    mirrorable: bool  # whether the images' x axis is the patient's left-right axis


class BothStages:
    """The joined weights: the slices of series in, 14 probabilities out."""

    def __init__(self, checkpoint: dict, device: torch.device, both_steps: bool = False, mirror: bool = False, onnx: RunFolder | None = None):
        """checkpoint: content of weights_inference.pth. both_steps, mirror: also predict from the other step, from the mirrored head, and
        take the mean; each doubles the work. onnx: where the ONNX files of these weights lie, to compute with them instead, on the CPU."""
        self.stage1, self.stage2 = checkpoint["stage1_settings"], checkpoint["stage2_settings"]
        self.steps: tuple[int, ...] = STEPS if both_steps else (self.stage2["step"],)
        self.mirror = mirror
        if onnx is None:
            self.slice_cnn = build_slice_cnn(self.stage1, checkpoint["stage1"], device)
            self.transformer = build_transformer(self.stage2, checkpoint["stage2"], device)
        else:
            self.slice_cnn = OnnxSliceCNN(onnx.slice_cnn_onnx, digest(checkpoint["stage1"]))
            self.transformer = OnnxTransformer(onnx.transformer_onnx, digest(checkpoint["stage2"]))
        self.device = device_of(self.slice_cnn)

    def tokens(self, length: int) -> np.ndarray:
        """(T,) slices of a series of so many that become tokens."""
        return thin(length, self.stage2["cut"])

    def needed(self, length: int) -> np.ndarray:
        """(k,) ascending: the tokens and their neighbours, all that must be prepared."""
        return np.unique(self._triplets(length))

    def _triplets(self, length: int) -> np.ndarray:
        return np.stack([neighbours(self.tokens(length), step, length) for step in self.steps])  # (V, T, 3)

    def used_slices(self, prepared: np.ndarray, there: np.ndarray, positions: np.ndarray | None, length: int, plane: str) -> UsedSlices:
        """prepared: the slices `there` (k,) ascending, which hold all that are `needed`; positions: (n,) mm of all slices of the series, or None;
        plane as in dicom.Series."""
        positions = np.full(length, np.nan) if positions is None else positions
        triplets = np.searchsorted(there, self._triplets(length))
        return UsedSlices(prepared, triplets, slice_positions(positions, self.tokens(length)), plane in MIRRORABLE)

    def predict(self, series: Iterable[tuple[Any, UsedSlices]], batch_size: int, clock: Clock) -> Iterator[tuple[Any, np.ndarray]]:
        """(key, probabilities (14,) float32) of each (key, slices), in order; full batches across series. clock: what it took."""
        encoded = encode_series(self.slice_cnn, (self._views(key, used) for key, used in series), batch_size)
        for (key, used), features, logits in encoded:
            if features.is_cuda:
                torch.cuda.synchronize(features.device)  # else the clock would count the encoder's work to what waits for it first
            with clock.part("sequence"):
                probabilities = self._read_sequence(used, features, logits)
            yield key, probabilities

    def explain(self, used: UsedSlices, batch_size: int) -> tuple[np.ndarray, np.ndarray, Tensor | None]:
        """(probabilities (14,) of the series, (T, 14) of its slices by stage 1 alone, where on them: (T, h, w) in 0..1 on the CPU, or None)."""
        ((_, features, logits, heat),) = encode_series(self.slice_cnn, [self._views(None, used)], batch_size, heat=True)
        slices = self._mean_over_views(used, logits.sigmoid(), lambda mirrored: mirrored[..., list(MIRROR)])
        where = None if heat is None else self._mean_over_views(used, heat.float(), lambda mirrored: mirrored.flip(-1)).cpu()
        return self._read_sequence(used, features, logits), slices.cpu().numpy(), where

    def _mean_over_views(self, used: UsedSlices, values: Tensor, unmirror: Callable[[Tensor], Tensor]) -> Tensor:
        """values: (V * T, ...) of all views -> (T, ...)."""
        values = values.view(-1, len(used.positions), *values.shape[1:])
        straight, mirrored = values[: len(self.steps)], values[len(self.steps) :]
        return torch.cat([straight, unmirror(mirrored)]).mean(dim=0)

    def _views(self, key: Any, used: UsedSlices) -> tuple[tuple, Tensor, np.ndarray]:
        """A series for `encode_series`: its volume, mirrored once more where asked, and the triplets of all views."""
        volume, triplets = as_volume(used.prepared, self.stage1["crop_size"], self.device), used.triplets
        if self.mirror and used.mirrorable:
            triplets = np.concatenate([triplets, triplets + len(volume)])  # (2 V, T, 3)
            volume = volume.to(self.device, non_blocking=True)
            volume = torch.cat([volume, volume.flip(-1)])
        return (key, used), volume, triplets.reshape(-1, 3)

    @torch.inference_mode()
    def _read_sequence(self, used: UsedSlices, features: Tensor, logits: Tensor) -> np.ndarray:
        """Mean probabilities (14,) of the views, whose features (V * T, C) and logits (V * T, 14) follow one another."""
        features, logits = (x.half().float().view(-1, len(used.positions), x.shape[-1]) for x in (features, logits))  # (V, T, ...), rounded as in files
        positions = torch.from_numpy(used.positions).to(self.device).expand(len(features), -1)  # (V, T)
        present = torch.ones_like(positions, dtype=torch.bool)
        batch = {"features": features, "positions": positions, "present": present, "highest": logits.amax(dim=1)}
        probabilities = series_probabilities(self.transformer, batch, self.stage2["stage1_share"])
        mirrored = len(self.steps)  # views from here on are of the mirrored head
        probabilities[mirrored:] = probabilities[mirrored:, list(MIRROR)]
        return probabilities.mean(dim=0).cpu().numpy()
