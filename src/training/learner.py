"""One optimisation step, and the epochs: what both stages share when they train."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
from src.training.run_folder import Run

EMA_EVERY = 3  # steps between two updates of the moving average
MOST_BROKEN_STEPS = 10  # in a row with a loss that is not finite, before training stops
SCALE_STEPS = 20  # more of them are the search for a loss scale of float16


class Learner:
    """The weights and all that a step changes beside them: moving average, optimizer, schedule, clipping, loss scale.

    `network` is what to call in training: the model, or its copy on this rank that shares gradients with the others.
    """

    PARTS = ("model", "average", "optimizer", "schedule", "clip", "scaler")

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        ema_decay: float,
        ema_every: int = EMA_EVERY,
    ):
        self.ema_every = ema_every
        self.model = model.to(device)
        self.average = optim.MovingAverage(self.model, ema_decay)
        self.optimizer = optim.Mars(self.model.parameters(), lr, weight_decay)
        self.schedule = optim.warmup(self.optimizer, warmup_steps)
        self.clip = optim.AutoClip(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision(device) == torch.float16)
        self.steps = 0
        self.broken, self.broken_in_a_row = (
            torch.zeros((), dtype=torch.int64, device=device) for _ in range(2)
        )
        self.statistics = [
            buffer for buffer in self.model.buffers() if buffer.is_floating_point()
        ]  # of batch norm
        self.sound = [buffer.clone() for buffer in self.statistics]
        self.network = self.model
        if distributed.world() > 1:
            distributed.join(device)
            self.network = DistributedDataParallel(
                self.model, [device] if device.type == "cuda" else None
            )

    def step(self, losses: list[Callable[[], Tensor]]) -> Tensor:
        """One update from the mean of the losses, each called and differentiated in turn; that mean, detached.

        A loss or gradient that is not finite changes nothing and is counted; too many in a row raise UserError. The device is waited for
        only to ask that, every MOST_BROKEN_STEPS steps.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.broken.device)
        for number, loss_of in enumerate(losses, 1):
            with nullcontext() if number == len(losses) else self._alone():
                loss = loss_of() / len(losses)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        usable = self.clip.clip(self.model.parameters()).isfinite()
        self.optimizer.step(usable)
        self.scaler.update()
        self.schedule.step()
        self._keep_sound(usable)
        self.steps += 1
        if self.steps % self.ema_every == 1:  # the first copies the weights
            self.average.update(self.model)
        most = MOST_BROKEN_STEPS + SCALE_STEPS * self.scaler.is_enabled()
        if self.steps % MOST_BROKEN_STEPS == 0 and int(self.broken_in_a_row) >= most:
            raise UserError(
                f"the loss was not finite {most} steps in a row: lower --lr, or look at the arrays"
            )
        return total

    def _alone(self) -> AbstractContextManager:
        """Gradients of all but the last piece of a step stay on this rank."""
        return self.network.no_sync() if distributed.world() > 1 else nullcontext()

    @torch.no_grad()
    def _keep_sound(self, usable: Tensor) -> None:
        """Count broken steps, and undo what they did to the statistics of batch norm."""
        self.broken += ~usable
        self.broken_in_a_row = (self.broken_in_a_row + 1) * ~usable
        for buffer, sound in zip(self.statistics, self.sound, strict=True):
            buffer.copy_(sound.copy_(torch.where(usable, buffer, sound)))

    def state_dict(self) -> dict:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        return parts | {"steps": self.steps, "broken": int(self.broken)}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.steps = state["steps"]
        self.broken.fill_(state["broken"])
        for sound, buffer in zip(self.sound, self.statistics, strict=True):
            sound.copy_(buffer)


def fit(
    learner: Learner,
    run: Run,
    loader,
    epochs: int,
    accumulate: int,
    loss_of: Callable,
    evaluate: Callable[[nn.Module], tuple],
) -> dict | None:
    """Train from the run's epoch to `epochs`, each step on `accumulate` batches of the loader. `loss_of(model, batch)` gives the loss of
    a batch; `evaluate(model)` the held-out scores (None where they are not defined) and what to store with the best weights.
    Returns score and epoch of the best."""
    run.restore(learner)
    while run.epoch < epochs:
        start = time.perf_counter()
        loader.sampler.epoch = run.epoch
        learner.model.train()
        torch.manual_seed(
            run.settings["seed"] * 100_003 + run.epoch * distributed.world() + distributed.rank()
        )  # dropout
        losses = []
        with progress(
            None,
            f"epoch {run.epoch + 1}/{epochs}",
            " steps",
            total=-(-len(loader) // accumulate),
            leave=False,
        ) as bar:
            for pieces in grouped(batches_of(loader), accumulate):
                losses.append(
                    learner.step(
                        [lambda piece=piece: loss_of(learner.network, piece) for piece in pieces]
                    )
                )
                bar.update()
        scores, extra = evaluate(learner.average.module)
        loss = float(distributed.total(torch.stack(losses).nanmean()) / distributed.world())
        run.epoch_done(learner, loss, scores, time.perf_counter() - start, extra)
    distributed.leave()
    return run.best


def grouped(items, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    items = iter(items)
    while some := list(islice(items, size)):
        yield some


def scores_or_none(truth: np.ndarray, probabilities: np.ndarray) -> dict | None:
    """The scores of an epoch; None where the held-out fold cannot give any, so that training goes on."""
    try:
        return metrics.weighted_score(truth, probabilities)
    except metrics.MetricError:
        return None
