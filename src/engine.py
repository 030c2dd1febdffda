"""What both stages share when they train and predict: device and precision, one optimisation step, epochs with checkpoints and logs."""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from src import artifacts, metrics, optim
from src.artifacts import ArtifactError, RunFolder
from src.labels import LABELS
from src.runtime import UserError, progress, versions

EMA_EVERY = 3  # steps between two updates of the moving average
MAY_CHANGE = ("data_dir", "model_dir", "device", "workers", "epochs", "resume")  # settings, when a run goes on
MOST_BROKEN_STEPS = 10  # in a row with a loss that is not finite, before training stops


def choose_device(name: str) -> torch.device:
    """ "auto" takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: torch sees no GPU here; leave --device out, or take --device cpu")
        torch.set_float32_matmul_precision("high")
    return torch.device(name)


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that have it in hardware, float16 on older ones, float32 on the CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def autocast(device: torch.device) -> AbstractContextManager:
    """Mixed precision for training, evaluation and extraction alike; does nothing where precision is float32."""
    dtype = precision(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def settings_of(config: Any) -> dict:
    """The fields of a script's Config as plain values, for json and checkpoints."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


class Learner:
    """The weights and all that a step changes beside them: moving average, optimizer, schedule, clipping, loss scale."""

    def __init__(self, model: nn.Module, device: torch.device, lr: float, weight_decay: float, warmup_steps: int, ema_decay: float):
        self.model = model.to(device)
        self.average = optim.moving_average(self.model, ema_decay)
        self.optimizer = optim.mars(self.model, lr, weight_decay)
        self.schedule = optim.warmup(self.optimizer, warmup_steps)
        self.clip = optim.AutoClip()
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision(device) == torch.float16)
        self.steps = self.broken = self.broken_in_a_row = 0

    def step(self, loss: Tensor) -> None:
        """Backward, clip, update. A loss or gradient that is not finite changes nothing and is counted; too many in a row raise UserError."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = self.clip.clip(list(self.model.parameters()))
        finite = np.isfinite(norm)
        if finite:
            self.scaler.step(self.optimizer)
            self.schedule.step()
            self.steps += 1
            if self.steps % EMA_EVERY == 0:
                self.average.update_parameters(self.model)
        self.scaler.update()
        self._count_broken(bool(finite))

    def _count_broken(self, finite: bool) -> None:
        self.broken += not finite
        self.broken_in_a_row = 0 if finite else self.broken_in_a_row + 1
        if self.broken_in_a_row >= MOST_BROKEN_STEPS and not self.scaler.is_enabled():
            raise UserError(f"the loss was not finite {MOST_BROKEN_STEPS} steps in a row: lower --lr, or look at the arrays")

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer", "schedule", "clip", "scaler")}
        return parts | {"steps": self.steps, "broken": self.broken}

    def load_state_dict(self, state: dict) -> None:
        for name in ("model", "average", "optimizer", "schedule", "clip", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        self.steps, self.broken = state["steps"], state["broken"]


class Run:
    """One training run on disk: its settings, its log for people, one json line an epoch, the best and the last weights."""

    def __init__(self, folder: RunFolder, stage: str, settings: dict, script: Path, resume: bool):
        self.folder, self.stage, self.settings = folder, stage, settings
        self.epoch, self.best = 0, None  # epochs done; scores of the best epoch
        self.resumed = folder.last(stage).exists()
        if self.resumed and not resume:
            raise ArtifactError(f"{folder.root} holds a {stage} run already: go on with it by --resume, or delete {folder.last(stage)}")
        if not self.resumed:
            folder.metrics(stage).unlink(missing_ok=True)
        artifacts.write_json(folder.settings(stage), settings)
        shutil.copy(script, folder.root / script.name)
        self.say(f"{stage} {json.dumps(settings)} {json.dumps(versions())}", quiet=True)

    def say(self, line: str, quiet: bool = False) -> None:
        """A line for the log and, unless quiet, the screen."""
        if not quiet:
            print(line, flush=True)
        with open(self.folder.log(self.stage), "a") as log:
            print(line, file=log)

    def restore(self, learner: Learner) -> None:
        """Go on where the last finished epoch ended."""
        if not self.resumed:
            return
        state = artifacts.read_checkpoint(self.folder.last(self.stage), ("learner", "epoch", "best", "settings"))
        for name, value in self.settings.items():
            if name not in MAY_CHANGE and state["settings"].get(name) != value:
                raise ArtifactError(f"{self.folder.last(self.stage)} was trained with {name} {state['settings'].get(name)}, not {value}: it cannot go on so")
        learner.load_state_dict(state["learner"])
        self.epoch, self.best = state["epoch"], state["best"]
        self.say(f"going on after epoch {self.epoch}")

    def epoch_done(self, learner: Learner, loss: float, scores: dict | None, seconds: float, extra: dict | None = None) -> None:
        """Log the epoch and save: the moving average where its score is the best so far, then everything that a resume needs."""
        self.epoch += 1
        score = scores["score"] if scores else float("nan")
        if self.best is None or (scores and not score <= self.best["score"]):
            self.best = {"score": score, "epoch": self.epoch}
            weights = learner.average.module.state_dict()
            artifacts.write_checkpoint(self.folder.best(self.stage), {"weights": weights, "settings": self.settings | (extra or {}), **self.best})
        state = {"learner": learner.state_dict(), "epoch": self.epoch, "best": self.best, "settings": self.settings}
        artifacts.write_checkpoint(self.folder.last(self.stage), state)
        self._report(learner, loss, scores, seconds)

    def _report(self, learner: Learner, loss: float, scores: dict | None, seconds: float) -> None:
        lr = learner.optimizer.param_groups[0]["lr"]
        row = {"epoch": self.epoch, "loss": loss, "lr": lr, "seconds": seconds, "broken_steps": learner.broken, "scores": scores}
        with open(self.folder.metrics(self.stage), "a") as file:
            print(json.dumps(row), file=file)
        line = f"epoch {self.epoch:3d}  loss {loss:8.5f}  lr {lr:7.1e}  {seconds:6.1f} s"
        if scores:
            line += f"  score {scores['score']:.4f}  present {scores['present']:.4f}  locations {metrics.mean_location(scores):.4f}"
        self.say(line + ("  best" if self.best["epoch"] == self.epoch else ""))


def fit(learner: Learner, run: Run, loader, epochs: int, loss_of: Callable, evaluate: Callable[[nn.Module], tuple[dict | None, dict]]) -> dict | None:
    """Train from the run's epoch to `epochs`. `loss_of(model, batch)` gives the loss of a batch of the loader; `evaluate(model)` gives
    the held-out scores (None where they are not defined) and what to store with the best weights. Returns score and epoch of the best."""
    run.restore(learner)
    while run.epoch < epochs:
        start = time.perf_counter()
        loader.sampler.epoch = run.epoch
        learner.model.train()
        torch.manual_seed(run.settings["seed"] * 100_003 + run.epoch)  # dropout
        losses = []
        for batch in progress(loader, f"epoch {run.epoch + 1}/{epochs}", " batches", leave=False):
            loss = loss_of(learner.model, batch)
            learner.step(loss)
            losses.append(loss.detach())
        learner.average.module.eval()
        scores, extra = evaluate(learner.average.module)
        loss = float(torch.stack(losses).nanmean())
        run.epoch_done(learner, loss, scores, time.perf_counter() - start, extra)
    return run.best


def scores_or_none(truth: np.ndarray, probabilities: np.ndarray) -> dict | None:
    """The scores of an epoch; None where the held-out fold cannot give any, so that training goes on."""
    try:
        return metrics.weighted_score(truth, probabilities)
    except metrics.MetricError:
        return None


@torch.inference_mode()
def predict(loader, probabilities_of: Callable[[dict], Tensor], what: str) -> np.ndarray:
    """Probabilities (N, 14) float32 of all samples of a loader, in the order of its rows."""
    out = np.full((len(loader.dataset), len(LABELS)), np.nan, np.float32)
    for batch in progress(loader, what, " batches", leave=False):
        out[batch["index"].numpy()] = probabilities_of(batch).float().cpu().numpy()
    return out


def report_scores(run: RunFolder, evaluation: str, truth: pd.DataFrame, predictions: pd.DataFrame, keys: list[str], title: str) -> dict:
    """Join, score, print the table, and write predictions and scores beside the weights; returns the scores."""
    artifacts.write_table(run.predictions(evaluation), predictions)
    labels, probabilities = metrics.join_by_uid(truth[[*keys, *LABELS]], predictions, keys)
    scores = metrics.weighted_score(labels, probabilities)
    scores["n_series"] = int(truth.SeriesInstanceUID.nunique())
    artifacts.write_json(run.scores(evaluation), scores)
    print(metrics.score_table(scores, f"{title}: {len(labels)} rows of {scores['n_series']} series"))
    return scores


def batches(count: int, size: int) -> Iterable[slice]:
    """Slices that cut 0..count into pieces of `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
