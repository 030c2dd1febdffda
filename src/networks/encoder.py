"""A timm encoder without its classifier, and its pretrained weights."""

import socket
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from torch import nn

from src.script import UserError

STRIDES = (8, 16, 32)  # of the encoder's maps that the heatmap head reads


def map_indices(encoder: nn.Module) -> list[int]:
    """Return which of the encoder's maps have stride 8, 16 and 32, the deepest of each stride."""
    deepest = {info["reduction"]: index for index, info in enumerate(encoder.feature_info)}
    return [deepest[stride] for stride in STRIDES if stride in deepest]


def load_encoder(name: str, pretrained: bool, checkpoint: Path | None) -> nn.Module:
    """Return an encoder. Raise UserError if timm does not know it or cannot load its weights."""
    import timm  # takes longer to import than all else together, and only this function needs it
    from huggingface_hub import constants

    if pretrained and not checkpoint and not _answers(constants.ENDPOINT):
        # Only the local cache. No timeout of the hub's own saves the 48 s of retries.
        constants.HF_HUB_OFFLINE = True
    try:
        return timm.create_model(
            name,
            pretrained=pretrained or checkpoint is not None,
            num_classes=0,
            pretrained_cfg_overlay={"file": str(checkpoint)} if checkpoint else None,
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        message = (
            f"the weights of {name} could not be loaded ({reason}): name a local file with "
            "--checkpoint, or start from random weights with --no-pretrained"
        )
        if "nknown model" in str(error):
            message = f"timm knows no encoder {name!r}: choose one of timm.list_models()"
        raise UserError(message) from error


def _answers(endpoint: str) -> bool:
    """Return whether the hub answers; behind a proxy the download itself finds out."""
    if getproxies():
        return True
    try:
        socket.create_connection((urlparse(endpoint).hostname, 443), timeout=3).close()
    except OSError:
        return False
    return True
