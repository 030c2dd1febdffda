"""Stage 7 of 8: score the sequence transformer on the series of the held-out fold.

Reads   data/train_{N}_folds.csv (create_folds.py)
        data/slice_geometry_dict.pkl (preprocess_data.py)
        model/{encoder}/fold-{k}/features/, logits/ (extract_features.py)
        model/{encoder}/fold-{k}/best_stage1.pth, best_stage2.pth (the train scripts)

Writes  model/{encoder}/fold-{k}/scores_stage2.json, predictions_stage2.csv

With --fold all, all folds pooled, into fold-all/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from src.artifacts.checkpoints import read_trained
from src.artifacts.next_stage import after
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.artifacts.plausible import read_geometry
from src.artifacts.provenance import fingerprint, require_features_of, weights_of
from src.artifacts.tables import folds_of, read_fold, require_held_out
from src.device import choose_device
from src.evaluation import choice
from src.evaluation.choice import Choice, Chosen
from src.evaluation.score_report import report_series, title_of
from src.inference.probabilities import predict, predict_series
from src.labels import LABELS
from src.networks.sequence_transformer import build_transformer
from src.sampling.loader import make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.script import run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables
    model_dir: Path = Path("model")  # features and trained networks
    fold: int | Literal["all"] = 0  # held out; all: each series by the network that never saw it
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained

    select: Literal["best", "last"] = "best"  # epoch; last is not chosen on the held-out fold
    train_on_all: bool = False  # refused: nothing was held out
    batch_size: int = 32  # series per batch


def main(config: Config) -> dict:
    require_held_out(config)
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    folds = folds_of(data, config.fold)
    runs = {fold: RunFolder(config.model_dir, config.encoder, fold) for fold in folds}
    weights = {fold: weights_of(run, "stage2", config.select) for fold, run in runs.items()}
    chosen = chosen_pairs(config, folds)
    truths, predictions = [], []
    for fold in folds:
        held_out, probabilities = predict_fold(config, data, fold, device, chosen[fold].pair)
        truths.append(held_out)
        predictions.append(probabilities)
    truth, table = pd.concat(truths, ignore_index=True), pd.concat(predictions, ignore_index=True)
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    title = title_of(config, "stage 2")
    return report_series(run, "stage2", truth, table, title, chosen, weights)


def chosen_pairs(config: Config, folds: list[int]) -> dict[int, Chosen]:
    """Return step and weight of stage 1 of each fold."""
    settings = {}
    for fold in folds:
        run = RunFolder(config.model_dir, config.encoder, fold)
        settings[fold] = read_trained(run, "stage2", config.select)["settings"]
    return choice.of_folds(settings, config.select)


def predict_fold(
    config: Config,
    data: DataFolder,
    fold: int,
    device: torch.device,
    pair: Choice | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the held-out series of one fold, and their probabilities.

    pair: step and weight of stage 1; None: those that are stored with the weights.
    """
    run = RunFolder(config.model_dir, config.encoder, fold)
    checkpoint = read_trained(run, "stage2", config.select)
    settings = checkpoint["settings"]
    _, held_out = read_fold(data, fold, settings)
    weights = fingerprint(run.best("stage1"))
    require_features_of(run, weights)
    if settings["stage1"] != weights:
        raise ArtifactError(
            f"{run.best('stage2')} was trained on features of another "
            f"{run.best('stage1').name}: run train_stage2.py again"
        )
    pair = pair or choice.own(settings)
    dataset = SequenceDataset(run, held_out, read_geometry(data), settings["cut"], 0, pair.step)
    if dataset.channels != settings["channels"]:
        raise ArtifactError(
            f"the features are {dataset.channels} wide, the transformer reads "
            f"{settings['channels']}: run train_stage2.py again"
        )

    model = build_transformer(settings, checkpoint["weights"], device)
    loader = make_loader(dataset, config.batch_size, workers=0, collate=pad_sequences)
    probabilities = predict(
        loader,
        lambda batch: predict_series(model, batch, pair.stage1_weight, device),
        device,
        "held-out series",
    )
    predictions = pd.DataFrame(probabilities, columns=list(LABELS))
    predictions.insert(0, "SeriesInstanceUID", held_out.SeriesInstanceUID)
    return held_out, predictions


if __name__ == "__main__":
    run_script(main, Config, __doc__, following=after(__file__))
