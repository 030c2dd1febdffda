"""extract: stage 1's network over all slices of series, both steps. end_to_end: both stages from DICOM. Each against the plain way: a loop
over series, arrays stacked to three float32 channels, batch by batch; end to end, all slices are read and encoded and thinned afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import eval_end_to_end
import extract_features
import train_stage2
from src.artifacts.files import write_array
from src.artifacts.paths import DataFolder, RunFolder
from src.device import autocast, choose_device
from src.dicom import read_series
from src.inference.both_stages import BothStages, series_probabilities
from src.labels import LABELS
from src.networks.sequence_transformer import new_transformer
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.preprocess.images import prepare
from src.preprocess.intensity import TOP
from src.progress import Clock
from src.sampling.slices import STEPS, centre_crop
from src.script import settings_of
from tools.benchmarks.case import OURS, PLAIN, Case
from tools.benchmarks.flops import flops_of
from tools.benchmarks.preprocess import Preprocess, write_series


@dataclass
class Extract:
    """Features of stored arrays, against a plain loop."""

    encoder: str = "convnext_base.dinov3_lvd1689m"  # with random weights
    image_size: int = 512  # pixels, of the prepared arrays
    crop_size: int = 448  # pixels
    series: int = 4  # series
    slices: int = 60  # slices a series
    batch_size: int = 128  # slices
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@dataclass
class EndToEnd:
    """Probabilities from DICOM, against reading all, encoding all, thinning afterwards."""

    encoder: str = "convnext_base.dinov3_lvd1689m"  # with random weights
    image_size: int = 512  # pixels, of the DICOM images and the prepared ones
    crop_size: int = 448  # pixels
    series: int = 2  # series, CT and MR in turn
    slices: int = 400  # slices a series
    batch_size: int = 128  # slices
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    repeats: int = 5  # of each measurement
    folder: Path | None = None  # where to work (default: the system's temporary folder)


@contextmanager
def extract_case(config: Extract) -> Iterator[Case]:
    device = choose_device(config.device)
    model, plain_model = (
        network(config, device),
        SliceCNN(config.encoder, heatmap=True).to(device).eval(),
    )
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        data, run = DataFolder(temporary), RunFolder(temporary, "bench", 0)
        generator, uids = (
            np.random.default_rng(0),
            [f"1.2.{number}" for number in range(config.series)],
        )
        for uid in uids:
            array = (
                generator.random((config.slices, config.image_size, config.image_size), np.float32)
                * TOP
            )
            write_array(data.sequence(uid), array.astype(np.float16))

        def ours() -> None:
            assert (
                sum(
                    extract_features.extract(
                        model, data, run, uids, config.crop_size, config.batch_size, device
                    )
                )
                == len(uids) * config.slices
            )

        def plain() -> None:
            for uid in uids:
                features, logits = plain_features(
                    plain_model, np.load(data.sequence(uid)), config, device
                )
                np.save(run.feature(uid), features)
                np.save(run.logit(uid), logits)

        def empty_folders() -> None:
            shutil.rmtree(run.root, ignore_errors=True)
            run.features.mkdir(parents=True)
            run.logits.mkdir()

        work = config.series * config.slices
        yield Case(
            title=f"{config.encoder}, {config.series} series of {config.slices} slices, {config.image_size} pixels, crop {config.crop_size}, {device}",
            ways={OURS: ours, PLAIN: plain},
            work=work,
            unit="slices",
            floor="the network's FLOPs at the measured peak",
            flops=work * len(STEPS) * flops_of_slice(plain_model, config.crop_size, device),
            device=device,
            clear=empty_folders,
        )


@contextmanager
def end_to_end_case(config: EndToEnd) -> Iterator[Case]:
    device = choose_device(config.device)
    model, plain_model = (
        BothStages(random_weights(config), device),
        SliceCNN(config.encoder, heatmap=True).to(device).eval(),
    )
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark-") as temporary:
        data = DataFolder(temporary)
        files = Preprocess(matrix=config.image_size, slices=config.slices)
        uids = [write_series(data, files, number) for number in range(config.series)]
        clocks = [Clock()]

        def ours() -> None:
            failed: list[tuple[str, str, str]] = []
            clocks.append(Clock())
            eval_end_to_end.predict_all(model, data, uids, config.batch_size, clocks[-1], failed)
            assert not failed, failed

        def plain() -> None:
            for uid in uids:
                plain_probabilities(model, plain_model, data.series(uid), config)

        yield Case(
            title=f"{config.encoder}, {config.series} series of {config.slices} slices, {config.image_size} pixels, crop {config.crop_size}, {device}",
            ways={OURS: ours, PLAIN: plain},
            work=config.series * config.slices,
            unit="slices",
            floor="the FLOPs of stage 1 on the slices that are used, at the measured peak",
            flops=config.series
            * len(model.tokens(config.slices))
            * flops_of_slice(plain_model, config.crop_size, device),
            device=device,
            note=lambda: eval_end_to_end.time_line(clocks[-1], config.series),
        )


@torch.inference_mode()
def flops_of_slice(model: SliceCNN, crop: int, device: torch.device) -> float:
    return flops_of(lambda: model(torch.zeros(1, 3, crop, crop, device=device)))


def checkpoint_settings(config: Extract | EndToEnd) -> dict:
    return {
        "encoder": config.encoder,
        "heatmap_weight": 0.3,
        "crop_size": config.crop_size,
        "image_size": config.image_size,
        "mr_window": "percentile",
    }


def network(config: Extract, device: torch.device) -> SliceCNN:
    torch.manual_seed(0)
    return build_slice_cnn(
        checkpoint_settings(config), SliceCNN(config.encoder, heatmap=True).state_dict(), device
    )


def random_weights(config: EndToEnd) -> dict:
    """What train_stage2.py joins, untrained, for step 2."""
    torch.manual_seed(0)
    stage1 = SliceCNN(config.encoder, heatmap=True)
    stage2 = settings_of(train_stage2.Config()) | {"channels": stage1.channels, "step": 2}
    return {
        "stage1": stage1.state_dict(),
        "stage1_settings": checkpoint_settings(config),
        "stage2": new_transformer(stage2).state_dict(),
        "stage2_settings": stage2,
    }


@torch.inference_mode()
def plain_features(
    model: SliceCNN,
    prepared: np.ndarray,
    config: Extract | EndToEnd,
    device: torch.device,
    steps=STEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """What one would write in five minutes: features (len(steps), n, C) and logits (len(steps), n, 14) float16."""
    length = len(prepared)
    cropped = centre_crop(prepared, config.crop_size)
    features, logits = [], []
    for step in steps:
        stacks = [
            np.stack(
                [cropped[max(k - step, 0)], cropped[k], cropped[min(k + step, length - 1)]]
            ).astype(np.float32)
            for k in range(length)
        ]
        for first in range(0, length, config.batch_size):
            batch = torch.from_numpy(np.stack(stacks[first : first + config.batch_size])).to(device)
            with autocast(device):
                out = model(batch)
            features.append(out.features.half().cpu().numpy())
            logits.append(out.logits.half().cpu().numpy())
    return np.concatenate(features).reshape(len(steps), length, -1), np.concatenate(logits).reshape(
        len(steps), length, len(LABELS)
    )


@torch.inference_mode()
def plain_probabilities(
    model: BothStages, plain_model: SliceCNN, folder: Path, config: EndToEnd
) -> np.ndarray:
    """All slices read, prepared and encoded, then thinned: (14,)."""
    series = read_series(folder)
    prepared = prepare(series, config.image_size, "percentile")
    encoded = plain_features(plain_model, prepared, config, model.device, model.steps)
    tokens = model.tokens(len(prepared))
    features, logits = (
        torch.from_numpy(values[0, tokens]).float()[None].to(model.device) for values in encoded
    )
    positions = torch.from_numpy(series.positions[tokens]).float()[None].to(model.device)
    batch = {
        "features": features,
        "positions": positions,
        "present": torch.ones_like(positions, dtype=torch.bool),
        "highest": logits.amax(dim=1),
    }
    return (
        series_probabilities(model.transformer, batch, model.stage2["stage1_share"])
        .cpu()
        .numpy()[0]
    )
