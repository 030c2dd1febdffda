"""What each piece of stage 1 is worth: the same training without it, over seeds and folds.

    python tools/make_demo_data.py --out ablation/data --series 480 --matrix 96 --slices 28 --seed 1
    python preprocess_data.py --data-dir ablation/data --image-size 72 --no-write-slices
    python create_folds.py --data-dir ablation/data --folds 2
    python tools/experiments/ablate.py --data-dir ablation/data --out ablation --crop-size 66

Every variant (tools/experiments/variants.py) is trained on each fold with each seed, to the last
epoch (none is chosen), and judged on all held-out folds together: the spots, and the series by the
maximum over their slices. Finished runs are skipped. --table scale and --table trained are for
whole heads; docs/results.md has their commands. In the table of pieces, hard negatives are mined
from the plain runs of the first seed.

Reads   what train_stage1.py reads

Writes  {out}/{table}/{variant}/{seed}/{encoder}/fold-{k}/  the run, with predictions_spots.csv
                                                            and predictions_series.csv
        {out}/{table}/table.csv
"""

import itertools
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import extract_features
import train_stage1
from src import device
from src.artifacts.checkpoints import read_trained
from src.artifacts.files import read_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_fold, read_folds, write_table
from src.inference.encode import as_volume, encode
from src.inference.probabilities import predict, predict_spots
from src.labels import LABELS
from src.networks.slice_cnn import build_slice_cnn
from src.sampling.loader import make_loader
from src.sampling.slices import neighbours, step_counts, thin
from src.sampling.spot_dataset import read_spot_tables
from src.sampling.view import HEAD_COLUMNS, extent_mm, view_of_row
from src.script import UserError, run_script
from tools import mine_hard_negatives
from tools.experiments.runs import SCORES, folder_of, mean_and_extremes, run_all, scores_of
from tools.experiments.variants import HARD, PLAIN, TABLES, Variant

JUDGED = ("spots", "series")
CPU = torch.device("cpu")


@dataclass
class Config:
    data_dir: Path = Path("ablation/data")  # prepared and dealt into folds
    out: Path = Path("ablation")  # for all runs
    table: Literal["pieces", "scale", "trained"] = "pieces"  # which variants
    only: tuple[str, ...] = ()  # of these; default: all
    encoder: str = "test_resnet"  # of timm
    checkpoint: Path | None = None  # weights of the encoder; default: random ones

    crop_size: int = 88  # pixels
    view_mm: float = 0.0  # mm that the crop spans, in variants that do not say; 0: as published
    epochs: int = 12  # passes over the training samples
    batch_size: int = 16  # samples a step
    lr: float = 3e-3  # learning rate, after warm-up
    ema_decay: float = 0.99  # of the moving average
    bfloat16: bool = False  # mixed precision as on a GPU; faster on CPUs that have it
    cut: int = 192  # slices; of a series twice as long, every second one is judged
    seeds: tuple[int, ...] = (44, 45, 46)
    workers: int = 2  # processes of one thread each


def main(config: Config) -> pd.DataFrame:
    folds = range(read_folds(DataFolder(config.data_dir)).fold.max() + 1)
    train_all = partial(run_all, train_and_judge, config, output_of=output_of, fresh=True)
    variants = variants_of(config)
    if HARD in variants:
        train_all(itertools.product([PLAIN], config.seeds, folds))
        mine(config, folds)
    trained = [name for name, variant in variants.items() if not variant.judge]
    for seed in config.seeds:  # what is done after each seed can be read
        train_all(itertools.product(trained, [seed], folds))
    train_all(itertools.product(variants, config.seeds, folds))
    result = table(config, folds)
    write_table(config.out / config.table / "table.csv", result)
    print(result.to_string(index=False))
    return result


def variants_of(config: Config) -> dict[str, Variant]:
    """Return the variants that are asked for, by name. Raise UserError if the table lacks one."""
    variants = TABLES[config.table]
    for name in config.only:
        if name not in variants:
            raise UserError(
                f"--only: no {name!r} in the table {config.table}: {', '.join(variants)}"
            )
    return {name: variants[name] for name in config.only or variants}


def run_folder(config: Config, name: str, seed: int, fold: int) -> RunFolder:
    return RunFolder(folder_of(config.out / config.table, name, seed), config.encoder, fold)


def output_of(config: Config, name: str, seed: int, fold: int) -> Path:
    """Return the file that a run writes last."""
    return run_folder(config, name, seed, fold).predictions("series")


def train_and_judge(config: Config, name: str, seed: int, fold: int) -> None:
    """Train a variant, then predict the held-out spots and slices of the held-out series."""
    variant = TABLES[config.table][name]
    if config.bfloat16:
        device.precision = lambda _: torch.bfloat16
    if name != HARD:
        train_stage1.read_spot_tables = lambda data: replace(read_spot_tables(data), hard={})
    if variant.change:
        variant.change()
    settings = settings_of(config, variant, name, seed, fold)
    if not variant.judge:
        train_stage1.main(settings)
    trained = read_trained(run_folder(config, variant.judge or name, seed, fold), "stage1", "last")
    model = build_slice_cnn(trained["settings"], trained["weights"], CPU)
    run = run_folder(config, name, seed, fold)
    run.root.mkdir(parents=True, exist_ok=True)
    write_table(run.predictions("spots"), spots_of(model, settings, variant))
    write_table(run.predictions("series"), series_of(model, settings, variant, config.cut))


def settings_of(
    config: Config, variant: Variant, name: str, seed: int, fold: int
) -> train_stage1.Config:
    settings = train_stage1.Config(
        data_dir=config.data_dir,
        model_dir=folder_of(config.out / config.table, name, seed),
        fold=fold,
        seed=seed,
        device="cpu",
        encoder=config.encoder,
        pretrained=False,
        checkpoint=config.checkpoint,
        crop_size=config.crop_size,
        view_mm=config.view_mm,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        ema_decay=config.ema_decay,
        workers=0,
        resume=True,
    )
    return replace(settings, **variant.settings)


def spots_of(
    model: torch.nn.Module, settings: train_stage1.Config, variant: Variant
) -> pd.DataFrame:
    """Return the labels of the held-out spots and their probabilities."""
    tables = read_spot_tables(DataFolder(settings.data_dir))
    tables = replace(tables, meta=moved_heads(tables.meta, variant.off_centre))
    _, held_out = train_stage1.make_datasets(settings, tables)
    loader = make_loader(held_out, 64, 0)
    probabilities_of = partial(predict_spots, model, crop_size=settings.crop_size, device=CPU)
    probabilities = predict(loader, probabilities_of, CPU, "spots")
    return with_probabilities(held_out.truth()[list(LABELS)], probabilities)


def series_of(
    model: torch.nn.Module, settings: train_stage1.Config, variant: Variant, cut: int
) -> pd.DataFrame:
    """Return the labels of the held-out series and the maxima over their slices, at step 1."""
    data = DataFolder(settings.data_dir)
    _, held_out = read_fold(data, settings.fold)
    highest = []
    for _, row in moved_heads(held_out, variant.off_centre).iterrows():
        images = read_array(data.sequence(row.SeriesInstanceUID))
        view = view_of_row(row, images.shape[-1], settings.crop_size, settings.view_mm)
        volume = as_volume(images, view, CPU)  # (N, H, W)
        step, _ = step_counts(settings.step_mm, row.slice_spacing)
        triplets = neighbours(thin(len(volume), cut), step, len(volume))
        _, logits = encode(model, volume, triplets, 64)  # (T, 14)
        highest.append(logits.amax(dim=0).sigmoid().numpy())
    return with_probabilities(held_out[list(LABELS)], np.stack(highest))


def moved_heads(series: pd.DataFrame, mm: float) -> pd.DataFrame:
    """Return a table of series whose heads are said to be `mm` further along x than they are."""
    if not mm:
        return series
    spans = [
        extent_mm((row.h, row.w), (row.row_spacing, row.column_spacing), row.orientation)[0]
        for _, row in series.iterrows()
    ]
    x = HEAD_COLUMNS[0]
    return series.assign(**{x: series[x].fillna(0.5) + mm / np.array(spans)})


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
        "model_dir": folder_of(config.out / config.table, PLAIN, config.seeds[0]),
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
    for variant in variants_of(config):
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
