"""Both trained networks joined: the slices of a series in, 14 probabilities out."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.artifacts.paths import RunFolder
from src.device import autocast
from src.inference.encode import as_volume, device_of, encode_series
from src.inference.onnx import OnnxSliceCNN, OnnxTransformer, digest
from src.labels import MIRROR
from src.networks.sequence_transformer import build_transformer
from src.networks.slice_cnn import build_slice_cnn
from src.progress import Clock
from src.sampling.slices import MIRRORABLE, STEPS, neighbours, slice_positions, thin


def series_probabilities(
    transformer: Callable[..., Tensor], batch: dict[str, Tensor], share: float
) -> Tensor:
    """(B, 14) of series: sigmoid of a weighted mean of the transformer's logits and of stage 1's highest logits over the slices.

    batch: features, positions and present as SequenceTransformer reads them, `highest` (B, 14). share: weight of the latter in 0..1. Both err
    differently: the highest logit knows the places better (stage 1 learned them from many slices), the transformer whether there is an aneurysm.
    They are joined only here: on the series that stage 1 was fitted on its logits are too good, and a transformer trained with them learns little.
    """
    with autocast(batch["features"].device):
        logits = transformer(batch["features"], batch["positions"], batch["present"])
    return torch.lerp(logits, batch["highest"], share).sigmoid()


@dataclass
class UsedSlices:
    """What both stages read of a series."""

    prepared: np.ndarray  # (k, S, S) float16, in 0..TOP
    triplets: (
        np.ndarray
    )  # (V, T, 3) indices into prepared: for each step, each token's slice and its neighbours
    positions: np.ndarray  # (T,) float32 mm, of the tokens
    mirrorable: bool  # whether the images' x axis is the patient's left-right axis


class BothStages:
    """The joined weights: the slices of series in, 14 probabilities out."""

    def __init__(
        self,
        checkpoint: dict,
        device: torch.device,
        both_steps: bool = False,
        mirror: bool = False,
        onnx: RunFolder | None = None,
    ):
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
        return np.stack(
            [neighbours(self.tokens(length), step, length) for step in self.steps]
        )  # (V, T, 3)

    def used_slices(
        self,
        prepared: np.ndarray,
        there: np.ndarray,
        positions: np.ndarray | None,
        length: int,
        plane: str,
    ) -> UsedSlices:
        """prepared: the slices `there` (k,) ascending, which hold all that are `needed`; positions: (n,) mm of all slices of the series, or None;
        plane as in dicom.Series."""
        positions = np.full(length, np.nan) if positions is None else positions
        triplets = np.searchsorted(there, self._triplets(length))
        return UsedSlices(
            prepared, triplets, slice_positions(positions, self.tokens(length)), plane in MIRRORABLE
        )

    def predict(
        self, series: Iterable[tuple[Any, UsedSlices]], batch_size: int, clock: Clock
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """(key, probabilities (14,) float32) of each (key, slices), in order; full batches across series. clock: what it took."""
        encoded = encode_series(
            self.slice_cnn, (self._views(key, used) for key, used in series), batch_size
        )
        for (key, used), features, logits in encoded:
            if features.is_cuda:
                torch.cuda.synchronize(
                    features.device
                )  # else the clock would count the encoder's work to what waits for it first
            with clock.part("sequence"):
                probabilities = self._read_sequence(used, features, logits)
            yield key, probabilities

    def explain(
        self, used: UsedSlices, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray, Tensor | None]:
        """(probabilities (14,) of the series, (T, 14) of its slices by stage 1 alone, where on them: (T, h, w) in 0..1 on the CPU, or None)."""
        ((_, features, logits, heat),) = encode_series(
            self.slice_cnn, [self._views(None, used)], batch_size, heat=True
        )
        slices = self._mean_over_views(
            used, logits.sigmoid(), lambda mirrored: mirrored[..., list(MIRROR)]
        )
        where = (
            None
            if heat is None
            else self._mean_over_views(used, heat.float(), lambda mirrored: mirrored.flip(-1)).cpu()
        )
        return self._read_sequence(used, features, logits), slices.cpu().numpy(), where

    def _mean_over_views(
        self, used: UsedSlices, values: Tensor, unmirror: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """values: (V * T, ...) of all views -> (T, ...)."""
        values = values.view(-1, len(used.positions), *values.shape[1:])
        straight, mirrored = values[: len(self.steps)], values[len(self.steps) :]
        return torch.cat([straight, unmirror(mirrored)]).mean(dim=0)

    def _views(self, key: Any, used: UsedSlices) -> tuple[tuple, Tensor, np.ndarray]:
        """A series for `encode_series`: its volume, mirrored once more where asked, and the triplets of all views."""
        volume, triplets = (
            as_volume(used.prepared, self.stage1["crop_size"], self.device),
            used.triplets,
        )
        if self.mirror and used.mirrorable:
            triplets = np.concatenate([triplets, triplets + len(volume)])  # (2 V, T, 3)
            volume = volume.to(self.device, non_blocking=True)
            volume = torch.cat([volume, volume.flip(-1)])
        return (key, used), volume, triplets.reshape(-1, 3)

    @torch.inference_mode()
    def _read_sequence(self, used: UsedSlices, features: Tensor, logits: Tensor) -> np.ndarray:
        """Mean probabilities (14,) of the views, whose features (V * T, C) and logits (V * T, 14) follow one another."""
        features, logits = (
            x.half().float().view(-1, len(used.positions), x.shape[-1]) for x in (features, logits)
        )  # (V, T, ...), rounded as in files
        positions = (
            torch.from_numpy(used.positions).to(self.device).expand(len(features), -1)
        )  # (V, T)
        present = torch.ones_like(positions, dtype=torch.bool)
        batch = {
            "features": features,
            "positions": positions,
            "present": present,
            "highest": logits.amax(dim=1),
        }
        probabilities = series_probabilities(self.transformer, batch, self.stage2["stage1_share"])
        mirrored = len(self.steps)  # views from here on are of the mirrored head
        probabilities[mirrored:] = probabilities[mirrored:, list(MIRROR)]
        return probabilities.mean(dim=0).cpu().numpy()
