"""extract: stage 1's network over all slices of series, both steps. end_to_end: from DICOM.

The plain way goes series by series: triplets stacked as float32, batch by batch. End to end, it
reads and encodes all slices of a series and picks the transformer's afterwards.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import eval_end_to_end
import extract_features
import train_stage2
from src.artifacts.checkpoints import UNCHOSEN, write_checkpoint
from src.artifacts.paths import DataFolder, RunFolder
from src.device import autocast, choose_device
from src.dicom import read_series
from src.inference.ensemble import Predictor
from src.labels import LABELS
from src.networks.sequence_transformer import build_transformer, new_transformer
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.orientation import canonical
from src.preprocess.intensity import apply_window, prepared_image, window_of
from src.progress import Clock
from src.sampling.slices import STEPS, centre_crop, thin
from src.script import settings_of
from tools.benchmarks.case import OURS, PLAIN, Case, NetworkOptions
from tools.benchmarks.flops import flops_of
from tools.benchmarks.made_up import rows_of, write_arrays, write_dicom


@dataclass(kw_only=True)
class Extract(NetworkOptions):
    """Features of stored arrays, against a plain loop."""

    series: int = 4  # series
    slices: int = 60  # slices a series
    batch_size: int = 128  # slices


@dataclass(kw_only=True)
class EndToEnd(NetworkOptions):
    """Probabilities from DICOM, against reading all, encoding all, picking slices afterwards."""

    series: int = 2  # series, CT and MR in turn
    slices: int = 400  # slices a series
    batch_size: int = 128  # slices


def extract_case(config: Extract, folder: Path) -> Case:
    """Write arrays of noise into the folder."""
    data, run = DataFolder(folder), RunFolder(folder, "bench", 0)
    uids = write_arrays(data, config.series, config.slices, config.image_size)
    device = choose_device(config.device)
    series = rows_of(uids, config.image_size)
    joined = random_weights(config)
    settings = joined["stage1_settings"]
    model = build_slice_cnn(settings, joined["stage1"], device)
    plain_model = plain_network(config, joined, device)

    def ours() -> None:
        extract = extract_features.extract
        lengths = extract(model, data, run, series, settings, config.batch_size, device)
        assert sum(lengths) == config.series * config.slices

    def plain() -> None:
        for uid in uids:
            encoded = plain_features(plain_model, np.load(data.sequence(uid)), config, STEPS)
            np.save(run.feature(uid), encoded[0])
            np.save(run.logit(uid), encoded[1])

    def clear() -> None:
        shutil.rmtree(run.root, ignore_errors=True)
        run.features.mkdir(parents=True)
        run.logits.mkdir()

    case = network_case(config, {OURS: ours, PLAIN: plain}, plain_model, config.slices * len(STEPS))
    case.clear = clear
    return case


def end_to_end_case(config: EndToEnd, folder: Path) -> Case:
    """Write DICOM series into the folder."""
    data = DataFolder(folder)
    numbers = range(config.series)
    uids = [write_dicom(data, config.image_size, config.slices, number) for number in numbers]
    device = choose_device(config.device)
    joined = random_weights(config)
    networks = (
        plain_network(config, joined, device),
        build_transformer(joined["stage2_settings"], joined["stage2"], device),
    )

    def plain() -> None:
        for uid in uids:
            plain_probabilities(networks, data.series(uid), config)

    model_dir = folder / "model"
    prior = {"prior": [0.5] * len(LABELS)}
    write_checkpoint(RunFolder(model_dir, config.encoder, 0).inference, joined | prior)
    predictor = Predictor(model_dir, config.encoder, (0,), device)
    ours = partial(predict_all, predictor, data, uids, config.batch_size)
    used = len(thin(config.slices, train_stage2.Config.cut))
    return network_case(config, {OURS: ours, PLAIN: plain}, networks[0], used)


def predict_all(predictor: Predictor, data: DataFolder, uids: list[str], batch_size: int) -> None:
    """Predict the series as stage 8 does."""
    failed = {}
    eval_end_to_end.predict_all(predictor, data, uids, batch_size, Clock(), failed)
    assert not failed, failed


def network_case(
    config: Extract | EndToEnd, ways: dict, model: SliceCNN, images_a_series: int
) -> Case:
    """Return a case whose floor is stage 1's network over so many images a series."""
    device = next(model.parameters()).device
    image = torch.zeros(1, 3, config.crop_size, config.crop_size, device=device)
    with torch.inference_mode():
        flops = flops_of(lambda: model(image))
    return Case(
        title=f"{config.encoder}, {config.series} series of {config.slices} slices, "
        f"{config.image_size} pixels, crop {config.crop_size}, {device}",
        ways=ways,
        work=config.series * config.slices,
        unit="slices",
        floor="the network's FLOPs on the slices that are used, at the measured peak",
        flops=config.series * images_a_series * flops,
        device=device,
    )


def random_weights(config: Extract | EndToEnd) -> dict:
    """Return what train_stage2.py writes as weights_inference.pth, untrained."""
    torch.manual_seed(0)
    stage1 = SliceCNN(config.encoder, heatmap=True, crop_size=config.crop_size)
    stage2 = settings_of(train_stage2.Config()) | UNCHOSEN
    stage2 |= {"channels": stage1.channels, "step": 2}
    return {
        "stage1": stage1.state_dict(),
        "stage1_settings": {
            "encoder": config.encoder,
            "heatmap_weight": 0.3,
            "crop_size": config.crop_size,
            "image_size": config.image_size,
            "mr_window": "percentile",
            "view_mm": 0.0,
            "step_mm": (0.0, 0.0),
        },
        "stage2": new_transformer(stage2).state_dict(),
        "stage2_settings": stage2,
    }


def plain_network(config: Extract | EndToEnd, joined: dict, device: torch.device) -> SliceCNN:
    """Return stage 1's network as torch makes it, channels first."""
    model = SliceCNN(config.encoder, heatmap=True, crop_size=config.crop_size)
    model.load_state_dict(joined["stage1"])
    return model.to(device).eval()


@torch.inference_mode()
def plain_features(
    model: SliceCNN, prepared: np.ndarray, config: Extract | EndToEnd, steps: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Encode a series as one would write it in five minutes.

    Returns features (len(steps), n, C) and logits (len(steps), n, 14), both float16.
    """
    device = next(model.parameters()).device
    length = len(prepared)
    cropped = centre_crop(prepared, config.crop_size).astype(np.float32)
    features, logits = [], []
    for step in steps:
        for first in range(0, length, config.batch_size):
            index = np.arange(first, min(first + config.batch_size, length))
            beside = [np.maximum(index - step, 0), index, np.minimum(index + step, length - 1)]
            batch = torch.from_numpy(np.stack([cropped[k] for k in beside], axis=1)).to(device)
            with autocast(device):
                out = model(batch)
            features.append(out.features.half().cpu().numpy())
            logits.append(out.logits.half().cpu().numpy())
    shape = (len(steps), length, -1)
    return np.concatenate(features).reshape(shape), np.concatenate(logits).reshape(shape)


@torch.inference_mode()
def plain_probabilities(networks: tuple, folder: Path, config: EndToEnd) -> np.ndarray:
    """Read, prepare and encode all slices, then predict from the transformer's: (14,)."""
    slice_cnn, transformer = networks
    device = next(slice_cnn.parameters()).device
    series = read_series(folder)
    pixels = series.pixels
    window = window_of(series.modality, "percentile", lambda: np.unique(pixels, return_counts=True))
    images = []
    for slice_ in pixels:
        image = prepared_image(apply_window(slice_, window), config.image_size)
        images.append(canonical(image, series.orientation))
    encoded = plain_features(slice_cnn, np.stack(images), config, (2,))
    tokens = thin(len(images), train_stage2.Config.cut)
    features, logits = [torch.from_numpy(x[:, tokens]).float().to(device) for x in encoded]
    positions = torch.from_numpy(series.positions[tokens]).float()[None].to(device)
    with autocast(device):
        of_series = transformer(features, positions, torch.ones_like(positions, dtype=torch.bool))
    joined = torch.lerp(of_series, logits.amax(dim=1), UNCHOSEN["stage1_weight"])
    return joined.sigmoid().cpu().numpy()[0]
