"""Trained folds as one: a series of DICOM files in, probabilities and findings out. What tools/predict.py and tools/kaggle_server.py share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.artifacts.checkpoints import read_joined, read_temperatures
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder
from src.dicom import Series
from src.evaluation.calibration import logit, sigmoid
from src.inference.both_stages import BothStages, UsedSlices
from src.inference.findings import LEAST, Finding, find
from src.preprocess.images import prepared_images, read_words_of, stacked
from src.progress import Clock


@dataclass
class PreparedSeries:
    """A series, and those of its slices that the networks read."""

    series: Series
    there: np.ndarray  # (k,) ascending, slice numbers
    images: np.ndarray  # (k, S, S) float16 in 0..5, of these


@dataclass
class Prediction:
    """What the networks say of a series."""

    probabilities: np.ndarray  # (14,)
    tokens: np.ndarray  # (T,) slices that were looked at
    slices: np.ndarray  # (T, 14) their probabilities by stage 1 alone
    heat: (
        torch.Tensor | None
    )  # (T, h, w) in 0..1, where on them; None where the network cannot tell
    findings: list[Finding]  # most probable first
    crop: int  # pixels of the prepared images, side of what the network saw of them


class Predictor:
    """The mean of the networks of several folds. onnx: compute with their ONNX files (tools/export_onnx.py), on the CPU.
    calibrate: divide the logits of series by the temperatures that tools/report.py fitted."""

    def __init__(
        self,
        model_dir: Path,
        encoder: str,
        folds: tuple[int, ...],
        device: torch.device,
        *,
        both_steps: bool = False,
        mirror: bool = False,
        onnx: bool = False,
        calibrate: bool = False,
    ):
        runs = [RunFolder(model_dir, encoder, fold) for fold in folds]
        joined = [read_joined(run) for run in runs]
        self.models = [
            BothStages(weights, device, both_steps, mirror, run if onnx else None)
            for weights, run in zip(joined, runs, strict=True)
        ]
        self.prior = np.mean(
            [weights["prior"] for weights in joined], axis=0
        )  # (14,) for series that cannot be read
        for name in ("image_size", "mr_window", "crop_size", "heatmap_weight"):
            values = {model.stage1[name] for model in self.models}
            if len(values) > 1:
                raise ArtifactError(
                    f"the folds were trained with {name} {sorted(values)}: take those of one training"
                )
        if len({model.stage2["cut"] for model in self.models}) > 1:
            raise ArtifactError(
                "the folds thin long series differently (cut): take those of one training"
            )
        self.settings = self.models[0].stage1
        self.temperatures = (
            read_temperatures(EncoderFolder(model_dir, encoder)) if calibrate else None
        )

    def prepare(self, series: Series) -> PreparedSeries:
        """Read what is needed of an opened series. Raises DicomError where it gives no volume."""
        words, there = read_words_of(series, self.settings["mr_window"], self._needed)
        images = prepared_images(
            series, words, self.settings["image_size"], self.settings["mr_window"], there
        )
        return PreparedSeries(series, there, stacked(images, len(there)))

    def _needed(self, length: int) -> np.ndarray:
        return np.unique(np.concatenate([model.needed(length) for model in self.models]))

    def probabilities(self, prepared: PreparedSeries, batch_size: int) -> np.ndarray:
        """(14,) of one series, and nothing else."""
        said = [
            next(model.predict([(None, used)], batch_size, Clock()))[1]
            for model, used in self._used(prepared)
        ]
        return self._calibrated(np.mean(said, axis=0))

    def _used(self, prepared: PreparedSeries) -> list[tuple[BothStages, UsedSlices]]:
        series, length = prepared.series, len(prepared.series.slices)
        return [
            (
                model,
                model.used_slices(
                    prepared.images, prepared.there, series.positions, length, series.plane
                ),
            )
            for model in self.models
        ]

    def _calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        return (
            probabilities
            if self.temperatures is None
            else sigmoid(logit(probabilities) / self.temperatures)
        )

    def predict(
        self, prepared: PreparedSeries, batch_size: int, least: float = LEAST
    ) -> Prediction:
        """Of one series. least: probability of a finding."""
        series = prepared.series
        said = [model.explain(used, batch_size) for model, used in self._used(prepared)]
        probabilities, slices = (
            np.mean(parts, axis=0) for parts in list(zip(*said, strict=True))[:2]
        )
        probabilities = self._calibrated(probabilities)
        heats = [heat for _, _, heat in said if heat is not None]
        heat = torch.stack(heats).mean(dim=0) if heats else None
        tokens = self.models[0].tokens(len(series.slices))
        found = []
        if heat is not None:
            found = find(
                series,
                tokens,
                slices,
                heat,
                self.settings["image_size"],
                self.settings["crop_size"],
                least,
            )
        return Prediction(probabilities, tokens, slices, heat, found, self.settings["crop_size"])
