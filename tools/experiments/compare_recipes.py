"""Whole recipes end to end, at the same budget: stages 3, 5, 6 and 8 over seeds.

    python tools/experiments/compare_recipes.py --data-dir ablation/data --out ablation

Each recipe trains both stages on each fold with each seed, and predicts the held-out series from
DICOM. The defaults choose step and weight of stage 1 on the held-out fold, as train_stage2.py does;
the other recipes choose the step alone. Finished runs are skipped.

Reads   what train_stage1.py reads, and data/series/

Writes  {out}/recipes/{recipe}/{seed}/{encoder}/fold-{k}/  the runs
        {out}/recipes/table.csv
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import eval_end_to_end
import extract_features
import train_stage1
import train_stage2
from src import device
from src.artifacts.files import read_json
from src.artifacts.paths import RunFolder
from src.artifacts.tables import write_table
from src.evaluation import metrics
from src.script import run_script
from tools.experiments.runs import SCORES, folder_of, mean_and_extremes, run_all
from tools.experiments.variants import fixed_sharpness, holes_anywhere


@dataclass(frozen=True)
class Recipe:
    """How both trainings differ from the defaults."""

    stage1: dict = field(default_factory=dict)  # settings of train_stage1.py
    stage2: dict = field(default_factory=dict)  # settings of train_stage2.py
    changes: tuple[Callable[[], None], ...] = ()  # called first, in the process of the run


PUBLISHED_GEOMETRY = {"view_mm": 0.0, "step_mm": (0.0, 0.0)}
DEFAULTS, EARLIER, PUBLISHED = "defaults", "earlier defaults", "published settings"
RECIPES = {
    DEFAULTS: Recipe(),
    EARLIER: Recipe(
        PUBLISHED_GEOMETRY, {"stage1_weight": 0.6}, (fixed_sharpness(1.0), holes_anywhere)
    ),
    PUBLISHED: Recipe(
        PUBLISHED_GEOMETRY | {"heatmap_weight": 0.0}, {"stage1_weight": 0.0}, (holes_anywhere,)
    ),
}


@dataclass
class Config:
    data_dir: Path = Path("ablation/data")  # prepared and dealt into folds
    out: Path = Path("ablation")  # for all runs
    encoder: str = "test_resnet"  # of timm, from random weights
    folds: tuple[int, ...] = (0,)  # each held out in turn

    crop_size: int = 168  # pixels
    epochs: int = 12  # passes over the training samples of stage 1
    sequence_epochs: int = 20  # passes over the training series of stage 2
    batch_size: int = 16  # samples a step of stage 1
    lr: float = 3e-3  # learning rate of stage 1
    sequence_lr: float = 1e-3  # learning rate of stage 2
    width: int = 128  # of stage 2's tokens
    cut: int = 48  # slices, as in train_stage2.py
    ema_decay: float = 0.99  # of the moving averages
    bfloat16: bool = False  # mixed precision as on a GPU; faster on CPUs that have it
    seeds: tuple[int, ...] = (44, 45, 46)
    workers: int = 2  # processes of one thread each


def main(config: Config) -> pd.DataFrame:
    for seed in config.seeds:  # what is done after each seed can be read
        jobs = itertools.product(RECIPES, [seed], config.folds)
        run_all(run_stages, config, jobs, output_of, fresh=True)
    result = table(config)
    write_table(config.out / "recipes" / "table.csv", result)
    print(result.to_string(index=False))
    return result


def run_folder(config: Config, name: str, seed: int, fold: int) -> RunFolder:
    return RunFolder(folder_of(config.out / "recipes", name, seed), config.encoder, fold)


def output_of(config: Config, name: str, seed: int, fold: int) -> Path:
    """Return the file that a run writes last."""
    return run_folder(config, name, seed, fold).scores("end_to_end")


def run_stages(config: Config, name: str, seed: int, fold: int) -> None:
    """Train and judge one recipe on one fold."""
    recipe = RECIPES[name]
    if config.bfloat16:
        device.precision = lambda _: torch.bfloat16
    for change in recipe.changes:
        change()
    folder = {
        "data_dir": config.data_dir,
        "model_dir": folder_of(config.out / "recipes", name, seed),
        "fold": fold,
        "device": "cpu",
        "encoder": config.encoder,
    }
    training = folder | {"seed": seed, "ema_decay": config.ema_decay, "workers": 0, "resume": True}
    stage1 = training | {
        "pretrained": False,
        "crop_size": config.crop_size,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "lr": config.lr,
    }
    stage2 = training | {
        "width": config.width,
        "cut": config.cut,
        "epochs": config.sequence_epochs,
        "lr": config.sequence_lr,
    }
    train_stage1.main(train_stage1.Config(**stage1 | recipe.stage1))
    extract_features.main(extract_features.Config(**folder))
    train_stage2.main(train_stage2.Config(**stage2 | recipe.stage2))
    eval_end_to_end.main(eval_end_to_end.Config(**folder))


def table(config: Config) -> pd.DataFrame:
    """Return one row a recipe: mean and extremes over the seeds of the scores end to end.

    The difference to the defaults is that of the same seed.
    """
    rows = []
    for name in RECIPES:
        row = {"recipe": name}
        scores = scores_over_seeds(config, name)
        for place, what in enumerate(SCORES):
            row[what] = mean_and_extremes(scores[:, place])
        difference = (scores - scores_over_seeds(config, DEFAULTS))[:, 0]
        row["difference"] = "" if name == DEFAULTS else mean_and_extremes(difference, sign="+")
        rows.append(row)
    return pd.DataFrame(rows)


def scores_over_seeds(config: Config, name: str) -> np.ndarray:
    """Return the SCORES of each seed, the mean over the folds: (seeds, 3)."""
    found = []
    for seed in config.seeds:
        of_folds = [_scores(output_of(config, name, seed, fold)) for fold in config.folds]
        found.append(np.mean(of_folds, axis=0))
    return np.stack(found)


def _scores(path: Path) -> list[float]:
    scores = read_json(path)
    return [scores["score"], scores["present"], metrics.mean_location(scores)]


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="finished runs are kept: run it again")
