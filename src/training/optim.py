"""The MARS optimizer, warm-up, gradient clipping and the moving average of the weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel


class Mars(Optimizer):
    """MARS with AdamW's second moment (Yuan et al. 2024, algorithm 2, one gradient a step).

    Biases and norms get plain AdamW, as in timm's Mars. Unlike timm's, it moves all tensors
    together, and a tensor on the device decides whether a step changes anything.
    """

    def __init__(self, parameters: Iterable[nn.Parameter | dict], lr: float, weight_decay: float):
        defaults = dict(lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), eps=1e-8, gamma=0.025)
        super().__init__(parameters, defaults | {"updates": torch.zeros(())})

    @torch.no_grad()
    def step(self, usable: Tensor | None = None) -> None:
        """Update the parameters; if `usable` (0-dim bool) is False, keep them and the moments."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if usable is None:
                usable = torch.ones((), dtype=torch.bool, device=parameters[0].device)
            group["updates"] = group["updates"].to(usable.device) + usable
            for corrected in (True, False):  # weights; biases and norms
                chosen = [p for p in parameters if (p.ndim >= 2) == corrected]
                if chosen:
                    self._move(chosen, group, usable.float(), corrected)

    def _move(
        self, parameters: list[nn.Parameter], group: dict, usable: Tensor, corrected: bool
    ) -> None:
        """Move the parameters by one step; `corrected` adds MARS' correction to the gradients."""
        gradients = [p.grad.nan_to_num_(0.0, 0.0, 0.0) for p in parameters]  # 0 * nan would be nan
        means = self._states("exp_avg", parameters)
        squares = self._states("exp_avg_sq", parameters)
        beta1, beta2 = group["betas"]
        updates = group["updates"].clamp(min=1)  # 0 before the first usable step
        steered = gradients
        if corrected:
            last = self._states("last_grad", parameters)
            change = torch._foreach_sub(gradients, last)
            not_first = updates > 1  # the first gradient has no predecessor
            torch._foreach_mul_(change, group["gamma"] * beta1 / (1 - beta1) * not_first)
            steered = torch._foreach_add(gradients, change)
            norms = torch._foreach_norm(steered)
            torch._foreach_clamp_min_(norms, 1.0)
            torch._foreach_div_(steered, norms)
            _approach(last, gradients, usable)
        _approach(means, steered, usable * (1 - beta1))
        _approach(squares, torch._foreach_mul(steered, steered), usable * (1 - beta2))

        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - beta2**updates).sqrt())
        torch._foreach_add_(roots, group["eps"])
        moves = torch._foreach_div(means, roots)
        torch._foreach_mul_(moves, -group["lr"] * usable / (1 - beta1**updates))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"] * usable)
        torch._foreach_add_(parameters, moves)

    def _states(self, name: str, parameters: list[nn.Parameter]) -> list[Tensor]:
        """Return the state `name` of each parameter, zeros before the first step."""
        for parameter in parameters:
            if not self.state[parameter]:
                for key in ("exp_avg", "exp_avg_sq", "last_grad"):
                    self.state[parameter][key] = torch.zeros_like(parameter)
        return [self.state[parameter][name] for parameter in parameters]


def _approach(values: list[Tensor], targets: list[Tensor], fraction: Tensor) -> None:
    """Move the values by a fraction (0-dim) of their distance to the targets, in place."""
    distances = torch._foreach_sub(targets, values)
    torch._foreach_mul_(distances, fraction)
    torch._foreach_add_(values, distances)


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


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a model's weights and buffers, in evaluation mode.

    After n updates the decay is min(decay, (1 + n) / (10 + n)): a short memory at the start.
    """

    def move(averages: list[Tensor], values: list[Tensor], _) -> None:
        if averages[0].is_floating_point():
            n = int(average.n_averaged)  # on the CPU; the argument is a copy on the device
            torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + n) / (10 + n)))
        else:  # counters of batch norm
            torch._foreach_copy_(averages, values)

    average = AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    return average.eval().requires_grad_(False)
