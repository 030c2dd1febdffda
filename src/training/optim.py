"""Mars, warm-up, AutoClip and the EMA of the weights. Nothing here waits for the device: what depends on the gradients stays there."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Mars(Optimizer):
    """MARS with AdamW's second moment (Yuan et al. 2024, algorithm 2, one gradient a step); plain AdamW for biases and norms.

    The same as timm's Mars but for two things: all tensors move together, and a step can be told on the device to change nothing.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        betas=(0.9, 0.99),
        eps: float = 1e-8,
        gamma: float = 0.025,
    ):
        super().__init__(
            parameters,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "betas": betas,
                "eps": eps,
                "gamma": gamma,
                "updates": torch.zeros(()),
            },
        )

    @torch.no_grad()
    def step(self, usable: Tensor | None = None) -> None:
        """usable: 0-dim bool on the parameters' device; where it is False, weights and moments stay as they are."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            usable = (
                torch.ones((), dtype=torch.bool, device=parameters[0].device)
                if usable is None
                else usable
            )
            group["updates"] = group["updates"].to(usable.device) + usable
            for wanted in (True, False):
                some = [p for p in parameters if (p.ndim >= 2) == wanted]
                if some:
                    self._move(some, group, usable.float(), corrected=wanted)

    def _move(
        self, parameters: list[nn.Parameter], group: dict, usable: Tensor, corrected: bool
    ) -> None:
        gradients = [p.grad.nan_to_num_(0.0, 0.0, 0.0) for p in parameters]  # 0 * nan would be nan
        means, squares, last = (
            [self._state(p)[name] for p in parameters]
            for name in ("exp_avg", "exp_avg_sq", "last_grad")
        )
        beta1, beta2 = group["betas"]
        updates = group["updates"].clamp(min=1)  # 0 before the first usable step
        steered = gradients
        if corrected:
            change = torch._foreach_sub(gradients, last)
            torch._foreach_mul_(
                change, group["gamma"] * beta1 / (1 - beta1) * (updates > 1)
            )  # the first gradient has none before it
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

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state |= {
                name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq", "last_grad")
            }
        return state


def _approach(values: list[Tensor], targets: list[Tensor], share: Tensor) -> None:
    """Move the values by a share (0-dim) of their distance to the targets, in place."""
    distances = torch._foreach_sub(targets, values)
    torch._foreach_mul_(distances, share)
    torch._foreach_add_(values, distances)


def warmup(optimizer: Optimizer, steps: int) -> LambdaLR:
    """The rate rises linearly over the first `steps` steps, then stays."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, steps)))


class AutoClip:
    """Clips the gradient norm to the median of the norms before it (after Seetharaman et al. 2020).

    The median of the last 256 finite norms, within 1..100; 5.0 for the first 50 steps.
    """

    HISTORY, FIRST_STEPS, FIRST_LIMIT, LOWEST, HIGHEST = 256, 50, 5.0, 1.0, 100.0

    def __init__(self, device: torch.device) -> None:
        self.norms = torch.full((self.HISTORY,), float("nan"), device=device)  # a ring
        self.steps = torch.zeros((), dtype=torch.int64, device=device)  # with a finite norm

    def limit(self) -> Tensor:
        """What the next norm is clipped to; 0-dim."""
        usual = self.norms.nanquantile(0.5).clamp(self.LOWEST, self.HIGHEST)
        return torch.where(self.steps < self.FIRST_STEPS, self.FIRST_LIMIT, usual)

    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Scale the gradients down to the limit in place; their norm before, 0-dim. A norm that is not finite is not remembered."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, (self.limit() / (norm + 1e-6)).clamp(max=1.0))
        place = (self.steps % self.HISTORY)[None]
        finite = norm.isfinite()
        self.norms.index_copy_(
            0, place, torch.where(finite, norm, self.norms.index_select(0, place))
        )
        self.steps += finite
        return norm

    def state_dict(self) -> dict:
        return {"norms": self.norms, "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.norms.copy_(state["norms"])
        self.steps.copy_(state["steps"])


def ramped_decay(decay: float, updates: int) -> float:
    """The decay that is really used after so many updates: min(decay, (1 + n) / (10 + n)), short memory at the start."""
    return min(decay, (1 + updates) / (10 + updates))


class MovingAverage:
    """An exponential moving average of weights and buffers, in `module`, a copy of the model in evaluation mode."""

    def __init__(self, model: nn.Module, decay: float):
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model; the first update copies it."""
        weight = 1 - ramped_decay(self.decay, self.updates) if self.updates else 1.0
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        for floating in (True, False):
            averages, values = [
                [pair[side] for pair in pairs if pair[0].is_floating_point() == floating]
                for side in (0, 1)
            ]
            if averages and floating:
                torch._foreach_lerp_(averages, values, weight)
            elif averages:  # counters of batch norm
                torch._foreach_copy_(averages, values)
        self.updates += 1

    def state_dict(self) -> dict:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
