"""Stage 5 of 8: the trained encoder over every slice of every series, with neighbours at step 1 and at step 2.

Reads   model/{encoder}/fold-{k}/best_stage1.pth (train_stage1.py), data/train_{N}_folds.csv, data/npy_sequence/

Writes  model/{encoder}/fold-{k}/features/{uid}.npy  (2 steps, n slices, C) float16
        model/{encoder}/fold-{k}/logits/{uid}.npy    (2, n, 14) float16

Series that are finished are skipped; features of other weights are made anew. Several GPUs: torchrun --nproc-per-node 8 extract_features.py;
several machines: one process each with its --shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from src import distributed
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import has_features, read_array, write_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import fingerprint, keep_features_of
from src.artifacts.tables import read_fold
from src.device import choose_device, precision
from src.inference.encode import as_volume, encode_series
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.progress import in_thread, progress
from src.sampling.slices import STEPS, neighbours
from src.script import run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # whose network
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    series: Literal["all", "held-out"] = (
        "all"  # held-out is enough to mine hard negatives; stage 2 needs all
    )
    shard: str | None = None  # i/n: only every n-th series, beginning with the i-th
    batch_size: int = 128  # slices


def main(config: Config) -> int:
    device = choose_device(config.device)
    data, run = (
        DataFolder(config.data_dir),
        RunFolder(config.model_dir, config.encoder, config.fold),
    )
    checkpoint = read_checkpoint(run.best("stage1"), ("weights", "settings"))
    model = build_slice_cnn(checkpoint["settings"], checkpoint["weights"], device)

    every, held_out = read_fold(data, config.fold, checkpoint["settings"])
    part = config.shard or distributed.part()
    lengths = (
        (held_out if config.series == "held-out" else every).set_index("SeriesInstanceUID").length
    )
    mine = distributed.share(lengths.index.tolist(), part)
    keep_features_of(run, fingerprint(run.best("stage1")), part)
    todo = [uid for uid in mine if not has_features(run, uid)]
    slices = int(lengths[todo].sum())
    print(
        f"{len(todo)} of {len(mine)} series to go, {slices} slices; {device}, {precision(device)}"
    )

    crop_size = checkpoint["settings"]["crop_size"]
    with progress(None, "features", " slices", total=slices) as bar:
        for length in extract(model, data, run, todo, crop_size, config.batch_size, device):
            bar.update(length)
    return len(todo)


def extract(
    model: SliceCNN,
    data: DataFolder,
    run: RunFolder,
    uids: list[str],
    crop_size: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[int]:
    """Write the files of each series, reading the next and writing the last one in threads beside the network; how many slices each has."""
    read = in_thread(lambda uid: read_series(data, uid, crop_size, device), uids)
    return in_thread(
        lambda encoded: write_series(run, *encoded),
        encode_series(model, read, batch_size, fixed=True),
    )


def read_series(
    data: DataFolder, uid: str, crop_size: int, device: torch.device
) -> tuple[str, torch.Tensor, np.ndarray]:
    """A series for `encode_series`: UID, volume, triplets (2 n, 3) of all its slices with their neighbours at each step."""
    volume = as_volume(read_array(data.sequence(uid)), crop_size, device)
    length = len(volume)
    return (
        uid,
        volume,
        np.concatenate([neighbours(np.arange(length), step, length) for step in STEPS]),
    )


def write_series(run: RunFolder, uid: str, features: torch.Tensor, logits: torch.Tensor) -> int:
    """The two files of a series, whose features (2 n, C) and logits (2 n, 14) lie on the device; how many slices it has."""
    length = len(features) // len(STEPS)
    write_array(run.logit(uid), logits.half().view(len(STEPS), length, -1).cpu().numpy())
    write_array(run.feature(uid), features.half().view(len(STEPS), length, -1).cpu().numpy())
    return length


if __name__ == "__main__":
    run_script(main, Config, __doc__)
