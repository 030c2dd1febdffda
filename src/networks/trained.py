"""A network with the weights of a checkpoint."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from src.script import UserError
from src.text import printable


def with_weights(build: Callable[[], nn.Module], weights: dict[str, Tensor], what: str):
    """Return the network that `build` returns, with the weights of a checkpoint.

    The shapes are compared first, on a network without memory: the settings of a file may ask for
    one that is larger than the machine.
    what: the network in words. Raise UserError if the weights do not fit it.
    """
    with torch.device("meta"):
        expected = build().state_dict()
    reason = misfit(expected, weights)
    if reason:
        raise UserError(f"the weights do not fit {what}: {reason}; train again")
    model = build()
    model.load_state_dict(weights)
    return model


def misfit(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> str | None:
    """Return the first way in which weights differ in names, shapes or kind of numbers."""
    for name, tensor in expected.items():
        if name not in weights:
            return f"{name} is missing"
        found = weights[name]
        if found.shape != tensor.shape:
            return f"{name} has the shape {tuple(found.shape)}, not {tuple(tensor.shape)}"
        if tensor.is_floating_point() and not found.is_floating_point():
            return f"{name} is of {found.dtype}, not of {tensor.dtype}"
    for name in weights.keys() - expected.keys():
        return f"{printable(name, 80)} is not part of it"
    return None
