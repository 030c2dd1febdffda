"""What each piece of stage 1 is worth: the same training without it, over seeds and folds.

    python tools/make_demo_data.py --out ablation/data --series 480 --matrix 96 --slices 28 --seed 1
    python preprocess_data.py --data-dir ablation/data --image-size 72 --no-write-slices
    python create_folds.py --data-dir ablation/data --folds 2
    python tools/experiments/ablate.py --data-dir ablation/data --out ablation --crop-size 66

Every variant is trained on each fold with each seed, to the last epoch (none is chosen), and
judged on all held-out folds together: the spots, and the series by the maximum over their slices.
Hard negatives are mined from the plain runs of the first seed. Finished runs are skipped.

Reads   what train_stage1.py reads

Writes  {out}/{variant}/{seed}/{encoder}/fold-{k}/  the run, with predictions_spots.csv
                                                    and predictions_series.csv
        {out}/table.csv
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import extract_features
import train_stage1
from src.artifacts.checkpoints import read_trained
from src.artifacts.files import read_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_fold, read_folds, write_table
from src.inference.encode import as_volume, encode
from src.inference.probabilities import predict, predict_spots
from src.labels import LABELS
from src.networks.slice_cnn import HEAT_CHANNELS, HeatmapHead, build_slice_cnn
from src.sampling import spot_dataset
from src.sampling.loader import make_loader
from src.sampling.slices import neighbours, step_counts
from src.sampling.spot_dataset import SpotTables, read_spot_tables
from src.sampling.view import view_of_row
from src.script import run_script
from src.training import losses
from tools import mine_hard_negatives
from tools.experiments.runs import SCORES, folder_of, mean_and_extremes, run_all, scores_of

PLAIN, HARD = "plain", "hard negatives"
JUDGED = ("spots", "series")
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


def with_quarter_turns(turns: bool) -> Callable[[], None]:
    """Turn or do not turn, whatever the heatmap's weight says."""
    make_datasets = train_stage1.make_datasets

    def changed(config: train_stage1.Config, tables: SpotTables) -> tuple:
        training, held_out = make_datasets(config, tables)
        training.augmentation = replace(training.augmentation, quarter_turns=turns)
        return training, held_out

    return partial(setattr, train_stage1, "make_datasets", changed)


def pointed_features(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable:
    """Change what the heatmap adds to the features: change(heat, features) -> features."""
    forward = HeatmapHead.forward

    def changed(self, maps):
        heat, pointed = forward(self, maps)
        return heat, change(heat, pointed)

    return partial(setattr, HeatmapHead, "forward", changed)


def without(first: int, last: int | None, heat: torch.Tensor, pointed: torch.Tensor):
    """Put zeros in place of the features first to last."""
    mask = torch.ones(pointed.shape[1])
    mask[first:last] = 0
    return pointed * mask


def with_peak(heat: torch.Tensor, pointed: torch.Tensor) -> torch.Tensor:
    """Put the highest heat in place of the first feature. The method does not: should it?"""
    return torch.cat([heat.flatten(1).amax(dim=1, keepdim=True), pointed[:, 1:]], dim=1)


VARIANTS = {  # name: (settings that differ, what else is called in the process of the run)
    PLAIN: ({}, None),
    HARD: ({}, None),
    "no heatmap, quarter turns (published)": ({"heatmap_weight": 0.0}, None),
    "no heatmap, no quarter turns": ({"heatmap_weight": 0.0}, with_quarter_turns(False)),
    "heatmap weight 1": ({"heatmap_weight": 1.0}, None),
    "no heat-weighted pooling": ({}, pointed_features(partial(without, 0, HEAT_CHANNELS))),
    "no expected position": ({}, pointed_features(partial(without, HEAT_CHANNELS, None))),
    "highest heat among the features": ({}, pointed_features(with_peak)),
    "quarter turns": ({}, with_quarter_turns(True)),
    "no shift, scale, rotation": ({"affine": 0.0}, None),
    "no holes, no distortion": ({"occlude": 0.0}, None),
    "no mirror": ({"mirror": 0.0}, None),
    "no EMA": ({"ema_decay": 0.0}, None),
    "step 1 only": ({}, partial(setattr, spot_dataset, "STEPS", (1,))),
    "cross entropy": (
        {},
        partial(setattr, train_stage1, "focal_loss", partial(losses.focal_loss, gamma=0.0)),
    ),
}


def main(config: Config) -> pd.DataFrame:
    folds = range(read_folds(DataFolder(config.data_dir)).fold.max() + 1)
    train_all = partial(run_all, train_and_predict, config, output_of=output_of, fresh=True)
    train_all(itertools.product([PLAIN], config.seeds, folds))
    mine(config, folds)
    train_all(itertools.product(VARIANTS, config.seeds, folds))
    result = table(config, folds)
    write_table(config.out / "table.csv", result)
    print(result.to_string(index=False))
    return result


def run_folder(config: Config, variant: str, seed: int, fold: int) -> RunFolder:
    return RunFolder(folder_of(config.out, variant, seed), config.encoder, fold)


def output_of(config: Config, variant: str, seed: int, fold: int) -> Path:
    """Return the file that a run writes last."""
    return run_folder(config, variant, seed, fold).predictions("series")


def train_and_predict(config: Config, variant: str, seed: int, fold: int) -> None:
    """Train, then predict the held-out spots and every slice of the held-out series."""
    options, change = VARIANTS[variant]
    if variant != HARD:
        train_stage1.read_spot_tables = lambda data: replace(read_spot_tables(data), hard={})
    if change:
        change()
    settings = train_stage1.Config(
        data_dir=config.data_dir,
        model_dir=folder_of(config.out, variant, seed),
        fold=fold,
        seed=seed,
        device="cpu",
        encoder=config.encoder,
        pretrained=False,
        crop_size=config.crop_size,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        ema_decay=config.ema_decay,
        workers=0,
        resume=True,
    )
    settings = replace(settings, **options)
    train_stage1.main(settings)

    run = run_folder(config, variant, seed, fold)
    trained = read_trained(run, "stage1", "last")
    model = build_slice_cnn(trained["settings"], trained["weights"], CPU)
    write_table(run.predictions("spots"), spots_of(model, settings))
    write_table(run.predictions("series"), series_of(model, settings))


def spots_of(model: torch.nn.Module, settings: train_stage1.Config) -> pd.DataFrame:
    """Return the labels of the held-out spots and their probabilities."""
    tables = read_spot_tables(DataFolder(settings.data_dir))
    _, held_out = train_stage1.make_datasets(settings, tables)
    loader = make_loader(held_out, 64, 0)
    probabilities_of = partial(predict_spots, model, crop_size=settings.crop_size, device=CPU)
    probabilities = predict(loader, probabilities_of, CPU, "spots")
    return with_probabilities(held_out.truth()[list(LABELS)], probabilities)


def series_of(model: torch.nn.Module, settings: train_stage1.Config) -> pd.DataFrame:
    """Return the labels of the held-out series and the maxima over their slices, at step 1."""
    data = DataFolder(settings.data_dir)
    _, held_out = read_fold(data, settings.fold)
    highest = []
    for _, row in held_out.iterrows():
        images = read_array(data.sequence(row.SeriesInstanceUID))
        view = view_of_row(row, images.shape[-1], settings.crop_size, settings.view_mm)
        volume = as_volume(images, view, CPU)  # (N, H, W)
        step, _ = step_counts(settings.step_mm, row.slice_spacing)
        triplets = neighbours(np.arange(len(volume)), step, len(volume))
        _, logits = encode(model, volume, triplets, 64)  # (N, 14)
        highest.append(logits.amax(dim=0).sigmoid().numpy())
    return with_probabilities(held_out[list(LABELS)], np.stack(highest))


def with_probabilities(truth: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the 14 labels and, with suffix _p, their probabilities."""
    predicted = pd.DataFrame(probabilities, columns=LABELS).add_suffix("_p")
    return pd.concat([truth.reset_index(drop=True), predicted], axis=1)


def mine(config: Config, folds: range) -> None:
    """Write f_dict_hard.pkl, each fold by the plain network that never saw it."""
    if DataFolder(config.data_dir).hard_slices.exists():
        return
    shared = {
        "data_dir": config.data_dir,
        "model_dir": folder_of(config.out, PLAIN, config.seeds[0]),
        "encoder": config.encoder,
    }
    for fold in folds:
        extract_features.main(
            extract_features.Config(**shared, fold=fold, device="cpu", series="held-out")
        )
    mine_hard_negatives.main(mine_hard_negatives.Config(**shared))


def table(config: Config, folds: range) -> pd.DataFrame:
    """Return one row a variant.

    It holds the mean over the seeds of each score, and the mean and the extremes of the difference
    of the weighted score to the plain run of the same seed.
    """
    rows = []
    for variant in VARIANTS:
        row = {"variant": variant}
        for what in JUDGED:
            scores = pooled_scores(config, variant, folds, what)
            for name, mean in zip(SCORES, scores.mean(axis=0), strict=True):
                row[what if name == "score" else f"{what} {name}"] = f"{mean:.3f}"
            difference = (scores - pooled_scores(config, PLAIN, folds, what))[:, 0]
            shown = "" if variant == PLAIN else mean_and_extremes(difference, sign="+")
            row[f"{what} difference"] = shown
        rows.append(row)
    return pd.DataFrame(rows)


def pooled_scores(config: Config, variant: str, folds: range, what: str) -> np.ndarray:
    """Return the SCORES over all held-out folds together, of each seed: (seeds, 3)."""
    scores = []
    for seed in config.seeds:
        paths = [run_folder(config, variant, seed, fold).predictions(what) for fold in folds]
        pooled = pd.concat([pd.read_csv(path) for path in paths])
        predicted = pooled[[f"{label}_p" for label in LABELS]]
        scores.append(scores_of(pooled[list(LABELS)].to_numpy(), predicted.to_numpy()))
    return np.stack(scores)


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="finished runs are kept: run it again")
