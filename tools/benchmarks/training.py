"""loader: samples of stage 1. train, stage2: steps of both stages. Each against a plain way."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import train_stage1
import train_stage2
from src.artifacts.paths import DataFolder, RunFolder
from src.device import autocast, choose_device, precision, to_device, use_compiler
from src.labels import LABELS
from src.networks.sequence_transformer import new_transformer
from src.sampling.loader import batches_of, make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import centre_crop, neighbours
from src.sampling.spot_dataset import SpotDataset
from src.script import settings_of
from src.training.learner import Learner
from src.training.losses import focal_loss
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case, NetworkOptions, Options, synchronize
from tools.benchmarks.flops import flops_of
from tools.benchmarks.made_up import spot_tables, write_arrays, write_features


@dataclass(kw_only=True)
class Loader(Options):
    """Samples of stage 1 a second, for 0, 1 and 2 loader processes."""

    image_size: int = 512  # pixels, of the prepared images
    crop_size: int = 448  # pixels
    series: int = 20  # series
    slices: int = 60  # slices a series
    samples: int = 26  # samples a series


@dataclass(kw_only=True)
class Train(NetworkOptions):
    """Images a second of stage 1's training, from the loader and from one batch on the device."""

    batch_size: int = 32  # samples
    series: int = 20  # series
    slices: int = 60  # slices a series
    samples: int = 32  # samples a series
    workers: int = 4  # loader processes
    heatmap_weight: float = 0.3  # 0: the published network
    compile: bool = False  # by torch.compile


@dataclass(kw_only=True)
class Stage2(Options):
    """Series a second of stage 2's training, against torch's own encoder on padded sequences."""

    channels: int = 1090  # of the features
    width: int = train_stage2.Config.width  # of the tokens
    series: int = 64  # series
    slices: int = 190  # slices a series
    batch_size: int = train_stage2.Config.batch_size  # series a step
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...


def loader_case(config: Loader, folder: Path) -> Case:
    """Write arrays of noise into the folder."""
    dataset = spots_of(folder, config, train_stage1.Config(crop_size=config.crop_size))
    path_of = dataset.tables.data.sequence
    buffer = bytearray(3 * config.image_size**2 * 2)

    def use_up(workers: int) -> None:
        for _ in loaders[workers]:
            pass

    def plain() -> None:
        for row in rows:
            plain_images(path_of(row["SeriesInstanceUID"]), row["f"])

    def read_bytes() -> None:
        for row in rows:
            with open(path_of(row["SeriesInstanceUID"]), "rb", buffering=0) as file:
                file.seek(len(buffer))
                file.readinto(buffer)

    loaders = [make_loader(dataset, 32, workers, shuffle_seed=0) for workers in (0, 1, 2)]
    rows = dataset.rows[: len(loaders[0].sampler)]
    return Case(
        title=f"samples of {config.image_size} x {config.image_size}, crop {config.crop_size}",
        ways={
            OURS: partial(use_up, 0),
            "1 loader process": partial(use_up, 1),
            "2 loader processes": partial(use_up, 2),
            PLAIN: plain,
            FLOOR: read_bytes,
        },
        work=len(rows),
        unit="samples",
        floor="the bytes of three slices, read into one buffer",
    )


def train_case(config: Train, folder: Path) -> Case:
    """Write arrays of noise into the folder."""
    device = choose_device(config.device)
    settings = train_stage1.Config(
        encoder=config.encoder,
        pretrained=False,
        crop_size=config.crop_size,
        heatmap_weight=config.heatmap_weight,
        batch_size=config.batch_size,
    )
    dataset = spots_of(folder, config, settings)
    loader = make_loader(dataset, config.batch_size, config.workers, shuffle_seed=0)
    learner = new_learner(train_stage1.make_network(settings), settings, device)
    plain_model = train_stage1.make_network(settings)
    plain_model.to(device, memory_format=torch.contiguous_format)
    loss_of = partial(train_stage1.batch_loss, config=settings, device=device)
    batch = to_device(next(iter(loader)), device)
    flops = len(loader) * flops_of(lambda: loss_of(learner.model, batch).backward())
    if config.compile:
        use_compiler(learner.model)
    train(learner, [batch] * 3, loss_of)  # compiles, allocates
    return Case(
        title=f"{config.encoder}, crop {config.crop_size}, batch {config.batch_size}, "
        f"{device}, {precision(device)}{', compiled' if config.compile else ''}",
        ways={
            OURS: lambda: train(learner, batches_of(loader), loss_of),
            "one batch again": lambda: train(learner, [batch] * len(loader), loss_of),
            PLAIN: lambda: plain_epoch(plain_model, plain_batches(dataset, settings, device)),
        },
        work=len(loader.sampler),
        unit="images",
        floor="the FLOPs, forward and backward, at the measured peak",
        flops=flops,
        device=device,
    )


def stage2_case(config: Stage2, folder: Path) -> Case:
    """Write random features into the folder."""
    device = choose_device(config.device)
    settings = train_stage2.Config(width=config.width, batch_size=config.batch_size)
    model = new_transformer(settings_of(settings) | {"channels": config.channels})
    learner = new_learner(model, settings, device)
    plain_model = PlainTransformer(config.channels, settings).to(device)
    run = RunFolder(folder, "bench", 0)
    series = write_features(run, config.series, config.slices, config.channels)
    positions = {"positions": np.arange(config.slices, dtype=float)}  # mm
    geometry = dict.fromkeys(series.SeriesInstanceUID, positions)
    dataset = SequenceDataset(run, series, geometry, settings.cut, seed=0, step=None)
    loader = make_loader(dataset, config.batch_size, 0, shuffle_seed=0, collate=pad_sequences)
    loss_of = partial(train_stage2.batch_loss, device=device)
    batch = to_device(next(iter(loader)), device)
    longest = max(settings.cut, config.slices)
    return Case(
        title=f"{config.series} series of {config.slices} slices, features of "
        f"{config.channels}, width {config.width}, {device}",
        ways={
            OURS: lambda: train(learner, batches_of(loader), loss_of),
            PLAIN: lambda: plain_epoch(
                plain_model, plain_sequences(dataset, config.batch_size, longest, device)
            ),
        },
        work=len(loader.sampler),
        unit="series",
        floor="the FLOPs, forward and backward, at the measured peak",
        flops=len(loader) * flops_of(lambda: loss_of(learner.model, batch).backward()),
        device=device,
    )


def spots_of(folder: Path, config: Loader | Train, settings: train_stage1.Config) -> SpotDataset:
    """Return training samples on made-up arrays."""
    data = DataFolder(folder)
    size, slices = config.image_size, config.slices
    uids = write_arrays(data, config.series, slices, size)
    tables = spot_tables(data, uids, slices, size, config.series * config.samples)
    training, _held_out = train_stage1.make_datasets(settings, tables)
    return training


def new_learner(
    model: nn.Module, settings: train_stage1.Config | train_stage2.Config, device: torch.device
) -> Learner:
    model.train()
    rate, decay = settings.lr, settings.weight_decay
    return Learner(model, device, rate, decay, 1, settings.ema_decay, settings.ema_every)


def train(learner: Learner, batches: Iterable[dict], loss_of: Callable[..., Tensor]) -> None:
    """Take a step on each batch."""
    for batch in batches:
        learner.step([partial(loss_of, learner.network, batch)])
    synchronize(learner.broken.device)


def plain_epoch(model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Train as one would write it in five minutes: timm's Mars, weights averaged one by one."""
    import timm.optim  # takes long; the first round is not counted

    optimizer = timm.optim.Mars(model.parameters(), lr=1e-5, weight_decay=0.01)
    average = [weight.detach().clone() for weight in model.parameters()]
    device = average[0].device
    for batch in batches:
        optimizer.zero_grad()
        with autocast(device):
            out = model(*batch)
        logits = out if isinstance(out, Tensor) else out.logits
        loss = focal_loss(logits, torch.zeros_like(logits))
        if getattr(out, "heatmap", None) is not None:
            loss = loss + focal_loss(out.heatmap.float(), torch.zeros_like(out.heatmap))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for mean, weight in zip(average, model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.001)
    synchronize(device)


def plain_batches(
    dataset: SpotDataset, settings: train_stage1.Config, device: torch.device
) -> Iterable[tuple[Tensor]]:
    """Yield batches (B, 3, crop, crop) whose images are turned one by one."""
    crop = settings.crop_size
    turn = cv2.getRotationMatrix2D((crop / 2, crop / 2), 3, 1.05)
    for first in range(0, len(dataset), settings.batch_size):
        images = []
        for row in dataset.rows[first : first + settings.batch_size]:
            image = plain_images(dataset.tables.data.sequence(row["SeriesInstanceUID"]), row["f"])
            image = np.ascontiguousarray(centre_crop(image, crop).transpose(1, 2, 0))
            images.append(cv2.warpAffine(image, turn, (crop, crop)).transpose(2, 0, 1))
        yield (torch.from_numpy(np.stack(images)).to(device),)


def plain_images(path: Path, index: int) -> np.ndarray:
    """Read a slice and its neighbours as one would write it in five minutes: (3, S, S) float32."""
    volume = np.load(path, mmap_mode="r")
    return volume[neighbours(index, 1, len(volume))].astype(np.float32)


def plain_sequences(
    dataset: SequenceDataset, batch_size: int, longest: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """Yield features (B, longest, C) float32, read as whole files, and the padding mask."""
    for first in range(0, len(dataset), batch_size):
        uids = dataset.uids[first : first + batch_size]
        features = torch.zeros(len(uids), longest, dataset.channels)
        padding = torch.ones(len(uids), longest, dtype=torch.bool)
        for row, uid in enumerate(uids):
            found = torch.from_numpy(np.load(dataset.run.feature(uid))[0])
            features[row, : len(found)] = found
            padding[row, : len(found)] = False
        yield features.to(device), padding.to(device)


class PlainTransformer(nn.Module):
    """torch's own encoder of the same widths, its tokens averaged."""

    def __init__(self, channels: int, settings: train_stage2.Config):
        super().__init__()
        width = settings.width
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, width, settings.dropout, batch_first=True
        )
        self.project = nn.Linear(channels, width)
        self.encoder = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, features: Tensor, padding: Tensor) -> Tensor:
        x = self.encoder(self.project(features), src_key_padding_mask=padding)  # (B, T, W)
        return self.head(x.mean(dim=1))  # (B, 14)
