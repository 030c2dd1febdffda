"""What the files of a folder were made with; stages refuse files made with something else."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from src.artifacts.atomic import unwritable
from src.artifacts.files import read_json, write_json
from src.artifacts.paths import ArtifactError, RunFolder, require
from src.artifacts.tables import write_table
from src.text import printable

MADE_BY = ".weights.json"  # in place of .csv: which weights made a table of predictions
WEIGHTS = re.compile(r"(best|last)_stage[12]\.pth|weights_inference\.pth")


def settle(path: Path, settings: dict, advice: str) -> None:
    """Write the settings that the files beside `path` are made with.

    Raise ArtifactError with the `advice` if they were made with other settings before.
    """
    if not path.exists():
        return write_json(path, settings)
    made = read_json(path)
    for name, value in settings.items():
        if made.get(name) != value:
            other = printable(made.get(name), 80)
            raise ArtifactError(
                f"{path.parent} was made with {name} {other}, not {value}: {advice}"
            )


def keep_features_of(run: RunFolder, weights: str, part: str = "1/1") -> None:
    """Delete features of other weights before an extraction.

    Raise ArtifactError instead if other processes may be writing beside them.
    weights: fingerprint of the weights.
    part: "i/n" for the i-th of n processes that may start at the same moment.
    """
    path = run.feature_settings
    # Look for features before their settings are read: other processes write the settings first.
    has_features = any(run.features.glob("*.npy"))
    if path.exists() and read_json(path, {"weights": str})["weights"] == weights:
        return
    if has_features:
        if part != "1/1":
            raise ArtifactError(
                f"{run.features} holds features of other weights: delete it and {run.logits} first"
            )
        print(f"{run.features} holds features of other weights: they are replaced")
        shutil.rmtree(run.logits, ignore_errors=True)
        shutil.rmtree(run.features)
    write_json(path, {"weights": weights})


def require_features_of(run: RunFolder, weights: str) -> None:
    """Raise ArtifactError if the features were made with other weights."""
    if read_json(run.feature_settings, {"weights": str})["weights"] != weights:
        raise ArtifactError(
            f"{run.features} was made with other weights than {run.best('stage1')}: "
            "run extract_features.py again"
        )


def weights_of(run: RunFolder, evaluation: str, select: str = "best") -> dict[str, str]:
    """Return {file: fingerprint} of the weights with which an evaluation predicts.

    evaluation: "stage1", "stage2" or "end_to_end". select: epoch of stage 2, "best" or "last".
    """
    stage2 = run.best("stage2") if select == "best" else run.last("stage2")
    files = {
        "stage1": [run.best("stage1")],
        "stage2": [run.best("stage1"), stage2],
        "end_to_end": [run.inference] + [stage2] * (select == "last"),
    }
    return {path.name: fingerprint(path) for path in files[evaluation]}


def write_predictions(
    path: Path, table: pd.DataFrame, weights: dict[int, dict[str, str]] | None
) -> None:
    """Write a table of predictions, and beside it by which weights they were made.

    weights: what `weights_of` returned of each fold before it predicted; None: unknown.
    """
    try:
        path.with_suffix(MADE_BY).unlink(missing_ok=True)  # of other predictions
    except OSError as error:
        raise unwritable(path, error) from error
    write_table(path, table)
    if weights:
        content = {str(fold): files for fold, files in weights.items()}
        write_json(path.with_suffix(MADE_BY), {"weights": content})


def other_weights(
    path: Path, run: RunFolder, fold: int, fingerprint_of: Callable[[Path], str]
) -> list[Path] | None:
    """Return which weights of a fold's folder are not those that made its predictions.

    Joined weights that are gone while others are there count: a new training deletes them.
    None: nobody can say. Predictions of older versions have no mark, or their weights are not here.
    path: of the predictions. run: of the fold. fingerprint_of: `fingerprint`, or with a memory.
    """
    made = _made_by(path, fold)
    kept = [run.inference, run.best("stage1"), run.best("stage2")]
    if not made or not any(each.exists() for each in kept):
        return None
    others, absent = [], False
    for name, expected in made.items():
        weights = run.root / name
        if not weights.exists() and weights != run.inference:
            absent = True
        elif not weights.exists() or fingerprint_of(weights) != expected:
            others.append(weights)
    return None if absent and not others else others


def _made_by(path: Path, fold: int) -> dict[str, str]:
    """Return what `weights_of` said of a fold when it was predicted; nothing if nobody wrote it."""
    marks = path.with_suffix(MADE_BY)
    if not marks.exists():
        return {}
    made = read_json(marks, {"weights": dict})["weights"].get(str(fold), {})
    if type(made) is not dict or not all(map(WEIGHTS.fullmatch, made)):
        raise ArtifactError(f"{marks} names no weights of this project: delete it, evaluate again")
    return made


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
