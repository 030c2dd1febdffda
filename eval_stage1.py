"""Stage 4 of 8: score the 2.5D CNN on the spots of the held-out fold.

The slice of each spot is given, so this score is higher than that of a series by construction.

Reads   model/{encoder}/fold-{k}/best_stage1.pth (train_stage1.py)
        data/, what train_stage1.py reads

Writes  model/{encoder}/fold-{k}/scores_stage1.json, predictions_stage1.csv
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from src.artifacts.checkpoints import read_trained
from src.artifacts.next_stage import after
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import weights_of
from src.artifacts.tables import read_fold, require_held_out
from src.device import choose_device
from src.evaluation.score_report import report_spots
from src.inference.probabilities import predict, predict_spots
from src.labels import LABELS
from src.networks.slice_cnn import build_slice_cnn
from src.sampling.loader import make_loader
from src.sampling.spot_dataset import SpotDataset, held_out_rows, read_spot_tables
from src.script import run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # the held-out fold
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained

    train_on_all: bool = False  # refused: nothing was held out
    batch_size: int = 64  # samples per batch
    workers: int = 4  # loader processes


def main(config: Config) -> dict:
    require_held_out(config)
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    weights = weights_of(run, "stage1")
    checkpoint = read_trained(run, "stage1", "best")
    settings = checkpoint["settings"]
    model = build_slice_cnn(settings, checkpoint["weights"], device)

    read_fold(data, config.fold, settings)
    tables = read_spot_tables(data)
    rows = held_out_rows(tables.spots, config.fold)
    held_out = SpotDataset(
        tables,
        rows,
        settings["crop_size"],
        seed=0,
        augmentation=None,
        view_mm=settings["view_mm"],
        step_mm=settings["step_mm"],
    )
    loader = make_loader(held_out, config.batch_size, config.workers)

    def probabilities_of(batch: dict) -> torch.Tensor:
        return predict_spots(model, batch, settings["crop_size"], device)

    predictions = predict(loader, probabilities_of, device, "held-out spots")  # (N, 14)
    truth = held_out.truth()
    predictions = pd.DataFrame(predictions, columns=list(LABELS))
    predictions = pd.concat([truth[["SeriesInstanceUID", "slice"]], predictions], axis=1)
    title = f"stage 1, fold {config.fold}, epoch {checkpoint['epoch']} (chosen on this fold), spots"
    return report_spots(run, truth, predictions, title, {config.fold: weights})


if __name__ == "__main__":
    run_script(main, Config, __doc__, following=after(__file__))
