"""Trained folds as one: an opened DICOM series in, probabilities and findings out.

eval_end_to_end.py is the ensemble of one fold; tools/predict.py, tools/kaggle_server.py and
tools/measure_findings.py use the same class.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.artifacts.paths import ArtifactError
from src.dicom import Series
from src.evaluation import calibration, choice
from src.evaluation.choice import Choice
from src.inference.both_stages import BothStages
from src.inference.findings import Finding, FindingRules, SlicePeaks, find, findings_at
from src.inference.probabilities import BROKEN_WEIGHTS, NotFinite
from src.inference.sources import from_bundle, from_folder
from src.labels import PRESENT
from src.preprocess.images import PreparedSeries, prepare
from src.progress import Clock
from src.sampling.view import View
from src.script import UserError
from src.text import printable

# Settings in which all folds must agree.
ONE_TRAINING = ("image_size", "mr_window", "crop_size", "heatmap_weight", "view_mm", "step_mm")


@dataclass
class Prediction:
    """What the networks say of a series."""

    probabilities: np.ndarray  # (14,)
    tokens: np.ndarray  # (T,) numbers of the slices that were looked at
    slices: np.ndarray | None  # (T, 14) their probabilities by stage 1 alone; None if unknown
    heat: torch.Tensor | None  # (T, h, w) in 0..1, where; None if the networks cannot tell
    findings: list[Finding]  # most probable first
    view: View  # what the networks saw of the prepared images
    calibrated: tuple[str, ...] = ()  # which probabilities are: "series", "findings"


class Predictor:
    """The mean of the networks of several folds."""

    def __init__(
        self,
        model_dir: Path,
        encoder: str,
        folds: tuple[int | str, ...],
        device: torch.device,
        *,
        select: str = "best",
        both_steps: bool = False,
        mirror: bool = False,
        onnx: bool = False,
        calibrate: bool = False,
        pair: Choice | None = None,
        bundle: Path | None = None,
    ):
        """Load the networks of `folds` from model_dir/encoder, or all that a bundle holds.

        select: "best" or "last" epoch of stage 2.
        both_steps, mirror: more views (see BothStages); each doubles the work.
        onnx: compute with the ONNX files of tools/export_onnx.py, on the CPU.
        calibrate: correct probabilities of series and findings by what tools/report.py fitted.
        pair: step and weight of stage 1; else, of several folds, the one best over their tables.
        bundle: a file of tools/export_bundle.py, in place of model_dir, encoder and folds.

        Raise ArtifactError if weights are missing, or if the folds do not fit one another.
        """
        source = from_bundle(bundle) if bundle else from_folder(model_dir, encoder, folds, select)
        joined = source.joined
        if pair is None and select == "best":
            pair = choice.of_ensemble([weights["stage2_settings"] for weights in joined])
        if pair:
            for weights in joined:
                weights["stage2_settings"] |= pair._asdict()
        self.models = []
        for weights, place, run in zip(joined, source.places, source.runs, strict=True):
            try:
                onnx_files = run if onnx else None
                model = BothStages(weights, device, both_steps, mirror, onnx_files)
            except UserError as error:
                raise ArtifactError(f"{place}: {error}") from error
            self.models.append(model)
        self.prior = np.mean([weights["prior"] for weights in joined], axis=0)  # (14,)
        self.settings = self.models[0].stage1
        self._require_one_training()
        self.calibration = source.calibration() if calibrate else None
        self._source = source

    @cached_property
    def names(self) -> dict:
        """What the networks are and their operating points, for what is written of a prediction."""
        points = self._source.operating_points(self.calibration is not None)
        return self._source.names | {"operating_points": points}

    def _require_one_training(self) -> None:
        for name in ONE_TRAINING:
            values = {model.stage1[name] for model in self.models}
            if len(values) > 1:
                raise ArtifactError(
                    f"the folds were trained with {name} {sorted(values)}: "
                    "take those of one training"
                )
        if len({model.stage2["cut"] for model in self.models}) > 1:
            raise ArtifactError(
                "the folds subsample long series differently (cut): take those of one training"
            )

    def prepare(self, series: Series) -> PreparedSeries:
        """Read and prepare, in memory, what the networks need of an opened series.

        Raise DicomError if it gives no volume.
        """
        return self.read(series).in_memory()

    def read(self, series: Series) -> PreparedSeries:
        """Read the same, and prepare its images only when they are asked for."""
        size, mr_window = self.settings["image_size"], self.settings["mr_window"]

        def needed(length: int) -> np.ndarray:
            of_each = [model.needed(length, series.spacing[0]) for model in self.models]
            return np.unique(np.concatenate(of_each))

        return prepare(series, size, mr_window, needed)

    def predict(
        self, series: Iterable[tuple[Any, PreparedSeries]], batch_size: int, clock: Clock
    ) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield (key, probabilities (14,)) of each (key, series), in order, and nothing else.

        They are NaN if the networks give no numbers.
        Batches are full across series. The clock counts what the transformers take.
        """
        # One model needs no tee, which keeps up to 57 items even for one consumer.
        copies = tee(series, len(self.models)) if len(self.models) > 1 else [series]
        streams = [
            model.predict(copy, batch_size, clock)
            for model, copy in zip(self.models, copies, strict=True)
        ]
        for predicted in zip(*streams, strict=True):
            key = predicted[0][0]
            mean = np.mean([probabilities for _, probabilities in predicted], axis=0)
            yield key, self._calibrated(mean)

    def explain(self, prepared: PreparedSeries, batch_size: int, rules: FindingRules) -> Prediction:
        """Return the probabilities of one series, and why: slices, heat and findings.

        Raise NotFinite if they are no numbers.
        """
        series = prepared.series
        explained = [model.explain(prepared, batch_size) for model in self.models]
        probabilities = np.mean([series_wide for series_wide, _, _ in explained], axis=0)
        known = [of_slices for _, of_slices, _ in explained if of_slices is not None]
        slices = np.mean(known, axis=0) if known else None
        heats = [heat for _, _, heat in explained if heat is not None]
        heat = torch.stack(heats).mean(dim=0) if heats else None
        for values in (probabilities, slices, heat):
            if values is not None and not np.isfinite(np.asarray(values)).all():
                uid = printable(series.slices[0].file.series_uid, 64)
                raise NotFinite(f"series {uid}: its probabilities are not finite: {BROKEN_WEIGHTS}")
        tokens = self.models[0].tokens(len(series.slices))
        view = self.models[0].view(prepared)
        findings = []
        if heat is not None:
            peaks = find(series, tokens, slices[:, PRESENT], heat, view, rules)
            locations = self._locations(prepared, peaks, batch_size)
            findings = findings_at(series, tokens, peaks, locations, view)
        found = Prediction(self._calibrated(probabilities), tokens, slices, heat, findings, view)
        return self._with_calibrated_findings(found)

    def _locations(
        self, prepared: PreparedSeries, peaks: SlicePeaks, batch_size: int
    ) -> np.ndarray:
        """Return the probabilities (k, 13) of each location at the peaks."""
        if not len(peaks.token):
            return np.zeros((0, PRESENT))
        places = np.stack([peaks.x, peaks.y], axis=1)
        found = []
        for model in self.models:
            by_features = model.locations_at(prepared, peaks.token, places, batch_size)
            if by_features is not None:  # else it has no heat either: others found the peaks
                found.append(model.names_at(prepared, peaks.token, places, by_features))
        return np.mean(found, axis=0)

    def _calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        if self.calibration is None:
            return probabilities
        scales, offsets, _ = self.calibration
        return calibration.apply(probabilities, scales, offsets)

    def _with_calibrated_findings(self, prediction: Prediction) -> Prediction:
        """Return the prediction, which says what is calibrated; the order of findings stays."""
        if self.calibration is None:
            return prediction
        if self.calibration.findings is None:
            return replace(prediction, calibrated=("series",))
        findings = []
        for finding in prediction.findings:
            probability = calibration.apply_one(finding.probability, *self.calibration.findings)
            findings.append(replace(finding, probability=probability))
        return replace(prediction, findings=findings, calibrated=("series", "findings"))
