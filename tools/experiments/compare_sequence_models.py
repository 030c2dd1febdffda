"""Which model over the slices of a series is worth having: all on the same features.

    python tools/experiments/compare_sequence_models.py --data-dir demo/data \\
        --model-dir demo/model --encoder test_resnet --out demo/sequence_models

The maximum and the mean of the slices' logits need no training. All others are trained as
train_stage2.py trains, over several seeds, to the last epoch (none is chosen), and judged at
step 1 on all held-out folds together: alone, and joined with that maximum as in stage 2.

It also measures the leak from stage 1 into stage 2 (features of series that stage 1 was fitted on
are better than those of others) and two remedies: noise on the features, and a transformer over
out-of-fold logits alone.

Reads   {model_dir}/{encoder}/fold-{k}/features/ and logits/ of every fold (extract_features.py)
        {data_dir}/train_{N}_folds.csv, slice_geometry_dict.pkl

Writes  {out}/{model}/{seed}/fold-{k}.csv  finished runs are skipped
        {out}/table.csv
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train_stage2
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import array_layout, read_array
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.plausible import read_geometry
from src.artifacts.provenance import fingerprint, require_features_of, settle
from src.artifacts.tables import read_fold, read_folds, read_table, write_table
from src.evaluation import metrics
from src.evaluation.calibration import logit, sigmoid
from src.evaluation.choice import PLAIN
from src.inference.probabilities import predict, predict_series
from src.labels import LABELS
from src.sampling.loader import batches_of, make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.script import run_script, settings_of
from src.training.learner import Learner
from tools.experiments.runs import SCORES, folder_of, mean_and_extremes, run_all, scores_of
from tools.experiments.sequence_models import (
    AttentionPooling,
    Recurrent,
    noisy_transformer,
    transformer,
)

CPU = torch.device("cpu")
WEIGHT_DECAY = 0.01  # as in train_stage2.py
SETTLED = ("encoder", "width", "cut", "epochs", "batch_size", "lr", "ema_decay")


@dataclass
class Config:
    data_dir: Path = Path("demo/data")  # tables
    model_dir: Path = Path("demo/model")  # features of all folds
    encoder: str = "test_resnet"  # whose features
    out: Path = Path("demo/sequence_models")  # for all runs

    width: int = 128  # of the tokens
    cut: int = 192  # slices, as in train_stage2.py
    stage1_weight: float = PLAIN.stage1_weight  # of the maximum in the join
    epochs: int = 30  # passes over the training series
    batch_size: int = 32  # series a step
    lr: float = 1e-3  # learning rate, after warm-up
    ema_decay: float = 0.99  # of the moving average
    seeds: tuple[int, ...] = (42, 43, 44)
    workers: int = 2  # processes of one thread each


@dataclass
class Trained:
    """A model that is trained, and on what."""

    make: Callable[[int, int], nn.Module]  # (channels, width) -> model
    millimetres: bool = True  # positions in mm, else slice numbers
    logits: bool = False  # reads out-of-fold logits instead of features


MAXIMUM = "maximum of the logits"
POOLED = {MAXIMUM: np.max, "mean of the logits": np.mean}  # nothing to train
MODELS = {
    "attention pooling": Trained(AttentionPooling),
    "2-layer GRU": Trained(Recurrent),
    "transformer, mm (ours)": Trained(transformer),
    "transformer, slice numbers": Trained(transformer, millimetres=False),
    "ours, feature noise 0.3": Trained(noisy_transformer),
    "ours, out-of-fold logits": Trained(transformer, logits=True),
}


class OutOfFoldLogits:
    """In place of a RunFolder: logits by the network that never saw the series, as features too."""

    def __init__(self, config: Config, series: pd.DataFrame):
        self.folds = series.set_index("SeriesInstanceUID").fold
        self.config, self.features = config, "the logits"

    def logit(self, uid: str) -> Path:
        return RunFolder(self.config.model_dir, self.config.encoder, self.folds[uid]).logit(uid)

    feature = logit


def main(config: Config) -> pd.DataFrame:
    series = read_folds(DataFolder(config.data_dir))
    folds = sorted(series.fold.unique())
    keep_to_settings(config, folds)
    run_all(train_and_predict, config, itertools.product(MODELS, config.seeds, folds), output_of)
    result = table(config, series, folds)
    write_table(config.out / "table.csv", result)
    print(result.to_string(index=False))
    print(leak(config, series, folds))
    return result


def keep_to_settings(config: Config, folds: list[int]) -> None:
    """Raise ArtifactError if finished runs have other settings, features or folds."""
    data, weights = DataFolder(config.data_dir), []
    for fold in folds:
        run = RunFolder(config.model_dir, config.encoder, fold)
        weights.append(fingerprint(run.best("stage1")))
        require_features_of(run, weights[-1])
        checkpoint = read_checkpoint(run.best("stage1"), ("settings",))
        read_fold(data, fold, checkpoint["settings"])
    settings = settings_of(config)
    kept = {name: settings[name] for name in SETTLED} | {"weights": weights}
    settle(config.out / "settings.json", kept, "take another --out, or delete it")


def output_of(config: Config, name: str, seed: int, fold: int) -> Path:
    return folder_of(config.out, name, seed) / f"fold-{fold}.csv"


def train_and_predict(config: Config, name: str, seed: int, fold: int) -> None:
    """Write the probabilities of a held-out fold by the average weights after the last epoch."""
    data, kind = DataFolder(config.data_dir), MODELS[name]
    series, held_out = read_fold(data, fold)
    run = RunFolder(config.model_dir, config.encoder, fold)
    if kind.logits:
        run = OutOfFoldLogits(config, series)
    geometry = read_geometry(data)
    if not kind.millimetres:
        for uid, known in geometry.items():
            geometry[uid] = {"positions": np.full(len(known["positions"]), np.nan)}

    outside = series[series.fold != fold]
    training = SequenceDataset(run, outside, geometry, config.cut, seed, step=None)
    model = train(config, kind, training, seed)
    judged = SequenceDataset(run, held_out, geometry, config.cut, seed, step=1)
    loader = make_loader(judged, config.batch_size, 0, collate=pad_sequences)
    probabilities_of = partial(predict_series, model, stage1_weight=0.0, device=CPU)
    probabilities = predict(loader, probabilities_of, CPU, "held-out series")
    write_table(output_of(config, name, seed, fold), with_uids(held_out, probabilities))


def train(config: Config, kind: Trained, dataset: SequenceDataset, seed: int) -> nn.Module:
    """Return the model with the moving average of its weights."""
    loader = make_loader(dataset, config.batch_size, 0, seed, collate=pad_sequences)
    torch.manual_seed(seed)
    model = kind.make(dataset.channels, config.width)
    every = train_stage2.Config.ema_every
    learner = Learner(model, CPU, config.lr, WEIGHT_DECAY, len(loader), config.ema_decay, every)
    learner.model.train()
    for epoch in range(config.epochs):
        loader.sampler.epoch = epoch
        for batch in batches_of(loader):
            learner.step([partial(train_stage2.batch_loss, learner.model, batch, CPU)])
    return learner.average.module


def with_uids(series: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(probabilities, columns=LABELS)
    table.insert(0, "SeriesInstanceUID", series.SeriesInstanceUID.to_numpy())
    return table


def pooled_logits(config: Config, series: pd.DataFrame, fold: int, pool: Callable) -> pd.DataFrame:
    """Return what one fold's stage 1 alone says of series, from its logits at step 1."""
    run = RunFolder(config.model_dir, config.encoder, fold)
    logits = []
    for uid in series.SeriesInstanceUID:
        of_slices = read_array(run.logit(uid))[0].astype(np.float32)  # (N, 14)
        logits.append(pool(of_slices, axis=0))
    return with_uids(series, sigmoid(np.stack(logits)))


def score(series: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """Return the SCORES of series: (3,)."""
    truth = series[["SeriesInstanceUID", *LABELS]]
    return scores_of(*metrics.join_by_uid(truth, predictions, ["SeriesInstanceUID"]))


def table(config: Config, series: pd.DataFrame, folds: list[int]) -> pd.DataFrame:
    """Return one row a model: its number of weights, and its scores alone and joined."""
    pooled, rows = {}, []
    for name, pool in POOLED.items():
        parts = [pooled_logits(config, series[series.fold == k], k, pool) for k in folds]
        pooled[name] = pd.concat(parts, ignore_index=True)
        rows.append({"model": name, "weights": 0} | shown([score(series, pooled[name])]))

    first = RunFolder(config.model_dir, config.encoder, folds[0])
    _, (_, _, channels), _ = array_layout(first.feature(series.SeriesInstanceUID[0]))
    for name, kind in MODELS.items():
        alone, joined = [], []
        for seed in config.seeds:
            parts = [read_table(output_of(config, name, seed, fold)) for fold in folds]
            predictions = pd.concat(parts, ignore_index=True)
            mixed = join(predictions, pooled[MAXIMUM], config.stage1_weight)
            alone.append(score(series, predictions))
            joined.append(score(series, mixed))
        model = kind.make(len(LABELS) if kind.logits else channels, config.width)
        weights = sum(weight.numel() for weight in model.parameters())
        row = {"model": name, "weights": weights}
        rows.append(row | shown(alone) | shown(joined, "joined "))
    return pd.DataFrame(rows).fillna("")


def join(predictions: pd.DataFrame, maximum: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Return the weighted mean of the logits of the same series. fraction: of the maximum."""
    assert predictions.SeriesInstanceUID.equals(maximum.SeriesInstanceUID)
    alone, highest = (logit(table[list(LABELS)].to_numpy()) for table in (predictions, maximum))
    return with_uids(predictions, sigmoid((1 - fraction) * alone + fraction * highest))


def shown(scores: list[np.ndarray], prefix: str = "") -> dict[str, str]:
    """Return mean and extremes of the SCORES over seeds."""
    of_each = zip(SCORES, np.transpose(scores), strict=True)
    return {prefix + name: mean_and_extremes(values) for name, values in of_each}


def leak(config: Config, series: pd.DataFrame, folds: list[int]) -> str:
    """Say how much better stage 1 is on the series that it was fitted on."""
    fitted, held_out = [], []
    for fold in folds:
        inside, outside = series[series.fold == fold], series[series.fold != fold]
        fitted.append(score(outside, pooled_logits(config, outside, fold, np.max)))
        held_out.append(score(inside, pooled_logits(config, inside, fold, np.max)))
    on_fitted, on_held_out = (
        ", ".join(f"{mean:.3f}" for mean in np.mean(scores, axis=0))
        for scores in (fitted, held_out)
    )
    return (
        f"{MAXIMUM} (score, present, locations), mean over folds: "
        f"{on_fitted} on stage 1's training series, {on_held_out} on held-out ones"
    )


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="finished runs are kept: run it again")
