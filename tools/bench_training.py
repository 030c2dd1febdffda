"""loader: samples of stage 1 a second for 0, 1 and 2 loader processes. train: images a second of its training, from one batch that lies on the
device, and from the loader; on a GPU also the share of its measured peak."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

import train_stage1
from src import artifacts, engine
from src.artifacts import DataFolder
from src.augment import Augmentation
from src.datasets import SpotDataset, SpotTables, training_rows
from src.labels import LABELS, PRESENT
from src.loaders import make_loader
from src.volume import TOP


@dataclass
class Loader:
    """Samples of stage 1 a second, for 0, 1 and 2 loader processes."""

    image_size: int = 512  # pixels, of the prepared arrays
    crop_size: int = 448  # pixels
    series: int = 20  # series of 60 slices
    samples: int = 512  # that are timed
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@dataclass
class Train:
    """Images a second of stage 1's training, with and without data."""

    encoder: str = "convnext_base.dinov3_lvd1689m"  # with random weights
    image_size: int = 512  # pixels, of the prepared arrays
    crop_size: int = 448  # pixels
    batch_size: int = 32  # samples
    steps: int = 20  # that are timed
    workers: int = 4  # loader processes
    heatmap_weight: float = 0.3  # 0: the published network
    compile: bool = False  # by torch.compile
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


def measure_loader(config: Loader) -> dict[str, float]:
    """Median samples a second for each number of loader processes."""
    rates = {}
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        dataset = made_up_spots(DataFolder(temporary), config.series, config.image_size, config.crop_size, config.samples)
        for workers in (0, 1, 2):
            loader = make_loader(dataset, 32, workers, shuffle_seed=0)
            rates[f"{workers} loader processes"] = median_rate(lambda loader=loader: sum(len(batch["index"]) for batch in loader), config.repeats)
    print(f"samples of {config.image_size} x {config.image_size}, crop {config.crop_size}")
    for name, rate in rates.items():
        print(f"{name:20s} {rate:8.0f} samples/s")
    return rates


def measure_train(config: Train) -> dict[str, float]:
    """Median images a second with and without data; on a GPU the share of the measured peak, too."""
    device = engine.choose_device(config.device)
    settings = train_stage1.Config(
        encoder=config.encoder, pretrained=False, crop_size=config.crop_size, heatmap_weight=config.heatmap_weight, batch_size=config.batch_size
    )
    torch.manual_seed(0)
    learner = engine.Learner(train_stage1.make_network(settings), device, settings.lr, settings.weight_decay, 1, settings.ema_decay)
    learner.model.train()
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        dataset = made_up_spots(DataFolder(temporary), 20, config.image_size, config.crop_size, config.batch_size * config.steps)
        loader = make_loader(dataset, config.batch_size, config.workers, shuffle_seed=0)
        batch = engine.to_device(next(iter(loader)), device)
        with FlopCounterMode(display=False) as counter:
            train_stage1.batch_loss(learner.model, batch, settings, device).backward()
        work = counter.get_total_flops() / config.batch_size  # of one image, forward and backward
        if config.compile:
            engine.use_compiler(learner.model)

        def run(batches) -> int:
            images = 0
            for some in batches:
                learner.step([lambda some=some: train_stage1.batch_loss(learner.network, some, settings, device)])
                images += len(some["index"])
            if device.type == "cuda":
                torch.cuda.synchronize()
            return images

        run([batch] * 3)  # compiles, allocates
        ways = {"one batch again": lambda: run([batch] * config.steps), "with the loader": lambda: run(loader)}
        rates = {name: median_rate(way, config.repeats) for name, way in ways.items()}
    print(f"{config.encoder}, crop {config.crop_size}, batch {config.batch_size}, {device}, {engine.precision(device)}{', compiled' * config.compile}")
    for name, rate in rates.items():
        print(f"{name:16s} {rate:8.1f} images/s {rate * work / 1e12:8.2f} TFLOP/s")
    if device.type == "cuda":
        peak = measured_peak(device)
        print(f"a matrix product of 8192 x 8192 reaches {peak / 1e12:.0f} TFLOP/s: {rates['with the loader'] * work / peak:.0%} of it")
        print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    print(f"the loader costs {1 - rates['with the loader'] / rates['one batch again']:.1%}")
    return rates


def median_rate(run, repeats: int) -> float:
    """Items a second of `run`, which returns how many it did; the first time warms up."""
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        rates.append(run() / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def measured_peak(device: torch.device) -> float:
    """FLOP/s of a large matrix product in the precision of training."""
    side = 8192
    matrix = torch.randn(side, side, device=device, dtype=engine.precision(device))
    torch.cuda.synchronize()

    def run() -> float:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
        return 20 * 2.0 * side**3

    return median_rate(run, 5)


def made_up_spots(data: DataFolder, series: int, size: int, crop: int, samples: int) -> SpotDataset:
    """A dataset of spots on arrays of noise, half of them positive."""
    length, generator = 60, np.random.default_rng(0)
    data.sequences.mkdir(parents=True)
    uids = [f"1.2.{number}" for number in range(series)]
    for uid in uids:
        artifacts.write_array(data.sequence(uid), (generator.random((length, size, size), np.float32) * TOP).astype(np.float16))
    meta = pd.DataFrame({"SeriesInstanceUID": uids, "plane": "axial", "orientation": "", "h": size, "w": size, "row_spacing": 0.5, "column_spacing": 0.5})
    rows = [
        {"SeriesInstanceUID": uids[k % series], "f": 10 + k % 40, "class_id": k % 2 * PRESENT, "length": length, "x_512": 200.0, "y_512": 300.0, "fold": 1}
        for k in range(samples)
    ]
    labels = {uid: np.zeros((length, len(LABELS)), np.uint8) for uid in uids}
    safe = {uid: np.arange(length) for uid in uids}
    tables = SpotTables(data, pd.DataFrame(rows), labels, safe, {}, meta.set_index("SeriesInstanceUID", drop=False))
    return SpotDataset(tables, training_rows(tables.spots, 0).head(samples), crop, 0, Augmentation())
