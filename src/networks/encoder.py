"""A timm encoder without its classifier, and its pretrained weights."""

import socket
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from torch import nn

from src.script import UserError

STRIDES = (8, 16, 32)  # of the encoder's maps that the heatmap head reads


def map_indices(encoder: nn.Module) -> list[int]:
    """Which of the encoder's maps have stride 8, 16 and 32, from fine to coarse; of several with one stride the deepest."""
    deepest = {info["reduction"]: index for index, info in enumerate(encoder.feature_info)}
    return [deepest[stride] for stride in STRIDES if stride in deepest]


def load_encoder(name: str, pretrained: bool, checkpoint: Path | None) -> nn.Module:
    """A timm encoder without classifier; weights from the hub, from a local file, or random."""
    import timm  # here, as it takes longer to import than all else together, and only this needs it
    from huggingface_hub import constants

    overlay = {"file": str(checkpoint)} if checkpoint else None
    if pretrained and not checkpoint and not _answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = (
            True  # the local cache or nothing, instead of a minute of retries
        )
    try:
        return timm.create_model(
            name,
            pretrained=pretrained or checkpoint is not None,
            num_classes=0,
            pretrained_cfg_overlay=overlay,
        )
    except (OSError, RuntimeError) as error:
        if "nknown model" in str(error):
            raise UserError(
                f"timm knows no encoder {name!r}: choose one of timm.list_models()"
            ) from error
        reason = str(error).splitlines()[0][:200]
        remedy = (
            "name a local file with --checkpoint, or start from random weights with --no-pretrained"
        )
        raise UserError(
            f"the weights of {name} could not be loaded ({reason}): {remedy}"
        ) from error


def _answers(endpoint: str) -> bool:
    """Whether the hub of pretrained weights can be reached; behind a proxy that is left to the download itself."""
    if getproxies():
        return True
    try:
        socket.create_connection((urlparse(endpoint).hostname, 443), timeout=3).close()
    except OSError:
        return False
    return True
