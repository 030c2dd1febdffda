"""Trained weights on disk."""

import pickle
from pathlib import Path

import numpy as np

from src.artifacts.files import atomic, read_json, unwritable
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder, require
from src.labels import LABELS


def write_checkpoint(path: Path, content: dict) -> None:
    """Save tensors and plain values, with the order of the labels that they were made for."""
    import torch

    with atomic(path) as file:
        try:
            torch.save({**content, "labels": list(LABELS)}, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise unwritable(path, error) from error


def read_checkpoint(path: Path, needed: tuple[str, ...]) -> dict:
    """A checkpoint on the CPU. Refused: a broken file, code in it, other labels or another order of them, a missing key."""
    import torch

    try:
        content = torch.load(require(path), map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        AttributeError,
        TypeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            f"{path} is not a whole checkpoint of plain tensors ({reason})"
        ) from error
    missing = [
        key for key in ("labels", *needed) if not isinstance(content, dict) or key not in content
    ]
    if missing:
        raise ArtifactError(f"{path} has no {missing[0]!r}: it is not what this stage reads")
    if content["labels"] != list(LABELS):
        raise ArtifactError(f"{path} was made for other labels or another order of them")
    return content


def read_joined(run: RunFolder) -> dict:
    """weights_inference.pth: weights and settings of both stages, and the `prior` of the labels (14)."""
    return read_checkpoint(
        run.inference, ("stage1", "stage1_settings", "stage2", "stage2_settings", "prior")
    )


def read_temperatures(folder: EncoderFolder) -> np.ndarray:
    """(14,) by which the logits of series are divided, as tools/report.py fitted them."""
    found = read_json(folder.temperatures)["temperatures"]
    return np.array([found[label] for label in LABELS])


def read_trained(run: RunFolder, stage: str, select: str) -> dict:
    """{"weights", "settings", "epoch"} of a trained network: those of the best epoch, or the moving average after the last one.

    The last epoch is not chosen by its score, nor is its step, which is 1.
    """
    if select == "best":
        return read_checkpoint(run.best(stage), ("weights", "settings", "epoch"))
    state = read_checkpoint(run.last(stage), ("learner", "settings", "epoch"))
    return {
        "weights": state["learner"]["average"]["module"],
        "settings": state["settings"] | {"step": 1},
        "epoch": state["epoch"],
    }
