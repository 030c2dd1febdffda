"""Where trained networks come from: a model folder, or a bundle of tools/export_bundle.py."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from src.artifacts.bundle import read_bundle
from src.artifacts.calibration import (
    Calibration,
    operating_points_of,
    read_calibration,
    read_operating_points,
)
from src.artifacts.checkpoints import read_joined, read_trained
from src.artifacts.paths import (
    ALL_DATA,
    ArtifactError,
    EncoderFolder,
    RunFolder,
    remedy,
    trained_networks,
)
from src.evaluation import choice
from src.evaluation.choice import Chosen
from src.labels import LABELS, PRESENT
from src.script import UserError

IN_A_BUNDLE = ("model_dir", "encoder", "folds", "train_on_all", "onnx")  # flags of the tools


class Source(NamedTuple):
    """The networks of one training."""

    joined: list[dict]  # the content of weights_inference.pth of each
    places: list[str]  # where each comes from, for messages
    runs: list[RunFolder | None]  # folders of their ONNX files, if there can be any
    calibration: Callable[[], Calibration]  # or raises ArtifactError
    operating_points: Callable[[bool], list[dict]]  # of probabilities, calibrated or not
    names: dict  # what they are, as plain values


def from_folder(
    model_dir: Path, encoder: str, folds: tuple[int | str, ...], select: str = "best"
) -> Source:
    """Return the networks of `folds`. select: "best" or "last" epoch of stage 2."""
    require_trained(model_dir, encoder, folds)
    runs = [RunFolder(model_dir, encoder, fold) for fold in folds]
    joined = [joined_weights(run, select) for run in runs]
    folder = EncoderFolder(model_dir, encoder)
    names = {
        "encoder": encoder,
        "folds": folds,
        "train_on_all": ALL_DATA in folds,
        "data": _data_of(joined[0]),
        "date": day_of(runs),
        "image_size": joined[0]["stage1_settings"]["image_size"],
    }
    places = [str(run.root) for run in runs]
    points = partial(read_operating_points, folder)
    return Source(joined, places, list(runs), lambda: read_calibration(folder), points, names)


def require_trained(model_dir: Path, encoder: str, folds: tuple[int | str, ...]) -> None:
    """Raise ArtifactError, which names those that there are, if networks of `folds` are missing."""
    if not folds:
        raise ArtifactError(
            f"--folds needs at least one number, as in --folds 0: {trained_networks(model_dir)}"
        )
    for fold in folds:
        path = RunFolder(model_dir, encoder, fold).inference
        if not path.exists():
            raise ArtifactError(
                f"{path} is missing: {remedy(path)} or name another network; "
                f"{trained_networks(model_dir)}"
            )


def from_bundle(path: Path) -> Source:
    """Return all networks of a bundle. Raise ArtifactError if it is not as it was made."""
    bundle = read_bundle(path)

    def calibration() -> Calibration:
        if bundle.calibration is None:
            raise ArtifactError(
                f"{path} holds no calibration, as none was fitted: predict without --calibrate"
            )
        return bundle.calibration

    joined = list(bundle.networks.values())
    settings, about = joined[0]["stage1_settings"], bundle.about
    names = {
        "bundle": bundle.seal,
        "encoder": settings["encoder"],
        "networks": list(bundle.networks),
        "data": about.get("dataset"),
        "date": about.get("date"),
        "image_size": settings["image_size"],
    }

    def points(calibrated: bool) -> list[dict]:  # --figures does not say of which they are
        return [] if calibrated else _points_on_test_set(about.get("test_set"))

    places = [f"{path}, {name}" for name in bundle.networks]
    return Source(joined, places, [None] * len(joined), calibration, points, names)


def _data_of(joined: dict) -> str | None:
    """Return the folder of the training's data as it was given, of an absolute one the name."""
    path = joined["stage1_settings"].get("data_dir")
    if not isinstance(path, str):
        return None
    return Path(path).name if Path(path).is_absolute() else path


def day_of(runs: list[RunFolder]) -> str:
    """Return the day, in UTC, on which the newest weights were written."""
    newest = max(run.inference.stat().st_mtime for run in runs)
    return datetime.fromtimestamp(newest, UTC).date().isoformat()


def _points_on_test_set(figures: Any) -> list[dict]:
    """Return the operating points in figures of tools/score.py, none if there are none."""
    by_label = figures.get("thresholds") if type(figures) is dict else None
    return operating_points_of(by_label.get(LABELS[PRESENT]) if type(by_label) is dict else None)


def require_no_other(config: Any) -> None:
    """Raise UserError if a tool is asked for a bundle and for networks elsewhere."""
    for field in fields(config):
        named = field.name in IN_A_BUNDLE and getattr(config, field.name) != field.default
        if config.bundle and named:
            raise UserError(
                f"--bundle holds its own networks: give it without --{field.name.replace('_', '-')}"
            )


def joined_weights(run: RunFolder, select: str) -> dict:
    """Return weights_inference.pth, or the same with the transformer of the last epoch."""
    joined = read_joined(run)
    if select == "last":
        stage2 = read_trained(run, "stage2", select)
        joined |= {"stage2": stage2["weights"], "stage2_settings": stage2["settings"]}
    return joined


def chosen_pairs(
    model_dir: Path, encoder: str, folds: list[int], select: str = "best"
) -> dict[int, Chosen]:
    """Return step and weight of stage 1 for the held-out series of each fold."""
    settings = {}
    for fold in folds:
        run = RunFolder(model_dir, encoder, fold)
        settings[fold] = joined_weights(run, select)["stage2_settings"]
    return choice.of_folds(settings, select)
