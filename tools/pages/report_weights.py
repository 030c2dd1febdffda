"""Whether predictions were made by the weights that are in the folders now."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from src.artifacts.paths import ArtifactError, RunFolder
from src.artifacts.provenance import fingerprint, other_weights

RETRAIN = ("extract_features.py", "train_stage2.py")  # after stage 1 was trained again


class Stale(NamedTuple):
    """One fold's part of a table of predictions, by weights that are not there any more."""

    path: Path  # of the table
    run: RunFolder  # of the fold
    fold: int
    script: str  # makes the table
    weights: Path  # that are others now, or gone

    @property
    def command(self) -> str:
        return f"{self.script} --fold {self.path.parent.name.removeprefix('fold-')}"


class WeightsCheck:
    """What is found while tables of predictions are read; each file of weights is read once."""

    def __init__(self) -> None:
        self.stale: list[Stale] = []
        self.unknown: list[Path] = []  # tables that do not say what made them
        self._fingerprint = cache(fingerprint)

    def look(self, path: Path, run: RunFolder, fold: int, script: str) -> None:
        """Compare one fold's part of a table. run: of the fold. script: what makes the table."""
        others = other_weights(path, run, fold, self._fingerprint)
        if others is None and path not in self.unknown:
            self.unknown.append(path)
        if others:
            self.stale.append(Stale(path, run, fold, script, others[0]))

    def require(self) -> None:
        """Raise ArtifactError with what to run if a table is of other weights."""
        if not self.stale:
            return
        first = self.stale[0]
        commands = [each.command for each in self.stale if each.fold == first.fold]
        # train_stage1.py deletes what train_stage2.py makes of both stages.
        if not first.run.inference.exists():
            commands = [f"{script} --fold {first.fold}" for script in RETRAIN] + commands
        ready = " and ".join(filter(None, [", ".join(commands[:-1]), commands[-1]]))
        others = sorted({each.fold for each in self.stale} - {first.fold})
        more = f" (then the same for {folds_text(others)})" if others else ""
        state = "other weights than" if first.weights.exists() else "weights that are gone,"
        raise ArtifactError(
            f"{first.path} was predicted by {state} {first.weights}: run {ready} again{more}"
        )

    @property
    def line(self) -> str:
        """What to say of tables that cannot be checked; empty without any."""
        if not self.unknown:
            return ""
        names = sorted({path.name for path in self.unknown})
        return (
            f"it cannot be checked which weights made {', '.join(names)}: evaluate again if the "
            "networks were trained since"
        )


def folds_text(folds: list[int]) -> str:
    """Name each fold, or the first and the last if none between them is missing."""
    if len(folds) > 2 and folds == list(range(folds[0], folds[-1] + 1)):
        return f"folds {folds[0]} to {folds[-1]}"
    return f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
