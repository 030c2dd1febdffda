"""What a step of MARS reads and writes, counted operation by operation, and that it is exact.

On a GPU a step takes as long as its bytes take to travel.
"""

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from src.training.optim import Mars

EMPTY = (torch.ops.aten.empty_like.default, torch.ops.aten.empty.memory_format)


class Traffic(TorchDispatchMode):
    """Counts the bytes of all tensors that operations read and write.

    An argument that is changed in place is read and written; one that is only the target of a
    result (out=) is written.
    """

    bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        result = operation(*arguments, **options)
        if operation in EMPTY:  # nothing is written yet
            return result
        schema = operation._schema.arguments
        given = dict(zip([each.name for each in schema], arguments, strict=False)) | options
        known = set()
        for each in schema:
            tensors = [t for t in tree_leaves(given.get(each.name)) if isinstance(t, Tensor)]
            known |= {id(tensor) for tensor in tensors}
            written = each.alias_info is not None and each.alias_info.is_write
            self.bytes += size(tensors) * (written + (not each.is_out))
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor) and id(t) not in known]
        self.bytes += size(made)
        return result


def size(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def layers() -> nn.Module:
    """A network whose weights are far more than its biases, some of them channels last."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(32, 64, 3).to(memory_format=torch.channels_last)
    return nn.Sequential(convolution, nn.BatchNorm2d(64), nn.Linear(300, 200), nn.Linear(200, 90))


def set_gradients(model: nn.Module, step: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * scale
        parameter.grad = drawn.to(parameter.dtype)


def travelled(optimizer: torch.optim.Optimizer, model: nn.Module) -> float:
    """Return the bytes of the third step, in multiples of the parameters' bytes."""
    for step in range(3):
        set_gradients(model, step, 1.0)
        with Traffic() as traffic:
            optimizer.step()
    return traffic.bytes / size(list(model.parameters()))


def test_a_step_moves_at_most_25_times_the_weights():
    model = layers()
    assert travelled(Mars(model.parameters(), 1e-3, 0.01), model) < 18


def test_the_counter_counts_what_others_move():
    """Fused AdamW: 4 read, 3 written, and the gradients, which it may scale; timm's Mars: 44."""
    model = layers()
    assert travelled(torch.optim.AdamW(model.parameters(), fused=True), model) == pytest.approx(
        8, abs=0.1
    )
    assert 40 < travelled(timm.optim.Mars(model.parameters()), model) < 50


@pytest.mark.parametrize("scale", [0.05, 3.0])  # below and above the norm that is clipped
def test_a_step_is_the_algorithm_s_to_the_last_digits(scale):
    """Against algorithm 2 of the paper with AdamW's moments, written out in float64."""
    ours, exact = layers(), layers().double()
    optimizer = Mars(ours.parameters(), 3e-3, 0.05)
    states = [{"m": 0.0, "v": 0.0, "last": None} for _ in exact.parameters()]
    for step in range(1, 9):
        set_gradients(ours, step, scale)
        set_gradients(exact, step, scale)
        optimizer.step()
        for parameter, state in zip(exact.parameters(), states, strict=True):
            move_exactly(parameter, state, step)
    for our, expected in zip(ours.parameters(), exact.parameters(), strict=True):
        error = (our.detach() - expected.detach()).abs().max() / expected.detach().abs().max()
        assert error < 1e-6  # each step rounds to 6e-8


def move_exactly(parameter: nn.Parameter, state: dict, step: int) -> None:
    gradient = corrected = parameter.grad
    if parameter.ndim >= 2:
        before = gradient if state["last"] is None else state["last"]
        corrected = gradient + 0.025 * 0.9 / 0.1 * (gradient - before)
        corrected = corrected / max(1.0, float(corrected.norm()))
    state["m"] = 0.9 * state["m"] + 0.1 * corrected
    state["v"] = 0.99 * state["v"] + 0.01 * corrected**2
    state["last"] = gradient
    mean, square = state["m"] / (1 - 0.9**step), state["v"] / (1 - 0.99**step)
    with torch.no_grad():
        parameter.mul_(1 - 3e-3 * 0.05).sub_(3e-3 * mean / (square.sqrt() + 1e-8))


def test_groups_of_parameters_have_their_own_rates():
    """As one optimizer each; the schedule changes the rate of a group between steps."""
    both, apart = layers(), layers()
    head = ("2.", "3.")

    def parts(model):
        named = list(model.named_parameters())
        body = [value for name, value in named if not name.startswith(head)]
        return body, [value for name, value in named if name.startswith(head)]

    body, top = parts(both)
    together = Mars([{"params": body}, {"params": top, "lr": 1e-2}], 1e-3, 0.01)
    alone = [Mars(part, lr, 0.01) for part, lr in zip(parts(apart), (1e-3, 1e-2), strict=True)]
    for step in range(4):
        for optimizer in (together, *alone):
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
        set_gradients(both, step, 1.0)
        set_gradients(apart, step, 1.0)
        together.step(torch.tensor(step != 1))
        for optimizer in alone:
            optimizer.step(torch.tensor(step != 1))
    for one, other in zip(both.parameters(), apart.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradients_may_be_laid_out_otherwise_than_their_weights():
    ours, theirs = layers(), layers().to(memory_format=torch.contiguous_format)
    for model in (ours, theirs):
        optimizer = Mars(model.parameters(), 1e-3, 0.01)
        for step in range(3):
            set_gradients(model, step, 1.0)  # contiguous
            optimizer.step()
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-6, atol=1e-7)
