"""What the files of a folder were made with; files made with something else are refused."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

from src.artifacts.files import read_json, temporary, write_json
from src.artifacts.paths import ArtifactError, RunFolder, require


def settle(path: Path, settings: dict, remedy: str, part: str = "1/1") -> None:
    """Write the settings that the files beside `path` are made with, or refuse settings other than those they were made with.

    part: of several processes that do so at once, as in `temporary`.
    """
    _remove_left(path, part)
    if not path.exists():
        return write_json(path, settings, part=part)
    made = read_json(path)
    for name, value in settings.items():
        if made.get(name) != value:
            raise ArtifactError(
                f"{path.parent} was made with {name} {made.get(name)}, not {value}: {remedy}"
            )


def _remove_left(path: Path, part: str) -> None:
    """Away with what this part left when it was killed: another may have written the file since, so that it will not be written again."""
    with suppress(OSError):
        temporary(path, part).unlink()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file: tells the weights that features were made with."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_features_of(run: RunFolder, weights: str, part: str = "1/1") -> None:
    """Before extraction: features of these weights stay, those of others are removed; refused where other processes may be at work on them.

    part: of several processes that do so at once, as in `temporary`.
    """
    _remove_left(run.feature_settings, part)
    found = any(
        run.features.glob("*.npy")
    )  # before their settings are read: others write these first
    known = read_json(run.feature_settings)["weights"] if run.feature_settings.exists() else None
    if known == weights:
        return
    if found:
        if part != "1/1":
            raise ArtifactError(
                f"{run.features} holds features of other weights: delete it and {run.logits} first"
            )
        print(f"{run.features} holds features of other weights: they are made anew")
        shutil.rmtree(run.logits, ignore_errors=True)
        shutil.rmtree(run.features)
    write_json(run.feature_settings, {"weights": weights}, part=part)


def require_features_of(run: RunFolder, weights: str) -> None:
    """Before stage 2 reads them: the features were made with these weights."""
    if read_json(run.feature_settings)["weights"] != weights:
        raise ArtifactError(
            f"{run.features} was made with other weights than {run.best('stage1')}: run extract_features.py again"
        )
