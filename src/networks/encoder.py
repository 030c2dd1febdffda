"""A timm encoder without its classifier, and its pretrained weights."""

import socket
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import nn

from src.networks.encoder_file import load_from_file
from src.script import UserError
from src.text import printable

STRIDES = (8, 16, 32)  # of the encoder's maps that the heatmap head reads
MULTIPLES = (14, 32, 256)  # pixels; most encoders take the multiples of one of them
SHOWN = 80  # characters of an unknown name in a message


class Plan(NamedTuple):
    """How to build an encoder for images of one size, and what it returns for them."""

    options: dict[str, int]  # {"img_size": pixels} if it is built for one size
    taps: list[int]  # which of its maps the heatmap head reads, fine to coarse
    strides: list[int]  # of these maps
    channels: list[int]  # of these maps
    features: int  # channels of the pooled features
    checkpointing: bool  # whether it can compute activations twice to save memory


def plan_encoder(name: str, crop_size: int | None = None) -> Plan:
    """Return how to build an encoder. Raise UserError if it is unknown or cannot be used.

    Loads no weights, asks no network and draws no random number.

    crop_size: side of the images, pixels; None: the encoder's own.
    """
    if not _is_known(name):
        shown = printable(name, SHOWN)
        raise UserError(f"timm knows no encoder {shown!r}: choose one of docs/encoders.md")
    try:
        return _dry_run(name, crop_size)
    except Exception as error:  # those of timm have no class in common
        raise UserError(_advice(name, crop_size, error)) from error


def _is_known(name: str) -> bool:
    """Return whether timm has the encoder, and the weights that a tag after the point names.

    It has no hf-hub:, local-dir: and other sources, which would load whatever they name.
    """
    import timm  # takes longer to import than all else together

    if not isinstance(name, str) or not timm.is_model(name):
        return False
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return False
    return True


@cache
def _dry_run(name: str, crop_size: int | None) -> Plan:
    """Build and run the encoder on torch's meta device: shapes only, no numbers, no memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        encoder, options = _sized(name, crop_size)
        side = crop_size or encoder.pretrained_cfg["input_size"][-1]
        finest = encoder.feature_info[0]["reduction"]
        if options and side % finest:
            raise ValueError(f"{side} is not a multiple of {finest}")
        taps = map_indices(encoder)
        images = torch.zeros(2, 3, side, side)
        final, maps = encoder.eval().forward_intermediates(images, indices=taps, output_fmt="NCHW")
        features = encoder.forward_head(final)
    return Plan(
        options,
        taps,
        strides=[encoder.feature_info[tap]["reduction"] for tap in taps],
        channels=[each.shape[1] for each in maps],
        features=features.shape[1],
        checkpointing=_can_checkpoint(encoder),
    )


def _sized(name: str, crop_size: int | None) -> tuple[nn.Module, dict[str, int]]:
    """Return the encoder for images of this size, and the options that made it so."""
    import timm

    encoder = _of_own_size(name)
    if crop_size is None or not timm.models.get_model_input_config(encoder)["fixed_input_size"]:
        return encoder, {}
    options = {"img_size": crop_size}
    return timm.create_model(name, num_classes=0, **options), options


@lru_cache(maxsize=1)  # several sizes may be tried
def _of_own_size(name: str) -> nn.Module:
    """Return the encoder as timm makes it."""
    import timm

    return timm.create_model(name, num_classes=0)


def _can_checkpoint(encoder: nn.Module) -> bool:
    try:
        encoder.set_grad_checkpointing()
        encoder.set_grad_checkpointing(enable=False)
    except AssertionError:  # timm's way of saying no
        return False
    return True


def map_indices(encoder: nn.Module) -> list[int]:
    """Return which of the encoder's maps have stride 8, 16 and 32, the deepest of each stride.

    If none has, return those between, such as the map of stride 14 of a patch-14 ViT.
    """
    deepest = {info["reduction"]: index for index, info in enumerate(encoder.feature_info)}
    exact = [deepest[stride] for stride in STRIDES if stride in deepest]
    between = [deepest[stride] for stride in sorted(deepest) if 8 < stride < 32]
    return exact or between or [max(deepest.values())]


def _advice(name: str, crop_size: int | None, error: Exception) -> str:
    """Return the sentence for an encoder that cannot be built or run for images of this size."""
    fitting = [] if crop_size is None else [str(size) for size in _sizes_near(name, crop_size)]
    if not fitting:
        return f"the encoder {name} cannot be used ({reason_of(error)}): choose another --encoder"
    return (
        f"the encoder {name} takes no images of {crop_size} x {crop_size} pixels: "
        f"choose another --crop-size, such as {' or '.join(fitting)}"
    )


def _sizes_near(name: str, crop_size: int) -> list[int]:
    """Return the next smaller and the next larger crop size that work, of those worth a try."""
    import timm

    weights = timm.models.get_pretrained_cfg(name)
    candidates = {weights.input_size[-1]} if weights else set()
    for multiple in MULTIPLES:
        below = (crop_size - 1) // multiple * multiple
        candidates |= {below, below + multiple, below + 2 * multiple}
    smaller = sorted((size for size in candidates if 0 < size < crop_size), reverse=True)
    larger = sorted(size for size in candidates if size > crop_size)
    found = []
    for sizes in (smaller, larger):
        found += islice((size for size in sizes if _fits(name, size)), 1)
    return found


def _fits(name: str, crop_size: int) -> bool:
    try:
        _dry_run(name, crop_size)
    except Exception:
        return False
    return True


def reason_of(error: Exception) -> str:
    """Return the first line of what an error says, or else what it is."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0])


def load_encoder(name: str, plan: Plan, pretrained: bool, checkpoint: Path | None) -> nn.Module:
    """Return an encoder. Raise UserError if its weights cannot be loaded."""
    import timm
    from huggingface_hub import constants

    if pretrained and not checkpoint and not _answers(constants.ENDPOINT):
        # Only the local cache. No timeout of the hub's own saves the 48 s of retries.
        constants.HF_HUB_OFFLINE = True
    try:
        if checkpoint:
            return load_from_file(name, plan.options, checkpoint)
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **plan.options)
    except Exception as error:  # from a file of the user, read by three packages
        raise UserError(
            f"the weights of {name} could not be loaded ({reason_of(error)}): name a local file "
            "with --checkpoint, or start from random weights with --no-pretrained"
        ) from error


def _answers(endpoint: str) -> bool:
    """Return whether the hub answers; behind a proxy the download itself finds out."""
    if getproxies():
        return True
    try:
        socket.create_connection((urlparse(endpoint).hostname, 443), timeout=3).close()
    except OSError:
        return False
    return True
