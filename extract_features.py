"""Stage 5 of 8: run the slice CNN over every slice, with its neighbours at either step.

Reads   model/{encoder}/fold-{k}/best_stage1.pth (train_stage1.py)
        data/train_{N}_folds.csv (create_folds.py)
        data/npy_sequence/ (preprocess_data.py)

Writes  model/{encoder}/fold-{k}/features/{uid}.npy    (2 steps, n slices, C features) float16
        model/{encoder}/fold-{k}/logits/{uid}.npy      (2 steps, n slices, 14 labels) float16

Finished series are skipped; features made with other weights are replaced.

Several GPUs: torchrun --nproc-per-node 8 extract_features.py; several machines: --shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from src import distributed
from src.artifacts.checkpoints import read_trained
from src.artifacts.files import has_features, read_array, write_array
from src.artifacts.next_stage import after
from src.artifacts.paths import DataFolder, RunFolder, fold_of
from src.artifacts.plausible import all_finite, require_finite
from src.artifacts.provenance import fingerprint, keep_features_of
from src.artifacts.tables import read_fold, require_held_out
from src.device import choose_device, precision, use_compiler
from src.inference.encode import as_volume, encode_series
from src.inference.probabilities import BROKEN_WEIGHTS, NotFinite
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.progress import in_thread, progress
from src.sampling.slices import STEPS, neighbours, step_counts
from src.sampling.view import require_heads, view_of_row
from src.script import run_script


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # the fold whose network to run
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that train_stage1.py was given

    series: Literal["all", "held-out"] = "all"  # train_stage2.py needs all
    shard: str | None = None  # i/n, with i from 1: only every n-th series, from the i-th
    train_on_all: bool = False  # run the network of train_stage1.py --train-on-all
    batch_size: int = 128  # slices; on a CPU at most what its caches hold (fitting_batch)
    compile: bool = False  # torch.compile: faster on a GPU after some minutes; needs a C compiler


def main(config: Config) -> int:
    device = choose_device(config.device)
    torch.backends.cudnn.benchmark = True  # all batches have one shape; does nothing on a CPU
    data = DataFolder(config.data_dir)
    if config.series == "held-out":
        require_held_out(config)
    run = RunFolder(config.model_dir, config.encoder, fold_of(config))
    checkpoint = read_trained(run, "stage1", "best")
    settings = checkpoint["settings"]
    model = build_slice_cnn(settings, checkpoint["weights"], device)
    if config.compile:
        use_compiler(model)

    every, held_out = read_fold(data, fold_of(config), settings)
    series = held_out if config.series == "held-out" else every
    require_heads(series, settings["view_mm"])
    by_uid = series.set_index("SeriesInstanceUID", drop=False)
    part = config.shard or distributed.part()
    ours = distributed.share(by_uid.index.tolist(), part)
    keep_features_of(run, fingerprint(run.best("stage1")), part)
    todo = [uid for uid in ours if not has_features(run, uid)]
    slices = int(by_uid.length[todo].sum())
    where = f"{device}, {precision(device)}"
    print(f"{len(todo)} of {len(ours)} series to go, {slices} slices; {where}")

    lengths_written = extract(
        model, data, run, by_uid.loc[todo], settings, config.batch_size, device
    )
    with progress(None, "features", " slices", total=slices) as bar:
        for length in lengths_written:  # each series is written as it is asked for
            bar.update(length)
    if distributed.first():
        print(f"wrote {run.features} and {run.logits.name}")
    return len(todo)


def extract(
    model: SliceCNN,
    data: DataFolder,
    run: RunFolder,
    series: pd.DataFrame,
    settings: dict,
    batch_size: int,
    device: torch.device,
) -> Iterator[int]:
    """Write the files of each series and yield its number of slices.

    Threads read the next series and write the previous one while the network computes.

    series: rows of train_{N}_folds.csv. settings: what stage 1 was trained with.
    """
    rows = [row for _, row in series.iterrows()]
    read = in_thread(lambda row: read_series(data, row, settings, device), rows)
    encoded = encode_series(model, read, batch_size, pad_last=True)
    return in_thread(lambda series: write_series(run, *series), encoded)


def read_series(
    data: DataFolder, row: pd.Series, settings: dict, device: torch.device
) -> tuple[str, torch.Tensor, np.ndarray]:
    """Return a series for `encode_series`: UID, volume, triplets (2 n, 3): n of each step."""
    uid = row.SeriesInstanceUID
    path = data.sequence(uid)
    images = require_finite(read_array(path), path)
    view = view_of_row(row, images.shape[-1], settings["crop_size"], settings["view_mm"])
    volume = as_volume(images, view, device)
    counts, length = step_counts(settings["step_mm"], row.slice_spacing), len(volume)
    triplets = [neighbours(np.arange(length), count, length) for count in counts]  # (n, 3) each
    return uid, volume, np.concatenate(triplets)


def write_series(run: RunFolder, uid: str, features: torch.Tensor, logits: torch.Tensor) -> int:
    """Write features (2 n, C) and logits (2 n, 14) of a series; return its number of slices.

    Raise NotFinite if float16 cannot hold them.
    """
    length = len(features) // len(STEPS)
    arrays = {}
    for path, values in ((run.logit(uid), logits), (run.feature(uid), features)):
        arrays[path] = values.half().view(len(STEPS), length, -1).cpu().numpy()
        if not all_finite(arrays[path]):
            raise NotFinite(f"series {uid}: {path} would not be finite: {BROKEN_WEIGHTS}")
    for path, array in arrays.items():
        write_array(path, array)
    return length


if __name__ == "__main__":
    run_script(main, Config, __doc__, following=after(__file__))
