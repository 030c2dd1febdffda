"""Stage 7 of 8: score the sequence transformer on the series of the held-out fold.

Reads   model/{encoder}/fold-{k}/best_stage2.pth (train_stage2.py), features/ (extract_features.py),
        data/train_{N}_folds.csv, slice_geometry_dict.pkl

Writes  model/{encoder}/fold-{k}/  scores_stage2.json, predictions_stage2.csv
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src import artifacts, engine
from src.artifacts import DataFolder, RunFolder
from src.datasets import SequenceDataset, pad_sequences
from src.labels import LABELS
from src.loaders import make_loader
from src.runtime import run_script
from src.sequence_transformer import build_transformer
from train_stage2 import predict_batch


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables
    model_dir: Path = Path("model")  # features and trained networks
    fold: int = 0  # held out
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    batch_size: int = 32  # series


def main(config: Config) -> dict:
    device = engine.choose_device(config.device)
    data, run = DataFolder(config.data_dir), RunFolder(config.model_dir, config.encoder, config.fold)
    checkpoint = artifacts.read_checkpoint(run.best("stage2"), ("weights", "settings", "epoch"))
    settings = checkpoint["settings"]
    _, held_out = artifacts.read_fold(data, config.fold, settings)
    fingerprint = artifacts.fingerprint(run.best("stage1"))
    artifacts.require_features_of(run, fingerprint)
    if settings["stage1"] != fingerprint:
        raise artifacts.ArtifactError(f"{run.best('stage2')} was trained on features of another {run.best('stage1').name}: run train_stage2.py again")

    dataset = SequenceDataset(run, held_out, artifacts.read_pickle(data.geometry), settings["cut"], seed=0, step=settings["step"])
    if dataset.channels != settings["channels"]:
        raise artifacts.ArtifactError(f"the features are {dataset.channels} wide, the transformer reads {settings['channels']}: run train_stage2.py again")
    model = build_transformer(settings, checkpoint["weights"], device)
    loader = make_loader(dataset, config.batch_size, workers=0, collate=pad_sequences)
    probabilities = engine.predict(loader, lambda batch: predict_batch(model, batch, device), device, "held-out series")

    keys = ["SeriesInstanceUID"]
    predictions = pd.concat([held_out[keys], pd.DataFrame(probabilities, columns=list(LABELS))], axis=1)
    title = f"stage 2, fold {config.fold}, epoch {checkpoint['epoch']} and step {settings['step']} (chosen on this fold)"
    return engine.report_scores(run, "stage2", held_out, predictions, keys, title)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
