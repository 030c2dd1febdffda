"""Which model over the slices of a series is worth having: all on the same features, all folds pooled, several seeds.

    python tools/experiments/compare_sequence_models.py --data-dir demo/data --model-dir demo/model --encoder test_resnet --out demo/sequence_models

The maximum and the mean of the slices' logits need no training. All others are trained as train_stage2.py trains, to the last epoch (none is
chosen), and judged at step 1 on the held-out folds, pooled: alone, and joined with that maximum as stage 2 joins the transformer.

It also measures the leak from stage 1 into stage 2 (features of series that stage 1 was fitted on are better than those of others) and two
remedies: noise on the features, and a transformer over out-of-fold logits alone.

Reads   features/ and logits/ of every fold (extract_features.py), data/train_{N}_folds.csv, slice_geometry_dict.pkl
Writes  {out}/{model}/{seed}/fold-{k}.csv, {out}/table.csv; finished runs are skipped
"""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train_stage2
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_array, read_pickle
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import fingerprint, require_features_of, settle
from src.artifacts.tables import read_fold, read_folds, read_table, write_table
from src.evaluation import metrics
from src.evaluation.calibration import logit, sigmoid
from src.inference.probabilities import predict
from src.labels import LABELS
from src.networks.sequence_transformer import SequenceTransformer, gem_pool
from src.progress import progress
from src.sampling.loader import batches_of, make_loader
from src.sampling.sequence_dataset import SequenceDataset, pad_sequences
from src.script import run_script, settings_of
from src.training.learner import Learner
from src.training.losses import focal_loss
from src.worker_pool import clean_context

CPU = torch.device("cpu")
WEIGHT_DECAY = 0.01  # as in train_stage2.py


@dataclass
class Config:
    data_dir: Path = Path("demo/data")  # tables
    model_dir: Path = Path("demo/model")  # features of all folds
    encoder: str = "test_resnet"  # whose features
    out: Path = Path("demo/sequence_models")  # for all runs

    width: int = 128  # of the tokens
    cut: int = 192  # slices, as in train_stage2.py
    stage1_share: float = (
        train_stage2.Config.stage1_share
    )  # weight of the maximum of the logits in what is joined
    epochs: int = 30  # passes over the training series
    batch_size: int = 32  # series a step
    lr: float = 1e-3  # learning rate, after warm-up
    ema_decay: float = 0.99  # of the moving average
    seeds: tuple[int, ...] = (42, 43, 44)
    workers: int = 2  # processes of one thread each


class AttentionPooling(nn.Module):
    """A weighted mean over the slices for each label, the weights from gated attention (Ilse et al. 2018)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(channels, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(0.15)
        )
        self.value, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.weight, self.head = nn.Linear(width, len(LABELS)), nn.Linear(width, len(LABELS))

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        x = self.project(features)  # (B, T, W)
        weight = self.weight(self.value(x).tanh() * self.gate(x).sigmoid())  # (B, T, 14)
        weight = weight.masked_fill(~present[..., None], float("-inf")).softmax(dim=1)
        return (weight * self.head(x)).sum(dim=1)


class Recurrent(nn.Module):
    """Two layers of a gated recurrent unit in both directions, GeM pooling, the transformer's head."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(channels, width), nn.LayerNorm(width), nn.Dropout(0.15)
        )
        self.gru = nn.GRU(width, width // 2, 2, batch_first=True, bidirectional=True, dropout=0.15)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(0.15),
            nn.Linear(width, len(LABELS)),
        )

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.project(features), present.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        x, _ = pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=features.shape[1]
        )  # (B, T, W)
        return self.head(gem_pool(x, present, self.power))


class Noisy(nn.Module):
    """A model that is trained on features with noise of a share of their spread in the batch."""

    def __init__(self, model: nn.Module, share: float):
        super().__init__()
        self.model, self.share = model, share

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        if self.training:
            features = features + self.share * features[present].std(dim=0) * torch.randn_like(
                features
            )
        return self.model(features, positions, present)


def transformer(channels: int, width: int) -> SequenceTransformer:
    return SequenceTransformer(
        channels, width, layers=3, heads=1, dropout=0.15, attention_dropout=0.05
    )


@dataclass
class Trained:
    """A model that is trained, and on what."""

    make: Callable[
        [int, int], nn.Module
    ]  # (channels, width) -> model of (features, positions, present)
    millimetres: bool = True  # positions in mm, else slice numbers
    logits: bool = False  # reads out-of-fold logits instead of features


MAXIMUM = "maximum of the logits"
POOLED = {MAXIMUM: np.max, "mean of the logits": np.mean}  # nothing to train
OURS = "transformer, mm (ours)"
MODELS = {
    "attention pooling": Trained(AttentionPooling),
    "2-layer GRU": Trained(Recurrent),
    OURS: Trained(transformer),
    "transformer, slice numbers": Trained(transformer, millimetres=False),
    "ours, feature noise 0.3": Trained(
        lambda channels, width: Noisy(transformer(channels, width), 0.3)
    ),
    "ours, out-of-fold logits": Trained(transformer, logits=True),
}


class OutOfFoldLogits:
    """In place of a RunFolder: the logits of each series by the network that never saw it, as features too."""

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
    jobs = [(name, seed, fold) for seed in config.seeds for name in MODELS for fold in folds]
    todo = [job for job in jobs if not predictions_of(config, *job).exists()]
    with ProcessPoolExecutor(config.workers, clean_context(__name__)) as pool:
        for job in progress(
            as_completed([pool.submit(train_and_predict, config, *job) for job in todo]),
            "runs",
            " runs",
            total=len(todo),
        ):
            job.result()
    result = table(config, series, folds)
    write_table(config.out / "table.csv", result)
    print(result.to_string(index=False))
    print(leak(config, series, folds))
    return result


def keep_to_settings(config: Config, folds: list[int]) -> None:
    """Finished runs count only where settings, features and folds are those of this comparison."""
    runs = [RunFolder(config.model_dir, config.encoder, fold) for fold in folds]
    weights = [fingerprint(run.best("stage1")) for run in runs]
    for run, fold, one in zip(runs, folds, weights, strict=True):
        require_features_of(run, one)
        read_fold(
            DataFolder(config.data_dir),
            fold,
            read_checkpoint(run.best("stage1"), ("settings",))["settings"],
        )
    settings = settings_of(config) | {"weights": weights}
    kept = {
        name: settings[name]
        for name in (
            "encoder",
            "width",
            "cut",
            "epochs",
            "batch_size",
            "lr",
            "ema_decay",
            "weights",
        )
    }
    settle(config.out / "settings.json", kept, "take another --out, or delete it")


def predictions_of(config: Config, name: str, seed: int, fold: int) -> Path:
    return config.out / name.replace(" ", "_").replace(",", "") / str(seed) / f"fold-{fold}.csv"


def train_and_predict(config: Config, name: str, seed: int, fold: int) -> None:
    """One run: probabilities of the held-out series of a fold by the moving average after the last epoch."""
    torch.set_num_threads(1)
    data, kind = DataFolder(config.data_dir), MODELS[name]
    series, held_out = read_fold(data, fold)
    run = (
        OutOfFoldLogits(config, series)
        if kind.logits
        else RunFolder(config.model_dir, config.encoder, fold)
    )
    geometry = read_pickle(data.geometry)
    if not kind.millimetres:
        geometry = {
            uid: {"positions": np.full(len(facts["positions"]), np.nan)}
            for uid, facts in geometry.items()
        }
    training = SequenceDataset(
        run, series[series.fold != fold], geometry, config.cut, seed, step=None
    )
    loader = make_loader(training, config.batch_size, 0, seed, collate=pad_sequences)

    torch.manual_seed(seed)
    learner = Learner(
        kind.make(training.channels, config.width),
        CPU,
        config.lr,
        WEIGHT_DECAY,
        len(loader),
        config.ema_decay,
        ema_every=3,
    )
    learner.model.train()
    for loader.sampler.epoch in range(config.epochs):
        for batch in batches_of(loader):
            learner.step(
                [
                    lambda batch=batch: focal_loss(
                        learner.model(batch["features"], batch["positions"], batch["present"]),
                        batch["labels"],
                    )
                ]
            )

    judged = make_loader(
        SequenceDataset(run, held_out, geometry, config.cut, 0, step=1),
        config.batch_size,
        0,
        collate=pad_sequences,
    )
    probabilities = predict(
        judged,
        lambda batch: train_stage2.predict_batch(learner.average.module, batch, 0.0, CPU),
        CPU,
        "held-out series",
    )
    write_table(predictions_of(config, name, seed, fold), with_uids(held_out, probabilities))


def with_uids(series: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    return pd.concat(
        [
            series[["SeriesInstanceUID"]].reset_index(drop=True),
            pd.DataFrame(probabilities, columns=list(LABELS)),
        ],
        axis=1,
    )


def pooled_logits(config: Config, series: pd.DataFrame, fold: int, pool: Callable) -> pd.DataFrame:
    """Probabilities of series by one fold's stage 1 alone: the maximum or the mean of its logits at step 1."""
    run = RunFolder(config.model_dir, config.encoder, fold)
    logits = np.stack(
        [
            pool(read_array(run.logit(uid))[0].astype(np.float32), axis=0)
            for uid in series.SeriesInstanceUID
        ]
    )
    return with_uids(series, sigmoid(logits))


def score(series: pd.DataFrame, predictions: list[pd.DataFrame]) -> tuple[float, float, float]:
    """(weighted score, present, mean of locations) of predictions, pooled."""
    scores = metrics.weighted_score(
        *metrics.join_by_uid(
            series[["SeriesInstanceUID", *LABELS]], pd.concat(predictions), ["SeriesInstanceUID"]
        )
    )
    return scores["score"], scores["present"], metrics.mean_location(scores)


def table(config: Config, series: pd.DataFrame, folds: list[int]) -> pd.DataFrame:
    """One row a model: its weights, and mean and extremes over the seeds of the scores over all folds, alone and joined with the maximum."""
    pools = {
        name: [pooled_logits(config, series[series.fold == fold], fold, pool) for fold in folds]
        for name, pool in POOLED.items()
    }
    rows = [
        {"model": name, "weights": 0} | shown([score(series, predictions)])
        for name, predictions in pools.items()
    ]
    channels = read_array(
        RunFolder(config.model_dir, config.encoder, folds[0]).feature(series.SeriesInstanceUID[0])
    ).shape[-1]
    for name, kind in MODELS.items():
        alone = [
            [read_table(predictions_of(config, name, seed, fold)) for fold in folds]
            for seed in config.seeds
        ]
        joined = [
            [
                join(*pair, config.stage1_share)
                for pair in zip(predictions, pools[MAXIMUM], strict=True)
            ]
            for predictions in alone
        ]
        weights = sum(
            weight.numel()
            for weight in kind.make(
                len(LABELS) if kind.logits else channels, config.width
            ).parameters()
        )
        scores = shown([score(series, each) for each in alone]) | shown(
            [score(series, each) for each in joined], "joined "
        )
        rows.append({"model": name, "weights": weights} | scores)
    return pd.DataFrame(rows).fillna("")


def join(predictions: pd.DataFrame, maximum: pd.DataFrame, share: float) -> pd.DataFrame:
    """Predictions of the same series, their logits in a weighted mean; share: of the maximum."""
    logits = [logit(table[list(LABELS)].to_numpy()) for table in (predictions, maximum)]
    return with_uids(predictions, sigmoid((1 - share) * logits[0] + share * logits[1]))


def shown(scores: list[tuple[float, float, float]], prefix: str = "") -> dict[str, str]:
    """Mean and extremes of (score, present, locations), over seeds."""
    return {
        prefix + name: one_shown(values)
        for name, values in zip(("score", "present", "locations"), np.array(scores).T, strict=True)
    }


def one_shown(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (
        f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else ""
    )


def leak(config: Config, series: pd.DataFrame, folds: list[int]) -> str:
    """How much better stage 1 is on the series that it was fitted on, whose features stage 2 is trained on."""
    fitted = [
        score(inside, [pooled_logits(config, inside, fold, np.max)])
        for fold in folds
        for inside in [series[series.fold != fold]]
    ]
    held_out = [
        score(outside, [pooled_logits(config, outside, fold, np.max)])
        for fold in folds
        for outside in [series[series.fold == fold]]
    ]
    means = [
        ", ".join(f"{value:.3f}" for value in np.mean(rows, axis=0)) for rows in (fitted, held_out)
    ]
    return f"maximum of the logits (score, present, locations), mean over folds: {means[0]} on stage 1's training series, {means[1]} on held-out ones"


if __name__ == "__main__":
    run_script(main, Config, __doc__)
