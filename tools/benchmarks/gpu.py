"""Rows of tools/gpu_check.py: stage 1 on a GPU, training and extraction, in images a second."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

import extract_features
import train_stage1
from src.artifacts.paths import DataFolder, RunFolder
from src.device import to_device, use_compiler
from src.inference.encode import encode
from src.networks.slice_cnn import build_slice_cnn
from src.sampling.loader import batches_of, make_loader
from src.sampling.slices import STEPS, neighbours
from src.sampling.spot_dataset import SpotDataset
from tools.benchmarks.case import synchronize
from tools.benchmarks.flops import flops_of
from tools.benchmarks.inference import Extract, random_weights
from tools.benchmarks.made_up import rows_of, write_arrays
from tools.benchmarks.training import Train, new_learner, spots_of

WARM, TIMED = 3, 8  # steps


@dataclass
class Way:
    """One way to run stage 1."""

    name: str
    batch: int = 32  # images
    compile: bool = False
    accumulate: int = 1
    checkpointing: bool = False
    loader: bool = False  # images come from files, not from one batch on the device


TRAINING = [
    Way("training", 16),
    Way("training", 32),
    Way("training, accumulate 2", 32, accumulate=2),
    Way("training, accumulate 4", 32, accumulate=4),
    Way("training, checkpointing", 32, checkpointing=True),
    Way("training from files", 32, loader=True),
    Way("training", 64),
    Way("training, compiled", 32, compile=True),
]
EXTRACTION = [
    Way("extraction", 128),
    Way("extraction from files", 128, loader=True),
    Way("extraction, compiled", 128, compile=True),
]


def training_rows(config: Train, folder: Path, peak: float) -> Iterator[Callable[[], dict]]:
    """Yield what measures each way of training. peak: FLOP/s of the device."""
    dataset = spots_of(folder, config, training_settings(config, TRAINING[0]))
    for way in TRAINING:
        yield partial(training_row, config, dataset, way, peak)


def training_settings(config: Train, way: Way) -> train_stage1.Config:
    return train_stage1.Config(
        encoder=config.encoder,
        pretrained=False,
        crop_size=config.crop_size,
        batch_size=way.batch,
        accumulate=way.accumulate,
        checkpointing=way.checkpointing,
    )


def training_row(config: Train, dataset: SpotDataset, way: Way, peak: float) -> dict:
    """Return images a second, memory, and the fraction of the measured peak."""
    device = torch.device(config.device)
    settings = training_settings(config, way)
    learner = new_learner(train_stage1.make_network(settings), settings, device)
    loss_of = partial(train_stage1.batch_loss, config=settings, device=device)
    loader = make_loader(dataset, way.batch, config.workers, 0, way.accumulate)
    batch = to_device(next(iter(loader)), device)
    one = {name: values[:1] for name, values in batch.items()}
    flops = flops_of(lambda: loss_of(learner.model, one).backward())
    if way.checkpointing:  # counts the second forward pass as work that is needed
        flops *= 3 / 4
    if way.compile:
        use_compiler(learner.model)
    batches = batches_for_ever(loader) if way.loader else cycle([batch])

    def steps(count: int) -> None:
        for _ in range(count):
            parts = islice(batches, way.accumulate)
            learner.step([partial(loss_of, learner.network, part) for part in parts])

    return timed(way, steps, way.batch, flops, peak, device)


def batches_for_ever(loader) -> Iterator[dict]:
    while True:
        yield from batches_of(loader)


def extraction_rows(config: Extract, folder: Path, peak: float) -> Iterator[Callable[[], dict]]:
    """Yield what measures each way of extraction. peak: FLOP/s of the device."""
    write_arrays(DataFolder(folder), config.series, config.slices, config.image_size)
    for way in EXTRACTION:
        yield partial(extraction_row, config, folder, way, peak)


@torch.inference_mode()
def extraction_row(config: Extract, folder: Path, way: Way, peak: float) -> dict:
    device = torch.device(config.device)
    joined = random_weights(config)
    model = build_slice_cnn(joined["stage1_settings"], joined["stage1"], device)
    image = torch.zeros(1, 3, config.crop_size, config.crop_size, device=device)
    flops = flops_of(lambda: model(image))
    if way.compile:
        use_compiler(model)
    data, run = DataFolder(folder), RunFolder(folder, "bench", 0)
    uids = [f"1.2.{number}" for number in range(config.series)]
    series, settings = rows_of(uids, config.image_size), joined["stage1_settings"]
    volume = torch.zeros(way.batch, config.crop_size, config.crop_size, dtype=torch.half)
    volume = volume.to(device)
    triplets = neighbours(np.arange(way.batch), 1, way.batch)

    def steps(count: int) -> None:
        for _ in range(count):
            if way.loader:
                extract = extract_features.extract
                sum(extract(model, data, run, series, settings, way.batch, device))
            else:
                encode(model, volume, triplets, way.batch)

    images = config.series * config.slices * len(STEPS) if way.loader else way.batch
    return timed(way, steps, images, flops, peak, device)


def timed(
    way: Way,
    steps: Callable[[int], None],
    images: int,
    flops: float,
    peak: float,
    device: torch.device,
) -> dict:
    """Return the row of a way. images: of a step; flops: of an image."""
    torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    steps(WARM)
    synchronize(device)
    first = time.perf_counter() - start
    start = time.perf_counter()
    steps(TIMED)
    synchronize(device)
    rate = TIMED * images / (time.perf_counter() - start)
    return {
        "way": way.name,
        "batch": way.batch,
        "images a second": round(rate, 1),
        "fraction of peak": round(rate * flops / peak, 3),
        "GB": round(torch.cuda.max_memory_allocated(device) / 1e9, 2),
        "first steps, s": round(first, 1),
    }
