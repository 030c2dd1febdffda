"""How probabilities are calibrated, on disk: scale and offset of each label and of findings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.artifacts.files import read_json, write_json
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder, remedy, require
from src.artifacts.provenance import fingerprint
from src.labels import LABELS

MOST = 1e6  # of a scale and of an offset's size
FRACTIONS = {"sensitivity": "positives", "specificity": "negatives"}  # and what they are of
PAIR = [True, True]
POINTS, CALIBRATED_POINTS = "operating_points", "calibrated_operating_points"


class Calibration(NamedTuple):
    """A calibrated logit is scale * logit + offset."""

    scales: np.ndarray  # (14,) above 0
    offsets: np.ndarray  # (14,)
    findings: tuple[float, float] | None  # scale and offset; None if they were not fitted


def write_calibration(
    folder: EncoderFolder, calibration: Calibration, made_of: dict, folds: list[int]
) -> None:
    """Write what `read_calibration` reads, and beside it what it was fitted on.

    folds: whose predictions it was fitted on.
    """
    runs = {str(fold): _run_of(folder, fold) for fold in folds}
    there = {fold: run.inference for fold, run in runs.items() if run.inference.exists()}
    weights = {fold: fingerprint(path) for fold, path in there.items()}
    write_json(folder.calibration, content_of(calibration) | made_of | {"weights": weights})


def read_calibration(folder: EncoderFolder) -> Calibration:
    """Return what tools/report.py fitted.

    Raise ArtifactError if it is missing or impossible, or if one of the networks whose predictions
    it was fitted on was trained again since.
    """
    path = require(folder.calibration)
    content = read_json(path)
    for other in _other_weights(folder, content):
        raise ArtifactError(
            f"{path} was fitted on predictions of other weights than {other}: "
            "evaluate all folds again, then run tools/report.py"
        )
    return calibration_of(path, content)


def read_operating_points(folder: EncoderFolder, calibrated: bool) -> list[dict]:
    """Return what `operating_points_of` finds beside the calibration.

    An empty list if it is missing, or of networks that were trained again since.
    calibrated: of calibrated probabilities, not of those as the networks give them.
    """
    if not folder.calibration.exists():
        return []
    content = read_json(folder.calibration)
    if any(_other_weights(folder, content)):
        return []
    return operating_points_of(content.get(CALIBRATED_POINTS if calibrated else POINTS))


def _other_weights(folder: EncoderFolder, content: dict) -> Iterator[Path]:
    """Yield the weights that are others than those whose predictions were calibrated."""
    weights = content.get("weights")  # missing in files of older versions
    for fold, expected in (weights if type(weights) is dict else {}).items():
        path = _run_of(folder, fold).inference
        if path.exists() and fingerprint(path) != expected:
            yield path


def _run_of(folder: EncoderFolder, fold: int | str) -> RunFolder:
    return RunFolder(folder.root.parent, folder.root.name, fold)


def operating_points_of(rows: Any) -> list[dict]:
    """Return rows as `src.evaluation.scoring.at_threshold` makes them; none if one is not."""
    if type(rows) is not list or not all(type(row) is dict for row in rows):
        return []
    for row in rows:
        if not all(map(_is_fraction, (row.get("threshold"), *map(row.get, FRACTIONS)))):
            return []
        if not all(type(row.get(count)) is int for count in FRACTIONS.values()):
            return []
        ends = [row.get(f"{name}_interval") for name in FRACTIONS]
        if not all(type(pair) is list and list(map(_is_fraction, pair)) == PAIR for pair in ends):
            return []
    return rows


def content_of(calibration: Calibration) -> dict:
    """Return the plain values that `calibration_of` takes."""
    pairs = zip(calibration.scales.tolist(), calibration.offsets.tolist(), strict=True)
    maps = [{"scale": scale, "offset": offset} for scale, offset in pairs]
    findings = None
    if calibration.findings:
        findings = dict(zip(("scale", "offset"), calibration.findings, strict=True))
    return {"labels": dict(zip(LABELS, maps, strict=True)), "findings": findings}


def calibration_of(path: Path, content: dict) -> Calibration:
    """Return the calibration that a json of `path` holds; raise ArtifactError if it is none."""
    labels = content.get("labels")
    if type(labels) is not dict or "findings" not in content:
        raise ArtifactError(f"{path} is no calibration: {remedy(path)}")
    maps = np.array([_map_of(path, labels.get(label), repr(label)) for label in LABELS])  # (14, 2)
    findings = content["findings"]
    if findings is not None:
        findings = _map_of(path, findings, "findings")
    return Calibration(*maps.T, findings)


def _map_of(path: Path, content: Any, name: str) -> tuple[float, float]:
    pair = [content.get(key) if type(content) is dict else None for key in ("scale", "offset")]
    if all(map(_is_number, pair)) and pair[0] > 0:
        return float(pair[0]), float(pair[1])
    raise ArtifactError(f"{path} has no scale above 0 and offset for {name}: {remedy(path)}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -MOST <= value <= MOST


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1
