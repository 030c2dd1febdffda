"""Both trained networks joined: prepared series in, 14 probabilities out."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.artifacts.paths import RunFolder
from src.inference.encode import (
    as_volume,
    device_of,
    encode,
    encode_series,
    encode_with_heat,
    logits_at,
)
from src.inference.onnx import OnnxSliceCNN, OnnxTransformer, digest
from src.inference.probabilities import joined, series_logits
from src.labels import LABELS, MIRROR, PRESENT
from src.networks.sequence_transformer import build_transformer
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.preprocess.head import sample_slices
from src.preprocess.images import PreparedSeries
from src.progress import Clock
from src.sampling.regions import Stack, from_centre, names_there
from src.sampling.slices import (
    MIRRORABLE,
    STEPS,
    neighbours,
    slice_positions,
    step_counts,
    thin,
)
from src.sampling.view import View, extent_mm, view_of


class BothStages:
    """The networks of one fold.

    They look at a series in V views: at one step or both, and at the mirrored head, too.
    The T slices that become tokens of the transformer are the same in each.
    """

    def __init__(
        self,
        checkpoint: dict,
        device: torch.device,
        both_steps: bool = False,
        mirror: bool = False,
        onnx: RunFolder | None = None,
    ):
        """Build the networks from the content of weights_inference.pth.

        both_steps: also predict from the other step, and take the mean; doubles the work.
        mirror: also predict from the mirrored head, and take the mean; doubles the work.
        onnx: compute with the ONNX files of this folder instead, on the CPU.
        """
        self.stage1, self.stage2 = checkpoint["stage1_settings"], checkpoint["stage2_settings"]
        self.steps: tuple[int, ...] = STEPS if both_steps else (self.stage2["step"],)
        self.view_mm, self.step_mm = self.stage1["view_mm"], self.stage1["step_mm"]
        self.mirror = mirror
        self._weights = checkpoint["stage1"] if onnx else None
        if onnx is None:
            self.slice_cnn = build_slice_cnn(self.stage1, checkpoint["stage1"], device)
            self.transformer = build_transformer(self.stage2, checkpoint["stage2"], device)
        else:
            self.slice_cnn = OnnxSliceCNN(onnx.slice_cnn_onnx, digest(checkpoint["stage1"]))
            self.transformer = OnnxTransformer(onnx.transformer_onnx, digest(checkpoint["stage2"]))
        self.device = device_of(self.slice_cnn)

    def tokens(self, length: int) -> np.ndarray:
        """Return which slices (T,) of a series of `length` slices become tokens."""
        return thin(length, self.stage2["cut"])

    def needed(self, length: int, between: float | None) -> np.ndarray:
        """Return the slice numbers (k,), ascending, that are read of a series of `length` slices.

        They are the tokens and all their neighbours; for a view in mm those that show the head,
        too. between: mm between slices, None if unknown.
        """
        needed = self._triplets(length, between)
        if self.view_mm:
            needed = np.append(needed, sample_slices(length))
        return np.unique(needed)

    def view(self, prepared: PreparedSeries) -> View:
        """Return what stage 1 sees of a prepared series."""
        series = prepared.series
        extent = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
        size, crop = prepared.images.shape[-1], self.stage1["crop_size"]
        head = prepared.head if self.view_mm else None
        return view_of(extent, size, crop, self.view_mm, head)

    def predict(
        self, series: Iterable[tuple[Any, PreparedSeries]], batch_size: int, clock: Clock
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield (key, probabilities (14,) float32) of each (key, series), in order.

        Batches are full across series. The clock counts what the transformer takes.
        """
        views = (
            ((key, self._positions(prepared)), *self._views(prepared)) for key, prepared in series
        )
        for (key, positions), features, logits in encode_series(self.slice_cnn, views, batch_size):
            if features.is_cuda:
                # Else the clock would count the encoder's work to what waits for it first.
                torch.cuda.synchronize(features.device)
            with clock.part("sequence"):
                probabilities = self._read_sequence(positions, features, logits)
            yield key, probabilities

    def explain(
        self, prepared: PreparedSeries, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray | None, Tensor | None]:
        """Return the probabilities (14,) of a series, and what stage 1 alone says of its slices.

        Of the T slices: their probabilities (T, 14), None if the weights hold no head for them,
        and the heat (T, h, w) in 0..1 on the CPU, None if the network cannot tell where it looks.
        """
        positions = self._positions(prepared)
        views = self._views(prepared)
        if not self.stage1.get("slice_logits", True):
            features, logits = encode(self.slice_cnn, *views, batch_size)
            return self._read_sequence(positions, features, logits), None, None
        features, logits, heat = encode_with_heat(self.slice_cnn, *views, batch_size)
        slices = self._mean_over_views(
            logits.sigmoid(), len(positions), lambda mirrored: mirrored[..., list(MIRROR)]
        )
        if heat is not None:
            heat = self._mean_over_views(
                heat.float(), len(positions), lambda mirrored: mirrored.flip(-1)
            ).cpu()
        return self._read_sequence(positions, features, logits), slices.cpu().numpy(), heat

    @torch.inference_mode()
    def locations_at(
        self, prepared: PreparedSeries, tokens: np.ndarray, places: np.ndarray, batch_size: int
    ) -> np.ndarray | None:
        """Return the probabilities (k, 13) of each location, were there an aneurysm at a place.

        They are the mean over the head and the mirrored head, so that a mirrored head has the
        mirrored names. None if the network cannot tell.

        tokens: (k,) which of the T slices, k > 0; places: (k, 2) x and y in pixels of the crop.
        """
        series = prepared.series
        triplets = self._triplets(len(series.slices), series.spacing[0])[:, tokens]  # (S, k, 3)
        numbers, triplets = np.unique(triplets, return_inverse=True)
        images = prepared.images[np.searchsorted(prepared.numbers, numbers)]
        volume = as_volume(images, self.view(prepared), self.device).to(self.device)
        index = torch.from_numpy(triplets.reshape(-1, 3)).to(self.device)  # (S * k, 3)
        where = torch.from_numpy(places).float().repeat(len(self.steps), 1)  # (S * k, 2)
        views = [(volume, where, range(len(LABELS)))]
        if series.plane in MIRRORABLE:
            there = where * torch.tensor([-1.0, 1.0]) + torch.tensor([volume.shape[-1] - 1.0, 0.0])
            views.append((volume.flip(-1), there, MIRROR))
        found = []
        for seen, points, order in views:
            logits = logits_at(self._reader, seen, index, points, batch_size)  # (S * k, 14)
            if logits is None:
                return None
            found.append(logits[:, list(order)].sigmoid())
        mean = torch.stack(found).view(-1, len(tokens), len(LABELS)).mean(dim=0)
        return mean[:, :PRESENT].cpu().numpy()

    def names_at(
        self,
        prepared: PreparedSeries,
        tokens: np.ndarray,
        places: np.ndarray,
        probabilities: np.ndarray,
    ) -> np.ndarray:
        """Return the probabilities (k, 13) of each location there, given the place in the head.

        tokens, places: as in `locations_at`. probabilities: (k, 13) by the features alone.
        """
        series, there = prepared.series, {}
        stack = Stack(len(series.slices), series.spacing[0])
        if not self.view_mm or prepared.head is not None:
            slices = self.tokens(stack.length)[tokens]
            there = from_centre(series.plane, self.view(prepared), places, slices, stack)
        return names_there(self.stage1.get("regions", {}), there, probabilities)

    @cached_property
    def _reader(self) -> SliceCNN:
        """The network in PyTorch: the ONNX file reads whole slices alone."""
        if isinstance(self.slice_cnn, SliceCNN):
            return self.slice_cnn
        return build_slice_cnn(self.stage1, self._weights, self.device)

    def _triplets(self, length: int, between: float | None) -> np.ndarray:
        """Return the slice numbers (steps, T, 3) of each token and its neighbours at each step.

        between: mm between slices.
        """
        tokens, counts = self.tokens(length), step_counts(self.step_mm, between)
        return np.stack([neighbours(tokens, counts[step - 1], length) for step in self.steps])

    def _positions(self, prepared: PreparedSeries) -> np.ndarray:
        """Return the tokens' positions (T,) float32 in mm."""
        series = prepared.series
        length = len(series.slices)
        positions = np.full(length, np.nan) if series.positions is None else series.positions
        return slice_positions(positions, self.tokens(length))

    def _views(self, prepared: PreparedSeries) -> tuple[Tensor, np.ndarray]:
        """Return the volume (n, crop, crop) and the triplets (V * T, 3) into it.

        The views follow one another: each step, then each step of the mirrored head.
        """
        series = prepared.series
        volume = as_volume(prepared.images, self.view(prepared), self.device)
        triplets = self._triplets(len(series.slices), series.spacing[0])
        triplets = np.searchsorted(prepared.numbers, triplets)
        if self.mirror and series.plane in MIRRORABLE:
            triplets = np.concatenate([triplets, triplets + len(volume)])  # (V, T, 3)
            volume = volume.to(self.device, non_blocking=True)
            volume = torch.cat([volume, volume.flip(-1)])
        return volume, triplets.reshape(-1, 3)

    def _mean_over_views(
        self, values: Tensor, count: int, unmirror: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the mean (T, ...) over the views of values (V * T, ...); count: T."""
        values = values.view(-1, count, *values.shape[1:])  # (V, T, ...)
        straight, mirrored = values[: len(self.steps)], values[len(self.steps) :]
        return torch.cat([straight, unmirror(mirrored)]).mean(dim=0)

    @torch.inference_mode()
    def _read_sequence(self, positions: np.ndarray, features: Tensor, logits: Tensor) -> np.ndarray:
        """Return the mean probabilities (14,) over the views.

        positions: (T,) mm; features: (V * T, C); logits: (V * T, 14).
        """
        count = len(positions)
        # Rounded to float16, as in the files of extract_features.py.
        features = features.half().float().view(-1, count, features.shape[-1])  # (V, T, C)
        logits = logits.half().float().view(-1, count, logits.shape[-1])  # (V, T, 14)
        in_mm = torch.from_numpy(positions).to(self.device).expand(len(features), -1)  # (V, T)
        batch = {
            "features": features,
            "positions": in_mm,
            "present": torch.ones_like(in_mm, dtype=torch.bool),
            "highest": logits.amax(dim=1),  # (V, 14)
        }
        both = series_logits(self.transformer, batch)  # (V, 2, 14)
        probabilities = joined(both, self.stage2["stage1_weight"])
        mirrored = len(self.steps)  # views from here on are of the mirrored head
        probabilities[mirrored:] = probabilities[mirrored:, list(MIRROR)]
        return probabilities.mean(dim=0).cpu().numpy()
