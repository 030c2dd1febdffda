"""An encoder's weights from a file that another program wrote, such as --checkpoint names."""

from pathlib import Path

import torch
from torch import Tensor, nn

COUNTER = "num_batches_tracked"  # of batch norm: older files do not have it, and nothing needs it
CLASSIFIER = 2  # tensors that a file may have after the encoder's: weight and bias


def load_from_file(name: str, options: dict[str, int], path: Path) -> nn.Module:
    """Return an encoder with the weights of a file, read without running code from it.

    timm reads it, renames the tensors of other projects, and resamples what depends on the size.
    If no name is timm's even so, the tensors are taken in their order.
    Raise ValueError, or another error of timm, if the file lacks a part of the encoder.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        expected = _build(name, options).state_dict()
    weights = in_timms_names(_read(path), expected)
    encoder = _build(name, options, weights)
    # A part that the file lacks keeps its random weights, which others would not repeat.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        again = _build(name, options, weights).state_dict()
    found = encoder.state_dict()
    missing = [key for key in found if not torch.equal(found[key], again[key])]
    if missing:
        few = f"{len(missing)} of the {len(found)} tensors of timm's {name}"
        raise ValueError(f"the file lacks {few}, such as {missing[0]}")
    return encoder


def in_timms_names(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of `expected`, if no name but all kinds and shapes agree.

    Other tensors return as they are, for timm to rename.
    """
    if found.keys() & expected.keys():
        return found
    names, others = _without_counters(expected), _without_counters(found)
    if not 0 <= len(others) - len(names) <= CLASSIFIER:
        return found
    renamed = dict(zip(names, others.values(), strict=False))
    alike = [_alike(*pair) for pair in zip(names.items(), others.items(), strict=False)]
    return renamed if all(alike) else found


def _read(path: Path) -> dict[str, Tensor]:
    import timm

    try:
        weights = timm.models.load_state_dict(str(path))
        whole = all(isinstance(tensor, Tensor) for tensor in weights.values())
    except Exception as error:  # broken, or pickled objects
        raise ValueError("the file is no state_dict() that torch.save wrote") from error
    if not whole or not weights:
        raise ValueError("the file is no state_dict() that torch.save wrote")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} in the file is not finite")
    return weights


def _build(name: str, options: dict[str, int], weights: dict[str, Tensor] | None = None):
    """Return the encoder without its classifier; with weights, in any names that timm knows."""
    import timm

    if weights is None:
        return timm.create_model(name, num_classes=0, **options)
    overlay = dict(state_dict=dict(weights))
    encoder = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **options
    )
    encoder.pretrained_cfg.pop(*overlay, None)  # timm would keep a copy as long as the encoder
    return encoder


def _without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def _alike(expected: tuple[str, Tensor], found: tuple[str, Tensor]) -> bool:
    """Return whether two named tensors are of one kind, such as weight or bias, and shape."""
    (name, tensor), (other, found_tensor) = expected, found
    same_kind = name.rpartition(".")[2] == other.rpartition(".")[2]
    return same_kind and tensor.shape == found_tensor.shape
