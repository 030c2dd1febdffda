"""Stage 3 of 8: train the 2.5D CNN on spots: three neighbouring slices -> 14 labels and a heatmap.

Reads   data/train_{N}_folds.csv, train_stage1_{N}_folds.csv (create_folds.py)
        data/label_dict.pkl, f_dict_sample.pkl (create_folds.py)
        data/npy_sequence/ (preprocess_data.py)
        data/f_dict_hard.pkl, if it exists (tools/mine_hard_negatives.py)

Writes  into model/{encoder}/fold-{k}/
        best_stage1.pth                    the epoch with the best score on the held-out spots, for
                                           eval_stage1.py and extract_features.py
        last_stage1.pth                    everything that --resume needs
        log_stage1.txt, metrics_stage1.jsonl, progress_stage1.png, settings_stage1.json
        train_stage1.py                    a copy of this script

A new run deletes weights_inference.pth, which its weights would no longer fit.

Several GPUs: torchrun --nproc-per-node 8 train_stage1.py; --batch-size is the total over all GPUs.
N: number of folds; k: the held-out fold. --train-on-all: all-data/ in place of fold-{k}/.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from src import distributed
from src.artifacts.next_stage import after
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder, fold_of
from src.artifacts.tables import fold_settings, read_fold
from src.device import (
    autocast,
    choose_device,
    precision,
    to_device,
    use_compiler,
    warn_of_precision,
)
from src.inference.probabilities import predict, predict_spots
from src.labels import LABELS, NEGATIVE
from src.networks.encoder import plan_encoder
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
from src.sampling.view import require_in_mm
from src.script import UserError, run_script, settings_of
from src.training.learner import Learner, fit, scores_or_none
from src.training.losses import focal_loss, heat_target, heatmap_loss
from src.training.run_folder import RunLog

HEAD_RATE = 10  # times --lr, of heads that start from random weights on a trained encoder


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables and arrays
    model_dir: Path = Path("model")  # where model/{encoder}/fold-{k} is made
    fold: int = 0  # fold to hold out; all others are trained on
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    encoder: str = "convnext_base.dinov3_lvd1689m"  # any timm model with feature maps
    pretrained: bool = True  # weights from the hub; --no-pretrained starts from random ones
    checkpoint: Path | None = None  # weights of the encoder from a local file instead
    crop_size: int = 448  # pixels, side of the network's input; at most the arrays' image size
    view_mm: float = 160.0  # mm that the crop spans around the head; 0: in pixels, as published
    step_mm: tuple[float, float] = (0.0, 0.0)  # mm to the neighbours; 0 0: 1 and 2 slices
    heatmap_weight: float = 0.3  # of its loss; 0: as published, no heatmap but quarter turns
    sigma_mm: float = 3.0  # sigma of the heatmap's Gaussians, mm
    dropout: float = 0.1  # dropout rate before the classification head

    epochs: int = 20  # passes over the training samples
    batch_size: int = 32  # samples per step, all GPUs together; 0.5 GB each on a GPU
    lr: float = 3e-5  # learning rate, after warm-up
    head_lr: float | None = None  # of what starts random; None: 10 x lr on a trained encoder, or lr
    weight_decay: float = 0.01  # weight decay of the MARS optimizer
    warmup_epochs: float = 1.0  # epochs over which the rate rises
    ema_decay: float = 0.999  # decay of the weights' moving average
    ema_every: int = 3  # steps between two updates of the moving average

    mirror: float = 0.5  # probability of a left-right flip (axial and coronal series only)
    affine: float = 0.5  # probability of shift, scale and rotation together
    shift: float = 0.06  # largest shift, fraction of the image's side
    scale: float = 0.10  # largest change of the scale, fraction
    rotate: float = 5.0  # largest rotation, degrees
    occlude: float = 0.5  # probability of one of grid dropout, coarse dropout, grid distortion
    grid_ratio: float = 0.4  # fraction of a cell's side that grid dropout hides
    grid_cells: int = 10  # cells of grid dropout along a side
    holes: tuple[int, int] = (10, 25)  # fewest and most holes of coarse dropout
    hole_size: tuple[float, float] = (0.10, 0.20)  # side of a hole, fraction of the crop's side
    distortion: float = 0.3  # largest change of a cell's width in grid distortion, fraction
    distortion_cells: int = 5  # cells of grid distortion along a side
    brightness: float = 0.01  # largest offset of the intensities, which run from 0 to 5

    compile: bool = False  # torch.compile: faster on a GPU after some minutes; needs a C compiler
    accumulate: int = 1  # parts to split each batch into: 2 for a GPU of 24 GB, 4 for 16 GB
    checkpointing: bool = False  # compute activations twice instead of keeping them: less memory

    seed: int = 44  # random seed of weights, samples and augmentation
    workers: int = 4  # loader processes; the result does not depend on it
    train_on_all: bool = False  # hold no fold out: no scores, last epoch; folder all-data
    resume: bool = False  # continue the run in model/{encoder}/fold-{k}


def main(config: Config) -> dict | None:
    device = choose_device(config.device)
    torch.backends.cudnn.benchmark = True  # all batches have one shape; does nothing on a CPU
    check_encoder(config)
    require_in_mm(config.view_mm, config.step_mm)
    warn_of_precision(config.encoder, device)
    data = DataFolder(config.data_dir)
    _, held_out_series = read_fold(data, fold_of(config))
    lr, head_lr = rates(config)
    settings = settings_of(config) | fold_settings(data, held_out_series) | {"head_lr": head_lr}
    folder = RunFolder(config.model_dir, config.encoder, fold_of(config))
    before = {"head_lr": config.lr, "view_mm": 0.0, "step_mm": (0.0, 0.0)}  # runs that do not say
    defaults = settings_of(Config()) | before
    run = RunLog(folder, "stage1", settings, Path(__file__), config.resume, defaults)

    tables = read_spot_tables(data)
    training, held_out = make_datasets(config, tables)
    loader = make_loader(
        training, config.batch_size, config.workers, config.seed, config.accumulate
    )

    learner = make_learner(config, len(loader) / config.accumulate, device, run.resumed)
    run.say(
        f"{len(training)} training samples, {len(held_out or [])} held-out spots, "
        f"{len(tables.hard)} series with hard slices, "
        f"learning rate {lr:g}, of the heads {head_lr:g}, "
        f"{distributed.world()} x {device}, {precision(device)}"
    )
    outside, count = training.outside()
    if outside:
        run.say(f"{outside} of {count} aneurysms are outside the crop: try a larger --view-mm")

    def loss_of(network: torch.nn.Module, batch: dict) -> torch.Tensor:
        return batch_loss(network, batch, config, device)

    evaluate = evaluation_of(config, held_out, device)
    return fit(learner, run, loader, config.epochs, config.accumulate, loss_of, evaluate)


def evaluation_of(
    config: Config, held_out: SpotDataset | None, device: torch.device
) -> Callable[[torch.nn.Module], tuple[dict | None, dict]]:
    """Return what scores the moving average after an epoch; no scores where nothing is held out."""
    if held_out is None:
        return lambda _: (None, {})
    loader = make_loader(held_out, config.batch_size, config.workers)
    truth = held_out.truth()[list(LABELS)].to_numpy()

    def evaluate(average: torch.nn.Module) -> tuple[dict | None, dict]:
        def probabilities_of(batch: dict) -> torch.Tensor:
            return predict_spots(average, batch, config.crop_size, device)

        probabilities = predict(loader, probabilities_of, device, "held-out spots")
        return scores_or_none(truth, probabilities), {}

    return evaluate


def check_encoder(config: Config) -> None:
    """Raise UserError if the encoder cannot be trained so; takes seconds, loads no weights."""
    plan = plan_encoder(config.encoder, config.crop_size)
    if config.checkpointing and not plan.checkpointing:
        raise UserError(
            f"the encoder {config.encoder} cannot compute activations twice: "
            "take --accumulate 4 in place of --checkpointing"
        )


def rates(config: Config) -> tuple[float, float]:
    """Return the learning rates of the encoder and of the heads, which start from random weights.

    If the encoder does so, too, everything learns at --head-lr, or at --lr if that is not given.
    """
    trained = config.pretrained or config.checkpoint is not None
    head_lr = config.head_lr
    if head_lr is None:
        # In few digits: 3e-4 for 3e-5, not 0.00030000000000000003.
        head_lr = float(f"{HEAD_RATE * config.lr:g}") if trained else config.lr
    return config.lr if trained else head_lr, head_lr


def make_learner(config: Config, steps: float, device: torch.device, resumed: bool) -> Learner:
    """Return the network and what trains it. steps: of an epoch."""
    torch.manual_seed(config.seed)
    model = make_network(config, resumed)
    lr, head_lr = rates(config)
    warmup, decay = int(config.warmup_epochs * steps), config.weight_decay
    average = (config.ema_decay, config.ema_every)
    learner = Learner(model, device, lr, decay, warmup, *average, head_lr)
    if config.compile:
        use_compiler(model)
    return learner


def make_network(config: Config, resumed: bool = False) -> SliceCNN:
    """Return the network before training; a `resumed` run brings its own weights."""
    pretrained, checkpoint = (False, None) if resumed else (config.pretrained, config.checkpoint)
    heatmap = config.heatmap_weight > 0
    model = SliceCNN(
        config.encoder, heatmap, pretrained, checkpoint, config.dropout, config.crop_size
    )
    if config.checkpointing:
        model.encoder.set_grad_checkpointing()
    return model.to(memory_format=torch.channels_last)


def augmentation_of(config: Config) -> Augmentation:
    settings = {field.name: getattr(config, field.name, None) for field in fields(Augmentation)}
    # Not with the heatmap: its head uses the position, which a turn makes meaningless.
    settings["quarter_turns"] = config.heatmap_weight == 0
    return Augmentation(**settings)


def make_datasets(config: Config, tables: SpotTables) -> tuple[SpotDataset, SpotDataset | None]:
    """Return the training and the held-out samples, None for the latter with --train-on-all.

    Raise ArtifactError if either is empty, or no training sample has an aneurysm.
    """
    training_spots = training_rows(tables.spots, fold_of(config))
    held_out_spots = held_out_rows(tables.spots, fold_of(config))
    if training_spots.empty or (held_out_spots.empty and not config.train_on_all):
        raise ArtifactError(
            f"fold {config.fold} leaves {len(training_spots)} spots to train on and "
            f"{len(held_out_spots)} to hold out: choose another --fold"
        )
    if (training_spots.class_id == NEGATIVE).all():
        raise ArtifactError(
            f"fold {config.fold} leaves no spot with an aneurysm to train on: run create_folds.py "
            "again and read what it says, or choose another --fold"
        )
    augmentation, seed, crop = augmentation_of(config), config.seed, config.crop_size
    in_mm = {"view_mm": config.view_mm, "step_mm": config.step_mm}
    training = SpotDataset(
        tables, training_spots, crop, seed, augmentation, config.sigma_mm, **in_mm
    )
    if config.train_on_all:
        return training, None
    return training, SpotDataset(tables, held_out_spots, crop, seed, augmentation=None, **in_mm)


def batch_loss(
    model: torch.nn.Module, batch: dict, config: Config, device: torch.device
) -> torch.Tensor:
    """Return the focal loss of the labels, plus the weighted heatmap loss if there is one."""
    batch = to_device(batch, device)
    images = crops(batch, config.crop_size)  # (B, 3, crop, crop)
    with autocast(device):
        out = model(images)
    loss = focal_loss(out.logits, batch["labels"])
    if out.heatmap is not None:
        cells = out.heatmap.shape[-2:]
        target = heat_target(batch["points"], batch["sigma"], cells, config.crop_size)
        loss = loss + config.heatmap_weight * heatmap_loss(out.heatmap, target)
    return loss


if __name__ == "__main__":
    run_script(main, Config, __doc__, following=after(__file__))
