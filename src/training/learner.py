"""One optimization step, and the loop over epochs, for both stages."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from src import distributed
from src.device import precision
from src.evaluation import metrics
from src.progress import progress
from src.sampling.loader import batches_of
from src.script import UserError
from src.training import optim
from src.training.run_folder import RunLog

MOST_BROKEN_STEPS = 10  # in a row with a loss that is not finite, before training stops
SCALE_STEPS = 20  # more broken steps allowed while float16 searches its loss scale


class Learner:
    """Everything that one training step updates.

    `network` is what to call in training: the model, or DistributedDataParallel around it.
    """

    PARTS = ("model", "optimizer", "schedule", "clip", "scaler")

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        ema_decay: float,
        ema_every: int,
        head_lr: float | None = None,
    ):
        """Prepare training from the first step.

        lr: learning rate after warm-up.
        head_lr: that of all but `model.encoder`; None: lr.
        """
        self.device = device
        self.model = model.to(device)
        self.average = optim.MovingAverage(self.model, ema_decay)
        self.ema_every = ema_every
        groups = optim.parameter_groups(self.model, lr, lr if head_lr is None else head_lr)
        self.optimizer = optim.Mars(groups, lr, weight_decay)
        self.schedule = optim.warmup(self.optimizer, warmup_steps)
        self.clip = optim.AutoClip(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision(device) == torch.float16)
        self.searching_steps = SCALE_STEPS * self.scaler.is_enabled()
        self.steps = 0
        self.broken = torch.zeros((), dtype=torch.int64, device=device)
        self.broken_in_a_row = torch.zeros_like(self.broken)
        # The forward pass of a broken batch leaves NaN in the running statistics of batch norm.
        self.statistics = [b for b in self.model.buffers() if b.is_floating_point()]
        self.good_statistics = self._joined_statistics()
        self.network = self.model
        if distributed.world() > 1:
            distributed.join(device)
            devices = [device] if device.type == "cuda" else None
            self.network = DistributedDataParallel(self.model, devices)

    def step(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """Update the model with the mean of the losses, each called in turn; return it, detached.

        A loss or gradient that is not finite changes nothing and is counted. Raise UserError if
        too many in a row are not finite; asking waits for the device, so it is done rarely.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.broken.device)
        for number, loss_of in enumerate(losses, 1):
            # Ranks exchange their gradients once a step, with the last loss.
            waits = number < len(losses) and distributed.world() > 1
            with self.network.no_sync() if waits else nullcontext():
                loss = loss_of() / len(losses)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        usable = self.clip.clip(self.model.parameters()).isfinite()
        self.optimizer.step(usable)
        self.scaler.update()
        self.schedule.step()
        self._count_broken(usable)
        if self.steps % self.ema_every == 0:
            self.average.update(self.model)
        self.steps += 1
        most = MOST_BROKEN_STEPS + self.searching_steps
        if self.steps % MOST_BROKEN_STEPS == 0 and int(self.broken_in_a_row) >= most:
            raise UserError(
                f"the loss was not finite {most} steps in a row: lower --lr, or look at the arrays"
            )
        return total

    @torch.no_grad()
    def _count_broken(self, usable: Tensor) -> None:
        """Count a step that is not usable, and restore the statistics of batch norm from before."""
        self.broken += ~usable
        self.broken_in_a_row = (self.broken_in_a_row + 1) * ~usable
        if self.good_statistics is not None:
            found = self._joined_statistics()
            self.good_statistics = torch.where(usable, found, self.good_statistics)
            parts = self.good_statistics.split([each.numel() for each in self.statistics])
            shaped = [p.view_as(each) for p, each in zip(parts, self.statistics, strict=True)]
            torch._foreach_copy_(self.statistics, shaped)

    def _joined_statistics(self) -> Tensor | None:
        """Return a copy of all statistics as one vector, None if there are none.

        To choose among vectors takes one launch, not two for each buffer.
        """
        flat = [statistic.flatten() for statistic in self.statistics]
        return torch.cat(flat) if flat else None

    def state_dict(self) -> dict:
        state = {name: getattr(self, name).state_dict() for name in self.PARTS}
        average = self.average.module.state_dict()
        state["average"] = {"module": average, "updates": self.average.updates}
        return state | {"steps": self.steps, "broken": int(self.broken)}

    def load_state_dict(self, state: dict) -> None:
        """Continue from a state that `state_dict` returned."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.average.module.load_state_dict(state["average"]["module"])
        self.average.updates = int(state["average"]["updates"])
        self.steps = state["steps"]
        self.broken.fill_(state["broken"])
        self.good_statistics = self._joined_statistics()


def fit(
    learner: Learner,
    run: RunLog,
    loader,
    epochs: int,
    accumulate: int,
    loss_of: Callable,
    evaluate: Callable[[nn.Module], tuple],
) -> dict | None:
    """Train from the run's epoch to `epochs` and return the best {"score", "epoch"}.

    accumulate: batches of the loader a step.
    loss_of: (model, batch) -> loss.
    evaluate: model -> held-out scores (None if not defined), settings to save with the weights.
    """
    run.start(learner, epochs)
    while run.epoch < epochs:
        start = time.perf_counter()
        loader.sampler.epoch = run.epoch
        learner.model.train()
        stream = run.epoch * distributed.world() + distributed.rank()
        torch.manual_seed(run.settings["seed"] * 100_003 + stream)  # of dropout
        what, steps = f"epoch {run.epoch + 1}/{epochs}", -(-len(loader) // accumulate)
        batches, losses, broken_before = batches_of(loader), [], int(learner.broken)
        with progress(None, what, " steps", total=steps, leave=False) as bar:
            while group := list(islice(batches, accumulate)):  # the last may be smaller
                parts = [partial(loss_of, learner.network, batch) for batch in group]
                losses.append(learner.step(parts))
                bar.update()
        report_broken(learner, run, int(learner.broken) - broken_before, len(losses))
        scores, extra = evaluate(learner.average.module)
        loss = float(distributed.total(finite_mean(torch.stack(losses))) / distributed.world())
        run.epoch_done(learner, loss, scores, time.perf_counter() - start, extra)
    run.finish()
    distributed.leave()
    return run.best


def report_broken(learner: Learner, run: RunLog, broken: int, steps: int) -> None:
    """Say how many steps of an epoch were skipped. Raise UserError if there were no others."""
    if not broken:
        return
    said = f"epoch {run.epoch + 1}: the loss or its gradient was not finite in {broken} of {steps} "
    if broken == steps and steps > learner.searching_steps:
        raise UserError(f"{said}steps: lower --lr, or look at the arrays and the first weights")
    run.say(f"{said}steps, which were skipped")


def finite_mean(losses: Tensor) -> Tensor:
    """Return the mean of the losses (n,) that are finite, 0-dim; NaN if none is."""
    return torch.where(losses.isfinite(), losses, torch.nan).nanmean()


def scores_or_none(truth: np.ndarray, probabilities: np.ndarray) -> dict | None:
    """Return the scores of an epoch, or None if the held-out fold gives none."""
    try:
        return metrics.weighted_score(truth, probabilities)
    except metrics.MetricError:
        return None
