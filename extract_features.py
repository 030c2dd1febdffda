"""Stage 5 of 8: the trained encoder over every slice of every series, with neighbours at step 1 and at step 2.

Reads   model/{encoder}/fold-{k}/best_stage1.pth (train_stage1.py), data/train_{N}_folds.csv, data/npy_sequence/

Writes  model/{encoder}/fold-{k}/features/{uid}.npy  (2 steps, n slices, C) float16
        model/{encoder}/fold-{k}/logits/{uid}.npy    (2, n, 14) float16

Series that are finished are skipped; features of other weights are made anew. Several GPUs: torchrun --nproc-per-node 8 extract_features.py;
several machines: one process each with its --shard.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from src import artifacts, engine, ranks
from src.artifacts import DataFolder, RunFolder
from src.datasets import STEPS
from src.runtime import progress, run_script
from src.slice_cnn import SliceCNN, build_slice_cnn, encode
from src.volume import centre_crop, neighbours


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # whose network
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    series: Literal["all", "held-out"] = "all"  # held-out is enough to mine hard negatives; stage 2 needs all
    shard: str | None = None  # i/n: only every n-th series, beginning with the i-th
    batch_size: int = 128  # slices


def main(config: Config) -> int:
    device = engine.choose_device(config.device)
    data, run = DataFolder(config.data_dir), RunFolder(config.model_dir, config.encoder, config.fold)
    checkpoint = artifacts.read_checkpoint(run.best("stage1"), ("weights", "settings"))
    model = build_slice_cnn(checkpoint["settings"], checkpoint["weights"], device)

    every, held_out = artifacts.read_fold(data, config.fold, checkpoint["settings"])
    artifacts.keep_features_of(run, artifacts.fingerprint(run.best("stage1")), alone=config.shard is None and ranks.world() == 1)
    lengths = (held_out if config.series == "held-out" else every).set_index("SeriesInstanceUID").length
    mine = ranks.share(lengths.index.tolist(), config.shard)
    todo = [uid for uid in mine if not run.has_features(uid)]
    slices = int(lengths[todo].sum())
    print(f"{len(todo)} of {len(mine)} series to go, {slices} slices; {device}, {engine.precision(device)}")

    with progress(None, "features", " slices", total=slices) as bar:
        for uid in todo:
            prepared = artifacts.read_array(data.sequence(uid))
            features, logits = encode_steps(model, prepared, checkpoint["settings"]["crop_size"], config.batch_size, device)
            artifacts.write_array(run.logit(uid), logits)
            artifacts.write_array(run.feature(uid), features)
            bar.update(len(prepared))
    return len(todo)


def encode_steps(model: SliceCNN, prepared: np.ndarray, crop_size: int, batch_size: int, device: torch.device) -> tuple[np.ndarray, ...]:
    """Features (2, n, C) and logits (2, n, 14), float16, of prepared slices (n, S, S) float16. The series is uploaded once."""
    length = len(prepared)
    volume = torch.from_numpy(np.ascontiguousarray(centre_crop(prepared, crop_size))).to(device)  # (n, crop, crop)
    triplets = np.concatenate([neighbours(np.arange(length), step, length) for step in STEPS])  # (2 n, 3)
    encoded = encode(model, volume, triplets, batch_size)
    return tuple(part.view(len(STEPS), length, -1).half().cpu().numpy() for part in encoded)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
