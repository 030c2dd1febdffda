"""Trained networks without the training: random weights, in the files that the stages leave."""

from pathlib import Path

import numpy as np
import torch

from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import write_array, write_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import fingerprint
from src.artifacts.tables import fold_settings, read_fold, read_folds, read_spots
from src.labels import LABELS
from src.networks.sequence_transformer import new_transformer
from src.networks.slice_cnn import SliceCNN
from src.sampling.regions import learn
from tests.conftest import CROP

ENCODER = "test_convnext"


def write_stage1(
    data: DataFolder, model_dir: Path, fold: int = 0, seed: int = 0, **options
) -> RunFolder:
    """best_stage1.pth; options: more of its settings."""
    torch.manual_seed(seed)
    run = RunFolder(model_dir, ENCODER, fold)
    _, held_out = read_fold(data, fold)
    settings = fold_settings(data, held_out) | {
        "encoder": ENCODER,
        "crop_size": CROP,
        "heatmap_weight": 0.3,
    }
    settings |= options
    weights = SliceCNN(ENCODER, heatmap=True).state_dict()
    write_checkpoint(run.best("stage1"), {"weights": weights, "settings": settings, "epoch": 1})
    return run


def write_random_features(data: DataFolder, model_dir: Path, encoder: str = "made_up") -> RunFolder:
    """A stage 1 that never was, with random features and logits of all series."""
    series, held_out = read_fold(data, 0)
    run = RunFolder(model_dir, encoder, 0)
    generator = np.random.default_rng(0)
    for row in series.itertuples():
        for path, width in ((run.feature, 12), (run.logit, len(LABELS))):
            values = generator.normal(size=(2, row.length, width)).astype(np.float16)
            write_array(path(row.SeriesInstanceUID), values)
    settings = fold_settings(data, held_out) | {"crop_size": CROP, "view_mm": 0.0}
    write_checkpoint(run.best("stage1"), {"weights": {}, "settings": settings})
    write_json(run.feature_settings, {"weights": fingerprint(run.best("stage1"))})
    return run


def write_both(
    data: DataFolder, model_dir: Path, fold: int = 0, seed: int = 0, cut: int = 192, **options
) -> RunFolder:
    """best_stage1.pth, best_stage2.pth and weights_inference.pth, for step 2."""
    run = write_stage1(data, model_dir, fold, seed, **options)
    stage1 = read_checkpoint(run.best("stage1"), ())
    channels = SliceCNN(ENCODER, heatmap=True).channels
    shape = {
        "channels": channels,
        "width": 16,
        "layers": 2,
        "heads": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    fold_of = {name: stage1["settings"][name] for name in ("held_out", "image_size", "mr_window")}
    settings = (
        fold_of
        | shape
        | {"cut": cut, "step": 2, "stage1_share": 0.4, "stage1": fingerprint(run.best("stage1"))}
    )
    weights = new_transformer(settings).state_dict()
    write_checkpoint(run.best("stage2"), {"weights": weights, "settings": settings, "epoch": 1})
    series = read_folds(data)
    prior = series[series.fold != fold][list(LABELS)].mean().tolist()
    sizes = [stage1["settings"].get(name, 0.0) for name in ("image_size", "crop_size", "view_mm")]
    regions = learn(series[series.fold != fold], read_spots(data), *sizes)
    joined = {
        "prior": prior,
        "stage1": stage1["weights"],
        "stage1_settings": stage1["settings"] | {"regions": regions},
        "stage2": weights,
        "stage2_settings": settings,
    }
    write_checkpoint(run.inference, joined)
    return run
