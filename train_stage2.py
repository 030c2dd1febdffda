"""Stage 6 of 8: train the sequence transformer: features of a series' slices -> 14 labels.

Reads   data/train_{N}_folds.csv, train_stage1_{N}_folds.csv (create_folds.py)
        data/slice_geometry_dict.pkl (preprocess_data.py)
        model/{encoder}/fold-{k}/best_stage1.pth (train_stage1.py)
        model/{encoder}/fold-{k}/features/, logits/ (extract_features.py)

Writes  into model/{encoder}/fold-{k}/
        best_stage2.pth                    the epoch with the best score on the held-out series
        weights_inference.pth              both stages joined
        last_stage2.pth                    everything that --resume needs
        log_stage2.txt, metrics_stage2.jsonl, progress_stage2.png, settings_stage2.json
        train_stage2.py                    a copy of this script
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from src import distributed
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.next_stage import after
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder, fold_of
from src.artifacts.plausible import read_geometry
from src.artifacts.provenance import fingerprint, require_features_of
from src.artifacts.tables import fold_settings, read_fold, read_spots
from src.device import autocast, choose_device, precision, to_device
from src.evaluation import choice
from src.evaluation.choice import Choice
from src.inference.probabilities import joined, predict, series_logits
from src.labels import LABELS
from src.networks.sequence_transformer import new_transformer
from src.sampling.loader import make_loader
from src.sampling.regions import learn
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.sampling.slices import STEPS
from src.script import run_script, settings_of
from src.training.learner import Learner, fit, scores_or_none
from src.training.losses import focal_loss
from src.training.run_folder import RunLog

NO_PRIOR = 0.5  # for a label that is unknown everywhere


@dataclass
class Config:
    data_dir: Path = Path("data")  # tables
    model_dir: Path = Path("model")  # features, and where the weights go
    fold: int = 0  # fold to hold out; all others are trained on
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that train_stage1.py was given

    width: int = 1024  # channels of the tokens
    layers: int = 3  # layers of attention and feed-forward
    heads: int = 1  # attention heads
    dropout: float = 0.15  # dropout rate of hidden values
    attention_dropout: float = 0.05  # dropout rate of attention weights
    stage1_weight: float | None = None  # of its highest logits, 0..1; None: chosen; published: 0
    cut: int = 192  # slices; of a series twice as long or longer, every (length // cut)-th is read

    epochs: int = 12  # passes over the training series
    batch_size: int = 32  # series per step, all GPUs together
    lr: float = 1e-5  # learning rate, after warm-up
    weight_decay: float = 0.01  # weight decay of the MARS optimizer
    warmup_epochs: float = 1.0  # epochs over which the rate rises
    ema_decay: float = 0.999  # decay of the weights' moving average
    ema_every: int = 3  # steps between two updates of the moving average

    seed: int = 42  # of weights, steps and subsampling
    workers: int = 0  # loader processes; the result does not depend on it
    train_on_all: bool = False  # of train_stage1.py: no scores, last epoch; folder all-data
    resume: bool = False  # continue the run in model/{encoder}/fold-{k}


def main(config: Config) -> dict | None:
    device = choose_device(config.device)
    data = DataFolder(config.data_dir)
    folder = RunFolder(config.model_dir, config.encoder, fold_of(config))
    stage1 = read_checkpoint(folder.best("stage1"), ("weights", "settings"))
    series, inside = read_fold(data, fold_of(config), stage1["settings"])
    geometry = read_geometry(data)
    weights = fingerprint(folder.best("stage1"))
    require_features_of(folder, weights)

    outside = series[series.fold != fold_of(config)]
    sizes = [stage1["settings"][name] for name in ("image_size", "crop_size", "view_mm")]
    stage1["settings"]["regions"] = learn(outside, read_spots(data), *sizes)
    training = SequenceDataset(folder, outside, geometry, config.cut, config.seed, step=None)
    loader = make_loader(
        training, config.batch_size, config.workers, config.seed, collate=pad_sequences
    )

    settings = settings_of(config) | fold_settings(data, inside)
    settings |= {"channels": training.channels, "stage1": weights}
    torch.manual_seed(config.seed)
    learner = Learner(
        new_transformer(settings),
        device,
        config.lr,
        config.weight_decay,
        int(config.warmup_epochs * len(loader)),
        config.ema_decay,
        config.ema_every,
    )
    defaults = settings_of(Config())
    run = RunLog(folder, "stage2", settings, Path(__file__), config.resume, defaults)
    run.say(
        f"{len(outside)} training series, {len(inside)} held out, "
        f"{distributed.world()} x {device}, {precision(device)}"
    )

    loss_of = partial(batch_loss, device=device)
    evaluate = evaluation_of(config, run, inside, geometry, device)
    best = fit(learner, run, loader, config.epochs, 1, loss_of, evaluate)
    if distributed.first():
        join(folder, stage1, outside[list(LABELS)].mean().fillna(NO_PRIOR).tolist())
    return best


def evaluation_of(
    config: Config, run: RunLog, inside: pd.DataFrame, geometry: dict, device: torch.device
) -> Callable[[torch.nn.Module], tuple[dict | None, dict]]:
    """Return what scores the moving average after an epoch; no scores where nothing is held out."""
    if config.train_on_all:
        pair = chosen_by_folds(config, run)
        return lambda _: (None, pair)
    loaders = {step: held_out_loader(run.folder, inside, geometry, config, step) for step in STEPS}
    pairs = choice.candidates(STEPS, config.stage1_weight)
    truth = inside[list(LABELS)].to_numpy()
    return partial(score_pairs, loaders=loaders, pairs=pairs, truth=truth, device=device)


def chosen_by_folds(config: Config, run: RunLog) -> dict:
    """Return step and weight of stage 1, where nothing is held out: those best over the folds."""
    encoder = EncoderFolder(config.model_dir, config.encoder)
    tables = []
    for path in sorted(encoder.root.glob(encoder.scored_runs)):
        tables.append(read_checkpoint(path, ("settings",))["settings"].get("choices", []))
    pair = choice.best(tables, config.stage1_weight)
    if pair:
        run.say(f"nothing is held out: {pair}, by the scores of {len(tables)} folds")
    else:
        weight = config.stage1_weight
        pair = choice.PLAIN if weight is None else choice.PLAIN._replace(stage1_weight=weight)
        run.say(f"nothing is held out, and no fold has scores: {pair}, which nothing has chosen")
    return pair._asdict()


def held_out_loader(folder: RunFolder, series, geometry: dict, config: Config, step: int):
    """Return a loader of held-out series at one step, subsampled as at test time."""
    dataset = SequenceDataset(folder, series, geometry, config.cut, config.seed, step)
    return make_loader(dataset, config.batch_size, config.workers, collate=pad_sequences)


def score_pairs(
    model: torch.nn.Module,
    loaders: dict,
    pairs: list[Choice],
    truth: np.ndarray,
    device: torch.device,
) -> tuple[dict | None, dict]:
    """Return the held-out scores of the best pair, and settings: which it is, the table of all.

    The transformer runs once a step; the weights of stage 1 are arithmetic on its logits.
    """

    def logits_of(batch: dict) -> torch.Tensor:
        return series_logits(model, to_device(batch, device))  # (B, 2, 14)

    logits = {}
    for step, loader in loaders.items():
        what = f"held-out series, step {step}"
        logits[step] = torch.from_numpy(predict(loader, logits_of, device, what, rows=(2,)))
    scores, table = {}, []
    for pair in pairs:
        probabilities = joined(logits[pair.step], pair.stage1_weight).numpy()
        scores[pair] = scores_or_none(truth, probabilities)
        table.append([*pair, scores[pair]["score"] if scores[pair] else None])
    chosen = choice.best([table]) or plain(pairs)
    return scores[chosen], {**chosen._asdict(), "choices": table}


def plain(pairs: list[Choice]) -> Choice:
    """Return the pair of those to choose from that is taken where no score chooses."""
    return choice.PLAIN if choice.PLAIN in pairs else pairs[0]


def batch_loss(model: torch.nn.Module, batch: dict, device: torch.device) -> torch.Tensor:
    """Return the focal loss of the labels of a batch of series."""
    batch = to_device(batch, device)
    with autocast(device):
        logits = model(batch["features"], batch["positions"], batch["present"])  # (B, 14)
    return focal_loss(logits, batch["labels"])


def join(folder: RunFolder, stage1: dict, prior: list[float]) -> None:
    """Write both stages' best weights into one file, all that prediction needs.

    prior: (14,) frequency of each label, NO_PRIOR if nobody knows; of series that cannot be read.
    """
    stage2 = read_checkpoint(folder.best("stage2"), ("weights", "settings"))
    content = {
        "prior": prior,
        "stage1": stage1["weights"],
        "stage1_settings": stage1["settings"],
        "stage2": stage2["weights"],
        "stage2_settings": stage2["settings"],
    }
    write_checkpoint(folder.inference, content)
    pair, epoch = choice.own(stage2["settings"]), stage2["epoch"]
    print(f"wrote both stages, {pair}, epoch {epoch}: {folder.inference}")


if __name__ == "__main__":
    run_script(main, Config, __doc__, following=after(__file__))
