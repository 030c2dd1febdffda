"""Trained weights on disk."""

from pathlib import Path

import numpy as np

from src.artifacts.files import atomic, read_json, reading, unwritable
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder
from src.labels import LABELS


def write_checkpoint(path: Path, content: dict) -> None:
    """Save tensors and plain values, with the order of the labels that they were made for."""
    import torch

    with atomic(path) as file:
        try:
            torch.save({**content, "labels": list(LABELS)}, file)
        except RuntimeError as error:  # torch's word for a full disk
            raise unwritable(path, error) from error


def read_checkpoint(path: Path, needed: tuple[str, ...]) -> dict:
    """Return a checkpoint, its tensors on the CPU.

    Raise ArtifactError if the file is broken, holds code, lacks a `needed` key,
    or was made for other labels or another order of them.
    """
    import torch

    with reading(path, "a whole checkpoint of plain tensors"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("labels", *needed):
        if not isinstance(content, dict) or key not in content:
            raise ArtifactError(f"{path} has no {key!r}: it is not what this stage reads")
    if content["labels"] != list(LABELS):
        raise ArtifactError(f"{path} was made for other labels or another order of them")
    return content


def read_joined(run: RunFolder) -> dict:
    """Return weights_inference.pth: weights and settings of both stages, `prior` of the labels."""
    return read_checkpoint(
        run.inference, ("stage1", "stage1_settings", "stage2", "stage2_settings", "prior")
    )


def read_temperatures(folder: EncoderFolder) -> np.ndarray:
    """Return the divisors (14,) of the logits of series, as tools/report.py fitted them."""
    temperatures = read_json(folder.temperatures)["temperatures"]
    return np.array([temperatures[label] for label in LABELS])


def read_trained(run: RunFolder, stage: str, select: str) -> dict:
    """Return {"weights", "settings", "epoch"} of a trained network.

    select: "best" takes the epoch with the best score on the held-out fold; "last" takes the
        moving average after the last epoch, at step 1: no score has chosen either.
    """
    if select == "best":
        return read_checkpoint(run.best(stage), ("weights", "settings", "epoch"))
    state = read_checkpoint(run.last(stage), ("learner", "settings", "epoch"))
    return {
        "weights": state["learner"]["average"]["module"],
        "settings": state["settings"] | {"step": 1},
        "epoch": state["epoch"],
    }
