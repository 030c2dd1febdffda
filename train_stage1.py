"""Stage 3 of 8: train the 2.5D CNN on spots: three neighbouring slices -> 14 labels, and a heatmap of where the aneurysm is.

Reads   data/train_{N}_folds.csv, train_stage1_{N}_folds.csv, label_dict.pkl, f_dict_sample.pkl (create_folds.py),
        data/npy_sequence/ (preprocess_data.py), data/f_dict_hard.pkl where it is there

Writes  model/{encoder}/fold-{k}/  best_stage1.pth, last_stage1.pth (for --resume), log_stage1.txt, metrics_stage1.jsonl,
        progress_stage1.png, settings_stage1.json, a copy of this script

Several GPUs: torchrun --nproc-per-node 8 train_stage1.py; --batch-size is that of all together.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from src import distributed
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.artifacts.tables import fold_settings, read_fold
from src.device import autocast, choose_device, precision, to_device, use_compiler
from src.inference.held_out import predict, predict_spots
from src.labels import LABELS
from src.networks.slice_cnn import SliceCNN
from src.sampling.augment import Augmentation, crops
from src.sampling.loader import make_loader
from src.sampling.spot_dataset import (
    SpotDataset,
    SpotTables,
    held_out_rows,
    read_spot_tables,
    training_rows,
)
from src.script import run_script, settings_of
from src.training.learner import Learner, fit, scores_or_none
from src.training.losses import focal_loss, heat_target, heatmap_loss
from src.training.run_folder import RunLog


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # where model/{encoder}/fold-{k} is made
    fold: int = 0  # held out; trained on all others
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    encoder: str = "convnext_base.dinov3_lvd1689m"  # any timm model that gives its maps
    pretrained: bool = True  # weights from the hub; --no-pretrained starts from random ones
    checkpoint: Path | None = None  # weights of the encoder from a local file instead
    crop_size: int = (
        448  # pixels, side of what the network sees; at most the --image-size of preprocess_data.py
    )
    heatmap_weight: float = (
        0.3  # of the heatmap's loss; 0 is the published network, with quarter turns
    )
    dropout: float = 0.1  # share of the features that training drops before the head

    epochs: int = 20  # passes over the training samples
    batch_size: int = 32  # samples a step, over all GPUs
    lr: float = 3e-5  # learning rate, after warm-up
    weight_decay: float = 0.01  # of Mars
    warmup_epochs: float = 1.0  # epochs over which the rate rises
    ema_decay: float = 0.999  # of the moving average, which is updated every 3rd step

    compile: bool = False  # the network by torch.compile: faster on a GPU after a minute or two; needs a C compiler
    channels_last: bool = True  # memory layout of the network
    accumulate: int = 1  # pieces that a batch is computed in, one after the other, to save memory
    checkpointing: bool = (
        False  # compute the encoder's activations twice instead of keeping them, to save memory
    )

    seed: int = 44  # of weights, samples and augmentation
    workers: int = 4  # loader processes; the result does not depend on it
    resume: bool = False  # go on with the run in the folder
    tensorboard: bool = False  # also write events for TensorBoard (pip install tensorboard)


def main(config: Config) -> dict | None:
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    _, held_out_series = read_fold(data, config.fold)
    settings = settings_of(config) | fold_settings(data, held_out_series)
    folder = RunFolder(config.model_dir, config.encoder, config.fold)
    run = RunLog(folder, "stage1", settings, Path(__file__), config.resume)
    if distributed.first() and not run.resumed:
        folder.inference.unlink(missing_ok=True)  # of an earlier run

    tables = read_spot_tables(data)
    training, held_out = make_datasets(config, tables)
    loader = make_loader(
        training, config.batch_size, config.workers, config.seed, config.accumulate
    )
    held_out_loader = make_loader(held_out, config.batch_size, config.workers)
    truth = held_out.truth()[list(LABELS)].to_numpy()

    torch.manual_seed(config.seed)
    model = make_network(config, trained=run.resumed)
    warmup_steps = int(config.warmup_epochs * len(loader) / config.accumulate)
    learner = Learner(model, device, config.lr, config.weight_decay, warmup_steps, config.ema_decay, 3)
    if config.compile:
        use_compiler(model)

    run.say(
        f"{len(training)} training samples, {len(held_out)} held-out spots, {len(tables.hard)} series with hard slices, "
        f"{distributed.world()} x {device}, {precision(device)}"
    )

    def evaluate(average: torch.nn.Module) -> tuple[dict | None, dict]:
        probabilities = predict(
            held_out_loader,
            lambda batch: predict_spots(average, batch, config.crop_size, device),
            device,
            "held-out spots",
        )
        return scores_or_none(truth, probabilities), {}

    return fit(
        learner,
        run,
        loader,
        config.epochs,
        config.accumulate,
        lambda model, batch: batch_loss(model, batch, config, device),
        evaluate,
    )


def make_network(config: Config, trained: bool = False) -> SliceCNN:
    """The network before training; without its pretrained weights where those of a `trained` one will take their place."""
    pretrained, checkpoint = (False, None) if trained else (config.pretrained, config.checkpoint)
    model = SliceCNN(
        config.encoder, config.heatmap_weight > 0, pretrained, checkpoint, config.dropout
    )
    if config.checkpointing:
        model.encoder.set_grad_checkpointing()
    return model.to(
        memory_format=torch.channels_last if config.channels_last else torch.contiguous_format
    )


def make_datasets(config: Config, tables: SpotTables) -> tuple[SpotDataset, SpotDataset]:
    """(training, held-out)."""
    augmentation = Augmentation(
        quarter_turns=config.heatmap_weight == 0
    )  # a turned image has no left, no right and no place
    outside, inside = (
        training_rows(tables.spots, config.fold),
        held_out_rows(tables.spots, config.fold),
    )
    if outside.empty or inside.empty:
        raise ArtifactError(
            f"fold {config.fold} leaves {len(outside)} spots to train on and {len(inside)} to hold out: choose another --fold"
        )
    return SpotDataset(tables, outside, config.crop_size, config.seed, augmentation), SpotDataset(
        tables, inside, config.crop_size, config.seed, None
    )


def batch_loss(
    model: torch.nn.Module, batch: dict, config: Config, device: torch.device
) -> torch.Tensor:
    """Focal loss of the labels, and of the heatmap where the network has one."""
    batch = to_device(batch, device)
    images = crops(batch, config.crop_size)  # (B, 3, crop, crop)
    with autocast(device):
        out = model(images)
    loss = focal_loss(out.logits, batch["labels"])
    if out.heatmap is not None:
        target = heat_target(
            batch["points"], batch["sigma"], out.heatmap.shape[-2:], config.crop_size
        )
        loss = loss + config.heatmap_weight * heatmap_loss(out.heatmap, target)
    return loss


if __name__ == "__main__":
    run_script(main, Config, __doc__)
