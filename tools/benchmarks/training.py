"""loader: samples of stage 1 a second for 0, 1 and 2 loader processes. train: images a second of its training, from the loader and from one
batch that lies on the device. stage2: series a second of stage 2's training. Each against a plain way and against its floor."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import timm.optim
import torch
from torch import nn

import train_stage1
import train_stage2
from src.artifacts.files import write_array
from src.artifacts.paths import DataFolder, RunFolder
from src.device import autocast, choose_device, precision, to_device, use_compiler
from src.labels import LABELS, PRESENT
from src.networks.sequence_transformer import new_transformer
from src.preprocess.intensity import TOP
from src.sampling.augment import Augmentation
from src.sampling.loader import batches_of, make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import STEPS, centre_crop, neighbours
from src.sampling.spot_dataset import SpotDataset, SpotTables, training_rows
from src.script import settings_of
from src.training.learner import Learner
from src.training.losses import focal_loss
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case, synchronize
from tools.benchmarks.flops import flops_of


@dataclass
class Loader:
    """Samples of stage 1 a second, for 0, 1 and 2 loader processes."""

    image_size: int = 512  # pixels, of the prepared arrays
    crop_size: int = 448  # pixels
    series: int = 20  # series
    slices: int = 60  # slices a series
    samples: int = 26  # samples a series
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@dataclass
class Train:
    """Images a second of stage 1's training, with and without data."""

    encoder: str = "convnext_base.dinov3_lvd1689m"  # with random weights
    image_size: int = 512  # pixels, of the prepared arrays
    crop_size: int = 448  # pixels
    batch_size: int = 32  # samples
    series: int = 20  # series
    slices: int = 60  # slices a series
    samples: int = 32  # samples a series
    workers: int = 4  # loader processes
    heatmap_weight: float = 0.3  # 0: the published network
    compile: bool = False  # by torch.compile
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@dataclass
class Stage2:
    """Series a second of stage 2's training, against torch's own encoder on padded float32 sequences."""

    channels: int = 1090  # of the features
    width: int = train_stage2.Config.width  # of the tokens
    series: int = 64  # series
    slices: int = 190  # slices a series
    batch_size: int = train_stage2.Config.batch_size  # series a step
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@contextmanager
def loader_case(config: Loader) -> Iterator[Case]:
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        dataset = made_up_spots(DataFolder(temporary), config)
        loaders = {
            workers: make_loader(dataset, 32, workers, shuffle_seed=0) for workers in (0, 1, 2)
        }
        work = len(loaders[0].sampler)
        rows = training_rows(dataset.tables.spots, 0).head(work)
        slices = bytearray(3 * config.image_size**2 * 2)
        yield Case(
            title=f"samples of {config.image_size} x {config.image_size}, crop {config.crop_size}",
            ways={
                OURS: partial(use_up, loaders[0]),
                "1 loader process": partial(use_up, loaders[1]),
                "2 loader processes": partial(use_up, loaders[2]),
                PLAIN: lambda: [
                    plain_images(dataset.tables.data, row) for row in rows.itertuples()
                ],
                FLOOR: lambda: [
                    read_over(slices, dataset.tables.data.sequence(row.SeriesInstanceUID))
                    for row in rows.itertuples()
                ],
            },
            work=work,
            unit="samples",
            floor="the bytes of three slices, read",
        )


@contextmanager
def train_case(config: Train) -> Iterator[Case]:
    device = choose_device(config.device)
    shared = {
        name: getattr(config, name)
        for name in ("encoder", "crop_size", "heatmap_weight", "batch_size")
    }
    settings = train_stage1.Config(**shared, pretrained=False)
    torch.manual_seed(0)
    learner = Learner(
        train_stage1.make_network(settings),
        device,
        settings.lr,
        settings.weight_decay,
        1,
        settings.ema_decay,
        ema_every=3,
    )
    learner.model.train()
    plain_model = train_stage1.make_network(settings).to(
        device, memory_format=torch.contiguous_format
    )
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        dataset = made_up_spots(DataFolder(temporary), config)
        loader = make_loader(dataset, config.batch_size, config.workers, shuffle_seed=0)
        batch = to_device(next(iter(loader)), device)
        flops = len(loader) * flops_of(
            lambda: train_stage1.batch_loss(learner.model, batch, settings, device).backward()
        )
        if config.compile:
            use_compiler(learner.model)

        def run(batches) -> None:
            for some in batches:
                learner.step(
                    [
                        lambda some=some: train_stage1.batch_loss(
                            learner.network, some, settings, device
                        )
                    ]
                )
            synchronize(device)

        run([batch] * 3)  # compiles, allocates
        rows = training_rows(dataset.tables.spots, 0).head(len(loader.sampler))
        yield Case(
            title=f"{config.encoder}, crop {config.crop_size}, batch {config.batch_size}, {device}, {precision(device)}{', compiled' * config.compile}",
            ways={
                OURS: lambda: run(loader),
                "one batch again": lambda: run([batch] * len(loader)),
                PLAIN: lambda: plain_training(plain_model, dataset, rows, settings, device),
            },
            work=len(loader.sampler),
            unit="images",
            floor="the FLOPs, forward and backward, at the measured peak",
            flops=flops,
            device=device,
        )


@contextmanager
def stage2_case(config: Stage2) -> Iterator[Case]:
    device = choose_device(config.device)
    settings = settings_of(train_stage2.Config(width=config.width)) | {"channels": config.channels}
    torch.manual_seed(0)
    learner = Learner(
        new_transformer(settings),
        device,
        settings["lr"],
        settings["weight_decay"],
        1,
        settings["ema_decay"],
        ema_every=3,
    )
    learner.model.train()
    plain_model = PlainTransformer(settings).to(device)
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        dataset = made_up_features(RunFolder(temporary, "bench", 0), config, settings["cut"])
        loader = make_loader(dataset, config.batch_size, 0, shuffle_seed=0, collate=pad_sequences)
        batch = to_device(next(iter(loader)), device)

        def ours() -> None:
            for some in batches_of(loader):
                learner.step(
                    [lambda some=some: train_stage2.batch_loss(learner.network, some, device)]
                )
            synchronize(device)

        yield Case(
            title=f"{config.series} series of {config.slices} slices, features of {config.channels}, width {config.width}, {device}",
            ways={
                OURS: ours,
                PLAIN: lambda: plain_sequences(
                    plain_model, dataset, config, settings["cut"], device
                ),
            },
            work=len(loader.sampler),
            unit="series",
            floor="the FLOPs, forward and backward, at the measured peak",
            flops=len(loader)
            * flops_of(lambda: train_stage2.batch_loss(learner.model, batch, device).backward()),
            device=device,
        )


def use_up(loader) -> None:
    for _ in loader:
        pass


def plain_images(data: DataFolder, row) -> np.ndarray:
    """What one would write in five minutes: (3, S, S) float32."""
    volume = np.load(data.sequence(row.SeriesInstanceUID), mmap_mode="r")
    return np.stack(
        [volume[k].astype(np.float32) for k in neighbours(np.array([row.f]), 1, len(volume))[0]]
    )


def read_over(buffer: bytearray, path: Path) -> int:
    """As many bytes of a file as the buffer holds, over those that it held."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(file, [buffer], 3 * len(buffer))
    finally:
        os.close(file)


def plain_training(
    model: nn.Module,
    dataset: SpotDataset,
    rows: pd.DataFrame,
    settings: train_stage1.Config,
    device: torch.device,
) -> None:
    """An epoch as one would write it in five minutes: images turned one by one, timm's Mars, a moving average weight by weight."""
    optimizer = timm.optim.Mars(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    average = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for first in range(0, len(rows), settings.batch_size):
        images = []
        for row in rows.iloc[first : first + settings.batch_size].itertuples():
            image = np.ascontiguousarray(
                centre_crop(plain_images(dataset.tables.data, row), settings.crop_size).transpose(
                    1, 2, 0
                )
            )
            turn = cv2.getRotationMatrix2D(
                (settings.crop_size / 2, settings.crop_size / 2), 3, 1.05
            )
            images.append(cv2.warpAffine(image, turn, image.shape[:2]).transpose(2, 0, 1))
        batch = torch.from_numpy(np.stack(images)).to(device)
        optimizer.zero_grad()
        with autocast(device):
            out = model(batch)
        loss = focal_loss(out.logits, torch.zeros_like(out.logits))
        loss = (
            loss
            if out.heatmap is None
            else loss + focal_loss(out.heatmap.float(), torch.zeros_like(out.heatmap))
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                average[name].lerp_(weight, 0.001)
    synchronize(device)


class PlainTransformer(nn.Module):
    """torch's own encoder of the same widths, its tokens averaged."""

    def __init__(self, settings: dict):
        super().__init__()
        width = settings["width"]
        self.project = nn.Linear(settings["channels"], width)
        layer = nn.TransformerEncoderLayer(
            width, settings["heads"], width, settings["dropout"], batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, settings["layers"], enable_nested_tensor=False)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, features: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.head(
            self.encoder(self.project(features), src_key_padding_mask=padding).mean(dim=1)
        )


def plain_sequences(
    model: nn.Module, dataset: SequenceDataset, config: Stage2, longest: int, device: torch.device
) -> None:
    """An epoch as one would write it in five minutes: whole files read, every sequence padded to the longest there can be."""
    optimizer = timm.optim.Mars(model.parameters(), lr=1e-5)
    for first in range(0, len(dataset), config.batch_size):
        uids = dataset.uids[first : first + config.batch_size]
        features = np.zeros((len(uids), max(longest, config.slices), config.channels), np.float32)
        padding = np.ones(features.shape[:2], bool)
        for row, uid in enumerate(uids):
            features[row, : config.slices] = np.load(dataset.run.feature(uid))[0].astype(np.float32)
            padding[row, : config.slices] = False
        optimizer.zero_grad()
        with autocast(device):
            logits = model(
                torch.from_numpy(features).to(device), torch.from_numpy(padding).to(device)
            )
        focal_loss(logits, torch.zeros_like(logits)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    synchronize(device)


def made_up_features(run: RunFolder, config: Stage2, cut: int) -> SequenceDataset:
    """Series of random features and logits, 1 mm a slice."""
    generator, uids = np.random.default_rng(0), [f"1.2.{number}" for number in range(config.series)]
    for uid in uids:
        for path, width in ((run.feature(uid), config.channels), (run.logit(uid), len(LABELS))):
            write_array(
                path,
                generator.standard_normal((len(STEPS), config.slices, width), np.float32).astype(
                    np.float16
                ),
            )
    series = pd.DataFrame(
        {"SeriesInstanceUID": uids} | {label: np.arange(len(uids)) % 2 for label in LABELS}
    )
    return SequenceDataset(
        run,
        series,
        {uid: {"positions": np.arange(config.slices, dtype=float)} for uid in uids},
        cut,
        seed=0,
        step=None,
    )


def made_up_spots(data: DataFolder, config: Loader | Train) -> SpotDataset:
    """A dataset of spots on arrays of noise, half of them positive."""
    length, size, series, generator = (
        config.slices,
        config.image_size,
        config.series,
        np.random.default_rng(0),
    )
    data.sequences.mkdir(parents=True)
    uids = [f"1.2.{number}" for number in range(series)]
    for uid in uids:
        write_array(
            data.sequence(uid),
            (generator.random((length, size, size), np.float32) * TOP).astype(np.float16),
        )
    meta = pd.DataFrame(
        {
            "SeriesInstanceUID": uids,
            "plane": "axial",
            "orientation": "",
            "h": size,
            "w": size,
            "row_spacing": 0.5,
            "column_spacing": 0.5,
        }
    )
    samples = series * config.samples
    rows = [
        {
            "SeriesInstanceUID": uids[k % series],
            "f": 10 + k % (length - 20),
            "class_id": k % 2 * PRESENT,
            "length": length,
            "fold": 1,
        }
        | {"x_512": 200.0, "y_512": 300.0}
        for k in range(samples)
    ]
    labels = {uid: np.zeros((length, len(LABELS)), np.uint8) for uid in uids}
    safe = {uid: np.arange(length) for uid in uids}
    tables = SpotTables(
        data, pd.DataFrame(rows), labels, safe, {}, meta.set_index("SeriesInstanceUID", drop=False)
    )
    return SpotDataset(
        tables, training_rows(tables.spots, 0).head(samples), config.crop_size, 0, Augmentation()
    )
