"""Mars, warm-up, AutoClip and the EMA of the weights."""

from collections import deque
from statistics import median

import torch
from timm.optim import Mars
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel


def mars(model: nn.Module, lr: float, weight_decay: float) -> Optimizer:
    """Mars (Yuan et al. 2024) as timm has it, over all weights."""
    return Mars(model.parameters(), lr=lr, weight_decay=weight_decay)


def warmup(optimizer: Optimizer, steps: int) -> LambdaLR:
    """The rate rises linearly over the first `steps` steps, then stays."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, steps)))


class AutoClip:
    """Clips the gradient norm to the median of the norms before it (after Seetharaman et al. 2020).

    The median of the last 256 finite norms, within 1..100; 5.0 for the first 50 steps.
    """

    HISTORY, FIRST_STEPS, FIRST_LIMIT, LOWEST, HIGHEST = 256, 50, 5.0, 1.0, 100.0

    def __init__(self) -> None:
        self.norms: deque[float] = deque(maxlen=self.HISTORY)
        self.steps = 0

    def limit(self) -> float:
        if self.steps < self.FIRST_STEPS:
            return self.FIRST_LIMIT
        return min(max(median(self.norms), self.LOWEST), self.HIGHEST)

    def clip(self, parameters: list[Tensor]) -> float:
        """Scale the gradients down to the limit in place; returns their norm before. A norm that is not finite is not remembered."""
        limit = self.limit()
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if norm == norm and norm != float("inf"):
            self.norms.append(norm)
            self.steps += 1
        return norm

    def state_dict(self) -> dict:
        return {"norms": list(self.norms), "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.norms = deque(state["norms"], maxlen=self.HISTORY)
        self.steps = state["steps"]


def ramped_decay(decay: float, updates: int) -> float:
    """The decay that is really used after so many updates: min(decay, (1 + n) / (10 + n)), short memory at the start."""
    return min(decay, (1 + updates) / (10 + updates))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and buffers; `update_parameters(model)` moves it."""

    @torch.no_grad()
    def blend(averages: list[Tensor], values: list[Tensor], updates: Tensor | int) -> None:
        weight = 1 - ramped_decay(decay, int(updates))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, weight)
        else:  # counters of batch norm
            torch._foreach_copy_(averages, values)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
