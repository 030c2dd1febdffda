"""What the files of a folder were made with; stages refuse files made with something else."""

import hashlib
import shutil
from pathlib import Path

from src.artifacts.files import read_json, write_json
from src.artifacts.paths import ArtifactError, RunFolder, require
from src.text import printable


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


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
