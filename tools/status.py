"""Show which of the eight stages are done, of all series and of each fold.

    python tools/status.py --data-dir demo/data --model-dir demo/model --encoder test_resnet

Reads   data/train_meta.csv, failed_series.csv, train_{N}_folds.csv
        model/{encoder}/fold-{k}/, what stages 3 to 8 write there
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import read_json, read_json_lines
from src.artifacts.paths import ALL_DATA, ArtifactError, DataFolder, RunFolder
from src.script import run_script

NOT_YET = "-"
COLUMNS = ("", "3 train", "4 eval", "5 extract", "6 train", "7 eval", "8 end to end")


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that is trained


def main(config: Config) -> list[tuple[str, ...]]:
    data = DataFolder(config.data_dir)
    ready, failed = rows_of(data.train_meta), rows_of(data.failed_series)
    folds = fold_count(data)
    print(f"{data.root}: 1 preprocess: {ready or 0} series, {failed or 0} failed")
    print(f"{data.root}: 2 folds: {folds or NOT_YET}")
    table = [COLUMNS]
    for fold in [*range(folds), "all", ALL_DATA]:
        run = RunFolder(config.model_dir, config.encoder, fold)
        if run.root.exists() or fold in range(folds):
            table.append(row_of(run, ready or 0))
    print(f"{run.root.parent}: epochs, weighted scores and series of stages 3 to 8")
    for row in table:
        cells = [f"{cell:<{len(name) or 8}}" for name, cell in zip(COLUMNS, row, strict=True)]
        print("  ".join(cells).rstrip())
    return table


def rows_of(path: Path) -> int | None:
    """Return the number of rows of a table, None if there is none."""
    return len(pd.read_csv(path, usecols=[0])) if path.exists() else None


def fold_count(data: DataFolder) -> int:
    try:
        return data.fold_count()
    except ArtifactError:
        return 0


def row_of(run: RunFolder, series: int) -> tuple[str, ...]:
    """Return what stages 3 to 8 have done in a run's folder."""
    extracted = len(list(run.logits.glob("*.npy")))
    return (
        run.root.name,
        epochs_of(run, "stage1"),
        score_of(run, "stage1"),
        f"{extracted}/{series}" if extracted else NOT_YET,
        epochs_of(run, "stage2"),
        score_of(run, "stage2"),
        score_of(run, "end_to_end"),
    )


def epochs_of(run: RunFolder, stage: str) -> str:
    """Return how many epochs are done, of how many."""
    if not run.settings(stage).exists():
        return NOT_YET
    lines = read_json_lines(run.metrics(stage)) if run.metrics(stage).exists() else []
    done = lines[-1]["epoch"] if lines else 0
    return f"{done}/{read_json(run.settings(stage), {'epochs': int})['epochs']}"


def score_of(run: RunFolder, evaluation: str) -> str:
    """Return the weighted score; "old" if it is that of other weights than those that are there."""
    path, weights = (
        run.scores(evaluation),
        run.best("stage1" if evaluation == "stage1" else "stage2"),
    )
    if not path.exists():
        return NOT_YET
    if weights.exists() and weights.stat().st_mtime > path.stat().st_mtime:
        return "old"
    score = read_json(path)["score"]
    return "n/a" if score is None else f"{score:.3f}"


if __name__ == "__main__":
    run_script(main, Config, __doc__)
