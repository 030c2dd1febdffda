"""What each piece of stage 1 is worth: the same training without it, on synthetic series, over seeds and folds.

    python tools/make_demo_data.py --out ablation/data --series 480 --matrix 96 --slices 28 --seed 1
    python preprocess_data.py --data-dir ablation/data --image-size 72 --no-write-slices
    python create_folds.py --data-dir ablation/data --folds 2
    python tools/experiments/ablate.py --data-dir ablation/data --out ablation --crop-size 66

Every variant is trained on each fold with each seed, to the last epoch (none is chosen), and judged on the held-out folds, pooled: the
spots, and the series by the maximum over their slices. Hard negatives are mined from the plain runs of the first seed. Finished runs are skipped.

Reads   what train_stage1.py reads
Writes  {out}/{variant}/{seed}/{encoder}/fold-{k}/  the run, predictions_spots.csv, predictions_series.csv;  {out}/table.csv
"""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import extract_features
import train_stage1
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_fold, read_folds, write_table
from src.evaluation import metrics
from src.inference.encode import encode
from src.inference.probabilities import predict
from src.labels import LABELS
from src.networks.slice_cnn import HEAT_CHANNELS, HeatmapHead, build_slice_cnn
from src.progress import progress
from src.sampling import spot_dataset
from src.sampling.augment import Augmentation
from src.sampling.loader import make_loader
from src.sampling.slices import centre_crop, neighbours
from src.sampling.spot_dataset import SpotDataset, SpotTables, held_out_rows, read_spot_tables
from src.script import run_script
from src.training import losses
from src.worker_pool import clean_context
from tools import mine_hard_negatives

PLAIN, HARD = "plain", "hard negatives"
CPU = torch.device("cpu")


@dataclass
class Config:
    data_dir: Path = Path("ablation/data")  # prepared and dealt into folds
    out: Path = Path("ablation")  # for all runs
    encoder: str = "test_resnet"  # from random weights

    crop_size: int = 88  # pixels
    epochs: int = 12  # passes over the training samples
    batch_size: int = 16  # samples a step
    lr: float = 3e-3  # learning rate, after warm-up
    ema_decay: float = 0.99  # of the moving average
    seeds: tuple[int, ...] = (44, 45, 46)
    workers: int = 2  # processes of one thread each


def augmented(**options) -> Callable[[], None]:
    """Other augmentation."""

    def change() -> None:
        train_stage1.Augmentation = lambda quarter_turns: Augmentation(
            **({"quarter_turns": quarter_turns} | options)
        )

    return change


def one_step() -> None:
    spot_dataset.STEPS = (1,)


def cross_entropy() -> None:
    train_stage1.focal_loss = partial(losses.focal_loss, gamma=0.0)


def without_features(first: int, last: int) -> Callable[[], None]:
    """Zeros instead of some of what the heatmap adds to the features."""

    def change() -> None:
        whole = HeatmapHead.forward

        def forward(self, maps):
            heat, pointed = whole(self, maps)
            mask = torch.ones(HEAT_CHANNELS + 2)
            mask[first:last] = 0
            return heat, pointed * mask

        HeatmapHead.forward = forward

    return change


def with_peak() -> None:
    """The highest heat in place of one of the pooled features: not in the method, to see whether it should be."""
    whole = HeatmapHead.forward

    def forward(self, maps):
        heat, pointed = whole(self, maps)
        return heat, torch.cat([heat.flatten(1).amax(dim=1, keepdim=True), pointed[:, 1:]], dim=1)

    HeatmapHead.forward = forward


VARIANTS = {  # name: (settings that differ, what else is changed in the process of the run)
    PLAIN: ({}, None),
    HARD: ({}, None),
    "no heatmap, quarter turns (published)": ({"heatmap_weight": 0.0}, None),
    "no heatmap, no quarter turns": ({"heatmap_weight": 0.0}, augmented(quarter_turns=False)),
    "heatmap weight 1": ({"heatmap_weight": 1.0}, None),
    "no heat-weighted pooling": ({}, without_features(0, HEAT_CHANNELS)),
    "no expected position": ({}, without_features(HEAT_CHANNELS, HEAT_CHANNELS + 2)),
    "highest heat among the features": ({}, with_peak),
    "quarter turns": ({}, augmented(quarter_turns=True)),
    "no shift, scale, rotation": ({}, augmented(affine=0.0)),
    "no holes, no distortion": ({}, augmented(spoil=0.0)),
    "no mirror": ({}, augmented(mirror=0.0)),
    "no EMA": ({"ema_decay": 0.0}, None),
    "step 1 only": ({}, one_step),
    "cross entropy": ({}, cross_entropy),
}


def main(config: Config) -> pd.DataFrame:
    folds = range(read_folds(DataFolder(config.data_dir)).fold.max() + 1)
    jobs = [
        (variant, seed, fold) for variant in VARIANTS for seed in config.seeds for fold in folds
    ]
    run_all(config, [job for job in jobs if job[0] == PLAIN])
    mine(config, folds)
    run_all(config, [job for job in jobs if job[0] != PLAIN])
    result = table(config, folds)
    write_table(config.out / "table.csv", result)
    print(result.to_string(index=False))
    return result


def run_all(config: Config, jobs: list[tuple[str, int, int]]) -> None:
    """Each job in a fresh process, as it changes modules."""
    todo = [job for job in jobs if not run_folder(config, *job).predictions("series").exists()]
    with ProcessPoolExecutor(
        config.workers, clean_context(__name__), max_tasks_per_child=1
    ) as pool:
        for job in progress(
            as_completed([pool.submit(train_and_predict, config, *job) for job in todo]),
            "runs",
            " runs",
            total=len(todo),
        ):
            job.result()


def run_folder(config: Config, variant: str, seed: int, fold: int) -> RunFolder:
    return RunFolder(
        config.out / variant.replace(" ", "_").replace(",", "") / str(seed), config.encoder, fold
    )


def train_and_predict(config: Config, variant: str, seed: int, fold: int) -> None:
    """One run: train, then predict the held-out spots and every slice of the held-out series."""
    torch.set_num_threads(1)
    options, change = VARIANTS[variant]
    if variant != HARD:
        train_stage1.read_spot_tables = lambda data: without_hard(read_spot_tables(data))
    if change:
        change()
    run = run_folder(config, variant, seed, fold)
    fixed = {
        name: getattr(config, name)
        for name in ("data_dir", "encoder", "crop_size", "epochs", "batch_size", "lr", "ema_decay")
    }
    fixed |= {
        "model_dir": run.root.parents[1],
        "fold": fold,
        "seed": seed,
        "pretrained": False,
        "workers": 0,
        "device": "cpu",
        "resume": True,
    }
    settings = train_stage1.Config(**(fixed | options))
    train_stage1.main(settings)

    data = DataFolder(config.data_dir)
    state = read_checkpoint(run.last("stage1"), ("learner",))
    model = build_slice_cnn(
        {"encoder": config.encoder, "heatmap_weight": settings.heatmap_weight},
        state["learner"]["average"]["module"],
        CPU,
    )
    write_table(run.predictions("spots"), predict_spots(model, data, fold, config.crop_size))
    write_table(run.predictions("series"), predict_series(model, data, fold, config.crop_size))


def without_hard(tables: SpotTables) -> SpotTables:
    tables.hard = {}
    return tables


def predict_spots(
    model: torch.nn.Module, data: DataFolder, fold: int, crop_size: int
) -> pd.DataFrame:
    """Held-out spots: the 14 true labels and, with suffix _p, the probabilities."""
    tables = read_spot_tables(data)
    held_out = SpotDataset(tables, held_out_rows(tables.spots, fold), crop_size, 0, None)
    loader = make_loader(held_out, 64, 0)
    probabilities = predict(
        loader, lambda batch: train_stage1.predict_batch(model, batch, crop_size, CPU), CPU, "spots"
    )
    return with_probabilities(held_out.truth()[list(LABELS)], probabilities)


def predict_series(
    model: torch.nn.Module, data: DataFolder, fold: int, crop_size: int
) -> pd.DataFrame:
    """Held-out series, by the maximum over their slices at step 1."""
    _, held_out = read_fold(data, fold)
    highest = []
    for uid in held_out.SeriesInstanceUID:
        prepared = read_array(data.sequence(uid))
        volume = torch.from_numpy(np.ascontiguousarray(centre_crop(prepared, crop_size)))
        _, logits = encode(
            model, volume, neighbours(np.arange(len(prepared)), 1, len(prepared)), 64
        )
        highest.append(logits.amax(dim=0).sigmoid().numpy())
    return with_probabilities(held_out[list(LABELS)], np.stack(highest))


def with_probabilities(truth: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    return pd.concat(
        [
            truth.reset_index(drop=True),
            pd.DataFrame(probabilities, columns=[f"{label}_p" for label in LABELS]),
        ],
        axis=1,
    )


def mine(config: Config, folds: range) -> None:
    """f_dict_hard.pkl from the plain runs of the first seed, each fold by the network that never saw it."""
    data = DataFolder(config.data_dir)
    if data.hard_slices.exists():
        return
    models = run_folder(config, PLAIN, config.seeds[0], 0).root.parents[1]
    shared = {"data_dir": config.data_dir, "model_dir": models, "encoder": config.encoder}
    for fold in folds:
        extract_features.main(
            extract_features.Config(**shared, fold=fold, device="cpu", series="held-out")
        )
    mine_hard_negatives.main(mine_hard_negatives.Config(**shared))


def table(config: Config, folds: range) -> pd.DataFrame:
    """One row a variant: mean over the seeds of each score, and the mean and the extremes of its difference to the plain run of the same seed."""
    scores = {}
    for what in ("spots", "series"):
        for variant in VARIANTS:
            scores[what, variant] = np.array(
                [pooled_score(config, variant, seed, folds, what) for seed in config.seeds]
            )  # (seeds, 3)
    rows = []
    for variant in VARIANTS:
        row = {"variant": variant}
        for what in ("spots", "series"):
            mine_, plain = scores[what, variant], scores[what, PLAIN]
            difference = mine_[:, 0] - plain[:, 0]
            row |= {
                f"{what}": f"{mine_[:, 0].mean():.3f}",
                f"{what} present": f"{mine_[:, 1].mean():.3f}",
                f"{what} locations": f"{mine_[:, 2].mean():.3f}",
            }
            row |= {
                f"{what} difference": ""
                if variant == PLAIN
                else f"{difference.mean():+.3f} ({difference.min():+.3f} to {difference.max():+.3f})"
            }
        rows.append(row)
    return pd.DataFrame(rows)


def pooled_score(
    config: Config, variant: str, seed: int, folds: range, what: str
) -> tuple[float, float, float]:
    """(weighted score, present, mean of locations) over all held-out folds together."""
    pooled = pd.concat(
        [pd.read_csv(run_folder(config, variant, seed, fold).predictions(what)) for fold in folds]
    )
    score = metrics.weighted_score(
        pooled[list(LABELS)].to_numpy(), pooled[[f"{label}_p" for label in LABELS]].to_numpy()
    )
    return score["score"], score["present"], metrics.mean_location(score)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
