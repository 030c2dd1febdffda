"""The MARS optimizer, warm-up, gradient clipping and the moving average of the weights."""

from collections.abc import Iterable
from copy import deepcopy
from itertools import chain, compress

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Mars(Optimizer):
    """MARS with AdamW's second moment (Yuan et al. 2024, algorithm 2, one gradient a step).

    Biases and norms get plain AdamW, as in timm's Mars. Unlike timm's, a tensor on the device
    decides whether a step changes anything, and torch's fused AdamW takes the step: 16 times the
    weights' bytes are read and written, by timm's 44 times.
    """

    def __init__(self, parameters: Iterable[nn.Parameter | dict], lr: float, weight_decay: float):
        defaults = dict(lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), eps=1e-8, gamma=0.025)
        super().__init__(parameters, defaults | {"updates": torch.zeros(())})

    @torch.no_grad()
    def step(self, usable: Tensor | None = None) -> None:
        """Update the parameters; if `usable` (0-dim bool) is False, keep them and the moments."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if usable is None:
                usable = torch.ones((), dtype=torch.bool, device=parameters[0].device)
            group["updates"] = group["updates"].to(usable.device) + usable
            steered = [p for p in parameters if p.ndim >= 2]  # weights; not biases and norms
            plain = [p for p in parameters if p.ndim < 2]
            gradients = self._steer(steered, group, usable) + [p.grad for p in plain]
            self._move(steered + plain, gradients, group, usable)

    def _steer(self, parameters: list[nn.Parameter], group: dict, usable: Tensor) -> list[Tensor]:
        """Return the gradients with MARS' correction, their norms at most 1 each."""
        beta1 = group["betas"][0]
        strength = group["gamma"] * beta1 / (1 - beta1)
        back = -strength * (group["updates"] > 1)  # the first gradient has no predecessor
        steered = []
        for parameter, last in zip(parameters, self._states("last_grad", parameters), strict=True):
            change = torch.empty_like(last)  # laid out as the weights, as the fused step wants it
            steered.append(torch.lerp(parameter.grad, last, back, out=change))
            torch.where(usable, parameter.grad, last, out=last)
        norms = torch._foreach_norm(steered)
        torch._foreach_clamp_min_(norms, 1.0)
        torch._foreach_div_(steered, norms)
        return steered

    def _move(
        self, parameters: list[nn.Parameter], gradients: list[Tensor], group: dict, usable: Tensor
    ) -> None:
        """Take a step of AdamW; do nothing, whatever the gradients are, if it is not usable."""
        torch._fused_adamw_(
            parameters,
            gradients,
            self._states("exp_avg", parameters),
            self._states("exp_avg_sq", parameters),
            [],
            [group["updates"]] * len(parameters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=(~usable).float(),
        )

    def _states(self, name: str, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Return the state `name` of each parameter, zeros before the first step."""
        for parameter in parameters:
            if not self.state[parameter]:
                for key in ("exp_avg", "exp_avg_sq", "last_grad"):
                    self.state[parameter][key] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def parameter_groups(model: nn.Module, lr: float, head_lr: float) -> list[dict]:
    """Return the parameters of `model.encoder` with the rate lr, then all others with head_lr.

    One group of all, in their order, if the rates are equal.
    """
    if lr == head_lr:
        return [{"params": list(model.parameters()), "lr": lr}]
    encoder = list(model.encoder.parameters())
    known = set(encoder)
    others = [parameter for parameter in model.parameters() if parameter not in known]
    return [{"params": encoder, "lr": lr}, {"params": others, "lr": head_lr}]


def warmup(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Return a schedule whose rates rise linearly over the first `steps` steps, then stay."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, steps)))


class AutoClip(nn.Module):
    """Clip the gradient norm to the median of earlier norms (after Seetharaman et al. 2020).

    The limit is the median of the last 256 finite norms, within 1..100; 5.0 for the first 50 steps.
    The norms stay on the device, in a ring buffer: a deque of numbers would wait for each of them.
    """

    HISTORY, FIRST_STEPS, FIRST_LIMIT, LOWEST, HIGHEST = 256, 50, 5.0, 1.0, 100.0

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("norms", torch.full((self.HISTORY,), float("nan"), device=device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))  # finite

    def limit(self) -> Tensor:
        """Return the limit of the next norm, 0-dim."""
        usual = self.norms.nanquantile(0.5).clamp(self.LOWEST, self.HIGHEST)
        return torch.where(self.steps < self.FIRST_STEPS, self.FIRST_LIMIT, usual)

    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Scale the gradients down to the limit in place and return their norm before, 0-dim."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, (self.limit() / (norm + 1e-6)).clamp(max=1.0))
        slot = (self.steps % self.HISTORY)[None]
        finite = norm.isfinite()
        self.norms[slot] = torch.where(finite, norm, self.norms[slot])
        self.steps += finite
        return norm


class MovingAverage:
    """An exponential moving average of a model's weights and buffers, in evaluation mode.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): a short memory at the start.
    n is a number here: torch's AveragedModel copies it to the device, which waits.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model; the first time, become the same."""
        n = self.updates
        fraction = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        averages = list(chain(self.module.parameters(), self.module.buffers()))
        values = list(chain(model.parameters(), model.buffers()))
        moving = [each.is_floating_point() for each in averages]
        fixed = [not each for each in moving]  # counters of batch norm
        if any(moving):
            moved = list(compress(averages, moving))
            torch._foreach_lerp_(moved, list(compress(values, moving)), fraction)
        if any(fixed):
            torch._foreach_copy_(list(compress(averages, fixed)), list(compress(values, fixed)))
        self.updates += 1
